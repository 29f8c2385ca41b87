"""The tables of one run, made from the contents of its JSON file."""

from __future__ import annotations

from names import COPY, MILLION_SHAPES, kind_of
from tables import Results, Row, find_row, markdown_table, number, spread, unique

ELEMENTS = {"update": "parameter", "marginal likelihood": "value", "dequantization": "pixel", "quantization": "pixel"}

#: Bytes of a computation whose share of `copy_`'s bandwidth is told: of less, caches may hold a part.
BEYOND_CACHES = 2 * 10**8


def write_table(results: Results) -> str:
    """Markdown: where the figures come from, and the tables of each family."""
    return f"# Benchmarks, {results['device']}\n\n{provenance(results)}\n\n{families(results, '##')}\n"


def families(results: Results, heading: str) -> str:
    """The tables of each family, under headings of this level."""
    sections = [family_section(results, family, heading) for family in unique(row["family"] for row in results["rows"])]
    return "\n\n".join([*sections, *graph_section(results, heading)])


def family_section(results: Results, family: str, heading: str) -> str:
    rows = [row for row in results["rows"] if row["family"] == family]
    ratios = [ratio for ratio in results["ratios"] if ratio["family"] == family]
    parts = [f"{heading} {family.capitalize()}", figures_table(family, rows)]
    if times := [ratio for ratio in ratios if ratio["numerator"] != COPY]:
        parts.append(ratios_table(times))
    if shares := [bandwidth_share(results, ratio) for ratio in ratios if is_share_of_memory(results, ratio)]:
        parts.append(shares_table(shares))
    return "\n\n".join([*parts, *cliffs(rows)])


def machine_of(results: Results) -> str:
    machine = results["machine"]
    cpu = f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, {machine['instruction_set']}"
    if "gpu" not in machine:
        return cpu
    driver = f", driver {machine['gpu_driver']}" if "gpu_driver" in machine else ""
    return f"{machine['gpu']}{driver} ({cpu})"


def versions_of(results: Results) -> str:
    versions = results["versions"]
    ours = f"ald_ext {versions['ald_ext']} ({versions['compiler']})"
    return f"torch {versions['torch']}, Python {versions['python']}, {ours}"


def commit_of(results: Results) -> str:
    return results["commit"][:12] + "-dirty" * results["commit"].endswith("-dirty")


def origin_of(results: Results) -> str:
    """Who measured the figures, if the file says it: a sentence that follows others."""
    return f" From {results['origin']}." if "origin" in results else ""


def provenance(results: Results) -> str:
    """Where the figures come from, and how to read them."""
    copy = results["copy_bandwidth_gb_per_s"]
    lines = [
        f"{machine_of(results)}. {versions_of(results)}, commit {commit_of(results)}, {results['date']}."
        f"{origin_of(results)}",
        f"`copy_` of a large buffer: {copy['median']:.1f} GB/s, bytes read and written.",
        "All variants of one size run in alternation. Median (20th to 80th percentile) of the rounds. GB/s counts the "
        "bytes that the computation must read and write, in the column `bytes`, whatever a variant moves; where the "
        "tensors fit the caches it may exceed that of `copy_`. Adam, SGD and RMSprop draw no noise. Ratios are of "
        "samples of the same round; a share of `copy_`'s bandwidth is of the `copy_` of the same round.",
        *left_out(results),
    ]
    if results["quick"]:
        lines.append("A quick run: the figures are rough.")
    return "\n\n".join(lines)


def left_out(results: Results) -> list[str]:
    return [
        f"Left out: {item['variant']} of {item['family']}, {item['size']}: {item['error']}"
        for item in results["left_out"]
    ]


