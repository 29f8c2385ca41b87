"""The benchmark of samplers: what it measures, and a run of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("arviz_stats")
pytest.importorskip("matplotlib")

from benchmarks.page import PAGES, RESULTS
from benchmarks.samplers.__main__ import main
from benchmarks.samplers.measures import measure
from benchmarks.samplers.ours import OURS
from benchmarks.samplers.page import UNADJUSTED, beside_nuts
from benchmarks.samplers.page import main as write_page
from benchmarks.samplers.peers import PEERS
from benchmarks.samplers.reference import agreed
from benchmarks.samplers.runs import Run, Settings
from benchmarks.samplers.targets import TARGETS

SHORT = Settings(chains=4, warm_up=20, draws=30)
#: Gradients that each of ours takes for SHORT, beside the first of each chain: one a step, ten of HMC.
STEPS = (SHORT.warm_up + SHORT.draws) * SHORT.chains
GRADIENTS = {"MALA": STEPS + 4, "HMC": 10 * STEPS + 4, "Langevin dynamics": STEPS + 4}


def independent_run(name: str, shift: float = 0.0, scale: float = 1.0) -> Run:
    target, generator = TARGETS[name], np.random.default_rng(3)
    assert target.draw is not None
    draws = np.stack([target.draw(generator, 500) for _ in range(4)], 1)
    return Run(shift + scale * draws, gradients=1000, seconds=2.0)


def test_exact_draws_have_small_errors_and_all_of_them_count() -> None:
    found = measure(independent_run("banana"), TARGETS["banana"])
    assert found["converged"]
    assert max(found["mean_z"], found["sd_z"]) < 5
    assert 1000 < found["ess"] <= 2500
    assert found["ess_per_second"] == found["ess"] / 2
    assert found["ess_per_gradient"] == found["ess"] / 1000


@pytest.mark.parametrize(("shift", "scale", "figure"), [(0.5, 1.0, "mean_z"), (0.0, 1.3, "sd_z")])
def test_wrong_draws_are_found(shift: float, scale: float, figure: str) -> None:
    name = "Gaussian, condition 1e4"
    found = measure(independent_run(name, shift, scale), TARGETS[name])
    assert found["converged"]
    assert found[figure] > 8


def test_draws_that_are_not_finite_have_no_figures() -> None:
    run = independent_run("banana")
    run.draws[3, 1, 0] = np.nan
    found = measure(run, TARGETS["banana"])
    assert not found["finite"]
    assert "ess" not in found


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_counted(name: str) -> None:
    run = OURS[name](TARGETS["banana"], SHORT)
    assert run.draws.shape == (30, 4, 2)
    assert run.gradients == GRADIENTS[name]


@pytest.mark.parametrize("name", sorted(set(OURS) - set(GRADIENTS)))
def test_posteriors_in_one_call(name: str) -> None:
    """Every step takes a gradient at least."""
    run = OURS[name](TARGETS["banana"], SHORT)
    assert run.draws.shape == (30, 4, 2)
    assert run.gradients >= STEPS


@pytest.mark.parametrize("name", PEERS)
def test_peers(name: str) -> None:
    package, sampler = PEERS[name]
    pytest.importorskip(package)
    run = sampler(TARGETS["banana"], SHORT)
    assert run.draws.shape[::2] == (30, 2)
    assert run.gradients >= run.draws.shape[1] * 50


def test_references_are_averaged_by_their_errors() -> None:
    first = {"mean": np.zeros(1), "sd": np.ones(1), "mean_error": np.full(1, 0.1), "sd_error": np.full(1, 0.1)}
    second = first | {"mean": np.full(1, 0.5), "mean_error": np.full(1, 0.2)}
    result, worst = agreed(first, second)
    assert result["mean"] == pytest.approx([0.1])
    assert result["mean_error"] == pytest.approx([0.05**0.5 * 0.4])
    assert worst == pytest.approx(0.5 / 0.05**0.5)


def test_a_quick_run_and_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["", "--out", str(tmp_path), "--quick", "--samplers", "HMC", "Langevin dynamics", "--targets"]
    for targets in (["banana", "logistic regression"], ["banana"]):  # the second time, the other rows are kept
        monkeypatch.setattr(sys, "argv", [*arguments, *targets])
        main()
    rows = json.loads((tmp_path / "samplers.json").read_text())["rows"]
    assert len(rows) == 4
    assert {(row["target"], row["sampler"]) for row in rows} == {
        (target, sampler) for target in ("banana", "logistic regression") for sampler in ("HMC", "Langevin dynamics")
    }
    monkeypatch.setattr(sys, "argv", ["", "--out", str(tmp_path), "--targets", "banana", "--samplers", "HMC"])
    with pytest.raises(SystemExit, match=r"--out: got .*samplers.json with other settings, expected"):
        main()  # rows of long and of quick runs would stand side by side
    monkeypatch.setattr(sys, "argv", ["", "--results", str(tmp_path)])
    write_page()
    text = (tmp_path / "samplers.md").read_text()
    assert "\n| Langevin dynamics | " in text
    assert (tmp_path / "samplers.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(sys, "argv", ["", "--results", str(tmp_path), "--check"])
    write_page()
    (tmp_path / "samplers.md").write_text(text + "x")
    with pytest.raises(SystemExit, match="is not of"):
        write_page()


def test_the_written_page_is_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (PAGES / "samplers.png").exists()
    monkeypatch.setattr(sys, "argv", ["", "--check"])
    write_page()


def test_what_samplers_miss_is_told_in_the_written_results() -> None:
    """Of the funnel and the Rosenbrock density by divergences or R-hat; and no exact sampler is wrong in silence."""
    rows = json.loads((RESULTS / "samplers.json").read_text())["rows"]
    missed = [row for row in rows if row["target"] in ("funnel, centred", "Rosenbrock") and row["sampler"] in OURS]
    assert missed
    assert all(row["divergences"] or not row["converged"] for row in missed)
    silent = [row for row in rows if row["converged"] and row["sampler"] not in UNADJUSTED and not row["divergences"]]
    assert silent
    assert all(max(row["mean_z"], row["sd_z"]) < 5 for row in silent)


def test_what_is_set_beside_nuts() -> None:
    """The ratio of ESS per gradient, and whose chains disagree; targets that one of them lacks are left out."""
    common = {"finite": True, "ess": 1.0, "r_hat": 1.02}
    nuts = {**common, "sampler": "numpyro NUTS", "target": "banana", "ess_per_gradient": 0.1, "converged": True}
    own = {**common, "sampler": "sample", "target": "banana", "ess_per_gradient": 0.25, "converged": False}
    lines = beside_nuts([nuts, own, {**nuts, "target": "mixture"}]).splitlines()
    assert lines[0].split("|")[1:-1] == ["  ", " sample ", " R-hat of 1.01 or more "]
    assert lines[2:] == ["| banana | 2.5 | sample |"]
