"""The benchmark of samplers of very many data: its exact posteriors, a measurement, and the page of its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks import amortized
from benchmarks.page import PAGES, RESULTS
from benchmarks.provenance import describe_run


@pytest.mark.parametrize("kind", [amortized.EQUAL, amortized.DIFFERING])
def test_posteriors_are_those_of_the_potential(kind: str) -> None:
    """At the mean the gradient is 0, and the Hessian is the inverse of the covariance."""
    problem = amortized.make_problem(kind, 3)
    z = problem.mean.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(problem.potential(problem.x, z).sum(), z)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-2)
    for datum in range(3):
        rows = problem.x[datum : datum + 1]
        hessian: Any = torch.autograd.functional.hessian(
            lambda z, rows=rows: problem.potential(rows, z[None])[0], problem.mean[datum]
        )
        torch.testing.assert_close(hessian @ problem.covariance[datum], torch.eye(4), rtol=0, atol=2e-3)


def test_a_sampler_is_measured_and_told_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = amortized.make_problem(amortized.EQUAL, 100)
    monkeypatch.setitem(amortized.RUNS, amortized.DATUM_HMC, (amortized.hmc, 60, 60, 60))
    row = amortized.measure(problem, amortized.DATUM_HMC, quick=False)
    assert row["mean_error"] < 0.2
    assert 0.9 < row["variance_ratio"]["p50"] < 1.1
    assert row["ess"] > 50
    assert row["ess_per_gradient"] == pytest.approx(row["ess"] / (60 * 4 * 5))
    assert 100 * 4 * 4 * 4 < row["bytes"] < 100_000
    rows = [{"problem": amortized.EQUAL, "num_data": 100, **row}]
    results = {"quick": False, **describe_run(torch.device("cpu"), "a test"), "rows": rows}
    assert "| `HMC` | 100 |" in amortized.results_page(results)
    amortized.draw_picture(results, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.format == "PNG"


def test_the_page_is_that_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "amortized.json").write_bytes((RESULTS / "amortized.json").read_bytes())
    amortized.main(["--results", str(tmp_path), "--page-only"])
    assert (tmp_path / "amortized.md").read_text() == (PAGES / "amortized.md").read_text()


def test_a_quick_run_does_not_replace_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        amortized.main(["--quick"])
    assert "--quick: its rough figures do not go to benchmarks/results" in capsys.readouterr().err
