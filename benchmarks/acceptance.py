"""What was asked of the speed, and whether a run meets it: computed from the JSON files, never written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from names import (
    BACKWARD,
    COPY,
    FOREACH_STEP,
    FORWARD,
    GIGABYTE,
    IN_PLACE_STEP,
    IN_TENSORS,
    MLP_CASE,
    OUR_STEP,
    OUR_VAE_STEP,
    OURS,
    PLAIN_STEP,
    SMALL_CONV_CASE,
)
from report import bandwidth_share
from tables import Results, Row, find_ratio, markdown_table, spread

#: Finds median, p20 and p80 in the results of a device; None where they were not measured.
Measure = Callable[[Results], Row | None]


@dataclass(frozen=True)
class Requirement:
    """A figure with the value that it must have and the one that is hoped for; of the median.

    ``device`` names the JSON file that has it.
    """

    figure: str
    device: str
    measure: Measure
    must: float
    goal: float
    at_most: bool = False
    percent: bool = False

    def meets(self, median: float, bound: float) -> bool:
        return median <= bound if self.at_most else median >= bound

    def verdict(self, measured: Row | None) -> str:
        if measured is None:
            return "not measured"
        if self.meets(measured["median"], self.goal):
            return "goal met"
        return "must met" if self.meets(measured["median"], self.must) else "**missed**"

    def bound(self, value: float) -> str:
        return f"{'≤' if self.at_most else '≥'} {f'{value:.0%}' if self.percent else f'{value:g}'}"

    def table_row(self, all_results: Mapping[str, Results]) -> list[str]:
        measured = self.measure(all_results[self.device]) if self.device in all_results else None
        value = "" if measured is None else spread(measured, 100 if self.percent else 1) + " %" * self.percent
        return [self.figure, value, self.bound(self.must), self.bound(self.goal), self.verdict(measured)]


def ratio(family: str, size: str, numerator: str, denominator: str) -> Measure:
    return lambda results: find_ratio(results, family, size, numerator, denominator)


def strongest(measures: Sequence[Measure]) -> Measure:
    """Of several baselines, the one that comes closest to ours; None unless all were measured."""

    def measure(results: Results) -> Row | None:
        found = [row for row in (one(results) for one in measures) if row is not None]
        return min(found, key=lambda row: row["median"]) if len(found) == len(measures) else None

    return measure


def on_h200(measure: Measure) -> Measure:
    """Another GPU's figure is not an answer."""
    return lambda results: measure(results) if "H200" in results["machine"].get("gpu", "") else None


def share(family: str, size: str, variant: str) -> Measure:
    """Of the bandwidth of the `copy_` that ran in alternation with the variant."""

    def measure(results: Results) -> Row | None:
        found = find_ratio(results, family, size, COPY, variant)
        return None if found is None else bandwidth_share(results, found)

    return on_h200(measure)


def kernels(variant: str) -> Measure:
    def measure(results: Results) -> Row | None:
        for row in results.get("cuda_graph_rows", []):
            if row["variant"] == variant and "kernels_per_step" in row:
                return dict.fromkeys(("median", "p20", "p80"), row["kernels_per_step"])
        return None

    return on_h200(measure)


at_1e7 = partial(ratio, "update", "1e7")
in_tensors = partial(ratio, "update", IN_TENSORS)
dequantized = partial(ratio, "dequantization", "500 x 3072")
trained_lae = partial(ratio, MLP_CASE, "lae")

REQUIREMENTS = (
    Requirement(
        "ours over Adam(fused=True), 1e7", "cpu", at_1e7(OURS, "Adam(fused=True)"), must=1.5, goal=1.0, at_most=True
    ),
    Requirement("allocation-free PyTorch over ours, 1e7", "cpu", at_1e7("in-place PyTorch", OURS), must=6, goal=10),
    Requirement(
        "torch.compile with a `normal_()` buffer over ours, 1e7", "cpu", at_1e7("torch.compile", OURS), must=4.5, goal=7
    ),
    *(
        Requirement(
            f"{name}.step() over SGD(fused=True).step(), 1e4 in 32 tensors",
            "cpu",
            in_tensors(f"ald_ext.{name}", "SGD(fused=True)"),
            must=1.5,
            goal=1.0,
            at_most=True,
        )
        for name in ("PSGLD", "SGLD")
    ),
    Requirement(
        "marginal likelihood and gradients, 500 x 3072: PyTorch over ours",
        "cpu",
        ratio("marginal likelihood", "500 x 3072", "plain PyTorch", OURS),
        must=3,
        goal=5,
    ),
    *(
        Requirement(
            f"dequantization and gradient, 500 x 3072: {baseline} over ours, {formula}",
            "cpu",
            dequantized(f"{variant}{suffix}", OURS),
            must=must,
            goal=goal,
        )
        for baseline, variant, must, goal in (("PyTorch", "plain PyTorch", 5, 10), ("torch.compile",) * 2 + (1.2, 2))
        for formula, suffix in (
            ("written with two logarithms", ", two logs"),
            ("the paper's formula, unstable in its tails", ", unstable tails"),
            ("stable in its tails, as ours is", ""),
        )
    ),
    Requirement(
        "training, LAE, MLP of 5 million parameters, batch 100: PyTorch (the faster of plain and foreach) over ours",
        "training_cpu",
        strongest([trained_lae(step, OUR_STEP) for step in (PLAIN_STEP, FOREACH_STEP)]),
        must=1.6,
        goal=2,
    ),
    Requirement(
        "training, the same: allocation-free PyTorch over ours",
        "training_cpu",
        trained_lae(IN_PLACE_STEP, OUR_STEP),
        must=1.6,
        goal=2,
    ),
    *(
        Requirement(
            f"training, {family}: LAE over VAE, both ours",
            "training_cpu",
            ratio(family, "lae", OUR_STEP, OUR_VAE_STEP),
            must=1.0,
            goal=0.9,
            at_most=True,
        )
        for family in (MLP_CASE, SMALL_CONV_CASE)
    ),
    Requirement(
        "H200: pSGLD, 1e8 float32, share of copy bandwidth",
        "cuda",
        share("update", "1e8", OURS),
        must=0.85,
        goal=0.95,
        percent=True,
    ),
    *(
        Requirement(
            f"H200: {family} {direction}, {GIGABYTE} (1 GB), share of copy bandwidth",
            "cuda",
            share(family, GIGABYTE, variant),
            must=0.85,
            goal=0.95,
            percent=True,
        )
        for family in ("marginal likelihood", "dequantization")
        for direction, variant in (("forward", FORWARD), ("backward", BACKWARD))
    ),
    Requirement(
        "H200: kernels a PSGLD step in a CUDA graph, 1e4 in 32 tensors",
        "cuda",
        kernels("ald_ext.PSGLD"),
        must=2,
        goal=1,
        at_most=True,
    ),
)


def acceptance_table(all_results: Mapping[str, Results]) -> str:
    body = [requirement.table_row(all_results) for requirement in REQUIREMENTS]
    return markdown_table(["figure", "measured", "must", "goal", ""], body)
