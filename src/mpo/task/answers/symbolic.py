"""Expressions: math-verify decides."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ...errors import MissingExtraError

__all__ = ["same_expression"]

DEEPEST = 20
"""Nesting of braces that is parsed."""

_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*\\circ")


def same_expression(gold: str, given: str) -> bool:
    """Whether two expressions have the same value.

    Raises:
        MissingExtraError: math-verify is not installed.
    """
    if find_spec("math_verify") is None:
        raise MissingExtraError("math_verify", "eval")
    if not (_balanced(gold) and _balanced(given)):
        return False  # no formula, and the parser takes seconds to find out
    verify = import_module("math_verify").verify
    try:
        a, b = _parsed(gold), _parsed(given)
        if not a or not b:
            return False
        if verify(a, b, timeout_seconds=None):
            return True
        a, b = _imaginary(a), _imaginary(b)
        return bool(a and b and verify(a, b, timeout_seconds=None))
    except (ArithmeticError, AttributeError, RecursionError, TypeError, ValueError, KeyError):
        # sympy on what is no mathematics; it is then not the reference's either.
        return False


def _balanced(text: str) -> bool:
    depth = 0
    for sign in re.findall(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if not 0 <= depth <= DEEPEST:
            return False
    return depth == 0


@lru_cache(maxsize=4096)
def _parsed(text: str) -> list[Any]:
    module = import_module("math_verify")
    # It warns about what the caller sees to: a time limit.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    text = _DEGREES.sub(r"\\frac{\1\\pi}{180}", text)
    config = [module.LatexExtractionConfig()]
    return list(module.parse(f"${text}$", config, parsing_timeout=None))


def _imaginary(parsed: list[Any]) -> list[Any]:
    """The expressions with `i` as the imaginary unit; empty where there is none."""
    sympy = import_module("sympy")
    found = []
    for part in parsed:
        if isinstance(part, sympy.Expr):
            units = [symbol for symbol in part.free_symbols if symbol.name == "i"]
            found.append(sympy.simplify(part.subs(dict.fromkeys(units, sympy.I))))
    return found
