"""Tests the normals of ald_ext.ops.normal; writes noise.json and its page noise.md; fails if a test does.

python -m tools.noise [--draws 1e9] [--quick] [--out FOLDER] [--threads 1]
python -m tools.noise --page-only

The results go to benchmarks/results and the page to docs/results, or both to FOLDER.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ald_ext import ops, reference
from ald_ext.files import write_json
from benchmarks.harness import make_folder
from benchmarks.page import PAGES, RESULTS
from benchmarks.provenance import REPOSITORY, describe_run

from .avalanche import NUMBER_OF_FLIPS, Philox, avalanche_outcomes
from .keys import BATCH, DISTANT, NEIGHBOURS, NoiseKey, Normal, Relation, key_of_batch
from .null_distributions import largest_of, normal_two_sided
from .page import write_page
from .tallies import CorrelationTally, Outcome, StreamTally, failures, hermite

DRAWS, QUICK_DRAWS = 10**9, 10**7
#: The largest share of runs on perfect noise that fail, in one test or more.
FALSE_POSITIVE_RATE = 1e-3
#: Another thread saves a third of the time, but where others use its core, all wait for it, ten times as long.
THREADS = 1
#: Small keys: all triples of a seed, a step and a parameter below it.
SMALL = 8
#: Elements of every small key at a time.
SMALL_CHUNK = 2**14

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Plan:
    """How much is drawn. float64 and distant keys get a tenth: they have the words of float32 and of near keys."""

    single_batches: int
    double_batches: int
    distant_batches: int
    small_key_chunks: int
    avalanche_blocks: int

    @classmethod
    def of(cls, draws: int) -> Plan:
        # Among the first four batches are keys of both ends of the range.
        tenth = max(4, math.ceil(draws / 10 / BATCH))
        return cls(
            single_batches=max(4, math.ceil(draws / BATCH)),
            double_batches=tenth,
            distant_batches=tenth,
            small_key_chunks=max(1, draws // (4 * SMALL**3 * SMALL_CHUNK)),
            avalanche_blocks=min(2**16, max(2**10, draws >> 14)),
        )

    def work(self) -> int:
        """What ``progress`` adds up to."""
        batches = 2 * self.single_batches + self.double_batches + self.distant_batches
        return batches + self.small_key_chunks + NUMBER_OF_FLIPS


def check_noise(normal: Normal, philox: Philox, plan: Plan, progress: Progress) -> tuple[list[Outcome], dict[str, Any]]:
    """Every test, and what the page shows beside them: by dtype, the histogram and the number of exact zeros."""
    outcomes: list[Outcome] = []
    shown: dict[str, Any] = {"histogram": {}, "zeros": {}}
    for dtype, batches in ((torch.float32, plan.single_batches), (torch.float64, plan.double_batches)):
        tally = tally_streams(normal, dtype, batches, progress)
        outcomes += tally.outcomes()
        shown["histogram"][tally.name] = tally.distribution.plot_histogram()
        shown["zeros"][tally.name] = tally.distribution.zeros
    outcomes += correlate_keys("neighbouring keys", normal, NEIGHBOURS, plan.single_batches, progress)
    outcomes += correlate_keys("distant keys", normal, DISTANT, plan.distant_batches, progress)
    outcomes += small_key_outcomes(normal, plan.small_key_chunks, progress)
    outcomes += avalanche_outcomes(philox, plan.avalanche_blocks, progress)
    return outcomes, shown


def tally_streams(normal: Normal, dtype: torch.dtype, batches: int, progress: Progress) -> StreamTally:
    tally = StreamTally(dtype)
    for number in range(batches):
        tally.add(key_of_batch(number).draw(normal, BATCH, dtype))
        progress(1)
    return tally


def correlate_keys(
    group: str, normal: Normal, relations: Sequence[Relation], batches: int, progress: Progress
) -> list[Outcome]:
    """Correlations of the streams of the first batches, in float32, with those of related keys."""
    tallies = [CorrelationTally(group, relation.name) for relation in relations]
    for number in range(batches):
        key = key_of_batch(number)
        polynomials = hermite(key.draw(normal, BATCH, torch.float32))
        for relation, tally in zip(relations, tallies, strict=True):
            partner = relation.partner(key)
            if partner is not None:
                tally.add(polynomials, hermite(partner.draw(normal, BATCH, torch.float32)))
        progress(1)
    return [outcome for tally in tallies for outcome in tally.outcomes()]


def small_key_outcomes(normal: Normal, chunks: int, progress: Progress) -> list[Outcome]:
    """Streams of the smallest keys, each against each: their means, and all correlation coefficients.

    Of He_k with k = 1 (x) and 2 (x²). Coefficients, unlike mean products, have no common factor with those of the same
    stream, so that the sum of their squares, times the number of elements, is χ².
    """
    keys = [NoiseKey(*numbers) for numbers in itertools.product(range(SMALL), repeat=3)]
    sums = torch.zeros(2, len(keys), dtype=torch.float64)
    products = torch.zeros(2, len(keys), len(keys), dtype=torch.float64)
    for chunk in range(chunks):
        placed = [replace(key, offset=chunk * SMALL_CHUNK) for key in keys]
        streams = torch.stack([key.draw(normal, SMALL_CHUNK, torch.float32) for key in placed])
        for order, values in enumerate(hermite(streams)[:2]):
            sums[order] += values.sum(1, dtype=torch.float64)
            products[order] += values @ values.T
        progress(1)
    n, degrees = chunks * SMALL_CHUNK, len(keys) * (len(keys) - 1) // 2
    draws, above = n * len(keys), torch.triu_indices(len(keys), len(keys), offset=1)
    # The median m of the largest |z| among independent z: P(|Z| ≤ m)^degrees = 1/2.
    beyond = torch.tensor(-math.expm1(math.log(0.5) / degrees), dtype=torch.float64)
    median = -float(torch.special.ndtri(beyond / 2))
    outcomes = []
    for order in (1, 2):
        of_means, of_pairs = float((sums[order - 1] ** 2).sum()) / n, products[order - 1]
        norms = of_pairs.diagonal().sqrt()
        z = (of_pairs / torch.outer(norms, norms))[above[0], above[1]] * math.sqrt(n)
        largest = float(z.abs().max())
        names = (
            f"χ² of the means of He_{order} of {len(keys)} streams",
            f"χ² of {degrees} correlations of He_{order}",
            f"largest correlation of He_{order}, in standard errors (expected: its median)",
        )
        p_value = largest_of(normal_two_sided(largest), degrees)
        outcomes += [
            Outcome.chi_square("small keys", names[0], draws, of_means, len(keys)),
            Outcome.chi_square("small keys", names[1], draws, float((z**2).sum()), degrees),
            Outcome("small keys", names[2], draws, largest, median, p_value),
        ]
    return outcomes


def measure_all(draws: int, quick: bool) -> dict[str, Any]:
    """Everything that the JSON file holds."""
    plan = Plan.of(draws)
    # Avalanche is tested on the reference's words, of which the op's normals have to be made.
    key = asdict(NoiseKey(seed=1, step=2, parameter=3, offset=4))
    difference = float((ops.normal(1000, **key) - reference.normal(1000, **key)).abs().max())
    if difference > 1e-4:
        sys.exit(
            f"ald_ext.ops.normal differs from ald_ext.reference.normal by {difference:.2g}: built from other sources?"
        )
    description = describe_run(torch.device("cpu"), "make noise-check")
    description["versions"]["numpy"] = np.__version__
    description["generator"] = {"philox_rounds": reference.PHILOX_ROUNDS, "transform": note("Box-Muller")}
    begin = time.monotonic()
    with tqdm(total=plan.work(), unit="batch", mininterval=1) as bar:
        outcomes, shown = check_noise(ops.normal, reference.philox, plan, bar.update)
    failed = failures(outcomes, FALSE_POSITIVE_RATE)
    return {
        **description,
        "quick": quick,
        "plan": asdict(plan),
        "batch": BATCH,
        "seconds": time.monotonic() - begin,
        "false_positive_rate": FALSE_POSITIVE_RATE,
        "p_value_limit": FALSE_POSITIVE_RATE / len(outcomes),
        "tests": [asdict(outcome) for outcome in outcomes],
        "failed": [f"{outcome.group}: {outcome.name}" for outcome in failed],
        **shown,
    }


def note(title: str) -> str:
    """What csrc/math/normal.h says under ``Note [title]``."""
    lines = (REPOSITORY / "csrc/math/normal.h").read_text().splitlines()
    begin = lines.index(f"// Note [{title}]") + 1
    following = itertools.takewhile(lambda line: line.startswith("// ") and "Note [" not in line, lines[begin:])
    return " ".join(line.removeprefix("//").strip() for line in following)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=float, help=f"float32 normals; default: {DRAWS:.0e}, quick: {QUICK_DRAWS:.0e}")
    parser.add_argument("--quick", action="store_true", help="fewer normals: small faults stay unseen")
    parser.add_argument("--out", type=Path, help="folder for the results and the page")
    parser.add_argument("--threads", type=int, default=THREADS, help=f"CPU threads; default: {THREADS}")
    parser.add_argument("--page-only", action="store_true", help="write the page of results that are there")
    arguments = parser.parse_args()
    draws = (QUICK_DRAWS if arguments.quick else DRAWS) if arguments.draws is None else arguments.draws
    if not BATCH <= draws <= 2**43:
        parser.error(f"--draws: got {draws:g}, expected {BATCH} to {2**43}")
    if arguments.threads < 1:
        parser.error(f"--threads: got {arguments.threads}, expected 1 or more")
    if arguments.out is not None:
        make_folder(arguments.out, parser)
    results_folder, pages = (arguments.out,) * 2 if arguments.out else (RESULTS, PAGES)
    path = results_folder / "noise.json"
    if not arguments.page_only:
        torch.set_num_threads(arguments.threads)
        write_json(path, measure_all(int(draws), arguments.quick))
    results = json.loads(path.read_text())
    write_page(results, pages)
    if results["failed"]:
        sys.exit("\n".join([f"{len(results['failed'])} of {len(results['tests'])} tests failed:", *results["failed"]]))


if __name__ == "__main__":
    main()
