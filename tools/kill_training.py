"""Training runs that are killed by SIGKILL at random moments, and resumed until they are finished.

    python tools/kill_training.py --runs 20 --out kills.json

After every kill the checkpoint on disk must load and be less than one interval behind the last step that the run
reported; the finished run must equal an uninterrupted one bit for bit: parameters, optimizer, chains, ensemble, random
state, history. Needs no GPU. Exits with 1 if anything is otherwise.
"""

import argparse
import contextlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch

from ald_ext.data import load_dataset
from ald_ext.files import write_json
from ald_ext.training.checkpoints import load_checkpoint
from ald_ext.training.loop import CHECKPOINT, Loop

#: Steps from one checkpoint to the next.
INTERVAL = 5
EPOCHS, BATCH_SIZE, STEPS_AN_EPOCH = 2, 20, 45
#: Digits of mnist5k to train and to test, from a file, as mnist5k takes longer; the last minibatch is short.
TRAIN_IMAGES, TEST_IMAGES = BATCH_SIZE * STEPS_AN_EPOCH - 7, 50
#: One life in so many is killed at any time after its start, while it imports, loads or resumes, too.
KILLED_EARLY_ONE_IN = 6
LONGEST_START = 6.0
#: What a checkpoint holds that depends on the clock.
CLOCK = ("seconds", "seconds_after_epoch")


def settings(model: str, digits: Path) -> dict[str, Any]:
    """A small run with an ensemble; DLGM, VAE and uniform dequantization draw from torch's generator."""
    options = {"langevin_steps": 2, "inference_steps": 2} if model in ("abp", "dlgm") else {}
    return {
        "model": model,
        "dataset": str(digits),
        "epochs": EPOCHS,
        "batch_size": BATCH_SIZE,
        "checkpoint_every": INTERVAL,
        "ensemble_size": 3,
        "ensemble_every": 4,
        "threads": 1,
        "network": {"width": 4, "latent_dim": 4, "dequantization": "uniform", **options},
    }


