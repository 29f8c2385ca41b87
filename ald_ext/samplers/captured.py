"""Potentials that are captured as one graph of kernels, which small problems are fast with.

Note [Captured potentials]
    Where a gradient takes a tenth of a millisecond, most of its time is Python's, autograd's and vmap's. So value and
    gradient are traced once for each shape, by ``make_fx``, and run as the plain list of kernels that they are; with
    ``compile=True`` ``torch.compile`` fuses these. What is no tensor is a constant of the graph: numbers, and the way
    that Python's branches took. Tensors that the potential refers to are referred to, so that they may be changed in
    place. A potential that looks at its values cannot be traced, which is an error.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .potential import Potential, ValueAndGradient, one_value_a_datum


class CapturedPotential:
    """A potential whose value and gradient run as one graph of kernels: Note [Captured potentials].

        sampler = HMC(CapturedPotential(potential), x, z, ...)

    Args:
        potential: U(x, z) → (batch,), of tensor operations only. Distributions do not validate their arguments in it.
        compile: whether ``torch.compile`` makes the graph faster, which takes a C++ compiler, and seconds at first.

    Raises:
        ValueError: in a call, if the potential cannot be traced.
        RuntimeError: in a call, if its shape is not (batch,).
    """

    def __init__(self, potential: Potential, *, compile: bool = False) -> None:
        self.potential, self.compile = potential, compile
        self._graphs: dict[Any, ValueAndGradient] = {}

    def __call__(self, x: Any, z: Tensor) -> Tensor:
        """Return U(x, z), (batch,), as the potential itself does."""
        return self.potential(x, z)

    def value_and_gradient(self, x: Tensor | None, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return U(x, z), (batch,), and ∇_z U(x, z), (batch, d)."""
        key = (z.shape, z.dtype, z.device) + (() if x is None else (x.shape, x.dtype, x.device))
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._graphs[key] = self._traced(x, z.detach())
        return graph(x, z)

    def _traced(self, x: Tensor | None, z: Tensor) -> ValueAndGradient:
        from torch.fx.experimental.proxy_tensor import make_fx

        def total(x: Tensor | None, z: Tensor) -> tuple[Tensor, Tensor]:
            value = one_value_a_datum("CapturedPotential", "potential", self.potential(x, z), z)
            return value.sum(), value

        def value_and_gradient(x: Tensor | None, z: Tensor) -> tuple[Tensor, Tensor]:
            gradient, value = torch.func.grad(total, argnums=1, has_aux=True)(x, z)
            return value, gradient

        validate = Distribution._validate_args
        Distribution.set_default_validate_args(False)
        try:
            total(x, z)  # errors of the potential itself come as they are
            graph = make_fx(value_and_gradient)(x, z)
        except RuntimeError as error:
            if "trac" not in str(error):
                raise
            reason = " ".join(str(error).split())[:200]
            expected = "tensor operations without branches on values"
            argument = "ald_ext.samplers.CapturedPotential: potential"
            raise ValueError(f"{argument}: got one that cannot be traced ({reason}), expected {expected}") from error
        finally:
            Distribution.set_default_validate_args(validate)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return torch.compile(graph) if self.compile else graph.forward
