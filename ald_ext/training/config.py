"""The settings of a training run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.datasets import DATASETS
from ..files import write_json
from ..models import MODELS, ModelConfig, config_from_dict
from ..models.likelihoods import LIKELIHOODS
from ..settings import check_values, from_dict, parse_json, require, setting, shortened

#: Default learning rate of PSGLD and of Adam.
DEFAULT_LR = 4e-3

#: Epochs where none are given; fewer for models whose steps take many gradients.
DEFAULT_EPOCHS, FEWER_EPOCHS = 80, {"abp": 20, "dlgm": 30}

#: The part of a run's steps that are warm-up where none are given, and the most of them.
WARM_UP_PART, LONGEST_WARM_UP = 10, 500

#: Settings that do not change the result of a run.
IRRELEVANT = {"device", "data_root", "download", "capture", "threads"} | {
    *("checkpoint_every", "tensorboard", "pictures_every"),
}
#: The settings that may change when a run is resumed, as the schedule and the contents of the data are looked at by
#: themselves. A change of any other makes it another run.
RESUMABLE = {"epochs", "schedule_epochs", "evaluate_every", "divergence_limit", "dataset"} | IRRELEVANT
#: Those that may change when a run is resumed, too, but not unsaid, as the last bits of what follows are others.
RESUMABLE_AND_TOLD = {"compile"}
#: The settings without which a checkpoint has no meaning, and so never change.
FIXED = {"model", "batch_size", "network.shape", "network.num_data", "network.data"}

#: Settings that are read only where another one has one of these values.
READ_WHERE: dict[str, tuple[str, tuple[str, ...]]] = {
    **dict.fromkeys(("final_lr", "schedule_epochs"), ("schedule", ("cosine",))),
    **dict.fromkeys(("decay_offset", "decay_exponent"), ("schedule", ("polynomial",))),
    **dict.fromkeys(
        ("temperature", "alpha", "eps", "momentum", "freeze_after", "ensemble_size", "ensemble_every"),
        ("model", tuple(name for name, model in MODELS.items() if model.langevin)),
    ),
    "width": ("network", ("conv",)),
    **dict.fromkeys(("hidden_units", "hidden_layers"), ("network", ("mlp",))),
    **{name: ("likelihood", (kind,)) for kind, likelihood in LIKELIHOODS.items() for name in likelihood.settings},
    "decoder_prior_scale": ("decoder_inference", ("bayes", "map")),
    "sampler_inputs": ("prior_sampler", ("amortized", "generator")),
    "chains": ("prior_sampler", ("amortized", "langevin")),
    **dict.fromkeys(("prior_steps", "prior_step_size"), ("prior_sampler", ("langevin",))),
}


@dataclass(frozen=True)
class TrainingConfig:
    """What ``ald-ext train`` runs; written beside its results as config.json.

    Args:
        model: the model's name in :data:`ald_ext.models.MODELS`.
        dataset: a .npz file, a folder of images, or a name in :data:`ald_ext.data.DATASETS`, of which "mnist5k" needs
            no network; see :func:`ald_ext.data.load_dataset`.
        data_root: folder with the files of a data set that has a name.
        download: fetch files that are missing there.
        epochs: passes over the training images; None stands for 80, or for 20 with ABP and 30 with DLGM, whose steps
            take longer.
        steps: the most minibatches; the run ends with them where that is within its epochs, even inside one. None:
            whole epochs. Where only steps are given, the epochs follow from them.
        batch_size: number of images in a minibatch.
        lr: step size of PSGLD (lae, clae) or Adam (the others).
        schedule: course of lr over the run: "constant"; "cosine", down to ``final_lr`` · lr at the last step;
            "polynomial", lr · (1 + t/b)^-γ after t steps (Welling & Teh 2011), which does not depend on the number of
            epochs.
        schedule_epochs: epochs over which "cosine" goes down, after which lr stays; None stands for ``epochs``.
        final_lr: ratio of the last lr to the first with "cosine".
        decay_offset: offset b of "polynomial", in steps.
        decay_exponent: γ of "polynomial", 0.5 < γ <= 1.
        warm_up: steps over which lr rises from 0; None stands for a tenth of all, at most 500. PSGLD's v begins at 0,
            so without it the first step would be lr/√(1 - alpha) long for every parameter, whatever its gradient.
        temperature: temperature T of PSGLD; 1 samples the posterior, 0 optimizes.
        alpha: decay of the mean v of squared gradients in PSGLD's preconditioner 1 / (√v + eps).
        eps: smallest denominator of PSGLD's preconditioner 1 / (√v + eps).
        momentum: μ of the running means of gradients ḡ ← μ ḡ + (1-μ) g, beginning at 0, that replace the gradients of
            models whose parameters are sampled; 0 leaves the gradients. The means have less noise, so that v is
            smaller, and lr and eps should be lower.
        freeze_after: number of steps after which the preconditioner stays fixed; None adapts it throughout.
        seed: seed of the initial weights, the order of the data, and all noise.
        device: torch device, such as "cpu", "cuda" or "cuda:1".
        bf16: compute the networks in bfloat16 by autocast; parameters, likelihood and optimizer stay in float32.
        capture: make each step one captured CUDA graph; None does so on a GPU where the model allows it.
        compile: compile the loss and its gradients by torch.compile, which takes a C++ compiler; results differ in the
            last bits. None does so on a CPU where the model allows it and the run is long enough to pay for it, but not
            with networks of your own, in which numbers and flags of Python would stay what they are at the first step.
        threads: number of threads on the CPU; None takes as many as are fastest, unless OMP_NUM_THREADS or the like
            says how many: see Note [Number of threads] in ald_ext.threads.
        evaluate_every: epochs from one evaluation on the test images to the next.
        pictures_every: epochs from one set of pictures to the next; None makes them at the end only.
        checkpoint_every: steps from one checkpoint to the next; None writes one after each epoch. The last step always
            has one.
        tensorboard: write scalars and pictures for TensorBoard to OUT/tensorboard.
        ensemble_size: number of samples of the parameters that are kept for predictive averages, of models whose
            parameters are sampled; 0 keeps none.
        ensemble_every: steps from one of these samples to the next.
        divergence_limit: largest loss, in nats for each datum; a loss beyond it, or one that is not finite, stops the
            run.
        network: size and form of the model.

    Raises:
        ValueError: a value out of its range.
    """

    model: str = setting("lae", choices=MODELS)
    dataset: str = setting("mnist5k", suggestions=DATASETS)
    data_root: str | None = None
    download: bool = False
    epochs: int | None = setting(None, at_least=1)
    steps: int | None = setting(None, at_least=1)
    batch_size: int = setting(25, at_least=1)
    lr: float = setting(DEFAULT_LR, above=0, below=math.inf)
    schedule: str = setting("cosine", choices=("constant", "cosine", "polynomial"))
    schedule_epochs: int | None = setting(None, at_least=1)
    final_lr: float = setting(0.02, above=0, at_most=1)
    decay_offset: float = setting(1000.0, above=0)
    decay_exponent: float = setting(1.0, above=0.5, at_most=1)
    warm_up: int | None = setting(None, at_least=0)
    temperature: float = 1.0
    alpha: float = 0.99
    eps: float = 0.3
    momentum: float = setting(0.0, at_least=0, below=1)
    freeze_after: int | None = None
    seed: int = setting(0, at_least=0, below=2**63)
    device: str = "cpu"
    bf16: bool = False
    capture: bool | None = None
    compile: bool | None = None
    threads: int | None = setting(None, at_least=1)
    evaluate_every: int = setting(5, at_least=1)
    pictures_every: int | None = setting(None, at_least=1)
    checkpoint_every: int | None = setting(None, at_least=1)
    tensorboard: bool = False
    ensemble_size: int = setting(10, at_least=0)
    ensemble_every: int = setting(500, at_least=1)
    divergence_limit: float = setting(1e8, above=0)
    network: ModelConfig = field(default_factory=ModelConfig)

    def __post_init__(self) -> None:
        check_values(self, "TrainingConfig")

    @property
    def num_epochs(self) -> int:
        """The number of epochs: ``epochs``, or the model's default."""
        return FEWER_EPOCHS.get(self.model, DEFAULT_EPOCHS) if self.epochs is None else self.epochs

    def length(self, num_data: int) -> tuple[int, int, int]:
        """Return the numbers of epochs, of steps and of images of a run on so many training images.

        The last epoch is not whole where ``steps`` end inside it.
        """
        per_epoch = -(-num_data // self.batch_size)
        whole = math.inf if self.steps is not None and self.epochs is None else self.num_epochs * per_epoch
        steps = int(min(whole, math.inf if self.steps is None else self.steps))
        full, rest = divmod(steps, per_epoch)
        return full + (rest > 0), steps, full * num_data + rest * self.batch_size

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON and checkpoints hold them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingConfig:
        """Return the settings of :meth:`to_dict`, also after a round trip through JSON; missing ones have defaults.

        Raises:
            ValueError: a name that is no setting, or a value out of its range.
        """
        model = values.get("model", cls.model)
        network = values.get("network", {})
        if isinstance(model, str) and model in MODELS and isinstance(network, dict):  # otherwise it is refused below
            network = config_from_dict(MODELS[model].config_class, network)
        return from_dict(cls, {**values, "network": network}, "TrainingConfig")

    @classmethod
    def load(cls, path: Path) -> TrainingConfig:
        """Return the settings of a JSON file, as :meth:`save` writes it.

        Raises:
            ValueError: the file is no JSON, or not of these settings.
            OSError: the file cannot be read.
        """
        owner = f"config: {str(path)!r}"
        values = parse_json(path.read_bytes(), owner)
        require(isinstance(values, dict), owner, shortened(values), "an object of settings")
        return cls.from_dict(values)

    def save(self, path: Path) -> None:
        """Write the settings to a JSON file."""
        write_json(path, self.to_dict())

    def changes_of(self, saved: TrainingConfig, allowed: Collection[str] = ()) -> dict[str, list[Any]]:
        """Return what differs from the settings of a checkpoint, before and now, by the setting's name.

        Args:
            saved: settings of the checkpoint.
            allowed: names of settings that may differ although they make it another run.

        Raises:
            ValueError: a setting differs that may not.
        """
        mine, theirs = flattened(self.to_dict()), flattened(saved.to_dict())
        shared = [name for name in mine if name in theirs and name not in RESUMABLE]  # all, if the model is the same
        changes = {name: [theirs[name], mine[name]] for name in shared if mine[name] != theirs[name]}
        may_change = {*allowed, *RESUMABLE_AND_TOLD}
        refused = [name for name in changes if name in FIXED or name.removeprefix("network.") not in may_change]
        if refused:
            got, expected = (", ".join(f"{name}={changes[name][now]!r}" for name in refused) for now in (1, 0))
            raise ValueError(f"resume: the checkpoint is of another run: got {got}, expected {expected}")
        return changes

    def unread(self) -> dict[str, tuple[str, str]]:
        """Return the settings that do nothing beside the others, by name: what they are given with, and go with."""
        values = {**dataclasses.asdict(self.network), **self.to_dict(), "network": self.network.network}
        found = {}
        for name, (decider, readers) in READ_WHERE.items():
            if name in values and values.get(decider, readers[0]) not in readers:
                siblings = [other for other, where in READ_WHERE.items() if where[0] == decider]
                own = [other for other in siblings if values[decider] in READ_WHERE[other][1]]
                instead = f" ({values[decider]} reads {', '.join(own)})" if own else ""
                expected = f"{decider} {' or '.join(readers)}, which reads it{instead}"
                found[name] = f"it with {decider} {values[decider]}", expected
        return found

    def in_vain(self, *, own_networks: bool = False) -> str:
        """Return which settings do nothing and are not their defaults, with what they go with; else an empty text.

        Args:
            own_networks: whether the model's networks are one's own, which may read any of its settings.
        """
        network = {} if own_networks else dataclasses.asdict(self.network)
        values = {**dataclasses.asdict(self), **network}
        defaults = {field.name: field.default for each in (self, self.network) for field in dataclasses.fields(each)}
        passed_over = ("ensemble_size", "ensemble_every")  # which say how much of what some models have is kept
        return "; ".join(
            f"{name}: got {got}, expected {expected}"
            for name, (got, expected) in self.unread().items()
            if name in values and name not in passed_over and values[name] != defaults[name]
        )


def flattened(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings with those of the network beside them, as "network.width"."""
    network = {f"network.{name}": value for name, value in values["network"].items()}
    return {**{name: value for name, value in values.items() if name != "network"}, **network}
