"""ald-ext report: results as a page, from small results that are made up; and how results.json is read."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tqdm")
pytest.importorskip("matplotlib")
pytest.importorskip("markdown")

from command_line import run as command

from ald_ext.paper.report import check_report, write_report
from ald_ext.paper.report.metrics import METRICS, best_value, direction, find_metric
from ald_ext.paper.results import make_row

#: A picture of one pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def row(name: str, *values: float | None, paper: float | None = None) -> dict[str, Any]:
    return vars(make_row(name, [float("nan") if value is None else value for value in values], {name: paper}))


def run(dataset: str, model: str, **changes: Any) -> dict[str, Any]:
    values = {"dataset": dataset, "model": model, "seed": 0, "part": "", "epochs": 3, "train_images": 4500}
    values |= {"test_images": 500, "seconds": 60.0, "images_per_second": 225.0, "parameters": 1000, "threads": 1}
    return {**values, "device": "cpu", **changes}


def write(folder: Path, experiment: str, rows: list[dict[str, Any]], pictures: Any = None, **changes: Any) -> Path:
    """An experiment's folder; ``pictures`` are captions by file."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = pictures or {f"{experiment}.png": f"The title of {experiment}"}
    for file in pictures:
        (folder / file).write_bytes(PNG)
    results = {
        "experiment": experiment,
        "quick": False,
        "settings": {"width": 16, "network": {"lr": 0.003}},
        "differences": [{"setting": "a", "paper": "b", "ours": "c", "reason": "1 | 2 <i> *3* ~~4~~ \\ \n# 5"}],
        "versions": {"torch": "2.15.0", "threads": "2", "workers": "1"},
        "seconds": 12.3,
        "rows": rows,
        "pictures": [{"file": file, "caption": caption} for file, caption in pictures.items()],
        **changes,
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An experiment on images: two data sets, three models, two seeds."""
    rows = [
        row("mnist/vae/re", 0.02, 0.04, paper=0.02),
        row("mnist/vae/fid", 200.0, 210.0),
        row("mnist/lae/re", 0.01, 0.01, paper=0.04),
        row("mnist/lae/re_averaged", 0.009, 0.009),
        row("mnist/lae/fid", 100.0, None),
        row("mnist/ae/re", 0.05, 0.05),
        row("svhn/vae/re", 1.0, 1.0),
        row("svhn/lae/re", 0.0123456, 0.0123456),
        row("mnist/lae/seconds_to_re_of_vae", 10.0, 20.0),
    ]
    jobs = [run("mnist", model, seed=seed) for model in ("vae", "lae", "ae") for seed in (0, 1)]
    jobs += [run("svhn", model, seed=seed, epochs=4 + seed) for model in ("vae", "lae") for seed in (0, 1)]
    pictures = {"generation.png": "The title of generation", "mnist lae.png": "a <b> | *c* [d](e) $f$ &lt; g_h_ `i`"}
    return write(tmp_path / "results" / "images", "generation", rows, pictures, jobs=jobs)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    rows = [row("ald_mean_mse", 1.0, 3.0, paper=4.0), row("ald_ess", 12345.6, 12345.6), row("other", None, None)]
    return write(tmp_path / "results" / "toy", "toy", rows, preset="default")


def page_of(*folders: Path, **options: Any) -> str:
    out = folders[0].parent / "page.md"
    write_report(folders, out, **options)
    return out.read_text()


def cells(text: str, first: str) -> list[list[str]]:
    """Of every line of a table that begins with the cell ``first``."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")][1:] for line in lines]


