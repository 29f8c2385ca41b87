"""Files that the package reads, one entry a kind, and ways to damage them, one entry a way; made when a test runs."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import ald_ext
from ald_ext.bayes.sample_files import read_sample, write_sample
from ald_ext.data import ImageData, load_dataset
from ald_ext.metrics import FeatureExtractor
from ald_ext.metrics.statistics_cache import cached_statistics
from ald_ext.models import LAE, ParameterEnsemble, load_model, save_model
from ald_ext.paper.results import Results, Row, read_results, write_results
from ald_ext.samplers import SampleStorage
from ald_ext.tensor_files import write_tensors
from ald_ext.training import TrainingConfig
from ald_ext.training.checkpoints import load_checkpoint, trained_model
from ald_ext.training.loop import fit
from ald_ext.training.run import start_run

from .places import MISSING, places_of, replaced

SIZES = {"network": "mlp", "hidden_units": 4, "hidden_layers": 1, "latent_dim": 2}


def pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


IMAGES = ImageData(pixels(12, 1, 4, 4), None, pixels(3, 1, 4, 4), None)


def training_config(model: str) -> TrainingConfig:
    options = {"model": model, "epochs": 2, "batch_size": 6, "threads": 1, "ensemble_every": 1}
    return TrainingConfig.from_dict({**options, "network": SIZES})


@cache
def trained(model: str) -> Any:
    return fit(training_config(model), IMAGES)


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        name: the file's name.
        make: writes it.
        load: returns what the package reads of it, in plain values and tensors.
    """

    name: str
    make: Callable[[Path], object]
    load: Callable[[Path], Any]


# --- Files of tensors ---


def read_model(path: Path) -> Any:
    model = load_model(path)
    return {"config": dataclasses.asdict(model.config), "model": dict(model.state_dict())}


def read_checkpoint(path: Path) -> Any:
    checkpoint = load_checkpoint(path)
    model, ensemble = trained_model(checkpoint)
    with torch.random.fork_rng():
        run = start_run(training_config(checkpoint["config"].get("model", "lae")), IMAGES, state=checkpoint)
        state = run.state()
    samples = ParameterEnsemble(1).samples if ensemble is None else ensemble.samples
    return {**state, "model": dict(model.state_dict()), "samples": list(samples)}


def read_detector(path: Path) -> Any:
    detector = ald_ext.AnomalyDetector.load(path)
    return {"parameters": detector.get_params(), "scores": torch.from_numpy(detector.decision_function(table()))}


@cache
def table() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(12, 3))


@cache
def detector() -> Any:
    settings = {"hidden_units": 4, "latent_dim": 2}
    return ald_ext.AnomalyDetector("lae", epochs=1, seed=0, model_settings=settings).fit(table())


# --- Arrays ---


