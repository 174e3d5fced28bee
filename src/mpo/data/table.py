"""A table: the rows of a source under the names that a program asks for, bad ones refused or left
out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from ..errors import ConfigError, DataError
from .conversation import flatten, has_prompt, is_conversation, prompt_text, split_conversation
from .formats import RawRow, raw_rows
from .values import Unreadable, as_number, as_text, plain, whole_text

__all__ = [
    "COMPLETION",
    "PROMPT",
    "ReadOptions",
    "SourceRow",
    "Table",
    "parse_columns",
    "read_rows",
    "read_table",
]

T = TypeVar("T")

PROMPT = ("prompt", "query")
COMPLETION = ("completion", "model_response", "response")
"""Columns, of which the first that a row has counts; the later ones are the published code's."""
CONVERSATION = ("messages", "conversations", "conversation")
"""Columns that hold prompt and completion in one list of messages."""
_GUESSES = {
    "prompt": ("instruction", "question", "input", "problem", "query", "text"),
    "completion": ("output", "response", "answer", "generation", "prediction", "text"),
    "score": ("rating", "label", "grade", "reward"),
}
"""Columns that an error message proposes, by the column that is missing."""


@dataclass(frozen=True)
class ReadOptions:
    """Which rows of a source are read, and under which names."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """A source's column by the name that is asked for: `{"completion": "output"}`. Several are
    joined, `instruction+input`, with a blank line between; the first has to be there."""
    limit: int | None = None
    """Number of usable rows to read; all if None."""
    skip_bad: bool = False
    """Leave out rows that cannot be used, instead of refusing the source."""
    split: str = "train"
    """Split of a hub data set, or of a saved one that has several."""
    asked_by: Literal["code", "command", "config"] = "code"
    """Place where a user sets these, for messages."""

    @property
    def _skip(self) -> str:
        """Remedy for a bad row; empty where the user has none."""
        options = {"command": "--skip-bad", "config": "data.skip_bad=true"}
        option = options.get(self.asked_by)
        return f"; {option} leaves such rows out" if option else ""

    @property
    def _map(self) -> str:
        """Place where columns are named; empty where the user has none."""
        return {"command": "--columns", "config": "data.columns"}.get(self.asked_by, "")


def parse_columns(text: str) -> dict[str, str]:
    """Read `prompt=instruction,completion=output`.

    Raises:
        ConfigError: The text has another form, or names a column twice.
    """
    columns: dict[str, str] = {}
    for part in text.split(","):
        ours, equals, theirs = (piece.strip() for piece in part.partition("="))
        if not part.strip():
            continue
        if not (ours and equals and theirs):
            raise ConfigError(
                f"--columns {text!r}: write NAME=COLUMN, e.g. prompt=instruction,completion=output"
            )
        if ours in columns:
            raise ConfigError(f"--columns {text!r}: {ours!r} is given twice")
        columns[ours] = theirs
    return columns


class SourceRow:
    """One row, with its place and the user's choice of columns.

    Its methods raise a `DataError` that names place, column and value.

    Attributes:
        where: `rows.jsonl:12`, or `rows.parquet, row 12`; both from 1.
        values: The source's own columns and values, unchanged.
    """

    def __init__(self, raw: RawRow, reading: ReadOptions) -> None:
        self.where, self.values = raw.where, raw.values
        self._doubled = raw.doubled
        self._reading = reading

    def named(self) -> dict[str, Any]:
        """The row's values under the names that are asked for, and all others under their own."""
        columns = self._reading.columns
        theirs = {part for column in columns.values() for part in self._parts(column)}
        values = {name: value for name, value in self.values.items() if name not in theirs}
        values.update({ours: self._raw(ours) for ours in columns if self.has(ours)})
        return values

    def has(self, name: str) -> bool:
        """True if the row has a column for this name; its value may be null."""
        # Of joined columns the first has to be there: many files have `input` in some rows only.
        return self._parts(self._reading.columns.get(name, name))[0] in self.values

    def value(self, name: str) -> Any:
        """A column's value as JSON; None where the row has no such column."""
        return plain(self._raw(name)) if self.has(name) else None

    def text(self, *names: str) -> str:
        """The text of the first of these columns that the row has.

        A prompt or completion may stand in a list of messages: in a column of that name, or with
        the other in `messages` or `conversations`.

        Raises:
            DataError: There is none of them, or no text in it.
        """
        for name in names:
            if self.has(name):
                return self._text(name)
        pair = self._conversation() if names[:1] in (PROMPT[:1], COMPLETION[:1]) else None
        if pair is not None:
            return pair[0] if names[0] == PROMPT[0] else pair[1]
        raise DataError(f"{self.where}: {self._missing(names)}")

    def completion(self, *names: str) -> str:
        """As `text`, but of a conversation only what follows the last message of the user."""
        name = next((name for name in names if self.has(name)), None)
        if name is not None and is_conversation(value := self._raw(name)) and has_prompt(value):
            with self._about(name):
                return _flat(split_conversation(value)[1])
        return self.text(*names)

    def prompt(self, *names: str) -> str:
        """As `text`, but a conversation may also end with the message of the user."""
        if not any(self.has(name) for name in names):
            for name in CONVERSATION:
                if (messages := self._messages(name)) is not None:
                    with self._about(name):
                        return whole_text(prompt_text(messages))
        return self.text(*names)

    def opening(self, name: str) -> str:
        """Text of the prompt that a column's conversation begins with.

        Raises:
            DataError: It holds none.
        """
        value = self._raw(name)
        if not (is_conversation(value) and has_prompt(value)):
            raise DataError(f"{self.where}: {self._missing(PROMPT)}")
        with self._about(name):
            return whole_text(prompt_text(value))

    def number(self, name: str) -> float | None:
        """A column's number; None where it is null, empty or missing."""
        if not self.has(name):
            return None
        with self._about(name):
            return as_number(self._raw(name))

    def fault(self, name: str, what: str) -> DataError:
        """An error about one column, for a check of the caller's own."""
        column = self._reading.columns.get(name, name)
        shown = f"{column!r}" if column == name else f"{column!r} ({name})"
        return DataError(f"{self.where}: {shown} {what}")

    # ------------------------------------------------------------------ the rest is its own

    def _parts(self, column: str) -> list[str]:
        return [column] if column in self.values else column.split("+")

    def _raw(self, name: str) -> Any:
        parts = self._parts(self._reading.columns.get(name, name))
        parts = [part for part in parts if part in self.values]
        for part in parts:
            if part in self._doubled:
                raise self.fault(name, "stands twice in this row: rename one of them")
            if isinstance(self.values[part], Unreadable):
                raise self.fault(name, f"cannot be read: {self.values[part].reason:.100}")
        if len(parts) == 1:
            return self.values[parts[0]]
        texts = [as_text(self.values[p]) for p in parts if self.values[p] is not None]
        return "\n\n".join(text for text in texts if text.strip())

    def _text(self, name: str) -> str:
        with self._about(name):
            return as_text(self._raw(name))

    @contextmanager
    def _about(self, name: str) -> Iterator[None]:
        """Put place and column in front of an error about a value."""
        try:
            yield
        except DataError as error:
            if str(error).startswith(self.where):
                raise
            raise self.fault(name, str(error)) from error

    def _messages(self, name: str) -> Sequence[Mapping[str, Any]] | None:
        if not self.has(name):
            return None
        value = self._raw(name)
        if isinstance(value, str) and value.lstrip().startswith("["):  # in a CSV
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                return None
        return value if is_conversation(value) else None

    def _conversation(self) -> tuple[str, str] | None:
        """Prompt and completion of a column that holds both."""
        for name in CONVERSATION:
            messages = self._messages(name)
            if messages is not None:
                with self._about(name):
                    prompt, completion = split_conversation(messages)
                    return _flat(prompt), _flat(completion)
        return None

    def _missing(self, names: Sequence[str]) -> str:
        wanted = self._reading.columns.get(names[0])
        if wanted is not None:
            return f"{wanted!r} ({names[0]}) is missing; the columns are {self._names()}"
        guess = [n for n in _GUESSES.get(names[0], ()) if n in self.values]
        option = self._reading._map
        remedy = (
            f"; name it: {option} {names[0]}={guess[0] if guess else 'COLUMN'}" if option else ""
        )
        return f"{names[0]!r} is missing; the columns are {self._names()}{remedy}"

    def _names(self) -> str:
        names = [f"{name:.40}" for name in self.values]
        return (", ".join(names[:20]) + (", …" if len(names) > 20 else "")) or "none"


