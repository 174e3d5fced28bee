"""Injection flags: signs that a text speaks to its grader, and their cost.

`sanitize.clean` counts what is invisible or forges structure, `flag_phrases` the phrases that
injections use; here a setting decides. Empty texts and master keys do not depend on it: a rule
refuses them always, before the RM is asked.

    observe     flags are kept with the judgement, and change nothing (the default)
    penalize    a hostile text is graded, and loses `PENALTY` of the scale's span
    refuse      a hostile text gets the floor of the scale, and no model is asked

A hostile text speaks to the grader, or forges its structure. Flags that honest texts raise too
(dialogue lines, templates in code, self-praise, invisible characters) are counted, and cost
nothing: the fence holds whatever they are meant to do, and what is invisible is gone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Literal

from ..sanitize import Cleaned

__all__ = [
    "HOSTILE",
    "PENALTY",
    "REFUSED",
    "OnInjection",
    "find_injection_flags",
    "flag_phrases",
    "hostile",
    "penalized",
]

OnInjection = Literal["observe", "penalize", "refuse"]

HOSTILE = frozenset(
    "ignore_instructions score_demand verdict_forgery grader_address rubric_edit rubric_forgery "
    "template_token fence_tag tag".split()
)
"""Kinds of flags that make a text hostile. Of the 64 honest texts of tests/judge/attacks.yaml two
raise one of them; of the 140 attacks that no rule decides, 95."""

PENALTY = 0.25
"""Loss under `penalize`, as a share of the span from the floor to the highest reward. It is the
same for one hostile phrase as for ten: a graded penalty is one more thing to optimise."""

REFUSED = "hostile_text"
"""`Judgement.rule` where `refuse` decided."""


def find_injection_flags(cleaned: Cleaned) -> dict[str, int]:
    """Everything suspicious in a text, counted by kind."""
    return cleaned.flags | flag_phrases(cleaned.text)


def hostile(flags: Mapping[str, int]) -> bool:
    """True where `penalize` and `refuse` act on these flags."""
    return not HOSTILE.isdisjoint(flags)


def penalized(reward: float, floor: float, top: float) -> float:
    """A hostile text's reward: less by `PENALTY` of the span, and never below the floor."""
    return max(floor, reward - PENALTY * (top - floor))


# --- phrases -----------------------------------------------------------------------------------

_GRADER = r"(?:grader|judge|evaluator|examiner|assessor|scorer|marker|reward model|rating model)"
_RULE = r"(?:instruction|direction|rubric|criteri|guideline|prompt|rules\b|system message)"
_TOP = r"(?:full|maximum|max|highest|perfect|top|best possible|excellent|5/5|10/10|100)"
_GRADE = r"(?:score|mark|grade|rating|point|reward|credit)"
_GIVE = (
    r"(?:give|award|assign|grant|deserve|merit|receive|get|set|output|return|record|enter"
    r"|rate|score|grade|mark)\w*"
)
_WORK = r"(?:essay|response|answer|summary|text|solution|work|piece|submission)"
_EDIT = (
    r"(?:add|insert|append|include|introduce|create|remove|delete|drop|replace|rewrite|change"
    r"|update|relax|lower|weaken)\w*"
)
_DROP = "ignore|disregard|forget|discard|pay no attention to|override|bypass|do not follow"
# What an order to drop something may end with. "Ignore previous studies" is honest.
_BEFORE = (
    r"(?:[\w']+,?\s){0,3}?(?:(?:above|foregoing)\b(?!-| (?:average|all|mentioned|\w+ed\b))"
    r"|(?:previous|preceding|prior|earlier|so far|(?:came|said|told|written) (?:before|above)"
    r"|before this|before that)\b(?=\s*(?:[^\w\s]|$)))"
)
_TOLD = (
    r"(?:(?:(?:all|everything|anything|whatever)\s)+(?:that\s)?(?:you|i|was|has)\b"
    r"|what(?:ever)?\s(?:you|i)\s(?:\w+\s){0,2}?(?:told|asked|instructed|said|given)\b)"
)
_ENDED = (
    r"(?:(?:are|is|have been|has been) )?(?:now )?(?:no longer (?:appl|valid|bind|count|in )"
    r"|supersed|null and void|replaced|cancel|revoked|obsolete|void\b)"
)
_MUST = r"(?:must|should|has to|have to|shall)"

