"""Seeds, noise keys and everything that a run must keep: state_dict, resume, copies, parameter groups."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from corpus.places import replaced
from optim.optimizers import EVERY_IMPLEMENTATION, EVERY_KIND, OPTIMIZERS, network, through_a_file, train
from torch import Tensor, nn

from ald_ext import PSGLD, SGHMC, SGLD, ops


def values(model: nn.Module) -> list[Tensor]:
    return [param.detach().cpu().clone() for param in model.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def trajectory(kind: str, device: torch.device, steps: int = 5, **options: Any) -> list[Tensor]:
    model = network(device)
    train(model, OPTIMIZERS[kind](model.parameters(), 0.01, num_data=50, **options), steps)
    return values(model)


# --- Seeds ---


@EVERY_KIND
@EVERY_IMPLEMENTATION
def test_the_same_seed_gives_the_same_bits(device: torch.device, kind: str, flags: dict[str, bool]) -> None:
    first = trajectory(kind, device, seed=3, **flags)
    assert same(first, trajectory(kind, device, seed=3, **flags))
    assert not same(first, trajectory(kind, device, seed=4, **flags))


@EVERY_KIND
def test_manual_seed_governs(device: torch.device, kind: str) -> None:
    finals = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        finals.append(trajectory(kind, device))
    assert same(finals[0], finals[1])
    assert not same(finals[0], finals[2])


@EVERY_KIND
def test_two_optimizers_draw_two_seeds(kind: str) -> None:
    param = torch.zeros(1)
    seeds = {OPTIMIZERS[kind]([param], 0.1, num_data=1).param_groups[0]["seed"] for _ in range(20)}
    assert len(seeds) == 20
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**56, "seeds use the whole range"


@EVERY_KIND
def test_neither_a_given_seed_nor_a_step_draws(device: torch.device, kind: str) -> None:
    model, before = network(device), torch.get_rng_state()
    optimizer = OPTIMIZERS[kind](model.parameters(), 0.1, num_data=1, seed=7)
    train(model, optimizer, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert optimizer.param_groups[0]["seed"] == 7


@EVERY_KIND
def test_the_seed_needs_no_default_device(kind: str) -> None:
    """A model is built on meta or CUDA under torch.device; the seed still comes from the default (CPU) generator."""
    param = torch.zeros(1)
    torch.manual_seed(8)
    expected = OPTIMIZERS[kind]([param], 0.1, num_data=1).param_groups[0]["seed"]
    torch.manual_seed(8)
    with torch.device("meta"):
        optimizer = OPTIMIZERS[kind]([param], 0.1, num_data=1)
    assert optimizer.param_groups[0]["seed"] == expected


# --- Which element gets which noise ---


def noise_of(optimizer: torch.optim.Optimizer, params: list[Tensor]) -> list[Tensor]:
    """What a step with zero gradients adds, over its scale: SGLD with lr = 0.5 and num_data = 1."""
    before = [param.clone() for param in params]
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    return [(param - old).cpu() for param, old in zip(params, before, strict=True)]


def test_parameters_have_noise_of_their_own(device: torch.device) -> None:
    params = [torch.zeros(1000, device=device) for _ in range(3)]
    optimizer = SGLD([{"params": params[:2]}, {"params": params[2:]}], 0.5, num_data=1, seed=9)
    for step in (1, 2):
        for param in params:
            param.zero_()
        for k, noise in enumerate(noise_of(optimizer, params)):
            assert torch.equal(noise, ops.normal(1000, seed=9, step=step, parameter=k))


def test_a_new_group_keeps_the_noise_of_the_others(device: torch.device) -> None:
    param, added = torch.zeros(100, device=device), torch.zeros(50, device=device)
    optimizer = SGLD([param], 0.5, num_data=1, seed=9)
    noise_of(optimizer, [param])
    optimizer.add_param_group({"params": [added]})
    param.zero_()
    first, second = noise_of(optimizer, [param, added])
    assert torch.equal(first, ops.normal(100, seed=9, step=2, parameter=0))
    # Its own counter, and an index that no other parameter has.
    assert torch.equal(second, ops.normal(50, seed=9, step=1, parameter=1))


def test_a_group_may_have_a_seed_of_its_own(device: torch.device) -> None:
    params = [torch.zeros(100, device=device) for _ in range(2)]
    optimizer = SGLD([{"params": [params[0]]}, {"params": [params[1]], "seed": 4}], 0.5, num_data=1, seed=9)
    noises = noise_of(optimizer, params)
    assert torch.equal(noises[0], ops.normal(100, seed=9, step=1, parameter=0))
    assert torch.equal(noises[1], ops.normal(100, seed=4, step=1, parameter=1))


# --- Checkpoints ---


def test_large_step_counters_stay_exact(device: torch.device) -> None:
    param = torch.zeros(10, device=device)
    optimizer = SGLD([param], 0.5, num_data=1, seed=9)
    state = optimizer.state_dict()
    for step in (2**39, torch.tensor(5.0)):
        param.zero_()
        state["param_groups"][0]["step"] = step
        optimizer.load_state_dict(through_a_file(state))
        assert torch.equal(noise_of(optimizer, [param])[0], ops.normal(10, seed=9, step=int(step) + 1))


@EVERY_KIND
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_continue_alike_and_apart(device: torch.device, kind: str, how: str) -> None:
    model = network(device)
    optimizer = OPTIMIZERS[kind](model.parameters(), 0.01, num_data=50)
    train(model, optimizer, 3)
    pair = (model, optimizer)
    twin, twin_optimizer = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    before = values(model)
    train(twin, twin_optimizer, 3)
    assert same(values(model), before), "the copy has tensors of its own"
    train(model, optimizer, 3)
    assert same(values(model), values(twin))


@EVERY_KIND
def test_states_of_older_versions_get_the_defaults(kind: str) -> None:
    """Unpickling fills in options that a group lacks."""
    optimizer = OPTIMIZERS[kind]([torch.zeros(3)], 0.1, num_data=5, seed=1)
    state = optimizer.__getstate__()
    for option in ("capturable", "fused", "foreach"):
        del state["param_groups"][0][option]
    fresh = OPTIMIZERS[kind].__new__(OPTIMIZERS[kind])
    fresh.__setstate__(state)
    assert fresh.param_groups[0]["capturable"] is False
    assert fresh.param_groups[0]["fused"] is None


# --- Damaged states ---


@EVERY_KIND
@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("param_groups",), None, "param_groups: got None, expected list"),
        (("param_groups", 0), {"lr": 0.1}, r"param_groups\[0\]: got no 'params', expected list"),
        (("state",), [1], r"state: got \[1\], expected dict"),
        (("param_groups", 0, "lr"), [0.1], r"param_groups\[0\]: lr: got \[0.1\], expected something like 0.01"),
        (("param_groups", 0, "temperature"), "1", "temperature: got '1', expected something like 1.0"),
        (("param_groups", 0, "temperature"), -1.0, "temperature: got -1.0, expected a finite number >= 0"),
        (("param_groups", 0, "num_data"), 10**90, "num_data: got 1000.*, expected something like 50"),
        (("param_groups", 0, "step"), -1, "step: got -1, expected an integer, 0 to"),
        (("param_groups", 0, "step"), 2.5, "step: got 2.5, expected an integer, 0 to"),
    ],
)
def test_damaged_states_are_refused_at_loading(kind: str, place: tuple[Any, ...], value: Any, message: str) -> None:
    model = network(torch.device("cpu"))
    optimizer = OPTIMIZERS[kind](model.parameters(), 0.01, num_data=50, seed=1)
    train(model, optimizer, 2)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(replaced(copy.deepcopy(before), place, value))
    assert str(optimizer.state_dict()) == str(before)


@pytest.mark.parametrize("value", [torch.zeros(3, 5), torch.zeros(2, device="meta"), torch.arange(2), [0.0], None])
@pytest.mark.parametrize(("kind", "name"), [(PSGLD, "square_avg"), (SGHMC, "momentum_buffer")])
def test_states_of_other_shapes_are_refused_at_loading(kind: Any, name: str, value: Any) -> None:
    param = torch.zeros(4)
    optimizer = kind([param], 0.01, num_data=50, seed=1)
    state = {**optimizer.state_dict(), "state": {0: {name: value}}}
    with pytest.raises(
        ValueError, match=rf"load_state_dict: state\[0\]: {name}: got .*, expected a tensor of shape \[4\]"
    ):
        optimizer.load_state_dict(state)
    assert not optimizer.state


def test_a_momentum_that_is_text_is_refused_at_loading() -> None:
    optimizer = SGHMC([torch.zeros(4)], 0.01, num_data=50)
    state = replaced(optimizer.state_dict(), ("param_groups", 0, "momentum"), "0.9")
    with pytest.raises(ValueError, match=r"SGHMC: load_state_dict: param_groups\[0\]: momentum: got '0.9', expected"):
        optimizer.load_state_dict(state)
