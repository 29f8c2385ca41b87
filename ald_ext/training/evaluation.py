"""What is measured on test data, without touching the random state that training draws from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..models import LatentVariableModel, ParameterEnsemble

EVALUATION_BATCH = 500


@contextlib.contextmanager
def evaluating(model: LatentVariableModel, seed: int = 0) -> Iterator[None]:
    """No gradients, evaluation mode, and a random state of its own, so that training goes on as if nothing had been."""
    modes = [(module, module.training) for module in model.modules()]  # parts of a network may be held in one of them
    model.eval()
    devices = list(range(torch.cuda.device_count()))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            yield
    finally:
        for module, training in modes:
            module.training = training


def values_of_data(
    model: LatentVariableModel, images: Tensor, function: Callable[[Tensor], Tensor], seed: int = 0
) -> Tensor:
    """``function`` of minibatches, one value or tensor a datum, on the CPU, (N, ...).

    Args:
        model: which is in evaluation mode meanwhile.
        images: (N, *shape), on any device; minibatches are moved to the model's.
        function: (m, *shape) -> (m, ...).
        seed: of what the function draws.
    """
    device = next(model.parameters()).device
    with evaluating(model, seed):
        return torch.cat([function(batch.to(device)).cpu() for batch in images.split(EVALUATION_BATCH)])


def reconstruction_error(model: LatentVariableModel, images: Tensor) -> float:
    """RE of the paper's Table 2: mean squared error on [0, 1] pixels; of Bernoulli pixels nats an image."""
    return values_of_data(model, images, model.reconstruction_error).double().mean().item()


def averaged_reconstruction_error(
    model: LatentVariableModel, ensemble: ParameterEnsemble | None, images: Tensor
) -> float | None:
    """:func:`reconstruction_error` of the mean reconstruction over samples of the parameters; None without such."""
    if not ensemble:
        return None
    means = ensemble.mean(model, lambda member: values_of_data(member, images, member.reconstruct))
    return model.likelihood.error_of_unit(images, means).mean(dtype=torch.float64).item()
