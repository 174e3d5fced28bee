"""Text that a policy or a model wrote, made fit to stand inside a prompt.

    rule = precheck(text, min_words=20)      # "empty", "master_key", ...: no model is asked
    cleaned = clean(text)                    # nothing invisible, no control strings left
    flags = cleaned.flags | flag_phrases(cleaned.text)       # counted, never a reason to rewrite
    block = fence(cleaned.text, secret=run_secret)           # bounds that the text cannot close

`clean` removes what a reader of the text cannot see, and swaps the brackets of chat-template
control strings for look-alike glyphs (serving stacks do turn `<|im_end|>` in user text into the
real control token: notes/judge.md §4.3). What merely looks suspicious is left alone: bare `User:`
lines, code, HTML, LaTeX and requests to the grader are data, and the fence keeps them data.

Every pattern stands behind a substring test, because most texts hold nothing of what is looked
for; the same patterns unguarded cost milliseconds for a response.
"""

from __future__ import annotations

import hmac
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache

__all__ = [
    "FENCE",
    "Cleaned",
    "clean",
    "count_words",
    "fence",
    "find_fences",
    "flag_phrases",
    "looks_empty",
    "precheck",
]


@dataclass(frozen=True)
class Cleaned:
    """A text after `clean`, and what was found in it."""

    text: str
    flags: dict[str, int] = field(default_factory=dict)
    """Count per kind, and only kinds that occurred: `surrogate`, `control_char`, `tag`, `bidi`,
    `soft_hyphen`, `variation_selector`, `zero_width`, `template_token`, `fence_tag`."""


# --- what cannot be seen ---------------------------------------------------------------------
# Joiners carry meaning inside words of these scripts (Persian and Indic spelling) and inside
# emoji sequences; there, and only there, they stay.
_JOINING = "\u0600-\u08ff\u0900-\u0dff\u1780-\u17ff\u1800-\u18af"
_EMOJI = (
    "\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u21ff\u231a\u231b\u2328\u23cf\u23e9-\u23fa"
    "\u2600-\u27bf\u2b00-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
)

_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufff9-\ufffb\ufffe\uffff]")
_ASCII_CONTROL = bytes(code for code in range(128) if _CONTROL.match(chr(code)))
_TAG = "\U000e0000-\U000e007f"
_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_SELECTOR = "\ufe00-\ufe0d\U000e0100-\U000e01ef\u180b-\u180d"
_BLANK_LETTER = (  # fillers that Unicode calls letters and that show nothing, and invisible signs
    "\u034f\u115f\u1160\u17b4\u17b5\u180e\u200b\u2060-\u2065\u206a-\u206f\u3164\ufeff\uffa0"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
)
_INVISIBLE = f"{_TAG}{_BIDI}\u00ad{_SELECTOR}\ufe0e\ufe0f{_BLANK_LETTER}\u200c\u200d"
_ANY_INVISIBLE = re.compile(f"[{_INVISIBLE}]")
# Each pattern opens with a plain character class: a lookbehind in front is ten times slower.
_INVISIBLES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("tag", re.compile(f"[{_TAG}]")),
    ("bidi", re.compile(f"[{_BIDI}]")),
    ("soft_hyphen", re.compile("\u00ad")),
    # Selectors stay behind an emoji, or between a digit and the keycap; elsewhere they are a
    # known way to smuggle bytes.
    (
        "variation_selector",
        re.compile(f"[{_SELECTOR}]|[\ufe0e\ufe0f](?<![{_EMOJI}][\ufe0e\ufe0f])(?!\u20e3)"),
    ),
    (
        "zero_width",
        re.compile(
            f"[{_BLANK_LETTER}]"
            f"|\u200c(?:(?<![{_JOINING}]\u200c)|(?![{_JOINING}]))"
            f"|\u200d(?:(?<![{_JOINING}{_EMOJI}\ufe0f]\u200d)|(?![{_JOINING}{_EMOJI}]))"
        ),
    ),
)

# --- control strings of chat templates ---------------------------------------------------------

