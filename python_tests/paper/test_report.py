"""ald-ext report: results of experiments as a page, from small results that are made up."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ald_ext.cli.commands import app
from ald_ext.paper.report import build_page, check_report, write_report
from ald_ext.paper.report.sections import fitted_notes

#: A picture of one pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def make_row(name: str, *values: float | None, paper: float | None = None, error: float | None = None) -> dict:
    mean = None if None in values else sum(values) / len(values)
    return {"name": name, "paper": paper, "mean": mean, "standard_error": error, "values": list(values)}


def make_job(dataset: str, model: str, **changes: Any) -> dict:
    job = {"dataset": dataset, "model": model, "seed": 0, "part": "", "epochs": 3, "train_images": 4500}
    job |= {"test_images": 500, "seconds": 60.0, "images_per_second": 225.0, "parameters": 1000, "threads": 1}
    return {**job, "device": "cpu", **changes}


def write_results(
    folder: Path,
    experiment: str,
    rows: list[dict],
    *,
    jobs: list[dict] | None = None,
    pictures: dict[str, str] | None = None,
    missing: tuple[str, ...] = (),
    **changes: Any,
) -> Path:
    """An experiment's folder: one on images where there are jobs; ``pictures`` are captions by file."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        "experiment": experiment,
        "quick": False,
        "settings": {"width": 16, "network": {"lr": 0.003}},
        "differences": [{"setting": "a", "paper": "b", "ours": "c", "reason": "d"}],
        "versions": {"torch": "2.15.0", "threads": "2", "workers": "1"},
        "seconds": 12.3,
        "rows": rows,
    }
    files = pictures or {f"{experiment}.png": f"The title of {experiment}"}
    if jobs is None:
        results["preset"] = "default"
    else:
        results["pictures"] = [{"file": file, "caption": caption} for file, caption in files.items()]
        results["jobs"] = jobs
    for file in set(files) - set(missing):
        (folder / file).write_bytes(PNG)
    (folder / "results.json").write_text(json.dumps({**results, **changes}))
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An experiment on images: two data sets, three models, two seeds."""
    rows = [
        make_row("mnist/vae/re", 0.02, 0.04, paper=0.02, error=0.01),
        make_row("mnist/vae/fid", 200.0, 210.0, error=5.0),
        make_row("mnist/lae/re", 0.01, 0.01, paper=0.04, error=0.0),
        make_row("mnist/lae/re_averaged", 0.009, 0.009, error=0.0),
        make_row("mnist/lae/fid", 100.0, None),
        make_row("mnist/ae/re", 0.05, 0.05, error=0.0),
        make_row("svhn/vae/re", 1.0, 1.0, error=0.0),
        make_row("svhn/lae/re", 0.0123456, 0.0123456, error=0.00123),
        make_row("mnist/lae/seconds_to_re_of_vae", 10.0, 20.0, error=5.0),
    ]
    jobs = [make_job("mnist", model, seed=seed) for model in ("vae", "lae", "ae") for seed in (0, 1)]
    jobs += [make_job("svhn", model, seed=seed, epochs=4 + seed) for model in ("vae", "lae") for seed in (0, 1)]
    pictures = {"generation.png": "The title of generation", "mnist-lae.png": "a <b> | *c* [d](e) $f$ &lt; g_h_ `i`"}
    return write_results(tmp_path / "results" / "images", "generation", rows, jobs=jobs, pictures=pictures)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    rows = [make_row("ald_mse", 1.0, 3.0, paper=4.0, error=1.0), make_row("ald_ess", 12345.6, 12345.6, error=0.0)]
    return write_results(tmp_path / "results" / "toy", "toy", rows)


def text_of(folder: Path) -> str:
    return build_page([folder], folder.parent / "page.md").text


def cells(text: str, first: str) -> list[list[str]]:
    """Of every line of a table that begins with the cell ``first``."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")][1:] for line in lines]


class Reader(HTMLParser):
    """Tags, addresses, and text outside of the style sheet."""

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


def test_a_toy_experiment_is_a_list_of_rows(toy):
    text = text_of(toy)
    assert cells(text, "`ald_mse`") == [["2 ± 1", "4", "-2 (-50.0%)"]]
    assert cells(text, "`ald_ess`") == [["12346 ± 0", "", ""]]
    assert "## toy\n" in text
    assert "2 seeds; 12 seconds" in text
    assert "`network.lr` 0.003" in text
    assert cells(text, "a") == [["b", "c", "d"]]


