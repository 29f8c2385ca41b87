"""Models as files of plain tensors and values, which load with weights_only."""

from __future__ import annotations

import dataclasses
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..files import write_atomically
from ..settings import require
from .config import config_from_dict
from .latent_variable_model import LatentVariableModel
from .registry import find_model_class

#: Version of the files of models and checkpoints; raised when older versions cannot read newer files, or conversely.
FORMAT = 2
MODEL_KEYS = ("format", "model_name", "model_config", "model")


def model_contents(model: LatentVariableModel) -> dict[str, Any]:
    """Return what :func:`load_model` needs."""
    return {
        "format": FORMAT,
        "model_name": model.name,
        "model_config": dataclasses.asdict(model.config),
        "model": model.state_dict(),
        "own_networks": model.own_networks,
    }


def write_tensors(path: Path, contents: dict[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all. OSError where that fails; an earlier file is as it was."""
    buffer = io.BytesIO()  # torch.save would report a full disk as an internal error
    torch.save(contents, buffer)
    write_atomically(path, lambda file: file.write_bytes(buffer.getbuffer()))


def read_tensors(path: Path, keys: tuple[str, ...], device: str | torch.device = "cpu") -> dict[str, Any]:
    """Return what :func:`write_tensors` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is corrupt, truncated, of another program or of another version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: got {str(path)!r}, expected a file that `ald-ext train` wrote")
    try:
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:  # torch.load leaves checksums alone
                raise ValueError(f"the checksum of {damaged} is wrong")
        contents = torch.load(path, map_location=device, weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # a damaged file makes zipfile and pickle raise whatever there is
        # Torch's own advice on unpickling is to trust the file.
        foreign = isinstance(error, pickle.UnpicklingError)
        reason = "it holds other things than tensors and plain values" if foreign else first_line(error)
        raise ValueError(
            f"checkpoint: {str(path)!r} is corrupt, truncated or of another program ({reason}); "
            "expected a file that `ald-ext train` wrote"
        ) from error
    found = contents if isinstance(contents, dict) else {}
    if found.get("format", FORMAT) != FORMAT:
        raise ValueError(
            f"checkpoint: {str(path)!r} is of another version of ald_ext: got format {found['format']}, "
            f"expected {FORMAT}"
        )
    missing = sorted(set(keys) - set(found))
    if missing:
        raise ValueError(f"checkpoint: {str(path)!r} is no checkpoint of ald_ext: it lacks {', '.join(missing)}")
    return found


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def model_from_contents(
    contents: dict[str, Any], *, encoder: nn.Module | None = None, decoder: nn.Module | None = None
) -> LatentVariableModel:
    """Return the model of :func:`model_contents`. ValueError for an unknown model, or parameters that do not fit."""
    model_class = find_model_class(contents["model_name"])
    config = config_from_dict(model_class.config_class, contents["model_config"])
    given = {"encoder": encoder, "decoder": decoder}
    missing = [name for name in contents.get("own_networks", ()) if given.get(name) is None]
    got = f"the model {contents['model_name']!r} with {' and '.join(missing)} of its own"
    keywords = ", ".join(f"{name}=…" for name in missing)
    require(not missing, "checkpoint", got, f"load_model(path, {keywords}) in Python: a command cannot make them")
    model = model_class(config, encoder=encoder, decoder=decoder)
    try:
        model.load_state_dict(contents["model"])
    except RuntimeError as error:
        raise ValueError(
            f"checkpoint: the parameters do not fit a {contents['model_name']} of its settings ({first_line(error)}); "
            "a model with networks of your own needs encoder= and decoder="
        ) from error
    return model


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
    contents = read_tensors(Path(path), MODEL_KEYS, device)
    return model_from_contents(contents, encoder=encoder, decoder=decoder).to(device)