_ANGLE_WORDS = (
    "s|bos|eos|pad|unk|sop|eop|BOS_TOKEN|EOS_TOKEN|"
    "start_of_turn|end_of_turn|start_of_image|end_of_image|"  # Gemma
    "think|thinking|tool_call|tool_calls|tool_response|tool_result|tools|tool|function_calls|"
    "function_call|function_results|arg_key|arg_value|seed:[a-z_]+|"
    r"unused\d+|extra_id_\d+|reserved_\d+|SPECIAL_\d+"
)
_SQUARE_WORDS = (
    "INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|MODEL_SETTINGS|"
    r"BEGIN_TOOL_RESULTS|ARGS|CALL_ID|THINK|IMG|gMASK|sMASK|UNUSED_TOKEN_\d+"
)
# A character and one of some strings that must occur; a single character is found, or not, in a
# tenth of the time of a string.
_TEMPLATE_TOKENS: tuple[tuple[str, tuple[str, ...], re.Pattern[str]], ...] = (
    # ChatML, Llama 3, Phi, GLM, Harmony, Command-R. No blanks inside: real tokens have none, and
    # `f <| g |> h` is F#.
    ("|", ("|>", "<|"), re.compile(r"<\|[^\s|<>‹›⁅⁆]{1,60}\|>|<\|\"\|>")),
    # Gemma 4 writes the bar on one side only.
    (
        "|",
        ("|>", "<|"),
        re.compile(r"<\|(?:turn|channel|think|tool\w*)>|<(?:turn|channel|tool\w*)\|>"),
    ),
    ("｜", ("<｜",), re.compile(r"<｜[^｜<>‹›⁅⁆\n]{1,60}｜>")),  # DeepSeek, Hunyuan
    ("<", ("SYS>>",), re.compile(r"<<\s?/?SYS>>")),
    ("<", ("<",), re.compile(rf"</?(?:{_ANGLE_WORDS})>")),
    ("[", ("[",), re.compile(rf"\[/?(?:{_SQUARE_WORDS})\]")),
    ("]", ("]~",), re.compile(r"\]~!?b[\]\[]")),  # MiniMax
    ("[", ("[e~[",), re.compile(r"\[e~\[")),
)
# These glyphs survive NFKC, which some tokenizers apply; full-width brackets would not.
_LOOKALIKE = str.maketrans({"<": "‹", ">": "›", "[": "⁅", "]": "⁆"})


def _soften(match: re.Match[str]) -> str:
    return match[0].translate(_LOOKALIKE)


# --- the fence ---------------------------------------------------------------------------------

FENCE = re.compile(r'<([A-Z][A-Z_]*) id="([0-9a-f]{16})">\n(.*?)\n</\1 id="\2">', re.DOTALL)
"""One fenced block: label, id, body."""

_LABEL = re.compile(r"[A-Z][A-Z_]*")
# A forged fence has the wrong id, but a weak reader may not compare ids.
_FENCE_TAG = re.compile(r'</?[A-Z][A-Z_]* id="?[0-9a-f]{16}"?>|</?RESPONSE\b[^<>‹›⁅⁆\n]{0,60}>')


_REMEMBERED = 2**15  # characters of a text whose cleaned form is kept; 256 of them are


def clean(text: str) -> Cleaned:
    """The text in NFC, without invisible characters and without control strings.

    Takes any string, lone surrogates included. Cleaning a second time changes nothing.
    """
    known = _cleaned(text) if len(text) <= _REMEMBERED else _cleaned.__wrapped__(text)
    return Cleaned(known.text, dict(known.flags))


# Rules, flags and prompt each clean the same response, and each response its prompt.
@lru_cache(maxsize=256)
def _cleaned(text: str) -> Cleaned:
    flags: dict[str, int] = {}
    if not text.isascii():
        text = _strip_invisible(text, flags)
    if _has_control(text):
        text = _count(flags, "control_char", *_CONTROL.subn("\ufffd", text))
    # After the invisible is gone, since `<|im_<zero width>end|>` is put together by removing it.
    for char, hints, pattern in _TEMPLATE_TOKENS:
        if char in text and any(hint in text for hint in hints):
            text = _count(flags, "template_token", *pattern.subn(_soften, text))
    if "<" in text and ("RESPONSE" in text or " id=" in text):
        text = _count(flags, "fence_tag", *_FENCE_TAG.subn(_soften, text))
    return Cleaned(text, flags)


def _has_control(text: str) -> bool:
    if not text.isascii():
        return _CONTROL.search(text) is not None
    raw = text.encode("ascii")  # a quarter of the search's time
    return len(raw.translate(None, _ASCII_CONTROL)) < len(raw)


