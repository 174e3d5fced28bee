"""Equality of final answers.

math-verify decides on expressions, intervals, tuples and matrices. MATH's conventions beside it are
decided here, before it is called:

- text is compared word by word, without regard to case; the case of a variable counts;
- a unit, a percent or degree sign or a currency may be left out, but not be a wrong one;
- `50\\%` is 50 as well as 0.5;
- a base that is left out (`101_2` as `101`) is forgiven, a wrong one is not;
- a list of numbers has no order, and each of its values counts as often as it is there;
- an inequality in one unknown is the interval that it describes;
- numbers are equal or not: 1.4142 is not the root of 2, and nothing small is zero.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ...errors import MissingExtraError
from .latex import number, split_top, tidy, unwrap, wrapped
from .units import Quantity, read_quantity

__all__ = ["LONGEST", "same_answer"]

LONGEST = 1000
"""Characters of an answer that is parsed; a longer one is only compared letter by letter."""
DEEPEST = 20
"""Nesting of braces that is parsed."""

_AND = re.compile(r"\\text\s*\{\s*,?\s*(?:and|or)\s*,?\s*\}|\b(?:and|or)\b")


def same_answer(gold: str, given: str) -> bool:
    """True if an answer is the reference's.

    It has no time limit of its own: answers by a policy go through `BoxedAnswers`.

    Args:
        gold: The reference answer, as it stood in its box.
        given: The answer to compare.

    Raises:
        MissingExtraError: math-verify is needed and not installed.
    """
    first, second = tidy(gold), tidy(given)
    if first == second:
        return first != ""
    if not first or not second or max(len(first), len(second)) > LONGEST:
        return False
    return _same(first, second)


def _same(first: str, second: str) -> bool:
    unknowns = _unknown(first), _unknown(second)
    if all(unknowns) and unknowns[0] != unknowns[1]:
        return False
    first, second = _intervals(first.strip()), _intervals(second.strip())
    if _bare(first) == _bare(second):
        return True
    values = number(first), number(second)
    if values[0] is not None and values[1] is not None:
        return values[0] == values[1]
    for decide in (_texts, _quantities, _bases, _lists, _groups):
        result = decide(first, second)
        if result is not None:
            return result
    # math-verify drops words: `5 \text{ or six}` would be 5.
    if _words(first) != _words(second) or not _same_case(first, second):
        return False
    return _same_expression(first, second)


def _words(text: str) -> list[str]:
    return [_letters(words) for words in re.findall(r"\\text\s*\{([^{}]*)\}", text)]


def _same_case(first: str, second: str) -> bool:
    r"""True unless a letter of one is in the other only in the other case: `2x` and `2X`."""
    a, b = (
        set(re.findall(r"\\[a-zA-Z]+|[a-zA-Z]", re.sub(r"\\text\s*\{[^{}]*\}", " ", text)))
        for text in (first, second)
    )
    return not {letter.casefold() for letter in a - b} & {letter.casefold() for letter in b - a}


def _bare(text: str) -> str:
    """The text without blanks, except between digits: `1 2` is not 12."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


# ---------------------------------------------------------------------- text

_WORDS = re.compile(r"[A-Za-z][A-Za-z .'&-]*")


def _as_text(text: str) -> str | None:
    r"""The words of an answer that is all `\text{…}`, in one spelling."""
    if r"\text" not in text or re.sub(r"\\text\s*\{[^{}]*\}|[\s,;.()]", "", text):
        return None
    return _letters(text)


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9+/-]+", " ", unwrap(text).casefold()).strip()


def _texts(first: str, second: str) -> bool | None:
    words = _as_text(first), _as_text(second)
    if words[0] is None and words[1] is None:
        plain = all(_WORDS.fullmatch(t) and len(_bare(t)) > 3 for t in (first, second))
        return first.casefold() == second.casefold() if plain else None
    if any(word is not None and re.search(r"\d", word) for word in words):
        return _same(unwrap(first), unwrap(second))
    return _letters(first) == _letters(second)


# ---------------------------------------------------------------------- units


