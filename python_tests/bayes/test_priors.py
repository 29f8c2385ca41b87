"""Gaussian priors as weight decay."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ald_ext import PSGLD, SGLD
from ald_ext.bayes import gaussian_prior


def decays(module: nn.Module, *arguments: object, **options: object) -> dict[str, float]:
    groups = gaussian_prior(module, *arguments, **options)
    return {name: group["weight_decay"] for group in groups for name, _ in group["params"]}


def test_weight_decay_is_the_precision_over_the_number_of_data():
    network = nn.Sequential(nn.Conv2d(3, 8, 5), nn.Linear(8, 2))
    assert decays(network, 0.5, 100) == dict.fromkeys(("0.weight", "0.bias", "1.weight", "1.bias"), 1 / 25)
    inputs = 3 * 25
    expected = {"0.weight": inputs / 200, "0.bias": 1 / 400, "1.weight": 8 / 200, "1.bias": 1 / 400}
    assert decays(network, "he", 100, bias_std=2) == pytest.approx(expected)
    expected = {"0.weight": (inputs + 8 * 25) / 200, "0.bias": 0.01, "1.weight": 10 / 200, "1.bias": 0.01}
    assert decays(network, "xavier", 100) == pytest.approx(expected)
    wider = {name: value / (4 if "weight" in name else 1) for name, value in expected.items()}
    assert decays(network, "xavier", 100, gain=2) == pytest.approx(wider)


def test_the_longest_name_of_a_mapping_holds():
    network = nn.ModuleDict({"body": nn.Linear(2, 2), "body2": nn.Linear(2, 2)})
    found = decays(network, {"": 1.0, "body": "he", "body.bias": math.inf}, 10)
    assert found == pytest.approx({"body.weight": 0.1, "body.bias": 0, "body2.weight": 0.1, "body2.bias": 0.1})


def test_the_loss_of_a_step_is_the_potential_of_the_prior():
    """Without data, that is with a loss of zero, the samples are those of the prior."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 500)
    optimizer = SGLD(gaussian_prior(layer, "he", 10, bias_std=0.2), lr=0.2, num_data=10, seed=0)
    kept = []
    for step in range(2000):
        optimizer.zero_grad()
        (0 * (layer.weight.sum() + layer.bias.sum())).backward()
        optimizer.step()
        if step % 100 == 99:
            kept.append([layer.weight.detach().square().mean(), layer.bias.detach().square().mean()])
    weight, bias = torch.tensor(kept)[4:].mean(0).tolist()
    # The step's own error, 1/(1 - lr·decay/2): decay is .2 and 2.5. 16 draws that are nearly independent.
    assert weight == pytest.approx(0.5 / (1 - 0.02), rel=5 * math.sqrt(2 / (2000 * 16)))
    assert bias == pytest.approx(0.04 / (1 - 0.25), rel=5 * math.sqrt(2 / (500 * 16)))


def test_groups_carry_names_so_that_noise_does_not_depend_on_their_order():
    results = []
    for order in (1, -1):
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        optimizer = PSGLD(gaussian_prior(layer, "he", 10)[::order], lr=1e-2, num_data=10, seed=0)
        layer(torch.ones(4, 3)).square().mean().backward()
        optimizer.step()
        results.append(layer.weight.detach().clone())
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("glorot", 10), r"std: got 'glorot', expected a number > 0, 'he' or 'xavier'"),
        ((0.0, 10), r"std: got 0.0, expected a number > 0"),
        (({"1": 1.0}, 10), r"std: got no name that fits '0.weight', expected one, such as ''"),
        (({"": 1.0, "head": 2.0}, 10), r"std: got \['head'\], expected names of parameters or modules"),
        ((1.0, 0), r"num_data: got 0, expected a finite number > 0"),
    ],
)
def test_bad_arguments(arguments: tuple[object, ...], message: str):
    with pytest.raises(ValueError, match=f"ald_ext.bayes.gaussian_prior: {message}"):
        gaussian_prior(nn.Sequential(nn.Linear(2, 2)), *arguments)


@pytest.mark.parametrize("name", ["gain", "bias_std"])
def test_factors_have_to_be_numbers(name: str):
    with pytest.raises(ValueError, match=f"ald_ext.bayes.gaussian_prior: {name}: got 'he', expected a number > 0$"):
        gaussian_prior(nn.Linear(2, 2), "he", 10, **{name: "he"})
