"""Posteriors of networks: scores of known predictions, a quick run that continues, and the page of made-up figures."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("sklearn")

from ald_ext.samplers import HMC, monte_carlo_standard_error
from benchmarks.network_posteriors import __main__ as measurement
from benchmarks.network_posteriors import comparison, hmc, page, pictures
from benchmarks.network_posteriors.__main__ import FILE, main
from benchmarks.network_posteriors.comparison import compare
from benchmarks.network_posteriors.methods import adam_to_the_end, early_stopped
from benchmarks.network_posteriors.problems import (
    ANGLES,
    Problem,
    alcohol_network,
    diabetes,
    rotated,
)
from benchmarks.network_posteriors.scores import (
    agreement,
    class_scores,
    entropy_auroc,
    probabilities_of,
    regression_scores,
)


def test_scores_of_known_predictions() -> None:
    """Half of the predictions of .8 are right, so that confidence and accuracy are .3 apart."""
    y = torch.tensor([0, 0, 1, 1])
    predicted = torch.tensor([[0.8, 0.2]] * 4)
    draws = torch.tensor([[[0.9, 0.1]] * 4, [[0.7, 0.3]] * 4]).log()
    torch.testing.assert_close(probabilities_of(draws), predicted.double())
    found = class_scores(draws, y)
    assert found["accuracy"] == 0.5
    assert found["nll"] == pytest.approx(-(math.log(0.8) + math.log(0.2)) / 2)
    assert found["brier"] == pytest.approx((2 * 0.2**2 + 2 * 0.8**2) / 2)
    assert found["ece"] == pytest.approx(0.3)
    assert entropy_auroc(draws, torch.zeros(1, 4, 2)) == 1
    assert entropy_auroc(draws, draws) == 0.5
    other = torch.tensor([[0.8, 0.2], [0.3, 0.7], [0.8, 0.2], [0.8, 0.2]])
    assert agreement(predicted, other) == pytest.approx({"top_1": 0.75, "total_variation": 0.125})


def test_scores_of_mixtures_of_normals() -> None:
    """A mixture of two equal normals is that normal; of N(-1, 1) and N(1, 1), by torch's mixtures."""
    y = torch.tensor([-4.0, -1.5, 0.0, 1.0, 1.7])
    outputs = torch.tensor([-1.0, 1.0])[:, None, None] * torch.tensor([1.0, 0.0]).expand(2, 5, 2)
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(2)), torch.distributions.Normal(torch.tensor([-1.0, 1.0]), 1.0)
    )
    found = regression_scores(outputs, y)
    assert found["nll"] == pytest.approx(-mixture.log_prob(y).mean().item())
    assert found["rmse"] == pytest.approx(y.square().mean().sqrt().item())
    assert found["coverage"] == 0.8  # the quantiles .05 and .95 are at 2.2
    same = regression_scores(torch.zeros(2, 5, 2), y)
    assert same["nll"] == pytest.approx(-torch.distributions.Normal(0.0, 1.0).log_prob(y).mean().item())
    assert same["coverage"] == 0.6  # at 1.645