def _flat(messages: Sequence[Mapping[str, Any]]) -> str:
    return whole_text(flatten(messages))


@dataclass(frozen=True)
class Table(Generic[T]):
    """The rows of a source."""

    source: str
    rows: list[T]
    bad: list[str]
    """Rows that were left out, each with its place and its fault."""

    @property
    def remark(self) -> str:
        """A line on the rows that were left out; empty if there are none."""
        if not self.bad:
            return ""
        total = len(self.rows) + len(self.bad)
        return f"{len(self.bad)} of {total} rows left out; the first: {self.bad[0]}"


def read_table(
    source: str | Path, make: Callable[[SourceRow], T], reading: ReadOptions = ReadOptions()
) -> Table[T]:
    """Read a source to its end, or to the limit.

    Args:
        source: A file or folder, or else a hub id: `owner/name`, or `owner/name:subset`.
        make: Turns a row into what the caller needs; it raises `DataError` for a bad row.
        reading: Which rows, and under which names.

    Raises:
        DataError: The source cannot be read or has no usable row, a row is bad, or a column that
            `reading` names is in no row.
        MissingExtraError: Parquet, a saved data set or the hub without the extra `train`.
    """
    rows: list[T] = []
    bad: list[str] = []
    unseen = dict(reading.columns)
    names: dict[str, None] = {}
    for raw in raw_rows(source, reading.split):
        row = SourceRow(raw, reading)
        for ours in [ours for ours in unseen if row.has(ours)]:
            del unseen[ours]
        names.update(dict.fromkeys(raw.values))
        try:
            if raw.fault is not None:
                raise DataError(f"{raw.where}: {raw.fault}")
            rows.append(_made(row, make))
        except DataError as error:
            if not reading.skip_bad:
                raise DataError(f"{error}{reading._skip}") from error
            bad.append(str(error))
        if len(rows) == reading.limit:
            break
    if not rows:
        if bad:
            raise DataError(f"{source}: none of its {len(bad)} rows can be used; {bad[0]}")
        raise DataError(f"{source} is empty: it has no row")
    if unseen:
        ours, theirs = next(iter(unseen.items()))
        raise DataError(
            f"{source}: no row has the column {theirs!r}, named for {ours!r}; "
            f"the columns are {', '.join(names)}"
        )
    return Table(str(source), rows, bad)


def _made(row: SourceRow, make: Callable[[SourceRow], T]) -> T:
    try:
        return make(row)
    except RecursionError:  # a container inside a thousand others, which a message would show
        raise DataError(f"{row.where}: is nested too deeply") from None


def read_rows(source: str | Path, reading: ReadOptions = ReadOptions()) -> list[dict[str, Any]]:
    """All rows of a source under the names that are asked for, with whatever values they have.

    Raises:
        MPOError: As `read_table`.
    """
    return read_table(source, SourceRow.named, reading).rows
