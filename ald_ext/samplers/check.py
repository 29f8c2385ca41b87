"""Does an optimizer or sampler draw from what it should? It is run on a Gaussian, where the answer is known.

Note [How a sampler is checked]
    The target is N(μ, TΣ), U(z) = (z - μ)ᵀΣ⁻¹(z - μ)/2, with badly scaled, correlated dimensions. Thousands of
    independent replicas run side by side in one tensor, half of them from μ, half from N(μ, 2TΣ): while these two, or
    the first and the second half of the run, differ, it is doubled. Then a window as long as all before it is measured:
    of every replica the time average of its squared distance from μ along each eigenvector of Σ. The spread over
    replicas gives an honest standard error, whatever the autocorrelation.

    A ratio of sampled to true variance, or a mean, that is off by 5 standard errors or more counts as off. For a right
    sampler that happens once in 1.7 million comparisons (2·dimension comparisons a run).

    A finite step size makes the variance of an unadjusted sampler wrong, by T/(λ(1 - hλ/2)) instead of T/λ for Langevin
    dynamics with steps h. So if a ratio is off, it is measured again at half the step size, and again: a deviation that
    goes away, or evidently shrinks and is gone at step size 0 by extrapolation, is the discretization's, and the
    verdict is "right"; one that does not shrink is a fault, "wrong". If neither has shown at 1/16 of the step size, or
    the chains do not converge, it is "undecided".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..threads import number_of_threads
from .collection import Sampler
from .potential import GaussianPotential

#: Standard errors from which on something counts as off.
SIGNIFICANT = 5.0

#: The share of a deviation that one halving of the step size leaves at most if it is the discretization's, and more of
#: them. (Of order h it has 1/2 and 1/4; but more where h is large: 2/3 and 2/5 if the first ratio is 1/2.) To tell, the
#: difference must be so many standard errors.
SHARE_LEFT_ONCE, SHARE_LEFT_TWICE, EVIDENT = 0.75, 0.5, 4.0

#: The largest change of a ratio from one step size to the next from which step size 0 is extrapolated.
SMALL_CHANGE = 0.15

MAX_HALVINGS = 4

#: Steps of the first window, and from one state that is measured to the next.
FIRST_WINDOW, STRIDE = 64, 4

#: A standard error is at least this (rounding), so that a sampler without noise has finite z-scores.
SMALLEST_ERROR = 1e-4

#: Squared standardized distance from which on a chain counts as diverged.
DIVERGED = 1e12

#: Ratios within this of each other, or of a factor, are taken for the same, as logarithms.
SAME = 0.2

MakeOptimizer = Callable[[list[Tensor]], Optimizer]
MakeSampler = Callable[[GaussianPotential, Tensor], Sampler]


@dataclass(frozen=True)
class Target:
    """N(μ, TΣ), and directions (columns) in which it is independent, with their variances."""

    mean: Tensor
    covariance: Tensor
    precision: Tensor
    directions: Tensor
    variances: Tensor

    def standardize(self, z: Tensor) -> Tensor:
        """(replicas, d) -> (replicas, d): along the directions, N(0, I) on the target."""
        return (z.detach() - self.mean) @ (self.directions / self.variances.sqrt())


def make_target(covariance: Tensor, temperature: float, like: Tensor) -> Target:
    """μ is one standard deviation from 0 in every dimension, so that a pull towards 0 shows."""
    sigma = covariance.double().cpu()
    eigenvalues, directions = torch.linalg.eigh(sigma)
    mean = sigma.diagonal().sqrt()
    tensors = (mean, sigma, torch.linalg.inv(sigma), directions, temperature * eigenvalues)
    return Target(*(tensor.to(like) for tensor in tensors))


def default_covariance(dimension: int) -> Tensor:
    """Standard deviations from 1/2 to 2, (of one dimension: 1), correlation 1/2 between neighbours, 1/4 beyond, …"""
    index = torch.arange(dimension, dtype=torch.float64)
    deviations = 2 ** (2 * index / (dimension - 1) - 1) if dimension > 1 else torch.ones(1, dtype=torch.float64)
    return torch.outer(deviations, deviations) * 0.5 ** (index[:, None] - index).abs()


@dataclass(frozen=True)
class CheckRun:
    """What was measured at one step size. Lists have one entry a direction.

    Attributes:
        step_scale: 1 at the caller's step size, 1/2 at half of it.
        num_steps: made in all.
        converged: the two kinds of initial states had become the same.
        variance_ratios: sampled over true variance; infinite if the chains diverged.
        standard_errors: of the ratios, from the spread over replicas.
        mean_z_scores: sampled minus true mean, in standard errors.
    """

    step_scale: float
    num_steps: int
    converged: bool
    variance_ratios: list[float]
    standard_errors: list[float]
    mean_z_scores: list[float]

    @property
    def diverged(self) -> bool:
        return not all(math.isfinite(ratio) for ratio in self.variance_ratios)

    @property
    def z_scores(self) -> list[float]:
        """Of the variance ratios, against 1."""
        return [(ratio - 1) / error for ratio, error in zip(self.variance_ratios, self.standard_errors, strict=True)]

    @property
    def largest_deviation(self) -> float:
        """Of a variance ratio from 1."""
        return max(abs(ratio - 1) for ratio in self.variance_ratios)

    @property
    def mean_is_off(self) -> bool:
        return any(abs(score) >= SIGNIFICANT for score in self.mean_z_scores)


@dataclass(frozen=True)
class CheckReport:
    """The verdict and all that was measured; ``print`` it for a table.

    Attributes:
        verdict: "right", "wrong" or "undecided": Note [How a sampler is checked].
        message: the verdict in a sentence.
        hints: likely faults.
        runs: at the caller's step size first, then at 1/2, 1/4, … of it as far as needed.
        true_variances: of each direction, T times an eigenvalue of Σ.
    """

    verdict: str
    message: str
    hints: list[str]
    runs: list[CheckRun]
    true_variances: list[float]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.verdict == "right"

    @property
    def extrapolated_ratios(self) -> list[float] | None:
        """To step size 0, linearly from the last two runs (Richardson); None if there is but one."""
        if len(self.runs) < 2:
            return None
        before, last = self.runs[-2:]
        return [2 * r - b for b, r in zip(before.variance_ratios, last.variance_ratios, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and text, for JSON; what is infinite becomes None."""
        runs = [{**asdict(run), "z_scores": run.z_scores} for run in self.runs]
        report = {
            "verdict": self.verdict,
            "message": self.message,
            "hints": self.hints,
            "false_positive_rate": 2 * len(self.true_variances) * math.erfc(SIGNIFICANT / math.sqrt(2)),
            "settings": self.settings,
            "true_variances": self.true_variances,
            "extrapolated_ratios": self.extrapolated_ratios,
            "runs": runs,
        }
        finite: dict[str, Any] = finite_only(report)
        return finite

    def __str__(self) -> str:
        lines = [f"{'step size':>9}  {'true variance':>13}  {'sampled/true':>20}  {'z-score':>8}  {'mean z':>7}"]
        for run in self.runs:
            rows = zip(
                self.true_variances,
                run.variance_ratios,
                run.standard_errors,
                run.z_scores,
                run.mean_z_scores,
                strict=True,
            )
            for variance, ratio, error, score, mean_score in rows:
                measured = f"{ratio:.4g} ± {error:.2g}"
                step = f"x {run.step_scale:g}"
                lines.append(f"{step:>9}  {variance:13.4g}  {measured:>20}  {score:8.1f}  {mean_score:7.1f}")
        lines += [f"{self.verdict}: {self.message}", *(f"hint: {hint}" for hint in self.hints)]
        return "\n".join(lines)


