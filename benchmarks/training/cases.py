"""Training steps: which models, networks and batches are measured, and against which loops in plain PyTorch."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ald_ext.data import ImageData
from ald_ext.models import MODELS, LatentVariableModel, ModelConfig
from ald_ext.training import TrainingConfig
from ald_ext.training.loop import start_run

from .. import names
from ..harness import Case, Key
from ..measurement import Run, Samples, quantiles
from ..plain_psgld import ParameterGroup, Step, StepOptions, step_of_variant
from .models import PLAIN_MODELS, PlainModel

#: Measured in one alternation, as their steps are compared.
COMPARED_MODELS = ("lae", "vae")
MODEL_GROUPS = (COMPARED_MODELS, ("clae",), ("ae",), ("abp",), ("dlgm",))

#: A multiple of every batch size, so that no minibatch is short.
IMAGES = 5000

#: The learning rate of all optimizers. A measurement makes as many steps as its time allows, on a GPU ten thousands.
#: How long one takes does not depend on lr, but it may not diverge: Adam at the command line's 4e-3 can move a VAE's
#: log σ, a sum of hidden_units terms, by several units at once, and σ = exp(log σ) overflowed after some 500 steps.
LR = 1e-4

#: Encoder and decoder together hold about five million parameters.
MLP_NETWORK = ModelConfig(network="mlp", hidden_units=1136, hidden_layers=2)
CONV_NETWORK = ModelConfig(network="conv")

#: Variants of the models that pSGLD trains, and of those that Adam trains.
OURS = (names.OUR_STEP, names.OUR_COMPILED_STEP)
COMPILED_VARIANTS = (names.OUR_COMPILED_STEP, names.COMPILED, names.COMPILED_OUR_LAYERS)
LANGEVIN_VARIANTS = (*OURS, names.PLAIN_STEP, names.FOREACH_STEP, names.IN_PLACE_STEP, names.COMPILED)
ADAM_VARIANTS = (*OURS, names.PLAIN_LOOP, names.COMPILED)


@dataclass(frozen=True)
class TrainingCase(Case):
    """Models that are measured in one alternation, on one kind of network and one batch size."""

    family: str
    sizes: Sequence[str]  # names of ald_ext.models.MODELS
    network: ModelConfig
    batch_size: int
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)
    images: int = IMAGES  # of the training set
    compiled: bool = True  # by torch.compile, too
    notes: dict[Key, str | None] = field(default_factory=dict)  # on variants, made while they are prepared

    def config(self, model: str) -> TrainingConfig:
        """The settings of a run; those that are not given are the command line's defaults."""
        device = str(self.device)
        return TrainingConfig(model=model, batch_size=self.batch_size, lr=LR, device=device, network=self.network)

    def variants(self, model: str) -> list[str]:
        variants = LANGEVIN_VARIANTS if MODELS[model].langevin else ADAM_VARIANTS
        if self.network.network == "conv" and MODELS[model].langevin:
            variants += (names.COMPILED_OUR_LAYERS,)
        by_hand = () if MODELS[model].why_not_captured is None else (names.OUR_COMPILED_STEP,)
        return [name for name in variants if (self.compiled or name not in COMPILED_VARIANTS) and name not in by_hand]

    def preparations(self) -> Mapping[Key, Callable[[], Run]]:
        keys = [(model, variant) for model in self.sizes for variant in self.variants(model)]
        return {key: partial(self.prepare, *key) for key in keys}

    def prepare(self, model: str, variant: str) -> Run:
        """A step, after two of them, in which compilers run and optimizers make their state."""
        with torch.random.fork_rng():
            run, self.notes[model, variant] = prepare_step(self, model, variant)
            run()
            self.check_afterwards(run)
        return run

    def check_afterwards(self, run: Run) -> None:
        """ValueError if the loss is no number: the networks then compute something else than in training."""
        loss = float(run())
        if not math.isfinite(loss):
            raise ValueError(f"the loss is {loss}")

    def row(self, key: Key, samples: Samples) -> dict[str, Any]:
        return {
            "note": self.notes[key],
            "images_per_s": quantiles([self.batch_size / seconds for seconds in samples.seconds]),
        }

    def ratios(self) -> list[tuple[Key, Key]]:
        pairs = [
            ((model, name), (model, ours)) for model in self.sizes for ours in OURS for name in self.variants(model)
        ]
        first, second = COMPARED_MODELS
        return [*(pair for pair in pairs if pair[0] != pair[1]), ((first, names.OUR_STEP), (second, names.OUR_STEP))]

    def settings(self) -> dict[str, Any]:
        """What the rows of the case were measured with."""
        models = {}
        for model in self.sizes:
            # The parameters of encoder and decoder together.
            config = replace(self.config(model), device="cpu")
            ours = start_run(config, synthetic_images(self.batch_size)).model
            networks = [getattr(ours, name) for name in ("encoder", "decoder") if hasattr(ours, name)]
            count = sum(parameter.numel() for network in networks for parameter in network.parameters())
            models[model] = {"network_parameters": count, "training": self.config(model).to_dict()}
        facts = {"family": self.family, "batch_size": self.batch_size, "images": self.images, "data": "synthetic"}
        return {**facts, "models": models}


