"""A training run between two steps: everything that the next step depends on, saved and restored."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from ..data.batches import Batches
from ..data.datasets import DATASETS, ImageData, load_dataset
from ..models import LatentVariableModel, ModelConfig, ParameterEnsemble, find_model_class
from ..models.ensemble import state_of_ensemble
from ..models.latent_variable_model import as_config_of
from ..models.saving import check_fits, model_contents
from ..optim.checks import check_loaded
from ..settings import check_device, from_dict, require
from ..threads import number_of_threads
from .checkpoints import MEASURED, MEASURED_LATER, Totals
from .config import LONGEST_WARM_UP, WARM_UP_PART, TrainingConfig
from .optimizers import make_optimizer, make_scheduler
from .ranks import Ranks
from .step import TrainingStep, why_not_captured, why_not_compiled

#: Number of images from which initial values that depend on data are found.
INITIAL_IMAGES = 500
#: The dataset of runs on data that were passed in and have no name.
GIVEN_DATA = "(given in Python)"
#: Options of an optimizer's groups that follow from the settings, and not from a checkpoint.
GROUP_OPTIONS = ("temperature", "alpha", "eps", "freeze_after", "seed", "weight_decay")

MakeModel = Callable[[ModelConfig], LatentVariableModel]


@dataclass
class Run:
    """A training run between two steps.

    Attributes:
        eager_because: why steps are not captured as a CUDA graph; None if they are.
        ranks: the processes that train it together.
        batch: number of minibatches of the epoch that are done.
        threads_by_step: pairs of a step and the number of threads in use from then on, see Note [Number of threads].
        seconds_after_epoch: seconds of training at the end of each epoch. They are not part of the history, which is
            the same whenever a run is repeated.
        changes: settings that were changed when the run was resumed: from which step on, the setting's name, and its
            value before and after.
    """

    config: TrainingConfig
    model: LatentVariableModel
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR
    data: ImageData
    batches: Batches
    training_step: TrainingStep
    eager_because: str | None
    ranks: Ranks
    ensemble: ParameterEnsemble | None
    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    totals: Totals = field(default_factory=Totals)
    history: list[dict[str, float]] = field(default_factory=list)
    threads_by_step: list[list[int]] = field(default_factory=list)
    seconds_after_epoch: list[float] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on, and what was measured so far."""
        return {
            **model_contents(self.model),
            **self.learned(),
            **{name: getattr(self, name) for name in (*MEASURED, *MEASURED_LATER)},
            "config": self.config.to_dict(),
            "num_data": len(self.data.train_images),
            "data": self.data_description,
            "scheduler": self.scheduler.state_dict(),
            "totals": dataclasses.asdict(self.totals),
            "ensemble": state_of_ensemble(self.ensemble),
        }

    @cached_property
    def data_description(self) -> dict[str, Any]:
        """The number, shape and dtype of the training data, and a digest of their contents."""
        images = self.data.train_images
        contents = images.detach().cpu().contiguous().view(torch.uint8).numpy().data
        kind = {"number": len(images), "shape": list(images.shape[1:]), "dtype": str(images.dtype)}
        return {**kind, "sha256": hashlib.sha256(contents).hexdigest()[:16]}

    def learned(self) -> dict[str, Any]:
        """Return what a step changes."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random_state": random_state(self.config.device),
        }

    def restore_learned(self, state: dict[str, Any]) -> None:
        """Go back to :meth:`learned`. RuntimeError for a model of other networks."""
        self.model.load_state_dict(state["model"])
        load_optimizer(self.optimizer, state["optimizer"])
        set_random_state(state["random_state"], self.config.device)

    def restore(self, state: dict[str, Any], allowed: Collection[str] = ()) -> None:
        """Continue from :meth:`state`. ValueError for the state of another run, but for settings that are allowed."""
        saved = TrainingConfig.from_dict({"compile": False, **state["config"]})  # earlier ones could not be compiled
        self._check_data(state, saved)
        changes = self.config.changes_of(saved, allowed)
        lengths = [each.schedule_epochs or each.num_epochs for each in (saved, self.config)]
        if self.config.schedule == "cosine" and lengths[0] != lengths[1]:
            changes["schedule_epochs"] = lengths
        begun = state["epoch"] + (state["batch"] > 0)
        epochs = self.config.num_epochs
        if epochs < begun:
            raise ValueError(f"resume: epochs: got {epochs}, expected >= {begun}, those of the checkpoint")
        base_lrs = self.scheduler.base_lrs
        check_fits(state["model"], self.model.state_dict(), "resume: the checkpoint is of other networks", "these")
        self.restore_learned(state)
        self.scheduler.load_state_dict(state["scheduler"])
        if changes:
            self.scheduler.base_lrs = base_lrs
            for group, lr, factor in zip(self.optimizer.param_groups, base_lrs, self.scheduler.lr_lambdas, strict=True):
                set_lr(group, float(lr) * factor(self.scheduler.last_epoch))
        if "seed" in changes:
            torch.manual_seed(self.config.seed)
        if self.ensemble is not None:
            self.ensemble.load_state_dict(state["ensemble"])
        self.totals = from_dict(Totals, state["totals"], "checkpoint: totals", ignore_unknown=True)
        for name in (*MEASURED, *MEASURED_LATER):
            setattr(self, name, state.get(name, getattr(self, name)))
        new = [
            {"step": self.step, "setting": name, "before": old, "after": now} for name, (old, now) in changes.items()
        ]
        self.changes = [*self.changes, *new]

    def news(self, state: dict[str, Any]) -> str:
        """Return what changed when the run was resumed from a state; an empty text if nothing did."""
        changes = self.changes[len(state.get("changes", ())) :]
        if not changes:
            return ""
        was, now = (
            float(groups[0]["lr"]) for groups in (state["optimizer"]["param_groups"], self.optimizer.param_groups)
        )
        texts = [f"{change['setting']} is {change['after']} and was {change['before']}" for change in changes]
        texts += [f"lr goes from {was:.3g} to {now:.3g}"] if was != now else []
        begun = [change["before"] for change in changes if change["setting"] == "schedule_epochs"]
        keep = f"; schedule_epochs={begun[0]} (--schedule-epochs {begun[0]}) keeps it as begun" if begun else ""
        return (
            f"resume: from step {self.step} on {', '.join(texts)}{keep}. The run is no longer bit for bit the one that "
            "was begun, and metrics.json tells it"
        )

    def _check_data(self, state: dict[str, Any], saved: TrainingConfig) -> None:
        """Raise a ValueError if the training data are not those of a checkpoint; earlier ones have only their name."""
        mine = {**self.data_description, "name": os.path.basename(self.config.dataset)}
        theirs = state.get("data", {"number": state["num_data"], "name": os.path.basename(saved.dataset)})
        different = [name for name in theirs if mine[name] != theirs[name]][:1]
        got, expected = (", ".join(f"{name} {values[name]}" for name in different) for values in (mine, theirs))
        expected += "; the data set has changed or moved: --dataset PATH says where it is, --overwrite begins again"
        require(not different, "resume: the training data are not the checkpoint's", got, expected)


def start_run(
    config: TrainingConfig,
    data: ImageData | None = None,
    make_model: MakeModel | None = None,
    state: dict[str, Any] | None = None,
    allowed: Collection[str] = (),
) -> Run:
    """Return a run before its first step, or as in a state, and seed torch. ValueError for what does not fit.

    Args:
        config, data, make_model: as for :func:`ald_ext.training.train`.
        state: that of :meth:`Run.state`.
        allowed: names of settings that may be others than those of the state.
    """
    ranks = Ranks()
    check_device(config.device, "device")
    if data is None:
        dataset, root = config.dataset, config.data_root
        there = state is None or dataset in DATASETS or os.path.exists(dataset)
        expected = "the data of the run, which was begun in another folder or has lost them: --dataset PATH"
        require(there, "resume: dataset", repr(dataset), expected)
        if ranks.count > 1 and config.download:
            ranks.once(lambda: bool(load_dataset(dataset, root, download=True)))
        data = load_dataset(dataset, root, download=config.download)
        config = with_absolute_paths(config)
    else:
        config = dataclasses.replace(config, dataset=data.name or GIVEN_DATA)
    if not len(data.test_images):
        raise ValueError("data: got no test images, expected one at least, to evaluate the model on")
    num_data = len(data.train_images)
    torch.manual_seed(config.seed)
    model_class = find_model_class(config.model)
    network = dataclasses.replace(config.network, shape=tuple(data.train_images.shape[1:]), num_data=num_data)
    network = as_config_of(model_class.config_class, network)
    images, size, seed = data.train_images, config.batch_size, config.seed
    batches = Batches(images, size, seed, config.device, rank=ranks.rank, num_ranks=ranks.count)
    num_epochs, num_steps, _ = config.length(num_data)
    warm_up = config.warm_up
    if warm_up is None:
        in_proportion = min(LONGEST_WARM_UP, num_steps // WARM_UP_PART)
        warm_up = in_proportion if state is None else state["config"].get("warm_up", LONGEST_WARM_UP)
    config = dataclasses.replace(config, network=network, epochs=num_epochs, warm_up=warm_up)
    model = (make_model or model_class)(network).to(config.device)
    with number_of_threads(1):  # so that the bits do not depend on the number
        model.initialize(data.train_images[:INITIAL_IMAGES].to(config.device))
    eager_because = why_not_captured(model, config, ranks.count)
    # Without guards, values of Python that change in networks of one's own would not be seen: these are not compiled
    # unless that is asked for.
    unasked = None if make_model is None else False
    begun = unasked if state is None else bool(state["config"].get("compile"))
    compiled = why_not_compiled(model, config, num_steps, ranks.count, begun) is None
    config = dataclasses.replace(config, compile=compiled)
    optimizer = make_optimizer(model, config, num_data, capturable=eager_because is None)
    run = Run(
        config=config,
        model=model,
        optimizer=optimizer,
        scheduler=make_scheduler(
            optimizer, config, (config.schedule_epochs or 0) * batches.batches_per_epoch or num_steps
        ),
        data=data,
        batches=batches,
        training_step=TrainingStep(model, optimizer, config, eager_because is None, compiled, ranks),
        eager_because=eager_because,
        ranks=ranks,
        ensemble=ParameterEnsemble(config.ensemble_size) if model.langevin and config.ensemble_size else None,
    )
    if state is not None:
        run.restore(state, allowed)
    ranks.check_same(config, images, run.step)
    return run


def with_absolute_paths(config: TrainingConfig) -> TrainingConfig:
    """Return the settings with paths that mean the same in every working directory."""
    dataset, root = config.dataset, config.data_root
    if dataset not in DATASETS and os.path.exists(dataset):
        dataset = os.path.abspath(dataset)
    return dataclasses.replace(config, dataset=dataset, data_root=None if root is None else os.path.abspath(root))


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state except what follows from the settings or the device: a captured step has its lr there.

    ValueError for other groups of parameters, which earlier versions made of some settings.
    """
    got, expected = (
        [len(group["params"]) for group in groups] for groups in (state["param_groups"], optimizer.param_groups)
    )
    way_on = "an earlier version trained it in another way; --overwrite begins again"
    require(got == expected, "resume: optimizer", f"groups of {got} parameters", f"groups of {expected}: {way_on}")
    own_options = ("lr", "capturable", *GROUP_OPTIONS)
    own = [{name: group[name] for name in own_options if name in group} for group in optimizer.param_groups]
    check_loaded("resume: optimizer", optimizer, state)
    optimizer.load_state_dict(state)
    for group, kept in zip(optimizer.param_groups, own, strict=True):
        lr = group["lr"]
        group.update(kept)
        set_lr(group, lr)


def set_lr(group: dict[str, Any], lr: float | Tensor) -> None:
    """Give a group of an optimizer its lr, in the tensor that a captured step reads."""
    own = group["lr"]
    group["lr"] = own.fill_(float(lr)) if isinstance(own, Tensor) else float(lr)


def random_state(device: str) -> dict[str, Tensor]:
    """Return the states of torch's generators, which a VAE and uniform dequantization draw from."""
    state = {"cpu": torch.get_rng_state()}
    if device.startswith("cuda"):
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: str) -> None:
    """Set torch's generators to the states of :func:`random_state`."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and device.startswith("cuda"):
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
