"""The loop: what is kept, the posterior that comes out, several chains, schedules, stopping and resuming, warnings."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim import lr_scheduler as schedules
from torch.utils.data import DataLoader, TensorDataset

from ald_ext import PSGLD, SGHMC, SGLD, SGNHT
from ald_ext.bayes import PosteriorSamples, collect_parameters, collecting, gaussian_prior
from ald_ext.files import FolderLock
from ald_ext.optim import CyclicalCosine, PolynomialDecay

OPTIMIZERS = {"SGLD": SGLD, "PSGLD": PSGLD, "SGHMC": SGHMC, "SGNHT": SGNHT}


def making(kind: Callable[..., Any], lr: float = 1e-3, **options: Any) -> Callable[[nn.Module, int], Any]:
    return lambda module, chain: kind(module.parameters(), lr=lr, num_data=60, seed=0, chain=chain, **options)


def values(samples: PosteriorSamples) -> list[Tensor]:
    return [tensor for sample in samples for tensor in sample.values()]


def assert_same(one: PosteriorSamples, other: PosteriorSamples) -> None:
    assert len(one) == len(other)
    assert all(torch.equal(a, b) for a, b in zip(values(one), values(other), strict=True))
    assert one.trace == other.trace


def test_it_keeps_what_the_loop_by_hand_keeps(network: nn.Module, loader: DataLoader):
    by_hand = copy.deepcopy(network)
    torch.manual_seed(1)
    optimizer = SGLD(network.parameters(), lr=1e-3, num_data=60, seed=0)
    samples = collect_parameters(network, optimizer, cross_entropy, loader, burn_in=4, num_samples=3, thinning=2)
    optimizer, expected, step = SGLD(by_hand.parameters(), lr=1e-3, num_data=60, seed=0), PosteriorSamples(), 0
    torch.manual_seed(1)
    next(iter(loader))  # that the checks looked at
    while step < 10:
        for x, y in loader:
            optimizer.zero_grad()
            cross_entropy(by_hand(x), y).backward()
            optimizer.step()
            step += 1
            if step in (6, 8, 10):
                expected.add(by_hand)
            if step == 10:
                break
    expected.trace = samples.trace
    assert_same(samples, expected)
    assert torch.equal(network[0].weight, by_hand[0].weight), "the module is left at the last iterate"
    assert [row["step"] for row in samples.trace] == [0, 2, 4, 6, 8]
    assert [row["sampling"] for row in samples.trace] == [0, 0, 1, 1, 1]


def test_the_posterior_of_a_linear_regression():
    """y = xθ + N(0, 1), θ ~ N(0, 1): the chains are Gaussian, with a covariance that is known for every lr."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 2, generator=generator)
    y = x @ torch.tensor([[1.0], [-1.0]]) + torch.randn(30, 1, generator=generator)
    precision, lr, num_draws = x.T @ x + torch.eye(2), 0.2, 20
    mean = torch.linalg.solve(precision, x.T @ y)[:, 0]
    covariance = torch.linalg.inv(precision @ (torch.eye(2) - lr * precision / 60))
    torch.manual_seed(0)
    samples = collect_parameters(
        nn.Linear(2, 1, bias=False),
        lambda module, chain: SGLD(gaussian_prior(module, 1.0, 30), lr=lr, num_data=30, seed=1, chain=chain),
        lambda output, target: mse_loss(output, target) / 2,
        [(x, y)],  # all data in one minibatch
        burn_in=60,
        num_samples=num_draws,
        thinning=30,  # over which the correlation falls to e^-6
        chains=10,
    )
    draws = torch.stack([torch.stack([s["weight"][0] for s in samples.chain(c)]) for c in samples.chains], 1)
    assert draws.shape == (num_draws, 10, 2)
    count = num_draws * 10
    assert ((draws.mean((0, 1)) - mean).abs() < 5 * (covariance.diagonal() / count).sqrt()).all()
    ratio = draws.flatten(0, 1).var(0) / covariance.diagonal()
    assert ((ratio - 1).abs() < 5 * math.sqrt(2 / count)).all()
    temperatures = torch.tensor([row["temperature"] for row in samples.trace if row["sampling"]])
    expected = (precision @ covariance).trace() / 2  # of θᵀA(θ - mean)/2
    product = precision @ covariance
    spread = ((2 * (product @ product).trace() + mean @ precision @ covariance @ precision @ mean) / 4).sqrt()
    assert abs(temperatures.mean() - expected) < 5 * spread / math.sqrt(count)