def test_models_by_metrics_with_the_papers_where_it_has_any(images):
    text = text_of(images)
    header = "| model | `re` | paper | difference | `fid` | `re_averaged` |"
    assert header in text
    assert cells(text, "`vae`")[0] == ["0.03 ± 0.01", "**0.02**", "+0.01 (+50.0%)", "205 ± 5", ""]
    lae = ["**0.01 ± 0**", "0.04", "-0.03 (-75.0%)", "not finite in 1 of 2 seeds", "0.009 ± 0"]
    assert cells(text, "`lae`")[0] == lae
    assert cells(text, "`ae`")[0] == ["0.05 ± 0", "", "", "", ""]


def test_each_data_set_has_its_table_and_how_it_was_trained(images):
    text = text_of(images)
    assert text.index("#### mnist\n") < text.index("#### svhn\n") < text.index("#### Other figures\n")
    assert cells(text, "`lae`")[1] == ["**0.01235 ± 0.0012**"]
    assert cells(text, "`svhn/lae`") == [["2", "4 to 5", "4,500", "500", "1,000", "120", "225"]]
    assert "2 seeds; 10 training runs of 600 seconds in all, each with 1 thread on cpu; torch 2.15.0" in text


def test_rows_that_compare_models_are_listed(images):
    assert cells(text_of(images), "`mnist/lae/seconds_to_re_of_vae`") == [["15 ± 5"]]


@pytest.mark.parametrize(
    ("metric", "best"),
    [("re", "1"), ("denoising_mse", "1"), ("frechet_x", "1"), ("seconds", "1"), ("auroc", "2"), ("empty_bins", None)],
)
def test_the_best_is_bold_where_its_direction_is_known(tmp_path, metric, best):
    rows = [make_row(f"mnist/{model}/{metric}", value) for model, value in (("vae", 1.0), ("lae", 2.0))]
    jobs = [make_job("mnist", model) for model in ("vae", "lae")]
    text = text_of(write_results(tmp_path / "x", "x", rows, jobs=jobs))
    shown = [cells(text, f"`{model}`")[0][0] for model in ("vae", "lae")]
    assert shown == [f"**{value}**" if value == best else value for value in ("1", "2")]


def test_classes_are_matrices(tmp_path):
    rows = []
    for model, shift, paper in (("vae", 0.0, 0.75), ("lae", 0.125, None)):
        for metric in ("auprc_normal", "auroc"):
            printed = paper if metric == "auprc_normal" else None
            rows.append(make_row(f"mnist/{model}/{metric}", 0.5 + shift, paper=printed))
            values = {0: 0.25 + shift, 10: 0.75 + shift, 2: 0.5 + shift}
            rows += [make_row(f"mnist/{model}/{metric}_{d}", value, paper=printed) for d, value in values.items()]
    jobs = [make_job("mnist", model, part=part) for model in ("vae", "lae") for part in ("0", "2", "10")]
    text = text_of(write_results(tmp_path / "x", "anomaly", rows, jobs=jobs))
    assert text.count("|  | 0 | 2 | 10 | mean |") == 3  # ours, the paper's, the difference
    means, ours, paper, difference = cells(text, "`vae`")
    assert means == ["0.5", "0.75", "-0.25 (-33.3%)"]
    assert ours == ["0.25", "0.5", "0.75", "0.5"]
    assert paper == ["0.75"] * 4
    assert difference == ["-0.5", "-0.25", "0", "-0.25"]
    assert cells(text, "`lae`")[1] == ["**0.375**", "**0.625**", "**0.875**", "**0.625**"]
    # The other figure: its mean alone, a row a metric.
    assert "|  | `vae` | `lae` |" in text
    assert cells(text, "`auroc`") == [["0.5", "**0.625**"]]
    assert "auroc_2" not in text


def test_one_model_is_a_list_of_metrics(tmp_path):
    rows = [make_row("mnist/lae/re_none", 1.0), make_row("mnist/lae/re_uniform", 2.0)]
    text = text_of(write_results(tmp_path / "x", "dequantization", rows, jobs=[make_job("mnist", "lae")]))
    assert cells(text, "`re_none`") == [["1"]]
    assert cells(text, "`re_uniform`") == [["2"]]


def test_what_is_not_finite_says_so(tmp_path):
    rows = [make_row("a", None, None), make_row("b", 1.0, None, paper=3.0)]
    text = text_of(write_results(tmp_path / "x", "x", rows))
    assert cells(text, "`a`") == [["not finite", "", ""]]
    assert cells(text, "`b`") == [["not finite in 1 of 2 seeds", "3", ""]]


def test_a_smoke_test_and_a_preset_say_so(tmp_path):
    rows = [make_row("a", 1.0)]
    write_results(tmp_path / "x", "x", rows, quick=True)
    write_results(tmp_path / "x" / "paper", "x", rows, preset="paper")
    write_results(tmp_path / "y", "x", rows, preset="paper")
    page = build_page([tmp_path], tmp_path / "page.md")
    assert page.labels == ("x, quick", "x, preset paper", "x, preset paper (2)")
    assert page.text.count("**A smoke test: its figures mean nothing.**") == 1


