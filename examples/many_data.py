"""Exact samples for each of 20,000 data, from an encoder and a residual of each datum; then for data it has not seen.

python examples/many_data.py [--out DIR] [--quick]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ald_ext import samplers

LATENT_DIM, DATA_DIM, NOISE, BATCH = 4, 8, 0.7, 1000


def make_data(num_data: int, weight: Tensor) -> Tensor:
    """Return data x = Wz + noise of factor analysis with z ~ N(0, I)."""
    return torch.randn(num_data, LATENT_DIM) @ weight.T + NOISE * torch.randn(num_data, DATA_DIM)


def sample(sampler: samplers.ResidualALD, num_samples: int, burn_in: int) -> Tensor:
    """Return draws (draws, n, chains, d), one for each time that all data have been visited."""
    visits = len(sampler.x) // sampler.batch_size
    return samplers.collect(sampler, num_samples, burn_in=burn_in * visits, thinning=visits)


def compare(name: str, draws: Tensor, mean: Tensor, covariance: Tensor) -> dict[str, float]:
    """Return errors against the exact posterior: of means in standard deviations, of variances as ratios."""
    deviation = covariance.diag().sqrt()
    pooled = ((draws - mean[:, None]) / deviation).movedim(2, 1).flatten(0, 1)
    ratios = pooled.var(0).flatten().sort().values
    low, middle, high = (ratios[int(share * (len(ratios) - 1))].item() for share in (0.05, 0.5, 0.95))
    result = {"mean_error": pooled.mean(0).square().mean().sqrt().item(), "p5": low, "median": middle, "p95": high}
    result["ess"] = samplers.effective_sample_size(draws[:, :50]).median().item()
    print(f"{name:16}" + "  ".join(f"{key.replace('_', ' ')} {value:8.3g}" for key, value in result.items()))
    return result


def draw(draws: Tensor, mean: Tensor, covariance: Tensor, encoder: samplers.GaussianEncoder, x: Tensor) -> Figure:
    """Draw samples, the encoder's and the exact posterior's 95 % ellipses of two latent variables of three data."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    angle = torch.linspace(0, 2 * torch.pi, 100)
    circle = 2.448 * torch.stack([angle.cos(), angle.sin()], 1)  # of chi with two degrees of freedom
    with torch.no_grad():
        fitted = encoder(x)
    for datum, axes in enumerate(figure.subplots(1, 3)):
        axes.plot(*draws[:, datum, :, :2].reshape(-1, 2).T.numpy(), ".", markersize=3, alpha=0.5)
        ellipses = {
            "exact": (mean[datum], covariance, "black"),
            "encoder": (fitted.mean[datum], fitted.covariance_matrix[datum], "C3"),
        }
        for label, (center, spread, colour) in ellipses.items():
            ellipse = center[:2] + circle @ torch.linalg.cholesky(spread[:2, :2]).T
            axes.plot(*ellipse.T.numpy(), color=colour, linewidth=1, label=label)
        axes.set(title=f"datum {datum}", xlabel="$z_1$", ylabel="$z_2$")
    axes.legend()
    figure.suptitle("New data: samples, and 95 % ellipses of the exact posterior and of the encoder")
    return figure


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Fit the encoder, sample both sets of data, print the errors, and write many_data.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/many_data"))
    parser.add_argument("--quick", action="store_true", help="2,000 data and fewer steps")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    weight = torch.randn(DATA_DIM, LATENT_DIM)
    prior = torch.zeros(LATENT_DIM), torch.eye(LATENT_DIM)
    potential = samplers.LinearGaussianPotential(*prior, NOISE**2 * torch.eye(DATA_DIM), weight)
    x, new = make_data(2000 if options.quick else 20000, weight), make_data(BATCH, weight)

    network = samplers.tanh_network([DATA_DIM, 64, samplers.GaussianEncoder.num_outputs(LATENT_DIM, "full")])
    encoder = samplers.GaussianEncoder(network, LATENT_DIM, "full")
    begin, steps = time.process_time(), 300 if options.quick else 1500
    samplers.fit_variational(encoder, potential, x, num_steps=steps, lr=1e-2, num_samples=4, batch_size=256, seed=0)
    print(f"encoder fitted in {time.process_time() - begin:.1f} CPU seconds")

    results = {}
    for name, data in {"data": x, "new data": new}.items():
        begin = time.process_time()
        sampler = samplers.ResidualALD(
            encoder,
            potential,
            data,
            batch_size=BATCH,
            chains=4,
            seed=0,
            step_size=0.4,
            num_leapfrog_steps=5,
            jitter=0.2,
        )
        draws = sample(sampler, num_samples=40, burn_in=5)
        seconds, rate = time.process_time() - begin, sampler.acceptance_rate
        print(f"{len(data)} data in {seconds:.1f} CPU seconds, acceptance {rate:.2f}")
        results[name] = compare(name, draws, *potential.posterior(data))
    options.out.mkdir(parents=True, exist_ok=True)
    draw(draws, *potential.posterior(new), encoder, new).savefig(options.out / "many_data.png", dpi=110)
    print(f"picture in {options.out / 'many_data.png'}")
    return results


if __name__ == "__main__":
    main()
