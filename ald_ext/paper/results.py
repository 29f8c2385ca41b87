"""The files results.json of experiments, found and read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

FILE = "results.json"
#: Folders of training runs and of kept outcomes, inside an experiment's.
NOT_RESULTS = {"runs", "jobs"}

Record = TypeVar("Record")


@dataclass(frozen=True)
class Row:
    """A figure: its name, the paper's, the mean over the seeds, its standard error, and one value a seed.

    None where the paper has no figure, where there is one seed, or where a number is not finite.
    """

    name: str
    paper: float | None
    mean: float | None
    standard_error: float | None
    values: list[float | None]


@dataclass(frozen=True)
class Difference:
    """A setting that is not the paper's, and why."""

    setting: str
    paper: str
    ours: str
    reason: str


@dataclass(frozen=True)
class Picture:
    """A PNG file, by its path from results.json, and what it shows."""

    file: str
    caption: str


@dataclass(frozen=True)
class Job:
    """One training run; ``part`` tells it from others of its data set, model and seed."""

    dataset: str
    model: str
    seed: int
    part: str
    epochs: int
    train_images: int
    test_images: int
    seconds: float
    images_per_second: float
    parameters: int
    threads: int
    device: str


@dataclass(frozen=True)
class Results:
    """What one results.json holds.

    Attributes:
        folder: in which the file is.
        origin: the file, from the name of the folder in which it was looked for.
        experiment: its name on the command line.
        preset: of its settings; "" where it has no presets.
        quick: whether it was a smoke test.
        settings: as they were.
        differences: from the paper.
        versions: of what it was computed with.
        seconds: of the last call of the command.
        rows: the figures.
        pictures: the experiment's own, then others.
        jobs: the training runs; None for experiments without images.
    """

    folder: Path
    origin: str
    experiment: str
    preset: str
    quick: bool
    settings: dict[str, Any]
    differences: list[Difference]
    versions: dict[str, str]
    seconds: float
    rows: list[Row]
    pictures: list[Picture]
    jobs: list[Job] | None

    @property
    def num_seeds(self) -> int:
        return max((len(row.values) for row in self.rows), default=0)

    @property
    def trials(self) -> list[dict[str, Any]]:
        """What lies beside results.json as tried.json: other settings, and what they gave. ValueError if damaged."""
        path = self.folder / "tried.json"
        if not path.is_file():
            return []
        trials = read_json(path)
        if not (isinstance(trials, list) and all(isinstance(trial, dict) for trial in trials)):
            raise ValueError(f"report: {path}: got {shortened(trials)}, expected a list of objects")
        return trials

    @property
    def notes(self) -> str:
        """What lies beside results.json as notes.md; "" if nothing does. ValueError where it is no text."""
        path = self.folder / "notes.md"
        try:
            return path.read_text(encoding="utf-8") if path.is_file() else ""
        except UnicodeDecodeError as error:
            raise ValueError(f"report: {path}: {error}, expected text in UTF-8") from error


def find_results(folders: Sequence[Path]) -> list[Results]:
    """Every results.json below the folders, in their order and then by path; each once, and none of training runs.

    Raises:
        ValueError: a folder is not there, a file is damaged or of another form, or there is none.
    """
    found: dict[Path, Results] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"report: folders: got {str(folder)!r}, expected a folder")
        root = folder.resolve()
        paths = [path for path in root.rglob(FILE) if NOT_RESULTS.isdisjoint(path.relative_to(root).parts)]
        # Of a folder before those inside it, so that default settings stand before other presets.
        for path in sorted(paths, key=lambda path: path.parent.parts):
            if path not in found:
                found[path] = read_results(path, (PurePosixPath(root.name) / path.relative_to(root)).as_posix())
    if not found:
        shown = ", ".join(map(str, folders))
        raise ValueError(f"report: folders: got {shown or 'none'}, without any {FILE} of `ald-ext experiment`")
    return list(found.values())


def read_results(path: Path, origin: str) -> Results:
    """One file. ValueError, which names it, where it is damaged or of another form."""
    values = read_json(path)
    where = f"report: {path}"
    experiment = read_field(values, "experiment", "str", where)
    own_picture = [{"file": f"{experiment}.png", "caption": ""}]
    return Results(
        folder=path.parent,
        origin=origin,
        experiment=experiment,
        preset=read_field({"preset": "", **values}, "preset", "str", where),
        quick=read_field(values, "quick", "bool", where),
        settings=read_field(values, "settings", "dict[str, Any]", where),
        differences=read_records(Difference, values, "differences", where),
        versions=read_field(values, "versions", "dict[str, str]", where),
        seconds=read_field(values, "seconds", "float", where),
        rows=read_records(Row, values, "rows", where),
        pictures=[
            inside(picture, where)
            for picture in read_records(Picture, {"pictures": own_picture, **values}, "pictures", where)
        ],
        jobs=read_records(Job, values, "jobs", where) if "jobs" in values else None,
    )


def read_json(path: Path) -> Any:
    """What a file holds. ValueError, which names it, where it is damaged."""
    try:
        # What is not finite stands there as null; older Python writes NaN.
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"report: {path}: damaged ({error}), expected JSON of `ald-ext experiment`") from error


def inside(picture: Picture, where: str) -> Picture:
    """The same picture. ValueError where it is not inside the folder of results.json."""
    path = PurePosixPath(picture.file)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{where}: pictures: got {picture.file!r}, expected a file in the folder of {FILE}")
    return picture


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_number_or_null(value: Any) -> bool:
    return value is None or is_number(value)


#: Whether a value of JSON is of the type that a field is annotated with.
CHECKS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "int": lambda value: is_number(value) and isinstance(value, int),
    "float": is_number,
    "float | None": is_number_or_null,
    "bool": lambda value: isinstance(value, bool),
    "list": lambda value: isinstance(value, list),
    "list[float | None]": lambda value: isinstance(value, list) and all(map(is_number_or_null, value)),
    "dict[str, Any]": lambda value: isinstance(value, dict),
    "dict[str, str]": lambda value: isinstance(value, dict) and all(isinstance(item, str) for item in value.values()),
}


def read_field(values: Any, name: str, kind: str, where: str) -> Any:
    """``values[name]``. ValueError where it is missing or not of the type named ``kind``."""
    if not isinstance(values, dict):
        raise ValueError(f"{where}: got {shortened(values)}, expected an object")
    if name not in values:
        raise ValueError(f"{where}: got no {name!r}, expected it, as `ald-ext experiment` writes it")
    if not CHECKS[kind](values[name]):
        raise ValueError(f"{where}: {name}: got {shortened(values[name])}, expected {kind}")
    return values[name]


def read_records(record: type[Record], values: Any, name: str, where: str) -> list[Record]:
    """``values[name]`` as a list of a dataclass; what that does not know is left out."""
    items = read_field(values, name, "list", where)
    return [
        record(**{field.name: read_field(item, field.name, str(field.type), place) for field in fields(record)})  # type: ignore[arg-type]
        for item, place in ((item, f"{where}: {name}[{index}]") for index, item in enumerate(items))
    ]


def shortened(value: Any) -> str:
    """For a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
