"""The benchmark of training: its baselines compute what our models compute, and a quick run gives every row."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch

from ald_ext import reference
from ald_ext.models import MODELS, LatentVariableModel, ModelConfig
from ald_ext.models.abp import ABPConfig
from ald_ext.models.dlgm import DLGMConfig
from benchmarks.names import COMPILED, FOREACH_STEP, IN_PLACE_STEP, MLP, OUR_STEP, OUR_VAE_STEP, PLAIN_STEP
from benchmarks.page import speed_page
from benchmarks.plain_psgld import ParameterGroup, StepOptions, step_of_variant
from benchmarks.speed.update import reference_options
from benchmarks.training.__main__ import main
from benchmarks.training.cases import MLP_NETWORK, TrainingCase, prepare_step, synthetic_images
from benchmarks.training.models import PLAIN_MODELS

SMALL = ModelConfig(network="mlp", hidden_units=16, num_data=20)
#: Dynamics that stay where they start, as their noise is another's here.
STANDING = {"step_size": 1e-14, "target_acceptance": None}
CONFIGS = {"abp": ABPConfig, "dlgm": DLGMConfig}


def small_model(name: str, network: str) -> LatentVariableModel:
    settings = {**dataclasses.asdict(SMALL), "network": network, "width": 4}
    return MODELS[name](CONFIGS[name](**settings, **STANDING) if name in CONFIGS else ModelConfig(**settings))


def loss_and_gradients(model: torch.nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    images = synthetic_images(20).train_images
    torch.manual_seed(1)
    loss = model.loss(images, torch.arange(20))
    loss.backward()
    networks = ("encoder", "decoder", "sampler", "energy_network")
    return loss.detach(), {
        name: parameter.grad for name, parameter in model.named_parameters() if name.partition(".")[0] in networks
    }


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("name", PLAIN_MODELS)
def test_baselines_compute_the_same(name: str, network: str) -> None:
    torch.manual_seed(0)
    ours = small_model(name, network)
    plain = PLAIN_MODELS[name](ours)
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in ours.parameters())
    (loss, gradients), (plain_loss, plain_gradients) = loss_and_gradients(ours), loss_and_gradients(plain)
    torch.testing.assert_close(plain_loss, loss, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(plain_gradients, gradients, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("variant", [PLAIN_STEP, FOREACH_STEP, IN_PLACE_STEP])
def test_updates_compute_the_same(variant: str) -> None:
    """Without noise, to which a num_data beyond all bounds is equal."""
    torch.manual_seed(0)
    shapes = [(300,), (4, 3, 4, 4)]
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    params[1].data = params[1].data.to(memory_format=torch.channels_last)
    for param in params:
        param.grad = torch.randn_like(param)
    expected, grads = [param.detach().clone() for param in params], [param.grad.clone() for param in params]
    square_avgs = [torch.zeros_like(param) for param in params]
    group = ParameterGroup(params, 0.1, StepOptions(lr=0.01, num_data=10**20, alpha=0.9, eps=0.1))
    with torch.no_grad():
        step_of_variant(variant)(group)
    numbers = {"lr": 0.01, "num_data": 1, "temperature": 0, "alpha": 0.9, "eps": 0.1, "freeze_after": 10}
    options = {**numbers, "seed": 0, "step": 1, **reference_options(2), "weight_decay": 0.1}
    reference.psgld_step_(expected, grads, square_avgs, **options)
    torch.testing.assert_close([param.detach() for param in params], expected)
    torch.testing.assert_close(group.square_avgs, square_avgs)


def test_noise_has_the_right_scale() -> None:
    """Parameters without a gradient are shaken by √(2·lr/(N·λ))."""
    for variant in (PLAIN_STEP, FOREACH_STEP, IN_PLACE_STEP):
        param = torch.nn.Parameter(torch.zeros(100_000))
        param.grad = torch.zeros_like(param)
        with torch.no_grad():
            step_of_variant(variant)(ParameterGroup([param], 0.0, StepOptions(0.01, 50, 0.9, 0.1)))
        assert param.std().item() == pytest.approx((2 * 0.01 / (50 * 0.1)) ** 0.5, rel=0.02), variant


@pytest.mark.exhaustive
def test_quick_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["training", "--quick", "--out", str(tmp_path), "--origin", "a test"])
    main()
    results = json.loads((tmp_path / "training_cpu.json").read_text())
    assert results["left_out"] == []
    assert {row["size"] for row in results["rows"]} == set(PLAIN_MODELS)
    assert all(row["images_per_s"]["median"] > 0 for row in results["rows"])
    assert f"| {OUR_STEP} / {OUR_VAE_STEP} |" in speed_page({"training_cpu": results})


@pytest.mark.exhaustive
@pytest.mark.parametrize("model", ["lae", "abp"])
def test_compiled_steps_run(model: str) -> None:
    case = TrainingCase("small", (model,), SMALL, batch_size=10, images=20)
    losses = [float(prepare_step(case, model, variant)[0]()) for variant in (OUR_STEP, COMPILED)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_networks_hold_five_million_parameters() -> None:
    case = TrainingCase(MLP, ("lae",), MLP_NETWORK, batch_size=1)
    assert case.settings()["models"]["lae"]["network_parameters"] == pytest.approx(5e6, rel=0.02)
