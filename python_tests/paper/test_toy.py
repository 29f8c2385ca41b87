"""The toy experiments: each on tiny settings, its metrics on inputs whose answers are known, and the command.

Whether our figures agree with the paper's is told by results.json of a full run; these tests tell that the figures mean
what they say.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

pytest.importorskip("tqdm")
pytest.importorskip("matplotlib")
pytest.importorskip("arviz_stats")

from command_line import run as command

from ald_ext.data import ImageData
from ald_ext.paper import (
    EXPERIMENTS,
    Experiment,
    Results,
    find_results,
    run_experiment,
)
from ald_ext.paper.toy import bivariate_gaussian, eight_gaussians, gan_limit, neural_likelihood, univariate_gaussian
from ald_ext.paper.toy import experiment as toy_experiment
from ald_ext.paper.toy.eight_gaussians import EightGaussiansSettings
from ald_ext.paper.toy.inference import (
    NetworkSettings,
    SamplingSettings,
    conjugate_gaussian,
    draw_samples,
    make_sampler,
)
from ald_ext.paper.toy.neural_likelihood import LIMIT, NeuralPotential, NeuralSettings
from ald_ext.samplers import GaussianEncoder, LinearGaussianPotential, effective_sample_size

DOUBLE = torch.float64
NETWORK = NetworkSettings(lr=1e-4)

#: Settings smaller than an experiment's own quick ones.
TINY: dict[str, dict[str, Any]] = {
    "bivariate-gaussian": {"num_samples": 60, "burn_in": 5, "transitions": 2},
    "univariate-gaussian": {"num_data": 20, "num_samples": 60, "burn_in": 20, "num_features": 128},
    "neural-likelihood": {"num_samples": 80, "burn_in": 3, "chains": 8, "transitions": 2}
    | {"avi_steps": 15, "points_a_bin": 2},
    "eight-gaussians": {"num_inputs": 40, "batch_size": 20, "num_samples": 200, "burn_in": 2, "transitions": 2}
    | {"epochs_a_sample": 1, "num_features": 256},
    "gan-limit": {"num_data": 40, "batch_size": 20, "epochs": 1, "num_samples": 30, "energy_units": 8},
    "scaling": {"num_data": (20, 40), "batch_size": 10, "width": 4, "repetitions": 1, "least_seconds": 0.0},
}
#: Fewer steps where all layers move, which are slower.
TINY_NETWORK = {
    "bivariate-gaussian": {"num_samples": 20},
    "univariate-gaussian": {"num_samples": 20, "burn_in": 10},
    "neural-likelihood": {"num_samples": 20, "avi_steps": 5},
    "eight-gaussians": {"num_samples": 80},
}
#: Names of rows that scripts rely on.
ROWS = {
    "bivariate-gaussian": {
        f"{name}_{key}" for name in ("ald", "ld") for key in ("mean_mse", "ess", "mcse", "covariance_error")
    },
    "univariate-gaussian": {*(f"sgald_variance_ratio_{key}" for key in ("median", "min", "max")), "sgald_mean_mse"},
    "neural-likelihood": {f"{name}_total_variation" for name in ("ald", "avi_diagonal", "avi_full")},
    "eight-gaussians": {"mode_share_min", "mode_share_max"},
    "gan-limit": {"modes_data", "mode_entropy_k=0.1n", "within_mode_variance_ratio_k=inf", "far_from_modes_gan"},
    "scaling": {"ld_microseconds_per_step_20", "ald_microseconds_per_step_40", "sgald_growth"},
}
#: Table 1.
PAPER = {"ald_mean_mse": 0.00233, "ald_ess": 634.27, "ald_mcse": 0.00151} | {
    "ld_mean_mse": 0.00145,
    "ld_ess": 570.24,
    "ld_mcse": 0.00136,
}


@pytest.fixture(autouse=True)
def _one_thread(restore_threads: Iterator[None]) -> None:
    """Tensors are small here."""
    torch.set_num_threads(1)


def tiny(name: str, **changes: Any) -> Experiment[Any]:
    """The experiment with its default settings cut down."""
    settings = replace(EXPERIMENTS[name].presets["default"], **{**TINY.get(name, EXPERIMENTS[name].quick), **changes})
    experiment = copy.copy(EXPERIMENTS[name])
    experiment.presets = {"default": settings}
    return experiment


def values_of(results: Results) -> dict[str, list[float | None]]:
    return {row.name: row.values for row in results.rows}


def assert_picture(path: Path) -> None:
    """It can be read, and is not of one colour."""
    from matplotlib.image import imread

    pixels = imread(path)
    assert min(pixels.shape[:2]) > 100
    assert pixels[..., :3].std() > 0.01


@pytest.mark.parametrize(
    ("name", "network"),
    [(name, None) for name in EXPERIMENTS]
    + [pytest.param(name, NETWORK, marks=pytest.mark.exhaustive) for name in TINY_NETWORK],
)
def test_experiment(name: str, network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is JSON of the results that are returned, and progress reaches its end; also where all layers move."""
    bars: list[Any] = []
    real = toy_experiment.run_all
    monkeypatch.setattr(toy_experiment, "run_all", lambda *args: bars.append(args[3]) or real(*args))
    out = tmp_path / "new" / "folder"
    experiment = tiny(name, **(TINY_NETWORK[name] | {"network": network} if network else {}))
    returned = run_experiment(experiment, out, num_seeds=1)
    assert [bar.n for bar in bars] == [experiment.units(experiment.presets["default"])]
    assert sorted(path.name for path in out.iterdir()) == sorted(["results.json", f"{name}.png"])
    plain = json.loads((out / "results.json").read_text(), parse_constant=pytest.fail)
    assert plain["settings"] == json.loads(json.dumps(dataclasses.asdict(experiment.presets["default"])))
    (results,) = find_results([out])
    assert replace(results, settings=returned.settings) == replace(returned, folder=out.resolve())
    assert (results.experiment, results.preset, results.quick) == (name, "default", False)
    assert {"ald_ext", "torch", "python"} <= results.versions.keys()
    assert results.differences
    assert all(all(dataclasses.astuple(difference)) for difference in results.differences)
    names = [row.name for row in results.rows]
    assert len(names) == len(set(names))
    assert set(names) >= ROWS.get(name, set()) | set(EXPERIMENTS[name].paper)
    for row in results.rows:
        assert (row.values, row.standard_error) == ([row.mean], None)
        assert math.isfinite(row.mean)
        assert row.paper == EXPERIMENTS[name].paper.get(row.name)
    assert_picture(out / f"{name}.png")


