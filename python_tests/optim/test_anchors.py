"""Anchored priors: the steps with localization."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from optim.optimizers import EVERY_IMPLEMENTATION, mean_loss, network
from torch import Tensor

from ald_ext import PSGLD, SGHMC, SGLD, SGNHT, ops
from ald_ext.optim.base import LangevinOptimizer

EVERY_CLASS = pytest.mark.parametrize("optimizer_class", [SGLD, PSGLD, SGHMC, SGNHT])

OPTIONS: dict[str, Any] = {"lr": 0.01, "num_data": 20, "temperature": 0.5, "weight_decay": 0.1, "seed": 7}
LOCALIZATION = 30.0

SHAPES = [(5, 7), (), (0,), (100,), (2, 3, 4)]


def params_and_anchors(device: torch.device, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], list[Tensor]]:
    torch.manual_seed(3)
    params = [torch.randn(shape).to(device, dtype) for shape in SHAPES]
    params[0] = params[0].t()
    return params, [torch.randn_like(param) for param in params]


def slope(param: Tensor) -> Tensor:
    return param.detach().sin()


def trajectory(optimizer: torch.optim.Optimizer, params: list[Tensor], steps: int, pull: Any = None) -> None:
    for _ in range(steps):
        for k, param in enumerate(params):
            param.grad = slope(param) if pull is None else slope(param) + pull(k, param)
        optimizer.step()


@pytest.mark.parametrize("maximize", [False, True])
@EVERY_IMPLEMENTATION
@EVERY_CLASS
def test_the_step_is_one_with_the_pull_in_the_gradient(
    device: torch.device, optimizer_class: type[LangevinOptimizer], flags: dict[str, bool], maximize: bool
) -> None:
    """The gradient of γ/(2N)·‖θ - θ₀‖² is added by hand on the other side; descended whatever ``maximize`` is."""
    params, anchors = params_and_anchors(device)
    others, _ = params_and_anchors(device)
    options = {**OPTIONS, "maximize": maximize, **flags}
    anchored = optimizer_class(params, **options, localization=LOCALIZATION, anchors=anchors)
    trajectory(anchored, params, 20)
    scale = (-1 if maximize else 1) * LOCALIZATION / OPTIONS["num_data"]
    plain = optimizer_class(others, **options)
    trajectory(plain, others, 20, lambda k, param: scale * (param.detach() - anchors[k]))
    for param, other, anchor in zip(params, others, anchors, strict=True):
        torch.testing.assert_close(param, other, rtol=1e-12, atol=1e-12)
        assert torch.equal(anchored.state[param]["anchor"], anchor)


@EVERY_CLASS
def test_no_localization_is_the_step_without(device: torch.device, optimizer_class: type[LangevinOptimizer]) -> None:
    """The same bits, states and options."""
    params, _ = params_and_anchors(device, torch.float32)
    others, _ = params_and_anchors(device, torch.float32)
    first, second = optimizer_class(params, **OPTIONS, localization=0.0), optimizer_class(others, **OPTIONS)
    trajectory(first, params, 3)
    trajectory(second, others, 3)
    assert all(map(torch.equal, params, others))
    assert first.param_groups[0].keys() == second.param_groups[0].keys()
    assert all("anchor" not in state for state in first.state.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@EVERY_CLASS
def test_16_bit_parameters_are_pulled_in_float32(
    device: torch.device, optimizer_class: type[LangevinOptimizer], dtype: torch.dtype
) -> None:
    """An anchor of a parameter is in float32, between two values of the parameter's dtype."""
    target = 1.0 + 2.0**-12
    param = torch.ones(20000, dtype=dtype, device=device)
    options: dict[str, Any] = {"lr": 0.25, "num_data": 1, "temperature": 0.0, "seed": 1}
    if optimizer_class is PSGLD:
        options |= {"eps": 1.0, "freeze_after": 0}  # v = 0, so that G is 1
    anchor = torch.full((20000,), target, device=device)
    optimizer = optimizer_class([param], **options, localization=1.0, anchors=[anchor])
    param.grad = torch.zeros_like(param)
    optimizer.step()
    assert optimizer.state[param]["anchor"].dtype == torch.float32
    moved = param.double().mean().item() - 1
    rate = {SGLD: 0.25, PSGLD: 0.25, SGHMC: 0.25 * 0.95, SGNHT: 0.25 * (1 + math.exp(-0.1)) / 2}[optimizer_class]
    unit = torch.finfo(dtype).eps
    probability = rate * 2.0**-12 / unit
    # Five standard errors of the mean of that many roundings.
    assert moved == pytest.approx(rate * 2.0**-12, abs=5 * unit * math.sqrt(probability / 20000))


