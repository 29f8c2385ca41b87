"""Builds and tests the package for every pair of a Python of this machine and a torch release: `make matrix`.

Each cell is a virtual environment of its own, in which the unpacked source distribution is built and the tests of ops,
noise and optimizers run. What was built against the oldest and the newest torch also runs under every other torch of
that Python. Results go into a JSON file, cell by cell, and into the page made of it; a cell that passed is not done
again while sources, versions and tests are the same. One that fails does not stop the others; the exit code is then 1.
"""

from __future__ import annotations

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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .environments import (
    BUILD_REQUIREMENTS,
    PYTHONS,
    ROOT,
    StepFailedError,
    build_sdist,
    build_wheel,
    find_pythons,
    install,
    make_environment,
    nvcc_version,
    run,
    torch_releases,
    unpack,
)

TEST_REQUIREMENTS = ("pytest", "hypothesis", "expecttest")
TESTS = [
    "test_build",
    "ops/test_noise",
    "ops/test_dequantization",
    "ops/test_errors",
    "ops/test_fallback",
    "ops/test_latent",
    "ops/test_likelihood",
    "ops/test_registration",
    "ops/test_rounding",
    "ops/test_sghmc",
    "ops/test_steps",
    "optim/test_errors",
    "optim/test_interface",
    "optim/test_schedulers",
    "optim/test_sghmc",
    "optim/test_state",
    "optim/test_trajectories",
]
COMPILE_TESTS = ["optim/test_compile"]
ABI_TESTS = ["ops/test_errors", "ops/test_likelihood", "ops/test_steps"]
#: Tests of torch.compile, which take longest, by their names; left out where COMPILE_TESTS are.
COMPILED = "compiled"
#: By marks: tests that take long, and outside the cells of the compile tests those that start processes.
DESELECTED = {True: "not exhaustive", False: "not exhaustive and not processes"}
#: What a cell's result depends on.
SOURCES = ("ald_ext", "csrc", "python_tests", "setup.py", "CMakeLists.txt", "pyproject.toml", "MANIFEST.in")

