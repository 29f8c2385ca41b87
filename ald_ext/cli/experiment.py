"""``ald-ext experiment``: an experiment of the paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from ..paper import EXPERIMENTS, IMAGE_EXPERIMENTS, Results, run_experiment, run_image_experiment
from .options import choose_device, parse_options

NAMES = (*EXPERIMENTS, *IMAGE_EXPERIMENTS)
IMAGES_ONLY = "Experiments on images: "


def experiment_command(
    name: Annotated[str | None, typer.Argument(help=f"One of {', '.join(NAMES)}.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for results.json and the pictures.")] = None,
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
        str | None, typer.Option(help="default; paper: the settings it prints; univariate-gaussian also: all-layers.")
    ] = None,
    datasets: Annotated[
        str | None,
        typer.Option(help=f"{IMAGES_ONLY}names, with commas; NAME=PATH for a .npz file or a folder of images."),
    ] = None,
    models: Annotated[str | None, typer.Option(help=f"{IMAGES_ONLY}some of the models, with commas.")] = None,
    width: Annotated[int | None, typer.Option(help=f"{IMAGES_ONLY}channels; the paper has 64.")] = None,
    epochs: Annotated[int | None, typer.Option(help=f"{IMAGES_ONLY}of every model.")] = None,
    device: Annotated[str | None, typer.Option(help=f"{IMAGES_ONLY}auto, cpu, cuda, cuda:1, …")] = None,
    data_root: Annotated[str | None, typer.Option(help=f"{IMAGES_ONLY}folder of torchvision's files.")] = None,
    download: Annotated[bool, typer.Option("--download", help=f"{IMAGES_ONLY}fetch what is missing there.")] = False,
    runs: Annotated[
        Path | None, typer.Option(help=f"{IMAGES_ONLY}folder of trained models, to be shared; OUT/runs if not given.")
    ] = None,
    extractor: Annotated[
        str | None, typer.Option(help=f"{IMAGES_ONLY}features of Fréchet distances: efficientnet-lite0 or inception.")
    ] = None,
    extractor_weights: Annotated[
        str | None, typer.Option(help=f"{IMAGES_ONLY}file of the extractor's weights.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help=f"{IMAGES_ONLY}KEY=VALUE, a setting of the models or of the training, such as lr=0.002."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Jobs or seeds side by side, in processes of one thread; one a core if not given."),
    ] = None,
) -> None:
    """Run an experiment of the paper: results.json, with its figures beside ours, and pictures in OUT.

    On images a command that was interrupted resumes, and nothing is computed twice.
    """
    if list_names:
        both = toy == images
        lines = [" ".join([key, *experiment.presets]) for key, experiment in EXPERIMENTS.items()] if toy or both else []
        typer.echo("\n".join([*lines, *(IMAGE_EXPERIMENTS if images or both else ())]))
        return
    if name not in NAMES:
        raise ValueError(f"experiment: got {name!r}, expected one of {', '.join(NAMES)}")
    if out is None:
        raise ValueError(f"experiment {name}: out: got none, expected a folder: --out DIR")
    values = parse_options(option or [])
    options = tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in values.items())
    changes = {
        "datasets": as_names(datasets),
        "models": as_names(models),
        "width": width,
        "epochs": epochs,
        "device": device,
        "data_root": data_root,
        "download": download or None,
        "extractor": extractor,
        "extractor_weights": extractor_weights,
        "options": options or None,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    workers = torch.get_num_threads() if workers is None else workers
    if name in IMAGE_EXPERIMENTS:
        if preset is not None:
            raise ValueError(f"experiment {name}: preset: got {preset!r}, expected none: it has no presets")
        typer.echo(IMAGE_EXPERIMENTS[name].title)
        changes["device"] = choose_device(device or "auto")
        quick_changes = IMAGE_EXPERIMENTS[name].quick if quick else {}
        settings = replace(IMAGE_EXPERIMENTS[name].settings, **{**quick_changes, **changes})
        results = run_image_experiment(
            IMAGE_EXPERIMENTS[name],
            out,
            settings=settings,
            num_seeds=1 if seeds is None else seeds,
            num_workers=workers if settings.device == "cpu" else 1,
            runs=runs,
            quick=quick,
        )
    else:
        given = [*changes, *(["runs"] if runs else [])]
        if given:
            raise ValueError(f"experiment {name}: got {', '.join(given)}, which only experiments on images take")
        typer.echo(EXPERIMENTS[name].title)
        num_seeds = (2 if quick else 5) if seeds is None else seeds
        results = run_experiment(
            EXPERIMENTS[name], out, preset=preset or "default", quick=quick, num_seeds=num_seeds, num_workers=workers
        )
    for line in table_of(results):
        typer.echo(line)
    typer.echo(f"{results.seconds:.0f} s; results.json and {name}.png in {out}")


def as_names(text: str | None) -> tuple[str, ...] | None:
    """Return the parts of "mnist,celeba=faces.npz"."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def table_of(results: Results) -> list[str]:
    """Return the rows as aligned lines: name, paper, mean, standard error."""
    width = max(len(row.name) for row in results.rows)
    lines = [f"{'':{width}}  {'paper':>10}  {'ours':>10}  {'± se':>10}"]
    for row in results.rows:
        cells = ["" if cell is None else f"{cell:.4g}" for cell in (row.paper, row.mean, row.standard_error)]
        lines.append(f"{row.name:{width}}  " + "  ".join(f"{cell:>10}" for cell in cells))
    return lines