def test_the_temperature_knows_of_anchors(network: nn.Module, loader: DataLoader):
    """θ·∇U with U = N (L + weight_decay θ²/2) + γ (θ - θ₀)²/2, here with anchors that are all 2."""
    anchored = [parameter for parameter in network.parameters() if parameter.requires_grad]
    anchors = [torch.full_like(parameter, 2) for parameter in anchored]
    optimizer = SGLD(anchored, lr=0.0, num_data=60, weight_decay=0.5, localization=30.0, anchors=anchors)
    (whole,) = loader_of_one = [next(iter(loader))]
    samples = collect_parameters(network, optimizer, cross_entropy, loader_of_one, burn_in=0, num_samples=1)
    with torch.enable_grad():
        potential = 60 * cross_entropy(network(whole[0]), whole[1])
        potential += sum(30 * p.square().sum() / 2 + 30 * (p - 2).square().sum() / 2 for p in anchored)
        gradients = torch.autograd.grad(potential, anchored)
    virial = sum((p.detach() * gradient).sum().item() for p, gradient in zip(anchored, gradients, strict=True))
    assert samples.trace[0]["temperature"] == pytest.approx(virial / sum(map(torch.numel, anchored)), rel=1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_vectorized_chains_do_what_each_does_alone(name: str, network: nn.Module, loader: DataLoader):
    before = [parameter.detach().clone() for parameter in network.parameters()]
    runs = []
    for vectorized in (True, False):
        torch.manual_seed(1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            runs.append(
                collect_parameters(
                    network,
                    making(OPTIMIZERS[name]),
                    cross_entropy,
                    loader,
                    burn_in=2,
                    num_samples=4,
                    chains=3,
                    vectorized=vectorized,
                )
            )
    assert all(map(torch.equal, before, network.parameters())), "the module itself does not change"
    assert runs[0].chains == [0, 1, 2]
    for one, other in zip(*map(values, runs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    last = [runs[0].chain(chain)[-1]["0.weight"] for chain in range(3)]
    assert not torch.allclose(last[0], last[1], atol=0.1), "chains begin at places of their own"


def test_chains_begin_where_initialize_says(network: nn.Module, loader: DataLoader):
    samples = collect_parameters(
        network,
        making(SGLD, lr=0.0),
        cross_entropy,
        loader,
        burn_in=0,
        num_samples=1,
        chains=2,
        initialize=lambda module: nn.init.constant_(module[0].weight, 2.0),
    )
    assert torch.equal(samples[0]["0.weight"], network[0].weight)
    assert (samples[1]["0.weight"] == 2).all()


def test_a_network_that_vmap_does_not_take_goes_one_chain_after_another(loader: DataLoader):
    class Branching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (1 if x.sum() > 0 else 2)

    torch.manual_seed(0)
    with pytest.warns(
        UserWarning, match=r"chains go one after another, as torch.func.vmap does not take the network"
    ) as told:
        samples = collect_parameters(
            Branching(3, 3), making(SGLD), cross_entropy, loader, burn_in=0, num_samples=2, chains=2, vectorized=True
        )
    assert len(samples) == 4
    assert [Path(warning.filename) for warning in told] == [Path(__file__)]


def test_minibatches_of_different_sizes(network: nn.Module, data: tuple[Tensor, Tensor]):
    loader = DataLoader(TensorDataset(*data), 25)  # 25, 25, 10
    samples = collect_parameters(
        network, making(SGLD), cross_entropy, loader, burn_in=0, num_samples=6, chains=2, vectorized=True
    )
    assert len(samples) == 12


def test_only_the_sampling_stage_of_cycles_is_kept(network: nn.Module, loader: DataLoader):
    optimizer = SGLD(network.parameters(), lr=1e-3, num_data=60, seed=0)
    scheduler = CyclicalCosine(optimizer, num_steps=40, num_cycles=4, exploration=0.6)
    samples = collect_parameters(
        network, optimizer, cross_entropy, loader, burn_in=10, num_samples=6, thinning=2, scheduler=scheduler
    )
    assert len(samples) == 6
    assert scheduler.last_epoch == 40, "three cycles of four steps that count, after one that does not"
    assert [row["step"] for row in samples.trace if row["sampling"]] == [16, 18, 26, 28, 36, 38]


def test_an_adapting_preconditioner_is_frozen_after_the_burn_in(network: nn.Module, loader: DataLoader):
    optimizer = PSGLD(network.parameters(), lr=1e-3, num_data=60, seed=0)
    collect_parameters(network, optimizer, cross_entropy, loader, burn_in=3, num_samples=1)
    assert optimizer.param_groups[0]["frozen"]


@pytest.mark.parametrize("name", [*OPTIMIZERS, "Adam"])
@pytest.mark.parametrize("chains", [1, 2])
def test_a_run_that_was_stopped_continues_bit_for_bit(
    name: str, chains: int, loader: DataLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(collecting, "SECONDS_BETWEEN_STATES", 0.0)
    kinds = {"Adam": lambda parameters, **_: torch.optim.Adam(parameters, lr=1e-3)}

    def run(folder: Path, num_samples: int, stop_at: float = math.inf) -> PosteriorSamples:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3))
        calls = 0

        def loss(output: Tensor, target: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls > stop_at:
                raise KeyboardInterrupt
            return cross_entropy(output, target)

        return collect_parameters(
            network,
            making({**OPTIMIZERS, **kinds}[name]),
            loss,
            loader,
            burn_in=3,
            num_samples=num_samples,
            thinning=2,
            chains=chains,
            vectorized=True,
            scheduler=lambda optimizer: PolynomialDecay(optimizer, offset=10, exponent=0.6),
            samples=PosteriorSamples(folder, max_samples=4, resume=True),
        )

    whole = run(tmp_path / "whole", 7)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", 7, stop_at=12)
    run(tmp_path / "stopped", 5)
    continued = run(tmp_path / "stopped", 7)
    assert_same(continued, whole)
    assert_same(PosteriorSamples.load(tmp_path / "stopped"), whole)
    files = [{path.relative_to(folder) for path in folder.rglob("*.*")} for folder in tmp_path.iterdir()]
    assert files[0] == files[1]


def test_samples_younger_than_the_state_are_made_again(network: nn.Module, loader: DataLoader, tmp_path: Path):
    def run(folder: Path) -> PosteriorSamples:
        torch.manual_seed(0)
        samples = PosteriorSamples(folder, resume=True)
        return collect_parameters(
            copy.deepcopy(network), making(SGHMC), cross_entropy, loader, burn_in=2, num_samples=5, samples=samples
        )

    whole = run(tmp_path / "whole")
    state = tmp_path / "stopped" / "chain-0000" / "run.pt"
    loss_calls = iter([*range(8)])

    def stopped_loss(output: Tensor, target: Tensor) -> Tensor:
        if next(loss_calls, None) is None:
            raise KeyboardInterrupt
        return cross_entropy(output, target)

    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        collect_parameters(
            copy.deepcopy(network),
            making(SGHMC),
            stopped_loss,
            loader,
            burn_in=2,
            num_samples=5,
            samples=PosteriorSamples(tmp_path / "stopped"),
        )
    assert state.exists()
    assert len(PosteriorSamples.load(tmp_path / "stopped")) > 1
    assert_same(run(tmp_path / "stopped"), whole)


def test_a_run_with_other_settings_or_a_damaged_state_is_refused(
    network: nn.Module, loader: DataLoader, tmp_path: Path
):
    def run(burn_in: int) -> None:
        samples = PosteriorSamples(tmp_path, resume=True)
        collect_parameters(
            network, making(SGLD), cross_entropy, loader, burn_in=burn_in, num_samples=2, samples=samples
        )

    run(1)
    with pytest.raises(ValueError, match=r"got burn_in=2, expected burn_in=1, as when the run of"):
        run(2)
    state = tmp_path / "chain-0000" / "run.pt"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"run.pt' is corrupt, .* expected a file that collect_parameters wrote"):
        run(1)


def test_two_processes_do_not_add_to_the_same_chain(network: nn.Module, loader: DataLoader, tmp_path: Path):
    samples = PosteriorSamples(tmp_path)
    (tmp_path / "chain-0000").mkdir()
    other = FolderLock(tmp_path / "chain-0000")
    other.acquire()
    with pytest.raises(BlockingIOError, match=r"samples: got '.*chain-0000', to which another process is writing"):
        collect_parameters(network, making(SGLD), cross_entropy, loader, burn_in=0, num_samples=1, samples=samples)
    other.close()
    collect_parameters(network, making(SGLD), cross_entropy, loader, burn_in=0, num_samples=1, samples=samples)
    assert len(samples) == 1


def warned(network: nn.Module, loader: Any, loss: Any, optimizer: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        collect_parameters(network, optimizer, loss, loader, burn_in=0, num_samples=1)
    assert all(Path(warning.filename) == Path(__file__) for warning in caught)
    return [str(warning.message) for warning in caught]


def test_summed_losses_and_num_data_are_told(network: nn.Module, loader: DataLoader, data: tuple[Tensor, Tensor]):
    summed = nn.CrossEntropyLoss(reduction="sum")
    optimizer = SGLD(network.parameters(), lr=1e-6, num_data=60)
    statistics = network[1].running_mean.clone()
    (message,) = warned(network, loader, summed, optimizer)
    assert "loss: got a sum over the minibatch" in message
    assert not torch.equal(statistics, network[1].running_mean)
    assert network[1].num_batches_tracked == 1, "the check leaves running statistics as they are"
    assert warned(network, loader, cross_entropy, optimizer) == []
    (message,) = warned(network, loader, cross_entropy, SGLD(network.parameters(), lr=1e-6, num_data=6))
    assert "num_data: got 6, expected 60, the number of data of the loader" in message
    whole = DataLoader(TensorDataset(*data), 60)
    assert warned(network, whole, summed, SGLD(network.parameters(), lr=1e-6, num_data=1)) == [], "a potential"
    assert warned(network, loader, summed, torch.optim.SGD(network.parameters(), lr=1e-6)) == []


def test_a_diverged_chain_is_told(network: nn.Module, loader: DataLoader):
    optimizer = SGLD(network.parameters(), lr=1e30, num_data=60)
    with pytest.raises(ValueError, match=r"the chain has diverged, try a smaller lr|chain 0 has diverged"):
        collect_parameters(network, optimizer, cross_entropy, loader, burn_in=0, num_samples=30)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda other: lambda module, chain: SGLD(other.parameters(), lr=0.1, num_data=60), "of another module"),
        (lambda _: lambda module, chain: SGLD(module.parameters(), lr=0.1, num_data=60, seed=3), "seed=3, chain=None"),
        (lambda _: lambda module, chain: None, "got None, expected an optimizer"),
    ],
)
def test_chains_without_a_life_of_their_own_are_refused(
    make: Any, message: str, network: nn.Module, loader: DataLoader
):
    with pytest.raises(ValueError, match=f"collect_parameters: optimizer: .*{message}"):
        collect_parameters(network, make(network), cross_entropy, loader, burn_in=0, num_samples=1, chains=2)


def test_chains_with_seeds_of_their_own_need_no_number(network: nn.Module, loader: DataLoader):
    def make(module: nn.Module, chain: int) -> Any:
        return SGLD(module.parameters(), lr=1e-3, num_data=60)

    samples = collect_parameters(network, make, cross_entropy, loader, burn_in=0, num_samples=1, chains=2)
    assert samples.chains == [0, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": making(SGHMC)}, r"got optimizer=SGHMC, expected optimizer=SGLD, as when the run of"),
        ({"optimizer": making(SGLD, lr=1e-2)}, r"got lr=0.01, expected lr=0.00100\d+, as when"),
        (
            {"scheduler": lambda optimizer: schedules.MultiStepLR(optimizer, [5])},
            r"got scheduler=MultiStepLR, expected",
        ),
        ({"loader": [(torch.ones(20, 3), torch.zeros(20).long())]}, r"got batch_size=None, expected batch_size=20"),
        ({"module": nn.Linear(3, 3)}, r"samples: got .* in the run of .*, expected the names of the module"),
    ],
)
def test_a_run_continues_only_by_the_call_that_began_it(
    changes: dict[str, Any], message: str, network: nn.Module, loader: DataLoader, tmp_path: Path
):
    def run(**options: Any) -> None:
        samples = PosteriorSamples(tmp_path, resume=True)
        arguments = {"module": network, "optimizer": making(SGLD), "loss": cross_entropy, "loader": loader, **options}
        collect_parameters(**arguments, burn_in=1, num_samples=2, samples=samples)

    run()
    run(optimizer=making(SGLD, lr=1e-3 * (1 + 1e-8)))  # a rounding error of who computed it
    with pytest.raises(ValueError, match=message) as caught:
        run(**changes)
    assert "\n" not in str(caught.value)
    assert len(PosteriorSamples.load(tmp_path)) == 2


