"""The Fréchet distance of two Gaussians, and the mean and covariance of features that come in batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..moments import merge_mean_
from ..settings import require


@dataclass(frozen=True, eq=False)
class GaussianStatistics:
    """Mean and covariance of a Gaussian fitted to features.

    Args:
        mean: (d,) float64, finite.
        covariance: (d, d) float64, finite, with the divisor count - 1.
        count: number of samples, at least 2.

    Raises:
        ValueError: values that are not as described.
    """

    mean: Tensor
    covariance: Tensor
    count: int

    def __post_init__(self) -> None:
        owner, d = "ald_ext.metrics.GaussianStatistics", self.mean.numel()
        require(self.count >= 2, f"{owner}: count", self.count, "at least 2 samples")
        shapes = {"mean": (self.mean.ndim == 1, "(d,)"), "covariance": (self.covariance.shape == (d, d), f"({d}, {d})")}
        for name, (has_shape, shape) in shapes.items():
            argument, values = f"{owner}: {name}", getattr(self, name)
            require(has_shape, argument, f"shape {tuple(values.shape)}", shape)
            require(values.dtype == torch.float64, argument, values.dtype, "torch.float64")
            require(values.isfinite().all(), argument, "values that are not finite", "finite ones")


class GaussianAccumulator:
    """Mean and covariance of features that come in batches; the result does not depend on how they are split.

    The mean and the scatter Σ (f - mean)(f - mean)ᵀ are kept in float64; :func:`ald_ext.moments.merge_mean_` merges
    a batch into them.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.empty(0, dtype=torch.float64)
        self.scatter = torch.empty(0, 0, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Take in a batch (m, d) of any floating dtype, on any device; m = 0 changes nothing.

        Raises:
            ValueError: another shape or dtype, another d than before, or features that are not finite.
        """
        self.check(features)
        if len(features) == 0:
            return
        batch = features.detach().to("cpu", torch.float64)
        batch_mean = batch.mean(0)
        if self.count == 0:
            self.mean, self.scatter = torch.zeros_like(batch_mean), batch.new_zeros(batch.shape[1], batch.shape[1])
        centred = batch - batch_mean
        self.scatter.addmm_(centred.T, centred)
        self.count = merge_mean_(self.count, self.mean, self.scatter, len(batch), batch_mean)

    def check(self, features: Tensor) -> None:
        """Raise a ValueError for features that :meth:`update` does not take."""
        argument = "ald_ext.metrics.GaussianAccumulator.update: features"
        dimension = len(self.mean) if self.count else "d"
        fits = features.ndim == 2 and features.is_floating_point() and dimension in ("d", features.shape[1])
        got = f"{features.dtype} of shape {tuple(features.shape)}"
        require(fits, argument, got, f"floats of shape (m, {dimension})")
        require(features.isfinite().all(), argument, "values that are not finite", "finite ones")

    def statistics(self) -> GaussianStatistics:
        """Return the statistics of all features so far; more may follow. ValueError for fewer than 2 features."""
        name = "ald_ext.metrics.GaussianAccumulator.statistics"
        require(self.count >= 2, name, f"{self.count} features", "at least 2")
        return GaussianStatistics(self.mean.clone(), self.scatter / (self.count - 1), self.count)


def frechet_distance(first: GaussianStatistics, second: GaussianStatistics) -> float:
    r"""Return the squared Fréchet (2-Wasserstein) distance of two Gaussians (Heusel et al. 2017; paper: Section 7):

        ||m₁ - m₂||² + tr(C₁ + C₂ - 2 (C₁^½ C₂ C₁^½)^½).

    For Inception features it is the FID. Two symmetric eigendecompositions, of C₁ and of C₁^½ C₂ C₁^½, give the trace
    of the root; eigenvalues and distances that rounding made negative are taken as 0.

    Covariances of finitely many samples make it too large, by an amount that depends on the model (Chong & Forsyth
    2020), and by a great deal if there are fewer samples than dimensions, as the covariances are then singular. So
    compare only distances from the same numbers of samples.

    Args:
        first, second: means m₁, m₂ and covariances C₁, C₂, of the same features.

    Raises:
        ValueError: the Gaussians have different dimensions.
    """
    got, expected = len(second.mean), len(first.mean)
    require(got == expected, "ald_ext.metrics.frechet_distance: second", f"{got} dimensions", f"{expected} as in first")
    root = symmetric_root(first.covariance)
    # The trace of a symmetric matrix's root is the sum of its eigenvalues' roots.
    eigenvalues = torch.linalg.eigvalsh(root @ second.covariance @ root)
    trace_of_root = eigenvalues.clamp_min(0).sqrt().sum()
    traces = first.covariance.trace() + second.covariance.trace()
    distance = (first.mean - second.mean).square().sum() + traces - 2 * trace_of_root
    return max(0.0, distance.item())


def symmetric_root(matrix: Tensor) -> Tensor:
    """Return the symmetric root of a positive semidefinite matrix (d, d)."""
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    return (vectors * eigenvalues.clamp_min(0).sqrt()) @ vectors.T
