"""PolynomialDecay and CyclicalCosine: values against the papers' formulas, groups, tensors, resume, stages, errors."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from optim.optimizers import through_a_file
from torch import Tensor
from torch.optim.lr_scheduler import LinearLR, LRScheduler, SequentialLR

from ald_ext import PSGLD, SGHMC, SGLD
from ald_ext.optim import CyclicalCosine, PolynomialDecay

Make = Callable[..., LRScheduler]


def polynomial(optimizer: torch.optim.Optimizer, **options: Any) -> PolynomialDecay:
    return PolynomialDecay(optimizer, **{"offset": 5, "exponent": 0.6, **options})


def cyclical(optimizer: torch.optim.Optimizer, **options: Any) -> CyclicalCosine:
    """Cycles of 4 steps: explore, explore, sample, sample."""
    return CyclicalCosine(optimizer, **{"num_steps": 12, "num_cycles": 3, "exploration": 0.5, **options})


BOTH: dict[str, Make] = {"polynomial": polynomial, "cyclical": cyclical}
EVERY_SCHEDULE = pytest.mark.parametrize("make", BOTH.values(), ids=BOTH)

#: What the two schedules make of an initial lr of 1 after t steps, straight from the formulas (k = t + 1).
EXPECTED: dict[str, Callable[[int], float]] = {
    "polynomial": lambda t: 5**0.6 * (5 + t) ** -0.6,
    "cyclical": lambda t: 0.5 * (math.cos(math.pi * (t % 4) / 4) + 1),
}


def optimizer_of(lr: Any = 1.0, kind: Callable[..., Any] = SGLD, **options: Any) -> Any:
    return kind([torch.zeros(3, requires_grad=True)], lr, num_data=10, seed=1, **options)


def lrs(scheduler: LRScheduler, steps: int) -> list[float]:
    """The lr of the first group in each of the coming optimizer steps."""
    result = []
    for _ in range(steps):
        result.append(float(scheduler.optimizer.param_groups[0]["lr"]))
        scheduler.optimizer.step()
        scheduler.step()
    return result


# --- Values ---


@pytest.mark.parametrize("exponent", [0.51, 0.55, 0.75, 1, 1.0])
@pytest.mark.parametrize("offset", [0.5, 1, 230.0])
def test_polynomial_decay_is_welling_and_tehs(offset: float, exponent: float) -> None:
    """a (b + t)^-γ with a such that lr_0 is the optimizer's."""
    a = 0.3 * offset**exponent
    expected = [a * (offset + t) ** -exponent for t in range(50)]
    got = lrs(PolynomialDecay(optimizer_of(0.3), offset=offset, exponent=exponent), 50)
    assert got[0] == 0.3
    assert got == pytest.approx(expected, rel=1e-14, abs=0)


@pytest.mark.parametrize(("num_steps", "num_cycles"), [(12, 3), (10, 3), (7, 7), (7, 1), (100, 4), (9, 2)])
def test_cyclical_cosine_is_zhangs(num_steps: int, num_cycles: int) -> None:
    """α_k = α_0/2 [cos(π mod(k-1, ⌈K/M⌉) / ⌈K/M⌉) + 1], also where M does not divide K."""
    length = math.ceil(num_steps / num_cycles)
    expected = [0.3 / 2 * (math.cos(math.pi * ((k - 1) % length) / length) + 1) for k in range(1, num_steps + 1)]
    scheduler = CyclicalCosine(optimizer_of(0.3), num_steps=num_steps, num_cycles=num_cycles, exploration=0)
    assert lrs(scheduler, num_steps) == pytest.approx(expected, rel=1e-14, abs=0)


def test_cyclical_cosine_by_hand() -> None:
    root = math.sqrt(0.5)
    one_cycle = [8, 4 + 4 * root, 4, 4 - 4 * root]
    got = lrs(cyclical(optimizer_of(8.0)), 16)
    # Twelve steps were announced; after them the cycles go on.
    assert got == pytest.approx(4 * one_cycle, rel=1e-14, abs=0)
    assert min(got) > 0


@pytest.mark.parametrize("name", BOTH)
def test_every_group_has_its_own_start(name: str) -> None:
    params = [torch.zeros(2, requires_grad=True) for _ in range(3)]
    optimizer = SGLD([{"params": [p], "lr": lr} for p, lr in zip(params, (1.0, 0.25, 0.0), strict=True)], 9, num_data=1)
    scheduler = BOTH[name](optimizer)
    for t in range(10):
        factor = EXPECTED[name](t)
        got = [group["lr"] for group in optimizer.param_groups]
        assert got == pytest.approx([factor, 0.25 * factor, 0.0], rel=1e-14, abs=0)
        assert scheduler.get_last_lr() == got
        assert [group["initial_lr"] for group in optimizer.param_groups] == [1.0, 0.25, 0.0]
        optimizer.step()
        scheduler.step()