def _strip_invisible(text: str, flags: dict[str, int]) -> str:
    if _SURROGATE.search(text):
        # Two halves side by side are one character that some JSON reader left in pieces.
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        text = _count(flags, "surrogate", *_SURROGATE.subn("\ufffd", text))
    if _ANY_INVISIBLE.search(text):
        for flag, pattern in _INVISIBLES:
            text = _count(flags, flag, *pattern.subn("", text))
    return unicodedata.normalize("NFC", text)


def _count(flags: dict[str, int], flag: str, text: str, found: int) -> str:
    if found:
        flags[flag] = flags.get(flag, 0) + found
    return text


def fence(text: str, *, secret: bytes, label: str = "RESPONSE") -> str:
    """Put bounds around a text that it cannot close, since it cannot know their id.

    The id is an HMAC of the text itself: the same text has the same fence in every call of a run,
    so prefix caches, the reply cache and de-duplication go on working.

    Args:
        text: Cleaned text; it stands in the result unchanged.
        secret: The run's secret. Whoever knows it can forge a fence.
        label: Upper-case name that says what the text is.

    Raises:
        ValueError: The secret is empty, or the label is not upper case.
    """
    if not secret:
        raise ValueError("the fence needs a secret, else its id can be computed by the policy")
    if not _LABEL.fullmatch(label):
        raise ValueError(f"a fence label is upper-case letters and underscores, not {label!r}")
    return (_fenced if len(text) <= _REMEMBERED else _fenced.__wrapped__)(text, secret, label)


@lru_cache(maxsize=64)  # the prompt of a group stands in the question of each of its completions
def _fenced(text: str, secret: bytes, label: str) -> str:
    keyed = label + text
    counter = 0
    while True:
        drawn = hmac.digest(secret, keyed.encode("utf-8", "surrogatepass"), "sha256").hex()[:16]
        if drawn not in text:
            return f'<{label} id="{drawn}">\n{text}\n</{label} id="{drawn}">'
        counter += 1
        keyed = f"{label}{text}#{counter}"


def find_fences(prompt: str, label: str = "RESPONSE") -> list[str]:
    """The bodies of all fences with this label, in order."""
    return [match[3] for match in FENCE.finditer(prompt) if match[1] == label]


# --- rules before any call ---------------------------------------------------------------------

_BLANK = re.compile(f"[\\s\u2800{_INVISIBLE}]*")

# Openers that make judges score full marks with nothing behind them ("One Token to Fool
# LLM-as-a-Judge", arXiv 2507.08794), and their like in other languages. Written as `_squeeze`
# leaves them: case-folded, letters and digits only.
_OPENERS = """
    thoughtprocess letssolvethisproblemstepbystep letssolvethisstepbystep letsthinkstepbystep
    letssolvetheproblemstepbystep letusthinkstepbystep letussolvethisproblemstepbystep
    stepbystep solution solutions thesolution thesolutionis heresthesolution hereisthesolution
    solutionprocess answer theanswer theansweris myanswer myansweris finalanswer thefinalanswer
    thefinalansweris reasoning myreasoning explanation thinking thoughts analysis conclusion
    response sure certainly ofcourse firstletsunderstandtheproblem toanswerthisquestion
    letmethinkstepbystep
    解 解答 解説 解析 解決 解决方案 かいせつ 答 答え 答案 回答 思考过程 解題 答案是
    让我们一步一步地思考 让我们逐步解决这个问题
    풀이 해설 정답 답변 해결책
    respuesta lasolución solución larespuesta respuestafinal vamosaresolveresteproblemapasoapaso
    réponse laréponse solutionfinale résolvonsceproblèmeétapeparétape
    lösung dielösung antwort dieantwort lösenwirdiesesproblemschrittfürschritt
    resposta solução risposta soluzione oplossing antwoord çözüm cevap rozwiązanie odpowiedź
    решение ответ рассуждение давайтерешимэтузадачушагзашагом الحل الإجابة الجواب समाधान उत्तर
"""
_MASTER_KEYS = frozenset(_OPENERS.split())
_KEY_LENGTHS = tuple(sorted({len(key) for key in _MASTER_KEYS}))
_LONGEST_OPENER = 240  # characters; a longer text is more than a string of openers
_WIDE = re.compile(
    "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f]"
)


def looks_empty(text: str) -> bool:
    """Whether a reader would see nothing: blanks and invisible characters only."""
    return _BLANK.fullmatch(text) is not None


def count_words(text: str) -> int:
    """Words between blanks; each character of a script without blanks counts as a word."""
    if text.isascii():
        return len(text.split())
    wide = len(_WIDE.findall(text))
    return wide + len(_WIDE.sub(" ", text).split())


