"""Repeated steps (ald_ext/optim/langevin_optimizer.py, Note [Repeated steps]): whatever changes between two steps, what
follows has the bits of an optimizer that looks at everything before every step."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from optim.test_interface import EVERY_KIND, OPTIMIZERS
from torch import Tensor, nn

from ald_ext import ops

SHAPES = [(4, 6), (3,), (), (4, 6), (0,)]
#: Steps before the change, of which the second and third are repeated ones; and after it.
BEFORE, AFTER = 3, 4


#: Options of the groups beside the one that is changed.
OTHER_OPTIONS: list[dict[str, Any]] = [
    {"lr": 0.03, "temperature": 0.0, "weight_decay": 0.5},
    {"num_data": 77, "maximize": True, "seed": 5},
]

#: Which group is changed, of how many.
Place = tuple[int, int]
PLACES: dict[str, Place] = {"alone": (0, 1), "first": (0, 2), "second": (1, 2), "in the middle": (1, 3)}
LATER_PLACES: dict[str, Place] = {"2 of 2": (1, 2), "2 of 3": (1, 3), "3 of 3": (2, 3)}


def places(chosen: dict[str, Place], *quick: str) -> pytest.MarkDecorator:
    """Parametrizes; all but some are left to the exhaustive tests."""
    marks = {name: () if name in quick else pytest.mark.exhaustive for name in chosen}
    return pytest.mark.parametrize("place", [pytest.param(chosen[name], id=name, marks=marks[name]) for name in chosen])


EVERY_PLACE = places(PLACES, "alone", "in the middle")
LATER = places(LATER_PLACES, "2 of 3")


class Run:
    """An optimizer of some parameters, with gradients that depend on where they are. `careful`: never repeats.

    They are one of the optimizer's groups; `others` are the parameters of all other groups.
    """

    def __init__(
        self,
        kind: str,
        device: torch.device,
        careful: bool,
        dtype: torch.dtype = torch.float32,
        place: Place = (0, 1),
        **options: Any,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        self.place, count = place
        self.careful, self.number = careful, 0
        self.idle: list[int] = []  # parameters without gradient
        self.others: list[Tensor] = []
        groups: list[dict[str, Any]] = [{**other} for other in OTHER_OPTIONS[: count - 1]]
        groups.insert(self.place, {})
        for number, group in enumerate(groups):
            values = [torch.randn(shape, generator=generator).to(device, dtype) for shape in SHAPES]
            group["params"] = [nn.Parameter(value) for value in values]
            if number == self.place:
                self.params: list[Tensor] = list(group["params"])
            else:
                self.others += group["params"]
        self.optimizer = OPTIMIZERS[kind](groups, **{"lr": 0.01, "num_data": 10, "seed": 1, **options})

    @property
    def group(self) -> dict[str, Any]:
        return self.optimizer.param_groups[self.place]

    def give_gradients(self) -> None:
        """New ones, as after zero_grad, of the parameters' strides."""
        self.number += 1
        for index, param in enumerate(self.params):
            param.grad = None if index in self.idle else (3 * param.detach() + self.number).sin()
        for param in self.others:
            param.grad = (3 * param.detach() + self.number).cos()

    def step(self, change: Callable[[Run], None] = lambda run: None) -> bool:
        """True if the step was a repeated one. The change comes last, when there are gradients."""
        self.give_gradients()
        change(self)
        if self.careful:
            self.optimizer._plan = None
        before = self.optimizer._plan
        self.optimizer.step()
        return before is not None and self.optimizer._plan is before

    def everything(self) -> list[Tensor]:
        params = [*self.params, *self.others]
        states = [self.optimizer.state[p][name] for p in params for name in sorted(self.optimizer.state.get(p, {}))]
        counters = [torch.as_tensor(group["step"]) for group in self.optimizer.param_groups]
        return [*(param.detach() for param in params), *states, *counters]


def assert_same(run: Run, careful: Run) -> None:
    got, expected = run.everything(), careful.everything()
    assert [(t.dtype, t.shape, t.stride()) for t in got] == [(t.dtype, t.shape, t.stride()) for t in expected]
    for index, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert torch.equal(a.cpu(), b.cpu()), f"tensor {index} after step {run.number}"


def assert_repeats_as_a_careful_one(
    kind: str, device: torch.device, change: Callable[[Run], None], repeats_again: bool | None = None, **options: Any
) -> None:
    """`repeats_again`: whether the last step is a repeated one; None if either is right."""
    run, careful = (Run(kind, device, careful, **options) for careful in (False, True))
    for number in range(BEFORE + AFTER):
        here = change if number == BEFORE else lambda run: None
        repeated = run.step(here)
        assert not careful.step(here)
        if number in range(1, BEFORE):
            assert repeated, "the plan was not used before the change: the test shows nothing"
        assert_same(run, careful)
    if repeats_again is not None:
        assert repeated == repeats_again


