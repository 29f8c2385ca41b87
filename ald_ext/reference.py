"""The functions of :mod:`ald_ext.ops` in plain PyTorch: specification, tests' oracle, fallback, and baseline.

Nothing here is compiled, and nothing depends on the rest of the package. Results agree with the kernels to rounding:
normals to 1e-6 in float32 (the kernels' own bits come from :func:`ald_ext.ops.normal`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

WORD = 0xFFFFFFFF
PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
PHILOX_ROUNDS = 7

#: Blocks of a chunk of the noise layout, see csrc/math/normal.h, Note [Noise layout].
CHUNK_BLOCKS = 16
#: Largest step and parameter of a noise key, and the number of elements a parameter may have.
MAX_STEP, MAX_PARAMETER, MAX_ELEMENTS = 2**40 - 1, 2**44 - 1, 2**41

#: Random bits that decide a rounding, and stored bits of the mantissa: csrc/math/rounding.h.
ROUNDING_BITS = {torch.bfloat16: (16, 7), torch.float16: (13, 10)}
#: The value of NoisePurpose::rounding in csrc/math/normal.h.
ROUNDING_PURPOSE = 1

#: r^2 is held at or above this, so that x == mean gives a finite value and gradient zero.
SMALLEST_SQUARED_DISTANCE = 2.0**-100

#: How close, as exp(-|h|), a dequantized pixel comes to a neighbouring bin.
DEQUANTIZATION_MARGIN = {torch.float32: 2.0**-12, torch.float64: 2.0**-40}

NormalFunction = Callable[..., Tensor]


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which values of ``dtype`` are computed with: float32 for 16-bit ones, else their own."""
    return torch.float32 if dtype in ROUNDING_BITS else dtype


