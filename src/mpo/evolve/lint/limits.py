"""Demands beyond the task's limits.

A number of words in a rubric is a demand or not by what surrounds it. "At least 500 words" asks
for 500; so do "fewer than 500 words" at the lowest level and "deduct a point under 500 words".
"Fewer than 500 words" at the best level, and "deduct a point above 500 words", ask for no more
than the task's limit does. So each mention is read as an interval of lengths that the criterion
rewards, and an error is an interval that no response within the limits can reach.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ...task import MinWords, Task
from .reading import Part

__all__ = ["Demand", "Limits", "conflict", "demands", "stated_limits"]

_UNIT_NAMES = {
    "word": "words?|wörter[n]?|worte[n]?|mots?|palabras?|parole|palavras?|woorden|слов[а]?|字|词",
    "sentence": "sentences?|sätze[n]?|phrases",
    "paragraph": "paragraphs?|absätze[n]?|paragraphes?|párrafos?",
    "page": "pages?|seiten?",
    "character": "characters?|chars?|zeichen",
    "token": "tokens?",
}
_UNIT = re.compile(
    "|".join(f"(?P<{unit}>{names})" for unit, names in _UNIT_NAMES.items()), re.IGNORECASE
)
# The fewest words that fill one of them, so that the conversion errs towards silence: a sentence
# of four words, a paragraph of twenty, a page of 250, seven and a half characters to a word.
WORDS_IN = {
    "word": 1.0,
    "sentence": 4.0,
    "paragraph": 20.0,
    "page": 250.0,
    "character": 1 / 7.5,
}


@dataclass(frozen=True)
class Limits:
    """Bounds and forms of a response."""

    most: dict[str, float]
    """Largest count by unit."""
    least: dict[str, float]
    """Smallest count by unit."""
    forbidden: tuple[str, ...] = ()
    """Names out of `FORMATS` that the task rules out."""


@dataclass(frozen=True)
class Demand:
    """An interval of lengths that earns credit."""

    unit: str
    low: float
    high: float
    quote: str
    part: bool = False
    """True for a part of the response (one paragraph), so that only its lower end binds."""


def stated_limits(task: Task) -> Limits:
    """Limits from the task's settings, and from its prompt's own words."""
    most: dict[str, float] = {"token": float(task.spec.response.max_tokens)}
    # A word is at least one token, so the cap on tokens bounds the words too.
    most["word"] = min(most["token"], task.spec.response.max_words or math.inf)
    rules = [rule.words for rule in task.spec.rules if isinstance(rule, MinWords)]
    least = {"word": float(max([task.spec.response.min_words, *rules]))}
    prompt = f"{task.spec.prompt}\n{task.spec.description}"
    for kind, demand in _mentions(_to_digits(prompt)):
        if demand.part or demand.unit == "page":
            continue
        if kind == "upper":
            most[demand.unit] = min(most.get(demand.unit, math.inf), demand.high)
        elif kind == "lower":
            least[demand.unit] = max(least.get(demand.unit, 0.0), demand.low)
    single = re.search(r"\b(?:a|one|1) (?:single |short )?(paragraph|sentence)\b", prompt.lower())
    if single and not re.search(r"\b(?:at least|minimum|per|every|each)\b", prompt.lower()):
        most[single[1]] = min(most.get(single[1], math.inf), 1.0)
    return Limits(most, least, tuple(_ruled_out(prompt)))


def conflict(demand: Demand, limits: Limits) -> str | None:
    """Reason that no response within the limits can meet the demand; None if one can."""
    top = limits.most.get(demand.unit, math.inf)
    if demand.low > top:
        return f"asks for {demand.low:g} {demand.unit}s where the task allows {top:g}"
    words = WORDS_IN.get(demand.unit)
    top = limits.most.get("word", math.inf)
    if words is not None and demand.low * words > top:
        return f"asks for {demand.low:g} {demand.unit}s where the task allows {top:g} words"
    bottom = limits.least.get(demand.unit, 0.0)
    if demand.high < bottom and not demand.part:
        return f"allows {demand.high:g} {demand.unit}s where the task asks for {bottom:g}"
    return None


# --- numbers with a unit ---------------------------------------------------------------------

_UPPER = (
    r"no more than|not more than|never more than|no longer than|not longer than|not (?:to )?exceed"
    r"(?:s|ing)?|cannot exceed|without exceeding|never exceeds?|at most|maximum(?: of)?|max\.?"
    r"|up to|under|below|beneath|less than|fewer than|shorter than|within|limit(?:ed)? (?:of|to)"
    r"|limit is|limit|not reach|fails? to reach|short of|höchstens|maximal|weniger als|unter"
    r"|au plus|moins de|como máximo|menos de|al massimo|meno di|<=?|≤|不超过|以内"
)
_LOWER = (
    r"no fewer than|no less than|not less than|not fewer than|no shorter than|not shorter than"
    r"|not (?:be )?(?:under|below)|at least|minimum(?: of)?|min\.?|upwards? of|≥|>="
    r"|or longer than|reach(?:es|ing)?|required|mindestens|wenigstens|au moins|al menos"
    r"|por lo menos|como mínimo|almeno|pelo menos|не менее|至少|不少于"
)
_STRICT = (
    r"more than|longer than|greater than|over|exceed(?:s|ing)?|above|beyond|mehr als|über|plus de"
    r"|más de|più di|mais de|>"
)
_ABOUT = (
    r"about|around|approximately|roughly|circa|approx\.?|ca\.|nearly|almost|close to|some|~|≈|etwa"
    r"|environ|alrededor de|circa"
)
_MARK = re.compile(
    rf"(?<!\w)(?:(?P<upper>{_UPPER})|(?P<lower>{_LOWER})|(?P<strict>{_STRICT})|(?P<about>{_ABOUT}))"
    r"(?=[\s\d(:]|$)",
    re.IGNORECASE,
)
_COUNT = re.compile(
    r"(?<![\w.$€£-])(?P<first>\d{1,9}(?:\.\d{1,9})?)"
    r"(?:\s*(?:-|–|—|to|and|or|bis|à|a|e|y)\s*(?P<second>\d{1,9}(?:\.\d{1,9})?))?"
    r"\s*(?P<plus>\+)?(?:[\s-]*(?:or|and) (?:more|longer|above)\b)?"
    r"[\s-]*(?:(?:[a-z]+[\s-]){0,2}?)(?P<unit>" + "|".join(_UNIT_NAMES.values()) + r")(?![a-z])",
    re.IGNORECASE,
)
_COUNT_OF = re.compile(
    r"(?P<unit>word|character|token|sentence|paragraph|page)s?[\s-]*"
    r"(?:count|length|limit|minimum|total|target|requirement)s?\b[^.\d;\n]{0,40}?"
    r"(?P<first>\d{1,9})(?:\s*(?:-|–|to|and)\s*(?P<second>\d{1,9}))?\s*(?P<plus>\+)?"
    r"(?!\s*(?:%|points?|percent|paragraph|sentence))",
    re.IGNORECASE,
)
_TAIL_LOWER = re.compile(
    r"^[\s)]*(?:(?:long\s*)?(?:or|and) (?:more|longer|above|over|greater)|minimum|at (?:a )?minimum"
    r"|at least|\+|oder mehr|ou plus|o más|以上)",
    re.IGNORECASE,
)
_TAIL_UPPER = re.compile(
    r"^[\s)]*(?:(?:long\s*)?(?:or|and) (?:fewer|less|shorter|below|under)|maximum|at most"
    r"|or so at most|limit|以内)",
    re.IGNORECASE,
)
# Not the response's own length.
_OTHER = re.compile(
    r"\b(?:source|original|input|bill|passage|prompt|transcript|document|article|quot\w+"
    r"|vocabular\w+|dictionary|corpus|list|glossary|excerpt|instruction)\b[^.;:,]{0,30}$"
    r"|\b(?:per|every|each|out of|the (?:first|last|opening|final)|first|last|for every|of those"
    r"|another|extra|additional)\s*$",
    re.IGNORECASE,
)
_OTHER_TAIL = re.compile(
    r"^[\s-]*(?:(?:of|from) (?:the )?(?:source|original|prompt|input|quot\w+|vocabular\w+)"
    r"|(?:source|original|input|bill|passage|prompt|transcript|document|article|quot\w+|vocab\w+"
    r"|list|sentences?)\b|apart\b|earlier\b|later\b)",
    re.IGNORECASE,
)
_PART = re.compile(
    r"\b(?:sentence|paragraph|introduction|conclusion|title|line|clause|section|abstract|thesis"
    r"|headline|opening|point|bullet|body|argument)s?\b",
    re.IGNORECASE,
)
_WAIVED = re.compile(
    r"\b(?:need not|needn't|not (?:required|necessary|needed|expected)|no need|not have to"
    r"|doesn't have to|does not need|rather than|instead of|regardless|even if|whether or not"
    r"|ignore|irrelevant whether)\b",
    re.IGNORECASE,
)


_NEAR = 200
"""Characters before a count in which the words stand that say what it is."""


def _mentions(text: str) -> Iterator[tuple[str, Demand]]:
    """Counts with a unit: kind (`lower`, `upper`, `exact`) and the interval that they bound."""
    taken: list[tuple[int, int]] = []
    for pattern in (_COUNT, _COUNT_OF):
        for match in pattern.finditer(text):
            place = bisect.bisect(taken, match.span())
            beside = taken[max(0, place - 1) : place + 1]
            if any(a < match.end() and match.start() < b for a, b in beside):
                continue
            near = max(0, match.start() - _NEAR)
            ends = (text.rfind(mark, near, match.start()) for mark in ".;!?\n")
            sentence_start = max(near, max(ends) + 1)
            if pattern is _COUNT_OF:
                head = text[sentence_start : match.start("first")]
                unit = match["unit"].lower()
            else:
                head = text[sentence_start : match.start()]
                unit = _unit(match["unit"])
            tail = text[match.end() : match.end() + 30]
            if _OTHER.search(head) or _OTHER_TAIL.search(tail):
                continue
            taken.insert(place, match.span())
            yield _interval(match, unit, head, tail)


def _unit(name: str) -> str:
    match = _UNIT.fullmatch(name)
    return str(match.lastgroup) if match else "word"


def _interval(match: re.Match[str], unit: str, head: str, tail: str) -> tuple[str, Demand]:
    first = float(match["first"])
    second = float(match["second"]) if match["second"] else None
    marks = [m for m in _MARK.finditer(head) if len(head) - m.end() <= 28]
    mark = marks[-1].lastgroup if marks else None
    part = bool(_PART.search(head[-40:])) or bool(re.match(r"\s*(?:each|per|in the)\b", tail))
    longer = bool(re.search(r"\b(?:or|and) (?:more|longer|above)\b", match[0]))
    quote = " ".join((head[-60:] + match[0] + tail).split())

    def demand(low: float, high: float) -> Demand:
        return Demand(unit, low, high, quote, part and unit == "word")

    if second is not None and second > first and mark not in ("upper", "lower", "strict"):
        return "exact", demand(first, second)
    if mark == "upper" or _TAIL_UPPER.match(tail):
        strict = marks and re.match(r"(?:fewer|less|shorter|under|below|<$)", marks[-1][0].lower())
        return "upper", demand(0.0, (second or first) - bool(strict))
    if match["plus"] or longer or mark == "lower" or _TAIL_LOWER.match(tail):
        return "lower", demand(first, math.inf)
    if mark == "strict":
        return "lower", demand(first + 1, math.inf)
    slack = 0.1 * first if mark == "about" else 0.0
    return "exact", demand(first - slack, first + slack)


# --- is it a demand? -------------------------------------------------------------------------

_TOO_LONG = re.compile(
    r"\b(?:too long|overlong|exceed\w* the (?:\w+ )?(?:limit|maximum|length|cap)|over the limit"
    r"|beyond the limit|verbos\w+|long-winded|rambl\w+|padd\w+|bloated)\b",
    re.IGNORECASE,
)
_LOSES = re.compile(
    r"\b(?:penali[sz]\w*|deduct\w*|subtract\w*|los(?:e|es|ing)|minus|lower scores?|low scores?"
    r"|scores? (?:of )?(?:0|zero|1\b)|gets? (?:0|zero|no)|assign (?:a )?(?:0|1)\b"
    r"|capped|cannot (?:receive|get|score|earn)|may (?:receive|get) no|no (?:points|credit)|fails?"
    r"|marked? down|unacceptable|should not|must not|may not|avoid\w*|never)\b",
    re.IGNORECASE,
)
_TOO_SHORT = re.compile(
    r"\b(?:too short|too brief|shorter than (?:the )?required|insufficient|not enough|inadequate"
    r"|underdeveloped|only|merely|just|lacks?|incomplete|falls? short|required length)\b",
    re.IGNORECASE,
)
_STATES_LIMIT = re.compile(
    r"\b(?:must|should|may|can|does|do|shall|need) ?not "
    r"(?:exceed|be (?:longer|more|over|above)|go over)",
    re.IGNORECASE,
)
_EXAMPLE = re.compile(r"^\W*(?:example|e\.g\.|for instance|z\.\s?b\.)", re.IGNORECASE)


def demands(part: Part) -> Iterator[Demand]:
    """The lengths that one piece of a rubric rewards."""
    for line in part.text.split("\n"):
        if _EXAMPLE.match(line):
            continue
        # One blank between words: the patterns then take no run of blanks apart.
        for sentence in _sentences(_to_digits(" ".join(line.split()))):
            if _WAIVED.search(sentence):
                continue
            mentions = list(_mentions(sentence))
            if not mentions:
                continue
            tone = _tone(sentence)
            for kind, found in mentions:
                read = _rewarded(kind, found, tone, part)
                if read is not None:
                    yield read


def _sentences(line: str) -> list[str]:
    return re.split(r"(?<=[.!?;])\s+(?=[A-Z\d(])", line)


@dataclass(frozen=True)
class _Tone:
    """Judgement of a sentence on what it names."""

    loses: bool
    long: bool
    short: bool


def _tone(sentence: str) -> _Tone:
    # "Must not exceed 500 words" states a limit; it takes nothing away.
    blame = _STATES_LIMIT.sub(" ", sentence)
    return _Tone(
        loses=bool(_LOSES.search(blame)),
        long=bool(_TOO_LONG.search(sentence)),
        short=bool(_TOO_SHORT.search(sentence)),
    )


def _rewarded(kind: str, found: Demand, tone: _Tone, part: Part) -> Demand | None:
    """The interval that earns credit: the one that is named, or what lies beyond it."""
    loses = tone.loses or part.rank == 0.0
    if kind == "lower":
        # "1: more than 500 words, rambling": what is too long is named at a level in the middle
        # as well, so there only the upper half counts as praise.
        if loses or tone.long or (part.rank is not None and part.rank < 0.5):
            return None
        return found
    if kind == "upper":
        worst = part.rank is not None and part.rank < 0.5
        if tone.long or not (loses or worst or (tone.short and part.rank != 1.0)):
            return found
        return Demand(found.unit, found.high + 1, math.inf, found.quote, found.part)
    if loses or (part.rank is not None and part.rank < 0.5) or tone.short:
        return None
    return found


# --- forms -----------------------------------------------------------------------------------

FORMATS = {
    "lists": r"bullet(?:ed)?(?: points?| lists?)?|bullets|numbered lists?|lists?",
    "headings": r"headings?|headers?|subheadings?|section titles?",
    "tables": r"tables?",
    "markdown": r"markdown",
    "emoji": r"emojis?",
    "a title": r"titles?",
    "links": r"links?|urls?|hyperlinks?",
    "code": r"code(?: blocks?)?",
    "the first person": r"first[- ]person",
    "dialogue": r"dialogues?",
}
_RULES_OUT = (
    r"\b(?:do not|don't|never|without|no|avoid|must not|may not|cannot)\b(?:[\s,]+\w+){{0,3}}?"
    r"\s+(?:{0})\b"
)
_ASKS_FOR = (
    r"\b(?:uses?|using|includes?|has|have|with|contains?|must|requires?|needs?|organi[sz]ed|"
    r"presented?|formatted|structured|written|adds?)\b(?:\s+[\w'-]+){{0,4}}?\s+(?:{0})\b"
)
_DENIES = re.compile(
    r"\b(?:no|not|never|without|avoid\w*|free of|lacks?|instead of|rather than|unnecessary|neither"
    r"|don't|doesn't|un\w+ed)\b",
    re.IGNORECASE,
)


def _ruled_out(prompt: str) -> Iterator[str]:
    for name, words in FORMATS.items():
        if re.search(_RULES_OUT.format(words), prompt, re.IGNORECASE):
            yield name


def forbidden_forms(part: Part, limits: Limits) -> Iterator[tuple[str, str]]:
    """Name and quote of each form that the task rules out and this piece asks for."""
    if part.rank is not None and part.rank < 0.5:
        return
    for line in part.text.split("\n"):
        for sentence in _sentences(line):
            if _EXAMPLE.match(line) or _DENIES.search(sentence) or _LOSES.search(sentence):
                continue
            for name in limits.forbidden:
                match = re.search(_ASKS_FOR.format(FORMATS[name]), sentence, re.IGNORECASE)
                if match:
                    yield name, sentence


# --- numbers in prose: `1,000`, `five hundred`, `2k`, `a few hundred` --------------------------

_ONES = {
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
_NUMBER_WORDS = "|".join([*_ONES, *_TENS, *_SCALES])
_SPAN = re.compile(
    rf"\b(?:(?P<vague>several|few|couple)\s+(?:of\s+)?(?=(?:{'|'.join(_SCALES)})\b)"
    r"|an?\s+(?=hundred|thousand|dozen))?"
    rf"(?P<words>(?:{_NUMBER_WORDS})(?:(?:[\s-]+(?:and\s+)?)(?:{_NUMBER_WORDS})){{0,12}})\b",
    re.IGNORECASE,
)
_PLURAL = re.compile(r"\b(hundreds|thousands|dozens)\s+of\b", re.IGNORECASE)
_MANY = re.compile(r"\b(several|multiple|many)(?=\s+(?:\w+\s+)?paragraphs?\b)", re.IGNORECASE)
_GROUPED = re.compile(r"(?<![\d.,])(\d{1,3})((?:[,.'’\u00a0\u202f]\d{3}){1,4})(?![\d.,]*\d)")
# "1 000 words", but not "level 3 500 words": a thousands' blank stands right before a unit.
_SPACED = re.compile(
    r"(?<![\w.,] )(?<![\d.,])(\d{1,3}) (\d{3})(?=[\s-]+(?:words?|mots|palabras|Wörter|слов))"
)
_KILO = re.compile(
    r"(?<![\w.])(\d+(?:\.\d+)?)\s?k\b(?=[\s-]*(?:words?|tokens?|characters?|\+))", re.IGNORECASE
)


def _to_digits(text: str) -> str:
    """The text with every number written as plain digits."""
    text = _GROUPED.sub(lambda m: m[1] + re.sub(r"\D", "", m[2]), text)
    text = _SPACED.sub(r"\1\2", text)
    text = _KILO.sub(lambda m: str(round(float(m[1]) * 1000)), text)
    text = _PLURAL.sub(lambda m: f"at least {2 * _SCALES[m[1].lower()[:-1]]}", text)
    text = _MANY.sub(lambda m: f"at least {_VAGUE[m[1].lower()]}", text)
    return _SPAN.sub(_number, text)


def _number(match: re.Match[str]) -> str:
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
            part += _ONES.get(word, _TENS.get(word, 0))
    return str(total + part)