@pytest.mark.parametrize(
    "preset", ["digits", pytest.param("digits-images", marks=pytest.mark.exhaustive, id="digits-images")]
)
def test_gan_limit_of_digits(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In latent space and as images: figures by variant, and real digits beside them."""
    monkeypatch.setattr(gan_limit, "CLASSIFIER_EPOCHS", 1)
    changes = {"num_data": 40, "batch_size": 20, "epochs": 1, "num_samples": 20} | {"variants": ("k=0.1n", "gan")}
    experiment = copy.copy(EXPERIMENTS["gan-limit"])
    experiment.presets = {preset: replace(experiment.presets[preset], **changes)}
    values = values_of(run_experiment(experiment, tmp_path, preset=preset, num_seeds=1))
    names = ("data", "k=0.1n", "gan")
    assert list(values) == [f"{key}_{name}" for key in ("class_entropy", "frechet_classifier") for name in names]
    assert values["class_entropy_data"][0] > 0.8
    assert values["frechet_classifier_data"][0] < values["frechet_classifier_k=0.1n"][0]
    assert_picture(tmp_path / "gan-limit.png")


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [name for name, experiment in EXPERIMENTS.items() if not experiment.measures_time])
def test_results_are_given_by_the_seeds(name: str, tmp_path: Path) -> None:
    """The same values again, whatever torch's generator; a second seed adds others to the first's."""
    torch.manual_seed(1)
    two = run_experiment(tiny(name), tmp_path, num_seeds=2)
    torch.manual_seed(2)
    one = values_of(run_experiment(tiny(name), tmp_path, num_seeds=1))
    assert {key: values[:1] for key, values in values_of(two).items()} == one
    assert [values for values in values_of(two).values() if values[0] != values[1]]
    for row in two.rows:
        first, second = row.values
        assert row.mean == pytest.approx((first + second) / 2)
        assert row.standard_error == pytest.approx(abs(first - second) / 2)


@pytest.mark.processes
def test_seeds_side_by_side(tmp_path: Path) -> None:
    """In processes: the same values as one after the other, and pictures from the tensors that came back."""
    experiment = tiny("eight-gaussians")
    side_by_side = run_experiment(experiment, tmp_path, num_seeds=3, num_workers=2)
    assert_picture(tmp_path / "eight-gaussians.png")
    assert values_of(side_by_side) == values_of(run_experiment(experiment, tmp_path, num_seeds=3))


@pytest.mark.processes
def test_error_of_a_seed_in_a_process(tmp_path: Path) -> None:
    """It is the seed's own, and nothing is written."""
    with pytest.raises(ValueError, match="batch_size: got 50, expected 1 to 40"):
        run_experiment(tiny("eight-gaussians", batch_size=50), tmp_path, num_seeds=2, num_workers=2)
    assert not list(tmp_path.iterdir())


def test_timings_do_not_run_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = toy_experiment.run_all
    monkeypatch.setattr(toy_experiment, "run_all", lambda *args: seen.append(args[2]) or real(*args))
    run_experiment(tiny("scaling"), tmp_path, num_seeds=2, num_workers=2)
    assert seen == [1]


def test_presets() -> None:
    """The paper's settings where it prints them (F.1, F.2); all layers move there."""
    for name, experiment in EXPERIMENTS.items():
        assert name == experiment.name
        assert set(experiment.differences) == set(experiment.presets)
        assert all(experiment.differences.values())
        settings = experiment.presets["default"]
        assert experiment.units(replace(settings, **experiment.quick)) < experiment.units(settings)
        if "paper" in experiment.presets:
            assert settings.network is None
            assert experiment.presets["paper"].network is not None
    assert set(EXPERIMENTS) >= set(ROWS)
    assert dict(EXPERIMENTS["bivariate-gaussian"].paper) == PAPER
    bivariate, univariate = (EXPERIMENTS[f"{name}-gaussian"].presets["paper"] for name in ("bivariate", "univariate"))
    assert (bivariate.network.lr, bivariate.network.freeze_after, bivariate.num_data) == (0.003, None, 3)
    assert (univariate.network.lr, univariate.network.freeze_after) == (0.001, None)
    assert (univariate.num_data, univariate.batch_size) == (100, 10)


# The command


def test_command(tmp_path: Path) -> None:
    """The cheapest experiment, with its title and its rows as a table."""
    result = command("experiment", "eight-gaussians", "--out", tmp_path, "--quick", "--seeds", "1")
    assert result.returncode == 0, result.stderr
    (results,) = find_results([tmp_path])
    assert results.quick
    experiment = EXPERIMENTS["eight-gaussians"]
    assert results.settings == dataclasses.asdict(replace(experiment.presets["default"], **experiment.quick))
    lines = result.stdout.splitlines()
    assert lines[0] == experiment.title
    assert lines[1].split() == ["paper", "ours", "±", "se"]
    for line, row in zip(lines[2:-1], results.rows, strict=True):
        assert line.split() == [row.name, f"{row.mean:.4g}"]
    assert str(tmp_path) in lines[-1]
    shares = values_of(results)
    assert 0.02 < shares["mode_share_min"][0] <= 1 / 8 <= shares["mode_share_max"][0] < 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trivariate-gaussian"], "experiment: got 'trivariate-gaussian', expected one of bivariate-gaussian"),
        (["scaling", "--preset", "paper"], "experiment scaling: preset: got 'paper', expected one of default"),
        (["scaling", "--seeds", "0"], "experiment scaling: seeds: got 0, expected >= 1"),
        (["eight-gaussians", "--width", "3"], "got width, which only experiments on images take"),
        (["denoising", "--preset", "paper"], "preset: got 'paper', expected none"),
        (["denoising", "--datasets", "mnist"], "data_root"),
    ],
)
def test_errors_of_the_command(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = command("experiment", *arguments, "--out", tmp_path / "out")
    assert result.returncode == 1
    assert message in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "results.json").exists()


