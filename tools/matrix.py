"""Builds and tests the package for every pair of a Python of this machine and a torch release: `make matrix`.

Each cell is a virtual environment of its own, in which the unpacked source distribution is built and the tests of ops,
noise and optimizers run. What was built against the oldest and the newest torch also runs under every other torch of
that Python. Results go into a JSON file, cell by cell, and into the page made of it; a cell that passed is not done
again while sources, versions and tests are the same. One that fails does not stop the others; the exit code is then 1.

A cell's environment is deleted as soon as it was tested, and all that was downloaded and built at the end (--keep
leaves it, which spares the next run). Logs stay where a cell failed.
"""

import argparse
import datetime
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import environments
from .environments import PYTHONS, ROOT, StepFailedError, find_pythons, find_uv, nvcc_version, run

TEST_REQUIREMENTS = ("pytest", "hypothesis", "expecttest")
PYTHON_TESTS = ROOT / "python_tests"
COMPILE_TESTS = ["optim/test_compile"]
#: What is not a cell's to find out: whether the reference and the optimizers sample what they claim; samplers.
LEFT_OUT = {"ops/test_reference", "optim/test_database", "optim/test_stationary", "distributed/test_posterior"}
LEFT_OUT |= {"distributed/test_chains", *COMPILE_TESTS}
TESTS = ["test_build"] + [
    name
    for folder in ("ops", "optim", "distributed")
    for path in sorted((PYTHON_TESTS / folder).glob("test_*.py"))
    if (name := f"{folder}/{path.stem}") not in LEFT_OUT
]
ABI_TESTS = ["ops/test_errors", "ops/test_likelihood", "ops/test_steps"]
#: Tests of torch.compile, which take longest, by their names; left out where COMPILE_TESTS are.
COMPILED = "compiled"
#: What is left out by its marks: what takes long, and outside the cells of the compile tests what starts processes.
DESELECTED = {True: "not exhaustive", False: "not exhaustive and not processes"}
#: Gigabytes of a torch release with the libraries that it brings, and of one for the CPU alone.
TORCH_GB, CPU_TORCH_GB = 5, 1
#: What a cell's result depends on.
SOURCES = ("ald_ext", "csrc", "python_tests", "setup.py", "CMakeLists.txt", "pyproject.toml", "MANIFEST.in")

