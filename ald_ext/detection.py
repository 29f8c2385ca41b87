"""Anomaly detection in the form of scikit-learn and PyOD: the score of a latent variable model (paper: Section 8)."""

from __future__ import annotations

import json
import math
import signal
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

try:
    from sklearn.base import BaseEstimator, OutlierMixin
    from sklearn.utils.validation import check_is_fitted

    from .data import ImageData
    from .data.image_data import resize
    from .training import TrainingConfig, TrainingInterrupted, fit
    from .training.config import DEFAULT_LR
    from .training.evaluation import values_of_data
except ImportError as error:
    raise ImportError(
        f"ald_ext.AnomalyDetector: {error}; it needs the extra train: pip install 'ald_ext[train]'"
    ) from error

from .models import MODELS, LatentVariableModel, ModelConfig, ParameterEnsemble, config_from_dict
from .models.networks import IMAGE_SIZE
from .models.saving import MODEL_KEYS, model_contents, model_from_contents, read_tensors, write_tensors

OWNER = "ald_ext.AnomalyDetector"
#: Samples of the parameters that scores are averaged over; they come from the second half of the training.
ENSEMBLE_SIZE = 10
#: Settings of a model that follow from the data.
SETTINGS_OF_DATA = ("data", "num_data", "shape")
#: Standardized values are held within it: their squares, summed, have to fit into float32.
LARGEST_VALUE = 1e6
#: Prior of the precision of real data, Gamma(a, b). A flat one rewards residuals without bound as they vanish, which on
#: data of few dimensions they do; this one has a noise of about 0.3 standard deviations in mind.
REAL_PRECISION_PRIOR = (1.0, 0.1)
REAL_HIDDEN_UNITS = 64
REAL_LATENT_DIM = 32
#: Data that the training loop measures a reconstruction error of, which is for the progress bar only.
MEASURED = 100


class Preparation(ABC):
    """From what a user gives to what a model takes, as it was fixed when the detector was fitted."""

    @property
    @abstractmethod
    def num_features(self) -> int:
        """Number of values of a datum as given."""

    @abstractmethod
    def __call__(self, values: Tensor, owner: str) -> Tensor:
        """(n, ...) as given -> (n, *shape) of the model. ValueError for data of another form than the fitted."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Settings of the model that suit such data."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Plain tensors."""


@dataclass(frozen=True)
class ImagePreparation(Preparation):
    """uint8 images in any layout, resized to 32 x 32.

    Args:
        image_shape: (C, H, W) as given.
    """

    image_shape: tuple[int, ...]

    @property
    def num_features(self) -> int:
        return math.prod(self.image_shape)

    def __call__(self, values: Tensor, owner: str) -> Tensor:
        """(n, H, W), (n, H, W, C) or (n, C, H, W) uint8 -> (n, C, 32, 32) uint8."""
        if not is_images(values):
            raise ValueError(
                f"{owner}: X: got {describe(values)}, expected uint8 images of {self.image_shape} (channels, height, "
                "width), which the detector was fitted to"
            )
        images = channels_first(values, owner)
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(
                f"{owner}: X: got images of {tuple(images.shape[1:])} (channels, height, width), expected "
                f"{self.image_shape}, to which the detector was fitted"
            )
        return resize(images)

    def settings(self) -> dict[str, Any]:
        return {"data": "pixels", "network": "conv", "shape": (self.image_shape[0], IMAGE_SIZE, IMAGE_SIZE)}

    def state(self) -> dict[str, Any]:
        return {"image_shape": torch.tensor(self.image_shape)}


