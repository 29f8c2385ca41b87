"""Variants of a function of a batch with its gradients: what the likelihood and the dequantization share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from variants import Run, Variant, check_close

BatchFunction = Callable[..., Tensor]

#: What is timed, as a part of (value, *gradients).
BOTH, FORWARD_ALONE, BACKWARD_ALONE = slice(None), slice(1), slice(1, None)


@dataclass(frozen=True)
class BatchInputs:
    """Arguments of the function, which of them get a gradient, and the gradient that arrives."""

    arguments: tuple[Tensor, ...]
    wanted: tuple[int, ...]
    upstream: Tensor

    @staticmethod
    def make(arguments: tuple[Tensor, ...], wanted: tuple[int, ...], upstream: Tensor) -> BatchInputs:
        for index in wanted:
            arguments[index].requires_grad_()
        return BatchInputs(arguments, wanted, upstream)

    def differentiated(self) -> list[Tensor]:
        return [self.arguments[index] for index in self.wanted]

    def double(self) -> BatchInputs:
        arguments = tuple(a.detach().double() if a.is_floating_point() else a for a in self.arguments)
        return BatchInputs.make(arguments, self.wanted, self.upstream.double())


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
    """What the variants compute, and the bytes that each direction must move per element."""

    reference: BatchFunction
    forward_bytes: int
    backward_bytes: int

    def both(
        self, name: str, function: BatchFunction, prepare: Callable[[BatchFunction, Any], Run] = prepare_both
    ) -> Variant:
        return self._variant(name, self.forward_bytes + self.backward_bytes, partial(prepare, function), BOTH)

    def compiled(self, name: str, function: BatchFunction) -> Variant:
        return self.both(name, function, prepare_compiled)

    def forward(self, name: str, function: BatchFunction) -> Variant:
        return self._variant(name, self.forward_bytes, partial(prepare_forward, function), FORWARD_ALONE)

    def backward(self, name: str, function: BatchFunction) -> Variant:
        return self._variant(name, self.backward_bytes, partial(prepare_backward, function), BACKWARD_ALONE)

    def _variant(self, name: str, bytes_per_element: int, prepare: Callable[[Any], Run], part: slice) -> Variant:
        return Variant(name, bytes_per_element, prepare, partial(check_close, partial(self._expected, part)))

    def _expected(self, part: slice, inputs: BatchInputs) -> tuple[Tensor, ...]:
        return value_and_gradients(self.reference, inputs.double())[part]
