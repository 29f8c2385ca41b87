"""What two processes do together for test_ranks.py. Each is `ranks_world.py FOLDER RANK` and writes FOLDER/RANK.pt."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from ald_ext.data import ImageData
from ald_ext.models import AE, MODELS, LatentVariableModel, ModelConfig, config_from_dict, find_model_class
from ald_ext.training import TrainingConfig, TrainingDivergedError, TrainingInterrupted, fit, loop, train

RANKS = 2
#: Minibatches of 5 in parts of 2 and 3, and a last one of 1, of which a rank has nothing.
TRAIN, TEST, EPOCHS, STEPS_AN_EPOCH = 21, 4, 2, 5
CHAINS = {"langevin_steps": 2, "inference_steps": 2, "target_acceptance": None}

#: Runs without draws from torch's generator, which are those of one process.
SAME_AS_ALONE: dict[str, dict[str, Any]] = {
    "lae": {"momentum": 0.5},
    "ae": {"model": "ae"},
    "sparse-ae": {"model": "sparse-ae"},
    "clae": {"model": "clae"},
    "clae-langevin": {"model": "clae", "network": {"prior_sampler": "langevin"}},
    "abp": {"model": "abp", "network": CHAINS},
}
#: Runs whose draws are the rank's, or whose step size of the latent variables adapts to each rank's part.
RUNS: dict[str, dict[str, Any]] = {
    **SAME_AS_ALONE,
    "vae": {"model": "vae"},
    "dlgm": {"model": "dlgm", "network": {"langevin_steps": 2, "inference_steps": 2}},
    "abp-adapted": {"model": "abp", "network": {**CHAINS, "target_acceptance": 0.57}},
    "clae-drawn": {"model": "clae", "network": {"chains": 3, "prior_sampler": "langevin"}},
}


def config(network: dict[str, Any] | None = None, **options: Any) -> TrainingConfig:
    shared = {"dataset": "numbers", "epochs": EPOCHS, "batch_size": 5, "warm_up": 0, "evaluate_every": 1, "threads": 1}
    options = {"schedule": "constant", "ensemble_size": 2, "ensemble_every": 3, **shared, **options}
    sizes = {"network": "mlp", "data": "real", "latent_dim": 2, "hidden_units": 6, "hidden_layers": 1}
    model_class = MODELS[options.get("model", "lae")]
    return TrainingConfig(
        **options, network=config_from_dict(model_class.config_class, {**sizes, "shape": (3,), **(network or {})})
    )


def numbers() -> ImageData:
    data = torch.randn(TRAIN + TEST, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return ImageData(data[:TRAIN], None, data[TRAIN:], None, name="numbers")


def make_double(settings: ModelConfig, name: str) -> LatentVariableModel:
    """In float64, so that the order of a sum hardly matters."""
    return find_model_class(name)(settings).double()


def trained(out: Path | None = None, *, network: dict[str, Any] | None = None, resume: bool = False, **options: Any):
    """A run in memory, or the state of its checkpoint."""
    settings = config(network, **options)
    own = {"data": numbers(), "make_model": lambda of_data: make_double(of_data, settings.model), "progress": False}
    if out is None:
        return fit(settings, **own).state()
    return train(settings, out, resume=resume, **own)


def outcome_of(function: Callable[[], object]) -> str:
    """The error that ended a run, and its message."""
    try:
        function()
    except (OSError, ValueError, TrainingDivergedError, TrainingInterrupted) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


@contextlib.contextmanager
def patched(owner: Any, name: str, value: Any):
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def stop_by_signal(folder: Path, rank: int) -> dict[str, Any]:
    """Rank 1 has SIGTERM, twice, after step 3; then both resume."""
    make_step = loop.Loop._make_step

    def make_and_signal(self, x, index):
        make_step(self, x, index)
        if self.run.step == 3 and rank == 1:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

    out = folder / "stopped"
    with patched(loop.Loop, "_make_step", make_and_signal):
        message = outcome_of(lambda: trained(out, model="vae"))
    step = torch.load(out / "checkpoint.pt", weights_only=True)["step"]
    metrics = trained(out, model="vae", resume=True)
    whole = trained(folder / "whole", model="vae")
    clock = ("seconds", "images_per_second", "peak_memory_bytes", "seconds_after_epoch")
    same = all(metrics[name] == whole[name] for name in metrics if name not in clock)
    return {"message": message, "step": step, "same metrics": same}


def failures(folder: Path, rank: int) -> dict[str, str]:
    """What each rank is told where rank 0 cannot write, a loss explodes, or settings differ."""

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with patched(loop, "write_tensors", full_disk):
        disk = outcome_of(lambda: trained(folder / "disk"))
    diverged = outcome_of(lambda: trained(divergence_limit=1e-9))
    other = outcome_of(lambda: trained(seed=rank))
    options = {**RUNS["lae"], "epochs": 2 * EPOCHS, "resume": rank == 1}
    fresh = outcome_of(lambda: trained(folder / ("one to two/lae" if rank else "fresh"), **options))
    captured = outcome_of(lambda: trained(capture=True))
    return {"disk": disk, "diverged": diverged, "other": other, "fresh": fresh, "captured": captured}


class OneOfTwo(torch.nn.Module):
    """An encoder that takes another of its layers for each rank, and the third one never."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(3, 2, dtype=torch.float64) for _ in range(3))
        self.rank = rank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[self.rank](x)


