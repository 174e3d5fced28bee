"""Every key of a config with its type, default and description, read from the classes."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .schema import LIKE_CHAT, Config, is_operational, part_of

__all__ = ["Key", "config_keys", "keys_markdown"]

REQUIRED = "required"
"""Stands for the default of a key that has none."""

_PLAIN: Mapping[object, str] = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    type(None): "null",
    Any: "any value",
}
_BOUNDS = ((Gt, "gt", "above"), (Ge, "ge", "at least"), (Lt, "lt", "below"), (Le, "le", "at most"))


@dataclass(frozen=True)
class Key:
    """One key of a config."""

    name: str
    """Dotted name, as an override writes it."""
    type: str
    """Values that it takes, in words."""
    default: str
    """Default as YAML writes it; `required` where there is none."""
    description: str
    """Its purpose, on one line."""
    operational: bool
    """True for a key that may change while a run goes on."""


def config_keys() -> list[Key]:
    """All keys in the order of the config. Those of `meta_chat` and `second_judge`, which are the
    keys of `chat`, are not repeated."""
    return _keys(Config, "")


def keys_markdown() -> str:
    """The page `docs/config.md`: a table for each part of a config."""
    lines = [
        "# Config keys",
        "",
        "This page is generated: `mpo config keys --markdown`. A key is set in the YAML file",
        "(`trainer: {steps: 20}`) or on the command line (`trainer.steps=20`), which wins. An",
        "unknown key is an error that names the nearest known one. `mpo config new` writes a file",
        "to start from.",
        "",
        "Keys with a • may change while a run goes on: the same command continues the run with the",
        "new value, and its report says from which update on. All others say what the run is.",
    ]
    part = None
    for key in config_keys():
        head, _, _ = key.name.rpartition(".")
        if head != part:
            title = f"`{head}`" if head else "Top level"
            lines += ["", f"## {title}", ""]
            about = _about(head)
            lines += [about, ""] if about else []
            lines += ["| key | type | default | |", "|---|---|---|---|"]
            part = head
        default = key.default if key.default == REQUIRED else f"`{key.default}`"
        name = f"`{key.name}`{' •' if key.operational else ''}"
        cells = (name, key.type, default, key.description)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _keys(model: type[BaseModel], prefix: str) -> list[Key]:
    texts = _field_docstrings(model)
    leaves: list[Key] = []
    parts: list[Key] = []
    for name, field in model.model_fields.items():
        part = part_of(field.annotation)
        if part is None or name in LIKE_CHAT:
            kind = "keys of `chat`, or null" if part else _type(field)
            text, mark = texts.get(name, ""), is_operational(prefix + name)
            leaves.append(Key(prefix + name, kind, _default(field), text, mark))
        else:
            parts += _keys(part, f"{prefix}{name}.")
    return leaves + parts


def _about(dotted: str) -> str:
    """First paragraph of the docstring of a part of the config."""
    model: type[BaseModel] | None = Config
    for name in dotted.split(".") if dotted else []:
        assert model is not None
        model = part_of(model.model_fields[name].annotation)
    paragraph = inspect.cleandoc((model and model.__doc__) or "").partition("\n\n")[0]
    return " ".join(paragraph.split())


def _field_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Docstrings that stand below the fields of a class and its bases, by field."""
    texts: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if cls.__module__.split(".")[0] != __name__.split(".")[0]:
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                texts[field.target.id] = _as_yaml(str(below.value.value))
    return texts


def _as_yaml(text: str) -> str:
    """A docstring on one line, with the value that YAML writes for None."""
    return re.sub(r"\bNone\b", "null", " ".join(text.split()))


def _type(field: FieldInfo) -> str:
    bounds = [
        f"{word} {getattr(mark, attribute)}"
        for mark in field.metadata
        for kind, attribute, word in _BOUNDS
        if isinstance(mark, kind)
    ]
    first, *rest = _words(field.annotation)
    return ", or ".join([" ".join([first, ", ".join(bounds)]).strip(), *rest])


def _words(annotation: object) -> list[str]:
    """The alternatives of an annotation, in words. Objects of one's own, which only Python can
    pass, are no values of a config."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return [word for argument in arguments for word in _words(argument)]
    if origin is Literal:
        return [", ".join(f"`{value}`" for value in arguments)]
    if origin in (list, tuple):
        inner = _words(arguments[0])
        return [f"list of {inner[0]}"] if inner else []
    if origin is dict:
        return ["mapping"]
    return [_PLAIN[annotation]] if annotation in _PLAIN else []


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return REQUIRED
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
