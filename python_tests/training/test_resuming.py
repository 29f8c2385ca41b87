"""What a run keeps when it is resumed, what may change then, and who may write to its folder."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from training.test_training import checkpoint_of, config, each_step_calls, few_images, train_until

from ald_ext.data import ImageData, datasets
from ald_ext.files import FolderLock
from ald_ext.models import LAEConfig
from ald_ext.training import TrainingConfig, TrainingDivergedError, fit, loop, train
from ald_ext.training.checkpoints import load_checkpoint
from ald_ext.training.run import start_run
from tools.kill_training import differences


@pytest.fixture(autouse=True)
def _few_images_and_no_pictures(monkeypatch):
    monkeypatch.setitem(datasets.DATASETS, "few", few_images)
    monkeypatch.setattr(loop.Loop, "save_pictures", lambda self: None)


def write_images(path: Path, images: torch.Tensor) -> None:
    np.savez(path, train_images=images[:, 0], test_images=few_images().test_images[:, 0])


def with_state(out: Path, change) -> None:
    """Changes the checkpoint in place."""
    state = load_checkpoint(out / "checkpoint.pt")
    change(state)
    loop.write_tensors(out / "checkpoint.pt", state)


def given(images: torch.Tensor) -> ImageData:
    return ImageData(images, None, few_images().test_images, None, name="few")


# ---- the data ----


def test_a_run_is_resumed_from_another_folder(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    write_images(Path("few.npz"), few_images().train_images)
    settings = config(dataset="few.npz", data_root="elsewhere", epochs=1)
    train(settings, "out", progress=False)
    saved = json.loads(Path("out", "config.json").read_text())
    assert (saved["dataset"], saved["data_root"]) == (str(tmp_path / "few.npz"), str(tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    longer = TrainingConfig.from_dict({**load_checkpoint(tmp_path / "out/checkpoint.pt")["config"], "epochs": 2})
    train(longer, tmp_path / "out", resume=True, progress=False)
    with pytest.raises(
        ValueError, match=r"resume: dataset: got 'few.npz', expected the data of the run, which was beg"
    ):
        train(dataclasses.replace(longer, dataset="few.npz"), tmp_path / "out", resume=True)
    (tmp_path / "few.npz").rename("moved.npz")  # the same images
    train(dataclasses.replace(longer, dataset="moved.npz", epochs=3), tmp_path / "out", resume=True, progress=False)
    assert checkpoint_of(tmp_path / "out")["config"]["dataset"] == str(tmp_path / "elsewhere" / "moved.npz")


def changed_pixel() -> torch.Tensor:
    images = few_images().train_images.clone()
    images[49, 0, 31, 31] ^= 1
    return images


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (few_images().train_images[:40], "got number 40, expected number 50; "),
        (few_images().train_images.expand(-1, 3, -1, -1), r"got shape \[3, 32, 32\], expected shape \[1, 32, 32\]; "),
        (few_images().train_images.float(), "got dtype torch.float32, expected dtype torch.uint8; "),
        (changed_pixel(), "got sha256 [0-9a-f]{16}, expected sha256 [0-9a-f]{16}; "),
        (few_images().train_images.flip(0), "got sha256 "),
    ],
)
def test_other_data_are_refused_with_what_differs(tmp_path, images, message):
    train(config(epochs=1), tmp_path, data=few_images(), progress=False)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match=f"^resume: the training data are not the checkpoint's: {message}"):
        train(config(), tmp_path, data=given(images), resume=True)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_checkpoints_of_before_data_were_described_are_resumed_on_data_of_their_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(Path("few.npz"), few_images().train_images)
    train(config(dataset="few.npz", epochs=1), "out", progress=False)

    def as_of_old(state):
        del state["data"], state["changes"], state["config"]["schedule_epochs"]
        state["config"]["dataset"] = "few.npz"

    with_state(Path("out"), as_of_old)
    train(config(dataset="few.npz", epochs=2), "out", resume=True, progress=False)
    with_state(Path("out"), as_of_old)
    write_images(Path("other.npz"), few_images().train_images)
    with pytest.raises(ValueError, match=r"got name other.npz, expected name few.npz"):
        train(config(dataset="other.npz"), "out", resume=True)


# ---- settings that change ----


def test_a_run_that_diverged_goes_on_with_a_smaller_lr(tmp_path, monkeypatch):
    """A limit of the loss stands in for an explosion, as it can be reached and left."""
    train_until(4, config(checkpoint_every=2), tmp_path)
    with pytest.raises(TrainingDivergedError, match=r" --resume --lr 0.001`, or train\(…, resume=True, ch"):
        train(config(checkpoint_every=2, divergence_limit=1.0), tmp_path, resume=True)
    settings = config(lr=1e-3, checkpoint_every=2)
    with pytest.raises(ValueError, match=r"of another run: got lr=0.001, expected lr=0.004"):
        train(settings, tmp_path, resume=True)
    message = (
        r"^resume: from step 4 on lr is 0.001 and was 0.004, lr goes from 0.004 to 0.001. "
        "The run is no longer bit for bit the one that was begun, and metrics.json tells it$"
    )
    with pytest.warns(UserWarning, match=message):
        train_until(5, settings, tmp_path, resume=True, changed={"lr"})  # before a checkpoint is due
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once
        metrics = train(settings, tmp_path, resume=True, progress=False)
    assert metrics["changes"] == [{"step": 4, "setting": "lr", "before": 0.004, "after": 0.001}]
    assert [row["lr"] for row in metrics["history"]] == pytest.approx([0.004, 0.001, 0.001])
    longer = dataclasses.replace(settings, epochs=4)
    assert train(longer, tmp_path, resume=True, progress=False)["changes"] == metrics["changes"]


@pytest.mark.parametrize(
    ("options", "takes_part"),
    [
        ({"seed": 7}, True),
        ({"temperature": 0.0}, True),
        ({"eps": 5.0}, True),
        ({"alpha": 0.5}, True),
        ({"momentum": 0.9}, True),
        ({"schedule": "cosine"}, True),
        ({"warm_up": 9}, True),
        ({"network": {"decoder_prior_scale": 0.01}}, True),
        ({"ensemble_size": 3}, False),
    ],
)
def test_a_setting_that_is_changed_takes_part_from_there_on(tmp_path, options, takes_part):
    """The run differs from the one as it was begun, and equals what a step with the new settings makes of its state."""
    train(config(epochs=1), tmp_path, progress=False)
    names = {*options, *options.get("network", ())} - {"network"}
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    resumed = start_run(config(**options), few_images(), None, state, names)
    optimizer = resumed.optimizer.param_groups[0]
    for name in names & {"seed", "temperature", "eps", "alpha"}:
        assert optimizer[name] == options[name]
    before = load_checkpoint(tmp_path / "checkpoint.pt")
    with pytest.warns(
        UserWarning, match=f"resume: from step 3 on {'network.' * ('network' in options)}{min(names)} is"
    ):
        changed = train(config(**options), tmp_path, resume=True, changed=names, progress=False)
    loop.write_tensors(tmp_path / "checkpoint.pt", before)
    same = train(config(), tmp_path, resume=True, progress=False)
    assert changed["history"][0] == same["history"][0]
    assert (changed["history"][2]["loss"] != same["history"][2]["loss"]) == takes_part


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 10}, "got batch_size=10, expected batch_size=20"),
        ({"model": "ae"}, "got model='ae', expected model='lae'"),
        ({"network": {"width": 5}}, r"the checkpoint is of other networks: .*: got float32 of shape \["),
    ],
)
def test_what_a_checkpoint_has_no_meaning_without_cannot_change(tmp_path, options, message):
    train(config(epochs=1), tmp_path, progress=False)
    with pytest.raises(ValueError, match=message):
        train(config(**options), tmp_path, resume=True, changed={*options, "width"})


# ---- the schedule ----


def test_more_epochs_stretch_a_cosine_which_is_told_or_keep_it(tmp_path):
    settings = config(schedule="cosine", final_lr=0.1, lr=1e-3, epochs=2)
    message = (
        "resume: from step 6 on schedule_epochs is 6 and was 2, lr goes from 0.0001 to 0.000751; "
        r"schedule_epochs=2 \(--schedule-epochs 2\) keeps it as begun"
    )
    longer = dataclasses.replace(settings, epochs=6)
    train(settings, tmp_path / "stretched", progress=False)
    with pytest.warns(UserWarning, match=message):
        metrics = train(longer, tmp_path / "stretched", resume=True, progress=False)
    assert metrics["history"][2]["lr"] > 5e-4
    assert metrics["history"][-1]["lr"] == pytest.approx(1e-4)
    assert metrics["changes"] == [{"step": 6, "setting": "schedule_epochs", "before": 2, "after": 6}]
    train(settings, tmp_path / "kept", progress=False)
    kept = dataclasses.replace(longer, schedule_epochs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = train(kept, tmp_path / "kept", resume=True, progress=False)
    assert [row["lr"] for row in metrics["history"][1:]] == pytest.approx([1e-4] * 5)
    assert metrics["changes"] == []
    # Which is, bit for bit, the run that was begun so.
    train(kept, tmp_path / "whole", progress=False)
    assert differences(checkpoint_of(tmp_path / "whole"), checkpoint_of(tmp_path / "kept")) == []


@pytest.mark.parametrize(
    ("epochs", "batch_size", "warm_up", "expected"),
    [(80, 20, None, 24), (1, 50, None, 0), (3000, 25, None, 500), (3000, 25, 7, 7), (2, 25, 500, 500)],
)
def test_warm_up_is_in_proportion_to_the_run(epochs, batch_size, warm_up, expected):
    run = start_run(config(epochs=epochs, batch_size=batch_size, warm_up=warm_up), few_images())
    assert run.config.warm_up == expected


def test_warm_up_stays_when_a_run_becomes_longer(tmp_path):
    train(config(epochs=8, warm_up=None), tmp_path, progress=False)
    assert json.loads((tmp_path / "config.json").read_text())["warm_up"] == 2
    train(config(epochs=20, warm_up=None), tmp_path, resume=True, progress=False)
    assert json.loads((tmp_path / "config.json").read_text())["warm_up"] == 2


# ---- the folder ----


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
def test_a_folder_that_another_run_writes_to_is_refused_and_not_touched(tmp_path, options):
    """python_tests/test_files.py has the lock of another process."""
    train(config(epochs=1), tmp_path, progress=False)
    if not options:
        (tmp_path / "checkpoint.pt").unlink()
    (tmp_path / ".checkpoint-1234abcd.pt").write_bytes(b"half of what the other run is writing")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def try_from_elsewhere(running):
        if running.run.step == 1:
            with pytest.raises(
                BlockingIOError, match="', to which another process is writing, expected another folder"
            ):
                train(config(seed=1, epochs=1), tmp_path, **options)

    lock = FolderLock(tmp_path)
    lock.acquire()
    with pytest.raises(BlockingIOError, match="', to which another process is writing, expected another folder"):
        train(config(), tmp_path, **options)
    lock.close()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with each_step_calls(try_from_elsewhere):
        train(config(), tmp_path, **options, progress=False)


def test_no_folder_is_not_the_current_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="out: got '', expected a folder"):
        train(config(), "")
    assert os.listdir(tmp_path) == []


def test_a_file_is_no_folder_and_a_device_has_to_be_there(tmp_path):
    (tmp_path / "notes").write_text("kept")
    with pytest.raises(ValueError, match=r"out: got '.*notes', which is a file, expected a folder"):
        train(config(), tmp_path / "notes")
    with pytest.raises(ValueError, match=r"^device: got 'gpu', expected cpu or a GPU that torch can use"):
        train(config(device="gpu"), tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_other_groups_of_parameters_are_refused(tmp_path):
    """As earlier versions left the sampler of a CLAE of any number of chains among the other parameters."""
    settings = config(model="clae", network={"chains": 7}, epochs=1)
    train(settings, tmp_path, progress=False)

    def joined(state) -> None:
        first, second, *others = state["optimizer"]["param_groups"]
        state["optimizer"]["param_groups"] = [{**first, "params": first["params"] + second["params"]}, *others]

    with_state(tmp_path, joined)
    message = r"^resume: optimizer: got groups of \[.*\] parameters, expected groups of \[.*\]: .*; --overwrite begins"
    with pytest.raises(ValueError, match=message):
        train(dataclasses.replace(settings, epochs=2), tmp_path, resume=True, progress=False)


# ---- settings that do nothing ----


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "vae", "temperature": 0.3}, "temperature: got it with model vae, expected model lae or clae, which"),
        (
            {"schedule": "constant", "final_lr": 0.5},
            "final_lr: got it with schedule constant, expected schedule cosine",
        ),
        (
            {"network": LAEConfig(network="mlp", width=99)},
            r"width: got it with network mlp, .*\(mlp reads hidden_units, h",
        ),
    ],
)
def test_settings_that_do_nothing_are_told_and_files_with_them_load(settings, message):
    options = {"epochs": 1, "batch_size": 25, "evaluate_every": 1, "warm_up": 0, **settings}
    loaded = TrainingConfig.from_dict(json.loads(json.dumps(TrainingConfig(**options).to_dict())))
    with pytest.warns(UserWarning, match=f"^{message}") as caught:
        fit(loaded, few_images())
    assert len(caught) == 1


def test_own_networks_may_read_any_setting_of_the_model():
    settings = TrainingConfig(network=LAEConfig(network="mlp", width=99))
    assert settings.in_vain(own_networks=True) == ""
    assert TrainingConfig().in_vain() == TrainingConfig(model="vae", ensemble_size=3).in_vain() == ""