def test_list_of_names() -> None:
    """Toy experiments have their presets beside them."""
    toy, images, both = (command("experiment", "--list", *some).stdout for some in (["--toy"], ["--images"], []))
    assert "univariate-gaussian default paper all-layers\n" in toy
    assert "denoising\n" in images
    assert both == toy + images
    assert "got none, expected a folder" in command("experiment", "scaling").stderr


# Metrics


@dataclass
class Countdown:
    """A sampler whose samples are the numbers of its steps."""

    count: int = 0

    def step(self) -> Tensor:
        self.count += 1
        return self.count + torch.arange(6).view(2, 3, 1) / 4  # another number for each datum and chain


def test_samples_and_progress() -> None:
    """Burn-in first, then every so many steps one sample of every chain; chains become draws."""
    calls: list[int] = []
    samples = draw_samples(Countdown(), 4, calls.append, burn_in=5, thinning=3)
    assert calls == [1] * 17
    assert samples.shape == (12, 2, 1)
    for datum in (0, 1):
        expected = [step + 0.75 * datum + chain for step in (8, 11, 14, 17) for chain in (0, 0.25, 0.5)]
        assert samples[:, datum, 0].tolist() == expected


def test_whole_network_has_the_step_of_the_paper() -> None:
    """V on summed gradients, num_data 1: the only reading under which the printed step sizes make sense."""
    potential, x = conjugate_gaussian(bivariate_gaussian.LIKELIHOOD_COVARIANCE, 6)
    sampler = make_sampler(SamplingSettings(network=NETWORK), nn.Identity(), potential, x, 2, seed=0, batch_size=3)
    (group,) = sampler.optimizer.param_groups
    assert (sampler.reduction, group["num_data"], group["lr"], sampler.batch_size) == ("sum", 1, NETWORK.lr, 3)
    sizes = [layer.out_features for layer in sampler.network if isinstance(layer, nn.Linear)]
    assert sizes == [128, 128, 128, 128, 2]


