"""Chains divided among processes: bit for bit those of one process, brought together, and refused where they are equal.

Each number of processes is started once; what they computed is in files, which the tests look at.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from distributed.worlds import run_world
from torch import Tensor, nn

import ald_ext
from ald_ext import samplers

SEED, CHAINS, DRAWS, NUM_DATA = 7, 5, 12, 3

#: Each sampler with options that make it use all of its draws.
SAMPLERS: dict[str, tuple[type[samplers.DatapointSampler], dict[str, Any]]] = {
    "langevin": (samplers.LangevinDynamics, {"step_size": 0.05}),
    "underdamped": (samplers.UnderdampedLangevin, {"step_size": 0.2}),
    "mala": (samplers.MALA, {"step_size": 0.2}),
    "hmc": (samplers.HMC, {"step_size": 0.3, "num_leapfrog_steps": 3, "jitter": 0.2}),
}
LAST_LAYERS = {"last layer": samplers.LastLayerALD, "last layer, minibatches": samplers.LastLayerSGALD}


def potential(x: Tensor, z: Tensor) -> Tensor:
    """Not Gaussian, elementwise but for the sum, so that a row's bits do not depend on other rows."""
    return (0.25 * (z - x) ** 4 + 0.5 * z**2 + torch.sin(z)).sum(1)


def data_and_states(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(NUM_DATA, 3, generator=generator, dtype=dtype)
    return x, torch.randn(NUM_DATA, CHAINS, 3, generator=generator, dtype=dtype)


def run(name: str, chains: range) -> Tensor:
    """(draws, n, chains, d) of some of the chains."""
    x, z = data_and_states()
    options: dict[str, Any]
    if name in SAMPLERS:
        sampler, options = SAMPLERS[name]
        made: Any = sampler(potential, x, z[:, chains], seed=SEED, first_chain=chains.start, **options)
    else:
        options = {"batch_size": 2} if name.endswith("minibatches") else {}
        features = OnePerDatum(x)
        options |= {"chains": len(chains), "first_chain": chains.start, "step_size": 0.1, "seed": SEED}
        made = LAST_LAYERS[name](features, potential, x, 3, **options)
    return samplers.collect(made, DRAWS)


class OnePerDatum(nn.Module):
    """Features whose Gram matrix is the identity, so that products with them round nothing."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, None] == self.x).all(-1).to(x.dtype)


NAMES = [*SAMPLERS, *LAST_LAYERS]


def moments_of(draws: Tensor) -> samplers.StreamingMoments:
    moments = samplers.StreamingMoments(covariance=True)
    for draw in draws:
        moments.append(draw)
    return moments


def message_of(action: Callable[[], Any]) -> str:
    try:
        action()
    except ValueError as error:
        return str(error)
    return "no error"


def work(folder: Path) -> None:
    """What every process does. What it found, and its draws, go into a folder of this number of processes."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    folder = folder_of(folder, world_size)
    chains = samplers.chains_of_rank(CHAINS)
    own = {name: run(name, chains) for name in NAMES}
    samplers.save_chains(folder / "draws", own["hmc"], first_chain=chains.start)
    x, z = data_and_states()
    same = samplers.collect(samplers.HMC(potential, x, z, seed=SEED, step_size=0.3, num_leapfrog_steps=3), DRAWS)
    short = own["hmc"][: DRAWS - rank]
    alone = dist.new_group([0])
    part = range(NUM_DATA)[rank::world_size]
    index = torch.tensor(part)
    of_data = samplers.LangevinDynamics(potential, x[index], z[index], seed=SEED, step_size=0.05, index=index)
    result = {
        "chains": [chains.start, chains.stop],
        "draws": {name: samplers.gather_chains(draws) for name, draws in own.items()},
        "moments": samplers.gather_chains(moments_of(own["hmc"])).state_dict(),
        "no draws": samplers.gather_chains(samplers.StreamingMoments()).state_dict(),
        "double": samplers.gather_chains(own["hmc"][:, :, 0].double()),
        "equal draws": message_of(lambda: samplers.gather_chains(same)),
        "equal moments": message_of(lambda: samplers.gather_chains(moments_of(same))),
        "lengths": message_of(lambda: samplers.gather_chains(short)),
        "lengths of moments": message_of(lambda: samplers.gather_chains(moments_of(short))),
        "few chains": message_of(lambda: samplers.chains_of_rank(world_size - 1)),
        "alone": samplers.chains_of_rank(4, alone) == range(4) if rank == 0 else None,
        "other group": message_of(lambda: samplers.chains_of_rank(4, alone)),
        "data": samplers.collect(of_data, DRAWS),
    }
    torch.save(result, folder / f"{rank}.pt")
    dist.barrier()


def folder_of(folder: Path, world_size: int) -> Path:
    folder = folder / f"chains of {world_size}"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(params=[2, pytest.param(3, marks=pytest.mark.processes)])
def results(request: pytest.FixtureRequest, folder: Path) -> tuple[Path, list[Any]]:
    """The folder, and of every rank what it computed."""
    run_world("distributed.test_chains", "work", request.param, folder)
    folder = folder_of(folder, request.param)
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(request.param)]


