"""scikit-learn's checks of estimators, and PyOD's usual calls, for every model."""

from __future__ import annotations

import pickle
from dataclasses import fields
from typing import Any, get_type_hints

import joblib
import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="the detector needs the extra train", exc_type=ImportError)

from scipy.stats import binom
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator
from sklearn.utils.validation import check_is_fitted

from ald_ext import AnomalyDetector
from ald_ext.detection.scorer import DetectorSettings
from ald_ext.models import MODELS

#: Checks of what only scikit-learn's convention has: labels 1 and -1, and the contamination as the share of the
#: training data that predict labels so, which a threshold from held-out scores does not give.
OF_ITS_CONVENTION = ("check_outliers_train", "check_outliers_fit_predict")


def quick(model: str = "ae", **options: Any) -> AnomalyDetector:
    settings = {"inference_steps": 2, "langevin_steps": 1} if model in ("abp", "dlgm") else {}
    return AnomalyDetector(model, **{"epochs": 1, "folds": 1, "average": False, "model_settings": settings, **options})


def data(count: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 5))


def failed_checks(detector: AnomalyDetector, **options: Any) -> list[str]:
    results = check_estimator(detector, on_fail=None, on_skip=None, **options)
    return sorted({f"{each['check_name']}: {each['exception']}" for each in results if each["status"] == "failed"})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", MODELS)
def test_every_check_of_scikit_learn_passes_with_its_labels(model):
    assert failed_checks(quick(model, labels="scikit-learn")) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{"labels": "pyod"}, {"labels": "scikit-learn", "folds": 2}], ids=str)
def test_all_checks_but_those_of_its_convention_pass(options):
    checks = estimator_checks_generator(quick(**options))
    names = {getattr(check, "func", check).__name__ for _, check in checks}
    assert set(OF_ITS_CONVENTION) < names
    reason = "labels are 0 and 1, or the threshold is one for new data"
    assert failed_checks(quick(**options), expected_failed_checks=dict.fromkeys(OF_ITS_CONVENTION, reason)) == []


@pytest.mark.parametrize("model", MODELS)
def test_the_usual_calls_of_pyod(model):
    detector = quick(model, contamination=0.2, folds=2).fit(data())
    new = data(7, seed=1)
    assert detector.decision_scores_.shape == detector.labels_.shape == (60,)
    assert detector.labels_.sum() == 12
    assert ((detector.decision_scores_ > detector.threshold_) == detector.labels_).all()
    assert ((detector.decision_function(new) > detector.threshold_) == detector.predict(new)).all()
    np.testing.assert_array_equal(clone(detector).fit_predict(data()), detector.labels_)
    for method in ("linear", "unify"):
        probabilities = detector.predict_proba(new, method=method)
        assert probabilities.shape == (7, 2)
        np.testing.assert_allclose(probabilities.sum(1), 1)
        assert ((probabilities >= 0) & (probabilities <= 1)).all()
        assert (np.diff(probabilities[np.argsort(detector.decision_function(new)), 1]) >= 0).all()
    confidence = detector.predict_confidence(new)
    assert ((confidence >= 0) & (confidence <= 1)).all()


def test_probabilities_and_confidence_are_those_of_their_definitions():
    detector, new = quick(contamination=0.1).fit(data()), data(50, seed=1) * 2
    scores, seen = detector.decision_function(new), detector.decision_scores_
    linear = np.clip((scores - seen.min()) / (seen.max() - seen.min()), 0, 1)
    np.testing.assert_allclose(detector.predict_proba(new)[:, 1], linear)
    unified = torch.erf(torch.from_numpy((scores - seen.mean()) / (2**0.5 * seen.std()))).clamp(0, 1)
    np.testing.assert_allclose(detector.predict_proba(new, method="unify")[:, 1], unified.numpy(), atol=1e-12)
    for score, confidence in zip(scores, detector.predict_confidence(new), strict=True):
        share = (1 + (seen <= score).sum()) / (2 + 60)
        of_anomaly = 1 - binom.cdf(60 - 6, 60, share)
        np.testing.assert_allclose(confidence, of_anomaly if score > detector.threshold_ else 1 - of_anomaly)
    with pytest.raises(ValueError, match="predict_proba: method: got 'other', expected linear or unify"):
        detector.predict_proba(new, method="other")


