"""The command ald-ext, as a user runs it."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ald_ext.cli import main


@dataclass
class Result:
    """What a user sees of a command."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str | Path) -> Result:
    """Runs the entry point in this process: importing torch anew for every command would take most of the time."""
    output, errors = io.StringIO(), io.StringIO()
    original = sys.argv
    sys.argv = ["ald-ext", *map(str, arguments)]
    code: object = 0
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = original
    if isinstance(code, str):  # sys.exit("message")
        return Result(1, output.getvalue(), errors.getvalue() + code)
    return Result(int(code or 0), output.getvalue(), errors.getvalue())


def test_the_installed_command_starts():
    command = Path(sys.executable).parent / "ald-ext"
    result = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "train" in result.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "lae"
    result = run("train", "--out", out, "--epochs", 1, "--width", 4, "--batch-size", 500)
    assert result.returncode == 0, result.stderr
    assert "test RE" in result.stdout
    return out


def test_info_is_json_that_names_what_is_in_use():
    result = run("info")
    report = json.loads(result.stdout)
    assert report["cpu"]["cpu_capability"] in report["cpu"]["cpu_capabilities_built"]
    assert report["torch"]
    # Either what the CUDA module was built with, or why there is none and the remedy.
    assert "architectures" in report["cuda"] or "not available: " in report["cuda"]


def test_sample_draws_from_a_checkpoint_and_is_a_function_of_the_seed(trained, tmp_path):
    for name, seed in (("a.png", 1), ("b.png", 1), ("c.png", 2)):
        result = run("sample", trained, "--out", tmp_path / name, "--seed", seed, "--count", 12)
        assert result.returncode == 0, result.stderr
    a, b, c = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert a == b != c


def test_train_resumes(trained, tmp_path):
    result = run("train", "--out", trained, "--epochs", 2, "--resume")
    assert result.returncode == 0, result.stderr
    assert json.loads((trained / "metrics.json").read_text())["epochs"] == 2
    assert json.loads((trained / "config.json").read_text())["network"]["width"] == 4  # from the checkpoint


def test_an_autoencoder_cannot_be_sampled(tmp_path):
    run("train", "--out", tmp_path, "--model", "ae", "--epochs", 1, "--width", 4, "--batch-size", 500)
    result = run("sample", tmp_path, "--out", tmp_path / "samples.png")
    assert result.returncode == 1
    assert "has no prior to sample" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--model", "gan"], "model: got 'gan', expected one of lae, ae, vae"),
        (["train", "--dataset", "mnist"], "data_root: got none, expected the folder"),
        (
            ["train", "--dataset", "mnist", "--data-root", "nowhere"],
            "data_root: got 'nowhere', expected a folder that exists",
        ),
        (["train", "--device", "cuda:77"], "device: got 'cuda:77', expected auto, cpu or a GPU"),
        (["train", "--precision-prior", "1,x"], "precision-prior: got '1,x', expected flat, jeffreys or two numbers"),
        (["train", "--lr", "-1"], "lr: got -1.0, expected a finite number > 0"),
        (["train", "--resume"], "expected a file that `ald-ext train` wrote"),
    ],
)
def test_mistakes_give_one_line_and_leave_nothing(tmp_path, arguments, message):
    result = run(*arguments, "--out", tmp_path / "out")
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_sample_of_a_file_that_is_no_checkpoint(tmp_path):
    (tmp_path / "checkpoint.pt").write_text("hello")
    result = run("sample", tmp_path, "--out", tmp_path / "samples.png")
    assert result.returncode == 1
    assert "is corrupt, truncated or of another program" in result.stderr
    assert not (tmp_path / "samples.png").exists()
