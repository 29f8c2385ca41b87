"""``ald-ext experiment``: an experiment of the paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from ..paper import EXPERIMENTS, IMAGE_EXPERIMENTS, ImageSettings, Results, run_experiment, run_image_experiment
from ..settings import require
from .options import choose_device, options_of, parse_options, with_options

NAMES = (*EXPERIMENTS, *IMAGE_EXPERIMENTS)
IMAGES_ONLY = "Experiments on images"
#: Options of all fields but two: --option gives the options, and --device may be auto.
SETTINGS_OPTIONS = options_of({IMAGES_ONLY: ImageSettings}, excluded=("options", "device"))


def experiment_command(
    *,
    name: Annotated[str | None, typer.Argument(help=f"One of {', '.join(NAMES)}.")] = None,
    out: Annotated[str, typer.Option(help="Folder for results.json and the pictures.", metavar="PATH")] = "",
    list_names: Annotated[
        bool, typer.Option("--list", help="Print the names, one a line; those of toy experiments with their presets.")
    ] = False,
    toy: Annotated[bool, typer.Option("--toy", help="List the toy experiments alone.")] = False,
    images: Annotated[bool, typer.Option("--images", help="List the experiments on images alone.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Cut down to run in seconds: a smoke test.")] = False,
    seeds: Annotated[
        int | None, typer.Option(help="Number of seeds; if not given 5, or 2 if quick; on images 1.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="default; paper: the settings it prints; others that --list names.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Jobs or seeds side by side, in processes of one thread; one a core if not given."),
    ] = None,
    device: Annotated[str | None, typer.Option(help=f"{IMAGES_ONLY}: auto, cpu, cuda, cuda:1, …")] = None,
    runs: Annotated[
        Path | None, typer.Option(help=f"{IMAGES_ONLY}: folder of trained models, to be shared; OUT/runs if not given.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help=f"{IMAGES_ONLY}: KEY=VALUE, a setting of the models or of the training, such as lr=0.002."),
    ] = None,
    **settings: Any,
) -> None:
    """Run an experiment of the paper: results.json, with its figures beside ours, and pictures in OUT.

    On images a command that was interrupted resumes, and nothing is computed twice.
    """
    if list_names:
        both = toy == images
        lines = [" ".join([key, *experiment.presets]) for key, experiment in EXPERIMENTS.items()] if toy or both else []
        typer.echo("\n".join([*lines, *(IMAGE_EXPERIMENTS if images or both else ())]))
        return
    require(name in NAMES, "experiment", repr(name), f"one of {', '.join(NAMES)}")
    if name is None or not out:
        raise ValueError(f"experiment {name}: out: got none, expected a folder: --out DIR")
    workers = workers or torch.get_num_threads()
    changes = {key: value for key, value in settings.items() if value is not None}
    if option:
        values = parse_options(option)
        changes["options"] = tuple((key, tuple(v) if isinstance(v, list) else v) for key, v in values.items())
    if "seconds" in changes:
        changes.setdefault("epochs", None)  # of experiments that have some, or of a quick one
    if name in IMAGE_EXPERIMENTS:
        require(preset is None, f"experiment {name}: preset", repr(preset), "none: it has no presets")
        image_experiment = IMAGE_EXPERIMENTS[name]
        typer.echo(image_experiment.title)
        changes["device"] = choose_device(device or "auto")
        results = run_image_experiment(
            image_experiment,
            Path(out),
            settings=replace(image_experiment.settings, **{**(image_experiment.quick if quick else {}), **changes}),
            num_seeds=1 if seeds is None else seeds,
            num_workers=workers if changes["device"] == "cpu" else 1,
            runs=runs,
            quick=quick,
        )
    else:
        given = [*changes, *(key for key, value in (("device", device), ("runs", runs)) if value)]
        if given:
            raise ValueError(f"experiment {name}: got {', '.join(given)}, which only experiments on images take")
        typer.echo(EXPERIMENTS[name].title)
        num_seeds = (2 if quick else 5) if seeds is None else seeds
        results = run_experiment(
            EXPERIMENTS[name],
            Path(out),
            preset=preset or "default",
            quick=quick,
            num_seeds=num_seeds,
            num_workers=workers,
        )
    for line in table_of(results):
        typer.echo(line)
    typer.echo(f"{results.seconds:.0f} s; results.json and {name}.png in {out}")


with_options(experiment_command, SETTINGS_OPTIONS, after="preset")


def table_of(results: Results) -> list[str]:
    """Return the rows as aligned lines: name, paper, mean, standard error."""
    width = max(len(row.name) for row in results.rows)
    lines = [f"{'':{width}}  {'paper':>10}  {'ours':>10}  {'± se':>10}"]
    for row in results.rows:
        cells = ["" if cell is None else f"{cell:.4g}" for cell in (row.paper, row.mean, row.standard_error)]
        lines.append(f"{row.name:{width}}  " + "  ".join(f"{cell:>10}" for cell in cells))
    return lines
