"""Predictions that are averages over samples of a network's parameters."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.optim.swa_utils import update_bn

from ..moments import merge_mean_
from ..settings import require, shortened
from .parameter_samples import PosteriorSamples

#: What is averaged: class probabilities of logits, outputs as they are, or a function of outputs.
Kind = Literal["classification", "regression"] | Callable[[Tensor], Tensor]

#: How many samples go through the network at once: as many as have so many elements, and no more than 16; and rows of
#: inputs times samples, beyond which one after another is as fast or faster.
MAX_ELEMENTS, MAX_SAMPLES, MAX_ROWS = 2**22, 16, {"cpu": 512}


@dataclass(frozen=True)
class Prediction:
    """A predictive distribution of n inputs, by averages over samples of the parameters.

    Args:
        mean: of class probabilities (n, classes), of outputs (n, …), or of a function of them.
        std: standard deviation over the samples, of the shape of the mean. For a regression it lacks the noise of the
            data: the predictive variance is std² + σ² with the noise σ of the likelihood.
        num_samples: number of samples.
        quantiles: (quantiles, n, …) over the samples, if they were asked for.
        entropy: of the mean class probabilities, in nats, (n,): all that is unsure about the class; None for
            regressions and functions.
        mutual_information: between class and parameters, in nats, (n,): the entropy less the mean entropy of the
            samples' own probabilities. It is what samples disagree on (Houlsby et al. 2011); the rest is noise of the
            data.
    """

    mean: Tensor
    std: Tensor
    num_samples: int
    quantiles: Tensor | None = None
    entropy: Tensor | None = None
    mutual_information: Tensor | None = None

    @property
    def probabilities(self) -> Tensor:
        """The mean class probabilities, (n, classes). ValueError if this is no classification."""
        require(self.entropy is not None, "ald_ext.bayes.Prediction: probabilities", "a mean of outputs", "classes")
        return self.mean


def predict(
    samples: PosteriorSamples,
    module: nn.Module,
    x: Tensor,
    *,
    kind: Kind = "classification",
    batch_size: int | None = None,
    quantiles: Sequence[float] = (),
    batch_norm_loader: Iterable[Any] | None = None,
) -> Prediction:
    """Return the predictive distribution of inputs.

    The mean is that of *probabilities*, not of logits or parameters: p(y | x) ≈ (1/S) Σ_s p(y | x, θ_s). Samples are
    read and used a few at a time, so that memory does not grow with their number, but for quantiles. The module is
    copied; the copy is in evaluation mode, without dropout.

    Args:
        samples: of the parameters.
        module: the network they are of, x (n, …) → outputs (n, …).
        x: inputs (n, …).
        kind: "classification", for outputs that are logits (n, classes); "regression", for outputs that are means; or
            a function of outputs (n, …) → (n, …) whose mean is asked for, such as ``torch.sigmoid``.
        batch_size: number of inputs at a time; None stands for all.
        quantiles: the levels, 0 to 1, of quantiles over samples.
        batch_norm_loader: minibatches whose first part are inputs, over which the running statistics of batch
            normalization are taken anew for each sample (torch.optim.swa_utils.update_bn), in training mode; None
            stands for the statistics that each sample has, which its predecessors have shaped, too.

    Raises:
        ValueError: no samples, or samples of another module; a bad kind, batch size or level; logits of other
            shape; outputs that are not finite.
    """
    fits = isinstance(quantiles, Sequence) and all(0 <= level <= 1 for level in quantiles)
    require(fits, "ald_ext.bayes.predict: quantiles", shortened(quantiles), "levels from 0 to 1")
    count, kept = 0, list[Tensor]()
    mean = squares = entropies = torch.empty(0)
    for values in sampled_values(samples, module, x, kind, batch_size, batch_norm_loader, "predict"):
        if count == 0:
            mean, squares = torch.zeros_like(values[0]), torch.zeros_like(values[0])
            entropies = torch.zeros_like(values[0, :, 0]) if kind == "classification" else entropies
        for value in values:
            count = merge_mean_(count, mean, squares, 1, value)
        if kind == "classification":
            entropies += torch.special.entr(values).sum(2).sum(0)
        kept += [values] if quantiles else []
    std = (squares / max(count - 1, 1)).sqrt()
    result = {"quantiles": torch.quantile(torch.cat(kept), mean.new_tensor(quantiles), 0)} if quantiles else {}
    if kind == "classification":
        entropy = torch.special.entr(mean).sum(1)
        result |= {"entropy": entropy, "mutual_information": (entropy - entropies / count).clamp_min(0)}
    return Prediction(mean, std, count, **result)


def sampled_values(
    samples: PosteriorSamples,
    module: nn.Module,
    x: Tensor,
    kind: Kind,
    batch_size: int | None,
    batch_norm_loader: Iterable[Any] | None,
    name: str,
) -> Iterator[Tensor]:
    """Yield what is averaged, in float64, for some samples at a time, (samples, n, …). Raises as :func:`predict`."""
    owner = f"ald_ext.bayes.{name}"
    fits = isinstance(samples, PosteriorSamples)
    require(fits, f"{owner}: samples", shortened(samples), "PosteriorSamples, such as PosteriorSamples.load(folder)")
    require(len(samples), f"{owner}: samples", "none", "one at least")
    require(isinstance(x, Tensor), f"{owner}: {'probe' if name == 'diagnose' else 'x'}", shortened(x), "a tensor")
    require(batch_size is None or batch_size >= 1, f"{owner}: batch_size", batch_size, "None or an integer > 0")
    is_kind = callable(kind) or kind in ("classification", "regression")
    require(is_kind, f"{owner}: kind", shortened(kind), "'classification', 'regression' or a function of outputs")
    member = copy.deepcopy(module).eval()
    rows = x.split(batch_size or len(x))
    at_once = 1 if batch_norm_loader is not None else samples_at_once(member, rows[0])
    for start in range(0, len(samples), at_once):
        indices = range(start, min(start + at_once, len(samples)))
        with torch.no_grad():
            if batch_norm_loader is not None:
                samples.load_into(member, start)
                update_bn(batch_norm_loader, member, next(member.parameters()).device)
                counts = [int(count) for name, count in member.named_buffers() if name.endswith("num_batches_tracked")]
                expected = "minibatches each time it is iterated over"
                require(not counts or any(counts), f"{owner}: batch_norm_loader", "no minibatches", expected)
                outputs = torch.cat([member.eval()(part) for part in rows])[None]
            else:
                outputs = outputs_of([samples.state_for(member, index) for index in indices], member, rows)
            values = values_of(outputs, kind, owner)
        require(bool(values.isfinite().all()), f"{owner}: outputs", "some that are not finite", "finite numbers")
        yield values


def samples_at_once(module: nn.Module, rows: Tensor) -> int:
    """Return how many samples go through a network at once."""
    elements = sum(parameter.numel() for parameter in module.parameters())
    fitting = MAX_ROWS.get(rows.device.type, 2**14) // max(len(rows), 1)
    return max(1, min(MAX_SAMPLES, MAX_ELEMENTS // max(elements, 1), fitting))


def outputs_of(states: list[dict[str, Tensor]], module: nn.Module, rows: Sequence[Tensor]) -> Tensor:
    """Return the outputs (samples, n, …) of a module with each of some states."""
    if len(states) > 1:
        stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
        try:
            call = vmap(lambda state, part: functional_call(module, state, (part,)), in_dims=(0, None))
            return torch.cat([call(stacked, part) for part in rows], 1)
        except (RuntimeError, ValueError) as error:
            warnings.warn(
                "ald_ext.bayes: samples are used one after another, as torch.func.vmap does not take the network: "
                f"{shortened(str(error), 120)}",
                stacklevel=4,
            )
    return torch.stack([torch.cat([functional_call(module, state, (part,)) for part in rows]) for state in states])


def values_of(outputs: Tensor, kind: Kind, owner: str) -> Tensor:
    """Return what is averaged, of outputs (samples, n, …), in float64."""
    if kind == "classification":
        shape = tuple(outputs.shape[1:])
        require(
            len(shape) == 2 and shape[1] > 1, f"{owner}: outputs", f"shape {shape}", "logits (n, 2 classes or more)"
        )
        return outputs.double().softmax(2)
    return outputs.double() if kind == "regression" else torch.stack([kind(each) for each in outputs]).double()
