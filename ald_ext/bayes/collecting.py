"""The loop that collects posterior samples of a network's parameters.

Note [Resumed runs]
    With a folder for the samples, the state of the run lies there, too: modules, optimizers, schedules, the place in
    the epoch and the states of torch's generators. It is written at the start, at the end, and every half minute
    between two steps. A run that was stopped and is started by the same call drops the samples that are younger than
    the state, and continues from there, bit for bit as if it had not been stopped.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..files import FolderLock, write_json
from ..optim.seeds import chain_seed
from ..progress import progress_bar
from ..samplers.chains import chains_of_rank
from ..settings import from_dict, require, shortened
from ..tensor_files import read_tensors, write_tensors
from .batches import BatchStream
from .loss_checks import parameter_temperature, scale_faults
from .network_chains import Loss, MakeOptimizer, NetworkChains, separate_modules, trainable
from .parameter_samples import TRACE_FILE, PosteriorSamples, named_tensors
from .sample_files import check_fits

OWNER = "ald_ext.bayes.collect_parameters"
#: See Note [Resumed runs].
SECONDS_BETWEEN_STATES = 30.0
#: Of groups of parameters. A state that is loaded has its own, so that others would not be heeded.
HYPERPARAMETERS = ("lr", "num_data", "temperature", "weight_decay", "momentum", "eps", "alpha", "localization")


@dataclass
class RunState:
    """What the file of a run holds."""

    settings: dict[str, Any]
    step: int
    due: int
    offered: list[int]
    modules: list[dict[str, Any]]
    optimizers: list[dict[str, Any]]
    schedulers: list[Any]
    batches: dict[str, Any]
    trace: list[dict[str, Any]]


def collect_parameters(
    module: nn.Module,
    optimizer: Optimizer | MakeOptimizer,
    loss: Loss,
    loader: Iterable[Any],
    *,
    burn_in: int,
    num_samples: int,
    thinning: int = 1,
    chains: int | None = None,
    scheduler: Any = None,
    samples: PosteriorSamples | None = None,
    initialize: Callable[[nn.Module], Any] | None = None,
    vectorized: bool | None = None,
    progress: bool = False,
) -> PosteriorSamples:
    """Run an optimizer that samples, and keep every ``thinning``-th of its iterates after a burn-in.

    One chain goes on from the module's parameters and leaves its last iterate there. Of several chains, chain 0 begins
    at them and the others are initialized anew; each has a copy of the module, minibatches and noise of its own, and
    the module itself does not change. Under torchrun, each process runs some of the chains
    (:func:`ald_ext.samplers.chains_of_rank`), one if nothing is said, and adds their samples to its own ``samples``;
    :meth:`PosteriorSamples.load` of a common folder has all, once all have ended. Modules stay in the mode, of training
    or evaluation, that they are in. An adapting preconditioner is frozen at the end of the burn-in, as samples are
    biased while it adapts.

        samples = collect_parameters(
            network, lambda network, chain: PSGLD(network.parameters(), lr=1e-2, num_data=len(data), chain=chain),
            torch.nn.functional.cross_entropy, DataLoader(data, 50, shuffle=True),
            burn_in=1000, num_samples=100, thinning=50, chains=4, samples=PosteriorSamples("posterior", resume=True),
        )

    Args:
        module: the network.
        optimizer: one of ``ald_ext.optim``, or any other; for several chains, or under torchrun, a function
            (module, chain) → optimizer, which tells the optimizer its ``chain``, so that it has noise of its own.
        loss: (outputs, targets) → the mean over the minibatch, as torch's losses are.
        loader: a DataLoader, or what else gives minibatches (inputs …, targets) each time it is iterated over.
        burn_in: number of steps before the first that can be kept.
        num_samples: number of samples of each chain; ``samples`` may keep fewer of them.
        thinning: number of steps for each sample.
        chains: number of chains of all processes; None stands for one a process.
        scheduler: a scheduler of torch's interface, whose ``step()`` follows each step of the optimizer, or a function
            optimizer → scheduler. Where it has ``is_sampling``, as :class:`ald_ext.optim.CyclicalCosine` has, only
            steps for which that is true count for ``thinning`` and ``num_samples``.
        samples: where samples are kept, beside those that are there; None stands for memory. With a folder and
            ``resume=True``, a run that was stopped continues.
        initialize: called with the copy of the module for each chain but chain 0, to draw initial parameters; None
            stands for the ``reset_parameters()`` of all its submodules.
        vectorized: whether the gradients of several chains are computed at once by torch.func.vmap, where it takes
            the network; None stands for where that is faster: on GPUs, and for many chains of small networks.
        progress: whether to show a progress bar.

    Returns:
        ``samples``, whose ``trace`` tells of every ``thinning``-th step from the beginning, for each chain: step,
        chain, lr, the minibatch's loss and θ·∇U/d (a temperature, with the minibatch's gradient), and whether it is
        past the burn-in ("sampling").

    Raises:
        ValueError: a bad number; a loader without minibatches, or with others than tuples; an optimizer or scheduler
            that is no function, for several chains; an optimizer of another module, or chains with the same noise; an
            optimizer that needs a closure, or a scheduler that needs a metric; a chain that has diverged; a file that
            is damaged or of a run with other settings, also of the optimizer, or of another module.
        BlockingIOError: another process is adding to the same chains of the folder.
        ImportError: ``progress`` without tqdm.
        OSError: a file cannot be written.
    """
    for name, number, least in (("burn_in", burn_in, 0), ("num_samples", num_samples, 1), ("thinning", thinning, 1)):
        require(isinstance(number, int) and number >= least, f"{OWNER}: {name}", number, f"an integer >= {least}")
    trainable(module, OWNER)
    samples = PosteriorSamples() if samples is None else samples
    fits = isinstance(samples, PosteriorSamples)
    require(fits, f"{OWNER}: samples", shortened(samples), "PosteriorSamples, such as PosteriorSamples(folder)")
    in_group = dist.is_available() and dist.is_initialized()
    num_chains = chains if chains is not None else dist.get_world_size() if in_group else 1
    require(isinstance(num_chains, int) and num_chains >= 1, f"{OWNER}: chains", shortened(chains), "an integer > 0")
    own = chains_of_rank(num_chains)
    makes_optimizer = callable(optimizer) and not isinstance(optimizer, (Optimizer, type))
    if num_chains > 1:
        expected = "a function (module, chain) -> optimizer, for several chains"
        require(makes_optimizer, f"{OWNER}: optimizer", type(optimizer).__name__, expected)
        is_function = not hasattr(scheduler, "step") or isinstance(scheduler, type)
        expected = "a function optimizer -> scheduler, for several chains"
        require(is_function, f"{OWNER}: scheduler", type(scheduler).__name__, expected)
    modules = [module] if num_chains == 1 else separate_modules(module, own, initialize)
    network_chains = NetworkChains(modules, loss, vectorized=vectorized)  # before optimizers see the parameters
    optimizers: list[Any] = [optimizer]
    if makes_optimizer:
        optimizers = [optimizer(member, chain) for member, chain in zip(modules, own, strict=True)]  # type: ignore[operator]
    check_optimizers(optimizers, modules, own, num_chains if in_group else 1)
    schedulers = [scheduler_of(each, scheduler) for each in optimizers]
    device = next(module.parameters()).device
    if in_group and num_chains > 1:
        dist.barrier()  # no process writes before all have opened a folder that they have in common
        torch.manual_seed(chain_seed(torch.initial_seed() % 2**63, own.start))  # minibatches of its own
    settings = {"burn_in": burn_in, "thinning": thinning, "chains": num_chains, "chains of this process": len(own)}
    settings |= settings_of(optimizers[0], schedulers[0], loader)
    run = Run(network_chains, optimizers, schedulers, BatchStream(loader, device), samples, own, settings)
    locks = [FolderLock(run.folder_of(chain), f"{OWNER}: samples") for chain in own if samples.folder is not None]
    try:
        for chain, lock in zip(own, locks, strict=False):
            run.folder_of(chain).mkdir(parents=True, exist_ok=True)
            lock.acquire()
        if not run.resume():
            numbers = [group["num_data"] for group in optimizers[0].param_groups if "num_data" in group]
            for fault in scale_faults(OWNER, module, loss, loader, next(BatchStream(loader, device)), numbers):
                warnings.warn(fault, stacklevel=2)
            run.save()
        run.run(num_samples, progress)
        run.save()
    finally:
        for lock in locks:
            lock.close()
    return samples


class Run:
    """A run of :func:`collect_parameters`, of the chains of this process."""

    def __init__(
        self,
        chains: NetworkChains,
        optimizers: list[Any],
        schedulers: list[Any],
        batches: BatchStream,
        samples: PosteriorSamples,
        numbers: range,
        settings: dict[str, Any],
    ) -> None:
        self.chains, self.optimizers, self.schedulers, self.batches = chains, optimizers, schedulers, batches
        self.samples, self.numbers, self.settings = samples, numbers, settings
        self.step, self.due = 0, 0  # steps that were made, and those of them that count for thinning
        self.trace: list[dict[str, Any]] = []
        self._saved_at = time.monotonic()

    def folder_of(self, chain: int) -> Path:
        """Return the folder of a chain's samples."""
        assert self.samples.folder is not None
        return self.samples.folder / f"chain-{chain:04}"

    @property
    def _path(self) -> Path | None:
        return None if self.samples.folder is None else self.folder_of(self.numbers.start) / "run.pt"

    def run(self, num_samples: int, progress: bool) -> None:
        """Make steps until each chain was offered ``num_samples`` samples."""
        burn_in, thinning = self.settings["burn_in"], self.settings["thinning"]
        cyclical = hasattr(self.schedulers[0], "is_sampling")
        total = None if cyclical else max(burn_in + num_samples * thinning, self.step)
        with progress_bar(show=progress, total=total, initial=self.step, unit="step", desc="sampling") as bar:
            while self.due < num_samples * thinning:
                self._step()
                bar.update()
                if self._path is not None and time.monotonic() - self._saved_at > SECONDS_BETWEEN_STATES:
                    self.save()

    def _step(self) -> None:
        burn_in, thinning = self.settings["burn_in"], self.settings["thinning"]
        losses = self.chains.gradients([next(self.batches) for _ in self.numbers])
        looked_at = self.step % thinning == 0
        for chain, loss, optimizer in zip(self.numbers, losses if looked_at else (), self.optimizers, strict=False):
            self._look_at(chain, float(loss), optimizer)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        if self.step == burn_in:
            for optimizer in self.optimizers:
                if hasattr(optimizer, "freeze_preconditioner"):
                    optimizer.freeze_preconditioner()
        if self.step > burn_in and getattr(self.schedulers[0], "is_sampling", True):
            self.due += 1
            if self.due % thinning == 0:
                for chain, module in zip(self.numbers, self.chains.modules, strict=True):
                    self.samples.add(module, chain=chain)
        for scheduler in self.schedulers:
            if scheduler is not None:
                scheduler.step()

    def _look_at(self, chain: int, loss: float, optimizer: Optimizer) -> None:
        finite = abs(loss) < float("inf")
        expected = "a finite number: the chain has diverged, try a smaller lr"
        require(finite, f"{OWNER}: loss", f"{loss} in chain {chain} at step {self.step}", expected)
        lr, temperature = float(optimizer.param_groups[0]["lr"]), parameter_temperature(optimizer)
        sampling = self.step >= self.settings["burn_in"] and getattr(self.schedulers[0], "is_sampling", True)
        row = {"step": self.step, "chain": chain, "lr": lr, "loss": loss, "temperature": temperature}
        row["sampling"] = int(sampling)
        self.trace.append(row)
        self.samples.trace.append(row)

    # Stopping and resuming

    def save(self) -> None:
        """Write the state of the run, if samples are in a folder."""
        if (path := self._path) is None:
            return
        state = RunState(
            self.settings,
            self.step,
            self.due,
            [self.samples.num_offered(chain) for chain in self.numbers],
            [{name: tensor.cpu() for name, tensor in named_tensors(module).items()} for module in self.chains.modules],
            [optimizer.state_dict() for optimizer in self.optimizers],
            [scheduler and plain_state(scheduler) for scheduler in self.schedulers],
            self.batches.state_dict(),
            self.trace,
        )
        write_tensors(path, vars(state))
        write_json(path.parent / TRACE_FILE, self.trace)
        self._saved_at = time.monotonic()

    def resume(self) -> bool:
        """Continue from the state of the folder, if there is one; return whether there was."""
        path = self._path
        argument = f"{OWNER}: samples"
        if path is None or not path.exists():
            others = path is not None and any(path.parent.parent.glob("chain-*/run.pt"))
            fits = not others or not any(map(self.samples.num_offered, self.numbers))
            expected = "as many processes as when the run began"
            require(fits, argument, f"samples of chain {self.numbers.start} in the run of another process", expected)
            return False
        contents = read_tensors(path, (), argument=argument, writer="collect_parameters")
        state = from_dict(RunState, contents, f"{argument}: {path.parent.name}/{path.name}")
        pairs = {name: (self.settings.get(name, value), value) for name, value in state.settings.items()}
        changed = [pair for pair in pairs.items() if not is_same(*pair[1])][:3]
        got, expected = (", ".join(f"{name}={pair[place]}" for name, pair in changed) for place in (0, 1))
        require(not changed, OWNER, got, f"{expected}, as when the run of {path.parent} began")
        for module, tensors in zip(self.chains.modules, state.modules, strict=True):
            shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(module).items()}
            check_fits(tensors, shapes, argument, f"the run of {path.parent}", "the module")
        for chain, offered in zip(self.numbers, state.offered, strict=True):
            self.samples.forget_after(chain, offered)
        with torch.no_grad():
            for module, tensors in zip(self.chains.modules, state.modules, strict=True):
                for name, tensor in named_tensors(module).items():
                    tensor.copy_(tensors[name])
        for optimizer, saved in zip(self.optimizers, state.optimizers, strict=True):
            optimizer.load_state_dict(saved)
        for scheduler, saved in zip(self.schedulers, state.schedulers, strict=True):
            if scheduler is not None:
                counters = {name for name, value in vars(scheduler).items() if isinstance(value, Counter)}
                scheduler.load_state_dict(
                    {name: Counter(value) if name in counters else value for name, value in saved.items()}
                )
        self.batches.load_state_dict(state.batches)
        self.step, self.due, self.trace = state.step, state.due, state.trace
        other_rows = [row for row in self.samples.trace if row["chain"] not in self.numbers]
        self.samples.trace[:] = other_rows + state.trace
        return True


