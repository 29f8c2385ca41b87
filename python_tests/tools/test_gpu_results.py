"""`make results-gpu` without a GPU: data in pieces, the plan, the processes, and runs that go on elsewhere."""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ald_ext.data import load_dataset
from ald_ext.paper.images.experiment import JobOutcome
from ald_ext.paper.results import Choice, Job
from tools.gpu_results.__main__ import main, pack_results, receive
from tools.gpu_results.campaign import FILE, Campaign, Task, plan, settings_of
from tools.gpu_results.pieces import as_sheet, of_sheet, pack, unpack
from tools.gpu_results.pool import Call, Pool

#: Those that a row of results.json has.
RUN_FACTS = ("epochs", "train_images", "test_images", "seconds", "images_per_second", "parameters", "threads", "device")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_loses_nothing(channels: int) -> None:
    images = torch.randint(0, 256, (43, channels, 32, 32), dtype=torch.uint8)
    assert torch.equal(of_sheet(as_sheet(images), channels)[:43], images)


def test_a_piece_of_a_data_set_is_its_beginning_and_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "train_images": rng.integers(0, 256, (2500, 32, 32, 3), dtype=np.uint8),
        "train_labels": rng.integers(0, 10, 2500),
        "test_images": rng.integers(0, 256, (1100, 32, 32, 3), dtype=np.uint8),
        "test_labels": rng.integers(0, 10, 1100),
    }
    np.savez(tmp_path / "noise.npz", **arrays)
    whole = load_dataset(str(tmp_path / "noise.npz"))
    name = pack(str(tmp_path / "noise.npz"), None, tmp_path / "out", 10_000_000)
    assert name == "noise-2000"  # noise does not become smaller: three sheets of 3 MB, one of them of test images
    file = tmp_path / "out" / f"{name}.zip"
    assert file.stat().st_size <= 10_000_000
    piece = load_dataset(str(unpack(file, tmp_path)))
    assert torch.equal(piece.train_images, whole.train_images[:2000])
    assert torch.equal(piece.train_labels, whole.train_labels[:2000])
    assert torch.equal(piece.test_images, whole.test_images[:1000])
    assert pack(str(tmp_path / "noise.npz"), None, tmp_path / "out", 20_000_000) == "noise"
    with pytest.raises(ValueError, match="bytes: got 1000000, expected room"):
        pack(str(tmp_path / "noise.npz"), None, tmp_path / "out", 1_000_000)


def test_one_seed_of_everything_comes_first() -> None:
    settings = settings_of({"mnist5k": "mnist5k"}, ["denoising", "image-generation"], True, seconds=1.0)
    tasks = plan(settings, 2)
    seeds = [task.job.seed for task in tasks]
    assert seeds == sorted(seeds)
    assert set(seeds) == {0, 1}
    first = [task for task in tasks if task.job.seed == 0]
    assert [replace(task, job=replace(task.job, seed=1)) for task in first] == tasks[len(first) :]
    assert first[0].experiment == "image-generation"
    assert len(set(tasks)) == len(tasks)


def test_outcomes_of_two_machines_become_one_campaign(tmp_path: Path) -> None:
    outcome = JobOutcome({"re": 1.0}, run={"seconds": 1.0})
    settings = {"width": 4}
    here = Campaign(settings, outcomes={"denoising/a": outcome}, failed={"denoising/b": "RuntimeError: lost"})
    there = Campaign(settings, outcomes={"denoising/a": JobOutcome({"re": 2.0}), "denoising/b": outcome})
    there.save(tmp_path)
    assert here.add(Campaign.read(tmp_path), tmp_path, tmp_path / "here") == ["denoising/b"]
    assert here.outcomes == {"denoising/a": outcome, "denoising/b": outcome}
    assert here.failed == {}
    with pytest.raises(ValueError, match="width: got 8, expected 4"):
        here.add(Campaign({"width": 8}), tmp_path, tmp_path)


def wait_a_little(seconds: float) -> tuple[float, float]:
    began = time.monotonic()
    time.sleep(seconds)
    return began, time.monotonic()


def fail() -> None:
    raise RuntimeError("broken")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.processes
def test_a_failed_call_stops_nothing_and_what_runs_alone_does() -> None:
    calls = [
        Call("first", wait_a_little, (0.3,)),
        Call("broken", fail, ()),
        Call("alone", wait_a_little, (0.3,), alone=True),
        Call("search", wait_a_little, (0.3,)),
        Call("job", wait_a_little, (0.1,), after="search"),
    ]
    ended: dict[str, object] = {}
    pool = Pool(2)
    try:
        pool.run(calls, time.monotonic() + 600, lambda call, result, error: ended.update({call.name: error or result}))
        assert set(ended) == {call.name for call in calls}
        assert isinstance(ended.pop("broken"), RuntimeError)
        times = {name: value for name, value in ended.items() if isinstance(value, tuple)}
        begin, end = times.pop("alone")
        assert all(other[1] <= begin or other[0] >= end for other in times.values())
        assert times["job"][0] >= times["search"][1]
        pool.run(calls, time.monotonic() - 1, lambda call, *_: pytest.fail(f"{call.name} began too late"))
    finally:
        pool.close()


