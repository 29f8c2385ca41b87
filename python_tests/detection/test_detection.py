"""The anomaly detector: its conventions, the data it takes, what it detects, its files and its errors."""

from __future__ import annotations

import copy
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="the detector needs the extra train", exc_type=ImportError)

from patience import PATIENCE
from sklearn.base import clone, is_outlier_detector
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ald_ext import AnomalyDetector
from ald_ext.detection import scorer
from ald_ext.models import MODELS
from ald_ext.models.saving import model_contents, write_tensors
from ald_ext.training import TrainingInterrupted

SMALL_IMAGES = {"latent_dim": 3, "width": 2}


def vectors(seed: int, count: int = 60, dimension: int = 5, shift: float = 0.0) -> np.ndarray:
    """Draws of N(shift, I)."""
    return np.random.default_rng(seed).normal(shift, 1.0, (count, dimension))


def colour_images(count: int = 6, size: int = 20) -> np.ndarray:
    """uint8 (n, size, size, 3)."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def quick(model: str = "lae", **options) -> AnomalyDetector:
    return AnomalyDetector(model, **{"epochs": 2, "folds": 1, **options})


@pytest.fixture(scope="module")
def fitted() -> AnomalyDetector:
    """To five features."""
    return quick().fit(vectors(0))


@pytest.fixture(scope="module")
def fitted_to_images() -> AnomalyDetector:
    return quick(model_settings=SMALL_IMAGES).fit(colour_images())


def test_fitted_attributes_are_those_of_pyod():
    data = vectors(0, count=50)
    detector = quick(contamination=0.2)
    assert detector.fit(data) is detector
    np.testing.assert_array_equal(detector.decision_scores_, detector.decision_function(data))
    assert detector.threshold_ == np.quantile(detector.decision_scores_, 0.8)
    assert detector.labels_.sum() == 10
    np.testing.assert_array_equal(detector.labels_, detector.predict(data))
    np.testing.assert_array_equal(detector.labels_, quick(contamination=0.2).fit_predict(data))
    np.testing.assert_array_equal(detector.score_samples(data), -detector.decision_scores_)
    assert detector.decision_scores_.dtype == np.float64
    assert detector.labels_.dtype == np.int64
    assert detector.n_features_in_ == 5


def test_labels_are_one_where_the_score_is_above_the_threshold(fitted):
    scores = fitted.decision_function(vectors(1))
    np.testing.assert_array_equal(fitted.predict(vectors(1)), scores > fitted.threshold_)
    assert (fitted.predict(vectors(1, shift=20.0)) == 1).all()


@pytest.mark.parametrize("model", MODELS)
def test_every_model_scores_vectors(model):
    scores = quick(model).fit(vectors(0, count=20)).decision_function(vectors(1, count=7))
    assert scores.shape == (7,)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("model", ["lae", "vae"])
def test_a_fit_is_a_function_of_its_seed_and_leaves_the_random_state_alone(model):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = quick(model).fit(vectors(0)).decision_scores_
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, quick(model).fit(vectors(0)).decision_scores_)
    assert not np.array_equal(first, quick(model, seed=1).fit(vectors(0)).decision_scores_)


def test_scores_are_averaged_over_samples_of_the_second_half():
    detector = quick(epochs=10, batch_size=30).fit(vectors(0))  # 20 steps, a sample at each
    assert len(detector.ensemble_) == scorer.ENSEMBLE_SIZE
    data = detector.scorer_.preparation(torch.from_numpy(vectors(1)), "")
    scores, model, each = detector.decision_function(vectors(1)), copy.deepcopy(detector.model_), []
    for member in detector.ensemble_.samples:
        model.load_state_dict(member, strict=False)
        each.append(model.score(data).detach())
    for key, value in detector.model_.named_parameters():
        assert torch.equal(member[key], value)
    np.testing.assert_allclose(scores, torch.stack(each).double().mean(0).numpy(), rtol=1e-5)
    last = quick(epochs=10, batch_size=30, average=False).fit(vectors(0))
    assert last.ensemble_ is None
    np.testing.assert_allclose(last.decision_function(vectors(1)), each[-1].numpy(), rtol=1e-5)


def test_an_autoencoder_keeps_no_samples():
    assert quick("ae").fit(vectors(0)).ensemble_ is None


# scikit-learn


def test_it_is_a_scikit_learn_estimator():
    detector = AnomalyDetector("vae", model_settings={"latent_dim": 2}, seed=3)
    another = clone(detector)
    assert another.get_params() == detector.get_params()
    assert another.set_params(epochs=7).epochs == 7
    assert is_outlier_detector(detector)


def test_pipeline_equals_its_parts():
    pipeline = make_pipeline(StandardScaler(), quick()).fit(vectors(0))
    scaler = StandardScaler().fit(vectors(0))
    detector = quick().fit(scaler.transform(vectors(0)))
    scaled = scaler.transform(vectors(1))
    np.testing.assert_array_equal(pipeline.decision_function(vectors(1)), detector.decision_function(scaled))
    np.testing.assert_array_equal(pipeline.predict(vectors(1)), detector.predict(scaled))
    np.testing.assert_array_equal(pipeline.score_samples(vectors(1)), detector.score_samples(scaled))


def test_cross_validation_by_auroc_takes_one_as_anomalous():
    data = np.concatenate([vectors(0, count=90), vectors(1, count=10, shift=6.0)])
    labels = np.repeat([0, 1], [90, 10])
    scores = cross_val_score(quick(epochs=20), data, labels, scoring="roc_auc", cv=StratifiedKFold(2))
    assert scores.min() > 0.95


# Data


def test_arrays_tensors_and_lists_are_the_same_data(fitted):
    data = vectors(1).astype(np.float32)
    expected = fitted.decision_function(data)
    others = [torch.from_numpy(data), torch.from_numpy(data).requires_grad_(), data.tolist(), data[:, ::-1][:, ::-1]]
    for other in [*others, np.asfortranarray(data), data.astype(np.float64), data.astype(np.longdouble)]:
        np.testing.assert_array_equal(fitted.decision_function(other), expected)


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.uint8, np.float16, np.bool_])
def test_numbers_of_other_kinds_are_vectors(dtype):
    data = (vectors(0) > 0).astype(dtype)
    expected = quick().fit(data.astype(np.float64)).decision_scores_
    np.testing.assert_array_equal(quick().fit(data).decision_scores_, expected)


def test_the_units_of_features_do_not_matter():
    scores = quick().fit(vectors(0)).decision_scores_
    units = np.array([1e-6, 1e3, -1.0, 2.0, 1e9])
    np.testing.assert_allclose(quick().fit(vectors(0) * np.abs(units) + units).decision_scores_, scores, rtol=1e-4)


def test_floats_of_more_dimensions_are_flattened():
    data = vectors(0, dimension=12)
    expected = quick().fit(data).decision_scores_
    with pytest.warns(UserWarning, match="taken as a table of 12 features"):
        detector = quick().fit(data.reshape(-1, 3, 4))
    np.testing.assert_array_equal(detector.decision_scores_, expected)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e20])
def test_constant_features_are_harmless_until_they_change(constant):
    data = vectors(0)
    data[:, 2] = constant
    detector = quick().fit(data)
    assert detector.scorer_.preparation.centre[2] == constant
    assert detector.scorer_.preparation.scale[2] == 1
    other = data.copy()
    other[:, 2] += max(abs(constant), 100.0)
    assert (detector.decision_function(other) > detector.decision_scores_.max()).all()


@pytest.mark.parametrize("value", [1e30, -1e300])
def test_huge_values_are_anomalous_and_not_nan(fitted, value):
    data = vectors(1)
    data[:, 0] = value
    scores = fitted.decision_function(data)
    assert np.isfinite(scores).all()
    assert (scores > fitted.threshold_).all()


def test_two_data_are_enough_and_batches_are_clipped():
    assert quick(batch_size=1000).fit(vectors(0, count=2)).decision_scores_.shape == (2,)


@pytest.mark.parametrize("kind", ["small", "large", "grey"])
def test_images_of_all_layouts_are_the_same_data(kind):
    images = colour_images(size=32 if kind == "large" else 20)
    first, grey = images.transpose(0, 3, 1, 2), images[..., 0]
    colour = [images, first, np.ascontiguousarray(first), torch.from_numpy(images)]
    layouts = [grey, grey[..., None], grey[:, None]] if kind == "grey" else colour
    expected, *others = (quick(model_settings=SMALL_IMAGES).fit(layout).decision_scores_ for layout in layouts)
    for other in others:
        np.testing.assert_array_equal(other, expected)


def test_images_are_pixels_of_a_convolutional_network_and_vectors_real_data_of_an_mlp(fitted, fitted_to_images):
    config = fitted.model_.config
    assert (config.data, config.network, config.shape, config.latent_dim) == ("real", "mlp", (5,), 2)
    config = fitted_to_images.model_.config
    assert (config.data, config.network, config.shape) == ("real", "conv", (3, 32, 32))
    assert (config.latent_dim, config.width) == (3, 2)
    assert fitted_to_images.n_features_in_ == 20 * 20 * 3


# What is detected


@pytest.mark.parametrize("model", ["lae", "clae", "ae", "vae"])
def test_shifted_gaussians_are_found(model):
    """N(0, I) from N(3, I) in five dimensions."""
    detector = AnomalyDetector(model, epochs=20).fit(vectors(0, count=200))
    data = np.concatenate([vectors(1, count=100), vectors(2, count=100, shift=3.0)])
    assert roc_auc_score(np.repeat([0, 1], 100), detector.decision_function(data)) > 0.95


@pytest.mark.parametrize("model", ["lae", "vae"])
def test_other_digits_are_found(model):
    """scikit-learn's 8 x 8 digits as vectors: trained on 89 zeros, scored on the other zeros and all other digits."""
    data, digits = load_digits(return_X_y=True)
    zeros = np.flatnonzero(digits == 0)
    train, rest = zeros[::2], np.setdiff1d(np.arange(len(digits)), zeros[::2])
    detector = AnomalyDetector(model, epochs=20).fit(data[train])
    assert roc_auc_score(digits[rest] != 0, detector.decision_function(data[rest])) > 0.95


