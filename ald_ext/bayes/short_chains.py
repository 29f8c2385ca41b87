"""Short chains of a sampling optimizer over a grid of settings, and what is measured of them.

Note [Error of a step size]
    At every measurement the whole loader gives ∇U, so that minibatches add no noise to it, and central differences of
    ∇U along a Rademacher vector give ΔU (Hutchinson 1990), at a distance that smooths over the kinks of ReLU. Draws of
    exp(-U/T) have E|∇U|² = T·E[ΔU] (Rugh 1997). What the ratio is above T is the heat of the finite step and of
    minibatches, which both grow with lr; what is below T is a chain that has not yet got around. Momenta show heat,
    too, but not that of positions: networks have chains of SGHMC whose momenta are at T where their positions are at
    100 T. The hotter of both counts. The thermostats of SGNHT hold its momenta at T, whatever its positions do.

Note [How hot a chain may be]
    With the curvatures λᵢ of U and variances hᵢ·T/λᵢ, the ratio is T·Σ λᵢhᵢ/Σ λᵢ: the stiffest directions, where
    finite steps heat first, weigh most. In predictions all directions that the data determine weigh alike, as each adds
    hᵢ to the variance of the outputs in units of the likelihood's. Of heat in the stiffest, tr/λ_max of them, a share
    (tr/λ_max)/k is left in the mean over all k = min(parameters, data · outputs). So the ratio may be
    T·(1 + tolerance·k·λ_max/tr), with λ_max and tr of the Hessian at the optimum; if all curvatures are equal that is
    T·(1 + tolerance). It may never be above 4 T, where the stiffest directions are about to become unstable.
"""

from __future__ import annotations

import copy
import math
import statistics
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..optim import PSGLD, SGHMC, SGLD, SGNHT
from ..progress import progress_bar
from ..settings import require, shortened
from .batches import BatchStream, dataset_length, map_tensors, num_rows
from .loss_checks import scale_faults
from .network_chains import Loss, backward, batch_loss, trainable

OWNER = "ald_ext.bayes.suggest_settings"
LangevinClass = type[SGLD] | type[PSGLD] | type[SGHMC] | type[SGNHT]

#: Step sizes of the default grid, in units of the largest that is stable on a quadratic loss of the largest curvature.
GRID = [2.0**power for power in range(-9, 1)]
#: λ of PSGLD that are compared.
EPS = (0.1, 0.01, 0.001)
POWER_ITERATIONS, MEASUREMENTS, PROBED_OUTPUTS = 8, 8, 64
#: What a group of parameters may say for itself.
OWN_OPTIONS = {"params", "weight_decay", "momentum", "diffusion", "alpha"}
#: Heat, as a share of T, from which on the stiffest directions are about to become unstable.
MOST_HEAT = 3.0


@dataclass(frozen=True)
class Trial:
    """A short chain.

    Attributes:
        lr, eps: its settings; eps is None but for PSGLD.
        diverged: whether a loss or gradient was not finite, or the curvature not positive.
        temperature: E|∇U|²/E[ΔU] of Note [Error of a step size]; None if it diverged, as all that follows.
        temperature_error: its standard error.
        kinetic_temperature: N·p² of the momenta; None for optimizers without.
        judged_temperature: the higher of both.
        noise_ratio: variance of the minibatches' noise over that of the injected noise, in a step.
        movement: root mean square change of the outputs, from the first measurement to the last.
        loss: mean of the loss over data and measurements.
    """

    lr: float
    eps: float | None
    diverged: bool
    temperature: float | None = None
    temperature_error: float | None = None
    kinetic_temperature: float | None = None
    judged_temperature: float | None = None
    noise_ratio: float | None = None
    movement: float | None = None
    loss: float | None = None