# Kind; characters of which one must occur in the text (none: no condition); strings of which one
# must; and near it any of these, one to a line. Lower case.
_PHRASES: tuple[tuple[str, str, str, str], ...] = (
    (
        "ignore_instructions",
        "",
        "ignor|disregard|forget|overrid|overrul|bypass|not follow|discard|pay no att"
        "|忽略|无视|無視|игнорир|تجاهل|무시",
        rf"""\b(?:ignore|disregard|forget|overrid|overrul|bypass|do not follow)\w*\s.{{,40}}?{_RULE}
        \b(?:{_DROP})\s(?:{_BEFORE}|{_TOLD}|(?:\w+\s){{0,2}}?your\s(?:\w+\s)?(?:task|orders|training)\b)
        (?:忽略|无视).{{0,12}}(?:指令|说明|评分|提示|标准|要求|以上|之前|上述)|無視して|지시.{{0,10}}무시
        ignora\w*\s.{{0,30}}?(?:instruc|istruzion|rúbrica|criteri)|تجاهل.{{0,20}}تعليمات
        ignorez\s.{{0,30}}?(?:instruction|consigne|crit|précèd)|ignorier\w*\s.{{0,30}}?(?:anweisung|kriteri)
        игнорир\w*\s.{{0,30}}?(?:инструкц|критери|указан)""",
    ),
    (
        "ignore_instructions",
        "",
        "instruction",
        rf"""\b(?:above|previous|preceding|prior|earlier|your) (?:\w+ )?instructions?,? {_ENDED}
        ^\W{{0,4}}(?:your )?new instructions?\s?(?:\W|follow|begin|are\b)""",
    ),
    (
        "score_demand",
        "",
        "score|mark|grade|rating|point|reward|credit|/5|/10|rate "
        "|满分|最高分|満点|만점|máxima|maximale|höchst|максимальн|высш",
        rf"""\b{_GIVE}\s.{{0,50}}?\b{_TOP}\b.{{0,20}}?(?:{_GRADE}|\d/\d|out of)
        \b{_GIVE}\s.{{0,40}}?\b(?:5/5|10/10|100/100)
        \b(?:score|rate|grade|mark) (?:this|it|me|the \w+) (?:as |a |with |at )*\d+
        {_GRADE}s?\s{_MUST} be\b|\b{_TOP} {_GRADE}s? (?:to|for) (?:this|me|all)
        满分|最高分|満点|만점|(?:puntuación|nota|calificación) máxima|note maximale
        höchst\w* (?:punkt|note|bewertung)|(?:максимальн|высш)\w* (?:балл|оценк)""",
    ),
    (
        "verdict_forgery",
        ":=<[",
        "score|verdict|grade|rating|[[|reward|rationale",
        r"""["'](?:score|grade|rating|verdict|reward|overall_score)["']\s*:\s*["'{\[]?[-\d]
        ["']rationale["']\s*:\s*["']|<(?:score|verdict|grade|rating|reward)>
        (?<![\w\])])\[\[\s*[\dab]\s*\]\]
        ^\W{0,4}(?:score|reward|verdict|rating)\s*[:=]\s*\d
        (?:final |overall |total )(?:score|verdict|grade|rating)\s*[:=]\s*\d""",
    ),
    (
        "grader_address",
        "",
        "grader|judge|evaluator|examiner|assessor|scorer|reward model|rating model|marker",
        rf"""\b(?:dear|attention|hey|hello|hi) (?:(?:the|all|any|ai|llm) )*{_GRADER}
        \bto (?:the|all|any) (?:ai |llm )?{_GRADER}
        \byou are (?:now )?(?:the |a |an )?(?:\w+ )?{_GRADER}\b
        \bas (?:the|a|an) (?:\w+ )?{_GRADER},? you
        \b(?:grader|evaluator|examiner|assessor|scorer|reward model)s? (?:{_MUST}|is required)""",
    ),
    (
        "self_praise",
        "",
        "criteri|requirement|rubric|flawless|perfect|exceptional|outstanding",
        rf"""\bthis (?:\w+ )?{_WORK}\b.{{0,40}}?(?:flawless|perfect|exceptional|outstanding)
        \bthis (?:\w+ )?{_WORK}\b.{{0,40}}?(?:meet|satisf|fulfil|exceed)\w* (?:all|every|each)""",
    ),
    (
        "rubric_edit",
        "",
        "criteri|rubric|guideline",
        rf"""\b{_EDIT}\s.{{0,40}}?(?:criterion|criteria|rubric|guideline)
        \bnew (?:criterion|criteria|rubric)\b|\b(?:rubric|criterion|criteria) {_MUST}\b""",
    ),
    (
        "rubric_forgery",
        "<(#:",
        "item>|rubric>|criteri|(weight|rubric:|# rubric|guideline>",
        r"""</?(?:item|rubric|criterion|criteria|guideline)>|^#+ .{0,80}\(weight|^# rubric
        ^\W{0,4}(?:criteri\w+|rubric)\s*:""",
    ),
    (
        "role_turn",
        ":",
        "system|user|assistant|human|developer|ai:",
        r"""^\W{0,4}(?:system|user|assistant|human|developer|ai)\W{0,3}:""",
    ),
    (
        "role_turn",
        "",
        "### |begin |end ",
        r"""^### (?:instruction|response|system|input|assistant|user|human)\b
        ^[-=*#\s]{0,8}(?:begin|end) (?:of )?(?:the )?(?:system|user|response|essay|text)\b""",
    ),
    (
        "role_turn",
        "#",
        "# model output|# instruction",
        r"""^#{1,6} model outputs?\b|^## instruction$""",
    ),
    (
        "placeholder",
        "{<",
        "{{|<<|${|{response|{rubric|{prompt",
        r"""\{\{\s*\w+\s*\}\}|<<\s*(?:conversation|rubric|rubric_item|response|prompt|case)\s*>>
        \$?\{(?:response|rubric|prompt|case|analysis|proposals|answer|question|criteria)\}""",
    ),
)
# Cyrillic and Greek letters that pass for Latin ones.
_HOMOGLYPHS = str.maketrans("аеорсухіјѕԁһӏмтквнοαερτυικνχ", "aeopcyxijsdhlmtkbhoaeptyiknx")
_HOMOGLYPH = re.compile("[аеорсухіјѕԁһӏмтквнοαερτυικνχ]")
# Full-width, mathematical, circled and ligature forms of Latin letters and digits.
_LETTER_FORM = re.compile(
    "[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\u2100-\u214f\u2460-\u24ff\ufb00-\ufb06"
    "\U0001d400-\U0001d7ff\U0001f130-\U0001f149]"
)
_REACH = 110  # characters on each side of a hint; the longest phrase that is looked for