def precheck(text: str, min_words: int) -> str | None:
    """The rule that decides a response before a model is asked, if one does.

    Args:
        text: The response, cleaned or not.
        min_words: The task's minimum; 0 or 1 lets a bare `5` or `B` pass.

    Returns:
        `empty`, `punctuation_only`, `master_key` or `too_short`; None where no rule fires.
    """
    if looks_empty(text):
        return "empty"
    if not any(_says_something(char) for char in text):
        return "punctuation_only"
    if len(text) <= _LONGEST_OPENER and _only_openers(_squeeze(text)):
        return "master_key"
    # The opening of a long text already has words enough.
    if count_words(text[: 16 * min_words]) < min_words and count_words(text) < min_words:
        return "too_short"
    return None


def _says_something(char: str) -> bool:
    # "∞" and "∅" are answers; "+" and "=" alone are not.
    return char.isalnum() or (char > "\x7f" and unicodedata.category(char) == "Sm")


def _squeeze(text: str) -> str:
    folded = unicodedata.normalize("NFKC", clean(text).text).casefold()
    return "".join(char for char in folded if char.isalnum() or unicodedata.combining(char))


def _only_openers(squeezed: str) -> bool:
    """Whether the text is master keys, one behind the other: all ends that keys can reach."""
    reached = {0}
    for start in range(len(squeezed)):
        if start in reached:
            ends = (start + length for length in _KEY_LENGTHS)
            reached.update(end for end in ends if squeezed[start:end] in _MASTER_KEYS)
    return len(squeezed) > 0 and len(squeezed) in reached


# --- phrases that are flagged, and stay -------------------------------------------------------

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
_MUST = r"(?:must|should|has to|have to|shall)"

# Kind; characters of which one must occur in the text (none: no condition); strings of which one
# must; and near it any of these, one to a line. Lower case.
_PHRASES: tuple[tuple[str, str, str, str], ...] = (
    (
        "ignore_instructions",
        "",
        "ignor|disregard|forget|overrid|overrul|bypass|do not follow"
        "|忽略|无视|無視|игнорир|تجاهل|무시",
        rf"""\b(?:ignore|disregard|forget|overrid|overrul|bypass|do not follow)\w*\s.{{,40}}?{_RULE}
        (?:忽略|无视).{{0,12}}(?:指令|说明|评分|提示|标准|要求)|無視して|지시.{{0,10}}무시
        ignora\w*\s.{{0,30}}?(?:instruc|istruzion|rúbrica|criteri)|تجاهل.{{0,20}}تعليمات
        ignorez\s.{{0,30}}?(?:instruction|consigne|crit)|ignorier\w*\s.{{0,30}}?(?:anweisung|kriteri)
        игнорир\w*\s.{{0,30}}?(?:инструкц|критери|указан)""",
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

    A flag is a reason to look, not a verdict: an essay about examiners, a chat log or a template
    in code raises flags too. The caller's policy decides (observe, penalize, refuse).

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
        if guard and not any(char in lowered for char in guard):
            continue
        near = []
        for hint, root in hints:
            if root not in present:
                present[root] = root in lowered
            if present[root]:
                near.append(hint)
        if near:
            for start, end in _near(lowered, near):
                found = sum(1 for _ in pattern.finditer(lowered, start, end))
                if found:
                    flags[flag] = flags.get(flag, 0) + found
    return flags


@cache
def _phrase_patterns() -> tuple[tuple[str, str, tuple[tuple[str, str], ...], re.Pattern[str]], ...]:
    """By kind: its guard, its hints with their roots, and what is looked for.

    A hint's root is the shortest hint inside it (`rubric` in `# rubric`): where that does not
    occur, half a dozen others need not be looked for.
    """
    # Compiled at first use: it takes 20 ms, which `mpo --help` does not have.
    single = set("{[</(#>")  # found, or not, in no time
    every = {hint for _, _, hints, _ in _PHRASES for hint in hints.split("|")} | single
    by_length = sorted(every, key=lambda hint: (len(hint), hint))
    root = {hint: next(short for short in by_length if short in hint) for hint in by_length}
    return tuple(
        (
            flag,
            guard,
            tuple((hint, root[hint]) for hint in hints.split("|")),
            re.compile(re.sub(r"\n\s*", "|", patterns), re.MULTILINE),
        )
        for flag, guard, hints, patterns in _PHRASES
    )


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