@pytest.fixture(scope="module")
def one_process() -> dict[str, Tensor]:
    """The same without a process group."""
    return {name: run(name, samplers.chains_of_rank(CHAINS)) for name in NAMES}


# --- On two and three processes ---


def test_all_chains_are_run_once(results: tuple[Path, list[Any]]) -> None:
    expected = {2: [[0, 2], [2, 5]], 3: [[0, 1], [1, 3], [3, 5]]}
    assert [result["chains"] for result in results[1]] == expected[len(results[1])]


@pytest.mark.parametrize("name", NAMES)
def test_chains_are_those_of_one_process(
    results: tuple[Path, list[Any]], one_process: dict[str, Tensor], name: str
) -> None:
    for result in results[1]:
        assert torch.equal(result["draws"][name], one_process[name])


def test_moments_are_those_of_one_process(results: tuple[Path, list[Any]], one_process: dict[str, Tensor]) -> None:
    expected = moments_of(one_process["hmc"])
    for result in results[1]:
        assert_same_state(result["moments"], expected.state_dict())
        assert_same_state(result["no draws"], samplers.StreamingMoments().state_dict())
    gathered = samplers.StreamingMoments(covariance=True)
    gathered.load_state_dict(results[1][-1]["moments"])
    for name in ("covariance", "r_hat", "effective_sample_size", "monte_carlo_standard_error"):
        assert torch.equal(getattr(gathered, name), getattr(expected, name))


def assert_same_state(got: dict[str, Any], expected: dict[str, Any]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(got[name], value) if isinstance(value, Tensor) else got[name] == value


def test_draws_without_a_chain_dimension_are_one_chain(
    results: tuple[Path, list[Any]], one_process: dict[str, Tensor]
) -> None:
    for result in results[1]:
        starts = [chains[0] for chains in (other["chains"] for other in results[1])]
        assert torch.equal(result["double"], one_process["hmc"][:, :, starts].double())


def test_files_of_a_folder_are_one_result(
    results: tuple[Path, list[Any]], one_process: dict[str, Tensor], tmp_path: Path
) -> None:
    folder = results[0] / "draws"
    assert len(list(folder.iterdir())) == len(results[1])
    loaded = samplers.load_chains(folder, CHAINS, path=tmp_path / "all.npy", dtype=torch.float64)
    assert torch.equal(loaded.samples, one_process["hmc"].double())
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "all.npy")), loaded.samples)
    assert torch.equal(samplers.load_chains(folder).samples, one_process["hmc"])


def test_a_data_set_divided_among_processes(results: tuple[Path, list[Any]]) -> None:
    """Noise belongs to the datum, so nothing else is needed than its index."""
    x, z = data_and_states()
    whole = samplers.collect(samplers.LangevinDynamics(potential, x, z, seed=SEED, step_size=0.05), DRAWS)
    for rank, result in enumerate(results[1]):
        assert torch.equal(result["data"], whole[:, rank :: len(results[1])])


def test_refusals(results: tuple[Path, list[Any]]) -> None:
    size = len(results[1])
    for rank, result in enumerate(results[1]):
        assert re.search(
            "gather_chains: samples: got equal draws in chains 0 and 5, expected noi", result["equal draws"]
        )
        assert re.search("merge: other: got equal draws in chains 0 and 5, expected noise", result["equal moments"])
        assert re.search(r"rank 1: got \(draws, n, d, dtype\) = \(11, 3, 3, .* as of rank 0", result["lengths"])
        other = r"rank 1: got 11 draws a chain, expected 12" if rank == 0 else "rank 0: got 12 draws a chain, expected"
        assert re.search(other, result["lengths of moments"])
        assert f"num_chains: got {size - 1}, expected {size} at least" in result["few chains"]
        assert result["alone"] == (True if rank == 0 else None)
        assert result["other group"] == "no error" if rank == 0 else "a group of this process" in result["other group"]


