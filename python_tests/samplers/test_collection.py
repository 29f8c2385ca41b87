"""Collecting draws: which states are kept, where they go, and that a run can be interrupted."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpus.draw_files import DAMAGED, OTHER_FILES, STATES, npy
from torch import Tensor

from ald_ext import PSGLD, SGLD, threads
from ald_ext.samplers import HMC, AmortizedLangevin, GaussianPotential, LangevinDynamics, UnderdampedLangevin, sample
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


class CountingLangevin(LangevinDynamics):
    steps: Any = 0

    def step(self) -> Tensor:
        self.steps += 1
        return super().step() + 100


def test_steps_are_those_of_a_subclass() -> None:
    potential = GaussianPotential(torch.zeros(2), torch.eye(2))
    sampler = CountingLangevin(potential, None, torch.zeros(1, 1, 2), step_size=0.1)
    assert collect(sampler, 4, burn_in=2, thinning=3).min() > 50
    assert sampler.steps == sampler.step_count == 14


@pytest.mark.filterwarnings("error")
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
        storage, moments = SampleStorage(100, path=path), StreamingMoments(num_batches=64)
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


# ---- states and files that are damaged, or another run's ----


def stored(draws: Tensor, path: Path | None = None, **options: Any) -> SampleStorage:
    storage = SampleStorage(len(draws), path=path, **options)
    for draw in draws:
        storage.append(draw)
    return storage


def refused(storage: SampleStorage, state: dict[str, Any], message: str) -> None:
    """In one short line, and the storage is as it was."""
    before = storage.state_dict()
    with pytest.raises(ValueError, match=message) as error:
        storage.load_state_dict(state)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    assert storage.state_dict().keys() == before.keys()
    assert len(storage) == before["count"]
    assert before["samples"] is None or torch.equal(storage.samples, before["samples"])


@pytest.mark.parametrize("name", STATES)
def test_damaged_states_are_refused(name: str) -> None:
    changes, message = STATES[name]
    state = stored(torch.randn(6, 2, 3, 4)).state_dict()
    refused(stored(torch.randn(2, 1, 3)), {**state, **changes}, message)
    refused(SampleStorage(), {**state, **changes}, message)
    refused(SampleStorage(dtype=torch.float64), state, "got draws of .* torch.float32, cpu, expected .* torch.float64")


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("name", [*DAMAGED, *OTHER_FILES])
def test_damaged_files_are_refused(name: str, earlier: bool, tmp_path: Path) -> None:
    """And never written to, by the state of an earlier version, which held neither shape nor dtype, either."""
    path = tmp_path / "z.npy"
    storage = stored(torch.randn(6, 2, 3, 4), path)
    state = storage.state_dict()
    content = npy(OTHER_FILES[name]) if name in OTHER_FILES else DAMAGED[name](path.read_bytes())
    del storage
    path.write_bytes(content)
    if earlier:
        state = {"count": 6, "samples": None}
    if earlier and name in OTHER_FILES and name != "fewer rows":
        SampleStorage(path=path).load_state_dict(state)  # which cannot be known
    else:
        refused(SampleStorage(path=path), state, "z.npy|state: count: got 6 of 3 draws")
    assert path.read_bytes() == content


def test_states_and_files_belong_together(tmp_path: Path) -> None:
    draws = torch.randn(6, 2, 3, 4)
    path = tmp_path / "z.npy"
    in_file, in_memory = stored(draws, path).state_dict(), stored(draws).state_dict()
    refused(SampleStorage(), in_file, "state: got no draws, expected draws, or path= of the file that keeps them")
    refused(SampleStorage(path=path), in_memory, "state: got draws, expected only their number, as path= names")
    refused(SampleStorage(path=path, dtype=torch.float64), in_file, "torch.float32, cpu, expected .* torch.float64")
    with pytest.raises(FileNotFoundError):
        SampleStorage(path=tmp_path / "none.npy").load_state_dict(in_file)
    assert sorted(tmp_path.iterdir()) == [path]
    for state in (in_file, {"count": 4, "samples": None}):
        storage = SampleStorage(path=path)
        storage.load_state_dict(state)
        assert torch.equal(storage.samples, draws[: state["count"]])
    storage = SampleStorage()
    storage.load_state_dict({"count": 6, "samples": draws})  # as earlier versions wrote it
    storage.append(draws[0])
    assert torch.equal(storage.samples, torch.cat([draws, draws[:1]]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": "5"}, "Collector: state: num_steps: got '5', expected int"),
        ({"sinks": None}, "Collector: state: sinks: got None, expected list"),
        ({"sinks": [7]}, "SampleStorage: state: got 7, expected an object"),
        ({"monitor": {"num_draws": 3}}, "Collector: state: monitor: got no 'started', expected bool"),
        ({"run": 1}, "Collector: state: got 'run', expected some of"),
    ],
)
def test_damaged_states_of_runs_are_refused(changes: dict[str, Any], message: str) -> None:
    collector = Collector(Langevin(), into=SampleStorage())
    collector.run(3)
    with pytest.raises(ValueError, match=message):
        Collector(Langevin(), into=SampleStorage()).load_state_dict({**collector.state_dict(), **changes})


# ---- what is wrong with draws ----


class Diverging:
    """Of 2 data with 3 chains: datum 1, chain 2 diverges at steps 2, 7 and 8, datum 0, chain 1 at 8."""

    def __init__(self) -> None:
        self.divergences = torch.zeros(2, 3, dtype=torch.int64)
        self.count = 0

    def step(self) -> Tensor:
        self.count += 1
        self.divergences[1, 2] += self.count in (2, 7, 8)
        self.divergences[0, 1] += self.count == 8
        return torch.full((2, 3, 4), float(self.count))

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "divergences": self.divergences.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.divergences = state["count"], state["divergences"].clone()


def diverging_of(storage: SampleStorage) -> list[tuple[int, int, int]]:
    assert storage.diverging is not None
    assert storage.diverging.shape == (len(storage), 2, 3)
    return [tuple(place) for place in storage.diverging.nonzero().tolist()]


def test_divergences_are_stored_and_told() -> None:
    """Those of the burn-in do not count; with thinning a draw has those of all steps since the one before."""
    message = "Collector: 3 transitions diverged, in 2 of 6 chains, 2 of them in chain 2 of datum 1"
    with pytest.warns(UserWarning, match=message) as told:
        storage = collect(Diverging(), 10, into=SampleStorage(), burn_in=3)
    assert [warning.filename for warning in told] == [__file__]
    assert diverging_of(storage) == [(3, 1, 2), (4, 0, 1), (4, 1, 2)]
    with pytest.warns(UserWarning, match="4 transitions diverged"):
        storage = collect(Diverging(), 3, into=SampleStorage(1), thinning=4)
    assert diverging_of(storage) == [(0, 1, 2), (1, 0, 1), (1, 1, 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        collect(Diverging(), 10, burn_in=8)
        assert collect(Counter(2, 1), 3, into=SampleStorage()).diverging is None


@pytest.mark.parametrize("first", [0, 1, 6])
@pytest.mark.filterwarnings("ignore:.*diverged")
def test_divergences_of_a_resumed_run(first: int) -> None:
    """The run is left off in the middle of the steps to a draw, too."""
    whole = collect(Diverging(), 5, into=SampleStorage(), burn_in=1, thinning=3)
    earlier = Collector(Diverging(), into=SampleStorage(), burn_in=1, thinning=3)
    for _ in range(first):
        earlier._step(earlier.sampler.step)
    later, storage = Diverging(), SampleStorage()
    collector = Collector(later, into=storage, burn_in=1, thinning=3)
    collector.load_state_dict(earlier.state_dict())
    collector.run(5 - len(storage))
    assert torch.equal(storage.samples, whole.samples)
    assert diverging_of(storage) == diverging_of(whole)


def test_divergences_that_are_not_known_of_all_draws() -> None:
    """After a state of an earlier version."""
    storage = SampleStorage()
    storage.load_state_dict({"count": 2, "samples": torch.zeros(2, 2, 3, 4)})
    collect(Diverging(), 1, into=storage)
    assert storage.diverging is None


@pytest.mark.parametrize("kernel", [LangevinDynamics, UnderdampedLangevin])
def test_draws_that_are_not_finite_are_told(kernel: Any) -> None:
    """At much too large a step size, once for each run in which more chains become so."""
    potential = GaussianPotential(torch.zeros(2), torch.eye(2))
    sampler = kernel(potential, None, torch.ones(2, 3, 2), step_size=1e3, seed=0)
    storage = SampleStorage()
    collector = Collector(sampler, into=[storage, StreamingMoments()], burn_in=2)
    with pytest.warns(UserWarning, match="not finite") as told:
        collector.run(60)
    bad = ~storage.samples.isfinite().all(-1)
    draw = int(bad.flatten(1).any(1).nonzero()[0])
    datum, chain = bad[draw].nonzero()[0].tolist()
    expected = f"ald_ext.samplers.Collector: {int(bad.sum())} of 360 draws are not finite, in 6 of 6 chains, the first "
    expected += f"of them draw {draw} of chain {chain} of datum {datum}: try a smaller step size"
    assert [str(warning.message) for warning in told] == [expected]
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        collector.run(5)
    sampler = kernel(potential, None, torch.ones(2, 2), step_size=1e3, seed=0)
    with pytest.warns(UserWarning, match=r"Collector: \d+ of 120 draws are not finite, in 2 of 2 chains") as told:
        collect(sampler, 60)
    assert told[-1].filename == __file__


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


def test_without_tqdm_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    posterior = sample(lambda z: -z.square().sum() / 2, (1,), num_samples=100, warm_up=100, seed=0)
    assert len(posterior.samples) == 100
    assert len(collect(Counter(1, 1), 3)) == 3


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
