"""Fields of a request that an endpoint refuses, in its own words.

Every server words a refusal its own way: in `error.param`, in `detail[].loc`, as a key of the
error, or in the message, which may be JSON or text. The field is one that was sent, so its name is
looked for, with the names that other interfaces give it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["refused_fields"]

_OTHER_NAMES = {
    "max_tokens": ("max_completion_tokens", "max_output_tokens", "max_new_tokens"),
    "max_completion_tokens": ("max_tokens", "max_output_tokens", "max_new_tokens"),
    "response_format": (
        *("json_schema", "json_object", "json_mode", "response_schema", "response_mime_type"),
        *("structured_output", "structured_outputs", "guided_json", "guided_decoding"),
    ),
    "seed": ("random_seed",),
}

_TOO_LONG = re.compile(
    r"context.?(?:length|window|size)|too (?:long|large|big|many)"
    r"|(?:at most|exceed|maximum).{0,40}(?:tokens|length|limit)",
    re.IGNORECASE,
)
"""A refusal because of the length of the prompt or the answer, which often names `max_tokens`."""

_PLACES = frozenset(
    "param parameter parameters params field fields loc path property pointer".split()
)
"""Keys whose value is the place of the fault."""
_ECHOED = frozenset("input body request messages url".split())
"""Keys under which servers repeat the request."""
_NEVER = ("messages", "model")
"""Fields without which there is no call."""
_WORDS = frozenset("stop user store model messages stream tools".split())
"""Fields that are also words of a sentence: in a message they count only in quotation marks, or
after a word such as `parameter`."""
_QUOTES = ("'", '"', "`")
_INTRODUCED = re.compile(
    r"\b(?:param|parameter|field|argument|property|option|key)s?(?: supplied)?:?\s+$", re.IGNORECASE
)
"""Beginning of `unknown field seed`."""
_ASCII = re.IGNORECASE | re.ASCII  # names stand in Chinese sentences, too
_LONGEST = 4000
"""Characters of a text that are searched."""


def refused_fields(error: Any, sent: Collection[str], model: str = "") -> list[str]:
    """Fields of the request that an error names, the likeliest first.

    Args:
        error: Decoded body of the reply, or its text.
        sent: Names of the fields that were sent.
        model: The model's name, which may contain that of a field.

    Returns:
        Names of `sent`. Empty if none is named, or if the request was too long.
    """
    places: list[str] = []
    texts: list[str] = []
    keys: list[str] = []
    for kind, text in _parts(error, 0):
        {"place": places, "text": texts, "key": keys}[kind].append(text)
    message = "\n".join(text[:_LONGEST] for text in texts)
    if model:
        message = re.sub(rf"(?<!\w){re.escape(model)}(?!\w)", "", message)
    if _TOO_LONG.search(message):
        return []
    spellings = [(other, field) for field in sent for other in _OTHER_NAMES.get(field, ())]
    spellings += [(field, field) for field in sent]  # last: its own name wins
    names = {_plain(spelling): field for spelling, field in spellings}
    found = [
        next((names[_plain(step)] for step in steps if _plain(step) in names), None)
        for steps in (re.findall(r"\w+", place) for place in places)
    ]
    found += _in_text(message, spellings)
    found += [names.get(_plain(key)) for key in keys]
    ordered = list(dict.fromkeys(field for field in found if field is not None))
    return [] if ordered and ordered[0] in _NEVER else [f for f in ordered if f not in _NEVER]


def _parts(value: Any, depth: int) -> Iterator[tuple[str, str]]:
    """The places, texts and other keys of an error."""
    if depth > 6:
        return
    if isinstance(value, str):
        yield "text", value
    elif isinstance(value, list):
        for part in value[:20]:
            yield from _parts(part, depth + 1)
    elif isinstance(value, Mapping):
        for key, part in list(value.items())[:40]:
            if key in _PLACES:
                steps = part if isinstance(part, list) else [part]
                yield "place", " ".join(step for step in steps if isinstance(step, str))
            elif key not in _ECHOED:
                yield "key", str(key)
                yield from _parts(part, depth + 1)


def _in_text(message: str, spellings: Sequence[tuple[str, str]]) -> list[str]:
    """Fields in a message: those that it marks as names, then the others, each in order."""
    marked: list[tuple[int, str]] = []
    bare: list[tuple[int, str]] = []
    for spelling, field in spellings:
        pattern = r"[\s_-]?".join(map(re.escape, spelling.split("_")))
        for found in re.finditer(rf"(?<![\w-]){pattern}(?![\w-])", message, _ASCII):
            before, after = message[: found.start()][-24:], message[found.end() :][:1]
            quoted = before.endswith(_QUOTES) and after in _QUOTES
            if quoted or after == "=" or _INTRODUCED.search(before):
                marked.append((found.start(), field))
            elif len(spelling) > 3 and field not in _WORDS:
                bare.append((found.start(), field))
    return [field for _, field in sorted(marked) + sorted(bare)]


def _plain(name: str) -> str:
    """A name without the marks in which spellings differ: `maxTokens`, `max-tokens`."""
    return re.sub(r"[\W_]", "", name).lower()
