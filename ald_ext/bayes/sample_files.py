"""Samples in safetensors files: written whole or not at all, and read with a look at their checksums."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from ..files import write_atomically
from ..settings import require, shortened

#: What the metadata of a file say of it.
FORMAT = "ald_ext posterior sample 1"


class Header(NamedTuple):
    """What a file says of its sample before the tensors are read."""

    shapes: dict[str, tuple[int, ...]]
    dtype: str
    checksum: str


def safetensors() -> ModuleType:
    """Return the library. ImportError if it is missing."""
    try:
        import safetensors.torch
    except ModuleNotFoundError as error:
        raise ImportError(
            "ald_ext.bayes.PosteriorSamples: folder: needs safetensors: pip install 'ald_ext[bayes]'"
        ) from error
    return safetensors


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return the CRC-32 of names, dtypes, shapes and bytes of all tensors, in the order of their names."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode(), value)
        value = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def write_sample(path: Path, tensors: Mapping[str, Tensor], dtype: str) -> None:
    """Write the tensors of a sample; ``dtype`` is what they were asked to have. OSError if that fails."""
    contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "dtype": dtype, "crc32": checksum(contiguous)}
    contents = safetensors().torch.save(contiguous, metadata)
    write_atomically(path, lambda file: file.write_bytes(contents))


def read_header(path: Path, argument: str) -> Header:
    """Return what is known of a sample without its tensors. ValueError for a damaged file, or one of others."""
    library = safetensors()
    try:
        with library.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (library.SafetensorError, ValueError, OSError) as error:
        raise damaged(path, argument, str(error)) from error
    if metadata.get("format") != FORMAT or not {"dtype", "crc32"} <= metadata.keys():
        raise damaged(path, argument, f"its format is {shortened(metadata.get('format'))}")
    return Header(shapes, metadata["dtype"], metadata["crc32"])


def read_sample(path: Path, argument: str) -> dict[str, Tensor]:
    """Return the tensors of a sample. ValueError for a file that is damaged or gone."""
    header = read_header(path, argument)
    tensors: dict[str, Tensor] = safetensors().torch.load(path.read_bytes())
    if checksum(tensors) != header.checksum:
        raise damaged(path, argument, "its checksum is another")
    return tensors


def damaged(path: Path, argument: str, reason: str) -> ValueError:
    """Return the error of a file that is not as it was written."""
    place = f"{path.parent.name}/{path.name}"
    return ValueError(
        f"{argument}: {place}: got a damaged file ({shortened(reason, 100)[1:-1]}), expected one that PosteriorSamples "
        "wrote; delete it to go on without"
    )


def check_fits(
    found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], argument: str, owner: str, expecting: str
) -> None:
    """Raise a ValueError if tensors have other names or shapes than expected, by those of ``expecting``."""
    if found.keys() != expected.keys():
        extra, missing = (sorted(a.keys() - b.keys()) for a, b in ((found, expected), (expected, found)))
        got = shortened(extra) if extra else f"no {shortened(missing)}"
        raise ValueError(f"{argument}: got {got} in {owner}, expected the names of {expecting}")
    for name, tensor in found.items():
        shape, wanted = tuple(tensor.shape), tuple(expected[name])
        require(shape == wanted, f"{argument}: {name}", f"shape {shape} in {owner}", f"{wanted} as in {expecting}")