@pytest.mark.processes
def test_what_waits_for_a_failed_call_fails_with_it_and_a_killed_process_stops_nothing() -> None:
    calls = [
        Call("search", fail, ()),
        Call("job", wait_a_little, (0.0,), after="search"),
        Call("killed", die, ()),
        Call("last", wait_a_little, (0.0,)),
    ]
    ended: dict[str, object] = {}
    pool = Pool(1)
    try:
        pool.run(calls, time.monotonic() + 600, lambda call, result, error: ended.update({call.name: error or result}))
    finally:
        pool.close()
    assert isinstance(ended["search"], RuntimeError)
    assert ended["job"] is ended["search"]
    assert isinstance(ended["killed"], BrokenProcessPool)
    assert isinstance(ended["last"], tuple)


@pytest.mark.processes
def test_runs_stop_in_time_and_go_on_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(command: str, place: str, *more: str) -> str:
        folders = ["--out", str(tmp_path / place), "--runs", str(tmp_path / f"{place}_runs"), "--data", str(tmp_path)]
        common = ["--datasets", "mnist5k", "--device", "cpu", "--quick", "--seeds", "1"]
        small = ["--seconds", "0.05", "--candidates", "0"]
        assert main([command, *more, *common, *small, *folders]) == 0
        return capsys.readouterr().out

    experiments = ["--experiments", "denoising", "training-speed"]
    told = call("run", "here", *experiments, "--limit", "0", "--jobs", "1")
    assert "denoising: 0 of 4 jobs" in told
    assert Campaign.read(tmp_path / "here").outcomes == {}
    told = call("run", "there", "--experiments", "denoising", "--limit", "900", "--jobs", "2", "--pack", str(tmp_path))
    assert "denoising: 4 of 4 jobs" in told
    told = call("merge", "here", str(tmp_path / "results-1.zip"), *experiments)
    assert "4 new of 4" in told
    assert "training-speed: 0 of 3 jobs" in told
    told = call("run", "here", *experiments, "--limit", "900", "--jobs", "1")
    assert "3 of 7 jobs to do" in told
    assert "training-speed: 3 of 3 jobs" in told
    for name in ("denoising", "training-speed"):
        results = json.loads((tmp_path / "here" / name / "results.json").read_text())
        assert results["quick"] is True
        assert len(results["jobs"]) == {"denoising": 4, "training-speed": 3}[name]
        for picture in results["pictures"]:
            assert (tmp_path / "here" / name / picture["file"]).is_file()
    kept = Campaign.read(tmp_path / "here").kept
    assert any(name.startswith("speeds/") for name in kept)


def test_a_task_that_failed_before_has_not_once_it_succeeds(tmp_path: Path) -> None:
    campaign, given = Campaign({}), argparse.Namespace(runs=tmp_path, out=tmp_path)
    call = Call("settings/mnist-lae", fail, ())
    receive(campaign, given, 0.0, call, None, RuntimeError("out of memory\nand more lines"))
    assert campaign.failed == {call.name: "RuntimeError: out of memory"}
    receive(campaign, given, 0.0, call, Choice("mnist", "lae", {"lr": 1.0}, []), None)
    assert Campaign.read(tmp_path).failed == {}


def test_folders_of_the_same_name_are_merged_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--datasets", "mnist5k", "--quick", "--seeds", "1", "--experiments", "denoising", "--runs", str(tmp_path)]
    settings = {"seconds": 10.0, "candidates": 6, "quick": True, "datasets": ["mnist5k"]}
    for machine, model in (("a", "lae"), ("b", "vae")):
        outcome = JobOutcome({"re": 1.0}, run=dict.fromkeys(RUN_FACTS, 1))
        Campaign(settings, outcomes={f"denoising/mnist5k-{model}-seed0": outcome}).save(tmp_path / machine)
        pack_results(tmp_path / machine, tmp_path / machine / "home")
    files = [str(tmp_path / machine / "home" / "results-1.zip") for machine in "ab"]
    assert main(["merge", *files, *quick, "--out", str(tmp_path / "all")]) == 0
    assert "denoising: 2 of 4 jobs" in capsys.readouterr().out
    (tmp_path / "broken.zip").write_text("no zip")
    assert main(["merge", str(tmp_path / "broken.zip"), *quick, "--out", str(tmp_path / "all")]) == 1
    assert "broken.zip: got no whole zip file, expected one that --pack wrote" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seconds", "-1"], "denoising: seconds: got -1.0, expected"),
        (["--candidates", "13"], "denoising: candidates: got 13, expected"),
        (["--device", "none"], "denoising: device: got 'none', expected cpu or a GPU"),
        (["--jobs", "0"], "jobs: got 0, expected >= 1"),
        (["--seeds", "0"], "seeds: got 0, expected >= 1"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    common = ["--datasets", "mnist5k", "--device", "cpu", "--quick", "--experiments", "denoising"]
    assert main(["run", *common, "--out", str(tmp_path / "out"), "--runs", str(tmp_path), *options]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_of_data_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ["--out", str(tmp_path), "--runs", str(tmp_path), "--data", str(tmp_path), "--data-root", str(tmp_path)]
    assert main(["run", "--device", "cpu", *folders]) == 1
    told = capsys.readouterr()
    assert "svhn is neither in" in told.out
    assert "datasets: got none at hand, expected some of mnist" in told.err
    assert not (tmp_path / FILE).exists()
    assert Task("denoising", Job("mnist", "lae", 0)).name == "denoising/mnist-lae-seed0"