def test_images_of_other_digits_are_found():
    """The same digits as images, resized to 32 x 32: ones are told from the rest."""
    data, digits = load_digits(return_X_y=True)
    images = (data * 15).astype(np.uint8).reshape(-1, 8, 8)
    train, rest = np.flatnonzero(digits == 0)[:100], np.r_[np.flatnonzero(digits == 0)[100:], 1:400]
    rest = np.setdiff1d(rest, train)
    detector = AnomalyDetector(epochs=10, model_settings={"latent_dim": 8, "width": 4}).fit(images[train])
    assert roc_auc_score(digits[rest] != 0, detector.decision_function(images[rest])) > 0.95


# Files


@pytest.mark.parametrize("model", MODELS)
def test_a_loaded_or_unpickled_detector_gives_the_same_scores(model, tmp_path):
    detector = quick(model, contamination=np.float64(0.3), model_settings={"precision_prior": (2.0, 0.5)})
    detector.fit(vectors(0, count=20)).save(tmp_path / "detector.pt")
    loaded = AnomalyDetector.load(tmp_path / "detector.pt")
    np.testing.assert_array_equal(loaded.decision_function(vectors(1)), detector.decision_function(vectors(1)))
    np.testing.assert_array_equal(loaded.labels_, detector.labels_)
    np.testing.assert_array_equal(loaded.decision_scores_, detector.decision_scores_)
    assert loaded.threshold_ == detector.threshold_
    assert loaded.contamination == 0.3
    np.testing.assert_array_equal(loaded.fit(vectors(2)).labels_, clone(detector).fit(vectors(2)).labels_)
    unpickled = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(unpickled.decision_function(vectors(1)), detector.decision_function(vectors(1)))


