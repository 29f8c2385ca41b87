"""The commands of ``ald-ext``."""

from __future__ import annotations

import json

import torch
import typer

from .. import __version__
from .._extension import cpu_module, cuda_failure, cuda_module
from .check_sampler import check_sampler_command
from .experiment import experiment_command
from .report import report_command
from .train import train_command
from .use import interpolate_command, reconstruct_command, sample_command, score_command

app = typer.Typer(help="Amortized Langevin dynamics for PyTorch.", no_args_is_help=True, pretty_exceptions_enable=False)
app.command(name="train")(train_command)
app.command(name="sample")(sample_command)
app.command(name="reconstruct")(reconstruct_command)
app.command(name="score")(score_command)
app.command(name="interpolate")(interpolate_command)
app.command(name="experiment")(experiment_command)
app.command(name="report")(report_command)
app.command(name="check-sampler")(check_sampler_command)


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
