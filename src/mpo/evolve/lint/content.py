"""Rules for what criteria say: garbage, limits, levels, leaks, doubles, growth."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ...judge.injection_flags import flag_phrases
from ...rubric import Criterion, Rubric
from ...sanitize import clean
from ...task import Task
from ..mrm_answers import copies_example
from .finding import Finding, shorten
from .limits import conflict, demands, forbidden_forms, stated_limits
from .reading import Part, RubricReading

__all__ = [
    "check_criteria",
    "check_growth",
    "check_leaks",
    "check_levels",
    "check_limits",
    "check_lost",
    "check_strings",
    "missing_criteria",
]

FEW_WORDS = 4
"""A criterion with fewer words says too little to be scored the same way twice."""
NEAR_DUPLICATE = 0.8
"""Jaccard similarity of word triples from which two criteria say the same. The nearest two of the
recorded run have 0.20; the published oracle rubric's, which share a list on purpose, 0.62."""
SAME_CRITERION = 0.5
"""Jaccard similarity of word triples from which a criterion of another name is the same one."""
SIZE_BUDGET = 2000
"""Words of a rubric, which an RM reads for every rollout; the largest of the recorded run, its
first, has 2,164."""
GROWTH_BUDGET = 2.0
"""Factor on the parent's words, for a parent of 150 words or more."""
LEAK_WORDS = 6
"""Words in a row that a criterion shares with a single rollout or its prompt."""

_LONGEST_PLACEHOLDER = 120
"""Characters; a longer text says something, or opens with "Lorem ipsum"."""

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_EMPTY_WORDS = frozenset(
    (
        "a an and or nor but the of to in on for with by as at is are be was it its this that "
        "these those n na not none null nil tbd tba todo etc item items criterion criteria name "
        "text string here score scores level levels lorem ipsum placeholder example rubric "
        "untitled insert description points point dot blank empty xxx foo bar baz i ii iii iv"
    ).split()
)


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _place(number: int, criterion: Criterion) -> str:
    return f'criterion {number} "{criterion.name[:40]}"'


def _body(criterion: Criterion) -> str:
    return "\n".join([criterion.text, *(level.text for level in criterion.levels)]).strip()


# --- garbage, emptiness, doubles -------------------------------------------------------------


def check_criteria(reading: RubricReading) -> Iterator[Finding]:
    """Criteria that say nothing, too little, or the same as another."""
    criteria = reading.rubric.criteria if reading.rubric else ()
    for number, criterion in enumerate(criteria, start=1):
        yield from _emptiness(number, criterion)
    bodies = [_triples(f"{c.name} {_body(c)}") for c in criteria]
    for later in range(len(criteria)):
        for earlier in range(later):
            same = _similarity(bodies[earlier], bodies[later])
            named = criteria[earlier].name.lower() == criteria[later].name.lower()
            if same >= NEAR_DUPLICATE or named:
                yield Finding(
                    "near_duplicate",
                    "warning",
                    _place(later + 1, criteria[later]),
                    f'says the same as criterion {earlier + 1} "{criteria[earlier].name[:40]}"'
                    f" ({same:.0%} of their word triples)",
                )


def _emptiness(number: int, criterion: Criterion) -> Iterator[Finding]:
    place, body = _place(number, criterion), _body(criterion)
    for text in (criterion.name, criterion.text, *(level.text for level in criterion.levels)):
        if copies_example(text):
            message = "it repeats the example of the answer's format instead of saying something"
            yield Finding("copied_example", "error", place, message, shorten(text))
    said = [w for w in _words(f"{criterion.name} {body}") if w not in _EMPTY_WORDS]
    if not body and len(_words(criterion.name)) <= 3:
        yield Finding("empty_criterion", "error", place, "there is nothing beneath its name")
    elif not _meaningful(f"{criterion.name}\n{body}", said) or (body and _placeholder(body)):
        quote = shorten(body or criterion.name)
        yield Finding("garbage_criterion", "error", place, "it says nothing", quote)
    elif len(_words(f"{criterion.name} {body}")) < FEW_WORDS and body.isascii():
        message = f"fewer than {FEW_WORDS} words say what to look at"
        yield Finding("short_criterion", "warning", place, message, shorten(body or criterion.name))


def _meaningful(text: str, said: Sequence[str]) -> bool:
    """True if some word of the text means something."""
    for word in said:
        if not word.isascii():
            return True
        # A word has a vowel; "rtfgh" and "xx" do not make a criterion.
        if len(word) >= 3 and re.search(r"[aeiouy]", word) and not re.fullmatch(r"(.)\1+", word):
            return True
    return bool(re.search(r"\\[a-z]{3,}|[=∑∫√±≤≥]", text) and re.search(r"\w", text))


