"""The sections of a page of results, one an experiment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .. import EXPERIMENTS, IMAGE_EXPERIMENTS
from ..results import FILE, TRAINED_MODELS, Choice, Results, TrainingRun, distinct, read_json
from ..results import Picture as ResultPicture
from .metrics import legend
from .pictures import Links, multiples_of
from .tables import code, dataset_tables, escape, list_table, markdown_table, number

QUICK = "**A smoke test: its figures mean nothing.**"
SEARCH = (
    "Every model tried the same draws from one grid, and had as much time for all of them as for its training: half of "
    "it for a first round, half for the best two. They were trained on nine tenths of the training images, and "
    "the best has the least score on the rest: RE times the Fréchet distance of samples, or RE alone where a model has "
    "no prior. The distances are of fewer images than those above, and so are larger. Test images "
    "were not looked at here, but the grid lies around settings that were found earlier by looking at them."
)
#: By name, in the order of a page's sections; experiments that are not known come after them.
TITLES = {
    **{name: escape(experiment.title) for name, experiment in EXPERIMENTS.items()},
    **{name: escape(experiment.title) for name, experiment in IMAGE_EXPERIMENTS.items()},
    TRAINED_MODELS: "Models that `ald-ext train` trained",
}


def grouped(all_results: Sequence[Results]) -> list[list[Results]]:
    """Return the sections' results; presets of a toy experiment below the folder of its default settings join it."""
    groups: list[list[Results]] = []
    names = list(TITLES)
    for results in sorted(all_results, key=lambda each: (*names, each.experiment).index(each.experiment)):
        first = groups[-1][0] if groups else None
        if (
            first is not None
            and results.jobs is None
            and (first.experiment, first.quick) == (results.experiment, results.quick)
            and first.folder in results.folder.parents
        ):
            groups[-1].append(results)
        else:
            groups.append([results])
    return groups


def labels_of(groups: Sequence[Sequence[Results]]) -> list[str]:
    """Return headings: the experiment and its preset; its data sets and a number where that is not enough."""
    labels: list[str] = []
    names = [
        (first.experiment, first.preset, first.quick, first.settings.get("seconds") is not None) for first, *_ in groups
    ]
    for (first, *_), name in zip(groups, names, strict=True):
        label = first.experiment + (f", preset {first.preset}" if first.preset not in ("", "default") else "")
        label += (", equal time" if name[-1] else "") + (", quick" if first.quick else "")
        if first.jobs and names.count(name) > 1:
            label += f", {' and '.join(distinct(first.jobs, 'dataset'))}"
        repetition = sum(other == label or other.startswith(f"{label} (") for other in labels)
        labels.append(f"{label} ({repetition + 1})" if repetition else label)
    return labels


def section(group: Sequence[Results], label: str, links: Links) -> list[str]:
    """Return the title, tables, notes, pictures and conditions of one experiment, as blocks of Markdown."""
    first, folder = group[0], re.sub(r"\W+", "-", label).strip("-")  # such as scaling-preset-paper
    own = ResultPicture(f"{first.experiment}.png", "")
    title = TITLES.get(first.experiment) or escape(first.pictures[0].caption if first.pictures else "")
    blocks = [f"## {escape(label)}", *([title] if title else []), *([QUICK] if first.quick else [])]
    blocks += tables(group)
    blocks += [conditions(results, links) for results in group]
    if notes := read_notes(first.folder / "notes.md"):
        blocks.append(fitted_notes(notes, first.folder, folder, links))
    blocks.append("### Pictures")
    for results in group:
        for picture in results.pictures:
            caption = column_name(results) if picture.file == own.file and len(group) > 1 else picture.caption
            blocks += shown(
                results.folder / picture.file, f"{results.preset}-{picture.file}".lstrip("-"), caption, folder, links
            )
    multiples = multiples_of(first)
    if len(multiples) > 1:
        blocks += [links.plot(multiples, f"{folder}.png"), "Our figures as multiples of the paper's"]
    if first.differences:
        blocks += ["### Differences from the paper", differences_table(group)]
    blocks.append("### Settings")
    for results in group:
        whose = f"{column_name(results).capitalize()}: " if len(group) > 1 else ""
        blocks.append(f"{whose}{settings_line(results.settings)}.")
    if first.choices:
        blocks += ["### Settings that were searched for", SEARCH, choices_table(first.choices)]
    return [*blocks, *([training_table(first.jobs)] if first.jobs else [])]


