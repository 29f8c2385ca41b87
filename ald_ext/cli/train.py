"""``ald-ext train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..data.datasets import DATASETS
from ..models import MODELS
from ..training import TrainingConfig, train
from ..training.checkpoints import load_checkpoint
from ..training.config import DEFAULT_EPOCHS
from ..training.loop import CHECKPOINT
from .devices import choose_device
from .options import parse_options

DEFAULTS = TrainingConfig()
NETWORK = DEFAULTS.network

#: Options of the command line that are settings of the model.
NETWORK_OPTIONS = ("latent_dim", "width", "network", "likelihood", "precision_prior", "dequantization")


def parse_precision_prior(text: str) -> str | list[float]:
    """flat, jeffreys or "a,b"."""
    if "," not in text:
        return text
    try:
        shape, rate = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"precision-prior: got {text!r}, expected flat, jeffreys or two numbers like 2,0.5") from error
    return [shape, rate]


def merged_config(saved: dict[str, Any], given: dict[str, Any], model_options: dict[str, Any]) -> TrainingConfig:
    """The settings of a file or a checkpoint, or none, with those of the command line in their place.

    Args:
        saved: as :meth:`TrainingConfig.to_dict`.
        given: options of the command line; None is one that was not given.
        model_options: KEY=VALUE of ``--option``.
    """
    given = {name: value for name, value in given.items() if value is not None}
    network = {name: given.pop(name) for name in NETWORK_OPTIONS if name in given}
    if "precision_prior" in network:
        network["precision_prior"] = parse_precision_prior(network["precision_prior"])
    other_model = "model" in given and given["model"] != saved.get("model", given["model"])
    saved_network = {} if other_model else saved.get("network", {})
    return TrainingConfig.from_dict({**saved, **given, "network": {**saved_network, **network, **model_options}})


def train_command(
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    model: Annotated[str | None, typer.Option(help=f"{', '.join(MODELS)}; {DEFAULTS.model} if not given.")] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(DATASETS)}; a .npz file; a folder of images. {DEFAULTS.dataset} if not given."),
    ] = None,
    data_root: Annotated[str | None, typer.Option(help="Folder of the data set's files.")] = None,
    download: Annotated[bool | None, typer.Option("--download", help="Fetch missing files of the data set.")] = None,
    epochs: Annotated[int | None, typer.Option(help=f"Passes over the images; {DEFAULT_EPOCHS}, or fewer.")] = None,
    batch_size: Annotated[int | None, typer.Option(help=f"Images a minibatch; {DEFAULTS.batch_size}.")] = None,
    lr: Annotated[float | None, typer.Option(help="Step size of PSGLD (lae, clae) or Adam (the others).")] = None,
    schedule: Annotated[str | None, typer.Option(help="Of lr: constant, cosine or polynomial.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of PSGLD: 1 samples, 0 optimizes.")] = None,
    eps: Annotated[float | None, typer.Option(help="Of PSGLD's preconditioner 1 / (sqrt(v) + eps).")] = None,
    alpha: Annotated[float | None, typer.Option(help="Decay of PSGLD's v.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Of the running means of gradients that PSGLD gets.")] = None,
    latent_dim: Annotated[int | None, typer.Option(help=f"Latent variables; {NETWORK.latent_dim}.")] = None,
    network: Annotated[str | None, typer.Option(help="conv or mlp.")] = None,
    width: Annotated[int | None, typer.Option(help=f"Channels of conv's hidden layers; {NETWORK.width}.")] = None,
    likelihood: Annotated[str | None, typer.Option(help="marginal-gaussian, gaussian or bernoulli.")] = None,
    precision_prior: Annotated[str | None, typer.Option(help="flat, jeffreys or a,b for Gamma(a, b).")] = None,
    dequantization: Annotated[str | None, typer.Option(help="none, uniform or langevin.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE, another setting of the model, as decoder_inference=mle; repeatable."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, data order and noise.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(help="Of the CPU; if not given, as many as are fastest, or OMP_NUM_THREADS.")
    ] = None,
    bf16: Annotated[bool | None, typer.Option("--bf16", help="Networks compute in bfloat16.")] = None,
    evaluate_every: Annotated[int | None, typer.Option(help="Epochs between evaluations.")] = None,
    pictures_every: Annotated[int | None, typer.Option(help="Epochs between pictures; else at the end.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints; else one an epoch.")] = None,
    tensorboard: Annotated[bool | None, typer.Option("--tensorboard", help="Log to OUT/tensorboard.")] = None,
    config: Annotated[Path | None, typer.Option(help="config.json of a run, for what is not given here.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint in OUT.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin again where OUT holds a checkpoint.")] = False,
) -> None:
    """Train a model: config.json, metrics.json, checkpoint.pt and pictures in OUT."""
    given = {
        "model": model,
        "dataset": dataset,
        "data_root": data_root,
        "download": download,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "schedule": schedule,
        "temperature": temperature,
        "eps": eps,
        "alpha": alpha,
        "momentum": momentum,
        "latent_dim": latent_dim,
        "network": network,
        "width": width,
        "likelihood": likelihood,
        "precision_prior": precision_prior,
        "dequantization": dequantization,
        "seed": seed,
        "device": choose_device(device),
        "threads": threads,
        "bf16": bf16,
        "evaluate_every": evaluate_every,
        "pictures_every": pictures_every,
        "checkpoint_every": checkpoint_every,
        "tensorboard": tensorboard,
    }
    if resume and config is not None:
        raise ValueError(f"config: got {str(config)!r} with --resume, expected one of them: a run keeps its settings")
    saved: dict[str, Any] = {}
    if config is not None:
        saved = TrainingConfig.load(config).to_dict()
    if resume:
        saved = load_checkpoint(out / CHECKPOINT)["config"]
    metrics = train(merged_config(saved, given, parse_options(option or [])), out, resume=resume, overwrite=overwrite)
    typer.echo(
        f"test RE {metrics['test_re']:.4f} after {metrics['epochs']} epochs, {metrics['seconds']:.0f} s, "
        f"{metrics['images_per_second']:.0f} images/s; results in {out}"
    )
