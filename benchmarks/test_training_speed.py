"""The benchmark of training: its baselines compute what our models compute, and a quick run gives every row."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from names import COMPILED, FOREACH_STEP, IN_PLACE_STEP, MLP_CASE, OUR_STEP, OUR_VAE_STEP, PLAIN_STEP
from provenance import describe_run
from results_page import stale, write_page
from test_results_page import ratio_of, results_of, verdicts
from training import measure_training
from training_baselines import PLAIN_MODELS
from training_cases import MLP_NETWORK, TrainingCase, network_parameters, prepare_step, synthetic_images
from training_updates import ParameterGroup, StepOptions, step_of_variant

from ald_ext import reference
from ald_ext.models import MODELS, LatentVariableModel, ModelConfig
from ald_ext.models.abp import ABPConfig
from ald_ext.models.dlgm import DLGMConfig

CPU = torch.device("cpu")
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
    fixed = {"maximize": False, "freeze_after": 10, "seed": 0, "step": 1, "noise_ids": [0, 1], "offsets": [0, 0]}
    reference.psgld_step_(
        expected, grads, square_avgs, lr=0.01, num_data=1, temperature=0, weight_decay=0.1, alpha=0.9, eps=0.1, **fixed
    )
    torch.testing.assert_close([param.detach() for param in params], expected)
    torch.testing.assert_close(group.square_avgs, square_avgs)


def test_noise_has_the_right_scale() -> None:
    """Of parameters without gradient: √(2·lr/(N·λ))."""
    for variant in (PLAIN_STEP, FOREACH_STEP, IN_PLACE_STEP):
        param = torch.nn.Parameter(torch.zeros(100_000))
        param.grad = torch.zeros_like(param)
        with torch.no_grad():
            step_of_variant(variant)(ParameterGroup([param], 0.0, StepOptions(0.01, 50, 0.9, 0.1)))
        assert param.std().item() == pytest.approx((2 * 0.01 / (50 * 0.1)) ** 0.5, rel=0.02), variant


def test_quick_run(tmp_path: Path) -> None:
    results, problems = measure_training(CPU, quick=True, provenance=describe_run(CPU, "a test"))
    assert problems == []
    assert results["left_out"] == []
    assert {row["size"] for row in results["rows"]} == set(PLAIN_MODELS)
    assert all(row["images_per_s"]["median"] > 0 for row in results["rows"])
    (tmp_path / "training_cpu.json").write_text(json.dumps(results))
    assert stale(tmp_path) == ["README.md"]
    write_page(tmp_path)
    assert stale(tmp_path) == []
    page = (tmp_path / "README.md").read_text()
    assert "## Training" in page
    assert f"| {OUR_STEP} / {OUR_VAE_STEP} |" in page


@pytest.mark.parametrize("model", ["lae", "abp"])
def test_compiled_steps_run(model: str) -> None:
    case = TrainingCase("small", (model,), SMALL, batch_size=10, images=20)
    losses = [float(prepare_step(case, model, variant, CPU).run()) for variant in (OUR_STEP, COMPILED)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_verdicts_on_training() -> None:
    ratios = [
        ratio_of(MLP_CASE, "lae", PLAIN_STEP, OUR_STEP, 2.5),
        ratio_of(MLP_CASE, "lae", FOREACH_STEP, OUR_STEP, 1.7),
        ratio_of(MLP_CASE, "lae", OUR_STEP, OUR_VAE_STEP, 0.95),
    ]
    marks = verdicts({"training_cpu": results_of("cpu", [], ratios)})
    told = {figure: mark for figure, mark in marks.items() if figure.startswith("training")}
    assert list(told.values()) == ["must met", "not measured", "must met", "not measured"]


def test_networks_hold_five_million_parameters() -> None:
    case = TrainingCase(MLP_CASE, ("lae",), MLP_NETWORK, batch_size=1)
    assert network_parameters(case, "lae") == pytest.approx(5e6, rel=0.02)