def _multiply_high(a: Tensor, b: int) -> Tensor:
    """High 32 bits of the product of 32-bit words held in int64: by halves, as int64 has no 64 unsigned bits."""
    low, high = a & 0xFFFF, a >> 16
    middle = high * (b & 0xFFFF) + ((low * (b & 0xFFFF)) >> 16)
    return (high * (b >> 16) + ((middle + low * (b >> 16)) >> 16)) & WORD


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-7: four 32-bit words (in int64) for each counter of four words (Salmon et al., SC 2011)."""
    a, b, c, d = counter
    for round_number in range(PHILOX_ROUNDS):
        low_key, high_key = (
            (k + round_number * increment) & WORD for k, increment in zip(key, PHILOX_KEY_INCREMENTS, strict=True)
        )
        a, b, c, d = (
            _multiply_high(c, PHILOX_MULTIPLIERS[1]) ^ b ^ low_key,
            (c * PHILOX_MULTIPLIERS[1]) & WORD,
            _multiply_high(a, PHILOX_MULTIPLIERS[0]) ^ d ^ high_key,
            (a * PHILOX_MULTIPLIERS[0]) & WORD,
        )
    return a, b, c, d


def _box_muller(count: Tensor, turns: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """r cos(phi), r sin(phi): r = sqrt(-2 log u), u = (count + 1/2) / 2^31 or 2^63 in ``dtype``, phi = 2 pi turns."""
    u = (count.to(dtype) + 0.5) / 2.0 ** (31 if dtype == torch.float32 else 63)
    radius = torch.sqrt(-2 * torch.log(u.double()))
    angle = 2 * math.pi * turns
    return radius * torch.cos(angle), radius * torch.sin(angle)


class _NoiseKey(NamedTuple):
    seed: int
    step: int
    parameter: int | Tensor  # a tensor is broadcast with the elements
    purpose: int = 0


def elements_of_shard(
    n: int, offset: int, row_length: int = 0, row_stride: int = 0, device: torch.device | str | None = None
) -> Tensor:
    """(n,): which elements of its parameter a tensor has, in the order of its memory: csrc/math/shard.h, Note [Shards].

    Element i of the tensor is element offset + (i // row_length)·row_stride + i % row_length of the parameter, or
    offset + i where row_length is 0: the shard is one range of the parameter.
    """
    i = torch.arange(n, dtype=torch.int64, device=device)
    return offset + (i // row_length * row_stride + i % row_length if row_length else i)


def _random_words(element: Tensor, per_block: int, key: _NoiseKey) -> tuple[tuple[Tensor, ...], Tensor]:
    """The four words of each element's Philox block, and its lane in it: csrc/math/normal.h, Note [Noise layout]."""
    chunk = CHUNK_BLOCKS * per_block
    block = torch.div(element, chunk, rounding_mode="floor") * CHUNK_BLOCKS + element % CHUNK_BLOCKS
    lane = torch.div(element % chunk, CHUNK_BLOCKS, rounding_mode="floor")
    high_bits = (key.purpose << 28) | ((key.parameter >> 32) << 16) | ((key.step >> 32) << 8)
    counter = torch.broadcast_tensors(
        block & WORD,
        torch.full_like(block, key.step & WORD),
        torch.as_tensor(key.parameter & WORD, device=element.device),
        (block >> 32) | high_bits,
    )
    return philox(counter, (key.seed & WORD, (key.seed >> 32) & WORD)), lane


def normal(
    n: int,
    *,
    seed: int,
    step: int,
    parameter: int = 0,
    offset: int = 0,
    row_length: int = 0,
    row_stride: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """The normals of :func:`ald_ext.ops.normal`, computed in float64 and rounded to ``dtype``; also of rows."""
    element = elements_of_shard(n, offset, row_length, row_stride, device)
    return _normals(element, _NoiseKey(seed, step, parameter), dtype)


def latent_normal(
    index: Tensor, count: int, *, seed: int, step: int, offset: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(n, count): row r is ``normal(count, parameter=index[r])``, so a datum's noise is the same in any minibatch."""
    element = elements_of_shard(count, offset, device=index.device)
    return _normals(element, _NoiseKey(seed, step, index[:, None]), dtype)


def _normals(element: Tensor, key: _NoiseKey, dtype: torch.dtype) -> Tensor:
    per_block = 4 if dtype == torch.float32 else 2
    words, lane = _random_words(element, per_block, key)
    if per_block == 4:
        pairs = [_box_muller(words[k] >> 1, words[k + 1].double() / 2**32, dtype) for k in (0, 2)]
    else:
        turns = (words[3].double() * 2.0**32 + words[2].double()) / 2.0**64
        pairs = [_box_muller(words[1] << 31 | words[0] >> 1, turns, dtype)]
    lanes = torch.stack([value for pair in pairs for value in pair])
    return lanes.gather(0, lane.expand(lanes.shape[1:])[None])[0].to(dtype)


def rounding_words(
    n: int,
    *,
    seed: int,
    step: int,
    parameter: int = 0,
    offset: int = 0,
    row_length: int = 0,
    row_stride: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """The 32 random bits (in int64) by which each element of a 16-bit parameter is rounded."""
    element = elements_of_shard(n, offset, row_length, row_stride, device)
    words, lane = _random_words(element, 4, _NoiseKey(seed, step, parameter, ROUNDING_PURPOSE))
    return torch.stack(words).gather(0, lane[None])[0]


def round_stochastically(value: Tensor, dtype: torch.dtype, random: Tensor) -> Tensor:
    """``value`` in bfloat16 or float16: towards zero or away from it, with the probabilities that keep the mean.

    |value| = (k + f)·unit, with ``unit`` the spacing of the format there, becomes (k + 1)·unit where f + u >= 1, else
    k·unit; u is made of the upper ``bits`` of the 32 random ones. Beyond the largest finite value: to nearest.
    """
    bits, mantissa_bits = ROUNDING_BITS[dtype]
    format_ = torch.finfo(dtype)
    magnitude = value.double().abs()
    exponent = (torch.frexp(magnitude).exponent - 1).clamp_min(round(math.log2(format_.tiny)))
    unit = torch.ldexp(torch.ones_like(magnitude), exponent - mantissa_bits)
    u = (random >> (32 - bits)).double() / 2**bits
    rounded = (torch.floor(magnitude / unit + u) * unit).clamp_max(format_.max).copysign(value)
    nearest = value.to(dtype)
    return torch.where(nearest.isfinite(), rounded.to(dtype), nearest)


def rounding_16_bit_parameters(step_: Callable[..., None]) -> Callable[..., None]:
    """Lets a step, which computes in the parameters' dtype, compute in float32 and round stochastically."""

    @functools.wraps(step_)
    def run(params: Sequence[Tensor], grads: Sequence[Tensor], *states: Sequence[Tensor], **settings: Any) -> None:
        if all(param.dtype not in ROUNDING_BITS for param in params):
            step_(params, grads, *states, **settings)
            return
        values = [param.float() for param in params]
        step_(values, [grad.float() for grad in grads], *states, **settings)
        names = ("seed", "step", "noise_ids", "offsets", "row_lengths", "row_strides")
        keys = noise_keys(*(settings.get(name, ()) for name in names))
        for param, value, key in zip(params, values, keys, strict=True):
            random = _in_memory_order(value.long(), rounding_words(param.numel(), **key, device=param.device))
            param.copy_(round_stochastically(value, param.dtype, random))

    return run


def _in_memory_order(like: Tensor, flat: Tensor) -> Tensor:
    """``flat`` as a tensor of the shape and strides of ``like``, whose elements are counted in memory order."""
    if like.is_contiguous():
        return flat.view(like.shape)
    result = torch.empty_like(like)
    result.as_strided((like.numel(),), (1,)).copy_(flat)
    return result


def noise_keys(
    seed: int,
    step: int,
    noise_ids: Sequence[int],
    offsets: Sequence[int],
    row_lengths: Sequence[int],
    row_strides: Sequence[int],
) -> list[dict[str, int]]:
    """What :func:`normal` takes for each tensor of a step; rows only where the tensor has some."""
    zeros = [0] * len(offsets)
    keys = []
    for k, offset, length, stride in zip(noise_ids, offsets, row_lengths or zeros, row_strides or zeros, strict=True):
        rows = {"row_length": length, "row_stride": stride} if length else {}
        keys.append({"seed": seed, "step": step, "parameter": k, "offset": offset, **rows})
    return keys


def noise_like(param: Tensor, normal: NormalFunction, key: dict[str, int]) -> Tensor:
    """Noise of the shape and strides of ``param``."""
    return _in_memory_order(param, normal(param.numel(), **key, dtype=param.dtype, device=param.device))


@rounding_16_bit_parameters
def sgld_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    *,
    lr: float,
    num_data: float,
    temperature: float,
    weight_decay: float,
    maximize: bool,
    seed: int,
    step: int,
    noise_ids: Sequence[int],
    offsets: Sequence[int],
    row_lengths: Sequence[int] = (),
    row_strides: Sequence[int] = (),
    normal: NormalFunction = normal,
) -> None:
    """θ ← θ - lr·g + √(2·lr·T/N) ξ with g = ±∇L + weight_decay·θ, tensor by tensor."""
    keys = noise_keys(seed, step, noise_ids, offsets, row_lengths, row_strides)
    for param, grad, key in zip(params, grads, keys, strict=True):
        g = (-grad if maximize else grad) + weight_decay * param
        update = -lr * g
        if temperature > 0:
            update += math.sqrt(2 * lr * temperature / num_data) * noise_like(param, normal, key)
        param += update


def latent_langevin_step_(
    z: Tensor, grad: Tensor, index: Tensor, *, lr: float, temperature: float, seed: int, step: int, offset: int = 0
) -> None:
    """z ← z - lr·∇U + √(2·lr·T) ξ, with row r of ξ that of datum index[r] (paper: Eq. 3)."""
    z += -lr * grad + math.sqrt(2 * lr * temperature) * _latent_noise_like(z, index, seed, step, offset)


def _underdamped_update(
    theta: Tensor, p: Tensor, g: Tensor, lr: float, momentum: float, temperature: float, noise: Callable[[], Tensor]
) -> None:
    """In place: p ← p - h·g, θ ← θ + (h/2)·p, p ← μp + √((1-μ²)·T) ξ, θ ← θ + (h/2)·p with h = √lr; T is T/N.

    With lr = 0 no time goes by, and p stays as it is.
    """
    if lr == 0:
        return
    h = math.sqrt(lr)
    kicked = p - h * g
    p.copy_(momentum * kicked)
    if temperature > 0:
        p += math.sqrt((1 - momentum**2) * temperature) * noise()
    theta += h / 2 * (kicked + p)


@rounding_16_bit_parameters
def sghmc_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momenta: Sequence[Tensor],
    *,
    lr: float,
    num_data: float,
    temperature: float,
    weight_decay: float,
    maximize: bool,
    momentum: float,
    seed: int,
    step: int,
    noise_ids: Sequence[int],
    offsets: Sequence[int],
    row_lengths: Sequence[int] = (),
    row_strides: Sequence[int] = (),
    normal: NormalFunction = normal,
) -> None:
    """Underdamped Langevin dynamics with g = ±∇L + weight_decay·θ (BAOAB), tensor by tensor."""
    keys = noise_keys(seed, step, noise_ids, offsets, row_lengths, row_strides)
    for param, grad, p, key in zip(params, grads, momenta, keys, strict=True):
        g = (-grad if maximize else grad) + weight_decay * param
        noise = functools.partial(noise_like, param, normal, key)
        _underdamped_update(param, p, g, lr, momentum, temperature / num_data, noise)


@rounding_16_bit_parameters
def sgnht_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momenta: Sequence[Tensor],
    excess_frictions: Sequence[Tensor],
    *,
    lr: float,
    num_data: float,
    temperature: float,
    weight_decay: float,
    maximize: bool,
    diffusion: float,
    seed: int,
    step: int,
    noise_ids: Sequence[int],
    offsets: Sequence[int],
    row_lengths: Sequence[int] = (),
    row_strides: Sequence[int] = (),
    normal: NormalFunction = normal,
) -> None:
    """The same with a friction that each element's p² adapts: csrc/math/langevin_update.h, Note [The thermostat]."""
    if lr == 0:
        return
    h, half_thermostat = math.sqrt(lr), diffusion**2 / 8
    keys = noise_keys(seed, step, noise_ids, offsets, row_lengths, row_strides)
    for param, grad, p, x, key in zip(params, grads, momenta, excess_frictions, keys, strict=True):
        kicked = p - h * ((-grad if maximize else grad) + weight_decay * param)
        if temperature > 0:
            x += half_thermostat * (kicked**2 * (num_data / temperature) - 1)
        kept = torch.exp(-x / 2)
        p.copy_(math.exp(-diffusion) * kept**2 * kicked)
        if temperature > 0:
            scale = math.sqrt(-math.expm1(-2 * diffusion) * temperature / num_data)
            p += kept * scale * noise_like(param, normal, key)
            x += half_thermostat * (p**2 * (num_data / temperature) - 1)
        param += h / 2 * (kicked + p)


def latent_underdamped_step_(
    z: Tensor,
    momenta: Tensor,
    grad: Tensor,
    index: Tensor,
    *,
    lr: float,
    momentum: float,
    temperature: float,
    seed: int,
    step: int,
    offset: int = 0,
) -> None:
    """The same of latent variables, with row r of ξ that of datum index[r]."""
    noise = functools.partial(_latent_noise_like, z, index, seed, step, offset)
    _underdamped_update(z, momenta, grad, lr, momentum, temperature, noise)


def _latent_noise_like(z: Tensor, index: Tensor, seed: int, step: int, offset: int) -> Tensor:
    count = math.prod(z.shape[1:])
    return latent_normal(index, count, seed=seed, step=step, offset=offset, dtype=z.dtype).view_as(z)


@rounding_16_bit_parameters
def psgld_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    square_avgs: Sequence[Tensor],
    *,
    lr: float,
    num_data: float,
    temperature: float,
    weight_decay: float,
    maximize: bool,
    alpha: float,
    eps: float,
    freeze_after: int,
    seed: int,
    step: int,
    noise_ids: Sequence[int],
    offsets: Sequence[int],
    row_lengths: Sequence[int] = (),
    row_strides: Sequence[int] = (),
    normal: NormalFunction = normal,
) -> None:
    """v ← αv + (1-α)g², G = 1/(√v + λ), θ ← θ - lr·G·g + √(2·lr·T·G/N) ξ, tensor by tensor."""
    keys = noise_keys(seed, step, noise_ids, offsets, row_lengths, row_strides)
    for param, grad, v, key in zip(params, grads, square_avgs, keys, strict=True):
        g = (-grad if maximize else grad) + weight_decay * param
        if step <= freeze_after:
            v.copy_(alpha * v + (1 - alpha) * g**2)
        preconditioner = 1 / (v.sqrt() + eps)
        update = -lr * preconditioner * g
        if temperature > 0:
            scale = torch.sqrt(2 * lr * temperature / num_data * preconditioner)
            update += scale * noise_like(param, normal, key)
        param += update


