"""The benchmark of suggest_settings: likelihoods, the exact posterior, a quick run and the written page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import Categorical, Normal, Poisson

pytest.importorskip("sklearn")

from ald_ext import SGLD
from benchmarks.network_posteriors import choices, choices_page
from benchmarks.network_posteriors.choice_problems import MADE_ON, UNSEEN, Choice
from benchmarks.network_posteriors.problems import diabetes, wine

PROBLEMS = list(dict.fromkeys(make for make, _ in MADE_ON + UNSEEN))
DEVIATIONS = {"diabetes, linear regression": 0.7, "friedman, perceptron": 0.2, "impedance, perceptron": 0.2}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small networks on many threads are slow where other tests run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("make", PROBLEMS)
def test_likelihoods_are_those_of_torch(make: Any) -> None:
    problem = make()
    x, y = problem.train
    outputs = problem.make()(x)
    if y.dtype == torch.int64:
        expected = -Categorical(logits=outputs).log_prob(y)
    elif problem.name == "counts, perceptron":
        expected = -Poisson(outputs[:, 0].exp()).log_prob(y)
    elif outputs.shape[1] == 2:
        expected = -Normal(outputs[:, 0], outputs[:, 1].exp()).log_prob(y)
    else:
        expected = -Normal(outputs[:, 0], DEVIATIONS[problem.name]).log_prob(y)
    torch.testing.assert_close(problem.nll(outputs, y), expected)
    inputs = next(iter(problem.make().parameters()))[0].numel()
    (decay, *_) = (group["weight_decay"] for group in problem.groups(problem.make()))
    assert decay == pytest.approx(inputs / (2 * problem.prior_gain**2 * len(x)))


def test_the_exact_predictions_are_those_of_the_linear_gaussian_posterior() -> None:
    """Whose predictive density is a normal one, known in closed form."""
    problem, draws = diabetes(), 50
    starts = [choices.optimized(problem, seed, 200) for seed in range(4)]
    nll, chains = choices.exact_nll(problem, starts, draws)
    (x, y), (test_x, test_y) = ([part.double() for part in each] for each in (problem.train, problem.test))
    x, test_x = (torch.cat([each, torch.ones(len(each), 1).double()], 1) for each in (x, test_x))
    decay = problem.groups(starts[0])[0]["weight_decay"]
    covariance = torch.linalg.inv(x.mT @ x / 0.49 + len(x) * decay * torch.eye(11).double())
    variance = (test_x @ covariance * test_x).sum(1)
    exact = -Normal(test_x @ covariance @ x.mT @ y / 0.49, (variance + 0.49).sqrt()).log_prob(test_y)
    deviation = float(chains.mean(1).std()) / math.sqrt(len(starts))
    assert abs(float(nll.mean() - exact.mean())) < 5 * deviation


def test_a_chain_that_diverges_predicts_nothing() -> None:
    problem = wine()
    torch.manual_seed(0)
    settings = [{"lr": lr, "num_data": 90} for lr in (0.01, 1e12)]
    nlls = choices.predictive_nlls(Choice(problem, SGLD), settings, [problem.make()], steps=60)
    assert nlls[0].isfinite().all()
    assert nlls[1].isinf().all()


@pytest.mark.filterwarnings("ignore:ald_ext.bayes.suggest_settings:UserWarning")
def test_a_quick_run_has_a_page(tmp_path: Path) -> None:
    choices.main(["--out", str(tmp_path), "--quick", "--problems", "made on", "--number", "0"])
    (row,) = json.loads((tmp_path / choices.FILE).read_text())["made on"]
    assert row["grid"][1] == row["suggested_lr"]
    assert row["grid"][row["distances"].index(min(row["distances"]))] in row["best_lrs"]
    choices_page.main(["--results", str(tmp_path), "--page", str(tmp_path)])
    text = (tmp_path / "choices.md").read_text()
    assert f"| {row['problem']} | SGLD |" in text
    assert "of 1 suggestions" in text
    assert (tmp_path / choices_page.PICTURE).exists()


def test_the_written_page_is_of_the_written_file() -> None:
    repository = Path(__file__).parents[2]
    results = json.loads((repository / "benchmarks" / "results" / choices.FILE).read_text())
    assert (repository / "docs" / "results" / "choices.md").read_text() == choices_page.page(results)
    for name, rows in results.items():
        for row in rows if name in choices.SETS else ():
            place = [math.inf if each is None else each for each in row["distances"]]
            assert row["grid"][place.index(min(place))] in row["best_lrs"]
