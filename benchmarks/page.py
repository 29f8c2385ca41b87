"""Writes the page of results, README.md beside the JSON files that measured them, and each run's table and plot.

python benchmarks/results_page.py [--results benchmarks/results] [--check]

Nothing in the page is written by hand, and the same JSON files give the same text; --check only compares it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from acceptance import acceptance_table
from names import COPY, NO_NOISE, NOISE_ALONE, OURS
from report import commit_of, families, left_out, machine_of, origin_of, versions_of, write_table
from tables import Results, find_row, markdown_table, number
from training_table import training_section

from ald_ext.files import write_atomically

RESULTS = Path(__file__).resolve().parent / "results"

#: Of whose runs the page tells: the names of the JSON files.
DEVICES = {"cpu": "CPU", "cuda": "CUDA"}
#: The files about training, by device.
TRAINING = {device: f"training_{device}" for device in DEVICES}

INTRODUCTION = """# Results

Written by `python benchmarks/results_page.py` from the JSON files beside it, as are the tables and plots; `make lint`
fails where they differ. `make bench` measures on a CPU, `make gpu-check` on a GPU, and both write this page again."""

ACCEPTANCE = """## What was asked for

A figure is the median of the samples (20th to 80th percentile), which are ratios within one round of the alternation.
What is asked of it is asked of the median. "Ours" is the bare op on one tensor; `PSGLD.step()` and `SGLD.step()` are
the whole optimizers. Dequantization stands beside three ways to write it, which differ much in speed; the one with two
logarithms is the formula of the op's documentation. Of training, it is whole steps, see "Training" below."""

PLOT = """Dotted lines are rooflines: what the bytes that a step must move take at the bandwidth of a large `copy_`. A
step can be faster where its tensors fit the caches and, on a CPU, because a copy may also read the memory that it
overwrites, which is not counted; a step in place does not. The dash-dotted black line is the arithmetic floor, the
noise alone. Bars go from the 20th to the 80th percentile."""

READING = """Median (20th to 80th percentile) of the rounds; GB/s. GB/s counts the bytes that the computation must read
and write, in the column `bytes`, whatever a variant moves. Adam, SGD and RMSprop draw no noise."""


def load_results(folder: Path) -> dict[str, Results]:
    """By device, of those that were measured."""
    return load_files(folder, DEVICES)


def load_training(folder: Path) -> dict[str, Results]:
    """By name of the file, of the devices on which training was measured."""
    return load_files(folder, TRAINING.values())


def load_files(folder: Path, names: Iterable[str]) -> dict[str, Results]:
    """The contents of the JSON files that are there, by name."""
    paths = {name: folder / f"{name}.json" for name in names}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def write_page(folder: Path) -> None:
    """README.md, and the table and the plot of each device."""
    from plot import draw_plot  # matplotlib is not needed to check

    all_results = load_results(folder)
    for path, text in pages(folder, all_results).items():
        write_atomically(path, partial(Path.write_text, data=text))
    for device, results in all_results.items():
        write_atomically(folder / f"{device}.png", partial(draw_plot, results))


def pages(folder: Path, all_results: Mapping[str, Results]) -> dict[Path, str]:
    """The text of every file that is made from the results."""
    tables = {folder / f"{device}.md": write_table(results) for device, results in all_results.items()}
    has_noise = (folder / "noise.json").exists()
    return {**tables, folder / "README.md": results_page(all_results, load_training(folder), has_noise)}


def results_page(all_results: Mapping[str, Results], training: Mapping[str, Results], has_noise: bool) -> str:
    noise = "The quality of the noise is tested apart: [noise.md](noise.md), from [noise.json](noise.json)."
    sections = [
        INTRODUCTION,
        *([noise] if has_noise else []),
        machines(all_results),
        *(f"{device}.json is of a quick run: rough." for device, results in all_results.items() if results["quick"]),
        ACCEPTANCE,
        acceptance_table({**all_results, **training}),
        *([training_section(training)] if training else []),
        *(device_section(device, results) for device, results in all_results.items()),
    ]
    return "\n\n".join(sections) + "\n"


def machines(all_results: Mapping[str, Results]) -> str:
    """Where the figures come from, a line for each device."""
    return "\n".join(
        f"- [{device}.json]({device}.json) ([its tables]({device}.md)), {results['date'][:10]}: {machine_of(results)}. "
        f"{versions_of(results)}, commit {commit_of(results)}.{origin_of(results)} `copy_` of a large buffer: "
        f"{number(results['copy_bandwidth_gb_per_s']['median'])} GB/s, bytes read and written."
        for device, results in all_results.items()
    )


def device_section(device: str, results: Results) -> str:
    parts = [
        f"## {DEVICES[device]}",
        f"![ns per parameter over the number of parameters]({device}.png)",
        PLOT,
        floors_table(results),
        READING,
        *left_out(results),
        families(results, "###"),
    ]
    return "\n\n".join(parts)


def floors_table(results: Results) -> str:
    """Of the largest size: what the memory and the noise cost by themselves, and the step that does both."""
    rows = [row for row in results["rows"] if row["family"] == "update" and row["variant"] == OURS]
    if not rows:
        return "The step was not measured."
    largest = max(rows, key=lambda row: row["elements"])
    gb_per_s = results["copy_bandwidth_gb_per_s"]["median"]
    count = largest["bytes_per_element"]
    body = [[f"memory: {count} bytes at {number(gb_per_s)} GB/s", number(count / gb_per_s)]]
    for label, variant in (
        ("the noise alone, written to memory", NOISE_ALONE),
        ("the step without noise", NO_NOISE),
        ("the step", OURS),
        (f"`{COPY}` of one tensor", COPY),
    ):
        row = find_row(results, "update", largest["size"], variant)
        body.append([label, number(row["ns_per_element"]["median"]) if row else "not measured"])
    return markdown_table([f"pSGLD, {largest['size']} float32 parameters", "ns per parameter"], body)


def stale(folder: Path) -> list[str]:
    """The files whose text is not that of the results."""
    texts = pages(folder, load_results(folder))
    return [path.name for path, text in texts.items() if not path.exists() or path.read_text() != text]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files and of the page")
    parser.add_argument(
        "--check", action="store_true", help="fail where a text differs from the results; write nothing"
    )
    arguments = parser.parse_args()
    if not arguments.check:
        write_page(arguments.results)
    elif names := stale(arguments.results):
        sys.exit(
            f"{', '.join(names)} in {arguments.results}: not those of the JSON files; run python {sys.argv[0]} "
            f"--results {arguments.results}"
        )


if __name__ == "__main__":
    main()
