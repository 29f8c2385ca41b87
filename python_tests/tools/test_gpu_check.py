"""`make gpu-check` without a GPU: the order of its stages, their limits, its table and its exit status.

The script runs in a folder of its own, with programs in the place of Python and ldd that do what the test says.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools/gpu_check.sh"

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(
        any(shutil.which(name) is None for name in ("bash", "timeout")), reason="needs bash and timeout (coreutils)"
    ),
]

STAGES = ["build", "modules", "tests", "memcheck", "benchmarks", "racecheck", "experiments"]

#: Notes its arguments; what follows "case" is the behaviour that a test asks for, by patterns of the arguments.
PROGRAM = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >>"{log}"
case "$*" in
{behaviour}
esac
"""

#: What `ald-ext experiment --list` answers.
EXPERIMENTS = "*'experiment --list --images'*) echo image-generation; echo dequantization ;;"

#: A timeout that is over at once for the commands of these patterns, and never for others.
TIMEOUT = '{late}) exit 124 ;;\n*) shift; [[ $1 != [0-9]* ]] || shift; exec "$@" ;;'


@dataclass(frozen=True)
class Outcome:
    status: int
    stages: dict[str, str]  # what the table says of each, without the seconds
    calls: list[str]
    output: str


def run(
    folder: Path,
    *stages: str,
    behaviour: str = "",
    late: str | None = "nothing",
    libraries: str = "libc.so.6 => found",
    **variables: str,
) -> Outcome:
    """A run whose Python does ``behaviour``, lines of a shell's case, and else succeeds at once.

    Args:
        folder: where it runs.
        stages: as of the script.
        late: a pattern of the commands that run out of their time; None: those that truly do.
        libraries: what ldd says.
        variables: of the environment.
    """
    log, programs, modules = folder / "calls", folder / "programs", folder / "ald_ext"
    for made in (programs, modules, folder / "tools"):
        made.mkdir()
    for name in ("_C.so", "_C_cuda.so"):
        (modules / name).touch()
    shutil.copy(SCRIPT, folder / "tools")
    known = {
        "python": f"*'-c import os, torch'*) echo /torch/lib ;;\n{behaviour}\n{EXPERIMENTS}",
        "compute-sanitizer": "",
        "ldd": f"*) echo '{libraries}' ;;",
        **({} if late is None else {"timeout": TIMEOUT.format(late=late)}),
    }
    for name, does in known.items():
        program = programs / name
        program.write_text(PROGRAM.format(log=log, behaviour=does))
        program.chmod(0o755)
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("STAGE_SECONDS", "GPU_CHECK_SECONDS")},
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHON": str(programs / "python"),
        "RESULTS": str(folder / "results"),
        **variables,
    }
    command = ["bash", str(folder / "tools/gpu_check.sh"), *stages]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    output = done.stdout + done.stderr
    table = dict(re.findall(r"^gpu-check: (\w+) +\d+ s  (.*)$", output, re.MULTILINE))
    calls = log.read_text().splitlines() if log.exists() else []
    return Outcome(done.returncode, table, calls, output)


def test_every_stage_in_order(tmp_path: Path) -> None:
    outcome = run(tmp_path)
    assert outcome.status == 0, outcome.output
    assert outcome.stages == dict.fromkeys(STAGES, "passed")
    assert list(outcome.stages) == STAGES
    told = [
        "setup.py build_ext --inplace",
        "ldd ald_ext/_C.so",
        "ldd ald_ext/_C_cuda.so",
        "-m pytest python_tests",
        "--tool memcheck",
        "-m benchmarks.speed --device cuda",
        "-m benchmarks.training --device cuda",
        "-m benchmarks.page",
        "--tool racecheck",
        *(f"experiment {name}" for name in ("image-generation", "dequantization")),
    ]
    places = [next(i for i, call in enumerate(outcome.calls) if text in call) for text in told]
    assert places == sorted(places)
    for stage in STAGES:
        assert (tmp_path / "results" / f"gpu_{stage}.log").exists()


def test_named_stages_alone(tmp_path: Path) -> None:
    outcome = run(tmp_path, "racecheck", "modules")
    assert list(outcome.stages) == ["racecheck", "modules"]
    assert not any("setup.py" in call or "-m pytest" in call for call in outcome.calls)


def test_a_failure_keeps_nothing_from_running(tmp_path: Path) -> None:
    outcome = run(tmp_path, behaviour="*'-m pytest'*) exit 3 ;;\n*benchmarks.training*) exit 1 ;;")
    assert outcome.status == 1
    assert outcome.stages["tests"] == f"FAILED: status 3, see {tmp_path / 'results' / 'gpu_tests.log'}"
    assert outcome.stages["benchmarks"].startswith("FAILED: status 1")
    assert outcome.stages["experiments"] == outcome.stages["racecheck"] == "passed"


