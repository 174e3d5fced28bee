"""Whether a text starts or breaks off in mid-sentence, by rules of spelling alone.

A missing full stop proves nothing: levels and criteria are often fragments. What proves it is a
word that cannot be the last one ("and", "the", "lack of"), a bracket, quote or code span that is
never closed, a cut word, or a text that starts with the second half of a sentence.

Stranded prepositions are good English ("nothing to speak of", "not asked for"), so a preposition
counts only behind a word that is no verb. The word lists are chosen by language, since "an", "on"
and "of" end German, French and Dutch sentences.
"""

from __future__ import annotations

import re

__all__ = ["cut_word", "ends_amid", "finished", "language", "starts_amid"]

_STOP_WORDS = {
    "en": "the and of is to a in that it for with are be this not or an as by on",
    "de": "der die das und ist nicht ein eine zu den mit von des dem im für auf sich wird sind",
    "fr": "le la les et est une des du pas qui que pour dans sur au avec par sont ce un",
    "es": "el la los las y es una del que para con no se por en un su al como",
    "it": "il lo la gli e è una di che per con non si in un del della sono nel",
    "pt": "o a os as e é uma do da que para com não se em um por no na dos",
    "nl": "de het een en is van dat niet te met voor op zijn er aan bij als",
}
_LANGUAGES = {name: frozenset(words.split()) for name, words in _STOP_WORDS.items()}

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


def language(text: str) -> str:
    """Two letters, by a vote of small words; `en` for a text that has none of any language."""
    words = [word.lower() for word in _WORD.findall(text)]
    votes = {name: sum(word in stop for word in words) for name, stop in _LANGUAGES.items()}
    best = max(votes, key=lambda name: (votes[name], name == "en"))
    if votes[best] == 0:
        return "en" if text.isascii() else "other"
    return best


# --- the end ---------------------------------------------------------------------------------

# Words after which a clause must go on.
_DANGLING = {
    "en": (
        "and or nor but the a an than because although unless whereas whose its their our your my "
        "every very e.g i.e including regarding concerning containing providing demonstrating "
        "besides despite during via versus lest albeit and/or per"
    ),
    "de": "und oder aber der das ein eine einen einem einer dass weil sowie sondern obwohl",
    "fr": "et ou le la les un une des du de que qui dont avec pour mais car ainsi",
    "es": "y o el la los las un una del de que con para pero porque sin",
    "it": "e o il lo la gli le un una di che con per ma perché del della",
    "pt": "e ou o os as um uma de do da que com para mas porque",
    "nl": "en of maar de het een omdat dat met",
}
_DANGLES = {name: frozenset(words.split()) for name, words in _DANGLING.items()}

_PREPOSITIONS = frozenset(
    "of to in on for with by from at into about between against toward towards among upon "
    "onto within without as".split()
)
# Verbs behind which a preposition may end a clause ("what it refers to"), beside all in -ed.
_STRANDING = frozenset(
    (
        "speak speaks argue argues build builds built agree agrees focus focuses rely relies "
        "depend depends draw draws drawn refer refers relate relates respond responds reply "
        "adhere adheres keep keeps kept stick stuck deal deals dealt ask asks call calls account "
        "write writes written read talk talks think thinks thought look looks hear heard come "
        "comes go goes gone set stand stands live lives work works hope wait aim aims start "
        "begin end belong belongs lead leads led object point points act fit fits go hold holds "
        "held bring brings brought take takes taken put get gets got make makes made know known "
        "spoken told be is are was were been up down out way place something nothing anything "
        "someone anyone unheard aware sure capable short fond proud worth enough hoping "
        "so then later early further all and or hold built stay stays do does did move moves carry "
        "reckon reckoned sort kind rest go along away back through it them him her this these "
        "those that what where"
    ).split()
)
_OBLIGES = frozenset("has have had need needs want wants ought able meant supposed".split())
# Words that open a clause, and the words before them after which one must come.
_OPENS_CLAUSE = {
    "that": frozenset(
        "so such argues claims states shows suggests indicates ensures ensuring stating".split()
    ),
    "if": frozenset(),
    "when": frozenset(),
}
_ASKING = frozenset(
    "what and or where who how why since say says know knows explain explains tell just".split()
)
_AUXILIARIES = frozenset("can could may might should would will must shall".split())
_COPULAS = frozenset("is are was were be been being has have had".split())
# A clause that turns its object to the front may end in its verb ("what the essay lacks").
_FRONTED = re.compile(r"\b(?:what|where|who|whom|which|how|why|that|than|as|all|everything)\b")
_TRANSITIVE = frozenset(
    (
        "lacks provides includes presents contains addresses demonstrates uses makes gives "
        "requires shows offers supports displays exhibits uses develops introduces establishes "
        "summarizes summarises maintains mentions ensures"
    ).split()
)
_SUBJECT = re.compile(
    r"\b(?:essay|response|text|summary|answer|argument|writing|student|writer|author|conclusion"
    r"|introduction|story|solution|thesis|sample|paper|it|also|but|and|not)$"
)
_ARTICLE_ADJECTIVE = re.compile(
    r"\b(?:a|an|the|its|their|no|any|some|with|more|less|mostly|somewhat|very|and)\s+"
    r"(?:(?:somewhat|mostly|very|more|highly|completely|fairly|generally|well)[\s-]+)?"
    r"(?:clear|strong|weak|main|specific|relevant|logical|significant|minor|major|substantial"
    r"|vague|basic|detailed|effective|overall|thorough|unclear|irrelevant|well-structured"
    r"|well-organized|well-developed|compelling|persuasive|nuanced|same|entire|various|several"
    r"|different|certain|central|minimal|necessary|unrelated|provided|given|following|required)$"
)
_LY_ADJECTIVES = frozenset(
    "friendly likely unlikely timely untimely orderly disorderly scholarly costly lively lovely "
    "early only daily weekly holy ugly silly deadly lonely motherly unfriendly wooly bubbly".split()
)
# English words of two letters; any other at the end is the start of a longer word.
_SHORT_WORDS = frozenset(
    "ad am an as at be by do ex go he hi if in is it ma me mi my no of oh ok on or ox pi re "
    "so to up us vs we ai ml id ie eg ii iv vi ix mm cm km kg mg ml pt px tv uk un eu pm".split()
)
_CLOSERS = "\"'”’»)]}*_`"
_STOPS = ".!?…。！？؟।"
_BARE_BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])?\s*(?:\*\*)?-?\d{0,3}(?:\*\*)?:?\s*$")


