"""Anomaly detection in the form of scikit-learn and PyOD: the score of a latent variable model (paper: Section 8)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

try:
    from scipy.special import erf
    from scipy.stats import binom
    from sklearn.base import BaseEstimator, OutlierMixin
    from sklearn.model_selection import KFold
    from sklearn.utils.validation import check_is_fitted, validate_data

    from ..training import TrainingConfig  # noqa: F401 - which needs the extra, too
except ImportError as error:
    raise ImportError(
        f"ald_ext.AnomalyDetector: {error}; it needs the extra train: pip install 'ald_ext[train]'"
    ) from error

from .. import ops
from ..models import LatentVariableModel, ParameterEnsemble
from ..models.config import SETTINGS_OF_DATA
from ..settings import check_device, check_values, from_dict, require
from .files import read_detector, scorer_of, write_detector
from .preparation import as_tensor, is_images, warn_of_flattened
from .scorer import DetectorSettings, Scorer, train_scorer

OWNER = "ald_ext.AnomalyDetector"
#: Number of folds for fewer data than MANY, and for more.
FOLDS, FOLDS_OF_MANY, MANY = 5, 2, 1000
#: Fewest data to which a prior is refitted.
FEWEST_FOR_PRIOR = 20
#: What files of earlier versions, which lack these parameters, were fitted with.
EARLIER = {"folds": 1, "standardize_images": False, "refit_prior": False}


class AnomalyDetector(OutlierMixin, BaseEstimator, DetectorSettings):  # type: ignore[misc]
    r"""A detector that scores how anomalous data are, by a latent variable model of the normal ones (paper: Section 8).

    **Higher scores are more anomalous, and labels are 0 = normal, 1 = anomalous**: PyOD's convention. With
    ``labels="scikit-learn"`` labels are 1 = normal, -1 = anomalous, and ``decision_function`` is ``threshold_`` minus
    the score, below 0 for anomalies. Names that only one of the two libraries has mean the same in both cases:
    ``score_samples`` is minus the score, ``offset_`` minus the threshold, ``decision_scores_`` are scores.

    The score of a datum is the model's ``score``: of an LAE the potential at the inferred latent variables (Eq. 2), of
    a CLAE the same with its energy, of an AE the reconstruction error, of a VAE -ELBO:

        U(x) = -log p(x | z) - log p(z),   z = f(x);      with ``average`` (1/K) Σ_k U(x; θ_k, φ_k)

    With ``refit_prior`` p(z) is replaced by a mixture of Gaussians fitted to the z of the training data, and the
    likelihood by a Gaussian one, so that U(x) = ‖x - mean(z)‖² / 2σ² - log q(z); σ makes both terms vary equally.

    A score is a function of the datum, the fitted model and the seed, whatever data are scored beside it. (Where a
    library's matrix products round differently for another number of rows, it may differ in the last digits.)

    **Data** (NumPy arrays, DataFrames, torch tensors, or whatever NumPy makes an array of) are one of

    * uint8 images (n, H, W), (n, H, W, C) or (n, C, H, W), where C is the smaller of the two sizes that could be it.
      The largest centred square of each is resized to 32 x 32, and a convolutional network models it.
    * vectors (n, d) of real numbers or integers; data with more dimensions are flattened, with a warning. They are
      standardized by mean and standard deviation of the training data, and an MLP models them.

    A fit is a function of data, settings and seed (and of the machine and the number of threads, as all floating-point
    work is; see Note [Number of threads] in ald_ext.threads). It leaves torch's random state as it was, unless
    ``seed=None`` draws from it.

    Args:
        model: a name in :data:`ald_ext.models.MODELS`: "lae", "clae", "ae", "sparse-ae", "vae", "abp" or "dlgm".
        contamination: share of normal data that is labelled anomalous, 0 < contamination <= 0.5. It sets the threshold,
            not the scores.
        labels: "pyod" or "scikit-learn", the convention of labels and of ``decision_function``.
        folds: number of parts of the training data, each of which is scored by a model that was trained on the others.
            The threshold comes from these scores: a model scores data that it has seen far lower than new ones. It
            takes about ``folds`` times as long as training the one model that scores new data. None stands for 5, or 2
            from 1,000 data on; 1 trains one model, whose scores of its own training data set the threshold.
        standardize_images: give each image mean 0 and standard deviation 1. False models pixels.
        refit_prior: replace the prior as above, if there are 20 data at least; None does so for images, not for
            vectors.
        epochs: passes over the training data.
        batch_size: number of data in a minibatch; all of them if there are fewer.
        lr: step size.
        model_settings: settings of the model's config class instead of the detector's, such as ``latent_dim``,
            ``width`` (images), ``hidden_units`` (vectors), ``likelihood`` or ``precision_prior``.
        average: True for scores that are means over 10 samples of the parameters from the second half of the training,
            which take ten times as long; False for scores with the last parameters. Only models whose parameters are
            sampled (lae, clae) keep samples.
        seed: seed of the weights, the order of the data, the folds and all noise; None draws one from torch's default
            generator.
        random_state: scikit-learn's name for it, an integer or a numpy.random.RandomState that one is drawn from; None
            leaves it to ``seed``.
        device: torch device for training and scoring.
        progress: whether to show a progress bar while training.

    Attributes:
        decision_scores_: scores of the training data by the folds' models (with one fold, by the model), (n,) float64.
        threshold_: (1 - contamination)-quantile of these scores, with several folds by Weibull's plotting positions.
        offset_: minus the threshold.
        labels_: labels of the training data by these scores, (n,) int64.
        model_: the trained model.
        ensemble_: samples of its parameters, or None.
        seed_: the seed.
        n_features_in_: number of values of a datum.
        feature_names_in_: names of the columns, if X was a DataFrame with names. Data with other names, or in another
            order, are refused.
    """

    def fit(self, X: Any, y: Any = None) -> AnomalyDetector:  # noqa: N803 - scikit-learn's name
        """Train the model, set the threshold, and return the detector.

        Args:
            X: data, most of them normal, at least two.
            y: ignored.

        Raises:
            ValueError: a parameter out of its range; data of an unsuitable dtype or shape, fewer than two, or not all
                finite.
            TypeError: sparse data, or objects that are no numbers.
            TrainingDivergedError: the loss stopped being finite; a smaller lr may help.
        """
        return self._fit(X)

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:  # noqa: N803
        """Fit the detector, and return ``labels_``. Raises the errors of :meth:`fit`."""
        return self._fit(X).labels_

    def decision_function(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return the scores of data, (n,) float64, higher for anomalies; with ``labels="scikit-learn"`` see above.

        Raises:
            NotFittedError: the detector is not fitted.
            ValueError: data of another form than those it was fitted to, or not all finite.
            TypeError: sparse data, or objects that are no numbers.
        """
        scores = self._scores(X, "decision_function")
        return self.threshold_ - scores if self.labels == "scikit-learn" else scores

    def score_samples(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return minus the scores, scikit-learn's sign: lower is more anomalous. Raises as decision_function."""
        return -self._scores(X, "score_samples")

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return labels, (n,) int64: 1 for anomalous and 0 for normal data, or -1 and 1 with scikit-learn's labels.

        Raises as decision_function.
        """
        return self._labels(self._scores(X, "predict"))

    def predict_proba(self, X: Any, method: str = "linear") -> np.ndarray:  # noqa: N803
        """Return PyOD's probabilities, (n, 2): of being normal, and of being anomalous.

        Args:
            X: data.
            method: "linear", the place of a score between the least and the greatest of ``decision_scores_``; or
                "unify", erf((score - mean) / (√2 standard deviation)) of them (Kriegel et al. 2011); within [0, 1].

        Raises:
            NotFittedError: the detector is not fitted.
            ValueError: another method, or data as in :meth:`decision_function`.
        """
        require(method in ("linear", "unify"), f"{OWNER}.predict_proba: method", repr(method), "linear or unify")
        scores, seen = self._scores(X, "predict_proba"), self.decision_scores_
        if method == "linear":
            anomalous = (scores - seen.min()) / (np.ptp(seen) or 1.0)
        else:
            anomalous = erf((scores - seen.mean()) / (np.sqrt(2) * (seen.std() or 1.0)))
        anomalous = anomalous.clip(0, 1)
        return np.stack([1 - anomalous, anomalous], axis=1)

    def predict_confidence(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return PyOD's confidence in each label, (n,) in [0, 1] (Perini et al. 2020).

        It is the probability that a detector fitted to other data of the same distribution gives the same label.
        Raises as decision_function.
        """
        scores, n = self._scores(X, "predict_confidence"), len(self.decision_scores_)
        below = np.searchsorted(np.sort(self.decision_scores_), scores, side="right")
        anomalous = 1 - binom.cdf(n - int(n * self.contamination), n, (1 + below) / (2 + n))
        return np.where(scores > self.threshold_, anomalous, 1 - anomalous)

    def save(self, path: str | Path) -> None:
        """Write the fitted detector as tensors and JSON, whole or not at all.

        Raises:
            NotFittedError: the detector is not fitted.
            ValueError: a parameter that JSON cannot hold.
            OSError: the file cannot be written.
        """
        check_is_fitted(self, "decision_scores_")

        def refuse(value: Any) -> Any:
            raise ValueError(f"{OWNER}.save: got {value!r} as a parameter, expected plain values")

        parameters = json.dumps({**self._plain(), "seed": self.seed_, "random_state": None}, default=refuse)
        names = getattr(self, "feature_names_in_", None)
        scores = torch.from_numpy(self.decision_scores_)
        write_detector(Path(path), self.scorer_, parameters, scores, None if names is None else names.tolist())

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu") -> AnomalyDetector:
        """Return the detector of :meth:`save`, which gives the same scores; no code of the file is run.

        Args:
            path: the file.
            device: torch device for the model.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that is corrupt, of another program or of another version; no such device.
        """
        owner, expected = f"{OWNER}.load: path", f"expected a file that {OWNER}.save wrote"
        if not Path(path).is_file():
            raise FileNotFoundError(f"{owner}: got {str(path)!r}, {expected}")
        check_device(device, f"{OWNER}.load: device")
        try:
            contents = read_detector(Path(path), device)
            parameters = json.loads(contents.detector_parameters)
            require(isinstance(parameters, dict), "detector_parameters", type(parameters).__name__, "an object")
            detector = cls(**vars(checked({**EARLIER, **parameters, "device": device})))
            scorer = scorer_of(contents, drawn_seed(detector), device)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{owner}: got {str(path)!r}, {expected}: {error}") from error
        names = contents.feature_names
        detector._set_fitted(scorer, contents.decision_scores.detach().cpu().numpy(), names)
        return detector

    def _plain(self) -> dict[str, Any]:
        """Return the parameters, NumPy's numbers as Python's."""
        parameters = {**self.get_params(deep=False), "device": str(self.device)}
        return {name: value.item() if isinstance(value, np.generic) else value for name, value in parameters.items()}

    def _fit(self, X: Any) -> AnomalyDetector:  # noqa: N803
        owner = f"{OWNER}.fit"
        settings = checked(self._plain())
        values = as_tensor(X, owner)
        require(len(values) >= 2, f"{owner}: X", f"{len(values)} samples", "at least 2")
        names = AnomalyDetector()
        validate_data(names, X, reset=True, skip_check_array=True, ensure_2d=False)
        warn_of_flattened(values, owner, stacklevel=3)
        seed = drawn_seed(settings)
        refit_prior = is_images(values) if settings.refit_prior is None else settings.refit_prior
        options = (settings, seed, refit_prior and len(values) >= FEWEST_FOR_PRIOR, owner)
        scorer = train_scorer(values, *options)
        folds = settings.folds or (FOLDS if len(values) < MANY else FOLDS_OF_MANY)
        folds = min(folds, len(values) // 2)  # two data at least to train on
        if folds < 2:
            scores = scorer(values, owner)
        else:
            scores = np.empty(len(values))
            for train, held_out in KFold(folds, shuffle=True, random_state=seed % 2**32).split(scores):
                scores[held_out] = train_scorer(values[train], *options)(values[held_out], owner)
        feature_names = getattr(names, "feature_names_in_", None)
        self._set_fitted(scorer, scores, None if feature_names is None else feature_names.tolist())
        return self

    def _set_fitted(self, scorer: Scorer, scores: np.ndarray, feature_names: list[str] | None) -> None:
        self.scorer_ = scorer
        self.seed_ = scorer.seed
        self.model_: LatentVariableModel = scorer.model
        self.ensemble_: ParameterEnsemble | None = scorer.ensemble
        self.n_features_in_ = scorer.preparation.num_features
        self.__dict__.pop("feature_names_in_", None)  # of an earlier fit
        if feature_names is not None:
            self.feature_names_in_ = np.array(feature_names, dtype=object)
        self.decision_scores_ = scores
        # Of n + 1 like scores, held out or new, a share of the contamination is expected above "weibull"'s quantile.
        share = 1 - self.contamination
        threshold = np.quantile(scores, share) if self.folds == 1 else np.quantile(scores, share, method="weibull")
        self.threshold_ = float(threshold)
        self.offset_ = -self.threshold_
        self.labels_ = self._labels(scores)

    def _scores(self, X: Any, method: str) -> np.ndarray:  # noqa: N803
        check_is_fitted(self, "decision_scores_")
        validate_data(self, X, reset=False, skip_check_array=True, ensure_2d=False)  # the names of columns
        owner = f"{OWNER}.{method}"
        return self.scorer_(as_tensor(X, owner), owner)

    def _labels(self, scores: np.ndarray) -> np.ndarray:
        normal, anomalous = (1, -1) if self.labels == "scikit-learn" else (0, 1)
        return np.where(scores > self.threshold_, anomalous, normal).astype(np.int64)


def checked(parameters: dict[str, Any]) -> DetectorSettings:
    """Return the parameters as settings. ValueError for one of another type, or out of its range."""
    settings = from_dict(DetectorSettings, parameters, OWNER)
    check_values(settings, OWNER)
    check_device(settings.device, f"{OWNER}: device")
    fixed = sorted(set(settings.model_settings or {}) & set(SETTINGS_OF_DATA))
    require(not fixed, f"{OWNER}: model_settings", ", ".join(map(repr, fixed)), "others: the data say these")
    return settings


def drawn_seed(settings: DetectorSettings) -> int:
    """Return the seed that ``random_state`` or ``seed`` says, or a drawn one."""
    state = settings.random_state
    if state is None:
        return ops.draw_seed() if settings.seed is None else settings.seed
    got = f"{state!r} beside seed={settings.seed}"
    require(settings.seed in (0, None), f"{OWNER}: random_state", got, "one of them")
    if isinstance(state, np.random.RandomState):
        return int(state.randint(2**31 - 1))
    fits = type(state) is int and 0 <= state < 2**63
    require(fits, f"{OWNER}: random_state", repr(state), "an integer >= 0, a numpy.random.RandomState or None")
    return state
