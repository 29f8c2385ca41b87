"""Files of detectors: what is damaged or crafted ends in one line, and what earlier versions wrote is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="the detector needs the extra train", exc_type=ImportError)

from ald_ext import AnomalyDetector

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 9, 9), dtype=np.uint8)


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> dict[str, Any]:
    """Of an LAE with two samples of its parameters and a prior for each."""
    detector = AnomalyDetector(epochs=2, folds=1, model_settings={"width": 2, "latent_dim": 2}).fit(IMAGES)
    path = tmp_path_factory.mktemp("files") / "detector.pt"
    detector.save(path)
    return torch.load(path, weights_only=True)


def load(contents: dict[str, Any], path) -> AnomalyDetector:
    torch.save(contents, path)
    return AnomalyDetector.load(path)


def test_a_loaded_detector_has_its_priors(contents, tmp_path):
    loaded = load(contents, tmp_path / "detector.pt")
    assert len(loaded.scorer_.priors) == len(contents["priors"]) == len(contents["ensemble"]["samples"]) == 2
    expected = AnomalyDetector(epochs=2, folds=1, model_settings={"width": 2, "latent_dim": 2}).fit(IMAGES)
    np.testing.assert_array_equal(loaded.decision_function(IMAGES), expected.decision_scores_)


#: Values that no entry may have.
NONSENSE: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "a number": lambda: 7,
    "text": lambda: "{}",
    "a list": lambda: [1],
    "an empty dictionary": dict,
    "a dictionary": lambda: {"a": 1},
    "an integer tensor": lambda: torch.zeros(3, dtype=torch.int32),
    "no numbers": lambda: torch.empty(0, dtype=torch.float64),
    "NaN": lambda: torch.full((3,), torch.nan, dtype=torch.float64),
    "a meta tensor": lambda: torch.empty(3, dtype=torch.float64, device="meta"),
    "a sparse tensor": lambda: torch.eye(3, dtype=torch.float64).to_sparse(),
    "tensors by wrong names": lambda: {"weight": torch.zeros(3)},
}
#: Values that are right in these places.
RIGHT = {("feature_names", "None"), ("detector_parameters", "text")}
PLACES = ("detector_parameters", "preparation", "decision_scores", "ensemble", "priors", "feature_names")


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("place", [*PLACES, "model_name", "model_config", "model"])
@pytest.mark.parametrize("kind", NONSENSE)
def test_an_entry_of_another_kind_is_refused_in_a_line(contents, tmp_path, place, kind):
    damaged = {**contents, place: NONSENSE[kind]()}
    if (place, kind) in RIGHT:
        assert load(damaged, tmp_path / "detector.pt").decision_scores_.shape == (30,)
        return
    with pytest.raises(ValueError, match=r"^ald_ext.AnomalyDetector.load: path: got .*, expected a file") as caught:
        load(damaged, tmp_path / "detector.pt")
    assert "\n" not in str(caught.value)


def changed(values: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {**values, **others}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {"priors": c["priors"][:1]}, "priors: got 1, expected 0 or 2"),
        (lambda c: {"priors": [changed(p, means_=p["means_"][:, :1]) for p in c["priors"]]}, "priors: means_: got"),
        (lambda c: {"priors": [changed(p, half_precision=torch.tensor(1.0)) for p in c["priors"]]}, "half_precision"),
        (
            lambda c: {"ensemble": {"samples": [{}, {}]}, "priors": []},
            r"ensemble: samples\[0\]: got no tensor 'decoder",
        ),
        (lambda c: {"model": {k: v * torch.nan for k, v in c["model"].items()}}, "values that are not finite"),
        (lambda c: {"feature_names": ["age"]}, "feature_names: got 1, expected None or 81 names"),
        (lambda c: {"preparation": {"image_shape": torch.tensor([2, 9, 9])}}, "model_config: data: got real, expected"),
        (lambda c: {"preparation": {"image_shape": torch.tensor([1, 9])}}, "image_shape: got"),
        (lambda c: {"preparation": {"image_shape": torch.tensor([1, 9, -9])}}, r"image_shape: got \[1, 9, -9\]"),
        (lambda c: {"preparation": {"centre": torch.zeros(3).double()}}, "preparation: got"),
        (lambda c: {"preparation": dict.fromkeys(("centre", "scale"), torch.zeros(3).double())}, "scale: got values"),
        (lambda c: {"detector_parameters": "[]"}, "detector_parameters: got list, expected an object"),
        (lambda c: {"detector_parameters": "[" * 100_000}, "expected a file that"),
        (lambda c: {"detector_parameters": json.dumps({"epochs": 0})}, "epochs: got 0, expected >= 1"),
        (lambda c: {"detector_parameters": json.dumps({"depth": 1})}, "got 'depth', expected some of"),
        (lambda c: {"feature_names": [1, 2]}, r"feature_names: got \[1, 2\], expected list"),
        (lambda c: {"surplus": 1}, "got 'surplus', expected some of"),
    ],
)
def test_parts_that_do_not_fit_are_refused(contents, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load({**contents, **change(contents)}, tmp_path / "detector.pt")


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_in_a_line(contents, tmp_path, device):
    load(contents, tmp_path / "detector.pt")
    for use in (
        lambda: AnomalyDetector(device=device).fit(IMAGES),
        lambda: AnomalyDetector.load(tmp_path / "detector.pt", device=device),
    ):
        with pytest.raises(ValueError, match=f"device: got '{device}', expected cpu or a GPU that torch can use .*$"):
            use()


def test_files_of_earlier_versions_are_read(tmp_path):
    """They lack the priors, the names of columns, and whether images are standardized, which they were not."""
    settings = {"width": 2, "latent_dim": 2}
    options = {"standardize_images": False, "refit_prior": False, "folds": 1}
    detector = AnomalyDetector(epochs=1, model_settings=settings, **options).fit(IMAGES)
    detector.save(tmp_path / "detector.pt")
    contents = torch.load(tmp_path / "detector.pt", weights_only=True)
    del contents["priors"], contents["feature_names"], contents["preparation"]["standardize"]
    parameters = json.loads(contents["detector_parameters"])
    for name in (*options, "labels", "random_state"):
        del parameters[name]
    loaded = load({**contents, "detector_parameters": json.dumps(parameters)}, tmp_path / "earlier.pt")
    np.testing.assert_array_equal(loaded.decision_function(IMAGES), detector.decision_scores_)
    assert {name: getattr(loaded, name) for name in options} == options
