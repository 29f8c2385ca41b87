"""Frozen features g(x) whose last, linear layer is sampled.

Note [What the theory covers]
    With f(x) = Φ g(x) and only Φ moving, the outputs Z = GΦᵀ of n data follow Langevin dynamics preconditioned by the
    constant Gram matrix K = GGᵀ, so exp(-ΣU) is invariant (up to the step size, or exactly with a Metropolis test)
    if K has full rank: this is the theorem of the paper's 2022 version. Where K is rank-deficient, Z is confined to its
    range, and the samples are not those of the posterior. Smooth features of low-dimensional data, such as tanh layers,
    give a K that is deficient to working precision. Random Fourier features with a length scale below the distances of
    the data do not, nor do whitened features, if there are at least as many features as data and the rank allows
    whitening. No proof covers dynamics of all layers, as in the paper's experiments.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..settings import require


class RandomFourierFeatures(nn.Module):
    """g(x) = √(2/F) cos(Wx + b) with W ~ N(0, I/length_scale²) and b ~ U(0, 2π) (Rahimi & Recht 2007).

    g(x)·g(y) estimates exp(-‖x - y‖²/(2·length_scale²)) with an error of about √(1/F). Shapes are (n, d_x) → (n, F).

    Args:
        input_dim: d_x.
        num_features: F.
        length_scale: a number > 0, in the units of x.
        seed: seed of W and b.
        dtype: dtype of W and b.

    Raises:
        ValueError: length_scale <= 0.
    """

    weight: Tensor
    phase: Tensor

    def __init__(
        self,
        input_dim: int,
        num_features: int,
        length_scale: float,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        require(length_scale > 0, "ald_ext.samplers.RandomFourierFeatures: length_scale", length_scale, "a number > 0")
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(input_dim, num_features, generator=generator, dtype=dtype) / length_scale
        self.register_buffer("weight", weight)
        self.register_buffer("phase", 2 * math.pi * torch.rand(num_features, generator=generator, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Return g(x), (n, d_x) → (n, F)."""
        return math.sqrt(2 / self.phase.numel()) * torch.cos(x @ self.weight + self.phase)


def tanh_network(sizes: Sequence[int], *, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Return linear layers with tanh between them, initialized as torch does (paper: Appendix F).

    Args:
        sizes: numbers of inputs, of units of each hidden layer, and of outputs.
        seed: seed of the initial weights.
        dtype: dtype of the weights.
    """
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [nn.Linear(inputs, outputs, dtype=dtype), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class WhitenedFeatures(nn.Module):
    """g̃(x) = A g(x) with A = (GᵀG)^(-1/2), so that the Gram matrix of the n given data is the identity.

    Langevin dynamics of Φ on g̃ are those on g with the constant preconditioner (GᵀG)⁻¹, which makes the amortized chain
    the same as n datapoint-wise ones (Note [What the theory covers]). There must be at least as many features as data;
    A is found by a singular value decomposition, in float64.

    Args:
        features: g, (n, ...) → (n, F).
        x: the n data, without repetitions.

    Raises:
        ValueError: the rank of G is below n.
    """

    transform: Tensor

    def __init__(self, features: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.features = features
        with torch.no_grad():
            design = features(x).detach()
        _, singular_values, directions = torch.linalg.svd(design.double(), full_matrices=False)
        rank = numerical_rank(singular_values, design)
        got = f"a Gram matrix of numerical rank {rank} for {len(x)} data"
        expected = "full rank: more features, a shorter length scale, or data without repetitions"
        require(rank >= len(x), "ald_ext.samplers.WhitenedFeatures: features", got, expected)
        transform = directions.T @ (directions / singular_values[:, None])
        self.register_buffer("transform", transform.to(design.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Return g̃(x), (n, ...) → (n, F)."""
        whitened: Tensor = self.features(x) @ self.transform
        return whitened


def numerical_rank(singular_values: Tensor, design: Tensor) -> int:
    """Return the numerical rank of the Gram matrix K = GGᵀ of features G (n, F), from the singular values of G.

    K preconditions the samples, so the tolerance is that of K: √(max(n, F)·eps) relative to the largest value of G.
    """
    tolerance = math.sqrt(max(design.shape) * torch.finfo(design.dtype).eps)
    return int((singular_values > tolerance * singular_values.max()).sum())


def gram_rank(design: Tensor) -> int:
    """Return the numerical rank of the Gram matrix K = GGᵀ of features (n, F)."""
    smaller = design if design.shape[0] <= design.shape[1] else design.T @ design
    values = torch.linalg.svdvals(smaller.double())
    return numerical_rank(values if smaller is design else values.sqrt(), design)
