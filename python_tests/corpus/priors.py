"""Priors of each kind of support, with exact means and variances; a new kind is a line more."""

from __future__ import annotations

import torch
from torch.distributions import (
    Beta,
    Dirichlet,
    Distribution,
    Exponential,
    Gamma,
    HalfNormal,
    Independent,
    Kumaraswamy,
    LogNormal,
    Normal,
    Pareto,
    Uniform,
    Weibull,
)


def double(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers if len(numbers) > 1 else numbers[0], dtype=torch.float64)


#: Of z with two dimensions; a distribution of scalars is that of both.
BOUNDED: dict[str, Distribution] = {
    "gamma": Gamma(double(2.5), double(1.5)),
    "gamma, a dimension each": Gamma(double(2.0, 4.0), double(1.0, 3.0)),
    "independent gamma": Independent(Gamma(double(2.0, 4.0), double(1.0, 3.0)), 1),
    "beta": Beta(double(2.0), double(3.0)),
    "exponential": Exponential(double(0.7)),
    "uniform": Uniform(double(-1.0), double(3.0)),
    "uniform, a dimension each": Uniform(double(0.0, 5.0), double(1.0, 9.0)),
    "half normal": HalfNormal(double(1.5)),
    "log normal": LogNormal(double(0.5), double(0.4)),
    "weibull": Weibull(double(2.0), double(1.5)),
    "pareto": Pareto(double(1.0), double(9.0)),
    "kumaraswamy": Kumaraswamy(double(2.0), double(2.0)),
}

#: Those of which no neighbourhood of a state is in the support, so that only a transform helps.
SINGULAR: dict[str, Distribution] = {"dirichlet": Dirichlet(double(2.0, 3.0))}

#: Those with all of space.
UNBOUNDED: dict[str, Distribution] = {
    "normal": Normal(double(1.0), double(2.0)),
    "independent normal": Independent(Normal(double(1.0, -1.0), double(2.0, 1.0)), 1),
}