def test_nothing_runs_without_a_build(tmp_path: Path) -> None:
    outcome = run(tmp_path, behaviour="*setup.py*) exit 2 ;;")
    assert outcome.status == 1
    assert outcome.stages.pop("build").startswith("FAILED: status 2")
    assert set(outcome.stages.values()) == {"not run, for want of a build"}


def test_out_of_time_is_no_failure(tmp_path: Path) -> None:
    """A stage that is stopped at its limit, and a benchmark that stops by itself with cases left out."""
    outcome = run(tmp_path, behaviour="*benchmarks.speed*) exit 124 ;;", late="*'-m pytest'*")
    assert outcome.status == 0, outcome.output
    late = {stage for stage, text in outcome.stages.items() if text.startswith("out of time, see")}
    assert late == {"tests", "benchmarks"}
    assert any("benchmarks.training" in call for call in outcome.calls)


@pytest.mark.parametrize(
    ("stage", "behaviour", "late", "told"),
    [
        ("benchmarks", "*benchmarks.speed*) exit 1 ;;", "*benchmarks.training*", "FAILED: status 1"),
        ("tests", "*'-m pytest'*) kill -9 $$ ;;", "nothing", "FAILED: status 137"),
        ("experiments", "*'experiment --list'*) exit 2 ;;", "nothing", "FAILED: status 2"),
        ("experiments", "*'experiment dequantization'*) exit 4 ;;", "nothing", "FAILED: status 1"),
    ],
    ids=["beside lack of time", "killed by the system", "no list", "an experiment"],
)
def test_a_stage_that_failed(tmp_path: Path, stage: str, behaviour: str, late: str, told: str) -> None:
    outcome = run(tmp_path, stage, behaviour=behaviour, late=late)
    assert outcome.status == 1
    assert outcome.stages[stage].startswith(told)


@pytest.mark.parametrize(("total", "largest"), [(None, 270), (40, 40)])
def test_limits(tmp_path: Path, total: int | None, largest: int) -> None:
    """A command has the limit of its stage, and what is left of the limit of all together."""
    outcome = run(tmp_path, **({} if total is None else {"GPU_CHECK_SECONDS": str(total)}))
    calls = "\n".join(outcome.calls)
    limits = [int(text) for text in re.findall(r"^timeout --kill-after=5 (\d+) ", calls, re.MULTILINE)]
    assert len(limits) > 10
    assert max(limits) <= largest - 5
    assert list(outcome.stages.values()) == ["passed"] * len(STAGES)


def test_benchmarks_stop_by_themselves_before_their_limit(tmp_path: Path) -> None:
    outcome = run(tmp_path, "benchmarks", STAGE_SECONDS="100")
    pattern = r"timeout --kill-after=5 (\d+) .* benchmarks\.(speed|training) .*--time-limit (\d+)"
    found = re.findall(pattern, "\n".join(outcome.calls))
    assert [name for _, name, _ in found] == ["speed", "training"]
    assert all(int(own) < int(limit) for limit, _, own in found)


def test_no_time_left(tmp_path: Path) -> None:
    outcome = run(tmp_path, GPU_CHECK_SECONDS="5")
    assert outcome.status == 1, "nothing was checked"
    assert set(outcome.stages.values()) == {"no time left", "not run, for want of a build"}
    assert not any("setup.py" in call for call in outcome.calls)


def test_a_command_that_does_not_end_when_told_to(tmp_path: Path) -> None:
    outcome = run(
        tmp_path,
        "tests",
        "experiments",
        behaviour="*'-m pytest'*) trap '' TERM; while :; do sleep 0.1; done ;;",
        late=None,
        GPU_CHECK_SECONDS="2",
        GRACE_SECONDS="1",
    )
    assert outcome.stages["tests"].startswith("out of time")
    assert outcome.stages["experiments"] == "no time left"


def test_a_library_that_is_not_found(tmp_path: Path) -> None:
    outcome = run(tmp_path, "modules", libraries="libcudart.so.13 => not found")
    assert outcome.status == 1
    assert "gpu-check: ald_ext/_C.so: the loader does not find libcudart.so.13" in outcome.output


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["tests", "fly"], {}, "got the stage 'fly', expected some of: build modules tests"),
        ([], {"GPU_CHECK_SECONDS": "ten"}, "GPU_CHECK_SECONDS: got 'ten', expected a whole number of seconds"),
    ],
)
def test_refused(tmp_path: Path, arguments: list[str], variables: dict[str, str], message: str) -> None:
    outcome = run(tmp_path, *arguments, **variables)
    assert outcome.status == 2
    assert message in outcome.output
    assert outcome.calls == []


def test_without_a_gpu(tmp_path: Path) -> None:
    outcome = run(tmp_path, behaviour="*is_available*) echo 'torch 2 finds none' >&2; exit 1 ;;")
    assert outcome.status == 1
    assert "needs a GPU that torch can use" in outcome.output
    assert "torch 2 finds none" in outcome.output
