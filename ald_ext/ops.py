"""The ops: typed functions over ``torch.ops.ald_ext``, which also work under autograd and torch.compile.

CPU and CUDA tensors run compiled kernels (csrc/), of float32 and float64, the steps of 16-bit types too; tensors of
other devices run :mod:`ald_ext.reference`. Ops raise RuntimeError that names the op, the argument, what was got and
what was expected, and have then changed nothing.

Note [The update equation]
    For a loss that is the potential per datum, L = U/N (the usual mean loss), and g = ∇L + weight_decay·θ:

        v ← αv + (1-α)g²,      G = 1/(√v + λ)      (SGLD: G = 1)
        θ ← θ - lr·G·g + √(2·lr·T·G/N) ξ,      ξ ~ N(0, I)

    ``num_data`` = N, ``temperature`` = T, ``eps`` = λ. A loss that is U itself (a sum) takes ``num_data=1``.
    ``maximize`` ascends: g = -∇L + weight_decay·θ. Paper: Eqs. (6), (7), (9); preconditioner of Li et al. 2016.

Note [The underdamped update]
    SGHMC, for the same L and g, with momenta p, h = √lr and μ = ``momentum``:

        p ← p - h·g                              (B)
        θ ← θ + (h/2)·p                          (A/2)
        p ← μ·p + √((1-μ²)·T/N) ξ                (O),      ξ ~ N(0, I)
        θ ← θ + (h/2)·p                          (A/2)

    Underdamped Langevin dynamics split as BAOAB (Leimkuhler & Matthews 2013), with one gradient a step: the half kicks
    that end a step and begin the next see the same θ, and are made one ("leapfrog-middle", Zhang et al. 2019). With
    lr = 0 no time goes by, and p stays as it is.

Note [Noise]
    ξ for element i of parameter k at step t is a pure function of (seed, t, k, i): Philox4x32-7 keyed by the seed,
    with counter (i, k, t). Elements count in memory order, which is the usual order for a contiguous tensor. Nothing
    depends on threads, devices, how a tensor is split (``offset``), or a generator's state.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from . import reference
from ._extension import cpu_module, cuda_failure, cuda_module

__all__ = [
    "PrecisionPrior",
    "dequantized_log_prob",
    "langevin_dequantize",
    "latent_langevin_step_",
    "latent_normal",
    "latent_underdamped_step_",
    "marginal_gaussian_log_prob",
    "normal",
    "philox",
    "psgld_step_",
    "quantize",
    "sghmc_step_",
    "sgld_step_",
]

#: ``"flat"``, ``"jeffreys"``, or (a, b) for Gamma(a, b).
PrecisionPrior = str | tuple[float, float]

#: Devices whose tensors go to torch.ops.ald_ext; "meta" for its fake kernels.
KERNEL_DEVICES = {"cpu", "cuda", "meta"}

#: Of the parameters of a step. 16-bit ones are rounded stochastically, and have a float32 state.
PARAMETER_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

#: The argument that holds the states, by op.
STATES = {"psgld_step_": "square_avgs", "sghmc_step_": "momenta"}

#: As ``freeze_after``: the preconditioner adapts for ever.
NEVER = 2**63 - 1

_OPS = torch.ops.ald_ext
sgld_step_op, psgld_step_op, sghmc_step_op = (
    op.default for op in (_OPS.sgld_step_, _OPS.psgld_step_, _OPS.sghmc_step_)
)
_LIBRARY = torch.library.Library("ald_ext", "FRAGMENT")


def has_kernel(tensor: Tensor) -> bool:
    """True if a compiled step exists for the tensor's device and dtype."""
    on_device = tensor.device.type == "cpu" or (tensor.device.type == "cuda" and cuda_module is not None)
    return on_device and tensor.dtype in PARAMETER_DTYPES


def draw_seed() -> int:
    """A seed from torch's default generator, so that torch.manual_seed governs whatever is drawn with it."""
    return int(torch.randint(0, 2**63 - 1, (), dtype=torch.int64, device="cpu").item())


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
    if n < 0:
        raise RuntimeError(f"ald_ext.ops.normal: n: got {n}, expected n >= 0")
    out = torch.empty(n, dtype=dtype, device=device)
    if out.device.type not in KERNEL_DEVICES:
        key: dict[str, int] = {"seed": seed, "step": step, "parameter": parameter, "offset": offset}
        return reference.normal(n, **key, dtype=dtype, device=out.device)
    write(_OPS.normal_, with_version_counter([out]), out, seed=seed, step=step, parameter=parameter, offset=offset)
    return out