# --- Nothing changes ---


@EVERY_KIND
@EVERY_PLACE
@pytest.mark.parametrize("dtype", ops.PARAMETER_DTYPES, ids=str)
def test_repeated_steps(device: torch.device, kind: str, dtype: torch.dtype, place: Place) -> None:
    assert_repeats_as_a_careful_one(kind, device, lambda run: None, repeats_again=True, dtype=dtype, place=place)


@EVERY_KIND
@pytest.mark.parametrize("groups", [1, 2])
def test_training_repeats(device: torch.device, kind: str, groups: int) -> None:
    """zero_grad, backward, closures and schedulers leave the plan as it is; so do frozen parameters."""
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).to(device)
    model[2].bias.requires_grad_(False)
    params: Any = model.parameters()
    if groups == 2:
        params = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "temperature": 0.0}]
    optimizer = OPTIMIZERS[kind](params, 0.01, num_data=10)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(2, 6, device=device)).square().mean()
        loss.backward()
        return loss

    plans = []
    for _ in range(4):
        optimizer.step(closure)
        scheduler.step()
        plans.append(optimizer._plan)
    assert plans[0] is not None
    assert all(plan is plans[0] for plan in plans)


@pytest.mark.parametrize(
    "options", [{"foreach": True}, {"fused": False}, {"capturable": True}, {"lr": torch.tensor(0.01)}], ids=str
)
@EVERY_KIND
def test_what_is_never_repeated(kind: str, options: dict[str, Any]) -> None:
    """Steps that are not the compiled op with plain numbers."""
    param = torch.zeros(3)
    optimizer = OPTIMIZERS[kind]([param], **{"lr": 0.01, "num_data": 10, **options})
    for _ in range(3):
        param.grad = torch.ones_like(param)
        assert not optimizer._repeat_step()
        optimizer.step()


@pytest.mark.parametrize(
    "options", [{"foreach": True}, {"fused": False}, {"capturable": True}, {"lr": torch.tensor(0.01)}], ids=str
)
@EVERY_KIND
@EVERY_PLACE
def test_one_group_that_is_never_repeated(kind: str, options: dict[str, Any], place: Place) -> None:
    """No group is repeated then; all are stepped once."""
    run, careful = (Run(kind, torch.device("cpu"), careful, place=place) for careful in (False, True))
    for each in (run, careful):
        each.group.update({name: copy.copy(value) for name, value in options.items()})
    for _ in range(3):
        assert not run.step()
        careful.step()
        assert_same(run, careful)


# --- One thing changes ---


def set_option(name: str, value: Any) -> Callable[[Run], None]:
    def change(run: Run) -> None:
        run.group[name] = value

    return change


def set_lr_tensor(run: Run) -> None:
    run.group["lr"] = torch.tensor(0.01)


def fill_temperature_from_now_on(run: Run) -> None:
    """The same tensor, of another value from step to step."""
    temperature = torch.tensor(0.0)
    run.group["temperature"] = temperature
    run.optimizer.register_step_pre_hook(lambda *_: temperature.add_(1) and None)


def without_one_gradient(run: Run) -> None:
    run.idle = [1]
    run.params[1].grad = None


def without_any_gradient(run: Run) -> None:
    run.idle = list(range(len(run.params)))
    for param in run.params:
        param.grad = None


def without_gradients_once(run: Run) -> None:
    for param in run.params:
        param.grad = None


def gradient_of_other_strides(run: Run) -> None:
    grad = run.params[0].grad
    assert grad is not None
    run.params[0].grad = grad.t().contiguous().t()


def shared_gradient(run: Run) -> None:
    """Two parameters may read the same gradient."""
    run.params[3].grad = run.params[0].grad


def gradient_with_graph(run: Run) -> None:
    """As after backward(create_graph=True)."""
    for param in run.params:
        assert param.grad is not None
        param.grad = param.grad.clone().requires_grad_() * 2


def swap_data(run: Run) -> None:
    run.params[0].data = 2 * run.params[0].data


def swap_data_and_strides(run: Run) -> None:
    for param in (run.params[0], run.params[3]):
        param.data = param.data.t().contiguous().t()
        assert param.grad is not None
        param.grad = param.grad.t().contiguous().t()


def swap_data_for_16_bits(run: Run) -> None:
    for param in run.params:
        param.data, grad = param.data.bfloat16(), param.grad
        assert grad is not None
        param.grad = grad.bfloat16()


def swap_one_for_16_bits(run: Run) -> None:
    """A group of two dtypes: two calls of the op a step."""
    param = run.params[1]
    param.data = param.data.bfloat16()
    param.grad = torch.ones_like(param)


def swap_data_for_inference(run: Run) -> None:
    """A tensor without a version counter."""
    with torch.inference_mode():
        data = run.params[0].detach().clone()
    run.params[0].data = data


