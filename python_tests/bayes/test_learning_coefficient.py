"""The local learning coefficient, beside known values and values by quadrature; what is said of bad settings."""

from __future__ import annotations

import json
import math
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, TensorDataset

from ald_ext import PSGLD, SGHMC, SGLD
from ald_ext.bayes import LearningCoefficient, local_learning_coefficient
from ald_ext.bayes.learning_coefficient import examine
from benchmarks.exact_coefficients import (
    CASES,
    CURVATURES,
    NO_DATA,
    ExactCase,
    Potential,
    expected_of_crossing,
    expected_of_quadratic,
    expected_of_reduced_rank,
    first,
    quadratic,
    reduced_rank_coefficient,
)

#: What else is told beside what a test asks for.
pytestmark = pytest.mark.filterwarnings("ignore:ald_ext.bayes:UserWarning")

REPLICAS = 50


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_exact_cases(case: ExactCase) -> None:
    """By quadrature at this n and localization: within 10%, and within 5 standard errors."""
    result = local_learning_coefficient(
        case.model(REPLICAS),
        first,
        NO_DATA,
        lr=0.2,
        num_data=case.num_data,
        localization=case.localization,
        chains=2,
        num_steps=1200,
        burn_in=600,
        seed=1,
    )
    got, error = result.estimate / REPLICAS, result.standard_error / REPLICAS
    expected = case.expected(case.beta_n, case.localization)
    assert got == pytest.approx(expected, rel=0.1)
    assert got == pytest.approx(expected, abs=5 * error)
    assert 0 < error < 0.05 * expected
    assert result.warnings == ()


def test_quadratures_tend_to_the_known_values() -> None:
    """Aoyagi & Watanabe's of even and odd sums; where multiplicity is 2, as 1/log n, from below."""
    assert expected_of_reduced_rank(1e10, 1.0) == pytest.approx(reduced_rank_coefficient(4, 2, 4), rel=1e-3)
    crossing = [expected_of_crossing(beta_n, 1.0) for beta_n in (1e4, 1e8, 1e12, 1e14)]
    assert all(low < high < 0.5 for low, high in pairwise(crossing))
    assert crossing[-1] == pytest.approx(0.5, abs=1 / math.log(1e14))


def test_known_values_of_reduced_rank_regression() -> None:
    """A full-rank truth is regular: half of the dimension of the matrices of that rank."""
    for outputs, hidden, inputs in ((3, 2, 4), (5, 3, 3), (2, 2, 6)):
        assert reduced_rank_coefficient(outputs, hidden, inputs, hidden) == hidden * (outputs + inputs - hidden) / 2


def test_sgld_has_the_bias_of_its_step() -> None:
    """Of each direction the variance is 1/(1 - lr·a/2) times that of lr → 0, a = h + γ/(nβ)."""
    lr, n, localization = 0.3, 1000, 1.0
    pull = localization * math.log(n) / n
    result = local_learning_coefficient(
        quadratic(20),
        first,
        NO_DATA,
        lr=lr,
        num_data=n,
        localization=localization,
        optimizer_class=SGLD,
        chains=2,
        num_steps=800,
        burn_in=200,
        seed=3,
    )
    inflated = CURVATURES / (CURVATURES + pull) / (1 - lr * (CURVATURES + pull) / 2)
    expected = 20 * inflated.sum().item() / 2
    assert result.estimate == pytest.approx(expected, abs=5 * result.standard_error)
    assert expected - 5 * result.standard_error > 20 * len(CURVATURES) / 2  # it can tell the bias


