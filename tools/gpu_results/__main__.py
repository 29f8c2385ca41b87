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

from ald_ext.data import load_dataset
from ald_ext.files import write_atomically
from ald_ext.paper import IMAGE_EXPERIMENTS
from ald_ext.paper.images.budget import device_name
from ald_ext.paper.images.experiment import ImageSettings, JobOutcome, check_settings, extractor_of, load
from ald_ext.paper.images.runner import run_job
from ald_ext.paper.images.selection import choose, trials_of
from ald_ext.paper.results import Choice, versions
from ald_ext.paper.workers import count_done
from ald_ext.settings import require
from ald_ext.tensor_files import first_line

from .campaign import FILE, ORDER, Campaign, Task, plan, settings_of, write_results
from .pieces import pack, unpack
from .pool import TRIED, Call, Pool

#: The paper's data sets.
PAPERS = ("mnist", "bmnist", "cifar10", "celeba", "svhn")
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
    parser.add_argument("--datasets", nargs="+", metavar="DATASET", help=f"if not given those at hand of {PAPERS}")
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
    for dataset in given.datasets or PAPERS:
        name = Path(dataset).stem
        brought = sorted(given.data.glob(f"{name}.zip")) + sorted(given.data.glob(f"{name}-*.zip"))
        if brought:
            found[brought[0].stem] = str(unpack(brought[0], given.runs / "data"))
        elif given.datasets or is_at_hand(dataset, data_root(given)):
            found[name] = dataset
        else:
            print(f"results-gpu: {dataset} is neither in {given.data} nor in {given.data_root}, and is left out")
    require(bool(found), "datasets", "none at hand", f"some of {', '.join(PAPERS)} in --data or --data-root")
    return found


def is_at_hand(dataset: str, root: str | None) -> bool:
    """Return whether the files of a data set of torchvision are there."""
    try:
        return bool(load_dataset(dataset, root))
    except (ValueError, OSError):
        return False


def data_root(given: argparse.Namespace) -> str | None:
    """Return the folder of torchvision's files, if there is one."""
    return given.data_root if Path(given.data_root).is_dir() else None


def begin(given: argparse.Namespace) -> tuple[dict[str, ImageSettings], list[Task], Campaign]:
    """Return the settings of each experiment, all tasks, and the campaign with what has been computed."""
    shared = {"seconds": given.seconds, "candidates": given.candidates}
    shared |= {} if given.quick else {"width": given.width}
    datasets = sources(given)
    local = {"device": given.device, "data_root": data_root(given)}
    settings = settings_of(datasets, given.experiments, given.quick, **shared, **local)
    require(given.seeds >= 1, "seeds", given.seeds, ">= 1")
    tasks = plan(settings, given.seeds)
    campaign = Campaign({**shared, "quick": given.quick, "datasets": list(datasets)})
    if (given.out / FILE).is_file():
        before = Campaign.read(given.out)
        before.add(Campaign(campaign.settings), given.out, given.out)  # ValueError where the settings differ
        campaign = before
    campaign.restore(given.runs)
    return settings, tasks, campaign


def run(given: argparse.Namespace) -> int:
    """Compute what there is time for, write it, and say what is left."""
    began = time.monotonic()
    require(given.jobs is None or given.jobs >= 1, "jobs", given.jobs, ">= 1")
    settings, tasks, campaign = begin(given)
    for name, own in settings.items():
        check_settings(name, own, own.models, given.seeds)
        if own.candidates or IMAGE_EXPERIMENTS[name].needs_statistics:
            extractor_of(own)  # ImportError now, and not after the first training
    left = [task for task in tasks if task.name not in campaign.outcomes]
    print(f"results-gpu: {len(left)} of {len(tasks)} jobs to do in {given.limit:.0f} s, {given.device}", flush=True)
    campaign.versions = versions(given.jobs or 1)
    pool = Pool(given.jobs or max(TRIED))
    try:
        if left and given.jobs is None:
            set_jobs_at_once(pool, campaign, settings[left[0].experiment], left[0])
        until = began + given.limit - RESERVED_SECONDS
        calls = calls_of(left, settings, given, until)
        campaign.keep(given.runs)
        pool.run(calls, until, partial(receive, campaign, given, began))
    finally:
        pool.close()
    campaign.seconds += time.monotonic() - began
    return finish(given, settings, tasks, campaign)


