"""Chains that move by the same noise by mistake, which agree with each other without having converged.

Note [Equal chains]
    Two chains are equal if they have the same values in all of the second half of the draws, at every datum, and moved
    meanwhile. Chains that share their noise are so if they begin at the same states, and soon also if they do not, as
    the same noise draws their states together. Their R-hat is near 1 and their effective sample size is twice the true
    one, whatever the target is, so they are refused.
"""

from __future__ import annotations

import torch
from torch import Tensor


def check_chains_differ(argument: str, draws: Tensor) -> None:
    """Raise a ValueError if two chains of draws, (draws, n, chains, d), are equal by Note [Equal chains].

    It reads the last draw, and others only of chains that are equal there.

    Args:
        argument: what the error says was bad.
        draws: the draws, or means of batches of them.
    """
    if draws.shape[2] < 2 or len(draws) == 0:
        return
    later, first_with = draws[len(draws) // 2 :].detach(), dict[bytes, int]()
    for chain, last in enumerate(later[-1].transpose(0, 1).double().cpu()):
        earlier = first_with.setdefault(last.numpy().tobytes(), chain)
        own = later[:, :, chain]
        if earlier < chain and bool((own != own[0]).any()) and torch.equal(own, later[:, :, earlier]):
            raise ValueError(
                f"{argument}: got equal draws in chains {earlier} and {chain}, expected noise of their own: another "
                "seed, or one seed and first_chain= for the chains of each process (ald_ext.samplers.chains_of_rank)"
            )
