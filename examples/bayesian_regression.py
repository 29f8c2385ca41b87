"""A Bayesian network for a table: predictions with intervals, on data of scikit-learn's or of a CSV file.

python examples/bayesian_regression.py [FILE.csv] [--out DIR] [--quick]      the last column of a file is the target
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from ald_ext import SGHMC
from ald_ext.bayes import PosteriorSamples, collect_parameters, diagnose, gaussian_prior, predict

BATCH_SIZE, CHAINS = 64, 4


def load_table(path: Path | None) -> tuple[Tensor, Tensor]:
    """Return inputs (n, d) and targets (n, 1), standardized, without columns that are constant."""
    if path is None:
        table = np.column_stack(load_diabetes(return_X_y=True))
    elif not path.is_file():
        raise SystemExit(f"file: got {str(path)!r}, expected a CSV file")
    else:
        table = np.genfromtxt(path, delimiter=",", skip_header=1, ndmin=2)
    varies = table.min(0) < table.max(0) if len(table) >= 10 and np.isfinite(table).all() else np.array([False])
    if not (varies[-1] and varies.sum() > 1):
        raise SystemExit(
            f"file: got {table.shape[0]} rows of {table.shape[1]} columns, {np.sum(~np.isfinite(table))} cells without "
            "a number, expected a line of names, and ten rows or more of numbers, of which the last is not constant"
        )
    table = table[:, varies]
    columns = torch.from_numpy((table - table.mean(0)) / table.std(0, ddof=1)).float()
    return columns[:, :-1], columns[:, -1:]


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Sample, print scores on a fifth of the rows, and write samples, diagnosis.json and diagnosis.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="CSV with a line of names; default: scikit-learn's diabetes")
    parser.add_argument("--out", type=Path, default=Path("runs/bayesian_regression"))
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    options = parser.parse_args(arguments)
    x, y = load_table(options.file)
    torch.manual_seed(0)
    order = torch.randperm(len(x))
    test, train = order[: len(x) // 5], order[len(x) // 5 :]
    num_data = len(train)

    # The noise of the data is what a linear fit leaves; the network is there for what is not linear.
    design = torch.cat([x[train], torch.ones(num_data, 1)], 1)
    linear = torch.linalg.lstsq(design, y[train]).solution
    variance = (y[train] - design @ linear).square().mean().item()

    lr = 0.06 * variance  # the curvature of the potential grows as 1/variance
    network = nn.Sequential(nn.Linear(x.shape[1], 50), nn.Tanh(), nn.Linear(50, 1))
    samples = collect_parameters(
        network,
        lambda module, chain: SGHMC(
            gaussian_prior(module, "he", num_data), lr=lr, momentum=0.9, num_data=num_data, seed=0, chain=chain
        ),
        lambda output, target: mse_loss(output, target) / (2 * variance),  # the mean potential of a datum
        DataLoader(TensorDataset(x[train], y[train]), min(BATCH_SIZE, num_data), shuffle=True, drop_last=True),
        burn_in=300 if options.quick else 2000,
        num_samples=30 if options.quick else 100,
        thinning=10 if options.quick else 50,
        chains=CHAINS,
        samples=PosteriorSamples(options.out / "samples", resume=True),  # started again, it continues
    )
    prediction = predict(samples, network, x[test], kind="regression")
    deviation = (prediction.std.square() + variance).sqrt()  # of a new datum: what the function may be, and noise
    error = y[test] - prediction.mean
    guess = torch.cat([x[test], torch.ones(len(test), 1)], 1) @ linear
    diagnosis = diagnose(samples, network, x[test][:20], kind="regression", folder=options.out)
    assert diagnosis.temperature is not None
    result = {
        "rmse": error.square().mean().sqrt().item(),
        "rmse of a linear fit": (y[test] - guess).square().mean().sqrt().item(),
        "within 2 deviations": (error.abs() < 2 * deviation).double().mean().item(),
        "r_hat, largest": diagnosis.r_hat.max().item(),
        "ess, smallest": diagnosis.ess.min().item(),
        "temperature": diagnosis.temperature,
    }
    print(f"{len(samples)} samples of {CHAINS} chains:", ", ".join(f"{k} {v:.3g}" for k, v in result.items()))
    print(f"picture in {options.out / 'diagnosis.png'}")
    return result


if __name__ == "__main__":
    main()