def change_values(run: Run) -> None:
    with torch.no_grad():
        run.params[0].add_(1)


def gradients_in_one_tensor(run: Run) -> None:
    """As of an all-reduce: views that touch, in another order than the parameters."""
    run.params[3].grad, run.params[0].grad = torch.linspace(-1, 1, 48, device=run.params[0].device).view(2, 4, 6)


def no_longer_required(run: Run) -> None:
    run.params[0].requires_grad_(False)


def replace_parameter(run: Run) -> None:
    run.params[0] = nn.Parameter(torch.ones_like(run.params[0]))
    run.params[0].grad = torch.ones_like(run.params[0])
    run.group["params"][0] = run.params[0]


def replace_parameter_by_its_copy(run: Run) -> None:
    """Of the same values, but without state."""
    old = run.params[0]
    run.params[0] = nn.Parameter(old.detach().clone())
    run.params[0].grad = old.grad
    run.group["params"][0] = run.params[0]


def exchange_parameters(run: Run) -> None:
    """The noise follows the place in the group."""
    params = run.group["params"]
    params[0], params[3] = params[3], params[0]


def append_parameter(run: Run) -> None:
    run.params.append(nn.Parameter(torch.ones_like(run.params[0])))
    run.params[-1].grad = torch.ones_like(run.params[-1])
    run.group["params"].append(run.params[-1])


def append_idle_parameter(run: Run) -> None:
    """It gets its first gradient one step later."""
    run.params.append(nn.Parameter(torch.ones_like(run.params[0])))
    run.group["params"].append(run.params[-1])


def remove_parameter(run: Run) -> None:
    del run.group["params"][1]


def add_group(run: Run) -> None:
    run.params.append(nn.Parameter(torch.ones_like(run.params[0])))
    run.params[-1].grad = torch.ones_like(run.params[-1])
    run.optimizer.add_param_group({"params": [run.params[-1]], "lr": 0.5})


def remove_group_again(run: Run) -> None:
    add_group(run)
    del run.optimizer.param_groups[-1]


def replace_group(run: Run) -> None:
    run.optimizer.param_groups[run.place] = {**run.group, "lr": 0.5, "params": list(run.params)}


def exchange_groups(run: Run) -> None:
    """The noise follows the place of the parameter among all."""
    run.optimizer.param_groups.reverse()


def remove_group(run: Run) -> None:
    if len(run.optimizer.param_groups) > 1:
        del run.optimizer.param_groups[1 - run.place]
        run.place = 0


def load_own_state(run: Run) -> None:
    run.optimizer.load_state_dict(run.optimizer.state_dict())


def load_older_state(run: Run) -> None:
    state = copy.deepcopy(run.optimizer.state_dict())
    state["param_groups"][run.place].update(step=torch.tensor(77), lr=0.5, seed=9)
    for entry in state["state"].values():
        for value in entry.values():
            value.fill_(3.0)
    run.optimizer.load_state_dict(state)


def clear_state(run: Run) -> None:
    run.optimizer.state.clear()


def set_counter_to_a_number(run: Run) -> None:
    run.group["step"] = 1000


def set_counter_to_a_tensor(run: Run) -> None:
    run.group["step"] = torch.tensor(1000)


def set_counter_to_a_float(run: Run) -> None:
    run.group["step"] = torch.tensor(1000.0)


def fill_counter(run: Run) -> None:
    run.group["step"].fill_(1000)


def copy_run(run: Run, function: Callable[[Any], Any]) -> None:
    grads = [param.grad for param in (*run.params, *run.others)]
    run.params, run.others, run.optimizer = function((run.params, run.others, run.optimizer))
    for param, grad in zip((*run.params, *run.others), grads, strict=True):
        param.grad = grad


def deep_copy(run: Run) -> None:
    copy_run(run, copy.deepcopy)


def through_pickle(run: Run) -> None:
    copy_run(run, lambda parts: pickle.loads(pickle.dumps(parts)))


