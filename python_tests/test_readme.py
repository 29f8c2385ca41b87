"""The README's Python examples run as they stand, with fewer steps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

README = Path(__file__).resolve().parent.parent / "README.md"

pytestmark = pytest.mark.skipif(not README.is_file(), reason="README.md is not here: an installed package is tested")


def example(beginning: str) -> str:
    """The Python block that contains the text."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (block,) = (block for block in blocks if beginning in block)
    return block


def test_the_drop_in_trains_a_classifier():
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    before = model.weight.detach().clone()
    batches = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(3)]
    exec(example("was: RMSprop"), {"model": model, "train_set": range(24), "loader": batches})
    assert torch.isfinite(model.weight).all()
    assert not torch.equal(model.weight, before)


def test_the_langevin_autoencoder_of_ten_lines():
    torch.manual_seed(0)
    code = example("LAE(latent_dim")
    assert "range(2000)" in code
    names: dict[str, Any] = {}
    exec(code.replace("range(2000)", "range(2)"), names)
    assert names["reconstructions"].shape == names["samples"].shape == (8, 1, 32, 32)
    assert 0 <= names["reconstructions"].min() <= names["reconstructions"].max() <= 1


def test_the_sampler_of_many_posteriors():
    torch.manual_seed(0)
    code = example("posterior_potential")
    assert "collect(sampler, 500, burn_in=200)" in code
    names: dict[str, Any] = {}
    exec(code.replace("500, burn_in=200", "20, burn_in=10").replace("adapt_steps=200", "adapt_steps=10"), names)
    assert names["samples"].shape == (20, 100, 4, 2)
    assert names["table"]["r_hat"].shape == (100, 2)
