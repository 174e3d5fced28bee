"""A value and its unit, in one spelling."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .latex import number

__all__ = ["Quantity", "read_quantity"]


@dataclass(frozen=True)
class Quantity:
    """A value with a unit."""

    value: str
    unit: str
    """The unit in one spelling; empty if none is given."""


_NAMES = {
    "cm": "centimeter centimetre", "mm": "millimeter millimetre", "m": "meter metre",
    "km": "kilometer kilometre kms", "in": "inch inches", "ft": "foot feet", "yd": "yard",
    "mi": "mile", "g": "gram gm", "kg": "kilogram kilo", "mg": "milligram", "lb": "pound lbs",
    "oz": "ounce", "l": "liter litre", "ml": "milliliter millilitre", "s": "second sec",
    "min": "minute", "h": "hour hr", "day": "", "week": "wk", "month": "", "year": "yr",
    "%": "percent percentage", "deg": "degree", "rad": "radian", "usd": "dollar buck",
    "cent": "penny pennies cents", "mph": "", "kmh": "kph", "unit": "", "am": "a.m", "pm": "p.m",
    "sq": "square", "cu": "cubic",
}  # fmt: skip
_ONE = {name: unit for unit, names in _NAMES.items() for name in (unit, *names.split())}

_TEXT = re.compile(
    r"(?P<value>.*?)\s*\\text\s*\{\s*(?P<unit>[^{}]*?)\s*\}\s*(?P<power>\^\s*\{?[23]\}?)?"
)
_PLAIN = re.compile(
    r"(?P<value>.*?[\d}])\s*(?P<unit>[A-Za-z][A-Za-z. /]*?)\s*(?P<power>\^\s*\{?[23]\}?)?"
)
# At most five words, and none that makes a statement or brings in another answer.
_NO_UNIT = (
    "and|or|not|no|but|if|for|is|are|was|were|be|maybe|perhaps|probably|about|roughly|almost|nearly"
    "|approximately|wrong|incorrect|false|right|correct|true|then|than|because|so|otherwise|instead"
    "|unless|except|at|least|most|less|more|when|where"
)
_UNIT = re.compile(
    rf"(?!.*\b(?:{_NO_UNIT})\b)[a-z.%/^-]+(?:[ ,]+[a-z.%/^-]+){{0,4}}", re.IGNORECASE
)
_SIGN = re.compile(r"(?P<value>.*?)\s*(?P<unit>\\%|%|\^\\circ|\\cents?|¢)\s*(?P<scale>[CF])?")
_MONEY = re.compile(r"\\?\$\s*(?P<value>.*)")


def read_quantity(text: str) -> Quantity | None:
    """The value and its unit; None where the text is no value with a unit."""
    if match := _MONEY.fullmatch(text):
        return Quantity(match["value"].strip(), "usd")
    if match := _SIGN.fullmatch(text):
        unit = {"\\%": "%", "%": "%", "^\\circ": "deg"}.get(match["unit"], "cent")
        if unit == "deg" and not _plain_value(match["value"]):
            return None  # `\sin 30^\circ` is an expression
        return Quantity(match["value"].strip(), unit)
    if (match := _TEXT.fullmatch(text)) and match["value"] and match["unit"]:
        if not _UNIT.fullmatch(match["unit"]):
            return None  # a second answer, or a remark
        return Quantity(_value(match["value"]), _spell(match["unit"], match["power"]))
    if (match := _PLAIN.fullmatch(text)) and _plain_value(match["value"]):
        words = match["unit"].casefold().replace(".", "").split()
        known = all(_singular(word) in _ONE or len(word) > 3 for word in words)
        if known and len(words[-1]) > 1:
            return Quantity(_value(match["value"]), _spell(match["unit"], match["power"]))
    return None


def _value(text: str) -> str:
    return text.strip().removesuffix("\\").strip()


def _plain_value(text: str) -> bool:
    return (
        number(text) is not None
        or re.fullmatch(r"[-\d./\s]*(?:\\sqrt|\\pi|\\frac|[{}\d\s])*", text) is not None
    )


def _spell(unit: str, power: str | None) -> str:
    words = re.sub(r"\bper\b", "/", unit.casefold().replace(".", "").replace("-", " "))
    parts = [
        _ONE.get(_singular(word), _singular(word)) for word in re.findall(r"[a-z]+|/|%", words)
    ]
    exponent = {"sq": "2", "cu": "3"}.get(parts[0], "") if parts else ""
    if exponent:
        parts = parts[1:]
    if power:
        exponent = re.sub(r"\D", "", power)
    spelled = " ".join(parts) + exponent
    return {"mi / h": "mph", "km / h": "kmh"}.get(spelled, spelled)


def _singular(word: str) -> str:
    if word in _ONE:
        return word
    for ending in ("es", "s"):
        if word.endswith(ending) and word[: -len(ending)] in _ONE:
            return word[: -len(ending)]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