def test_a_loaded_detector_takes_the_same_images(fitted_to_images, tmp_path):
    fitted_to_images.save(tmp_path / "detector.pt")
    contents = torch.load(tmp_path / "detector.pt", weights_only=True)  # so it holds tensors and plain values
    assert isinstance(contents["detector_parameters"], str)
    loaded = AnomalyDetector.load(tmp_path / "detector.pt")
    np.testing.assert_array_equal(loaded.decision_function(colour_images()), fitted_to_images.decision_scores_)
    with pytest.raises(ValueError, match="expected uint8 images"):
        loaded.predict(vectors(0))


def test_other_files_are_refused(fitted, tmp_path):
    path = tmp_path / "detector.pt"
    with pytest.raises(FileNotFoundError, match=r"AnomalyDetector.load: path: got .*, expected a file that"):
        AnomalyDetector.load(path)
    path.write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"AnomalyDetector.load: path: got .*, expected a file that"):
        AnomalyDetector.load(path)
    write_tensors(path, model_contents(fitted.model_))
    with pytest.raises(ValueError, match="it lacks decision_scores"):
        AnomalyDetector.load(path)


def test_parameters_that_json_cannot_hold_are_refused(tmp_path):
    detector = quick().fit(vectors(0))
    detector.set_params(model_settings={"encoder": torch.nn.Linear(5, 2)})
    with pytest.raises(ValueError, match=r"save: got Linear.* as a parameter, expected plain values"):
        detector.save(tmp_path / "detector.pt")


