"""Stochastic gradient Hamiltonian Monte Carlo."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor

from .base import LangevinOptimizer
from .checks import fraction


class SGHMC(LangevinOptimizer):
    r"""Stochastic gradient Hamiltonian Monte Carlo: Langevin dynamics with momentum, a drop-in for torch.optim.SGD's.

    Parameters θ and momenta p follow Note [The underdamped update] of :mod:`ald_ext.ops`, with h = √lr and
    μ = ``momentum``. With small lr the iterates sample exp(-U(θ)/T), and p ~ N(0, T/N) whatever lr is, so that lr may
    follow a schedule. A loss that is U itself (a sum) takes ``num_data=1``. Steps are stable where lr times the largest
    curvature of L is below 4. Where p forgets faster than θ moves, it is SGLD of step size (lr/2)·(1+μ)/(1-μ).

    Note [Discretization]
        The step is BAOAB (Leimkuhler & Matthews 2013) with one gradient a step. On a Gaussian target the positions have
        the exact covariance for every stable lr, where the recursion of Chen et al. 2014 has an error of order lr and
        SGLD one of order lr too. μ = 0 is the scheme of Leimkuhler & Matthews: θ ← θ - (lr/2)·g +
        √(lr·T/N) (ξ + ξ')/2, where ξ' is the noise of the step before.

    Note [Conversions]
        Of Chen et al.'s (η, α), v ← (1-α)·v - η·∇U + N(0, 2αη), θ ← θ + v: lr = η·N, momentum = 1 - α (v = h·p; their
        noise is that of small α). ``temperature=0`` at a constant lr is torch.optim.SGD(lr=lr·(1+μ)/2, momentum=μ).

    Args:
        params, num_data, temperature, weight_decay, maximize, seed, foreach, fused, capturable, chain,
            first_parameter, localization, anchors: as for :class:`ald_ext.SGLD`.
        lr: h², the square of the time step, ≥ 0; as for :class:`ald_ext.SGLD`.
        momentum: μ, what is left of p after a step, 0 ≤ momentum < 1.

    Raises:
        ValueError: an option out of its range.
    """

    step_name: ClassVar = "sghmc_step_"
    state_names: ClassVar = ("momentum_buffer",)
    own_options: ClassVar = {"momentum": fraction("momentum")}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor,
        *,
        num_data: float,
        temperature: float = 1.0,
        weight_decay: float = 0.0,
        maximize: bool = False,
        seed: int | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        chain: int | None = None,
        first_parameter: int | None = None,
        localization: float = 0.0,
        anchors: Iterable[Tensor] | None = None,
        momentum: float = 0.9,
    ) -> None:
        defaults = {
            "lr": lr,
            "num_data": num_data,
            "temperature": temperature,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "seed": seed,
            "foreach": foreach,
            "fused": fused,
            "capturable": capturable,
            "chain": chain,
            "first_parameter": first_parameter,
            "localization": localization,
            "momentum": momentum,
        }
        super().__init__(params, defaults, anchors)