def latent_normal(index: Tensor, count: int, *, seed: int, step: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normals for latent variables: row r is ``normal(count, seed=seed, step=step, parameter=index[r])``.

    A chain's noise is keyed by its datum, so it does not depend on the minibatch the datum is in (Note [Noise]).

    Args:
        index: (n,) int64, the index of each row's datum, 0 ≤ index < 2^44; it may repeat. (Another one raises on a CPU;
            CUDA does not look, and gives it noise that is not its own.)
        count: of elements a row.
        seed, step: the noise key, as in :func:`normal`.
        dtype: torch.float32 or torch.float64.

    Returns:
        (n, count) tensor on the device of ``index``.

    Raises:
        RuntimeError: an argument out of its range, or of another shape or dtype.
    """
    if count < 0:
        raise RuntimeError(f"ald_ext.ops.latent_normal: count: got {count}, expected count >= 0")
    if index.dim() != 1:
        raise RuntimeError(f"ald_ext.ops.latent_normal: index: got shape {tuple(index.shape)}, expected (n,)")
    if index.device.type not in KERNEL_DEVICES:
        return reference.latent_normal(index, count, seed=seed, step=step, dtype=dtype)
    out = torch.empty(len(index), count, dtype=dtype, device=index.device)
    write(_OPS.latent_normal_, with_version_counter([out]), out, index, seed=seed, step=step)
    return out


def latent_langevin_step_(
    z: Tensor, grad: Tensor, index: Tensor, *, lr: float, temperature: float = 1.0, seed: int, step: int
) -> None:
    """One Langevin step of latent variables in place: z ← z - lr·∇U + √(2·lr·T) ξ (paper: Eq. 3).

    Row r of ξ is that of :func:`latent_normal` for datum index[r].

    Args:
        z: (n, ...) float32 or float64, contiguous.
        grad: ∇U, of the same shape, dtype and device; any strides.
        index: (n,) int64, the index of each row's datum, as in :func:`latent_normal`.
        lr: η ≥ 0.
        temperature: T ≥ 0.
        seed, step: the noise key, as in :func:`normal`.

    Raises:
        RuntimeError: devices, dtypes or shapes that do not match, z not contiguous or with memory of another tensor,
            values out of range, or tensors that autograd is recording.
    """
    _check_not_recorded("latent_langevin_step_", ("z", z))
    settings: dict[str, Any] = {"lr": lr, "temperature": temperature, "seed": seed, "step": step}
    if z.device.type not in KERNEL_DEVICES:
        reference.latent_langevin_step_(z, grad, index, **settings)
        return
    write(_OPS.latent_langevin_step_, with_version_counter([z]), z, grad, index, **settings)


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
) -> None:
    """One underdamped step of latent variables and their momenta in place (Note [The underdamped update], N = 1).

    Row r of ξ is that of :func:`latent_normal` for datum index[r].

    Args:
        z, grad, index, lr, temperature, seed, step: as in :func:`latent_langevin_step_`; lr = h².
        momenta: p, of the same shape, dtype and device as z; contiguous.
        momentum: μ, 0 ≤ momentum < 1.

    Raises:
        RuntimeError: as :func:`latent_langevin_step_`.
    """
    _check_not_recorded("latent_underdamped_step_", ("z", z), ("momenta", momenta))
    settings: dict[str, Any] = {
        "lr": lr,
        "momentum": momentum,
        "temperature": temperature,
        "seed": seed,
        "step": step,
    }
    if z.device.type not in KERNEL_DEVICES:
        reference.latent_underdamped_step_(z, momenta, grad, index, **settings)
        return
    counted = with_version_counter([z, momenta])
    write(_OPS.latent_underdamped_step_, counted, z, momenta, grad, index, **settings)


def philox(counter: Sequence[int], key: Sequence[int]) -> tuple[int, int, int, int]:
    """One Philox4x32-7 block: four 32-bit words from a counter of four and a key of two (Salmon et al., SC 2011)."""
    a, b, c, d = cpu_module.philox(tuple(counter), tuple(key))
    return a, b, c, d


def sgld_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    *,
    lr: float | Tensor,
    num_data: float = 1.0,
    temperature: float = 1.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
    seed: int,
    step: int | Tensor,
    noise_ids: Sequence[int] | None = None,
    offsets: Sequence[int] | None = None,
) -> None:
    """One SGLD step of all ``params`` in place, in one pass: θ ← θ - lr·g + √(2·lr·T/N) ξ (Note [The update equation]).

    Args:
        params: dense tensors of one dtype (float32, float64, bfloat16 or float16) on one device; any shapes, empty ones
            too. 16-bit ones are computed in float32 and rounded stochastically, so that their mean moves as it should;
            the bits for that are a function of the noise key too.
        grads: one for each of ``params``, of the same shape, strides, dtype and device.
        lr, temperature, weight_decay: see the note; each ≥ 0. As a tensor (one element, float32 or float64, on the CPU
            or the params' device) lr is read when the step runs.
        num_data: N > 0.
        maximize: ascend.
        seed, step: the noise key, as in :func:`normal`; step also as a tensor (one element, int64).
        noise_ids: the index k of each tensor's noise; 0, 1, 2, … if None.
        offsets: the element index at which each tensor begins (a shard of a parameter); 0 if None.

    Raises:
        RuntimeError: mismatched lists, devices, dtypes, shapes or strides, values out of range, the same tensor twice,
            or tensors that autograd is recording.
    """
    settings = {
        "num_data": num_data,
        "temperature": temperature,
        "weight_decay": weight_decay,
        "maximize": maximize,
        "seed": seed,
    }
    _run_step("sgld_step_", [params, grads], lr, step, noise_ids, offsets, settings)


def psgld_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    square_avgs: Sequence[Tensor],
    *,
    lr: float | Tensor,
    num_data: float = 1.0,
    temperature: float = 1.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
    alpha: float = 0.99,
    eps: float = 0.1,
    freeze_after: int = NEVER,
    seed: int,
    step: int | Tensor,
    noise_ids: Sequence[int] | None = None,
    offsets: Sequence[int] | None = None,
) -> None:
    """One pSGLD step of all ``params`` and ``square_avgs`` in place, in one pass (Note [The update equation]).

    Args:
        params, grads, lr, num_data, temperature, weight_decay, maximize, seed, step, noise_ids, offsets: as in
            :func:`sgld_step_`.
        square_avgs: v, one for each of ``params``, of the same shape, strides and device; of the same dtype, or float32
            for 16-bit params.
        alpha: decay of v, 0 ≤ alpha < 1.
        eps: λ ≥ 0.
        freeze_after: v adapts while step ≤ freeze_after; -1: it stays as it is, a frozen preconditioner.

    Raises:
        RuntimeError: as :func:`sgld_step_`.
    """
    settings = {
        "num_data": num_data,
        "temperature": temperature,
        "weight_decay": weight_decay,
        "maximize": maximize,
        "alpha": alpha,
        "eps": eps,
        "freeze_after": freeze_after,
        "seed": seed,
    }
    _run_step("psgld_step_", [params, grads, square_avgs], lr, step, noise_ids, offsets, settings)


def sghmc_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momenta: Sequence[Tensor],
    *,
    lr: float | Tensor,
    num_data: float = 1.0,
    temperature: float = 1.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
    momentum: float = 0.9,
    seed: int,
    step: int | Tensor,
    noise_ids: Sequence[int] | None = None,
    offsets: Sequence[int] | None = None,
) -> None:
    """One SGHMC step of all ``params`` and ``momenta`` in place, in one pass (Note [The underdamped update]).

    Args:
        params, grads, lr, num_data, temperature, weight_decay, maximize, seed, step, noise_ids, offsets: as in
            :func:`sgld_step_`; lr = h².
        momenta: p, one for each of ``params``, of the same shape, strides and device; of the same dtype, or float32
            for 16-bit params.
        momentum: μ, 0 ≤ momentum < 1.

    Raises:
        RuntimeError: as :func:`sgld_step_`.
    """
    settings = {
        "num_data": num_data,
        "temperature": temperature,
        "weight_decay": weight_decay,
        "maximize": maximize,
        "momentum": momentum,
        "seed": seed,
    }
    _run_step("sghmc_step_", [params, grads, momenta], lr, step, noise_ids, offsets, settings)


def _run_step(
    name: str,
    lists: Sequence[Sequence[Tensor]],
    lr: float | Tensor,
    step: int | Tensor,
    noise_ids: Sequence[int] | None,
    offsets: Sequence[int] | None,
    settings: dict[str, Any],
) -> None:
    params, _, *states = lists
    if not _prepare_step(name, *lists):
        return
    settings["noise_ids"] = list(range(len(params)) if noise_ids is None else noise_ids)
    settings["offsets"] = [0] * len(params) if offsets is None else list(offsets)
    if params[0].device.type not in KERNEL_DEVICES:
        getattr(reference, name)(*lists, lr=float(lr), step=int(step), **settings)
        return
    op = getattr(_OPS, name)
    if isinstance(lr, Tensor) or isinstance(step, Tensor):
        # Scalars stay on the CPU, where they are read at once.
        lr = lr if isinstance(lr, Tensor) else torch.tensor(lr, dtype=torch.float64, device="cpu")
        step = step if isinstance(step, Tensor) else torch.tensor(step, dtype=torch.int64, device="cpu")
        op = op.tensor
    else:
        op = op.default
    counted = with_version_counter([*params, *chain.from_iterable(states)])
    write(op, counted, *lists, lr=lr, step=step, **settings)


def _prepare_step(name: str, params: Sequence[Tensor], *companions: Sequence[Tensor]) -> bool:
    """False if there is nothing to do. The dispatcher finds no device in empty lists, so they are checked here."""
    if not params:
        for argument, tensors in zip(("grads", STATES.get(name)), companions, strict=False):
            if tensors:
                raise RuntimeError(f"ald_ext::{name}: {argument}: got {len(tensors)} items, expected 0, as of params")
        return False
    _check_not_recorded(name, *_named("params", params))
    return True


def _check_not_recorded(name: str, *written: tuple[str, Tensor]) -> None:
    if torch.is_grad_enabled():
        for argument, tensor in written:
            if tensor.requires_grad:
                raise RuntimeError(
                    f"ald_ext::{name}: {argument}: got a tensor that requires grad, which autograd is recording; "
                    "expected the call under torch.no_grad()"
                )


def prior_shape_and_rate(prior: PrecisionPrior) -> tuple[float, float]:
    """(a, b) of the precision's prior; b = 0 for the improper ones.

    Raises:
        ValueError: neither "flat", "jeffreys" nor a pair of positive numbers.
    """
    if prior == "flat":
        return 1.0, 0.0
    if prior == "jeffreys":
        return 0.0, 0.0
    if isinstance(prior, tuple | list) and len(prior) == 2 and all(is_positive(value) for value in prior):
        return float(prior[0]), float(prior[1])
    raise ValueError(
        f"ald_ext.ops.marginal_gaussian_log_prob: prior: got {prior!r}, "
        "expected 'flat', 'jeffreys' or (a, b) with a, b > 0"
    )


def is_positive(value: object) -> bool:
    """True for a finite number > 0."""
    return isinstance(value, numbers.Real) and math.isfinite(value) and float(value) > 0


def marginal_gaussian_log_prob(x: Tensor, mean: Tensor, prior: PrecisionPrior = "flat") -> Tensor:
    """log p(x | mean) of a Gaussian whose precision is integrated out, one value a datum.

    With r² = ‖x - mean‖² and d the number of values of a datum (paper: Appendix B, Eqs. 19-22):

        flat, dλ:        log 2 + lgamma(d/2 + 1) - (d/2) log π - (d + 2) log r
        Jeffreys, dλ/λ:  lgamma(d/2) - (d/2) log π - d log r
        Gamma(a, b):     lgamma(a + d/2) - lgamma(a) + a log b - (d/2) log 2π - (a + d/2) log(b + r²/2)

    The first two are improper and grow without bound as r → 0: r² is held at 2⁻¹⁰⁰ or above, so x == mean gives the
    finite value at that distance, with gradient zero, never NaN. Differentiable in both arguments, twice. r² is summed
    in a fixed order, so the bits do not depend on the number of threads.

    Args:
        x: (N, ...) float32 or float64.
        mean: the same shape, dtype and device.
        prior: of the precision.

    Returns:
        (N,) tensor of x's dtype.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not match, or no first dimension.
        ValueError: another prior.
    """
    shape, rate = prior_shape_and_rate(prior)
    if x.device.type not in KERNEL_DEVICES:
        return reference.marginal_gaussian_log_prob(x, mean, shape, rate)
    log_prob: Tensor = _OPS.marginal_gaussian_log_prob(x, mean, shape, rate)[0]
    return log_prob


def langevin_dequantize(x: Tensor, h: Tensor, bits: int = 8) -> Tensor:
    """logit((x + σ(h)) / 2^bits): pixels to the real line, at the place in their bin that h chooses (paper: Eq. 25).

    Computed as log(x + σ(h)) - log(2^bits - 1 - x + σ(-h)), stable in both tails (x = 0 with h → -∞ and x = 2^bits - 1
    with h → +∞ follow h linearly). Where another bin begins, σ(h) stops 2⁻¹² (float64: 2⁻⁴⁰) of a bin before it, with
    gradient zero beyond, so that ``quantize(langevin_dequantize(x, h)) == x`` for every x and finite h.
    Differentiable in h, twice.

    Args:
        x: uint8 pixels, any shape; values below 2^bits (others: RuntimeError on a CPU, NaN on CUDA).
        h: the same shape and device, float32 or float64.
        bits: 1 to 8.

    Returns:
        Tensor of h's shape and dtype.

    Raises:
        RuntimeError: x not uint8, or shapes, devices or bits that do not fit.
    """
    if x.device.type not in KERNEL_DEVICES:
        return reference.langevin_dequantize(x, h, bits)
    y: Tensor = _OPS.langevin_dequantize(x, h, bits)
    return y


def dequantized_log_prob(
    x: Tensor, h: Tensor, mean: Tensor, prior: PrecisionPrior = "flat", bits: int = 8
) -> tuple[Tensor, Tensor]:
    """y = langevin_dequantize(x, h) and marginal_gaussian_log_prob(y, mean) in one pass, with the very same bits.

    The gradients for h and for the mean take one pass too, in which none for y is written. Differentiable in h and
    mean, twice, and through y.

    Args:
        x: (N, ...) uint8 pixels.
        h: the same shape and device, float32 or float64.
        mean: as h.
        prior: of the precision, as in :func:`marginal_gaussian_log_prob`.
        bits: 1 to 8.

    Returns:
        y of h's shape, and the (N,) log densities.

    Raises:
        RuntimeError: as :func:`langevin_dequantize` and :func:`marginal_gaussian_log_prob`.
        ValueError: another prior.
    """
    shape, rate = prior_shape_and_rate(prior)
    if x.device.type not in KERNEL_DEVICES:
        y = reference.langevin_dequantize(x, h, bits)
        return y, reference.marginal_gaussian_log_prob(y, mean, shape, rate)
    y, log_prob, _ = _OPS.dequantized_log_prob(x, h, mean, shape, rate, bits)
    return y, log_prob


def quantize(y: Tensor, bits: int = 8) -> Tensor:
    """The inverse of :func:`langevin_dequantize`: min(⌊2^bits σ(y)⌋, 2^bits - 1); NaN gives 0 (paper: Eq. 24).

    Args:
        y: any shape, float32 or float64.
        bits: 1 to 8.

    Returns:
        uint8 tensor of y's shape.

    Raises:
        RuntimeError: another dtype, or bits out of range.
    """
    if y.device.type not in KERNEL_DEVICES:
        return reference.quantize(y, bits)
    x: Tensor = _OPS.quantize(y, bits)
    return x


# --- Fake kernels: shapes and dtypes for torch.compile and meta tensors ---
#
# They also stand in where one of several tensors is on the meta device, so they look at devices like the real ones.


def _check_same_device(op: str, *named: tuple[str, Tensor]) -> None:
    reference_name, reference_tensor = named[0]
    for name, tensor in named[1:]:
        if tensor.device != reference_tensor.device:
            raise RuntimeError(
                f"ald_ext::{op}: {name}: got a tensor on {tensor.device}, expected {reference_tensor.device}, "
                f"where {reference_name} is"
            )


def _named(argument: str, tensors: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
    return [(f"{argument}[{i}]", tensor) for i, tensor in enumerate(tensors)]


@torch.library.register_fake("ald_ext::normal_", lib=_LIBRARY)
def _normal_fake(out: Tensor, *, seed: int, step: int, parameter: int = 0, offset: int = 0) -> None:
    return None


def _check_scalar_devices(op: str, settings: dict[str, Any], param: Tensor) -> None:
    """lr and step, where they are tensors, are on the CPU or where the parameters are."""
    for name in ("lr", "step"):
        if isinstance(settings[name], Tensor) and settings[name].device.type != "cpu":
            _check_same_device(op, ("params[0]", param), (name, settings[name]))


@torch.library.register_fake("ald_ext::sgld_step_", lib=_LIBRARY)
@torch.library.register_fake("ald_ext::sgld_step_.tensor", lib=_LIBRARY)
def _sgld_step_fake(params: list[Tensor], grads: list[Tensor], **settings: Any) -> None:
    _check_same_device("sgld_step_", *_named("params", params), *_named("grads", grads))
    _check_scalar_devices("sgld_step_", settings, params[0])


@torch.library.register_fake("ald_ext::psgld_step_", lib=_LIBRARY)
@torch.library.register_fake("ald_ext::psgld_step_.tensor", lib=_LIBRARY)
def _psgld_step_fake(params: list[Tensor], grads: list[Tensor], square_avgs: list[Tensor], **settings: Any) -> None:
    tensors = _named("params", params) + _named("grads", grads) + _named("square_avgs", square_avgs)
    _check_same_device("psgld_step_", *tensors)
    _check_scalar_devices("psgld_step_", settings, params[0])


@torch.library.register_fake("ald_ext::sghmc_step_", lib=_LIBRARY)
@torch.library.register_fake("ald_ext::sghmc_step_.tensor", lib=_LIBRARY)
def _sghmc_step_fake(params: list[Tensor], grads: list[Tensor], momenta: list[Tensor], **settings: Any) -> None:
    tensors = _named("params", params) + _named("grads", grads) + _named("momenta", momenta)
    _check_same_device("sghmc_step_", *tensors)
    _check_scalar_devices("sghmc_step_", settings, params[0])


@torch.library.register_fake("ald_ext::latent_normal_", lib=_LIBRARY)
def _latent_normal_fake(out: Tensor, index: Tensor, **settings: Any) -> None:
    _check_same_device("latent_normal_", ("out", out), ("index", index))


@torch.library.register_fake("ald_ext::latent_langevin_step_", lib=_LIBRARY)
def _latent_langevin_step_fake(z: Tensor, grad: Tensor, index: Tensor, **settings: Any) -> None:
    _check_same_device("latent_langevin_step_", ("z", z), ("grad", grad), ("index", index))


@torch.library.register_fake("ald_ext::latent_underdamped_step_", lib=_LIBRARY)
def _latent_underdamped_step_fake(z: Tensor, momenta: Tensor, grad: Tensor, index: Tensor, **settings: Any) -> None:
    named = ("z", z), ("momenta", momenta), ("grad", grad), ("index", index)
    _check_same_device("latent_underdamped_step_", *named)


@torch.library.register_fake("ald_ext::marginal_gaussian_log_prob", lib=_LIBRARY)
def _log_prob_fake(x: Tensor, mean: Tensor, shape: float, rate: float) -> tuple[Tensor, Tensor]:
    _check_same_device("marginal_gaussian_log_prob", ("x", x), ("mean", mean))
    return x.new_empty(x.shape[0]), x.new_empty(x.shape[0], dtype=torch.float64)


@torch.library.register_fake("ald_ext::marginal_gaussian_log_prob_backward", lib=_LIBRARY)
def _log_prob_backward_fake(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    squared_distance: Tensor,
    shape: float,
    rate: float,
    need_x: bool,
    need_mean: bool,
) -> Tensor:
    return x.new_empty((need_x + need_mean, *x.shape))


@torch.library.register_fake("ald_ext::langevin_dequantize", lib=_LIBRARY)
def _dequantize_fake(x: Tensor, h: Tensor, bits: int = 8) -> Tensor:
    _check_same_device("langevin_dequantize", ("x", x), ("h", h))
    return h.new_empty(h.shape)


@torch.library.register_fake("ald_ext::langevin_dequantize_backward", lib=_LIBRARY)
def _dequantize_backward_fake(grad: Tensor, x: Tensor, h: Tensor, bits: int = 8) -> Tensor:
    return h.new_empty(h.shape)


@torch.library.register_fake("ald_ext::dequantized_log_prob", lib=_LIBRARY)
def _dequantized_log_prob_fake(
    x: Tensor, h: Tensor, mean: Tensor, shape: float, rate: float, bits: int = 8
) -> tuple[Tensor, Tensor, Tensor]:
    _check_same_device("dequantized_log_prob", ("x", x), ("h", h), ("mean", mean))
    return h.new_empty(h.shape), h.new_empty(h.shape[0]), h.new_empty(h.shape[0], dtype=torch.float64)


@torch.library.register_fake("ald_ext::dequantized_log_prob_backward", lib=_LIBRARY)
def _dequantized_log_prob_backward_fake(
    grad: Tensor,
    x: Tensor,
    h: Tensor,
    mean: Tensor,
    y: Tensor,
    squared_distance: Tensor,
    shape: float,
    rate: float,
    bits: int = 8,
) -> Tensor:
    return h.new_empty((2, *h.shape))


@torch.library.register_fake("ald_ext::quantize", lib=_LIBRARY)
def _quantize_fake(y: Tensor, bits: int = 8) -> Tensor:
    return y.new_empty(y.shape, dtype=torch.uint8)


# --- Autograd. Under create_graph the backward runs through the reference, which autograd can differentiate again. ---


def _differentiable_gradients(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], needed: Sequence[bool], grad: Tensor
) -> list[Tensor | None]:
    """The gradients for those of the arguments that need one, by a graph of their own."""
    # Views, so that the gradient for one argument leaves out a path through the other.
    arguments = [tensor.view_as(tensor) for tensor in tensors]
    wanted = [argument for argument, is_needed in zip(arguments, needed, strict=True) if is_needed]
    gradients = iter(torch.autograd.grad(function(*arguments), wanted, grad, create_graph=True))
    return [next(gradients) if is_needed else None for is_needed in needed]


def _log_prob_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, mean, ctx.shape, ctx.rate = inputs
    _, squared_distance = output
    ctx.mark_non_differentiable(squared_distance)
    ctx.save_for_backward(x, mean, squared_distance)


def _log_prob_backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
    x, mean, squared_distance = ctx.saved_tensors
    need_x, need_mean = ctx.needs_input_grad[:2]
    if torch.is_grad_enabled():
        log_prob = partial(reference.marginal_gaussian_log_prob, shape=ctx.shape, rate=ctx.rate)
        grad_x, grad_mean = _differentiable_gradients(log_prob, (x, mean), (need_x, need_mean), grad)
        return grad_x, grad_mean, None, None
    # The gradients that are needed, stacked.
    gradients = _OPS.marginal_gaussian_log_prob_backward(
        grad, x, mean, squared_distance, ctx.shape, ctx.rate, need_x, need_mean
    )
    return gradients[0] if need_x else None, gradients[-1] if need_mean else None, None, None


torch.library.register_autograd(
    "ald_ext::marginal_gaussian_log_prob", _log_prob_backward, setup_context=_log_prob_setup, lib=_LIBRARY
)


def _dequantize_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, h, ctx.bits = inputs
    ctx.save_for_backward(x, h)


def _dequantize_backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, None]:
    x, h = ctx.saved_tensors
    return None, _dequantization_gradient(x, h, grad, ctx.bits) if ctx.needs_input_grad[1] else None, None


def _dequantization_gradient(x: Tensor, h: Tensor, grad: Tensor, bits: int) -> Tensor:
    if torch.is_grad_enabled():
        value = reference.langevin_dequantize(x, h, bits)
        return torch.autograd.grad(value, h, grad, create_graph=True)[0]
    gradient: Tensor = _OPS.langevin_dequantize_backward(grad, x, h, bits)
    return gradient


torch.library.register_autograd(
    "ald_ext::langevin_dequantize", _dequantize_backward, setup_context=_dequantize_setup, lib=_LIBRARY
)


def _dequantized_log_prob_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, h, mean, ctx.shape, ctx.rate, ctx.bits = inputs
    y, _, squared_distance = output
    ctx.mark_non_differentiable(squared_distance)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, h, mean, y, squared_distance)


def _dequantized_log_prob_backward(
    ctx: Any, grad_y: Tensor | None, grad: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    x, h, mean, y, squared_distance = ctx.saved_tensors
    grad_h = grad_mean = None
    if grad is not None:
        if torch.is_grad_enabled():

            def log_prob(h: Tensor, mean: Tensor) -> Tensor:
                y = reference.langevin_dequantize(x, h, ctx.bits)
                return reference.marginal_gaussian_log_prob(y, mean, ctx.shape, ctx.rate)

            grad_h, grad_mean = _differentiable_gradients(log_prob, (h, mean), ctx.needs_input_grad[1:3], grad)
        else:
            grad_h, grad_mean = _OPS.dequantized_log_prob_backward(
                grad, x, h, mean, y, squared_distance, ctx.shape, ctx.rate, ctx.bits
            )
    if grad_y is not None and ctx.needs_input_grad[1]:
        through_y = _dequantization_gradient(x, h, grad_y, ctx.bits)
        grad_h = through_y if grad_h is None else grad_h + through_y
    return None, grad_h, grad_mean, None, None, None


torch.library.register_autograd(
    "ald_ext::dequantized_log_prob",
    _dequantized_log_prob_backward,
    setup_context=_dequantized_log_prob_setup,
    lib=_LIBRARY,
)


# --- Version counters ---
#
# Note [Version counters]
#     A C++ kernel that writes to a tensor does not tell autograd, which would then silently use the overwritten values
#     of a tensor it saved. These kernels run just above it and count the write, as torch's own in-place ops do.


def write(op: Callable[..., None], counted: Sequence[Tensor], *args: Any, **kwargs: Any) -> None:
    """Calls an op, and counts its writes to ``counted`` here: 10 µs less than through the dispatcher."""
    if torch.compiler.is_compiling():
        op(*args, **kwargs)
        return
    with torch._C._AutoDispatchBelowADInplaceOrView():
        op(*args, **kwargs)
    torch.autograd.graph.increment_version(counted)


def with_version_counter(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Without those made under inference_mode, which have no version."""
    if torch.compiler.is_compiling():
        return []
    return [tensor for tensor in tensors if not tensor.is_inference()]


def _register_version_counting(name: str, overload: str, mutated: Sequence[int]) -> None:
    op = getattr(getattr(_OPS, name), overload)

    def count_versions(keyset: Any, *args: Any, **kwargs: Any) -> None:
        with torch._C._AutoDispatchBelowADInplaceOrView():
            op.redispatch(keyset & torch._C._after_ADInplaceOrView_keyset, *args, **kwargs)
        for position in mutated:
            torch.autograd.graph.increment_version(args[position])

    _LIBRARY.impl(op, count_versions, "ADInplaceOrView", with_keyset=True)


_register_version_counting("normal_", "default", [0])
_register_version_counting("latent_normal_", "default", [0])
_register_version_counting("latent_langevin_step_", "default", [0])
_register_version_counting("latent_underdamped_step_", "default", [0, 1])
for _overload in ("default", "tensor"):
    _register_version_counting("sgld_step_", _overload, [0])
    _register_version_counting("psgld_step_", _overload, [0, 2])
    _register_version_counting("sghmc_step_", _overload, [0, 2])


# --- Without the CUDA module, a CUDA tensor gets the reason instead of the dispatcher's list of backends ---


def _register_cuda_failure(name: str) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError(f"ald_ext::{name}: no CUDA kernel: {cuda_failure}")

    _LIBRARY.impl(name, fail, "CUDA")


if cuda_module is None:
    for _name in (
        "normal_",
        "latent_normal_",
        "latent_langevin_step_",
        "latent_underdamped_step_",
        "sgld_step_",
        "sgld_step_.tensor",
        "psgld_step_",
        "psgld_step_.tensor",
        "sghmc_step_",
        "sghmc_step_.tensor",
        "marginal_gaussian_log_prob",
        "marginal_gaussian_log_prob_backward",
        "langevin_dequantize",
        "langevin_dequantize_backward",
        "dequantized_log_prob",
        "dequantized_log_prob_backward",
        "quantize",
    ):
        _register_cuda_failure(_name)
