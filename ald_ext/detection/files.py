"""The file of a fitted detector: what it has to hold, declared once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..models.ensemble import EnsembleState, ensemble_of_state, state_of_ensemble
from ..models.saving import ModelFile, model_contents, model_from_contents, required_fields
from ..settings import from_dict, require
from ..tensor_files import read_tensors, write_tensors
from .preparation import check_tensor, preparation_of_state
from .prior import RefittedPrior
from .scorer import Scorer


@dataclass(kw_only=True)
class Contents(ModelFile):
    """What a file holds beside the model, by name; what has a default came later than the first files."""

    detector_parameters: str
    preparation: dict[str, Tensor]
    decision_scores: Tensor
    ensemble: EnsembleState
    priors: list[dict[str, Tensor]] = field(default_factory=list)
    feature_names: list[str] | None = None


def write_detector(
    path: Path, scorer: Scorer, parameters: str, decision_scores: Tensor, feature_names: list[str] | None
) -> None:
    """Write what :func:`read_detector` reads, whole or not at all. OSError where that fails."""
    contents = {
        **model_contents(scorer.model),
        "detector_parameters": parameters,
        "preparation": scorer.preparation.state(),
        "decision_scores": decision_scores,
        "ensemble": state_of_ensemble(scorer.ensemble),
        "priors": [prior.state() for prior in scorer.priors],
        "feature_names": feature_names,
    }
    write_tensors(path, contents)


def read_detector(path: Path, device: str) -> Contents:
    """Return the contents of a file, of the right types. ValueError if they are not, or the file is none of ours."""
    contents = from_dict(Contents, read_tensors(path, required_fields(Contents), device), "detector")
    check_tensor("decision_scores", contents.decision_scores, torch.float64, (None,))
    return contents


def scorer_of(contents: Contents, seed: int, device: str) -> Scorer:
    """Return the scorer of a file. ValueError where its parts do not fit together."""
    preparation = preparation_of_state(contents.preparation)
    model = model_from_contents(vars(contents)).to(device)
    for name in ("data", "shape"):
        wanted, found = preparation.settings()[name], getattr(model.config, name)
        require(found == wanted, f"model_config: {name}", found, f"{wanted}, as the preparation gives")
    ensemble = ensemble_of_state(vars(contents.ensemble))
    if ensemble is not None:
        ensemble.check(model)
    for state in (contents.model, *contents.ensemble.samples):
        finite = all(tensor.isfinite().all() for tensor in state.values())
        require(finite, "model or ensemble", "values that are not finite", "finite ones")
    names, features = contents.feature_names, preparation.num_features
    require(names is None or len(names) == features, "feature_names", len(names or ()), f"None or {features} names")
    count = len(contents.ensemble.samples) or 1
    require(len(contents.priors) in (0, count), "priors", len(contents.priors), f"0 or {count}")
    priors = [RefittedPrior.of_state(state, model.config.latent_dim) for state in contents.priors]
    return Scorer(preparation, model, ensemble, priors, seed)
