"""One step of training: loss, gradients, update; on a GPU as one captured graph."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ..models import LatentVariableModel
from .config import TrainingConfig
from .divergence import DivergenceWatch
from .ranks import Ranks

#: Number of eager steps before the capture, which create optimizer states and workspaces of libraries.
WARM_UP_STEPS = 3


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


class TrainingStep:
    """A function that updates the parameters with a minibatch and returns the loss before the update.

    Note [Captured steps]
        Capturing records the kernels of a step, and a replay launches them all at once: counters, lr and noise keys
        live on the device, and the minibatch is copied to where the graph reads it. The first steps, and a short last
        minibatch, run eagerly and make the same update.

    Args:
        model: the run's model.
        optimizer: the run's optimizer, which must be capturable if ``captured``.
        config: the run's settings.
        captured: whether to capture the step.
        ranks: the processes that make it together.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        optimizer: torch.optim.Optimizer,
        config: TrainingConfig,
        captured: bool,
        ranks: Ranks,
    ) -> None:
        self.model, self.optimizer, self.config, self.ranks = model, optimizer, config, ranks
        self.watch = DivergenceWatch(config)
        self.captured = captured
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
            return self.model.loss(x, index)

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