# --- In one process ---


@pytest.mark.parametrize("name", NAMES)
def test_a_chain_is_the_same_beside_any_others(one_process: dict[str, Tensor], name: str) -> None:
    for chains in (range(1), range(1, 4), range(4, 5)):
        assert torch.equal(run(name, chains), one_process[name][:, :, chains])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_state_without_chains_is_the_first_chain(one_process: dict[str, Tensor], name: str) -> None:
    sampler, options = SAMPLERS[name]
    x, z = data_and_states()
    alone = sampler(potential, x, z[:, 3], seed=SEED, first_chain=3, **options)
    assert torch.equal(samplers.collect(alone, DRAWS), one_process[name][:, :, 3])


def test_without_a_process_group(one_process: dict[str, Tensor]) -> None:
    draws = one_process["hmc"]
    assert samplers.chains_of_rank(3) == range(3)
    gathered = samplers.gather_chains(draws)
    assert torch.equal(gathered, draws)
    gathered.zero_()
    assert draws.any()
    moments = moments_of(draws)
    assert_same_state(samplers.gather_chains(moments).state_dict(), moments.state_dict())


def test_views_are_sent_without_what_they_view(one_process: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    load = torch.load
    monkeypatch.setattr(
        torch, "load", lambda file, **options: sizes.append(len(file.getvalue())) or load(file, **options)
    )
    samplers.gather_chains(torch.randn(1000, NUM_DATA, 3)[:DRAWS])
    assert sizes[0] < 20_000


def with_file(folder: Path, name: str, shape: tuple[int, ...] = (4, 2, 1, 3), dtype: Any = np.float32) -> None:
    np.save(folder / name, np.random.default_rng(len(list(folder.iterdir()))).normal(size=shape).astype(dtype))


@pytest.mark.parametrize(
    ("second", "options", "message"),
    [
        (("chains-0002-0002.npy",), {}, "got chains 2 to 2 in chains-0002-0002.npy, expected chain 1 to come next"),
        (("chains-0000-0001.npy",), {}, "got chains 0 to 1 in chains-0000-0001.npy, expected chain 1 to come next"),
        (("chains-0001-0002.npy",), {}, "chains-0001-0002.npy: got 1 chains, expected 2, as its name says"),
        (("chains-0001-0001.npy", (5, 2, 1, 3)), {}, r"0001-0001.npy: got .* = \(5, 2, 3, .*expected \(4, 2, 3, "),
        (("chains-0001-0001.npy", (4, 2, 1, 3), np.float64), {}, r"got .* = .*float64\), expected .*float32\)"),
        (("chains-0001-0001.npy",), {"num_chains": 4}, "got 2 chains, expected 4, in files chains-FIRST-LAST.npy"),
        (("other.npy",), {"num_chains": 2}, "got 1 chains, expected 2"),
    ],
)
def test_folders_that_are_refused(second: Any, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with_file(tmp_path, "chains-0000-0000.npy")
    with_file(tmp_path, *second)
    with pytest.raises(ValueError, match=message):
        samplers.load_chains(tmp_path, **options)


@pytest.mark.parametrize("kept", [0, 5, 100, 150])
def test_a_damaged_file(kept: int, tmp_path: Path) -> None:
    path = samplers.save_chains(tmp_path, draws_of())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"chains-0000-0002.npy: got a damaged file .*, expected one that save_chains"):
        samplers.load_chains(tmp_path)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"folder: {tmp_path}: got 0 chains, expected 1 at least"):
        samplers.load_chains(tmp_path)
    with pytest.raises(FileNotFoundError):
        samplers.load_chains(tmp_path / "none")


def test_one_file_again(one_process: dict[str, Tensor], tmp_path: Path) -> None:
    """A run that is repeated replaces its file, and 16-bit floats are kept without loss."""
    draws = one_process["hmc"].bfloat16()
    for _ in range(2):
        path = samplers.save_chains(tmp_path / "new" / "folder", draws)
    assert path == tmp_path / "new" / "folder" / "chains-0000-0004.npy"
    assert torch.equal(samplers.load_chains(path.parent).samples, draws.float())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_files_with_equal_chains(one_process: dict[str, Tensor], tmp_path: Path) -> None:
    for first_chain in (0, 5):
        samplers.save_chains(tmp_path, one_process["mala"], first_chain=first_chain)
    with pytest.raises(ValueError, match="load_chains: folder: got equal draws in chains 0 and 5"):
        samplers.load_chains(tmp_path)


# --- Chains with equal draws ---


