"""Text that a policy or a model wrote, made fit to stand inside a prompt.

    cleaned = clean(text)                           # nothing invisible, no control strings left
    more = ControlStrings(control_strings_of(tokenizer))    # clean(text, more) knows these as well
    rule = precheck(cleaned.text, min_words=20)     # "empty", "master_key", …: no model is asked
    block = fence(cleaned.text, secret=run_secret)  # bounds that the text cannot close

`clean` removes what a reader of the text cannot see, and swaps the brackets of chat-template
control strings for look-alike glyphs (serving stacks do turn `<|im_end|>` in user text into the
real control token). Text that merely looks suspicious is left alone: bare `User:` lines, code,
HTML, LaTeX and requests to the grader are data, and the fence keeps them data. They are counted in
`mpo.judge.injection_flags`.

Every pattern stands behind a substring test, because most texts hold nothing of what is looked
for; the same patterns unguarded cost milliseconds for a response.
"""

from __future__ import annotations

import hmac
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "FENCE",
    "Cleaned",
    "ControlStrings",
    "clean",
    "control_strings_of",
    "count_words",
    "fence",
    "find_fences",
    "looks_empty",
    "precheck",
]


@dataclass(frozen=True)
class Cleaned:
    """A text after `clean`, with counts of what was removed or replaced."""

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
    "s|bos|eos|pad|unk|sop|eop|cls|sep|eod|eot|eom|boi|eoi|eoh|eoa|CLS|SEP|PAD|UNK|MASK|EOT|"
    r"[A-Z]{2,8}_TOKEN|MID|SUF|FILL_ME|AI|用户|role|global-img|row_\d+_col_\d+|"
    # Gemma (`<start_of_turn>`), SmolVLM (`<end_of_utterance>`) and their like
    r"(?:start|end|begin)[_-]of[_-]\w+|(?:image|audio)_soft_token|fake_token_around_image|"
    # code models: fill in the middle, and parts of a repository
    r"fim_\w+|repo_?name|file_sep|gh_stars|(?:issue|commit|jupyter)_\w+|empty_output|"
    "think|thinking|tool_call|tool_calls|tool_response|tool_result|tools|tool|function_calls|"
    "function_call|function_results|arg_key|arg_value|seed:[a-z_]+|"
    r"minimax:[a-z_]+|"
    r"unused\d+|extra_id_\d+|reserved_\d+|SPECIAL_\d+|TOKENS_UNUSED_\d+"
)
_SQUARE_WORDS = (
    "INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|MODEL_SETTINGS|"
    r"BEGIN_TOOL_RESULTS|ARGS|CALL_ID|THINK|IMG|IMG_BREAK|IMG_END|AUDIO|BEGIN_AUDIO|TRANSCRIBE|"
    r"PREFIX|MIDDLE|SUFFIX|gMASK|sMASK|dMASK|eop|UNUSED_TOKEN_\d+|"
    r"SEP|CLS|PAD|MASK|UNK|BOS|EOS|EOT|@[A-Z]+@"  # BERT and its like; Gemma
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
    ("｜", ("DSML",), re.compile(r"</?｜DSML｜[^<>‹›⁅⁆\n]{0,200}>?")),  # DeepSeek's tool calls
    ("|", ("[|",), re.compile(r"\[\|[^\s|\[\]⁅⁆]{1,60}\|\]")),  # EXAONE
    (
        ">",
        (">>",),
        re.compile(
            r">>(?:TITLE|ABSTRACT|INTRODUCTION|SUMMARY|COMMENT|ANSWER|QUESTION|DOMAIN"
            r"|PREFIX|SUFFIX|MIDDLE)<<"
        ),
    ),  # Falcon
    ("<", ("SYS>>",), re.compile(r"<<\s?/?SYS>>")),
    ("<", ("<",), re.compile(rf"</?(?:{_ANGLE_WORDS})>|<(?:image|mask)>")),
    ("[", ("[",), re.compile(rf"\[/?(?:{_SQUARE_WORDS})\]")),
    ("]", ("]~",), re.compile(r"\]~!?b[\]\[]")),  # MiniMax
    ("[", ("[e~[",), re.compile(r"\[e~\[")),
)
# These glyphs survive NFKC, which some tokenizers apply; full-width brackets would not.
_LOOKALIKE = str.maketrans("<＜﹤>＞﹥[［﹇]］﹈", "‹‹‹›››⁅⁅⁅⁆⁆⁆")