def test_the_conventions_tell_the_same():
    of_pyod, of_sklearn = quick().fit(data()), quick(labels="scikit-learn").fit(data())
    new = data(40, seed=1) * 2
    scores, threshold = of_pyod.decision_function(new), of_pyod.threshold_
    assert of_sklearn.offset_ == of_pyod.offset_ == -threshold == -of_sklearn.threshold_
    np.testing.assert_array_equal(of_sklearn.decision_function(new), threshold - scores)
    for detector in (of_pyod, of_sklearn):
        np.testing.assert_array_equal(detector.score_samples(new), -scores)
        np.testing.assert_array_equal(detector.predict_proba(new), of_pyod.predict_proba(new))
    assert 0 < of_pyod.predict(new).sum() < 40
    np.testing.assert_array_equal(of_sklearn.predict(new), 1 - 2 * of_pyod.predict(new))
    np.testing.assert_array_equal(of_sklearn.labels_, 1 - 2 * of_pyod.labels_)


def test_searches_pipelines_and_copies_of_either_convention(tmp_path):
    rows = np.concatenate([data(54), data(6, seed=1) + 9])
    for labels, anomalous in (("pyod", 1), ("scikit-learn", -1)):
        y = np.where(np.arange(60) < 54, 1 - max(anomalous, 0), anomalous)
        pipeline = make_pipeline(StandardScaler(), quick(labels=labels))
        grid = {"anomalydetector__epochs": [1, 3], "anomalydetector__random_state": [0, 1]}
        search = GridSearchCV(pipeline, grid, scoring="roc_auc", cv=StratifiedKFold(2), error_score="raise")
        search.fit(rows, y)
        assert search.cv_results_["mean_test_score"].shape == (4,)
        assert search.best_score_ > 0.9
        assert (search.predict(rows[-6:]) == anomalous).mean() > 0.5
        joblib.dump(search.best_estimator_, tmp_path / "pipeline.joblib")
        for copy in (joblib.load(tmp_path / "pipeline.joblib"), pickle.loads(pickle.dumps(search.best_estimator_))):
            np.testing.assert_array_equal(copy.decision_function(rows), search.decision_function(rows))


def test_random_state_is_the_seed():
    scores = quick(seed=3).fit(data()).decision_scores_
    np.testing.assert_array_equal(quick(random_state=3).fit(data()).decision_scores_, scores)
    np.testing.assert_array_equal(quick(random_state=np.int64(3)).fit(data()).decision_scores_, scores)
    drawn = [quick(random_state=np.random.RandomState(3)).fit(data()) for _ in range(2)]
    assert drawn[0].seed_ == drawn[1].seed_ != 3
    np.testing.assert_array_equal(drawn[0].decision_scores_, drawn[1].decision_scores_)


def test_no_seed_draws_one_from_torch(tmp_path):
    seeds = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        seeds.append(quick(seed=None).fit(data()).seed_)
    assert seeds[0] == seeds[1] != seeds[2]
    detector = quick(seed=None).fit(data())
    assert quick(seed=None).fit(data()).seed_ != detector.seed_
    detector.save(tmp_path / "detector.pt")
    loaded = AnomalyDetector.load(tmp_path / "detector.pt")
    assert loaded.seed_ == detector.seed_
    np.testing.assert_array_equal(loaded.fit(data()).decision_scores_, detector.decision_scores_)


def test_a_fit_sets_what_tells_that_it_is_fitted():
    detector = quick()
    assert not [name for name in vars(detector) if name.endswith("_")]
    check_is_fitted(detector.fit(data()))


def test_every_annotation_of_a_parameter_is_a_type() -> None:
    """Python 3.10 refuses ``_: KW_ONLY`` among them, wherever they are read as types."""
    assert get_type_hints(DetectorSettings).keys() == {field.name for field in fields(DetectorSettings)}
