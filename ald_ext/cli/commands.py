"""The commands of ``ald-ext``."""

from __future__ import annotations

import json
import os
from typing import Annotated

import torch
import torch.distributed as dist
import typer

from .. import __version__
from .._extension import cpu_module, cuda_failure, cuda_module
from ..settings import require
from .check_sampler import check_sampler_command
from .experiment import experiment_command
from .report import report_command
from .train import train_command
from .use import interpolate_command, reconstruct_command, sample_command, score_command

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.command(name="train")(train_command)
app.command(name="sample")(sample_command)
app.command(name="reconstruct")(reconstruct_command)
app.command(name="score")(score_command)
app.command(name="interpolate")(interpolate_command)
app.command(name="experiment")(experiment_command)
app.command(name="report")(report_command)
app.command(name="check-sampler")(check_sampler_command)


def show_version(wanted: bool) -> None:
    """Print the version and end, where that is wanted."""
    if wanted:
        typer.echo(f"ald-ext {__version__}")
        raise typer.Exit


@app.callback()
def one_process_but_for_training(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Amortized Langevin dynamics for PyTorch."""
    # On several processes of torchrun other commands would do the same several times, in one folder.
    several = dist.is_available() and dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1
    command = context.invoked_subcommand
    require(not several or command == "train", f"ald-ext {command}", "several processes of torchrun", "one process")


@app.command()
def info() -> None:
    """Show versions, instruction sets and CUDA of this installation; what failed to load, and how to mend it."""
    report = {
        "ald_ext": __version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": cpu_module.build_info(),
        "cuda": cuda_module.build_info() if cuda_module else f"not available: {cuda_failure}",
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }
    typer.echo(json.dumps(report, indent=2))