def check_optimizers(optimizers: list[Any], modules: list[nn.Module], chains: range, processes: int) -> None:
    """Raise a ValueError for optimizers of other modules' parameters, or for chains of equal noise."""
    argument, noises = f"{OWNER}: optimizer", dict[Any, int]()
    for optimizer, module, chain in zip(optimizers, modules, chains, strict=True):
        fits = hasattr(optimizer, "param_groups") and not isinstance(optimizer, torch.optim.LBFGS)
        expected = "an optimizer whose step needs no closure, or a function (module, chain) -> optimizer"
        require(fits, argument, shortened(optimizer), expected)
        own = {id(parameter) for parameter in module.parameters()}
        fits = any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"])
        expected = "those of the module that it is for: a function is called with it as (module, chain)"
        require(fits, argument, "parameters of another module", expected)
        group = optimizer.param_groups[0]
        if "seed" in group:
            noise = (group["seed"], group.get("chain"))
            fits = noise not in noises and (processes == 1 or group.get("chain") is not None)
            got = f"seed={noise[0]}, chain={noise[1]} for chain {chain}" + (
                f" as for chain {noises[noise]}" if noise in noises else ""
            )
            require(fits, argument, got, "chain=chain, so that each chain has noise of its own")
            noises[noise] = chain


def scheduler_of(optimizer: Optimizer, scheduler: Any) -> Any:
    """Return an optimizer's scheduler, or what the function makes for it. ValueError for what cannot be stepped."""
    argument, is_made = f"{OWNER}: scheduler", hasattr(scheduler, "step") and not isinstance(scheduler, type)
    own = scheduler(optimizer) if callable(scheduler) and not is_made else scheduler
    fits = own is None or (hasattr(own, "step") and not isinstance(own, ReduceLROnPlateau))
    expected = "a scheduler whose step takes no metric, as an lr that follows the losses biases samples, or a function"
    require(fits, argument, type(own).__name__, f"{expected} optimizer -> scheduler")
    expected = "one of the optimizer that makes the steps: a function optimizer -> scheduler is called with it"
    require(getattr(own, "optimizer", optimizer) is optimizer, argument, "one of another optimizer", expected)
    return own