def column_name(results: Results) -> str:
    return {"": "ours", "default": "ours", "paper": "the paper's settings"}.get(
        results.preset, f"preset {results.preset}"
    )


def tables(group: Sequence[Results]) -> list[str]:
    """Return the tables of figures, and what these mean."""
    by_dataset, others = dataset_tables(group[0])
    blocks = []
    for dataset, table in by_dataset.items():
        blocks += [f"### {escape(dataset)}", *table.blocks()]
    if others:
        columns = [others, *({row.name: row for row in results.rows} for results in group[1:])]
        blocks += ["### Other figures"] if by_dataset else []
        blocks.append(list_table(columns, [column_name(results) for results in group]))
    metrics = [row.name.rpartition("/")[2] for results in group for row in results.rows]
    meanings = legend(metrics)
    return [*blocks, *([meanings] if meanings else [])]


def conditions(results: Results, links: Links) -> str:
    """Return under which conditions the figures were measured, in a line."""
    versions, jobs = results.versions, results.jobs
    num_seeds = max((len(row.values) for row in results.rows), default=0)
    facts = [f"{num_seeds:,} seed" if num_seeds == 1 else f"{num_seeds:,} seeds"]
    if jobs:
        settings = {**results.settings.get("network", {}), **results.settings}
        sizes = ", ".join(f"{name} {settings[name]}" for name in ("width", "latent_dim") if name in settings)
        experiment = IMAGE_EXPERIMENTS.get(results.experiment)
        facts.append((experiment and experiment.network) or sizes)
        facts.append(f"{span(job.epochs for job in jobs)} epochs of {span(job.train_images for job in jobs)} images")
        if seconds := settings.get("seconds"):
            facts.append(f"as many steps a model as it makes in {seconds:g} s alone")
        facts.append(f"{sum(job.seconds for job in jobs):,.0f} s of training in all")
        facts.append(f"{', '.join(distinct(jobs, 'device'))}, threads: {span(job.threads for job in jobs)}")
    else:
        facts.append(f"{results.seconds:,.0f} s")
        facts.append(f"workers: {versions.get('workers', 'unknown')}, threads: {versions.get('threads', 'unknown')}")
    facts.append(f"torch {versions.get('torch', 'unknown')}")
    what = "Conditions" if results.preset in ("", "default") else f"Conditions of {column_name(results)}"
    file = f" ({links.file(results.folder / FILE, FILE)})" if results.experiment != TRAINED_MODELS else ""
    return f"{what}: {escape(', '.join(facts))}{file}."


def span(values: Iterable[int]) -> str:
    """Return the number, or the least and the greatest one."""
    least, *_, greatest = sorted(set(values)) * 2
    return f"{least:,}" if least == greatest else f"{least:,} to {greatest:,}"


def settings_line(settings: dict[str, Any], prefix: str = "") -> str:
    """Return "`width` 16; `network.lr` 0.003"; settings that are not given are left out."""
    parts = []
    for name, value in settings.items():
        if isinstance(value, dict):
            parts.append(settings_line(value, f"{prefix}{name}."))
        elif value is not None and value != []:
            shown_value = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            parts.append(f"{code(prefix + name)} {escape(shown_value)}")
    return "; ".join(part for part in parts if part)


def training_table(jobs: Sequence[TrainingRun]) -> str:
    """Return a row a data set and model with its training runs."""
    header = ["training runs", "", "epochs", "training images", "test images", "parameters", "seconds", "images/s"]
    body = []
    for dataset, model in dict.fromkeys((job.dataset, job.model) for job in jobs):
        runs = [job for job in jobs if (job.dataset, job.model) == (dataset, model)]
        names = ("epochs", "train_images", "test_images", "parameters")
        spans = [span(getattr(run, name) for run in runs) for name in names]
        speed = number(sum(run.images_per_second for run in runs) / len(runs))
        seconds = f"{sum(run.seconds for run in runs):,.0f}"
        body.append([code(f"{dataset}/{model}"), str(len(runs)), *spans, seconds, speed])
    return markdown_table(header, body)


