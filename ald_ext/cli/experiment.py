"""``ald-ext experiment``: an experiment of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from ..experiments import EXPERIMENTS, run_experiment


def experiment_command(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(EXPERIMENTS)}.")],
    out: Annotated[Path, typer.Option(help="Folder for results.json and the picture.")],
    quick: Annotated[bool, typer.Option("--quick", help="Cut down to run in seconds: a smoke test.")] = False,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds; 5, or 2 if quick, if not given.")] = None,
    preset: Annotated[
        str, typer.Option(help="default; paper: the settings it prints; univariate-gaussian also: all-layers.")
    ] = "default",
) -> None:
    """Run an experiment of the paper: results.json, with its numbers beside ours, and a picture in OUT."""
    if name not in EXPERIMENTS:
        raise ValueError(f"experiment: got {name!r}, expected one of {', '.join(EXPERIMENTS)}")
    typer.echo(EXPERIMENTS[name].title)
    num_seeds = (2 if quick else 5) if seeds is None else seeds
    results = run_experiment(
        EXPERIMENTS[name], out, preset=preset, quick=quick, num_seeds=num_seeds, num_workers=torch.get_num_threads()
    )
    for line in table_of(results["rows"]):
        typer.echo(line)
    typer.echo(f"{results['seconds']:.0f} s; results.json and {name}.png in {out}")


def table_of(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as aligned lines: name, paper, mean, standard error."""
    width = max(len(row["name"]) for row in rows)
    lines = [f"{'':{width}}  {'paper':>10}  {'ours':>10}  {'± se':>10}"]
    for row in rows:
        cells = [row["paper"], row["mean"], row["standard_error"]]
        numbers = ["" if cell is None else f"{cell:.4g}" for cell in cells]
        lines.append(f"{row['name']:{width}}  {numbers[0]:>10}  {numbers[1]:>10}  {numbers[2]:>10}")
    return lines