def _placeholder(body: str) -> bool:
    if len(body) > _LONGEST_PLACEHOLDER:
        return body.lower().startswith("lorem ipsum")
    return bool(
        re.fullmatch(
            r"[\W_]*(?:n/?a|none|null|todo|tbd|tba|placeholder|lorem ipsum.*|insert .{0,40} here"
            r"|(?:your |the )?(?:criterion|description|text|name)(?: here| \d+)?|string"
            r"|\{\{.*\}\}|<[a-z_ ]+>|\[[a-z _]+\])[\W_]*",
            body.strip(),
            re.IGNORECASE | re.DOTALL,
        )
    )


def _triples(text: str) -> set[tuple[str, ...]]:
    words = _words(text)
    return set(zip(words, words[1:], words[2:], strict=False))


def _similarity(one: set[tuple[str, ...]], two: set[tuple[str, ...]]) -> float:
    return len(one & two) / len(one | two) if one and two else 0.0


# --- the task's limits -----------------------------------------------------------------------


def check_limits(reading: RubricReading, task: Task) -> Iterator[Finding]:
    """Demands that no response within the task's limits can meet."""
    limits = stated_limits(task)
    for part in reading.parts():
        for demand in demands(part):
            why = conflict(demand, limits)
            if why:
                yield _forbidden(part, why, demand.quote)
            elif demand.high > limits.most.get(demand.unit, demand.high):
                yield Finding(
                    "limit_drift",
                    "warning",
                    part.place,
                    f"names {demand.high:g} {demand.unit}s, more than the task allows",
                    shorten(demand.quote),
                )
        for name, sentence in forbidden_forms(part, limits):
            yield _forbidden(part, f"asks for {name}, which the task rules out", sentence)


def _forbidden(part: Part, why: str, quote: str) -> Finding:
    return Finding("forbidden_demand", "error", part.place, why, shorten(quote))


# --- levels ----------------------------------------------------------------------------------

_UNBOUNDED = re.compile(
    r"\b(?:no (?:upper )?(?:limit|maximum|bound)|unlimited|without (?:an? )?(?:upper )?limit"
    r"|as (?:high|many points) as|open-ended|uncapped|no cap|points? for each|points? per"
    r"|(?:\d+\s*\+|\d+ or more)\s*points?)",
    re.IGNORECASE,
)


def check_levels(reading: RubricReading, task: Task | None) -> Iterator[Finding]:
    """Levels that are missing, out of order or without a bound, and scores off the task's."""
    for place, ladder in reading.unsorted:
        yield Finding("levels_out_of_order", "warning", place, f"its levels come as {list(ladder)}")
    if reading.rubric is None:
        return
    expected = [c.scores for c in task.rubric.criteria] if task else []
    for number, criterion in enumerate(reading.rubric.criteria, start=1):
        place = _place(number, criterion)
        yield from _missing(place, criterion, reading)
        found = _UNBOUNDED.search(_body(criterion))
        if found:
            yield Finding("unbounded_levels", "warning", place, "its points have no top", found[0])
        if expected:
            low, high = min(s[0] for s in expected), max(s[-1] for s in expected)
            if (criterion.scores[0], criterion.scores[-1]) != (low, high):
                yield Finding(
                    "score_range",
                    "warning",
                    place,
                    f"scores {criterion.scores[0]} to {criterion.scores[-1]} where the task's "
                    f"rubric has {low} to {high}",
                )


def _missing(place: str, criterion: Criterion, reading: RubricReading) -> Iterator[Finding]:
    blank = [level.score for level in criterion.levels if not level.text.strip()]
    if blank:
        yield Finding("missing_levels", "warning", place, f"levels {blank} say nothing")
    if not criterion.levels:
        # Where prose explains several scores ("'0' for …, '5' when …"), nothing is missing.
        if len(set(re.findall(r"\b\d\b", criterion.text))) < 3:
            message = "it does not say what its scores mean"
            yield Finding("missing_levels", "warning", place, message)
        return
    ends = {criterion.scores[0], criterion.scores[-1]} - {c.score for c in criterion.levels}
    if ends:
        message = f"the ends of its scale, {sorted(ends)}, are not described"
        yield Finding("missing_levels", "warning", place, message)


# --- growth, and what got lost ---------------------------------------------------------------