def choices_table(choices: Sequence[Choice]) -> str:
    """Return a row a data set and model with the settings that a search chose and what they gave."""
    header = ["search", "chosen", "steps", "validation RE", "validation distance", "tried", "diverged", "RE of round 1"]
    body = []
    for choice in choices:
        first = [trial for trial in choice.trials if trial.round == 1]
        (best, *_) = [trial for trial in choice.trials if trial.round == 2 and trial.options == choice.options]
        errors = [trial.re for trial in first if trial.re is not None]
        body.append(
            [
                code(f"{choice.dataset}/{choice.model}"),
                settings_line(choice.options),
                f"{best.steps:,}",
                number(best.re),
                "" if best.frechet is None else number(best.frechet),
                str(len(first)),
                str(len(first) - len(errors)),
                f"{number(min(errors))} to {number(max(errors))}" if errors else "",
            ]
        )
    return markdown_table(header, body, numbers=False)


def shown(path: Path, name: str, caption: str, folder: str, links: Links) -> list[str]:
    """Return a picture and its caption, or that it is missing."""
    if not path.is_file():
        return [f"The picture {code(path.name)} is missing{': ' + escape(caption) if caption else ''}."]
    return [
        f"![{escape(path.stem)}]({links.picture(path, f'{folder}/{name}')})",
        *([escape(caption)] if caption else []),
    ]


def differences_table(group: Sequence[Results]) -> str:
    """Return the settings of all presets that are not the paper's."""
    lines: dict[tuple[str, ...], list[str]] = {}
    for results in group:
        for item in results.differences:
            lines.setdefault((item.setting, item.paper, item.ours, item.reason), []).append(column_name(results))
    header = ["setting", "paper", "ours", "reason"]
    body = [
        [escape(cell) for cell in line] + ([", ".join(columns)] if len(group) > 1 else [])
        for line, columns in lines.items()
    ]
    return markdown_table(header + (["where"] if len(group) > 1 else []), body, numbers=False)


def trials_table(path: Path) -> str:
    """Return a row a trial of tried.json: its settings in one column, and whatever else it tells in others."""
    trials = read_json(path)
    if not (isinstance(trials, list) and all(isinstance(trial, dict) for trial in trials)):
        raise ValueError(f"report: {path}: expected a list of objects")
    names = list(dict.fromkeys(name for trial in trials for name in trial if name != "settings"))

    def cell(value: Any) -> str:
        return "" if value is None else number(value) if isinstance(value, float) else escape(str(value))

    body = [
        [settings_line(trial.get("settings") or {}) or "as they are", *(cell(trial.get(name)) for name in names)]
        for trial in trials
    ]
    return markdown_table(["settings", *names], body, numbers=False)


def read_notes(path: Path) -> str:
    """Return the text of a file that is written by hand; "" if there is none. ValueError where it is no text."""
    try:
        return path.read_text(encoding="utf-8").strip("\n") if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise ValueError(f"report: {path}: {error}, expected text in UTF-8") from error


def fitted_notes(text: str, source: Path, folder: str, links: Links) -> str:
    """Return notes with headings below those of the section, and with the page's links to pictures beside them."""

    def relink(match: re.Match[str]) -> str:
        path = (source / match[2]).resolve()
        inside = path.is_relative_to(source.resolve()) and path.is_file()
        return match[1] + (links.picture(path, f"{folder}/{match[2]}") if inside else match[2])

    # Every second part is fenced code, which stays as it is; a fence that is not closed ends with the notes.
    text += "\n```" * (len(re.findall("^```", text, flags=re.M)) % 2)
    parts = re.split(r"(^```.*?^```)", text, flags=re.M | re.S)
    for index in range(0, len(parts), 2):
        lowered = re.sub(r"^#+(?= )", lambda match: ("###" + match[0])[:6], parts[index], flags=re.M)
        parts[index] = re.sub(r"(!\[[^\]]*\]\()([^)\s]+)", relink, lowered)
    return "".join(parts)
