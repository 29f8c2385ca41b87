"""Bad input to the optimizers: one error that names the optimizer, the argument, what was got and what was expected;
and no parameter, state or step counter has changed then."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optim.optimizers import FLAGS
from torch import Tensor, nn

from ald_ext import PSGLD, SGHMC, SGLD, SGNHT

OPTIMIZERS: dict[str, Callable[..., Any]] = {kind.__name__: kind for kind in (SGLD, PSGLD, SGHMC, SGNHT)}
EVERY_KIND = pytest.mark.parametrize("name", OPTIMIZERS)

INFINITY, NAN = math.inf, math.nan


# --- Options ---

BAD_OPTIONS: list[tuple[str, Any, str]] = [
    *[("lr", value, "expected a finite number >= 0") for value in (-0.1, INFINITY, NAN, "0.1", None)],
    *[("temperature", value, "expected a finite number >= 0") for value in (-1.0, INFINITY, NAN)],
    *[("weight_decay", value, "expected a finite number >= 0") for value in (-1e-9, NAN)],
    *[("num_data", value, "expected a finite number > 0") for value in (0, -5, INFINITY, NAN, None)],
    *[("seed", value, "expected an integer, 0 <= seed < 2**63") for value in (-1, 2**63, 1.5, "1")],
    ("lr", torch.tensor(-0.1), "expected a finite number >= 0"),
    ("lr", torch.tensor([0.1, 0.2]), "expected one"),
]

BAD_PSGLD_OPTIONS: list[tuple[str, Any, str]] = [
    *[("eps", value, "expected a finite number >= 0") for value in (-1e-8, INFINITY, NAN)],
    ("eps", 0, "expected > 0"),
    *[("alpha", value, "expected 0 <= alpha < 1") for value in (-0.1, 1.0, 1.5, NAN)],
    *[("freeze_after", value, "expected None or an integer >= 0") for value in (-1, 2.5, "x")],
]

BAD_SGHMC_OPTIONS: list[tuple[str, Any, str]] = [
    ("momentum", value, "expected 0 <= momentum < 1") for value in (-0.1, 1.0, 1.5, NAN)
]

BAD_SGNHT_OPTIONS: list[tuple[str, Any, str]] = [
    ("diffusion", value, "expected a finite number > 0") for value in (-0.1, 0.0, INFINITY, NAN)
]


def message(name: str, option: str, expected: str) -> str:
    return rf"ald_ext\.{name}: {option}: got .*{re.escape(expected)}"


@pytest.mark.parametrize(
    ("name", "option", "value", "expected"),
    [
        *((name, *bad) for name in OPTIMIZERS for bad in BAD_OPTIONS),
        *(("PSGLD", *bad) for bad in BAD_PSGLD_OPTIONS),
        *(("SGHMC", *bad) for bad in BAD_SGHMC_OPTIONS),
        *(("SGNHT", *bad) for bad in BAD_SGNHT_OPTIONS),
    ],
    ids=str,
)
def test_bad_options(name: str, option: str, value: Any, expected: str) -> None:
    param = torch.zeros(3)
    options = {"lr": 0.1, "num_data": 10, "seed": 1, option: value}
    with pytest.raises(ValueError, match=message(name, option, expected)):
        OPTIMIZERS[name]([param], **options)
    with pytest.raises(ValueError, match=message(name, option, expected)):
        OPTIMIZERS[name]([{"params": [param], option: value}], lr=0.1, num_data=10)
    optimizer = OPTIMIZERS[name]([param], 0.1, num_data=10)
    with pytest.raises(ValueError, match=message(name, option, expected)):
        optimizer.add_param_group({"params": [torch.zeros(3)], option: value})
    assert len(optimizer.param_groups) == 1


@EVERY_KIND
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"foreach": True, "fused": True}, "fused, foreach: got True for both, expected one"),
        ({"capturable": True, "foreach": True}, "capturable: got True with .*expected fused=True or None"),
        ({"capturable": True, "fused": False}, "capturable: got True with .*expected fused=True or None"),
    ],
    ids=str,
)
def test_flags_that_exclude_each_other(name: str, flags: dict[str, bool], expected: str) -> None:
    with pytest.raises(ValueError, match=rf"ald_ext\.{name}: {expected}"):
        OPTIMIZERS[name]([torch.zeros(3)], 0.1, num_data=10, **flags)


@EVERY_KIND
def test_num_data_must_be_given(name: str) -> None:
    """There is no good default: a forgotten num_data would be a wrong temperature."""
    with pytest.raises(TypeError, match="num_data"):
        OPTIMIZERS[name]([torch.zeros(3)], 0.1)


def test_eps_of_zero_is_fine_without_noise() -> None:
    PSGLD([torch.zeros(3)], 0.1, num_data=10, temperature=0, eps=0)


@EVERY_KIND
def test_no_parameters(name: str) -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        OPTIMIZERS[name]([], 0.1, num_data=10)


# --- Steps ---


class Trial:
    """An optimizer of two groups, with a good parameter in each, after one good step."""

    def __init__(self, name: str, device: torch.device, **flags: bool) -> None:
        self.name = name
        self.good = [nn.Parameter(torch.ones(4, device=device)) for _ in range(2)]
        groups = [{"params": [param]} for param in self.good]
        self.optimizer = OPTIMIZERS[name](groups, 0.1, num_data=10, seed=1, **flags)
        self.give_gradients()
        self.optimizer.step()

    def give_gradients(self) -> None:
        for param in self.good:
            param.grad = torch.ones_like(param)

    def add(self, *params: Tensor) -> None:
        """Behind the good parameter of the first group: a step that is refused changes nothing of its group."""
        self.optimizer.param_groups[0]["params"] += params

    def check_refused(self, *parts: str) -> None:
        """The step raises an error with all the parts, and leaves everything as it was."""
        params = [param.detach().clone() for param in self.good]
        state = copy.deepcopy(self.optimizer.state_dict())
        with pytest.raises(RuntimeError) as error:
            self.optimizer.step()
        for part in (self.name, *parts):
            assert part in str(error.value)
        assert all(torch.equal(a, b) for a, b in zip(self.good, params, strict=True)), "a parameter changed"
        now = self.optimizer.state_dict()
        assert [group["step"] for group in now["param_groups"]] == [group["step"] for group in state["param_groups"]]
        assert now["state"].keys() == state["state"].keys(), "state appeared"
        for key, entries in state["state"].items():
            assert all(torch.equal(now["state"][key][entry], value) for entry, value in entries.items())


@EVERY_KIND
def test_options_that_change_between_steps(name: str) -> None:
    """Options of the second group that are written to, in place too, count at the next step; bad ones are refused."""
    trial = Trial(name, torch.device("cpu"))
    group, noise = trial.optimizer.param_groups[1], {}
    for temperature in (0.0, 1.0, torch.tensor(0.0, dtype=torch.float64)):
        group["temperature"] = temperature
        trial.optimizer.state.clear()  # SGHMC's momenta remember noise
        before = trial.good[1].detach().clone()
        trial.optimizer.step()
        noise[float(temperature)] = (trial.good[1] - before).std().item()
    assert noise[0.0] == pytest.approx(0, abs=1e-6)
    assert noise[1.0] > 1e-3
    group["temperature"].fill_(-1.0)
    steps = [int(group["step"]) for group in trial.optimizer.param_groups]
    params = [param.detach().clone() for param in trial.good]
    with pytest.raises(ValueError, match=message(name, "temperature", "expected a finite number >= 0")):
        trial.optimizer.step()
    assert steps == [int(group["step"]) for group in trial.optimizer.param_groups]
    assert all(map(torch.equal, params, trial.good))
    group["temperature"] = 1.0
    trial.optimizer.step()


@pytest.fixture(params=FLAGS, ids=["fused", "foreach", "plain"])
def flags(request: pytest.FixtureRequest) -> dict[str, bool]:
    return request.param


#: Parameters, by what is wrong with them, and what the error says.
BAD: dict[str, tuple[Callable[[], Tensor], str]] = {
    **{
        str(dtype): (lambda dtype=dtype: torch.ones(3).to(dtype), f"got dtype {dtype}, expected one of torch.float32, ")
        for dtype in (torch.float8_e5m2, torch.complex64)
    },
    "every_second": (lambda: torch.ones(4, 6)[:, ::2], "got strides"),
    "columns": (lambda: torch.ones(4, 6)[:, :3], "got strides"),
    "expanded": (lambda: torch.ones(1, 6).expand(4, 6), "got strides"),
    "sparse": (lambda: torch.ones(4, 6), "got a sparse gradient, expected a dense one"),
}


@EVERY_KIND
@pytest.mark.parametrize("bad", BAD)
def test_bad_parameters(device: torch.device, name: str, flags: dict[str, bool], bad: str) -> None:
    trial = Trial(name, device, **flags)
    make, expected = BAD[bad]
    with device:
        param = make()
        gradient = torch.ones(param.shape).to(param.dtype)
    param.grad = gradient.to_sparse() if bad == "sparse" else gradient
    trial.add(param)
    strides = ["expected a tensor that fills its memory"] if "strides" in expected else []
    trial.check_refused(f"parameter 1: {expected}", *strides)


@EVERY_KIND
def test_bad_parameter_after_one_that_has_no_state_yet(device: torch.device, name: str, flags: dict[str, bool]) -> None:
    """The first gradient of a good parameter comes in the step that fails: it must not get state."""
    trial = Trial(name, device, **flags)
    fresh, bad = (nn.Parameter(torch.ones(3, dtype=d, device=device)) for d in (torch.float32, torch.complex64))
    trial.add(fresh, bad)
    fresh.grad, bad.grad = torch.ones_like(fresh), torch.ones_like(bad)
    trial.check_refused("parameter 2: got dtype torch.complex64")
    assert (fresh == 1).all()


@EVERY_KIND
@pytest.mark.parametrize(
    ("option", "value"),
    [("lr", -0.1), ("lr", NAN), ("lr", torch.tensor(-0.1)), ("temperature", -1.0), ("num_data", 0), ("num_data", -1)],
    ids=str,
)
def test_an_option_that_became_bad(
    device: torch.device, name: str, flags: dict[str, bool], option: str, value: Any
) -> None:
    """Groups are plain dictionaries: schedulers and users write to them. The second group is bad, the first good."""
    trial = Trial(name, device, **flags)
    before = [param.detach().clone() for param in trial.good]
    trial.optimizer.param_groups[1][option] = value
    with pytest.raises((RuntimeError, ValueError), match=rf"{option}: got .*expected"):
        trial.optimizer.step()
    assert [group["step"] for group in trial.optimizer.param_groups] == [1, 1]
    assert all(torch.equal(a, b) for a, b in zip(trial.good, before, strict=True))


@EVERY_KIND
@pytest.mark.parametrize("flag", ["fused", "capturable"])
def test_fused_where_there_is_no_kernel(name: str, flag: str) -> None:
    param = nn.Parameter(torch.zeros(3, device="meta"))
    optimizer = OPTIMIZERS[name]([param], 0.1, num_data=10, **{flag: True})
    param.grad = torch.zeros_like(param)
    expected = r"parameter 0: fused or capturable: got True, .*meta.*expected fused=False or None"
    with pytest.raises(RuntimeError, match=expected):
        optimizer.step()
    if flag == "fused":  # else the counter is on meta, too
        assert optimizer.param_groups[0]["step"] == 0


def share_memory(params: list[Tensor]) -> None:
    params[1].data = params[0].data[1:]
    params[1].grad = torch.ones_like(params[1])


def share_memory_with_the_gradient(params: list[Tensor]) -> None:
    params[1].grad = params[0].data[1:]


def gradient_of_another_dtype(params: list[Tensor]) -> None:
    params[1].grad = None
    params[1].grad_dtype = torch.float64
    params[1].grad = torch.ones_like(params[1], dtype=torch.float64)


@EVERY_KIND
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("spoil", [share_memory, share_memory_with_the_gradient, gradient_of_another_dtype])
def test_gradients_and_memory_that_the_op_refuses(
    device: torch.device, name: str, flags: dict[str, bool], spoil: Callable[[list[Tensor]], None], fresh: bool
) -> None:
    """Parameters, states and step counter stay as they were. Before the first step, or later."""
    params: list[Tensor] = [nn.Parameter(torch.ones(n, device=device)) for n in (4, 3)]
    optimizer = OPTIMIZERS[name](params, 0.1, num_data=10, seed=1, **flags)
    for param in params:
        param.grad = torch.ones_like(param)
    if not fresh:
        optimizer.step()
    spoil(params)
    before = [param.detach().clone() for param in params]
    states = {param: copy.deepcopy(entry) for param, entry in optimizer.state.items()}
    with pytest.raises(RuntimeError, match=r"got .*expected"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
    for param, entry in states.items():
        assert all(torch.equal(optimizer.state[param][key], value) for key, value in entry.items())
    assert optimizer.param_groups[0]["step"] == (0 if fresh else 1)


@EVERY_KIND
def test_the_last_step(device: torch.device, name: str, flags: dict[str, bool]) -> None:
    """A noise key has 40 bits for the step."""
    param = nn.Parameter(torch.ones(4, device=device))
    optimizer = OPTIMIZERS[name]([param], 0.1, num_data=10, seed=1, **flags)
    optimizer.param_groups[0]["step"] = 2**40 - 3
    for _ in range(2):
        param.grad = torch.ones_like(param)
        optimizer.step()
    before = param.detach().clone()
    with pytest.raises(RuntimeError, match=r"step: got 1099511627776, expected 0 to 1099511627775"):
        optimizer.step()
    assert torch.equal(param, before)
    assert optimizer.param_groups[0]["step"] == 2**40 - 1


@EVERY_KIND
def test_a_failing_closure_changes_nothing(device: torch.device, name: str, flags: dict[str, bool]) -> None:
    trial = Trial(name, device, **flags)
    before = [param.detach().clone() for param in trial.good]

    def closure() -> float:
        raise KeyError("no data")

    with pytest.raises(KeyError, match="no data"):
        trial.optimizer.step(closure)
    assert all(torch.equal(a, b) for a, b in zip(trial.good, before, strict=True))
    assert [group["step"] for group in trial.optimizer.param_groups] == [1, 1]
