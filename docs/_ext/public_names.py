"""Warns, and so stops a strict build, of public names that have no place in the API reference."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from sphinx.util import logging

import ald_ext

logger = logging.getLogger(__name__)


def public_names() -> list[str]:
    """Of the package and of its public modules."""
    modules = {name: module for name in dir(ald_ext) if isinstance(module := getattr(ald_ext, name), ModuleType)}
    own = [f"ald_ext.{name}" for name in dir(ald_ext) if name not in modules and name != "__version__"]
    return own + [
        f"ald_ext.{name}.{each}" for name, module in modules.items() for each in getattr(module, "__all__", [])
    ]


def check(app: Any, env: Any) -> None:
    documented = env.get_domain("py").objects
    for name in public_names():
        if name not in documented:
            logger.warning("docs/api: %s is public and has no entry", name)


def setup(app: Any) -> dict[str, bool]:
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True}
