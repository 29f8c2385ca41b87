"""How good a run is: errors of means and sds, effective sample sizes, R-hat."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from ald_ext.samplers import effective_sample_size, r_hat

from .runs import Run
from .targets import Array, Target

#: R-hat above which a run counts as not converged, so that its standard errors mean nothing.
CONVERGED = 1.01


def ess(values: Array, method: str) -> Array:
    return effective_sample_size(torch.as_tensor(values)[:, None], method)[0].numpy()


def measure(run: Run, target: Target) -> dict[str, Any]:
    """Return figures of a run; the worst over the quantities that are measured."""
    moments, values = target.moments(), target.quantities(run.draws)
    finite = bool(np.isfinite(values).all())
    facts = {"gradients": run.gradients, "seconds": run.seconds, "compile_seconds": run.compile_seconds}
    facts |= {"divergences": run.divergences, "finite": finite}
    if not finite:
        return facts | {"converged": False}
    pooled = values.reshape(-1, values.shape[-1])
    mean, sd = pooled.mean(0), pooled.std(0)
    squares = (values - moments.mean) ** 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of chains that never moved: then ESS is 0 and R-hat infinite
        ess_bulk, ess_tail, ess_squares = ess(values, "bulk"), ess(values, "tail"), ess(squares, "mean")
        worst_r_hat = float(r_hat(torch.as_tensor(values)[:, None]).max())
        ess_mean = ess(values, "mean")
    with np.errstate(divide="ignore"):
        mean_error = np.hypot(sd / np.sqrt(ess_mean), moments.mean_error)
        # By the delta method, sd² being the mean of the squares of distances from the exact mean.
        second = squares.reshape(pooled.shape)
        sd_error = np.hypot(second.std(0) / np.sqrt(ess_squares) / (2 * moments.sd), moments.sd_error)
    found_sd = np.sqrt(second.mean(0))
    ess_min = float(min(ess_bulk.min(), ess_tail.min(), ess_squares.min()))
    return facts | {
        "converged": worst_r_hat < CONVERGED,
        "r_hat": worst_r_hat,
        "mean_error_in_sd": float((np.abs(mean - moments.mean) / moments.sd).max()),
        "sd_ratio": [float((sd / moments.sd).min()), float((sd / moments.sd).max())],
        "mean_z": float((np.abs(mean - moments.mean) / mean_error).max()),
        "sd_z": float((np.abs(found_sd - moments.sd) / sd_error).max()),
        "ess_bulk": float(ess_bulk.min()),
        "ess_tail": float(ess_tail.min()),
        "ess_squares": float(ess_squares.min()),
        "ess": ess_min,
        "ess_per_gradient": ess_min / run.gradients,
        "ess_per_second": ess_min / run.seconds,
    }
