"""Moments and convergence of long chains in one pass, with memory that does not grow with the number of draws."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..moments import merge_mean_
from ..settings import from_dict, require
from .collection import check_state_shape
from .equal_chains import check_chains_differ
from .faults import NON_FINITE, UNMOVED, warn_of_chains, warn_of_lone_chains, warn_of_short_batches

#: In Note [Doubling batches]: how many batches tell of their autocorrelation, which of them have nearly none, in τ, and
#: the correlation of neighbours that is no chance, in standard errors.
FEWEST_BATCHES, LONG_BATCH, CLEAR_CORRELATION = 32, 4, 3


@dataclass
class MomentsState:
    """What :meth:`StreamingMoments.state_dict` returns; the tensors are there from the first draw on."""

    keeps_covariance: bool
    num_batches: int
    count: int
    batch_size: int
    _num_full: int
    _num_partial: int
    _shape: tuple[int, ...] | None = None
    _mean: Tensor | None = None
    _squares: Tensor | None = None
    _batch_means: Tensor | None = None
    _partial_sum: Tensor | None = None
    _deviations: Tensor | None = None  # earlier versions did not save it


def autocorrelation_time(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Return τ of (draws, n, chains, d), NaN below four draws, and the variance that it refers to, both (n, d).

    They are those of arviz-stats' effective sample size for the mean, draws·chains/τ (Vehtari et al. 2021): with the
    halves of all chains, W the mean of their variances, B the variance of their means, and γ_t their mean
    autocovariances, the variance is γ_0 + B, and τ the sum of 1 - (W - γ_t)/(γ_0 + B) over t of both signs, by the
    initial monotone sequence (Geyer 1992).
    """
    half = len(draws) // 2
    chains = torch.cat([draws[:half], draws[-half:]], 2)
    means = chains.mean(0)
    if half < 2:
        return torch.full_like(means[:, 0], math.nan), means.var(1)
    spectrum = torch.fft.rfft(chains - means, 2 * half, dim=0).abs().square()
    autocovariance = torch.fft.irfft(spectrum, 2 * half, dim=0)[:half].mean(2) / half
    variance, within = autocovariance[0] + means.var(1), autocovariance[0] * half / (half - 1)
    correlation = 1 - (within - autocovariance) / variance
    correlation[0] = 1
    num_pairs = max((half - 1) // 2, 1)
    pairs = correlation[: 2 * num_pairs].unflatten(0, (num_pairs, 2))
    sums = pairs.sum(1)
    positive = (sums > 0).cumprod(0)
    positive[-1] = 0
    last_even = pairs[:, 0].gather(0, positive.sum(0)[None])[0].clamp_min(0)
    return 2 * (sums.cummin(0).values * positive).sum(0) + last_even - 1, variance


class StreamingMoments:
    """Mean, variance, effective sample size, Monte Carlo error and R-hat of every latent variable, in one pass.

    Moments are those of :func:`ald_ext.moments.merge_mean_`. All accumulators are float64, on the device of the draws;
    results are (n, d), over all chains.

    Note [Doubling batches]
        The length of a run need not be known: means of batches of b consecutive draws are kept, beginning with b = 1,
        and whenever ``num_batches`` batches are full they are averaged in pairs, which doubles b. So there are always
        num_batches/2 to num_batches of them. Up to num_batches draws these are the draws themselves, and the effective
        sample size is that of arviz-stats for the mean. Later it is found from the batch means in the same way: with
        their variance V, that of the draws S, and the autocorrelation time τ' of the batches, see
        :func:`autocorrelation_time`, that of the draws is τ = bτ'V/S, of which t = bV/S leaves out what correlation is
        left between batches. Where b ≥ 4t, and neighbours are not clearly correlated, that is little, and an estimate
        of τ' would only add noise: there, τ = t + (t² - 1)/(2b), which is right for AR(1) chains. Its relative
        standard error is up to √(4/(num_batches·chains)), 0.09 for 4 chains. Memory is num_batches float64 numbers for
        each latent variable and chain.

    Args:
        covariance: whether to keep the d x d covariances of each datum, too.
        num_batches: largest number of batches in Note [Doubling batches]; even, ≥ 4. With fewer than 64, results are
            NaN where batches are still shorter than the autocorrelation time, which a UserWarning tells.

    Raises:
        ValueError: a draw of another shape, a bad num_batches, or R-hat, ESS or MCSE of chains with equal draws.
        RuntimeError: a result is asked for without draws.
    """

    def __init__(self, *, covariance: bool = False, num_batches: int = 128) -> None:
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
        self._deviations += (draw - self._mean).abs()
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
        self._deviations = zeros.clone()
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

    def _halves(self) -> tuple[Tensor, Tensor]:
        """Return the mean of the variances of the halves of all chains, and the variance of their means, (n, d).

        The first half ends where a batch does. With an even number of full batches and none incomplete, as after
        num_batches·2^k draws, the halves are equal; otherwise the second is longer, by two batches at most.
        """
        first_count = self._num_full // 2 * self.batch_size
        second_count = self.count - first_count
        first = self._batch_means[: self._num_full // 2].mean(0)
        second = (self.count * self._mean - first_count * first) / second_count
        # A chain's squares about its mean are those within its halves, and those of the difference of the halves.
        within = self._chain_squares() - first_count * second_count / self.count * (first - second).square()
        return within.mean(1) / (self.count - 2), torch.cat([first, second], 1).var(1)

    def _chain_squares(self) -> Tensor:
        """Return the sum of squares about the mean of each chain, (n, chains, d)."""
        return self._squares.diagonal(dim1=-2, dim2=-1) if self.keeps_covariance else self._squares

    def _unmoved(self) -> Tensor:
        """Return which chains never moved in which variables that are finite, (n, chains, d) bool."""
        squares = self._chain_squares()
        return (squares == 0) & squares.isfinite().all(1, keepdim=True)

    def _examine(self, name: str, stacklevel: int) -> None:
        """Raise an error for too few draws, or equal chains; warn of faults, ald_ext.samplers.faults."""
        self._check_has_draws(4)
        check_chains_differ("ald_ext.samplers.StreamingMoments", self._batch_means[: self._num_full])
        for fault, where in ((NON_FINITE, ~self._chain_squares().isfinite()), (UNMOVED, self._unmoved())):
            warn_of_chains(f"StreamingMoments.{name}", fault, where, stacklevel=stacklevel)

    def _effective_sample_size(self, name: str) -> Tensor:
        self._examine(name, stacklevel=5)
        size, (within, between) = self.batch_size, self._halves()
        time, variance_of_batches = autocorrelation_time(self._batch_means[: self._num_full])
        naive = size * variance_of_batches / (within * (1 - 2 / self.count) + between)
        batches = self._batch_means[: self._num_full] - self._batch_means[: self._num_full].mean(0)
        correlation = (batches[1:] * batches[:-1]).sum((0, 2)) / batches.square().sum((0, 2))
        alike = correlation > CLEAR_CORRELATION / math.sqrt(self._num_full * self.num_chains)
        long = (size >= LONG_BATCH * naive) & (size > 1) & ~alike
        time = torch.where(long, naive + (naive.square() - 1) / (2 * size), naive * time)
        if size > 1 and self._num_full < FEWEST_BATCHES:
            short = ~long & ~naive.isnan()
            warn_of_short_batches(f"StreamingMoments.{name}", short, size, self.num_batches, stacklevel=4)
            time = time.masked_fill(short, math.nan)
        total = self.count * self.num_chains
        return (total / time.clamp_min(1 / math.log10(total))).masked_fill(self._unmoved().any(1), 0)

    @property
    def effective_sample_size(self) -> Tensor:
        """The effective sample size for the mean, (n, d), by Note [Doubling batches].

        It is 0 where a chain never moved, and NaN where a draw is NaN or infinite; a UserWarning tells which.
        """
        return self._effective_sample_size("effective_sample_size")

    @property
    def monte_carlo_standard_error(self) -> Tensor:
        """The Monte Carlo standard error of the mean, (n, d), √(variance / effective sample size).

        It is infinite where a chain never moved, and NaN where a draw is NaN or infinite; a UserWarning tells which.
        """
        size = self._effective_sample_size("monte_carlo_standard_error")
        return (self.variance / size).sqrt().masked_fill(size == 0, math.inf)

    @property
    def r_hat(self) -> Tensor:
        """R-hat, (n, d): the worse of that of the means of chains, split, and, for several chains, that of their scale.

        The first is that of Gelman et al. (2013): each chain's halves count as chains. The second is the same for
        |z - m|, the halves together, with the mean m of the chain so far. It notices, as folded ranks do, chains that
        agree in their means only. R-hat is infinite where a chain never moved, and NaN where a draw is NaN or infinite;
        a UserWarning tells which, and also of draws (n, d) of several data, which might be meant as chains of one
        target.
        """
        self._examine("r_hat", stacklevel=4)
        assert self._shape is not None
        if len(self._shape) == 2:
            warn_of_lone_chains("StreamingMoments.r_hat", self._shape[0], stacklevel=3)
        within, between = self._halves()
        squared = 1 - 2 / self.count + between / within
        if self.num_chains > 1:
            scale = self._deviations / self.count
            within_scale = (self._chain_squares() / self.count - scale.square()).mean(1)
            squared = torch.maximum(squared, 1 - 1 / self.count + scale.var(1) / within_scale)
        return squared.sqrt().masked_fill(self._unmoved().any(1), math.inf)

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
            for attribute in ("_mean", "_squares", "_partial_sum", "_deviations", "_batch_means"):
                dim = 2 if attribute == "_batch_means" else 1
                setattr(self, attribute, torch.cat([getattr(self, attribute), getattr(other, attribute)], dim))
            self._shape = tuple(self._mean.shape)

    def _merge_draws(self, other: StreamingMoments) -> None:
        self._squares += other._squares
        self._deviations += other._deviations
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
        values = {field.name: getattr(self, field.name, None) for field in fields(MomentsState)}
        return {name: value.clone() if isinstance(value, Tensor) else value for name, value in values.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`, with its num_batches.

        Raises:
            ValueError: no such state, or one made with another ``covariance``. Nothing has changed then.
        """
        argument = "ald_ext.samplers.StreamingMoments: state"
        saved = from_dict(MomentsState, state, argument)
        got, expected = saved.keeps_covariance, self.keeps_covariance
        require(got == expected, argument, f"keeps_covariance={got}", f"{expected}")
        numbers = (saved.num_batches, saved.batch_size, saved.count, saved._num_full, saved._num_partial)
        full = saved._num_full <= saved.num_batches and saved._num_full * saved.batch_size <= saved.count
        fits = min(numbers) >= 0 and saved.num_batches >= 4 and saved.batch_size >= 1 and full
        names = "(num_batches, batch_size, count, _num_full, _num_partial)"
        require(fits, argument, f"{names} = {numbers}", "numbers of one run")
        tensors: dict[str, Tensor] = {}
        if (shape := saved._shape) is not None:
            require(len(shape) in (2, 3), f"{argument}: _shape", shape, "(n, d) or (n, chains, d)")
            chains = (shape[0], 1, shape[1]) if len(shape) == 2 else shape
            squares = (*chains, shape[-1]) if expected else chains
            if saved._deviations is None and saved._squares is not None:  # as of normal draws
                moved = saved._squares.diagonal(dim1=-2, dim2=-1) if expected else saved._squares
                saved._deviations = (moved * saved.count * 2 / math.pi).sqrt()
            shapes = {"_mean": chains, "_squares": squares, "_partial_sum": chains, "_deviations": chains}
            for name, due in {**shapes, "_batch_means": (saved.num_batches, *chains)}.items():
                value = getattr(saved, name)
                fits = value is not None and value.shape == due and value.dtype == torch.float64 and not value.is_meta
                kind = None if value is None else f"shape {tuple(value.shape)}, {value.dtype}, {value.device}"
                require(fits, f"{argument}: {name}", kind, f"shape {due}, torch.float64")
                tensors[name] = value.detach().clone()
        vars(self).update({**vars(saved), **tensors})