@EVERY_SCHEDULE
def test_torchs_optimizers_are_fine(make: Make) -> None:
    torchs = make(torch.optim.RMSprop([torch.zeros(1, requires_grad=True)], lr=0.3))
    assert lrs(torchs, 9) == lrs(make(optimizer_of(0.3)), 9)


# --- lr as a tensor ---


@EVERY_SCHEDULE
@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
def test_an_lr_tensor_is_filled_in_place(device: torch.device, make: Make, shape: tuple[int, ...]) -> None:
    """CUDA graphs and compiled steps keep its address. In float64 it is the float's value exactly."""
    lr = torch.full(shape, 0.3, dtype=torch.float64, device=device)
    scheduler, floats = make(optimizer_of(lr)), make(optimizer_of(0.3))
    for _ in range(9):
        assert scheduler.optimizer.param_groups[0]["lr"] is lr
        assert lr.item() == floats.optimizer.param_groups[0]["lr"]
        assert lr.shape == shape
        for each in (scheduler, floats):
            each.optimizer.param_groups[0]["params"][0].grad = None
            each.optimizer.step()
            each.step()


@pytest.mark.parametrize("name", BOTH)
def test_a_float32_lr_tensor(device: torch.device, name: str) -> None:
    lr = torch.tensor(1.0, device=device)
    got = lrs(BOTH[name](optimizer_of(lr)), 9)
    # Rounded to float32: the factor, then its product with the initial lr.
    assert got == pytest.approx([EXPECTED[name](t) for t in range(9)], rel=2.0**-23, abs=0)
    assert lr.dtype == torch.float32


@EVERY_SCHEDULE
def test_get_last_lr_is_a_copy(make: Make) -> None:
    lr = torch.tensor(0.5, dtype=torch.float64)
    scheduler = make(optimizer_of(lr))
    (last,) = scheduler.get_last_lr()
    assert isinstance(last, Tensor)
    last.fill_(7.0)
    assert lr.item() == 0.5
    scheduler.optimizer.step()
    scheduler.step()
    assert lr.item() < 0.5


# --- With the optimizers: trajectories, resume ---


def train(param: Tensor, scheduler: LRScheduler, steps: int) -> None:
    for _ in range(steps):
        param.grad = param.detach().sin()
        scheduler.optimizer.step()
        scheduler.step()


@EVERY_SCHEDULE
@pytest.mark.parametrize("kind", [SGLD, PSGLD, SGHMC])
def test_the_optimizer_steps_with_the_scheduled_lr(device: torch.device, make: Make, kind: Callable[..., Any]) -> None:
    planned = lrs(make(optimizer_of(0.3)), 9)
    scheduled, by_hand = (torch.linspace(-1, 1, 20, device=device) for _ in range(2))
    train(scheduled, make(kind([scheduled], 0.3, num_data=10, seed=1)), 9)
    optimizer = kind([by_hand], 0.3, num_data=10, seed=1)
    for lr in planned:
        optimizer.param_groups[0]["lr"] = lr
        by_hand.grad = by_hand.sin()
        optimizer.step()
    assert torch.equal(scheduled, by_hand)


RESUMED: dict[str, Make] = {**BOTH, "noiseless": lambda optimizer: cyclical(optimizer, noiseless_exploration=True)}


