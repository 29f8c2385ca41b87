"""Measures samplers of very many data against an exact posterior; writes a JSON file, a page and its picture.

python -m benchmarks.amortized [--results benchmarks/results] [--quick] [--page-only]

Factor analysis: each datum has four latent variables z ~ N(0, I), and x = Wz + noise in eight dimensions. One thread.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ald_ext import SGLD
from ald_ext.files import write_atomically, write_json
from ald_ext.paper.report.tables import markdown_table
from ald_ext.progress import progress_bar
from ald_ext.samplers import (
    HMC,
    AmortizedLangevin,
    GaussianEncoder,
    LangevinDynamics,
    LastLayerSGALD,
    LinearGaussianPotential,
    Potential,
    RandomFourierFeatures,
    ResidualALD,
    WhitenedFeatures,
    effective_sample_size,
    fit_variational,
    tanh_network,
)

from .harness import make_folder
from .page import PAGES, RESULTS, Results, Row, conditions, number, unique
from .provenance import describe_run

LATENT_DIM, DATA_DIM, CHAINS = 4, 8, 4
EQUAL, DIFFERING = "equal noise", "noise that differs"
LANGEVIN, DATUM_HMC, MASS_HMC = "LangevinDynamics", "HMC", "HMC, exact mass matrix"
RESIDUAL, LAST_LAYER, NETWORK = "ResidualALD", "LastLayerSGALD, whitened", "AmortizedLangevin"
METHODS = (LANGEVIN, DATUM_HMC, MASS_HMC, RESIDUAL, LAST_LAYER, NETWORK)
#: Data whose draws are kept for their effective sample sizes; moments are of all data.
WATCHED = 50


@dataclass(frozen=True)
class Problem:
    """The data, their potential, and the exact posterior: means (n, d) and covariances (n, d, d)."""

    x: Tensor
    potential: Potential
    mean: Tensor
    covariance: Tensor


def make_problem(kind: str, num_data: int) -> Problem:
    """With noise of standard deviation .7; or of one for each entry of x, .1 to 3, whose logarithm is a part of x."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(DATA_DIM, LATENT_DIM, generator=generator)
    z = torch.randn(num_data, LATENT_DIM, generator=generator)
    noise = torch.randn(num_data, DATA_DIM, generator=generator)
    if kind == EQUAL:
        identity = torch.eye(DATA_DIM)
        prior = torch.zeros(LATENT_DIM), identity[:LATENT_DIM, :LATENT_DIM]
        linear = LinearGaussianPotential(*prior, 0.49 * identity, weight)
        x = z @ weight.T + 0.7 * noise
        mean, covariance = linear.posterior(x)
        return Problem(x, linear, mean, covariance.expand(num_data, -1, -1))
    log_scale = math.log(0.1) + math.log(30) * torch.rand(num_data, DATA_DIM, generator=generator)
    precision = (-2 * log_scale).exp()
    observed = z @ weight.T + noise * log_scale.exp()
    covariance = torch.linalg.inv(torch.eye(LATENT_DIM) + (weight.T * precision[:, None]) @ weight)
    mean = (covariance @ (weight.T @ (precision * observed)[..., None]))[..., 0]

    def potential(x: Tensor, z: Tensor) -> Tensor:
        observed, log_scale = x.chunk(2, dim=1)
        residual = (observed - z @ weight.T) * (-log_scale).exp()
        return (z.square().sum(1) + residual.square().sum(1)) / 2

    return Problem(torch.cat([observed, log_scale], 1), potential, mean, covariance)


@dataclass(frozen=True)
class Run:
    """A sampler; steps and gradients of a datum and chain for each draw; states of given data, (n, chains, d)."""

    sampler: Any
    steps: int
    gradients: float
    states: Callable[[], Tensor]


