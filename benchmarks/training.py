"""Measures steps of training in alternation and writes <out>/training_<device>.json, and from it the page of results.

python benchmarks/training.py --out benchmarks/results, with the options of run.py: [--device cpu|cuda] [--quick]
[--threads N] [--time-limit SECONDS]
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from measurement import Quantiles, Samples, measure_alternating
from names import COMPILED, FOREACH_STEP, IN_PLACE_STEP, OUR_STEP, OUR_VAE_STEP, PLAIN_LOOP, PLAIN_STEP
from provenance import describe_run
from results_page import TRAINING, write_page
from run import TOLERATED, finish, parse_arguments, progress, save_results
from torch import Tensor
from training_cases import (
    COMPARED_MODELS,
    PreparedStep,
    TrainingCase,
    network_parameters,
    prepared_steps,
    training_cases,
)

#: Seconds a model of a case is measured for at least, and with --quick.
BUDGET_S, QUICK_BUDGET_S = 8.0, 0.05

#: Whose times are told as multiples of ours.
BASELINES = (PLAIN_LOOP, PLAIN_STEP, FOREACH_STEP, IN_PLACE_STEP, COMPILED)


@dataclass
class Measured:
    """What was measured so far, and what went wrong."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    ratios: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def leave_out(self, case: TrainingCase, model: str, variant: str, error: Exception) -> None:
        """The message may name paths of this machine: it goes to the screen alone."""
        left_out = {"family": case.family, "size": model, "variant": variant, "error": type(error).__name__}
        self.left_out.append(left_out)
        message = f"{case.family}, {model}: {variant}: {type(error).__name__}: {error}"
        progress(f"left out: {message}")
        if not isinstance(error, TOLERATED):
            self.problems.append(message)


def main() -> None:
    arguments = parse_arguments(__doc__)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    deadline = time.monotonic() + arguments.time_limit
    save = partial(save_results, arguments.out / f"{TRAINING[arguments.device]}.json")
    device = torch.device(arguments.device)
    provenance = describe_run(device, arguments.origin)
    results, problems = measure_training(device, arguments.quick, provenance, deadline, save)
    write_page(arguments.out)
    finish(results, problems)


def measure_training(
    device: torch.device,
    quick: bool,
    provenance: dict[str, Any],
    deadline: float = math.inf,
    save: Callable[[dict[str, Any]], None] = lambda results: None,
) -> tuple[dict[str, Any], list[str]]:
    """Everything that the JSON file holds, and what went wrong. ``save`` is given what there is, case after case."""
    cases, measured, begin = training_cases(quick), Measured(), time.monotonic()
    results = {
        "device": device.type,
        "quick": quick,
        **provenance,
        "settings": [describe_settings(case, device) for case in cases],
        "rows": measured.rows,
        "ratios": measured.ratios,
        "left_out": measured.left_out,
    }
    with torch.random.fork_rng():
        for case in cases:
            measure_case_in_time(case, device, QUICK_BUDGET_S if quick else BUDGET_S, deadline, measured)
            save(results)
            progress(f"{time.monotonic() - begin:4.0f} s  {case.family}: {', '.join(case.models)}")
    return results, measured.problems


def measure_case_in_time(
    case: TrainingCase, device: torch.device, budget_s: float, deadline: float, measured: Measured
) -> None:
    """As measure_case; one that fails as a whole, or comes too late, does not keep the others from the file."""
    try:
        if time.monotonic() > deadline:
            raise TimeoutError("no time left")
        measure_case(case, device, budget_s * len(case.models), measured)
    except Exception as error:
        measured.leave_out(case, ", ".join(case.models), "all variants", error.with_traceback(None))


def measure_case(case: TrainingCase, device: torch.device, budget_s: float, measured: Measured) -> None:
    """Adds rows and ratios, and the variants that could not be prepared, or failed or diverged later."""
    torch._dynamo.reset()
    steps: dict[tuple[str, str], PreparedStep] = {}
    for (model, variant), prepare in prepared_steps(case, device).items():
        try:
            steps[model, variant] = started(prepare())
        except Exception as error:
            measured.leave_out(case, model, variant, error.with_traceback(None))
    runs = {f"{variant}, {model}": step.run for (model, variant), step in steps.items()}
    by_name, failures = measure_alternating(runs, device, budget_s)
    samples: dict[tuple[str, str], Samples] = {}
    for (model, variant), step in steps.items():
        name = f"{variant}, {model}"
        try:
            if name in failures:
                raise failures[name]
            check_finite(step.run())
        except Exception as error:
            measured.leave_out(case, model, variant, error.with_traceback(None))
            continue
        samples[model, variant] = by_name[name]
        measured.rows.append(describe_row(case, model, variant, step, by_name[name]))
    measured.ratios += describe_ratios(case, samples)


def started(step: PreparedStep) -> PreparedStep:
    """After two steps, in which compilers run and states come to be. ValueError if the loss is no number."""
    step.run()
    check_finite(step.run())
    return step


def check_finite(loss: Tensor) -> None:
    """ValueError if the loss is no number: the networks then compute something else than in training."""
    if not math.isfinite(float(loss)):
        raise ValueError(f"the loss is {float(loss)}")


def describe_settings(case: TrainingCase, device: torch.device) -> dict[str, Any]:
    """What the rows of a case were measured with."""
    return {
        "family": case.family,
        "batch_size": case.batch_size,
        "images": case.images,
        "data": "synthetic",
        "models": {
            model: {
                "network_parameters": network_parameters(case, model),
                "training": case.config(model, device).to_dict(),
            }
            for model in case.models
        },
    }


def describe_row(case: TrainingCase, model: str, variant: str, step: PreparedStep, samples: Samples) -> dict[str, Any]:
    return {
        "family": case.family,
        "size": model,
        "variant": variant,
        "note": step.note,
        "seconds": asdict(Quantiles.of(samples.seconds)),
        "images_per_s": asdict(Quantiles.of([case.batch_size / seconds for seconds in samples.seconds])),
        "rounds": len(samples.seconds),
        "calls_per_sample": samples.calls,
    }


def describe_ratios(case: TrainingCase, samples: Mapping[tuple[str, str], Samples]) -> list[dict[str, Any]]:
    """Of samples of the same round, so that a machine that slows down for a while leaves them alone."""
    pairs = [(model, (model, baseline), (model, OUR_STEP)) for model in case.models for baseline in BASELINES]
    found = [
        describe_ratio(case.family, model, numerator[1], denominator[1], samples[numerator], samples[denominator])
        for model, numerator, denominator in pairs
        if numerator in samples and denominator in samples
    ]
    compared: Sequence[Samples | None] = [samples.get((model, OUR_STEP)) for model in COMPARED_MODELS]
    first, second = compared
    if first is not None and second is not None:
        found.append(describe_ratio(case.family, COMPARED_MODELS[0], OUR_STEP, OUR_VAE_STEP, first, second))
    return found


def describe_ratio(
    family: str, model: str, numerator: str, denominator: str, above: Samples, below: Samples
) -> dict[str, Any]:
    quantiles = Quantiles.of([a / b for a, b in zip(above.seconds, below.seconds, strict=True)])
    where = {"family": family, "size": model, "numerator": numerator, "denominator": denominator}
    return {**where, **asdict(quantiles)}


if __name__ == "__main__":
    main()