#: name: (change, whether steps are repeated again after it).
CHANGES: dict[str, tuple[Callable[[Run], None], bool]] = {
    "lr": (set_option("lr", 0.5), True),
    "lr of zero": (set_option("lr", 0.0), True),
    "integer lr": (set_option("lr", 1), False),
    "lr tensor": (set_lr_tensor, False),
    "temperature": (set_option("temperature", 3.0), True),
    "temperature of zero": (set_option("temperature", 0), True),
    "temperature tensor": (set_option("temperature", torch.tensor(3.0)), False),
    "temperature tensor filled": (fill_temperature_from_now_on, False),
    "num_data": (set_option("num_data", 77), True),
    "weight_decay": (set_option("weight_decay", 0.5), True),
    "maximize": (set_option("maximize", True), True),
    "seed": (set_option("seed", 2), True),
    "foreach": (set_option("foreach", True), False),
    "plain": (set_option("fused", False), False),
    "fused": (set_option("fused", True), True),
    "capturable": (set_option("capturable", True), False),
    "one gradient less": (without_one_gradient, True),
    "no gradient": (without_any_gradient, True),
    "no gradient once": (without_gradients_once, True),
    "gradient of other strides": (gradient_of_other_strides, True),
    "shared gradient": (shared_gradient, True),
    "gradient with graph": (gradient_with_graph, True),
    "gradients in one tensor": (gradients_in_one_tensor, True),
    "data": (swap_data, True),
    "data and strides": (swap_data_and_strides, True),
    "data of 16 bits": (swap_data_for_16_bits, True),
    "one of 16 bits": (swap_one_for_16_bits, False),
    "data without version": (swap_data_for_inference, True),
    "values": (change_values, True),
    "requires_grad": (no_longer_required, True),
    "another parameter": (replace_parameter, True),
    "a copy of a parameter": (replace_parameter_by_its_copy, True),
    "order": (exchange_parameters, True),
    "one more parameter": (append_parameter, True),
    "one more parameter later": (append_idle_parameter, True),
    "one parameter less": (remove_parameter, True),
    "another group": (add_group, True),
    "another group for a moment": (remove_group_again, True),
    "group": (replace_group, True),
    "order of groups": (exchange_groups, True),
    "one group less": (remove_group, True),
    "load_state_dict": (load_own_state, True),
    "load_state_dict of another": (load_older_state, True),
    "cleared state": (clear_state, True),
    "counter as a number": (set_counter_to_a_number, True),
    "counter as a tensor": (set_counter_to_a_tensor, True),
    "counter as a float": (set_counter_to_a_float, False),
    "counter filled": (fill_counter, True),
    "deepcopy": (deep_copy, True),
    "pickle": (through_pickle, True),
}

#: Where an optimizer with states need not repeat as SGLD does: they are not those of the plan, in the plan's order.
OTHER_STATES = {
    "one gradient less",
    "one group less",
    "another parameter",
    "a copy of a parameter",
    "one parameter less",
    "order",
}


@EVERY_KIND
@EVERY_PLACE
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_between_steps(device: torch.device, kind: str, name: str, place: Place) -> None:
    change, repeats_again = CHANGES[name]
    unknown = kind != "sgld" and name in OTHER_STATES
    assert_repeats_as_a_careful_one(kind, device, change, None if unknown else repeats_again, place=place)


@EVERY_KIND
@pytest.mark.parametrize("place", [(0, 2), (1, 2)], ids=str)
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_while_others_have_no_gradient(device: torch.device, kind: str, name: str, place: Place) -> None:
    """Groups of which only the counter advances, before and after."""
    run, careful = (Run(kind, device, careful, place=place) for careful in (False, True))
    change = CHANGES[name][0]

    def change_of(each: Run) -> None:
        for param in each.others:
            param.grad = None
        if each.number == BEFORE + 1:
            change(each)

    for number in range(BEFORE + AFTER):
        assert run.step(change_of) or number not in range(1, BEFORE)
        careful.step(change_of)
        assert_same(run, careful)


def state_name(run: Run) -> str:
    (name,) = run.optimizer.state_names
    return name


def replace_state(run: Run) -> None:
    run.optimizer.state[run.params[0]][state_name(run)] = torch.full_like(run.params[0], 2.0)


def replace_entry(run: Run) -> None:
    run.optimizer.state[run.params[0]] = {state_name(run): torch.full_like(run.params[0], 2.0)}


def fill_state(run: Run) -> None:
    run.optimizer.state[run.params[0]][state_name(run)].fill_(2.0)


def exchange_entries(run: Run) -> None:
    state, (a, b) = run.optimizer.state, (run.params[0], run.params[3])
    state[a], state[b] = state[b], state[a]


def lose_entry(run: Run) -> None:
    del run.optimizer.state[run.params[3]]


def lose_state(run: Run) -> None:
    del run.optimizer.state[run.params[0]][state_name(run)]


def state_of_other_strides(run: Run) -> None:
    entry, name = run.optimizer.state[run.params[0]], state_name(run)
    entry[name] = entry[name].t().contiguous().t()


def swap_state_data(run: Run) -> None:
    state = run.optimizer.state[run.params[0]][state_name(run)]
    state.data = 2 * state.data


def state_without_version(run: Run) -> None:
    state = run.optimizer.state[run.params[0]][state_name(run)]
    with torch.inference_mode():
        data = state.clone()
    state.data = data


def freeze(run: Run) -> None:
    run.optimizer.freeze_preconditioner()


