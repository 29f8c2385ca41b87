"""One function a command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer

from .. import __version__
from .._extension import cpu_module, cuda_failure, cuda_module
from ..models import ModelConfig
from ..training import TrainingConfig, train
from ..training.checkpoints import load_checkpoint, model_of_checkpoint
from ..training.pictures import save_grid
from .check_sampler import check_sampler_command
from .experiment import experiment_command

app = typer.Typer(help="Amortized Langevin dynamics for PyTorch.", no_args_is_help=True, pretty_exceptions_enable=False)
app.command(name="check-sampler")(check_sampler_command)
app.command(name="experiment")(experiment_command)

DEFAULTS = TrainingConfig()
NETWORK = DEFAULTS.network


@app.command()
def info() -> None:
    """Versions, instruction sets and CUDA of this installation; what failed to load, and how to mend it."""
    report = {
        "ald_ext": __version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": cpu_module.build_info(),
        "cuda": cuda_module.build_info() if cuda_module else f"not available: {cuda_failure}",
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }
    typer.echo(json.dumps(report, indent=2))


def choose_device(device: str) -> str:
    """A device that exists; "auto" is the GPU where there is one."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() and cuda_module is not None else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(
            f"device: got {device!r}, expected auto, cpu or a GPU that torch can use ({first_line})"
        ) from error
    return device


def parse_precision_prior(text: str) -> str | tuple[float, float]:
    """flat, jeffreys or "a,b"."""
    if "," not in text:
        return text
    try:
        shape, rate = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"precision-prior: got {text!r}, expected flat, jeffreys or two numbers like 2,0.5") from error
    return shape, rate


@app.command(name="train")
def train_command(
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    model: Annotated[str, typer.Option(help="lae, ae or vae.")] = DEFAULTS.model,
    dataset: Annotated[str, typer.Option(help="mnist5k (embedded) or mnist.")] = DEFAULTS.dataset,
    data_root: Annotated[str | None, typer.Option(help="Folder of the data set's files.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = DEFAULTS.epochs,
    batch_size: Annotated[int, typer.Option(help="Images a minibatch.")] = DEFAULTS.batch_size,
    lr: Annotated[float, typer.Option(help="Step size of PSGLD (lae) or Adam (ae, vae).")] = DEFAULTS.lr,
    temperature: Annotated[float, typer.Option(help="Of PSGLD: 1 samples, 0 optimizes.")] = DEFAULTS.temperature,
    eps: Annotated[float, typer.Option(help="Of PSGLD's preconditioner 1 / (sqrt(v) + eps).")] = DEFAULTS.eps,
    alpha: Annotated[float, typer.Option(help="Decay of PSGLD's v.")] = DEFAULTS.alpha,
    latent_dim: Annotated[int, typer.Option(help="Latent variables.")] = NETWORK.latent_dim,
    width: Annotated[int, typer.Option(help="Channels of the hidden layers.")] = NETWORK.width,
    precision_prior: Annotated[str, typer.Option(help="flat, jeffreys or a,b for Gamma(a, b).")] = "flat",
    dequantization: Annotated[str, typer.Option(help="none, uniform or langevin.")] = NETWORK.dequantization,
    seed: Annotated[int, typer.Option(help="Of weights, data order and noise.")] = DEFAULTS.seed,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint in OUT.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin again where OUT holds a checkpoint.")] = False,
) -> None:
    """Train a model: config.json, metrics.json, checkpoint.pt, samples.png and reconstructions.png in OUT."""
    network = ModelConfig(
        latent_dim=latent_dim,
        width=width,
        precision_prior=parse_precision_prior(precision_prior),
        dequantization=dequantization,
    )
    config = TrainingConfig(
        model=model,
        dataset=dataset,
        data_root=data_root,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        temperature=temperature,
        alpha=alpha,
        eps=eps,
        seed=seed,
        device=choose_device(device),
        network=network,
    )
    metrics = train(config, out, resume=resume, overwrite=overwrite)
    typer.echo(
        f"test RE {metrics['test_re']:.4f} after {metrics['epochs']} epochs, {metrics['seconds']:.0f} s, "
        f"{metrics['images_per_second']:.0f} images/s; results in {out}"
    )


@app.command()
def sample(
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint.pt of `ald-ext train`, or its folder.")],
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("samples.png"),
    count: Annotated[int, typer.Option(min=1, help="Number of images.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws from the prior.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
) -> None:
    """Draw images from a trained model's prior, as a PNG."""
    path = checkpoint / "checkpoint.pt" if checkpoint.is_dir() else checkpoint
    chosen = choose_device(device)
    model, config = model_of_checkpoint(load_checkpoint(path, chosen))
    with torch.no_grad():
        images = model.to(chosen).sample(count, torch.Generator(chosen).manual_seed(seed))
    if images is None:
        raise ValueError(
            f"checkpoint: {str(path)!r} holds a model of kind {config.model!r}, which has no prior to sample"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    save_grid(out, images)
    typer.echo(f"{count} samples in {out}")