def test_results_are_found_once_and_not_among_training_runs(images, toy):
    rows = [make_row("a", 1.0)]
    write_results(images / "runs" / "mnist", "run", rows)
    write_results(images / "jobs", "job", rows)
    page = build_page([toy, images.parent, images], images.parent / "page.md")
    assert page.labels == ("toy", "generation")


def test_pictures_are_linked_in_the_pages_tree_and_copied_from_elsewhere(images, tmp_path):
    (images / "mnist-lae.png").rename(images / "mnist lae.png")
    text = (images / "results.json").read_text()
    (images / "results.json").write_text(text.replace("mnist-lae.png", "mnist lae.png"))
    page = write_report([images], tmp_path / "results" / "page.md")
    assert "![mnist lae](images/mnist%20lae.png)" in page.text
    assert "[images/results.json](images/results.json)" in page.text
    assert {path.name for path in (tmp_path / "results" / "page_files").iterdir()} == {"generation.png"}
    page = write_report([images], tmp_path / "elsewhere" / "page.md")
    assert "![mnist lae](page_files/generation/mnist%20lae.png)" in page.text
    assert str(tmp_path) not in page.text
    assert (tmp_path / "elsewhere" / "page_files" / "generation" / "mnist lae.png").read_bytes() == PNG


def test_a_missing_picture_is_noted(tmp_path):
    rows = [make_row("mnist/lae/re", 1.0)]
    pictures = {"x.png": "The title", "y.png": "A grid"}
    folder = write_results(
        tmp_path / "x", "x", rows, jobs=[make_job("mnist", "lae")], pictures=pictures, missing=("y.png",)
    )
    assert "The picture `y.png` is missing: A grid" in text_of(folder)
    (folder / "x.png").unlink()
    assert "The picture `x.png` is missing: The title" in text_of(folder)


def test_the_html_needs_no_other_file(images, toy):
    (images / "notes.md").write_text("See ![it](https://example.org/it.png), <script>x</script> and [this](that.md).")
    out = images.parent / "page.md"
    write_report([images.parent], out)
    reader = Reader(out.with_suffix(".html").read_text())
    sources = [attributes["src"] for _, attributes in reader.tags if "src" in attributes]
    assert len(sources) == 4  # two of images, its plot, one of the toy
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert base64.b64decode(sources[1].partition(",")[2]) == PNG
    assert {attributes.get("class") for attributes in reader.all("img")} == {None, "pixels"}
    assert not reader.all("script")
    assert not reader.all("link")
    assert "<script>x</script>" in reader.text
    references = [attributes["href"] for attributes in reader.all("a") if "href" in attributes]
    assert references == ["#generation", "#toy", "https://example.org/it.png"]
    assert {attributes["id"] for attributes in reader.all("h2")} == {"generation", "toy"}
    assert len(reader.all("table")) == len([box for box in reader.all("div") if box.get("class") == "scroll"])


def test_special_characters_stand_as_they_are(images):
    text = (images / "results.json").read_text()
    (images / "results.json").write_text(text.replace('"reason": "d"', '"reason": "1 | 2 <i> *3* ~~4~~ \\\\ \\n# 5"'))
    out = images.parent / "page.md"
    write_report([images], out)
    reader = Reader(out.with_suffix(".html").read_text())
    assert "a <b> | *c* [d](e) $f$ &lt; g_h_ `i`" in reader.text
    assert "1 | 2 <i> *3* ~~4~~ \\ # 5" in reader.text
    assert not reader.all("i")


def test_the_same_results_give_the_same_files(images, toy):
    out = images.parent / "page.md"
    files = [out, out.with_suffix(".html"), images.parent / "page_files" / "generation.png"]
    write_report([images.parent], out)
    first = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    write_report([images.parent], out)
    assert [file.read_bytes() for file in files] == first


