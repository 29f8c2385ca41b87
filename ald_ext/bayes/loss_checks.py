"""What is commonly wrong with the loss and ``num_data`` of a posterior, told before the run; temperatures of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from .batches import dataset_length, map_tensors, num_rows
from .network_chains import Loss, batch_loss


@torch.no_grad()
def is_summed(module: nn.Module, loss: Loss, batch: Any) -> bool:
    """Return whether the loss of a minibatch is nearer to the sum of its halves' losses than to their mean."""
    size = num_rows(batch)
    if size < 2:
        return False
    modes = {part: part.training for part in module.modules()}
    module.eval()  # without dropout, and without a change of running statistics
    try:
        halves = [
            map_tensors(lambda leaf, rows=rows: leaf[rows] if leaf.dim() else leaf, batch)  # type: ignore[misc]
            for rows in (slice(size // 2), slice(size // 2, 2 * (size // 2)), slice(2 * (size // 2)))
        ]
        first, second, whole = (float(batch_loss(module, loss, part)) for part in halves)
    except Exception:  # of any kind, as halves may be what the module does not take; a run tells of what it cannot do
        return False
    finally:
        for part, training in modes.items():
            part.training = training
    return abs(whole - first - second) < abs(whole - (first + second) / 2)


def scale_faults(
    owner: str, module: nn.Module, loss: Loss, loader: Any, batch: Any, numbers: Iterable[float]
) -> Iterator[str]:
    """Yield a line for a summed loss, and for ``num_data`` that is not the number of data of the loader."""
    found, size = sorted(set(map(float, numbers))), dataset_length(loader)
    summed = is_summed(module, loss, batch)
    if not found or (summed and found == [1] and num_rows(batch) == size):
        return  # an optimizer that does not sample, or the potential itself
    if summed:
        yield (
            f"{owner}: loss: got a sum over the minibatch, as half of one has half of the loss; expected the mean, "
            f"with num_data={size or 'the number of data'}: else gradients are too large for the noise"
        )
    if size is not None and found != [size]:
        yield (
            f"{owner}: num_data: got {', '.join(f'{number:g}' for number in found)}, expected {size}, the number of "
            "data of the loader: the posterior is too wide with a smaller number, and too narrow with a larger one"
        )


@torch.no_grad()
def parameter_temperature(optimizer: Optimizer) -> float | None:
    """Return Σ θ·∇U / d over the d elements with gradients, whose mean over exp(-U/T) is T; None without ``num_data``.

    It is a virial (Wenzel et al. 2020, Appendix I; :func:`ald_ext.samplers.virial_temperature`). U = N (loss +
    weight_decay θ²/2) + localization (θ - anchor)²/2, with the gradients that are there: those of a minibatch, whose
    noise has mean zero, so that many steps have to be averaged.
    """
    if not all("num_data" in group for group in optimizer.param_groups):
        return None
    total, count = torch.zeros((), dtype=torch.float64), 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                theta, grad = parameter.detach(), -parameter.grad if group.get("maximize") else parameter.grad
                slope = float(group["num_data"]) * (
                    (theta * grad).sum(dtype=torch.float64)
                    + group.get("weight_decay", 0) * theta.square().sum(dtype=torch.float64)
                )
                if localization := group.get("localization", 0):
                    pull = theta * (theta - optimizer.state[parameter]["anchor"])
                    slope += localization * pull.sum(dtype=torch.float64)
                total = total.to(slope.device) + slope
                count += parameter.numel()
    return float(total) / max(count, 1)