def set_jobs_at_once(pool: Pool, campaign: Campaign, settings: ImageSettings, task: Task) -> None:
    """Measure how many jobs side by side are fastest, and let the pool run so many."""
    data = load(task.job.dataset, settings)
    config = IMAGE_EXPERIMENTS[task.experiment].training_config(
        settings, replace(task.job, model="lae"), data.train_images
    )
    pool.num_processes, rates = pool.best_number(config, data)
    campaign.jobs_at_once[device_name(settings.device)] = rates
    campaign.versions = versions(pool.num_processes)
    print(f"results-gpu: {pool.num_processes} jobs side by side, of images/s {rates}", flush=True)


def calls_of(
    tasks: Sequence[Task], settings: dict[str, ImageSettings], given: argparse.Namespace, until: float
) -> list[Call]:
    """Return the calls that compute tasks; before the first of a data set and a model, the search for its settings.

    Speeds that the searches need are measured now, while nothing runs, as far as there is time ``until`` then.
    """
    calls: dict[str, Call] = {}
    for task in tasks:
        if time.monotonic() >= until:
            break
        experiment, own, job = IMAGE_EXPERIMENTS[task.experiment], settings[task.experiment], task.job
        out = given.out / task.experiment
        out.mkdir(parents=True, exist_ok=True)
        search = ""
        if own.candidates:
            search = f"settings/{job.dataset}-{job.model}"
            if search not in calls:
                trials_of(experiment, own, job.dataset, job.model, given.runs)
                argument = (experiment, own, job.dataset, job.model, given.runs)
                calls[search] = Call(search, choose, (argument, count_done))
        arguments = ((experiment, own, job, out, given.runs), count_done)
        calls[task.name] = Call(task.name, run_job, arguments, alone=experiment.measures_time, after=search)
    return list(calls.values())


def receive(
    campaign: Campaign,
    given: argparse.Namespace,
    began: float,
    call: Call,
    result: JobOutcome | Choice | None,
    error: BaseException | None,
) -> None:
    """Keep an outcome, or the error of a job that failed; the others go on."""
    campaign.failed.pop(call.name, None)
    if error is not None:
        campaign.failed[call.name] = f"{type(error).__name__}: {first_line(error)}"
        told = f"failed: {campaign.failed[call.name]}"
    elif isinstance(result, JobOutcome):
        campaign.outcomes[call.name] = result
        told = ", ".join(f"{name} {value:.4g}" for name, value in list(result.values.items())[:3])
    else:
        told = ", ".join(f"{name} {value}" for name, value in result.options.items())
    campaign.keep(given.runs)
    campaign.save(given.out)
    print(f"{time.monotonic() - began:6.0f} s  {call.name}: {told}", flush=True)


def finish(given: argparse.Namespace, settings: dict[str, ImageSettings], tasks: list[Task], campaign: Campaign) -> int:
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
        unpacked: dict[Path, Path] = {}
        for file in (source for source in given.sources if not source.is_dir()):
            require(zipfile.is_zipfile(file), str(file), "no whole zip file", "one that --pack wrote, or a folder")
            home = file.resolve().parent  # the parts of one run lie in one folder
            place = unpacked.setdefault(home, Path(temporary) / str(len(unpacked)) / home.name)
            with zipfile.ZipFile(file) as archive:
                archive.extractall(place)
        for folder in (*(source for source in given.sources if source.is_dir()), *unpacked.values()):
            other = Campaign.read(folder)
            new = campaign.add(other, folder, given.out)
            campaign.versions = campaign.versions or other.versions
            print(f"{folder.name}: {len(new)} new of {len(other.outcomes)}")
    return finish(given, settings, tasks, campaign)


if __name__ == "__main__":
    sys.exit(main())