class ShortChains:
    """The short chains of :func:`suggest_settings`, on a copy of the module."""

    def __init__(
        self,
        module: nn.Module,
        params: Sequence[Any] | None,
        loss: Loss,
        loader: Iterable[Any],
        optimizer: LangevinClass,
        num_data: float | None,
        temperature: float,
        seed: int,
    ) -> None:
        own_params = trainable(module, OWNER)
        params = own_params if params is None else list(params)
        require(params, f"{OWNER}: params", "an empty list", "some, or None for all")
        groups = [each for each in params if isinstance(each, dict)]
        lists = all(isinstance(group.get("params"), (list, Tensor)) for group in groups)
        require(lists, f"{OWNER}: params", "a group of something else", "groups whose params are lists")
        others = {name for group in groups for name in group.keys() - OWN_OPTIONS}
        expected = f"none but {', '.join(sorted(OWN_OPTIONS))}: all else is as the call says"
        require(not others, f"{OWNER}: params", f"a group with {', '.join(sorted(others))}", expected)
        is_loader = not hasattr(loader, "__next__")
        expected = "minibatches each time it is iterated over, as of a DataLoader"
        require(is_loader, f"{OWNER}: loader", "an iterator", expected)
        self.module, self.groups = copy.deepcopy((module, params))
        self.optimizer_class, self.loss, self.loader = optimizer, loss, loader
        size = dataset_length(loader)
        fits = isinstance(num_data, Real) or (num_data is None and size)
        require(fits, f"{OWNER}: num_data", shortened(num_data), "a number > 0, or a loader with a dataset")
        self.num_data = float(size if num_data is None else num_data)  # type: ignore[arg-type]
        self.temperature, self.seed = temperature, seed
        self.device = next(self.module.parameters()).device
        optimizer_of_groups = self.make(lr=0.0)
        moving = [
            (p, g["weight_decay"]) for g in optimizer_of_groups.param_groups for p in g["params"] if p.requires_grad
        ]
        self.parameters, self.decays = [p for p, _ in moving], [decay for _, decay in moving]
        own = {id(p) for p in self.module.parameters()}
        found = sum(id(p) in own for p in self.parameters)
        require(found and found == len(self.parameters), f"{OWNER}: params", f"{found} of the module", "only these")
        self.d = sum(p.numel() for p in self.parameters)
        self.check_loss()

    def check_loss(self) -> None:
        """Warn of a summed loss, and of num_data that is not the number of data. ValueError if it is not finite."""
        batch = next(BatchStream(self.loader, self.device))
        backward(loss := self.batch_loss(batch))
        value = float(loss.detach())
        require(math.isfinite(value), f"{OWNER}: loss", value, "a finite number at the module's parameters")
        for fault in scale_faults(OWNER, self.module, self.loss, self.loader, batch, [self.num_data]):
            warnings.warn(fault, stacklevel=4)

    def batches(self) -> Iterator[Any]:
        """Minibatches of one epoch, on the module's device."""
        for batch in self.loader:
            yield map_tensors(lambda leaf: leaf.to(self.device), batch)

    def batch_loss(self, batch: Any) -> Tensor:
        return batch_loss(self.module, self.loss, batch)

    def outputs(self, batch: Any) -> Tensor:
        """All of what the module gives for a minibatch, flat."""
        *inputs, _ = batch
        with torch.no_grad():
            leaves = tree_leaves(self.module(*inputs))
        return torch.cat([leaf.flatten().double() for leaf in leaves if isinstance(leaf, Tensor)])

    def make(self, **settings: Any) -> Any:
        """The optimizer on the copy, whose groups keep their prior."""
        groups = [dict(each) if isinstance(each, dict) else each for each in self.groups]
        return self.optimizer_class(
            groups, num_data=self.num_data, temperature=self.temperature, seed=self.seed, **{"lr": 0.0, **settings}
        )

    def step(self, optimizer: Any, batch: Any) -> float:
        optimizer.zero_grad()
        loss = self.batch_loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    def gradients_of(self, loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True)

    def gradient(self) -> tuple[Tensor, Tensor, float]:
        """The gradient of L + prior over all data, the variance of each element over minibatches, and the loss."""
        total: Any = 0.0
        squares: Any = 0.0
        count, weight, value = 0, 0, 0.0
        for batch in self.batches():
            loss = self.batch_loss(batch)
            flat = torch.cat([part.flatten() for part in self.gradients_of(loss)]).double()
            rows = num_rows(batch)
            total, squares, count, weight = total + rows * flat, squares + flat.square(), count + 1, weight + rows
            value += rows * float(loss.detach())
        mean = total / weight
        variance = (squares / count - mean.square()).clamp_min(0) * (count / max(count - 1, 1))
        prior = [decay * p.detach().flatten() for p, decay in zip(self.parameters, self.decays, strict=True)]
        return mean + torch.cat(prior), variance, value / weight

    @torch.no_grad()
    def move(self, direction: Tensor, distance: float) -> None:
        for part, p in zip(direction.split([p.numel() for p in self.parameters]), self.parameters, strict=True):
            p.add_(part.view_as(p).to(p.dtype), alpha=distance)

    def curvature_along(self, direction: Tensor, distance: float) -> Tensor:
        """∇²(L + prior)·v by a central difference."""
        self.move(direction, distance)
        ahead = self.gradient()[0]
        self.move(direction, -2 * distance)
        behind = self.gradient()[0]
        self.move(direction, distance)
        return (ahead - behind) / (2 * distance)

    def largest_curvature(self, preconditioner: Tensor | float) -> float:
        """Of G^½ ∇²(L + prior) G^½, by power iteration."""
        root = torch.as_tensor(preconditioner, dtype=torch.float64, device=self.device).sqrt()
        direction = torch.randn(self.d, dtype=torch.float64, device=self.device)
        norm = torch.tensor(1.0)
        distance = 0.01 * (1 + float(torch.cat([p.detach().flatten() for p in self.parameters]).norm()))
        for _ in range(POWER_ITERATIONS):
            direction = root * direction / direction.norm()
            length = direction.norm()
            direction = root * self.curvature_along(direction / length, distance) * length
            norm = direction.norm()
        require(norm > 0 and norm.isfinite(), f"{OWNER}: loss", float(norm), "a loss that curves and is finite")
        return float(norm)

    def optimize(self, steps: int) -> None:
        """By Adam, whose lr falls from 0.01 to 0."""
        groups = [{"params": [p], "weight_decay": decay} for p, decay in zip(self.parameters, self.decays, strict=True)]
        adam = torch.optim.Adam(groups, lr=0.01)
        for number, batch in zip(range(steps), BatchStream(self.loader, self.device), strict=False):
            for group in adam.param_groups:
                group["lr"] = 0.01 * (1 - number / steps)
            self.step(adam, batch)

    def trial(
        self, start: list[Tensor], lr: float, eps: float | None, square_avg: Tensor, num_steps: int, distance: float
    ) -> Trial:
        """A short chain from the optimum."""
        with torch.no_grad():
            for p, value in zip(self.parameters, start, strict=True):
                p.copy_(value)
        options = {} if eps is None else {"eps": eps, "freeze_after": 0}
        optimizer = self.make(lr=lr, **options)
        if eps is not None:
            for part, p in zip(square_avg.split([p.numel() for p in self.parameters]), self.parameters, strict=True):
                optimizer.state[p]["square_avg"] = part.view_as(p).to(p.dtype)
        first = map_tensors(lambda leaf: leaf[:PROBED_OUTPUTS], next(self.batches()))
        interval = num_steps // (2 * MEASUREMENTS)
        squares, laplacians, kinetic, losses, ratios = [], [], [], [], []
        outputs: list[Tensor] = []
        for number, batch in zip(range(1, num_steps + 1), BatchStream(self.loader, self.device), strict=False):
            if not math.isfinite(self.step(optimizer, batch)):
                return Trial(lr, eps, diverged=True)
            if number <= num_steps // 2 or number % interval:
                continue
            gradient, variance, loss = self.gradient()
            signs = self.signs()
            squares.append(self.num_data * float(gradient.square().sum()))
            laplacians.append(float(signs @ self.curvature_along(signs, distance)))
            losses.append(loss)
            ratios.append(self.noise_ratio(optimizer, variance, lr, eps, square_avg))
            if "momentum_buffer" in optimizer.state_names:
                buffers = [optimizer.state[p]["momentum_buffer"] for p in self.parameters]
                kinetic.append(self.num_data * sum(float(p.double().square().sum()) for p in buffers) / self.d)
            outputs.append(self.outputs(first))
        mean = statistics.fmean
        numbers = [*squares, *laplacians, *losses]
        if not all(map(math.isfinite, numbers)) or mean(laplacians) <= 0:
            return Trial(lr, eps, diverged=True)
        temperature = mean(squares) / mean(laplacians)
        kinetic_temperature = mean(kinetic) if kinetic else None
        error = statistics.stdev(s - temperature * c for s, c in zip(squares, laplacians, strict=True))
        return Trial(
            lr,
            eps,
            diverged=False,
            temperature=temperature,
            temperature_error=error / mean(laplacians) / math.sqrt(len(squares)),
            kinetic_temperature=kinetic_temperature,
            judged_temperature=max(temperature, kinetic_temperature or 0.0),
            noise_ratio=mean(ratios),
            movement=float((outputs[-1] - outputs[0]).square().mean().sqrt()),
            loss=mean(losses),
        )

    def noise_ratio(self, optimizer: Any, variance: Tensor, lr: float, eps: float | None, square_avg: Tensor) -> float:
        """Variance of the minibatches' noise over that of the injected noise in a step, both summed over elements."""
        group = optimizer.param_groups[0]
        unit = self.temperature / self.num_data
        if "momentum_buffer" in optimizer.state_names:
            kept = group["momentum"] if "momentum" in group else math.exp(-group["diffusion"])
            return lr * float(variance.sum()) / ((1 - kept**2) * unit * self.d)
        scale = torch.ones(()) if eps is None else 1 / (square_avg.sqrt() + eps)
        return lr * float((scale.square() * variance).sum()) / (2 * unit * float(scale.expand(self.d).sum()))

    def run(self, lrs: Sequence[float] | None, warm_up: int, num_steps: int, progress: bool) -> list[Trial]:
        """Optimize, and run a chain for each eps and each lr, in ascending order."""
        self.optimize(warm_up)
        start = [p.detach().clone() for p in self.parameters]
        gradient, variance, self.start_loss = self.gradient()
        square_avg = variance + gradient.square()
        factor = 4.0 if self.optimizer_class in (SGHMC, SGNHT) else 2.0
        jobs: list[tuple[float, float | None]] = []
        for eps in EPS if self.optimizer_class is PSGLD else (None,):
            if lrs is None:
                limit = factor / self.largest_curvature(1.0 if eps is None else 1 / (square_avg.sqrt() + eps))
            jobs += [(lr, eps) for lr in sorted([limit * part for part in GRID] if lrs is None else lrs)]
        largest = self.largest_curvature(1.0)
        distance = math.sqrt(self.temperature / self.num_data / largest)
        self.shared_heat = self.determined_directions() * largest / self.trace(distance)
        return [
            self.trial(start, lr, eps, square_avg, num_steps, distance)
            for lr, eps in progress_bar(jobs, show=progress, desc="chains", unit="chain")
        ]

    def determined_directions(self) -> int:
        """The number k of Note [How hot a chain may be]."""
        batch = next(self.batches())
        return int(min(self.d, self.num_data * self.outputs(batch).numel() / num_rows(batch)))

    def trace(self, distance: float) -> float:
        """That of ∇²(L + prior), by Hutchinson's estimate."""
        values = []
        for _ in range(MEASUREMENTS):
            signs = self.signs()
            values.append(float(signs @ self.curvature_along(signs, distance)))
        trace = statistics.fmean(values)
        require(trace > 0, f"{OWNER}: loss", f"curvatures whose sum is {trace:.3g}", "a sum > 0: try a longer warm_up")
        return trace

    def signs(self) -> Tensor:
        """A Rademacher vector."""
        return torch.randint(0, 2, (self.d,), device=self.device).double() * 2 - 1

    def largest_temperature(self, tolerance: float) -> float:
        """Of Note [How hot a chain may be]."""
        return self.temperature * (1 + min(tolerance * self.shared_heat, MOST_HEAT))
