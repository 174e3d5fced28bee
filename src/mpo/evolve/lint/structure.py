"""Rules of structure: text that was cut off in front, behind, or inside.

A missing full stop proves nothing, for levels and criteria are often fragments, and a preposition
or an adjective may well be the last word. The proof is something that was opened and never closed
(a bracket, a quote, a code span, an item), or an ending in a comma, an article or a conjunction.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .finding import Finding, shorten
from .reading import Part, RubricReading, count_levels

__all__ = ["check_structure"]

_TAGS = re.compile(r"</?(?:rubric|item)>|\[(?:Start|End) of [^\]\n]{0,80}\]")
_MARKS = "*_#>-•`\"'“ \t\n"
_PREAMBLE = re.compile(
    r"(?:here|below|sure|certainly|okay|ok|the following|this|these|note|please|rubric)\b", re.I
)
_LABEL = re.compile(r"[a-z]\s*[.)]\s|[\w' -]{1,40}:\s")
_BARE_MARK = re.compile(r"(?:[-*•]|#+)?\s*(?:\*\*)?(?:Example)?-?\d{0,3}(?:\*\*)?\s*:?\s*")

_ARTICLES = ("a", "an", "the")
# "An" and "a" are other words in other languages.
_ENGLISH = re.compile(r"\b(?:the|of|and|is|to|that|in|for|not)\b", re.IGNORECASE)
_FOREIGN = re.compile(
    r"\b(?:der|die|das|und|ist|nicht|le|la|les|et|est|el|los|que|het|een|niet|il|di|che|não|do)\b",
    re.IGNORECASE,
)
_CONJUNCTIONS = (
    "and or nor but than because although unless whereas and/or und oder sowie et".split()
)
_COMPLETE = re.compile(
    # "It is anything but", and "a" as the name of a thing instead of an article.
    r"\b(?:(?:anything|nothing|everything|all) but|just because"
    r"|(?:solves? for|value of|option|part|answer|choice|case|question|item|variable|constant"
    r"|coefficient|side|length|grade|type|group|class|section|b|x|y) (?:(?:and|or) )?a)$"
    r"|[=+^\\].*\ba$",
    re.IGNORECASE,
)


_CLAUSE = 200
"""Characters before the end that say if it is one."""


def check_structure(reading: RubricReading) -> Iterator[Finding]:
    """Text that starts or ends in mid-sentence: the whole, then each criterion and level."""
    parts = list(reading.parts())
    levels: dict[int, list[Part]] = {}
    for part in parts:
        if part.score is not None:
            levels.setdefault(part.number, []).append(part)
    if reading.from_text:
        yield from _start(reading, parts)
    english = len(_ENGLISH.findall(reading.text)) >= len(_FOREIGN.findall(reading.text))
    for part in parts:
        yield from _part(part, parts, levels.get(part.number, []), reading, english)
    if reading.from_text:
        yield from _end(reading, parts)


def _starts(place: str, text: str, message: str) -> Finding:
    return Finding("starts_mid_sentence", "error", place, message, shorten(text, 80))


def _ends(place: str, text: str, message: str) -> Finding:
    return Finding("ends_mid_sentence", "error", place, message, shorten(text, 80, tail=True))


# --- the start -------------------------------------------------------------------------------


def _start(reading: RubricReading, parts: Sequence[Part]) -> Iterator[Finding]:
    text = reading.text
    if reading.items:
        first, close = text.find("<item>"), text.find("</item>")
        if close >= 0 and (first < 0 or close < first):
            yield _starts("start", text, "the text begins inside an item whose start is missing")
            return
        head = text[: max(first, 0)]
    elif "[Start of" in text:
        head = text[: text.index("[Start of")]
    else:
        head = re.split(r"^#{1,2} ", text, maxsplit=1, flags=re.MULTILINE)[0]
    head = _TAGS.sub("", head).strip()
    if _continues(head) or (_capitals(parts) and _starts_small(head)):
        yield _starts("start", head, "the text begins in mid-sentence")


def _continues(text: str) -> bool:
    """True if the text opens with a mark or a word that only joins it to something before it."""
    block = text.lstrip(_MARKS)
    return bool(re.match(r"[,;)}]|\.\s|(?:and|or|nor|but)\s", block))


def _starts_small(text: str) -> bool:
    """True if prose that has no name or label in front of it starts with a small letter."""
    block = text.lstrip(_MARKS)
    first = block.split(maxsplit=1)[0] if block else ""
    if not first[:1].islower() or re.search(r"[A-Z\d_=/\\({<]", first):
        return False  # "iPhone", "x=1", "f(x)" and every script without cases
    return not _LABEL.match(block) and not _PREAMBLE.match(block)


def _capitals(parts: Sequence[Part]) -> bool:
    """True if the parts start with capitals, as prose does."""
    firsts = [part.text.lstrip(_MARKS)[:1] for part in parts]
    cased = [char for char in firsts if char.lower() != char.upper()]
    return bool(cased) and sum(char.isupper() for char in cased) >= 0.7 * len(cased)


# --- criteria and levels ---------------------------------------------------------------------


def _part(
    part: Part,
    parts: Sequence[Part],
    levels: Sequence[Part],
    reading: RubricReading,
    english: bool,
) -> Iterator[Finding]:
    # A level may build on the one before it ("- 4: and every claim has a reason").
    if part.score is None:
        # An item without a heading is named after its first words.
        unnamed = reading.items and part.text.lstrip(_MARKS).startswith(part.name)
        small = unnamed and _starts_small(part.text)
        small = small and _capitals([p for p in parts if p.score is None and p is not part])
        if small or _continues(part.text):
            yield _starts(part.place, part.text, "it begins in mid-sentence")
    text = part.text.rstrip()
    if part.score is None and levels and text.endswith((":", ",", "-")):
        return  # "Score as follows:" leads over to the levels
    if text.endswith(",") and any(p.text.endswith(",") for p in levels if p is not part):
        return  # levels that all end with a comma are a list
    reason = _breaks_off(text, english)
    if reason is None and part is parts[-1] and text.endswith(":"):
        reason = "it announces something that does not follow"
    if reason:
        yield _ends(part.place, text, f"it breaks off in mid-sentence: {reason}")


def _breaks_off(text: str, english: bool = True) -> str | None:
    """The proof that the text is not whole; None where there is none."""
    lines = [line.rstrip() for line in text.split("\n") if line.strip()]
    if not lines:
        return None
    tag = re.search(r"</?\w*$", lines[-1])
    if tag and any(name.startswith(tag[0]) for name in ("</item>", "</rubric>", "<item>")):
        return "it ends inside a tag"
    return _unclosed_pair(text) or _open_ending(lines[-1], english)


def _unclosed_pair(text: str) -> str | None:
    """A fence, code span, quote or bracket that is opened and never closed."""
    if text.count("```") % 2:
        return "a code block is never closed"
    text = re.sub(r"```.*?```", " ", text, flags=re.DOTALL)
    if text.count("`") % 2:
        return "a code span is never closed"
    text = re.sub(r"`[^`]*`", " ", text)
    # 5'10" and 12" are measures, "grade 5" is a quote: only what is odd either way is unclosed.
    if text.count('"') % 2 and len(re.findall(r'(?<!\d)"', text)) % 2:
        return "a quote is never closed"
    if "„" in text:  # closed by the sign that opens English quotes
        if text.count("„") > text.count("“") + text.count("”"):
            return "'„' is never closed"
    elif text.count("“") > text.count("”"):
        return "'“' is never closed"
    if text.count("«") > text.count("»"):
        return "'«' is never closed"
    return _unclosed_bracket(re.sub(r"\"[^\"\n]*\"|“[^“”]*”|'.'|‘.’", " ", text))


def _unclosed_bracket(text: str) -> str | None:
    """A bracket that none closes. Any kind closes any other, as in the interval [0, 1)."""
    # Intervals such as ]0, 1[ and smileys open nothing.
    text = re.sub(r"\]([^\[\]]*)\[|[:;]-?[(\[{]", r"\1", text)
    opened: list[str] = []
    for char in re.findall(r"[()\[\]{}]", text):
        if char in "([{":
            opened.append(char)
        elif opened:
            opened.pop()
    return f"{opened[-1]!r} is never closed" if opened else None


def _open_ending(line: str, english: bool) -> str | None:
    """A comma, hyphen, article or conjunction at the end of the line."""
    bare = line.rstrip("*_ ")
    if bare.endswith((",", "，", "、")):
        return f"it ends with {bare[-1]!r}"
    if re.search(r"[^\W\d_]{2}-$", bare):
        return "it ends with '-'"
    # "AND" in capitals is the name of an operator.
    last = re.search(r"\s([a-z/]+)$", bare)
    words = [*_CONJUNCTIONS, *_ARTICLES] if english else _CONJUNCTIONS
    if last and last[1] in words and not _COMPLETE.search(bare[-_CLAUSE:]):
        return f"it ends with {last[1]!r}"
    return None


# --- the end ---------------------------------------------------------------------------------


def _end(reading: RubricReading, parts: Sequence[Part]) -> Iterator[Finding]:
    """The end of the file: an item that is never closed, or text behind the last criterion."""
    text = reading.text.rstrip()
    if reading.items:
        opened, closed = text.rfind("<item>"), text.rfind("</item>")
        tail = _TAGS.sub("", text[max(opened + 6, closed + 7) :]).rstrip()
        if opened > closed:
            yield from _unclosed_item(tail, parts)
            return
        tail = tail if tail.strip() else _TAGS.sub("", text[opened:])
    else:
        tail = re.split(r"\n\s*\n", _TAGS.sub("", text).strip())[-1]
    reason = _stops_short(tail) if tail.strip() else None
    if reason is None and (reading.items or not parts):
        reason = _breaks_off(tail)
    if reason:
        yield _ends("end", tail, f"it breaks off in mid-sentence: {reason}")


def _stops_short(text: str) -> str | None:
    """A last line that has no more than the mark of a level, a bullet or a heading."""
    line = " ".join(text.rstrip().split("\n")[-1].split())
    if line and _BARE_MARK.fullmatch(line):
        return f"it stops behind {line!r}"
    return _breaks_off(line) if line.startswith("#") else None


def _unclosed_item(tail: str, parts: Sequence[Part]) -> Iterator[Finding]:
    """An `<item>` that is never closed: cut off, or only its mark forgotten?"""
    reason = _breaks_off(tail) or _stops_short(tail)
    if reason is None and not re.search(r"[.!?…。！？؟।]['\"”’»)\]*_`]*$", tail):
        reason = "its last sentence has no end" if tail.strip() else "it is empty"
    if reason is None:
        levels = [p.number for p in parts if p.score is not None]
        fewest = min((levels.count(number) for number in levels), default=0)
        mine = count_levels(tail)
        if 0 < mine < fewest:
            reason = f"it has {mine} levels where every other item has at least {fewest}"
    if reason:
        yield _ends("end", tail, f"the last item is cut off: {reason}")
    else:
        message = "the last item is never closed, so that readers drop it"
        yield Finding("unclosed_item", "warning", "end", message, shorten(tail, 80))