class Reader(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_presets_of_a_toy_experiment_stand_side_by_side(toy: Path) -> None:
    write(toy / "paper", "toy", [row("ald_mean_mse", 7.0, paper=4.0)], preset="paper")
    write(toy.parent / "zoo", "toy", [row("a", 1.0)], preset="paper", quick=True)
    text = page_of(toy, toy.parent)
    assert "| figure | paper | ours | the paper's settings |" in text
    assert cells(text, "`ald_mean_mse` ↓") == [["4", "2 ± 1", "7"]]
    assert cells(text, "`ald_ess` ↑") == [["", "12346 ± 0", ""]]
    assert cells(text, "`other`") == [["", "not finite", ""]]
    assert "- `mean_mse` ↓: squared error of the samples' mean" in text
    assert "Conditions: 2 seeds, 12 s, workers: 1, threads: 2, torch 2.15.0 ([results.json](toy/results.json))." in text
    assert "Conditions of the paper's settings: 1 seed" in text
    assert "`network.lr` 0.003" in text
    assert re.findall("^## .*", text, flags=re.MULTILINE) == ["## toy", "## toy, preset paper, quick"]
    assert text.count("**A smoke test: its figures mean nothing.**") == 1


def test_models_by_metrics_with_the_papers_where_it_has_any(images: Path) -> None:
    text = page_of(images)
    assert "| model | `re` ↓, paper | `re` ↓, ours | `fid` ↓, ours | `re_averaged` ↓, ours |" in text
    (vae, vae_svhn), (lae, lae_svhn), (ae,) = (cells(text, f"`{model}`") for model in ("vae", "lae", "ae"))
    assert vae == ["**0.02**", "0.03 ± 0.01", "205 ± 5", ""]
    assert lae == ["0.04", "**0.01 ± 0**", "not finite in 1 of 2 seeds", "0.009 ± 0"]
    assert ae == ["", "0.05 ± 0", "", ""]
    assert (vae_svhn, lae_svhn) == (["1 ± 0"], ["**0.01235 ± 0**"])
    assert text.index("### mnist\n") < text.index("### svhn\n") < text.index("### Other figures\n")
    assert cells(text, "`mnist/lae/seconds_to_re_of_vae` ↓") == [["15 ± 5"]]
    assert "Conditions: 2 seeds, width 16, 3 to 5 epochs of 4,500 images, 600 s of training in all, cpu" in text
    assert cells(text, "`svhn/lae`") == [["2", "4 to 5", "4,500", "500", "1,000", "120", "225"]]


def test_classes_are_matrices_and_one_model_is_a_list(tmp_path: Path) -> None:
    rows = []
    for model, shift, paper in (("vae", 0.0, 0.75), ("lae", 0.125, None)):
        for metric, printed in (("auprc_normal", paper), ("auroc", None)):
            values = {"": 0.5, "_0": 0.25, "_10": 0.75, "_2": 0.5}
            rows += [row(f"mnist/{model}/{metric}{key}", value + shift, paper=printed) for key, value in values.items()]
    write(tmp_path / "x", "x", rows, jobs=[run("mnist", model) for model in ("vae", "lae")])
    write(tmp_path / "y", "y", [row("mnist/gan/re_none", 1.0)], jobs=[run("mnist", "gan")])
    text = page_of(tmp_path / "x", tmp_path / "y")
    assert text.count("| model | 0 | 2 | 10 | mean |") == 2  # ours and the paper's
    assert cells(text, "`vae`") == [["0.75", "0.5"], ["0.25", "0.5", "0.75", "0.5"], ["0.75"] * 4]
    assert cells(text, "`lae`")[1] == ["**0.375**", "**0.625**", "**0.875**", "**0.625**"]
    assert cells(text, "`auroc` ↑") == [["0.5", "**0.625**"]]
    assert "auroc_2" not in text
    assert cells(text, "`re_none` ↓") == [["1"]]


@pytest.mark.parametrize(
    ("metric", "arrow", "best"),
    [
        ("re", "↓", 1.0),
        ("denoising_mse", "↓", 1.0),
        ("frechet_x", "↓", 1.0),
        ("ald_ess", "↑", 2.0),
        ("auroc", "↑", 2.0),
        ("sgald_variance_ratio_min", "→ 1", None),
        ("red", "", None),
    ],
)
def test_directions(metric: str, arrow: str, best: float | None) -> None:
    assert direction(metric) == arrow
    assert best_value(metric, [1.0, None, 2.0]) == best
    assert best_value(metric, [1.0, None]) is None


def test_trained_models_are_an_experiment(tmp_path: Path) -> None:
    """Side by side in a table; a folder that is not called by its model is named, and so are its pictures."""
    for folder, model, re_averaged in (("lae", "lae", 0.5), ("mine", "lae", 0.25), ("vae", "vae", None)):
        path = tmp_path / "runs" / folder
        path.mkdir(parents=True)
        metrics = {**run("faces.npz", model), "test_re": 0.75, "test_re_ensemble": re_averaged}
        (path / "metrics.json").write_text(json.dumps(metrics))
        (path / "config.json").write_text(json.dumps({"seed": 3, "lr": len(folder), "network": {"width": 8}}))
        (path / "samples.png").write_bytes(PNG)
    (tmp_path / "runs" / "notes.md").write_text("These are mine.")
    text = page_of(tmp_path / "runs")
    assert cells(text, "`lae`") == [["0.75", "0.5"]]
    assert cells(text, r"mine (lae)") == [["0.75", "**0.25**"]]
    assert cells(text, "`vae`") == [["0.75", ""]]
    assert "1 seed, width 8, 3 epochs of 4,500 images" in text
    assert "`seed` 3; `network.width` 8" in text
    assert "`lr`" not in text
    assert "![samples](runs/mine/samples.png)" in text
    assert "These are mine." in text
    text = page_of(tmp_path / "runs" / "lae", tmp_path / "runs" / "vae")
    assert "mine" not in re.sub("These are mine", "", text)
    assert text.count("## trained-models") == 1


def test_results_are_found_once_and_not_among_training_runs(images: Path, toy: Path) -> None:
    write(images / "runs" / "mnist", "run", [row("a", 1.0)])
    write(images / "jobs", "job", [row("a", 1.0)])
    assert write_report([toy, images.parent, images], images.parent / "page.md") == ["toy", "generation"]


def test_pictures_are_linked_in_the_pages_tree_and_copied_from_elsewhere(images: Path, tmp_path: Path) -> None:
    assert "![mnist lae](images/mnist%20lae.png)" in page_of(images)
    assert {path.name for path in (tmp_path / "results" / "page_files").iterdir()} == {"generation.png"}
    (images / "generation.png").unlink()
    out = tmp_path / "elsewhere" / "page.md"
    write_report([images], out)
    text = out.read_text()
    assert "![mnist lae](page_files/generation/mnist%20lae.png)" in text
    assert "The picture `generation.png` is missing: The title of generation" in text
    assert str(tmp_path) not in text
    assert (out.parent / "page_files" / "generation" / "mnist lae.png").read_bytes() == PNG


def test_the_html_needs_no_other_file(images: Path, toy: Path) -> None:
    """Its pictures are inside, HTML in notes is text, and the same results give the same files."""
    (images / "notes.md").write_text("See ![it](https://example.org/it.png), <script>x</script> and [this](that.md).")
    html = images.parent / "page.html"
    page_of(images, toy, html=html)
    first = html.read_bytes()
    page_of(images, toy, html=html)
    assert html.read_bytes() == first
    reader = Reader(first.decode())
    sources = [attributes["src"] for _, attributes in reader.tags if "src" in attributes]
    assert len(sources) == 4  # two of images, its plot, one of the toy
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert base64.b64decode(sources[0].partition(",")[2]) == PNG
    assert not reader.all("script") + reader.all("link") + reader.all("i")
    references = [attributes["href"] for attributes in reader.all("a") if "href" in attributes]
    assert references == ["#generation", "#toy", "https://example.org/it.png"]
    assert {attributes["id"] for attributes in reader.all("h2")} == {"generation", "toy"}
    assert reader.all("td")
    for text in ("<script>x</script>", "a <b> | *c* [d](e) $f$ &lt; g_h_ `i`", "1 | 2 <i> *3* ~~4~~ \\ # 5"):
        assert text in reader.text


def test_the_command_writes_and_checks(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "page.md"
    arguments = ["report", images, "--out", out]
    assert command(*arguments, "--check").returncode == 1
    assert not out.parent.exists()
    assert command(*arguments, "--html", tmp_path / "other.html").returncode == 0
    assert (tmp_path / "other.html").is_file()
    assert command(*arguments, "--check").returncode == 0
    out.write_text("another page")
    with pytest.raises(ValueError, match=r"page\.md: differs from the page of these results"):
        check_report([images], out)
    assert out.read_text() == "another page"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("results.json", b'{"experiment": "x"', "is no JSON file"),
        ("results.json", b"[" * 10_000, "got values nested too deeply"),
        ("results.json", b"[1, 2]", "got .1, 2., expected an object"),
        ("results.json", b"{}", "got no 'experiment'"),
        ("results.json", {"experiment": 3}, "experiment: got 3, expected str"),
        ("results.json", {"quick": 0}, "quick: got 0, expected bool"),
        ("results.json", {"rows": [row("a", 1.0), {"name": "b"}]}, r"rows\[1\]: got no 'paper'"),
        ("results.json", {"rows": [{**row("a", 1.0), "mean": "1"}]}, r"rows\[0\]: mean: got '1', expected float"),
        ("results.json", {"jobs": [{"dataset": "mnist"}]}, "jobs.*: got "),
        ("results.json", {"pictures": [{"file": "../x.png", "caption": ""}]}, r"pictures: got '\.\./x\.png', expected"),
        ("tried.json", b"{", "is no JSON file"),
        ("tried.json", b"[1]", "expected a list of objects"),
        ("notes.md", b"\xff\xfe", ".* expected text in UTF-8"),
        ("metrics.json", b"[]", "and config.json: expected objects"),
    ],
)
def test_a_damaged_file_is_named(toy: Path, file: str, content: Any, message: str) -> None:
    if isinstance(content, dict):
        content = json.dumps({**json.loads((toy / file).read_text()), **content}).encode()
    (toy / file).write_bytes(content)
    if file == "metrics.json":
        (toy / "results.json").rename(toy / "config.json")
    with pytest.raises(ValueError, match=f"toy/{re.escape(file)}:? {message}"):
        page_of(toy)


