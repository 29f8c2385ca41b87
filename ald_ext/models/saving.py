"""Models as files of plain tensors and values, which load with weights_only."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..settings import from_dict, require, shortened
from ..tensor_files import FORMAT, read_tensors, write_tensors
from .config import config_from_dict
from .latent_variable_model import LatentVariableModel
from .registry import find_model_class


@dataclass(kw_only=True)
class ModelFile:
    """What the file of a model holds, and a checkpoint or a detector among other things."""

    format: int
    model_name: str
    model_config: dict[str, Any]
    model: dict[str, Tensor]
    own_networks: list[str] = field(default_factory=list)


def required_fields(schema: Any) -> tuple[str, ...]:
    """Return the names of a dataclass's fields without defaults."""
    fields = dataclasses.fields(schema)
    return tuple(each.name for each in fields if each.default is each.default_factory is dataclasses.MISSING)


MODEL_KEYS = required_fields(ModelFile)


def read_contents(path: Path, schema: Any, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Return what a file of tensors and plain values holds, whose entries are as a dataclass says.

    Args:
        path: the file.
        schema: the dataclass; the file may hold other entries, too.
        device: device for the tensors.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is corrupt, of another program or version, or with an entry of another type.
    """
    contents = read_tensors(path, required_fields(schema), device)
    from_dict(schema, contents, f"checkpoint: {str(path)!r} is no checkpoint of ald_ext", ignore_unknown=True)
    return contents


def model_contents(model: LatentVariableModel) -> dict[str, Any]:
    """Return what :func:`load_model` needs."""
    return {
        "format": FORMAT,
        "model_name": model.name,
        "model_config": dataclasses.asdict(model.config),
        "model": model.state_dict(),
        "own_networks": model.own_networks,
    }


def model_from_contents(
    contents: dict[str, Any], *, encoder: nn.Module | None = None, decoder: nn.Module | None = None
) -> LatentVariableModel:
    """Return the model of :func:`model_contents`. ValueError for an unknown model, or parameters that do not fit."""
    name = contents["model_name"]
    model_class = find_model_class(name)
    config = config_from_dict(model_class.config_class, contents["model_config"])
    networks = {"encoder": encoder, "decoder": decoder}
    missing = [network for network in contents.get("own_networks", ()) if networks.get(network) is None]
    got = f"the model {name!r} with {' and '.join(missing)} of its own"
    keywords = ", ".join(f"{network}=…" for network in missing)
    require(not missing, "checkpoint", got, f"load_model(path, {keywords}) in Python: a command cannot make them")
    with torch.device("meta"):  # where settings that are not those of the parameters cost no memory
        outline = model_class(config, **networks)
    own = f"a {name} of its settings; a model with networks of your own needs encoder= and decoder="
    check_fits(contents["model"], outline.state_dict(), "checkpoint: model", own)
    model = model_class(config, **networks)
    model.load_state_dict(contents["model"])
    return model


def check_fits(tensors: dict[str, Tensor], expected: dict[str, Tensor], place: str, owner: str) -> None:
    """Raise a ValueError if names, shapes or kinds of numbers are not those of other tensors."""
    for name in sorted(tensors.keys() ^ expected.keys()):
        got, wanted = ("no", "one") if name in expected else ("a", "none")
        raise ValueError(f"{place}: got {got} tensor {shortened(name)}, expected {wanted} as in {owner}")
    for name, like in expected.items():
        if is_lazy(like):  # a network of one's own that takes its shapes from the tensors
            continue
        tensor = tensors[name]
        fits = tensor.shape == like.shape and tensor.is_floating_point() == like.is_floating_point()
        require(fits, f"{place}: {name}", shortened(tensor, 100), f"shape {list(like.shape)} as in {owner}")


def save_model(model: LatentVariableModel, path: str | Path) -> None:
    """Write a model's name, settings and parameters to a file, as plain values and tensors.

    Args:
        model: any model of this package, with networks of its own or built-in ones.
        path: the file, which is replaced if it exists.

    Raises:
        OSError: the folder or the disk does not take the file; an earlier file is as it was.
    """
    write_tensors(Path(path), model_contents(model))


def load_model(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
) -> LatentVariableModel:
    """Return the model of :func:`save_model`, or of a checkpoint of ``ald-ext train``; no code of the file is run.

    Args:
        path: the file.
        device: torch device for the model.
        encoder: the model's encoder, if it is not the built-in one.
        decoder: the model's decoder, if it is not the built-in one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is corrupt, of another version or program, or that does not fit the networks.
    """
    contents = read_contents(Path(path), ModelFile, device)
    return model_from_contents(contents, encoder=encoder, decoder=decoder).to(device)
