"""One step of training: loss, gradients, update; compiled where that pays, and on a GPU as one captured graph."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..models import LatentVariableModel
from ..tensor_files import first_line
from .config import TrainingConfig
from .divergence import DivergenceWatch
from .evaluation import random_state_kept
from .ranks import Ranks

#: Number of eager steps before the capture, which create optimizer states and workspaces of libraries.
WARM_UP_STEPS = 3

#: The number of steps from which on a loss is compiled where nothing is said, by network. Compiling takes 10 to 40 s on
#: two cores, and saves 1.4 of 10.2 ms of a convolutional LAE's step of 50 images, but of an MLP's no measurable time.
STEPS_THAT_PAY = {"conv": 50_000, "mlp": math.inf}

#: Draws are those of eager steps. Dynamo's guards are left out, as a compiled loss has code of its own and one caller,
#: which calls it with minibatches of one size in one mode; with them each number of threads would be compiled for anew.
COMPILE_OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {
    "fallback_random": True,
    "cpp.dynamic_threads": True,
    "guard_filter_fn": lambda guards: [False] * len(guards),
}


def why_not_captured(model: LatentVariableModel, config: TrainingConfig, num_ranks: int = 1) -> str | None:
    """Return why steps are not captured as a CUDA graph; None if they are. ValueError if ``capture`` asks in vain."""
    reason = "not asked for" if config.capture is False else model.why_not_captured
    if num_ranks > 1:
        reason = "several processes train it"
    if torch.device(config.device).type != "cuda":
        reason = "the device is no GPU"
    if config.capture and reason is not None:
        raise ValueError(f"TrainingConfig: capture: got True for model {config.model!r}, expected False: {reason}")
    return reason


def why_not_compiled(
    model: LatentVariableModel, config: TrainingConfig, num_steps: int, num_ranks: int = 1, begun: bool | None = None
) -> str | None:
    """Return why the loss is not compiled; None if it is. ValueError if ``compile`` asks in vain.

    Args:
        model: the run's model.
        config: the run's settings.
        num_steps: steps of the whole run.
        num_ranks: number of processes that train it.
        begun: whether a run that is resumed was begun with a compiled loss, which goes on unless ``compile`` is set.
    """
    asked = begun if config.compile is None else config.compile
    pays = torch.device(config.device).type == "cpu" and num_steps >= STEPS_THAT_PAY[config.network.network]
    reason = None if asked or (asked is None and pays) else "not asked for"
    if asked is None and not pays:
        reason = f"{num_steps} steps are too few to pay for it, or were not measured on this device"
    if num_ranks > 1:
        reason = "several processes train it"
    reason = model.why_not_captured or reason
    if config.compile and reason is not None:
        raise ValueError(f"TrainingConfig: compile: got True for model {config.model!r}, expected False: {reason}")
    return reason


class TrainingStep:
    """A function that updates the parameters with a minibatch and returns the loss before the update.

    Note [Captured steps]
        Capturing records the kernels of a step, and a replay launches them all at once: counters, lr and noise keys
        live on the device, and the minibatch is copied to where the graph reads it. The first steps, and a short last
        minibatch, run eagerly and make the same update.

    Note [Compiled steps]
        torch.compile takes the loss with its gradients, in which this package's ops stay what they are; the optimizer
        is one call of an op already. What is compiled can be captured, too. The draws are those of eager steps and the
        values are the same up to rounding, so a run is bit for bit itself only as long as it stays compiled, or not. A
        short last minibatch runs eagerly.

    Args:
        model: the run's model.
        optimizer: the run's optimizer, which must be capturable if ``captured``.
        config: the run's settings.
        captured: whether to capture the step.
        compiled: whether to compile the loss.
        ranks: the processes that make it together.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        optimizer: torch.optim.Optimizer,
        config: TrainingConfig,
        captured: bool,
        compiled: bool,
        ranks: Ranks,
    ) -> None:
        self.model, self.optimizer, self.config, self.ranks = model, optimizer, config, ranks
        self.watch = DivergenceWatch(config)
        self.captured, self.compiled = captured, compiled
        self.compiled_loss: Callable[[Tensor, Tensor], Tensor] | None = None
        self.steps_before_capture = WARM_UP_STEPS
        self.graph: torch.cuda.CUDAGraph | None = None
        self.device_type = torch.device(config.device).type

    def __call__(self, step: int, x: Tensor, index: Tensor, share: float = 1.0) -> Tensor:
        """Make step number ``step``, and return its loss. TrainingDivergedError if that is bad.

        Args:
            step: its number, from 1 on.
            x: this process's data (m, *shape).
            index: index of each datum, (m,) int64.
            share: share of the whole minibatch's data that are this process's.
        """
        if self.compiled and self.compiled_loss is None and len(x) == self.config.batch_size:
            self._compile(x, index)
        if self.captured and len(x) == self.config.batch_size:
            if self.graph is not None:
                return self._replay(step, x, index)
            if self.steps_before_capture == 0:
                return self._capture(step, x, index)
            self.steps_before_capture -= 1
            return self._on_side_stream(step, x, index)
        return self._eager(step, x, index, share)

    def _loss(self, x: Tensor, index: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        with torch.autocast(
            self.device_type, torch.bfloat16, enabled=self.config.bf16, cache_enabled=not self.captured
        ):
            if self.compiled_loss is not None and len(x) == self.config.batch_size:
                return self.compiled_loss(x, index)
            return self.model.loss(x, index)

    def _compile(self, x: Tensor, index: Tensor) -> None:
        """Compile the loss, and try it with its gradients, which leaves the run as it was."""
        validated = Distribution._validate_args
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]  # such as of spectral normalization

        def loss(x: Tensor, index: Tensor) -> Tensor:
            return self.model.loss(x, index)

        loss.__code__ = loss.__code__.replace()  # of its own, with which dynamo keeps what it compiles
        try:
            self.compiled_loss = torch.compile(loss, fullgraph=True, dynamic=False, options=COMPILE_OPTIONS)
            with random_state_kept():
                self._loss(x, index).backward()  # type: ignore[no-untyped-call]
        except Exception as error:  # what is wrong with the model itself is told by the eager step that follows
            self.compiled, self.compiled_loss = False, None
            told = f"{self.config.model}: steps run eagerly, as compiling the loss failed: {first_line(error)}"
            warnings.warn(told, stacklevel=2)
        finally:
            self.optimizer.zero_grad()
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            Distribution.set_default_validate_args(validated)  # torch.compile switches it off for the process

    def _eager(self, step: int, x: Tensor, index: Tensor, share: float = 1.0) -> Tensor:
        self.ranks.seed_draws(self.config.seed, step)
        loss = self._loss(x, index)
        if share != 1:
            loss = loss * share
        loss.backward()  # type: ignore[no-untyped-call]
        loss = self.ranks.average(self.model, loss, share)
        self.watch.observe(step, loss, self.model.diagnostics)
        self.optimizer.step()
        return loss

    def _on_side_stream(self, step: int, x: Tensor, index: Tensor) -> Tensor:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            loss = self._eager(step, x, index)
        torch.cuda.current_stream().wait_stream(stream)
        return loss

    def _capture(self, step: int, x: Tensor, index: Tensor) -> Tensor:
        self.static_x, self.static_index = x.clone(), index.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                loss = self._loss(self.static_x, self.static_index)
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
        except RuntimeError as error:
            self.captured = False
            warnings.warn(f"{self.config.model}: steps run eagerly, as capturing one failed: {error}", stacklevel=2)
            return self._eager(step, x, index)
        self.graph, self.static_loss = graph, loss.detach()
        return self._replay(step, x, index)

    def _replay(self, step: int, x: Tensor, index: Tensor) -> Tensor:
        assert self.graph is not None
        self.static_x.copy_(x)
        self.static_index.copy_(index)
        self.graph.replay()
        self.watch.observe(step, self.static_loss, self.model.diagnostics)
        return self.static_loss
