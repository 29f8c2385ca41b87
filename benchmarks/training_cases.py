"""What the benchmark of training measures: models, networks and batches; ways to make a step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from names import COMPILED, FOREACH_STEP, IN_PLACE_STEP, MLP_CASE, OUR_STEP, PLAIN_LOOP, PLAIN_STEP, SMALL_CONV_CASE
from torch import Tensor
from training_baselines import PLAIN_MODELS, PlainModel
from training_updates import ParameterGroup, PlainPSGLD, StepOptions, step_of_variant
from variants import Run

from ald_ext.data.image_data import ImageData
from ald_ext.models import MODELS, LatentVariableModel, ModelConfig
from ald_ext.training import TrainingConfig
from ald_ext.training.loop import start_run

#: Measured in one alternation, as their steps are compared.
COMPARED_MODELS = ("lae", "vae")
MODEL_GROUPS = (COMPARED_MODELS, ("clae",), ("ae",), ("abp",), ("dlgm",))

#: A multiple of every batch size, so that no minibatch is short.
IMAGES = 5000

#: Of all optimizers. A measurement makes as many steps as its time allows, on a GPU ten thousands. How long one takes
#: does not depend on lr, but it must not diverge: Adam at the command line's 4e-3 can move a VAE's log σ, a sum of
#: hidden_units terms, by several units at once, and σ = exp(log σ) overflowed after some 500 steps.
LR = 1e-4

#: Encoder and decoder together hold about five million parameters.
MLP_NETWORK = ModelConfig(network="mlp", hidden_units=1136, hidden_layers=2)
CONV_NETWORK = ModelConfig(network="conv")

#: Variants of the models that pSGLD trains, and of those that Adam trains.
LANGEVIN_VARIANTS = (OUR_STEP, PLAIN_STEP, FOREACH_STEP, IN_PLACE_STEP, COMPILED)
ADAM_VARIANTS = (OUR_STEP, PLAIN_LOOP, COMPILED)


@dataclass(frozen=True)
class TrainingCase:
    """Models that are measured in one alternation, on one kind of network and one batch size.

    Attributes:
        family: as in the tables.
        models: names in ald_ext.models.MODELS.
        network: its size and form.
        batch_size: images a step.
        images: in the training set.
        compiled: torch.compile is measured too.
    """

    family: str
    models: Sequence[str]
    network: ModelConfig
    batch_size: int
    images: int = IMAGES
    compiled: bool = True

    def config(self, model: str, device: torch.device) -> TrainingConfig:
        """The settings of a run; those that are not given are the command line's defaults."""
        return TrainingConfig(model=model, batch_size=self.batch_size, lr=LR, device=str(device), network=self.network)

    def variants(self, model: str) -> list[str]:
        names = LANGEVIN_VARIANTS if MODELS[model].langevin else ADAM_VARIANTS
        return [name for name in names if self.compiled or name != COMPILED]


def training_cases(quick: bool) -> list[TrainingCase]:
    if quick:
        mlp, conv = ModelConfig(network="mlp", hidden_units=64), ModelConfig(network="conv", width=4)
        small = {"images": 40, "compiled": False}
        return [
            *(TrainingCase("mlp, small", models, mlp, 10, **small) for models in MODEL_GROUPS),
            TrainingCase("conv, small", COMPARED_MODELS, conv, 10, **small),
        ]
    return [
        *(TrainingCase(MLP_CASE, models, MLP_NETWORK, 100) for models in MODEL_GROUPS),
        *(TrainingCase(SMALL_CONV_CASE, models, CONV_NETWORK, 50) for models in MODEL_GROUPS),
        TrainingCase("conv, batch 500", COMPARED_MODELS, CONV_NETWORK, 500),
    ]


def synthetic_images(count: int) -> ImageData:
    """Smooth shapes on black: as fast to train on as digits, and there without a download."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 1, 6, 6, generator=generator)
    images = F.interpolate(coarse, size=(32, 32), mode="bilinear").mul(255).clamp(0, 255).to(torch.uint8)
    return ImageData(images, None, images[:1], None, name="synthetic")


@dataclass(frozen=True)
class PreparedStep:
    """What makes a step, and what is to be known about it."""

    run: Run
    note: str | None = None


def prepare_step(case: TrainingCase, model: str, variant: str, device: torch.device) -> PreparedStep:
    """The steps of a variant from the same initial parameters, on the same minibatches over and over."""
    config = case.config(model, device)
    if variant == OUR_STEP:
        return our_step(config, synthetic_images(case.images))
    return plain_step(config, synthetic_images(case.images), variant)


def our_step(config: TrainingConfig, data: ImageData) -> PreparedStep:
    """As the training loop makes it: the captured graph on a GPU, if the model allows it; the scheduler's step."""
    run = start_run(config, data)
    minibatches, steps = itertools.cycle(list(run.batches.epoch(0))), itertools.count(1)

    def step() -> Tensor:
        loss = run.training_step(next(steps), *next(minibatches))
        run.scheduler.step()
        return loss

    eager = run.eager_because if config.device != "cpu" else None
    return PreparedStep(step, None if eager is None else f"not captured: {eager}")


def plain_step(config: TrainingConfig, data: ImageData, variant: str) -> PreparedStep:
    """Plain PyTorch around a copy of the same networks."""
    start = start_run(config, data)
    model = PLAIN_MODELS[config.model](start.model).to(config.device)
    optimizer = plain_optimizer(start.model, model, config, len(data.train_images), variant)
    if variant == COMPILED:
        model.compile_loss()
    minibatches = itertools.cycle(list(start.batches.epoch(0)))

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = model.loss(*next(minibatches))
        loss.backward()
        optimizer.step()
        return loss.detach()

    note = model.left_eager if variant == COMPILED and model.left_eager else None
    return PreparedStep(step, None if note is None else f"eager: {note}")


def plain_optimizer(
    ours: LatentVariableModel, plain: PlainModel, config: TrainingConfig, num_data: int, variant: str
) -> torch.optim.Optimizer | PlainPSGLD:
    """Fused Adam, or a pSGLD step in plain PyTorch for the groups that ours has."""
    if not ours.langevin:
        return torch.optim.Adam(plain.parameters(), config.lr, fused=True)
    names = {id(parameter): name.replace("prior.", "prior_") for name, parameter in ours.named_parameters()}
    by_name = dict(plain.named_parameters())
    groups = [
        ParameterGroup(
            [by_name[names[id(parameter)]] for parameter in group["params"]],
            group.get("weight_decay", 0.0),
            StepOptions(config.lr, num_data, config.alpha, config.eps),
        )
        for group in ours.parameter_groups(num_data)
    ]
    return PlainPSGLD(groups, step_of_variant(variant))


def network_parameters(case: TrainingCase, model: str) -> int:
    """Of encoder and decoder together."""
    start = start_run(case.config(model, torch.device("cpu")), synthetic_images(case.batch_size))
    networks = [getattr(start.model, name) for name in ("encoder", "decoder") if hasattr(start.model, name)]
    return sum(parameter.numel() for network in networks for parameter in network.parameters())


def prepared_steps(case: TrainingCase, device: torch.device) -> dict[tuple[str, str], partial[PreparedStep]]:
    """What prepares each variant of each model of a case."""
    return {
        (model, variant): partial(prepare_step, case, model, variant, device)
        for model in case.models
        for variant in case.variants(model)
    }
