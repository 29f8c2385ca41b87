"""The experiments on images: each on a few images, its metrics where the answer is known, resuming, the command."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("tqdm")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("arviz_stats")
pytest.importorskip("typer")

from command_line import run as command
from patience import PATIENCE
from typer.main import get_command

from ald_ext.cli.commands import app
from ald_ext.data import ImageData
from ald_ext.detection import prior
from ald_ext.metrics import EXTRACTORS, GaussianStatistics
from ald_ext.models import CLAE, LAE, ModelConfig
from ald_ext.paper import (
    IMAGE_EXPERIMENTS,
    ImageExperiment,
    ImageSettings,
    Results,
    find_results,
    run_image_experiment,
)
from ald_ext.paper.images import (
    anomaly_detection,
    anomaly_settings,
    budget,
    dequantization,
    runner,
    sample_quality,
    selection,
    training_speed,
)
from ald_ext.paper.images import experiment as images_experiment
from ald_ext.paper.images.experiment import JobOutcome, Subject, extractor_of
from ald_ext.paper.images.image_generation import typical_first
from ald_ext.paper.results import Job
from ald_ext.training import TrainingConfig, TrainingDivergedError, fit
from ald_ext.training.checkpoints import load_checkpoint

NUM_TRAIN, NUM_TEST = 40, 20
RESULTS = Path(__file__).parents[2] / "docs" / "results"
MODELS = ("ae", "vae", "lae", "clae")

ROWS = {
    "image-generation": {
        *(f"halves/{model}/re" for model in ("ae", "vae", "abp", "dlgm", "lae", "clae")),
        *(f"halves/{model}/frechet_corners" for model in ("vae", "abp", "dlgm", "lae", "clae")),
        *(f"halves/{model}/frechet_corners_refitted" for model in ("ae", "vae", "abp", "dlgm", "lae", "clae")),
    },
    "sample-quality": {
        f"halves/{row}/{metric}"
        for row in ("vae", "vae long", "vae gaussian-likelihood")
        for metric in ("re", "coverage_refitted", "frechet_corners", "frechet_corners_one_gaussian")
    },
    "denoising": {f"halves/{model}/denoising_mse" for model in MODELS},
    "anomaly-detection": {
        *(
            f"halves/{m}/{key}{part}"
            for m in MODELS
            for key in ("auprc_normal", "auprc_anomaly")
            for part in ("", "_1")
        ),
        *(f"halves/{model}/auroc_aggregated" for model in ("ae", "vae")),
        *(f"halves/{model}/auroc_{score}" for model in ("lae", "clae") for score in ("one_sample", "own_prior")),
        "halves/clae/auprc_normal_printed_sign_1",
    },
    "anomaly-detection-chosen": {f"halves/{model}/auprc_normal_1" for model in MODELS},
    "anomaly-settings": {
        f"halves/conv_32_{kind}_marginal {score}/validation_auprc_{model}"
        for model in MODELS
        for kind in ("pixels", "standardized")
        for score in ("own", "refitted40")
    },
    "training-speed": {
        *(f"halves/{model}/{metric}" for model in ("lae", "abp", "dlgm") for metric in ("re", "seconds")),
        *(f"halves/lae/seconds_to_re_of_{model}{part}" for model in ("abp", "dlgm") for part in ("", "_share")),
    },
    "dequantization": {
        f"halves/lae/{metric}_{part}"
        for metric in ("re", "frechet_corners", "empty_bins")
        for part in ("none", "uniform", "langevin")
    },
}


class Corners:
    """Features that need no network: means of the quarters of an image."""

    name, metric, version = "corners", "frechet_corners", "1"

    def __init__(self, weights: Any = None, device: Any = "cpu") -> None:
        pass

    def __call__(self, images: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, 2).mean(1).flatten(1)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, restore_threads: Iterator[None]) -> None:
    monkeypatch.setitem(EXTRACTORS, "corners", Corners)
    monkeypatch.setattr("ald_ext.training.loop.Loop.save_pictures", lambda self: None)
    images_experiment.load.cache_clear()
    extractor_of.cache_clear()
    torch.set_num_threads(1)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes, of bright upper and lower halves, as a .npz file."""
    generator = np.random.default_rng(0)

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % 2
        pixels = generator.integers(0, 100, (count, 32, 32), dtype=np.uint8)
        pixels[labels == 0, :16] += 150
        pixels[labels == 1, 16:] += 150
        return pixels, labels

    train, test = split(NUM_TRAIN), split(NUM_TEST)
    path = tmp_path / "halves.npz"
    np.savez(path, train_images=train[0], train_labels=train[1], test_images=test[0], test_labels=test[1])
    return path


