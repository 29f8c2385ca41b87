"""Noise as a pure function of its key (Note [Noise] of :mod:`ald_ext.ops`)."""

from __future__ import annotations

import hashlib
import numbers
import os
from collections.abc import Sequence

import torch
import torch.distributed as distributed
from torch import Tensor

from .. import reference
from .._extension import cpu_module
from ..settings import shortened
from .library import KERNEL_DEVICES, OPS, write
from .steps import run_step

#: By generation, the number of forks up to the one that this process comes from; at last, how often it was forked.
_forks = [0]


def _count_fork() -> None:
    _forks[-1] += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_count_fork, after_in_child=lambda: _forks.append(0))


def draw_seed() -> int:
    """A seed from torch's default generator, so that torch.manual_seed governs whatever is drawn with it.

    Forked processes have the generator of their parent. The number of the fork makes their seeds differ, unless
    torch.distributed is initialized, whose ranks may be replicas.
    """
    seed = int(torch.randint(0, 2**63 - 1, (), dtype=torch.int64, device="cpu").item())
    if len(_forks) == 1 or (distributed.is_available() and distributed.is_initialized()):
        return seed
    digest = hashlib.blake2b(repr((seed, _forks[:-1])).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def check_count(op: str, argument: str, count: int) -> None:
    """Raise a RuntimeError unless it is an integer from 0 on."""
    if not isinstance(count, numbers.Integral) or count < 0:
        raise RuntimeError(f"ald_ext.ops.{op}: {argument}: got {shortened(count)}, expected an integer >= 0")


def normal(
    n: int,
    *,
    seed: int,
    step: int,
    parameter: int = 0,
    offset: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """The standard normals that the update of ``parameter`` at ``step`` adds, from element ``offset`` on.

    A pure function of its arguments (Note [Noise]): ``normal(n, offset=o)`` equals ``normal(o + n)[o:]`` bit for bit.
    float32 and float64 draw different normals; |float32 normal - exact Box-Muller| < 1e-6.

    Args:
        n: how many.
        seed: 0 ≤ seed < 2^63.
        step: 0 ≤ step < 2^40. The optimizers' first update is step 1.
        parameter: index of the parameter (or datum), 0 ≤ parameter < 2^44.
        offset: index of the first element; offset + n ≤ 2^41.
        dtype: torch.float32 or torch.float64.
        device: torch's default device if None.

    Returns:
        (n,) tensor.

    Raises:
        RuntimeError: an argument out of its range, or another dtype.
    """
    check_count("normal", "n", n)
    try:
        out = torch.empty(n, dtype=dtype, device=device)
    except (AssertionError, NotImplementedError) as error:  # of a torch that was built without the device
        reason = str(error).splitlines()[0]
        raise RuntimeError(f"ald_ext.ops.normal: device: got {device}, expected one of this torch: {reason}") from error
    if out.device.type not in KERNEL_DEVICES:
        key: dict[str, int] = {"seed": seed, "step": step, "parameter": parameter, "offset": offset}
        return reference.normal(n, **key, dtype=dtype, device=out.device)
    write(OPS.normal_, [out], out, seed=seed, step=step, parameter=parameter, offset=offset)
    return out


def fused_normal(
    n: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
    step: int,
    parameter: int = 0,
    offset: int = 0,
    row_length: int = 0,
    row_stride: int = 0,
) -> Tensor:
    """:func:`ald_ext.reference.normal` by the ops, with the bits of the fused steps; also of rows."""
    if not row_length:
        return normal(n, seed=seed, step=step, parameter=parameter, offset=offset, dtype=dtype, device=device)
    noise, zeros = torch.zeros(2, n, dtype=dtype, device=device)
    settings = {"lr": 0.5, "num_data": 1.0, "temperature": 1.0, "weight_decay": 0.0, "maximize": False}  # √(2·lr·T) = 1
    places = {
        "noise_ids": (parameter,),
        "offsets": (offset,),
        "row_lengths": (row_length,),
        "row_strides": (row_stride,),
    }
    run_step("sgld_step_", [[noise], [zeros]], {**settings, "seed": seed, "step": step, **places})
    return noise


def philox(counter: Sequence[int], key: Sequence[int]) -> tuple[int, int, int, int]:
    """One Philox4x32-7 block: four 32-bit words from a counter of four and a key of two (Salmon et al., SC 2011)."""
    a, b, c, d = cpu_module.philox(tuple(counter), tuple(key))
    return a, b, c, d
