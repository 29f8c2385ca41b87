"""Damaged files of every kind load as if they were whole, or are refused in one line; never as something else.

``PYTHONPATH=python_tests python -m fuzz.test_damaged_files 10000`` tries so many and prints what came of them.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import re
import resource
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from corpus.damaged import DAMAGE, KINDS, ODD_VALUES, overlaps, spoil
from corpus.places import MISSING, places_of, replaced
from torch import Tensor

import ald_ext

#: What a file may take: seconds of the processor, bytes of memory, characters of a message beside its path.
SECONDS, MEMORY, MESSAGE = 3, 300 * 2**20, 300
#: Damaged files of each kind, of whose values the second part is changed before they are written.
BYTES, VALUES = 20, 8
WITH_VALUES = [name for name, kind in KINDS.items() if kind.name.endswith((".pt", ".json"))]
OPTIMIZERS = ("SGLD", "PSGLD", "SGHMC")


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.layout == b.layout and torch.equal(a, b)
    return type(a) is type(b) and (a == b or a != a)


def outcome(load: Any, is_right: Any, path: Path | None = None) -> str:
    """What came of reading: "equal", "refused", or what is wrong."""
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = load()
    except (ValueError, OSError) as error:
        text = str(error).replace(str(path), "…").replace(str(path and path.parent), "…")
        result = "refused" if "\n" not in text and len(text) <= MESSAGE else f"a message of {len(text)}: {text[:400]}"
    except Exception as error:
        result = f"{type(error).__name__}: {str(error)[:200]}"
    else:
        result = "equal" if is_right(found) else "loaded as something else"
    seconds = time.process_time() - began
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if seconds > SECONDS or memory > MEMORY:
        return f"took {seconds:.1f} s and {memory / 2**20:.0f} MiB; {result}"
    return result


def try_kind(name: str, count: int, folder: Path, seed: int, of_values: bool) -> list[tuple[str, str]]:
    """Pairs of a damage and its outcome."""
    kind, chance = KINDS[name], random.Random(f"{name} {seed}")
    path, is_text = folder / kind.name, kind.name.endswith(".json")
    torch.manual_seed(0)
    kind.make(path)
    whole, original = path.read_bytes(), kind.load(path)
    results = []
    for _ in range(count):
        if of_values:
            damage, data = spoil(whole, chance, is_text)
        else:
            damage = chance.choice([*DAMAGE])
            data = DAMAGE[damage](whole, chance)
        path.write_bytes(data)

        def is_right(found: Any, damage: str = damage, data: bytes = data) -> bool:
            if is_text:  # it has no checksum: what is read is what is written
                return overlaps(json.loads(data, parse_constant=lambda _: None), found)
            # Options and settings may be None, settings and measurements may be missing.
            absent = damage.endswith(("None", "missing")) and re.search("param_groups|config|history", damage)
            return bool(absent) or same(found, original)

        results.append((damage, outcome(lambda: kind.load(path), is_right, path)))
    return results


def optimizer_of(name: str, steps: int = 2) -> torch.optim.Optimizer:
    params = [torch.ones(3, 2), torch.ones(2)]
    optimizer = getattr(ald_ext, name)(
        [{"params": params[:1]}, {"params": params[1:], "lr": 0.2}], 0.1, num_data=5, seed=1
    )
    for _ in range(steps):
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
    return optimizer


def try_optimizer(name: str, count: int, seed: int) -> list[tuple[str, str]]:
    """States with odd values, of which nothing may be left after they are refused."""
    chance, whole = random.Random(f"{name} {seed}"), optimizer_of(name).state_dict()
    results = []
    for _ in range(count):
        place = chance.choice(list(places_of(whole)))
        odd = chance.choice([*ODD_VALUES, "missing"])
        state = replaced(copy.deepcopy(whole), place, MISSING if odd == "missing" else ODD_VALUES[odd]())
        optimizer = optimizer_of(name, steps=0)
        before = copy.deepcopy(optimizer.state_dict())

        def load(optimizer: Any = optimizer, state: Any = state) -> Any:
            optimizer.load_state_dict(state)
            return optimizer.state_dict()

        # None stands for "as this optimizer chooses", and a missing option for that of older versions.
        harmless = odd in ("None", "missing")
        result = outcome(load, lambda found, harmless=harmless: harmless or same(found, whole))
        if result == "refused" and not same(optimizer.state_dict(), before):
            result = "half loaded"
        results.append((f"{place}: {odd}", result))
    return results


def wrong(results: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(damage, result) for damage, result in results if result not in ("equal", "refused")]


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_bytes(kind: str, tmp_path: Path) -> None:
    assert wrong(try_kind(kind, BYTES, tmp_path, 0, of_values=False)) == []


@pytest.mark.parametrize("kind", WITH_VALUES)
def test_values_of_other_types(kind: str, tmp_path: Path) -> None:
    assert wrong(try_kind(kind, VALUES, tmp_path, 0, of_values=True)) == []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_of_optimizers(name: str) -> None:
    assert wrong(try_optimizer(name, 20, 0)) == []


def main() -> None:
    """Try many, and print a table of what came of them, and what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=10_000, help="number of files, of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tasks: list[tuple[str, Any]] = [(f"{name}: bytes", (name, False)) for name in KINDS]
    tasks += [(f"{name}: values", (name, True)) for name in WITH_VALUES]
    tasks += [(f"{name}: values", name) for name in OPTIMIZERS]
    each = -(-arguments.count // len(tasks))
    for title, task in tasks:
        with tempfile.TemporaryDirectory() as folder:
            try:
                if isinstance(task, str):
                    results = try_optimizer(task, each, arguments.seed)
                else:
                    results = try_kind(task[0], each, Path(folder), arguments.seed, task[1])
            except Exception as error:
                print(f"{title:28} the undamaged file: {type(error).__name__}: {error}")
                continue
        counts = Counter(result if result in ("equal", "refused") else "wrong" for _, result in results)
        print(
            f"{title:28} equal {counts['equal']:5} refused {counts['refused']:5} wrong {counts['wrong']:5}", flush=True
        )
        for (damage, result), number in Counter(wrong(results)).items():
            print(f"    {number} x {damage}: {result}")


if __name__ == "__main__":
    main()
