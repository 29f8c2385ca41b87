"""The stochastic gradient Nosé-Hoover thermostat."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor

from .base import LangevinOptimizer
from .checks import POSITIVE


class SGNHT(LangevinOptimizer):
    r"""Stochastic gradient Nosé-Hoover thermostat: SGHMC with a friction that takes up the noise of gradients.

    Parameters θ, momenta p and excess frictions x follow Note [The thermostat] of :mod:`ald_ext.ops`, with h = √lr and
    a = ``diffusion``. With small lr the iterates sample exp(-U(θ)/T). Minibatches heat the parameters of every other
    optimizer here: noise of variance σ² in g raises the variance under :class:`ald_ext.SGHMC` by a fraction of about
    lr·σ²·N/(2aT), where a = -log ``momentum``. Here each element's friction grows until p² is T/N again, for noise
    that is Gaussian and does not depend on θ. No estimate of σ² is needed. Steps are stable as those of SGHMC.

    Note [Elementwise thermostat]
        Ding et al. 2014 have one thermostat for all parameters; here each element has its own, as the gradient of each
        has a noise of its own. Without noise p ~ N(0, T/N) and x ~ N(0, a²/4) whatever lr is, and x forgets in about
        4/a steps. Ding et al.'s has variance η, and forgets in A/η steps.

    Note [Burn-in of the thermostat]
        A start far from the posterior is hot, and raises x, which falls by at most a²/4 a step afterwards. As long as
        it falls, the variance is too small: draws are right once the mean of the state ``excess_friction`` has settled.
        Or start from parameters that another optimizer has trained.

    Args:
        params, num_data, temperature, weight_decay, maximize, seed, foreach, fused, capturable, chain,
            first_parameter, localization, anchors: as for :class:`ald_ext.SGLD`.
        lr: h², the square of the time step, ≥ 0; as for :class:`ald_ext.SGHMC`.
        diffusion: a, the friction of a step without noise of gradients, > 0; about 1 - ``momentum`` of SGHMC. The noise
            in p is that of a. The error of the splitting grows with a, which is best below 0.2.

    Raises:
        ValueError: an option out of its range.
    """

    step_name: ClassVar = "sgnht_step_"
    state_names: ClassVar = ("momentum_buffer", "excess_friction")
    own_options: ClassVar = {"diffusion": POSITIVE}

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
        diffusion: float = 0.1,
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
            "diffusion": diffusion,
        }
        super().__init__(params, defaults, anchors)