def settings_of(optimizer: Any, scheduler: Any, loader: Any) -> dict[str, Any]:
    """Return what has to be as it was when a run continues: its state would hold, whatever the call says."""
    settings: dict[str, Any] = {"optimizer": type(optimizer).__name__, "scheduler": type(scheduler).__name__}
    for number, group in enumerate(optimizer.param_groups):
        before_schedules = {"lr": group.get("initial_lr", group["lr"])}
        if "sampling_temperature" in group:
            before_schedules["temperature"] = group["sampling_temperature"]
        for name, value in {**group, **before_schedules}.items():
            if name in HYPERPARAMETERS:
                settings[f"{name} of group {number}" if number else name] = float(value)
    has_generator = getattr(loader, "generator", None) is not None
    return {**settings, "batch_size": getattr(loader, "batch_size", None), "loader.generator": has_generator}


def is_same(one: Any, other: Any) -> bool:
    """Return whether settings are equal, or numbers that are but for rounding, as of another number of threads."""
    is_number = isinstance(one, float) and isinstance(other, float)
    return math.isclose(one, other, rel_tol=1e-6) if is_number else one == other


def plain_state(scheduler: Any) -> dict[str, Any]:
    """Return the state of a scheduler as plain values, without what only this process can hold."""
    state = {name: value for name, value in scheduler.state_dict().items() if not callable(value)}
    return {name: dict(value) if isinstance(value, Counter) else value for name, value in state.items()}
