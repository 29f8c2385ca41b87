"""Langevin dequantization with its gradient, and quantization, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from variants import BATCH, Case, Run, Variant, batch_dimensions, check_close

from ald_ext import ops, reference


@dataclass(frozen=True)
class DequantizationInputs:
    """Pixels, their places h in the bins, the gradient that arrives, and the dequantized pixels."""

    x: Tensor
    h: Tensor
    grad: Tensor
    y: Tensor

    @staticmethod
    def make(dimension: int, device: torch.device) -> DequantizationInputs:
        generator = torch.Generator(device).manual_seed(0)
        shape = (BATCH, dimension)
        x = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator, device=device)
        h = torch.randn(shape, generator=generator, device=device)
        grad = torch.randn(shape, generator=generator, device=device)
        return DequantizationInputs(x, h.requires_grad_(), grad, reference.langevin_dequantize(x, h).detach())

    def double(self) -> DequantizationInputs:
        return DequantizationInputs(self.x, self.h.double(), self.grad.double(), self.y.double())


def user_dequantize(x: Tensor, h: Tensor) -> Tensor:
    """The formula as it stands in the paper (Eq. 25), which has unstable tails."""
    return torch.logit((x + torch.sigmoid(h)) / 256)


def dequantized_and_gradient(
    dequantize: Callable[[Tensor, Tensor], Tensor], inputs: DequantizationInputs
) -> tuple[Tensor, ...]:
    y = dequantize(inputs.x, inputs.h)
    return y.detach(), *torch.autograd.grad(y, inputs.h, inputs.grad)


def prepare_dequantization(dequantize: Callable[[Tensor, Tensor], Tensor], inputs: DequantizationInputs) -> Run:
    return partial(dequantized_and_gradient, dequantize, inputs)


def prepare_compiled_dequantization(
    dequantize: Callable[[Tensor, Tensor], Tensor], inputs: DequantizationInputs
) -> Run:
    return prepare_dequantization(torch.compile(dequantize, dynamic=False), inputs)


def expected_dequantization(inputs: DequantizationInputs) -> tuple[Tensor, ...]:
    return dequantized_and_gradient(reference.langevin_dequantize, inputs.double())


# Bytes: forward reads x (1) and h and writes y; backward reads a gradient, x and h and writes a gradient.
DEQUANTIZATION_VARIANTS = tuple(
    Variant(name, 22, prepare, partial(check_close, expected_dequantization))
    for name, prepare in (
        ("plain PyTorch", partial(prepare_dequantization, reference.langevin_dequantize)),
        ("plain PyTorch, unstable tails", partial(prepare_dequantization, user_dequantize)),
        ("torch.compile", partial(prepare_compiled_dequantization, reference.langevin_dequantize)),
        ("torch.compile, unstable tails", partial(prepare_compiled_dequantization, user_dequantize)),
        ("ald_ext op", partial(prepare_dequantization, ops.langevin_dequantize)),
    )
)


def dequantization_cases(device: torch.device, quick: bool) -> list[Case]:
    return pixel_cases("dequantization", DEQUANTIZATION_VARIANTS, device, quick)


def prepare_quantization(quantize: Callable[[Tensor], Tensor], inputs: DequantizationInputs) -> Run:
    return partial(quantize, inputs.y)


def prepare_compiled_quantization(inputs: DequantizationInputs) -> Run:
    return prepare_quantization(torch.compile(reference.quantize, dynamic=False), inputs)


def check_quantization(inputs: DequantizationInputs, run: Run) -> None:
    torch.testing.assert_close(run(), inputs.x, rtol=0, atol=0)


# Bytes: reads y, writes x (1).
QUANTIZATION_VARIANTS = tuple(
    Variant(name, 5, prepare, check_quantization)
    for name, prepare in (
        ("plain PyTorch", partial(prepare_quantization, reference.quantize)),
        ("torch.compile", prepare_compiled_quantization),
        ("ald_ext op", partial(prepare_quantization, ops.quantize)),
    )
)


def quantization_cases(device: torch.device, quick: bool) -> list[Case]:
    return pixel_cases("quantization", QUANTIZATION_VARIANTS, device, quick)


def pixel_cases(family: str, variants: Sequence[Variant], device: torch.device, quick: bool) -> list[Case]:
    return [
        Case(
            family,
            f"{BATCH} x {dimension}",
            BATCH * dimension,
            partial(DequantizationInputs.make, dimension, device),
            variants,
        )
        for dimension in batch_dimensions(quick)
    ]