def assert_within(values: Tensor, expected: Tensor | float, standard_error: Tensor | float) -> None:
    deviation = torch.as_tensor((values - expected) / standard_error).abs().max()
    assert deviation < 5, f"{float(deviation):.1f} standard errors"


def test_accuracy_of_exact_bivariate_draws() -> None:
    """MSE tr(Σ)/T, MCSE the same, ESS about T; a shift and a scale show where they should."""
    potential, _ = conjugate_gaussian(bivariate_gaussian.LIKELIHOOD_COVARIANCE, 3)
    torch.manual_seed(0)
    mean, covariance = potential.posterior(torch.randn(3, 2, dtype=DOUBLE))
    expected = torch.tensor([[0.3333, 0.2222], [0.2222, 0.3704]], dtype=DOUBLE)
    torch.testing.assert_close(covariance, expected, rtol=0, atol=5e-5)
    draws, factor = 1000, torch.linalg.cholesky(covariance)
    metrics = []
    for _ in range(40):
        samples = mean + torch.randn(draws, 3, 2, dtype=DOUBLE) @ factor.T
        metrics.append(bivariate_gaussian.accuracy(samples, mean, covariance))
    averages = {key: torch.tensor([one[key] for one in metrics], dtype=DOUBLE) for key in metrics[0]}
    exact = float(covariance.trace()) / draws
    assert_within(averages["mean_mse"].mean(), exact, averages["mean_mse"].std() / math.sqrt(40))
    # An estimate of the ESS has an error of its own, of some percent, and not of mean zero.
    deviation = float((covariance.diagonal() / draws).sqrt().mean())
    for key, value in (("ess", draws), ("mcse", exact), ("standard_error", deviation)):
        assert float(averages[key].mean()) == pytest.approx(value, rel=0.05)
    variances = torch.outer(covariance.diagonal(), covariance.diagonal()) + covariance.square()
    largest = float(((variances / draws).sqrt() / covariance).max())
    assert 0 < averages["covariance_error"].min() < averages["covariance_error"].max() < 5 * largest

    centered = samples - samples.mean(0)
    shifted = bivariate_gaussian.accuracy(centered + mean + 0.3, mean, covariance)
    assert shifted["mean_mse"] == pytest.approx(2 * 0.3**2)
    # One datum's samples, whitened by their own covariance, have any covariance that they are given.
    sampled = centered[:, 0].T @ centered[:, 0] / (draws - 1)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(sampled), centered[:, :1].mT, upper=False).mT
    for scales, error in (([1.0], 0.0), ([2.0], 3.0), ([1.0, 2.0], 3.0)):
        count = len(scales)
        samples = mean[:count] + white.expand(-1, count, 2) * torch.tensor(scales)[:, None] @ factor.T
        scaled = bivariate_gaussian.accuracy(samples, mean[:count], covariance)
        assert scaled["covariance_error"] == pytest.approx(error, abs=1e-10)
        assert scaled["mean_mse"] < 1e-20