def read_images(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is assumed
        data = load_dataset(str(path))
    names = ("train_images", "train_labels", "test_images", "test_labels")
    return {name: getattr(data, name) for name in names}


def form_of_images(path: Path) -> Any:
    return {name: value if value is None else list(value.shape) for name, value in read_images(path).items()}


DRAWS = torch.arange(24.0).view(4, 3, 2)


def make_store(path: Path) -> None:
    storage = SampleStorage(6, path=path)
    for draw in DRAWS:
        storage.append(draw)
    write_tensors(path.with_suffix(".pt"), storage.state_dict())


def form_of_store(path: Path) -> Any:
    storage, size = SampleStorage(6, path=path), path.stat().st_size
    storage.load_state_dict(torch.load(path.with_suffix(".pt"), weights_only=True))
    extended = path.stat().st_size - size
    return {"form": [str(storage.samples.dtype), *storage.samples.shape], "extended": extended}


class MeanColour(FeatureExtractor):
    name, version = "mean colour", "1"

    def __call__(self, images: Tensor) -> Tensor:
        return images.double().mean((2, 3))


def cache_statistics(path: Path) -> Any:
    """The file is written anew where it is damaged, so the values are always right."""
    (folder := path.parent / "cache").mkdir(exist_ok=True)
    statistics = cached_statistics(MeanColour(), pixels(9, 3, 4, 4), folder)
    (entry,) = folder.iterdir()
    if path.exists():
        entry.write_bytes(path.read_bytes())
        statistics = cached_statistics(MeanColour(), pixels(9, 3, 4, 4), folder)
    path.write_bytes(entry.read_bytes())
    return dataclasses.asdict(statistics)


# --- Text ---


def read_config(path: Path) -> Any:
    return through_json(TrainingConfig.load(path).to_dict())


def read_experiment(path: Path) -> Any:
    values = dataclasses.asdict(read_results(path))
    return through_json({name: value for name, value in values.items() if name not in ("folder", "pictures")})


def experiment(path: Path) -> Results:
    row = Row("mnist/lae/re", 0.0186, 0.005, None, [0.005])
    return Results("toy", False, {"epochs": 3}, [], {"torch": "2"}, 1.5, [row], folder=path.parent)


def through_json(values: Any) -> Any:
    return json.loads(json.dumps(values))


def overlaps(written: Any, found: Any) -> bool:
    """Whether what was read is what is written, but for names that are not known and those that have defaults."""
    if isinstance(written, dict) and isinstance(found, dict):
        return all(overlaps(written[name], found[name]) for name in written if name in found)
    return bool(written == found)


KINDS: dict[str, Kind] = {
    "model": Kind("model.pt", lambda path: save_model(LAE(shape=(1, 4, 4), **SIZES), path), read_model),
    "checkpoint, PSGLD": Kind("lae.pt", lambda path: write_tensors(path, trained("lae").state()), read_checkpoint),
    "checkpoint, Adam": Kind("vae.pt", lambda path: write_tensors(path, trained("vae").state()), read_checkpoint),
    "detector": Kind("detector.pt", lambda path: detector().save(path), read_detector),
    "npz": Kind("set.npz", lambda path: np.savez(path, train_images=pixels(12, 8, 8).numpy()), read_images),
    "compressed npz": Kind(
        "set.npz",
        lambda path: np.savez_compressed(
            path, train_images=pixels(12, 8, 8).numpy(), train_labels=np.arange(12), test_images=pixels(3, 8, 8).numpy()
        ),
        read_images,
    ),
    "npy": Kind("set.npy", lambda path: np.save(path, pixels(12, 8, 8).numpy()), form_of_images),
    "sample store": Kind("draws.npy", make_store, form_of_store),
    "posterior sample": Kind(
        "sample-000000.safetensors",
        lambda path: write_sample(path, {"weight": torch.arange(60.0).view(6, 10), "count": torch.tensor(3)}, "None"),
        lambda path: read_sample(path, "folder"),
    ),
    "statistics": Kind("statistics.npz", cache_statistics, cache_statistics),
    "config.json": Kind("config.json", lambda path: training_config("lae").save(path), read_config),
    "results.json": Kind("results.json", lambda path: write_results(experiment(path)), read_experiment),
}

# --- Damage to bytes ---


def flip(data: bytes, chance: random.Random, first: int = 0) -> bytes:
    place = chance.randrange(8 * first, 8 * len(data))
    changed = bytearray(data)
    changed[place // 8] ^= 1 << (place % 8)
    return bytes(changed)


def swap(data: bytes, chance: random.Random) -> bytes:
    length = chance.randrange(1, max(2, len(data) // 8))
    a, b = sorted(chance.randrange(0, len(data) - length) for _ in range(2))
    b = max(b, a + length)
    return data[:a] + data[b : b + length] + data[a + length : b] + data[a : a + length] + data[b + length :]


def overwrite(data: bytes, chance: random.Random) -> bytes:
    place, length = chance.randrange(len(data)), chance.randrange(1, 64)
    return data[:place] + chance.choice((bytes(length), chance.randbytes(length))) + data[place + length :]


#: Functions of a file's bytes.
DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "a bit": flip,
    "a bit near the end": lambda data, chance: flip(data, chance, 9 * len(data) // 10),
    "a bit near the beginning": lambda data, chance: flip(data[:200], chance) + data[200:],
    "truncated": lambda data, chance: data[: chance.randrange(len(data))],
    "extended": lambda data, chance: data + chance.choice((b"\0", chance.randbytes(100), data)),
    "swapped": swap,
    "overwritten": overwrite,
}

# --- Damage to values ---


def twice(depth: int) -> Any:
    """Few bytes of pickle, and 2**depth values."""
    values: Any = ["x"]
    for _ in range(depth):
        values = [values, values]
    return values


def nested(depth: int) -> Any:
    values: Any = []
    for _ in range(depth):
        values = [values]
    return values


#: Values that stand where others belong, made anew each time.
ODD_VALUES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "text": lambda: "0.9",
    "a list": lambda: [1],
    "an object": lambda: {"a": 1},
    "a pair": lambda: (1, "x"),
    "a long text": lambda: "x" * 10_000,
    "a huge number": lambda: 10**400,
    "shared lists": lambda: twice(60),
    "nested lists": lambda: nested(200),
    "another shape": lambda: torch.zeros(3, 5, 7),
    "integers": lambda: torch.arange(4),
    "on meta": lambda: torch.zeros(2, device="meta"),
    "requires grad": lambda: torch.zeros(2, requires_grad=True),
    "sparse": lambda: torch.zeros(2, 2).to_sparse(),
    "expanded": lambda: torch.zeros(1).expand(1000, 1000, 1000),
}


def saved(contents: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    return buffer.getvalue()


def spoil(data: bytes, chance: random.Random, is_text: bool) -> tuple[str, bytes]:
    """A file with an odd value somewhere, or without a value, and what was done."""
    contents = json.loads(data) if is_text else torch.load(io.BytesIO(data), weights_only=True)
    # Tensors that are many shall not hide the rest.
    place = chance.choice([place for place in places_of(contents) if len(place) < 3 or chance.random() < 0.2])
    name = chance.choice([*ODD_VALUES, "missing"])
    value = MISSING if name == "missing" else ODD_VALUES[name]()
    if is_text:
        value = name if isinstance(value, Tensor) or name == "shared lists" else value
        return f"{place}: {name}", json.dumps(replaced(contents, place, value)).encode()
    return f"{place}: {name}", saved(replaced(contents, place, value))
