"""Langevin dequantization with its gradient, and quantization, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from differentiable import BatchInputs, Problem
from names import BACKWARD, FORWARD, OURS
from torch import Tensor
from variants import Case, Run, Shape, Variant, batch_shapes, copy_variant, odd_shapes, shape_cases

from ald_ext import ops, reference


def make_inputs(shape: Shape, device: torch.device) -> BatchInputs:
    """Pixels, their places h in the bins, and the gradient that arrives."""
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator, device=device)
    h, upstream = (torch.randn(shape, generator=generator, device=device) for _ in range(2))
    return BatchInputs.make((x, h), (1,), upstream)


def two_logs(x: Tensor, h: Tensor) -> Tensor:
    """As a careful user would write it: right but for h beyond ±87, where the sigmoid vanishes in float32."""
    return torch.log(x + torch.sigmoid(h)) - torch.log(255 - x + torch.sigmoid(-h))


def unstable_tails(x: Tensor, h: Tensor) -> Tensor:
    """The formula as it stands in the paper (Eq. 25), which has unstable tails."""
    return torch.logit((x + torch.sigmoid(h)) / 256)


# Bytes: forward reads x (1) and h and writes y; backward reads a gradient, x and h and writes a gradient.
PROBLEM = Problem(reference.langevin_dequantize, forward_bytes=9, backward_bytes=13)

PLAIN_TWO_LOGS = PROBLEM.both("plain PyTorch, two logs", two_logs)
COMPILED_TWO_LOGS = PROBLEM.compiled("torch.compile, two logs", two_logs)
OPS = PROBLEM.both(OURS, ops.langevin_dequantize)

VARIANTS = (
    PROBLEM.both("plain PyTorch", reference.langevin_dequantize),
    PLAIN_TWO_LOGS,
    PROBLEM.both("plain PyTorch, unstable tails", unstable_tails),
    PROBLEM.compiled("torch.compile", reference.langevin_dequantize),
    COMPILED_TWO_LOGS,
    PROBLEM.compiled("torch.compile, unstable tails", unstable_tails),
    OPS,
    PROBLEM.forward(FORWARD, ops.langevin_dequantize),
    PROBLEM.backward(BACKWARD, ops.langevin_dequantize),
    copy_variant(lambda inputs: [inputs.arguments[1].detach()]),
)


def dequantization_cases(device: torch.device, quick: bool) -> list[Case]:
    return shape_cases("dequantization", batch_shapes(device, quick), device, make_inputs, VARIANTS)


def dequantization_shape_cases(device: torch.device, quick: bool) -> list[Case]:
    variants = (PLAIN_TWO_LOGS, COMPILED_TWO_LOGS, OPS)
    return shape_cases("dequantization, shapes", odd_shapes(quick), device, make_inputs, variants)


@dataclass(frozen=True)
class QuantizationInputs:
    """Pixels and their dequantized values."""

    x: Tensor
    y: Tensor

    @staticmethod
    def make(shape: Shape, device: torch.device) -> QuantizationInputs:
        x, h = make_inputs(shape, device).arguments
        return QuantizationInputs(x, ops.langevin_dequantize(x, h).detach())


def prepare_quantization(quantize: Callable[[Tensor], Tensor], inputs: QuantizationInputs) -> Run:
    return partial(quantize, inputs.y)


def prepare_compiled_quantization(inputs: QuantizationInputs) -> Run:
    return prepare_quantization(torch.compile(reference.quantize, dynamic=False), inputs)


def check_quantization(inputs: QuantizationInputs, run: Run) -> None:
    torch.testing.assert_close(run(), inputs.x, rtol=0, atol=0)


# Bytes: reads y, writes x (1).
QUANTIZATION_VARIANTS = (
    *(
        Variant(name, 5, prepare, check_quantization)
        for name, prepare in (
            ("plain PyTorch", partial(prepare_quantization, reference.quantize)),
            ("torch.compile", prepare_compiled_quantization),
            (OURS, partial(prepare_quantization, ops.quantize)),
        )
    ),
    copy_variant(lambda inputs: [inputs.y]),
)


def quantization_cases(device: torch.device, quick: bool) -> list[Case]:
    shapes = batch_shapes(device, quick)
    return shape_cases("quantization", shapes, device, QuantizationInputs.make, QUANTIZATION_VARIANTS)
