"""A training run between two steps: everything that the next step depends on, saved and restored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from ..data.batches import Batches
from ..data.datasets import ImageData, load_dataset
from ..models import LatentVariableModel, ModelConfig, ParameterEnsemble, find_model_class
from ..models.ensemble import state_of_ensemble
from ..models.latent_variable_model import as_config_of
from ..models.saving import model_contents
from ..models.tensor_files import first_line
from ..optim.checks import check_loaded
from ..settings import from_dict
from ..threads import number_of_threads
from .checkpoints import MEASURED, MEASURED_LATER, Totals
from .config import TrainingConfig
from .optimizers import make_optimizer, make_scheduler
from .ranks import Ranks
from .step import TrainingStep, why_not_captured

#: Number of images from which initial values that depend on data are found.
INITIAL_IMAGES = 500
#: The dataset of runs on data that were passed in and have no name.
GIVEN_DATA = "(given in Python)"

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
    """

    config: TrainingConfig
    model: LatentVariableModel
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
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

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on, and what was measured so far."""
        return {
            **model_contents(self.model),
            **self.learned(),
            **{name: getattr(self, name) for name in (*MEASURED, *MEASURED_LATER)},
            "config": self.config.to_dict(),
            "num_data": len(self.data.train_images),
            "scheduler": self.scheduler.state_dict(),
            "totals": dataclasses.asdict(self.totals),
            "ensemble": state_of_ensemble(self.ensemble),
        }

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

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`. ValueError for the state of another run."""
        saved = TrainingConfig.from_dict(state["config"])
        self.config.check_resumes(saved)
        begun = state["epoch"] + (state["batch"] > 0)
        epochs = self.config.num_epochs
        if epochs < begun:
            raise ValueError(f"resume: epochs: got {epochs}, expected >= {begun}, those of the checkpoint")
        try:
            self.restore_learned(state)
        except RuntimeError as error:
            raise ValueError(f"resume: the checkpoint is of other networks ({first_line(error)})") from error
        self.scheduler.load_state_dict(state["scheduler"])
        if self.ensemble is not None:
            self.ensemble.load_state_dict(state["ensemble"])
        self.totals = from_dict(Totals, state["totals"], "checkpoint: totals", ignore_unknown=True)
        for name in (*MEASURED, *MEASURED_LATER):
            setattr(self, name, state.get(name, getattr(self, name)))


def start_run(
    config: TrainingConfig,
    data: ImageData | None = None,
    make_model: MakeModel | None = None,
    state: dict[str, Any] | None = None,
) -> Run:
    """Return a run before its first step, or as in a state, and seed torch. ValueError for what does not fit."""
    ranks, dataset = Ranks(), config.dataset
    if data is None:
        if ranks.count > 1 and config.download:
            ranks.once(lambda: bool(load_dataset(dataset, config.data_root, download=True)))
        data = load_dataset(dataset, config.data_root, download=config.download)
    else:
        dataset = data.name or GIVEN_DATA
    if not len(data.test_images):
        raise ValueError("data: got no test images, expected one at least, to evaluate the model on")
    num_data = len(data.train_images)
    torch.manual_seed(config.seed)
    model_class = find_model_class(config.model)
    network = dataclasses.replace(config.network, shape=tuple(data.train_images.shape[1:]), num_data=num_data)
    network = as_config_of(model_class.config_class, network)
    config = dataclasses.replace(config, network=network, epochs=config.num_epochs, dataset=dataset)
    images, size, seed = data.train_images, config.batch_size, config.seed
    batches = Batches(images, size, seed, config.device, rank=ranks.rank, num_ranks=ranks.count)
    model = (make_model or model_class)(network).to(config.device)
    with number_of_threads(1):  # so that the bits do not depend on the number
        model.initialize(data.train_images[:INITIAL_IMAGES].to(config.device))
    eager_because = why_not_captured(model, config, ranks.count)
    optimizer = make_optimizer(model, config, num_data, capturable=eager_because is None)
    run = Run(
        config=config,
        model=model,
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, config, config.num_epochs * batches.batches_per_epoch),
        data=data,
        batches=batches,
        training_step=TrainingStep(model, optimizer, config, eager_because is None, ranks),
        eager_because=eager_because,
        ranks=ranks,
        ensemble=ParameterEnsemble(config.ensemble_size) if model.langevin and config.ensemble_size else None,
    )
    if state is not None:
        run.restore(state)
    ranks.check_same(config, images, run.step)
    return run


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state except what depends on the device: a captured step has its lr there."""
    own = [{"lr": group["lr"], "capturable": group["capturable"]} for group in optimizer.param_groups]
    check_loaded("resume: optimizer", optimizer, state)
    optimizer.load_state_dict(state)
    for group, kept in zip(optimizer.param_groups, own, strict=True):
        lr = kept["lr"]
        kept["lr"] = lr.fill_(float(group["lr"])) if isinstance(lr, Tensor) else float(group["lr"])
        group.update(kept)


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
