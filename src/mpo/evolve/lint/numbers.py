"""Numbers in prose: `1,000`, `five hundred`, `one thousand two hundred`, `2k`, `a few hundred`."""

from __future__ import annotations

import re

__all__ = ["to_digits"]

_UNITS = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen".split()
    )
}
_TENS = {
    word: 10 * value
    for value, word in enumerate(
        "twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2
    )
}
_SCALES = {"hundred": 100, "thousand": 1000, "dozen": 12}
_VAGUE = {"several": 3, "few": 3, "couple": 2, "many": 3, "multiple": 2}
# "several thousand"; "couple of hundred"; "hundreds of words".
_WORDS = "|".join([*_UNITS, *_TENS, *_SCALES])
_SPAN = re.compile(
    rf"\b(?:(?P<vague>several|few|couple)\s+(?:of\s+)?(?=(?:{'|'.join(_SCALES)})\b)"
    r"|an?\s+(?=hundred|thousand|dozen))?"
    rf"(?P<words>(?:{_WORDS})(?:(?:[\s-]+(?:and\s+)?)(?:{_WORDS})){{0,12}})\b",
    re.IGNORECASE,
)
_PLURAL = re.compile(r"\b(hundreds|thousands|dozens)\s+of\b", re.IGNORECASE)
_MANY = re.compile(r"\b(several|multiple|many)(?=\s+(?:\w+\s+)?paragraphs?\b)", re.IGNORECASE)
_GROUPED = re.compile(r"(?<![\d.,])(\d{1,3})((?:[,.'’\u00a0\u202f]\d{3})+)(?![\d.,]*\d)")
# "1 000 words", but not "level 3 500 words": a thousands' blank stands right before a unit.
_SPACED = re.compile(
    r"(?<![\w.,] )(?<![\d.,])(\d{1,3}) (\d{3})(?=[\s-]+(?:words?|mots|palabras|Wörter|слов))"
)
_KILO = re.compile(
    r"(?<![\w.])(\d+(?:\.\d+)?)\s?k\b(?=[\s-]*(?:words?|tokens?|characters?|\+))", re.IGNORECASE
)


def to_digits(text: str) -> str:
    """The text with every number written as plain digits."""
    text = _GROUPED.sub(lambda m: m[1] + re.sub(r"\D", "", m[2]), text)
    text = _SPACED.sub(r"\1\2", text)
    text = _KILO.sub(lambda m: str(round(float(m[1]) * 1000)), text)
    text = _PLURAL.sub(lambda m: f"at least {2 * _SCALES[m[1].lower()[:-1]]}", text)
    text = _MANY.sub(lambda m: f"at least {_VAGUE[m[1].lower()]}", text)
    return _SPAN.sub(_value, text)


def _value(match: re.Match[str]) -> str:
    words = re.split(r"[\s-]+", match["words"].lower())
    total, part = 0, 0
    if match["vague"]:
        part = _VAGUE[match["vague"].lower()]
    for word in words:
        if word == "and":
            continue
        if word in _SCALES:
            part = max(part, 1) * _SCALES[word]
            if word == "thousand":
                total, part = total + part, 0
        else:
            part += _UNITS.get(word, _TENS.get(word, 0))
    return str(total + part)
