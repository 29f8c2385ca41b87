"""The marginalized Gaussian's log density and Langevin dequantization with their gradients, and quantization."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ald_ext import ops, reference

from .. import names
from ..measurement import Run
from .cases import Shape, SpeedCase, Variant, check_close, copy_variant, shape_cases

BATCH = 500

BatchFunction = Callable[..., Tensor]


def batch_shapes(device: torch.device, quick: bool) -> dict[str, Shape]:
    """MNIST, a multiple of every vector length, and 32 x 32 colour images, of which on CUDA a gigabyte too."""
    dimensions = (784,) if quick else (784, 1024, 3072)
    shapes = {f"{BATCH} x {dimension}": (BATCH, dimension) for dimension in dimensions}
    if device.type == "cuda" and not quick:
        shapes[names.GIGABYTE] = names.GIGABYTE_SHAPE
    return shapes


def odd_shapes(quick: bool) -> dict[str, Shape]:
    """Shapes from one long row to a million short ones, and small ones, which show the fixed cost of a call."""
    if quick:
        return {"1 x 64": (1, 64), "1e5 x 10": (10**5, 10)}
    smallest = {"1 x 1": (1, 1), "1 x 64": (1, 64), "1 x 1e6": (1, 10**6), "10 x 1e5": (10, 10**5)}
    return {**smallest, "1e3 x 1e3": (10**3, 10**3), "1e5 x 10": (10**5, 10), "1e6 x 1": (10**6, 1)}


@dataclass(frozen=True)
class BatchInputs:
    """Arguments of the function, which of them get a gradient, and the gradient that arrives."""

    arguments: tuple[Tensor, ...]
    wanted: tuple[int, ...]
    upstream: Tensor

    def __post_init__(self) -> None:
        for tensor in self.differentiated():
            tensor.requires_grad_()

    def differentiated(self) -> list[Tensor]:
        return [self.arguments[place] for place in self.wanted]

    def double(self) -> BatchInputs:
        arguments = tuple(a.detach().double() if a.is_floating_point() else a for a in self.arguments)
        return BatchInputs(arguments, self.wanted, self.upstream.double())


def value_and_gradients(function: BatchFunction, inputs: BatchInputs) -> tuple[Tensor, ...]:
    value = function(*inputs.arguments)
    return value.detach(), *torch.autograd.grad(value, inputs.differentiated(), inputs.upstream)


def prepare_both(function: BatchFunction, inputs: BatchInputs) -> Run:
    return partial(value_and_gradients, function, inputs)


def prepare_compiled(function: BatchFunction, inputs: BatchInputs) -> Run:
    return prepare_both(torch.compile(function, dynamic=False), inputs)


def prepare_forward(function: BatchFunction, inputs: BatchInputs) -> Run:
    """Recorded by autograd, as in training."""
    return lambda: (function(*inputs.arguments).detach(),)


def prepare_backward(function: BatchFunction, inputs: BatchInputs) -> Run:
    value = function(*inputs.arguments)
    return lambda: torch.autograd.grad(value, inputs.differentiated(), inputs.upstream, retain_graph=True)


@dataclass(frozen=True)
class Problem:
    """A function with its gradients, and the bytes that each direction must move per element."""

    reference: BatchFunction
    op: BatchFunction
    forward_bytes: int
    backward_bytes: int

    def both(self, name: str, function: BatchFunction, prepare: Callable[..., Run] = prepare_both) -> Variant:
        over = () if name == names.OURS else (names.OURS,)
        count = self.forward_bytes + self.backward_bytes
        return Variant(name, count, partial(prepare, function), self._check(slice(None)), over)

    def compiled(self, name: str, function: BatchFunction) -> Variant:
        return self.both(name, function, prepare_compiled)

    def ours(self) -> Variant:
        return self.both(names.OURS, self.op)

    def directions(self) -> tuple[Variant, Variant]:
        """Our op forwards and backwards, each alone."""
        forward, backward = (partial(prepare, self.op) for prepare in (prepare_forward, prepare_backward))
        return (
            Variant(names.FORWARD, self.forward_bytes, forward, self._check(slice(1))),
            Variant(names.BACKWARD, self.backward_bytes, backward, self._check(slice(1, None))),
        )

    def _check(self, part: slice) -> Callable[[Any, Run], None]:
        """Compares a part of (value, *gradients)."""
        return partial(check_close, lambda inputs: value_and_gradients(self.reference, inputs.double())[part])


# The likelihood.


def likelihood_inputs(shape: Shape, device: torch.device) -> BatchInputs:
    """A batch, its means, and the weights of the log densities in the loss."""
    generator = torch.Generator(device).manual_seed(0)
    x, mean = (torch.randn(shape, generator=generator, device=device) for _ in range(2))
    weights = torch.randn(shape[0], generator=generator, device=device)
    return BatchInputs((x, mean), (0, 1), weights)


def reference_log_prob(x: Tensor, mean: Tensor) -> Tensor:
    return reference.marginal_gaussian_log_prob(x, mean, *ops.prior_shape_and_rate("flat"))


# Forward reads x and the mean; backward reads them again and writes two gradients.
LOG_PROB = Problem(reference_log_prob, ops.marginal_gaussian_log_prob, forward_bytes=8, backward_bytes=16)
LOG_PROB_VARIANTS = (
    LOG_PROB.both(names.PLAIN, reference_log_prob),
    LOG_PROB.compiled(names.COMPILED, reference_log_prob),
    LOG_PROB.ours(),
)
COPY_X = copy_variant(lambda inputs: [inputs.arguments[0].detach()])


def likelihood_cases(device: torch.device, quick: bool) -> list[SpeedCase]:
    variants = (*LOG_PROB_VARIANTS, *LOG_PROB.directions(), COPY_X)
    return shape_cases(names.LIKELIHOOD, batch_shapes(device, quick), device, likelihood_inputs, variants)


def likelihood_shape_cases(device: torch.device, quick: bool) -> list[SpeedCase]:
    return shape_cases(f"{names.LIKELIHOOD}, shapes", odd_shapes(quick), device, likelihood_inputs, LOG_PROB_VARIANTS)


# Dequantization.


def dequantization_inputs(shape: Shape, device: torch.device) -> BatchInputs:
    """Pixels, their places h in the bins, and the gradient that arrives."""
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator, device=device)
    h, upstream = (torch.randn(shape, generator=generator, device=device) for _ in range(2))
    return BatchInputs((x, h), (1,), upstream)


def two_logs(x: Tensor, h: Tensor) -> Tensor:
    """What a careful user would write: right but for h beyond ±87, where the sigmoid vanishes in float32."""
    return torch.log(x + torch.sigmoid(h)) - torch.log(255 - x + torch.sigmoid(-h))


def unstable_tails(x: Tensor, h: Tensor) -> Tensor:
    """The formula as it stands in the paper (Eq. 25), which has unstable tails."""
    return torch.logit((x + torch.sigmoid(h)) / 256)


# Forward reads x (1 byte) and h and writes y; backward reads a gradient, x and h and writes a gradient.
DEQUANTIZE = Problem(reference.langevin_dequantize, ops.langevin_dequantize, forward_bytes=9, backward_bytes=13)
FORMULAS = {"": reference.langevin_dequantize, names.TWO_LOGS: two_logs, names.UNSTABLE_TAILS: unstable_tails}


def dequantization_cases(device: torch.device, quick: bool) -> list[SpeedCase]:
    variants = (
        *(DEQUANTIZE.both(names.PLAIN + suffix, formula) for suffix, formula in FORMULAS.items()),
        *(DEQUANTIZE.compiled(names.COMPILED + suffix, formula) for suffix, formula in FORMULAS.items()),
        DEQUANTIZE.ours(),
        *DEQUANTIZE.directions(),
        copy_variant(lambda inputs: [inputs.arguments[1].detach()]),
    )
    return shape_cases(names.DEQUANTIZATION, batch_shapes(device, quick), device, dequantization_inputs, variants)


def dequantization_shape_cases(device: torch.device, quick: bool) -> list[SpeedCase]:
    plain, compiled = (
        DEQUANTIZE.both(names.PLAIN + names.TWO_LOGS, two_logs),
        DEQUANTIZE.compiled(names.COMPILED + names.TWO_LOGS, two_logs),
    )
    variants = (plain, compiled, DEQUANTIZE.ours())
    return shape_cases(f"{names.DEQUANTIZATION}, shapes", odd_shapes(quick), device, dequantization_inputs, variants)


# Quantization.


def quantization_inputs(shape: Shape, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixels and their dequantized values."""
    x, h = dequantization_inputs(shape, device).arguments
    return x, ops.langevin_dequantize(x, h).detach()


def quantization_variant(name: str, function: Callable[[Tensor], Tensor], compiled: bool = False) -> Variant:
    def prepare(inputs: tuple[Tensor, Tensor]) -> Run:
        return partial(torch.compile(function, dynamic=False) if compiled else function, inputs[1])

    def check(inputs: tuple[Tensor, Tensor], run: Run) -> None:
        torch.testing.assert_close(run(), inputs[0], rtol=0, atol=0)

    # Reads y, writes x (1 byte).
    return Variant(name, 5, prepare, check, () if name == names.OURS else (names.OURS,))


def quantization_cases(device: torch.device, quick: bool) -> list[SpeedCase]:
    variants = (
        quantization_variant(names.PLAIN, reference.quantize),
        quantization_variant(names.COMPILED, reference.quantize, compiled=True),
        quantization_variant(names.OURS, ops.quantize),
        copy_variant(lambda inputs: [inputs[1]]),
    )
    return shape_cases(names.QUANTIZATION, batch_shapes(device, quick), device, quantization_inputs, variants)