@dataclass(frozen=True)
class VectorPreparation(Preparation):
    """Real vectors, standardized: (x - centre) / scale.

    Args:
        centre, scale: (d,) float64: mean and standard deviation of the training data. A constant feature has scale 1.
    """

    centre: Tensor
    scale: Tensor

    @property
    def num_features(self) -> int:
        return len(self.centre)

    def __call__(self, values: Tensor, owner: str) -> Tensor:
        """(n, ...) numbers -> (n, d) float32."""
        if is_images(values):
            raise ValueError(
                f"{owner}: X: got uint8 images, expected vectors of {self.num_features} features, to which the "
                "detector was fitted"
            )
        vectors = as_vectors(values)
        if vectors.shape[1] != self.num_features:
            raise ValueError(
                f"{owner}: X: got {vectors.shape[1]} features, expected {self.num_features}, as the data that the "
                "detector was fitted to"
            )
        return ((vectors - self.centre) / self.scale).clamp(-LARGEST_VALUE, LARGEST_VALUE).float()

    def settings(self) -> dict[str, Any]:
        dimension = self.num_features
        return {
            "data": "real",
            "network": "mlp",
            "shape": (dimension,),
            "hidden_units": REAL_HIDDEN_UNITS,
            "latent_dim": min(REAL_LATENT_DIM, max(1, dimension // 2)),
            "precision_prior": REAL_PRECISION_PRIOR,
        }

    def state(self) -> dict[str, Any]:
        return {"centre": self.centre, "scale": self.scale}


class AnomalyDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    r"""How anomalous data are, by a latent variable model of the normal ones (paper: Section 8).

    The score of a datum is the model's ``score``: of an LAE the potential at the inferred latent variables (Eq. 2), of
    a CLAE the same with its energy, of an AE the reconstruction error, of a VAE -ELBO:

        U(x) = -log p(x | z) - log p(z),   z = f(x);      with ``average`` (1/K) Σ_k U(x; θ_k, φ_k)

    **Higher scores are more anomalous, and labels are 0 = normal, 1 = anomalous.** That is PyOD's convention, and so
    are the names of the fitted attributes. scikit-learn's own detectors score with the other sign, and label anomalies
    -1 and normal data 1; of the methods here only :meth:`score_samples`, which PyOD does not have, has that sign.

    It works in pipelines, with ``clone``, and with scorers such as "roc_auc" if y is 1 where data are anomalous.

    **Data** (NumPy arrays, torch tensors, or what NumPy makes an array of) are one of

    * uint8 images (n, H, W), (n, H, W, C) or (n, C, H, W), where C is the smaller of the two that it may be. The
      largest centred square of each is resized to 32 x 32. A convolutional network models the pixels.
    * everything else: vectors (n, d) of real numbers or integers; what has more dimensions is flattened. They are
      standardized by mean and standard deviation of the training data, and an MLP models them.

    A fit is a function of data, settings and seed (and of the machine and the number of threads, as all floating-point
    work is; see Note [Number of threads] in ald_ext.threads), and leaves torch's random state as it was. Scores of a
    model that draws (vae, dlgm, abp) have fixed draws, which depend on the place of a datum in X.

    Args:
        model: a name of :data:`ald_ext.models.MODELS`: "lae", "clae", "ae", "sparse-ae", "vae", "abp" or "dlgm".
        contamination: share of the training data that is labelled anomalous, 0 < contamination <= 0.5. It sets the
            threshold, not the scores.
        epochs: passes over the training data.
        batch_size: data a minibatch; all of them if there are fewer.
        lr: step size.
        model_settings: settings of the model's config class instead of the detector's, such as ``latent_dim``,
            ``width`` (images), ``hidden_units`` (vectors), ``likelihood`` or ``precision_prior``.
        average: scores are means over 10 samples of the parameters, of the second half of the training; False: of the
            last parameters. Only models whose parameters are sampled (lae, clae) keep samples. Scoring takes ten times
            as long.
        seed: of the weights, the order of the data, and all noise.
        device: a torch device, for training and scoring.
        progress: show a progress bar while training.

    Attributes:
        decision_scores_: (n,) float64, scores of the training data.
        threshold_: their (1 - contamination)-quantile.
        labels_: (n,) int64, 1 where the score is above the threshold.
        model_: the trained model. ensemble_: its samples, or None.
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
        self.model = model
        self.contamination = contamination
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.model_settings = model_settings
        self.average = average
        self.seed = seed
        self.device = device
        self.progress = progress

    def fit(self, X: Any, y: Any = None) -> AnomalyDetector:  # noqa: N803 - scikit-learn's name
        """Trains the model, and sets the threshold.

        Args:
            X: data, most of them normal, at least two.
            y: not looked at.

        Raises:
            ValueError: a parameter out of its range; data of a dtype or shape that is none of the above, fewer than
                two, or not all finite.
            TrainingDivergedError: the loss stopped being finite; a smaller lr may help.
        """
        owner = f"{OWNER}.fit"
        self._check_parameters()
        values = as_tensor(X, owner)
        if len(values) < 2:
            raise ValueError(f"{owner}: X: got {len(values)} samples, expected at least 2")
        preparation = make_preparation(values, owner)
        data = preparation(values, owner)
        run = train_in_memory(self._training_config(preparation, len(data)), data, self.progress)
        run.model.diagnostics = {}
        self.preparation_ = preparation
        self.n_features_in_ = preparation.num_features
        self.model_: LatentVariableModel = run.model
        self.ensemble_: ParameterEnsemble | None = run.ensemble
        self._set_threshold(self._scores(data))
        return self

    def decision_function(self, X: Any) -> np.ndarray:  # noqa: N803
        """Scores, (n,) float64; higher is more anomalous.

        Raises:
            NotFittedError: before :meth:`fit`.
            ValueError: data of another form than the fitted, or not all finite.
        """
        check_is_fitted(self, "decision_scores_")
        owner = f"{OWNER}.decision_function"
        return self._scores(self.preparation_(as_tensor(X, owner), owner))

    def score_samples(self, X: Any) -> np.ndarray:  # noqa: N803
        """Minus :meth:`decision_function`, scikit-learn's sign: lower is more anomalous. Raises the same."""
        return -self.decision_function(X)

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """(n,) int64: 0 normal, 1 anomalous (PyOD's labels, not scikit-learn's). Raises as decision_function."""
        return self._labels(self.decision_function(X))

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:  # noqa: N803
        """``labels_`` of :meth:`fit`, which raises the same."""
        return self.fit(X).labels_

    def save(self, path: str | Path) -> None:
        """Writes the fitted detector as tensors and JSON, whole or not at all.

        Raises:
            NotFittedError: before :meth:`fit`.
            ValueError: a parameter that JSON cannot hold. OSError: the file cannot be written.
        """
        check_is_fitted(self, "decision_scores_")
        contents = {
            **model_contents(self.model_),
            "detector_parameters": parameters_as_json({**self.get_params(), "device": str(self.device)}),
            "preparation": self.preparation_.state(),
            "decision_scores": torch.from_numpy(self.decision_scores_),
            "ensemble": {"samples": []} if self.ensemble_ is None else self.ensemble_.state_dict(),
        }
        write_tensors(Path(path), contents)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu") -> AnomalyDetector:
        """The detector of :meth:`save`, which gives the same scores; runs no code of the file.

        Args:
            path: of the file.
            device: where the model is to be.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that is corrupt, of another program or of another version.
        """
        contents = read_detector(Path(path), device)
        detector = cls(**{**json.loads(contents["detector_parameters"]), "device": device})
        detector.preparation_ = preparation_of_state(contents["preparation"])
        detector.n_features_in_ = detector.preparation_.num_features
        detector.model_ = model_from_contents(contents).to(device)
        detector.ensemble_ = ensemble_of_state(contents["ensemble"])
        detector._set_threshold(contents["decision_scores"].cpu().numpy())
        return detector

    def _check_parameters(self) -> None:
        if self.model not in MODELS:
            raise ValueError(f"{OWNER}: model: got {self.model!r}, expected one of {', '.join(MODELS)}")
        if not 0 < self.contamination <= 0.5:
            raise ValueError(f"{OWNER}: contamination: got {self.contamination!r}, expected > 0 and <= 0.5")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{OWNER}: {name}: got {getattr(self, name)!r}, expected >= 1")
        fixed = sorted(set(self.model_settings or {}) & set(SETTINGS_OF_DATA))
        if fixed:
            raise ValueError(
                f"{OWNER}: model_settings: got {', '.join(map(repr, fixed))}, expected others: the data say these"
            )

    def _model_config(self, preparation: Preparation) -> ModelConfig:
        settings = {**preparation.settings(), **(self.model_settings or {})}
        return config_from_dict(MODELS[self.model].config_class, settings)

    def _training_config(self, preparation: Preparation, num_data: int) -> TrainingConfig:
        batch_size = min(int(self.batch_size), num_data)
        steps = int(self.epochs) * -(-num_data // batch_size)
        return TrainingConfig(
            model=self.model,
            dataset="",
            epochs=int(self.epochs),
            batch_size=batch_size,
            lr=float(self.lr),
            schedule="constant",  # so that samples of the parameters are of one distribution
            warm_up=min(TrainingConfig.warm_up, steps // 4),
            seed=int(self.seed),
            device=str(self.device),
            threads=torch.get_num_threads(),  # not the fastest, so that fits of one seed are equal bit for bit
            evaluate_every=int(self.epochs),
            ensemble_size=ENSEMBLE_SIZE if self.average else 0,
            ensemble_every=max(1, steps // (2 * ENSEMBLE_SIZE)),
            network=self._model_config(preparation),
        )

    def _scores(self, data: Tensor) -> np.ndarray:
        """Of prepared data, (n,)."""

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


def as_tensor(values: Any, owner: str) -> Tensor:
    """Data of any kind as a tensor on the CPU: uint8 where they are that, else finite float64.

    Raises:
        ValueError: no numbers, no samples' dimension, or not all finite.
    """
    tensor: Tensor = values.detach() if isinstance(values, Tensor) else from_numpy(np.asarray(values), owner)
    check_form(tensor, owner)
    tensor = tensor.cpu()
    if tensor.dtype == torch.uint8:
        return tensor
    tensor = tensor.double()
    bad = int((~tensor.isfinite()).sum())
    if bad:
        raise ValueError(f"{owner}: X: got {bad} values that are NaN or infinite, expected finite ones")
    return tensor


def check_form(values: Tensor, owner: str) -> None:
    """ValueError for complex numbers, and for a shape that is not that of data."""
    if values.is_complex():
        raise ValueError(f"{owner}: X: got {values.dtype}, expected real numbers or integers")
    if values.dim() < 2:
        raise ValueError(
            f"{owner}: X: got shape {tuple(values.shape)}, expected (n, d) vectors or uint8 images (n, H, W), "
            "(n, H, W, C) or (n, C, H, W)"
        )
    if 0 in values.shape:
        raise ValueError(f"{owner}: X: got shape {tuple(values.shape)}, expected at least one sample and one feature")


def from_numpy(values: np.ndarray, owner: str) -> Tensor:
    """A tensor of the same numbers. ValueError for what are none."""
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{owner}: X: got dtype {values.dtype}, expected real numbers or integers")
    if values.dtype != np.uint8:
        values = values.astype(np.float64)  # torch has no long double, and little use of uint16
    return torch.from_numpy(np.array(values, order="C"))  # a copy: torch warns of arrays that cannot be written to


def is_images(values: Tensor) -> bool:
    """Whether data are modelled as pixels: uint8 with more dimensions than vectors have."""
    return values.dtype == torch.uint8 and values.dim() > 2


def describe(values: Tensor) -> str:
    """For messages."""
    return f"{str(values.dtype).removeprefix('torch.')} of shape {tuple(values.shape)}"


def channels_first(images: Tensor, owner: str) -> Tensor:
    """(n, H, W), (n, H, W, C) or (n, C, H, W) -> (n, C, H, W), contiguous. ValueError where C could be either."""
    if images.dim() == 3:
        images = images[:, None]
    elif images.dim() != 4 or images.shape[1] == images.shape[3]:
        raise ValueError(
            f"{owner}: X: got uint8 of shape {tuple(images.shape)}, expected images (n, H, W), (n, H, W, C) or "
            "(n, C, H, W) with fewer channels than columns or rows"
        )
    elif images.shape[3] < images.shape[1]:
        images = images.permute(0, 3, 1, 2)
    return images.contiguous()


def as_vectors(values: Tensor) -> Tensor:
    """(n, ...) -> (n, d) float64."""
    return values.double().flatten(1)


def make_preparation(values: Tensor, owner: str) -> Preparation:
    """What the training data ask for.

    Raises:
        ValueError: images of an unknown layout, or values whose squares are beyond float64.
    """
    if is_images(values):
        return ImagePreparation(tuple(channels_first(values, owner).shape[1:]))
    vectors = as_vectors(values)
    smallest, constant = vectors.amin(0), vectors.amin(0) == vectors.amax(0)
    # The mean of equal values may be off by a rounding, which a scale of 1 would leave as large as they are.
    centre = torch.where(constant, smallest, vectors.mean(0))
    scale = torch.where(constant, 1.0, vectors.std(0, correction=0))
    if not bool((scale.isfinite() & (scale > 0)).all()):
        raise ValueError(
            f"{owner}: X: got a feature whose variance is beyond float64's range, expected one within it; rescale it"
        )
    return VectorPreparation(centre, scale)


def preparation_of_state(state: dict[str, Tensor]) -> Preparation:
    """The inverse of ``Preparation.state``."""
    if "image_shape" in state:
        return ImagePreparation(tuple(state["image_shape"].tolist()))
    return VectorPreparation(state["centre"].cpu(), state["scale"].cpu())


def train_in_memory(config: TrainingConfig, data: Tensor, progress: bool) -> Any:
    """A finished run on prepared data.

    Raises:
        KeyboardInterrupt: Ctrl-C, which the loop makes an error of, and scikit-learn's searches of that a failed fit.
        ValueError, TrainingDivergedError, TrainingInterrupted: as ``ald_ext.training.fit``.
    """
    try:
        return fit(config, ImageData(data, None, data[:MEASURED], None), progress=progress)
    except TrainingInterrupted as interruption:
        if interruption.signal_number == signal.SIGINT:
            raise KeyboardInterrupt from interruption
        raise


def parameters_as_json(parameters: dict[str, Any]) -> str:
    """Constructor arguments as JSON, NumPy's numbers as plain ones. ValueError for what JSON cannot hold."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        raise ValueError(f"{OWNER}.save: got {value!r} as a parameter, expected plain values")

    return json.dumps(parameters, default=plain)


def read_detector(path: Path, device: str) -> dict[str, Any]:
    """The contents of a detector's file, see :meth:`AnomalyDetector.load`."""
    expected = f"expected a file that {OWNER}.save wrote"
    if not path.is_file():
        raise FileNotFoundError(f"{OWNER}.load: path: got {str(path)!r}, {expected}")
    keys = (*MODEL_KEYS, "detector_parameters", "preparation", "decision_scores", "ensemble")
    try:
        return read_tensors(path, keys, device)
    except ValueError as error:
        raise ValueError(f"{OWNER}.load: path: got {str(path)!r}, {expected}: {error}") from error


def ensemble_of_state(state: dict[str, Any]) -> ParameterEnsemble | None:
    """The samples of the parameters; None if there are none."""
    if not state["samples"]:
        return None
    ensemble = ParameterEnsemble(len(state["samples"]))
    ensemble.load_state_dict(state)
    return ensemble
