"""Whether two final answers are the same.

math-verify decides on expressions. What it misses is decided here, before it is asked: numbers
written in several ways, text, units, percent, intervals against inequalities, lists and tuples
(notes/reference.md, "Answer checking"). The conventions are MATH's:

- a unit, a percent or degree sign or a currency may be left out, but not be a wrong one;
- `50\\%` is 50 as well as 0.5;
- a list of numbers has no order, a tuple has one, and so has a list of words;
- `x = 5` is 5; a base that is left out (`101_2` as `101`) is forgiven, a wrong one is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from .latex import number, split_top, tidy, unwrap, wrapped
from .symbolic import same_expression
from .units import Quantity, read_quantity

__all__ = ["same_answer"]

T = TypeVar("T")

LONGEST = 1000
"""Characters; what is longer is compared letter by letter only."""
DEEPEST = 6
"""Nesting of lists, tuples and matrices that is followed."""


def same_answer(gold: str, given: str) -> bool:
    """Whether an answer is the reference's.

    Has no time limit of its own: answers by a policy go through `BoxedAnswers`.

    Args:
        gold: The reference answer, as it stood in its box.
        given: The answer to compare.
    """
    first, second = tidy(gold), tidy(given)
    if first == second:
        return first != ""
    if not first or not second or max(len(first), len(second)) > LONGEST:
        return False
    return _same(first, second, 0)


def _same(first: str, second: str, depth: int) -> bool:
    first, second = first.strip(), second.strip()
    if _bare(first) == _bare(second):
        return True
    if depth > DEEPEST:
        return False
    values = number(first), number(second)
    if values[0] is not None and values[1] is not None:
        return values[0] == values[1]
    for judge in (_assigned, _texts, _quantities, _bases, _regions, _lists, _groups, _matrices):
        ruling = judge(first, second, depth)
        if ruling is not None:
            return ruling
    # math-verify drops words: `5 \text{ or six}` would be 5.
    if _said(first) != _said(second):
        return False
    return same_expression(first, second)


def _said(text: str) -> list[str]:
    return [_letters(words) for words in re.findall(r"\\text\s*\{([^{}]*)\}", text)]


def _bare(text: str) -> str:
    """Without blanks, except between digits: `1 2` is not 12."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


# ---------------------------------------------------------------------- `x = 5`

_NAME = re.compile(
    r"(?P<name>[A-Za-z]\w*'?(?:_\{?\w+\}?)?(?:\([a-z]\))?|\\[a-z]+)\s*(?:=|\\in(?![a-z]))\s*"
)


def _assignment(text: str) -> tuple[str, str]:
    """Name and value of `x = 5`; no name where there is none."""
    match = _NAME.match(text)
    if match is None or "=" in text[match.end() :] or not text[match.end() :].strip():
        return "", text
    name = match["name"].replace(" ", "")
    if len(name) > 1 and name.isalpha() and name.islower() and not name.startswith("\\"):
        return "", text  # `xy = 1` is an equation, no assignment
    return name, text[match.end() :].strip()


def _assigned(first: str, second: str, depth: int) -> bool | None:
    if len(split_top(first, ",")) > 1 or len(split_top(second, ",")) > 1:
        return None
    (name_a, value_a), (name_b, value_b) = _assignment(first), _assignment(second)
    if not (name_a or name_b) or (name_a and name_b and name_a != name_b):
        return None
    if ("=" in value_a) != ("=" in value_b):
        return None
    return _same(value_a, value_b, depth + 1)


# ---------------------------------------------------------------------- text

_WORDS = re.compile(r"[A-Za-z][A-Za-z .'&-]*")


def _as_text(text: str) -> str | None:
    r"""The words of an answer that is all `\text{…}`, in one spelling."""
    if r"\text" not in text or re.sub(r"\\text\s*\{[^{}]*\}|[\s,;.()]", "", text):
        return None
    return _letters(text)


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9+/-]+", " ", unwrap(text).casefold()).strip()


def _texts(first: str, second: str, depth: int) -> bool | None:
    words = _as_text(first), _as_text(second)
    if words[0] is None and words[1] is None:
        plain = all(_WORDS.fullmatch(t) and len(_bare(t)) > 3 for t in (first, second))
        return first.casefold() == second.casefold() if plain else None
    if any(word is not None and re.search(r"\d", word) for word in words):
        return _same(unwrap(first), unwrap(second), depth + 1)
    return _letters(first) == _letters(second)


