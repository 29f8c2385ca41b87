"""Convergence of predictions, and the temperature of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from ald_ext.bayes import PosteriorSamples, diagnose


def independent_chains(offsets: list[float], count: int = 100, spread: float = 1.0) -> PosteriorSamples:
    """Chains of independent normal weights about an offset of each chain."""
    generator, layer = torch.Generator().manual_seed(0), nn.Linear(2, 1, bias=False)
    samples = PosteriorSamples()
    for chain, offset in enumerate(offsets):
        for step in range(count):
            with torch.no_grad():
                layer.weight.copy_(offset + spread * torch.randn(1, 2, generator=generator))
            samples.add(layer, chain=chain)
            temperature = 1 + torch.randn((), generator=generator).item()
            row = {"step": step, "chain": chain, "lr": 0.1, "loss": 1.0, "temperature": temperature}
            samples.trace.append({**row, "sampling": step >= 20})
    return samples


def test_independent_chains_agree(tmp_path: Path):
    samples = independent_chains([0.0, 0.0, 0.0, 0.0])
    probe = torch.eye(2)
    result = diagnose(samples, nn.Linear(2, 1, bias=False), probe, kind="regression", folder=tmp_path)
    assert (result.num_chains, result.num_draws) == (4, 100)
    assert result.ess.shape == result.r_hat.shape == (2, 1)
    assert (result.r_hat < 1.03).all()
    assert ((result.ess - 400).abs() < 5 * 400 * (2 / 100) ** 0.5).all()
    assert abs(result.temperature - 1) < 5 / 320**0.5
    assert result.temperature_error == pytest.approx(1 / 320**0.5, rel=0.5)
    saved = json.loads((tmp_path / "diagnosis.json").read_text())
    assert saved["temperature"] == result.temperature
    assert saved["r_hat"]["max"] == result.r_hat.max().item()
    assert len(saved["steps"]) == 400
    with Image.open(tmp_path / "diagnosis.png") as picture:
        assert picture.width >= 900


def test_chains_that_disagree_are_seen():
    samples = independent_chains([0.0, 0.0, 5.0])
    result = diagnose(samples, nn.Linear(2, 1, bias=False), torch.eye(2), kind="regression")
    assert (result.r_hat > 1.5).all()
    assert (result.ess < 20).all()
    assert result.summary()["r_hat_below_1.01"] == 0
    by_class = diagnose(
        samples, nn.Linear(2, 1, bias=False), torch.eye(2), kind=lambda output: torch.cat([output, -output], 1)
    )
    assert by_class.r_hat.shape == (2, 2)


def test_chains_of_different_lengths_count_by_their_last_samples_and_none_is_too_short():
    samples = independent_chains([0.0, 0.0], count=10)
    layer = nn.Linear(2, 1, bias=False)
    for _ in range(5):
        layer.reset_parameters()
        samples.add(layer, chain=1)
    result = diagnose(samples, layer, torch.eye(2), kind="regression")
    assert result.num_draws == 10
    last = layer(torch.eye(2)).double().detach()[int(result.r_hat.argmax()), 0]
    torch.testing.assert_close(result.worst[-1, 1], last)
    with pytest.raises(ValueError, match=r"samples: got 3 of a chain, expected four at least"):
        diagnose(samples[:3], layer, torch.eye(2), kind="regression")


def test_without_a_trace_there_is_no_temperature(tmp_path: Path):
    samples = independent_chains([0.0, 0.0])
    samples.trace.clear()
    result = diagnose(samples, nn.Linear(2, 1, bias=False), torch.eye(2), kind="regression", folder=tmp_path)
    assert result.temperature is None
    assert json.loads((tmp_path / "diagnosis.json").read_text())["temperature"] is None


def test_equal_chains_are_refused():
    samples, layer = PosteriorSamples(), nn.Linear(2, 1)
    for _ in range(8):
        layer.reset_parameters()
        samples.add(layer, chain=0)
        samples.add(layer, chain=1)
    with pytest.raises(ValueError, match="got equal draws in chains 0 and 1"):
        diagnose(samples, layer, torch.eye(2), kind="regression")
