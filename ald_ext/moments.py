"""Mean and scatter of samples that come in parts."""

from __future__ import annotations

from torch import Tensor


def merge_mean_(count: int, mean: Tensor, scatter: Tensor, other_count: int, other_mean: Tensor) -> int:
    """Merge the mean of other samples into ``mean``, in place, and return the number of all samples.

    With δ = other_mean - mean, n and m samples (Chan, Golub & LeVeque 1983; Welford 1962 for m = 1):

        mean ← mean + δ m / (n + m),      scatter ← scatter + δδᵀ n m / (n + m)

    The caller adds the scatter of the other samples about their own mean. Unlike sums of squares this
    loses no digits where the mean is large compared with the spread.

    Args:
        count: n, the number of samples in ``mean``; 0 if it is zero.
        mean: (..., d).
        scatter: sum of outer products about the mean, (..., d, d), or of squares, (..., d).
        other_count: m.
        other_mean: (..., d).
    """
    shift, total = other_mean - mean, count + other_count
    products = shift.square() if scatter.dim() == mean.dim() else shift[..., :, None] * shift[..., None, :]
    scatter += products.mul_(count * other_count / total)
    mean += shift * (other_count / total)
    return total