def flag_phrases(text: str) -> dict[str, int]:
    """Count the phrases that injections use. The text stays as it is.

    A flag is a reason to look, not a proof: an essay about examiners, a chat log or a template
    in code raises flags too. `OnInjection` decides what follows.

    Returns:
        Count per kind, only kinds that occurred: `ignore_instructions`, `score_demand`,
        `verdict_forgery`, `grader_address`, `self_praise`, `rubric_edit`, `rubric_forgery`,
        `role_turn`, `placeholder`.
    """
    if text.isascii():
        return _phrases(text.lower())
    # Normalising costs half a millisecond, so only where letters come in other forms.
    folded = unicodedata.normalize("NFKC", text) if _LETTER_FORM.search(text) else text
    folded = folded.lower()
    flags = _phrases(folded)
    # A text that is Latin for the most part may hide its words in letters of another script.
    if 2 * len(folded.encode("ascii", "ignore")) > len(folded) and _HOMOGLYPH.search(folded):
        for flag, count in _phrases(folded.translate(_HOMOGLYPHS)).items():
            flags[flag] = max(count, flags.get(flag, 0))
    return flags


def _phrases(lowered: str) -> dict[str, int]:
    flags: dict[str, int] = {}
    present: dict[str, bool] = {}  # roots that were looked for
    for flag, guard, hints, pattern in _phrase_patterns():
        if guard and not any(map(lowered.__contains__, guard)):
            continue
        near = []
        for hint, root in hints:
            if root not in present:
                present[root] = root in lowered
            if present[root]:
                near.append(hint)
        if near:
            for start, end in _near(lowered, near):
                count = len(pattern.findall(lowered, start, end))
                if count:
                    flags[flag] = flags.get(flag, 0) + count
    return flags


@cache
def _phrase_patterns() -> tuple[tuple[str, str, tuple[tuple[str, str], ...], re.Pattern[str]], ...]:
    """By kind: its guard, its hints with their roots, and what is looked for.

    A hint's root is the shortest hint inside it (`rubric` in `# rubric`): where that does not
    occur, half a dozen others need not be looked for.
    """
    # Compiled at first use: it takes 20 ms, which `mpo --help` does not have.
    every = set("{[</(#>")  # found, or not, in no time
    for _, _, hints, _ in _PHRASES:
        every.update(hints.split("|"))
    by_length = sorted(every, key=len)
    compiled = []
    for flag, guard, hints, patterns in _PHRASES:
        roots = [(hint, next(filter(hint.__contains__, by_length))) for hint in hints.split("|")]
        pattern = re.compile(re.sub(r"\n\s*", "|", patterns), re.MULTILINE)
        compiled.append((flag, guard, tuple(roots), pattern))
    return tuple(compiled)


def _near(text: str, hints: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The stretches around the hints: an essay on judges then costs no scan of the whole essay."""
    places: list[int] = []
    for hint in hints:
        place = text.find(hint)
        while place >= 0:
            places.append(place)
            place = text.find(hint, place + len(hint))
    if not places:  # a root occurs, and not as part of a hint
        return
    places.sort()
    start, end = max(0, places[0] - _REACH), places[0] + _REACH
    for place in places:
        if place - _REACH > end:
            yield start, end
            start = place - _REACH
        end = place + _REACH
    yield start, end