def test_the_command_writes_and_checks(images, tmp_path):
    out, html = tmp_path / "new" / "page.md", tmp_path / "other.html"
    arguments = ["report", str(images), "--out", str(out)]
    runner = CliRunner()
    missing = runner.invoke(app, [*arguments, "--check"])
    assert missing.exit_code == 1
    assert not out.parent.exists()
    written = runner.invoke(app, [*arguments, "--html", str(html)])
    assert written.exit_code == 0, written.output
    assert html.is_file()
    assert not out.with_suffix(".html").exists()
    assert runner.invoke(app, [*arguments, "--check"]).exit_code == 0
    out.write_text("another page")
    assert runner.invoke(app, [*arguments, "--check"]).exit_code == 1
    assert out.read_text() == "another page"
    with pytest.raises(ValueError, match=r"page\.md: got a page that is not of these results"):
        check_report([images], out)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"experiment": "x"', r"x/results\.json: damaged .*expected JSON"),
        ("[1, 2]", "got .1, 2., expected an object"),
        ("{}", "got no 'experiment'"),
        ('{"experiment": 3}', "experiment: got 3, expected str"),
        ('{"experiment": "x", "quick": 0}', "quick: got 0, expected bool"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, text, message):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "results.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        build_page([tmp_path], tmp_path / "page.md")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": [make_row("a", 1.0), {"name": "b"}]}, r"rows\[1\]: got no 'paper'"),
        ({"rows": [{**make_row("a", 1.0), "mean": "1"}]}, r"rows\[0\]: mean: got '1', expected float"),
        ({"jobs": [{"dataset": "mnist"}]}, r"jobs\[0\]: got no 'model'"),
        ({"pictures": [{"file": "../x.png", "caption": ""}]}, r"pictures: got '\.\./x\.png', expected a file in"),
    ],
)
def test_another_form_is_named(toy, changes, message):
    values = json.loads((toy / "results.json").read_text())
    (toy / "results.json").write_text(json.dumps({**values, **changes}))
    with pytest.raises(ValueError, match=message):
        text_of(toy)


def test_no_results_and_no_folder_are_errors(tmp_path, toy):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"folders: got .*empty, without any results\.json"):
        build_page([tmp_path / "empty"], tmp_path / "page.md")
    with pytest.raises(ValueError, match=r"folders: got .*nowhere', expected a folder"):
        build_page([toy, tmp_path / "nowhere"], tmp_path / "page.md")
    with pytest.raises(ValueError, match=r"html: got .* expected another"):
        write_report([toy], tmp_path / "page.html")


def test_what_was_tried_is_a_table(toy):
    """Settings in one column; what a trial does not tell is left empty; text is escaped."""
    trials = [
        {"model": "lae", "settings": {"network": {"lr": 0.1}, "width": 8}, "seed": 0, "re": 0.012345678},
        {"model": "clae|x", "settings": {}, "seed": 1, "frechet": None, "re": 0.5},
    ]
    (toy / "tried.json").write_text(json.dumps(trials))
    lines = build_page([toy], toy.parent / "page.md").text.splitlines()
    begin = lines.index("### What was tried") + 2
    assert lines[begin] == "| settings | model | seed | re | frechet |"
    assert lines[begin + 2] == "| `network.lr` 0.1; `width` 8 | lae | 0 | 0.01235 |  |"
    assert lines[begin + 3] == "| as they are | clae\\|x | 1 | 0.5 |  |"


@pytest.mark.parametrize("text", ["{", "{}", "[1]"])
def test_damaged_trials_are_named(toy, text):
    (toy / "tried.json").write_text(text)
    with pytest.raises(ValueError, match=r"toy/tried\.json: "):
        build_page([toy], toy.parent / "page.md")


def test_notes_that_are_no_text_are_named(toy):
    (toy / "notes.md").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"toy/notes\.md: .* expected text in UTF-8"):
        text_of(toy)


def test_notes_are_shown_below_the_pages_headings(toy):
    (toy / "more.png").write_bytes(PNG)
    notes = "# What came out\nText\n- one\n- two\n\nA title\n===\n\n![more](more.png)\n\n```\n# code\n"
    (toy / "notes.md").write_text(notes)
    rows = [make_row("a", 1.0)]
    write_results(toy.parent / "zoo", "zoo", rows)
    out = toy.parent / "page.md"
    page = write_report([toy.parent], out)
    assert "### Notes\n\n#### What came out\nText\n\n- one\n- two\n\n#### A title\n\n![more](toy/more.png)" in page.text
    reader = Reader(out.with_suffix(".html").read_text())
    assert len(reader.all("h1")) == 1
    assert [attributes["id"] for attributes in reader.all("h2")] == ["toy", "zoo"]
    assert len(reader.all("h4")) == 2
    assert len(reader.all("li")) == 4  # two in the contents
    assert len(reader.all("img")) == 3
    assert "# code" in reader.text


@pytest.mark.parametrize(
    ("text", "fitted"),
    [
        ("##### Deep", "###### Deep"),
        ("#5 is no heading", "\\#5 is no heading"),
        ("Title\n---\ntext", "##### Title\ntext"),
        ("- one\n---", "- one\n---"),
        ("text\n\n---\n", "text\n\n---"),
        ("Text\n| a |\n| --- |", "Text\n\n| a |\n| --- |"),
        ("~~~\n# code\n```\n~~~\n# a", "~~~\n# code\n```\n~~~\n#### a"),
        ("```", "```\n```"),
    ],
)
def test_notes_are_as_they_stand_but_for_what_breaks_the_page(text, fitted):
    assert fitted_notes(text, lambda target: None) == fitted
