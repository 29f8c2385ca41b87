"""Fills the blocks of README.md from the files that measured their figures: `python -m tools.readme_tables [--check]`.

Between the markers <!-- NAME --> and <!-- /NAME --> nothing is written by hand; a README need not have every block.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from ald_ext.paper.report.tables import markdown_table
from ald_ext.paper.results import find_results
from benchmarks import names
from benchmarks.page import RESULTS, Results, find, load_results, machine_of, number, overview

ROOT = Path(__file__).resolve().parent.parent

#: What the README quotes of the paper's experiments: experiment, row of its results.json, and what the figure is.
QUOTED_RESULTS = (
    ("image-generation", "mnist/lae/re", "MNIST, test RE of an LAE (lower is better)"),
    ("image-generation", "mnist/clae/re", "the same of a CLAE"),
    ("image-generation", "mnist/vae/re", "the same of a VAE"),
    ("image-generation", "mnist/ae/re", "the same of an autoencoder"),
    ("anomaly-detection", "mnist/lae/auprc_normal", "MNIST, AUPRC of an LAE's scores (higher is better)"),
    ("anomaly-detection", "mnist/vae/auprc_normal", "the same of a VAE's"),
    ("anomaly-detection", "mnist/ae/auprc_normal", "the same of an autoencoder's"),
    ("anomaly-detection", "mnist/ae/auprc_normal_aggregated", "and with a prior refitted as the LAE's is"),
    ("bivariate-gaussian", "ald_mean_mse", "bivariate Gaussian, squared error of ALD's mean (lower is better)"),
    ("univariate-gaussian", "sgald_variance_ratio_median", "univariate Gaussian, SGALD's variance over the exact one"),
    ("neural-likelihood", "ald_total_variation", "neural likelihood, total variation of ALD (lower is better)"),
)

#: What is told of the conditions of an experiment, beside the number of seeds: text with names of settings.
CONDITIONS = {
    "image-generation": "convolutional, width {width}, ",
    "anomaly-detection": "MLP, {epochs} epochs, settings chosen on test labels, ",
}

#: What the README quotes of a GPU's bandwidths, beside that of `copy_`: family, size, variant, and what it is.
QUOTED_BANDWIDTHS = (
    (names.UPDATE, "1e8", names.OURS, "pSGLD step of 1e8 float32 parameters"),
    (names.LIKELIHOOD, names.GIGABYTE, names.FORWARD, "marginal likelihood of 1 GB, forward"),
    (names.LIKELIHOOD, names.GIGABYTE, names.BACKWARD, "the same, backward"),
)

NO_CUDA = (
    "The CUDA kernels compile and link in every build. No measurement of them is kept here yet; `make gpu-check` makes "
    "one on a machine with a GPU."
)


def speed(all_results: Mapping[str, Results], device: str = "cpu") -> str:
    """The overview of times over ours, for ops and training steps, and where it was measured."""
    table = overview(all_results, device, lambda ratio: f"{ratio['median']:.2g}")
    sources = [results for name, results in all_results.items() if name.endswith(device)]
    machines = dict.fromkeys(f"{machine_of(found)}, torch {found['versions']['torch']}" for found in sources)
    return f"{table}\n\nMedians of ratios of times, float32, on {'; '.join(machines)}. Above 1, ours is faster."


def cuda(all_results: Mapping[str, Results]) -> str:
    """A GPU's figures; of either file, where it is there."""
    if not any(name.endswith("cuda") for name in all_results):
        return NO_CUDA
    kernels = all_results.get("cuda", {"rows": []})
    rows = []
    for family, size, variant, text in QUOTED_BANDWIDTHS:
        ours, copy = (find(kernels["rows"], family=family, size=size, variant=name) for name in (variant, names.COPY))
        if ours is not None and copy is not None:
            rows.append([text, f"`{names.COPY}`: {number(copy['gb_per_s'])}", number(ours["gb_per_s"]), "GB/s"])
    counts = {row["variant"]: row["kernels_per_step"] for row in kernels["rows"] if "kernels_per_step" in row}
    for ours, peer in ((names.PSGLD, names.ADAM), (names.SGLD, names.SGD)):
        if ours in counts and peer in counts:
            rows.append([f"`{ours}` in a CUDA graph", f"`{peer}`: {counts[peer]}", str(counts[ours]), "kernels a step"])
    table = speed(all_results, "cuda")
    return f"{table}\n\n{markdown_table(['on the GPU', 'peer', 'ours', 'unit'], rows)}" if rows else table


def results() -> str:
    """The most telling figures of the paper's experiments: the paper's, ours, and the conditions of ours."""
    found = find_results([ROOT / "docs" / "results"])
    rows = []
    for experiment, name, text in QUOTED_RESULTS:
        # With default settings, which stand before other presets.
        source = next(each for each in found if each.experiment == experiment)
        row = next(row for row in source.rows if row.name == name)
        error = "" if row.standard_error is None else f" ± {row.standard_error:.1g}"
        paper = "" if row.paper is None else f"{row.paper:.4g}"
        told, seeds = CONDITIONS.get(experiment, "").format(**source.settings), len(row.values)
        rows.append([text, paper, f"{row.mean:.3g}{error}", f"{told}{seeds} seed{'s' * (seeds > 1)}"])
    return markdown_table(["figure", "paper", "ours", "conditions of ours"], rows)


def demo() -> str:
    """A sentence about the run behind the README's picture."""
    (path,) = ROOT.glob("docs/**/models/lae/metrics.json")
    lae = json.loads(path.read_text())
    return (
        f"The run behind the picture ([metrics]({path.relative_to(ROOT).as_posix()})) took {lae['seconds']:.0f} s on "
        f"{lae['threads']} cores ({lae['epochs']} epochs, {lae['images_per_second']:.0f} images/s) and reached a test "
        f"error (mean squared error on [0, 1] pixels) of {lae['test_re']:.4f}."
    )


BLOCKS: dict[str, Callable[[], str]] = {
    "speed": lambda: speed(load_results(RESULTS)),
    "cuda": lambda: cuda(load_results(RESULTS)),
    "results": results,
    "demo": demo,
}


def updated(text: str, blocks: Mapping[str, Callable[[], str]] = BLOCKS) -> str:
    """The README with its blocks filled. ValueError: a block that nothing fills, without its end, or twice."""
    for name in sorted(set(re.findall(r"<!-- /?([\w-]+) -->", text))):
        if name not in blocks:
            raise ValueError(f"README.md: got the block <!-- {name} -->, expected some of {', '.join(blocks)}")
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n?<!-- /{name} -->)", re.DOTALL)
        text, count = pattern.subn(lambda match, name=name: f"{match[1]}{blocks[name]()}\n<!-- /{name} -->", text)
        if count != 1 or len(re.findall(rf"<!-- /?{name} -->", text)) != 2:
            raise ValueError(f"README.md: <!-- {name} -->: expected it once, and <!-- /{name} --> after it")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail where the README differs; write nothing")
    check = parser.parse_args().check
    readme = ROOT / "README.md"
    text = readme.read_text()
    try:
        new = updated(text)
    except ValueError as error:
        sys.exit(str(error))
    if not check:
        readme.write_text(new)
    elif new != text:
        sys.exit("README.md: got figures that are not those of the result files; run python -m tools.readme_tables")


if __name__ == "__main__":
    main()
