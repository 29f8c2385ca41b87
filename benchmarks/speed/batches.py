"""The marginalized Gaussian's log density and Langevin dequantization with their gradients, and quantization."""

from collections.abc import Callable, Mapping, Sequence
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
#: Arguments of the function, of which some want a gradient, and the gradient that arrives.
Inputs = Sequence[Tensor]


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


def value_and_gradients(function: BatchFunction, inputs: Inputs) -> Sequence[Tensor]:
    *arguments, upstream = inputs
    value = function(*arguments)
    return value.detach(), *torch.autograd.grad(value, [a for a in arguments if a.requires_grad], upstream)


def prepare_both(function: BatchFunction, inputs: Inputs) -> Run:
    return partial(value_and_gradients, function, inputs)


def prepare_compiled(function: BatchFunction, inputs: Inputs) -> Run:
    return prepare_both(torch.compile(function, dynamic=False), inputs)


def prepare_forward(function: BatchFunction, inputs: Inputs) -> Run:
    """Recorded by autograd, as in training."""
    return lambda: (function(*inputs[:-1]).detach(),)


def prepare_backward(function: BatchFunction, inputs: Inputs) -> Run:
    *arguments, upstream = inputs
    value, wanted = function(*arguments), [a for a in arguments if a.requires_grad]
    return lambda: torch.autograd.grad(value, wanted, upstream, retain_graph=True)


@dataclass(frozen=True)
class Problem:
    """A function with its gradients, and the bytes that each direction must move per element."""

    reference: BatchFunction
    op: BatchFunction
    forward_bytes: int
    backward_bytes: int

    def variants(self, formulas: Mapping[str, BatchFunction]) -> list[Variant]:
        """Formulas in plain PyTorch, by the ends of their names, then compiled, and our op."""
        count, check = self.forward_bytes + self.backward_bytes, self.check(slice(None))
        theirs = [(names.PLAIN + end, prepare_both, formula) for end, formula in formulas.items()]
        theirs += [(names.COMPILED + end, prepare_compiled, formula) for end, formula in formulas.items()]
        variants = [Variant(name, count, partial(prepare, way), check, (names.OURS,)) for name, prepare, way in theirs]
        return [*variants, Variant(names.OURS, count, partial(prepare_both, self.op), check)]

    def directions(self) -> list[Variant]:
        """Our op forwards and backwards, each alone."""
        forward, backward = (partial(prepare, self.op) for prepare in (prepare_forward, prepare_backward))
        return [
            Variant(names.FORWARD, self.forward_bytes, forward, self.check(slice(1))),
            Variant(names.BACKWARD, self.backward_bytes, backward, self.check(slice(1, None))),
        ]

    def check(self, part: slice) -> Callable[[Any, Run], None]:
        """Compares a part of (value, *gradients)."""
        return partial(check_close, lambda inputs: value_and_gradients(self.reference, doubled(inputs))[part])


def doubled(inputs: Inputs) -> list[Tensor]:
    """The same in float64, but for pixels."""
    return [x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x for x in inputs]


# The likelihood.


def likelihood_inputs(shape: Shape, device: torch.device) -> Inputs:
    """A batch, its means, and the weights of the log densities in the loss."""
    generator = torch.Generator(device).manual_seed(0)
    x, mean = (torch.randn(shape, generator=generator, device=device).requires_grad_() for _ in range(2))
    return x, mean, torch.randn(shape[0], generator=generator, device=device)


def reference_log_prob(x: Tensor, mean: Tensor) -> Tensor:
    return reference.marginal_gaussian_log_prob(x, mean, *ops.prior_shape_and_rate("flat"))


# Forward reads x and the mean; backward reads them again and writes two gradients.
LOG_PROB = Problem(reference_log_prob, ops.marginal_gaussian_log_prob, forward_bytes=8, backward_bytes=16)


def likelihood_cases(device: torch.device, quick: bool) -> list[SpeedCase]:
    copied = copy_variant(lambda inputs: [inputs[0].detach()])
    variants = [*LOG_PROB.variants({"": reference_log_prob}), *LOG_PROB.directions(), copied]
    return shape_cases(names.LIKELIHOOD, batch_shapes(device, quick), device, likelihood_inputs, variants)


def likelihood_shape_cases(device: torch.device, quick: bool) -> list[SpeedCase]:
    variants = LOG_PROB.variants({"": reference_log_prob})
    return shape_cases(f"{names.LIKELIHOOD}, shapes", odd_shapes(quick), device, likelihood_inputs, variants)


# Dequantization.


def dequantization_inputs(shape: Shape, device: torch.device) -> Inputs:
    """Pixels, their places h in the bins, and the gradient that arrives."""
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator, device=device)
    h, upstream = (torch.randn(shape, generator=generator, device=device) for _ in range(2))
    return x, h.requires_grad_(), upstream


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
    copied = copy_variant(lambda inputs: [inputs[1].detach()])
    variants = [*DEQUANTIZE.variants(FORMULAS), *DEQUANTIZE.directions(), copied]
    return shape_cases(names.DEQUANTIZATION, batch_shapes(device, quick), device, dequantization_inputs, variants)


def dequantization_shape_cases(device: torch.device, quick: bool) -> list[SpeedCase]:
    variants = DEQUANTIZE.variants({names.TWO_LOGS: two_logs})
    return shape_cases(f"{names.DEQUANTIZATION}, shapes", odd_shapes(quick), device, dequantization_inputs, variants)


# Quantization.


def quantization_inputs(shape: Shape, device: torch.device) -> Inputs:
    """Pixels and their dequantized values."""
    x, h, _ = dequantization_inputs(shape, device)
    return x, ops.langevin_dequantize(x, h).detach()


def quantization_cases(device: torch.device, quick: bool) -> list[SpeedCase]:
    def check(inputs: Inputs, run: Run) -> None:
        torch.testing.assert_close(run(), inputs[0], rtol=0, atol=0)

    def compiled(inputs: Inputs) -> Run:
        return partial(torch.compile(reference.quantize, dynamic=False), inputs[1])

    # Reads y, writes x (1 byte).
    variants = (
        Variant(names.PLAIN, 5, lambda inputs: partial(reference.quantize, inputs[1]), check, (names.OURS,)),
        Variant(names.COMPILED, 5, compiled, check, (names.OURS,)),
        Variant(names.OURS, 5, lambda inputs: partial(ops.quantize, inputs[1]), check),
        copy_variant(lambda inputs: [inputs[1]]),
    )
    return shape_cases(names.QUANTIZATION, batch_shapes(device, quick), device, quantization_inputs, variants)