def test_no_results_and_no_folder_are_errors(tmp_path: Path, toy: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"folders: got .*empty, expected one with a results\.json"):
        page_of(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"folders: got .*nowhere', expected a folder"):
        page_of(toy, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected another file than those of --html"):
        page_of(toy, html=toy.parent / "page.md")


def test_notes_and_trials(toy: Path) -> None:
    """Headings of notes move down, links to pictures are the page's; trials may have a page of their own."""
    (toy / "more.png").write_bytes(PNG)
    notes = "# What came out\n![more](more.png) #5\n\n###### Deep\n\n```\n# code\n```\n\n```\n# open"
    (toy / "notes.md").write_text(notes)
    trials = [
        {"model": "lae", "settings": {"network": {"lr": 0.1}, "width": 8}, "seed": 0, "re": 0.012345678},
        {"model": "clae|x", "settings": {}, "seed": 1, "frechet": None, "re": 0.5},
    ]
    (toy / "tried.json").write_text(json.dumps(trials))
    (toy.parent / "introduction.md").write_text("# My results")
    table = [
        "| settings | model | seed | re | frechet |",
        "| --- | --- | --- | --- | --- |",
        "| `network.lr` 0.1; `width` 8 | lae | 0 | 0.01235 |  |",
        "| as they are | clae\\|x | 1 | 0.5 |  |",
    ]
    text = page_of(toy.parent)
    assert text.startswith("# My results\n")
    lowered = (
        "#### What came out\n![more](results/toy/more.png) #5\n\n###### Deep\n\n```\n# code\n```\n\n```\n# open\n```\n"
    )
    assert lowered in text
    assert "\n".join(["### What was tried", "", *table]) in text
    tried = toy.parent.parent / "tried.md"
    text = page_of(toy.parent, tried=tried)
    assert "[Other settings](tried.md)" in text
    assert table[0] not in text
    assert tried.read_text() == "\n".join(["# What was tried", "", "## toy", "", *table, ""])


def test_a_search_has_a_table(tmp_path: Path) -> None:
    """A row a model: the chosen settings with what they gave in the second round, and the spread of the first."""

    def trial(number: int, lr: float, re: float | None, distance: float | None) -> dict[str, Any]:
        values = {"options": {"lr": lr, "batch_size": 25}, "round": number, "steps": 1000 * number, "re": re}
        return {**values, "frechet": distance, "score": re}

    first = [trial(1, 0.001, 0.5, 70.0), trial(1, 0.002, 0.25, 60.0), trial(1, 0.004, None, None)]
    trials = [*first, trial(2, 0.002, 0.125, 50.0), trial(2, 0.001, 0.2, 40.0)]
    choice = {"dataset": "mnist", "model": "lae", "options": trials[3]["options"], "trials": trials}
    folder = write(tmp_path / "x", "x", [row("mnist/lae/re", 1.0)], jobs=[run("mnist", "lae")], choices=[choice])
    write_report([folder], tmp_path / "page.md")
    (line,) = [
        line for line in (tmp_path / "page.md").read_text().splitlines() if line.startswith("| `mnist/lae` | `lr`")
    ]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["`mnist/lae`", "`lr` 0.002; `batch_size` 25", "2,000", "0.125", "50", "3", "1", "0.25 to 0.5"]


def test_figures_are_told_by_their_own_names() -> None:
    """Also where a name holds that of another figure; and each figure of METRICS is found by its own key."""
    assert find_metric("far_from_modes_k=10n") == "far_from_modes"
    assert (find_metric("modes_k=10n"), direction("modes_k=10n")) == ("modes", "→ 8")
    assert [find_metric(key) for key in METRICS] == list(METRICS)
