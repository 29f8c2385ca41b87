"""Uses of trained models: ``ald-ext sample``, ``reconstruct``, ``score``, ``interpolate``."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from ..data import Pictures, load_dataset, load_pictures
from ..data.image_data import add_noise
from ..data.image_folders import counted
from ..files import is_stream, standard_stream, write_atomically, write_json
from ..models import LatentVariableModel, ParameterEnsemble
from ..settings import require
from ..training import TrainingConfig
from ..training.checkpoints import load_checkpoint, trained_model
from ..training.evaluation import evaluating, values_of_data
from ..training.loop import CHECKPOINT
from ..training.pictures import grid, pair_up, save_grid, save_picture
from .options import choose_device

RunArgument = Annotated[Path, typer.Argument(help="Folder of `ald-ext train`, or its checkpoint.pt.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
DatasetOption = Annotated[str | None, typer.Option(help="As for `train`; the run's own if not given.")]
DataRootOption = Annotated[str | None, typer.Option(help="Folder of the data set's files.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of random draws.")]
PictureOption = Annotated[
    Path | None, typer.Option(help="The picture; if not given, named after the command and in the run's folder.")
]


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


def output_file(run: Path, out: Path | None, name: str) -> tuple[Path, Callable[[str], None]]:
    """Return the file to write, ``name`` in the run's folder if none was given, and what tells that it is written.

    The folder of the file is made. The text goes to standard error where the file is the standard output.
    """
    path = (run if run.is_dir() else run.parent) / name if out is None else out
    path.parent.mkdir(parents=True, exist_ok=True)
    replaced = " (in the place of an earlier file)" if path.is_file() and not is_stream(path) else ""
    return path, lambda text: typer.echo(text + replaced, err=standard_stream(path) == 1)


def load_images(model: LatentVariableModel, config: TrainingConfig, dataset: str | None, root: str | None) -> Pictures:
    """Return the images of a data set, its test images if it has some, or by default those that the run did not see.

    They are converted to the model's channels. ValueError for images of another shape.
    """
    expected = model.config.shape
    source, data_root = dataset or config.dataset, root or config.data_root
    pictures = load_pictures(source, data_root, channels=expected[0], held_out=dataset is None)
    shape = tuple(pictures.images.shape[1:])
    require(shape == expected, "dataset", f"data of shape {shape}", f"{expected}, the model's")
    return pictures


def sample_command(
    run: RunArgument,
    out: PictureOption = None,
    count: Annotated[int, typer.Option(min=1, help="Number of images.")] = 50,
    components: Annotated[
        int | None,
        typer.Option(
            min=1, help="Draw from a mixture of so many Gaussians instead, refitted to the run's training images."
        ),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Refit to its training images instead.")] = None,
    data_root: DataRootOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Draw images from a trained model's prior, or from one that is refitted to it, as a PNG."""
    require(dataset is None or components is not None, "dataset", repr(dataset), "--components beside it, or none")
    model, config, _ = load_run(run, device)
    prior = None
    if components is not None:
        images, expected = (
            load_dataset(dataset or config.dataset, data_root or config.data_root).train_images,
            model.config.shape,
        )
        shape = tuple(images.shape[1:])
        require(shape == expected, "dataset", f"data of shape {shape}", f"{expected}, the model's")
        with evaluating(model):
            prior = model.refit_prior(images, components)
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    with evaluating(model):
        samples = model.sample(count, generator, prior=prior)
    path, tell = output_file(run, out, "sample.png")
    save_grid(path, samples)
    tell(f"{counted(count, 'sample')} in {path}")


