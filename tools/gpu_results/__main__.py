"""Command line of :mod:`tools.gpu_results`."""

from __future__ import annotations

import argparse
import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ald_ext.files import write_atomically
from ald_ext.paper import IMAGE_EXPERIMENTS
from ald_ext.paper.images.experiment import JobOutcome, load
from ald_ext.paper.images.runner import data_and_config, run_job
from ald_ext.paper.results import versions
from ald_ext.paper.workers import count_done

from .campaign import FILE, ORDER, Campaign, Task, plan, settings_of, write_results
from .pieces import pack, unpack
from .pool import TRIED, Call, Pool, torch_device_name

#: Seconds of a run's limit that are kept for the results.
RESERVED_SECONDS = 25
#: The largest size of a file of results that travels.
PART_BYTES = 15_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command of the arguments, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu_results", description=__doc__)
    commands = parser.add_subparsers(required=True)
    packing = commands.add_parser("pack", help="Write data sets, or their beginnings, into files to bring along.")
    packing.add_argument("datasets", nargs="+", metavar="DATASET")
    packing.add_argument("--data-root", default="data", metavar="PATH")
    packing.add_argument("--out", type=Path, default=Path("runs/data"), metavar="PATH")
    packing.add_argument("--megabytes", type=float, default=60.0, help="of each file")
    packing.set_defaults(run=pack_all)
    running = commands.add_parser("run", help="Compute what there is time for.")
    add_common(running)
    running.add_argument("--limit", type=float, default=570.0, help="seconds after which the results are written")
    running.add_argument("--jobs", type=int, help=f"side by side; if not given the best of {TRIED} is measured")
    running.add_argument("--pack", type=Path, metavar="PATH", help="also write them as files of 15 MB, to take home")
    running.set_defaults(run=run)
    merging = commands.add_parser("merge", help="Add what was computed elsewhere.")
    add_common(merging)
    merging.add_argument("sources", nargs="+", type=Path, help="files of --pack, or folders of results")
    merging.set_defaults(run=merge)
    given = parser.parse_args(arguments)
    try:
        return int(given.run(given))
    except (ValueError, OSError, ImportError) as error:
        print(f"results-gpu: {error}", file=sys.stderr)
        return 1


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what the campaign is."""
    parser.add_argument("--datasets", nargs="+", default=["mnist", "bmnist", "cifar10", "celeba"], metavar="DATASET")
    parser.add_argument("--data", type=Path, default=Path("runs/data"), help="folder of the files of pack")
    parser.add_argument("--data-root", default="data", help="folder of torchvision's files", metavar="PATH")
    parser.add_argument("--out", type=Path, default=Path("docs/results/images_gpu"), metavar="PATH")
    parser.add_argument("--runs", type=Path, default=Path("runs/gpu"), metavar="PATH")
    parser.add_argument("--experiments", nargs="+", choices=ORDER, default=list(ORDER), metavar="NAME")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of training, for every model")
    parser.add_argument("--candidates", type=int, default=6, help="settings of each model tried on validation images")
    parser.add_argument("--quick", action="store_true", help="a smoke test, whose figures mean nothing")


def pack_all(given: argparse.Namespace) -> int:
    """Write the files, and say what is in them."""
    for dataset in given.datasets:
        name = pack(dataset, given.data_root, given.out, round(given.megabytes * 1e6))
        file = given.out / f"{name}.zip"
        print(f"{name}: {file.stat().st_size / 1e6:.1f} MB in {file}")
    return 0


def sources(given: argparse.Namespace) -> dict[str, str]:
    """Return what ``load_dataset`` takes, by names in rows: files that were brought along, or else torchvision's."""
    found = {}
    for dataset in given.datasets:
        name = Path(dataset).stem
        brought = sorted(given.data.glob(f"{name}.zip")) + sorted(given.data.glob(f"{name}-*.zip"))
        found |= {brought[0].stem: str(unpack(brought[0], given.runs / "data"))} if brought else {name: dataset}
    return found


def begin(given: argparse.Namespace) -> tuple[dict[str, Any], list[Task], Campaign]:
    """Return the settings of each experiment, all tasks, and the campaign with what has been computed."""
    shared = {"width": given.width, "seconds": given.seconds, "candidates": given.candidates}
    shared = {name: value for name, value in shared.items() if not given.quick or name == "seconds"}
    datasets = sources(given)
    local = {"device": given.device, "data_root": given.data_root}
    settings = settings_of(datasets, given.experiments, given.quick, **shared, **local)
    tasks = plan(settings, given.seeds)
    campaign = Campaign({**shared, "quick": given.quick, "datasets": list(datasets)})
    if (given.out / FILE).is_file():
        before = Campaign.read(given.out)
        before.add(Campaign(campaign.settings), given.out, given.out)  # ValueError where the settings differ
        campaign = before
    return settings, tasks, campaign


