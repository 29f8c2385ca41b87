"""The command ald-ext, as a user runs it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from patience import PATIENCE
from torch import nn
from typer.main import get_command

import ald_ext
from ald_ext.cli import main
from ald_ext.cli.commands import app
from ald_ext.models import LAE, MODELS
from ald_ext.training import TrainingConfig, train


@pytest.mark.processes
def test_the_installed_command_starts():
    command = Path(sys.executable).parent / "ald-ext"
    result = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr
    assert "train" in result.stdout


SMALL = ("--epochs", 1, "--width", 4, "--latent-dim", 4, "--batch-size", 500)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "lae"
    result = run("train", "--out", out, *SMALL)
    assert result.returncode == 0, result.stderr
    assert "test RE" in result.stdout
    return out


@pytest.fixture
def digits_file(tmp_path) -> Path:
    """Twelve images in a .npz file, as MedMNIST has them."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 32, 32), dtype=np.uint8)
    path = tmp_path / "digits.npz"
    np.savez(path, train_images=images, test_images=images, test_labels=np.arange(12))
    return path


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


def test_sample_draws_from_a_refitted_prior(trained, tmp_path):
    files = [tmp_path / name for name in ("own.png", "one.png", "again.png")]
    for file, options in zip(files, ((), ("--components", 1), ("--components", 1)), strict=True):
        result = run("sample", trained, "--out", file, "--count", 3, *options)
        assert result.returncode == 0, result.stderr
    own, one, again = (file.read_bytes() for file in files)
    assert own != one == again


def test_a_prior_is_refitted_to_other_images_of_the_same_shape(trained, tmp_path):
    """As a run on data that were given in Python needs."""
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32), dtype=np.uint8)
    np.savez(tmp_path / "grey.npz", train_images=images)
    np.savez(tmp_path / "colour.npz", train_images=np.stack([images] * 3, 3))
    out, options = tmp_path / "a.png", ("--components", 1)
    result = run("sample", trained, "--out", out, *options, "--dataset", tmp_path / "grey.npz")
    assert result.returncode == 0, result.stderr
    assert out.is_file()
    result = run("sample", trained, "--out", out, *options, "--dataset", tmp_path / "colour.npz")
    assert "dataset: got data of shape (3, 32, 32), expected (1, 32, 32), the model's" in result.stderr
    result = run("sample", trained, "--out", out, "--dataset", tmp_path / "grey.npz")
    assert "expected --components beside it, or none" in result.stderr


def as_bytes(arguments: tuple, fifo: Path) -> bytes:
    """What a command writes into a FIFO, which must stay one."""
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(fifo.read_bytes()), daemon=True)
    reader.start()
    result = run(*arguments, "--out", fifo)
    assert "ald-ext: " not in result.stderr  # else nobody writes to the FIFO
    assert "Traceback" not in result.stderr
    reader.join(PATIENCE)
    assert fifo.is_fifo()
    return received[0]


@pytest.mark.parametrize(
    ("command", "begin"),
    [
        (("sample", "--count", 2), b"\x89PNG"),
        (("reconstruct", "--count", 2), b"\x89PNG"),
        (("score",), b"{"),
        (("interpolate", "--pairs", 2), b"\x89PNG"),
        (("check-sampler", "sgld", "--replicas", 100), b"{"),
    ],
)
def test_a_fifo_is_written_through_and_a_link_stays(trained, tmp_path, command, begin):
    """A device is to a command what a FIFO is, and cannot be lost in a test."""
    name, *options = command
    arguments = (name, *options) if name == "check-sampler" else (name, trained, *options)
    (tmp_path / "folder").mkdir()
    fifo = tmp_path / "folder" / "fifo"
    os.mkfifo(fifo)
    assert as_bytes(arguments, fifo).startswith(begin)
    assert [path.name for path in fifo.parent.iterdir()] == ["fifo"]  # nothing lies beside it
    target, link = tmp_path / "target", tmp_path / "link.out"
    target.write_bytes(b"old")
    link.symlink_to(target)
    run(*arguments, "--out", link)
    assert link.is_symlink()
    assert target.read_bytes().startswith(begin)