def test_a_run_continues_only_on_as_many_processes(
    network: nn.Module, loader: DataLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def run() -> None:
        samples = PosteriorSamples(tmp_path, resume=True)
        arguments = (network, making(SGLD), cross_entropy, loader)
        collect_parameters(*arguments, burn_in=1, num_samples=2, chains=2, samples=samples)

    run()
    for own, message in ((range(1), "chains of this process=1, expected .*=2"), (range(1, 2), "samples of chain 1 in")):
        monkeypatch.setattr(collecting, "chains_of_rank", lambda _, own=own: own)
        with pytest.raises(ValueError, match=message):
            run()
    assert len(PosteriorSamples.load(tmp_path)) == 4


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "milestones": lambda optimizer: schedules.MultiStepLR(optimizer, [2, 5]),  # a counter, in its state
    "warm restarts": lambda optimizer: schedules.CosineAnnealingWarmRestarts(optimizer, 3),
    "one cycle": lambda optimizer: schedules.OneCycleLR(optimizer, 1e-3, total_steps=8),  # momentum has a cycle, too
    "triangles": lambda optimizer: schedules.CyclicLR(optimizer, 1e-4, 1e-3, step_size_up=2, cycle_momentum=False),
    "in sequence": lambda optimizer: schedules.SequentialLR(
        optimizer, [schedules.ConstantLR(optimizer, 0.5, 3), schedules.ExponentialLR(optimizer, 0.9)], [5]
    ),
    "chained": lambda optimizer: schedules.ChainedScheduler(
        [schedules.ConstantLR(optimizer, 0.5, 3), schedules.ExponentialLR(optimizer, 0.9)]
    ),
    "function": lambda optimizer: schedules.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "class": schedules.LinearLR,
}


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
def test_schedules_are_followed_and_continued(make: Any, network: nn.Module, loader: DataLoader, tmp_path: Path):
    alone = SGHMC([nn.Parameter(torch.zeros(1))], lr=1e-3, num_data=60)
    schedule, expected = make(alone), []
    for _ in range(8):
        expected.append(alone.param_groups[0]["lr"])
        alone.step()
        schedule.step()
    for num_samples in (4, 8):
        samples = PosteriorSamples(tmp_path, resume=True)
        arguments = (network, making(SGHMC), cross_entropy, loader)
        collect_parameters(*arguments, burn_in=0, num_samples=num_samples, scheduler=make, samples=samples)
    assert [row["lr"] for row in samples.trace] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (schedules.ReduceLROnPlateau, "got ReduceLROnPlateau, expected a scheduler whose step takes no metric"),
        (lambda optimizer: 0.9, "got float, expected a scheduler whose step takes no metric"),
        (schedules.StepLR(SGLD([torch.ones(1)], lr=1, num_data=1), 1), "got one of another optimizer, expected one of"),
    ],
    ids=["plateau", "number", "other"],
)
def test_schedulers_that_cannot_be_stepped(make: Any, message: str, network: nn.Module, loader: DataLoader):
    arguments = (network, making(SGLD), cross_entropy, loader)
    with pytest.raises(ValueError, match=f"collect_parameters: scheduler: {message}"):
        collect_parameters(*arguments, burn_in=0, num_samples=1, scheduler=make)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"burn_in": -1}, "burn_in: got -1, expected an integer >= 0"),
        ({"thinning": 0}, "thinning: got 0, expected an integer >= 1"),
        ({"chains": 0}, "chains: got 0, expected an integer > 0"),
        ({"chains": 2}, r"optimizer: got SGLD, expected a function \(module, chain\) -> optimizer"),
        ({"samples": "runs/digits"}, "samples: got 'runs/digits', expected PosteriorSamples, such as"),
        ({"loader": []}, "loader: got no minibatches, expected minibatches each time"),
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, r"loss: got float32 of shape \[20\].*, expected one number"),
        ({"loader": [torch.ones(3, 3)]}, r"loader: minibatch: got float32 .*, expected a tuple \(inputs …, targets\)"),
        ({"loader": [{"x": torch.ones(3, 3)}]}, r"loader: minibatch: got {'x'.*, which collate_fn of a DataLoader can"),
        ({"loader": None}, "loader: got None, expected minibatches"),
        ({"loss": None}, "loss: got None, expected a function of outputs and targets"),
        (
            {"loss": lambda outputs, _: (outputs.sum(), outputs)},
            r"loss: got \(float32 of shape .*, expected one number",
        ),
        ({"loss": lambda outputs, _: outputs.mean().detach()}, "loss: got one without gradient, expected one that is"),
        (
            {"optimizer": torch.optim.LBFGS([torch.ones(1)])},
            "optimizer: got LBFGS .*, expected an optimizer whose step",
        ),
        (
            {"optimizer": SGLD},
            "optimizer: got <class .*SGLD'>, expected an optimizer whose step needs no closure, or a",
        ),
        ({"module": nn.ReLU()}, "module: got no parameter that requires a gradient, expected at least one"),
        ({"module": len}, "module: got .*, expected a torch.nn.Module"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], message: str, network: nn.Module, loader: DataLoader):
    optimizer = SGLD(network.parameters(), lr=1e-3, num_data=60)
    usual = {"module": network, "optimizer": optimizer, "loss": cross_entropy, "loader": loader}
    with pytest.raises(ValueError, match=message):
        collect_parameters(**{**usual, "burn_in": 0, "num_samples": 1, **changes})