def residual_ald(problem: Problem) -> Run:
    network = tanh_network([problem.x.shape[1], 64, GaussianEncoder.num_outputs(LATENT_DIM, "full")])
    encoder = GaussianEncoder(network, LATENT_DIM, "full")
    n = len(problem.x)
    options: dict[str, Any] = {"num_steps": 1500, "lr": 1e-2, "num_samples": 4, "batch_size": min(n, 256), "seed": 0}
    fit_variational(encoder, problem.potential, problem.x, **options)
    minibatches: dict[str, Any] = {"batch_size": min(n, 1000), "outputs": "batch"}
    hmc: dict[str, Any] = {"step_size": 0.4, "num_leapfrog_steps": 5, "jitter": 0.2}
    sampler = ResidualALD(encoder, problem.potential, problem.x, chains=CHAINS, seed=0, **minibatches, **hmc)
    return Run(sampler, n // sampler.batch_size, 6, lambda: sampler.z)


def of_each_datum(kernel: Callable[..., Any], gradients: float, problem: Problem, **options: Any) -> Run:
    z = torch.randn(len(problem.x), CHAINS, LATENT_DIM)
    sampler = kernel(problem.potential, problem.x, z, seed=0, **options)
    return Run(sampler, 1, gradients, lambda: sampler.z)


def langevin(problem: Problem) -> Run:
    """Its step is the largest at which the exact variances grow by 5 % at most: 1/(1 - η/(2s²)) of the smallest s²."""
    smallest = torch.linalg.eigvalsh(problem.covariance)[:, 0].min().item()
    return of_each_datum(LangevinDynamics, 1, problem, step_size=2 * smallest * (1 - 1 / 1.05))


def hmc(problem: Problem) -> Run:
    options: dict[str, Any] = {"step_size": 0.2, "num_leapfrog_steps": 5, "jitter": 0.2, "adapt_steps": 50}
    return of_each_datum(HMC, 5, problem, **options)


def hmc_with_mass_matrix(problem: Problem) -> Run:
    """The matrix is the mean of the exact covariances, which a user would have to estimate."""
    options: dict[str, Any] = {"step_size": 0.4, "num_leapfrog_steps": 2, "jitter": 0.2, "adapt_steps": 50}
    return of_each_datum(HMC, 2, problem, inverse_mass_matrix=problem.covariance.mean(0), **options)


def last_layer(problem: Problem) -> Run:
    n, batch = len(problem.x), 100
    features = WhitenedFeatures(RandomFourierFeatures(DATA_DIM, 2 * n, 0.5), problem.x)
    kernel: dict[str, Any] = {"kernel": HMC, "step_size": 0.2, "num_leapfrog_steps": 5, "jitter": 0.2}
    options: dict[str, Any] = {"batch_size": batch, "outputs": "batch", "chains": CHAINS, "seed": 0, **kernel}
    sampler = LastLayerSGALD(features, problem.potential, problem.x, LATENT_DIM, **options)
    return Run(sampler, n // batch, 6, lambda: sampler.z)


def whole_network(problem: Problem) -> Run:
    """The paper's Algorithm 1, with minibatches of 100 data; a draw is made every 20 steps."""
    network = tanh_network([problem.x.shape[1], 64, 64, LATENT_DIM])
    optimizer = SGLD(network.parameters(), lr=2e-3, num_data=len(problem.x), seed=0)
    options: dict[str, Any] = {"batch_size": 100, "outputs": "batch", "seed": 0}
    sampler = AmortizedLangevin(network, problem.potential, problem.x, optimizer, **options)
    return Run(sampler, 20, 2000 / len(problem.x), lambda: network(problem.x)[:, None])


#: What makes each, its draws before those that count, and these, at up to 5,000 data and beyond.
RUNS: dict[str, tuple[Callable[[Problem], Run], int, int, int]] = {
    LANGEVIN: (langevin, 300, 2000, 600),
    DATUM_HMC: (hmc, 60, 200, 80),
    MASS_HMC: (hmc_with_mass_matrix, 60, 200, 80),
    RESIDUAL: (residual_ald, 5, 200, 80),
    LAST_LAYER: (last_layer, 60, 200, 0),
    NETWORK: (whole_network, 50, 200, 0),
}
SIZES: dict[str, dict[int, tuple[str, ...]]] = {
    EQUAL: {100: METHODS, 1_000: METHODS, 5_000: (*METHODS[:4], NETWORK), 50_000: METHODS[:4]},
    DIFFERING: {5_000: METHODS[:4]},
}


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors that an object refers to, also by its parts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from value.state_dict(keep_vars=True).values()
    elif isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors_of(part)
    elif type(value).__module__.startswith("ald_ext."):
        yield from tensors_of(vars(value))


def bytes_of(run: Run, x: Tensor) -> int:
    """The memory that a sampler keeps between steps, without the data themselves."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors_of(run.sampler)
    }
    return sum(storages.values()) - storages.get(x.untyped_storage().data_ptr(), 0)


def measure(problem: Problem, method: str, *, quick: bool) -> Row:
    """Runs a sampler; times are CPU seconds of its steps alone."""
    torch.manual_seed(0)
    make, burn_in, many, few = RUNS[method]
    draws = few if len(problem.x) > 5_000 else many
    if quick:
        burn_in, draws = max(5, burn_in // 10), draws // 10
    begin = time.process_time()
    run = make(problem)
    seconds = {"preparation": time.process_time() - begin, "burn_in": 0.0, "draws": 0.0}
    deviation = problem.covariance.diagonal(dim1=1, dim2=2).sqrt()
    first = products = torch.zeros(())
    watched = []
    for draw in progress_bar(range(-burn_in, draws), desc=f"{method}, n = {len(problem.x)}"):
        begin = time.process_time()
        for _ in range(run.steps):
            run.sampler.step()
        seconds["burn_in" if draw < 0 else "draws"] += time.process_time() - begin
        if draw >= 0:
            with torch.no_grad():
                standard = (run.states() - problem.mean[:, None]) / deviation[:, None]
            first, products = first + standard.mean(1), products + standard.mT @ standard / standard.shape[1]
            watched.append(standard[:WATCHED].clone())
    mean = first / draws
    covariance = products / draws - mean[:, :, None] * mean[:, None]
    exact = problem.covariance / (deviation[:, :, None] * deviation[:, None])
    ratios = covariance.diagonal(dim1=1, dim2=2).flatten().sort().values
    quantiles = {f"p{share}": ratios[round(share / 100 * (len(ratios) - 1))].item() for share in (5, 50, 95)}
    error = torch.linalg.matrix_norm(covariance - exact) / torch.linalg.matrix_norm(exact)
    ess = effective_sample_size(torch.stack(watched)).median().item()
    gradients = draws * run.gradients * watched[0].shape[1]
    return {
        "method": method,
        "draws": draws,
        "chains": watched[0].shape[1],
        "seconds": seconds,
        "mean_error": mean.square().mean().sqrt().item(),
        "variance_ratio": quantiles,
        "covariance_error": error.median().item(),
        "ess": ess,
        "ess_per_second_of_all": ess / seconds["draws"],
        "ess_per_gradient": ess / gradients,
        "us_per_draw_of_a_datum": 1e6 * seconds["draws"] / (draws * watched[0].shape[1] * len(problem.x)),
        "us_per_effective_draw_of_a_datum": 1e6 * seconds["draws"] / (ess * len(problem.x)),
        "bytes": bytes_of(run, problem.x),
    }


INTRODUCTION = """# Amortized sampling at 100 to 50,000 data

`python -m benchmarks.amortized` measures samplers of factor analysis, whose posterior is known exactly: each datum has
four latent variables z ~ N(0, I), and x = Wz + noise in eight dimensions. [What the theory
covers](../amortized_sampling.md) explains the figures.

Errors of the mean are root mean squares in posterior standard deviations. The ratio is that of the variance of the
samples to the exact one, of each coordinate of each datum: median (5th to 95th percentile). The error of the covariance
is in the Frobenius norm, relative, its median over the data. All three have a share of Monte Carlo error, which falls
with the effective sample size (ESS, median of 50 data). Times are CPU seconds of one thread: preparation (fitting the
encoder, whitening the features), burn-in, and draws. µs are of one effective sample of one datum, from the time of the
draws. Memory is what the sampler keeps between steps, without the data. At 50,000 data there are fewer draws, so that
errors are larger there. The estimate of the ESS of S draws in all is S log10(S) at most, which the largest ones reach.

`LangevinDynamics` has the largest step at which exact variances grow by 5 % at most, and the second HMC the mean of the
exact posterior covariances as its inverse mass matrix: both know more than a user does. Both HMCs adapt a step size for
each datum, with five leapfrog steps and with two. The chains of these three begin at draws from the prior.
`ResidualALD` has a network of 64 tanh units, fitted by 1,500 steps of `fit_variational` on minibatches of 256, and
moves minibatches of 1,000 data by HMC with five leapfrog steps of 0.4 in both problems."""

HEADER = [
    "sampler", "n", "error of the mean", "variance, sample / exact", "error of the covariance", "ESS", "ESS / gradient",
    "ESS / s, all data", "µs an effective sample", "preparation, burn-in, draws (s)", "kB",
]  # fmt: skip


def results_page(results: Results) -> str:
    """The whole page, in Markdown."""
    sections = [INTRODUCTION, conditions("amortized", results), "![Cost and errors over n](amortized.png)"]
    for problem in unique(row["problem"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["problem"] == problem]
        body = []
        for row in sorted(rows, key=lambda row: METHODS.index(row["method"])):
            ratio = row["variance_ratio"]
            body.append(
                [
                    f"`{row['method']}`" if "," not in row["method"] else row["method"],
                    f"{row['num_data']:,}",
                    number(row["mean_error"]),
                    f"{number(ratio['p50'])} ({number(ratio['p5'])} to {number(ratio['p95'])})",
                    number(row["covariance_error"]),
                    *(number(row[name]) for name in ("ess", "ess_per_gradient", "ess_per_second_of_all")),
                    number(row["us_per_effective_draw_of_a_datum"]),
                    ", ".join(number(seconds) for seconds in row["seconds"].values()),
                    f"{row['bytes'] / 1e3:,.0f}",
                ]
            )
        sections += [f"## {problem.capitalize()}", markdown_table(HEADER, body)]
    return "\n\n".join(sections) + "\n"


def draw_picture(results: Results, path: Path) -> None:
    """PNG of cost and errors over the number of data, with equal noise."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(12, 4.2), layout="constrained")
    cost, error, ratio = picture.subplots(1, 3)
    for place, method in enumerate(METHODS):
        rows = [row for row in results["rows"] if row["problem"] == EQUAL and row["method"] == method]
        n, style = [row["num_data"] for row in rows], {"color": f"C{place}", "marker": "o"}
        cost.plot(n, [row["us_per_effective_draw_of_a_datum"] for row in rows], label=method, **style)
        error.plot(n, [row["mean_error"] for row in rows], **style)
        middle, low, high = ([row["variance_ratio"][share] for row in rows] for share in ("p50", "p5", "p95"))
        bars = [[m - a for m, a in zip(middle, low, strict=True)], [b - m for m, b in zip(middle, high, strict=True)]]
        ratio.errorbar([k * 1.06**place for k in n], middle, bars, capsize=2, linestyle="none", **style)
    ratio.axhline(1, color="black", linewidth=0.8)
    cost.set(title="CPU µs an effective sample of a datum", yscale="log")
    error.set(title="error of the mean, posterior sds", yscale="log")
    ratio.set(title="variance, sample / exact (5 % to 95 %)", ylim=(0, 1.6))
    for axes in (cost, error, ratio):
        axes.set(xscale="log", xlabel="data n")
        axes.grid(alpha=0.4)
    picture.legend(loc="outside lower center", ncols=6, fontsize="small")
    picture.savefig(path, format="png", dpi=110)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of amortized.json")
    parser.add_argument("--quick", action="store_true", help="up to 1,000 data and a tenth of the draws: rough figures")
    parser.add_argument("--page-only", action="store_true", help="write the page of the file that is there")
    options = parser.parse_args(arguments)
    file = options.results / "amortized.json"
    out = PAGES if options.results.resolve() == RESULTS else options.results
    if options.quick and out == PAGES:
        parser.error("--quick: its rough figures do not go to benchmarks/results; give another folder by --results")
    if not options.page_only:
        make_folder(options.results, parser)
        torch.set_num_threads(1)
        results: Results = {"quick": options.quick, **describe_run(torch.device("cpu"), "a run on a shared machine")}
        results["rows"] = []
        for kind, sizes in SIZES.items():
            for num_data, methods in sizes.items():
                if not options.quick or num_data <= 1_000:
                    problem = make_problem(kind, num_data)
                    for method in methods:
                        row = measure(problem, method, quick=options.quick)
                        results["rows"].append({"problem": kind, "num_data": num_data, **row})
                        write_json(file, results)
    results = json.loads(file.read_text())
    write_atomically(out / "amortized.md", lambda path: path.write_text(results_page(results)))
    write_atomically(out / "amortized.png", partial(draw_picture, results))


if __name__ == "__main__":
    main()
