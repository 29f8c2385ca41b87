"""Stochastic gradient Langevin dynamics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor

from .base import LangevinOptimizer


class SGLD(LangevinOptimizer):
    r"""Stochastic gradient Langevin dynamics (Welling & Teh 2011; paper: Eqs. 6, 7, 9), a drop-in for torch.optim.SGD.

    θ ← θ - lr·g + √(2·lr·T/N) ξ, as Note [The update equation] of :mod:`ald_ext.ops` says in full. Other conventions:
    see the conversion table in the README. ``temperature=0`` is torch.optim.SGD without momentum.

    Args:
        params: parameters or parameter groups, as for torch.optim.
        lr: step size ≥ 0; a float or a tensor of one element (of any device; under torch.compile a tensor avoids
            recompilation when it changes). A step with lr = 0 moves nothing and is not counted.
        num_data: N > 0, the number of data behind the mean loss.
        temperature: T ≥ 0.
        weight_decay: adds weight_decay·θ to g ≥ 0: a Gaussian prior of precision N·weight_decay.
        maximize: ascend the loss instead.
        seed: of the noise, 0 ≤ seed < 2^63; drawn once from torch's default generator if None, by one rank for all
            replicas where a process group of torch.distributed is initialized. It is kept in the parameter groups with
            the step counter, so that a resumed run continues bit for bit.
        foreach: True: torch's multi-tensor functions instead of the compiled op.
        fused: True: the compiled op, or an error where there is none. False: plain PyTorch. None: whatever is there.
        capturable: True: the step counter lives on the parameters' device and lr may, so that a step can be captured
            in a CUDA graph, whose replays draw fresh noise. One device in a group.
        chain: ≥ 0, the number of an independent chain, which is folded into the seed; None: there is one chain, and
            optimizers of other ranks are its replicas.
        first_parameter: ≥ 0; noise belongs to the positions of parameters, counted from here on. None: to their names
            where they have some (``model.named_parameters()``, :func:`ald_ext.name_parameters`), else to positions from
            0 on. On several processes see the guide.
        localization: γ ≥ 0 of a Gaussian prior around anchors, Note [Anchors] of :mod:`ald_ext.ops`. Kept, like other
            options, in the parameter groups.
        anchors: θ₀, one tensor for each parameter, in the order of all groups. None: copies of the parameters as they
            are when the optimizer is made. They are kept in the state, as ``anchor``.

    Raises:
        ValueError: an option out of its range.
    """

    step_name: ClassVar = "sgld_step_"

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
        }
        super().__init__(params, defaults, anchors)
