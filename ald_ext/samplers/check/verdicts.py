"""Verdicts on the runs: right, wrong or undecided, and which fault would explain them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ...files import finite_only
from .runs import EVIDENT, SIGNIFICANT, CheckRun, measure
from .targets import Chains, FixedStepSizeError

#: Largest share of a deviation that one halving of the step size, or more, leaves if it is the discretization's. (A
#: deviation of order h leaves 1/2 and 1/4, but more where h is large: 2/3 and 2/5 if the first ratio is 1/2.)
SHARE_LEFT_ONCE, SHARE_LEFT_TWICE = 0.75, 0.5

#: The largest change of a ratio from one step size to the next from which step size 0 is extrapolated.
SMALL_CHANGE = 0.15

MAX_HALVINGS = 4

#: Largest difference of the logarithms of ratios, or of a ratio and a factor, that are taken for the same.
SAME = 0.2


@dataclass(frozen=True)
class CheckReport:
    """The verdict and all measurements; ``print`` it for a table.

    Attributes:
        verdict: "right", "wrong" or "undecided": Note [How a sampler is checked].
        message: the verdict in words.
        hints: likely faults.
        runs: measurements at the caller's step size, then at 1/2, 1/4, … of it as far as needed.
        true_variances: variance in each direction, T times an eigenvalue of Σ.
        settings: how the check was made.
    """

    verdict: str
    message: str
    hints: list[str]
    runs: list[CheckRun]
    true_variances: list[float]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the verdict is "right"."""
        return self.verdict == "right"

    @property
    def extrapolated_ratios(self) -> list[float] | None:
        """The ratios at step size 0, extrapolated from the last two runs (Richardson); None if there is only one."""
        if len(self.runs) < 2:
            return None
        before, last = self.runs[-2:]
        return [2 * r - b for b, r in zip(before.variance_ratios, last.variance_ratios, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and text, for JSON; infinite numbers become None."""
        report: dict[str, Any] = {
            "verdict": self.verdict,
            "message": self.message,
            "hints": self.hints,
            "false_positive_rate": 2 * len(self.true_variances) * math.erfc(SIGNIFICANT / math.sqrt(2)),
            "settings": self.settings,
            "true_variances": self.true_variances,
            "extrapolated_ratios": self.extrapolated_ratios,
            "runs": [{**asdict(run), "z_scores": run.z_scores} for run in self.runs],
        }
        return {name: finite_only(value) for name, value in report.items()}

    def __str__(self) -> str:
        lines = [f"{'step size':>9}  {'true variance':>13}  {'sampled/true':>20}  {'z-score':>8}  {'mean z':>7}"]
        for run in self.runs:
            step, ratios, errors = f"x {run.step_scale:g}", run.variance_ratios, run.standard_errors
            columns = (self.true_variances, ratios, errors, run.z_scores, run.mean_z_scores)
            for variance, ratio, error, score, mean_score in zip(*columns, strict=True):
                measured = f"{ratio:.4g} ± {error:.2g}"
                lines.append(f"{step:>9}  {variance:13.4g}  {measured:>20}  {score:8.1f}  {mean_score:7.1f}")
        lines += [f"{self.verdict}: {self.message}", *(f"hint: {hint}" for hint in self.hints)]
        return "\n".join(lines)


def deviation_shrinks(before: CheckRun, last: CheckRun, index: int) -> bool:
    """Return whether a ratio is evidently nearer to 1 at half the step size, and 1 at step size 0 by extrapolation."""
    b, r = before.variance_ratios[index], last.variance_ratios[index]
    b_error, r_error = before.standard_errors[index], last.standard_errors[index]
    decrease = SHARE_LEFT_ONCE * abs(b - 1) - abs(r - 1)
    if decrease < EVIDENT * math.hypot(r_error, SHARE_LEFT_ONCE * b_error) or abs(r - b) > SMALL_CHANGE:
        return False
    # The error is of order h or h², so the limit lies between these two. The error of SGLD, 1/(1 - x) - 1, also has a
    # term of second order, which makes x²/2 of the extrapolation, where x = 2(b - r).
    limits = (r + (r - b) / 3, r + (r - b))
    bound = SIGNIFICANT * math.hypot(2 * r_error, b_error) + 2 * (b - r) ** 2
    return min(limits) - bound <= 1 <= max(limits) + bound


def is_right(runs: list[CheckRun]) -> bool:
    """Return whether nothing is off at the last step size except what vanishes with the step size."""
    last = runs[-1]
    if not last.converged or last.diverged or last.mean_is_off:
        return False
    return all(
        abs(score) < SIGNIFICANT or (len(runs) > 1 and deviation_shrinks(runs[-2], last, index))
        for index, score in enumerate(last.z_scores)
    )


def is_wrong(runs: list[CheckRun]) -> bool:
    """Return whether a ratio's deviation does not shrink with the step size, the mean is off, or noise is missing."""
    first, last = runs[0], runs[-1]
    if last.diverged or last.mean_is_off or last.noiseless:
        return True
    if len(runs) < 2:
        return False
    share = SHARE_LEFT_ONCE if len(runs) == 2 else SHARE_LEFT_TWICE
    for index, score in enumerate(last.z_scores):
        allowed = share * abs(first.variance_ratios[index] - 1)
        error = math.hypot(last.standard_errors[index], share * first.standard_errors[index])
        excess = abs(last.variance_ratios[index] - 1) - allowed
        if abs(score) >= SIGNIFICANT and excess > EVIDENT * error:
            return True
    return False


def run_until_judged(
    start_chains: Callable[[float], Chains], max_steps: int, exact: bool
) -> tuple[str, list[CheckRun], Chains]:
    """Return the verdict, the runs, and the chains of the last run."""
    runs: list[CheckRun] = []
    for halvings in range(MAX_HALVINGS + 1):
        scale = 0.5**halvings
        try:
            chains = start_chains(scale)
        except FixedStepSizeError:
            return "wrong", runs, chains
        runs.append(measure(chains, scale, round(max_steps / scale)))
        if is_right(runs):
            return "right", runs, chains
        if not (runs[-1].converged or runs[-1].noiseless or (exact and runs[-1].has_strayed)):
            break
        if exact or is_wrong(runs):
            return "wrong", runs, chains
    return "undecided", runs, chains


def describe(verdict: str, runs: list[CheckRun], exact: bool) -> str:
    """Return the verdict in words."""
    first, last = runs[0], runs[-1]
    if last.noiseless:
        return f"no noise: chains that began at the same state are still together after {last.num_steps} steps"
    if last.diverged:
        return f"the chains diverge at {last.step_scale:g} of the step size"
    at_this_step_size = f"the variance is right to {100 * first.largest_deviation:.2g}% at this step size"
    if verdict == "right" and len(runs) == 1:
        return at_this_step_size + ", within the statistical error"
    if verdict == "right":
        return f"{at_this_step_size}, and the deviation vanishes with the step size"
    if not last.converged and verdict == "wrong":
        return f"the chains leave the target: after {last.num_steps} steps their variance is still not settled"
    if not last.converged:
        return f"the chains have not forgotten their initial states after {last.num_steps} steps"
    if last.mean_is_off:
        return "the mean is wrong"
    if exact:
        return "the variance is wrong at this step size, where that of an exact sampler is right"
    if verdict == "undecided":
        return f"the deviation shrinks with the step size, but is there still at {last.step_scale:g} of it"
    if len(runs) == 1:
        return "the variance is wrong at this step size, which cannot be changed to see whether that is the reason"
    return "the variance is wrong at every step size"


def find_hints(run: CheckRun, chains: Chains, num_data: float, temperature: float, exact: bool) -> list[str]:
    """Return faults that would explain the variance ratios."""
    if run.noiseless:
        return [
            "this is an optimizer, not a sampler; or its temperature is 0, all chains share their noise, or none moves"
        ]
    if run.diverged:
        return ["the step size is too large, or the drift has the wrong sign"]
    if not run.converged and not (exact and run.has_strayed):
        return ["the step size is too small for the widest direction, or nothing moves; max_steps allows more steps"]
    if exact and not run.mean_is_off:
        return ["the Metropolis-Hastings test is skipped, inverted or shared by chains, or its ratio is wrong"]
    ratios = run.variance_ratios
    if chains.is_rounded() and max(ratios) > 1:
        return ["rounding to 16 bits adds its own variance to steps so small: larger steps, or parameters of float32"]
    adapts = is_adapting(chains)
    if adapts and all(1 < ratio < 1.7 for ratio in ratios):
        return ["bias of an adapting preconditioner: freeze it after burn-in (PSGLD: freeze_after=)"]
    if math.log(max(ratios) / max(min(ratios), 1e-30)) > 2 * SAME:
        return uneven_hints(run, chains)
    factor = math.exp(sum(math.log(max(ratio, 1e-30)) for ratio in ratios) / len(ratios))
    return uniform_hints(factor, num_data, temperature)


def uniform_hints(factor: float, num_data: float, temperature: float) -> list[str]:
    """Return faults that would explain a ratio that is the same in all directions."""
    step_convention = "or a mix of the step size conventions η/2, √η and η, √2η"
    causes = [
        (2.0, f"noise too large by √2, drift too small by 2, {step_convention}"),
        (0.5, f"noise too small by √2, drift too large by 2, {step_convention}"),
        (num_data, "noise too large by √num_data: noise scaled for a summed loss, but the loss is a mean"),
        (1 / num_data, "noise too small by √num_data: its standard deviation, not its variance, is divided by N"),
        (num_data**2, "noise too large by num_data: variance 2·lr·N instead of 2·lr/N"),
        (1 / num_data**2, "noise too small by num_data: its standard deviation is divided by N once more"),
        (temperature, "temperature applied twice to the noise: its standard deviation is to grow as √T"),
        (1 / temperature, "temperature is not applied to the noise"),
    ]
    return [cause for value, cause in causes if abs(math.log(factor / value)) < SAME and abs(math.log(value)) > SAME]


def uneven_hints(run: CheckRun, chains: Chains) -> list[str]:
    """Return faults that would explain ratios that vary with the direction."""
    moment, target = chains.second_moment(), chains.target
    if moment is not None and len(run.variance_ratios) > 1:
        scale = target.directions.square().T @ moment.to(target.mean).mean(0).sqrt()
        pairs = torch.stack([scale.log().cpu(), torch.tensor(run.variance_ratios).to(scale).log().cpu()])
        if float(torch.corrcoef(pairs)[0, 1]) > 0.8:
            return ["noise not preconditioned: the ratio grows with √v, as if √G were missing in the noise"]
    return [
        "the ratio varies with the direction: drift and noise are not preconditioned alike, or parameters share noise"
    ]


def is_adapting(chains: Chains) -> bool:
    """Return whether a step changes the preconditioner; it makes one."""
    moment = chains.second_moment()
    if moment is None:
        return False
    before = moment.clone()
    chains.step()
    return not torch.equal(before, chains.second_moment())  # type: ignore[arg-type]
