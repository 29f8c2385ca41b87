"""Draws the pictures of docs/learning_coefficient.md: docs/pictures/learning_coefficient*.png, half a minute.

The model is a reduced rank regression whose coefficient is known (Aoyagi & Watanabe 2005), with settings that are right
and with steps that are too small for the number of them.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from ald_ext import SGLD
from ald_ext.bayes import local_learning_coefficient

PICTURES = Path(__file__).parent / "pictures"


class ReducedRank(nn.Module):
    """20 products BA of matrices (4, 2) and (2, 4), all 0; the true product is 0 too, and λ is 3.5 each."""

    def __init__(self) -> None:
        super().__init__()
        self.b, self.a = nn.Parameter(torch.zeros(20, 4, 2)), nn.Parameter(torch.zeros(20, 2, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.b @ self.a


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    nothing = [(torch.zeros(1), torch.zeros(1))]
    settings = {"num_data": 10000, "temperature": math.log(10000), "localization": 1.0, "seed": 0}
    for name, choice in (
        ("learning_coefficient", {"lr": 0.2}),
        ("learning_coefficient_drift", {"lr": 0.001, "optimizer_class": SGLD, "burn_in": 200}),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which is what the second is to show
            result = local_learning_coefficient(
                ReducedRank(), lambda product, _: product.square().sum() / 2, nothing, **settings, **choice
            )
        result.draw(PICTURES / f"{name}.png")
        print(name, f"{result.estimate:.3g} ± {result.standard_error:.2g}", *result.warnings, sep="\n")


if __name__ == "__main__":
    main()