@pytest.mark.parametrize(
    ("command", "files"),
    [
        ("sample", {"sample.png"}),
        ("reconstruct", {"reconstruct.png", "reconstruct.json"}),
        ("score", {"score.json", "score.png"}),
        ("interpolate", {"interpolate.png"}),
    ],
)
def test_without_out_files_are_beside_the_run(trained, tmp_path, monkeypatch, command, files):
    monkeypatch.chdir(tmp_path)
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    assert not files & set(before)  # nothing of the run is overwritten
    first, second = run(command, trained), run(command, trained / "checkpoint.pt")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert {path.name: path.read_bytes() for path in trained.iterdir() if path.name not in files} == before
    assert files < {path.name for path in trained.iterdir()}
    assert "(in the place of an earlier file)" not in first.stdout
    assert "(in the place of an earlier file)" in second.stdout
    assert list(tmp_path.iterdir()) == []


def test_commands_that_need_an_out(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("report", trained)
    assert (result.returncode, result.stderr) == (
        1,
        "ald-ext: report: out: got none, expected a Markdown file: --out results.md",
    )
    os.mkfifo(tmp_path / "fifo")
    result = run("report", trained, "--out", tmp_path / "fifo")
    assert f"report: out: got '{tmp_path / 'fifo'}', a device, expected a file, as pictures go" in result.stderr
    (tmp_path / "fifo").unlink()
    result = run("experiment", "scaling", "--quick", "--out", "")
    assert "experiment scaling: out: got none, expected a folder: --out DIR" in result.stderr
    result = run("train", "--out", "", *SMALL)
    assert (result.returncode, result.stderr) == (1, "ald-ext: out: got '', expected a folder")
    result = run("reconstruct", trained, "--out", "x.json")
    assert "out: got 'x.json', expected a picture, such as out.png: .json is beside it" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_version():
    assert run("--version").stdout == f"ald-ext {ald_ext.__version__}\n"


@pytest.mark.parametrize(
    ("command", "option"),
    [("train", "--temperature"), ("experiment", "--workers"), ("check-sampler", "--replicas"), ("report", "--tried")],
)
def test_help_where_a_terminal_has_only_ascii(monkeypatch, command, option):
    with io.TextIOWrapper(io.BytesIO(), encoding="ascii") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setattr(sys, "argv", ["ald-ext", command, "--help"])
        with pytest.raises(SystemExit) as end:
            main()
        terminal.flush()
        shown = terminal.buffer.getvalue()
    assert end.value.code == 0
    assert shown.isascii()
    assert option in shown.decode()


def test_warnings_are_lines_of_the_first_process(tmp_path, monkeypatch, digits_file):
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"model": "vae", "temperature": 0.3, "dataset": str(digits_file), "batch_size": 4}))
    arguments = ("train", "--config", settings, "--epochs", 1, "--width", 4)
    shown = {}
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        result = run(*arguments, "--out", tmp_path / rank)
        assert result.returncode == 0, result.stderr
        shown[rank] = [line for line in result.stderr.splitlines() if "warning" in line.lower()]
    assert shown == {
        "0": [
            "ald-ext: warning: temperature: got it with model vae, expected model lae or clae, which reads it",
        ],
        "1": [],
    }


def test_a_run_goes_on_with_settings_that_are_given(tmp_path, digits_file):
    out, small = tmp_path / "out", ("--dataset", digits_file, "--epochs", 2, "--width", 4, "--batch-size", 4)
    assert run("train", "--out", out, *small, "--option", "warm_up=1", "--option", "latent_dim=3").returncode == 0
    config = json.loads((out / "config.json").read_text())
    assert (config["warm_up"], config["network"]["latent_dim"]) == (1, 3)  # settings of the training and of the model
    result = run("train", "--out", out, "--resume", "--epochs", 3, "--schedule-epochs", 2, "--lr", 0.001, "--seed", 5)
    assert result.returncode == 0, result.stderr
    told = [line for line in result.stderr.splitlines() if line.startswith("ald-ext: warning: resume: from step 6 on")]
    assert len(told) == 1
    assert "lr is 0.001 and was 0.004, seed is 5 and was 0, lr goes from" in told[0]
    changes = json.loads((out / "metrics.json").read_text())["changes"]
    assert [(change["setting"], change["step"]) for change in changes] == [("lr", 6), ("seed", 6)]


def test_a_run_of_networks_of_ones_own_says_what_is_needed(tmp_path, digits_file):
    def make(settings):
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(1024, settings.latent_dim))
        decoder = nn.Sequential(nn.Linear(settings.latent_dim, 1024), nn.Unflatten(1, settings.shape))
        return LAE(settings, encoder=encoder, decoder=decoder)

    settings = TrainingConfig(dataset=str(digits_file), epochs=1, batch_size=4)
    train(settings, tmp_path / "own", make_model=make, progress=False)
    result = run("sample", tmp_path / "own")
    assert result.returncode == 1
    assert result.stderr == (
        "ald-ext: checkpoint: got the model 'lae' with encoder and decoder of its own, expected "
        "load_model(path, encoder=…, decoder=…) in Python: a command cannot make them"
    )


