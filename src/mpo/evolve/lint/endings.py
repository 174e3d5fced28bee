"""Rules for where a rubric starts and stops: text cut off in front, behind, or inside."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .finding import Finding, shorten
from .reading import LADDER_LINE, Part, Reading
from .sentences import cut_word, ends_amid, finished, language, starts_amid

__all__ = ["check_endings"]

_TAGS = re.compile(r"</?(?:rubric|item)>|\[(?:Start|End) of [^\]]*\]")
_LABEL = re.compile(r"^\s*(?:[-*•]\s+)?(?:\*\*)?[\w' ]{0,30}?(?:\*\*)?:\s*")


def check_endings(reading: Reading) -> Iterator[Finding]:
    """Text that starts or ends in mid-sentence: the whole, then each criterion and level."""
    lang = language(_TAGS.sub(" ", reading.text))
    parts = list(reading.parts())
    if reading.from_text:
        yield from _start(reading, parts, lang)
    for part in parts:
        yield from _part(part, parts, lang)
    if reading.from_text:
        yield from _end(reading, parts, lang)
    elif parts:
        yield from _last(parts[-1].text, parts[-1].place, parts, lang)


# --- the start -------------------------------------------------------------------------------


def _start(reading: Reading, parts: list[Part], lang: str) -> Iterator[Finding]:
    text = reading.text
    if reading.items:
        first = text.find("<item>")
        close = text.find("</item>")
        if close >= 0 and (first < 0 or close < first):
            yield _starts("start", text, "the text begins inside an item whose start is missing")
            return
        head = text[: max(first, 0)]
    elif "[Start of" in text:
        head = text[: text.index("[Start of")]
    else:
        head = re.split(r"^#{1,2} ", text, maxsplit=1, flags=re.MULTILINE)[0]
    head = _TAGS.sub("", head).strip()
    if head and starts_amid(head, bare=True, upper=_upper(parts), lang=lang):
        yield _starts("start", head, "the text begins in mid-sentence")


def _starts(place: str, text: str, message: str) -> Finding:
    return Finding("starts_mid_sentence", "error", place, message, shorten(text, 80))


def _upper(parts: list[Part], without: Part | None = None) -> bool:
    """Whether the blocks of the rubric start with capitals, as prose does."""
    firsts = [p.text.lstrip("*_-•`\"' \n")[:1] for p in parts if p is not without]
    cased = [char for char in firsts if char.isalpha() and char.lower() != char.upper()]
    return bool(cased) and sum(char.isupper() for char in cased) >= 0.7 * len(cased)


# --- criteria and levels ---------------------------------------------------------------------


def _part(part: Part, parts: list[Part], lang: str) -> Iterator[Finding]:
    # A level may build on the one before it ("- 4: and every claim has a reason").
    texts = [p for p in parts if p.score is None]
    if part.score is None and starts_amid(
        part.text, bare=False, upper=_upper(texts, part), lang=lang
    ):
        yield _starts(part.place, part.text, "it begins in mid-sentence")
    if part is parts[-1]:
        return  # the end of the whole has rules of its own
    text = part.text.rstrip()
    has_levels = part.score is None and any(
        p.number == part.number and p.score is not None for p in parts
    )
    if has_levels and text.endswith((":", ",", "-", "–", "—")):
        return  # "Score as follows:" leads over to the levels
    if text.endswith(";") or (text.endswith(",") and _listed(part, parts)):
        return
    reason = ends_amid(text, lang)
    if reason:
        yield Finding(
            "ends_mid_sentence",
            "error",
            part.place,
            f"it breaks off in mid-sentence: {reason}",
            shorten(part.text, 80, tail=True),
        )


def _listed(part: Part, parts: list[Part]) -> bool:
    """Whether the levels beside this one end with a comma too: a list, not a cut."""
    beside = [p for p in parts if p.number == part.number and p.score is not None and p != part]
    return part.score is not None and any(p.text.rstrip().endswith(",") for p in beside)


# --- the end ---------------------------------------------------------------------------------


def _end(reading: Reading, parts: list[Part], lang: str) -> Iterator[Finding]:
    text = reading.text.rstrip()
    tail = text
    unclosed = False
    if reading.items:
        opened, closed = text.rfind("<item>"), text.rfind("</item>")
        unclosed = opened > closed
        tail = text[max(opened + 6, closed + 7) :]
        if not unclosed and not _TAGS.sub("", tail).strip():
            tail = text[opened:]  # nothing behind the last item: its own end counts
    tail = _TAGS.sub("", tail).rstrip()
    if unclosed:
        yield from _unclosed(reading, tail, parts, lang)
        return
    if not tail.strip():
        return
    found = list(_last(re.split(r"\n\s*\n", tail.strip())[-1], "end", parts, lang))
    yield from found
    if not found and not reading.items:
        yield from _bare_heading(tail, lang)


def _bare_heading(tail: str, lang: str) -> Iterator[Finding]:
    """A Markdown rubric that stops inside a heading or right behind a level's mark."""
    line = tail.strip().split("\n")[-1]
    if line.startswith("#") and (ends_amid(line, lang) or not line.strip("# ")):
        yield _ends("end", line, "it stops inside a heading")


