"""The optimizers step by step: torch's optimizers at temperature 0, the update equation with noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optim.optimizers import mean_loss, network, train
from torch import Tensor, nn

from ald_ext import PSGLD, SGHMC, SGLD, SGNHT, ops, reference
from ald_ext.optim.base import LangevinOptimizer

IMPLEMENTATIONS: dict[str, dict[str, bool | None]] = {
    "default": {},
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "plain": {"fused": False},
}
EVERY_IMPLEMENTATION = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
EVERY_CLASS = pytest.mark.parametrize("optimizer_class", [SGLD, PSGLD, SGHMC, SGNHT])

#: Relative rounding error of one update: a handful of roundings of terms smaller than the parameters.
STEP_TOLERANCE = {torch.float32: 4 * 2.0**-24, torch.float64: 4 * 2.0**-53}


def groups(model: nn.Sequential, **second: Any) -> list[dict[str, Any]]:
    return [{"params": list(model[0].parameters())}, {"params": list(model[2].parameters()), **second}]


def all_values(model: nn.Module) -> Tensor:
    return torch.cat([param.detach().flatten().double() for param in model.parameters()])


def relative_difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


# --- Temperature 0: torch.optim's optimizers ---


def heavy_ball(params: Any, lr: float, momentum: float, **options: Any) -> torch.optim.Optimizer:
    """torch.optim.SGD, of SGHMC's lr."""
    factor = (1 + momentum) / 2
    given = [param if isinstance(param, dict) else {"params": [param]} for param in params]
    given = [{**group, "lr": factor * group.get("lr", lr)} for group in given]
    return torch.optim.SGD(given, lr, momentum=momentum, **options)


TorchOptimizer = Callable[..., torch.optim.Optimizer]

#: Ours, torch's, and the options that both take. lr/eps is below 2/curvature: else RMSprop's trajectory is chaotic near
#: the minimum and says nothing. (A small eps: test_each_cold_step_is_torchs.)
#: SGHMC's lr is that of the time step.
COLD: dict[str, tuple[TorchOptimizer, TorchOptimizer, dict[str, float]]] = {
    "sgd": (SGLD, torch.optim.SGD, {"lr": 0.02}),
    "rmsprop": (PSGLD, torch.optim.RMSprop, {"lr": 0.001, "alpha": 0.95, "eps": 0.01}),
    "heavy_ball": (SGHMC, heavy_ball, {"lr": 0.01, "momentum": 0.8}),
}
EVERY_COLD = pytest.mark.parametrize("kind", COLD)

SHARED = [{"weight_decay": 0.0}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "maximize": True}]


@pytest.mark.parametrize("shared", SHARED, ids=str)
@EVERY_IMPLEMENTATION
@EVERY_COLD
def test_cold_trajectory_is_torchs(
    device: torch.device, kind: str, implementation: str, shared: dict[str, Any]
) -> None:
    """200 steps in float64, in two groups. The trajectories share every rounding but a few a step."""
    ours, torchs, own = COLD[kind]
    second = {"lr": 0.002, "weight_decay": 0.05}
    models = [network(device, torch.float64) for _ in range(2)]
    options = {**own, **shared}
    cold = ours(
        groups(models[0], **second), num_data=123, temperature=0.0, **options, **IMPLEMENTATIONS[implementation]
    )
    reference = torchs(groups(models[1], **second), **options)
    start = all_values(models[0])
    train(models[0], cold, 200)
    train(models[1], reference, 200)
    assert relative_difference(all_values(models[1]), start) > 0.1, "the optimizer went nowhere"
    # 200 steps' roundings of 2^-53, amplified by at most the growth of the trajectory under maximize.
    assert relative_difference(all_values(models[0]), all_values(models[1])) < 1e-12


@DTYPES
@EVERY_IMPLEMENTATION
@EVERY_COLD
def test_each_cold_step_is_torchs(device: torch.device, kind: str, implementation: str, dtype: torch.dtype) -> None:
    """Step by step from the same point: nothing but the roundings of one update, element by element."""
    ours, torchs, own = COLD[kind]
    models = [network(device, dtype) for _ in range(2)]
    options = {**own, "lr": 0.005, "weight_decay": 0.1}
    if kind == "rmsprop":
        options["eps"] = 1e-8
    cold = ours(models[0].parameters(), num_data=1, temperature=0.0, **options, **IMPLEMENTATIONS[implementation])
    reference = torchs(models[1].parameters(), **options)
    for _ in range(20):
        train(models[1], reference, 1)
        train(models[0], cold, 1)
        for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
            # lr bounds the update: |g| / (sqrt(v) + eps) < 5 at alpha = 0.95, and gradients are below 10.
            torch.testing.assert_close(a, b, rtol=STEP_TOLERANCE[dtype], atol=10 * 0.005 * 8 * STEP_TOLERANCE[dtype])
            a.data.copy_(b.data)
        if kind == "rmsprop":
            for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
                cold.state[a]["square_avg"].copy_(reference.state[b]["square_avg"])
        if kind == "heavy_ball":
            for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
                # p before the next kick, of torch's sum of gradients.
                scale = -options["momentum"] * options["lr"] ** 0.5
                cold.state[a]["momentum_buffer"].copy_(scale * reference.state[b]["momentum_buffer"])