OWN_CHANGES: dict[str, dict[str, Callable[[Run], None]]] = {
    "psgld": {
        "alpha": set_option("alpha", 0.5),
        "eps": set_option("eps", 1.0),
        "freeze_after now": set_option("freeze_after", BEFORE),
        "freeze_after soon": set_option("freeze_after", BEFORE + 2),
        "freeze_after long ago": set_option("freeze_after", 0),
        "freeze_preconditioner": freeze,
    },
    "sghmc": {"momentum": set_option("momentum", 0.5)},
}

STATE_CHANGES: dict[str, Callable[[Run], None]] = {
    "state": replace_state,
    "entry": replace_entry,
    "values of a state": fill_state,
    "exchanged entries": exchange_entries,
    "lost entry": lose_entry,
    "lost state": lose_state,
    "state of other strides": state_of_other_strides,
    "data of a state": swap_state_data,
    "state without version": state_without_version,
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, own in OWN_CHANGES.items() for name in own])
@EVERY_PLACE
def test_a_change_of_an_option_of_its_own(device: torch.device, kind: str, name: str, place: Place) -> None:
    assert_repeats_as_a_careful_one(kind, device, OWN_CHANGES[kind][name], True, place=place)


@pytest.mark.parametrize("kind", OWN_CHANGES)
@EVERY_PLACE
@pytest.mark.parametrize("name", STATE_CHANGES)
def test_a_change_of_the_state(device: torch.device, kind: str, name: str, place: Place) -> None:
    # A lost entry comes back at the end of the dictionary, in another order than the parameters.
    repeats_again = None if name == "lost entry" else True
    assert_repeats_as_a_careful_one(kind, device, STATE_CHANGES[name], repeats_again, place=place)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@EVERY_PLACE
@pytest.mark.parametrize("freeze_after", [1, BEFORE, 100])
def test_steps_that_do_not_count(device: torch.device, kind: str, place: Place, freeze_after: int) -> None:
    """A step with lr = 0 has the number of the one before it, also for what depends on the number."""
    options = {"freeze_after": freeze_after} if kind == "psgld" else {}
    change = set_option("lr", 0.0)
    assert_repeats_as_a_careful_one(kind, device, change, True, place=place, **options)


# --- Groups that share memory: the later one reads what the one before it wrote ---


def gradient_is_a_parameter(run: Run) -> None:
    run.params[0].grad = run.others[0].detach()


def gradient_is_a_state(run: Run) -> None:
    states = run.optimizer.state.get(run.others[0], {})
    run.params[0].grad = states[state_name(run)] if states else run.others[0].detach()


def gradient_of_both(run: Run) -> None:
    run.others[0].grad = run.params[0].grad


def parameter_of_both(run: Run) -> None:
    """Both groups step it."""
    run.params[0].data = run.others[0].data


def counter_of_both(run: Run) -> None:
    run.group["step"] = run.optimizer.param_groups[1 - run.place]["step"]


@EVERY_KIND
@pytest.mark.parametrize("place", [(0, 2), (1, 2), (1, 3)], ids=str)
@pytest.mark.parametrize(
    "share", [gradient_is_a_parameter, gradient_is_a_state, gradient_of_both, parameter_of_both, counter_of_both]
)
def test_groups_that_share_memory(device: torch.device, kind: str, place: Place, share: Callable[[Run], None]) -> None:
    run, careful = (Run(kind, device, careful, place=place) for careful in (False, True))
    for number in range(BEFORE + AFTER):
        here = share if number >= BEFORE - 1 else lambda run: None
        repeated = run.step(here)
        careful.step(here)
        assert_same(run, careful)
    assert repeated


@pytest.mark.parametrize("freeze_after", range(1, 8))
def test_repeated_steps_freeze_in_time(device: torch.device, freeze_after: int) -> None:
    run = Run("psgld", device, careful=False, freeze_after=freeze_after)
    averages = []
    for number in range(1, 8):
        assert run.step() == (number > 1)
        averages.append(run.optimizer.state[run.params[0]]["square_avg"].clone())
    moved = [not torch.equal(a, b) for a, b in pairwise(averages)]
    assert moved == [number < freeze_after for number in range(1, 7)]


@EVERY_KIND
@pytest.mark.parametrize("name", ["deepcopy", "pickle"])
def test_copies_leave_the_original_alone(device: torch.device, kind: str, name: str) -> None:
    run = Run(kind, device, careful=False)
    for _ in range(BEFORE):
        run.step()
    original, twin = run.optimizer, copy.copy(run)
    before = [tensor.clone() for tensor in run.everything()]
    CHANGES[name][0](twin)
    twin.step()
    assert original is run.optimizer
    assert all(torch.equal(a, b) for a, b in zip(run.everything(), before, strict=True))
    assert run.step(), "its plan is still good"


