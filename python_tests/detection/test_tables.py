"""Tables and arrays of all kinds: the same numbers, the same scores; and what is refused or told."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the detector needs the extra train", exc_type=ImportError)
pytest.importorskip("pandas", reason="DataFrames need pandas")

from corpus.tables import FORMS, NAMES, OTHER_COLUMNS, REFUSED, frame, table

from ald_ext import AnomalyDetector


def quick(**options) -> AnomalyDetector:
    return AnomalyDetector("ae", epochs=1, folds=1, **options)


@pytest.fixture(scope="module")
def fitted() -> AnomalyDetector:
    """To a DataFrame."""
    return quick().fit(frame(table()))


@pytest.mark.parametrize("form", FORMS)
def test_the_same_numbers_have_the_same_scores(form):
    expected = quick().fit(table()).decision_function(table(seed=1))
    detector = quick().fit(FORMS[form](table()))
    np.testing.assert_array_equal(detector.decision_function(FORMS[form](table(seed=1))), expected)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_table_of_numbers_is_refused_in_a_line(kind):
    make, message = REFUSED[kind]
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        quick().fit(make())
    assert str(caught.value).startswith("ald_ext.AnomalyDetector.fit: X: got ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_names_of_columns_are_kept(fitted, tmp_path):
    fitted.save(tmp_path / "detector.pt")
    for detector in (fitted, AnomalyDetector.load(tmp_path / "detector.pt")):
        assert detector.feature_names_in_.tolist() == NAMES
        assert detector.n_features_in_ == len(NAMES)
    assert not hasattr(quick().fit(frame(table())).fit(table()), "feature_names_in_")


@pytest.mark.parametrize("method", ["decision_function", "predict", "predict_proba", "score_samples"])
@pytest.mark.parametrize("kind", OTHER_COLUMNS)
def test_other_columns_than_the_fitted_are_refused(fitted, kind, method):
    change, message = OTHER_COLUMNS[kind]
    with pytest.raises(ValueError, match=message):
        getattr(fitted, method)(change(frame(table())))


def test_an_array_after_a_data_frame_is_told_and_conversely(fitted):
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        fitted.predict(table())
    with pytest.warns(UserWarning, match="X has feature names, but AnomalyDetector was fitted without"):
        quick().fit(table()).predict(frame(table()))


def test_a_failed_fit_leaves_the_detector_as_it_was(fitted):
    expected = fitted.decision_function(frame(table()))
    with pytest.raises(ValueError, match="NaN"):
        fitted.fit(np.full((5, 2), np.nan))
    np.testing.assert_array_equal(fitted.decision_function(frame(table())), expected)


@pytest.mark.parametrize(
    ("scale", "remedy"),
    [(255, r"give X.round\(\).astype\('uint8'\)"), (1, r"give \(255 \* X\).round\(\)"), (-1, "give uint8")],
)
def test_images_that_are_not_uint8_are_told_to_be_a_table(scale, remedy):
    images = np.random.default_rng(0).random((20, 6, 6)) * scale
    with pytest.warns(UserWarning, match=rf"taken as a table of 36 features.* {remedy}") as caught:
        quick().fit(images)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick().fit((np.abs(images) / abs(scale) * 255).round().astype("uint8"))
        quick().fit(images.reshape(20, 36))