def finite_only(value: Any) -> Any:
    """JSON has no infinities."""
    if isinstance(value, dict):
        return {key: finite_only(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_only(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# What is run


class Chains(Protocol):
    """Replicas that move together."""

    #: Steps before which they need not be stationary, as they still adapt.
    warm_up: int

    def step(self) -> Tensor:
        """(replicas, d)."""

    def second_moment(self) -> Tensor | None:
        """Of the gradients, (replicas, d), if there is a preconditioner made of it."""


class OptimizerChains:
    """A parameter of shape (replicas, d), moved by an optimizer on the loss ΣU/N."""

    def __init__(
        self, make_optimizer: MakeOptimizer, target: Target, start: Tensor, num_data: float, step_scale: float
    ) -> None:
        self.target, self.scaled_precision = target, target.precision / num_data
        self.z = start.requires_grad_()
        self.z.grad = torch.zeros_like(start)
        self.optimizer = make_optimizer([self.z])
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] * step_scale
        self.warm_up = max(int(group.get("freeze_after") or 0) for group in self.optimizer.param_groups)

    @torch.no_grad()
    def step(self) -> Tensor:
        torch.matmul(self.z.detach() - self.target.mean, self.scaled_precision, out=self.z.grad)
        self.optimizer.step()
        return self.z.detach()

    def second_moment(self) -> Tensor | None:
        state = self.optimizer.state.get(self.z, {})
        for name in ("square_avg", "exp_avg_sq"):  # as in torch.optim
            if name in state:
                moment: Tensor = state[name]
                return moment
        return None


class SamplerChains:
    """A sampler of replicas as data, without x."""

    def __init__(self, make_sampler: MakeSampler, target: Target, start: Tensor, step_scale: float) -> None:
        self.sampler = make_sampler(GaussianPotential(target.mean, precision=target.precision), start)
        if step_scale != 1:
            scale_step_size(self.sampler, step_scale)
        self.warm_up = int(getattr(self.sampler, "adapt_steps", 0))

    def step(self) -> Tensor:
        return self.sampler.step()

    def second_moment(self) -> Tensor | None:
        return None


class FixedStepSizeError(Exception):
    """The step size cannot be halved."""


def scale_step_size(sampler: Any, scale: float) -> None:
    try:
        sampler.step_size = sampler.step_size * scale
    except AttributeError as error:
        raise FixedStepSizeError from error


# Measuring


@dataclass(frozen=True)
class Window:
    """Time averages over a stretch of a run, (replicas, d) each: of standardized states, and of their squares."""

    means: Tensor
    squares: Tensor

    def ratios(self) -> tuple[Tensor, Tensor]:
        """Sampled over true variances, with standard errors, (d,) each."""
        ratio = self.squares.mean(0) - self.means.mean(0).square()
        return ratio, standard_error(self.squares)

    def mean_z_scores(self) -> Tensor:
        return self.means.mean(0) / standard_error(self.means)

    def halves_agree(self) -> bool:
        """Of the replicas: from the two kinds of initial states."""
        half = len(self.means) // 2
        first, second = (Window(self.means[part], self.squares[part]) for part in (slice(half), slice(half, None)))
        return first.agrees_with(second)

    def agrees_with(self, other: Window) -> bool:
        (first, first_error), (second, second_error) = self.ratios(), other.ratios()
        bound = EVIDENT * (first_error.square() + second_error.square()).sqrt()
        return bool(((first - second).abs() <= bound).all())


def standard_error(values: Tensor) -> Tensor:
    """Of the mean over independent replicas, (replicas, d) -> (d,)."""
    return (values.std(0) / math.sqrt(len(values))).clamp_min(SMALLEST_ERROR)


def measure_window(chains: Chains, target: Target, num_steps: int) -> Window | None:
    """None if the chains diverge."""
    totals: list[Tensor] = []
    for _ in range(num_steps // STRIDE):
        for _ in range(STRIDE):
            state = chains.step()
        y = target.standardize(state).double()
        if not totals:
            totals = [torch.zeros_like(y), torch.zeros_like(y)]
        totals[0] += y
        totals[1].addcmul_(y, y)
    means, squares = (total / (num_steps // STRIDE) for total in totals)
    return Window(means, squares) if bool((squares < DIVERGED).all()) else None


def measure(chains: Chains, target: Target, step_scale: float, max_steps: int) -> CheckRun:
    """Doubles the run until the chains have converged, then once more, and measures that last window."""
    before: Window | None = None
    num_steps, length, agreed = 0, max(FIRST_WINDOW, 2 * chains.warm_up) // STRIDE * STRIDE, False
    while True:
        window = measure_window(chains, target, length)
        num_steps += length
        if window is None:
            d = len(target.variances)
            return CheckRun(step_scale, num_steps, True, [math.inf] * d, [1.0] * d, [0.0] * d)
        if agreed or num_steps >= max_steps:
            ratios, errors = window.ratios()
            scores = window.mean_z_scores()
            return CheckRun(step_scale, num_steps, agreed, ratios.tolist(), errors.tolist(), scores.tolist())
        # The latter where both kinds of initial states are too narrow: then they agree too early.
        agreed = window.halves_agree() and before is not None and window.agrees_with(before)
        before, length = window, num_steps


def initial_states(target: Target, num_replicas: int) -> Tensor:
    """Half of them μ, half from N(μ, 2TΣ): their second moments about μ are 0 and twice the right one."""
    half = num_replicas // 2
    spread = torch.randn(num_replicas - half, len(target.mean), dtype=target.mean.dtype, device=target.mean.device)
    spread = spread * (2 * target.variances).sqrt() @ target.directions.T
    return torch.cat([torch.zeros_like(spread[:half]), spread]) + target.mean


# Judging


def deviation_shrinks(before: CheckRun, last: CheckRun, index: int) -> bool:
    """True if a ratio evidently comes nearer to 1 at half the step size, and is 1 at step size 0 by extrapolation."""
    b, r = before.variance_ratios[index], last.variance_ratios[index]
    b_error, r_error = before.standard_errors[index], last.standard_errors[index]
    decrease = SHARE_LEFT_ONCE * abs(b - 1) - abs(r - 1)
    if decrease < EVIDENT * math.hypot(r_error, SHARE_LEFT_ONCE * b_error) or abs(r - b) > SMALL_CHANGE:
        return False
    # The error is of order h or h², so that the limit lies between these two. That of SGLD, 1/(1 - x) - 1, has a term
    # of second order besides, x²/2 of the extrapolation, where x = 2(b - r).
    limits = (r + (r - b) / 3, r + (r - b))
    bound = SIGNIFICANT * math.hypot(2 * r_error, b_error) + 2 * (b - r) ** 2
    return min(limits) - bound <= 1 <= max(limits) + bound


def is_right(runs: list[CheckRun]) -> bool:
    """True if nothing is off at the last step size but what vanishes with the step size."""
    last = runs[-1]
    if not last.converged or last.diverged or last.mean_is_off:
        return False
    return all(
        abs(score) < SIGNIFICANT or (len(runs) > 1 and deviation_shrinks(runs[-2], last, index))
        for index, score in enumerate(last.z_scores)
    )


def is_wrong(runs: list[CheckRun]) -> bool:
    """True if a ratio's deviation does not shrink with the step size, or the mean is off: that has no such excuse."""
    first, last = runs[0], runs[-1]
    if last.diverged or last.mean_is_off:
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
    start_chains: Callable[[float], Chains], target: Target, max_steps: int
) -> tuple[str, list[CheckRun], Chains]:
    """The verdict, the runs, and the chains of the last."""
    runs: list[CheckRun] = []
    for halvings in range(MAX_HALVINGS + 1):
        scale = 0.5**halvings
        try:
            chains = start_chains(scale)
        except FixedStepSizeError:
            return "wrong", runs, chains
        runs.append(measure(chains, target, scale, round(max_steps / scale)))
        if is_right(runs):
            return "right", runs, chains
        if not runs[-1].converged:
            break
        if is_wrong(runs):
            return "wrong", runs, chains
    return "undecided", runs, chains


def describe(verdict: str, runs: list[CheckRun]) -> str:
    first, last = runs[0], runs[-1]
    if last.diverged:
        return f"the chains diverge at {last.step_scale:g} of the step size"
    at_this_step_size = f"the variance is right to {100 * first.largest_deviation:.2g}% at this step size"
    if verdict == "right" and len(runs) == 1:
        return at_this_step_size + ", within the statistical error"
    if verdict == "right":
        return f"{at_this_step_size}, and the deviation vanishes with the step size"
    if not last.converged:
        return f"the chains have not forgotten their initial states after {last.num_steps} steps"
    if last.mean_is_off:
        return "the mean is wrong"
    if verdict == "undecided":
        return f"the deviation shrinks with the step size, but is there still at {last.step_scale:g} of it"
    if len(runs) == 1:
        return "the variance is wrong at this step size, which cannot be changed to see whether that is the reason"
    return "the variance is wrong at every step size"


def find_hints(run: CheckRun, chains: Chains, target: Target, num_data: float, temperature: float) -> list[str]:
    """Faults that would explain the variance ratios."""
    if run.diverged:
        return ["the step size is too large, or the drift has the wrong sign"]
    if not run.converged:
        return ["the step size is too small for the widest direction, or nothing moves; max_steps= allows more steps"]
    ratios = run.variance_ratios
    if max(ratios) < SMALLEST_ERROR / max(num_data, 1) ** 2:
        return ["there is no noise: this is an optimizer, not a sampler, or its temperature is 0"]
    adapts = is_adapting(chains)
    if adapts and all(1 < ratio < 1.7 for ratio in ratios):
        return ["bias of an adapting preconditioner: freeze it after burn-in (PSGLD: freeze_after=)"]
    if math.log(max(ratios) / max(min(ratios), 1e-30)) > 2 * SAME:
        return uneven_hints(run, chains, target)
    factor = math.exp(sum(math.log(max(ratio, 1e-30)) for ratio in ratios) / len(ratios))
    return uniform_hints(factor, num_data, temperature)


def uniform_hints(factor: float, num_data: float, temperature: float) -> list[str]:
    """For a ratio that is the same in all directions."""
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


def uneven_hints(run: CheckRun, chains: Chains, target: Target) -> list[str]:
    """For ratios that vary with the direction."""
    moment = chains.second_moment()
    if moment is not None and len(run.variance_ratios) > 1:
        scale = target.directions.square().T @ moment.to(target.mean).mean(0).sqrt()
        pairs = torch.stack([scale.log().cpu(), torch.tensor(run.variance_ratios).to(scale).log().cpu()])
        if float(torch.corrcoef(pairs)[0, 1]) > 0.8:
            return ["noise not preconditioned: the ratio grows with √v, as if √G were missing in the noise"]
    return ["the ratio varies with the direction: drift and noise are not preconditioned alike"]


def is_adapting(chains: Chains) -> bool:
    before = chains.second_moment()
    if before is None:
        return False
    before = before.clone()
    chains.step()
    after = chains.second_moment()
    return after is not None and not torch.equal(before, after)


# Public functions


def check_optimizer(
    make_optimizer: MakeOptimizer,
    *,
    dimension: int = 4,
    temperature: float = 1.0,
    num_data: float = 10,
    covariance: Tensor | None = None,
    num_replicas: int = 4096,
    max_steps: int = 20_000,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> CheckReport:
    """Whether the iterates of a torch.optim.Optimizer sample exp(-U/T), on a Gaussian, by its own learning rate.

        report = check_optimizer(lambda params: ald_ext.SGLD(params, lr=0.1, num_data=10))
        assert report.ok, report

    Note [How a sampler is checked] says how. The parameter has the shape (num_replicas, dimension); its gradient is
    that of the loss U/N, summed over replicas.

    Args:
        make_optimizer: list of parameters → optimizer; called anew for every step size, which is group["lr"].
        dimension: d.
        temperature: T that the optimizer was given.
        num_data: N that the optimizer was given; 1 where the loss is to be U itself.
        covariance: Σ, (d, d), instead of one with standard deviations from 1/2 to 2 and correlations of 1/2.
        num_replicas: independent chains: the standard errors are about √(2/num_replicas) or smaller.
        max_steps: at the caller's step size; as many times more at a fraction of it.
        seed: of torch's default generator while it runs, which is as before afterwards.
        dtype, device: of the parameter.

    Raises:
        ValueError: an argument out of its range.
    """
    check_numbers("check_optimizer", dimension, temperature, num_data, num_replicas, covariance)
    settings = {"num_data": num_data, "temperature": temperature, "num_replicas": num_replicas, "seed": seed}
    like = torch.empty(0, dtype=dtype, device=device)
    target = make_target(default_covariance(dimension) if covariance is None else covariance, temperature, like)

    def start_chains(step_scale: float) -> Chains:
        return OptimizerChains(make_optimizer, target, initial_states(target, num_replicas), num_data, step_scale)

    return run_check(start_chains, target, max_steps, settings)


def check_sampler(
    make_sampler: MakeSampler,
    *,
    dimension: int = 4,
    temperature: float = 1.0,
    covariance: Tensor | None = None,
    num_replicas: int = 4096,
    max_steps: int = 20_000,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> CheckReport:
    """Whether a sampler draws from exp(-U/T), on a Gaussian.

        report = check_sampler(lambda potential, z: LangevinDynamics(potential, None, z, step_size=0.02))

    Args:
        make_sampler: (potential, z) → an object with ``step() -> Tensor``, the new states; z is (num_replicas,
            dimension), the initial states, and potential(None, z) gives U, (num_replicas,). It is called anew for every
            step size, which is the sampler's attribute ``step_size``, if that can be set; if not, a deviation that is
            the discretization's counts as wrong.
        dimension, temperature, covariance, num_replicas, max_steps, seed, dtype, device: as of :func:`check_optimizer`.

    Raises:
        ValueError: an argument out of its range.
    """
    check_numbers("check_sampler", dimension, temperature, 1, num_replicas, covariance)
    settings = {"temperature": temperature, "num_replicas": num_replicas, "seed": seed}
    like = torch.empty(0, dtype=dtype, device=device)
    target = make_target(default_covariance(dimension) if covariance is None else covariance, temperature, like)

    def start_chains(step_scale: float) -> Chains:
        return SamplerChains(make_sampler, target, initial_states(target, num_replicas), step_scale)

    return run_check(start_chains, target, max_steps, settings)


def check_numbers(
    name: str, dimension: int, temperature: float, num_data: float, num_replicas: int, covariance: Tensor | None
) -> None:
    bounds = {"dimension": (dimension, 1), "num_replicas": (num_replicas, 100)}
    for argument, (value, least) in bounds.items():
        if value < least:
            raise ValueError(f"ald_ext.samplers.{name}: {argument}: got {value}, expected {least} at least")
    for argument, number in (("temperature", temperature), ("num_data", num_data)):
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"ald_ext.samplers.{name}: {argument}: got {number}, expected a finite number > 0")
    if covariance is not None and bool(torch.linalg.cholesky_ex(covariance.double()).info):
        raise ValueError(f"ald_ext.samplers.{name}: covariance: got a matrix that is not positive definite")


def run_check(
    start_chains: Callable[[float], Chains], target: Target, max_steps: int, settings: dict[str, Any]
) -> CheckReport:
    device = target.mean.device
    # The tensors are small: on a busy machine, threads would take a hundred times as long, waiting for each other.
    with number_of_threads(1), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings["seed"])
        verdict, runs, chains = run_until_judged(start_chains, target, max_steps)
        hints: list[str] = []
        if verdict != "right":
            hints = find_hints(runs[-1], chains, target, settings.get("num_data", 1), settings["temperature"])
    settings = {**settings, "dimension": len(target.mean), "dtype": str(target.mean.dtype), "device": str(device)}
    return CheckReport(verdict, describe(verdict, runs), hints, runs, target.variances.tolist(), settings)
