"""``ald-ext check-sampler``: the check of :mod:`ald_ext.samplers.check` for a sampler by its name."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from .. import optim, samplers
from ..files import write_atomically, write_json
from ..samplers.check import CheckReport, check_optimizer, check_sampler
from .options import parse_options


@dataclass(frozen=True)
class BuiltIn:
    """A class by its name, with options that suit the check's target."""

    module: Any
    class_name: str
    options: dict[str, Any] = field(default_factory=dict)
    #: Learning rate divided by num_data, which is the step size on the potential.
    lr_per_datum: float | None = None


BUILT_INS = {
    "sgld": BuiltIn(optim, "SGLD", lr_per_datum=0.02),
    "psgld": BuiltIn(optim, "PSGLD", lr_per_datum=0.005),
    "sghmc": BuiltIn(optim, "SGHMC", lr_per_datum=0.04),
    "langevin": BuiltIn(samplers, "LangevinDynamics", {"step_size": 0.02}),
    "mala": BuiltIn(samplers, "MALA", {"step_size": 0.1}),
    "hmc": BuiltIn(samplers, "HMC", {"step_size": 0.2, "num_leapfrog_steps": 5, "jitter": 0.2}),
    "underdamped": BuiltIn(samplers, "UnderdampedLangevin", {"step_size": 0.2}),
}


def check_sampler_command(
    name: Annotated[str, typer.Argument(help=f"{', '.join(BUILT_INS)}; or a torch optimizer, package.module:Class.")],
    option: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE for the sampler, such as lr=0.1; repeat for more.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="T of the target exp(-U/T).")] = 1.0,
    dimension: Annotated[int, typer.Option(help="Dimension of the Gaussian target.")] = 4,
    num_data: Annotated[float, typer.Option(help="N of an optimizer's loss U/N; 1: the loss is U itself.")] = 10,
    replicas: Annotated[int, typer.Option(help="Number of independent chains; more find smaller errors.")] = 4096,
    seed: Annotated[int, typer.Option(help="Seed of initial states and noise.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Report to write, .json, with a picture beside it, .png.")] = None,
) -> None:
    """Run a sampler on a Gaussian: are mean and variance right? Exit code 1 if not."""
    options = parse_options(option or [])
    settings = {"temperature": temperature, "dimension": dimension, "num_replicas": replicas, "seed": seed}
    report = check_by_name(name, options, num_data, settings)
    typer.echo(str(report))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, {"sampler": name, "options": options, **report.to_dict()})
        write_atomically(out.with_suffix(".png"), lambda file: draw_variance_ratios(report, name, file))
    if not report.ok:
        raise typer.Exit(1)


def check_by_name(name: str, options: dict[str, Any], num_data: float, settings: dict[str, Any]) -> CheckReport:
    """Return the report on a built-in sampler, or on an optimizer by its import path.

    Args:
        name: see :func:`find_class`.
        options: options of the sampler, instead of those that suit the target.
        num_data: N of an optimizer's loss U/N.
        settings: settings of the check.
    """
    sampler_class, defaults = find_class(name, num_data)
    if not (isinstance(sampler_class, type) and callable(getattr(sampler_class, "step", None))):
        raise ValueError(f"name: got {name!r}, expected a class with a method step")
    offered = {"temperature": settings["temperature"], "seed": settings["seed"], "num_data": num_data, **defaults}
    accepted = inspect.signature(sampler_class).parameters
    options = {key: value for key, value in offered.items() if key in accepted} | options
    make = with_readable_errors(sampler_class)
    if issubclass(sampler_class, torch.optim.Optimizer):
        return check_optimizer(lambda params: make(params, **options), num_data=num_data, **settings)
    return check_sampler(lambda potential, z: make(potential, None, z, **options), **settings)


def find_class(name: str, num_data: float) -> tuple[Any, dict[str, Any]]:
    """Return a class, and the options that suit the target."""
    if name in BUILT_INS:
        entry = BUILT_INS[name]
        lr = {} if entry.lr_per_datum is None else {"lr": entry.lr_per_datum * num_data}
        return getattr(entry.module, entry.class_name), {**entry.options, **lr}
    module_name, colon, class_name = name.partition(":")
    if not colon:
        raise ValueError(f"name: got {name!r}, expected {', '.join(BUILT_INS)} or package.module:Class")
    sys.path.insert(0, "")  # a console script does not see modules in the current folder
    try:
        return getattr(importlib.import_module(module_name), class_name), {}
    except AttributeError as error:
        raise ValueError(f"name: {module_name} has no {class_name!r}") from error
    finally:
        sys.path.remove("")


def with_readable_errors(sampler_class: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that makes the sampler, and raises a ValueError for an option that is missing or unknown."""

    def make(*arguments: Any, **options: Any) -> Any:
        try:
            return sampler_class(*arguments, **options)
        except TypeError as error:
            raise ValueError(f"option: {error}") from error

    return make


def draw_variance_ratios(report: CheckReport, name: str, file: Path) -> None:
    """Draw the variance ratios of all runs with five standard errors, in one colour for each step size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(1, color="black", linewidth=1)
    for index, run in enumerate(report.runs):
        if run.diverged:
            continue
        shift = 1 + 0.04 * (index - (len(report.runs) - 1) / 2)  # so that bars do not hide each other
        variances = [shift * variance for variance in report.true_variances]
        bars = [5 * error for error in run.standard_errors]
        label = f"step size x {run.step_scale:g}"
        axes.errorbar(variances, run.variance_ratios, yerr=bars, fmt="o", markersize=4, capsize=3, label=label)
    axes.set(xscale="log", xlabel="true variance of the direction", ylabel="sampled / true variance (bars: ±5 s.e.)")
    axes.set_xticks(report.true_variances, [f"{variance:.2g}" for variance in report.true_variances])
    axes.set_xticks([], minor=True)
    axes.set_title(f"{name}: {report.verdict}")
    axes.legend()
    figure.savefig(file, dpi=120)