@EVERY_KIND
def test_inference_mode(device: torch.device, kind: str) -> None:
    """Parameters and states made there have no version counter."""

    def start(careful: bool) -> Run:
        run = Run(kind, device, careful)
        run.params[:] = [param.detach().clone() for param in run.params]
        run.optimizer = OPTIMIZERS[kind](run.params, 0.01, num_data=10, seed=1)
        return run

    with torch.inference_mode():
        run, careful = start(False), start(True)
        assert all(param.is_inference() for param in run.params)
        for number in range(4):
            assert run.step() == (number > 0)
            careful.step()
            assert_same(run, careful)


@EVERY_KIND
def test_steps_in_and_out_of_inference_mode(device: torch.device, kind: str) -> None:
    run, careful = (Run(kind, device, careful) for careful in (False, True))
    for number in range(6):
        with torch.inference_mode(mode=number % 2 == 1):
            run.step()
            careful.step()
    assert_same(run, careful)


# --- Errors ---


def assert_refused(run: Run, error: type[Exception], match: str, change: Callable[[Run], None]) -> None:
    for _ in range(BEFORE):
        run.step()
    assert run.optimizer._plan is not None
    before = [tensor.clone() for tensor in run.everything()]
    with pytest.raises(error, match=match):
        run.step(change)
    for old, new in zip(before, run.everything(), strict=True):
        assert torch.equal(old, new)


BAD_OPTIONS = [
    *[("lr", value) for value in (math.nan, math.inf, -0.1)],
    *[(name, math.nan) for name in ("temperature", "num_data", "weight_decay")],
    ("num_data", 0),
    ("seed", -1),
]


@EVERY_KIND
@EVERY_PLACE
@pytest.mark.parametrize(("option", "value"), BAD_OPTIONS, ids=str)
def test_an_option_that_became_bad(device: torch.device, kind: str, option: str, value: Any, place: Place) -> None:
    """An error of the optimizer, not of the op; then training goes on as if nothing had been."""
    run, careful = (Run(kind, device, careful, place=place) for careful in (False, True))
    good = run.group[option]
    assert_refused(run, ValueError, rf"ald_ext\.{kind.upper()}: {option}: got", set_option(option, value))
    for _ in range(BEFORE):
        careful.step()
    careful.number += 1
    for each in (run, careful):
        each.group[option] = good
        each.step()
    assert_same(run, careful)


@EVERY_KIND
@EVERY_PLACE
@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1])
def test_a_bad_lr_of_a_group_without_gradients(device: torch.device, kind: str, place: Place, value: float) -> None:
    """There is no op that would look at it."""
    run = Run(kind, device, careful=False, place=place)
    run.idle = list(range(len(run.params)))
    assert_refused(run, ValueError, rf"ald_ext\.{kind.upper()}: lr: got", set_option("lr", value))


def sparse_gradient(run: Run) -> None:
    grad = run.params[0].grad
    assert grad is not None
    run.params[0].grad = grad.to_sparse()


def parameter_with_gaps(run: Run) -> None:
    run.params[0].data = torch.ones(4, 12, device=run.params[0].device)[:, ::2]


def complex_parameter(run: Run) -> None:
    param = run.params[1]
    param.data = param.data.to(torch.complex64)
    param.grad = torch.ones_like(param)


@EVERY_KIND
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (sparse_gradient, "parameter 0: got a sparse gradient"),
        (complex_parameter, "parameter 1: got dtype torch.complex64"),
    ],
)
def test_a_parameter_that_became_bad(
    device: torch.device, kind: str, change: Callable[[Run], None], message: str
) -> None:
    run = Run(kind, device, careful=False)
    for _ in range(BEFORE):
        run.step()
    run.give_gradients()
    change(run)
    before = [tensor.clone() for tensor in run.everything()]
    with pytest.raises(RuntimeError, match=message):
        run.optimizer.step()
    for old, new in zip(before, run.everything(), strict=True):
        assert torch.equal(old, new)


def test_a_parameter_that_got_gaps(device: torch.device) -> None:
    run = Run("sgld", device, careful=False)
    for _ in range(BEFORE):
        run.step()
    with pytest.raises(RuntimeError, match="parameter 0: got strides"):
        run.step(parameter_with_gaps)
    assert run.group["step"] == BEFORE


def gradient_of_another_dtype(run: Run) -> None:
    run.params[0].data = run.params[0].data.double()


def gradient_of_another_shape(run: Run) -> None:
    run.params[0].data = torch.ones(2, 3, device=run.params[0].device)


def another_shape_of_the_same_memory(run: Run) -> None:
    run.params[0].data = run.params[0].data.view(6, 4)


def own_gradient(run: Run) -> None:
    run.params[0].grad = run.params[0].detach()


def gradient_of_its_neighbour(run: Run) -> None:
    run.params[0].grad = run.params[3].detach()


def gradient_that_reaches_into_a_parameter(run: Run) -> None:
    """By its last element, or by its first."""
    memory = torch.ones(60, device=run.params[0].device)
    run.params[0].data = memory[23:47].view(4, 6)
    run.params[3].grad = memory[:24].view(4, 6)


