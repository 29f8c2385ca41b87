"""Moments and convergence of long chains in one pass, with memory that does not grow with the number of draws."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..moments import merge_mean_
from ..settings import require
from .collection import check_state_shape
from .equal_chains import check_chains_differ

#: What :meth:`StreamingMoments.state_dict` holds; the tensors are there from the first draw on.
PLAIN_VALUES = ("keeps_covariance", "num_batches", "count", "batch_size", "_num_full", "_num_partial", "_shape")
TENSORS = ("_mean", "_squares", "_batch_means", "_partial_sum")


class StreamingMoments:
    """Mean, variance, effective sample size, Monte Carlo error and split R-hat of every latent variable, in one pass.

    Moments are those of :func:`ald_ext.moments.merge_mean_`. All accumulators are float64, on the device of the draws;
    results are (n, d), over all chains.

    Note [Doubling batches]
        Batch means of b consecutive draws estimate the variance of an average under autocorrelation: σ² ≈ b·var(batch
        means). The length of a run need not be known: b begins at 1, and whenever ``num_batches`` batches are full they
        are averaged in pairs, which doubles b. So there are always num_batches/2 to num_batches of them, and
        b ≥ draws/num_batches. σ² is taken about the mean of all chains (replicated batch means, Argon & Andradóttir
        2006), so that chains which disagree have a smaller effective sample size; but it never falls much below the
        number of batches of all chains, so look at R-hat for disagreement. The relative standard error of σ² is about
        √(2/(batches·chains)), 0.25 for one chain in the worst case; its bias is about -(autocorrelation time)/b. Memory
        is num_batches float64 numbers for each latent variable and chain.

    Args:
        covariance: whether to keep the d x d covariances of each datum, too.
        num_batches: largest number of batches in Note [Doubling batches]; even, ≥ 4.

    Raises:
        ValueError: a draw of another shape, a bad num_batches, or R-hat, ESS or MCSE of chains with equal draws.
        RuntimeError: a result is asked for without draws.
    """

    def __init__(self, *, covariance: bool = False, num_batches: int = 64) -> None:
        fits = num_batches >= 4 and num_batches % 2 == 0
        require(fits, "ald_ext.samplers.StreamingMoments: num_batches", num_batches, "an even integer >= 4")
        self.keeps_covariance, self.num_batches = covariance, num_batches
        self.count = 0  # number of draws of each chain
        self.batch_size = 1
        self._num_full = self._num_partial = 0
        self._shape: tuple[int, ...] | None = None

    def reserve(self, num_draws: int) -> None:
        """Do nothing: memory does not depend on the number of draws."""

    def append(self, state: Tensor) -> None:
        """Take in one draw, (n, d) or (n, chains, d)."""
        check_state_shape("StreamingMoments", state, self._shape)
        if self._shape is None:
            self._allocate(state)
        draw = state.detach().double().reshape(self._mean.shape)
        self.count = merge_mean_(self.count, self._mean, self._squares, 1, draw)
        self._partial_sum += draw
        self._num_partial += 1
        if self._num_partial >= self.batch_size and self._num_full == self.num_batches:
            self._join_pairs()
        if self._num_partial < self.batch_size:
            return
        self._batch_means[self._num_full] = self._partial_sum / self.batch_size
        self._num_full += 1
        self._partial_sum.zero_()
        self._num_partial = 0

    def _allocate(self, state: Tensor) -> None:
        self._shape = tuple(state.shape)
        zeros = torch.zeros_like(state if state.ndim == 3 else state[:, None], dtype=torch.float64)
        self._mean, self._partial_sum, self._squares = zeros, zeros.clone(), self._products(zeros)
        self._batch_means = zeros.new_zeros(self.num_batches, *zeros.shape)

    def _products(self, values: Tensor) -> Tensor:
        """Return squares, (n, chains, d), or outer products, (n, chains, d, d)."""
        return values[..., :, None] * values[..., None, :] if self.keeps_covariance else values.square()

    def _join_pairs(self) -> None:
        """Halve the number of full batches; an odd last one becomes part of the incomplete batch."""
        pairs = self._num_full // 2
        if self._num_full % 2:
            self._partial_sum += self._batch_means[self._num_full - 1] * self.batch_size
            self._num_partial += self.batch_size
        self._batch_means[:pairs] = (self._batch_means[0 : 2 * pairs : 2] + self._batch_means[1 : 2 * pairs : 2]) / 2
        self._num_full = pairs
        self.batch_size *= 2

    # Results

    def _check_has_draws(self, least: int = 1) -> None:
        if self.count < least:
            raise RuntimeError(f"ald_ext.samplers.StreamingMoments: got {self.count} draws, expected {least} at least")

    def _check_chains(self) -> None:
        self._check_has_draws(4)
        check_chains_differ("ald_ext.samplers.StreamingMoments", self._batch_means[: self._num_full])

    @property
    def num_chains(self) -> int:
        """The number of chains, 1 for draws (n, d)."""
        self._check_has_draws()
        return int(self._mean.shape[1])

    @property
    def mean(self) -> Tensor:
        """The mean over draws and chains, (n, d)."""
        self._check_has_draws()
        return self._mean.mean(1)

    @property
    def chain_means(self) -> Tensor:
        """The mean of each chain, (n, chains, d)."""
        self._check_has_draws()
        return self._mean.clone()

    def _total_squares(self) -> Tensor:
        """Return the sum of squares, or products, about the mean over all chains."""
        between = self._mean - self._mean.mean(1, keepdim=True)
        return (self._squares + self.count * self._products(between)).sum(1)

    @property
    def covariance(self) -> Tensor:
        """The covariance over draws and chains, (n, d, d), with the divisor draws·chains - 1."""
        if not self.keeps_covariance:
            raise RuntimeError("ald_ext.samplers.StreamingMoments: covariance: got False, expected covariance=True")
        self._check_has_draws(2)
        products = self._total_squares()
        return (products + products.mT) / (2 * (self.count * self.num_chains - 1))

    @property
    def variance(self) -> Tensor:
        """The variance over draws and chains, (n, d), with the divisor draws·chains - 1."""
        self._check_has_draws(2)
        squares = self._total_squares() / (self.count * self.num_chains - 1)
        return squares.diagonal(dim1=-2, dim2=-1) if self.keeps_covariance else squares

    @property
    def standard_deviation(self) -> Tensor:
        """The root of the variance, (n, d)."""
        return self.variance.sqrt()

    def _long_run_variance(self) -> Tensor:
        """Return σ² of Note [Doubling batches], (n, d): the variance of an average of m draws is σ²/m."""
        self._check_chains()
        means = self._batch_means[: self._num_full]
        deviations = means - means.mean((0, 2), keepdim=True)
        degrees = self._num_full * self.num_chains - 1
        return self.batch_size * deviations.square().sum((0, 2)) / degrees

    @property
    def monte_carlo_standard_error(self) -> Tensor:
        """The Monte Carlo standard error of the mean, (n, d)."""
        return (self._long_run_variance() / (self.count * self.num_chains)).sqrt()

    @property
    def effective_sample_size(self) -> Tensor:
        """The effective sample size for the mean, draws·chains·variance/σ², (n, d); draws·chains for a constant."""
        total = self.count * self.num_chains
        variance, long_run = self.variance, self._long_run_variance()
        return torch.where(long_run > 0, total * variance / long_run, torch.full_like(variance, total))

    @property
    def r_hat(self) -> Tensor:
        """The split R-hat, (n, d) (Gelman et al. 2013, without ranks): each chain's halves count as chains.

        The first half ends where a batch does. With an even number of full batches and none incomplete, as after
        num_batches·2^k draws, the halves are equal and this is the textbook number; otherwise the second half is
        longer, by two batches at most.
        """
        self._check_chains()
        first_count = self._num_full // 2 * self.batch_size
        second_count = self.count - first_count
        first = self._batch_means[: self._num_full // 2].mean(0)
        second = (self.count * self._mean - first_count * first) / second_count
        squares = self._squares.diagonal(dim1=-2, dim2=-1) if self.keeps_covariance else self._squares
        # A chain's squares about its mean are those within its halves, and those of the difference of the halves.
        within = squares - first_count * second_count / self.count * (first - second).square()
        within = within.mean(1) / (self.count - 2)
        between = torch.cat([first, second], 1).var(1)
        half = self.count / 2
        return ((half - 1) / half + between / within).sqrt()

    # Merging and saving

    def merge(self, other: StreamingMoments, *, along: str) -> None:
        """Take in the draws of another pass over the same data.

        Args:
            other: moments of the other draws, left unchanged.
            along: "draws" if the others come after these, of the same chains; if these end within a batch, that rest
                counts in the moments but not in the batch means. "chains" if the others are further chains, with as
                many draws.

        Raises:
            ValueError: shapes, options or numbers of draws that do not fit, or chains with equal draws.
        """
        name = "ald_ext.samplers.StreamingMoments.merge"
        require(along in ("draws", "chains"), f"{name}: along", repr(along), "'draws' or 'chains'")
        options, expected = ((moments.keeps_covariance, moments.num_batches) for moments in (other, self))
        require(options == expected, f"{name}: other", f"(covariance, num_batches) = {options}", f"{expected}")
        if self._shape is not None and other._shape is not None:
            same_data = self._shape[0] == other._shape[0] and self._shape[-1] == other._shape[-1]
            fits = same_data and (along == "chains" or self._shape == other._shape)
            require(fits, f"{name}: other", f"draws of shape {other._shape}", f"{self._shape}")
            progress = ("count", "batch_size", "_num_full", "_num_partial")
            fits = along == "draws" or all(getattr(self, value) == getattr(other, value) for value in progress)
            require(fits, f"{name}: other", f"{other.count} draws a chain", f"{self.count}, not merged before")
            if along == "chains":
                batch_means = torch.cat([self._batch_means, other._batch_means], 2)
                check_chains_differ(f"{name}: other", batch_means[: self._num_full])
        if other.count == 0:
            return
        if self.count == 0:
            self.load_state_dict(other.state_dict())
        elif along == "draws":
            self._merge_draws(other)
        else:
            for attribute, dim in (("_mean", 1), ("_squares", 1), ("_partial_sum", 1), ("_batch_means", 2)):
                setattr(self, attribute, torch.cat([getattr(self, attribute), getattr(other, attribute)], dim))
            self._shape = tuple(self._mean.shape)

    def _merge_draws(self, other: StreamingMoments) -> None:
        self._squares += other._squares
        self.count = merge_mean_(self.count, self._mean, self._squares, other.count, other._mean)
        later = StreamingMoments(covariance=self.keeps_covariance, num_batches=self.num_batches)
        later.load_state_dict(other.state_dict())
        while self.batch_size != later.batch_size or self._num_full + later._num_full > self.num_batches:
            shorter = self if self.batch_size <= later.batch_size else later
            shorter._join_pairs()
        self._batch_means[self._num_full : self._num_full + later._num_full] = later._batch_means[: later._num_full]
        self._num_full += later._num_full
        self._partial_sum, self._num_partial = later._partial_sum, later._num_partial

    def state_dict(self) -> dict[str, Any]:
        """Return copies of everything, which load with weights_only=True."""
        state: dict[str, Any] = {name: getattr(self, name) for name in PLAIN_VALUES}
        if self._shape is not None:
            state |= {name: getattr(self, name).clone() for name in TENSORS}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`. ValueError if it was made with other options."""
        for option in ("keeps_covariance", "num_batches"):
            got, expected = state[option], getattr(self, option)
            require(got == expected, "ald_ext.samplers.StreamingMoments: state", f"{option}={got}", f"{expected}")
        for name, value in state.items():
            setattr(self, name, value.clone() if isinstance(value, Tensor) else value)
