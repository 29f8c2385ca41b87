"""The self-check of samplers: it passes the right ones and finds planted faults, with the hint that names them."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import run
from corpus.metropolis_faults import FAULTS, RIGHT, MetropolisLangevin
from torch import Tensor

from ald_ext import PSGLD, SGLD
from ald_ext.samplers import GaussianPotential, LangevinDynamics
from ald_ext.samplers.check import CheckRun, check_optimizer, check_sampler
from ald_ext.samplers.check.targets import OptimizerChains, make_target
from ald_ext.samplers.check.verdicts import deviation_shrinks, find_hints, is_right, is_wrong

NUM_DATA = 10.0

#: Enough to tell the faults; by default the check takes four times as many.
REPLICAS = 1024


class FaultySGLD(torch.optim.Optimizer):
    """θ ← θ - drift·lr·∇L + noise·√(2·lr·T/N) ξ + shift: right if drift = noise = 1 and shift = 0."""

    def __init__(self, params: Any, lr: float = 0.2, **faults: float) -> None:
        super().__init__(params, {"lr": lr})
        self.faults = {"drift": 1.0, "noise": 1.0, "shift": 0.0, "temperature": 1.0, **faults}

    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            scale = self.faults["noise"] * (2 * group["lr"] * self.faults["temperature"] / NUM_DATA) ** 0.5
            for param in group["params"]:
                param.add_(param.grad, alpha=-group["lr"] * self.faults["drift"])
                param.add_(torch.randn_like(param), alpha=scale).add_(group["lr"] * self.faults["shift"])


class PSGLDWithPlainNoise(torch.optim.Optimizer):
    """√G is missing in the noise."""

    def __init__(self, params: Any, lr: float = 0.05) -> None:
        super().__init__(params, {"lr": lr})

    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                v = self.state[param].setdefault("square_avg", torch.zeros_like(param))
                v.mul_(0.99).addcmul_(param.grad, param.grad, value=0.01)
                param.sub_(group["lr"] * param.grad / (v.sqrt() + 0.1))
                param.add_(torch.randn_like(param), alpha=(2 * group["lr"] / NUM_DATA) ** 0.5)


class Metropolis:
    """A random walk, accepted or rejected: exact, and without a step size that could be halved."""

    def __init__(self, potential: GaussianPotential, z: Tensor, fault: float = 1.0) -> None:
        self.potential, self.z, self.fault = potential, z, fault

    def step(self) -> Tensor:
        proposal = self.z + 0.8 * torch.randn_like(self.z)
        difference = self.potential(None, self.z) - self.potential(None, proposal)
        accepted = torch.rand(len(self.z)).log() < self.fault * difference
        self.z = torch.where(accepted[:, None], proposal, self.z)
        return self.z


def check_faulty(**faults: float) -> Any:
    return check_optimizer(lambda params: FaultySGLD(params, **faults), num_data=NUM_DATA, num_replicas=REPLICAS)


@pytest.mark.parametrize(("temperature", "lr"), [(0.5, 0.5), (1.0, 0.5), (2.0, 0.5), (1.0, 0.05)])
def test_sgld_is_right(temperature: float, lr: float) -> None:
    report = check_optimizer(
        lambda params: SGLD(params, lr, num_data=NUM_DATA, temperature=temperature),
        temperature=temperature,
        num_data=NUM_DATA,
        num_replicas=REPLICAS,
    )
    assert report.ok, report
    assert report.hints == []
    # At the larger one the discretization is seen, in the stiffest direction, T/(λ(1 - hλ/2)), and told apart.
    if lr == 0.5:
        curvature = temperature / report.true_variances[0]
        expected = 1 / (1 - lr / NUM_DATA * curvature / 2)
        first = report.runs[0]
        assert abs(first.variance_ratios[0] - expected) < 5 * first.standard_errors[0]
        assert len(report.runs) > 1
        assert "vanishes with the step size" in report.message
        assert report.extrapolated_ratios is not None
        assert abs(report.extrapolated_ratios[0] - 1) < 0.1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_psgld_with_a_frozen_preconditioner_is_right(temperature: float) -> None:
    report = check_optimizer(
        lambda params: PSGLD(params, 0.05, num_data=NUM_DATA, temperature=temperature, freeze_after=200),
        temperature=temperature,
        num_data=NUM_DATA,
        num_replicas=REPLICAS,
    )
    assert report.ok, report


@pytest.mark.parametrize(
    ("faults", "ratio", "hint"),
    [
        ({"noise": 2**0.5}, 2.0, "noise too large by √2, drift too small by 2"),
        ({"drift": 0.5}, 2.0, "noise too large by √2, drift too small by 2"),
        ({"noise": NUM_DATA}, NUM_DATA**2, "noise too large by num_data"),
        ({"noise": NUM_DATA**0.5}, NUM_DATA, "noise too large by √num_data"),
        *(
            pytest.param(*fault, marks=pytest.mark.exhaustive)
            for fault in (
                ({"noise": 0.5**0.5}, 0.5, "noise too small by √2, drift too large by 2"),
                ({"drift": 2.0}, 0.5, "noise too small by √2, drift too large by 2"),
                ({"noise": 1 / NUM_DATA}, NUM_DATA**-2, "noise too small by num_data"),
                ({"noise": NUM_DATA**-0.5}, 1 / NUM_DATA, "noise too small by √num_data"),
            )
        ),
    ],
)
def test_planted_faults(faults: dict[str, float], ratio: float, hint: str) -> None:
    report = check_faulty(**faults)
    assert report.verdict == "wrong", report
    assert len(report.hints) == 1, report
    assert report.hints[0].startswith(hint)
    for measured, error in zip(report.runs[-1].variance_ratios, report.runs[-1].standard_errors, strict=True):
        # The discretization adds 7% in the stiffest direction, or the double of it.
        assert ratio - 5 * error <= measured <= 1.2 * ratio + 5 * error


class SharedNoise(torch.optim.Optimizer):
    """All parameters, or all chains, have the same noise."""

    def __init__(self, params: Any, shared_by: str) -> None:
        super().__init__(params, {"lr": 0.2})
        self.shared_by = shared_by

    def step(self) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        noise = torch.randn_like(group["params"][0])
        if self.shared_by == "chains":
            noise[:] = noise[:1].clone()
        for param in group["params"]:
            param.sub_(group["lr"] * param.grad).add_(noise, alpha=(2 * group["lr"] / NUM_DATA) ** 0.5)


def test_noise_that_parameters_share() -> None:
    report = check_optimizer(lambda params: SharedNoise(params, "parameters"), num_data=NUM_DATA, num_replicas=REPLICAS)
    assert report.verdict == "wrong"
    assert report.hints[0].endswith("or parameters share noise"), report


@pytest.mark.parametrize(
    "make",
    [
        lambda params: FaultySGLD(params, noise=0.0),
        lambda params: SharedNoise(params, "chains"),
        lambda params: SGLD(params, 0.2, num_data=NUM_DATA, temperature=0),
        lambda params: torch.optim.SGD(params, lr=0.2),
        lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9, weight_decay=0.1),
        torch.optim.Adam,
        torch.optim.AdamW,
    ],
)
def test_without_noise(make: Any) -> None:
    """At once, also where the step size is so small that nothing converges."""
    report = check_optimizer(make, num_data=NUM_DATA, num_replicas=REPLICAS)
    assert (report.verdict, report.runs[0].noiseless, len(report.runs)) == ("wrong", True, 1)
    assert report.message == "no noise: chains that began at the same state are still together after 64 steps"
    assert "this is an optimizer, not a sampler" in report.hints[0]


@pytest.mark.parametrize("weight_decay", [0.02, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_weight_decay_is_a_prior(weight_decay: float, temperature: float) -> None:
    """The posterior of its prior and the target as likelihood, with the exact variances in the report."""
    options: dict[str, Any] = {"num_data": NUM_DATA, "temperature": temperature}
    covariance = torch.diag(torch.tensor([0.5, 2.0]))
    report = check_optimizer(
        lambda params: SGLD(params, 0.05, weight_decay=weight_decay, **options),
        covariance=covariance,
        num_replicas=REPLICAS,
        **options,
    )
    assert report.ok, report
    expected = [temperature / (1 / variance + NUM_DATA * weight_decay) for variance in (0.5, 2.0)]
    assert report.true_variances == pytest.approx(expected)
    # One that forgets it in its drift is not.
    forgetful = check_optimizer(
        lambda params: FaultySGLD([{"params": params, "weight_decay": weight_decay}], temperature=temperature),
        covariance=covariance,
        num_replicas=REPLICAS,
        **options,
    )
    assert forgetful.verdict == "wrong"


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_metropolis_test(fault: str) -> None:
    """Those that vanish with the step size count where a sampler is to be exact."""
    report = check_sampler(
        lambda potential, z: MetropolisLangevin(potential, z, FAULTS[fault]),
        exact=True,
        dimension=2,
        num_replicas=REPLICAS,
        max_steps=2000,
    )
    assert report.verdict == "wrong", report
    assert report.hints[0].startswith("the Metropolis-Hastings test is skipped, inverted")
    json.dumps(report.to_dict(), allow_nan=False)


def test_an_exact_sampler() -> None:
    settings: dict[str, Any] = {"dimension": 2, "num_replicas": REPLICAS}
    assert check_sampler(lambda potential, z: MetropolisLangevin(potential, z, RIGHT), exact=True, **settings).ok
    unadjusted = lambda potential, z: LangevinDynamics(potential, None, z[None], step_size=0.05)  # noqa: E731
    assert check_sampler(unadjusted, **settings).ok
    report = check_sampler(unadjusted, exact=True, **settings)
    assert report.message == "the variance is wrong at this step size, where that of an exact sampler is right"
    assert check_sampler(unadjusted, exact=True, max_steps=64, **settings).verdict == "undecided"


def test_noise_that_is_not_preconditioned() -> None:
    report = check_optimizer(PSGLDWithPlainNoise, num_data=NUM_DATA, num_replicas=REPLICAS)
    assert report.verdict == "wrong"
    assert report.hints[0].startswith("noise not preconditioned"), report


def test_a_temperature_that_is_not_used() -> None:
    report = check_optimizer(FaultySGLD, num_data=NUM_DATA, num_replicas=REPLICAS, temperature=4.0)
    assert report.hints == ["temperature is not applied to the noise"]


def test_a_wrong_mean() -> None:
    report = check_faulty(shift=0.01)
    assert (report.verdict, report.message) == ("wrong", "the mean is wrong")


def test_a_step_size_that_diverges_and_one_that_does_not_move() -> None:
    report = check_faulty(lr=10.0)
    assert report.verdict == "wrong"
    assert "diverge" in report.message
    json.dumps(report.to_dict(), allow_nan=False)
    still = check_optimizer(
        lambda params: FaultySGLD(params, lr=1e-6), num_data=NUM_DATA, num_replicas=REPLICAS, max_steps=200
    )
    assert still.verdict == "undecided"
    assert "not forgotten" in still.message
    assert not still.runs[0].noiseless


def test_a_sampler_of_ones_own() -> None:
    assert check_sampler(Metropolis, num_replicas=REPLICAS, dimension=2).ok
    # It samples exp(-2U).
    wrong = check_sampler(lambda potential, z: Metropolis(potential, z, 2.0), num_replicas=REPLICAS, dimension=2)
    assert wrong.verdict == "wrong"
    assert "cannot be changed" in wrong.message


def test_other_targets_and_dimensions() -> None:
    covariance = torch.diag(torch.tensor([1.0, 4.0, 0.5]))
    report = check_optimizer(
        lambda params: SGLD(params, 0.3, num_data=NUM_DATA), num_data=NUM_DATA, covariance=covariance, num_replicas=500
    )
    assert report.ok, report
    assert report.true_variances == pytest.approx([0.5, 1, 4])
    assert check_optimizer(lambda params: SGLD(params, 0.1, num_data=1), num_data=1, dimension=1, num_replicas=500).ok


def test_the_same_seed_gives_the_same_report_and_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second = (check_faulty(noise=2.0).to_dict() for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), before)
    assert first["false_positive_rate"] == pytest.approx(4.6e-6, rel=0.01)


def run_of(scale: float, ratio: float, error: float = 0.01) -> CheckRun:
    return CheckRun(scale, 1, True, [ratio], [error], [0.0])


@pytest.mark.parametrize(
    ("ratios", "right", "wrong"),
    [
        ([1.04], True, False),  # within five standard errors
        ([1.1], False, False),  # may be the discretization's
        ([1.25, 1.111], True, False),  # 1/(1 - x), x = 0.2 and 0.1
        ([1.111, 1.111], False, False),  # might by chance
        ([1.4, 1.4], False, True),
        ([2.0, 1.9], False, True),
        ([0.5, 0.6667], False, False),  # 1/(1 + x), x = 1: too large a change to tell
        ([0.5, 0.6667, 0.8, 0.8889, 0.9412, 0.9697], True, False),
        ([1.15, 1.15, 1.15], False, True),
        ([1.43, 1.243, 1.165, 1.13], False, False),  # a fault of 10% besides: never right
        ([1.08, 1.02], True, False),  # of order h²
    ],
)
def test_judgement(ratios: list[float], right: bool, wrong: bool) -> None:
    runs = [run_of(0.5**k, ratio) for k, ratio in enumerate(ratios)]
    assert is_right(runs) == right
    if not right:
        assert is_wrong(runs) == wrong


def test_what_converges_to_something_else_does_not_count_as_shrinking() -> None:
    assert deviation_shrinks(run_of(1, 1.2, 0.001), run_of(0.5, 1.1, 0.001), 0)
    assert not deviation_shrinks(run_of(1, 1.2, 0.001), run_of(0.5, 1.15, 0.001), 0)
    assert not deviation_shrinks(run_of(1, 1.2, 0.001), run_of(0.5, 1.3, 0.001), 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parameters_of_16_bits(dtype: torch.dtype) -> None:
    report = check_optimizer(
        lambda params: SGLD(params, 0.1, num_data=NUM_DATA),
        num_data=NUM_DATA,
        dimension=2,
        num_replicas=REPLICAS,
        dtype=dtype,
    )
    assert report.ok, report
    assert report.settings["dtype"] == str(dtype)


@pytest.mark.parametrize("noise_in_ulps", [8.0, 0.05])
def test_what_stochastic_rounding_adds(noise_in_ulps: float) -> None:
    """Note [Parameters of 16 bits]: nothing to the mean of a step, u²/6 or √(2/π)·u·sd to its variance."""
    theta, ulp, count = 1.5, 2.0**-7, 400_000
    sd = noise_in_ulps * ulp
    param = torch.full((count,), theta, dtype=torch.bfloat16, requires_grad=True)
    param.grad = torch.zeros_like(param)
    SGLD([param], sd**2 / 2, num_data=1, seed=3).step()
    steps = param.detach().double() - theta
    added = ulp**2 / 6 if noise_in_ulps > 1 else (2 / math.pi) ** 0.5 * ulp * sd - sd**2
    assert abs(steps.mean()) < 5 * steps.std() / count**0.5
    squares = steps.square()
    assert abs(squares.mean() - sd**2 - added) < 5 * squares.std() / count**0.5
    # The test can fail: without rounding, the variance would be another, also where steps are large.
    assert added > 2e-3 * sd**2


def test_rounding_is_named() -> None:
    """What makes the variance grow as steps shrink is named, and not taken for a wrong scale of the noise."""
    target = make_target("", 2, None, 1.0, torch.empty(0))
    chains = OptimizerChains(lambda params: SGLD(params, 0.1, num_data=1), target, 100, 1, torch.bfloat16, 1.0)
    hints = find_hints(run_of(1, 2.0), chains, 1, 1.0, exact=False)
    assert hints[0].startswith("rounding to 16 bits"), hints


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimension": 0}, "dimension: got 0, expected 1 at least"),
        ({"num_replicas": 10}, "num_replicas: got 10, expected 100 at least"),
        ({"temperature": 0.0}, "temperature: got 0.0, expected a finite number > 0"),
        ({"num_data": -1.0}, "num_data: got -1.0"),
        ({"covariance": -torch.eye(2)}, "covariance: got a matrix that is not positive definite"),
    ],
)
def test_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_optimizer(FaultySGLD, **options)


# The command


def run_check(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and output of ald-ext check-sampler."""
    pytest.importorskip("typer")
    result = run("check-sampler", *arguments)
    return result.returncode, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("name", "temperature"),
    [
        *((name, 1) for name in ("sgld", "sghmc", "sgnht", "langevin", "mala", "hmc", "underdamped")),
        *(("langevin", 0.5), ("underdamped", 2), ("mala", 2), ("hmc", 0.5)),
    ],
)
def test_built_in_samplers_pass_by_default(name: str, temperature: float) -> None:
    code, output = run_check(name, "--replicas", "500", "--dimension", "2", "--temperature", str(temperature))
    assert code == 0, output
    assert "right: " in output