def figures_table(family: str, rows: list[Row]) -> str:
    sizes = unique(row["size"] for row in rows)
    cells = {(row["variant"], row["size"]): figures_cell(row) for row in rows}
    bytes_per_element = {row["variant"]: row["bytes_per_element"] for row in rows}
    header = [f"ns per {ELEMENTS[kind_of(family)]}; GB/s", "bytes", *sizes]
    body = [
        [variant, str(count), *(cells.get((variant, size), "") for size in sizes)]
        for variant, count in bytes_per_element.items()
    ]
    return markdown_table(header, body)


def figures_cell(row: Row) -> str:
    return f"{spread(row['ns_per_element'])}; {number(row['gb_per_s'])}"


def ratios_table(ratios: list[Row]) -> str:
    sizes = unique(ratio["size"] for ratio in ratios)
    cells = {(ratio["numerator"], ratio["denominator"], ratio["size"]): spread(ratio) for ratio in ratios}
    pairs = unique((ratio["numerator"], ratio["denominator"]) for ratio in ratios)
    body = [[f"{pair[0]} / {pair[1]}", *(cells.get((*pair, size), "") for size in sizes)] for pair in pairs]
    return markdown_table(["ratio of times", *sizes], body)


def is_share_of_memory(results: Results, ratio: Row) -> bool:
    """True for the ratio of `copy_` to a variant that works on more than caches hold."""
    row = find_row(results, ratio["family"], ratio["size"], ratio["denominator"])
    large = row is not None and row["bytes_per_element"] * row["elements"] >= BEYOND_CACHES
    return large and ratio["numerator"] == COPY


def bandwidth_share(results: Results, ratio: Row) -> Row:
    """From the ratio of `copy_`'s time to a variant's, what share of its bandwidth the variant reaches."""
    rows = [find_row(results, ratio["family"], ratio["size"], ratio[part]) for part in ("denominator", "numerator")]
    ours, copy = (row["bytes_per_element"] for row in rows if row is not None)
    quantiles = {name: ratio[name] * ours / copy for name in ("median", "p20", "p80")}
    return {"size": ratio["size"], "variant": ratio["denominator"], **quantiles}


def shares_table(shares: list[Row]) -> str:
    sizes = unique(share["size"] for share in shares)
    cells = {(share["variant"], share["size"]): spread(share, 100) for share in shares}
    variants = unique(share["variant"] for share in shares)
    body = [[variant, *(cells.get((variant, size), "") for size in sizes)] for variant in variants]
    return markdown_table([f"% of `{COPY}`'s bandwidth", *sizes], body)


def cliffs(rows: list[Row]) -> list[str]:
    """How far apart the shapes of a million values are, for a family that has them all."""
    if not set(MILLION_SHAPES) <= {row["size"] for row in rows}:
        return []
    body = [cliff(variant, rows) for variant in unique(row["variant"] for row in rows)]
    return [markdown_table(["shapes of a million values", "slowest / fastest", "slowest", "fastest"], body)]


def cliff(variant: str, rows: list[Row]) -> list[str]:
    medians = {
        row["size"]: row["ns_per_element"]["median"]
        for row in rows
        if row["variant"] == variant and row["size"] in MILLION_SHAPES
    }
    slowest, fastest = max(medians, key=lambda size: medians[size]), min(medians, key=lambda size: medians[size])
    return [variant, number(medians[slowest] / medians[fastest]), slowest, fastest]


def graph_section(results: Results, heading: str) -> list[str]:
    """What one step inside a CUDA graph launches; measured on CUDA alone."""
    rows = results.get("cuda_graph_rows", [])
    if not rows:
        return []
    header = ["one step of 1e4 parameters in 32 tensors", "kernels", "other nodes", "µs a replay"]
    return [f"{heading} CUDA graph\n\n{markdown_table(header, [graph_row(row) for row in rows])}"]


def graph_row(row: Row) -> list[str]:
    if "error" in row:
        return [row["variant"], f"not captured: {row['error']}", "", ""]
    counts = [str(row["kernels_per_step"]), str(row["other_nodes_per_step"])]
    return [row["variant"], *counts, spread(row["seconds"], 1e6)]