@pytest.mark.parametrize("optimizer_class", [SGLD, SGHMC])
def test_stationary_distribution(optimizer_class: type[LangevinOptimizer]) -> None:
    """N(0, 1) as a likelihood of 20 data, at T: mean and variance of its product with the prior around 2."""
    n, temperature, localization, anchor, chains = 20, 0.5, 60.0, 2.0, 20000
    theta = torch.zeros(chains, dtype=torch.float64)
    anchors = [torch.full_like(theta, anchor)]
    optimizer = optimizer_class(
        [theta], 0.02, num_data=n, temperature=temperature, localization=localization, anchors=anchors, seed=2
    )
    for _ in range(300):
        theta.grad = theta.clone()
        optimizer.step()
    precision = (n + localization) / temperature
    mean = localization * anchor / (n + localization)
    # SGLD's own variance at this lr, 1/(1 - lr·a/2) times that of lr → 0, a = 1 + γ/N; BAOAB's is exact.
    inflation = 1 / (1 - 0.02 * (1 + localization / n) / 2) if optimizer_class is SGLD else 1.0
    variance = inflation / precision
    assert theta.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(variance / chains))
    assert theta.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / chains))


def test_fine_tuning_towards_where_it_began() -> None:
    """L2-SP: at T = 0, torch's SGD on the loss with the penalty."""
    torch.manual_seed(0)
    ours, theirs = torch.randn(2, 3, dtype=torch.float64), torch.empty(2, 3, dtype=torch.float64)
    theirs.copy_(ours)
    start = ours.clone()
    optimizer = SGLD([ours], 0.1, num_data=50, temperature=0, localization=10.0)
    other = torch.optim.SGD([theirs], 0.1)
    for _ in range(10):
        ours.grad, theirs.grad = slope(ours), slope(theirs) + 10.0 / 50 * (theirs - start)
        optimizer.step()
        other.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)


@EVERY_IMPLEMENTATION
@EVERY_CLASS
def test_resuming(device: torch.device, optimizer_class: type[LangevinOptimizer], flags: dict[str, bool]) -> None:
    """Bit for bit, from a file, also before the first step; parameters have moved from the anchors by then."""
    for before in (0, 3):
        params, _ = params_and_anchors(device, torch.float32)
        optimizer = optimizer_class(params, **OPTIONS, localization=LOCALIZATION, **flags)
        trajectory(optimizer, params, before)
        file = io.BytesIO()
        torch.save([params, optimizer.state_dict()], file)
        file.seek(0)
        others, state_dict = torch.load(file, weights_only=True)
        resumed = optimizer_class(others, **{**OPTIONS, "seed": None}, localization=1.0, **flags)
        for other in others:
            resumed.state[other]["anchor"].fill_(100.0)
        resumed.load_state_dict(state_dict)
        trajectory(optimizer, params, 3)
        trajectory(resumed, others, 3)
        assert all(map(torch.equal, params, others))


def test_a_state_without_anchors_leaves_them() -> None:
    param = torch.zeros(3)
    optimizer = PSGLD([param], **OPTIONS, localization=2.0, anchors=[torch.ones(3)])
    other = torch.optim.RMSprop([torch.zeros(3)], lr=0.1)
    other.param_groups[0]["params"][0].grad = torch.ones(3)
    other.step()
    with pytest.warns(UserWarning, match="got the state of torch.optim.RMSprop"):
        optimizer.load_state_dict(other.state_dict())
    assert optimizer.param_groups[0]["localization"] == 2.0
    assert torch.equal(optimizer.state[param]["anchor"], torch.ones(3))


def test_a_state_without_localization_ends_it_with_a_warning() -> None:
    """Of one group of two; the anchor waits for the option to be set again."""
    params, saved = [torch.zeros(3), torch.zeros(2)], [torch.ones(3), torch.ones(2)]
    groups = [{"params": params[:1], "localization": 2.0}, {"params": params[1:], "localization": 3.0}]
    optimizer = SGLD(groups, **OPTIONS)
    plain = SGLD([{"params": saved[:1], "localization": 5.0}, {"params": saved[1:]}], **OPTIONS)
    with pytest.warns(UserWarning, match="got a state without localization, which replaces that of 3.0: set"):
        optimizer.load_state_dict(plain.state_dict())
    assert [group.get("localization") for group in optimizer.param_groups] == [5.0, None]
    assert torch.equal(optimizer.state[params[0]]["anchor"], saved[0])
    assert torch.equal(optimizer.state[params[1]]["anchor"], torch.zeros(2))