def anchored(step_: Callable[..., None]) -> Callable[..., None]:
    """The anchored version of a step."""

    def run(
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        *states_and_anchors: Sequence[Tensor],
        localization: float,
        **settings: Any,
    ) -> None:
        """The step with g + (localization/N)·(θ - anchor) in the place of g; ``anchors`` is the last of its lists."""
        *states, anchors = states_and_anchors
        pull = (-localization if settings["maximize"] else localization) / settings["num_data"]
        lists = zip(params, grads, anchors, strict=True)
        step_(params, [grad + pull * (param - anchor) for param, grad, anchor in lists], *states, **settings)

    return rounding_16_bit_parameters(run)


sgld_anchored_step_ = anchored(sgld_step_)
psgld_anchored_step_ = anchored(psgld_step_)
sghmc_anchored_step_ = anchored(sghmc_step_)
sgnht_anchored_step_ = anchored(sgnht_step_)


def marginal_gaussian_log_prob(x: Tensor, mean: Tensor, shape: float, rate: float) -> Tensor:
    """log p(x) with the precision integrated out over Gamma(shape, rate); rate 0 and shape 1 or 0: flat or Jeffreys.

    With r² = ‖x - mean‖², d the number of values of a datum:
    log p = lgamma(a + d/2) - (d/2) log 2π - (a + d/2) log(b + r²/2) [+ a log b - lgamma(a) if b > 0]
    (paper: Appendix B, Eqs. 19-22).
    """
    difference = (x - mean).flatten(1) if x.dim() > 1 else (x - mean)[:, None]
    dimension = difference.shape[1]
    squared_distance = difference.square().sum(1).clamp_min(SMALLEST_SQUARED_DISTANCE)
    exponent = shape + dimension / 2
    log_gamma = math.lgamma(exponent) if exponent > 0 else math.inf  # of data without values, under Jeffreys' prior
    constant = log_gamma - dimension / 2 * math.log(2 * math.pi)
    if rate > 0:
        constant += shape * math.log(rate) - math.lgamma(shape)
    return constant - exponent * torch.log(rate + squared_distance / 2)