# Errors


@pytest.mark.parametrize("method", ["predict", "decision_function", "score_samples", "save"])
def test_a_detector_that_was_not_fitted_says_so(fitted, method, tmp_path):
    argument = tmp_path / "detector.pt" if method == "save" else vectors(0)
    for detector in (AnomalyDetector(), clone(fitted)):
        with pytest.raises(NotFittedError):
            getattr(detector, method)(argument)


def with_value(value: float) -> np.ndarray:
    data = vectors(0)
    data[3, 2] = value
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_value(np.nan), "fit: X: got 1 values that are NaN, missing or infinite, expected finite ones"),
        (with_value(-np.inf), "fit: X: got 1 values that are NaN, missing or infinite"),
        (torch.full((4, 2), float("nan")), "fit: X: got 8 values that are NaN, missing or infinite"),
        (with_value(1e200), "fit: X: got a feature whose variance is beyond float64's range"),
        (vectors(0, count=1), "fit: X: got 1 samples, expected at least 2"),
        (vectors(0, count=0), r"fit: X: got 0 sample\(s\), 5 feature\(s\)"),
        (
            vectors(0, dimension=0),
            r"fit: X: got 60 sample\(s\), 0 feature\(s\) .*while a minimum of 1",
        ),
        (vectors(0)[0], r"fit: X: got shape \(5,\), expected \(n, d\) vectors or"),
        (np.array([["a", "b"], ["c", "d"]]), "fit: X: got ndarray: dtype='numeric' is not compatible with .*strings"),
        (np.array([[1, None], [2, 3]]), "fit: X: got 1 values that are NaN, missing or infinite"),
        (vectors(0) + 1j, "fit: X: got ndarray: Complex data not supported, expected real numbers"),
        (torch.ones(3, 2, dtype=torch.complex64), "fit: X: got torch.complex64, expected real numbers or integers"),
        (np.zeros((3, 4, 5, 4), np.uint8), r"fit: X: got uint8 of shape \(3, 4, 5, 4\), expected images"),
        (np.zeros((3, 1, 4, 5, 4), np.uint8), r"fit: X: got uint8 of shape \(3, 1, 4, 5, 4\), expected images"),
    ],
)
def test_bad_training_data_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        quick().fit(data)