# What NFKC turns into ASCII: brackets, and the other characters of a control string.
_BRACKET_FORMS = "＜＞﹤﹥［］﹇﹈"
_OTHER_FORM = re.compile(
    "[\u00aa-\u00be\u0132-\u0133\u017f\u02b0-\u02b8\u02e1-\u02e3\u1d2c-\u1da0\u2048-\u217f"
    "\u2460-\u24ea\u3250-\u33ff\ufb00-\ufb06\ufe33-\ufe6b\uff01-\uff5e\U0001d400-\U0001d7ff"
    "\U0001f100-\U0001f190\U0001fbf0-\U0001fbf9]"
)


def _soften(match: re.Match[str]) -> str:
    return _softened(match[0])


def _softened(token: str) -> str:
    """The control string with look-alike brackets; one that has none, with a dot inside."""
    soft = token.translate(_LOOKALIKE)
    return soft if soft != token else f"{token[0]}·{token[1:]}"


class ControlStrings:
    """Control strings beyond those that `clean` knows: what a tokenizer calls special.

    Blanks, single characters and words of letters alone are no control strings here, whatever a
    tokenizer calls them: honest texts are full of them.

    Args:
        strings: The strings, as the tokenizer writes them.
    """

    def __init__(self, strings: Iterable[str] = ()) -> None:
        self.strings: tuple[str, ...] = ()
        self.pattern: re.Pattern[str] | None = None
        """Matches every string; None where there are none."""
        self.add(strings)

    def add(self, strings: Iterable[str]) -> None:
        """Know more of them. In any order, and twice, is the same as once."""
        named = {string.strip("▁Ġ \t\r\n") for string in strings}
        known = {s for s in named if len(s) > 2 and not s.isalnum() and clean(s).text == s}
        # Longest first: of two that begin alike the whole one is found.
        self.strings = tuple(sorted({*self.strings, *known}, key=lambda s: (-len(s), s)))
        if self.strings:
            self.pattern = re.compile("|".join(map(re.escape, self.strings)))


def control_strings_of(tokenizer: Any) -> list[str]:
    """The strings that a Hugging Face tokenizer turns into one special token, sorted.

    Those that it was given as special, and those that it was given in brackets (`<think>`). Of a
    processor its tokenizer's; none where there is no tokenizer.
    """
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    strings = set(map(str, getattr(tokenizer, "all_special_tokens", ())))
    for token in getattr(tokenizer, "added_tokens_decoder", {}).values():
        text = str(getattr(token, "content", token))
        if getattr(token, "special", False) or _BRACKETED.fullmatch(text):
            strings.add(text)
    return sorted(strings)


_BRACKETED = re.compile(r"[<\[|｜].*[>\]|｜]", re.DOTALL)


# --- the fence ---------------------------------------------------------------------------------

FENCE = re.compile(r'<([A-Z][A-Z_]*) id="([0-9a-f]{16})">\n(.*?)\n</\1 id="\2">', re.DOTALL)
"""One fenced block: label, id, body."""

_LABEL = re.compile(r"[A-Z][A-Z_]*")
# A forged fence has the wrong id, but a weak reader may not compare ids.
_FENCE_TAG = re.compile(r'</?[A-Z][A-Z_]* id="?[0-9a-f]{16}"?>|</?RESPONSE\b[^<>‹›⁅⁆\n]{0,60}>')