def check_growth(reading: RubricReading, parent: Rubric | None) -> Iterator[Finding]:
    """A rubric that outgrows its budget."""
    size = len(reading.text.split())
    if size > SIZE_BUDGET:
        message = f"it has {size} words, more than {SIZE_BUDGET}"
        yield Finding("too_large", "warning", "rubric", message)
    if parent is not None:
        before = len(parent.to_markdown().split())
        if before >= 150 and size > GROWTH_BUDGET * before:
            message = f"it grew from {before} to {size} words"
            yield Finding("fast_growth", "warning", "rubric", message)


def check_lost(reading: RubricReading, parent: Rubric, reasons: str) -> Iterator[Finding]:
    """Criteria of the parent that are gone, and that the MRM's reasons do not name."""
    lost = missing_criteria(parent.criteria, reading.rubric)
    for number, criterion in enumerate(parent.criteria, start=1):
        if criterion in lost and criterion.name.lower() not in reasons.lower():
            place = f"parent's {_place(number, criterion)}"
            message = "it is gone, and no reason is given"
            yield Finding("lost_criterion", "warning", place, message)


def missing_criteria(criteria: Sequence[Criterion], rubric: Rubric | None) -> list[Criterion]:
    """The criteria that the rubric has neither by name nor in similar words."""
    kept = rubric.criteria if rubric else ()
    names = {criterion.name.lower() for criterion in kept}
    bodies = [_triples(f"{c.name} {_body(c)}") for c in kept]
    unnamed = [criterion for criterion in criteria if criterion.name.lower() not in names]
    triples = [_triples(f"{criterion.name} {_body(criterion)}") for criterion in unnamed]
    return [
        criterion
        for criterion, own in zip(unnamed, triples, strict=True)
        if not any(_similarity(own, body) >= SAME_CRITERION for body in bodies)
    ]


# --- strings that have no business in a rubric -----------------------------------------------

_URL = re.compile(r"https?://\S+|\bwww\.\w[\w.-]+", re.IGNORECASE)
_DIRECTED = re.compile(
    r"\balways (?:give|award|assign|score|grant)|\b(?:give|award|assign) (?:the )?(?:full|maximum"
    r"|highest|top|perfect) (?:score|marks?|points?|credit)s? (?:to|for) (?:every|any|all|each)\b"
    r"|\bregardless of (?:quality|content|what)|\bignore (?:all|any|the|previous|other) "
    r"|\bas an ai\b|\byou are (?:now )?(?:a|an|the) (?:grader|judge|evaluator|reward model)"
    r"|\bdo not (?:read|check|penali[sz]e any)|\bnever (?:give|assign|deduct)\b",
    re.IGNORECASE,
)
# `score_demand` and `rubric_edit` are what rubrics are made of; these are not.
_FLAGS = ("ignore_instructions", "grader_address", "verdict_forgery", "role_turn", "placeholder")


def check_strings(reading: RubricReading) -> Iterator[Finding]:
    """Control strings, invisible characters, links, and words that address the grader."""
    flags = clean(reading.text).flags
    if flags:
        kinds = ", ".join(f"{kind} ({count})" for kind, count in sorted(flags.items()))
        yield Finding("control_string", "warning", "rubric", f"it holds {kinds}")
    for part in reading.parts():
        link = _URL.search(part.text)
        if link:
            yield Finding("url", "warning", part.place, "it holds a link", shorten(link[0]))
        directed = _DIRECTED.search(part.text)
        found = [kind for kind in flag_phrases(part.text) if kind in _FLAGS]
        if directed or found:
            what = directed[0] if directed else part.text
            message = "it speaks to the grader instead of about the response"
            yield Finding("grader_directed", "warning", part.place, message, shorten(what))


def check_leaks(
    reading: RubricReading, evidence: Sequence[Sequence[str]], parent: Rubric | None
) -> Iterator[Finding]:
    """Words of single rollouts, or of their prompts, in a criterion.

    A run of words counts only if few of the cases have it: what all prompts share is the task's
    template. What the parent says already is not taken from this evidence.
    """
    grams = [{g for text in texts for g in _runs(_words(text))} for texts in evidence]
    known = set(_runs(_words(parent.to_markdown()))) if parent else set()
    usual = max(2.0, 0.3 * len(grams))
    for part in reading.parts():
        words = _words(part.text)
        for run in _runs(words):
            holders = sum(run in gram for gram in grams)
            if run in known or not 0 < holders < usual or len(grams) < 1:
                continue
            yield Finding(
                "leak",
                "warning",
                part.place,
                "it quotes a single rollout or its prompt, which the next ones will not share",
                " ".join(run),
            )
            break


def _runs(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for start in range(len(words) - LEAK_WORDS + 1):
        run = tuple(words[start : start + LEAK_WORDS])
        # A run of small words ("at the end of the day") is nobody's.
        if sum(len(word) >= 5 for word in run) >= 2:
            yield run
