"""Thinned samples of a model's parameters, for predictive averages."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..settings import require
from .latent_variable_model import LatentVariableModel
from .saving import check_fits


@dataclass
class EnsembleState:
    """What :meth:`ParameterEnsemble.state_dict` gives."""

    samples: list[dict[str, Tensor]]


class ParameterEnsemble:
    """The latest samples of a model's parameters (paper: Eqs. 8, 9), of encoder and decoder together.

    The two are kept together because z = f(x; φ) and θ are sampled jointly. A predictive mean is that of
    p(x' | x) ≈ (1/K) Σ_k p(x' | z = f(x; φ_k), θ_k).

    Args:
        capacity: K, the number of samples that are kept.

    Raises:
        ValueError: capacity < 1.
    """

    def __init__(self, capacity: int) -> None:
        require(capacity >= 1, "ald_ext.models.ParameterEnsemble: capacity", capacity, ">= 1")
        self.samples: deque[dict[str, Tensor]] = deque(maxlen=capacity)

    def __len__(self) -> int:
        return len(self.samples)

    def append(self, model: LatentVariableModel) -> None:
        """Keep a copy of the current parameters."""
        self.samples.append({name: value.detach().clone() for name, value in model.named_parameters()})

    def check(self, model: LatentVariableModel) -> None:
        """Raise a ValueError if the samples are not of the parameters of a model."""
        for number, sample in enumerate(self.samples):
            check_fits(sample, dict(model.named_parameters()), f"ensemble: samples[{number}]", "the model")

    def members(self, model: LatentVariableModel) -> Iterator[LatentVariableModel]:
        """Yield the model with the parameters of each sample: one copy of it, which the next sample overwrites."""
        member = copy.deepcopy(model)
        for sample in self.samples:
            member.load_state_dict(sample, strict=False)
            yield member

    @torch.no_grad()
    def mean(self, model: LatentVariableModel, function: Callable[[LatentVariableModel], Tensor]) -> Tensor:
        """Return the mean of ``function(model)`` over the samples, such as ``mean(model, lambda m: m.reconstruct(x))``.

        Raises:
            ValueError: no sample was kept yet.
        """
        require(self.samples, "ald_ext.models.ParameterEnsemble", "no samples yet", "one at least")
        total: Tensor | float = 0.0
        for member in self.members(model):
            total = total + function(member)
        assert isinstance(total, Tensor)
        return total / len(self.samples)

    def state_dict(self) -> dict[str, Any]:
        """Return the samples as plain tensors."""
        return {"samples": list(self.samples)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the samples of :meth:`state_dict`; the latest, if there is not room for all."""
        self.samples.clear()
        self.samples.extend(state["samples"])


def state_of_ensemble(ensemble: ParameterEnsemble | None) -> dict[str, Any]:
    """Return the samples of an ensemble as plain tensors, or no samples."""
    return {"samples": []} if ensemble is None else ensemble.state_dict()


def ensemble_of_state(state: dict[str, Any]) -> ParameterEnsemble | None:
    """Return the ensemble of :func:`state_of_ensemble`; None if it has no samples."""
    if not state["samples"]:
        return None
    ensemble = ParameterEnsemble(len(state["samples"]))
    ensemble.load_state_dict(state)
    return ensemble
