"""Noise and Langevin steps of latent variables, a row for each datum."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
from torch import Tensor

from .. import reference
from .library import KERNEL_DEVICES, OPS, check_not_recorded, check_tensors, write
from .noise import check_count

#: Bits of an index, of which the noise key has room for 44.
INDEX_BITS = 44


def index_by_content(x: Tensor) -> Tensor:
    """An index for each datum that depends on its values only, so that its noise is the same in whatever minibatch.

    Data that are equal share an index; two that differ do so with probability 2^-44. -0 counts as 0.

    Args:
        x: (n, ...), dense, of any dtype that torch adds.

    Returns:
        (n,) int64 on the device of x, 0 ≤ index < 2^44, for :func:`latent_normal` and the samplers' ``index``.

    Raises:
        RuntimeError: no dense tensor, or one without dimensions.
    """
    check_tensors("index_by_content", ("x", x))
    if x.layout is not torch.strided or x.is_nested:
        raise RuntimeError("ald_ext.ops.index_by_content: x: got a sparse or nested tensor, expected a dense one")
    if x.dim() == 0:
        raise RuntimeError("ald_ext.ops.index_by_content: x: got a tensor without dimensions, expected (n, ...)")
    rows = (x.detach().reshape(len(x), math.prod(x.shape[1:])) + 0).cpu().contiguous().view(torch.uint8).numpy()
    digests = [int.from_bytes(hashlib.blake2b(row, digest_size=8).digest(), "little") for row in rows]
    return torch.tensor([digest % 2**INDEX_BITS for digest in digests], dtype=torch.int64, device=x.device)


def latent_normal(
    index: Tensor, count: int, *, seed: int, step: int | range, offset: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Standard normals for latent variables: row r is :func:`normal` of parameter index[r], from element ``offset`` on.

    A chain's noise is keyed by its datum, so it does not depend on the minibatch the datum is in (Note [Noise]).

    Args:
        index: (n,) int64, the index of each row's datum, 0 ≤ index < 2^44; it may repeat. (Another one raises on a CPU;
            CUDA does not look, and gives it noise that is not its own.)
        count: of elements a row.
        seed, step, offset: the noise key, as in :func:`normal`. A range of steps draws for each of them.
        dtype: torch.float32 or torch.float64.

    Returns:
        (n, count) tensor on the device of ``index``; (steps, n, count) for a range.

    Raises:
        RuntimeError: an argument out of its range, or of another shape or dtype.
    """
    check_count("latent_normal", "count", count)
    check_tensors("latent_normal_", ("index", index))
    if index.dim() != 1:
        raise RuntimeError(f"ald_ext.ops.latent_normal: index: got shape {tuple(index.shape)}, expected (n,)")
    if index.device.type not in KERNEL_DEVICES:
        key: dict[str, Any] = {"seed": seed, "offset": offset, "dtype": dtype}
        if isinstance(step, range):
            draws = [reference.latent_normal(index, count, step=each, **key)[None] for each in step]
            return torch.cat([torch.empty(0, len(index), count, dtype=dtype, device=index.device), *draws])
        return reference.latent_normal(index, count, step=step, **key)
    shape = (len(step), len(index), count) if isinstance(step, range) else (len(index), count)
    out = torch.empty(shape, dtype=dtype, device=index.device)
    op = _draw_each if isinstance(step, range) else OPS.latent_normal_
    write(op, [out], out, index, seed=seed, step=step, offset=offset)
    return out


def _draw_each(out: Tensor, index: Tensor, *, seed: int, step: range, offset: int) -> None:
    """Draw (steps, n, count) normals."""
    for values, each in zip(out.unbind(), step, strict=True):
        OPS.latent_normal_(values, index, seed=seed, step=each, offset=offset)


def latent_langevin_step_(
    z: Tensor,
    grad: Tensor,
    index: Tensor,
    *,
    lr: float,
    temperature: float = 1.0,
    seed: int,
    step: int,
    offset: int = 0,
) -> None:
    """One Langevin step of latent variables in place: z ← z - lr·∇U + √(2·lr·T) ξ (paper: Eq. 3).

    Row r of ξ is that of :func:`latent_normal` for datum index[r].

    Args:
        z: (n, ...) float32 or float64, contiguous.
        grad: ∇U, of the same shape, dtype and device; any strides.
        index: (n,) int64, the index of each row's datum, as in :func:`latent_normal`.
        lr: η ≥ 0.
        temperature: T ≥ 0.
        seed, step, offset: the noise key, as in :func:`latent_normal`.

    Raises:
        RuntimeError: devices, dtypes or shapes that do not match, z not contiguous or with memory of another tensor,
            values out of range, or tensors that autograd is recording.
    """
    check_tensors("latent_langevin_step_", ("z", z), ("grad", grad), ("index", index))
    check_not_recorded("latent_langevin_step_", ("z", z))
    settings: dict[str, Any] = {"lr": lr, "temperature": temperature, "seed": seed, "step": step, "offset": offset}
    if z.device.type not in KERNEL_DEVICES:
        reference.latent_langevin_step_(z, grad, index, **settings)
        return
    write(OPS.latent_langevin_step_, [z], z, grad, index, **settings)


def latent_underdamped_step_(
    z: Tensor,
    momenta: Tensor,
    grad: Tensor,
    index: Tensor,
    *,
    lr: float,
    momentum: float,
    temperature: float = 1.0,
    seed: int,
    step: int,
    offset: int = 0,
) -> None:
    """One underdamped step of latent variables and their momenta in place (Note [The underdamped update], N = 1).

    Row r of ξ is that of :func:`latent_normal` for datum index[r].

    Args:
        z, grad, index, lr, temperature, seed, step, offset: as in :func:`latent_langevin_step_`; lr = h².
        momenta: p, of the same shape, dtype and device as z; contiguous.
        momentum: μ, 0 ≤ momentum < 1.

    Raises:
        RuntimeError: as :func:`latent_langevin_step_`.
    """
    named = (("z", z), ("momenta", momenta), ("grad", grad), ("index", index))
    check_tensors("latent_underdamped_step_", *named)
    check_not_recorded("latent_underdamped_step_", *named[:2])
    settings: dict[str, Any] = {
        "lr": lr,
        "momentum": momentum,
        "temperature": temperature,
        "seed": seed,
        "step": step,
        "offset": offset,
    }
    if z.device.type not in KERNEL_DEVICES:
        reference.latent_underdamped_step_(z, momenta, grad, index, **settings)
        return
    counted = [z, momenta]
    write(OPS.latent_underdamped_step_, counted, z, momenta, grad, index, **settings)
