"""Writes the figures of README.md from the files that measured them: `python benchmarks/readme_figures.py`.

Between the markers <!-- NAME --> and <!-- /NAME --> nothing is written by hand. --check only compares.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import models_page
from experiments_page import aims_table
from image_aims import aims_table as image_aims_table
from names import BACKWARD, COPY, FOREACH_STEP, FORWARD, GIGABYTE, MLP_CASE, OUR_STEP, OURS, SMALL_CONV_CASE
from report import commit_of, machine_of, origin_of, versions_of
from results_page import load_results, load_training
from tables import Results, find_row, markdown_table, number

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks/results"

#: What the README quotes of the ratios of update times, numerator over denominator, and how it calls them.
QUOTED_RATIOS = {
    ("plain PyTorch", "ald_ext op"): "plain PyTorch over ours",
    ("in-place PyTorch", "ald_ext op"): "allocation-free PyTorch over ours",
    ("torch.compile", "ald_ext op"): "torch.compile with a `normal_()` buffer over ours",
    ("normal_ alone", "ald_ext op"): "torch's `normal_()` alone over ours",
    ("ald_ext op", "Adam(fused=True)"): "ours over Adam(fused=True), which draws no noise",
    ("ald_ext.PSGLD", "ald_ext op"): "`PSGLD.step()` over our bare op",
}


def speed(results: dict[str, Any]) -> str:
    """The table of the update's ratios."""
    ratios = {
        (ratio["numerator"], ratio["denominator"], ratio["size"]): ratio["median"]
        for ratio in results["ratios"]
        if ratio["family"] == "update"
    }
    sizes = list(dict.fromkeys(size for _, _, size in ratios))
    machine = results["machine"]
    lines = [
        f"Ratios of times, pSGLD step, float32, {machine['cores']} cores of one {machine['cpu']} "
        f"({machine['instruction_set']}), torch {results['versions']['torch']}:",
        "",
        "| parameters | " + " | ".join(sizes) + " |",
        "| --- |" + " ---: |" * len(sizes),
    ]
    for (numerator, denominator), text in QUOTED_RATIOS.items():
        found = [ratios.get((numerator, denominator, size)) for size in sizes]
        lines.append(f"| {text} | {' | '.join('' if value is None else f'{value:.2g}' for value in found)} |")
    return "\n".join(lines)


def models() -> str:
    """The table of all models, and where it was measured."""
    return f"{models_page.table()}\n\n{models_page.footnote()}"


def demo() -> str:
    """About the run behind the README's picture."""
    lae = models_page.load_runs()["lae"]
    return (
        f"The run behind the picture ([metrics](docs/models/lae/metrics.json)) took {lae['seconds']:.0f} s on "
        f"{lae['threads']} cores ({lae['epochs']} epochs, {lae['images_per_second']:.0f} images/s) and reached a test "
        f"error (mean squared error on [0, 1] pixels) of {lae['test_re']:.4f}."
    )


#: What the README quotes of the ratios of training steps: (family, model, numerator, denominator).
QUOTED_TRAINING = {
    (
        "mlp, batch 100",
        "lae",
        "PyTorch, plain step",
        "ours",
    ): "LAE, MLP of 5M parameters: plain PyTorch over ours",
    ("mlp, batch 100", "lae", "PyTorch, foreach step", "ours"): "the same: `torch._foreach` over ours",
    ("mlp, batch 100", "lae", "torch.compile", "ours"): "the same: `torch.compile` over ours",
    ("mlp, batch 100", "lae", "ours", "ours, vae"): "the same: LAE over VAE, both ours",
    ("conv, batch 50", "lae", "PyTorch, foreach step", "ours"): "LAE, convolutional: `torch._foreach` over ours",
    ("conv, batch 50", "lae", "torch.compile", "ours"): "the same: `torch.compile` over ours",
    ("conv, batch 50", "lae", "ours", "ours, vae"): "the same: LAE over VAE, both ours",
}


def training(results: dict[str, Any]) -> str:
    """The table of the training steps' ratios."""
    keys = ("family", "size", "numerator", "denominator")
    ratios = {tuple(ratio[key] for key in keys): ratio["median"] for ratio in results["ratios"]}
    lines = ["| ratio of times of a step | |", "| --- | ---: |"]
    found = [f"| {text} | {ratios[key]:.2f} |" for key, text in QUOTED_TRAINING.items() if key in ratios]
    return "\n".join([*lines, *found])


NO_CUDA = (
    "The CUDA kernels compile and link in every build. No measurement of them is kept here yet (`make gpu-check` makes "
    "one on a\nmachine with a GPU), so nothing is claimed of their speed."
)