def draws_of(seed: int = 0) -> Tensor:
    return torch.randn(20, 2, 3, 4, generator=torch.Generator().manual_seed(seed))


DIAGNOSTICS: dict[str, Callable[[Tensor], Any]] = {
    "effective_sample_size": samplers.effective_sample_size,
    "r_hat": samplers.r_hat,
    "monte_carlo_standard_error": samplers.monte_carlo_standard_error,
    "summarize": samplers.summarize,
    "streaming r_hat": lambda draws: moments_of(draws).r_hat,
    "streaming ess": lambda draws: moments_of(draws).effective_sample_size,
    "streaming mcse": lambda draws: moments_of(draws).monte_carlo_standard_error,
}
DIAGNOSTIC = pytest.mark.parametrize("diagnostic", DIAGNOSTICS.values(), ids=list(DIAGNOSTICS))


@DIAGNOSTIC
def test_diagnostics_refuse_equal_chains(diagnostic: Callable[[Tensor], Any]) -> None:
    draws = draws_of()
    diagnostic(draws)
    draws[:, :, 2] = draws[:, :, 1]
    with pytest.raises(ValueError, match=r"got equal draws in chains 1 and 2, expected .* first_chain="):
        diagnostic(draws)


@DIAGNOSTIC
def test_chains_that_have_met_are_equal(diagnostic: Callable[[Tensor], Any]) -> None:
    """The same noise draws chains together that began at different states."""
    x = torch.zeros(2, 1, dtype=torch.float32)
    z = torch.tensor([-3.0, 4.0]).expand(2, 2)[..., None]
    chains = [samplers.LangevinDynamics(potential, x, z[:, c], step_size=0.1, seed=SEED) for c in range(2)]
    draws = torch.stack([samplers.collect(chain, 1000) for chain in chains], 2)
    assert not torch.equal(draws[0, :, 0], draws[0, :, 1])
    with pytest.raises(ValueError, match="equal draws in chains 0 and 1"):
        diagnostic(draws)


@DIAGNOSTIC
@pytest.mark.parametrize(
    "spoil",
    [
        lambda draws: draws[..., 2, :].copy_(draws[..., 1, :]).__setitem__((15, 0), 9.0),  # one draw differs
        lambda draws: draws[10:, 1, 2].copy_(draws[10:, 1, 1]),  # one datum's alone are equal
        lambda draws: draws[-1, :, 2].copy_(draws[-1, :, 1]),
        lambda draws: draws[10:].copy_(draws[10:11, :, :1]),  # stuck, each at the same place
        lambda draws: draws[10:, :, 1:].fill_(float("nan")),
    ],
    ids=["one draw", "one datum", "last draw", "constant", "not finite"],
)
def test_chains_that_are_not_equal(diagnostic: Callable[[Tensor], Any], spoil: Callable[[Tensor], Any]) -> None:
    draws = draws_of()
    spoil(draws)
    diagnostic(draws)


def test_merging_refuses_equal_chains_and_changes_nothing() -> None:
    moments, other = moments_of(draws_of()), moments_of(draws_of())
    before = moments.state_dict()
    with pytest.raises(ValueError, match="merge: other: got equal draws in chains 0 and 3"):
        moments.merge(other, along="chains")
    assert_same_state(moments.state_dict(), before)
    moments.merge(other, along="draws")  # the same chains may come again, as later draws
    assert moments.num_chains == 3


def test_equal_chains_of_many_draws_are_noticed_in_moments() -> None:
    """After batches have been joined several times."""
    draws = torch.randn(1000, 1, 2, 1)
    draws[:, :, 1] = draws[:, :, 0]
    with pytest.raises(ValueError, match="equal draws in chains 0 and 1"):
        moments_of(draws).r_hat  # noqa: B018


@pytest.mark.parametrize("first_chain", [-1, 2**41])
def test_chains_out_of_range(first_chain: int, tmp_path: Path) -> None:
    if first_chain < 0:
        with pytest.raises(ValueError, match="save_chains: first_chain: got -1, expected an integer >= 0"):
            samplers.save_chains(tmp_path, draws_of(), first_chain=first_chain)
    x, z = data_and_states()
    with pytest.raises((ValueError, RuntimeError), match=r"first_chain|offset"):
        samplers.LangevinDynamics(potential, x, z, step_size=0.1, first_chain=first_chain).step()


def test_public_names() -> None:
    assert {"chains_of_rank", "gather_chains", "load_chains", "save_chains"} <= set(samplers.__all__)
    assert ald_ext.samplers is samplers
