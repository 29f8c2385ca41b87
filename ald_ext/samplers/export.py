"""Samples as ArviZ's InferenceData, in memory and as netCDF files."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..files import write_atomically
from ..reference import compute_dtype
from ..settings import require
from ..version import __version__
from .collection import SampleStorage
from .diagnostics import with_chains

if TYPE_CHECKING:
    from xarray import DataTree


def to_inference_data(
    samples: Tensor | SampleStorage,
    *,
    name: str = "z",
    sample_stats: Mapping[str, Tensor] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> DataTree:
    """Return samples for ArviZ: a DataTree whose group "posterior" has the dimensions chain, draw, datum, latent.

    Args:
        samples: (draws, n, d) or (draws, n, chains, d), or a storage of them. Where it knows whether draws come after a
            divergence, that is "diverging" in the group "sample_stats".
        name: name of the variable.
        sample_stats: values of each draw, (draws, n) or (draws, n, chains), such as "acceptance_rate" or "lp"; they
            become the group "sample_stats", with the dimensions chain, draw, datum.
        attributes: attributes of the posterior, such as sampler="HMC", seed=0, step_size=0.1. Versions are added.

    Raises:
        ValueError: shapes that do not fit.
        ImportError: arviz-base is missing.
    """
    array = with_chains("to_inference_data", samples)
    groups, statistics = {"posterior": {name: chain_first(array)}}, {}
    diverging = samples.diverging if isinstance(samples, SampleStorage) else None
    known = {} if diverging is None else {"diverging": diverging}
    for key, values in {**known, **(sample_stats or {})}.items():
        values = values.detach().unsqueeze(2) if values.ndim == 2 else values.detach()
        argument = f"ald_ext.samplers.to_inference_data: sample_stats: {key}"
        got, expected = f"shape {tuple(values.shape)}", f"{tuple(array.shape[:3])} (draws, n, chains)"
        require(values.shape == array.shape[:3], argument, got, expected)
        statistics[key] = chain_first(values)
    if statistics:
        groups["sample_stats"] = statistics
    dims = {name: ["datum", "latent"]} | {key: ["datum"] for key in statistics}
    return data_tree(groups, dims, attributes or {})


def data_tree(groups: dict[str, Any], dims: dict[str, list[str]] | None, attributes: Mapping[str, Any]) -> DataTree:
    """Return groups of arrays (chains, draws, ...) for ArviZ. ImportError if arviz-base is missing."""
    try:
        from arviz_base import from_dict
    except ModuleNotFoundError as error:
        raise ImportError(
            "ald_ext.samplers.to_inference_data: needs arviz-base: pip install 'ald_ext[diagnostics]'"
        ) from error
    stored = {key: storable(value) for key, value in {**versions(), **attributes}.items()}
    tree: DataTree = from_dict(groups, dims=dims, attrs={"posterior": stored})
    return tree


def chain_first(values: Tensor) -> Any:
    """Return (draws, n, chains, ...) as (chains, draws, n, ...) in numpy; 16-bit floats as float32, as netCDF needs."""
    return values.to(compute_dtype(values.dtype)).movedim(2, 0).contiguous().cpu().numpy()


def versions() -> dict[str, str]:
    """Return the versions of this package and of those that samples are made and written with."""
    found = {"created_by": "ald_ext", "ald_ext_version": __version__}
    for package in ("torch", "numpy", "arviz-base"):
        with contextlib.suppress(PackageNotFoundError):
            found[f"{package.replace('-', '_')}_version"] = version(package)
    return found


def storable(value: Any) -> Any:
    """Return a value as a netCDF attribute: numbers and text as they are, anything else as text."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    return int(value) if isinstance(value, bool) else value if isinstance(value, (int, float, str)) else str(value)


def save_netcdf(path: Path | str, samples: Tensor | SampleStorage, **options: Any) -> None:
    """Write samples as netCDF, whole or not at all; xarray.open_datatree reads it, for ArviZ, too.

    Args:
        path: the file.
        samples: see :func:`to_inference_data`.
        options: options of :func:`to_inference_data`.

    Raises:
        ValueError: shapes that do not fit.
        ImportError: arviz-base or h5netcdf is missing.
        OSError: the file cannot be written.
    """
    write_netcdf(path, to_inference_data(samples, **options))


def write_netcdf(path: Path | str, tree: DataTree) -> None:
    """Write a tree as netCDF, whole or not at all. ImportError if h5netcdf is missing."""
    try:
        import h5netcdf  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError("ald_ext.samplers.save_netcdf: needs h5netcdf: pip install 'ald_ext[diagnostics]'") from error
    write_atomically(Path(path), lambda file: tree.to_netcdf(file, engine="h5netcdf"))
