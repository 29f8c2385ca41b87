"""The parts of the page in Markdown: one section an experiment."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from ..results import FILE, Job, Results
from .comparison import comparison_blocks
from .formatting import code, count, escape, markdown_table, number, text_table
from .plots import ratios_of
from .shown_pictures import ShownPictures

INTRODUCTION = """\
# Results

Made by `ald-ext report` of what `ald-ext experiment` wrote; only the notes are written by hand. "Ours" is the mean over
the seeds, ± its standard error where there are several; the difference is ours less the paper's, and its percentage
that of the paper's. The best of a column is bold where it is known whether less or more is better."""

QUICK = "**A smoke test: its figures mean nothing.**"


def labels_of(all_results: Sequence[Results]) -> list[str]:
    """Headings: the experiment, its preset unless that is the default, and a number where that is not enough."""
    labels: list[str] = []
    for results in all_results:
        label = results.experiment + (f", preset {results.preset}" if results.preset not in ("", "default") else "")
        label += ", quick" if results.quick else ""
        repetition = sum(other == label or other.startswith(f"{label} (") for other in labels)
        labels.append(f"{label} ({repetition + 1})" if repetition else label)
    return labels


def slug(label: str) -> str:
    """For names of files: "scaling, preset paper" to "scaling-preset-paper"."""
    return re.sub(r"\W+", "-", label).strip("-")


def section(results: Results, label: str, pictures: ShownPictures) -> str:
    """Title, how it was run, tables, plot, pictures, differences, notes and trials of one experiment.

    Args:
        results: of the experiment.
        label: its heading.
        pictures: of the page; gets those of this section.
    """
    title = results.pictures[0].caption if results.pictures else ""
    blocks = [f"## {escape(label)}", *([escape(title)] if title else []), *([QUICK] if results.quick else [])]
    blocks += ["### How it was run", *how_it_was_run(results, pictures)]
    blocks += ["### Figures", *(comparison_blocks(results) or ["None."])]
    ratios = ratios_of(results)
    if len(ratios) > 1:
        blocks.append(pictures.plot(ratios, f"{slug(label)}.png", "Ours as multiples of the paper's figures"))
    blocks += ["### Pictures", *picture_blocks(results, slug(label), pictures)]
    if results.differences:
        blocks += ["### Differences from the paper", differences_table(results)]
    if results.notes:
        blocks += ["### Notes", notes_block(results, slug(label), pictures)]
    if results.trials:
        blocks += ["### What was tried", trials_table(results.trials)]
    return "\n\n".join(blocks)


def how_it_was_run(results: Results, pictures: ShownPictures) -> list[str]:
    """Settings, training runs, versions, and the file."""
    versions = results.versions
    torch = f"torch {versions.get('torch', 'unknown')}"
    seeds = count(results.num_seeds, "seed")
    if results.jobs:
        seconds = sum(job.seconds for job in results.jobs)
        threads, devices = span([job.threads for job in results.jobs]), ", ".join(unique(results.jobs, "device"))
        facts = f"{seeds}; {count(len(results.jobs), 'training run')} of {seconds:,.0f} seconds in all, each with "
        facts += f"{threads} thread{'' if threads == '1' else 's'} on {devices}; {torch}."
    else:
        workers, threads = versions.get("workers", "unknown"), versions.get("threads", "unknown")
        facts = f"{seeds}; {results.seconds:,.0f} seconds; workers: {workers}, threads of each: {threads}; {torch}."
    file = pictures.file_link(results.folder / FILE, results.origin)
    blocks = [f"{escape(facts)} From {file}.", f"Settings: {settings_line(results.settings)}."]
    return [*blocks, *([training_table(results.jobs)] if results.jobs else [])]


def settings_line(settings: dict[str, Any], prefix: str = "") -> str:
    """ "`width` 16, `network.lr` 0.003"."""
    parts = []
    for name, value in settings.items():
        if isinstance(value, dict):
            parts.append(settings_line(value, f"{prefix}{name}."))
        else:
            parts.append(f"{code(prefix + name)} {escape(show_setting(value))}")
    return "; ".join(part for part in parts if part)


def show_setting(value: Any) -> str:
    if value is None:
        return "not given"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def unique(jobs: Sequence[Job], name: str) -> list[Any]:
    """A field's values, in order of first appearance."""
    return list(dict.fromkeys(getattr(job, name) for job in jobs))


def span(values: Sequence[int]) -> str:
    """The number, or the least and the greatest one."""
    least, greatest = min(values), max(values)
    return f"{least:,}" if least == greatest else f"{least:,} to {greatest:,}"