def test_command_writes_a_report_and_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "new" / "report.json"
    options = ["--temperature", "2", "--option", "lr=0.05", "--option", "eps=1e-3", "--num-data", "1"]
    code, output = run_check("psgld", *options, "--replicas", "500", "--out", out)
    assert code == 1
    assert "hint: bias of an adapting preconditioner" in output
    report = json.loads(out.read_text())
    assert report["verdict"] == "wrong"
    assert report["options"] == {"lr": 0.05, "eps": 1e-3}
    assert report["settings"]["temperature"] == 2
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["torch.optim:SGD"], 1, "wrong: no noise"),
        (["torch.optim:LBFGS"], 1, "name: got 'torch.optim:LBFGS', whose step needs closure, expected"),
        (["sgld", "--option", "weight_decay=0.02"], 0, "right: "),
        (
            ["langevin", "--exact", "--option", "step_size=0.1"],
            1,
            "wrong: the variance is wrong at this step size, where that of an exact",
        ),
        (["langevin", "--max-steps", "64"], 1, "undecided: the chains have not forgotten"),
        (["ald_ext.samplers:MALA", "--option", "step_size=0.3"], 0, "right: "),
        (["ald_ext.optim:SGLD", "--option", "lr=0.1"], 0, "right: "),
        (["sgld", "--dtype", "bfloat16", "--option", "lr=0.1"], 0, "right: "),
        (["mala", "--dtype", "bfloat16"], 1, "dtype: got torch.bfloat16, expected torch.float32 or torch.float64"),
        (["sgld", "--option", "lr"], 1, "option: got 'lr', expected KEY=VALUE"),
        (["sgld", "--option", "colour=red"], 1, "option: "),
        (["nothing"], 1, "name: got 'nothing', expected sgld, psgld"),
        (["torch.optim:Nothing"], 1, "torch.optim has no 'Nothing'"),
        (["torch.nn:Linear"], 1, "expected a class with a method step"),
        (["no_such_package:Class"], 1, "no_such_package"),
    ],
)
def test_command_line(arguments: list[str], code: int, message: str) -> None:
    got, output = run_check(*arguments, "--replicas", "500", "--dimension", "2")
    assert got == code, output
    assert message in output


def test_classes_of_the_current_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sampler_of_a_user.py").write_text("class Mine:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    pytest.importorskip("typer")
    from ald_ext.cli.check_sampler import find_class

    found, defaults = find_class("sampler_of_a_user:Mine", num_data=1)
    assert (found.__name__, defaults) == ("Mine", {})
    assert sys.path == before
    monkeypatch.delitem(sys.modules, "sampler_of_a_user")
