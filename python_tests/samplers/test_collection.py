"""Collecting draws: which states are kept, where they go, and that a run can be interrupted."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ald_ext import PSGLD, SGLD, threads
from ald_ext.samplers import HMC, AmortizedLangevin, GaussianPotential, LangevinDynamics, UnderdampedLangevin
from ald_ext.samplers.collection import Collector, Sampler, SampleStorage, collect
from ald_ext.samplers.streaming import StreamingMoments


class Counter:
    """Its state is the number of steps; the same tensor is overwritten at every step."""

    def __init__(self, *shape: int) -> None:
        self.z = torch.zeros(shape)

    def step(self) -> Tensor:
        self.z += 1
        return self.z


class Langevin:
    """SGLD on N(0, 1), with a state_dict."""

    def __init__(self) -> None:
        self.z = torch.zeros(3, 2, 4)
        self.optimizer = SGLD([self.z], 0.1, num_data=1, seed=5)

    def step(self) -> Tensor:
        self.z.grad = self.z.clone()
        self.optimizer.step()
        return self.z

    def state_dict(self) -> dict[str, Any]:
        return {"z": self.z.clone(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.z.copy_(state["z"])
        self.optimizer.load_state_dict(state["optimizer"])


def test_burn_in_and_thinning_keep_these_states() -> None:
    samples = collect(Counter(2, 3), 4, burn_in=10, thinning=3)
    assert samples.shape == (4, 2, 3)
    assert samples[:, 0, 0].tolist() == [13, 16, 19, 22]
    assert isinstance(Counter(1, 1), Sampler)


def test_runs_follow_on_each_other() -> None:
    storage = SampleStorage()
    collector = Collector(Counter(1, 1), into=storage, burn_in=5, thinning=2)
    for num_samples in (2, 0, 3):
        collector.run(num_samples)
    assert storage.samples.flatten().tolist() == [7, 9, 11, 13, 15]
    assert collector.num_steps == 15


def test_an_interruption_between_two_draws_loses_nothing() -> None:
    sampler = Counter(1, 1)
    storage = SampleStorage()
    collector = Collector(sampler, into=storage, thinning=4)
    stop_at = 6
    step = sampler.step

    def interrupted() -> Tensor:
        if sampler.z.item() == stop_at:
            raise KeyboardInterrupt
        return step()

    sampler.step = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        collector.run(3)
    stop_at = -1
    collector.run(2)
    assert storage.samples.flatten().tolist() == [4, 8, 12]
    assert collector.num_steps == 12


def test_several_sinks() -> None:
    storage, moments = collect(Langevin(), 20, into=[SampleStorage(dtype=torch.float64), StreamingMoments()])
    assert storage.samples.dtype == torch.float64
    torch.testing.assert_close(moments.mean, storage.samples.mean((0, 2)))


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path: Path, on_disk: bool) -> None:
    def make(name: str) -> tuple[Collector, SampleStorage, StreamingMoments]:
        path = tmp_path / f"{name}.npy" if on_disk else None
        storage, moments = SampleStorage(100, path=path), StreamingMoments(num_batches=8)
        return Collector(Langevin(), into=[storage, moments], burn_in=7, thinning=3), storage, moments

    whole, expected, expected_moments = make("whole")
    whole.run(100)
    first, _, _ = make("parts")
    first.run(37)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    first.run(20)  # of which the continuation must not see anything

    second, samples, moments = make("parts")
    second.load_state_dict(torch.load(file, weights_only=True))
    second.run(63)
    assert torch.equal(samples.samples, expected.samples)
    assert torch.equal(moments.mean, expected_moments.mean)
    assert torch.equal(moments.effective_sample_size, expected_moments.effective_sample_size)


def test_a_file_can_be_read_by_numpy(tmp_path: Path) -> None:
    storage = collect(Counter(2, 3, 1), 5, into=SampleStorage(path=tmp_path / "z.npy", dtype=torch.float16))
    storage.flush()
    array = np.load(tmp_path / "z.npy")
    assert array.shape == (5, 2, 3, 1)
    assert array.dtype == np.float16
    assert array[:, 1, 2, 0].tolist() == [1, 2, 3, 4, 5]


def test_memory_grows_and_files_do_not(tmp_path: Path) -> None:
    storage = SampleStorage(2)
    for _ in range(5):
        storage.append(torch.ones(1, 1))
    assert len(storage) == 5
    on_disk = SampleStorage(2, path=tmp_path / "z.npy")
    collector = Collector(Counter(1, 1), into=on_disk)
    collector.run(2)
    with pytest.raises(ValueError, match="room for 2, expected capacity= to be given"):
        collector.run(1)
    assert collector.num_steps == 2


def test_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    collect(Counter(1, 1), 3, progress=True)
    assert "3/3" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match="progress: needs tqdm"):
        collect(Counter(1, 1), 3, progress=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: collect(Counter(1, 1), 1, burn_in=-1), "burn_in: got -1, expected an integer >= 0"),
        (lambda: collect(Counter(1, 1), 1, thinning=0), "thinning: got 0, expected an integer > 0"),
        (lambda: collect(Counter(1, 1), -1), "num_samples: got -1"),
        (lambda: collect(Counter(5), 1), r"got shape \(5,\), expected \(n, d\) or \(n, chains, d\)"),
        (lambda: SampleStorage(0), "capacity: got 0"),
        (lambda: SampleStorage(path="a.txt"), "expected a name that ends in .npy"),
        (lambda: collect(Counter(1, 1), 1, into=SampleStorage(path="z.npy", dtype=torch.bfloat16)), "dtype: got"),
    ],
)
def test_errors(make: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        make()


def test_what_cannot_be_resumed_says_so() -> None:
    with pytest.raises(TypeError, match="got Counter, expected one with state_dict"):
        Collector(Counter(1, 1), into=SampleStorage()).state_dict()
    with pytest.raises(TypeError, match=r"got Counter, expected one with state_dict and load_state_dict"):
        Collector(Counter(1, 1), into=SampleStorage(), fastest_threads=True)
    state = Collector(Langevin(), into=SampleStorage(), thinning=2).state_dict()
    with pytest.raises(ValueError, match=r"got .* = \(0, 2, 1\), expected \(0, 3, 1\)"):
        Collector(Langevin(), into=SampleStorage(), thinning=3).load_state_dict(state)


# ---- the number of threads ----


def amortized(potential: GaussianPotential, lr: float | Tensor = 0.01) -> AmortizedLangevin:
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2)
    optimizer = PSGLD(network.parameters(), lr, num_data=5, seed=1)
    return AmortizedLangevin(network, potential, torch.randn(5, 3), optimizer, batch_size=2, seed=1)


SAMPLERS = {
    "langevin": lambda potential: LangevinDynamics(potential, None, torch.zeros(5, 3, 2), step_size=0.1, seed=1),
    "underdamped": lambda potential: UnderdampedLangevin(potential, None, torch.zeros(5, 3, 2), step_size=0.1, seed=1),
    "hmc": lambda potential: HMC(
        potential, None, torch.zeros(5, 3, 2), step_size=0.1, num_leapfrog_steps=3, adapt_steps=9, seed=1
    ),
    "amortized": amortized,
    "optimizer": lambda _: Langevin(),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_steps_that_are_timed_are_taken_back(name: str, monkeypatch: pytest.MonkeyPatch, restore_threads: None) -> None:
    torch.set_num_threads(1)
    potential = GaussianPotential(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 2.0]]))
    expected = collect(SAMPLERS[name](potential), 20)
    timed: list[None] = []
    choose = threads.FastestThreads.choose

    def note_and_choose(*arguments: Any) -> None:
        timed.append(None)
        choose(*arguments)

    monkeypatch.setattr(threads, "TRIAL_SECONDS", 1e-9)
    monkeypatch.setattr(threads.FastestThreads, "due", property(lambda self: True))
    monkeypatch.setattr(threads.FastestThreads, "choose", note_and_choose)
    state, storage = torch.get_rng_state(), SampleStorage()
    Collector(SAMPLERS[name](potential), into=storage, fastest_threads=True).run(20)
    assert torch.equal(storage.samples, expected)
    assert len(timed) == 19  # the first state tells the device
    assert name == "amortized" or torch.equal(torch.get_rng_state(), state)


def test_what_the_caller_holds_of_a_sampler_is_as_without_timing(
    monkeypatch: pytest.MonkeyPatch, restore_threads: None
) -> None:
    """The tensor lr that a schedule sets, and the minibatch of the last step."""
    torch.set_num_threads(1)
    lr, potential = torch.tensor(0.01), GaussianPotential(torch.zeros(2), torch.eye(2))
    plain, timed = amortized(potential), amortized(potential, lr)
    monkeypatch.setattr(threads.FastestThreads, "due", property(lambda self: True))
    Collector(plain, into=SampleStorage()).run(3)
    Collector(timed, into=SampleStorage(), fastest_threads=True).run(3)
    assert torch.equal(timed.batch, plain.batch)
    assert timed.optimizer.param_groups[0]["lr"] is lr


def test_a_resumed_run_goes_on_with_its_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, restore_threads: None
) -> None:
    torch.set_num_threads(3)
    monkeypatch.setattr(threads, "INITIAL_NUMBER", 3)
    for name in threads.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    numbers: list[int] = []

    class Noting(Langevin):
        def step(self) -> Tensor:
            numbers.append(torch.get_num_threads())
            return super().step()

        def load_state_dict(self, state: dict[str, Any]) -> None:
            numbers.append(torch.get_num_threads())
            super().load_state_dict(state)

    first, second = Collector(Noting(), into=SampleStorage()), Collector(Noting(), into=SampleStorage())
    first.run(1)
    first.threads.number = 2
    first.run(1)
    second.load_state_dict(first.state_dict())
    second.run(1)
    assert numbers == [3, 2, 2, 2]
    assert torch.get_num_threads() == 3