def training_table(jobs: Sequence[Job]) -> str:
    """A row a data set and model."""
    header = ["", "runs", "epochs", "training images", "test images", "parameters", "seconds in all", "images a second"]
    body = []
    for dataset in unique(jobs, "dataset"):
        of_dataset = [job for job in jobs if job.dataset == dataset]
        for model in unique(of_dataset, "model"):
            runs = [job for job in of_dataset if job.model == model]
            names = ("epochs", "train_images", "test_images", "parameters")
            body.append(
                [
                    code(f"{dataset}/{model}"),
                    str(len(runs)),
                    *(span([getattr(run, name) for run in runs]) for name in names),
                    f"{sum(run.seconds for run in runs):,.0f}",
                    number(sum(run.images_per_second for run in runs) / len(runs)),
                ]
            )
    return markdown_table(header, body)


def picture_blocks(results: Results, folder: str, pictures: ShownPictures) -> list[str]:
    """The experiment's own, a plot, then those of its models, which are grids of pixels."""
    blocks = []
    for index, picture in enumerate(results.pictures):
        path = results.folder / picture.file
        if path.is_file():
            blocks.append(pictures.show(path, folder, picture.file, picture.caption, pixels=index > 0))
        else:
            caption = f": {escape(picture.caption)}" if picture.caption else "."
            blocks.append(f"The picture {code(picture.file)} is missing{caption}")
    return blocks or ["None."]


def differences_table(results: Results) -> str:
    return text_table(
        ["setting", "paper", "ours", "reason"],
        [
            [escape(item.setting), escape(item.paper), escape(item.ours), escape(item.reason)]
            for item in results.differences
        ],
    )


def trials_table(trials: Sequence[dict[str, Any]]) -> str:
    """A row a trial: its settings in one column, whatever else it tells in others."""
    names = list(dict.fromkeys(name for trial in trials for name in trial if name != "settings"))
    body = [
        [settings_line(trial.get("settings") or {}) or "as they are", *(show_cell(trial.get(name)) for name in names)]
        for trial in trials
    ]
    return text_table(["settings", *names], body)


def show_cell(value: Any) -> str:
    if value is None:
        return ""
    return number(value) if isinstance(value, float) else escape(str(value))


def notes_block(results: Results, folder: str, pictures: ShownPictures) -> str:
    """notes.md, with its headings below those of the page, and its pictures where the page finds them."""

    def find(target: str) -> str | None:
        path = (results.folder / target).resolve()
        inside = path.is_relative_to(results.folder.resolve())
        return pictures.link(path, folder, target) if inside and path.is_file() else None

    return fitted_notes(results.notes, find)


FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
HEADING = re.compile(r" {0,3}(#{1,6})(?=\s|$)(.*)")
UNDERLINE = re.compile(r" {0,3}(=+|-+)\s*")
#: A line that text of a paragraph can be in; not one of a list, a quotation, a table or a heading.
PARAGRAPH = re.compile(r" {0,3}(?![#>|]|[-+*]\s|\d+[.)]\s)\S.*")
LIST_OR_TABLE = re.compile(r"([-+*]\s|1[.)]\s|\|).*")
PICTURE = re.compile(r"(!\[[^\]]*\]\()([^)\s]+)(?=[)\s])")
#: Levels by which headings of notes are moved, below "### Notes".
LEVELS = 3


def fitted_notes(text: str, find: Callable[[str], str | None]) -> str:
    """Markdown as it stands, but for what would break the page.

    Headings move down; a fence of code that is not closed is closed; pictures get the link that ``find`` has for them.
    A list or a table that follows a line of text gets an empty line before it, without which the HTML would lack it.
    """
    lines: list[str] = []
    fence = ""
    for line in text.strip("\n").splitlines():
        found = FENCE.fullmatch(line)
        if fence:
            lines.append(line)
            fence = "" if found and found[1].startswith(fence) and not found[2].strip() else fence
        elif found:
            lines.append(line)
            fence = found[1]
        else:
            previous = lines[-1] if lines else ""
            lines[-1:] = fitted_line(previous, PICTURE.sub(lambda match: relinked(match, find), line))
    return "\n".join([*lines, *([fence] if fence else [])]).strip("\n")


def fitted_line(previous: str, line: str) -> list[str]:
    """What stands in the place of the previous line, and this one."""
    after_text = PARAGRAPH.fullmatch(previous) and not FENCE.fullmatch(previous)
    heading, underline = HEADING.fullmatch(line), UNDERLINE.fullmatch(line)
    if heading:
        return [previous, lowered(len(heading[1]), heading[2])]
    if underline and after_text:
        return [lowered(1 if underline[1][0] == "=" else 2, f" {previous.strip()}")]
    if LIST_OR_TABLE.fullmatch(line) and after_text:
        return [previous, "", line]
    # "#5" is no heading where there must be a space, but one for the HTML.
    return [previous, re.sub(r"^( {0,3})#", r"\1\\#", line)]


def lowered(level: int, text: str) -> str:
    return "#" * min(6, level + LEVELS) + text


def relinked(match: re.Match[str], find: Callable[[str], str | None]) -> str:
    return match[1] + (find(match[2]) or match[2])
