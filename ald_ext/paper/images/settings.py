"""Settings of the experiments on images: which data and models, and how each model is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...data import ImageData, load_dataset
from ...metrics import EXTRACTORS
from ...models import MODELS
from ...settings import check_values, require, setting
from ...training import TrainingConfig

#: Images that a run passes over in all where no epochs are given; ABP and DLGM still get as much time as the others.
TRAINED_IMAGES, FEWER_TRAINED_IMAGES = 480_000, {"abp": 180_000, "dlgm": 240_000}
MOST_EPOCHS = 80
#: PSGLD on running means of the gradients, with the lr and eps that suit them.
MOMENTUM_SETTINGS = {"momentum": 0.9, "lr": 1e-3, "eps": 0.03}
#: A smaller λ lets the prior follow the latent variables, which begin with a standard deviation of 1 as the prior does.
PRIOR_SETTINGS = {"prior_eps": 0.01, "initial_spread": 1.0}
#: Models' settings that are not their defaults. A warmer encoder makes the LAE's latent variables as wide as their
#: posterior; it made the CLAE's samples worse, which come from no prior of a given form.
MODEL_SETTINGS: dict[str, dict[str, Any]] = {"lae": {"encoder_temperature": None}}
#: Settings of models and of their training by the kind of images. On binary images the likelihood holds the latent
#: variables less firmly against the energy, so the energy is smoother there.
KIND_SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "real": {},
    "grey": {"clae": {"prior_eps": 0.1}},
    "binary": {"lae": MOMENTUM_SETTINGS | PRIOR_SETTINGS, "clae": {"energy_smoothness": 3.0, "prior_eps": 0.1}},
    "colour": {"lae": MOMENTUM_SETTINGS | PRIOR_SETTINGS, "clae": MOMENTUM_SETTINGS | PRIOR_SETTINGS},
}
#: Settings that belong to a job or have an argument of their own, and so are not among ``options``.
NOT_OPTIONS = {"model", "dataset", "data_root", "download", "epochs", "seed", "device"} | {
    *("network", "num_data", "shape", "width"),
}


@dataclass(frozen=True)
class ImageSettings:
    """Settings of an experiment on images.

    Attributes:
        datasets: names that :func:`ald_ext.data.load_dataset` knows, or NAME=PATH of a .npz file or a folder.
        models: names of some of the models that the experiment compares.
        width: channels of the hidden layers; the paper has 64.
        latent_dim: the latent dimension d_z.
        epochs: the epochs of every model; None: as many as pass over 480,000 images (ABP 180,000, DLGM 240,000, the
            LAE of image-generation 960,000), at most 80.
        device: a torch device.
        data_root: the folder of torchvision's files.
        download: fetch what is missing there.
        extractor: what makes the features whose Fréchet distance is measured.
        extractor_weights: a file, where the extractor takes one.
        frechet_samples: images drawn from each model.
        frechet_images: the largest number of real training images to compare them with.
        train_images, test_images: the largest numbers of images; None: all.
        options: names and values of further settings of the training, or of the models that have them.
    """

    datasets: tuple[str, ...] = ("mnist",)
    models: tuple[str, ...] = ("ae", "vae", "abp", "dlgm", "lae", "clae")
    width: int = setting(16, at_least=1)
    latent_dim: int = setting(32, at_least=1)
    epochs: int | None = setting(None, at_least=1)
    device: str = "cpu"
    data_root: str | None = None
    download: bool = False
    extractor: str = setting("efficientnet-lite0", suggestions=EXTRACTORS)
    extractor_weights: str | None = None
    frechet_samples: int = setting(5000, at_least=2)
    frechet_images: int = setting(10_000, at_least=2)
    train_images: int | None = setting(None, at_least=1)
    test_images: int | None = setting(None, at_least=1)
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def sources(self) -> dict[str, str]:
        """What ``load_dataset`` takes, by the data set's name in rows."""
        return dict(map(name_and_source, self.datasets))


def name_and_source(dataset: str) -> tuple[str, str]:
    """Split "celeba=faces.npz" in ("celeba", "faces.npz"); a path alone is called by its file."""
    name, equals, source = dataset.partition("=")
    if equals:
        return name, source
    return (Path(dataset).stem if "/" in dataset or dataset.endswith(".npz") else dataset), dataset


def check_settings(owner: str, settings: ImageSettings, models: tuple[str, ...], num_seeds: int) -> None:
    """Raise a ValueError that begins with ``owner`` for settings out of range; ``models`` are those to choose from."""

    def check(name: str, got: Any, fulfilled: bool, expected: str) -> None:
        require(fulfilled, f"{owner}: {name}", repr(got), expected)

    check_values(settings, owner)
    check("seeds", num_seeds, num_seeds >= 1, ">= 1")
    check("datasets", settings.datasets, len(settings.datasets) >= 1, "at least one")
    check("datasets", settings.datasets, len(settings.sources) == len(settings.datasets), "different names")
    for model in settings.models:
        check("models", model, model in models, f"some of {', '.join(models)}")
    known = names_of(TrainingConfig).union(*(names_of(MODELS[model].config_class) for model in settings.models))
    for option, _ in settings.options:
        check("option", option, option in known - NOT_OPTIONS, "a setting of one of the models or of the training")
    check("models", settings.models, len(set(settings.models)) == len(settings.models) >= 1, "each once")


@lru_cache(maxsize=2)
def load(name: str, settings: ImageSettings) -> ImageData:
    """Return the data set of a name in rows, cut down as the settings say."""
    data = load_dataset(settings.sources[name], settings.data_root, download=settings.download)
    train, test = slice(settings.train_images), slice(settings.test_images)
    return replace(
        data,
        train_images=data.train_images[train],
        train_labels=None if data.train_labels is None else data.train_labels[train],
        test_images=data.test_images[test],
        test_labels=None if data.test_labels is None else data.test_labels[test],
        name=name,
    )


def with_options(config: TrainingConfig, options: Mapping[str, Any]) -> TrainingConfig:
    """Return the config with further settings of its model or of the training; those of other models are left out."""
    of_model, of_training = names_of(type(config.network)), names_of(TrainingConfig)
    network = {name: value for name, value in options.items() if name in of_model}
    training = {name: value for name, value in options.items() if name in of_training - of_model}
    return replace(config, network=replace(config.network, **network), **training)


def names_of(settings_class: type[Any]) -> set[str]:
    return {item.name for item in fields(settings_class)}


def kind_of(images: Tensor) -> str:
    """Return "real", "colour", "grey", or "binary" for pixels that are 0 or 255, as those of binarized MNIST."""
    if images.dtype != torch.uint8:
        return "real"
    if images.shape[1] > 1:
        return "colour"
    return "binary" if bool(((images == 0) | (images == 255)).all()) else "grey"