def trained_by_parts(rank: int) -> dict[str, Any]:
    """The state of a run in which each rank's data reach other parameters."""

    def make(settings: ModelConfig) -> LatentVariableModel:
        return AE(settings, encoder=OneOfTwo(rank)).double()

    return fit(config(model="ae", epochs=1), numbers(), make_model=make).state()


def chains_in_wrappers() -> dict[str, str]:
    """What models with chains say to DistributedDataParallel."""
    found = {}
    for name in ("abp", "clae-langevin"):
        settings = dataclasses.replace(config(**RUNS[name]).network, num_data=TRAIN)
        wrapped = DistributedDataParallel(find_model_class(RUNS[name]["model"])(settings))
        found[name] = outcome_of(partial(wrapped, numbers().train_images.float(), torch.arange(TRAIN)))
    return found


def wrapped_gradients(rank: int) -> dict[str, list[torch.Tensor]]:
    """Gradients of models in wrappers at this rank's numbers, and the mean of those of all ranks' numbers."""
    data = numbers().train_images.float()
    parts = [data[:6], data[6:12]]  # a wrapper gives all ranks the same weight
    found: dict[str, list[torch.Tensor]] = {}
    for name in ("lae", "ae", "clae"):
        torch.manual_seed(0)
        network = dataclasses.replace(config(model=name).network, num_data=TRAIN)
        model = find_model_class(name)(network)
        index = [torch.arange(6), torch.arange(6, 12)]
        (sum(model.loss(part, own) for part, own in zip(parts, index, strict=True)) / RANKS).backward()
        found[name] = [parameter.grad.clone() for parameter in model.parameters()]
        model.zero_grad()
        wrapped = DistributedDataParallel(model)
        wrapped(parts[rank], index[rank]).backward()
        found[f"{name}-ddp"] = [parameter.grad.clone() for parameter in model.parameters()]
        if name == "lae":
            model.zero_grad()
            fully_shard(model)(parts[rank], index[rank]).backward()
            found["lae-fsdp"] = [parameter.grad.full_tensor() for parameter in model.parameters()]
    return found


def main(folder: Path, rank: int) -> None:
    store = f"file://{folder / 'store'}"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS)
    results: dict[str, Any] = {"runs": {name: trained(**options) for name, options in RUNS.items()}}
    for name in ("lae", "abp"):  # from a checkpoint of one process, and one for one process
        trained(folder / "one to two" / name, **{**RUNS[name], "epochs": 2 * EPOCHS}, resume=True)
        trained(folder / "two to one" / name, **RUNS[name])
    results["stopped"] = stop_by_signal(folder, rank)
    results["failures"] = failures(folder, rank)
    results["by parts"] = trained_by_parts(rank)
    results["chains"] = chains_in_wrappers()
    results["gradients"] = wrapped_gradients(rank)
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
