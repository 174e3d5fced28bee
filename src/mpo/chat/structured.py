"""Ways to request an answer of a given shape, from the strictest to the one that always works.

    json_schema          response_format json_schema: OpenAI, vLLM, SGLang, most hosts
    json_object_schema   json_object with the schema beside it: llama-cpp-python, Together
    json_object          any JSON object; only the prompt gives the shape: DeepSeek, GLM, ...
    lines                one `name: value` line per field, as the prompt says; converted to JSON

The answer is JSON in every case. The caller still checks it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .base import Message, Schema, schema_json
from .thinking import split_thinking

__all__ = [
    "OUTPUTS",
    "StructuredOutput",
    "ask_in_lines",
    "conforms",
    "is_object",
    "read_answer",
    "read_lines",
    "response_format",
    "unwrap",
]

StructuredOutput = Literal["json_schema", "json_object_schema", "json_object", "lines"]
"""Ways to request a shape, strictest first."""

OUTPUTS: tuple[StructuredOutput, ...] = get_args(StructuredOutput)

_NO_NAME = re.compile(r"[^A-Za-z0-9_-]+")
_BLOCK = re.compile(
    r"[\s\ufeff]*(`{3,}|~{3,})[ \t]*(?:json[c5l]?\b)?(?P<content>.*?)\1\s*",
    re.DOTALL | re.IGNORECASE,
)
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)


def response_format(schema: Schema, output: StructuredOutput) -> str | None:
    """The request's `response_format`, as JSON in ASCII; None for `lines`, which sends none."""
    if output == "json_schema":
        # Servers take letters, digits, _ and -, at most 64.
        title = _NO_NAME.sub("_", str(schema.get("title", "")))[:64] or "answer"
        named = f'{{"name": "{title}", "strict": true, "schema": {schema_json(schema)}}}'
        return f'{{"type": "json_schema", "json_schema": {named}}}'
    if output == "json_object_schema":
        return f'{{"type": "json_object", "schema": {schema_json(schema)}}}'
    if output == "json_object":
        return '{"type": "json_object"}'
    return None


def unwrap(text: str) -> str:
    """The content of an answer that is one Markdown code block, which models often write.

    Nothing else is repaired: repairing JSON would invent scores.
    """
    match = _BLOCK.fullmatch(text)
    if match is None or _FENCE.search(match["content"]):
        return text
    return match["content"].strip()


def read_answer(text: str, schema: Schema | None, output: StructuredOutput) -> tuple[str, str]:
    """A whole reply's thinking, and its answer: JSON where a schema asks for it.

    Args:
        text: The reply.
        schema: Shape that was asked for; None for free text.
        output: Way in which it was asked for.

    Returns:
        Thinking and answer; the answer is empty if the reply has nothing behind its thinking.
    """
    if output != "lines":
        thinking, answer = split_thinking(text, is_object)
        return thinking, unwrap(answer)
    # A draft in the thinking may have the same lines, so the thinking goes first.
    thinking, answer = split_thinking(text, lambda _: False)
    return thinking, answer if schema is None else unwrap(read_lines(answer, schema))


def is_object(text: str) -> bool:
    """True for one JSON object, which may stand in a code block."""
    try:
        # Not strict: grammar-bound models write raw control characters into strings.
        return isinstance(json.loads(unwrap(text), strict=False), dict)
    except (ValueError, RecursionError):
        return False


@dataclass(frozen=True)
class _Field:
    """One value of a schema, for example `i1.score`: a whole number, one of 0 to 5."""

    path: tuple[str, ...]
    kind: str
    choices: tuple[Any, ...] | None

    @property
    def name(self) -> str:
        return ".".join(self.path)

    def read(self, text: str) -> Any:
        """The value in a text.

        Raises:
            KeyError, ValueError: The text is no such value.
        """
        if self.choices is not None:
            return {str(choice): choice for choice in self.choices}[text]
        if self.kind == "integer":
            if not re.fullmatch(r"-?\d{1,9}", text, re.ASCII):
                raise ValueError(text)
            return int(text)
        if self.kind == "boolean":
            return {"true": True, "false": False}[text]
        return text

    def shown(self) -> str:
        if self.choices is not None:
            return f"{self.name}: <one of {', '.join(map(str, self.choices))}>"
        kinds = {
            "string": "text in one line",
            "integer": "whole number",
            "boolean": "true or false",
        }
        return f"{self.name}: <{kinds[self.kind]}>"


