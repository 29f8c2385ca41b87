"""Potentials that are captured as one graph of kernels, which small problems are fast with.

Note [Captured potentials]
    Where a gradient takes a tenth of a millisecond, most of its time is Python's, autograd's and vmap's. So value and
    gradient are traced once for each shape, by ``make_fx``, and run as the plain list of kernels that they are; with
    ``compile=True`` ``torch.compile`` fuses these, and makes what follows the noise in a step of MALA and HMC one
    function, after blocks of leapfrog steps. Where many steps of short trajectories are made, several are one function.
    What is no tensor is a constant of the graph: numbers, and the way that Python's branches took. Tensors that the
    potential refers to are referred to, so that they may be changed in place. A potential that looks at its values
    cannot be traced, which is an error.

    Where the gradient alone is asked for, as in all but the last leapfrog step of HMC, the list lacks what only the
    value needs. Views of tensors that the potential refers to, but not of a module's parameters, whose data may be
    replaced, and what follows from autograd's first gradient, a one, are made while it is traced. PyTorch's log σ,
    whose log1p is most of the time of a logistic regression, becomes
    log σ(x) = min(x, 0) + log σ(|x|), which is exact to a rounding of 1, with the gradient σ(-x).
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.fx import GraphModule
from torch.fx.node import map_arg
from torch.nn import Parameter

from .potential import Potential, one_value_a_datum

#: Leapfrog steps that are compiled as one function, besides a single one.
BLOCK = 8


def log_sigmoid(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return log σ(x), to a rounding of 1, and no buffer."""
    return x.clamp_max(0) + x.abs().sigmoid().log(), x.new_empty(0)


#: The kernels of log σ and its gradient by others.
LOG_SIGMOID: dict[Any, Any] = {
    torch.ops.aten.log_sigmoid_forward.default: log_sigmoid,
    torch.ops.aten.log_sigmoid_backward.default: lambda gradient, x, _buffer: gradient * (-x).sigmoid(),
}


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
        self._graphs: dict[Any, list[Any]] = {}
        self._functions: dict[Any, Any] = {}

    def __call__(self, x: Any, z: Tensor) -> Tensor:
        """Return U(x, z), (batch,), as the potential itself does."""
        return self.potential(x, z)

    def value_and_gradient(self, x: Tensor | None, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return U(x, z), (batch,), and ∇_z U(x, z), (batch, d)."""
        return self._graphs_of(x, z)[0](x, z)

    def gradient(self, x: Tensor | None, z: Tensor) -> Tensor:
        """Return ∇_z U(x, z), (batch, d)."""
        return self._graphs_of(x, z)[1](x, z)

    def run_compiled(self, sampler: Any, method: str, length: int, *inputs: Any) -> tuple[Tensor, ...]:
        """Return ``sampler.method(length, *tensors)``, by a function that is compiled once for inputs of a kind.

        Args:
            sampler: whose potential this is.
            method: name of the method, of tensor operations, that depends on the sampler's class and temperature.
            length: a number.
            inputs: the sampler's data, None or (batch, ...), its mass factor, None or a tensor, and the tensors, of
                which the first two, a step size and states, tell the shapes of others.
        """
        kinds = [each if each is None else (each.shape, each.dtype, each.device) for each in inputs[:4]]
        key = (type(sampler), method, length, sampler.temperature, len(inputs), *kinds)
        compiled = self._functions.get(key)
        if compiled is None:
            from torch.fx.experimental.proxy_tensor import make_fx

            twin, states = copy.copy(sampler), inputs[3]
            twin.potential = CapturedPotential(self.potential)
            twin.potential._graphs_of(inputs[0], states.view(-1, states.shape[-1]))

            def function(x: Any, factor: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
                twin._rows_of_x, twin._mass_factor = x, factor
                return getattr(twin, method)(length, *tensors)

            compiled = self._functions[key] = torch.compile(make_fx(function)(*inputs).forward, dynamic=False)
        return compiled(*inputs)

    def _modules_of(self, x: Tensor | None, z: Tensor) -> tuple[GraphModule, GraphModule]:
        """Return the graphs of value and gradient, and of the gradient."""
        both = self._traced(x, z.detach())
        gradient = GraphModule(both, copy.deepcopy(both.graph))
        (output,) = gradient.graph.find_nodes(op="output")
        output.args = (output.args[0][1],)
        for module in (both, gradient):
            module.graph.eliminate_dead_code()
            module.recompile()
        return both, gradient

    def _graphs_of(self, x: Tensor | None, z: Tensor) -> list[Any]:
        """Return the functions of x and z that compute value and gradient, and the gradient."""
        key = (z.shape, z.dtype, z.device) + (() if x is None else (x.shape, x.dtype, x.device))
        graphs = self._graphs.get(key)
        if graphs is None:
            modules = self._modules_of(x, z)
            graphs = [torch.compile(module) if self.compile else module.forward for module in modules]
            self._graphs[key] = graphs
        return graphs

    def _traced(self, x: Tensor | None, z: Tensor) -> GraphModule:
        from torch.fx.experimental.proxy_tensor import make_fx

        def value(x: Tensor | None, z: Tensor) -> Tensor:
            return one_value_a_datum("CapturedPotential", "potential", self.potential(x, z), z)

        def value_and_gradient(x: Tensor | None, z: Tensor) -> tuple[Tensor, Tensor]:
            values, pull_back = torch.func.vjp(lambda z: value(x, z), z)[:2]
            return values, pull_back(first)[0]

        validate, first = Distribution._validate_args, z.new_ones(len(z))
        Distribution.set_default_validate_args(False)
        try:
            value(x, z)  # errors of the potential itself come as they are
            module = make_fx(value_and_gradient, decomposition_table=LOG_SIGMOID)(x, z)
        except RuntimeError as error:
            if "trac" not in str(error):
                raise
            reason = " ".join(str(error).split())[:200]
            expected = "tensor operations without branches on values"
            argument = "ald_ext.samplers.CapturedPotential: potential"
            raise ValueError(f"{argument}: got one that cannot be traced ({reason}), expected {expected}") from error
        finally:
            Distribution.set_default_validate_args(validate)
        fold_constants(module, first)
        return module


def fold_constants(module: GraphModule, first: Tensor) -> None:
    """Make what is a function of ``first``, or a view of a tensor that the module refers to, an attribute of it.

    A graph that writes to tensors stays as it is, and what it returns is made anew.
    """
    if any(getattr(node.target, "_schema", None) and node.target._schema.is_mutable for node in module.graph.nodes):
        return
    constants = {id(first)}
    for number, node in enumerate(module.graph.nodes):
        nodes = node.all_input_nodes
        returned = any(user.op == "output" for user in node.users)
        if node.op != "call_function" or returned or not nodes or any(each.op != "get_attr" for each in nodes):
            continue
        inputs = {each: getattr(module, each.target) for each in nodes}
        if any(isinstance(tensor, Parameter) for tensor in inputs.values()):
            continue
        args, kwargs = map_arg((node.args, node.kwargs), inputs.__getitem__)
        result = node.target(*args, **kwargs)
        constant = all(id(tensor) in constants for tensor in inputs.values())
        if not isinstance(result, Tensor) or not (constant or any(map(partial(same_memory, result), inputs.values()))):
            continue
        if constant:
            constants.add(id(result))
        module.register_buffer(name := f"_folded{number}", result)
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(module.graph.get_attr(name))


def same_memory(first: Tensor, second: Tensor) -> bool:
    return first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr() != 0
