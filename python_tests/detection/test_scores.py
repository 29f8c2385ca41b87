"""Scores: of one datum whatever is beside it; thresholds that hold for new data; what the options for images do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="the detector needs the extra train", exc_type=ImportError)

from sklearn.metrics import roc_auc_score

from ald_ext import AnomalyDetector, ops
from ald_ext.data import load_dataset
from ald_ext.models import MODELS


def normals(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 5))


#: Their noise is drawn, too.
PIXELS = {"standardize_images": False, "model_settings": {"dequantization": "uniform"}}


def quick_settings(model: str) -> dict[str, int]:
    return {"inference_steps": 3, "langevin_steps": 2} if model in ("abp", "dlgm") else {}


@pytest.mark.parametrize("model", MODELS)
def test_a_score_depends_on_its_datum_alone(model):
    detector = AnomalyDetector(model, epochs=2, folds=1, model_settings=quick_settings(model)).fit(normals(60))
    data = normals(21, seed=1)
    scores, order = detector.decision_function(data), np.random.default_rng(2).permutation(len(data))
    others = [
        detector.decision_function(data[order])[np.argsort(order)],
        np.concatenate([detector.decision_function(row[None]) for row in data]),
        np.concatenate([detector.decision_function(part) for part in np.array_split(data, 4)]),
    ]
    for other in others:
        np.testing.assert_allclose(other, scores, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(other > detector.threshold_, detector.predict(data) == 1)


@pytest.mark.parametrize("model", ["vae", "abp"])
@pytest.mark.parametrize(
    "options", [{}, {"standardize_images": False, "model_settings": {"dequantization": "uniform"}}]
)
def test_a_score_of_an_image_depends_on_it_alone(model, options):
    images = np.random.default_rng(0).integers(0, 256, (3, 9, 9), dtype=np.uint8)
    settings = {"latent_dim": 2, "width": 2, **quick_settings(model), **options.get("model_settings", {})}
    detector = AnomalyDetector(model, epochs=1, folds=1, **{**options, "model_settings": settings}).fit(images)
    rows = np.concatenate([detector.decision_function(image[None]) for image in images[::-1]])
    np.testing.assert_allclose(rows[::-1], detector.decision_function(images), rtol=1e-4)


def test_the_seed_keys_the_draws_of_a_score():
    detector = AnomalyDetector("vae", epochs=1, folds=1).fit(normals(20))
    x = detector.scorer_.preparation(torch.from_numpy(normals(4)), "")
    assert torch.equal(detector.model_.score(x, seed=1), detector.model_.score(x, seed=1))
    assert not torch.equal(detector.model_.score(x, seed=1), detector.model_.score(x, seed=2))


def test_index_by_content_tells_data_apart_and_nothing_else():
    x = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]])
    index = ops.index_by_content(x)
    assert index[0] == index[1] != index[2]
    assert torch.equal(ops.index_by_content(x.T.contiguous().T), index)
    assert torch.equal(ops.index_by_content(x[1:].requires_grad_()), index[1:])
    many = ops.index_by_content(torch.arange(2000))
    assert len(many.unique()) == 2000
    assert many.min() >= 0
    assert many.max() < 2**44
    for dtype in (torch.bool, torch.uint8, torch.bfloat16, torch.float64):
        assert len(ops.index_by_content(torch.eye(3, dtype=dtype)).unique()) == 3
    assert ops.index_by_content(torch.empty(0, 3)).shape == (0,)


def test_the_threshold_holds_for_new_data():
    """Of 40 rows, whose own scores would label more than twice the contamination of new normal rows anomalous."""
    shares = {None: [], 1: []}
    for seed in range(6):
        rows = np.random.default_rng(seed).normal(size=(1040, 10))
        for folds, found in shares.items():
            detector = AnomalyDetector("ae", folds=folds, epochs=20, seed=seed).fit(rows[:40])
            found.append(detector.predict(rows[40:]).mean())
    assert np.mean(shares[1]) > 0.18
    assert 0.05 < np.mean(shares[None]) < 0.15


def test_held_out_scores_are_those_of_models_that_have_not_seen_the_data(monkeypatch):
    from ald_ext.detection import detector as detection

    trained, train_scorer = [], detection.train_scorer

    def recorded(values, *arguments):
        scorer = train_scorer(values, *arguments)
        trained.append((values, scorer))
        return scorer

    monkeypatch.setattr(detection, "train_scorer", recorded)
    data = normals(20)
    detector = AnomalyDetector("ae", epochs=1, folds=4, contamination=0.2).fit(data)
    assert [len(values) for values, _ in trained] == [20, 15, 15, 15, 15]
    for values, scorer in trained[1:]:
        held_out = ~(data[:, None] == values.numpy()[None]).all(2).any(1)
        scores = scorer(torch.from_numpy(data[held_out]), "")
        np.testing.assert_allclose(detector.decision_scores_[held_out], scores, rtol=1e-5)
    assert detector.threshold_ == np.quantile(detector.decision_scores_, 0.8, method="weibull")
    assert detector.labels_.sum() == 4
    for count, expected in ((2, 1), (3, 1), (4, 3), (9, 5), (12, 6)):
        trained.clear()
        AnomalyDetector("ae", epochs=1).fit(normals(count))
        assert len(trained) == expected, count
    monkeypatch.setattr(detection, "MANY", 12)
    trained.clear()
    AnomalyDetector("ae", epochs=1).fit(normals(12))
    assert len(trained) == 3


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """200 images of 2s, 120 of all digits, and whether these are no 2s."""
    data = load_dataset("mnist5k")
    images = data.train_images[data.train_labels == 2][:200]
    return images.numpy(), data.test_images[:120].numpy(), (data.test_labels[:120] != 2).numpy()


def test_standardized_images_and_the_refitted_prior_help(digits):
    train, test, anomalous = digits
    found = {}
    for options in ({}, {"standardize_images": False, "refit_prior": False}):
        detector = AnomalyDetector("ae", epochs=10, folds=1, model_settings={"width": 8}, **options).fit(train)
        found[len(options)] = roc_auc_score(anomalous, detector.decision_function(test))
        assert len(detector.scorer_.priors) == (0 if options else 1)
    assert found[0] > found[2] + 0.03


def test_brightness_and_contrast_do_not_matter_to_standardized_images(digits):
    images = digits[0][:20] // 4
    detector = AnomalyDetector("ae", epochs=1, folds=1, model_settings={"width": 2}).fit(images)
    scores = detector.decision_function(images)
    np.testing.assert_allclose(detector.decision_function(images * 3 + 40), scores, rtol=1e-3)


def test_pixels_are_named_where_only_they_have_a_setting(digits):
    detector = AnomalyDetector(model_settings={"dequantization": "langevin"})
    with pytest.raises(ValueError, match=r"dequantization: .*; standardize_images=False keeps pixels"):
        detector.fit(digits[0][:4])


def test_vectors_keep_their_prior_unless_asked():
    assert AnomalyDetector("ae", epochs=1, folds=1).fit(normals(30)).scorer_.priors == []
    asked = AnomalyDetector("ae", epochs=1, folds=1, refit_prior=True)
    assert len(asked.fit(normals(30)).scorer_.priors) == 1
    assert asked.fit(normals(19)).scorer_.priors == []