def langevin_dequantize(x: Tensor, h: Tensor, bits: int = 8) -> Tensor:
    """logit((x + σ(h)) / 2^bits) = log(x + σ(h)) - log(2^bits - 1 - x + σ(-h)) (paper: Eq. 25).

    x = 0 with h < 0 and x = 2^bits - 1 with h ≥ 0 are the tails, where the logarithm of σ is taken directly; elsewhere
    h is held where σ comes within the margin of a neighbouring bin, so that :func:`quantize` inverts exactly.
    """
    largest = 2**bits - 1
    pixels = x.to(h.dtype)
    bound = -math.log(DEQUANTIZATION_MARGIN[h.dtype])
    held = h.clamp(-bound, bound)
    interior = torch.log(pixels + torch.sigmoid(held)) - torch.log(largest - pixels + torch.sigmoid(-held))
    lower = F.logsigmoid(h) - torch.log(largest + torch.sigmoid(-h))
    upper = torch.log(largest + torch.sigmoid(h)) - F.logsigmoid(-h)
    return torch.where((x == 0) & (h < 0), lower, torch.where((x == largest) & (h >= 0), upper, interior))


def quantize(y: Tensor, bits: int = 8) -> Tensor:
    """min(⌊2^bits σ(y)⌋, 2^bits - 1) as uint8; NaN gives 0 (paper: Eq. 24)."""
    return (2**bits * torch.sigmoid(y)).nan_to_num(0.0).clamp(0, 2**bits - 1).to(torch.uint8)
