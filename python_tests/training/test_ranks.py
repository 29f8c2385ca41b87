"""A run on two processes: equal on both, that of one process, stopped and failed together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from patience import PATIENCE
from training import ranks_world
from training.ranks_world import EPOCHS, RANKS, RUNS, SAME_AS_ALONE, STEPS_AN_EPOCH, trained
from typer.testing import CliRunner

from ald_ext.cli.commands import app
from ald_ext.data.batches import Batches, batches
from ald_ext.models import MODELS
from ald_ext.training.checkpoints import load_checkpoint
from ald_ext.training.ranks import process_group
from tools.kill_training import differences, without_clock

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, list[dict]]:
    """The folder of the two processes, and the results of each."""
    folder = tmp_path_factory.mktemp("world")
    for name in ("lae", "abp"):
        trained(folder / "one to two" / name, **RUNS[name])
    command = [sys.executable, ranks_world.__file__, folder]
    processes = [
        subprocess.Popen([*command, str(rank)], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        for rank in range(RANKS)
    ]
    errors = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return folder, [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.processes
@pytest.mark.parametrize("name", RUNS)
def test_ranks_are_equal_bit_for_bit(world, name):
    """Parameters, chains, optimizer, ensemble, history: all but the random state, which is each rank's own."""
    first, second = (without_clock(results["runs"][name]) for results in world[1])
    assert first["step"] == EPOCHS * STEPS_AN_EPOCH
    assert set(differences(first, second)) <= {"/random_state/cpu"}


def test_every_model_is_among_the_runs():
    assert {options.get("model", "lae") for options in RUNS.values()} == set(MODELS)


def assert_close(first: dict, second: dict) -> None:
    """Parameters, chains and losses in float64, up to the order of sums."""
    for name, value in first["model"].items():
        torch.testing.assert_close(value, second["model"][name], rtol=1e-10, atol=1e-12, msg=name)
    assert [row["loss"] for row in first["history"]] == pytest.approx([row["loss"] for row in second["history"]])


@pytest.mark.processes
@pytest.mark.parametrize("name", SAME_AS_ALONE)
def test_two_ranks_compute_what_one_process_does(world, name):
    assert_close(world[1][0]["runs"][name], trained(**RUNS[name]))


@pytest.mark.processes
def test_what_is_drawn_differs_between_ranks_and_what_adapts_is_near_that_of_one_process(world):
    first, second = (results["runs"]["vae"]["random_state"]["cpu"] for results in world[1])
    assert not torch.equal(first, second)
    adapted, alone = world[1][0]["runs"]["abp-adapted"]["model"], trained(**RUNS["abp-adapted"])["model"]
    assert adapted["chains.dynamics.step_size"] != 0.01
    torch.testing.assert_close(
        adapted["chains.dynamics.step_size"], alone["chains.dynamics.step_size"], rtol=1e-3, atol=0
    )


@pytest.mark.processes
@pytest.mark.parametrize("name", ["lae", "abp"])
@pytest.mark.parametrize("way", ["one to two", "two to one"])
def test_a_checkpoint_resumes_on_another_number_of_processes(world, name, way):
    options = {**RUNS[name], "epochs": 2 * EPOCHS}
    out = world[0] / way / name
    if way == "two to one":
        trained(out, **options, resume=True)
    assert_close(load_checkpoint(out / "checkpoint.pt"), trained(**options))


@pytest.mark.processes
def test_a_signal_to_one_rank_stops_both_and_they_resume_bit_for_bit(world):
    folder, results = world
    for result in results:
        assert result["stopped"]["message"].startswith(
            "TrainingInterrupted: stopped by signal 15 at step 4; the checkp"
        )
        assert result["stopped"]["step"] == 4
        assert result["stopped"]["same metrics"]
    first, second = (without_clock(load_checkpoint(folder / name / "checkpoint.pt")) for name in ("stopped", "whole"))
    assert differences(first, second) == []


@pytest.mark.processes
def test_what_ends_one_rank_ends_both_with_a_message(world):
    first, second = (results["failures"] for results in world[1])
    assert first["disk"] == "OSError: [Errno 28] No space left on device"
    assert second["disk"] == (
        "ConnectionError: rank 1: rank 0 ended the run (OSError: [Errno 28] No space left on device)"
    )
    for failures in (first, second):
        assert "lae: diverged at step 1 (loss" in failures["diverged"]
        assert "other seed than another rank, expected the same on all ranks" in failures["other"]
        assert "other steps done than another rank, expected the same on all ranks" in failures["fresh"]
    assert first["diverged"] == second["diverged"]
    assert "capture: got True for model 'lae', expected False: the device is no GPU" in first["captured"]