def _last_line(text: str) -> str:
    lines = [line for line in text.split("\n") if line.strip()]
    return lines[-1] if lines else ""


def finished(text: str) -> bool:
    """Whether the text ends with the mark of a finished sentence."""
    return text.rstrip().rstrip(_CLOSERS).endswith(tuple(_STOPS)) or bool(
        re.search(rf"[{re.escape(_STOPS)}]['\"”’»)\]*_`]*$", text.rstrip())
    )


def ends_amid(text: str, lang: str = "en") -> str | None:
    """Why the text breaks off in mid-sentence; None where nothing proves that it does."""
    line = _last_line(text).rstrip()
    if not line:
        return None
    if re.search(r"</?\w{0,12}$", line) and not re.search(r"<\s$", line):
        return "it ends inside a tag"
    if text.count("```") % 2:
        return "a code block is never closed"
    reason = _open_pair(line)
    if reason:
        return reason
    bare = line.replace("**", "").rstrip()
    if bare.endswith((",", "(", "[", "{", "/", "&", "–", "—", "=")) or re.search(r"[\w\s]-$", bare):
        return f"it ends with {bare[-1]!r}"
    if bare[-1] in "\"'”’»)]`":
        return None  # what was opened is closed: a whole quote, bracket or code span
    return _dangling(bare, lang)


def _open_pair(line: str) -> str | None:
    """A bracket, quote or code span of the last line that is not closed."""
    for left, right in ("()", "[]", "“”", "«»", "„“"):
        # „German“ quotes close with the sign that opens English ones.
        closers = line.count(right) + (line.count("”") if left == "„" else 0)
        if left == "“" and "„" in line:
            continue
        if line.count(left) > closers and line.rfind(left) > line.rfind(right):
            return f"{left!r} is never closed"
    if line.count("`") % 2:
        return "a code span is never closed"
    if line.count("**") % 2:
        return "'**' is never closed"
    # 5'10" and 12" are measures, not quotes.
    if len(re.findall(r"(?<!\d)\"", line)) % 2 and not finished(line):
        return "a quote is never closed"
    return None


def _dangling(bare: str, lang: str) -> str | None:
    """The last word, where it cannot be the last one of a sentence."""
    abbreviation = re.search(r"(?:^|[\s(,;])(e\.g|i\.e)\.?,?$", bare.lower())
    if abbreviation:
        return f"it ends with {abbreviation[1] + '.'!r}"
    if finished(bare) and not bare.endswith(("…", "...")):
        return None
    # "and …" breaks off as "and" does, and "and so on …" does not.
    body = bare.rstrip("…. ").lower()
    words = re.findall(r"[^\W\d_]+(?:[./'’-][^\W\d_]+)*", body)
    if not words or not body.endswith(words[-1]):
        return None
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if len(words) == 1 and len(last) <= 2:
        return None  # a mark such as "A" or "no" that stands for a level
    if (
        lang == "en"
        and len(last) == 2
        and last not in _SHORT_WORDS
        and (
            # A formula has names of its own.
            bare.endswith(f" {last}") and not re.search(r"[\\=+^]", bare)
        )
    ):
        return f"it ends with {last!r}, which is no word"
    if last in _DANGLES.get(lang, frozenset()):
        return f"it ends with {last!r}"
    if lang == "en" and _dangling_english(words, last, before):
        return f"it ends with {' '.join(words[-2:])!r}"
    return None


