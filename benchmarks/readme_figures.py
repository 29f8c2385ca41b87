"""Writes the figures of README.md from the files that measured them: `python benchmarks/readme_figures.py`.

Between the markers <!-- NAME --> and <!-- /NAME --> nothing is written by hand. --check only compares.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import models_page
from experiments_page import aims_table
from image_aims import aims_table as image_aims_table

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
TRAINING = ROOT / "benchmarks/results/training_cpu.json"

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
        values = " | ".join(f"{ratios[numerator, denominator, size]:.2g}" for size in sizes)
        lines.append(f"| {text} | {values} |")
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
    return "\n".join([*lines, *(f"| {text} | {ratios[key]:.2f} |" for key, text in QUOTED_TRAINING.items())])


def replace_block(text: str, name: str, content: str) -> str:
    """`text` with `content` between the markers of `name`."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
    replaced, count = pattern.subn(lambda match: match[1] + content + match[2], text)
    if count != 1:
        sys.exit(f"{README.name}: found {count} blocks <!-- {name} -->, expected one")
    return replaced


def updated_readme() -> str:
    text = README.read_text()
    text = replace_block(text, "speed", speed(json.loads((ROOT / "benchmarks/results/cpu.json").read_text())))
    text = replace_block(text, "training", training(json.loads(TRAINING.read_text())))
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
