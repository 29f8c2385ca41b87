"""Equal time for every model: seconds of training, turned into steps at the speed that a model has when it is alone."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...data import ImageData
from ...files import write_json
from ...settings import parse_json, require
from ...threads import number_of_threads
from ...training import TrainingConfig
from ...training.config import IRRELEVANT
from ...training.evaluation import random_state_kept
from ...training.run import start_run
from ..results import fingerprint

#: Steps before the measurement, in which a GPU's graph is captured too; the least seconds and steps that are measured.
STEPS_BEFORE, LEAST_SECONDS, LEAST_STEPS = 8, 0.5, 10
#: The lr of these steps.
SMALL_LR = 1e-9
#: Settings that a step takes equally long with.
NOT_SPEED = (IRRELEVANT - {"capture"}) | {
    *("dataset", "epochs", "steps", "seed", "lr", "eps", "momentum", "temperature", "alpha", "warm_up"),
    *("schedule_epochs", "evaluate_every", "ensemble_size", "ensemble_every", "divergence_limit"),
}
#: Settings of networks that a step takes equally long with.
NOT_SPEED_OF_NETWORKS = {"num_data", "data", "prior_eps", "initial_spread"}


def within(seconds: float, config: TrainingConfig, data: ImageData, runs: Path) -> TrainingConfig:
    """Return the training with as many steps as its model makes in ``seconds``, alone on its device.

    How long a step takes is measured once and kept in a file of runs/speeds. So a run has the same steps however often
    it is interrupted, and whatever shares its machine. On the CPU the time is that of one core.
    """
    settings: dict[str, Any] = {name: value for name, value in config.to_dict().items() if name not in NOT_SPEED}
    settings["network"] = {
        name: value for name, value in settings["network"].items() if name not in NOT_SPEED_OF_NETWORKS
    }
    device, shape = device_name(config.device), list(data.train_images.shape[1:])
    key = fingerprint({**settings, "shape": shape, "device": device})
    path = runs / "speeds" / f"{config.model}-batch{config.batch_size}-{key}.json"
    if path.is_file():
        each = parse_json(path.read_bytes(), str(path)).get("seconds_a_step")
        require(isinstance(each, float) and each > 0, f"{path}: seconds_a_step", repr(each), "a number > 0")
    else:
        each = seconds_a_step(config, data)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"seconds_a_step": each, "device": device, "model": config.model, "shape": shape})
    only_last = config.evaluate_every == config.num_epochs
    return replace(
        config,
        epochs=None,
        steps=max(1, round(seconds / each)),
        evaluate_every=2**31 if only_last else config.evaluate_every,
    )


def device_name(device: str) -> str:
    """Return the name of the GPU; of the CPU "cpu", as torch knows no other."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"


def seconds_a_step(config: TrainingConfig, data: ImageData) -> float:
    """Measure how long a training step takes: on a GPU by the clock, on the CPU as time of one core."""
    on_gpu = config.device.startswith("cuda")

    def now() -> float:
        if on_gpu:
            torch.cuda.synchronize(config.device)
        return time.perf_counter() if on_gpu else time.process_time()

    with random_state_kept(), number_of_threads(1):
        # With next to no lr, as the steps have no warm-up, without which a larger one might diverge.
        run = start_run(replace(config, epochs=None, steps=1, lr=SMALL_LR), data)
        size = config.batch_size  # whole minibatches alone, as a short one is not captured
        minibatches = (
            pair for epoch in itertools.count() for pair in run.batches.epoch(epoch, 0) if len(pair[0]) == size
        )
        begin = now()
        for step, (x, index) in enumerate(minibatches, 1):
            run.training_step(step, x, index)
            if step == STEPS_BEFORE:
                begin = now()
            measured = step - STEPS_BEFORE
            # The clock waits for a GPU, so it is not looked at after every step.
            if measured >= LEAST_STEPS and measured % LEAST_STEPS == 0 and now() - begin >= LEAST_SECONDS:
                return (now() - begin) / measured
    raise AssertionError("minibatches have no end")