def ask_in_lines(messages: Sequence[Message], schema: Schema) -> tuple[Message, ...]:
    """The messages, with a request for lines at the end of the last one.

    A schema with lists or free-form parts cannot be written as lines: the messages then stay as
    they are, and their own description of the shape must suffice.
    """
    fields = _fields(schema)
    if fields is None or not messages:
        return tuple(messages)
    *others, last = messages
    form = "\n".join(field.shown() for field in fields)
    form_request = (
        "Answer in exactly these lines, in this order, and write nothing else; no JSON. Put "
        f"the value in the place of <...>:\n{form}"
    )
    return (*others, Message(role=last["role"], content=f"{last['content']}\n\n{form_request}"))


def read_lines(text: str, schema: Schema) -> str:
    """The JSON of an answer in lines; the text itself if it is no such answer.

    Each name of the schema must stand at the start of exactly one line. A repeated name makes the
    answer unusable, since one of the two lines may be a quotation.
    """
    fields = _fields(schema)
    if fields is None:
        return text
    values: dict[str, str] = {}
    names = {field.name for field in fields}
    for line in text.split("\n"):
        name, colon, value = line.partition(":")
        if colon and name.strip() in names:
            if name.strip() in values:
                return text
            values[name.strip()] = value.strip()
    answer: dict[str, Any] = {}
    try:
        for field in fields:
            _put(answer, field.path, field.read(values[field.name]))
    except (KeyError, ValueError):
        return text
    return json.dumps(answer, ensure_ascii=False)


def conforms(text: str, schema: Schema) -> bool:
    """True if an answer is one JSON value of the schema's shape, each key once.

    Decides if a stored answer can be used. Callers check answers themselves, more closely.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key appears twice")
        return dict(pairs)

    try:
        return _fits(json.loads(unwrap(text), strict=False, object_pairs_hook=once), schema)
    except (ValueError, RecursionError):
        return False


_KINDS: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


def _fits(value: Any, schema: Any) -> bool:
    kind = schema.get("type")
    if isinstance(value, bool) and kind != "boolean":
        return False
    if kind in _KINDS and not isinstance(value, _KINDS[kind]):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if kind == "array":
        return all(_fits(part, schema.get("items", {})) for part in value)
    if kind != "object":
        return True
    properties = schema.get("properties", {})
    if schema.get("additionalProperties") is False and not set(value) <= set(properties):
        return False
    return all(name in value for name in schema.get("required", ())) and all(
        _fits(value[name], part) for name, part in properties.items() if name in value
    )


def _put(answer: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        answer = answer.setdefault(part, {})
    answer[path[-1]] = value


def _fields(schema: Schema) -> list[_Field] | None:
    """The values that a schema requires; None if it has parts that are not single values."""
    try:
        return list(_walk(schema, ()))
    except ValueError:
        return None


def _walk(schema: Any, path: tuple[str, ...]) -> Iterator[_Field]:
    if not isinstance(schema, Mapping):
        raise ValueError(path)
    kind, choices = schema.get("type"), schema.get("enum")
    if kind == "object" and schema.get("properties") and len(path) < 4:
        for name, part in schema["properties"].items():
            if ":" in name or "\n" in name or name != name.strip():
                raise ValueError(name)
            yield from _walk(part, (*path, name))
    elif path and (choices or kind in ("string", "integer", "boolean")):
        yield _Field(path, str(kind), tuple(choices) if choices else None)
    else:
        raise ValueError(path)
