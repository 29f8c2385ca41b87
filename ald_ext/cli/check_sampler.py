"""``ald-ext check-sampler``: the check of :mod:`ald_ext.samplers.check` for a sampler by its name."""

from __future__ import annotations

import importlib
import inspect
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from .. import optim, samplers
from ..files import is_stream, write_json
from ..paper.pictures import Figure, new_picture, save_picture
from ..samplers.check import CheckReport, check_optimizer, check_sampler
from ..settings import require
from .options import parse_options

#: Classes by their names, with options that suit the check's target. lr is that for num_data 1.
BUILT_INS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "sgld": (optim.SGLD, {"lr": 0.02}),
    "psgld": (optim.PSGLD, {"lr": 0.005}),
    "sghmc": (optim.SGHMC, {"lr": 0.04}),
    "sgnht": (optim.SGNHT, {"lr": 0.04}),
    "langevin": (samplers.LangevinDynamics, {"step_size": 0.02}),
    "mala": (samplers.MALA, {"step_size": 0.1}),
    "hmc": (samplers.HMC, {"step_size": 0.2, "num_leapfrog_steps": 5, "jitter": 0.2}),
    "underdamped": (samplers.UnderdampedLangevin, {"step_size": 0.2}),
}


class Dtype(str, Enum):
    """Types of parameters."""

    float64 = "float64"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def check_sampler_command(
    name: Annotated[str, typer.Argument(help=f"{', '.join(BUILT_INS)}; or a torch optimizer, package.module:Class.")],
    option: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE for the sampler, such as lr=0.1; repeat for more.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="T of the target exp(-U/T).")] = 1.0,
    dimension: Annotated[int, typer.Option(help="Dimension of the Gaussian target.")] = 4,
    num_data: Annotated[float, typer.Option(help="N of an optimizer's loss U/N; 1: the loss is U itself.")] = 10,
    replicas: Annotated[int, typer.Option(help="Number of independent chains; more find smaller errors.")] = 4096,
    max_steps: Annotated[int, typer.Option(help="Number of steps in which chains have to converge.")] = 20_000,
    exact: Annotated[
        bool, typer.Option("--exact", help="Take any deviation at this step size for a fault, as for mala and hmc.")
    ] = False,
    dtype: Annotated[
        Dtype, typer.Option(help="Type of the parameters; samplers take those of 32 and 64 bits.")
    ] = Dtype.float32,
    seed: Annotated[int, typer.Option(help="Seed of initial states and noise.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Report to write, .json, with a picture beside it, .png.")] = None,
) -> None:
    """Run a sampler on a Gaussian: are mean and variance right? Exit code 1 if not.

    It does not see what is wrong on other targets only (modes, tails, boundaries, funnels), noise of minibatches, the
    loss and num_data of your own training loop, nor errors of a variance below about 2/sqrt(replicas).
    """
    given = parse_options(option or [])
    sampler_class, suited = find_class(name, num_data)
    is_sampler = isinstance(sampler_class, type) and callable(getattr(sampler_class, "step", None))
    require(is_sampler, "name", repr(name), "a class with a method step")
    step = inspect.signature(sampler_class.step).parameters.values()
    required = ", ".join(each.name for each in list(step)[1:] if each.default is each.empty)
    require(not required, "name", f"{name!r}, whose step needs {required}", "a step without arguments")
    offered = {"temperature": temperature, "seed": seed, "num_data": num_data, **suited}
    accepted = inspect.signature(sampler_class).parameters
    options = {key: value for key, value in offered.items() if key in accepted} | given

    def make(*arguments: Any) -> Any:
        try:
            return sampler_class(*arguments, **options)
        except TypeError as error:  # an option that is missing or unknown
            raise ValueError(f"option: {error}") from error

    settings: Any = {"temperature": temperature, "dimension": dimension, "num_replicas": replicas, "seed": seed}
    settings |= {
        "dtype": getattr(torch, dtype.value),
        "max_steps": max_steps,
        "exact": exact or issubclass(sampler_class, samplers.MetropolisSampler),
    }
    if issubclass(sampler_class, torch.optim.Optimizer):
        report = check_optimizer(make, num_data=num_data, **settings)
    else:
        chains = issubclass(sampler_class, samplers.DatapointSampler)  # which take the replicas as chains of one datum
        report = check_sampler(lambda potential, z: make(potential, None, z[None] if chains else z), **settings)
    typer.echo(str(report))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, {"sampler": name, "options": given, **report.to_dict()})
        if not is_stream(out):
            save_picture(variance_ratios(report, name), out.with_suffix(".png"))
    if not report.ok:
        raise typer.Exit(1)


def find_class(name: str, num_data: float) -> tuple[type[Any], dict[str, Any]]:
    """Return a class, and the options that suit the target."""
    if name in BUILT_INS:
        sampler_class, options = BUILT_INS[name]
        return sampler_class, options | {key: lr * num_data for key, lr in options.items() if key == "lr"}
    module_name, colon, class_name = name.partition(":")
    require(colon, "name", repr(name), f"{', '.join(BUILT_INS)} or package.module:Class")
    sys.path.insert(0, "")  # a console script does not see modules in the current folder
    try:
        return getattr(importlib.import_module(module_name), class_name), {}
    except AttributeError as error:
        raise ValueError(f"name: {module_name} has no {class_name!r}") from error
    finally:
        sys.path.remove("")


def variance_ratios(report: CheckReport, name: str) -> Figure:
    """Draw the variance ratios of all runs with five standard errors, in one colour for each step size."""
    picture, panels = new_picture(1, 1, (6, 4))
    axes = panels[0, 0]
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
    return picture
