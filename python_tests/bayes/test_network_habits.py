"""Networks as people have them: shared weights, mixed precision, dropout, embeddings, streams of data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ald_ext import SGHMC
from ald_ext.bayes import PosteriorSamples, collect_parameters, predict


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(torch.tanh(self.first(x))))


class Autocast(nn.Module):
    """In bfloat16, with parameters in float32; gradients of bfloat16 need no GradScaler."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.layers(x).float()


class Words(nn.Module):
    """An embedding of the signs of the inputs."""

    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        self.embedding, self.last = nn.Embedding(2, 4, sparse=sparse), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.embedding((x > 0).long()).flatten(1))


class Stream(IterableDataset):
    """Data without a length."""

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return zip(*self.tensors, strict=True)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "tied": Tied,
    "autocast": Autocast,
    "embedding": lambda: Words(sparse=False),
    "batch norm": lambda: nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)),
    "frozen": lambda: nn.Sequential(nn.Linear(3, 8).requires_grad_(False), nn.ReLU(), nn.Linear(8, 3)),
    "without use": lambda: nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)]),
}


def collected(module: nn.Module, loader: Any, **options: Any) -> PosteriorSamples:
    def make(module: nn.Module, chain: int) -> SGHMC:
        return SGHMC(module.parameters(), lr=1e-3, num_data=60, seed=0, chain=chain)

    torch.manual_seed(2)
    options = {"burn_in": 2, "num_samples": 3, "thinning": 2, **options}
    return collect_parameters(module, make, cross_entropy, loader, **options)


@pytest.mark.parametrize("name", NETWORKS)
def test_chains_at_once_are_chains_one_after_another(name: str, data: tuple[Tensor, Tensor], loader: DataLoader):
    torch.manual_seed(0)
    module = NETWORKS[name]()
    if isinstance(module, nn.ModuleList):
        module.forward = module[0].forward  # type: ignore[method-assign]
    before = {key: value.clone() for key, value in module.named_parameters() if not value.requires_grad}
    alone, at_once = (collected(module, loader, chains=2, vectorized=vectorized) for vectorized in (False, True))
    for one, other in zip(alone, at_once, strict=True):
        assert one.keys() == other.keys()
        for key, tensor in one.items():
            tolerance = 2e-2 if name == "autocast" else 1e-5
            torch.testing.assert_close(other[key], tensor, rtol=tolerance, atol=tolerance)
    assert any(not torch.equal(alone[0][key], alone[2][key]) for key in alone[0])
    assert all(torch.equal(sample[key], value) for sample in alone.chain(0) for key, value in before.items())
    probabilities = predict(alone, module, data[0]).probabilities
    torch.testing.assert_close(probabilities.sum(1), torch.ones(60, dtype=torch.float64))


class Branching(nn.Sequential):
    """What vmap does not take, after statistics and noise."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x if bool(x.isfinite().all()) else -x


def test_what_vmap_does_not_take_leaves_no_trace(loader: DataLoader):
    """Neither in the running statistics nor in torch's generators."""
    torch.manual_seed(0)
    module = Branching(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    alone = collected(module, loader, chains=2, vectorized=False)
    with pytest.warns(UserWarning, match=r"one after another, as torch.func.vmap does not take the network"):
        tried = collected(module, loader, chains=2, vectorized=True)
    for one, other in zip(alone, tried, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_each_chain_has_a_dropout_of_its_own(data: tuple[Tensor, Tensor]):
    """With the same minibatch at the same parameters, losses differ; in evaluation mode they do not."""
    module = nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5), nn.Linear(64, 3))
    whole = [data]
    for training in (True, False):
        options: dict[str, Any] = {"chains": 2, "vectorized": True, "initialize": lambda member: None}
        samples = collected(module.train(training), whole, **options)
        first, second = (row["loss"] for row in samples.trace[:2])
        assert (first == pytest.approx(second)) is not training


def test_sparse_gradients_are_refused(loader: DataLoader):
    for chains in (1, 2):
        with pytest.raises(RuntimeError, match=r"SGHMC: parameter 0: got a sparse gradient, expected a dense one, as"):
            collected(Words(sparse=True), loader, chains=chains)


def test_a_stream_of_data(data: tuple[Tensor, Tensor], network: nn.Module):
    """The same samples as of the data set, in their order."""
    streamed = collected(network, DataLoader(Stream(*data), 20), chains=2)
    listed = collected(network, DataLoader(TensorDataset(*data), 20), chains=2)
    for one, other in zip(streamed, listed, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_minibatches_that_are_no_tuples_are_refused_by_chains_at_once(network: nn.Module):
    with pytest.raises(ValueError, match=r"loader: minibatch: got float32 of shape \[20, 3\], expected a tuple"):
        collected(network, DataLoader(torch.ones(60, 3), 20), chains=2, vectorized=True)