@pytest.mark.processes
@pytest.mark.parametrize("name", ["lae-ddp", "ae-ddp", "clae-ddp", "lae-fsdp"])
def test_wrapped_models_have_the_mean_gradient(world, name):
    for results in world[1]:
        gradients = results["gradients"]
        torch.testing.assert_close(gradients[name], gradients[name.split("-")[0]])


@pytest.mark.processes
def test_chains_are_refused_in_wrappers(world):
    """DistributedDataParallel would overwrite those of all ranks but the first."""
    for results in world[1]:
        for name, message in results["chains"].items():
            model = name.split("-")[0].upper()
            assert message.startswith(f"ValueError: ald_ext.models.{model}: got chains in a process group")


@pytest.mark.processes
def test_a_gradient_that_only_one_ranks_data_have_reaches_all(world):
    """Each rank takes another layer of the encoder. The third has no gradient and stays without optimizer state."""
    first, second = (without_clock(results["by parts"]) for results in world[1])
    assert set(differences(first, second)) <= {"/random_state/cpu"}
    names = [name for name in first["model"] if "layers" in name or "decoder" in name]
    assert len(first["optimizer"]["state"]) == len(names) - 2


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("resident", [True, False])
def test_parts_make_up_the_minibatches_of_one_process(num_ranks, resident):
    images = torch.arange(11)[:, None]
    divided = [
        Batches(images, 4, 3, "cpu", resident=resident, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)
    ]
    parts = [list(each.epoch(2, 1)) for each in divided]
    for batch, whole in enumerate(batches(11, 4, 3, 2)[1:], start=1):
        shares = [each.share(batch) for each in divided]
        assert sum(shares) == pytest.approx(1)
        assert {each.size(batch) for each in divided} == {len(whole)}
        own = [part[batch - 1][1] for part, share in zip(parts, shares, strict=True) if share]
        assert torch.equal(torch.cat(own), whole)
        for part, share in zip(parts, shares, strict=True):
            x, index = part[batch - 1]
            assert torch.equal(x, images[index])
            assert len(index) == (round(share * len(whole)) or len(whole))


# ---- the command under torchrun ----


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:1", "device: got 'cuda:1' in several processes, expected cuda: each takes a GPU of its own"),
        ("cuda", "nproc-per-node: got 2 with 1 GPUs here, expected at most 1, or --device cpu"),
    ],
)
def test_gpus_that_do_not_suffice(monkeypatch, device, message):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=message), process_group(device):
        pass


def test_an_environment_without_the_other_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("RANK", "0")
    message = (
        r"WORLD_SIZE: got 2 in the environment, but no process group \(.*MASTER_ADDR.*\); expected to be started by"
    )
    with pytest.raises(ConnectionError, match=message), process_group("cpu"):
        pass


def test_other_commands_are_of_one_process(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = CliRunner().invoke(app, ["info"]).exception
    assert str(refused) == "ald-ext info: got several processes of torchrun, expected one process"
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert CliRunner().invoke(app, ["info"]).exit_code == 0


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]


@contextlib.contextmanager
def torchrun(*arguments: str | Path):
    command = [*TORCHRUN, "-m", "ald_ext", "train", *map(str, arguments)]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()  # torchrun ends its ranks


def pid_of_rank(agent: int, rank: int) -> int:
    """Of a child of torchrun."""
    for pid in map(int, Path(f"/proc/{agent}/task/{agent}/children").read_text().split()):
        if f"\0RANK={rank}\0" in Path(f"/proc/{pid}/environ").read_text():
            return pid
    raise AssertionError("torchrun has no such child")


@pytest.mark.processes
def test_a_rank_that_is_killed_ends_torchrun_and_the_run_resumes(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (13, 32, 32), dtype=np.uint8)
    np.savez(tmp_path / "few.npz", train_images=images, test_images=images)
    out = tmp_path / "out"
    small = ("--dataset", tmp_path / "few.npz", "--width", 4, "--latent-dim", 4, "--batch-size", 5)
    with torchrun("--out", out, *small, "--epochs", 100_000, "--checkpoint-every", 2) as process:
        deadline = time.monotonic() + PATIENCE
        while not (out / "checkpoint.pt").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(pid_of_rank(process.pid, 1), signal.SIGKILL)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert "ald-ext: rank 0: another process of the run is gone" in errors, errors
    epochs = load_checkpoint(out / "checkpoint.pt")["epoch"] + 2
    with torchrun("--out", out, "--resume", "--epochs", epochs) as process:
        output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert output.count("test RE") == 1
    assert load_checkpoint(out / "checkpoint.pt")["epoch"] == epochs