def clean(text: str, more: ControlStrings | None = None) -> Cleaned:
    """The text in NFC, without invisible characters and without control strings.

    Takes any string, lone surrogates included. Cleaning a second time changes nothing.

    Args:
        text: Any text.
        more: Control strings to look for besides the usual ones.
    """
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
    own = more.pattern if more is not None else None
    if own is not None:
        text = _count(flags, "template_token", *own.subn(_soften, text))
    if not text.isascii() and _has_forms(text):
        text = _soften_forms(text, flags, own)
    return Cleaned(text, flags)


def _has_forms(text: str) -> bool:
    """True if NFKC may make a control string of the text: its brackets or its letters are written
    in other forms (full-width, mathematical)."""
    if any(map(text.__contains__, _BRACKET_FORMS)):
        return True
    return ("<" in text or "[" in text) and _OTHER_FORM.search(text) is not None


def _soften_forms(text: str, flags: dict[str, int], own: re.Pattern[str] | None) -> str:
    """The text without strings that NFKC turns into control strings."""
    kinds = [("template_token", pattern) for _, _, pattern in _TEMPLATE_TOKENS]
    kinds += [("fence_tag", _FENCE_TAG), *([("template_token", own)] if own is not None else [])]
    plain, origin = _folded(text)
    for flag, pattern in kinds:
        spans = [match.span() for match in pattern.finditer(plain)]
        if not spans:
            continue
        pieces, end = [], 0
        for first, last in spans:
            start, stop = origin[first], origin[last - 1] + 1
            pieces += [text[end:start], _softened(text[start:stop])]
            end = stop
        text = _count(flags, flag, "".join([*pieces, text[end:]]), len(spans))
        plain, origin = _folded(text)
    return text


def _folded(text: str) -> tuple[str, list[int]]:
    """Each character's NFKC form, joined, and the place in the text of each character of it."""
    forms = [c if c <= "\x7f" else unicodedata.normalize("NFKC", c) for c in text]
    return "".join(forms), [place for place, form in enumerate(forms) for _ in form]


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


def _count(flags: dict[str, int], flag: str, text: str, count: int) -> str:
    if count:
        flags[flag] = flags.get(flag, 0) + count
    return text


def fence(text: str, *, secret: bytes, label: str = "RESPONSE") -> str:
    """Put bounds around a text that it cannot close, since it cannot know their id.

    The id is an HMAC of the text itself: the same text has the same fence in every call of a run,
    so prefix caches, the reply cache and de-duplication go on working.

    Args:
        text: Cleaned text; it stands in the result unchanged.
        secret: The run's secret. Who knows it can forge a fence.
        label: Upper-case name that says what the text is.

    Raises:
        ValueError: The secret is empty, or the label is not upper case.
    """
    if not secret:
        raise ValueError("the fence needs a secret, else its id can be computed by the policy")
    if not _LABEL.fullmatch(label):
        raise ValueError(f"a fence label is upper-case letters and underscores, not {label!r}")
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
# LLM-as-a-Judge", arXiv 2507.08794), and the same in other languages. Written as `_squeeze`
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
    """True where a reader would see nothing: blanks and invisible characters only."""
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
        text: The response, cleaned.
        min_words: The task's minimum; 0 or 1 lets a bare `5` or `B` pass.

    Returns:
        `empty`, `punctuation_only`, `master_key` or `too_short`; None where no rule fires.
    """
    if looks_empty(text):
        return "empty"
    if not any(map(_says_something, text)):
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
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char for char in folded if char.isalnum() or unicodedata.combining(char))


def _only_openers(squeezed: str) -> bool:
    """True for master keys, one behind the other: follows all ends that keys can reach."""
    reached = {0}
    for start in range(len(squeezed)):
        if start in reached:
            ends = (start + length for length in _KEY_LENGTHS)
            reached.update(end for end in ends if squeezed[start:end] in _MASTER_KEYS)
    return len(squeezed) > 0 and len(squeezed) in reached