def test_train_resumes(trained, tmp_path):
    result = run("train", "--out", trained, "--epochs", 2, "--resume")
    assert result.returncode == 0, result.stderr
    assert json.loads((trained / "metrics.json").read_text())["epochs"] == 2
    assert json.loads((trained / "config.json").read_text())["network"]["width"] == 4  # from the checkpoint


def test_a_resumed_run_is_not_another_model(trained):
    before = (trained / "checkpoint.pt").read_bytes()
    result = run("train", "--out", trained, "--epochs", 3, "--batch-size", 50, "--resume")
    assert result.returncode == 1
    assert "resume: the checkpoint is of another run: got batch_size=50, expected batch_size=500" in result.stderr
    assert (trained / "checkpoint.pt").read_bytes() == before


def test_settings_come_from_a_file_and_options_go_before_it(trained, tmp_path):
    result = run("train", "--config", trained / "config.json", "--out", tmp_path / "again", "--seed", 3, "--epochs", 1)
    assert result.returncode == 0, result.stderr
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (trained, tmp_path / "again"))
    assert after["seed"] == 3
    assert {**after, "seed": 0, "epochs": before["epochs"]} == before


def test_settings_of_the_model(tmp_path, digits_file):
    settings = ("--decoder-inference", "mle", "--option", "tilt=false", "--precision-prior", "2,0.5")
    small = ("--model", "clae", "--epochs", 1, "--width", 4, "--batch-size", 4)
    result = run("train", "--out", tmp_path / "clae", "--dataset", digits_file, *small, *settings)
    assert result.returncode == 0, result.stderr
    network = json.loads((tmp_path / "clae" / "config.json").read_text())["network"]
    assert (network["decoder_inference"], network["tilt"], network["precision_prior"]) == ("mle", False, [2.0, 0.5])


def test_reconstruct_writes_a_picture_and_its_error(trained, tmp_path):
    errors = {}
    for name, options in {"plain": (), "noisy": ("--noise", 0.3), "refined": ("--steps", 2)}.items():
        picture = tmp_path / f"{name}.png"
        result = run("reconstruct", trained, "--out", picture, "--count", 20, *options)
        assert result.returncode == 0, result.stderr
        assert picture.read_bytes().startswith(b"\x89PNG")
        errors[name] = json.loads(picture.with_suffix(".json").read_text())["mean_squared_error"]
    metrics = json.loads((trained / "metrics.json").read_text())
    assert errors["plain"] == pytest.approx(metrics["history"][-1]["test_re"], rel=1e-4)
    assert errors["noisy"] > errors["plain"]
    assert errors["refined"] != errors["plain"]


def test_averages_need_samples_of_the_parameters(tmp_path, digits_file):
    small = ("--dataset", digits_file, "--epochs", 2, "--width", 4, "--batch-size", 4)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"ensemble_every": 1, "ensemble_size": 3}))
    assert run("train", "--out", tmp_path / "lae", "--config", config, *small).returncode == 0
    out = {"reconstruct": "out.png", "score": "out.json"}
    for command in ("reconstruct", "score"):
        result = run(command, tmp_path / "lae", "--out", tmp_path / command / out[command], "--average")
        assert result.returncode == 0, result.stderr
    assert run("train", "--out", tmp_path / "ae", "--model", "ae", *small).returncode == 0
    for command in ("reconstruct", "score"):
        result = run(command, tmp_path / "ae", "--out", tmp_path / out[command], "--average")
        assert result.returncode == 1
        assert "holds no samples of the parameters" in result.stderr


def test_score_writes_scores_labels_and_the_extremes(trained, tmp_path):
    result = run("score", trained, "--out", tmp_path / "scores.json")
    assert result.returncode == 0, result.stderr
    written = json.loads((tmp_path / "scores.json").read_text())
    assert len(written["scores"]) == len(written["labels"]) == 500
    assert written["scores"] != sorted(written["scores"])
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_data_of_another_set(trained, tmp_path, digits_file):
    result = run("score", trained, "--dataset", digits_file, "--out", tmp_path / "scores.json")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "scores.json").read_text())["labels"] == list(range(12))