# --- With noise: the update equation, with the op's own noise ---


class Recursion:
    """The steps of ald_ext.reference in float64, with the op's noise, of parameters in their order."""

    def __init__(self, params: list[Tensor], kind: type[LangevinOptimizer], **options: Any) -> None:
        self.theta = [param.detach().cpu().clone() for param in params]
        self.states = [[torch.zeros_like(theta) for theta in self.theta] for _ in kind.state_names]
        self.kind, self.options, self.step_number = kind, options, 0

    def step(self, grads: list[Tensor], adapt: bool = True) -> None:
        self.step_number += 1
        own = {"freeze_after": ops.NEVER if adapt else -1} if self.kind is PSGLD else {}
        noise = {"noise_ids": range(len(grads)), "offsets": [0] * len(grads), "normal": ops.normal}
        step_ = getattr(reference, self.kind.step_name)
        step_(self.theta, grads, *self.states, **self.options, **own, step=self.step_number, **noise)


COMMON = {"lr": 0.01, "num_data": 20, "temperature": 0.5, "weight_decay": 0.1, "seed": 77}
PRECONDITIONER = {"alpha": 0.9, "eps": 0.05}
OWN: dict[type[LangevinOptimizer], dict[str, float]] = {
    SGLD: {},
    PSGLD: PRECONDITIONER,
    SGHMC: {"momentum": 0.7},
    SGNHT: {"diffusion": 0.3},
}

#: How far a parameter may be from the float64 recursion after 30 steps: float64 roundings, and the plain versions'
#: noise, which is the reference's (test_noise.py: 1e-14 from the kernel's).
DRIFT = 1e-12


def recursion_gradients(recursion: Recursion, model: nn.Sequential) -> list[Tensor]:
    """The gradients at the recursion's own point."""
    copy = network(torch.device("cpu"), torch.float64)
    for param, theta in zip(copy.parameters(), recursion.theta, strict=True):
        param.data.copy_(theta)
    return list(torch.autograd.grad(mean_loss(copy), list(copy.parameters())))


@pytest.mark.parametrize("maximize", [False, True])
@EVERY_IMPLEMENTATION
@EVERY_CLASS
def test_noisy_trajectory(
    device: torch.device, optimizer_class: type[torch.optim.Optimizer], implementation: str, maximize: bool
) -> None:
    own = OWN[optimizer_class]
    model = network(device, torch.float64)
    params = list(model.parameters())
    recursion = Recursion(params, optimizer_class, **COMMON, **own, maximize=maximize)
    optimizer = optimizer_class(groups(model), **COMMON, **own, maximize=maximize, **IMPLEMENTATIONS[implementation])
    for _ in range(30):
        recursion.step(recursion_gradients(recursion, model))
        train(model, optimizer, 1)
    for param, theta in zip(params, recursion.theta, strict=True):
        torch.testing.assert_close(param.detach().cpu(), theta, rtol=DRIFT, atol=DRIFT)


@EVERY_IMPLEMENTATION
@pytest.mark.parametrize("how", ["freeze_after", "freeze_preconditioner"])
def test_frozen_preconditioner(device: torch.device, implementation: str, how: str) -> None:
    """v adapts in the first 7 steps and stays from then on; the recursion knows when."""
    param = torch.linspace(-1, 1, 50, dtype=torch.float64, device=device)
    recursion = Recursion([param], PSGLD, **COMMON, **PRECONDITIONER, maximize=False)
    freeze_after = 7 if how == "freeze_after" else None
    optimizer = PSGLD([param], **COMMON, **PRECONDITIONER, freeze_after=freeze_after, **IMPLEMENTATIONS[implementation])
    for step in range(1, 21):
        gradient = torch.linspace(0, 5, 50, dtype=torch.float64).mul(step).sin()
        param.grad = gradient.to(device)
        recursion.step([gradient], adapt=step <= 7)
        optimizer.step()
        if step == 7:
            kept = optimizer.state[param]["square_avg"].clone()
            if how == "freeze_preconditioner":
                optimizer.freeze_preconditioner()
    assert torch.equal(optimizer.state[param]["square_avg"], kept)
    torch.testing.assert_close(param.cpu(), recursion.theta[0], rtol=DRIFT, atol=DRIFT)