def test_accuracy_of_exact_univariate_draws() -> None:
    """Ratios of χ²/(T - 1), MSE variance/T."""
    draws, n = 800, 500
    potential, x = conjugate_gaussian(univariate_gaussian.LIKELIHOOD_COVARIANCE, n)
    mean, covariance = potential.posterior(x)
    assert float(covariance) == pytest.approx(1 / 101)
    samples = mean + covariance.sqrt() * torch.randn(draws, n, 1, dtype=DOUBLE)
    metrics = univariate_gaussian.accuracy(samples, mean, covariance)
    deviation = math.sqrt(2 / (draws - 1))
    # The median of a χ² is below its mean by two thirds.
    median = 1 - 2 / (3 * (draws - 1))
    assert abs(metrics["variance_ratio_median"] - median) < 5 * 1.2533 * deviation / math.sqrt(n)
    assert 1 - 5 * deviation < metrics["variance_ratio_min"] < 1 - 2 * deviation
    assert 1 + 2 * deviation < metrics["variance_ratio_max"] < 1 + 5 * deviation
    expected = float(covariance) / draws
    assert abs(metrics["mean_mse"] - expected) < 5 * expected * math.sqrt(2 / n)
    assert metrics["ess"] == pytest.approx(draws, rel=0.05)

    white = (samples[:, :1] - samples[:, :1].mean(0)) / samples[:, :1].std(0)
    scale = torch.tensor([[0.5], [1.0], [3.0]], dtype=DOUBLE)
    scaled = univariate_gaussian.accuracy(mean[:3] + scale * covariance.sqrt() * white, mean[:3], covariance)
    keys = [f"variance_ratio_{key}" for key in ("min", "median", "max")]
    assert [scaled[key] for key in keys] == pytest.approx([0.25, 1, 9])


@pytest.mark.parametrize("module", [bivariate_gaussian, univariate_gaussian])
def test_data_come_from_the_model(module: Any) -> None:
    """x ~ N(0, Σ_z + Σ_x), by the moments of many."""
    n = 1_000_000
    potential, x = conjugate_gaussian(module.LIKELIHOOD_COVARIANCE, n)
    likelihood = torch.linalg.inv(potential.likelihood_precision)
    expected = torch.eye(x.shape[1], dtype=DOUBLE) + likelihood
    products = x[:, :, None] * x[:, None]
    assert_within(x.mean(0), 0.0, x.std(0) / math.sqrt(n))
    assert_within(products.mean(0), expected, products.std(0) / math.sqrt(n))


@pytest.mark.parametrize("deviation", [0.3, 0.6])
def test_shares_and_spread_of_exact_draws(deviation: float) -> None:
    """By symmetry every mode has the same share, and independent draws change it in 7 of 8 cases."""
    settings = EightGaussiansSettings(deviation=deviation)
    draws, chains = 20, 2000
    mode = torch.randint(8, (draws, chains))
    offset = settings.deviation * torch.randn(draws, chains, 2, dtype=DOUBLE)
    metrics = eight_gaussians.shares_and_spread(eight_gaussians.centers(settings)[mode] + offset, settings)
    count = draws * chains
    error = math.sqrt(7 / 64 / count)
    assert 1 / 8 - 5 * error < metrics["mode_share_min"] <= 1 / 8 <= metrics["mode_share_max"] < 1 / 8 + 5 * error
    assert abs(metrics["mode_changes"] - 7 / 8) < 5 * math.sqrt(7 / 64 / (count - chains))
    assert abs(metrics["within_mode_variance_ratio"] - 1) < 5 / math.sqrt(count)
    # Points that are nearer to a neighbour count with that smaller offset.
    share = float(eight_gaussians.exact_spread(settings)) / deviation**2
    assert (0.95 < share < 1) if deviation == 0.3 else (share < 0.9)


def test_shares_and_spread_of_other_samples() -> None:
    settings = EightGaussiansSettings()
    middle = eight_gaussians.centers(settings)
    assert torch.cdist(middle, middle)[0, 4] == pytest.approx(2 * settings.radius)
    resting = middle[torch.tensor([0, 0, 0, 1])].expand(10, 4, 2)
    metrics = eight_gaussians.shares_and_spread(resting, settings)
    assert metrics == {"mode_share_min": 0, "mode_share_max": 0.75, "within_mode_variance_ratio": 0, "mode_changes": 0}
    moving = middle[torch.arange(16) % 8][:, None]
    metrics = eight_gaussians.shares_and_spread(moving, settings)
    assert metrics["mode_share_min"] == metrics["mode_share_max"] == 1 / 8
    assert metrics["mode_changes"] == 1


