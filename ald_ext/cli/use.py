"""Uses of trained models: ``ald-ext sample``, ``reconstruct``, ``score``, ``interpolate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from ..data import ImageData, load_dataset
from ..data.image_data import add_noise
from ..files import write_json
from ..models import LatentVariableModel, ParameterEnsemble
from ..settings import require
from ..training import TrainingConfig
from ..training.checkpoints import load_checkpoint, trained_model
from ..training.evaluation import evaluating, values_of_data
from ..training.loop import CHECKPOINT
from ..training.pictures import pair_up, save_grid
from .options import choose_device

RunArgument = Annotated[Path, typer.Argument(help="Folder of `ald-ext train`, or its checkpoint.pt.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
DatasetOption = Annotated[str | None, typer.Option(help="As for `train`; the run's own if not given.")]
DataRootOption = Annotated[str | None, typer.Option(help="Folder of the data set's files.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of random draws.")]


def load_run(
    run: Path, device: str, average: bool = False
) -> tuple[LatentVariableModel, TrainingConfig, ParameterEnsemble | None]:
    """Return the model and the settings of a run, and the samples of its parameters to average over, or None."""
    chosen = choose_device(device)
    checkpoint = load_checkpoint(run / CHECKPOINT if run.is_dir() else run, chosen)
    model, ensemble = trained_model(checkpoint)
    if average:
        require(ensemble, "average", f"{str(run)!r}, which holds no samples of the parameters", "a run with some")
    config = TrainingConfig.from_dict(checkpoint["config"])
    return model.to(chosen).eval(), config, ensemble if average else None


def load_images(model: LatentVariableModel, config: TrainingConfig, dataset: str | None, root: str | None) -> ImageData:
    """Return the data set that was asked for, or the run's own. ValueError for images of another shape."""
    data = load_dataset(dataset or config.dataset, root or config.data_root)
    shape, expected = tuple(data.test_images.shape[1:]), model.config.shape
    require(shape == expected, "dataset", f"data of shape {shape}", f"{expected}, the model's")
    return data


def sample_command(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("samples.png"),
    count: Annotated[int, typer.Option(min=1, help="Number of images.")] = 50,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Draw images from a trained model's prior, as a PNG."""
    model, _, _ = load_run(run, device)
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    with evaluating(model):
        images = model.sample(count, generator)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_grid(out, images)
    typer.echo(f"{count} samples in {out}")


def reconstruct_command(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="The picture; its numbers beside it, .json.")] = Path("reconstructions.png"),
    dataset: DatasetOption = None,
    data_root: DataRootOption = None,
    count: Annotated[int, typer.Option(min=1, help="Images in the picture; the error is that of all.")] = 50,
    noise: Annotated[float, typer.Option(min=0, help="Standard deviation of noise added to [0, 1]: denoising.")] = 0.0,
    steps: Annotated[int, typer.Option(min=0, help="Steps of MALA on z, from the encoder's z on (Algorithm 2).")] = 0,
    average: Annotated[bool, typer.Option("--average", help="Average over the samples of the parameters.")] = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Reconstruct test images, or denoise them: a picture, and the mean squared error to the clean images."""
    model, config, ensemble = load_run(run, device, average)
    images = load_images(model, config, dataset, data_root).test_images
    clean = model.to_brightness(images)
    seen = images if noise == 0 else add_noise(clean, noise, seed)

    def reconstructions(member: LatentVariableModel) -> Tensor:
        return values_of_data(member, seen, lambda x: member.decode(member.infer(x, steps, seed=seed)), seed)

    result = ensemble.mean(model, reconstructions) if ensemble else reconstructions(model)
    error = (result - clean).square().mean(dtype=torch.float64).item()
    out.parent.mkdir(parents=True, exist_ok=True)
    save_grid(out, pair_up(model.to_brightness(seen)[:count], result[:count]))
    write_json(out.with_suffix(".json"), {"mean_squared_error": error, "noise": noise, "images": len(images)})
    typer.echo(f"mean squared error {error:.5f} over {len(images)} images; {min(count, len(images))} of them in {out}")


def score_command(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="JSON file; images of both ends beside it, .png.")] = Path("scores.json"),
    dataset: DatasetOption = None,
    data_root: DataRootOption = None,
    average: Annotated[bool, typer.Option("--average", help="Average over the samples of the parameters.")] = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Score how anomalous each test image is; higher is more so."""
    model, config, ensemble = load_run(run, device, average)
    data = load_images(model, config, dataset, data_root)

    def scores_of(member: LatentVariableModel) -> Tensor:
        return values_of_data(member, data.test_images, lambda x: member.score(x, seed=seed), seed)

    scores = ensemble.mean(model, scores_of) if ensemble else scores_of(model)
    labels = None if data.test_labels is None else data.test_labels.tolist()
    out.parent.mkdir(parents=True, exist_ok=True)
    values = {"model": config.model, "dataset": dataset or config.dataset, "scores": scores.tolist(), "labels": labels}
    write_json(out, values)
    order = scores.argsort(descending=True)
    extremes = torch.cat([order[:20], order[-20:]])
    picture = out.with_suffix(".png")
    save_grid(picture, model.to_brightness(data.test_images[extremes]))
    typer.echo(f"{len(scores)} scores in {out}; in {picture} the most anomalous images, then the least")


def interpolate_command(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("interpolations.png"),
    dataset: DatasetOption = None,
    data_root: DataRootOption = None,
    pairs: Annotated[int, typer.Option(min=1, help="Rows: pairs of test images.")] = 10,
    count: Annotated[int, typer.Option(min=2, help="Images in a row, both ends included.")] = 10,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Draw the images between pairs of test images, along the line between their latent variables."""
    model, config, _ = load_run(run, device)
    images = load_images(model, config, dataset, data_root).test_images
    require(len(images) >= 2, "dataset", f"{len(images)} test images", "2 at least")
    pairs = min(pairs, len(images) // 2)
    chosen = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[: 2 * pairs]]
    chosen = chosen.to(next(model.parameters()).device)
    with evaluating(model):
        rows = model.interpolate(chosen[:pairs], chosen[pairs:], count)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_grid(out, rows.flatten(0, 1), columns=count)
    typer.echo(f"{pairs} interpolations in {out}")