Result = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A Python, a torch release, what is tried with them besides, and the torches whose builds run here too."""

    python: str
    torch: str
    compiles: bool
    cuda: bool
    foreign: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.python}/{self.torch.rpartition('.')[0]}"

    @property
    def name(self) -> str:
        return f"Python {self.python}, torch {self.torch}"

    @property
    def place(self) -> str:
        """The name of its folders."""
        return f"{self.python}-{self.torch}"

    def tests(self) -> dict[str, list[str]]:
        """Those of each run: of the wheel built here, then of those built elsewhere."""
        own = TESTS + (COMPILE_TESTS if self.compiles else [])
        return {self.torch: own, **dict.fromkeys(self.foreign, ABI_TESTS)}


class Matrix:
    """Makes cells, and keeps their results in a file."""

    def __init__(self, results: Path, work: Path, pythons: dict[str, str], cpu_index: str | None = None) -> None:
        self.results_path, self.work, self.pythons, self.cpu_index = results, work, pythons, cpu_index
        self.results: dict[str, Result] = json.loads(results.read_text()) if results.is_file() else {}
        self.sources = hash_of_sources()
        self.lock = threading.Lock()
        self.sdist = environments.build_sdist(work / "sdist", work / "logs" / "sdist.log")

    def write(self) -> None:
        self.results_path.parent.mkdir(parents=True, exist_ok=True)
        self.results_path.write_text(json.dumps(dict(sorted(self.results.items(), key=order)), indent=1) + "\n")
        self.results_path.with_suffix(".md").write_text(page(self.results))

    def is_done(self, cell: Cell) -> bool:
        result = self.results.get(cell.key, {})
        if result.get("sources") != self.sources or result["torch"] != cell.torch or "failure" in result:
            return False
        ran = {torch: set(run["files"]) for torch, run in result["runs"].items()}
        tested = all(set(files) <= ran.get(torch, set()) for torch, files in cell.tests().items())
        return tested and (result["cuda"] is not None or not cell.cuda)

    def wheel(self, python: str, torch: str) -> Path | None:
        """Built by an earlier step, of the same sources."""
        return next((self.work / "wheels" / self.sources / f"{python}-{torch}").glob("*.whl"), None)

    def make(self, cell: Cell, result: Result) -> None:
        """The environment with a wheel built in it."""
        folder, log = self.work / cell.place, self.work / "logs" / cell.place
        say(f"{cell.name}: making the environment")
        began = time.monotonic()
        index = [f"--index={self.cpu_index}"] if self.cpu_index and not cell.cuda else []
        packages = (f"torch=={cell.torch}", *index, *environments.BUILD_REQUIREMENTS, *TEST_REQUIREMENTS)
        python = environments.make_environment(
            folder, self.pythons[cell.python], *packages, log=log / "environment.log"
        )
        prepared = time.monotonic()
        if self.wheel(cell.python, cell.torch) is None:
            say(f"{cell.name}: building{' with CUDA' if cell.cuda else ''}")
            source = environments.unpack(self.sdist, folder / "source")
            target = self.work / "wheels" / self.sources / cell.place
            cuda = {"ALD_EXT_CUDA": "1" if cell.cuda else "0"}
            if cell.cuda:
                cuda["TORCH_CUDA_ARCH_LIST"] = os.environ.get("TORCH_CUDA_ARCH_LIST", "9.0")
            environments.build_wheel(python, source, target, log / "build.log", **cuda)
        built = time.monotonic()
        result["seconds"] = {"environment": round(prepared - began, 1), "build": round(built - prepared, 1)}
        result["cuda"] = nvcc_version() if cell.cuda else None

    def test(self, cell: Cell, result: Result) -> None:
        """Runs of the wheel built here and of those built against others; adds to the result."""
        folder, log = self.work / cell.place, self.work / "logs" / cell.place
        python = folder / "bin" / "python"
        tests = environments.unpack(self.sdist, folder / "tests")
        shutil.rmtree(tests / "ald_ext")  # or Python would import it in place of the installed package
        result["runs"] = {}
        for torch, files in cell.tests().items():
            wheel = self.wheel(cell.python, torch)
            if wheel is None:
                raise StepFailedError(f"there is no wheel built against torch {torch}")
            say(f"{cell.name}: testing what was built {'here' if torch == cell.torch else f'against {torch}'}")
            began = time.monotonic()
            environments.install(python, "--no-deps", "--reinstall", wheel, log=log / f"install-{torch}.log")
            cuda = ["--cuda"] if result["cuda"] and torch == cell.torch else []
            run("smoke test", [python, tests / "tools" / "smoke.py", *cuda], log / f"smoke-{torch}.log", cwd=tests)
            report = folder / f"report-{torch}.xml"
            command: list[str | Path] = [python, "-m", "pytest", "-q", "-o", "addopts=--import-mode=importlib"]
            command += ["-m", DESELECTED[cell.compiles and torch == cell.torch]]
            command += [] if cell.compiles else ["-k", f"not {COMPILED}"]
            command += ["-p", "no:cacheprovider", "--durations=15", f"--junitxml={report}"]
            command += [f"python_tests/{file}.py" for file in files]
            run(f"tests of what was built against {torch}", command, log / f"tests-{torch}.log", cwd=tests)
            counts = ElementTree.parse(report).getroot().find("testsuite").attrib  # type: ignore[union-attr]
            ran, skipped = int(counts["tests"]), int(counts["skipped"])
            seconds = round(time.monotonic() - began, 1)
            result["runs"][torch] = {"passed": ran - skipped, "skipped": skipped, "seconds": seconds, "files": files}
        result["versions"] = versions(python)

    def attempt(self, step: Callable[[Cell, Result], None], cell: Cell, result: Result) -> Result:
        """Does one of the steps above unless an earlier one failed, and notes a failure in the result."""
        try:
            if "failure" not in result:
                step(cell, result)
        except StepFailedError as error:
            result["failure"] = str(error).replace(f"{ROOT}/", "")
        return result

    def begin(self, cell: Cell) -> Result:
        identity = {"python": cell.python, "torch": cell.torch, "sources": self.sources}
        return self.attempt(self.make, cell, {**identity, **provenance()})

    def end(self, cell: Cell, result: Result) -> bool:
        """Tests what :meth:`begin` has made, stores the result, and tells whether the cell passed."""
        began = time.monotonic()
        self.attempt(self.test, cell, result)
        shutil.rmtree(self.work / cell.place, ignore_errors=True)
        with self.lock:
            self.results[cell.key] = result
            self.write()
        failure = result.get("failure")
        say(f"{cell.name}: {f'FAILED: {failure}' if failure else f'passed, tests {time.monotonic() - began:.0f} s'}")
        return failure is None

    def do_python(self, cells: list[Cell], jobs: int) -> list[bool]:
        """All cells of one Python: first those whose wheels the others run, then the rest."""
        todo = [cell for cell in cells if not self.is_done(cell)]
        for cell in cells:
            if cell not in todo:
                say(f"{cell.name}: passed before, sources and versions are the same")
        needed = {torch for cell in todo for torch in cell.tests()}
        first = [c for c in cells if c in (cells[0], cells[-1]) and (c in todo or self.missing(c, needed))]
        with ThreadPoolExecutor(jobs) as pool:
            outcomes = list(pool.map(self.end, first, list(pool.map(self.begin, first))))
            rest = [cell for cell in todo if cell not in first]
            return outcomes + list(pool.map(lambda cell: self.end(cell, self.begin(cell)), rest))

    def missing(self, cell: Cell, needed: set[str]) -> bool:
        return cell.torch in needed and self.wheel(cell.python, cell.torch) is None

    def clean(self, passed: bool) -> None:
        """Deletes what was downloaded and built, and the logs unless they tell of a failure."""
        for name in ("cache", "sdist", "wheels", *(["logs"] if passed else [])):
            shutil.rmtree(self.work / name, ignore_errors=True)
        if not any(self.work.iterdir()):
            self.work.rmdir()


def lack_of_space(work: Path, torches: int, cpu_only: bool) -> str | None:
    """What to say where the disk may become full: with the torch releases of one Python side by side."""
    needed = torches * (CPU_TORCH_GB if cpu_only else TORCH_GB) + 1
    free = shutil.disk_usage(next(folder for folder in (work, *work.parents) if folder.is_dir())).free / 1e9
    if free >= needed:
        return None
    return (
        f"{work}: got {free:.1f} GB of free space, expected up to {needed} GB for {torches} releases of torch; if the "
        "disk becomes full, name a folder of another one in --work, fewer releases in --torch, or a --cpu-index"
    )


def say(text: str) -> None:
    print(f"{datetime.datetime.now():%H:%M:%S} {text}", flush=True)


def order(item: tuple[str, Result]) -> list[list[int]]:
    return [[int(number) for number in part.split(".") if number] for part in item[0].split("/")]


def hash_of_sources() -> str:
    """The hash of all files that a cell's result depends on, as they lie in the checkout."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z", *SOURCES]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    hashed = hashlib.sha256()
    for name in sorted(filter(None, listed)):
        if (ROOT / name).is_file():
            hashed.update(f"{name}\0".encode() + (ROOT / name).read_bytes())
    return hashed.hexdigest()[:12]


