"""Gaussian priors of a network's parameters, as the weight decay of parameter groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..settings import require, shortened

#: Variance of the prior of a weight (out, in, …), by the numbers of its inputs and outputs.
SCALES = {"he": lambda inputs, outputs: 2 / inputs, "xavier": lambda inputs, outputs: 2 / (inputs + outputs)}


def gaussian_prior(
    module: nn.Module,
    std: float | str | Mapping[str, float | str],
    num_data: float,
    *,
    gain: float = 1.0,
    bias_std: float = 1.0,
) -> list[dict[str, Any]]:
    """Return parameter groups whose weight decay is the prior N(0, σ²), with a σ for each layer.

    An optimizer that minimizes the mean loss over N data adds weight_decay·θ to its gradient, so that the potential
    U = N·loss + Σ θ²/(2σ²) has weight_decay = 1/(N σ²)::

        optimizer = ald_ext.PSGLD(gaussian_prior(module, "he", num_data=len(data)), lr=1e-3, num_data=len(data))

    Args:
        module: whose parameters that require gradients are grouped, with their names.
        std: σ of all parameters; "he" for σ² = 2/inputs of weights with two dimensions or more (He et al. 2015) or
            "xavier" for 2/(inputs + outputs) (Glorot & Bengio 2010), where each element of a convolution's kernel is an
            input; or a mapping of names, of parameters or of modules, to one of these. The longest name that fits
            holds, and "" fits everything. ``math.inf`` is a flat prior.
        num_data: N, as in the optimizer.
        gain: a factor of σ by "he" and "xavier". They are scales for networks at the start of training; where few data
            are to be told apart with certainty, priors have to be wider.
        bias_std: σ, beside "he" and "xavier", of parameters with fewer than two dimensions: biases, and the scales of
            normalization layers.

    Raises:
        ValueError: a σ that is no positive number, "he" or "xavier"; a name of the mapping that fits no parameter, or a
            parameter that no name fits; num_data that is not positive.
    """
    owner = "ald_ext.bayes.gaussian_prior"
    is_number = isinstance(num_data, (int, float)) and 0 < num_data < math.inf
    require(is_number, f"{owner}: num_data", shortened(num_data), "a finite number > 0")
    stds = std if isinstance(std, Mapping) else {"": std}
    for name, value in stds.items():
        fits = value in SCALES if isinstance(value, str) else isinstance(value, (int, float)) and value > 0
        place = f"std: {name!r}" if name else "std"
        require(fits, f"{owner}: {place}", shortened(value), f"a number > 0, {' or '.join(map(repr, SCALES))}")
    for name, value in {"gain": gain, "bias_std": bias_std}.items():
        require(isinstance(value, (int, float)) and value > 0, f"{owner}: {name}", shortened(value), "a number > 0")
    groups: dict[float, list[tuple[str, Tensor]]] = {}
    used = set()
    for name, parameter in module.named_parameters():
        fitting = [key for key in stds if key in ("", name) or name.startswith(f"{key}.")]
        used.update(fitting)
        if not parameter.requires_grad:
            continue
        require(fitting, f"{owner}: std", f"no name that fits {name!r}", "one, such as '' for all others")
        variance = prior_variance(stds[max(fitting, key=len)], parameter, gain, bias_std)
        groups.setdefault(1 / (num_data * variance), []).append((name, parameter))
    unused = [key for key in stds if key not in used]
    require(not unused, f"{owner}: std", shortened(unused), "names of parameters or modules of the network")
    return [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items()]


def prior_variance(std: float | str, parameter: Tensor, gain: float, bias_std: float) -> float:
    """Return σ² of a parameter."""
    if not isinstance(std, str):
        return float(std) ** 2
    if parameter.dim() < 2:
        return float(bias_std) ** 2
    inputs, kernel = parameter[0].numel(), parameter[0, 0].numel()
    return gain**2 * SCALES[std](inputs, len(parameter) * kernel)
