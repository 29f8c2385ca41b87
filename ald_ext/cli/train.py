"""``ald-ext train``, whose options are the fields of TrainingConfig and of the models' configs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..models import MODELS
from ..models.config import SETTINGS_OF_DATA
from ..settings import require
from ..training import TrainingConfig, train
from ..training.checkpoints import load_checkpoint
from ..training.loop import CHECKPOINT
from ..training.ranks import Ranks, process_group
from .options import choose_device, options_of, parse_options, with_options

#: Options of all fields but two: --network is the model's setting of that name, and --device may be auto.
TRAINING_OPTIONS = options_of({"": TrainingConfig}, excluded=("network", "device"))
MODEL_OPTIONS = options_of({name: model.config_class for name, model in MODELS.items()}, excluded=SETTINGS_OF_DATA)


def parse_precision_prior(text: str) -> str | list[float]:
    """Return "flat", "jeffreys", or the two numbers of "a,b"."""
    if "," not in text:
        return text
    try:
        shape, rate = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"precision-prior: got {text!r}, expected flat, jeffreys or two numbers like 2,0.5") from error
    return [shape, rate]


def merged_config(
    saved: dict[str, Any], given: dict[str, Any], options: dict[str, Any]
) -> tuple[TrainingConfig, set[str]]:
    """Return the settings of a file or a checkpoint, replaced by those of the command line, and the names of these.

    Args:
        saved: settings as :meth:`TrainingConfig.to_dict` gives them, or none.
        given: options of the command line; None is one that was not given.
        options: KEY=VALUE of ``--option``.

    Raises:
        ValueError: a bad setting, or one that does nothing beside the others.
    """
    given = {name: value for name, value in given.items() if value is not None}
    network = {option.name: given.pop(option.name) for option in MODEL_OPTIONS if option.name in given}
    if "precision_prior" in network:
        network["precision_prior"] = parse_precision_prior(network["precision_prior"])
    of_training = {option.name for option in TRAINING_OPTIONS}
    given |= {name: value for name, value in options.items() if name in of_training}
    network |= {name: value for name, value in options.items() if name not in of_training}
    other_model = "model" in given and given["model"] != saved.get("model", given["model"])
    saved_network = {} if other_model else saved.get("network", {})
    config = TrainingConfig.from_dict({**saved, **given, "network": {**saved_network, **network}})
    names = {*given, *network}
    for name, (got, expected) in config.unread().items():
        require(name not in names, name.replace("_", "-"), got, expected)
    return config, names


def train_command(
    *,
    out: Annotated[str, typer.Option(help="Folder for the results.", metavar="PATH")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    option: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE, a setting of the training or of the model in JSON: tilt=null; repeatable."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="config.json of a run, for what is not given here.")] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue from the checkpoint in OUT, with its settings. Others given beside this change the run from "
            "there on, which it records.",
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin again where OUT holds a checkpoint.")] = False,
    **settings: Any,
) -> None:
    """Train a model: config.json, metrics.json, checkpoint.pt and pictures in OUT."""
    if resume and config is not None:
        raise ValueError(f"config: got {str(config)!r} with --resume, expected one of them: a run keeps its settings")
    chosen = choose_device(device)
    given = {**settings, "device": chosen}
    saved: dict[str, Any] = {}
    if config is not None:
        saved = TrainingConfig.load(config).to_dict()
    if resume:
        saved = load_checkpoint(Path(out, CHECKPOINT))["config"]
    merged, names = merged_config(saved, given, parse_options(option or []))
    with process_group(chosen):
        metrics = train(merged, out, resume=resume, changed=names, overwrite=overwrite)
        first = Ranks().rank == 0
    if first:
        typer.echo(
            f"test RE {metrics['test_re']:.4f} after {metrics['epochs']} epochs, {metrics['seconds']:.0f} s, "
            f"{metrics['images_per_second']:.0f} images/s; results in {out}"
        )


with_options(train_command, [*TRAINING_OPTIONS, *MODEL_OPTIONS], after="out")
