"""The local learning coefficient beside devinterp's on models whose value is known; time and memory of a step.

python -m benchmarks.learning_coefficient [--results FILE] [--quick]

devinterp 1.3.2 is compared with where it is installed (pip install 'devinterp<2'): later versions estimate the
coefficient of language models only. The estimates have the same number of steps and the same β and localization; SGLD
has the same step. The step is that of one parameter of 1e6 elements, in alternation, by CPU time.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ald_ext import SGHMC, SGLD
from ald_ext.bayes import local_learning_coefficient
from ald_ext.files import write_atomically, write_json

from .exact_coefficients import CASES, NO_DATA, ExactCase, first
from .provenance import REPOSITORY, describe_run

RESULTS = REPOSITORY / "benchmarks" / "results" / "learning_coefficient.json"
PAGE = REPOSITORY / "docs" / "results" / "learning_coefficient.md"
OURS, OURS_SGLD, PEER = "ald_ext SGHMC", "ald_ext SGLD", "devinterp SGLD"
CHAINS, REPLICAS, SGHMC_LR = 4, 20, 0.2
ELEMENTS = 10**6


def estimate_by_ours(case: ExactCase, optimizer_class: Any, lr: float, steps: int) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the chains of SGLD, some do not mix
        return local_learning_coefficient(
            case.model(REPLICAS),
            first,
            NO_DATA,
            lr=lr,
            num_data=case.num_data,
            localization=case.localization,
            optimizer_class=optimizer_class,
            chains=CHAINS,
            num_steps=steps,
            burn_in=steps // 2,
            seed=1,
        ).estimate


def estimate_by_peer(case: ExactCase, steps: int) -> float:
    from devinterp.optim import sgld
    from devinterp.slt.sampler import estimate_learning_coeff_with_summary

    def evaluate(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return model(batch[0])

    summary = estimate_learning_coeff_with_summary(
        case.model(REPLICAS),
        DataLoader(TensorDataset(torch.zeros(4, 1), torch.zeros(4, 1)), batch_size=4),
        callbacks=[],
        evaluate=evaluate,
        sampling_method=sgld.SGLD,
        optimizer_kwargs={
            "lr": 2 * case.lr / case.beta_n,
            "localization": case.localization,
            "nbeta": case.beta_n,
        },
        num_draws=steps,
        num_chains=CHAINS,
        num_burnin_steps=steps // 2,
        init_loss=0.0,
        seed=1,
        verbose=False,
    )
    return float(summary["llc/mean"])


def values(steps: int, with_peer: bool) -> list[dict[str, Any]]:
    """Estimates of each case, a replica, beside the exact value, with their seconds."""
    rows = []
    for case in CASES:
        runs: dict[str, Callable[[], float]] = {
            OURS: lambda case=case: estimate_by_ours(case, SGHMC, SGHMC_LR, steps),  # type: ignore[misc]
            OURS_SGLD: lambda case=case: estimate_by_ours(case, SGLD, case.lr, steps),  # type: ignore[misc]
        }
        if with_peer:
            runs[PEER] = lambda case=case: estimate_by_peer(case, steps)  # type: ignore[misc]
        row: dict[str, Any] = {
            "case": case.name,
            "expected": case.expected(case.beta_n, case.localization),
            "asymptotic": case.coefficient,
        }
        for name, run in runs.items():
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


def times(names: list[str], rounds: int) -> dict[str, float]:
    """CPU seconds of a step, medians of rounds in alternation."""
    steps = {name: make_step(name, ELEMENTS) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, step in steps.items():
            begin = time.process_time()
            step()
            seconds[name].append(time.process_time() - begin)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


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
    seconds, sizes = results["seconds_of_a_step"], results["memory"]
    names = [name for name in (OURS, OURS_SGLD, PEER) if name in seconds]
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
        f"| a step with anchors, 1e6 float32 parameters | {' | '.join(names)} |",
        f"| --- |{' --- |' * len(names)}",
        f"| CPU ms | {' | '.join(f'{1e3 * seconds[name]:.2f}' for name in names)} |",
        f"| peak memory, in units of the parameter | {' | '.join(f'{sizes[name]:.1f}' for name in names)} |",
        "",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning_coefficient", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures go, as JSON")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the page goes")
    parser.add_argument("--quick", action="store_true", help="few steps, as a smoke test")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        import importlib.metadata

        version: str | None = importlib.metadata.version("devinterp")
    except importlib.metadata.PackageNotFoundError:
        version = None
    names = [OURS, OURS_SGLD, *([PEER] if version else [])]
    steps = 60 if given.quick else 500
    results = {
        **describe_run(torch.device("cpu"), "python -m benchmarks.learning_coefficient"),
        "devinterp": version,
        "threads": 1,
        "steps": steps,
        "seconds_of_a_step": times(names, 5 if given.quick else 41),
        "memory": memory(names),
        "values": values(steps, version is not None),
    }
    write_json(given.results, results)
    write_atomically(given.page, lambda file: file.write_text(page(results)))


if __name__ == "__main__":
    main()