def provenance() -> Result:
    """Date, commit and kind of machine."""
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    return {
        "date": f"{datetime.date.today()}",
        "commit": commit.stdout.strip(),
        "machine": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
    }


def versions(python: Path) -> Result:
    """The versions that were tested, asked of the environment itself."""
    code = (
        "import json, platform, numpy, torch; from ald_ext._extension import cpu_module; print(json.dumps({"
        "'python': platform.python_version(), 'torch': torch.__version__, 'numpy': numpy.__version__, "
        "'compiler': cpu_module.build_info()['compiler']}))"
    )
    answer = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd=python.parent)
    found: Result = json.loads(answer.stdout)
    return found


# The page

INTRODUCTION = """\
# Versions that were tried

Made by `make matrix`; nothing here is written by hand. Each row is a virtual environment of its own in which the
unpacked source distribution was built and tested. The modules use torch's stable ABI, so that one build serves other
versions of torch too: the fifth column ran, in the same environment, modules that were built against the oldest and the
newest. Numbers are of tests that passed. No GPU was there: tests of CUDA kernels are skipped. "CUDA" tells with which
nvcc the CUDA module was compiled and linked, and that it loads; that is tried with the oldest and the newest torch and
one Python.
"""


def row(result: Result) -> list[str]:
    if "unavailable" in result:
        return [result["python"], result["torch"], f"not to be had: {result['unavailable']}", *[""] * 4]
    passed = {torch: str(run["passed"]) for torch, run in result.get("runs", {}).items()}
    own, found = passed.pop(result["torch"], ""), result.get("versions", {})
    return [
        found.get("python", result["python"]),
        found.get("torch", result["torch"]),
        "**failed**" if "failure" in result else "passed",
        own,
        ", ".join(f"{torch}: {count}" for torch, count in passed.items()),
        result.get("cuda") or "",
        found.get("numpy", ""),
    ]