def _ends(place: str, text: str, message: str) -> Finding:
    return Finding("ends_mid_sentence", "error", place, message, shorten(text, 80, tail=True))


def _unclosed(reading: Reading, tail: str, parts: list[Part], lang: str) -> Iterator[Finding]:
    """An `<item>` that is never closed: cut off, or only its mark forgotten?"""
    reason = ends_amid(tail, lang) or _bare_mark(tail)
    if reason is None and not finished(tail) and tail.strip():
        reason = "its last sentence has no end"
    if reason is None:
        counts = _ladders(parts)
        mine = len(LADDER_LINE.findall(tail))
        if mine and counts and mine < min(counts):
            reason = f"it has {mine} levels where every other item has at least {min(counts)}"
    if reason or not tail.strip():
        yield _ends("end", tail, f"the last item is cut off: {reason or 'it is empty'}")
    else:
        yield Finding(
            "unclosed_item",
            "warning",
            "end",
            "the last item is never closed, so that readers drop it",
            shorten(tail, 80),
        )


def _ladders(parts: list[Part]) -> list[int]:
    """Levels per criterion, of the criteria that have some."""
    numbers = list(dict.fromkeys(p.number for p in parts))
    counts = [sum(p.number == n and p.score is not None for p in parts) for n in numbers]
    return [count for count in counts if count]


def _bare_mark(text: str) -> str | None:
    line = text.rstrip().split("\n")[-1].strip()
    if re.fullmatch(r"(?:[-*•]|#+)?\s*(?:\*\*)?(?:Example)?-?\d{0,3}(?:\*\*)?\s*:?\s*", line):
        return f"it stops behind {line!r}"
    return None


def _last(text: str, place: str, parts: list[Part], lang: str) -> Iterator[Finding]:
    """The end of the whole rubric, where a cut is likeliest and weaker signs may add up."""
    reason = ends_amid(text, lang)
    line = text.rstrip().split("\n")[-1].rstrip()
    if reason is None and re.fullmatch(r"\s*[-*•]\s*(?:\*\*)?-?\d{0,3}(?:\*\*)?\s*:?", line):
        reason = f"it stops behind {line.strip()!r}"
    if reason is None and line.endswith(":"):
        reason = "it announces something that does not follow"
    if reason is None and not finished(line) and _prose_before(line) >= 2:
        reason = "its last sentence has no end, though the ones before it have"
    if reason is None:
        reason = _weak_signs(line, parts)
    if reason:
        yield _ends(place, text, f"it breaks off in mid-sentence: {reason}")


def _prose_before(line: str) -> int:
    """Finished sentences in front of the last one, in the same paragraph."""
    if line[-1:] in "\"'”’»)]`;":
        return 0
    return len(re.findall(r"\w{2,}['\"”’)]*[.!?]['\"”’)]*\s+(?=[A-Z\"'“‘(])", line))


def _weak_signs(line: str, parts: list[Part]) -> str | None:
    """No full stop where every other level has one, and a second sign beside it."""
    if finished(line) or line[-1:] in "\"'”’»)]`;" or not parts:
        return None
    words = re.findall(r"[^\W\d_]+", line.lower())
    others = [w for p in parts[:-1] for w in re.findall(r"[^\W\d_]+", p.text.lower())]
    cut = cut_word(words[-1], others) if words and line.endswith(words[-1][-1]) else None
    if cut:
        return f"{words[-1]!r} looks like the first part of {cut!r}"
    # Only the same kind of text can be compared: levels with levels.
    last = parts[-1]
    same = [p for p in parts[:-1] if (p.score is None) == (last.score is None)]
    if len(same) < 5 or not all(finished(p.text) for p in same):
        return None
    counts = _ladders(parts[:-1]) if last.score is not None else []
    ladder = sum(p.number == last.number for p in parts if p.score is not None)
    shorter = bool(counts) and ladder < min(counts[:-1] or counts)
    lengths = [len(_LABEL.sub("", p.text.split("\n")[-1])) for p in same]
    stub = len(_LABEL.sub("", line)) < min(lengths)
    if shorter or stub:
        return "only this text has no full stop, and it is shorter than all others"
    return None