def gradient_that_begins_in_a_parameter(run: Run) -> None:
    memory = torch.ones(60, device=run.params[0].device)
    run.params[0].data = memory[:24].view(4, 6)
    run.params[3].grad = memory[23:47].view(4, 6)


def gradient_in_an_unchanged_parameter(run: Run) -> None:
    """Which the parameters' memory does not tell."""
    run.params[1].grad = run.params[0].detach().view(-1)[21:]


def scalar_gradient_in_a_parameter(run: Run) -> None:
    run.params[2].grad = run.params[0].detach().view(-1)[7]


def same_memory_twice(run: Run) -> None:
    run.params[3].data = run.params[0].data


def counter_at_its_end(run: Run) -> None:
    run.group["step"].fill_(2**40)


def negative_counter(run: Run) -> None:
    run.group["step"].fill_(-1)


def counter_of_two(run: Run) -> None:
    run.group["step"] = torch.tensor([BEFORE, BEFORE])


BAD_TENSORS = [
    sparse_gradient,
    gradient_of_another_dtype,
    gradient_of_another_shape,
    parameter_with_gaps,
    complex_parameter,
    another_shape_of_the_same_memory,
    own_gradient,
    gradient_of_its_neighbour,
    gradient_that_reaches_into_a_parameter,
    gradient_that_begins_in_a_parameter,
    gradient_in_an_unchanged_parameter,
    scalar_gradient_in_a_parameter,
    same_memory_twice,
    counter_at_its_end,
    negative_counter,
    counter_of_two,
]


def state_of_another_shape(run: Run) -> None:
    run.optimizer.state[run.params[0]][state_name(run)] = torch.ones(3, device=run.params[0].device)


def data_of_another_shape_in_a_state(run: Run) -> None:
    run.optimizer.state[run.params[0]][state_name(run)].data = torch.ones(3, device=run.params[0].device)


def another_shape_of_the_memory_of_a_state(run: Run) -> None:
    state = run.optimizer.state[run.params[0]][state_name(run)]
    state.data = state.data.view(6, 4)


def state_is_a_parameter(run: Run) -> None:
    run.optimizer.state[run.params[0]][state_name(run)].data = run.params[0].data


def gradient_is_its_state(run: Run) -> None:
    run.params[0].grad = run.optimizer.state[run.params[0]][state_name(run)]


def foreign_state_is_a_parameter(run: Run) -> None:
    run.optimizer.state[run.params[0]]["average"] = run.params[0].detach()


BAD_STATES = [
    state_of_another_shape,
    data_of_another_shape_in_a_state,
    another_shape_of_the_memory_of_a_state,
    state_is_a_parameter,
    gradient_is_its_state,
    foreign_state_is_a_parameter,
]


@pytest.mark.parametrize(
    ("kind", "change"),
    [(kind, change) for kind in OPTIMIZERS for change in BAD_TENSORS + (BAD_STATES if kind != "sgld" else [])],
)
@LATER
def test_a_later_group_that_became_bad(
    device: torch.device, kind: str, change: Callable[[Run], None], place: Place
) -> None:
    """The groups before it are as they were, and the error is that of the checks."""
    run, careful = (Run(kind, device, careful, place=place) for careful in (False, True))
    errors = []
    for each in (run, careful):
        for number in range(BEFORE):
            assert each.step() == (not each.careful and number > 0)
        each.give_gradients()
        change(each)
        before = [tensor.clone() for tensor in each.everything()]
        if each.careful:
            each.optimizer._plan = None
        with pytest.raises(RuntimeError) as raised:
            each.optimizer.step()
        errors.append((raised.type, str(raised.value)))
        assert len(before) == len(each.everything())
        for old, new in zip(before, each.everything(), strict=True):
            assert torch.equal(old, new)
    assert errors[0] == errors[1]


@EVERY_KIND
@pytest.mark.parametrize(("begin", "overlaps"), [(0, False), (1, True), (24, True), (47, True), (48, False)])
def test_a_gradient_beside_a_parameter(device: torch.device, kind: str, begin: int, overlaps: bool) -> None:
    """In a later group, whose parameter is elements 24 to 47 of a tensor; the gradient is of 24 elements too."""
    memory = torch.ones(96, device=device)
    params = [torch.ones(3, device=device), memory[24:48], torch.ones(24, device=device)]
    optimizer = OPTIMIZERS[kind]([{"params": params[:1]}, {"params": params[1:]}], 0.01, num_data=10)
    for _ in range(BEFORE):
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
    plan = optimizer._plan
    assert plan is not None
    for param in params:
        param.grad = torch.ones_like(param)
    params[2].grad = memory[begin : begin + 24]
    before = [param.clone() for param in params]
    if overlaps:
        with pytest.raises(RuntimeError, match="share memory"):
            optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
        assert [group["step"] for group in optimizer.param_groups] == [BEFORE] * 2
    else:
        optimizer.step()
        assert optimizer._plan is plan, "a repeated step"


