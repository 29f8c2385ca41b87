"""Preconditioned stochastic gradient Langevin dynamics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .. import ops, reference
from .langevin_optimizer import Group, LangevinOptimizer, StepLists, check_not_negative, in_layout_of, step_options

_STEPS: dict[str, Callable[..., None]] = {
    "fused": ops.psgld_step_,
    "foreach": reference.psgld_step_foreach_,
    "reference": reference.psgld_step_,
}


class PSGLD(LangevinOptimizer):
    r"""Preconditioned SGLD (Li et al. 2016; the paper's sampler, Section 3), a drop-in for torch.optim.RMSprop.

    For a loss that is the potential per datum, L = U/N (the usual mean loss), and g = ∇L + weight_decay·θ:

        v ← αv + (1-α)g²,      G = 1/(√v + λ)
        θ ← θ - lr·G·g + √(2·lr·T·G/N) ξ,      ξ ~ N(0, I)

    A loss that is U itself (a sum) takes ``num_data=1``. Other conventions: see the conversion table in the README.
    ``temperature=0`` with the same ``eps`` is torch.optim.RMSprop.

    Note [Bias of an adapting preconditioner]
        While v adapts, G depends on θ and the correction term Γ = ∂G/∂θ is left out, as everybody does: on N(0, 1) the
        sampled variance is 1.33 times the true one at alpha = 0.99 and lr = 0.01 (1.05 at alpha = 0.999; more at a
        smaller lr). Freeze v after burn-in (``freeze_after=`` or :meth:`freeze_preconditioner`), and it is gone.

    Note [Choice of eps]
        G ≤ 1/λ: a parameter whose gradient vanishes is shaken by √(2·lr·T/(N·λ)) a step. RMSprop's default of 1e-8
        would destroy a network; 0.1 is what the method's authors use. Smaller values adapt more and shake more.

    Args:
        params, lr, num_data, temperature, weight_decay, maximize, seed, foreach, fused, capturable: as for
            :class:`ald_ext.SGLD`.
        alpha: decay of v, 0 ≤ alpha < 1.
        eps: λ ≥ 0; > 0 where temperature > 0.
        freeze_after: number of steps after which v stays as it is; None: never.

    Raises:
        ValueError: an option out of its range.
    """

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
            "alpha": alpha,
            "eps": eps,
            "freeze_after": freeze_after,
            "frozen": False,
        }
        super().__init__(params, defaults)

    def freeze_preconditioner(self) -> None:
        """Keeps v, of every group, as it is from now on. Kept in the state_dict."""
        for group in self.param_groups:
            group["frozen"] = True

    def _check_options(self, group: Group) -> None:
        super()._check_options(group)
        check_not_negative("PSGLD", "eps", group["eps"])
        if group["eps"] == 0 and group["temperature"] > 0:
            raise ValueError("ald_ext.PSGLD: eps: got 0 with temperature > 0, expected > 0: the noise has no bound")
        if not 0 <= group["alpha"] < 1:
            raise ValueError(f"ald_ext.PSGLD: alpha: got {group['alpha']}, expected 0 <= alpha < 1")
        freeze_after = group["freeze_after"]
        if freeze_after is not None and freeze_after < 0:
            raise ValueError(f"ald_ext.PSGLD: freeze_after: got {freeze_after}, expected None or >= 0")

    def _check_param(self, group: Group, param: Tensor, index: int) -> None:
        super()._check_param(group, param, index)
        square_avg = self.state[param].get("square_avg") if param in self.state else None
        if square_avg is not None and square_avg.shape != param.shape:
            raise RuntimeError(
                f"ald_ext.PSGLD: parameter {index}: state square_avg: got shape {tuple(square_avg.shape)}, "
                f"expected {tuple(param.shape)} as of the parameter"
            )

    def _gather_state(self, param: Tensor, tensors: StepLists) -> None:
        state = self.state[param]
        if "square_avg" not in state:
            state["square_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        state["square_avg"] = in_layout_of(state["square_avg"], param)
        tensors.square_avgs.append(state["square_avg"])

    def _update(self, group: Group, tensors: StepLists) -> None:
        step_ = _STEPS[self._implementation(group, tensors)]
        freeze_after = group["freeze_after"]
        step_(
            tensors.params,
            tensors.grads,
            tensors.square_avgs,
            alpha=group["alpha"],
            eps=group["eps"],
            adapt=not group["frozen"] and (freeze_after is None or group["step"] <= freeze_after),
            **step_options(group, tensors),
        )