def _quantities(first: str, second: str) -> bool | None:
    a, b = read_quantity(first), read_quantity(second)
    if a is None and b is None:
        return None
    a = a or Quantity(first, "")
    b = b or Quantity(second, "")
    if a.unit and b.unit and a.unit != b.unit:
        return False
    if _same(a.value, b.value):
        return True
    if (a.unit == "%") == (b.unit == "%"):
        return False
    percent, share = (a, b) if a.unit == "%" else (b, a)
    value = number(percent.value)
    return value is not None and _same(
        f"\\frac{{{value.numerator}}}{{{100 * value.denominator}}}", share.value
    )


# ---------------------------------------------------------------------- number bases

_BASED = re.compile(
    r"(?P<digits>[0-9A-Fa-f]+)\s*_\s*\{?\s*(?P<base>\d{1,2}|\\text\s*\{\s*\w+\s*\})\s*\}?"
)


def _bases(first: str, second: str) -> bool | None:
    a, b = _BASED.fullmatch(first), _BASED.fullmatch(second)
    if a and b:
        return (_letters(a["digits"]), _letters(a["base"])) == (
            _letters(b["digits"]),
            _letters(b["base"]),
        )
    if a or b:
        based, plain = (a, second) if a else (b, first)
        assert based is not None
        return bool(_letters(based["digits"]) == _letters(plain))
    return None


# ---------------------------------------------------------------------- lists


def _lists(first: str, second: str) -> bool | None:
    """Lists and sets, which have no order unless only one of them names its values."""
    a, b = _items(first), _items(second)
    if len(a) < 2 and len(b) < 2:
        return None
    if len(a) != len(b):
        return False
    if ("=" in first) != ("=" in second):
        named = {item.rpartition("=")[0].strip() for item in (a if "=" in first else b)}
        if len(named) == 1:  # `x=1, x=2`: values of one unknown have no order
            return _lists(*(", ".join(i.rpartition("=")[2] for i in items) for items in (a, b)))
        pairs = zip(a, b, strict=True)
        return all(_same(x.rpartition("=")[2], y.rpartition("=")[2]) for x, y in pairs)
    for item in a:
        partner = next((other for other in b if _same(item, other)), None)
        if partner is None:
            return False
        b.remove(partner)
    return True


def _groups(first: str, second: str) -> bool | None:
    """Tuples and intervals: order counts, and so does the kind of bracket."""
    a, b = _group(first), _group(second)
    if a and b:
        same_shape = (a[0], a[-1], len(a)) == (b[0], b[-1], len(b))
        return same_shape and all(map(_same, a[1:-1], b[1:-1]))
    return False if (a or b) and number(second if a else first) is not None else None


def _group(text: str) -> list[str]:
    """The opening bracket, the values and the closing one; empty if the text is no group."""
    inner = wrapped(f"({text[1:-1]})", "(", ")") if re.fullmatch(r"[(\[].*[)\]]", text) else None
    values = split_top(inner, ",") if inner else []
    return [text[0], *values, text[-1]] if len(values) > 1 else []


def _items(text: str) -> list[str]:
    if number(text) is not None:
        return [text]  # `1,234` is one number
    inner = wrapped(text, r"\{", r"\}")
    text = _AND.sub(",", text if inner is None else inner)
    return [value for item in split_top(text, ",") if item for value in _both_signs(item)]


def _both_signs(text: str) -> list[str]:
    """The two values of an item with one `\\pm`; else the item."""
    if len(re.findall(r"\\pm(?![a-z])", text)) != 1:
        return [text]  # math-verify knows what several mean
    upper = re.sub(r"\\pm(?![a-z])", "+", re.sub(r"\\mp(?![a-z])", "-", text))
    lower = re.sub(r"\\pm(?![a-z])", "-", re.sub(r"\\mp(?![a-z])", "+", text))
    return [upper.strip(), lower.strip()]


# ---------------------------------------------------------------------- inequalities

_RELATION = re.compile(r"\\le(?![a-z])|\\ge(?![a-z])|\\ne(?![a-z])|<|>")
_OR = re.compile(r"\\cup(?![a-z])|\\text\s*\{\s*or\s*\}|\\(?:lor|vee)(?![a-z])|\bor\b")


def _unknown(text: str) -> str:
    """The letter that inequalities are about; empty where there is none, or more than one."""
    sides = [side.strip() for side in _RELATION.split(_OR.sub("<", text))]
    letters = {side for side in sides if re.fullmatch(r"[a-zA-Z]|\\[a-z]+", side)} - {r"\infty"}
    return letters.pop() if len(sides) > 1 and len(letters) == 1 else ""


