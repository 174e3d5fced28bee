"""Reading LaTeX answers: the last box, one spelling for what is spelled in many ways, numbers."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from ..rules import boxes

__all__ = ["final_answer", "number", "split_top", "tidy", "unwrap", "wrapped"]


def final_answer(text: str) -> str | None:
    """The last boxed answer; None where there is none, or where the last box is not closed.

    An empty box is no answer. A box that was cut off retracts what was boxed before it.
    """
    contents = [box.content for box in boxes(text)]
    if not contents or contents[-1] is None:
        return None
    answers = [content for content in contents if content and content.strip()]
    return answers[-1].strip() if answers else None


# ---------------------------------------------------------------------- one spelling

_SIGNS = str.maketrans(
    {
        "−": "-", "–": "-", "‐": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ",
        "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "°": r"^\circ ",
        "±": r"\pm ", "∈": r"\in ", "′": "'", "’": "'",
    }
)  # fmt: skip
_SAME: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        (
            r"\\(?:left|right|bigg?[lrm]?|Bigg?[lrm]?|middle)(?![a-zA-Z])\s*\.?(?=[\s\\()\[\]{}|<>.])",
            "",
        ),
        (r"\\(?:displaystyle|textstyle|limits|nolimits)(?![a-zA-Z])", " "),
        # Thousands: `10,\!080`, `10\,080` and `10~080` are one number, `1\,2` is not 12.
        (r"(?<=\d)(?:,\s*\\!|\s*(?:\\[,;: ]|~))\s*(?=\d{3}(?!\d))", ""),
        (r"\\h?(?:space|phantom)\*?\{[^{}]*\}|\\q?quad(?![a-zA-Z])|(?<!\\)\\[,;:> ]|~", " "),
        (r"(?<!\\)\\!", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\[dt]?binom\s*(\d)\s*(\d)", r"\\binom{\1}{\2}"),
        (r"\\(?:leqslant|leq)(?![a-zA-Z])|<=|\\le(?![a-zA-Z])", r"\\le "),
        (r"\\(?:geqslant|geq)(?![a-zA-Z])|>=|\\ge(?![a-zA-Z])", r"\\ge "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\neq(?![a-zA-Z])", r"\\ne "),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\lbrack(?![a-zA-Z])", "["),
        (r"\\rbrack(?![a-zA-Z])", "]"),
        (r"\\emptyset|\\varnothing", r"\\emptyset "),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\degrees?(?![a-zA-Z])", r"^\\circ "),
        (r"\{,\}", ""),
        (r"\\(?:math(?:bf|bb|it|cal|sf)|boldsymbol|bm|pmb)(?![a-zA-Z])", ""),
        (r"\\(?:mathrm|mbox|textrm|textbf|textit|textnormal|operatorname)\*?(?=\s*\{)", r"\\text"),
    )
)


def tidy(answer: str) -> str:
    """The answer without delimiters, sizes and spacing, and with one command for each sign."""
    # Compatibility forms (full-width digits and the like) by their plain letters.
    text = unicodedata.normalize("NFKC", answer.translate(_SIGNS)).translate(_SIGNS)
    text = re.sub(r"(?<!\\)\$|\\[()]|\\\[|\\\](?!\d)", " ", text)
    for pattern, plain in _SAME:
        text = pattern.sub(plain, text)
    text = " ".join(text.split())
    return text.rstrip(" .,;:").lstrip(" ,;:") or text


# ---------------------------------------------------------------------- structure

_OPEN, _CLOSE = "([{", ")]}"


def split_top(text: str, separator: str) -> list[str]:
    """Parts between separators that stand outside of all brackets."""
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        if depth == 0 and text.startswith(separator, at):
            parts.append(text[start:at])
            at = start = at + len(separator)
            continue
        step = 2 if text[at] == "\\" and at + 1 < len(text) else 1
        sign = text[at + step - 1]
        if step == 1 or sign in "{}":
            depth += (sign in _OPEN) - (sign in _CLOSE)
        at += step
    return [part.strip() for part in [*parts, text[start:]]]


def wrapped(text: str, start: str, end: str) -> str | None:
    """Text between two outer brackets that belong together; None if they do not."""
    if len(text) < len(start) + len(end) or not (text.startswith(start) and text.endswith(end)):
        return None
    inner = text[len(start) : len(text) - len(end)]
    depth = 0
    for sign in re.sub(r"\\(?![{}])", "", inner):
        depth += (sign in _OPEN) - (sign in _CLOSE)
        if depth < 0:
            return None
    return inner.strip() if depth == 0 else None


def unwrap(text: str) -> str:
    r"""The text with `\text{…}` replaced by what is in it."""
    return " ".join(re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text).split())


# ---------------------------------------------------------------------- numbers

_INTEGER = r"\d{1,3}(?:,\d{3})+|\d+"
_DECIMAL = re.compile(rf"(?:(?:{_INTEGER})(?:\.\d*)?|\.\d+)(?P<exponent>[eE][+-]?\d{{1,3}})?")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar)\s*\{?(\d+)\}?")
_FRACTION = re.compile(
    r"\\frac\s*(?:\{\s*(?P<a>-?\d+(?:\.\d+)?)\s*\}|(?P<b>\d))"
    r"\s*(?:\{\s*(?P<c>-?\d+(?:\.\d+)?)\s*\}|(?P<d>\d))"
    r"|(?P<e>\d+)\s*/\s*(?P<f>-?\d+)"
)
_MIXED = re.compile(r"(?P<whole>\d+)\s*(?P<rest>\\frac.*|(?<=\s)\d+\s*/\s*\d+)")
_POWER = re.compile(
    r"(?P<value>.+?)\s*\\(?:times|cdot)\s*10\s*\^\s*\{?\s*(?P<exponent>[+-]?\d{1,3})\}?"
)


def number(text: str) -> Fraction | None:
    """The exact value of a plain number; None for anything else."""
    text = text.strip()
    sign = 1
    while text[:1] in ("+", "-"):
        sign = -sign if text[0] == "-" else sign
        text = text[1:].lstrip()
    value = _unsigned(text) if 0 < len(text) <= 200 else None
    return None if value is None else sign * value


def _unsigned(text: str) -> Fraction | None:
    inner = wrapped(text, "{", "}") or wrapped(text, "(", ")")
    if inner is not None:
        return number(inner)
    if _DECIMAL.fullmatch(text):
        return Fraction(text.replace(",", "").rstrip(".").replace(".e", "e").replace(".E", "e"))
    if match := _REPEATING.fullmatch(text):
        whole, fixed, repeating = match.groups()
        period = Fraction(int(repeating), int("9" * len(repeating)) * int("1" + "0" * len(fixed)))
        return Fraction(f"{whole or 0}.{fixed or 0}") + period
    if match := _FRACTION.fullmatch(text):
        above, below = (next(g for g in match.group(*names) if g) for names in ("abe", "cdf"))
        return Fraction(above) / Fraction(below) if Fraction(below) else None
    if match := _MIXED.fullmatch(text):
        rest = _unsigned(match["rest"].strip())
        return None if rest is None else int(match["whole"]) + rest
    if match := _POWER.fullmatch(text):
        value = number(match["value"])
        scale = Fraction("1" + "0" * abs(int(match["exponent"])))
        if value is None:
            return None
        return value / scale if match["exponent"].startswith("-") else value * scale
    return None