Result = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A Python, a torch release, what else is tried with them, and the torches whose builds run here too."""

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

    def tests(self) -> dict[str, list[str]]:
        """Those of each run: of the wheel built here, then of those built elsewhere."""
        own = TESTS + (COMPILE_TESTS if self.compiles else [])
        return {self.torch: own, **dict.fromkeys(self.foreign, ABI_TESTS)}


class Matrix:
    """Makes cells, and keeps their results in a file."""

    def __init__(self, results: Path, work: Path, pythons: dict[str, str]) -> None:
        self.results_path, self.work, self.pythons = results, work, pythons
        self.results: dict[str, Result] = json.loads(results.read_text()) if results.is_file() else {}
        self.sources = hash_of_sources()
        self.lock = threading.Lock()
        self.sdist = build_sdist(work / "sdist", work / "logs" / "sdist.log")

    def store(self, key: str, result: Result) -> None:
        with self.lock:
            self.results[key] = result
            self.write()

    def write(self) -> None:
        self.results_path.parent.mkdir(parents=True, exist_ok=True)
        self.results_path.write_text(json.dumps(dict(sorted(self.results.items(), key=order)), indent=1) + "\n")
        self.results_path.with_suffix(".md").write_text(page(self.results))

    def is_done(self, cell: Cell) -> bool:
        result = self.results.get(cell.key, {})
        return (
            result.get("sources") == self.sources
            and result["torch"] == cell.torch
            and "failure" not in result
            and (result["cuda"] is not None or not cell.cuda)
            and all(
                set(tests) <= set(result["runs"].get(name, {}).get("files", [])) for name, tests in cell.tests().items()
            )
        )

    def folder(self, cell: Cell) -> Path:
        return self.work / f"{cell.python}-{cell.torch}"

    def wheel(self, python: str, torch: str) -> Path | None:
        """Built by an earlier step, of the same sources."""
        return next((self.work / "wheels" / self.sources / f"{python}-{torch}").glob("*.whl"), None)

    def make(self, cell: Cell) -> Result:
        """The environment with a wheel built in it; what is known of the cell by then."""
        folder, log = self.folder(cell), self.work / "logs" / f"{cell.python}-{cell.torch}"
        say(f"{cell.name}: making the environment")
        began = time.monotonic()
        packages = (f"torch=={cell.torch}", *BUILD_REQUIREMENTS, *TEST_REQUIREMENTS)
        python = make_environment(folder, self.pythons[cell.python], *packages, log=log / "environment.log")
        prepared = time.monotonic()
        if self.wheel(cell.python, cell.torch) is None:
            say(f"{cell.name}: building{' with CUDA' if cell.cuda else ''}")
            source = unpack(self.sdist, folder / "source")
            target = self.work / "wheels" / self.sources / f"{cell.python}-{cell.torch}"
            cuda = {"ALD_EXT_CUDA": "1" if cell.cuda else "0"}
            if cell.cuda:
                cuda["TORCH_CUDA_ARCH_LIST"] = os.environ.get("TORCH_CUDA_ARCH_LIST", "9.0")
            build_wheel(python, source, target, log / "build.log", **cuda)
        built = time.monotonic()
        return {
            "seconds": {"environment": round(prepared - began, 1), "build": round(built - prepared, 1)},
            "cuda": nvcc_version() if cell.cuda else None,
        }

    def test(self, cell: Cell, result: Result) -> None:
        """Runs of the wheel built here and of those built against others; adds to the result."""
        folder, log = self.folder(cell), self.work / "logs" / f"{cell.python}-{cell.torch}"
        python = folder / "bin" / "python"
        tests = unpack(self.sdist, folder / "tests")
        shutil.rmtree(tests / "ald_ext")  # or Python would import it in place of the installed package
        result["runs"] = {}
        for torch, files in cell.tests().items():
            wheel = self.wheel(cell.python, torch)
            if wheel is None:
                raise StepFailedError(f"there is no wheel built against torch {torch}")
            say(f"{cell.name}: testing what was built {'here' if torch == cell.torch else f'against {torch}'}")
            began = time.monotonic()
            install(python, "--no-deps", "--reinstall", wheel, log=log / f"install-{torch}.log")
            cuda = ["--cuda"] if result["cuda"] and torch == cell.torch else []
            run("smoke test", [python, tests / "tools" / "smoke.py", *cuda], log / f"smoke-{torch}.log", cwd=tests)
            report = folder / f"report-{torch}.xml"
            command: list[str | Path] = [python, "-m", "pytest", "-q", "-o", "addopts="]
            command += ["-m", DESELECTED[cell.compiles and torch == cell.torch]]
            command += [] if cell.compiles else ["-k", f"not {COMPILED}"]
            command += ["-p", "no:cacheprovider", "--durations=15", f"--junitxml={report}"]
            command += [f"python_tests/{file}.py" for file in files if (tests / f"python_tests/{file}.py").is_file()]
            run(f"tests of what was built against {torch}", command, log / f"tests-{torch}.log", cwd=tests)
            counts = ElementTree.parse(report).getroot().find("testsuite").attrib  # type: ignore[union-attr]
            passed = int(counts["tests"]) - int(counts["skipped"])
            seconds = round(time.monotonic() - began, 1)
            result["runs"][torch] = {
                "passed": passed,
                "skipped": int(counts["skipped"]),
                "seconds": seconds,
                "files": files,
            }
        result["versions"] = versions(python)

    def do(self, cell: Cell, made: Result | StepFailedError | None = None) -> bool:
        """One cell from beginning to end; stores its result, and tells whether it passed."""
        result: Result = {"python": cell.python, "torch": cell.torch, "sources": self.sources, **provenance()}
        began = time.monotonic()
        try:
            if isinstance(made, StepFailedError):
                raise made
            result |= made or self.make(cell)
            self.test(cell, result)
        except StepFailedError as error:
            result["failure"] = str(error).replace(f"{ROOT}/", "")
        finally:
            shutil.rmtree(self.folder(cell), ignore_errors=True)
        self.store(cell.key, result)
        failure = result.get("failure")
        say(f"{cell.name}: {f'FAILED: {failure}' if failure else f'passed, tests {time.monotonic() - began:.0f} s'}")
        return failure is None

    def try_make(self, cell: Cell) -> Result | StepFailedError:
        try:
            return self.make(cell)
        except StepFailedError as error:
            return error

    def do_python(self, cells: list[Cell], jobs: int) -> list[bool]:
        """All cells of one Python: first those whose wheels the others run, then the rest."""
        todo = [cell for cell in cells if not self.is_done(cell)]
        for cell in cells:
            if cell not in todo:
                say(f"{cell.name}: passed before, sources and versions are the same")
        needed = {torch for cell in todo for torch in cell.tests()}
        first = [c for c in cells if c in (cells[0], cells[-1]) and (c in todo or self.missing(c, needed))]
        with ThreadPoolExecutor(jobs) as pool:
            made = list(pool.map(self.try_make, first))
            outcomes = list(pool.map(self.do, first, made))
            return outcomes + list(pool.map(self.do, [cell for cell in todo if cell not in first]))

    def missing(self, cell: Cell, needed: set[str]) -> bool:
        return cell.torch in needed and self.wheel(cell.python, cell.torch) is None


def say(text: str) -> None:
    print(f"{datetime.datetime.now():%H:%M:%S} {text}", flush=True)


def order(item: tuple[str, Result]) -> list[list[int]]:
    return [[int(number) for number in part.split(".") if number] for part in item[0].split("/")]


def hash_of_sources() -> str:
    """Of all files that a cell's result depends on, as they lie in the checkout."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z", *SOURCES]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    hashed = hashlib.sha256()
    for name in sorted(filter(None, listed)):
        if (ROOT / name).is_file():
            hashed.update(f"{name}\0".encode() + (ROOT / name).read_bytes())
    return hashed.hexdigest()[:12]