def test_freeze_after_zero_never_adapts(device: torch.device) -> None:
    param = torch.zeros(4, device=device)
    optimizer = PSGLD([param], 0.1, num_data=1, temperature=0, eps=0.5, freeze_after=0)
    param.grad = torch.ones_like(param)
    optimizer.step()
    assert (optimizer.state[param]["square_avg"] == 0).all()
    # G = 1 / eps = 2.
    torch.testing.assert_close(param, torch.full_like(param, -0.2), rtol=2.0**-22, atol=0)


@EVERY_CLASS
def test_num_data_and_the_sum(device: torch.device, optimizer_class: type[torch.optim.Optimizer]) -> None:
    """L = U/N with num_data = N is U with num_data = 1 and lr/N; PSGLD once v is scaled alike and frozen."""
    n = 50
    finals = []
    for scale, num_data, lr in [(1.0, n, 0.1), (float(n), 1, 0.1 / n)]:
        param = torch.linspace(-1, 1, 40, dtype=torch.float64, device=device)
        frozen: dict[str, Any] = {"freeze_after": 0, "eps": 0.5} if optimizer_class is PSGLD else {}
        optimizer = optimizer_class([param], lr, num_data=num_data, seed=5, **frozen)
        for _ in range(20):
            param.grad = scale * param.sin()
            optimizer.step()
        finals.append(param)
    # The same numbers, but for the rounding of lr/N.
    torch.testing.assert_close(finals[0], finals[1], rtol=DRIFT, atol=DRIFT)


# --- Which implementation runs ---


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the implementations that steps go through."""
    names: list[str] = []
    run = LangevinOptimizer._run

    def recorded(self: LangevinOptimizer, implementation: str, *args: Any, **settings: Any) -> None:
        run(self, implementation, *args, **settings)
        names.append(implementation)

    monkeypatch.setattr(LangevinOptimizer, "_run", recorded)
    return names


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, "fused"),
        ({"fused": True}, "fused"),
        ({"fused": True, "foreach": False}, "fused"),
        ({"fused": False}, "reference"),
        ({"foreach": True}, "foreach"),
        ({"foreach": True, "fused": False}, "foreach"),
        ({"foreach": False}, "fused"),
    ],
    ids=str,
)
@EVERY_CLASS
def test_flags_choose_the_implementation(
    device: torch.device,
    used: list[str],
    optimizer_class: type[torch.optim.Optimizer],
    flags: dict[str, bool],
    expected: str,
) -> None:
    param = torch.zeros(3, device=device)
    param.grad = torch.ones_like(param)
    optimizer_class([param], 0.1, num_data=1, **flags).step()
    assert used == [expected]


def test_dtypes_and_groups_are_stepped_apart(device: torch.device, used: list[str]) -> None:
    params = [torch.zeros(3, dtype=dtype, device=device) for dtype in (torch.float32, torch.float64, torch.float32)]
    for param in params:
        param.grad = torch.ones_like(param)
    SGLD([{"params": params[:2]}, {"params": params[2:], "fused": False}], 0.1, num_data=1, seed=1).step()
    assert used == ["fused", "fused", "reference"]
    scale = math.sqrt(0.2)
    for k, param in enumerate(params):
        xi = ops.normal(3, seed=1, step=1, parameter=k, dtype=param.dtype).double()
        # float32: roundings of numbers below 2, and the plain implementation's noise.
        torch.testing.assert_close(param.cpu().double(), -0.1 + scale * xi, rtol=0, atol=2e-6)


def test_options_may_be_tensors_and_integers() -> None:
    """The step of equal floats, bit for bit."""
    options = {"lr": 0.5, "num_data": 10.0, "temperature": 1.0, "weight_decay": 0.0}
    results = []
    for cast in (float, int, torch.tensor):
        param = torch.nn.Parameter(torch.ones(100))
        param.grad = torch.full((100,), 0.1)
        others = {name: cast(value) for name, value in options.items() if name != "lr"}
        SGLD([param], lr=torch.tensor(0.5) if cast is torch.tensor else 0.5, seed=1, **others).step()
        results.append(param.detach())
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
