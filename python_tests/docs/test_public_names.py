"""Docstrings of what is public tell arguments and errors. `make docs` says which name is not in the API reference."""

from __future__ import annotations

import inspect
import re
from types import ModuleType
from typing import Any

import pytest

import ald_ext

MODULES = sorted(name for name in dir(ald_ext) if isinstance(getattr(ald_ext, name), ModuleType))


def names_of(module: ModuleType) -> list[str]:
    """``__all__``; of the reference, which has none, the functions that it defines, without an underscore."""
    if module is not ald_ext.reference:
        return getattr(module, "__all__", [])
    own = [name for name, thing in vars(module).items() if getattr(thing, "__module__", None) == module.__name__]
    return [name for name in own if not name.startswith("_")]


def public_things() -> dict[str, Any]:
    """Functions and classes by the first name that they have."""
    found: dict[str, Any] = {}
    for module in (ald_ext, *(getattr(ald_ext, name) for name in MODULES)):
        for name in dir(ald_ext) if module is ald_ext else names_of(module):
            thing = getattr(module, name)
            if (inspect.isfunction(thing) or inspect.isclass(thing)) and thing not in found.values():
                found[f"{module.__name__}.{name}"] = thing
    return found


THINGS = public_things()
EVERY_THING = pytest.mark.parametrize("name", THINGS)
#: The arguments of the reference are those of the ops, and users catch exceptions and make none.
EVERY_THING_OF_ITS_OWN = pytest.mark.parametrize(
    "name",
    [
        name
        for name, thing in THINGS.items()
        if not name.startswith("ald_ext.reference.") and not (inspect.isclass(thing) and issubclass(thing, Exception))
    ],
)


def docstrings_of(thing: Any) -> str:
    """The docstring, of a class with those of its bases in this package, which explain what they have in common."""
    bases = inspect.getmro(thing) if inspect.isclass(thing) else [thing]
    return "\n".join(base.__doc__ or "" for base in bases if base.__module__.startswith("ald_ext"))


def test_dir_shows_what_is_public() -> None:
    assert {"TYPE_CHECKING", "Any", "import_module"}.isdisjoint(dir(ald_ext))
    assert set(ald_ext.__all__) < set(dir(ald_ext))
    for name in dir(ald_ext):
        assert getattr(ald_ext, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'optimizers'"):
        ald_ext.optimizers  # noqa: B018


@EVERY_THING
def test_docstring(name: str) -> None:
    assert THINGS[name].__doc__, f"{name} has no docstring"


@EVERY_THING_OF_ITS_OWN
def test_arguments_are_documented(name: str) -> None:
    thing = THINGS[name]
    documented = docstrings_of(thing)
    own = [name for name in inspect.signature(thing).parameters if name not in ("args", "kwargs")]  # not nn.Module's
    missing = [name for name in own if not re.search(rf"\b{name}\b", documented)]
    assert not missing, f"{name}: the docstring does not tell what {', '.join(missing)} is"


@EVERY_THING
def test_errors_are_documented(name: str) -> None:
    thing = THINGS[name]
    code = getattr(thing, "__post_init__", None) or vars(thing).get("__init__") if inspect.isclass(thing) else thing
    if inspect.isfunction(code) and code.__module__.startswith("ald_ext") and code.__code__.co_filename != "<string>":
        raised = set(re.findall(r"^\s+raise (\w+)\(", inspect.getsource(code), re.MULTILINE))
        missing = [error for error in raised if error not in docstrings_of(thing)]
        assert not missing, f"{name}: the docstring does not say when it raises {', '.join(missing)}"
