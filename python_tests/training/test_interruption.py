"""Runs that are stopped: by SIGKILL, by SIGINT and SIGTERM, by a full disk."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from patience import PATIENCE
from training.test_training import STEPS_AN_EPOCH, checkpoint_of, few_images
from training.test_training import config as config_of

from ald_ext import files
from ald_ext.data import load_dataset
from ald_ext.training import TrainingConfig, TrainingInterrupted, fit, loop, train
from ald_ext.training.checkpoints import load_checkpoint
from ald_ext.training.interruption import Interruption
from tools import kill_training
from tools.kill_training import differences, kill_and_compare, without_clock

pytestmark = pytest.mark.usefixtures("heeded_signals")


def config(**options) -> TrainingConfig:
    return config_of({"dequantization": "uniform"}, **options)


@pytest.fixture
def images_file(tmp_path) -> Path:
    path = tmp_path / "few.npz"
    images = few_images()
    np.savez(path, train_images=images.train_images[:, 0], test_images=images.test_images[:, 0])
    return path


def lines_but_progress(errors: str) -> list[str]:
    """What a command printed, but for the progress bar."""
    return [line for line in errors.splitlines() if line and not re.search("images/s|s/ images", line)]


# ---- SIGKILL ----


@pytest.mark.processes
def test_a_run_that_is_killed_three_times_ends_as_the_uninterrupted_one(tmp_path):
    """See tools/kill_training.py, which does so to twenty runs."""
    digits = tmp_path / "digits.npz"
    shape = (kill_training.TRAIN_IMAGES + 10, 32, 32)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez(digits, train_images=images[10:], test_images=images[:10])
    settings = TrainingConfig.from_dict(kill_training.settings("abp", digits))
    train(settings, tmp_path / "whole", progress=False)
    whole = load_checkpoint(tmp_path / "whole" / "checkpoint.pt")
    result = kill_and_compare(tmp_path / "killed", "abp", digits, whole, kills=3, seed=0)
    assert result.failures == []
    assert result.kills == 3
    assert result.most_steps_behind < kill_training.INTERVAL


def test_differences_are_found_at_their_place():
    first = {"a": [torch.zeros(2), 1.0], "b": (None, "x")}
    assert differences(first, {"a": [torch.zeros(2), 1.0], "b": (None, "x")}) == []
    assert differences(first, {"a": [torch.tensor([0.0, 1e-45]), 1.0], "b": (None, "x")}) == ["/a/0"]
    assert differences(first, {"a": [torch.zeros(2), 1], "b": (None, "y")}) == ["/a/1", "/b/1"]
    assert differences(first, {"a": [torch.zeros(2).double(), 1.0], "b": [None, "x"]}) == ["/a/0", "/b"]
    assert differences(first, {"a": []}) == [""]


# ---- SIGINT and SIGTERM ----


def last_step(progress: Path) -> int:
    """That a child has reported; 0 before its first."""
    lines = progress.read_text().split() if progress.exists() else []
    return int(lines[-1]) if lines else 0


def wait_for_steps(process: subprocess.Popen[str], progress: Path, count: int) -> None:
    """Until the child has made so many more, or has ended."""
    last, deadline = last_step(progress) + count, time.monotonic() + PATIENCE
    while process.poll() is None and last_step(progress) < last and time.monotonic() < deadline:
        time.sleep(0.01)


@contextlib.contextmanager
def long_run(folder: Path, images_file: Path, *prefix: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """`ald-ext train` with --out `folder`/out, after a few of its many steps; and the file where it reports them."""
    progress, settings = folder / "progress", folder / "settings.json"
    config(epochs=100_000, compile=False, checkpoint_every=1_000_000, dataset=str(images_file)).save(settings)
    child = [sys.executable, kill_training.__file__, "child", progress]
    command = [*prefix, *child, "train", "--config", settings, "--out", folder / "out"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            wait_for_steps(process, progress, 7)
            yield process, progress
        finally:
            process.kill()


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends_the_command(tmp_path, images_file, number):
    out = tmp_path / "out"
    with long_run(tmp_path, images_file) as (process, progress):
        process.send_signal(number)
        output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number, errors
    checkpoint = load_checkpoint(out / "checkpoint.pt")
    step = checkpoint["step"]
    stopped = (
        f"ald-ext: stopped by signal {int(number)} at step {step}; the checkpoint holds all of it, --resume goes on"
    )
    assert lines_but_progress(errors) == [stopped]
    assert output == ""
    assert step == last_step(progress)  # nothing is lost
    assert {path.name for path in out.iterdir()} == {"config.json", "checkpoint.pt"}
    epochs = step // STEPS_AN_EPOCH + 2
    finished = dataclasses.replace(TrainingConfig.from_dict(checkpoint["config"]), epochs=epochs)
    train(finished, out, resume=True, progress=False)
    whole = fit(finished, load_dataset(str(images_file)))
    state = without_clock(whole.state())
    # But for the evaluations: all epochs have one; and torch's generator, which is ours again.
    assert differences(state, checkpoint_of(out)) == ["/random_state/cpu"]


@pytest.mark.processes
def test_a_run_in_the_background_outlives_its_terminal(tmp_path, images_file):
    """`nohup ald-ext train &`: SIGHUP and SIGINT, which it was started to ignore, do nothing; SIGTERM saves."""
    ignoring = 'trap \'\' HUP INT; exec "$0" "$@"'
    with long_run(tmp_path, images_file, "sh", "-c", ignoring) as (process, progress):
        for number in (signal.SIGHUP, signal.SIGINT):
            process.send_signal(number)
            wait_for_steps(process, progress, 3)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert load_checkpoint(tmp_path / "out" / "checkpoint.pt")["step"] == last_step(progress) >= 7 + 3 + 3


def interrupt_at(monkeypatch, step: int, number: signal.Signals, calls: int = 1) -> None:
    make_step = loop.Loop._make_step

    def make_and_signal(self, x, index):
        make_step(self, x, index)
        if self.run.step == step:
            for _ in range(calls):
                signal.raise_signal(number)

    monkeypatch.setattr(loop.Loop, "_make_step", make_and_signal)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_resumes_bit_for_bit(tmp_path, monkeypatch, number):
    train(config(), tmp_path / "whole", data=few_images(), progress=False)
    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, number)
        with pytest.raises(TrainingInterrupted, match=f"stopped by signal {int(number)} at step 5") as caught:
            train(config(), tmp_path / "parts", data=few_images(), progress=False)
    assert caught.value.signal_number == number
    assert signal.getsignal(number) is handler
    assert load_checkpoint(tmp_path / "parts" / "checkpoint.pt")["step"] == 5
    train(config(), tmp_path / "parts", data=few_images(), resume=True, progress=False)
    assert differences(checkpoint_of(tmp_path / "whole"), checkpoint_of(tmp_path / "parts")) == []


def test_a_signal_in_the_last_evaluation_is_heeded(tmp_path, monkeypatch):
    evaluate = loop.reconstruction_error

    def evaluate_and_signal(model, images):
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        calls.append(None)
        return evaluate(model, images)

    calls: list[None] = []
    monkeypatch.setattr(loop, "reconstruction_error", evaluate_and_signal)
    with pytest.raises(TrainingInterrupted, match="stopped by signal 15 at step 9"):
        train(config(), tmp_path, data=few_images(), progress=False)
    assert not (tmp_path / "metrics.json").exists()
    metrics = train(config(), tmp_path, data=few_images(), resume=True, progress=False)
    assert metrics["epochs"] == 3


def test_a_second_signal_while_saving_acts_as_ever(tmp_path, monkeypatch):
    """The checkpoint of before stays, and no temporary file."""
    train(config(epochs=1), tmp_path, data=few_images(), progress=False)
    good = (tmp_path / "checkpoint.pt").read_bytes()
    names = {path.name for path in tmp_path.iterdir()}
    synchronize = files.os.fsync

    def synchronize_and_signal(descriptor):
        if loops:  # while the checkpoint is written
            signal.raise_signal(signal.SIGINT)
        synchronize(descriptor)

    loops: list[loop.Loop] = []
    save = loop.Loop._save

    def note_and_save(self):
        loops.append(self)
        save(self)

    interrupt_at(monkeypatch, 5, signal.SIGINT)
    monkeypatch.setattr(loop.Loop, "_save", note_and_save)
    monkeypatch.setattr(files.os, "fsync", synchronize_and_signal)
    with pytest.raises(KeyboardInterrupt):
        train(config(), tmp_path, data=few_images(), resume=True, progress=False)
    assert len(loops) == 1
    assert (tmp_path / "checkpoint.pt").read_bytes() == good
    assert {path.name for path in tmp_path.iterdir()} == names


def test_two_signals_within_a_step_are_not_waited_for(tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 2, signal.SIGINT, calls=2)
    with pytest.raises(KeyboardInterrupt):
        train(config(), tmp_path, data=few_images(), progress=False)


def test_a_signal_stops_fit_which_has_no_checkpoint(monkeypatch):
    interrupt_at(monkeypatch, 5, signal.SIGTERM)
    with pytest.raises(TrainingInterrupted, match=r"^stopped by signal 15 at step 5$"):
        fit(config(), few_images())


def test_signals_that_are_ignored_stay_so():
    """As SIGINT is for what a script runs in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.signal_number is None
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_handlers_are_put_back_after_an_error():
    with pytest.raises(ZeroDivisionError), Interruption():
        _ = 1 / 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_rank_that_lost_the_others_can_say_so_before_torchrun_stops_it():
    with pytest.raises(ConnectionError), Interruption(patient=True):
        raise ConnectionError
    signal.raise_signal(signal.SIGTERM)  # would end this process
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_training_in_another_thread_leaves_signals_alone():
    runs = []
    thread = threading.Thread(target=lambda: runs.append(fit(config(epochs=1), few_images())))
    thread.start()
    thread.join()
    assert runs[0].epoch == 1


# ---- a full disk ----


def limit_files(size: int):
    """A file beyond the limit is refused as by a full disk; Python ignores the signal that comes with it."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.processes
def test_a_disk_that_takes_no_checkpoint(tmp_path, images_file):
    out = tmp_path / "out"
    train(config(epochs=1, dataset=str(images_file)), out, progress=False)
    good = (out / "checkpoint.pt").read_bytes()
    names = {path.name for path in out.iterdir()}
    command = [Path(sys.executable).parent / "ald-ext", "train", "--out", out, "--resume", "--epochs", "3"]
    limit = limit_files(len(good) // 2)
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, timeout=PATIENCE)
    assert result.returncode == 1
    assert lines_but_progress(result.stderr) == [
        "ald-ext: [Errno 27] could not write (File too large); an earlier file there is as it was: "
        f"'{out / 'checkpoint.pt'}'"
    ]
    assert (out / "checkpoint.pt").read_bytes() == good
    assert {path.name for path in out.iterdir()} == names
    assert json.loads((out / "config.json").read_text())["epochs"] == 3
    metrics = train(config(epochs=3, dataset=str(images_file)), out, resume=True, progress=False)
    assert metrics["epochs"] == 3