def test_figures_of_the_ring() -> None:
    """Of draws of the mixture, within 5 standard errors; of samples that have lost modes, exactly."""
    count = 40_000
    torch.manual_seed(0)
    figures = gan_limit.ring_figures(gan_limit.draw_ring(count))
    assert figures["modes"] == 8
    # 2 n (log 8 - entropy) is χ² of 7 degrees of freedom; 8 absolute deviations add up to at most √8 times their norm.
    bound = 7 + 5 * math.sqrt(14)
    assert 0 <= 1 - figures["mode_entropy"] < bound / (2 * count * math.log(8))
    assert 0 < figures["mode_total_variation"] < math.sqrt(bound / count) / 2
    assert abs(figures["within_mode_variance_ratio"] - 1) < 5 / math.sqrt(count)
    middle = eight_gaussians.centers(gan_limit.TARGET).float()
    one = gan_limit.ring_figures(middle[:1].expand(10, 2))
    assert one == {"modes": 1, "mode_entropy": 0, "mode_total_variation": 7 / 8} | {
        "within_mode_variance_ratio": 0,
        "far_from_modes": 0,
    }
    two = gan_limit.ring_figures(middle[:2].repeat(5, 1))
    assert two["mode_entropy"] == pytest.approx(1 / 3)
    assert gan_limit.ring_figures(torch.zeros(4, 2))["far_from_modes"] == 1
    far = math.exp(-(gan_limit.FAR**2) / 2)  # of a mode; a few of those are near to the next one
    assert 0 < figures["far_from_modes"] < far + 5 * math.sqrt(far / count)


def test_gan_has_the_gradients_of_the_log_d_trick() -> None:
    """Those of a CLAE with weights: 1 - D(x) and D(z⁻) in the energy, 1 - D(z⁻) in the generator; D = σ(-E)."""
    torch.manual_seed(0)
    sizes = {"latent_dim": 2, "shape": (2,), "data": "real", "network": "mlp", "likelihood": "gaussian"}
    options = {"prior_sampler": "generator", "energy_smoothness": 0.0, "energy_units": 6}
    model = gan_limit.GAN(**sizes, **options, encoder=nn.Flatten(), decoder=nn.Unflatten(1, (2,)))
    x = torch.randn(5, 2)
    torch.manual_seed(1)
    model.loss(x).backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    torch.manual_seed(1)
    negative = model.prior_states(torch.arange(5))
    data, sampled, fixed = model.energy(x), model.energy(negative), model.energy(negative.detach())
    weights = [torch.sigmoid(each.detach()) for each in (data, -sampled, sampled)]
    for_energy = (weights[0] * data - weights[1] * fixed).mean()
    for_generator = (weights[2] * sampled).mean()
    for network, loss in ((model.energy_network, for_energy), (model.sampler, for_generator)):
        parameters = list(network.parameters())
        expected = torch.autograd.grad(loss, parameters, retain_graph=True)
        names = [name for name, parameter in model.named_parameters() if any(parameter is each for each in parameters)]
        for name, gradient in zip(names, expected, strict=True):
            torch.testing.assert_close(found[name], gradient)


def test_variants_differ_by_the_noise_that_they_say() -> None:
    temperatures = {}
    data = ImageData(gan_limit.draw_ring(20), None, gan_limit.draw_ring(4), None)
    settings = gan_limit.GANLimitSettings(epochs=1, batch_size=20, energy_units=4)
    for name, variant in gan_limit.VARIANTS.items():
        model = gan_limit.train_model(settings, variant, data, 0, lambda _: None)
        groups = model.parameter_groups(20)
        (own,) = [group for group in groups if any(p is model.sampler[0].weight for p in group["params"])]
        temperatures[name] = own.get("temperature", 1.0) * variant.temperature
    expected = {"k=0.1n": 10, "k=n": 1, "k=10n": 0.1, "k=inf+noise": 1, "k=inf": 0, "k=inf+mle": 0, "gan": 0}
    assert temperatures == expected


def test_ring_potential_is_the_mixture() -> None:
    settings = EightGaussiansSettings()
    z = torch.randn(50, 2, dtype=DOUBLE)
    components = Independent(Normal(eight_gaussians.centers(settings), settings.deviation), 1)
    log_prob = MixtureSameFamily(Categorical(torch.ones(8, dtype=DOUBLE)), components).log_prob(z)
    constant = eight_gaussians.ring_potential(settings)(None, z) + log_prob
    torch.testing.assert_close(constant, constant[0].expand(50))


