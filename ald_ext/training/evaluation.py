"""Measurements on test data, which do not touch the random state that training draws from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..models import LatentVariableModel, ParameterEnsemble

EVALUATION_BATCH = 500


def random_state_kept() -> contextlib.AbstractContextManager[None]:
    """Return a context that leaves the random states of the CPU and all GPUs as they were."""
    return torch.random.fork_rng(range(torch.cuda.device_count()))


@contextlib.contextmanager
def evaluating(model: LatentVariableModel, seed: int = 0) -> Iterator[None]:
    """Provide evaluation mode without gradients and with a random state of its own, and restore everything after it."""
    modes = [(module, module.training) for module in model.modules()]  # parts of a network may be fixed in one mode
    model.eval()
    try:
        with torch.no_grad(), random_state_kept():
            torch.manual_seed(seed)
            yield
    finally:
        for module, training in modes:
            module.training = training


def values_of_data(
    model: LatentVariableModel, images: Tensor, function: Callable[[Tensor], Tensor], seed: int = 0
) -> Tensor:
    """Return the values of a function of data, computed in minibatches, on the CPU, (N, ...).

    Args:
        model: the model, which is in evaluation mode meanwhile.
        images: data (N, *shape), on any device; minibatches are moved to the model's.
        function: (m, *shape) -> (m, ...).
        seed: seed of what the function draws.
    """
    device = next(model.parameters()).device
    with evaluating(model, seed):
        return torch.cat([function(batch.to(device)).cpu() for batch in images.split(EVALUATION_BATCH)])


def reconstruction_error(model: LatentVariableModel, images: Tensor) -> float:
    """Return RE (paper: Table 2): mean squared error of pixels in [0, 1]; nats an image for Bernoulli pixels."""
    return values_of_data(model, images, model.reconstruction_error).double().mean().item()


def averaged_reconstruction_error(
    model: LatentVariableModel, ensemble: ParameterEnsemble | None, images: Tensor
) -> float | None:
    """Return RE of the mean reconstruction over samples of the parameters; None if there are none."""
    if not ensemble:
        return None
    means = ensemble.mean(model, lambda member: values_of_data(member, images, member.reconstruct))
    return model.likelihood.error_of_unit(images, means).mean(dtype=torch.float64).item()