@EVERY_IMPLEMENTATION
def test_groups_with_and_without(device: torch.device, flags: dict[str, bool]) -> None:
    """Each group by its own γ; one that gets it later is anchored where it is then, as is a cast parameter."""
    params, _ = params_and_anchors(device)
    others, _ = params_and_anchors(device)
    anchored, free = params[:2], params[2:]
    optimizer = SGHMC([{"params": anchored, "localization": 5.0}, {"params": free}], **OPTIONS, **flags)
    trajectory(optimizer, params, 2)
    apart = SGHMC(others, **OPTIONS, **flags)
    trajectory(apart, others, 2)
    assert all(map(torch.equal, free, others[2:]))
    assert not torch.equal(params[0], others[0])
    where = [param.clone() for param in free]
    optimizer.param_groups[1]["localization"] = 3.0
    trajectory(optimizer, params, 2)
    assert all(torch.equal(optimizer.state[param]["anchor"], there) for param, there in zip(free, where, strict=True))
    params[3].data = params[3].data.float()
    trajectory(optimizer, params, 1)
    assert optimizer.state[params[3]]["anchor"].dtype == torch.float32


@EVERY_CLASS
def test_compiled_and_capturable(device: torch.device, optimizer_class: type[LangevinOptimizer]) -> None:
    """The bits of the plain call."""
    results = []
    for how in ("plain", "capturable", "compiled"):
        torch._dynamo.reset()
        model = network(device)
        anchors = [torch.full_like(param, 0.5) for param in model.parameters()]
        optimizer = optimizer_class(
            model.parameters(), **OPTIONS, localization=LOCALIZATION, anchors=anchors, capturable=how == "capturable"
        )
        step = torch.compile(optimizer.step, backend="aot_eager", fullgraph=True) if how == "compiled" else None
        for _ in range(3):
            optimizer.zero_grad()
            mean_loss(model).backward()
            (step or optimizer.step)()
        results.append([param.detach() for param in model.parameters()])
    for others in results[1:]:
        assert all(map(torch.equal, results[0], others))


def test_anchors_are_read_and_may_be_shared(device: torch.device) -> None:
    """The op counts no write to them, and writes to nothing that they share memory with."""
    params = [torch.zeros(5, device=device), torch.ones(5, device=device)]
    anchor = torch.full((5,), 2.0, device=device)
    settings = {"lr": 0.1, "num_data": 1.0, "temperature": 0.0, "weight_decay": 0.0, "maximize": False}
    settings |= {"localization": 1.0, "seed": 0, "step": 1, "noise_ids": (), "offsets": ()}
    versions = params[0]._version, anchor._version
    grads = [torch.zeros_like(anchor)] * 2
    ops.run_step("sgld_anchored_step_", [params, grads, [anchor, anchor]], settings)
    assert (params[0]._version, anchor._version) == (versions[0] + 1, versions[1])
    torch.testing.assert_close(params, [torch.full_like(anchor, 0.2), torch.full_like(anchor, 1.1)])
    with pytest.raises(RuntimeError, match="grads, anchors: got memory that the step writes"):
        ops.run_step("sgld_anchored_step_", [params, grads, [anchor, params[1]]], settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"localization": -1.0}, "localization: got -1.0, expected a finite number >= 0"),
        ({"localization": math.nan}, "localization: got nan, expected a finite number >= 0"),
        ({"anchors": [torch.zeros(3)]}, "anchors: got anchors with a localization of 0, .*expected a localization > 0"),
        ({"localization": 1.0, "anchors": []}, "anchors: got 0 tensors, expected 1, one for each parameter"),
        ({"localization": 1.0, "anchors": 5}, "anchors: got 5, expected one tensor for each parameter"),
        *(
            ({"localization": 1.0, "anchors": [anchor]}, r"anchors\[0\]: got .*expected .* real numbers of shape \[3\]")
            for anchor in (
                None,
                torch.zeros(4),
                torch.zeros(3, dtype=torch.complex64),
                torch.zeros(3, device="meta"),
                torch.zeros(3).to_sparse(),
            )
        ),
    ],
    ids=str,
)
def test_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SGLD([torch.zeros(3)], 0.1, num_data=1, **options)