def provenance() -> Result:
    """When, of which commit, on what kind of machine."""
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    return {
        "date": f"{datetime.date.today()}",
        "commit": commit.stdout.strip(),
        "machine": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
    }


def versions(python: Path) -> Result:
    """What was tested, asked of the environment itself."""
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


def run_text(result: Result, torch: str) -> str:
    found = result.get("runs", {}).get(torch)
    return f"{found['passed']}" if found else ""


def row(result: Result) -> list[str]:
    if "unavailable" in result:
        return [result["python"], result["torch"], f"not to be had: {result['unavailable']}", *[""] * 4]
    runs = result.get("runs", {})
    state = "**failed**" if "failure" in result else "passed"
    found = result.get("versions", {})
    foreign = [f"{torch}: {run['passed']}" for torch, run in runs.items() if torch != result["torch"]]
    return [
        found.get("python", result["python"]),
        found.get("torch", result["torch"]),
        state,
        run_text(result, result["torch"]),
        ", ".join(foreign),
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
    compiled = [
        f"Python {r['python']} with torch {r['torch']}"
        for r in tried
        if any(set(COMPILE_TESTS) & set(run["files"]) for run in r.get("runs", {}).values())
    ]
    machines = sorted({r["machine"] for r in tried})
    compilers = sorted({r["versions"]["compiler"] for r in tried if "versions" in r})
    dates, commits = sorted({r["date"] for r in tried}), sorted({r["commit"] for r in tried})
    parts = [INTRODUCTION, table, ""]
    parts += ["What failed:", "", *failures, ""] if failures else []
    parts += [
        f"Tests of a cell: {names(TESTS)}. Of modules built against another torch: {names(ABI_TESTS)}. Of "
        f"{', of '.join(compiled) or 'no cell'} also {names(COMPILE_TESTS)}, tests of compiled ops, and those that "
        "start processes. Tests marked as exhaustive are left out.",
        "",
        f"{'; '.join(machines)}; {', '.join(compilers)}; {' to '.join(dict.fromkeys(dates[:1] + dates[-1:]))}, commit "
        f"{', '.join(commits)}.",
    ]
    return "\n".join(parts) + "\n"


def names(files: list[str]) -> str:
    return ", ".join(f"`{file}`" for file in files)


def chosen(releases: list[str], wanted: list[str]) -> list[str]:
    """Those of the words: oldest, newest, 2.11, 2.12.1; all where there are none."""
    named = [{"oldest": releases[0], "newest": releases[-1]}.get(word, word) for word in wanted]
    return [release for release in releases if not named or any(f"{release}.".startswith(f"{n}.") for n in named)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--torch", default="", help='such as "2.11 2.15" or "oldest newest" (default: all from 2.11 on)'
    )
    parser.add_argument("--python", default="", help=f'such as "3.11 3.12" (default: {" ".join(PYTHONS)})')
    parser.add_argument("--jobs", type=int, default=2, help="cells side by side (default: 2)")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "docs" / "compatibility.json", help="the page is beside it"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "matrix", help="environments, wheels, logs")
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
    releases = {python: torch_releases(python) for python in wanted}
    everything = sorted(set().union(*releases.values()), key=lambda text: [int(part) for part in text.split(".")])
    selected = chosen(everything, options.torch.split())
    if not selected:
        sys.exit(f"--torch {options.torch!r} names no release; there are {' '.join(everything)}")
    matrix = Matrix(options.results.resolve(), options.work.resolve(), pythons)
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
                    matrix.store(key, {"python": python, "torch": torch, "unavailable": reason})
        if python in pythons and torches:
            ends = (torches[0], torches[-1])
            newest = {torch: max((p for p in here if torch in releases[p]), key=PYTHONS.index) for torch in torches}
            cells = [
                Cell(
                    python,
                    torch,
                    compiles=newest[torch] == python and torch in ends,
                    cuda=newest[torch] == python and torch in ends and nvcc_version() is not None,
                    foreign=tuple(dict.fromkeys(end for end in ends if end != torch)),
                )
                for torch in torches
            ]
            outcomes += matrix.do_python(cells, options.jobs)
    matrix.write()
    failed = outcomes.count(False)
    say(f"{len(outcomes) - failed} passed, {failed} failed")
    return failed == 0 and bool(here)


if __name__ == "__main__":
    main()
