"""Frozen features: the kernel that they estimate, whitening, ranks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ald_ext.samplers import RandomFourierFeatures, WhitenedFeatures, tanh_network
from ald_ext.samplers.features import gram_rank

DOUBLE = torch.float64


def tanh_features(input_dim: int, dtype: torch.dtype = DOUBLE) -> nn.Module:
    """Four tanh layers, as the experiments freeze them."""
    return nn.Sequential(tanh_network([input_dim, *[128] * 4], dtype=dtype), nn.Tanh())


@torch.no_grad()
def gram(features: nn.Module, x: Tensor) -> Tensor:
    design: Tensor = features(x)
    return design @ design.T


@pytest.mark.parametrize("length_scale", [0.5, 2.0])
def test_fourier_features_estimate_the_gaussian_kernel(length_scale: float) -> None:
    """Features are independent, so the spread of their products gives the standard error of a sum over them."""
    num_features = 20_000
    x = torch.randn(6, 3, dtype=DOUBLE)
    design = RandomFourierFeatures(3, num_features, length_scale, seed=1, dtype=DOUBLE)(x)
    products = num_features * design[:, None] * design
    standard_error = products.std(2) / math.sqrt(num_features)
    kernel = torch.exp(-torch.cdist(x, x).square() / (2 * length_scale**2))
    assert ((products.mean(2) - kernel).abs() < 5 * standard_error).all()
    assert standard_error.max() < 2 / math.sqrt(num_features)


def test_fourier_features_are_given_by_their_seed() -> None:
    x = torch.randn(5, 2)
    state = torch.get_rng_state()
    first, again, other = (RandomFourierFeatures(2, 8, 1.0, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first(x), again(x))
    assert not torch.isclose(first(x), other(x)).any()
    other.load_state_dict(first.state_dict())
    assert torch.equal(first(x), other(x))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_fourier_features_have_the_dtype_asked_for(dtype: torch.dtype) -> None:
    design = RandomFourierFeatures(2, 8, 1.0, dtype=dtype)(torch.randn(5, 2, dtype=dtype))
    assert design.dtype == dtype
    assert design.shape == (5, 8)


@pytest.mark.parametrize("length_scale", [0.0, -1.0, math.nan])
def test_length_scale_is_checked(length_scale: float) -> None:
    with pytest.raises(ValueError, match=f"length_scale: got {length_scale}, expected a number > 0"):
        RandomFourierFeatures(2, 8, length_scale)


def test_tanh_network_is_given_by_its_seed() -> None:
    """It is what torch makes after manual_seed, and torch's generator is as before."""
    state = torch.get_rng_state()
    first, again, other = (tanh_network([2, 5, 5, 3], seed=seed, dtype=DOUBLE) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert [type(layer) for layer in first] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.isclose(a, c).any()
    torch.manual_seed(3)
    assert torch.equal(first[0].weight, nn.Linear(2, 5, dtype=DOUBLE).weight)


@pytest.mark.parametrize("kind", ["fourier", "tanh"])
def test_whitened_features_have_the_identity_as_gram_matrix(kind: str) -> None:
    x = torch.randn(20, 2, dtype=DOUBLE)
    features = RandomFourierFeatures(2, 64, 0.5, dtype=DOUBLE) if kind == "fourier" else tanh_features(2)
    x = x if kind == "fourier" else x[:5]
    assert (gram(features, x) - torch.eye(len(x))).abs().max() > 0.1
    torch.testing.assert_close(gram(WhitenedFeatures(features, x), x), torch.eye(len(x)).double(), rtol=0, atol=1e-6)


def test_whitening_in_float32() -> None:
    """The transform is found in float64, so what is left is rounding in the products."""
    x = torch.randn(20, 2)
    whitened = WhitenedFeatures(RandomFourierFeatures(2, 64, 0.5), x)
    assert whitened(x).dtype == torch.float32
    torch.testing.assert_close(gram(whitened, x), torch.eye(20), rtol=0, atol=1e-4)


def test_whitening_of_other_data() -> None:
    """g(x) A, with AA the pseudoinverse of GᵀG: the preconditioner that the documentation names."""
    x, other = torch.randn(10, 2, dtype=DOUBLE), torch.randn(7, 2, dtype=DOUBLE)
    features = RandomFourierFeatures(2, 32, 0.5, dtype=DOUBLE)
    whitened = WhitenedFeatures(features, x)
    design = features(x)
    preconditioner = torch.linalg.pinv(design.T @ design, rtol=1e-10, hermitian=True)
    torch.testing.assert_close(whitened.transform @ whitened.transform, preconditioner)
    torch.testing.assert_close(whitened.transform, whitened.transform.T)
    torch.testing.assert_close(whitened(other), features(other) @ whitened.transform)
    torch.testing.assert_close(whitened(x[3:4]), whitened(x)[3:4])


@pytest.mark.parametrize("reason", ["repetitions", "too few features", "smooth features"])
def test_whitening_refuses_features_without_full_rank(reason: str) -> None:
    x: Tensor = torch.randn(10, 2, dtype=DOUBLE)
    features: nn.Module = RandomFourierFeatures(2, 32, 0.5, dtype=DOUBLE)
    if reason == "repetitions":
        x, rank, n = torch.cat([x, x[:3]]), "10", 13
    elif reason == "too few features":
        features, rank, n = RandomFourierFeatures(2, 6, 0.5, dtype=DOUBLE), "6", 10
    else:
        x, features, rank, n = torch.randn(100, 1, dtype=DOUBLE), tanh_features(1), r"\d\d?", 100
    with pytest.raises(ValueError, match=rf"numerical rank {rank} for {n} data, expected full rank"):
        WhitenedFeatures(features, x)


def test_rank_of_the_features_of_the_paper() -> None:
    """Why the last layer of the paper's network cannot be sampled for one-dimensional data."""
    x = torch.randn(100, 1, dtype=DOUBLE)
    with torch.no_grad():
        smooth, rough = tanh_features(1)(x), RandomFourierFeatures(1, 512, 0.003, dtype=DOUBLE)(x)
    assert gram_rank(smooth) < 50
    assert gram_rank(smooth.float()) < gram_rank(smooth)
    assert gram_rank(rough) == 100


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("shape", [(50, 60), (60, 50)])
def test_ranks(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Below both sides, and full."""
    low_rank = torch.randn(shape[0], 7, dtype=dtype) @ torch.randn(7, shape[1], dtype=dtype)
    assert gram_rank(low_rank) == 7
    assert gram_rank(1e-20 * low_rank.double()) == 7
    assert gram_rank(torch.randn(shape, dtype=dtype)) == min(shape)


@pytest.mark.parametrize("shape", [(3, 8), (8, 3)])
def test_rank_has_the_tolerance_of_the_gram_matrix(shape: tuple[int, int]) -> None:
    """A singular value σ of G counts if σ² is above max(n, F)·eps of the largest: three decades around the edge."""
    edge = math.sqrt(8 * torch.finfo(DOUBLE).eps)
    for factor, rank in ((3.0, 3), (1 / 3, 2)):
        left = torch.linalg.qr(torch.randn(shape[0], 3, dtype=DOUBLE)).Q
        right = torch.linalg.qr(torch.randn(shape[1], 3, dtype=DOUBLE)).Q
        values = torch.tensor([1.0, 0.5, factor * edge], dtype=DOUBLE)
        assert gram_rank((left * values) @ right.T) == rank
