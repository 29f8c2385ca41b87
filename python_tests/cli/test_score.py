"""``ald-ext score`` on one's own pictures: all of them, by name, as JSON or a table, and where they are anomalous."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from corpus.pictures import Image, grey, numbered, random_pixels, save

NAMES = numbered(11, "cat/{}.png") + numbered(9, "dog/{}.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    grey(path, *NAMES)
    return path


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "lae"
    small = ("--epochs", 1, "--width", 4, "--latent-dim", 4, "--batch-size", 18)
    assert run("train", "--dataset", folder, "--out", out, *small).returncode == 0
    return out


def test_every_picture_of_a_folder_is_scored_by_name(trained: Path, folder: Path, tmp_path: Path) -> None:
    for out in ("scores.json", "scores.CSV"):
        result = run("score", trained, "--dataset", folder, "--out", tmp_path / out)
        assert result.returncode == 0, result.stderr
        assert "20 scores in" in result.stdout
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written["names"] == sorted(NAMES)
    assert written["labels"] == [0] * 11 + [1] * 9
    with open(tmp_path / "scores.CSV", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["name", "score", "label"]
    assert [row[0] for row in rows] == written["names"]
    assert [float(row[1]) for row in rows] == written["scores"]
    assert [int(row[2]) for row in rows] == written["labels"]


def test_without_a_data_set_those_are_scored_that_the_run_did_not_see(trained: Path, tmp_path: Path) -> None:
    assert run("score", trained, "--out", tmp_path / "scores.json").returncode == 0
    written = json.loads((tmp_path / "scores.json").read_text())
    assert len(written["names"]) == 2
    assert set(written["names"]) < set(NAMES)


def test_heat_maps_have_the_names_of_the_pictures(trained: Path, folder: Path, tmp_path: Path) -> None:
    result = run(
        "score", trained, "--dataset", folder, "--out", tmp_path / "scores.json", "--heat-map", tmp_path / "maps"
    )
    assert result.returncode == 0, result.stderr
    assert "20 heat maps in" in result.stdout
    maps = {path.relative_to(tmp_path / "maps").as_posix() for path in (tmp_path / "maps").rglob("*.png")}
    assert maps == {f"{name}.png" for name in NAMES}
    with Image.open(tmp_path / "maps" / "cat" / "0.png.png") as panels:
        assert panels.size == (2 * 3 * 36, 2 * 36)
        colours = np.asarray(panels.convert("RGB"))[:, 2 * 72 :]
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) > 20


def test_pictures_in_colour_are_converted_for_a_grey_model(trained: Path, tmp_path: Path) -> None:
    save(tmp_path / "pictures" / "a.png", random_pixels(32, 32, 3))
    np.savez(tmp_path / "file.npz", train_images=random_pixels(3, 32, 32, 3))
    for source, names in (("pictures", ["a.png"]), ("file.npz", [0, 1, 2])):
        result = run("score", trained, "--dataset", tmp_path / source, "--out", tmp_path / "scores.json")
        assert result.returncode == 0, result.stderr
        assert "converted to grey, which the model takes" in result.stderr
        assert json.loads((tmp_path / "scores.json").read_text())["names"] == names
        result = run("reconstruct", trained, "--dataset", tmp_path / source, "--out", tmp_path / "pairs.png")
        assert "converted to grey, which the model takes" in result.stderr
        assert f"over {len(names)} image" in result.stdout


def test_a_picture_is_no_place_for_scores(trained: Path, tmp_path: Path) -> None:
    result = run("score", trained, "--out", tmp_path / "scores.png")
    assert result.returncode == 1
    assert "out: got " in result.stderr
    assert not (tmp_path / "scores.png").exists()


def test_what_is_told_of_one_picture_and_of_earlier_files(trained: Path, tmp_path: Path) -> None:
    grey(tmp_path / "pictures", "one.png")
    arguments = ("--dataset", tmp_path / "pictures", "--out", tmp_path / "scores.csv", "--heat-map", tmp_path / "maps")
    for replaced in ("", " (in the place of an earlier file)"):
        scores, maps = run("score", trained, *arguments).stdout.splitlines()
        assert scores.startswith("1 score in ")
        assert scores.endswith(f"the least{replaced}")
        assert maps.startswith("1 heat map in ")
        assert "earlier" not in maps


def test_heat_maps_need_a_folder(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "maps").write_text("mine")
    result = run("score", trained, "--out", tmp_path / "scores.json", "--heat-map", tmp_path / "maps")
    assert result.stderr == f"ald-ext: heat_map: got '{tmp_path / 'maps'}', expected a folder"
    assert [path.name for path in tmp_path.iterdir()] == ["maps"]