#: What the README quotes of the bandwidths on a GPU, beside that of `copy_`: (family, size, variant).
QUOTED_BANDWIDTHS = {
    ("update", "1e8", OURS): "pSGLD step of 1e8 float32 parameters",
    **{
        (family, GIGABYTE, variant): f"{family} of 1 GB, {direction}"
        for family in ("marginal likelihood", "dequantization")
        for direction, variant in (("forward", FORWARD), ("backward", BACKWARD))
    },
}
#: Of training: (family, model, variant of the peer, model of the peer).
QUOTED_STEPS = {
    (MLP_CASE, "lae", FOREACH_STEP, "lae"): "training step of an LAE, MLP of 5M parameters, batch 100",
    (MLP_CASE, "lae", OUR_STEP, "vae"): "the same",
    (SMALL_CONV_CASE, "lae", FOREACH_STEP, "lae"): "training step of an LAE, convolutional, batch 50",
    (SMALL_CONV_CASE, "lae", OUR_STEP, "vae"): "the same",
}


def cuda(kernels: Results | None, steps: Results | None) -> str:
    """The table of a GPU's figures, and where they were measured; of either file, where it is there."""
    rows = [*(bandwidth_rows(kernels) + graph_rows(kernels) if kernels else []), *(step_rows(steps) if steps else [])]
    if not rows:
        return NO_CUDA
    sources = {"cuda": kernels, "training_cuda": steps}
    measured = [
        f"[{name}.json](benchmarks/results/{name}.json), {results['date'][:10]}: {machine_of(results)}. "
        f"{versions_of(results)}, commit {commit_of(results)}.{origin_of(results)}"
        for name, results in sources.items()
        if results is not None
    ]
    table = markdown_table(["on a GPU, medians", "peer", "ours", "conditions"], rows)
    return "\n\n".join([table, *measured])


def bandwidth_rows(results: Results) -> list[list[str]]:
    rows = []
    for (family, size, variant), text in QUOTED_BANDWIDTHS.items():
        ours, copy = (find_row(results, family, size, name) for name in (variant, COPY))
        if ours is not None and copy is not None:
            peer = f"`{COPY}`: {number(copy['gb_per_s'])}"
            rows.append([text, peer, number(ours["gb_per_s"]), "GB/s, bytes that must be read and written"])
    return rows


def graph_rows(results: Results) -> list[list[str]]:
    """Kernels of a captured step."""
    counts = {row["variant"]: row.get("kernels_per_step") for row in results.get("cuda_graph_rows", [])}
    return [
        [f"`{ours}` in a CUDA graph", f"`{peer}`: {counts[peer]}", str(counts[ours]), "kernels a step of 32 tensors"]
        for ours, peer in (("ald_ext.PSGLD", "Adam(fused=True)"), ("ald_ext.SGLD", "SGD(fused=True)"))
        if counts.get(ours) is not None and counts.get(peer) is not None
    ]


def step_rows(results: Results) -> list[list[str]]:
    rows = []
    for (family, model, variant, peer_model), text in QUOTED_STEPS.items():
        ours = find_row(results, family, model, OUR_STEP)
        peer = find_row(results, family, peer_model, variant)
        if ours is not None and peer is not None:
            name = variant if peer_model == model else f"{variant}, {peer_model.upper()}"
            times = [number(1e3 * row["seconds"]["median"]) for row in (peer, ours)]
            rows.append([text, f"{name}: {times[0]}", times[1], "ms a step"])
    return rows


def replace_block(text: str, name: str, content: str) -> str:
    """`text` with `content` between the markers of `name`."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
    replaced, count = pattern.subn(lambda match: match[1] + content + match[2], text)
    if count != 1:
        sys.exit(f"{README.name}: found {count} blocks <!-- {name} -->, expected one")
    return replaced


def updated_readme() -> str:
    text = README.read_text()
    measured, trained = load_results(RESULTS), load_training(RESULTS)
    text = replace_block(text, "speed", speed(measured["cpu"]))
    text = replace_block(text, "training", training(trained["training_cpu"]))
    text = replace_block(text, "cuda", cuda(measured.get("cuda"), trained.get("training_cuda")))
    text = replace_block(text, "demo", demo())
    text = replace_block(text, "models", models())
    text = replace_block(text, "image-results", image_aims_table())
    return replace_block(text, "experiments", aims_table())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail where the README differs; write nothing")
    if parser.parse_args().check:
        if updated_readme() != README.read_text():
            sys.exit(
                "README.md: its figures are not those of the result files; run python benchmarks/readme_figures.py"
            )
        return
    README.write_text(updated_readme())


if __name__ == "__main__":
    main()