def training_cases(device: torch.device, quick: bool) -> list[TrainingCase]:
    if quick:
        mlp, conv = ModelConfig(network="mlp", hidden_units=64), ModelConfig(network="conv", width=4)
        small: dict[str, Any] = {"images": 40, "compiled": False}
        return [
            *(TrainingCase("mlp, small", models, mlp, 10, device, **small) for models in MODEL_GROUPS),
            TrainingCase("conv, small", COMPARED_MODELS, conv, 10, device, **small),
        ]
    return [
        *(TrainingCase(names.MLP, models, MLP_NETWORK, 100, device) for models in MODEL_GROUPS),
        *(TrainingCase(names.CONV, models, CONV_NETWORK, 50, device) for models in MODEL_GROUPS),
        TrainingCase("conv, batch 500", COMPARED_MODELS, CONV_NETWORK, 500, device),
    ]


def synthetic_images(count: int) -> ImageData:
    """Smooth shapes on black: as fast to train on as digits, and there without a download."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 1, 6, 6, generator=generator)
    images = F.interpolate(coarse, size=(32, 32), mode="bilinear").mul(255).clamp(0, 255).to(torch.uint8)
    return ImageData(images, None, images[:1], None, name="synthetic")


def prepare_step(case: TrainingCase, model: str, variant: str) -> tuple[Run, str | None]:
    """A step, and a note on it: from the same initial parameters, on the same minibatches over and over."""
    make = our_step if variant in OURS else partial(plain_step, variant)
    config = replace(case.config(model), compile=variant == names.OUR_COMPILED_STEP)
    return make(config, synthetic_images(case.images))


def our_step(config: TrainingConfig, data: ImageData) -> tuple[Run, str | None]:
    """A step as the training loop makes it: with the scheduler, and on a GPU as a captured graph where it can be."""
    run = start_run(config, data)
    minibatches, steps = itertools.cycle(list(run.batches.epoch(0))), itertools.count(1)

    def step() -> Tensor:
        loss = run.training_step(next(steps), *next(minibatches))
        run.scheduler.step()
        return loss

    eager = run.eager_because if config.device != "cpu" else None
    return step, None if eager is None else f"not captured: {eager}"


def plain_step(variant: str, config: TrainingConfig, data: ImageData) -> tuple[Run, str | None]:
    """A step in plain PyTorch around a copy of the same networks."""
    start = start_run(config, data)
    model = PLAIN_MODELS[config.model](start.model, variant == names.COMPILED_OUR_LAYERS).to(config.device)
    optimizer = plain_optimizer(start.model, model, config, len(data.train_images), variant)
    if variant in COMPILED_VARIANTS:
        model.compile_loss()
    minibatches = itertools.cycle(list(start.batches.epoch(0)))

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = model.loss(*next(minibatches))
        loss.backward()
        optimizer.step()
        return loss.detach()

    note = model.left_eager if variant in COMPILED_VARIANTS else None
    return step, None if note is None else f"eager: {note}"


@dataclass(frozen=True)
class PlainPSGLD:
    """A step function with its groups, which is all that a loop needs of an optimizer."""

    groups: Sequence[ParameterGroup]
    step_group: Step

    @torch.no_grad()
    def step(self) -> None:
        for group in self.groups:
            self.step_group(group)

    def zero_grad(self) -> None:
        for group in self.groups:
            for param in group.params:
                param.grad = None


def plain_optimizer(
    ours: LatentVariableModel, plain: PlainModel, config: TrainingConfig, num_data: int, variant: str
) -> torch.optim.Optimizer | PlainPSGLD:
    """Fused Adam, or a pSGLD step in plain PyTorch for the groups that ours has."""
    if not ours.langevin:
        return torch.optim.Adam(plain.parameters(), config.lr, fused=True)
    plain_names = {id(parameter): name.replace("prior.", "prior_") for name, parameter in ours.named_parameters()}
    by_name = dict(plain.named_parameters())
    groups = [
        ParameterGroup(
            [by_name[plain_names[id(parameter)]] for parameter in group["params"]],
            group.get("weight_decay", 0.0),
            StepOptions(config.lr, num_data, config.alpha, config.eps),
        )
        for group in ours.parameter_groups(num_data)
    ]
    return PlainPSGLD(groups, step_of_variant(variant))