def _dangling_english(words: list[str], last: str, before: str) -> bool:
    clause = " ".join(words[-14:-1])
    if last in ("which", "whom"):
        return before in _PREPOSITIONS
    if last in _OPENS_CLAUSE:
        return before in _OPENS_CLAUSE[last] or (last != "that" and before not in _ASKING)
    if last == "to" and before in _OBLIGES and _FRONTED.search(clause):
        return False  # "what it has to"
    if last in _PREPOSITIONS:
        # "examples to", "a lack of"; but "not adhered to", "the point it argues for"
        return bool(before) and not (before in _STRANDING or before.endswith(("ed", "ing")))
    if last == "not":
        return before not in ("or", "if", "why", "whether", "certainly", "perhaps", "")
    if last in _AUXILIARIES:
        return not _FRONTED.search(clause)
    if last in _COPULAS:
        return bool(before) and not _FRONTED.search(clause) and len(words) > 2
    if before in _COPULAS and last.endswith("ly"):
        return last not in _LY_ADJECTIVES  # "the text is poorly"
    if last in _TRANSITIVE:
        return bool(_SUBJECT.search(clause)) and not _FRONTED.search(clause)
    return bool(_ARTICLE_ADJECTIVE.search(" ".join(words))) and len(words) > 2


_ENDINGS = re.compile(
    r"(?:e?s|e?d|ing|ings|ly|e?r|ers|y|al|ally|n|ness|ments?|'s|’s|ations?|ions?|ity|ities|able|ive"
    r"|ively|ful|fully|less|ic|ical|ically|en|e|es|st|est|or|ors|ance|ence|ous|ously|ist|ists|ism"
    r"|ism|ship|th|hood|ized?|ised?|ize|ise|ization|ability|ibility|ier|iest|ies|ied)$"
)


def cut_word(last: str, others: list[str]) -> str | None:
    """The word that `last` is the first part of, if it is no word that the text uses elsewhere.

    `comple` where the text says `completely` is cut; `structure` beside `structured` is not.
    """
    word = last.lower()
    if len(word) < 2 or word in others:
        return None
    longer = [o for o in others if o.startswith(word) and len(o) - len(word) >= 2]
    if not longer or any(_ENDINGS.fullmatch(o[len(word) :]) for o in longer):
        return None
    return longer[0] if len(word) >= 4 or len(longer) >= 2 else None


# --- the start -------------------------------------------------------------------------------

_PREAMBLE = re.compile(
    r"(?:here|below|sure|certainly|okay|ok|the following|this|these|note|please|rubric)\b",
    re.IGNORECASE,
)
# A clause cannot start with these; "in", "on", "for", "to" and "with" may ("to what extent").
_CONTINUES = re.compile(
    r"(?:and|or|nor|but|than|of|which|whose|because|whereas|although|that (?:is|are|was|the)"
    r"|is|are|was|were|be|been|has|have|had)\s",
)
_MAY_CONTINUE = re.compile(
    r"(?:on|in|at|by|with|without|from|into|for|to|as|about|against|between|through|it|them|its"
    r"|their|not|does|do|will|would|should|can|could|may|also|while|when|if)\s",
)
_ASKS = re.compile(
    r"(?:to what|in what|in how|on what|by how|by what|with what|from what|for what|to which|how"
    r"|whether|what|does|do|is|are|has|have|can|should|as a|for each|for every|at least|at most"
    r"|in the|on the|to be|in other|if|when|without (?:any|no))\b",
)


def starts_amid(text: str, *, bare: bool, upper: bool, lang: str = "en") -> bool:
    """Whether the text begins with the second part of a sentence.

    Args:
        text: The block, without its markup.
        bare: It stands outside every item and heading: no name, no label, so it has to be prose.
        upper: The other blocks of the rubric start with capitals.
        lang: Of `language`.
    """
    block = text.lstrip().lstrip("*_#>-•`\"'“").lstrip()
    if not block:
        return False
    if block[0] in ",;)]}?!%" or (block[0] in ".:" and not block.startswith((".…", "..."))):
        return True
    first = block.split()[0]
    if not first[0].islower() or re.search(r"[A-Z\d_=/\\({<]", first):
        return False  # "iPhone", "x=1", "f(x)" and every script without cases
    if re.match(r"[a-z]\s*[.)]\s", block) or re.match(r"[\w' -]{1,40}:\s", block):
        return False  # "a) …", "clarity: …"
    if bare:
        return upper and not _PREAMBLE.match(block)
    if lang != "en":
        return False
    asks = "?" in block.split("\n")[0] or bool(_ASKS.match(block))
    if _CONTINUES.match(block):
        return not asks
    return upper and bool(_MAY_CONTINUE.match(block)) and not asks