# ---------------------------------------------------------------------- units


def _quantities(first: str, second: str, depth: int) -> bool | None:
    a, b = read_quantity(first), read_quantity(second)
    if a is None and b is None:
        return None
    a = a or Quantity(first, "")
    b = b or Quantity(second, "")
    if a.unit and b.unit and a.unit != b.unit:
        return False
    if _same(a.value, b.value, depth + 1):
        return True
    if (a.unit == "%") == (b.unit == "%"):
        return False
    percent, share = (a, b) if a.unit == "%" else (b, a)
    value = number(percent.value)
    return value is not None and _same(
        f"\\frac{{{value.numerator}}}{{{100 * value.denominator}}}", share.value, depth + 1
    )


# ---------------------------------------------------------------------- number bases

_BASED = re.compile(
    r"(?P<digits>[0-9A-Fa-f]+)\s*_\s*\{?\s*(?P<base>\d{1,2}|\\text\s*\{\s*\w+\s*\})\s*\}?"
)


def _bases(first: str, second: str, depth: int) -> bool | None:
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


# ---------------------------------------------------------------------- intervals, inequalities


@dataclass(frozen=True)
class _Interval:
    low: str
    low_closed: bool
    high: str
    high_closed: bool


_NOWHERE, _EVERYWHERE = r"-\infty", r"\infty"
_RELATION = re.compile(r"\\le(?![a-z])|\\ge(?![a-z])|\\ne(?![a-z])|<|>")
_OR = re.compile(r"\\cup(?![a-z])|\\text\s*\{\s*or\s*\}|\\(?:lor|vee)(?![a-z])|\bor\b")


def _regions(first: str, second: str, depth: int) -> bool | None:
    """Intervals and inequalities. Two plain pairs `(a, b)` are left to the tuples."""
    a, b = _region(first), _region(second)
    if a is None or b is None:
        # An inequality is no number, whatever its sides are.
        if _RELATION.search(first) and number(second) is not None:
            return False
        return None
    return _matched(a, b, lambda x, y: _same_interval(x, y, depth))


def _same_interval(a: _Interval, b: _Interval, depth: int) -> bool:
    for x, x_closed, y, y_closed in (
        (a.low, a.low_closed, b.low, b.low_closed),
        (a.high, a.high_closed, b.high, b.high_closed),
    ):
        ends = _bare(x), _bare(y)
        if any("infty" in end for end in ends):
            if ends[0].lstrip("+") != ends[1].lstrip("+"):
                return False
        elif x_closed != y_closed or not _same(x, y, depth + 1):
            return False
    return True


def _region(text: str) -> list[_Interval] | None:
    found: list[_Interval] = []
    for part in _OR.split(text):
        intervals = _interval(part.strip()) or _inequality(part.strip())
        if not intervals:
            return None
        found += intervals
    return found


def _interval(text: str) -> list[_Interval] | None:
    text = re.sub(r"^[a-zA-Z]\s*\\in(?![a-z])\s*", "", text)
    if len(text) < 5 or text[0] not in "([" or text[-1] not in ")]":
        return None
    inner = wrapped(f"({text[1:-1]})", "(", ")")
    ends = split_top(inner, ",") if inner is not None else []
    if len(ends) != 2:
        return None
    return [_Interval(ends[0], text[0] == "[", ends[1], text[-1] == "]")]


def _inequality(text: str) -> list[_Interval] | None:
    """`a < x \\le b`, `x \\ge 3`, `5 > x`, `x \\ne 2`; the unknown is a single letter."""
    signs = _RELATION.findall(text)
    sides = [side.strip() for side in _RELATION.split(text)]
    if not 1 <= len(signs) <= 2 or not all(sides):
        return None
    unknown = [n for n, side in enumerate(sides) if re.fullmatch(r"[a-zA-Z]|\\[a-z]+", side)]
    if len(unknown) != 1 or (len(signs) == 2 and unknown != [1]):
        return None
    if signs == [r"\ne"]:
        value = sides[1 - unknown[0]]
        return [
            _Interval(_NOWHERE, False, value, False),
            _Interval(value, False, _EVERYWHERE, False),
        ]
    low, high = (_NOWHERE, False), (_EVERYWHERE, False)
    for n, sign in enumerate(signs):
        if sign == r"\ne":
            return None
        closed = sign in (r"\le", r"\ge")
        rising = sign in ("<", r"\le")
        left, right = sides[n], sides[n + 1]
        if n == unknown[0]:  # x < right
            high, low = ((right, closed), low) if rising else (high, (right, closed))
        else:  # left < x
            low, high = ((left, closed), high) if rising else (low, (left, closed))
    return [_Interval(low[0], low[1], high[0], high[1])]