def _intervals(text: str) -> str:
    """Inequalities (`a < x \\le b`, `x \\ge 3 or x = 5`) as a union of intervals; else the text."""
    if not _RELATION.search(text):
        return re.sub(r"^[a-zA-Z]\s*\\in(?![a-z])\s*", "", text)
    parts = [_interval(part) for part in _OR.split(text)]
    return r"\cup ".join(part for part in parts if part) if all(parts) else text


def _interval(text: str) -> str:
    """The set that an inequality in one letter describes; empty where the text is no such thing."""
    signs = _RELATION.findall(text)
    sides = [side.strip() for side in _RELATION.split(text)]
    unknown = [n for n, side in enumerate(sides) if re.fullmatch(r"[a-zA-Z]|\\[a-z]+", side)]
    if len(unknown) != 1 or not 1 <= len(signs) <= 2 or not all(sides):
        return ""
    if signs == [r"\ne"]:
        value = sides[1 - unknown[0]]
        return rf"(-\infty,{value})\cup ({value},\infty)"
    if r"\ne" in signs or (len(signs) == 2 and unknown != [1]):
        return ""
    low, high = r"(-\infty", r"\infty)"
    for n, sign in enumerate(signs):
        below = (n == unknown[0]) == (sign in ("<", r"\le"))  # x < 3 and 3 > x
        closed = sign in (r"\le", r"\ge")
        if below:
            high = sides[n + (n == unknown[0])] + ("]" if closed else ")")
        else:
            low = ("[" if closed else "(") + sides[n + (n == unknown[0])]
    return f"{low},{high}"


# ---------------------------------------------------------------------- expressions

_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*\\circ")


def _same_expression(gold: str, given: str) -> bool:
    """math-verify's result for two expressions, with `i` as a letter and as the imaginary unit."""
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
            return _close(a, b)
        a, b = _imaginary(a), _imaginary(b)
        return bool(a and b and verify(a, b, timeout_seconds=None)) and _close(a, b)
    except (ArithmeticError, AttributeError, RecursionError, TypeError, ValueError, KeyError):
        # sympy on what is no mathematics; it is then not the reference's either.
        return False


_DIGITS = 60
"""Decimal digits to which values are computed; equal ones agree in two thirds of them."""


def _close(gold: list[Any], given: list[Any]) -> bool:
    """False where two expressions have different values; math-verify rounds to six decimals.

    Variables stand for numbers of no special kind. What has no value is math-verify's to decide.
    """
    sympy = import_module("sympy")
    a, b = (next((p for p in e if isinstance(p, sympy.Expr)), None) for e in (gold, given))
    if a is None or b is None:
        return True
    letters = sorted(a.free_symbols | b.free_symbols, key=str)
    values = {letter: sympy.Rational(1371 + 97 * n, 997) for n, letter in enumerate(letters)}
    x, y = (_exact(expression).subs(values).evalf(_DIGITS) for expression in (a, b))
    if not (x.is_number and y.is_number and x.is_finite and y.is_finite):
        return True
    return bool(abs(x - y) <= sympy.Float(10, _DIGITS) ** (-_DIGITS * 2 // 3) * max(abs(x), abs(y)))


def _exact(expression: Any) -> Any:
    """The expression with its decimals as fractions: 0.1 is a tenth, not the nearest double."""
    sympy = import_module("sympy")
    return expression.xreplace({f: sympy.Rational(str(f)) for f in expression.atoms(sympy.Float)})


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
    # It warns that it has no time limit; the worker has one.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    text = _DEGREES.sub(r"\\frac{\1\\pi}{180}", text)
    config = [module.LatexExtractionConfig()]
    return list(module.parse(f"${text}$", config, parsing_timeout=None))


def _imaginary(parsed: list[Any]) -> list[Any]:
    """The expressions with `i` as the imaginary unit; empty where there is none."""
    sympy = import_module("sympy")
    expressions = []
    for part in parsed:
        if isinstance(part, sympy.Expr):
            units = [symbol for symbol in part.free_symbols if symbol.name == "i"]
            expressions.append(sympy.simplify(part.subs(dict.fromkeys(units, sympy.I))))
    return expressions