@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("optimizer_first", [False, True])
@pytest.mark.parametrize("steps_before", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("name", RESUMED)
def test_resume_is_bitwise(
    device: torch.device, name: str, steps_before: int, optimizer_first: bool, tensor_lr: bool
) -> None:
    """From every stage of a cycle; the two state dicts may be loaded in either order."""

    def start(seed: int) -> tuple[Tensor, LRScheduler]:
        param = torch.linspace(-1, 1, 20, device=device)
        lr = torch.tensor(0.3, dtype=torch.float64) if tensor_lr else 0.3
        return param, RESUMED[name](PSGLD([param], lr, num_data=10, seed=seed, temperature=0.5))

    param, scheduler = start(seed=1)
    train(param, scheduler, steps_before)
    parts = [scheduler.optimizer, scheduler]
    saved = through_a_file([param, *(part.state_dict() for part in parts)])
    train(param, scheduler, 9)

    resumed, other = start(seed=2)
    resumed.copy_(saved[0])
    loads = list(zip((other.optimizer, other), saved[1:], strict=True))
    for part, state in loads if optimizer_first else reversed(loads):
        part.load_state_dict(state)
    assert other.last_epoch == steps_before
    train(resumed, other, 9)
    assert torch.equal(resumed, param)
    assert other.get_last_lr() == scheduler.get_last_lr()


@EVERY_SCHEDULE
def test_resume_by_last_epoch(make: Make) -> None:
    """torch's other way: only the optimizer is loaded, and the scheduler is told how far it was."""
    scheduler = make(optimizer_of(0.3))
    lrs(scheduler, 6)
    other = optimizer_of(0.1)
    other.load_state_dict(through_a_file(scheduler.optimizer.state_dict()))
    resumed = make(other, last_epoch=scheduler.last_epoch - 1)
    assert resumed.last_epoch == 6
    assert lrs(resumed, 6) == lrs(scheduler, 6)


@EVERY_SCHEDULE
def test_last_epoch_without_an_initial_lr(make: Make) -> None:
    with pytest.raises(KeyError, match="initial_lr"):
        make(optimizer_of(0.3), last_epoch=4)


@EVERY_SCHEDULE
def test_the_state_dict_decides(make: Make) -> None:
    """As torch's: loading brings the saved schedule, whatever the new one was made with."""
    saved = through_a_file(make(optimizer_of(0.3)).state_dict())
    assert "optimizer" not in saved
    other = PolynomialDecay(optimizer_of(0.3), offset=99, exponent=1)
    if make is cyclical:
        other = CyclicalCosine(optimizer_of(0.3), num_steps=1, num_cycles=1, exploration=0)
    other.load_state_dict(saved)
    assert lrs(other, 9) == lrs(make(optimizer_of(0.3)), 9)


@EVERY_SCHEDULE
def test_an_lr_written_by_hand_lasts_one_step(make: Make) -> None:
    scheduler, other = make(optimizer_of(0.3)), make(optimizer_of(0.3))
    scheduler.optimizer.param_groups[0]["lr"] = 77.0
    assert lrs(scheduler, 9)[1:] == lrs(other, 9)[1:]


@pytest.mark.parametrize("name", BOTH)
def test_after_a_warm_up(name: str) -> None:
    optimizer = optimizer_of(1.0)
    warm_up = LinearLR(optimizer, start_factor=0.25, total_iters=3)
    main = BOTH[name](optimizer)
    sequence = SequentialLR(optimizer, [warm_up, main], milestones=[3])
    if isinstance(main, CyclicalCosine):
        assert not main.is_sampling, "it has not begun"
    expected = [0.25, 0.5, 0.75, *(EXPECTED[name](t) for t in range(6))]
    assert lrs(sequence, 9) == pytest.approx(expected, rel=1e-14, abs=0)


# --- Stages ---


def test_stages_and_cycles() -> None:
    scheduler = cyclical(optimizer_of())
    seen = []
    for _ in range(12):
        scheduler.optimizer.step()
        seen.append((scheduler.cycle, scheduler.is_sampling))
        scheduler.step()
    one_cycle = [False, False, True, True]
    assert seen == [(cycle, sampling) for cycle in range(3) for sampling in one_cycle]


@pytest.mark.parametrize(
    ("exploration", "expected"),
    [
        (0, [True] * 5),
        (0.2, [False, True, True, True, True]),
        (0.21, [False, False, True, True, True]),
        (0.6, [False, False, False, True, True]),
        (3 / 5, [False, False, False, True, True]),
        (0.8, [False, False, False, False, True]),
        (np.float64(0.8), [False, False, False, False, True]),
    ],
    ids=str,
)
def test_the_part_that_explores(exploration: float, expected: list[bool]) -> None:
    """r(k) = β samples: decimals that a binary fraction misses are compared exactly all the same."""
    scheduler = CyclicalCosine(optimizer_of(), num_steps=np.int64(10), num_cycles=2, exploration=exploration)
    seen = []
    for _ in range(10):
        seen.append(scheduler.is_sampling)
        scheduler.optimizer.step()
        scheduler.step()
    assert seen == 2 * expected
    through_a_file(scheduler.state_dict())  # plain numbers, whatever was given


# --- Exploration without noise ---


def temperatures(scheduler: CyclicalCosine, steps: int) -> list[float]:
    result = []
    for _ in range(steps):
        result.append(scheduler.optimizer.param_groups[0]["temperature"])
        scheduler.optimizer.step()
        scheduler.step()
    return result


def test_temperature_is_left_alone_by_default() -> None:
    optimizer = optimizer_of(temperature=0.7)
    assert temperatures(cyclical(optimizer), 12) == [0.7] * 12
    assert "sampling_temperature" not in optimizer.param_groups[0]


@pytest.mark.parametrize("kind", [SGLD, PSGLD])  # SGHMC's momentum outlasts the noise
def test_only_the_sampling_stage_has_noise(device: torch.device, kind: Callable[..., Any]) -> None:
    """With gradients of zero only noise moves the parameter."""
    param = torch.zeros(50, device=device)
    scheduler = cyclical(kind([param], 0.1, num_data=1, seed=1), noiseless_exploration=True)
    for _ in range(12):
        before = param.clone()
        param.grad = torch.zeros_like(param)
        scheduler.optimizer.step()
        assert (param != before).all() if scheduler.is_sampling else torch.equal(param, before)
        scheduler.step()


def test_every_group_gets_its_temperature_back() -> None:
    params = [torch.zeros(2) for _ in range(3)]
    kept = (1.0, 0.25, 0.0)
    optimizer = SGLD([{"params": [p], "temperature": t} for p, t in zip(params, kept, strict=True)], 1, num_data=1)
    scheduler = cyclical(optimizer, noiseless_exploration=True)
    for step in range(12):
        cold = step % 4 < 2
        for group, temperature in zip(optimizer.param_groups, kept, strict=True):
            assert group["temperature"] == (0.0 if cold else temperature)
            assert ("sampling_temperature" in group) == cold, "kept in the exploration stage only"
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("when", range(12))
def test_a_temperature_set_by_the_user_is_kept(when: int) -> None:
    """Written after any step: in force in the sampling stages from then on, and 0 in the exploration stages."""
    scheduler = cyclical(optimizer_of(temperature=0.7), noiseless_exploration=True)
    temperatures(scheduler, when)
    group = scheduler.optimizer.param_groups[0]
    group["temperature"] = 0.3
    scheduler.optimizer.step()
    scheduler.step()
    expected = [0.0 if step % 4 < 2 else 0.3 for step in range(when + 1, 24)]
    assert temperatures(scheduler, 23 - when) == expected


def test_a_temperature_of_zero_set_in_a_sampling_stage() -> None:
    scheduler = cyclical(optimizer_of(temperature=0.7), noiseless_exploration=True)
    temperatures(scheduler, 2)
    scheduler.optimizer.param_groups[0]["temperature"] = 0.0
    assert temperatures(scheduler, 10) == [0.0] * 10


def test_a_second_scheduler_on_a_group_held_at_zero() -> None:
    """A scheduler made anew in an exploration stage, without loading anything, does not take 0 for the temperature."""
    optimizer = optimizer_of(temperature=0.7)
    temperatures(cyclical(optimizer, noiseless_exploration=True), 1)
    again = cyclical(optimizer, noiseless_exploration=True)
    assert temperatures(again, 4) == [0.0, 0.0, 0.7, 0.7]


# --- Errors ---

INFINITY, NAN = math.inf, math.nan

BAD: list[tuple[str, str, Any, str]] = [
    *[("polynomial", "offset", value, "expected a finite number > 0") for value in (0, -1.0, INFINITY, NAN)],
    *[
        ("polynomial", "exponent", value, "expected 0.5 < exponent <= 1")
        for value in (0.5, 0.0, -1, 1.01, INFINITY, NAN)
    ],
    *[("cyclical", "num_steps", value, "expected an integer >= 1") for value in (0, -3, 10.0, "10", None)],
    *[("cyclical", "num_cycles", value, "expected an integer >= 1") for value in (0, -3, 2.0, None)],
    ("cyclical", "num_cycles", 13, "expected at most num_steps = 12"),
    *[("cyclical", "exploration", value, "expected 0 <= exploration <= 0.75") for value in (-0.1, 0.76, 1, 2, NAN)],
]


@pytest.mark.parametrize(("schedule", "argument", "value", "expected"), BAD)
def test_bad_arguments(schedule: str, argument: str, value: Any, expected: str) -> None:
    optimizer = optimizer_of(0.3)
    name = {"polynomial": "PolynomialDecay", "cyclical": "CyclicalCosine"}[schedule]
    message = rf"ald_ext\.optim\.{name}: {argument}: got {re.escape(repr(value))}, {re.escape(expected)}"
    with pytest.raises(ValueError, match=message):
        BOTH[schedule](optimizer, **{argument: value})
    assert "initial_lr" not in optimizer.param_groups[0], "refused before anything was written"


def test_no_noise_to_switch_off() -> None:
    torchs = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    with pytest.raises(
        ValueError, match=r"noiseless_exploration: got True with SGD, .*expected an optimizer of ald_ext.optim"
    ):
        cyclical(torchs, noiseless_exploration=True)


@EVERY_SCHEDULE
def test_not_an_optimizer(make: Make) -> None:
    with pytest.raises(TypeError, match="is not an Optimizer"):
        make([torch.zeros(1)])