def be_child(progress: str, arguments: list[str]) -> None:
    """`ald-ext train ...` that appends the number of each step to a file, after the checkpoint that belongs to it."""
    from ald_ext.cli import main

    make_step = Loop._make_step
    file = os.open(progress, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def make_and_report(loop: Loop, x: torch.Tensor, index: torch.Tensor) -> None:
        make_step(loop, x, index)
        os.write(file, f"{loop.run.step}\n".encode())

    Loop._make_step = make_and_report
    sys.argv = ["ald-ext", *arguments]
    main()


@dataclass
class KilledRun:
    """What became of one run."""

    model: str
    seed: int
    kills: int = 0
    before_the_first_checkpoint: int = 0
    during_a_write: int = 0
    during_the_start: int = 0
    most_steps_behind: int = 0
    failures: list[str] = field(default_factory=list)


class Victim:
    """A run in a folder, with what it reports, that is killed so many times at random moments, then left to finish."""

    def __init__(self, folder: Path, model: str, digits: Path, kills: int, seed: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.out, self.progress, self.kills = folder / "out", folder / "progress", kills
        self.config = folder / "settings.json"
        self.config.write_text(json.dumps(settings(model, digits)))
        self.random = random.Random(f"{model} {seed}")
        self.result = KilledRun(model, seed)

    def last_step(self) -> int:
        """The last one that was reported; 0 for none."""
        lines = self.progress.read_text().splitlines() if self.progress.exists() else []
        return int(lines[-1]) if lines else 0

    def leftovers(self) -> list[str]:
        """Temporary files of writes that did not end."""
        return sorted(path.name for path in self.out.glob(".*"))

    @contextlib.contextmanager
    def started(self) -> Iterator[subprocess.Popen[bytes]]:
        """The process of the next life."""
        begun = (self.out / CHECKPOINT).exists()
        arguments = ["--resume"] if begun else ["--config", str(self.config)]
        command = [sys.executable, __file__, "child", str(self.progress), "train", "--out", str(self.out), *arguments]
        with tempfile.TemporaryFile() as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
            try:
                yield process
            finally:
                process.kill()
            if process.wait() not in (0, -signal.SIGKILL):
                output.seek(0)
                self.result.failures.append(f"exit code {process.returncode}: {output.read().decode()[-1000:]}")

    def live(self) -> None:
        """All lives of the run, until it is finished or something is wrong."""
        while self.result.kills < self.kills and not self.result.failures:
            self.be_killed()
            self.check_checkpoint()
        if not self.result.failures:
            with self.started() as process:
                process.wait()
        if not self.result.failures and (leftovers := self.leftovers()):
            self.result.failures.append(f"temporary files are left: {', '.join(leftovers)}")

    def be_killed(self) -> None:
        """One life, ended at a random moment."""
        early = self.random.randrange(KILLED_EARLY_ONE_IN) == 0
        longest = self.random.uniform(0, LONGEST_START) if early else math.inf
        before = self.last_step()
        # Steps are left for the kills to come.
        margin = (EPOCHS * STEPS_AN_EPOCH - before) // (self.kills - self.result.kills + 1)
        target = before + self.random.randint(1, max(margin, 1))
        with self.started() as process:
            begun = time.monotonic()
            while process.poll() is None and self.last_step() < target and time.monotonic() - begun < longest:
                time.sleep(0.001)
            time.sleep(self.random.uniform(0, 0.03))  # some steps, and a write among them
            finished = process.poll() is not None
            process.kill()
            process.wait()
        if finished:
            self.result.failures.append("the run was over before it could be killed")
        self.result.kills += 1
        self.result.during_the_start += self.last_step() == before
        self.result.during_a_write += bool(self.leftovers())

    def check_checkpoint(self) -> None:
        """Loads it; it is of the last reported step that has one, or of a later one."""
        reported, path = self.last_step(), self.out / CHECKPOINT
        try:
            step = load_checkpoint(path)["step"] if path.exists() else 0
        except ValueError as error:
            self.result.failures.append(str(error))
            return
        self.result.before_the_first_checkpoint += not path.exists()
        self.result.most_steps_behind = max(self.result.most_steps_behind, reported - step)
        if not reported - INTERVAL < step <= reported + 1:
            self.result.failures.append(f"the checkpoint is of step {step}, the last reported was {reported}")


def differences(first: Any, second: Any, where: str = "") -> list[str]:
    """Places at which two trees of tensors and plain values are not the same, bit for bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return [] if first.dtype == second.dtype and torch.equal(first, second) else [where]
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return [found for key in first for found in differences(first[key], second[key], f"{where}/{key}")]
    if isinstance(first, list | tuple) and type(first) is type(second) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return [found for place, (one, other) in pairs for found in differences(one, other, f"{where}/{place}")]
    return [] if type(first) is type(second) and first == second else [where]


def without_clock(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What two runs must have in common."""
    return {name: value for name, value in checkpoint.items() if name not in CLOCK}


def uninterrupted(folder: Path, model: str, digits: Path) -> dict[str, Any]:
    """The checkpoint of a run of its own process that nobody kills."""
    victim = Victim(folder, model, digits, kills=0, seed=0)
    victim.live()
    if victim.result.failures:
        raise RuntimeError(f"the uninterrupted run failed: {victim.result.failures}")
    return load_checkpoint(victim.out / CHECKPOINT)


def kill_and_compare(folder: Path, model: str, digits: Path, whole: dict[str, Any], kills: int, seed: int) -> KilledRun:
    """A run that is killed, resumed until it is finished, and compared with the uninterrupted one."""
    victim = Victim(folder, model, digits, kills, seed)
    victim.live()
    if not victim.result.failures:
        finished = load_checkpoint(victim.out / CHECKPOINT)
        if different := differences(without_clock(whole), without_clock(finished)):
            victim.result.failures.append(f"differs from the uninterrupted run in {', '.join(different)}")
    return victim.result


def main() -> None:
    """Kills and compares the runs that the command line asks for, and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--models", nargs="+", default=["lae", "abp"], help="taken in turns")
    parser.add_argument("--most-kills", type=int, default=3, help="a run is killed from once to so many times")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="JSON to be written")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digits = folder / "digits.npz"
        images = load_dataset("mnist5k")
        train, test = images.train_images[:TRAIN_IMAGES, 0], images.test_images[:TEST_IMAGES, 0]
        numpy.savez(digits, train_images=train.numpy(), test_images=test.numpy())
        whole = {model: uninterrupted(folder / model, model, digits) for model in options.models}
        for number in range(options.runs):
            model = options.models[number % len(options.models)]
            kills = 1 + random.Random(options.seed + number).randrange(options.most_kills)
            seed = options.seed + number
            results.append(kill_and_compare(folder / f"run{number}", model, digits, whole[model], kills, seed))
            print(results[-1], flush=True)
    counts = ("kills", "before_the_first_checkpoint", "during_a_write", "during_the_start")
    report = {
        "runs": len(results),
        "runs_without_failure": sum(not result.failures for result in results),
        **{name: sum(getattr(result, name) for result in results) for name in counts},
        "most_steps_behind": max(result.most_steps_behind for result in results),
        "checkpoint_every": INTERVAL,
        "steps": EPOCHS * STEPS_AN_EPOCH,
        "torch": torch.__version__,
    }
    write_json(options.out, {**report, "each": [asdict(result) for result in results]})
    print(json.dumps(report, indent=2))
    sys.exit(report["runs_without_failure"] != report["runs"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        be_child(sys.argv[2], sys.argv[3:])
    else:
        main()