@pytest.mark.parametrize(
    ("detector", "data", "message"),
    [
        ("fitted", vectors(0, dimension=4), "has 4 features, but AnomalyDetector is expecting 5 features"),
        ("fitted", with_value(np.nan), "got 1 values that are NaN"),
        ("fitted", vectors(0)[0], r"got shape \(5,\)"),
        ("fitted", colour_images(), "got uint8 images, expected vectors of 5 features"),
        ("fitted_to_images", vectors(0), r"got float64 of shape \(60, 5\), expected uint8 images of \(3, 20, 20\)"),
        ("fitted_to_images", colour_images().astype(np.float32), "got float64 of shape"),
        ("fitted_to_images", colour_images()[..., 0], r"got images of \(1, 20, 20\) .*, expected \(3, 20, 20\)"),
        ("fitted_to_images", colour_images(size=21), r"got images of \(3, 21, 21\) .*, expected \(3, 20, 20\)"),
    ],
)
def test_other_data_than_the_fitted_are_refused(request, detector, data, message):
    with pytest.raises(ValueError, match=f"predict: X:? ?{message}"):
        request.getfixturevalue(detector).predict(data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "gan"}, "AnomalyDetector: model: got 'gan', expected one of lae, clae"),
        ({"contamination": 0.0}, "AnomalyDetector: contamination: got 0.0, expected > 0 and <= 0.5"),
        ({"contamination": 0.6}, "AnomalyDetector: contamination: got 0.6"),
        ({"contamination": float("nan")}, "AnomalyDetector: contamination: got nan"),
        ({"epochs": 0}, "AnomalyDetector: epochs: got 0, expected >= 1"),
        ({"epochs": 2.5}, "AnomalyDetector: epochs: got 2.5, expected int"),
        ({"contamination": "auto"}, "AnomalyDetector: contamination: got 'auto', expected float"),
        ({"labels": "sklearn"}, "AnomalyDetector: labels: got 'sklearn', expected one of pyod, scikit-learn"),
        ({"folds": 0}, "AnomalyDetector: folds: got 0, expected None or >= 1"),
        ({"average": "no"}, "AnomalyDetector: average: got 'no', expected bool"),
        ({"seed": "0"}, "AnomalyDetector: seed: got '0', expected int or None"),
        ({"random_state": -1}, "AnomalyDetector: random_state: got -1, expected an integer >= 0"),
        ({"random_state": 1, "seed": 2}, "AnomalyDetector: random_state: got 1 beside seed=2, expected one of them"),
        ({"batch_size": 0}, "AnomalyDetector: batch_size: got 0, expected >= 1"),
        ({"lr": -1.0}, "lr: got -1.0, expected a finite number > 0"),
        ({"seed": -1}, "seed: got -1"),
        ({"model_settings": {"shape": (5,)}}, "AnomalyDetector: model_settings: got 'shape', expected others"),
        ({"model_settings": {"depth": 5}}, "LAEConfig: got 'depth', expected some of"),
        ({"model_settings": {"latent_dim": 0}}, "latent_dim: got 0, expected >= 1"),
        ({"model_settings": {"network": "conv"}}, r"shape: got \(5,\), expected \(C, 32, 32\)"),
    ],
)
def test_bad_parameters_are_refused_by_fit(options, message):
    detector = AnomalyDetector(**options)
    with pytest.raises(ValueError, match=message):
        detector.fit(vectors(0))


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, TrainingInterrupted)]
)
def test_an_interrupted_fit_is_no_failed_fit(monkeypatch, number, expected):
    def interrupted(*arguments, **options):
        raise TrainingInterrupted("stopped", number)

    monkeypatch.setattr(scorer, "fit", interrupted)
    with pytest.raises(expected):
        quick().fit(vectors(0))


# The import


@pytest.mark.processes
def test_the_package_imports_without_the_extra():
    """Where all is blocked that only the extra "train" brings, the detector tells why it cannot be had."""
    code = """
import sys
for name in ("sklearn", "tqdm", "matplotlib", "mlxtend", "PIL", "typer", "tensorboard", "scipy", "joblib"):
    sys.modules[name] = None
import ald_ext
assert "AnomalyDetector" in dir(ald_ext)
try:
    ald_ext.AnomalyDetector
except ImportError as error:
    assert "it needs the extra train: pip install 'ald_ext[train]'" in str(error), error
else:
    raise AssertionError("no error")
try:
    ald_ext.nonsense
except AttributeError as error:
    assert "module 'ald_ext' has no attribute 'nonsense'" in str(error), error
"""
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert finished.returncode == 0, finished.stderr