def page(results: dict[str, Result]) -> str:
    """Markdown."""
    header = ["Python", "torch", "", "tests", "built against another torch: tests", "CUDA", "numpy"]
    ordered = [result for _, result in sorted(results.items(), key=order)]
    lines = [header, ["---"] * len(header), *map(row, ordered)]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    tried = [result for result in ordered if "unavailable" not in result]
    failures = [f"- Python {r['python']}, torch {r['torch']}: {r['failure']}" for r in tried if "failure" in r]
    own, foreign = (
        [
            (key, [file for torch, run in r["runs"].items() if (torch == r["torch"]) is here for file in run["files"]])
            for key, r in sorted(results.items(), key=order)
            if "runs" in r
        ]
        for here in (True, False)
    )
    machines = sorted({r["machine"] for r in tried})
    compilers = sorted({r["versions"]["compiler"] for r in tried if "versions" in r})
    dates, commits = sorted({r["date"] for r in tried}), sorted({r["commit"] for r in tried})
    parts = [INTRODUCTION, table, ""]
    parts += ["What failed:", "", *failures, ""] if failures else []
    parts += [
        f"Tests of what was built in a cell: {files_that_ran(own)}. Cells with the tests of `torch.compile` ran tests "
        "that start processes too; tests marked as exhaustive are left out.",
        "",
        f"Tests of what was built against another torch: {files_that_ran(foreign)}.",
        "",
        f"{'; '.join(machines)}; {', '.join(compilers)}; {' to '.join(dict.fromkeys(dates[:1] + dates[-1:]))}, commit "
        f"{', '.join(commits)}.",
    ]
    return "\n".join(parts) + "\n"


def files_that_ran(runs: list[tuple[str, list[str]]]) -> str:
    """The files that all cells have, then those that only some have, with the names of these: Python/torch."""
    files = list(dict.fromkeys(file for _, ran in runs for file in ran))
    of_all = [file for file in files if all(file in ran for _, ran in runs)]
    of_some: dict[str, list[str]] = {}
    for file in files:
        if file not in of_all:
            of_some.setdefault(", ".join(name for name, ran in runs if file in ran), []).append(file)
    told = [names(of_all), *(f"in {where} (Python/torch) also {names(some)}" for where, some in of_some.items())]
    return "; ".join(filter(None, told)) or "none"


def names(files: list[str]) -> str:
    return ", ".join(f"`{file}`" for file in files)


