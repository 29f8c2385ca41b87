"""Amortized Langevin dynamics: the parameters of a network move, and its outputs are the samples or begin chains."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..settings import require, shortened
from .datapoint import DatapointSampler
from .hmc import MALA
from .minibatches import Minibatches
from .potential import Potential


class AmortizedLangevin:
    """ALD and SGALD: z_i = f(x_i; φ) for every datum; an optimizer moves φ (paper: Algorithm 1, Eqs. 6, 7).

    Each :meth:`step` lowers the potential of a minibatch of m data by one noisy step on φ,

        φ ← φ - η ∇_φ (n/m) Σ_{i in batch} U(x_i, f(x_i; φ)) + √(2ηT) ξ        (SGLD; PSGLD preconditions it)

    after which the outputs of f are new samples for every datum. If the x are fixed inputs u ~ N(0, I), one for each
    chain, which the potential ignores, this is unconditional sampling (Eqs. 15, 16). Note [What the theory covers] in
    features.py says when the samples are those of the posterior. The step size follows the optimizer's convention
    (ald_ext.ops, Note [The update equation]): with ``reduction="mean"`` the loss is ΣU/m and the optimizer has
    ``num_data=n``, lr = η·n; with "sum" it is (n/m)ΣU and ``num_data=1``, lr = η. PSGLD's V then averages the squares
    of mean gradients, or of sums, which are n² times as large, so that eps and lr have other meanings.

    P parameters move the n·d outputs in P directions at most. So, where f is nearly linear in φ and P < n·d, the
    variance of the samples is P/(n·d) of the posterior's at most, on average over whitened directions: the first
    :meth:`step` tells it by a UserWarning.

    Args:
        network: f, (m, ...) → (m, d).
        potential: U(x, z) → (m,), a datum's -log p(z) - log p(x | z).
        x: data or fixed inputs (n, ...).
        optimizer: SGLD, PSGLD or SGHMC over the network's parameters.
        batch_size: m; None stands for all data. Minibatches are drawn without replacement, epoch by epoch.
        reduction: "mean" or "sum".
        seed: seed of the minibatches; None draws one from torch's default generator.
        outputs: "all" to return the outputs for all data, (n, d), at each step; "batch" to return those of its
            minibatch, whose indices are in ``batch``, so that the cost of a step does not grow with n.

    Raises:
        ValueError: batch_size or outputs out of range, or an optimizer whose num_data does not suit the reduction.
    """

    def __init__(
        self,
        network: nn.Module,
        potential: Potential,
        x: Tensor,
        optimizer: Optimizer,
        *,
        batch_size: int | None = None,
        reduction: str = "mean",
        seed: int | None = None,
        outputs: str = "all",
    ) -> None:
        self.network, self.potential, self.x, self.optimizer = network, potential, x, optimizer
        self.batch_size = len(x) if batch_size is None else batch_size
        self.reduction, self.outputs = reduction, outputs
        name, n = "ald_ext.samplers.AmortizedLangevin", len(x)
        self.minibatches = Minibatches(name, n, self.batch_size, outputs, seed)
        self.batch = torch.arange(n)
        self._warned = False
        require(reduction in ("mean", "sum"), f"{name}: reduction", repr(reduction), "'mean' or 'sum'")
        expected = n if reduction == "mean" else 1
        why = f"{expected} for {n} data with reduction={reduction!r}: else the noise is wrong"
        for group in optimizer.param_groups:
            got = group.get("num_data", expected)
            require(float(got) == expected, f"{name}: optimizer", f"num_data={got}", why)

    def step(self) -> Tensor:
        """Make one update of φ and return the new samples, (n, d) or (m, d) as ``outputs`` says."""
        self.batch = self.minibatches.draw()
        x = self.x if self.batch_size == len(self.x) else self.x[self.batch]
        self.optimizer.zero_grad()
        z = self.network(x)
        self._warn_of_few_parameters(z)
        loss = self.potential(x, z).mean()
        if self.reduction == "sum":
            loss = loss * len(self.x)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        with torch.no_grad():
            samples: Tensor = self.network(self.x if self.outputs == "all" else x)
        return samples

    def _warn_of_few_parameters(self, z: Tensor) -> None:
        if self._warned:
            return
        self._warned = True
        parameters = sum(p.numel() for group in self.optimizer.param_groups for p in group["params"])
        values = len(self.x) * z[0].numel()
        if parameters < values:
            warnings.warn(
                f"ald_ext.samplers.AmortizedLangevin: network: {parameters} parameters move {values} latent values: "
                f"the samples have {parameters / values:.2g} of the posterior's variance at most. Use more parameters, "
                "fewer data, or a sampler of each datum",
                stacklevel=3,
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the states of network, optimizer and minibatches; a run continues from them bit for bit."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "minibatches": self.minibatches.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`; an lr that is a tensor stays this very tensor.

        Raises:
            ValueError: a state that lacks a part, or whose minibatches or optimizer's part do not fit.
            RuntimeError: that of another network.
        """
        owner = "ald_ext.samplers.AmortizedLangevin: state_dict"
        require(isinstance(state, dict), owner, shortened(state), "a dict")
        for name in ("network", "optimizer", "minibatches"):
            require(name in state, owner, f"no {name!r}", "dict")
        self.minibatches.load_state_dict(state["minibatches"], f"{owner}: minibatches")
        self.network.load_state_dict(state["network"])
        own = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, lr in zip(self.optimizer.param_groups, own, strict=True):
            if isinstance(lr, Tensor):  # which the caller may set step by step
                group["lr"] = lr.fill_(float(group["lr"]))


def sampler_from_encoder(
    encoder: Callable[[Tensor], Tensor],
    potential: Potential,
    x: Tensor,
    *,
    kernel: Callable[..., DatapointSampler] = MALA,
    chains: int | None = None,
    **options: Any,
) -> DatapointSampler:
    """Return a sampler of p(z | x) for new data, whose chains begin at the encoder's outputs (paper: Algorithm 2).

    Its ``step()`` gives (n, d), or (n, chains, d).

    Args:
        encoder: (n, ...) → (n, d), or (n, chains, d) as the samplers of a last layer give.
        potential: U(x, z).
        x: new data (n, ...).
        kernel: LangevinDynamics (the paper's), MALA, HMC or UnderdampedLangevin.
        chains: number of chains for each datum, all beginning at the same place; None for one, without that dimension.
        options: options of the kernel: step_size, temperature, seed, adapt_steps, …

    Raises:
        ValueError: chains given for an encoder that has chains of its own.
    """
    with torch.no_grad():
        z = encoder(x)
    if chains is not None:
        got = f"{chains} for encoder outputs of shape {tuple(z.shape)}"
        argument = "ald_ext.samplers.sampler_from_encoder: chains"
        require(z.dim() == 2, argument, got, "None: they have chains already")
        z = z[:, None].expand(-1, chains, -1)
    return kernel(potential, x, z, **options)