def test_interpolate(trained, tmp_path):
    result = run("interpolate", trained, "--out", tmp_path / "rows.png", "--pairs", 3, "--count", 5)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")


def test_an_autoencoder_cannot_be_sampled(tmp_path):
    run("train", "--out", tmp_path, "--model", "ae", *SMALL)
    result = run("sample", tmp_path, "--out", tmp_path / "no.png")
    assert result.returncode == 1
    assert "has no prior to sample" in result.stderr
    assert not (tmp_path / "no.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--model", "gan"], "model: got 'gan', expected one of lae, clae, ae, sparse-ae, vae, abp, dlgm"),
        (["train", "--dataset", "mnits"], "dataset: got 'mnits', expected one of mnist5k, mnist, bmnist"),
        (["train", "--dataset", "mnist"], "data_root: got none, expected the folder"),
        (
            ["train", "--dataset", "mnist", "--data-root", "nowhere"],
            "data_root: got 'nowhere', expected a folder that exists",
        ),
        (["train", "--device", "cuda:77"], "device: got 'cuda:77', expected auto, cpu or a GPU"),
        (["train", "--precision-prior", "1,x"], "precision-prior: got '1,x', expected flat, jeffreys or two numbers"),
        (
            ["train", "--learned-scale"],
            "learned-scale: got it with likelihood marginal-gaussian, expected likelihood gaussian, which reads it",
        ),
        (
            ["train", "--likelihood", "gaussian", "--option", 'precision_prior="jeffreys"'],
            "precision-prior: got it with likelihood gaussian, expected likelihood marginal-gaussian, which reads it",
        ),
        (
            ["train", "--model", "vae", "--temperature", "0.3"],
            "temperature: got it with model vae, expected model lae or",
        ),
        (
            ["train", "--model", "ae", "--option", "eps=.5"],
            "eps: got it with model ae, expected model lae or clae, which",
        ),
        (
            ["train", "--network", "mlp", "--width", "999"],
            "width: got it with network mlp, expected network conv, which reads it (mlp reads hidden_units, hidden_lay",
        ),
        (["train", "--schedule", "constant", "--final-lr", "0.1"], "final-lr: got it with schedule constant, expected"),
        (
            ["train", "--model", "clae", "--prior-steps", "3"],
            "prior-steps: got it with prior_sampler amortized, expected",
        ),
        (["train", "--lr", "-1"], "lr: got -1.0, expected a finite number > 0"),
        (["train", "--batch-size", "5000"], "batch_size: got 5000, expected 1 to 4500, the number of training images"),
        (["train", "--option", "widht=3"], "got 'widht', expected some of"),
        (["train", "--option", "width"], "option: got 'width', expected KEY=VALUE"),
        (["train", "--option", "tilt=true"], "got 'tilt', expected some of"),
        (["train", "--config", "nowhere.json"], "nowhere.json"),
        (["train", "--resume", "--config", "x.json"], "config: got 'x.json' with --resume, expected one of them"),
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


def test_every_setting_is_an_option_of_train_and_help_has_its_default():
    options = {option.name: option for option in get_command(app).commands["train"].params}
    fields = {*TrainingConfig.__dataclass_fields__}.union(
        *(m.config_class.__dataclass_fields__ for m in MODELS.values())
    )
    assert fields - set(options) == {"data", "num_data", "shape"}  # which follow from the images
    assert all(option.help for option in options.values())
    assert {name for name in fields & set(options) if options[name].default is not None} == {"device"}
    assert options["batch_size"].opts == ["--batch-size"]
    assert options["langevin_steps"].help.startswith("abp, dlgm: Steps on z")
    flags = {name: option.opts + option.secondary_opts for name, option in options.items() if option.is_flag}
    assert flags["bf16"] == ["--bf16"]
    assert flags["capture"] == ["--capture", "--no-capture"]
    of_a_flag = {name for name in fields & set(options) if len(flags.get(name, "  ")) == 1}
    assert all("Default: " in options[name].help for name in fields & set(options) - of_a_flag - {"device"})
    defaults = {"lr": "0.004", "seed": "0", "momentum": "0", "network": "conv", "epochs": "None"}
    defaults |= {"langevin_steps": "10 (abp), 5 (dlgm)", "sparsity": "0 (ae), 1 (sparse-ae)"}
    for name, default in defaults.items():
        assert options[name].help.endswith(f"Default: {default}."), name
