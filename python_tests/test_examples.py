"""The scripts of examples/ run, quickly, and what they return and write is right."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(not EXAMPLES.is_dir(), reason="examples/ is not here: an installed package is tested"),
]


def run_example(name: str, *arguments: str | Path) -> Any:
    """What the script's main returns; in this process, as importing torch takes longer than most of the scripts."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]([*map(str, arguments), "--quick"])


def assert_picture(path: Path, smallest_width: int = 300) -> None:
    """A PNG of some size that is not of one colour."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width >= smallest_width
        low, high = picture.convert("L").getextrema()
        assert high - low > 100


def test_the_bayesian_average_is_better_than_a_sample_and_less_sure_than_rmsprop(tmp_path: Path):
    results = run_example("bayesian_classifier", "--out", tmp_path)
    point, one, average = (results[name] for name in ("RMSprop, last", "SGHMC, last", "SGHMC, average"))
    assert point["accuracy"] > 0.8
    assert average["accuracy"] > 0.75
    assert average["nll"] < 0.9 * point["nll"]
    assert average["nll"] < one["nll"]
    for result in results.values():
        assert result["entropy of digits"] < result["entropy of turned"]
    assert point["confidence"] > point["accuracy"] + 0.05
    assert average["confidence"] < point["confidence"]
    assert_picture(tmp_path / "uncertain.png")
    assert_picture(tmp_path / "diagnosis.png")


def test_a_bayesian_regression_of_a_table_continues_and_has_intervals(tmp_path: Path):
    results = run_example("bayesian_regression", "--out", tmp_path)
    assert results["rmse"] < 1.1 * results["rmse of a linear fit"]
    assert results["within 2 deviations"] > 0.9
    assert 0.8 < results["temperature"] < 1.2
    assert_picture(tmp_path / "diagnosis.png")
    assert run_example("bayesian_regression", "--out", tmp_path) == results


def test_a_bayesian_regression_of_a_file(tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, 2, generator=generator)
    table = torch.cat([x, x.sum(1, keepdim=True) + 0.1 * torch.randn(80, 1, generator=generator)], 1)
    lines = ["a,b,y", *(",".join(map(str, row)) for row in table.tolist())]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    results = run_example("bayesian_regression", tmp_path / "table.csv", "--out", tmp_path)
    assert results["rmse"] < 0.3


@pytest.mark.parametrize("row", ["1,x,{}", "1,{}", "{},1"])
def test_a_file_that_is_no_table_for_a_regression_is_refused_in_one_line(row: str, tmp_path: Path):
    (tmp_path / "table.csv").write_text("\n".join(["a,y", *map(row.format, range(12))]))
    with pytest.raises(SystemExit, match=r"file: got 12 rows of . columns, .* expected a line of names, and ten rows"):
        run_example("bayesian_regression", tmp_path / "table.csv", "--out", tmp_path)


def test_own_images_are_reconstructed(tmp_path: Path):
    results = run_example("own_images", "--out", tmp_path / "run")
    assert results["error"] < 0.8 * results["error_of_the_mean_image"]
    for name in ("reconstructions", "samples", "interpolations"):
        assert_picture(tmp_path / "run" / f"{name}.png")


def test_a_small_folder_of_ones_own(tmp_path: Path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(5):
        Image.linear_gradient("L").resize((20 + 10 * number, 50)).rotate(90 * number).save(folder / f"{number}.jpg")
    results = run_example("own_images", folder, "--out", tmp_path / "run")
    assert 0 < results["error"] < 1
    assert_picture(tmp_path / "run" / "interpolations.png")


def test_anomaly_scores_tell_one_class_from_the_others(tmp_path: Path):
    results = run_example("anomaly_scores", "--out", tmp_path)
    assert results["auroc"] > 0.75
    assert 0.7 < results["normal_below_threshold"] <= 1
    assert_picture(tmp_path / "anomalies.png")


def test_chains_of_one_process_agree_with_the_exact_posterior(tmp_path: Path):
    results = run_example("chains", "--out", tmp_path)
    assert results["chains"] == 8
    assert results["r_hat"] < 1.05
    assert results["ess"] > 300
    assert 0.5 < results["error_in_standard_errors"] < 1.5
    assert [path.name for path in tmp_path.iterdir()] == ["chains-0000-0007.npy"]


def test_wider_networks_have_coefficients_far_below_half_of_their_parameters(tmp_path: Path):
    results = run_example("local_learning_coefficient", "--out", tmp_path)
    assert list(results) == [1, 2, 8]
    assert 1 < results[1].estimate < 3  # five parameters, all of which the loss sees
    assert results[1].estimate < results[2].estimate < results[8].estimate < 15  # of 40 parameters
    assert_picture(tmp_path / "learning_coefficients.png")
    assert_picture(tmp_path / "hidden_8.png")


def test_the_last_layer_samples_the_exact_posterior_and_the_whole_network_does_not(tmp_path: Path):
    results = run_example("posterior_sampling", "--out", tmp_path)
    last_layer, network = results["last layer"], results["whole network"]
    assert last_layer["mean_error"] < 0.1
    assert 0.9 < last_layer["variance_ratio"] < 1.1
    assert last_layer["covariance_error"] < 0.15
    assert last_layer["ess"] > 100
    assert network["covariance_error"] > 2 * last_layer["covariance_error"]
    assert_picture(tmp_path / "posterior.png")


def test_residuals_around_an_encoder_sample_thousands_of_data_and_new_ones(tmp_path: Path):
    results = run_example("many_data", "--out", tmp_path)
    for name in ("data", "new data"):
        assert results[name]["mean_error"] < 0.15, name
        assert 0.95 < results[name]["median"] < 1.05, name
        assert 0.7 < results[name]["p5"] < results[name]["p95"] < 1.35, name
        assert results[name]["ess"] > 100, name
    assert_picture(tmp_path / "many_data.png")


def test_one_posterior_is_sampled_in_one_call(tmp_path: Path):
    results = run_example("posterior", "--out", tmp_path)
    assert results["chains"] == 16
    assert results["largest R-hat"] < 1.2
    assert results["accuracy on the data themselves"] > 0.97
    assert json.loads((tmp_path / "posterior.json").read_text()) == results
    assert_picture(tmp_path / "posterior.png")
