"""Anomaly detection in the form of scikit-learn and PyOD: the score of a latent variable model (paper: Section 8)."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

try:
    from sklearn.base import BaseEstimator, OutlierMixin
    from sklearn.utils.validation import check_is_fitted

    from ..data import ImageData
    from ..training import TrainingConfig, TrainingInterrupted, fit
    from ..training.config import DEFAULT_LR, LONGEST_WARM_UP
    from ..training.evaluation import values_of_data
except ImportError as error:
    raise ImportError(
        f"ald_ext.AnomalyDetector: {error}; it needs the extra train: pip install 'ald_ext[train]'"
    ) from error

from ..models import MODELS, LatentVariableModel, ParameterEnsemble, config_from_dict
from ..models.config import SETTINGS_OF_DATA
from ..models.ensemble import ensemble_of_state, state_of_ensemble
from ..models.saving import MODEL_KEYS, model_contents, model_from_contents, read_tensors, write_tensors
from ..settings import require
from .preparation import Preparation, as_tensor, make_preparation, preparation_of_state

OWNER = "ald_ext.AnomalyDetector"
#: Number of samples of the parameters that scores are averaged over; they come from the second half of the training.
ENSEMBLE_SIZE = 10
#: Number of data of which the training loop measures a reconstruction error, for the progress bar only.
MEASURED = 100


class AnomalyDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    r"""A detector that scores how anomalous data are, by a latent variable model of the normal ones (paper: Section 8).

    The score of a datum is the model's ``score``: of an LAE the potential at the inferred latent variables (Eq. 2), of
    a CLAE the same with its energy, of an AE the reconstruction error, of a VAE -ELBO:

        U(x) = -log p(x | z) - log p(z),   z = f(x);      with ``average`` (1/K) Σ_k U(x; θ_k, φ_k)

    **Higher scores are more anomalous, and labels are 0 = normal, 1 = anomalous.** This is PyOD's convention, which the
    names of the fitted attributes follow, too. scikit-learn's own detectors score with the other sign, and label
    anomalies -1 and normal data 1; here only :meth:`score_samples`, which PyOD does not have, has that sign.

    It works in pipelines, with ``clone``, and with scorers such as "roc_auc" if y is 1 where data are anomalous.

    **Data** (NumPy arrays, torch tensors, or whatever NumPy makes an array of) are one of

    * uint8 images (n, H, W), (n, H, W, C) or (n, C, H, W), where C is the smaller of the two sizes that could be it.
      The largest centred square of each is resized to 32 x 32, and a convolutional network models the pixels.
    * vectors (n, d) of real numbers or integers; data with more dimensions are flattened. They are standardized by mean
      and standard deviation of the training data, and an MLP models them.

    A fit is a function of data, settings and seed (and of the machine and the number of threads, as all floating-point
    work is; see Note [Number of threads] in ald_ext.threads), and leaves torch's random state as it was. Models that
    draw (vae, dlgm, abp) score with fixed draws, which depend on the place of a datum in X.

    Args:
        model: a name in :data:`ald_ext.models.MODELS`: "lae", "clae", "ae", "sparse-ae", "vae", "abp" or "dlgm".
        contamination: share of the training data that is labelled anomalous, 0 < contamination <= 0.5. It sets the
            threshold, not the scores.
        epochs: passes over the training data.
        batch_size: number of data in a minibatch; all of them if there are fewer.
        lr: step size.
        model_settings: settings of the model's config class instead of the detector's, such as ``latent_dim``,
            ``width`` (images), ``hidden_units`` (vectors), ``likelihood`` or ``precision_prior``.
        average: True for scores that are means over 10 samples of the parameters from the second half of the training,
            which take ten times as long; False for scores with the last parameters. Only models whose parameters are
            sampled (lae, clae) keep samples.
        seed: seed of the weights, the order of the data, and all noise.
        device: torch device for training and scoring.
        progress: whether to show a progress bar while training.

    Attributes:
        decision_scores_: scores of the training data, (n,) float64.
        threshold_: (1 - contamination)-quantile of these scores.
        labels_: 1 where such a score is above the threshold and 0 elsewhere, (n,) int64.
        model_: the trained model.
        ensemble_: samples of its parameters, or None.
        n_features_in_: number of values of a datum.
    """

    def __init__(
        self,
        model: str = "lae",
        *,
        contamination: float = 0.1,
        epochs: int = 100,
        batch_size: int = 32,
        lr: float = DEFAULT_LR,
        model_settings: dict[str, Any] | None = None,
        average: bool = True,
        seed: int = 0,
        device: str = "cpu",
        progress: bool = False,
    ) -> None:
        self.model, self.model_settings, self.average = model, model_settings, average
        self.epochs, self.batch_size, self.lr, self.seed = epochs, batch_size, lr, seed
        self.contamination, self.device, self.progress = contamination, device, progress

    def fit(self, X: Any, y: Any = None) -> AnomalyDetector:  # noqa: N803 - scikit-learn's name
        """Train the model, set the threshold, and return the detector.

        Args:
            X: data, most of them normal, at least two.
            y: ignored.

        Raises:
            ValueError: a parameter out of its range; data of an unsuitable dtype or shape, fewer than two, or not all
                finite.
            TrainingDivergedError: the loss stopped being finite; a smaller lr may help.
        """
        owner = f"{OWNER}.fit"
        self._check_parameters()
        values = as_tensor(X, owner)
        require(len(values) >= 2, f"{owner}: X", f"{len(values)} samples", "at least 2")
        preparation = make_preparation(values, owner)
        data = preparation(values, owner)
        images, config = ImageData(data, None, data[:MEASURED], None), self._training_config(preparation, len(data))
        try:
            run = fit(config, images, progress=self.progress)
        except TrainingInterrupted as interruption:
            if interruption.signal_number == signal.SIGINT:
                raise KeyboardInterrupt from interruption  # scikit-learn's searches take others for a failed fit
            raise
        run.model.diagnostics = {}
        self.preparation_ = preparation
        self.n_features_in_ = preparation.num_features
        self.model_: LatentVariableModel = run.model
        self.ensemble_: ParameterEnsemble | None = run.ensemble
        self._set_threshold(self._scores(data))
        return self

    def decision_function(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return the scores of data, (n,) float64; higher is more anomalous.

        Raises:
            NotFittedError: the detector is not fitted.
            ValueError: data of another form than those it was fitted to, or not all finite.
        """
        check_is_fitted(self, "decision_scores_")
        owner = f"{OWNER}.decision_function"
        return self._scores(self.preparation_(as_tensor(X, owner), owner))

    def score_samples(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return minus :meth:`decision_function`, scikit-learn's sign: lower is more anomalous. Raises the same."""
        return -self.decision_function(X)

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return 0 for normal and 1 for anomalous data (PyOD's labels), (n,) int64. Raises as decision_function."""
        return self._labels(self.decision_function(X))

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:  # noqa: N803
        """Fit the detector, and return ``labels_``. Raises the errors of :meth:`fit`."""
        return self.fit(X).labels_

    def save(self, path: str | Path) -> None:
        """Write the fitted detector as tensors and JSON, whole or not at all.

        Raises:
            NotFittedError: the detector is not fitted.
            ValueError: a parameter that JSON cannot hold.
            OSError: the file cannot be written.
        """
        check_is_fitted(self, "decision_scores_")

        def plain(value: Any) -> Any:
            require(isinstance(value, np.generic), f"{OWNER}.save", f"{value!r} as a parameter", "plain values")
            return value.item()

        parameters = {**self.get_params(), "device": str(self.device)}
        contents = {
            **model_contents(self.model_),
            "detector_parameters": json.dumps(parameters, default=plain),
            "preparation": self.preparation_.state(),
            "decision_scores": torch.from_numpy(self.decision_scores_),
            "ensemble": state_of_ensemble(self.ensemble_),
        }
        write_tensors(Path(path), contents)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu") -> AnomalyDetector:
        """Return the detector of :meth:`save`, which gives the same scores; no code of the file is run.

        Args:
            path: the file.
            device: torch device for the model.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that is corrupt, of another program or of another version.
        """
        owner, expected = f"{OWNER}.load: path", f"expected a file that {OWNER}.save wrote"
        if not Path(path).is_file():
            raise FileNotFoundError(f"{owner}: got {str(path)!r}, {expected}")
        keys = (*MODEL_KEYS, "detector_parameters", "preparation", "decision_scores", "ensemble")
        try:
            contents = read_tensors(Path(path), keys, device)
        except ValueError as error:
            raise ValueError(f"{owner}: got {str(path)!r}, {expected}: {error}") from error
        detector = cls(**{**json.loads(contents["detector_parameters"]), "device": device})
        detector.preparation_ = preparation_of_state(contents["preparation"])
        detector.n_features_in_ = detector.preparation_.num_features
        detector.model_ = model_from_contents(contents).to(device)
        detector.ensemble_ = ensemble_of_state(contents["ensemble"])
        detector._set_threshold(contents["decision_scores"].cpu().numpy())
        return detector

    def _check_parameters(self) -> None:
        require(self.model in MODELS, f"{OWNER}: model", repr(self.model), f"one of {', '.join(MODELS)}")
        in_range = 0 < self.contamination <= 0.5
        require(in_range, f"{OWNER}: contamination", repr(self.contamination), "> 0 and <= 0.5")
        for name in ("epochs", "batch_size"):
            require(getattr(self, name) >= 1, f"{OWNER}: {name}", repr(getattr(self, name)), ">= 1")
        fixed = sorted(set(self.model_settings or {}) & set(SETTINGS_OF_DATA))
        got = ", ".join(map(repr, fixed))
        require(not fixed, f"{OWNER}: model_settings", got, "others: the data say these")

    def _training_config(self, preparation: Preparation, num_data: int) -> TrainingConfig:
        batch_size = min(int(self.batch_size), num_data)
        steps = int(self.epochs) * -(-num_data // batch_size)
        settings = {**preparation.settings(), **(self.model_settings or {})}
        return TrainingConfig(
            model=self.model,
            dataset="",
            epochs=int(self.epochs),
            batch_size=batch_size,
            lr=float(self.lr),
            schedule="constant",  # so that samples of the parameters are of one distribution
            warm_up=min(LONGEST_WARM_UP, steps // 4),
            seed=int(self.seed),
            device=str(self.device),
            threads=torch.get_num_threads(),  # not the fastest, so that fits of one seed are equal bit for bit
            evaluate_every=int(self.epochs),
            ensemble_size=ENSEMBLE_SIZE if self.average else 0,
            ensemble_every=max(1, steps // (2 * ENSEMBLE_SIZE)),
            network=config_from_dict(MODELS[self.model].config_class, settings),
        )

    def _scores(self, data: Tensor) -> np.ndarray:
        """Return the scores of prepared data, (n,)."""

        def scores(model: LatentVariableModel) -> Tensor:
            return values_of_data(model, data, model.score, int(self.seed)).double()

        averaged = scores(self.model_) if not self.ensemble_ else self.ensemble_.mean(self.model_, scores)
        return averaged.numpy()

    def _set_threshold(self, scores: np.ndarray) -> None:
        self.decision_scores_ = scores
        self.threshold_ = float(np.quantile(scores, 1 - self.contamination))
        self.labels_ = self._labels(scores)

    def _labels(self, scores: np.ndarray) -> np.ndarray:
        return (scores > self.threshold_).astype(np.int64)