# ---------------------------------------------------------------------- several values


def _lists(first: str, second: str, depth: int) -> bool | None:
    """Lists and sets: no order, but for words and for named values."""
    a, b = _items(first), _items(second)
    if len(a) < 2 and len(b) < 2 and not (first.startswith(r"\{") and second.startswith(r"\{")):
        return None
    if len(a) != len(b):
        return False
    names = [bool(_assignment(item)[0]) for item in (*a, *b)]
    in_order = any(names) and not all(names)
    in_order = in_order or all(
        _WORDS.fullmatch(unwrap(item)) and len(unwrap(item)) > 1 for item in (*a, *b)
    )
    if in_order:
        return all(_same(x, y, depth + 1) for x, y in zip(a, b, strict=True))
    return _matched(a, b, lambda x, y: _same(x, y, depth + 1))


def _items(text: str) -> list[str]:
    inner = wrapped(text, r"\{", r"\}")
    text = text if inner is None else inner
    text = re.sub(r"\\text\s*\{\s*,?\s*(?:and|or)\s*,?\s*\}|\b(?:and|or)\b", ",", text)
    parts = split_top(text, ",")
    # `1,234` is one number; `1,234,56` is a list.
    if number(text) is not None:
        parts = [text]
    items: list[str] = []
    for part in parts:
        if not part:
            continue
        if len(re.findall(r"\\pm(?![a-z])", part)) == 1:
            items += [re.sub(r"\\pm(?![a-z])", sign, part).strip() for sign in ("+", "-")]
        else:
            items.append(part)
    return items


def _groups(first: str, second: str, depth: int) -> bool | None:
    """Tuples and ranges in brackets, and ratios: order counts, and so does the kind of bracket."""
    for start, end in (("(", ")"), ("[", "]"), (r"\langle", r"\rangle")):
        a, b = _parts(first, start, end, ","), _parts(second, start, end, ",")
        if len(a) > 1 or len(b) > 1:
            return len(a) == len(b) and all(
                _same(x, y, depth + 1) for x, y in zip(a, b, strict=True)
            )
    a, b = split_top(first, ":"), split_top(second, ":")
    if len(a) > 1 and len(a) == len(b):
        return all(_same(x, y, depth + 1) for x, y in zip(a, b, strict=True))
    return None


def _parts(text: str, start: str, end: str, separator: str) -> list[str]:
    inner = wrapped(text, start, end)
    return [] if inner is None else split_top(inner, separator)


_MATRIX = re.compile(r"\\begin\s*\{([pb]?)matrix\}(.*)\\end\s*\{\1matrix\}", re.DOTALL)


def _matrices(first: str, second: str, depth: int) -> bool | None:
    a, b = _MATRIX.fullmatch(first), _MATRIX.fullmatch(second)
    if not (a and b):
        return None
    rows = [
        [row.split("&") for row in re.split(r"\\\\", m[2].strip().removesuffix("\\\\"))]
        for m in (a, b)
    ]
    if [len(row) for row in rows[0]] != [len(row) for row in rows[1]]:
        return False
    cells = zip(
        (c for row in rows[0] for c in row), (c for row in rows[1] for c in row), strict=True
    )
    return all(_same(x, y, depth + 1) for x, y in cells)


def _matched(a: Sequence[T], b: Sequence[T], same: Callable[[T, T], bool]) -> bool:
    """Whether each of one side has a partner of its own on the other."""
    if len(a) != len(b):
        return False
    left = list(b)
    for item in a:
        partner = next((n for n, other in enumerate(left) if same(item, other)), None)
        if partner is None:
            return False
        left.pop(partner)
    return True