NEURAL = NeuralSettings(bins=8, points_a_bin=32)


def point_mass(row: int, column: int, share: float = 1.0) -> Tensor:
    mass = torch.zeros(1, 4, 4, dtype=DOUBLE)
    mass[0, row, column] = share
    return mass


def test_total_variation_of_known_histograms() -> None:
    a, b = point_mass(0, 1), point_mass(2, 3)
    distance = neural_likelihood.total_variation
    assert distance(a, a) == 0
    assert distance(a, b) == 1
    assert distance((a + b) / 2, b) == 0.5
    assert distance(point_mass(0, 1, 0.75), a) == 0.25  # a quarter outside the grid
    assert distance(torch.zeros_like(a), a) == 1
    assert distance(point_mass(2, 3, 0.5), a) == 1
    assert distance(torch.cat([a, a]), torch.cat([a, b])) == 0.5  # averaged over the data


def test_histograms_of_known_samples() -> None:
    """Of 8 x 8 bins of side 1 from -4 on; rows are the first coordinate."""
    samples = torch.tensor([[[-3.5, 0.5], [1.5, -2.5]], [[-3.01, 0.99], [4.5, 0.0]], [[-4.5, 0.5], [3.9, 3.9]]])
    shares = neural_likelihood.histograms(samples.double(), 8)
    expected = torch.zeros(2, 8, 8, dtype=DOUBLE)
    expected[0, 0, 4] = 2 / 3
    expected[1, 5, 1] = expected[1, 7, 7] = 1 / 3
    torch.testing.assert_close(shares, expected)


def normal_masses(mean: Tensor, deviation: Tensor, bins: int) -> Tensor:
    """Probabilities of the bins, (bins,), of N(mean, deviation²)."""
    edges = torch.linspace(-LIMIT, LIMIT, bins + 1, dtype=DOUBLE)
    return torch.special.ndtr((edges - mean) / deviation).diff()


def test_grid_truth_of_a_linear_gaussian() -> None:
    """The identity as network: the posterior is a product of normals, and its bins' probabilities are known."""
    x = torch.tensor([[0.5, -1.0], [3.0, 0.2]], dtype=DOUBLE)
    truth = neural_likelihood.grid_truth(NeuralPotential(nn.Identity()), x, NEURAL)
    assert truth.shape == (2, 8, 8)
    torch.testing.assert_close(truth.sum((1, 2)), torch.ones(2, dtype=DOUBLE))
    precision = 1 + 1 / neural_likelihood.OBSERVATION_SCALE**2
    unit = torch.eye(2, dtype=DOUBLE)
    exact = LinearGaussianPotential(torch.zeros(2, dtype=DOUBLE), unit, neural_likelihood.OBSERVATION_SCALE**2 * unit)
    mean, covariance = exact.posterior(x)
    torch.testing.assert_close(covariance, unit / precision)
    # The midpoint rule's error over cells of side h is below h²/24 · max|p''| of a bin's side: about 1e-3.
    for datum in range(2):
        sides = [normal_masses(mean[datum, i], precision**-0.5, NEURAL.bins) for i in range(2)]
        torch.testing.assert_close(truth[datum], torch.outer(*sides), rtol=0, atol=1e-3)


def test_resampled_truth_has_its_shares() -> None:
    """Multinomial: the distance from the truth that exact sampling would have."""
    truth = torch.tensor([[[0.5, 0.25], [0.25, 0.0]], [[0.1, 0.2], [0.3, 0.4]]], dtype=DOUBLE)
    count = 40_000
    shares = neural_likelihood.resampled(truth, count)
    torch.testing.assert_close(shares.sum((1, 2)), torch.ones(2, dtype=DOUBLE))
    assert_within(shares, truth, (truth * (1 - truth) / count).sqrt() + 1e-12)


