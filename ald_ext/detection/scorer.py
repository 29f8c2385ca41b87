"""What a fit of the detector makes: the settings of the training, and the trained model as a function that scores."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import ImageData
from ..models import MODELS, LatentVariableModel, ParameterEnsemble, config_from_dict
from ..settings import setting
from ..training import TrainingConfig, TrainingInterrupted, fit
from ..training.config import DEFAULT_LR, LONGEST_WARM_UP
from ..training.evaluation import values_of_data
from .preparation import ImagePreparation, Preparation, make_preparation
from .prior import RefittedPrior

#: Number of samples of the parameters that scores are averaged over; they come from the second half of the training.
ENSEMBLE_SIZE = 10
#: Scored data are filled up to a multiple of this, as matrix products of few or odd rows round in other ways.
ROWS = 16
#: Number of data of which the training loop measures a reconstruction error, for the progress bar only.
MEASURED = 100


@dataclass(eq=False, repr=False, kw_only=True)
class DetectorSettings:
    """The parameters of :class:`ald_ext.AnomalyDetector`, which says what they are."""

    model: str = setting("lae", choices=MODELS, kw_only=False)
    contamination: float = setting(0.1, above=0, at_most=0.5)
    labels: str = setting("pyod", choices=("pyod", "scikit-learn"))
    folds: int | None = setting(None, at_least=1)
    standardize_images: bool = True
    refit_prior: bool | None = None
    epochs: int = setting(100, at_least=1)
    batch_size: int = setting(32, at_least=1)
    lr: float = setting(DEFAULT_LR, above=0, below=float("inf"))
    model_settings: dict[str, Any] | None = None
    average: bool = True
    seed: int | None = setting(0, at_least=0, below=2**63)
    random_state: Any = None
    device: str = "cpu"
    progress: bool = False


@dataclass(frozen=True)
class Scorer:
    """A trained model as a function from data to scores.

    Args:
        preparation: from a user's data to the model's.
        model: the model with its last parameters.
        ensemble: samples of its parameters, over which scores are averaged; None for the last alone.
        priors: a refitted prior for each of them; none for the model's own.
        seed: seed of the draws that some models score with.
    """

    preparation: Preparation
    model: LatentVariableModel
    ensemble: ParameterEnsemble | None
    priors: list[RefittedPrior]
    seed: int

    def __call__(self, values: Tensor, owner: str) -> np.ndarray:
        """Return the scores of a user's data, (n,) float64. ValueError for data of another form than the model's."""
        data = self.preparation(values, owner)
        data = torch.cat([data, data[-1:].expand(-len(data) % ROWS, *data.shape[1:])])
        if self.priors:
            pairs = zip(self.priors, members(self.model, self.ensemble), strict=True)
            each = [prior.potential(member, data) for prior, member in pairs]
        else:
            each = [own_scores(member, data, self.seed) for member in members(self.model, self.ensemble)]
        return torch.stack(each, dim=1).mean(1)[: len(values)].numpy()


def members(model: LatentVariableModel, ensemble: ParameterEnsemble | None) -> Any:
    """Return the models over which scores are averaged, one after the other."""
    return ensemble.members(model) if ensemble else [model]


def own_scores(model: LatentVariableModel, data: Tensor, seed: int) -> Tensor:
    """Return the model's own scores of prepared data, (n,) float64."""
    return values_of_data(model, data, lambda x: model.score(x, seed=seed), seed).double()


def train_scorer(values: Tensor, settings: DetectorSettings, seed: int, refit_prior: bool, owner: str) -> Scorer:
    """Return a model trained on a user's data. The errors are those of ``AnomalyDetector.fit``."""
    preparation = make_preparation(values, settings.standardize_images, owner)
    data = preparation(values, owner)
    config = training_config(preparation, settings, seed, len(data))
    try:
        run = fit(config, ImageData(data, None, data[:MEASURED], None), progress=settings.progress)
    except TrainingInterrupted as interruption:
        if interruption.signal_number == signal.SIGINT:
            raise KeyboardInterrupt from interruption  # scikit-learn's searches take others for a failed fit
        raise
    run.model.diagnostics = {}
    trained = members(run.model, run.ensemble) if refit_prior else []
    return Scorer(preparation, run.model, run.ensemble, [RefittedPrior.fit(member, data) for member in trained], seed)


def training_config(preparation: Preparation, settings: DetectorSettings, seed: int, num_data: int) -> TrainingConfig:
    batch_size = min(settings.batch_size, num_data)
    steps = settings.epochs * -(-num_data // batch_size)
    network = {**preparation.settings(), **(settings.model_settings or {})}
    try:
        config = config_from_dict(MODELS[settings.model].config_class, network)
    except ValueError as error:
        if not (isinstance(preparation, ImagePreparation) and preparation.standardize):
            raise
        remedy = "standardized images are real data; standardize_images=False keeps pixels"
        raise ValueError(f"{error} ({remedy})") from error
    return TrainingConfig(
        model=settings.model,
        dataset="",
        epochs=settings.epochs,
        batch_size=batch_size,
        lr=settings.lr,
        schedule="constant",  # so that samples of the parameters are of one distribution
        warm_up=min(LONGEST_WARM_UP, steps // 4),
        seed=seed,
        device=settings.device,
        threads=torch.get_num_threads(),  # not the fastest, so that fits of one seed are equal bit for bit
        evaluate_every=settings.epochs,
        ensemble_size=ENSEMBLE_SIZE if settings.average else 0,
        ensemble_every=max(1, steps // (2 * ENSEMBLE_SIZE)),
        network=config,
    )