def test_images_are_rotated() -> None:
    x = torch.rand(3, 64, generator=torch.Generator().manual_seed(0))
    expected = x.view(3, 8, 8).rot90(1, (1, 2)).reshape(3, 64)
    torch.testing.assert_close(rotated(90, 8)(x), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(rotated(0, 8)(x), x, atol=1e-5, rtol=0)


def test_an_epoch_has_each_datum_once_in_an_order_of_its_seed() -> None:
    problem = alcohol_network()
    first, same, other = (torch.cat([y for _, y in problem.loader(seed)]) for seed in (0, 0, 1))
    torch.testing.assert_close(first.sort().values, problem.train[1].sort().values)
    torch.testing.assert_close(first, same)
    assert not torch.equal(first, other)
    torch.testing.assert_close(problem.train[1].std(), torch.tensor(1.0))


def test_early_stopping_keeps_the_best_network_on_validation_data() -> None:
    """Far beyond the best, the validation likelihood of a network trained to the end is worse."""
    problem = replace(alcohol_network(), budget=600)
    x, y = problem.validation
    best = problem.nll(early_stopped(problem, 600, 0, problem.make)(x), y).mean()
    last = problem.nll(adam_to_the_end(problem, 0)(x)[0], y).mean()
    assert best < last


def test_the_prior_with_the_least_validation_nll_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = replace(alcohol_network(), budget=40)
    monkeypatch.setattr(comparison, "REGRESSION_PRIORS", ((2.0, 1.0), (2.0, 0.1)))
    lrs = iter([1e12, 1e-3])

    def suggest(method: str, tempered: Problem) -> dict[str, float]:
        return {"lr": next(lrs), "num_data": 100, "temperature": tempered.temperature}

    row = compare(problem, "SGLD", 0, suggest)
    assert row["chosen"]["temperature"] == 0.1
    assert row["tried"][1]["validation"]["nll"] < math.inf


def test_hmc_samples_the_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions of a linear regression have the posterior's mean and deviation, within 5 standard errors.

    Step sizes vary, as trajectories of one length may be near a period of a Gaussian.
    """
    pytest.importorskip("arviz_stats")
    monkeypatch.setattr(hmc, "HMC", partial(HMC, jitter=0.5))
    problem = diabetes()
    chains = hmc.hamiltonian(problem, 0, adaptation=60, samples=150, show=False)
    draws = torch.stack(chains)[..., 0].double().permute(1, 2, 0)[..., None]  # (draws, data, chains, 1)
    (x, y), (inputs, _) = problem.train, problem.test
    x, inputs = (torch.cat([part, torch.ones(len(part), 1)], 1).double() for part in (x, inputs))
    (group,) = problem.groups(problem.make())
    precision = x.T @ x / 0.7**2 + len(x) * group["weight_decay"] * torch.eye(11)
    mean = inputs @ torch.linalg.solve(precision, x.T @ y.double() / 0.7**2)
    deviation = (inputs @ torch.linalg.inv(precision) * inputs).sum(1).sqrt()
    errors = (draws.mean((0, 2, 3)) - mean) / monte_carlo_standard_error(draws)[:, 0]
    assert errors.abs().max() < 5
    errors = (draws.transpose(0, 1).flatten(1).std(1) - deviation) / monte_carlo_standard_error(draws, "sd")[:, 0]
    assert errors.abs().max() < 5


def test_a_quick_run_continues_and_has_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = ["Adam, to the end", "deep ensemble of 5", "SGHMC"]
    monkeypatch.setattr(measurement, "methods_for", lambda problem: methods)
    main(["--out", str(tmp_path), "--quick", "--parts", "digits", "regression"])
    results = json.loads((tmp_path / FILE).read_text())
    assert [row["method"] for row in results["digits"]] == methods
    tests = [row["test"] for row in results["digits"]]
    kept = results["digits"][0]
    results["digits"] = [{**kept, "kept": True}]
    (tmp_path / FILE).write_text(json.dumps(results))
    main(["--out", str(tmp_path), "--quick", "--parts", "digits"])
    again = json.loads((tmp_path / FILE).read_text())
    assert again["digits"][0] == results["digits"][0]
    assert [row["test"] for row in again["digits"]] == tests
    assert again["regression"] == results["regression"]
    page.main(["--results", str(tmp_path), "--page", str(tmp_path)])
    text = (tmp_path / "network_posteriors.md").read_text()
    assert f"| SGHMC | {again['digits'][2]['test']['accuracy']:.3f} |" in text
    assert (tmp_path / "network_posteriors.png").exists()


def test_a_suggestion_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(measurement, "suggested", lambda kind, problem: asked.append(kind) or {"lr": 0.5})
    for _ in range(2):
        results = measurement.Results(tmp_path / FILE, [], quick=False)
        assert results.suggest("SGLD", alcohol_network(0)) == {"lr": 0.5}
        assert results.suggest("SGLD", alcohol_network(1)) == {"lr": 0.5}
    assert len(asked) == 1
    results.suggest("SGLD", alcohol_network(0, temperature=0.1))
    assert len(asked) == 2


def test_the_written_page_is_of_the_written_file() -> None:
    repository = Path(__file__).parents[2]
    results = json.loads((repository / "benchmarks" / "results" / FILE).read_text())
    assert (repository / "docs" / "results" / "network_posteriors.md").read_text() == page.page(results)


def made_up_row(method: str, split: int, nll: float, **scores: float) -> dict[str, Any]:
    values = {**dict.fromkeys([*page.CLASS_SCORES, *page.REGRESSION_SCORES], 0.5), **scores}
    chosen = {"prior_gain": 16.0, "temperature": 0.02, "lr": 0.1}
    shifts = {f"turned by {angle}°": {**values, "auroc": 0.7} for angle in ANGLES}
    tried = [{**chosen, "validation": {**values, "nll": nll}}]
    test = {**values, "nll": nll}
    row = {"problem": "made up", "budget": 1000, "chosen": chosen, "tried": tried, "test": test, "shifts": shifts}
    return {**row, "method": method, "split": split}


def test_the_page_has_means_over_splits_and_tells_where_ours_are_worse() -> None:
    nlls = {page.ENSEMBLE: (0.2, 0.2), page.ADAM: (0.4, 0.4), "SGHMC": (0.1, 0.2), "SGLD": (0.3, 0.3)}
    rows = [made_up_row(name, split, nll) for name, both in nlls.items() for split, nll in enumerate(both)]
    one = [{**row, "test": {**row["test"], "ece": 0.6}} if row["method"] == "SGLD" else row for row in rows[::2]]
    assert "The ECE is above the ensemble's: SGLD." in page.digits_section(one)
    assert "Figures of one split of the data" in page.digits_section(one)
    for section in (page.digits_section, page.mnist_section):
        text = section(rows)
        assert "| SGHMC | 0.500 ± 0.000 | 0.150 ± 0.071 |" in text
        assert "2 splits of the data" in text
        assert "| SGHMC | 0.75 ± 0.35 | 0.38 ± 0.18 |" in text
        assert "The NLL is above the ensemble's: SGLD." in text
        assert "The NLL of all of ours is below Adam's." in text
        assert "The ECE is above" not in text
        assert "| SGLD | 16 | 0.02 | 0.1 | 0.300 ± 0.000 | 2 of 2 |" in text
    assert "The least NLL is that of SGHMC." in page.regression_section(rows)
    assert len(pictures.draw_methods(rows).axes) == 2
    assert len(pictures.draw_angles(rows).axes[0].lines) == len(nlls)
    common = {"prior_gain": 16.0, "temperature": 0.02, "samples": 5, "budget": 1000}
    scores = {"top_1": 0.98, "accuracy": 0.5, "nll": 0.5, "ece": 0.5}
    near, far = (
        {**common, **scores, "method": name, "total_variation": distance}
        for name, distance in (("SGLD", 0.04), ("SGHMC", 0.06))
    )
    text = page.agreement_section([near, far])
    assert "| SGLD | 16 | 0.02 | 0.980 | 0.040 | 0.500 | 0.500 | 0.500 |" in text
    assert "above 0.05: SGHMC at T = 0.02." in text
    assert "above" not in page.agreement_section([near])
