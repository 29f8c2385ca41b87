"""Several chains of a network in one process, whose gradients are computed at once where the network allows it.

Note [Stacked chains]
    Each chain is a module with an optimizer of its own, and does what it would do alone. The tensors of all modules
    are views of stacks (chains, …), so that one vectorized pass forward and backward (torch.func.vmap) gives the
    gradients of all chains, each for its own minibatch. A module that vmap does not take, and minibatches of different
    sizes, go through the modules one after another. On the CPU that is also as fast or faster for fewer than eight
    chains, or networks with more than some thousands of parameters, so that there it is what is done by default.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.optim import Optimizer

from ..optim.seeds import chain_seed
from ..settings import require, shortened
from .batches import generator_states, restore_generators

#: Where vmap is faster on the CPU: chains at least, and parameters of each at most.
MANY_CHAINS, SMALL_NETWORK = 8, 10_000

#: Mean loss of outputs and targets.
Loss = Callable[[Any, Any], Tensor]
#: The optimizer of a module for a chain.
MakeOptimizer = Callable[[nn.Module, int], Optimizer]


def trainable(module: nn.Module, owner: str) -> list[nn.Parameter]:
    """Return the parameters that require a gradient. ValueError for no module, or one that has none."""
    require(isinstance(module, nn.Module), f"{owner}: module", shortened(module), "a torch.nn.Module")
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    require(parameters, f"{owner}: module", "no parameter that requires a gradient", "at least one")
    return parameters


def batch_loss(module: Callable[..., Any], loss: Loss, batch: Sequence[Any]) -> Tensor:
    """Return the loss of a minibatch (inputs …, targets). ValueError unless it is one number."""
    if not callable(loss):
        raise ValueError(f"ald_ext.bayes: loss: got {shortened(loss)}, expected a function of outputs and targets")
    if not isinstance(batch, (list, tuple)) or len(batch) < 2:
        expected = "a tuple (inputs …, targets), which collate_fn of a DataLoader can make"
        raise ValueError(f"ald_ext.bayes: loader: minibatch: got {shortened(batch)}, expected {expected}")
    *inputs, targets = batch
    value = loss(module(*inputs), targets)
    if not isinstance(value, Tensor) or value.dim() > 0:
        expected = "one number, the mean over the minibatch"
        raise ValueError(f"ald_ext.bayes: loss: got {shortened(value)}, expected {expected}")
    return value


def backward(loss: Tensor) -> None:
    """Write the gradients of a loss to the parameters. ValueError for one that has none."""
    require(loss.requires_grad, "ald_ext.bayes: loss", "one without gradient", "one that is not detached")
    loss.backward()  # type: ignore[no-untyped-call]


def reset_parameters(module: nn.Module) -> None:
    """Draw all parameters anew, where a submodule has ``reset_parameters``, as torch's layers have."""
    for part in module.modules():
        if callable(reset := getattr(part, "reset_parameters", None)):
            reset()


def separate_modules(
    module: nn.Module, chains: range, initialize: Callable[[nn.Module], Any] | None
) -> list[nn.Module]:
    """Return copies of a module, of which all but chain 0 are initialized anew, each with a seed of its own."""
    modules = [copy.deepcopy(module) for _ in chains]
    for chain, member in zip(chains, modules, strict=True):
        if chain > 0:
            with torch.random.fork_rng():
                torch.manual_seed(chain_seed(torch.initial_seed() % 2**63, chain))
                (initialize or reset_parameters)(member)
    return modules


class NetworkChains:
    """Chains of one network.

    Args:
        modules: a module for each chain; more than one are of one architecture and have no tensors in common.
        loss: mean loss of a module's outputs and targets.
        vectorized: whether to try vmap for several chains; None stands for where it is faster.
    """

    def __init__(self, modules: list[nn.Module], loss: Loss, *, vectorized: bool | None) -> None:
        self.modules, self.loss = modules, loss
        if vectorized is None:
            parameters = list(modules[0].parameters())
            is_small = sum(parameter.numel() for parameter in parameters) <= SMALL_NETWORK
            vectorized = parameters[0].device.type != "cpu" or (is_small and len(modules) >= MANY_CHAINS)
        self.vectorized, self._is_tried = vectorized and len(modules) > 1, False
        self._stacks: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        if self.vectorized:
            self._stacks = (self._stacked("named_parameters"), self._stacked("named_buffers"))

    def _stacked(self, kind: str) -> dict[str, Tensor]:
        """Move the parameters or buffers of all modules into stacks, of which they become views."""
        stacks = {}
        for rows in zip(*(getattr(module, kind)() for module in self.modules), strict=True):
            name, tensors = rows[0][0], [tensor for _, tensor in rows]
            stack = torch.stack([tensor.detach() for tensor in tensors])
            for tensor, row in zip(tensors, stack, strict=True):
                tensor.data = row
            stacks[name] = stack.requires_grad_(tensors[0].requires_grad)
        return stacks

    def gradients(self, batches: list[Any]) -> list[Tensor]:
        """Write the gradients of each module's loss of its minibatch to its parameters, and return the losses."""
        if self.vectorized and (losses := self._vectorized_gradients(batches)) is not None:
            return list(losses)
        losses_of_chains = []
        for module, batch in zip(self.modules, batches, strict=True):
            module.zero_grad()
            loss = batch_loss(module, self.loss, batch)
            backward(loss)
            losses_of_chains.append(loss.detach())
        return losses_of_chains

    def _vectorized_gradients(self, batches: list[Any]) -> Tensor | None:
        """Return the losses of all chains at once; None if the minibatches are of different sizes, or vmap fails."""
        if not all(isinstance(batch, (list, tuple)) for batch in batches):
            return None
        columns = list(zip(*batches, strict=True))
        is_tensor = all(isinstance(part, Tensor) for column in columns for part in column)
        if not is_tensor or any(part.shape != column[0].shape for column in columns for part in column):
            return None
        parameters, buffers = self._stacks
        for stack in parameters.values():
            stack.grad = None
        states, saved = ({}, {}) if self._is_tried else (generator_states(None), copy.deepcopy(buffers))
        try:
            losses = vmap(self._loss_of, randomness="different")(parameters, buffers, *map(torch.stack, columns))
            losses.sum().backward()
        except (RuntimeError, ValueError) as error:
            self.vectorized = False
            if not self._is_tried:  # as if nothing had been drawn and no statistics been taken
                restore_generators(None, states)
                for name, buffer in buffers.items():
                    buffer.copy_(saved[name])
            warnings.warn(
                f"ald_ext.bayes: chains go one after another, as torch.func.vmap does not take the network: "
                f"{shortened(str(error), 120)}",
                stacklevel=6,  # the line that calls collect_parameters
            )
            return None
        self._is_tried = True
        for number, module in enumerate(self.modules):
            for name, parameter in module.named_parameters():
                grad = parameters[name].grad
                parameter.grad = None if grad is None else grad[number]
        return losses.detach()

    def _loss_of(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], *batch: Tensor) -> Tensor:
        return batch_loss(
            lambda *inputs: functional_call(self.modules[0], (parameters, buffers), inputs), self.loss, batch
        )