class Fixed(nn.Module):
    """The same outputs for every datum."""

    def __init__(self, outputs: list[float]) -> None:
        super().__init__()
        self.outputs = torch.tensor([outputs], dtype=DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs.expand(len(x), -1)


def inverse_softplus(value: float) -> float:
    return math.log(math.expm1(value))


def test_encoder_masses_of_a_known_gaussian() -> None:
    x = torch.zeros(2, 2, dtype=DOUBLE)
    deviations = torch.tensor([0.5, 0.8], dtype=DOUBLE)
    outputs = [0.3, -1.0, *map(inverse_softplus, deviations.tolist())]
    masses = neural_likelihood.encoder_masses(GaussianEncoder(Fixed(outputs), 2), x, NEURAL)
    assert masses.shape == (2, 8, 8)
    sides = [normal_masses(torch.tensor(outputs[i]), deviations[i], NEURAL.bins) for i in range(2)]
    torch.testing.assert_close(masses[0], torch.outer(*sides), rtol=0, atol=1e-3)
    assert torch.equal(masses[0], masses[1])

    # With correlation ρ, a quarter and asin(ρ)/2π of the mass where both coordinates are above their mean.
    factor = torch.tensor([[0.5, 0.0], [0.4, 0.3]], dtype=DOUBLE)
    outputs = [0.0, 0.0, inverse_softplus(0.5), inverse_softplus(0.3), 0.4]
    (mass, _) = neural_likelihood.encoder_masses(GaussianEncoder(Fixed(outputs), 2, "full"), x, NEURAL)
    covariance = factor @ factor.T
    rho = float(covariance[0, 1] / covariance.diagonal().prod().sqrt())
    assert float(mass[4:, 4:].sum()) == pytest.approx(0.25 + math.asin(rho) / (2 * math.pi), abs=1e-3)
    assert float(mass.sum()) == pytest.approx(1, abs=1e-6)

    # What is outside the grid is missing.
    outside = neural_likelihood.encoder_masses(GaussianEncoder(Fixed([LIMIT, 0.0, -0.5, -0.5]), 2), x, NEURAL)
    assert float(outside[0].sum()) == pytest.approx(0.5, abs=1e-3)


def test_random_likelihood_has_the_scales_of_the_paper() -> None:
    """Weights N(0, 0.2²) and biases N(0, 0.1²), from torch's generator, and nothing to train."""
    torch.manual_seed(3)
    decoder = neural_likelihood.random_decoder()
    torch.manual_seed(3)
    again = neural_likelihood.random_decoder()
    x = torch.randn(4, 2, dtype=DOUBLE)
    assert torch.equal(decoder(x), again(x))
    assert not any(parameter.requires_grad for parameter in decoder.parameters())
    linear = [layer for layer in decoder if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linear] == [128, 128, 128, 128, 2]
    for name, scale in (("weight", 0.2), ("bias", 0.1)):
        values = torch.cat([getattr(layer, name).flatten() for layer in linear])
        assert abs(float(values.std()) / scale - 1) < 5 / math.sqrt(2 * len(values))


def test_neural_potential() -> None:
    """U = ‖z‖²/2 + ‖x - f(z)‖²/(2σ²): minus the logarithms of the two densities, but for constants."""
    decoder = neural_likelihood.random_decoder()
    x, z = torch.randn(2, 30, 2, dtype=DOUBLE)
    prior = Normal(0.0, 1.0).log_prob(z).sum(1)
    likelihood = Normal(decoder(z), 0.25).log_prob(x).sum(1)
    constant = NeuralPotential(decoder)(x, z) + prior + likelihood
    torch.testing.assert_close(constant, constant[0].expand(30))


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "sampler", "changes"),
    [
        ("bivariate-gaussian", "ald", {"num_samples": 400, "burn_in": 40}),
        ("univariate-gaussian", "sgald", {"num_data": 20, "batch_size": 5, "num_samples": 800, "burn_in": 100}),
    ],
)
def test_default_samplers_are_right(name: str, sampler: str, changes: dict[str, Any]) -> None:
    """The steps, kernels and features of the default: means and variances, by the standard errors that samples from
    the exact posterior with the same effective sample size would have."""
    settings = replace(EXPERIMENTS[name].presets["default"], **changes)
    drawn = EXPERIMENTS[name].run_seed(settings, 0, lambda _: None).drawn
    samples = drawn[sampler][-settings.num_samples :]
    deviations = samples - drawn["mean"]
    variance = drawn["covariance"].diagonal() if "covariance" in drawn else drawn["deviation"].square().flatten()
    sizes, sizes_of_squares = (effective_sample_size(each, "mean") for each in (deviations, deviations.square()))
    assert_within(deviations.mean(0), 0.0, (variance / sizes).sqrt())
    assert_within(deviations.square().mean(0), variance.expand_as(sizes), variance * (2 / sizes_of_squares).sqrt())