def reconstruct_command(
    run: RunArgument,
    out: PictureOption = None,
    dataset: DatasetOption = None,
    data_root: DataRootOption = None,
    count: Annotated[int, typer.Option(min=1, help="Images in the picture; the error is that of all.")] = 50,
    noise: Annotated[float, typer.Option(min=0, help="Standard deviation of noise added to [0, 1]: denoising.")] = 0.0,
    steps: Annotated[int, typer.Option(min=0, help="Steps of MALA on z, from the encoder's z on (Algorithm 2).")] = 0,
    average: Annotated[bool, typer.Option("--average", help="Average over the samples of the parameters.")] = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Reconstruct test images, or denoise them: a picture, and the mean squared error beside it, as .json."""
    require(
        out is None or out.suffix != ".json", "out", repr(str(out)), "a picture, such as out.png: .json is beside it"
    )
    model, config, ensemble = load_run(run, device, average)
    images = load_images(model, config, dataset, data_root).images
    clean = model.to_brightness(images)
    seen = images if noise == 0 else add_noise(clean, noise, seed)

    def reconstructions(member: LatentVariableModel) -> Tensor:
        return values_of_data(member, seen, lambda x: member.decode(member.infer(x, steps, seed=seed)), seed)

    result = ensemble.mean(model, reconstructions) if ensemble else reconstructions(model)
    error = (result - clean).square().mean(dtype=torch.float64).item()
    path, tell = output_file(run, out, "reconstruct.png")
    save_grid(path, pair_up(model.to_brightness(seen)[:count], result[:count]))
    if not is_stream(path):
        write_json(path.with_suffix(".json"), {"mean_squared_error": error, "noise": noise, "images": len(images)})
    seen_images = f"{counted(len(images), 'image')}; {min(count, len(images))} of them in {path}"
    tell(f"mean squared error {error:.5f} over {seen_images}")


def score_command(
    run: RunArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            help="JSON file or table in .csv; score.json in the run's folder if not given; a picture beside it."
        ),
    ] = None,
    dataset: DatasetOption = None,
    data_root: DataRootOption = None,
    heat_map: Annotated[
        Path | None, typer.Option(help="Folder for a PNG of each image, its reconstruction, and its squared error.")
    ] = None,
    average: Annotated[bool, typer.Option("--average", help="Average over the samples of the parameters.")] = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Score how anomalous images are; higher is more so. Of a data set with test images these, otherwise all."""
    is_file = out is None or out.suffix.lower() != ".png"
    require(is_file, "out", repr(str(out)), "a .json or .csv file; the picture lies beside it")
    is_folder = heat_map is None or heat_map.is_dir() or not heat_map.exists()
    require(is_folder, "heat_map", repr(str(heat_map)), "a folder")
    model, config, ensemble = load_run(run, device, average)
    images, labels, names = load_images(model, config, dataset, data_root)

    def mean_over_samples(function: Callable[[LatentVariableModel, Tensor], Tensor]) -> Tensor:
        def values(member: LatentVariableModel) -> Tensor:
            return values_of_data(member, images, partial(function, member), seed)

        return ensemble.mean(model, values) if ensemble else values(model)

    scores = mean_over_samples(lambda member, x: member.score(x, seed=seed))
    path, tell = output_file(run, out, "score.json")
    columns = {
        "names": list(names),
        "scores": scores.tolist(),
        "labels": None if labels is None else labels.tolist(),
    }
    if path.suffix.lower() == ".csv":
        write_atomically(path, partial(write_table, columns=columns))
    else:
        write_json(path, {"model": config.model, "dataset": dataset or config.dataset, **columns})
    pictures = ""
    if not is_stream(path):
        order, picture = scores.argsort(descending=True), path.with_suffix(".png")
        save_grid(picture, model.to_brightness(images[torch.cat([order[:20], order[20:][-20:]])]))
        pictures = f"; in {picture} the most anomalous images, then the least"
    tell(f"{counted(len(scores), 'score')} in {path}{pictures}")
    if heat_map is not None:
        reconstructions = mean_over_samples(lambda member, x: member.reconstruct(x))
        largest = save_heat_maps(heat_map, model.to_brightness(images), reconstructions, names)
        maps = f"{counted(len(names), 'heat map')} in {heat_map}"
        text = f"{maps}; the brightest colour is a squared error of {largest:.3g}"
        typer.echo(text, err=standard_stream(path) == 1)


def write_table(path: Path, columns: dict[str, list[Any] | None]) -> None:
    """Write columns of equal length, those that there are, as a table in CSV with a header."""
    given = {name.removesuffix("s"): column for name, column in columns.items() if column is not None}
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([list(given), *zip(*given.values(), strict=True)])


def save_heat_maps(
    folder: Path, images: Tensor, reconstructions: Tensor, names: Sequence[str] | Sequence[int]
) -> float:
    """Write a PNG for each image: itself, its reconstruction, and the squared error of its pixels in colours.

    Args:
        folder: where they are written, as NAME.png.
        images: brightness in [0, 1], (N, C, H, W).
        reconstructions: the same of the reconstructions.
        names: the names of the images.

    Returns:
        The squared error of the brightest colour, the largest of all images.
    """
    from matplotlib import colormaps

    errors = (reconstructions - images).square().mean(1)
    largest = float(errors.max())
    for image, reconstruction, error, name in zip(images, reconstructions, errors, names, strict=True):
        colours = torch.from_numpy(colormaps["inferno"](error.numpy() / max(largest, 1e-12))[..., :3]).permute(2, 0, 1)
        panels = torch.stack([image.expand(3, -1, -1), reconstruction.expand(3, -1, -1), colours.float()])
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_picture(path, grid(panels, columns=3))
    return largest


def interpolate_command(
    run: RunArgument,
    out: PictureOption = None,
    dataset: DatasetOption = None,
    data_root: DataRootOption = None,
    pairs: Annotated[int, typer.Option(min=1, help="Rows: pairs of test images.")] = 10,
    count: Annotated[int, typer.Option(min=2, help="Images in a row, both ends included.")] = 10,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Draw the images between pairs of test images, along the line between their latent variables."""
    model, config, _ = load_run(run, device)
    images = load_images(model, config, dataset, data_root).images
    require(len(images) >= 2, "dataset", counted(len(images), "image"), "2 at least")
    pairs = min(pairs, len(images) // 2)
    chosen = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[: 2 * pairs]]
    chosen = chosen.to(next(model.parameters()).device)
    with evaluating(model):
        rows = model.interpolate(chosen[:pairs], chosen[pairs:], count)
    path, tell = output_file(run, out, "interpolate.png")
    save_grid(path, rows.flatten(0, 1), columns=count)
    tell(f"{counted(pairs, 'interpolation')} in {path}")
