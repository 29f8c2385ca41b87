"""What a step of HMC and MALA costs beside blackjax's jitted one: <out>/sampler_steps.json.

python -m benchmarks.samplers.steps [--out benchmarks/results] [--quick]
python -m benchmarks.samplers.steps --page [--check]

Both have the same start, step size and number of leapfrog steps, 16 chains and no adaptation, in float32 on one thread.
The kernels are the same Markov chains, so that the ratio of the times of a step is that of effective samples a second.
Runs of all take turns, and times are of CPU, the median over turns; compiling is told by itself. blackjax's loop over
steps is part of its jitted function, and ours is Python's. The second command writes docs/results/sampler_steps.md and
its picture of the file.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ald_ext.files import write_atomically, write_json
from ald_ext.paper.pictures import new_picture, save_picture
from ald_ext.paper.report.tables import markdown_table
from ald_ext.samplers import HMC, MALA, CapturedPotential, DatapointSampler

from ..harness import make_folder, progress
from ..page import PAGES, RESULTS
from ..provenance import describe_run
from .peers import XLA_FLAGS, scan_draws
from .targets import TARGETS, Target

TARGET_NAMES = ("logistic regression", "Student's t")
CHAINS, LEAPFROG_STEPS, SEED = 16, 10, 0
#: Step sizes of HMC and MALA: at these, most proposals are accepted.
HMC_STEP_SIZE, MALA_STEP_SIZE = 0.02, 0.001
STEPS, TURNS, QUICK_STEPS, QUICK_TURNS = 100, 15, 2, 2

#: Makes so many steps.
Steps = Callable[[], object]


def of_ours(target: Target, name: str, steps: int, make_potential: Callable[[Any], Any]) -> Steps:
    potential = make_potential(lambda _x, z: -target.log_density(z))
    start = 0.1 * torch.randn(1, CHAINS, target.dimension, generator=torch.Generator().manual_seed(SEED))
    sampler: DatapointSampler
    if name == "HMC":
        options: dict[str, Any] = {"step_size": HMC_STEP_SIZE, "num_leapfrog_steps": LEAPFROG_STEPS}
        sampler = HMC(potential, None, start, seed=SEED, **options)
    else:
        sampler = MALA(potential, None, start, seed=SEED, step_size=MALA_STEP_SIZE)

    def run() -> None:
        for _ in sampler.steps(steps):
            pass

    return run


def of_blackjax(target: Target, name: str, steps: int) -> Steps:
    os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)
    import blackjax
    import jax

    from .jax_targets import log_density

    density = log_density(target.name)
    if name == "HMC":
        metric = jax.numpy.ones(target.dimension)
        algorithm = blackjax.hmc(density, HMC_STEP_SIZE, metric, LEAPFROG_STEPS)
    else:
        algorithm = blackjax.mala(density, MALA_STEP_SIZE)

    def chain(key: Any, start: Any) -> Any:
        return scan_draws(jax, algorithm.step, algorithm.init(start), key, steps)[0]

    start = 0.1 * torch.randn(CHAINS, target.dimension, generator=torch.Generator().manual_seed(SEED))
    chains, inputs = jax.jit(jax.vmap(chain)), (jax.random.split(jax.random.key(SEED), CHAINS), start.numpy())
    return lambda: jax.block_until_ready(chains(*inputs))


#: By what they are called, functions of target, name of the sampler and number of steps.
VERSIONS: dict[str, Callable[[Target, str, int], Steps]] = {
    "plain": lambda *run: of_ours(*run, lambda potential: potential),
    "CapturedPotential": lambda *run: of_ours(*run, CapturedPotential),
    "compile=True": lambda *run: of_ours(*run, lambda potential: CapturedPotential(potential, compile=True)),
    "blackjax": of_blackjax,
}


def measure(target: Target, name: str, steps: int, turns: int) -> list[dict[str, Any]]:
    """Return a row for each version: CPU time of a step, and of what the first steps take more."""
    runs, first, times = {}, {}, {version: list[float]() for version in VERSIONS}
    target.log_density(torch.zeros(1, target.dimension))  # what it computes once, and keeps
    for label, make in VERSIONS.items():
        begin = time.process_time()
        runs[label] = make(target, name, steps)
        runs[label]()
        first[label] = time.process_time() - begin
    for _ in range(turns):
        for label, run in runs.items():
            begin = time.process_time()
            run()
            times[label].append((time.process_time() - begin) / steps)
    medians = {label: statistics.median(values) for label, values in times.items()}
    return [
        {
            "target": target.name,
            "sampler": name,
            "version": label,
            "microseconds": 1e6 * seconds,
            "over_blackjax": medians["blackjax"] / seconds,
            "first_seconds": first[label] - steps * seconds,
        }
        for label, seconds in medians.items()
    ]


def measure_all(quick: bool) -> dict[str, Any]:
    steps, turns = (QUICK_STEPS, QUICK_TURNS) if quick else (STEPS, TURNS)
    rows = []
    for target in TARGET_NAMES:
        for name in ("HMC", "MALA"):
            rows += measure(TARGETS[target], name, steps, turns)
            for row in rows[-len(VERSIONS) :]:
                figures = f"{row['microseconds']:.0f} µs a step, speed over blackjax {row['over_blackjax']:.2f}"
                progress(f"{target}: {name}: {row['version']}: {figures}")
    facts = describe_run(torch.device("cpu"), "python -m benchmarks.samplers.steps")
    facts["versions"] |= {package: version(package) for package in ("blackjax", "jax")}
    return facts | {"quick": quick, "chains": CHAINS, "leapfrog_steps": LEAPFROG_STEPS, "steps": steps, "rows": rows}


INTRODUCTION = """# The cost of a step of HMC and MALA

