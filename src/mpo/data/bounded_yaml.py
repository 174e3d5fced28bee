"""YAML by strangers: bounded before anything is built from it."""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["check_yaml", "load_yaml"]

MAX_DEPTH = 50
MAX_NODES = 100_000
"""Values that a document may have once its aliases are written out."""


def load_yaml(text: str, loader: Any = yaml.SafeLoader) -> Any:
    """The value of a document that passes `check_yaml`.

    Raises:
        yaml.YAMLError: As `check_yaml`, or a value that its type cannot have, such as the date
            2024-13-01.
    """
    check_yaml(text, loader)
    try:
        return yaml.load(text, Loader=loader)
    except (ValueError, OverflowError) as error:
        raise yaml.YAMLError(str(error)) from error


def check_yaml(text: str, loader: Any = yaml.SafeLoader) -> yaml.Node | None:
    """The document's nodes, if they are few and not too deep.

    Aliases make a tree of a billion values out of ten lines, and lists inside lists end the
    interpreter's stack, so both are counted without following either to its end.

    Args:
        text: The document.
        loader: Class of PyYAML's loaders.

    Raises:
        yaml.YAMLError: It is not YAML, nested too deeply, or too large.
    """
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise yaml.YAMLError(f"line {line} is nested deeper than {MAX_DEPTH}")
    root = yaml.compose(text, Loader=loader)
    if root is not None and _size(root, {}, {}) > MAX_NODES:
        raise yaml.YAMLError(f"its aliases make more than {MAX_NODES} values")
    return root


def _size(node: yaml.Node, sizes: dict[int, int], open_: dict[int, None]) -> int:
    """Number of values that a node stands for, its aliases followed."""
    if id(node) in sizes:
        return sizes[id(node)]
    if id(node) in open_:
        raise yaml.MarkedYAMLError(problem="holds itself by an alias", problem_mark=node.start_mark)
    open_[id(node)] = None
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        inner = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inner = node.value
    sizes[id(node)] = 1 + sum(_size(part, sizes, open_) for part in inner)
    del open_[id(node)]
    return sizes[id(node)]
