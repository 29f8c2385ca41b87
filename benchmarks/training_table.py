"""The section of the page of results about training, made from the contents of the JSON files."""

from __future__ import annotations

from collections.abc import Mapping

from report import commit_of, left_out, machine_of, origin_of, ratios_table, versions_of
from tables import Results, Row, markdown_table, number, spread, unique

READING = """A step is zero_grad, loss, gradients, update; ours is that of `ald-ext train`, with its schedule and its
watch for divergence, and on a GPU one captured graph where the model allows it. "PyTorch" is the same networks and
losses without any op of ours, noise by torch's generators. Its pSGLD step is written in three ways: plain, with
temporaries; by `torch._foreach`; in place, allocating nothing. `torch.compile` compiles loss, gradients and the pSGLD
step but for the noise, which is drawn by `normal_()`, inductor's being slower on a CPU. Models without Langevin
dynamics of their parameters are trained by `Adam(fused=True)`. All variants of a model run in alternation, LAE and VAE
in one alternation. Median (20th to 80th percentile) of the rounds."""


def training_section(training: Mapping[str, Results]) -> str:
    """Heading, and the tables of each device's file, by the names of the files."""
    return "\n\n".join(["## Training", READING, *(file_section(name, results) for name, results in training.items())])


def file_section(name: str, results: Results) -> str:
    parts = [
        f"[{name}.json]({name}.json), {results['date'][:10]}: {machine_of(results)}. {versions_of(results)}, commit "
        f"{commit_of(results)}.{origin_of(results)}",
        *(["A quick run: the figures are rough."] if results["quick"] else []),
        *left_out(results),
        *(family_tables(results, family) for family in unique(row["family"] for row in results["rows"])),
    ]
    return "\n\n".join(parts)


def family_tables(results: Results, family: str) -> str:
    rows = [row for row in results["rows"] if row["family"] == family]
    ratios = [ratio for ratio in results["ratios"] if ratio["family"] == family]
    parts = [f"### {family.capitalize()}", parameters_line(results, family), figures_table(rows)]
    if ratios:
        parts.append(ratios_table(ratios))
    return "\n\n".join([*parts, *notes(rows)])


def parameters_line(results: Results, family: str) -> str:
    """How large encoder and decoder are."""
    counts = {
        model: facts["network_parameters"]
        for settings in results["settings"]
        if settings["family"] == family
        for model, facts in settings["models"].items()
    }
    told = ", ".join(f"{model} {number(count / 1e6)}" for model, count in counts.items())
    return f"Parameters of encoder and decoder, in millions: {told}."


def figures_table(rows: list[Row]) -> str:
    models = unique(row["size"] for row in rows)
    cells = {(row["variant"], row["size"]): figures_cell(row) for row in rows}
    body = [
        [variant, *(cells.get((variant, model), "") for model in models)]
        for variant in unique(row["variant"] for row in rows)
    ]
    return markdown_table(["ms a step; images/s", *models], body)


def figures_cell(row: Row) -> str:
    return f"{spread(row['seconds'], 1e3)}; {row['images_per_s']['median']:.0f}"


def notes(rows: list[Row]) -> list[str]:
    """What a variant could not do as a whole."""
    by_note: dict[str, list[str]] = {}
    for row in rows:
        if row["note"] is not None:
            by_note.setdefault(f"{row['variant']}, {row['note']}", []).append(row["size"])
    return [f"{', '.join(models)}: {note}." for note, models in by_note.items()]
