"""Chains of HMC on many processes, for a posterior that is known exactly; torchrun starts them.

torchrun --nproc-per-node 2 examples/chains.py [--out DIR] [--quick]      or, on one process:  python examples/chains.py
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from ald_ext import samplers

NUM_DATA, NUM_CHAINS = 20, 8


def make_problem() -> tuple[samplers.LinearGaussianPotential, Tensor, Tensor]:
    """Return a potential, its data, and initial states of all chains that are far apart; the same on all processes."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.tensor([[1.0, 0.8], [0.7, 1.0], [0.6, 0.5]])
    potential = samplers.LinearGaussianPotential(torch.zeros(2), torch.eye(2), 0.25 * torch.eye(3), weight)
    x = torch.randn(NUM_DATA, 3, generator=generator)
    return potential, x, 3 * torch.randn(NUM_DATA, NUM_CHAINS, 2, generator=generator)


def run(num_samples: int, folder: Path) -> dict[str, float]:
    """Run this process's chains; return what all processes' chains say together."""
    potential, x, initial = make_problem()
    chains = samplers.chains_of_rank(NUM_CHAINS)
    z = initial[:, chains]
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    sampler = samplers.HMC(
        potential,
        x.to(device),
        z.to(device),
        step_size=0.35,
        num_leapfrog_steps=4,
        jitter=0.3,
        seed=0,
        first_chain=chains.start,
    )
    moments, storage = samplers.StreamingMoments(), samplers.SampleStorage()
    samplers.Collector(sampler, into=[moments, storage], burn_in=100).run(num_samples)
    path = samplers.save_chains(folder, storage.samples, first_chain=chains.start)
    print(f"chains {chains.start} to {chains.stop - 1}: {path}")

    everything = samplers.gather_chains(moments)
    error = everything.mean.cpu() - potential.posterior(x)[0]
    return {
        "chains": everything.num_chains,
        "r_hat": everything.r_hat.max().item(),
        "ess": everything.effective_sample_size.min().item(),
        "error_in_standard_errors": (error / everything.monte_carlo_standard_error.cpu()).square().mean().sqrt().item(),
    }


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Run this process's chains, and print the result of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/chains"))
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    options = parser.parse_args(arguments)
    distributed = "RANK" in os.environ  # set by torchrun
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if distributed:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    result = run(200 if options.quick else 1000, options.out)
    if not distributed or dist.get_rank() == 0:
        print("all:", ", ".join(f"{name} {value:.4g}" for name, value in result.items()))
    if distributed:
        dist.destroy_process_group()
    return result


if __name__ == "__main__":
    main()
