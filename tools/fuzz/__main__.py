"""Makes random calls of ald_ext.ops; writes fuzz.json and its page fuzz.md; fails if one of them is wrong.

python -m tools.fuzz [--calls 1e5] [--first 0] [--seed 0] [--sanitized FOLDER] [--out docs/results]

The calls are divided among the instruction sets of this machine, each of which has a process of its own: where a
sanitizer ends one, it has said why, and after which call. FOLDER is what `make fuzz` built with ALD_EXT_SANITIZE=1.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

CALLS = 10**5
#: A wrong op would differ in thousands of calls, of which these are enough.
SHOWN = 20
SANITIZERS = ("libasan.so", "libubsan.so")
#: Python itself never frees some memory, and torch is not linked to the sanitizers.
OPTIONS = {"ASAN_OPTIONS": "detect_leaks=0:malloc_context_size=5", "UBSAN_OPTIONS": "print_stacktrace=1"}


def load_sanitized(folder: Path) -> None:
    """Let ald_ext find, in the place of its own C++ module, the one in a folder."""
    import torch  # noqa: F401 - whose libraries the module needs

    path = next((folder / "ald_ext").glob("_C.*"))
    spec = importlib.util.spec_from_file_location("ald_ext._C", path)
    assert spec is not None
    sys.modules["ald_ext._C"] = importlib.util.module_from_spec(spec)


def make_calls(seed: int, numbers: range, results: Path) -> None:
    """Make the calls of one process, and write what came of them."""
    import torch

    from .calls import check_call, make_call

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    calls: Counter[str] = Counter()
    spoilt: Counter[str] = Counter()
    differences: list[str] = []
    for place, number in enumerate(numbers):
        if place % 100 == 0:
            print(number, flush=True)
        call = make_call(seed, number)
        calls[call.name] += 1
        spoilt[call.name] += bool(call.spoilt)
        differences += [f"call {number}, {call.name}: {text}" for text in check_call(call)]
    ops = {name: {"calls": calls[name], "spoilt": spoilt[name]} for name in calls}
    results.write_text(json.dumps({"ops": ops, "differences": differences}))


def run_process(arguments: argparse.Namespace, numbers: range, instruction_set: str) -> dict[str, Any]:
    """Make the calls ``numbers`` in a process of their own; what ends it is a difference too."""
    environment = {**os.environ, "ALD_EXT_CPU_CAPABILITY": instruction_set}
    command = [sys.executable, "-m", "tools.fuzz", "--seed", str(arguments.seed)]
    if arguments.sanitized:
        compiler = os.environ.get("CXX", "c++").split()[0]
        find = [[compiler, f"-print-file-name={name}"] for name in SANITIZERS]
        found = [subprocess.check_output(command, text=True).strip() for command in find]
        environment |= OPTIONS | {"LD_PRELOAD": " ".join(found)}
        command += ["--sanitized", str(arguments.sanitized)]
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.json")
        part = [str(results), str(numbers.start), str(numbers.stop), str(numbers.step)]
        ended = subprocess.run([*command, "--part", *part], env=environment, capture_output=True, text=True)
        if ended.returncode == 0:
            done: dict[str, Any] = json.loads(results.read_text())
            return done
    print(ended.stderr, file=sys.stderr)
    last = (ended.stdout.split() or ["none"])[-1]
    reason = next((line for line in ended.stderr.splitlines() if "ERROR" in line or "runtime error" in line), "")
    text = f"after call {last}, {instruction_set}: the process ended with {ended.returncode}: {reason}"
    return {"ops": {}, "differences": [text]}


def measure_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that the JSON file holds."""
    import torch

    from ald_ext._extension import cpu_module
    from benchmarks.provenance import describe_run

    instruction_sets = cpu_module.build_info()["cpu_capabilities_usable"]
    description = describe_run(torch.device("cpu"), "make fuzz")
    begin, end, step = time.monotonic(), arguments.first + int(arguments.calls), len(instruction_sets)
    parts = [
        run_process(arguments, range(arguments.first + place, end, step), name)
        for place, name in enumerate(instruction_sets)
        if arguments.first + place < end
    ]
    names = sorted({name for part in parts for name in part["ops"]})
    zeros = {"calls": 0, "spoilt": 0}
    ops = {name: {key: sum(part["ops"].get(name, zeros)[key] for part in parts) for key in zeros} for name in names}
    differences = [text for part in parts for text in part["differences"]]
    return {
        **description,
        "seed": arguments.seed,
        "first": arguments.first,
        "sanitized": arguments.sanitized is not None,
        "instruction_sets": instruction_sets,
        "seconds": time.monotonic() - begin,
        "ops": ops,
        "number_of_differences": len(differences),
        "differences": differences[:SHOWN],
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=float, default=CALLS, help=f"how many; default: {CALLS:.0e}")
    parser.add_argument("--first", type=int, default=0, help="the number of the first, to repeat some")
    parser.add_argument("--seed", type=int, default=0, help="of the calls; default: 0")
    parser.add_argument("--sanitized", type=Path, help="folder of a module that was built with sanitizers")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder for the results and the page")
    parser.add_argument("--part", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        if arguments.sanitized:
            load_sanitized(arguments.sanitized)
        make_calls(arguments.seed, range(*map(int, arguments.part[1:])), Path(arguments.part[0]))
        return
    from ald_ext.files import write_atomically, write_json

    from .page import fuzz_page

    results = measure_all(arguments)
    write_json(arguments.out / "fuzz.json", results)
    write_atomically(arguments.out / "fuzz.md", lambda path: path.write_text(fuzz_page(results)))
    if results["differences"]:
        sys.exit("\n".join([f"{results['number_of_differences']} differences:", *results["differences"]]))


if __name__ == "__main__":
    main()