def regression(n: int, dimension: int) -> tuple[nn.Linear, DataLoader[Any], Tensor]:
    """A linear model at the least squares of its data, a loader, and the Hessian's eigenvalues."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, dimension, generator=generator, dtype=torch.float64)
    y = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(dimension, 1, bias=False).double()
    model.weight.data = torch.linalg.lstsq(x, y).solution.T.clone()
    dataset = TensorDataset(x, y)
    batches = BatchSampler(RandomSampler(dataset, generator=generator), 250, drop_last=False)
    loader = DataLoader(dataset, batch_size=None, sampler=batches)  # whole minibatches are faster than single data
    return model, loader, torch.linalg.eigvalsh(x.T @ x / n)


def half_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean() / 2


def test_minibatches_of_a_regression() -> None:
    """d/2, but for the localization and the noise of minibatches; the module stays.

    Their noise in a gradient has at most the covariance s·H/B, of residuals of variance s, with which a kick of h² = lr
    adds lr·s·H/B to the (1 - μ²)·T/N that SGHMC draws.
    """
    model, loader, curvatures = regression(1000, 10)
    before = model.weight.detach().clone()
    model.train()
    lr, momentum = 0.02, 0.8
    result = local_learning_coefficient(
        model,
        half_squares,
        loader,
        lr=lr,
        momentum=momentum,
        localization=10.0,
        num_steps=300,
        burn_in=100,
        seed=1,
    )
    beta_n = 1000 / math.log(1000)
    expected = (beta_n * curvatures / (beta_n * curvatures + 10)).sum().item() / 2
    with torch.no_grad():
        x, y = loader.dataset.tensors  # type: ignore[attr-defined]
        residuals = (model(x) - y).var().item()
    wider = 1 + lr * beta_n * residuals * curvatures.max().item() / 250 / (1 - momentum**2)
    error = 5 * result.standard_error
    assert expected - error < result.estimate < wider * expected + error
    assert result.temperature == pytest.approx(math.log(1000))
    assert torch.equal(model.weight, before)
    assert model.training
    assert model.weight.grad is None
    assert result.traces.shape == (4, 400)
    torch.testing.assert_close(result.traces[:, 100:].mean(1), result.of_chains)


def test_each_minibatch_is_compared_with_itself() -> None:
    """At the minimum, as long as it takes; the first step of a chain begins there."""
    model, loader, _ = regression(1000, 2)
    batches = list(loader)
    result = local_learning_coefficient(
        model, half_squares, batches, lr=0.05, localization=10.0, num_data=1000, num_steps=8, burn_in=1, chains=2
    )
    with torch.no_grad():
        at_minimum = torch.stack([half_squares(model(x), y) for x, y in batches])
    expected = torch.cat([at_minimum, at_minimum, at_minimum[:1]])
    torch.testing.assert_close(result.start_losses, expected.expand(2, 9), rtol=0, atol=0)
    assert torch.equal(result.losses[:, 0], result.start_losses[:, 0])
    assert bool((result.losses[:, 1:] != result.start_losses[:, 1:]).all())


def run(model: nn.Module, **options: Any) -> LearningCoefficient:
    defaults: dict[str, Any] = {"lr": 0.2, "num_data": 1000, "chains": 3, "num_steps": 300, "burn_in": 100, "seed": 1}
    return local_learning_coefficient(model, first, NO_DATA, **{**defaults, **options})


def test_diverging_chains_are_told() -> None:
    with pytest.warns(UserWarning, match="chains 0, 1, 2 diverged, and the estimate is NaN: a smaller lr"):
        result = run(quadratic(1), lr=50.0)
    assert math.isnan(result.estimate)
    assert len(result.warnings) == 1


def test_drift_is_told() -> None:
    with pytest.warns(UserWarning, match="the loss still drifts, by .* more burn_in is needed"):
        run(quadratic(20), lr=1e-3, burn_in=0, optimizer_class=SGLD, localization=1.0)


def test_a_module_that_is_at_no_minimum_is_told() -> None:
    slope = Potential(lambda theta: (theta - 1).square().sum() / 2, 20)
    with pytest.warns(UserWarning, match="the estimate is negative, .*at no minimum; train it longer"):
        run(slope, localization=1.0)


def test_a_localization_that_decides_is_told() -> None:
    with pytest.warns(UserWarning, match="localization decides: twice as much would change the estimate"):
        run(quadratic(20), localization=1e4, lr=0.02)


def test_sensitivity_to_localization() -> None:
    """dλ/dlog γ = -Σ s(1 - s)/2, s = γ/(γ + nβh), of exact draws; within 5 standard errors of a mean of products."""
    beta_n, localization = 100.0, 20.0
    pulls = beta_n * CURVATURES.double()
    generator = torch.Generator().manual_seed(1)
    squares = torch.randn(4, 2000, len(pulls), generator=generator, dtype=torch.float64).square()
    squares /= pulls + localization
    rises, energies = (pulls * squares).sum(2) / 2, localization * squares.sum(2) / 2
    shares = localization / (localization + pulls)
    products = (rises - rises.mean()) * (energies - energies.mean())
    error = products.std().item() / math.sqrt(products.numel())
    figures, _ = examine(rises, energies)
    assert figures["sensitivity"] == pytest.approx(-(shares * (1 - shares)).sum().item() / 2, abs=5 * error)
    assert figures["estimate"] == pytest.approx((1 - shares).sum().item() / 2, abs=5 * figures["standard_error"])


def test_disagreeing_chains_are_told() -> None:
    """Two valleys of different depth, between which they begin: one of 2^15 seeds leads all into the same."""
    valleys = Potential(lambda theta: ((theta.square() - 1).square() / 4 + theta**3 / 20).sum(), 1)
    with pytest.warns(UserWarning, match=r"chains disagree \(R-hat .*, estimates .*\): more burn_in"):
        result = run(valleys, localization=1.0, chains=16, num_steps=100)
    assert len({round(estimate, -1) for estimate in result.of_chains.tolist()}) == 2


def test_halves_of_one_chain_that_disagree_are_told() -> None:
    rises = torch.arange(1.0, 101.0, dtype=torch.float64)[None]
    told = examine(rises, torch.zeros_like(rises))[1]
    assert told[0].startswith("ald_ext.bayes.local_learning_coefficient: the halves of the chain disagree (R-hat ")


def test_an_estimate_that_is_negative_by_chance_is_no_lower_loss() -> None:
    """Draws around 0; 10 standard errors below it, and within one."""
    draws = torch.randn(4, 500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    draws -= draws.mean()
    error = examine(draws, draws)[0]["standard_error"]
    assert not any("negative" in line for line in examine(draws - error / 2, draws)[1])
    assert any("the estimate is negative" in line for line in examine(draws - 10 * error, draws)[1])


def test_file_and_picture(tmp_path: Path) -> None:
    result = run(quadratic(2), localization=1.0)
    result.save(tmp_path / "llc.json")
    result.draw(tmp_path / "llc.png")
    read = json.loads((tmp_path / "llc.json").read_text())
    assert read["estimate"] == result.estimate
    assert torch.tensor(read["losses"]).shape == (3, 400)
    assert (tmp_path / "llc.png").read_bytes()[:4] == b"\x89PNG"


def test_options_that_change_nothing_are_let_pass() -> None:
    usual = run(quadratic(1), num_steps=8, burn_in=0)
    given = run(quadratic(1), num_steps=8, burn_in=0, weight_decay=0.0, anchors=None, maximize=False, chain=0)
    assert torch.equal(usual.losses, given.losses)


def test_a_preconditioner_is_frozen_at_the_end_of_the_burn_in() -> None:
    """Where it adapts on, as samples are biased then, this estimate is 15 standard errors too large."""
    options: dict[str, Any] = {"lr": 2e-3, "eps": 1e-2, "burn_in": 600, "num_steps": 1200, "localization": 1.0}
    result = run(quadratic(4), optimizer_class=PSGLD, **options)
    expected = 4 * expected_of_quadratic(1000 / math.log(1000), 1.0)
    assert result.estimate == pytest.approx(expected, abs=5 * result.standard_error)


def test_a_sum_and_another_number_of_data_are_told() -> None:
    data = TensorDataset(torch.zeros(30, 3), torch.zeros(30, 1))
    loader = DataLoader(data, 10)
    options: dict[str, Any] = {"lr": 1e-4, "num_steps": 8, "burn_in": 0, "chains": 1}
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    for loss, num_data, told in (
        (nn.functional.mse_loss, None, []),
        (nn.functional.mse_loss, 60, ["num_data: got 60, expected 30, the number of data of the loader"]),
        (nn.MSELoss(reduction="sum"), None, ["loss: got a sum over the minibatch"]),
    ):
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            result = local_learning_coefficient(network, loss, loader, num_data=num_data, seed=0, **options)
        lines = [line for line in result.warnings if "num_data" in line]
        assert [line.split(": ", 1)[1].startswith(start) for line, start in zip(lines, told, strict=True)] == [
            True
        ] * len(told)
        assert [str(warning.message) for warning in record] == list(result.warnings)
        assert all(warning.filename == __file__ for warning in record)


def test_minibatches_that_have_no_halves_and_no_successor_are_enough() -> None:
    """Whether the loss is a sum cannot be seen then, and nothing is lost by that."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        assert len(outputs) == 10
        return nn.functional.mse_loss(outputs, targets)

    minibatches = iter([(torch.zeros(10, 3), torch.zeros(10, 1))] * 8)
    options: dict[str, Any] = {"lr": 1e-4, "num_steps": 8, "burn_in": 0, "chains": 1, "num_data": 30}
    assert len(local_learning_coefficient(nn.Linear(3, 1), loss, minibatches, **options).losses[0]) == 8