def run(given: argparse.Namespace) -> int:
    """Compute what there is time for, write it, and say what is left."""
    began = time.monotonic()
    settings, tasks, campaign = begin(given)
    left = [task for task in tasks if task.name not in campaign.outcomes]
    print(f"results-gpu: {len(left)} of {len(tasks)} jobs to do in {given.limit:.0f} s, {given.device}", flush=True)
    campaign.versions = versions(given.jobs or 1)
    pool = Pool(given.jobs or max(TRIED))
    try:
        if left and given.jobs is None:
            first = settings[left[0].experiment]
            data, config = data_and_config(IMAGE_EXPERIMENTS[left[0].experiment], first, left[0].job)
            number, rates = pool.best_number(replace(config, steps=None), data)
            campaign.jobs_at_once[torch_device_name(given.device)] = rates
            campaign.versions = versions(number)
            print(f"results-gpu: {number} jobs side by side (images/s: {rates})", flush=True)
            pool.num_processes = number
        calls = [call_of(task, settings, given) for task in left]
        pool.run(calls, began + given.limit - RESERVED_SECONDS, partial(receive, campaign, given.out, began))
    finally:
        pool.close()
    campaign.seconds += time.monotonic() - began
    return finish(given, settings, tasks, campaign)


def call_of(task: Task, settings: dict[str, Any], given: argparse.Namespace) -> Call:
    """Return the call that computes a task."""
    experiment, out = IMAGE_EXPERIMENTS[task.experiment], given.out / task.experiment
    out.mkdir(parents=True, exist_ok=True)
    argument = (experiment, settings[task.experiment], task.job, out, given.runs)
    return Call(task.name, run_job, (argument, count_done), alone=experiment.measures_time)


def receive(
    campaign: Campaign, out: Path, began: float, call: Call, outcome: JobOutcome | None, error: BaseException | None
) -> None:
    """Keep an outcome, or the error of a job that failed; the others go on."""
    if outcome is None:
        campaign.failed[call.name] = f"{type(error).__name__}: {error}"
        told = f"failed: {campaign.failed[call.name]}"
    else:
        campaign.outcomes[call.name] = outcome
        campaign.failed.pop(call.name, None)
        told = ", ".join(f"{name} {value:.4g}" for name, value in list(outcome.values.items())[:3])
    campaign.save(out)
    print(f"{time.monotonic() - began:6.0f} s  {call.name}: {told}", flush=True)


def finish(given: argparse.Namespace, settings: dict[str, Any], tasks: list[Task], campaign: Campaign) -> int:
    """Write the results, and say what is left. The exit status is 1 if a job failed."""
    campaign.save(given.out)
    for line in write_results(campaign, settings, tasks, given.out):
        print(line)
    for name, error in campaign.failed.items():
        print(f"failed: {name}: {error}")
    if getattr(given, "pack", None):
        for file in pack_results(given.out, given.pack):
            print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    return 1 if campaign.failed else 0


def pack_results(out: Path, folder: Path) -> list[Path]:
    """Write campaign.json and the pictures into files of at most 15 MB, and return these."""
    folder.mkdir(parents=True, exist_ok=True)
    groups: list[list[Path]] = [[]]
    size = 0
    for path in [out / FILE, *sorted(out.glob("*/*.png"))]:
        if groups[-1] and size + path.stat().st_size > PART_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(path)
        size += path.stat().st_size

    def write(group: list[Path], file: Path) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in group:
                archive.write(path, path.relative_to(out).as_posix())

    files = [folder / f"results-{number}.zip" for number in range(1, len(groups) + 1)]
    for file, group in zip(files, groups, strict=True):
        write_atomically(file, partial(write, group))
    return files


def merge(given: argparse.Namespace) -> int:
    """Add what was computed elsewhere, write all results, and say what is left."""
    settings, tasks, campaign = begin(given)
    for task in tasks:
        load(task.job.dataset, settings[task.experiment])
    with TemporaryDirectory() as temporary:
        folders = [source for source in given.sources if source.is_dir()]
        files = [source for source in given.sources if not source.is_dir()]
        for file in files:  # the parts of one run are one folder
            with zipfile.ZipFile(file) as archive:
                archive.extractall(Path(temporary) / file.resolve().parent.name)
        folders += sorted({Path(temporary) / file.resolve().parent.name for file in files})
        for folder in folders:
            other = Campaign.read(folder)
            new = campaign.add(other, folder, given.out)
            campaign.versions = campaign.versions or other.versions
            print(f"{folder.name}: {len(new)} new of {len(other.outcomes)}")
    return finish(given, settings, tasks, campaign)


if __name__ == "__main__":
    sys.exit(main())