def tiny(experiment: ImageExperiment, images: Path, **changes: Any) -> ImageSettings:
    values = {"datasets": (f"halves={images}",), "width": 2, "latent_dim": 4, "epochs": 2, "extractor": "corners"}
    return replace(experiment.settings, **{**values, "frechet_samples": 30, **changes})


def run(
    name: str, images: Path, out: Path, *, seeds: int = 1, workers: int = 1, runs: Any = None, **changes: Any
) -> Any:
    experiment = IMAGE_EXPERIMENTS[name]
    small = tiny(experiment, images, **changes)
    return run_image_experiment(experiment, out, settings=small, num_seeds=seeds, num_workers=workers, runs=runs)


def means(results: Results) -> dict[str, float | None]:
    return {row.name: row.mean for row in results.rows}


def data_of(pixels: Tensor) -> ImageData:
    return ImageData(pixels, None, pixels, None, name="some")


def config_of(name: str, model: str, pixels: Tensor, **changes: Any) -> TrainingConfig:
    """How an experiment trains a model on these images."""
    experiment = IMAGE_EXPERIMENTS[name]
    return experiment.training_config(replace(experiment.settings, **changes), Job("some", model, 0), pixels)


def subject(model: Any, data: ImageData, out: Path, part: str = "") -> Subject:
    return Subject(Job("some", "lae", 0, part), data, model, None, {"test_re": 0.0}, ImageSettings(), out, out)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.exhaustive if name != "denoising" else ()) for name in IMAGE_EXPERIMENTS],
)
def test_rows_and_pictures(images: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row a data set, model and metric with one value a seed; every picture is there; nothing names the machine."""
    candidates = dict(islice(anomaly_settings.CANDIDATES.items(), 2))
    monkeypatch.setattr(anomaly_settings, "CANDIDATES", candidates)
    out = tmp_path / "out"
    few = {"models": ("vae",)} if name == "sample-quality" else {}  # other models have more of the same
    results = run(name, images, out, seeds=2, **few)
    text = (out / "results.json").read_text()
    json.loads(text, parse_constant=pytest.fail)
    assert str(tmp_path) not in text
    (found,) = find_results([out])
    assert (found.experiment, found.rows, found.jobs) == (name, results.rows, results.jobs)
    assert found.pictures == results.pictures
    for row in results.rows:
        dataset, model, metric = row.name.split("/")
        assert (dataset, len(row.values), row.paper) == ("halves", 2, None)
        assert model.split()[0] in IMAGE_EXPERIMENTS[name].settings.models or model.split()[0] in candidates
        assert metric
    assert set(means(results)) >= ROWS[name]
    assert len(results.jobs) >= 2 * len(results.settings["models"])
    for picture in results.pictures:
        assert (out / picture.file).read_bytes().startswith(b"\x89PNG")


def test_the_papers_figures_are_put_beside_rows_of_these_names() -> None:
    """Table 3's means, which the paper does not print, are those of its digits."""
    for experiment in IMAGE_EXPERIMENTS.values():
        for row in experiment.paper:
            dataset, model, _ = row.split("/")
            assert dataset in experiment.settings.datasets
            assert model in experiment.settings.models
    paper = IMAGE_EXPERIMENTS["anomaly-detection"].paper
    rounded = [round(paper[f"mnist/{model}/auprc_normal"], 4) for model in MODELS]
    assert rounded == [0.8572, 0.8514, 0.8775, 0.8422]
    assert IMAGE_EXPERIMENTS["image-generation"].paper["celeba/clae/fid"] == 86.4


def test_nothing_is_computed_twice(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by the same experiment nor, where runs are shared, by another; a damaged outcome is measured again."""
    out, runs = tmp_path / "out", tmp_path / "runs"
    first = run("image-generation", images, out, models=("vae", "lae"), runs=runs)
    monkeypatch.setattr(runner, "train", lambda *_, **__: pytest.fail("trained again"))
    shared = run("denoising", images, tmp_path / "other", models=("vae",), runs=runs)
    (outcome,) = (runs / "outcomes" / "denoising").iterdir()
    assert outcome.name.startswith("halves-vae-seed0-")
    for text in ("", "{", '{"values": 1}', "[]"):
        outcome.write_text(text)
        assert means(run("denoising", images, tmp_path / "other", models=("vae",), runs=runs)) == means(shared)
    monkeypatch.setattr(runner, "train_once", lambda *_: pytest.fail("measured again"))
    assert means(run("image-generation", images, out, models=("vae", "lae"), runs=runs)) == means(first)
    fewer = run("image-generation", images, out, models=("vae",), runs=runs)
    assert means(fewer) == {name: value for name, value in means(first).items() if "/vae/" in name}


@pytest.mark.parametrize("changes", [{"epochs": 1}, {"width": 3}, {"frechet_samples": 20}, {"train_images": 30}])
def test_other_settings_are_computed_anew(images: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """And those of before are found again."""
    out = tmp_path / "out"
    first = means(run("image-generation", images, out, models=("lae",)))
    assert means(run("image-generation", images, out, models=("lae",), **changes)) != first
    assert means(run("image-generation", images, out, models=("lae",))) == first


def test_a_missing_picture_or_another_one_is_drawn_again(images: Path, tmp_path: Path) -> None:
    """Runs of other settings give their pictures the same names."""
    picture = tmp_path / "out" / "halves-lae-seed0.png"
    run("denoising", images, picture.parent, models=("lae",))
    drawn = picture.read_bytes()
    for spoil in (Path.unlink, lambda path: path.write_bytes(b"of other settings")):
        spoil(picture)
        run("denoising", images, picture.parent, models=("lae",))
        assert picture.read_bytes() == drawn


def test_resumes_where_it_was_interrupted(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two runs is stopped in its second epoch; what comes out is as if it had not been."""
    models = ("vae", "lae")
    whole = run("denoising", images, tmp_path / "whole", models=models, epochs=3)
    real, steps = runner.train, []

    def interrupted(config: Any, folder: Path, *, progress: Any, **options: Any) -> Any:
        def count(number: int) -> None:
            steps.append(config.model)
            if steps.count("lae") == 4:  # the first call of a run tells what was done before
                raise KeyboardInterrupt
            progress(number)

        return real(config, folder, progress=count, **options)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("denoising", images, tmp_path / "out", models=models, epochs=3)
    assert not (tmp_path / "out" / "results.json").exists()
    trained: list[int] = []

    def counted(config: Any, folder: Path, *, progress: Any, **options: Any) -> Any:
        assert config.model == "lae"
        return real(config, folder, progress=trained.append, **options)

    monkeypatch.setattr(runner, "train", counted)
    assert means(run("denoising", images, tmp_path / "out", models=models, epochs=3)) == means(whole)
    assert trained[0] == NUM_TRAIN, "the first epoch was in the checkpoint"
    assert sum(trained) == 3 * NUM_TRAIN


@pytest.mark.processes
def test_jobs_side_by_side_are_as_one_after_the_other(images: Path, tmp_path: Path) -> None:
    one, two = (run("denoising", images, tmp_path / str(n), models=("ae", "lae"), workers=n) for n in (1, 2))
    assert means(one) == means(two)


@pytest.mark.processes
@pytest.mark.usefixtures("heeded_signals")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_command_that_gets_sigint_ends_soon_and_resumes_later(images: Path, tmp_path: Path, workers: int) -> None:
    """In the middle of its runs, of which more wait; the checkpoints are of the steps that were made."""
    out = tmp_path / "out"
    program = "from ald_ext.cli import main\n\nif __name__ == '__main__':\n    main()\n"
    (tmp_path / "command.py").write_text(program)
    arguments = ["experiment", "denoising", "--datasets", f"halves={images}", "--width", "2", "--device", "cpu"]
    arguments += ["--epochs", "100000", "--option", "compile=false", "--workers", str(workers), "--out", str(out)]

    def checkpoints() -> list[Path]:
        return list(out.glob("runs/halves/*/checkpoint.pt"))

    started = [sys.executable, tmp_path / "command.py", *arguments]
    with subprocess.Popen(started, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while process.poll() is None and time.monotonic() < deadline and len(checkpoints()) < workers:
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            errors = process.communicate(timeout=PATIENCE)[1]
        finally:
            process.kill()
    assert process.returncode not in (0, -signal.SIGINT), errors
    assert len(checkpoints()) == workers
    for checkpoint in checkpoints():
        assert 0 < load_checkpoint(checkpoint)["epoch"] < 100_000
    assert not (out / "results.json").exists()


def test_timings_do_not_run_side_by_side(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = runner.run_all
    monkeypatch.setattr(runner, "run_all", lambda *args: seen.append(args[2]) or real(*args))
    run("training-speed", images, tmp_path / "out", epochs=1, workers=2)
    assert seen == [1]


@pytest.mark.parametrize(
    ("kind", "pixels"),
    [
        ("real", torch.zeros(4, 1, 32, 32)),
        ("binary", torch.tensor([0, 255] * 512, dtype=torch.uint8).view(1, 1, 32, 32)),
        ("grey", torch.full((4, 1, 32, 32), 7, dtype=torch.uint8)),
        ("colour", torch.zeros(4, 3, 32, 32, dtype=torch.uint8)),
    ],
)
def test_each_kind_of_images_has_settings_of_its_own(kind: str, pixels: Tensor) -> None:
    assert images_experiment.kind_of(pixels) == kind
    for model in MODELS:
        config = config_of("denoising", model, pixels)
        for name, value in images_experiment.KIND_SETTINGS[kind].get(model, {}).items():
            assert getattr(config, name, getattr(config.network, name, None)) == value
        assert config.network.likelihood == ("bernoulli" if kind == "binary" else "marginal-gaussian")
        assert config.num_epochs == images_experiment.MOST_EPOCHS
        assert kind != "real" or config.momentum == 0


def test_an_experiment_may_give_a_model_more_images() -> None:
    pixels = torch.full((100_000, 1, 1, 1), 7, dtype=torch.uint8)
    epochs = [config_of("image-generation", model, pixels).epochs for model in ("vae", "abp", "lae")]
    assert epochs == [5, 2, 10]
    assert config_of("denoising", "lae", pixels).epochs == 5
    assert (
        config_of("image-generation", "lae", pixels).network.prior_eps == images_experiment.PRIOR_SETTINGS["prior_eps"]
    )


def test_variants_are_compared_without_test_images() -> None:
    experiment, pixels = IMAGE_EXPERIMENTS["sample-quality"], torch.arange(50, dtype=torch.uint8).view(-1, 1, 1, 1)
    data = experiment.prepare(ImageData(pixels, None, 255 - pixels, None, name="some"), Job("some", "lae", 0))
    assert (data.train_images.flatten().tolist(), data.test_images.flatten().tolist()) == (
        list(range(45)),
        list(range(45, 50)),
    )


def test_some_settings_of_variants_are_multiples() -> None:
    """Of the usual ones, or of the number of data; a minibatch has no more than all data."""
    experiment, pixels = IMAGE_EXPERIMENTS["sample-quality"], torch.full((60, 1, 32, 32), 7, dtype=torch.uint8)
    settings = replace(experiment.settings, epochs=4)

    def config(variant: str) -> TrainingConfig:
        return experiment.training_config(settings, Job("some", "clae", 0, variant), pixels)

    usual = config("usual")
    assert usual == replace(config_of("image-generation", "clae", pixels, epochs=4), ensemble_size=10, ensemble_every=1)
    assert config("long").num_epochs == 12
    assert (config("large-batch").batch_size, config("large-batch").lr) == (60, 2 * usual.lr)
    assert config("chains-10n").network.chains == 600
    assert config("spectral").network.spectral_normalization


def test_coverage_is_of_real_features_near_a_sample() -> None:
    """Of six on a line, each has the five others as neighbours, so its radius is the distance to the farthest."""
    line = torch.arange(6.0)[:, None]
    assert sample_quality.coverage(line, torch.tensor([[10.0]])) == 1 / 6  # 5 is 5 from it, as far as from 0
    assert sample_quality.coverage(line, torch.tensor([[2.0]])) == 1
    assert sample_quality.coverage(line, torch.tensor([[99.0]])) == 0


def test_options_reach_the_models_that_have_them_and_the_training() -> None:
    options = (("energy_smoothness", 2.0), ("latent_dim", 3), ("lr", 0.5))
    pixels = torch.full((100, 1, 32, 32), 7, dtype=torch.uint8)
    clae, vae = (config_of("denoising", model, pixels, options=options) for model in ("clae", "vae"))
    assert clae.network.energy_smoothness == 2.0
    assert not hasattr(vae.network, "energy_smoothness")
    assert {(config.network.latent_dim, config.lr) for config in (clae, vae)} == {(3, 0.5)}


def test_denoising_of_what_changes_nothing_is_the_noise(tmp_path: Path) -> None:
    """0.1², within five standard errors; and of what knows the images nothing."""
    pixels = torch.randint(0, 256, (50, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model = LAE()
    errors = []
    for reconstruct in (lambda x: x, lambda x: pixels / 255):
        model.reconstruct = reconstruct
        errors.append(
            IMAGE_EXPERIMENTS["denoising"].evaluate(subject(model, data_of(pixels), tmp_path)).values["denoising_mse"]
        )
    assert abs(errors[0] - 0.01) < 5 * 0.01 * math.sqrt(2 / pixels.numel())
    assert errors[1] < 1e-12


def test_measures_of_detection() -> None:
    """A perfect score, its opposite, and three scores of which one pair is the wrong way round."""
    normal = torch.tensor([True, True, False, False, False])
    perfect = torch.tensor([0.0, 1, 2, 3, 4], dtype=torch.float64)
    assert set(anomaly_detection.measures(perfect, normal).values()) == {1.0}
    opposite = anomaly_detection.measures(-perfect, normal)
    assert opposite["auroc"] == 0
    # Ranks 4 and 5 of 5 are normal: precision 1/4 and 2/5 at the two.
    assert opposite["auprc_normal"] == pytest.approx((1 / 4 + 2 / 5) / 2)
    swapped = anomaly_detection.measures(perfect[[0, 2, 1, 3, 4]], normal)
    assert (swapped["auprc_normal"], swapped["auroc"]) == pytest.approx(((1 + 2 / 3) / 2, 5 / 6))


@pytest.mark.parametrize(("part", "expected"), [("0", 1.0), ("1", 0.0)])
def test_detection_of_a_score_that_knows(images: Path, tmp_path: Path, part: str, expected: float) -> None:
    """The lower half is dark where class 0 is normal: such a score is perfect for it, and the worst for the other."""
    data = images_experiment.load("halves", ImageSettings(datasets=(str(images),)))
    model = LAE()
    model.score = lambda x: x[:, 0, 16:].float().mean((1, 2))
    values = IMAGE_EXPERIMENTS["anomaly-detection"].evaluate(subject(model, data, tmp_path, part)).values
    assert values["auroc"] == expected
    for name in ("auprc_normal", "auprc_anomaly"):
        assert (values[name] == pytest.approx(1)) == (expected == 1)


class Linear(LAE):
    """z = the first two pixels, and the mean of the others is their sum: both known."""

    def __init__(self) -> None:
        super().__init__(shape=(1, 1, 6), network="mlp", data="real", likelihood="gaussian", latent_dim=2)

    def encode(self, x: Tensor) -> Tensor:
        return x[:, 0, 0, :2]

    def output(self, z: Tensor) -> Tensor:
        return torch.cat([z, z.sum(1, keepdim=True).expand(-1, 4)], 1).view(-1, 1, 1, 6)


def test_potential_with_a_refitted_prior() -> None:
    """Of a Gaussian z and a residual: the standardized square, and the Mahalanobis distance, up to constants.

    Fitted by one component to 3,000 data, the mean and covariance are the sample's but for the ridge.
    """
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4000, 2, generator=generator) @ torch.tensor([[1.0, 0.5], [0.0, 2.0]])
    residual = 0.1 * torch.randn(4000, 4, generator=generator)
    data = torch.cat([z, z.sum(1, keepdim=True) + residual], 1).view(-1, 1, 1, 6)
    values = prior.RefittedPrior.fit(Linear(), data[:3000], components=1).potential(Linear(), data)
    seen = z[:3000].double()
    covariance = torch.cov(seen.T, correction=0) + 0.03 * seen.var(0, correction=0).mean() * torch.eye(2)
    offset = z.double() - seen.mean(0)
    distance = (offset @ torch.linalg.inv(covariance) * offset).sum(1) / 2
    squares = residual.double().square().sum(1)
    expected = distance + squares * distance[:3000].std(correction=0) / squares[:3000].std(correction=0)
    assert (values - expected).std() < 1e-3 * expected.std()


def test_the_chosen_settings_are_the_best_of_the_search() -> None:
    """Of the search in docs/results, whose file is the witness; and "best" finds the largest row of a model."""
    rows = {"a/x own/validation_auprc_ae": 0.2, "a/y own/validation_auprc_ae": 0.1, "a/y own/validation_auprc_lae": 0.3}
    assert anomaly_settings.best(rows, "ae", ("x", "y")) == ("x", "own")
    assert anomaly_settings.best(rows, "ae", ("y",)) == ("y", "own")
    (results,) = find_results([RESULTS / "images" / "anomaly-settings"])
    for model, choice in anomaly_detection.CHOSEN.items():
        name, score = anomaly_settings.best(means(results), model)
        found = (anomaly_settings.CANDIDATES[name], anomaly_settings.SCORES[score])
        assert found == choice


def test_the_search_sees_neither_test_images_nor_other_classes(images: Path) -> None:
    """In the upper half of class 1 no pixel reaches 100, but where anomalies of it have the other half's."""
    data = images_experiment.load("halves", ImageSettings(datasets=(str(images),)))
    spoilt = replace(data, test_images=data.test_images[:0], test_labels=data.test_labels[:0])
    job = Job("halves", "lae", 0, "conv_32_pixels_marginal-1")
    seen = IMAGE_EXPERIMENTS["anomaly-settings"].prepare(spoilt, job)
    own = data.train_images[data.train_labels == 1]
    assert torch.equal(seen.train_images, own[:15])
    assert torch.equal(seen.test_images[seen.test_labels == 1], own[15:])
    assert (seen.test_labels == -1).sum() >= 5


def test_standardized_images() -> None:
    images = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8)
    images[2] = 7
    standard = anomaly_detection.standardized(images).flatten(1)
    torch.testing.assert_close(standard.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard[:2].std(1, correction=0), torch.ones(2))
    assert (standard[2] == 0).all()


def test_the_printed_sign_is_the_other() -> None:
    """Eq. 18 as printed and as it is right differ by twice the energy."""
    torch.manual_seed(0)
    model = CLAE(width=2, num_data=4)
    x = torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8)
    difference = model.score(x) - anomaly_detection.printed_score(model, x)
    # A difference of potentials of some hundreds of nats, in float32.
    torch.testing.assert_close(difference, 2 * model.energy(model.encode(x)), rtol=1e-3, atol=1e-3)


def test_seconds_to_reach() -> None:
    curves = {"seconds": [1.0, 2.0, 4.0], "re": [0.8, 0.4, 0.2]}
    expected = {0.9: 1.0, 0.8: 1.0, 0.6: 1.5, 0.4: 2.0, 0.3: 3.0, 0.2: 4.0, 0.1: math.inf}
    assert {error: training_speed.seconds_to_reach(curves, error) for error in expected} == pytest.approx(expected)


def test_speed_is_compared_seed_by_seed() -> None:
    def outcome(re: list[float], seconds: list[float]) -> JobOutcome:
        values = {"re": re[-1], "seconds": seconds[-1]}
        return JobOutcome(values, curves={"epoch": [1.0, 2.0], "re": re, "seconds": seconds})

    outcomes = {
        Job("mnist", "lae", 0): outcome([0.2, 0.1], [1, 2]),
        Job("mnist", "abp", 0): outcome([0.5, 0.2], [5, 10]),
        Job("mnist", "lae", 1): outcome([0.4, 0.2], [1, 2]),
        Job("mnist", "abp", 1): outcome([0.5, 0.3], [3, 6]),
    }
    rows = IMAGE_EXPERIMENTS["training-speed"].compare(outcomes)
    assert rows["mnist/lae/seconds_to_re_of_abp"] == pytest.approx([1, 1.5])
    assert rows["mnist/lae/seconds_to_re_of_abp_share"] == pytest.approx([0.1, 0.25])


def test_chosen_pixel_and_empty_bins() -> None:
    images = torch.zeros(6, 1, 32, 32, dtype=torch.uint8)
    images[:, 0, 3, 5] = torch.tensor([0, 1, 2, 3, 3, 3])
    images[:, 0, 4, 4] = torch.tensor([0, 9, 0, 9, 0, 9])
    assert dequantization.chosen_pixel(images) == 3 * 32 + 5
    images[0, 0, 0, 0] = 1
    assert dequantization.chosen_pixel(images) == 0
    assert dequantization.empty_bins(torch.tensor([0.0, 1, 0, 0, 2, 0])) == pytest.approx(0.5)
    assert dequantization.empty_bins(torch.tensor([0.0, 1, 1, 3])) == 0


@pytest.mark.parametrize("kind", ["none", "uniform", "langevin"])
def test_dequantized_values_stay_in_their_bins(kind: str) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (8, 1, 32, 32), dtype=torch.uint8)
    unit = dequantization.unit_values(LAE(width=2, dequantization=kind), images).double()
    assert unit.shape == images.shape
    # float32 leaves 2^-24 of the unit interval at its upper end.
    assert ((unit * 256 - images) >= -1e-4).all()
    assert ((unit * 256 - images) <= 1 + 1e-4).all()
    assert kind == "none" or len(unit.unique()) > 256


def test_typicality_is_the_distance_from_real_images() -> None:
    """Along a direction in which real images vary it takes more to be far."""
    covariance = torch.diag(torch.tensor([4.0, 0.01], dtype=torch.float64))
    real = GaussianStatistics(torch.zeros(2, dtype=torch.float64), covariance, 100)
    features = torch.tensor([[3.0, 0.0], [0.0, 2.5], [0.1, 0.0], [9.0, 0.0]])
    assert typical_first(features, real).tolist() == [2, 0, 1, 3]


def test_names_of_data_sets() -> None:
    datasets = ("mnist", "celeba=some/other.npz", "some/faces.npz")
    sources = {"mnist": "mnist", "celeba": "some/other.npz", "faces": "some/faces.npz"}
    assert ImageSettings(datasets=datasets).sources == sources


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs: got 0"),
        ({"models": ("lae", "gan")}, "models: got 'gan', expected some of ae, vae"),
        ({"models": ("lae", "lae")}, "expected each once"),
        ({"models": ()}, "expected each once"),
        ({"datasets": ()}, "datasets: got ()"),
        ({"datasets": ("a=x.npz", "a=y.npz")}, "expected different names"),
        ({"extractor": "gabor"}, "got 'gabor'"),
        ({"options": (("colour", 1),)}, "option: got 'colour', expected a setting of one of the models"),
        ({"options": (("epochs", 1),)}, "option: got 'epochs'"),
        ({"options": (("energy_smoothness", 1.0),), "models": ("lae",)}, "option: got 'energy_smoothness'"),
    ],
)
def test_errors(images: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        run("image-generation", images, tmp_path / "out", **changes)
    np.savez(tmp_path / "plain.npz", train_images=np.zeros((4, 32, 32), np.uint8))
    with pytest.raises(ValueError, match="plain, which has no labels"):
        run("anomaly-detection", images, tmp_path / "out", datasets=(str(tmp_path / "plain.npz"),))


def test_command(images: Path, tmp_path: Path) -> None:
    """Options reach the settings, and quick yields to them."""
    given = ["--datasets", f"halves={images}", "--models", "lae,ae", "--width", "3", "--epochs", "2", "--seeds", "2"]
    arguments = ["denoising", "--quick", "--out", tmp_path / "out", "--workers", "1", "--device", "cpu"]
    result = command("experiment", *arguments, *given, "--runs", tmp_path / "runs")
    assert result.returncode == 0, result.stderr
    (results,) = find_results([tmp_path / "out"])
    assert (results.quick, results.settings["width"], results.settings["models"]) == (True, 3, ["lae", "ae"])
    assert {(job.epochs, job.seed) for job in results.jobs} == {(2, 0), (2, 1)}
    assert (tmp_path / "runs" / "halves").is_dir()
    assert "halves/lae/denoising_mse" in result.stdout


def test_every_setting_is_an_option_of_the_command() -> None:
    options = {option.name: option for option in get_command(app).commands["experiment"].params}
    names = {*ImageSettings.__dataclass_fields__} - {"options"}  # whose option is --option
    assert names <= set(options)
    assert not [name for name in names if options[name].default is not None]
    assert options["frechet_samples"].help.startswith("Experiments on images: Images drawn from each model. Default: 5")
    assert options["download"].is_flag


def searching(images: Path, out: Path, **changes: Any) -> Results:
    options = {"models": ("ae", "vae", "lae"), "epochs": None, "seconds": 0.2, "candidates": 3, **changes}
    return run("image-generation", images, out, **options)


@pytest.fixture
def _quick_speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes 20 ms of every model, but 40 ms of an AE."""
    monkeypatch.setattr(budget, "seconds_a_step", lambda config, _: 0.04 if config.model == "ae" else 0.02)


@pytest.mark.usefixtures("_quick_speeds")
def test_every_model_gets_the_same_seconds_and_the_same_search(images: Path, tmp_path: Path) -> None:
    """Half of them for three trials, half for two; the winner, by RE times distance, is trained on all images."""
    results, generation = searching(images, tmp_path / "out"), IMAGE_EXPERIMENTS["image-generation"]
    assert [choice.model for choice in results.choices] == ["ae", "vae", "lae"]
    tried = {}
    for choice in results.choices:
        rounds = [[trial for trial in choice.trials if trial.round == number] for number in (1, 2)]
        assert [len(trials) for trials in rounds] == [3, 2]
        slow = 2 if choice.model == "ae" else 1
        assert [trials[0].steps for trials in rounds] == [round(5 / 3 / slow), round(5 / 2 / slow)]
        for trial in choice.trials:
            assert trial.re is not None
            assert (trial.frechet is None) == (choice.model == "ae")
            assert trial.score == trial.re * (1 if trial.frechet is None else trial.frechet)
        best = sorted(rounds[0], key=lambda trial: trial.score)[:2]
        assert [trial.options for trial in rounds[1]] == [trial.options for trial in best]
        assert choice.options == min(rounds[1], key=lambda trial: trial.score).options
        tried[choice.model] = [
            (trial.options["batch_size"], trial.options["lr"] * 0.3 / trial.options.get("eps", 0.3))
            for trial in rounds[0]
        ]
        assert ("momentum" in choice.options) == ("prior_eps" in choice.options) == (choice.model == "lae")
    assert tried["ae"] == tried["vae"]
    for fixed, scaled in zip(tried["vae"], tried["lae"], strict=True):
        assert scaled == pytest.approx(fixed, rel=0.01)
    for config_file in (tmp_path / "out" / "runs" / "halves").glob("*/config.json"):
        config = TrainingConfig.load(config_file)
        assert config.steps == (5 if config.model == "ae" else 10)
        (chosen,) = [choice.options for choice in results.choices if choice.model == config.model]
        for name, value in chosen.items():
            assert getattr(config, name, getattr(config.network, name, None)) == value
    (read,) = find_results([tmp_path / "out"])
    assert read.choices == results.choices
    told, fixed = ([each.setting for each in found.differences] for found in (read, generation))
    untrue = selection.NOT_OF_A_SEARCH | selection.NOT_OF_SECONDS
    assert untrue <= set(fixed)
    assert set(told) & untrue == {"epochs"}, "which is now a number of seconds"


@pytest.mark.usefixtures("_quick_speeds")
def test_a_search_sees_no_test_images(images: Path, tmp_path: Path) -> None:
    """Other ones change nothing of it; other training images at the end, which are held out, do."""
    arrays = dict(np.load(images))
    first = searching(images, tmp_path / "first", models=("lae",)).choices
    np.savez(images, **{**arrays, "test_images": 255 - arrays["test_images"]})
    images_experiment.load.cache_clear()
    assert searching(images, tmp_path / "second", models=("lae",)).choices == first
    arrays["train_images"][-1] = 255 - arrays["train_images"][-1]
    np.savez(images, **arrays)
    images_experiment.load.cache_clear()
    assert searching(images, tmp_path / "third", models=("lae",)).choices != first


@pytest.mark.usefixtures("_quick_speeds")
def test_a_search_passes_over_what_diverges(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = selection.fit

    def diverging(config: TrainingConfig, *arguments: Any, **options: Any) -> Any:
        if config.lr < 0.002:
            raise TrainingDivergedError("on purpose")
        return real(config, *arguments, **options)

    monkeypatch.setattr(selection, "fit", diverging)
    (choice,) = searching(images, tmp_path / "out", models=("vae",), candidates=4).choices
    assert choice.options["lr"] >= 0.002
    for trial in choice.trials:
        assert (trial.score is None) == (trial.options["lr"] < 0.002)
    monkeypatch.setattr(selection, "fit", lambda config, *_, **__: diverging(replace(config, lr=1e-3)))
    with pytest.raises(TrainingDivergedError, match="vae on halves: all that was tried in round 1 diverged"):
        searching(images, tmp_path / "none", models=("vae",))


def test_a_speed_is_measured_once_for_all_that_takes_equally_long(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "LEAST_SECONDS", 0.01)
    data = images_experiment.load("halves", ImageSettings(datasets=(f"halves={images}",)))
    config = replace(config_of("denoising", "lae", data.train_images, width=2, latent_dim=4), batch_size=10)
    before = torch.get_rng_state()
    steps = budget.within(1.0, config, data, tmp_path).steps
    assert torch.equal(torch.get_rng_state(), before)
    assert steps is not None
    monkeypatch.setattr(budget, "seconds_a_step", lambda *_: pytest.fail("measured again"))
    again = budget.within(2.0, replace(config, seed=3, lr=1e-4), data, tmp_path)
    assert again.steps == pytest.approx(2 * steps, abs=1)
    with pytest.raises(pytest.fail.Exception):
        budget.within(1.0, replace(config, batch_size=20), data, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": 1.0, "epochs": 2}, "seconds: got 1.0, expected none beside epochs"),
        ({"candidates": 3, "epochs": 2}, "candidates: got 3, expected 0 without seconds"),
        ({"candidates": 13, "epochs": None, "seconds": 1.0}, "candidates: got 13, expected >= 0 and <= 12"),
        ({"epochs": None, "seconds": 1.0, "options": (("steps", 5),)}, "option: got 'steps', expected a setting of"),
        ({"device": "none"}, "experiment image-generation: device: got 'none', expected cpu or a GPU"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(
    images: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run("image-generation", images, tmp_path, **changes)


def test_a_speed_is_measured_where_training_diverges() -> None:
    data = ImageData(torch.zeros(4, 1, 4, 4, dtype=torch.uint8), None, torch.zeros(1, 1, 4, 4, dtype=torch.uint8), None)
    network = ModelConfig(network="mlp", latent_dim=2, hidden_units=4, hidden_layers=1)
    config = TrainingConfig(model="ae", batch_size=2, lr=1e30, network=network)
    with pytest.raises(TrainingDivergedError):
        fit(replace(config, epochs=9, warm_up=0), data)
    assert 0 < budget.seconds_a_step(config, data) < math.inf


@pytest.mark.usefixtures("_quick_speeds")
def test_what_an_option_says_is_not_told_as_chosen(images: Path, tmp_path: Path) -> None:
    changes = {"models": ("ae",), "candidates": 1, "options": (("batch_size", 7),)}
    (choice,) = searching(images, tmp_path / "out", **changes).choices
    assert set(choice.options) == {"lr"}


def test_parts_of_data_have_no_seconds(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dequantization: seconds: got 1\.0, expected none, for parts of data"):
        run("dequantization", images, tmp_path, epochs=None, seconds=1.0)
