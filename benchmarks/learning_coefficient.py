"""The local learning coefficient beside devinterp's on models whose value is known; time and memory of a step.

python -m benchmarks.learning_coefficient [--results FILE] [--quick]

devinterp 1.3.2 is compared with where it is installed (pip install 'devinterp<2'): later versions estimate the
coefficient of language models only. The estimates have the same number of steps and the same β and localization; SGLD
has the same step. Times are medians in alternation, of 1e6 parameters: of the optimizer's step alone, by CPU time of
one thread and by the clock with all threads, and of a step of the whole estimate.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ald_ext import SGHMC, SGLD
from ald_ext.bayes import local_learning_coefficient
from ald_ext.files import write_atomically, write_json

from .exact_coefficients import CASES, NO_DATA, first
from .provenance import REPOSITORY, describe_run

RESULTS = REPOSITORY / "benchmarks" / "results" / "learning_coefficient.json"
PAGE = REPOSITORY / "docs" / "results" / "learning_coefficient.md"
OURS, OURS_SGLD, PEER = "ald_ext SGHMC", "ald_ext SGLD", "devinterp SGLD"
CHAINS, REPLICAS, SGHMC_LR = 4, 20, 0.2
ELEMENTS = 10**6


@dataclass
class Estimate:
    """What both packages estimate; a burn-in of half as many steps comes first."""

    model: nn.Module
    loss: Any
    loader: Any
    num_data: int
    localization: float
    steps: int
    chains: int = CHAINS

    def by_ours(self, optimizer_class: Any, lr: float) -> float:
        return local_learning_coefficient(
            self.model,
            self.loss,
            self.loader,
            lr=lr,
            num_data=self.num_data,
            localization=self.localization,
            optimizer_class=optimizer_class,
            chains=self.chains,
            num_steps=self.steps,
            burn_in=self.steps // 2,
            seed=1,
        ).estimate

    def by_peer(self, lr: float) -> float:
        from devinterp.optim import sgld
        from devinterp.slt.sampler import estimate_learning_coeff_with_summary

        def evaluate(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            loss: Tensor = self.loss(model(batch[0]), batch[1])
            return loss

        beta_n = self.num_data / math.log(self.num_data)
        summary = estimate_learning_coeff_with_summary(
            self.model,
            DataLoader(self.loader, batch_size=1, collate_fn=lambda minibatches: minibatches[0]),
            callbacks=[],
            evaluate=evaluate,
            sampling_method=sgld.SGLD,
            optimizer_kwargs={"lr": 2 * lr / beta_n, "localization": self.localization, "nbeta": beta_n},
            num_draws=self.steps,
            num_chains=self.chains,
            num_burnin_steps=self.steps // 2,
            init_loss=0.0,
            seed=1,
            verbose=False,
        )
        return float(summary["llc/mean"])

    def runs(self, names: list[str], sghmc_lr: float, sgld_lr: float) -> dict[str, Callable[[], float]]:
        """The estimate by each name."""
        runs: dict[str, Callable[[], float]] = {
            OURS: lambda: self.by_ours(SGHMC, sghmc_lr),
            OURS_SGLD: lambda: self.by_ours(SGLD, sgld_lr),
            PEER: lambda: self.by_peer(sgld_lr),
        }
        return {name: runs[name] for name in names}


def values(steps: int, names: list[str]) -> list[dict[str, Any]]:
    """Estimates of each case, a replica, beside the exact value, with their seconds."""
    rows = []
    for case in CASES:
        estimate = Estimate(case.model(REPLICAS), first, NO_DATA, case.num_data, case.localization, steps)
        row: dict[str, Any] = {
            "case": case.name,
            "expected": case.expected(case.beta_n, case.localization),
            "asymptotic": case.coefficient,
        }
        for name, run in estimate.runs(names, SGHMC_LR, case.lr).items():
            begin = time.process_time()
            row[name] = {"estimate": run() / REPLICAS, "seconds": time.process_time() - begin}
            print(f"{case.name}: {name}: {row[name]}, expected {row['expected']:.4g}", file=sys.stderr, flush=True)
        rows.append(row)
    return rows


def make_step(name: str, elements: int) -> Callable[[], Any]:
    """The step of an optimizer with anchors, of one parameter with a gradient."""
    param = nn.Parameter(torch.zeros(elements))
    param.grad = torch.ones(elements)
    if name == PEER:
        from devinterp.optim import sgld

        return sgld.SGLD([param], lr=1e-6, localization=100.0, nbeta=1000.0).step
    optimizer_class = SGLD if name == OURS_SGLD else SGHMC
    return optimizer_class([param], lr=1e-6, num_data=1e4, temperature=10.0, localization=100.0).step


def times(names: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of a step, medians of rounds in alternation."""
    threads = torch.get_num_threads()
    steps = {name: make_step(name, ELEMENTS) for name in names}
    by_clock = medians(steps, time.perf_counter, rounds)
    torch.set_num_threads(1)
    by_cpu = medians(steps, time.process_time, rounds)
    side = math.isqrt(ELEMENTS)
    data = [(torch.randn(32, side), torch.randn(32, side)) for _ in range(8)]
    estimate = Estimate(nn.Linear(side, side, bias=False), nn.functional.mse_loss, data, 10_000, 100.0, rounds, 1)
    made = rounds + rounds // 2
    whole = medians(estimate.runs(names, 1e-6, 1e-6), time.process_time, max(1, rounds // 8))
    return {
        "optimizer, 1 thread, CPU": by_cpu,
        f"optimizer, {threads} threads, clock": by_clock,
        "estimate, 1 thread, CPU": {name: seconds / made for name, seconds in whole.items()},
    }


def medians(runs: dict[str, Callable[[], Any]], clock: Callable[[], float], rounds: int) -> dict[str, float]:
    """Seconds of each run by a clock, medians of rounds in alternation after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            begin = clock()
            run()
            seconds[name].append(clock() - begin)
    return {name: statistics.median(taken[1:]) for name, taken in seconds.items()}


def peak_memory(name: str) -> int:
    """Bytes by which a parameter of 10 times ELEMENTS, its gradient and three steps raise the process's peak."""
    step = make_step(name, 1000)
    step()  # what is loaded on the first call
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now (Linux)
    before = peak_of_process()
    step = make_step(name, 10 * ELEMENTS)
    for _ in range(3):
        step()
    return peak_of_process() - before


def peak_of_process() -> int:
    """In bytes; ru_maxrss would not forget what importing took."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))


def memory(names: list[str]) -> dict[str, float]:
    """The same in units of the parameter, with parameter and gradient, in a process that holds nothing else."""
    code = f"from benchmarks.learning_coefficient import peak_memory; print(*map(peak_memory, {names!r}))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    sizes = [int(size) / (4 * 10 * ELEMENTS) for size in answer.stdout.split()]
    return dict(zip(names, sizes, strict=True))


def page(results: dict[str, Any]) -> str:
    """The page of a result file."""
    sizes = results["memory"]
    names = list(sizes)
    machine, versions = results["machine"], results["versions"]
    peer = f", devinterp {results['devinterp']}" if results["devinterp"] else ""
    lines = [
        "# The local learning coefficient",
        "",
        "`benchmarks/results/learning_coefficient.json`, by `python -m benchmarks.learning_coefficient`, "
        f"{results['date'][:10]}: {machine['cpu']}, {results['threads']} thread. torch {versions['torch']}{peer}, "
        f"commit {results['commit']}.",
        "",
        "Exact values are by quadrature at the same n and localization, the last column is the limit of n without it "
        "(Watanabe 2009; Aoyagi & Watanabe 2005). "
        f"{CHAINS} chains of {results['steps']} steps after a burn-in of half as many, {REPLICAS} replicas of each "
        "target; SGLD of both packages has the same step.",
        "",
        f"| model | exact | {' | '.join(names)} | limit |",
        f"| --- |{' --- |' * (len(names) + 2)}",
    ]
    for row in results["values"]:
        cells = [f"{row[name]['estimate']:.3g} ({row[name]['estimate'] / row['expected'] - 1:+.1%})" for name in names]
        lines.append(f"| {row['case']} | {row['expected']:.3g} | {' | '.join(cells)} | {row['asymptotic']:.3g} |")
    lines += [
        "",
        "Milliseconds of a step with anchors: of the optimizer alone, of one float32 parameter of 1e6 elements, and of "
        "the whole estimate, of a linear layer of as many and minibatches of 32. Ours also takes each minibatch's loss "
        "at the start, and the distance from it.",
        "",
        f"| step | {' | '.join(names)} | SGLD over devinterp's |",
        f"| --- |{' --- |' * (len(names) + 1)}",
        *(
            f"| {what} | {' | '.join(f'{1e3 * of[name]:.2f}' for name in names)} | {of[OURS_SGLD] / of[PEER]:.3f} |"
            for what, of in results["seconds_of_a_step"].items()
            if PEER in of
        ),
        f"| peak memory, in units of the parameter | {' | '.join(f'{sizes[name]:.1f}' for name in names)} | |",
        "",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning_coefficient", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures go, as JSON")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the page goes")
    parser.add_argument("--quick", action="store_true", help="few steps, as a smoke test")
    given = parser.parse_args(arguments)
    try:
        import importlib.metadata

        version: str | None = importlib.metadata.version("devinterp")
    except importlib.metadata.PackageNotFoundError:
        version = None
    names = [OURS, OURS_SGLD, *([PEER] if version else [])]
    steps = 60 if given.quick else 500
    warnings.simplefilter("ignore")  # of the chains of SGLD, some do not mix
    seconds = times(names, 8 if given.quick else 41)
    results = {
        **describe_run(torch.device("cpu"), "python -m benchmarks.learning_coefficient"),
        "devinterp": version,
        "threads": 1,
        "steps": steps,
        "seconds_of_a_step": seconds,
        "memory": memory(names),
        "values": values(steps, names),
    }
    write_json(given.results, results)
    write_atomically(given.page, lambda file: file.write_text(page(results)))


if __name__ == "__main__":
    main()
