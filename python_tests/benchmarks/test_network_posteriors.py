"""Posteriors of networks: scores of known predictions, a quick run, and the page of made-up figures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")

from benchmarks.network_posteriors import page
from benchmarks.network_posteriors.__main__ import FILE
from benchmarks.network_posteriors.scores import agreement, scores


def test_scores_of_known_predictions() -> None:
    """Half of the predictions of .8 are right, so that confidence and accuracy are .3 apart."""
    y = torch.tensor([0, 0, 1, 1])
    predicted = torch.tensor([[0.8, 0.2]] * 4)
    found = scores(predicted, y, {"foreign": torch.full((4, 2), 0.5), "same": predicted})
    assert found["accuracy"] == 0.5
    assert found["nll"] == pytest.approx(-(math.log(0.8) + math.log(0.2)) / 2)
    assert found["brier"] == pytest.approx((2 * 0.2**2 + 2 * 0.8**2) / 2)
    assert found["ece"] == pytest.approx(0.3)
    assert found["auroc_foreign"] == 1
    assert found["auroc_same"] == 0.5
    other = torch.tensor([[0.8, 0.2], [0.3, 0.7], [0.8, 0.2], [0.8, 0.2]])
    assert agreement(predicted, other) == pytest.approx({"top_1": 0.75, "total_variation": 0.125})


def test_the_written_page_is_of_the_written_file() -> None:
    repository = Path(__file__).parents[2]
    results = json.loads((repository / "benchmarks" / "results" / FILE).read_text())
    assert (repository / "docs" / "results" / "network_posteriors.md").read_text() == page.page(results)


def test_the_page_has_means_over_splits() -> None:
    values = dict.fromkeys(page.SCORES, 0.5)
    rows = [{"method": "SGHMC", "split": split, **values, "nll": nll} for split, nll in enumerate((0.1, 0.3))]
    chosen = {"prior_gain": 16.0, "temperature": 0.02}
    tried = [{**chosen, "validation": values, "test": values}]
    settings = [{"split": split, "chosen": chosen, "tried": tried} for split in (0, 1)]
    part = {"budget": 1000, "settings": settings, "rows": rows, "left_out": {}}
    text = page.digits_section(part)
    assert "| SGHMC | 0.500 | 0.200 |" in text
    assert "2 splits of the data" in text
    assert "| 1 | 0.02 | 0.500 |" in text
    assert len(page.draw(part).axes) == 2
    row = {**chosen, "method": "SGLD", "top_1": 0.98, "total_variation": 0.04, **values}
    assert "| SGLD | 16 | 0.02 | 0.980 | 0.040 | 0.500 | 0.500 | 0.500 |" in page.agreement_section(
        {"samples": 5, "budget": 1000, "rows": [row]}
    )
    for word in ("must", "goal", "missed"):
        assert word not in text