{chains} chains, {leapfrog_steps} leapfrog steps of HMC, no adaptation, float32, one thread of {cpu}. blackjax runs with
the same start, step size and number of leapfrog steps, and as it is the same Markov chain, speed over blackjax is that
in effective samples a second. Times are of CPU, medians over runs that take turns, as other processes share the cores.
First steps are what capturing, compiling, and loading data and libraries take besides."""

READING = """On a logistic regression of 569 data the products with the data are most of the work of a leapfrog step.
On ten dimensions without data there is hardly any: what is left is the time to call each kernel from Python, of which a
loop that is compiled as a whole has none.

![Microseconds of a step](sampler_steps.png)"""


def steps_page(results: dict[str, Any]) -> str:
    lines = [
        [
            row["target"],
            row["sampler"],
            row["version"],
            f"{row['microseconds']:,.0f}",
            f"{row['over_blackjax']:.2f}",
            f"{max(row['first_seconds'], 0):.1f}",
        ]
        for row in results["rows"]
    ]
    header = ["target", "sampler", "potential", "µs a step", "speed over blackjax", "first steps, s"]
    facts = {name: results[name] for name in ("chains", "leapfrog_steps")} | {"cpu": results["machine"]["cpu"]}
    versions = ", ".join(f"{name} {results['versions'][name]}" for name in ("torch", "ald_ext", "blackjax", "jax"))
    source = f"`benchmarks/results/sampler_steps.json`, {results['date'][:10]}, by `{results['origin']}`: {versions}."
    return "\n\n".join([INTRODUCTION.format(**facts), markdown_table(header, lines), READING, source]) + "\n"


def draw(results: dict[str, Any], path: Path) -> None:
    pairs = [(target, name) for target in TARGET_NAMES for name in ("HMC", "MALA")]
    picture, panels = new_picture(1, len(pairs), (11, 2.8), sharey=True)
    for axes, (target, name) in zip(panels[0], pairs, strict=True):
        rows = [row for row in results["rows"] if (row["target"], row["sampler"]) == (target, name)]
        colors = ["#c03030" if row["version"] == "blackjax" else "#2060b0" for row in rows]
        axes.barh(
            [row["version"] for row in rows][::-1], [row["microseconds"] for row in rows][::-1], color=colors[::-1]
        )
        axes.set(title=f"{name},\n{target}", xlabel="µs a step")
    save_picture(picture, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the file; default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="a few steps: figures mean nothing")
    parser.add_argument("--page", action="store_true", help="write the page of the file, and measure nothing")
    parser.add_argument("--check", action="store_true", help="with --page: fail where it is not of the file")
    arguments = parser.parse_args()
    path = arguments.out / "sampler_steps.json"
    if arguments.quick and arguments.out.resolve() == RESULTS:
        parser.error("--quick: its rough figures do not go to benchmarks/results; give another folder by --out")
    missing = [package for package in ("blackjax", "jax") if not importlib.util.find_spec(package)]
    if missing and of_blackjax in VERSIONS.values() and not arguments.page:
        parser.error(f"{missing[0]} is not installed; pip install -r benchmarks/samplers/requirements.txt")
    if not arguments.page:
        make_folder(arguments.out, parser)
        torch.set_num_threads(1)
        write_json(path, measure_all(arguments.quick))
        progress(f"{path}: written")
        return
    results = json.loads(path.read_text())
    pages = PAGES if arguments.out.resolve() == RESULTS else arguments.out
    page, text = pages / "sampler_steps.md", steps_page(results)
    if arguments.check:
        if not page.exists() or page.read_text() != text:
            sys.exit(f"{page}: got a text that is not of {path.name}; --page without --check writes it")
        return
    write_atomically(page, lambda file: file.write_text(text))
    draw(results, pages / "sampler_steps.png")


if __name__ == "__main__":
    main()