def test_chains_are_a_function_of_the_seed() -> None:
    first_run, again, other = (run(quadratic(1), localization=1.0, seed=seed, num_steps=8) for seed in (5, 5, 6))
    assert torch.equal(first_run.losses, again.losses)
    assert not torch.equal(first_run.losses, other.losses)
    assert not torch.equal(first_run.losses[0], first_run.losses[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_data": None}, "num_data: got None beside a loader without a dataset that has a length, expected"),
        ({"num_data": 2}, "num_data: got 2, expected a finite number >= 3"),
        ({"num_data": "9"}, "num_data: got '9', expected a finite number >= 3"),
        ({"num_data": math.inf}, "num_data: got inf, expected a finite number >= 3"),
        ({"lr": None}, "lr: got None, expected a finite number > 0"),
        ({"optimizer_class": torch.optim.SGD}, "optimizer_class: got .*SGD.*, expected a Langevin optimizer"),
        ({"chains": 0}, "chains: got 0, expected an integer >= 1"),
        ({"num_steps": 7}, "num_steps: got 7, expected an integer >= 8"),
        ({"burn_in": 0.5}, "burn_in: got 0.5, expected an integer >= 0"),
        ({"lr": 0.0}, "lr: got 0.0, expected a finite number > 0"),
        ({"localization": 0.0}, "localization: got 0.0, expected a finite number > 0"),
        ({"temperature": math.inf}, "temperature: got inf, expected a finite number > 0"),
        (
            {"weight_decay": 0.1},
            "weight_decay: got 0.1, expected none: localization is the prior; what else belongs to",
        ),
        ({"anchors": [torch.ones(1)]}, r"anchors: got \[float32 .*, expected none: chains are pulled to the module's"),
        ({"maximize": True}, "maximize: got True, expected none: the loss is low where the module is likely"),
        ({"chain": 3}, "chain: got 3, expected none: chains are numbered from 0"),
        ({"params": [torch.ones(1)]}, "params: got .*, expected none: all of the module that require a gradient move"),
    ],
    ids=str,
)
def test_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(quadratic(1), **options)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([], "loader: got no minibatches, expected minibatches each time"),
        ([torch.zeros(3)], "loader: minibatch: got .*expected a tuple"),
        (None, "loader: got None, expected minibatches"),
    ],
    ids=["empty", "tensor", "none"],
)
def test_bad_loaders(loader: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        local_learning_coefficient(quadratic(1), first, loader, lr=0.1, num_data=10)


def test_a_loss_for_each_datum() -> None:
    with pytest.raises(ValueError, match=r"loss: got .*expected one number, the mean over the minibatch"):
        local_learning_coefficient(quadratic(1), lambda outputs, targets: targets, NO_DATA, lr=0.1, num_data=10)
    frozen = quadratic(1).requires_grad_(False)
    with pytest.raises(ValueError, match="module: got no parameter that requires a gradient, expected at least one"):
        local_learning_coefficient(frozen, first, NO_DATA, lr=0.1, num_data=10, optimizer_class=SGHMC)


def test_a_stream_has_no_length() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([(torch.zeros(1), torch.zeros(1))])

    with pytest.raises(
        ValueError, match="num_data: got None beside a loader without a dataset that has a length, expected"
    ):
        local_learning_coefficient(quadratic(1), first, DataLoader(Stream()), lr=0.1)


def test_arviz_is_missed_before_the_chains_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "arviz_stats.base", None)
    with pytest.raises(ImportError, match=r"local_learning_coefficient: needs arviz-stats: pip install"):
        local_learning_coefficient(quadratic(1), pytest.fail, NO_DATA, lr=0.1, num_data=10)


def test_without_gradients_around_and_numbers_of_numpy(tmp_path: Path) -> None:
    with torch.no_grad():
        result = run(quadratic(1), num_data=np.int64(1000), lr=np.float32(0.2), num_steps=8, burn_in=0)
    result.save(tmp_path / "llc.json")
    assert json.loads((tmp_path / "llc.json").read_text())["num_data"] == 1000
