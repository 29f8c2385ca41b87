"""Options of commands: those that a dataclass of settings makes, KEY=VALUE, and devices."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, get_args, get_type_hints

import torch
import typer

from .._extension import cuda_module
from ..settings import check_device


def options_of(classes: Mapping[str, type[Any]], excluded: Iterable[str] = ()) -> list[inspect.Parameter]:
    """Return an option for each field of some dataclasses; its value is None where it was not given.

    The help is the field's entry in the docstring's Args, its choices and its defaults; before it stand the names of
    the dataclasses, unless all of several have the field. A bool that is False by default is a flag, whose help has no
    default; where the default is a tuple, the option takes names with commas between them.

    Args:
        classes: the dataclasses by the names that help has for them.
        excluded: names of fields that have no option.
    """
    owners: dict[str, dict[str, type[Any]]] = {}
    for label, settings_class in classes.items():
        for name in settings_class.__dataclass_fields__:
            owners.setdefault(name, {})[label] = settings_class
    return [option_of(name, owners[name], len(classes)) for name in owners if name not in excluded]


def option_of(name: str, owners: Mapping[str, type[Any]], num_classes: int) -> inspect.Parameter:
    """Return the option of one field of the classes ``owners``, out of ``num_classes``."""
    settings_class = next(iter(owners.values()))
    field = settings_class.__dataclass_fields__[name]
    hint = get_type_hints(settings_class)[name]
    kind = next(kind for kind in (bool, int, float, str) if kind in (hint, *get_args(hint)))
    defaults: dict[str, list[str]] = {}
    for label, owner in owners.items():
        defaults.setdefault(shown_default(owner.__dataclass_fields__[name].default), []).append(label)
    parts = [f"{', '.join(owners)}:"] if any(owners) and len(owners) < max(num_classes, 2) else []
    parts.append(documented_arguments(settings_class).get(name, ""))
    for metadata, text in (("choices", "One of"), ("suggestions", "Names are")):
        if values := field.metadata.get(metadata):
            parts.append(f"{text} {', '.join(values)}.")
    names = split_names if isinstance(field.default, tuple) else None
    if names:
        parts.append("With commas between them.")
    if field.default is not False:
        different = [f"{default} ({', '.join(labels)})" for default, labels in defaults.items()]
        parts.append(f"Default: {', '.join(different if len(defaults) > 1 else defaults)}.")
    flag = [f"--{name.replace('_', '-')}"] if field.default is False else []
    option = typer.Option(*flag, help=" ".join(parts), show_default=False, callback=names)
    annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def shown_default(value: Any) -> str:
    """Return a default as help shows it; names of a tuple as the option takes them."""
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def split_names(text: str | None) -> tuple[str, ...] | None:
    """Return the parts of "mnist,celeba=faces.npz"; None if the option was not given."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def with_options(command: Any, options: list[inspect.Parameter], after: str) -> None:
    """Give a command that takes ``**settings`` the options that typer offers for them, after one of its parameters."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind != parameter.VAR_KEYWORD]
    place = 1 + [parameter.name for parameter in own].index(after)
    command.__signature__ = signature.replace(parameters=[*own[:place], *options, *own[place:]])


def documented_arguments(settings_class: type[Any]) -> dict[str, str]:
    """Return the text of each entry in the Args of a dataclass's docstring and of those of its bases, in one line."""
    texts: dict[str, str] = {}
    for owner in reversed(settings_class.__mro__):
        for names, text in re.findall(
            r"^ {4}(\w[\w, ]*): (.*(?:\n {8}.*)*)", inspect.getdoc(owner) or "", re.MULTILINE
        ):
            line = re.sub(r":\w+:`~?([^`]*)`|``([^`]*)``", r"\1\2", " ".join(text.split()))
            texts |= dict.fromkeys(names.split(", "), line[0].upper() + line[1:] if line[0].isascii() else line)
    return texts


def parse_options(options: list[str]) -> dict[str, Any]:
    """Return {"lr": 0.1} for ["lr=0.1"]: values are JSON or text. ValueError for an item that is not KEY=VALUE."""
    parsed: dict[str, Any] = {}
    for item in options:
        key, equals, value = item.partition("=")
        if not (key.isidentifier() and equals):
            raise ValueError(f"option: got {item!r}, expected KEY=VALUE, such as lr=0.1")
        try:
            parsed[key] = json.loads(value)
        except json.JSONDecodeError:
            parsed[key] = float(value) if re.fullmatch(r"[+-]?\d*\.?\d+(e[+-]?\d+)?", value) else value
    return parsed


def choose_device(device: str) -> str:
    """Return a device that exists; "auto" stands for the GPU if there is one. ValueError for any other."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() and cuda_module is not None else "cpu"
    check_device(device, "device", "auto, ")
    return device
