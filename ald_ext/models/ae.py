"""The autoencoder: an LAE without noise and with a flat prior on z (paper: Section 6)."""

from __future__ import annotations

from torch import Tensor

from .autoencoder import Autoencoder


class AE(Autoencoder):
    """Minimizes -log p(x | z = f(x)), the mean over data."""

    def loss(self, x: Tensor) -> Tensor:
        """Mean of -log p(x | f(x)) over uint8 images (N, C, 32, 32)."""
        return self.negative_log_likelihood(x, self.encode(x)).mean()
