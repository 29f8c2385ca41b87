"""The layers of the package: a module imports only what stands above it."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

# By name only: nothing needs to be imported to read the sources.
PACKAGE = Path(importlib.util.find_spec("ald_ext").origin).parent

#: From the top of the design's list down. ops and reference are the one exception to its order: reference stands alone
#: (it is the specification), and ops falls back to it.
LAYERS = [
    {"_extension", "files", "moments", "progress", "reference", "settings", "threads", "version"},
    {"ops"},
    {"optim"},
    {"distributions", "dequantization"},
    {"samplers"},
    {"bayes"},
    {"models"},
    {"data", "metrics"},
    {"training"},
    {"detection"},
    {"paper"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

SOURCES = sorted(PACKAGE.rglob("*.py"))


def module_path(source: Path) -> list[str]:
    """["optim", "sgld"] for ald_ext/optim/sgld.py, [] for ald_ext/__init__.py."""
    parts = list(source.relative_to(PACKAGE).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported_layers(source: Path) -> set[str]:
    """The layers of ald_ext that a file imports, at its top or inside functions."""
    modules = imported_modules(source.read_text(), module_path(source), source.name)
    return {"version" if parts[0] == "__version__" else parts[0] for parts in modules if parts}


def imported_modules(text: str, path: list[str], file_name: str) -> list[list[str]]:
    """Modules of ald_ext in the import statements of a file whose module is ald_ext.<path>."""
    package = path if file_name == "__init__.py" else path[:-1]
    found: list[list[str]] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found += [name[1:] for name in names if name[0] == "ald_ext"]
        elif isinstance(node, ast.ImportFrom):
            target = node.module.split(".") if node.module else []
            if node.level:
                target = package[: len(package) - node.level + 1] + target
            elif target and target[0] == "ald_ext":
                target = target[1:]
            else:
                continue
            # `from . import ops` names modules, `from .ops import normal` a function of one.
            found += [target] if target else [[alias.name] for alias in node.names]
    return found


@pytest.mark.parametrize(
    ("text", "path", "file_name", "expected"),
    [
        ("from .. import ops, reference", ["optim", "sgld"], "sgld.py", [["ops"], ["reference"]]),
        ("from .sgld import SGLD", ["optim"], "__init__.py", [["optim", "sgld"]]),
        ("def f():\n    import ald_ext.models.lae", ["ops", "noise"], "noise.py", [["models", "lae"]]),
        ("from ald_ext.samplers import x", ["cli", "main"], "main.py", [["samplers"]]),
        ("import torch\nfrom torch import Tensor", ["ops", "noise"], "noise.py", []),
    ],
)
def test_import_reader(text: str, path: list[str], file_name: str, expected: list[list[str]]) -> None:
    assert imported_modules(text, path, file_name) == expected


def test_the_package_was_found() -> None:
    assert {"steps.py", "reference.py"} <= {source.name for source in SOURCES}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: "/".join(source.relative_to(PACKAGE).parts))
def test_imports_only_from_above(source: Path) -> None:
    path = module_path(source)
    if not path:
        return  # ald_ext/__init__.py gathers the public names of all layers
    assert path[0] in RANK, f"{source.name}: new module: say in LAYERS where it stands"
    for layer in imported_layers(source) - {path[0]}:
        assert RANK.get(layer, len(LAYERS)) < RANK[path[0]], f"{path[0]} imports {layer}, which stands below it"