@EVERY_KIND
@pytest.mark.parametrize("place", [(0, 2), (0, 3)], ids=str)
@pytest.mark.parametrize("change", [sparse_gradient, complex_parameter, gradient_in_an_unchanged_parameter])
def test_a_first_group_that_became_bad(
    device: torch.device, kind: str, change: Callable[[Run], None], place: Place
) -> None:
    run = Run(kind, device, careful=False, place=place)
    for _ in range(BEFORE):
        run.step()
    run.give_gradients()
    change(run)
    before = [tensor.clone() for tensor in run.everything()]
    with pytest.raises(RuntimeError, match=rf"ald_ext\.{kind.upper()}: param"):
        run.optimizer.step()
    for old, new in zip(before, run.everything(), strict=True):
        assert torch.equal(old, new)


@EVERY_KIND
def test_a_device_that_fails_in_a_later_group(device: torch.device, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No group is stepped twice. (That the first one was stepped at all nobody could know before.)"""
    run, careful = (Run(kind, device, careful, place=(1, 2)) for careful in (False, True))
    for _ in range(BEFORE):
        run.step()
        careful.step()
    write = ops.write
    for each in (run, careful):
        calls: list[Any] = []

        def fail_at_the_second(*args: Any, calls: list[Any] = calls, **kwargs: Any) -> None:
            calls.append(args)
            if len(calls) == 2:
                raise RuntimeError("out of memory")
            write(*args, **kwargs)

        monkeypatch.setattr(ops, "write", fail_at_the_second)
        with pytest.raises(RuntimeError, match="out of memory"):
            each.step()
        assert len(calls) == 2
        monkeypatch.setattr(ops, "write", write)
    for a, b in zip([*run.others, *run.params], [*careful.others, *careful.params], strict=True):
        assert torch.equal(a, b)


@EVERY_PLACE
def test_a_counter_that_cannot_be_advanced(device: torch.device, place: Place) -> None:
    """One of inference mode, outside of it. The parameters of its group are as they were."""
    run = Run("sgld", device, careful=False, place=place)
    for _ in range(BEFORE):
        run.step()
    with torch.inference_mode():
        run.group["step"] = torch.tensor(BEFORE)
    before = [param.clone() for param in run.params]
    with pytest.raises(RuntimeError, match="nference"):
        run.step()
    for old, new in zip(before, run.params, strict=True):
        assert torch.equal(old, new)


def test_a_failed_closure_and_a_failed_hook(device: torch.device) -> None:
    run = Run("sgld", device, careful=False)
    for _ in range(BEFORE):
        run.step()
    before = [tensor.clone() for tensor in run.everything()]

    def fail(*_: Any) -> Any:
        raise KeyError("no data")

    with pytest.raises(KeyError):
        run.optimizer.step(fail)
    run.optimizer.register_step_pre_hook(fail)
    with pytest.raises(KeyError):
        run.optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(run.everything(), before, strict=True))


# --- Version counters and threads ---


@EVERY_KIND
@EVERY_PLACE
def test_repeated_steps_count_their_writes(device: torch.device, kind: str, place: Place) -> None:
    run = Run(kind, device, careful=False, place=place)
    for _ in range(BEFORE):
        run.step()
    written = [*run.params, *run.others, *(state for entry in run.optimizer.state.values() for state in entry.values())]
    versions = [tensor._version for tensor in written]
    loss = run.params[0].square().sum()  # keeps the parameter for its backward
    run.give_gradients()
    grads = [param.grad for param in run.params]
    plan = run.optimizer._plan
    run.optimizer.step()
    assert run.optimizer._plan is plan, "a repeated step"
    assert [tensor._version for tensor in written] == [version + 1 for version in versions]
    assert [grad._version for grad in grads if grad is not None] == [0] * len(grads)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@EVERY_KIND
@pytest.mark.parametrize("dtype", ops.PARAMETER_DTYPES, ids=str)
def test_threads_do_not_matter(restore_threads: None, kind: str, dtype: torch.dtype) -> None:
    """Repeated steps of 1, 2 and 3 threads in turn, of tensors that are divided among them."""
    finals = []
    for threads in ([1] * 6, [1, 2, 3, 1, 2, 3], [3] * 6):
        param = torch.linspace(-1, 1, 70_001, dtype=torch.float64).to(dtype)
        optimizer = OPTIMIZERS[kind]([param], 0.01, num_data=10, seed=1)
        for count in threads:
            torch.set_num_threads(count)
            param.grad = param.clone()
            optimizer.step()
        assert optimizer._plan is not None
        finals.append(param)
    assert torch.equal(finals[0], finals[1])
    assert torch.equal(finals[0], finals[2])