def chosen(releases: list[str], wanted: list[str]) -> list[str]:
    """Those of the words: oldest, newest, 2.11, 2.12.1; all where there are none."""
    named = [{"oldest": releases[0], "newest": releases[-1]}.get(word, word) for word in wanted]
    return [release for release in releases if not named or any(f"{release}.".startswith(f"{n}.") for n in named)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", default="", help='"2.11 2.15" or "oldest newest" (default: all from 2.11 on)')
    parser.add_argument("--python", default="", help=f'such as "3.11 3.12" (default: {" ".join(PYTHONS)})')
    parser.add_argument("--jobs", type=int, default=2, help="cells side by side (default: 2)")
    compatibility = ROOT / "docs" / "compatibility.json"
    parser.add_argument("--results", type=Path, default=compatibility, help="the page is beside it")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "matrix", help="environments, wheels, logs")
    parser.add_argument("--keep", action="store_true", help="leave downloads and wheels in --work")
    parser.add_argument("--cpu-index", metavar="URL", help="an index of CPU builds of torch, for cells without CUDA")
    parser.add_argument("--check", action="store_true", help="fail where the page is not of its JSON file; do nothing")
    options = parser.parse_args()
    if options.check:
        if page(json.loads(options.results.read_text())) != options.results.with_suffix(".md").read_text():
            sys.exit(f"{options.results.with_suffix('.md')}: not of the JSON file beside it; run make matrix")
        return
    sys.exit(0 if run_matrix(options) else 1)


def run_matrix(options: argparse.Namespace) -> bool:
    share = str(max(1, (os.cpu_count() or 1) // options.jobs))
    for limit in ("OMP_NUM_THREADS", "MAX_JOBS"):  # cells side by side share the cores
        os.environ.setdefault(limit, share)
    pythons, wanted = find_pythons(), options.python.split() or list(PYTHONS)
    if unknown := [python for python in wanted if python not in PYTHONS]:
        sys.exit(f"--python has {' '.join(unknown)}, expected some of {' '.join(PYTHONS)}")
    releases = {python: environments.torch_releases(python) for python in wanted}
    everything = sorted(set().union(*releases.values()), key=lambda text: [int(part) for part in text.split(".")])
    selected = chosen(everything, options.torch.split())
    if not selected:
        sys.exit(f"--torch {options.torch!r} names no release; there are {' '.join(everything)}")
    work = options.work.resolve()
    most = max(sum(torch in selected for torch in of_python) for of_python in releases.values())
    if warning := lack_of_space(work, most, options.cpu_index is not None and nvcc_version() is None):
        say(warning)
    # A cache of its own, on the disk of the environments, which are hard links into it. One that is named is not ours.
    own_cache = str(work / "cache")
    os.environ.setdefault("UV_CACHE_DIR", own_cache)
    matrix = Matrix(options.results.resolve(), work, pythons, options.cpu_index)
    here = [python for python in wanted if python in pythons]
    say(f"Pythons: {', '.join(here) or 'none'}; torch: {', '.join(selected)}; sources {matrix.sources}")
    outcomes: list[bool] = []
    for python in wanted:
        torches = [torch for torch in selected if torch in releases[python]]
        for torch in selected:
            reason = f"no Python {python} on this machine" if python not in pythons else ""
            reason = f"it has no wheel for Python {python}" if torch not in torches else reason
            if reason:
                say(f"Python {python}, torch {torch}: not to be had: {reason}")
                key = Cell(python, torch, False, False, ()).key
                if matrix.results.get(key, {"unavailable": ""}).get("unavailable") is not None:
                    matrix.results[key] = {"python": python, "torch": torch, "unavailable": reason}
        if python in pythons and torches:
            ends, cells = (torches[0], torches[-1]), []
            for torch in torches:
                newest = max((p for p in here if torch in releases[p]), key=PYTHONS.index)
                more = newest == python and torch in ends
                foreign = tuple(dict.fromkeys(end for end in ends if end != torch))
                cells.append(Cell(python, torch, more, more and nvcc_version() is not None, foreign))
            outcomes += matrix.do_python(cells, options.jobs)
            if os.environ["UV_CACHE_DIR"] == own_cache and python != here[-1]:
                # Other Pythons have other wheels of torch; the libraries that it brings are the same.
                run("cleaning the cache", [find_uv(), "cache", "clean", "torch"], work / "logs" / "clean.log")
    matrix.write()
    failed = outcomes.count(False)
    if not options.keep:
        matrix.clean(passed=failed == 0)
    say(f"{len(outcomes) - failed} passed, {failed} failed")
    return failed == 0 and bool(here)


if __name__ == "__main__":
    main()
