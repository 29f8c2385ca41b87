"""Preconditioned stochastic gradient Langevin dynamics."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from numbers import Integral
from typing import Any, ClassVar

from torch import Tensor

from .. import ops
from .base import LangevinOptimizer
from .checks import NOT_NEGATIVE, Group, Requirement, fraction


class PSGLD(LangevinOptimizer):
    r"""Preconditioned SGLD (Li et al. 2016; the paper's sampler, Section 3), a drop-in for torch.optim.RMSprop.

    SGLD whose step in each direction is scaled by G = 1/(√v + λ), where v is a running mean of g²: Note [The update
    equation] of :mod:`ald_ext.ops`. Other conventions: see the conversion table in the README. ``temperature=0`` with
    the same ``eps`` is torch.optim.RMSprop.

    Note [Bias of an adapting preconditioner]
        While v adapts, G depends on θ and the correction term Γ = ∂G/∂θ is left out, as everybody does: on N(0, 1) the
        sampled variance is 1.33 times the true one at alpha = 0.99 and lr = 0.01 (1.05 at alpha = 0.999; more at a
        smaller lr). Freeze v after burn-in (``freeze_after=`` or :meth:`freeze_preconditioner`), and it is gone.

    Note [Choice of eps]
        G ≤ 1/λ: a parameter whose gradient vanishes is shaken by √(2·lr·T/(N·λ)) a step. RMSprop's default of 1e-8
        would destroy a network; 0.1 is what the method's authors use. Smaller values adapt more and shake more.

    Args:
        params, lr, num_data, temperature, weight_decay, maximize, seed, foreach, fused, capturable, chain,
            first_parameter, localization, anchors: as for :class:`ald_ext.SGLD`.
        alpha: decay of v, 0 ≤ alpha < 1.
        eps: λ ≥ 0; > 0 where temperature > 0.
        freeze_after: number of steps after which v stays as it is; None: never.

    Raises:
        ValueError: an option out of its range.
    """

    step_name: ClassVar = "psgld_step_"
    state_names: ClassVar = ("square_avg",)
    own_options: ClassVar = {
        "alpha": fraction("alpha"),
        "eps": NOT_NEGATIVE,
        "freeze_after": Requirement(
            lambda value: value is None or (isinstance(value, Integral) and int(value) >= 0), "None or an integer >= 0"
        ),
    }

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
        alpha: float = 0.99,
        eps: float = 0.1,
        freeze_after: int | None = None,
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
            "alpha": alpha,
            "eps": eps,
            "freeze_after": freeze_after,
            "frozen": False,
        }
        super().__init__(params, defaults, anchors)

    def freeze_preconditioner(self) -> None:
        """Keeps v, of every group, as it is from now on. Kept in the state_dict."""
        for group in self.param_groups:
            group["frozen"] = True

    def _check_options(self, group: Group) -> None:
        super()._check_options(group)
        if group["eps"] == 0 and group["temperature"] > 0:
            raise ValueError("ald_ext.PSGLD: eps: got 0 with temperature > 0, expected > 0: the noise has no bound")

    def _op_options(self, group: Group) -> dict[str, Any]:
        freeze_after = -1 if group["frozen"] else group["freeze_after"]
        return {**super()._op_options(group), "freeze_after": ops.NEVER if freeze_after is None else freeze_after}

    def _adopted(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        saved_groups = state_dict["param_groups"]
        if any("centered" not in group for group in saved_groups):
            return super()._adopted(state_dict)
        warnings.warn(
            "ald_ext.PSGLD: load_state_dict: got the state of torch.optim.RMSprop: v (square_avg) is taken, and PSGLD "
            "keeps its own lr, alpha, eps, weight_decay and step counter",
            stacklevel=4,
        )
        own = super().state_dict()["param_groups"]
        if [len(group["params"]) for group in own] != [len(group["params"]) for group in saved_groups]:
            return super()._adopted(state_dict)
        groups = [
            {**group, **{name: saved[name] for name in ("params", "param_names") if name in group and name in saved}}
            for group, saved in zip(own, saved_groups, strict=True)
        ]
        states = {key: {"square_avg": state.get("square_avg")} for key, state in state_dict["state"].items()}
        return {**state_dict, "state": states, "param_groups": groups}
