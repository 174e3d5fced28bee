"""The wire format: the schema `mpo.reward/1`, its checks and its errors.

    POST /v1/score   ScoreRequest -> ScoreResponse

Texts come from a policy, so they are hostile: they may hold any character, lone surrogates
included. Everything that a client chooses (ids, groups, steps, columns) is bounded here, before any
other code sees it.

Rows come from data sets, so some are odd: an item with a value that cannot be used is a failed
result, and the rest of its batch is scored. Only a request whose every item has the wrong fields
is refused as a whole: that is a mistake in a program.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    WrapValidator,
    field_validator,
)
from pydantic.json_schema import SkipJsonSchema

from ..data import flatten as flatten_messages
from ..data.values import whole_text
from ..errors import DataError, MPOError

__all__ = [
    "MAX_ITEMS",
    "METRICS",
    "SCHEMA",
    "InvalidItem",
    "Item",
    "MetaStepRequest",
    "MetaStepResponse",
    "OnFailure",
    "Refusal",
    "RestoreRequest",
    "Result",
    "ScoreOptions",
    "ScoreRequest",
    "ScoreResponse",
    "SnapshotRequest",
    "SnapshotResponse",
    "StateResponse",
    "flatten",
    "read_json",
]

SCHEMA = "mpo.reward/1"
MAX_ITEMS = 1024
"""Largest number of items in one request."""
MAX_STEP = 2**53 - 1
"""Larger integers do not survive JavaScript, nor SQLite's arithmetic."""
MAX_DEPTH = 16
"""Deepest nesting of `columns`."""

METRICS = (
    "mpo_unscored",
    "mpo_fallback",
    "mpo_late",
    "mpo_rule",
    "mpo_flags",
    "mpo_rubric_version",
)
"""Keys of `Result.metrics`, the same for every item. Engines take the keys of a batch from its
first item (veRL), and make tensors of the values (OpenRLHF)."""


def _plain_name(value: Any) -> Any:
    """A name as text without lone surrogates, which no database takes; empty for null."""
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return whole_text(value) if isinstance(value, str) else value


Name = Annotated[str, StringConstraints(max_length=256), BeforeValidator(_plain_name)]
Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Step = Annotated[int, Field(ge=0, le=MAX_STEP)]


class Refusal(MPOError):
    """A request that cannot be served.

    Args:
        status: HTTP status: 404 not found, 409 conflicts with the run, 422 invalid, 424 unscored,
            429 too many items at once. Never 5xx: those are for faults of the service itself.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Request(_Wire):
    run_id: Name = ""
    """Run that the client means; a service of another run refuses. Empty means any."""


class _Response(_Wire):
    run_id: str
    rubric_version: int
    rubric_id: str
    """Id of the rubric in effect."""


class WireMessage(BaseModel):
    """A turn of a conversation, as in OpenAI's API; other keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: Name = ""
    content: str | list[str | dict[str, Any]] | None = None
    """A text, or parts."""
    tool_calls: list[dict[str, Any]] | None = None
    """Calls that the assistant makes; the reward model reads each as one line."""
    function_call: dict[str, Any] | None = None
    refusal: str | None = None


Text = str | list[WireMessage]
OnFailure = Literal["null", "group_mean", "error"]


class Item(_Wire):
    """A completion to score."""

    id: Name = ""
    """The engine's own name for the item. Content and id together identify it: two equal
    completions of one prompt differ by their ids, and a resent item is recognised."""
    group_id: Name = ""
    """Group that the completions of one prompt share; items with equal prompts if empty."""
    step: Step | None = None
    """Trainer step at which it was sampled; None if the engine does not know it."""
    prompt: Text
    completion: Text
    task: Name = ""
    """Expected task; a service of another task refuses. Empty means any."""
    cohort: Name = ""
    """Part of the task with a rubric of its own, for tasks that have cohorts."""
    columns: dict[str, Any] = Field(default_factory=dict)
    """Other columns of the dataset's row, for example the reference solution."""

    @field_validator("columns", mode="before")
    @classmethod
    def _no_columns(cls, columns: Any) -> Any:
        return {} if columns is None else columns

    @field_validator("prompt", "completion")
    @classmethod
    def _has_text(cls, text: Text) -> Text:
        try:
            flatten(text)
        except DataError as error:
            raise ValueError(str(error)) from error
        except RecursionError as error:
            raise ValueError("its parts are nested too deeply") from error
        return text

    @field_validator("columns")
    @classmethod
    def _plain(cls, columns: dict[str, Any]) -> dict[str, Any]:
        if _depth(columns) > MAX_DEPTH:
            raise ValueError(f"columns are nested deeper than {MAX_DEPTH}")
        place = _odd_number(columns)
        if place is not None:
            raise ValueError(
                f"{place} is no number that JSON has (NaN, infinite, or too long): send null there"
            )
        return columns


class InvalidItem(_Wire):
    """An item that cannot be scored, because of its own values."""

    id: str
    reason: str
    """Place and fault: `completion: Input should be a valid string`."""
    misnamed: bool = False
    """True if fields are missing or unknown: a fault of a program, not of a row."""


def _item_or_fault(value: Any, _: Any) -> Item | InvalidItem:
    if isinstance(value, Item | InvalidItem):
        return value
    try:
        return Item.model_validate(value)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
    first, id = faults[0], value.get("id") if isinstance(value, dict) else None
    place = ".".join(str(part)[:80] for part in first["loc"] if part != "str")
    try:
        name = str(_plain_name(id))[:256]
    except ValueError:  # a number of thousands of digits
        name = ""
    return InvalidItem(
        id=name,
        reason=f"{place}: {first['msg']}" if place else first["msg"],
        misnamed=any(fault["type"] in _MISNAMED for fault in faults),
    )


_MISNAMED = ("missing", "extra_forbidden", "model_type")
AnyItem = Annotated[Item | SkipJsonSchema[InvalidItem], WrapValidator(_item_or_fault)]


class ScoreOptions(_Wire):
    """ScoreOptions of one scoring request."""

    rubric_version: Step | None = None
    """Rubric for groups that have none yet; the one in effect if None."""
    deadline_s: Annotated[float, Field(gt=0, le=3600)] | None = None
    """Longest time until the response, in seconds; the service's own limit if None or longer."""
    on_failure: OnFailure = "null"
    """Result of an unscored item: no reward; the flagged mean of its group (else of the run); or a
    failed request."""


class ScoreRequest(_Request):
    """A batch of completions."""

    schema_: Literal["mpo.reward/1"] = Field(default="mpo.reward/1", alias="schema")
    mode: Literal["train", "eval"] = "train"
    """`eval` items are scored and stored, but never counted and never shown to the MRM."""
    items: Annotated[list[AnyItem], Field(max_length=MAX_ITEMS)]
    options: ScoreOptions = ScoreOptions()

    @field_validator("items")
    @classmethod
    def _some_are_items(cls, items: list[Item | InvalidItem]) -> list[Item | InvalidItem]:
        faults = [item for item in items if isinstance(item, InvalidItem) and item.misnamed]
        if items and len(faults) == len(items):
            raise ValueError(f"no item has the fields of one: {faults[0].reason}")
        return items


class Info(_Wire):
    """Details of a judgement, for people."""

    rule: str | None = None
    """Task rule that decided before the RM was called."""
    scores: dict[str, int] = Field(default_factory=dict)
    rationales: dict[str, str] = Field(default_factory=dict)


class Result(_Wire):
    """Result of one item."""

    id: str
    status: Literal["ok", "fallback", "failed"]
    reward: float | None
    """None for an unscored item, never 0."""
    score: float | None
    """Normalized reward, 0 to 1, on any scale of the rewards; a mean for a fallback."""
    rubric_version: int
    rubric_id: str
    metrics: dict[str, float]
    info: Info
    error: str | None
    """Reason why the item is unscored; its first word is for statistics."""


class ScoreResponse(_Response):
    """Results in the order of the items."""

    schema_: Literal["mpo.reward/1"] = Field(default="mpo.reward/1", alias="schema")
    results: list[Result]


class MetaStepRequest(_Request):
    """The update after which the rubric may change."""

    step: Step


class MetaStepResponse(_Response):
    """Decisions after an update; every request for it gets the same ones."""

    step: int
    due: bool
    """True if a meta step was decided here, or the schedule asks for one."""
    changed: bool
    reasons: list[str]
    """Reasons of the decisions, one per cohort."""


class SnapshotRequest(_Request):
    """A checkpoint of the trainer."""

    tag: Tag
    step: Step = 0


class SnapshotResponse(_Response):
    """Position in the store, for `POST /v1/restore`."""

    tag: str
    snapshot: dict[str, Any]


class RestoreRequest(_Request):
    """The position to go back to: a tag, or the snapshot itself. `genesis` is the run's start."""

    tag: Tag | None = None
    snapshot: dict[str, Any] | None = None


class StateResponse(_Response):
    """State of the run."""

    task: str
    heads: dict[str, str]
    """Id of the rubric in effect, by cohort."""
    step: int
    """Latest trainer step that the service knows."""
    scored: int
    unscored: int
    since_meta: int
    """Training items since the last meta step."""
    in_flight: int
    meta_step: int | None
    """Update whose meta step is running now."""


def flatten(content: Text) -> str:
    """Text of a prompt or completion, as the reward model reads it.

    Raises:
        DataError: The messages hold an image or the like and no text.
    """
    if isinstance(content, str):
        return content
    return flatten_messages([message.model_dump(exclude_none=True) for message in content])


def read_json(body: bytes) -> Any:
    """JSON of a request. An integer with too many digits for Python becomes infinity: the item that
    it stands in is refused for it, and not the whole batch.

    Raises:
        ValueError: It is no JSON.
        RecursionError: It is nested too deeply.
    """
    try:
        return json.loads(body)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError:
        return json.loads(body, parse_int=_parse_int)


def _parse_int(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:
        return math.inf


def _odd_number(value: Any, place: str = "columns") -> str | None:
    """Place of the first number that JSON does not have; None if there is none."""
    if isinstance(value, float):
        return None if math.isfinite(value) else place
    if isinstance(value, dict):
        inner = [(f"{place}.{str(key)[:40]}", part) for key, part in value.items()]
    elif isinstance(value, list):
        inner = [(f"{place}[{number}]", part) for number, part in enumerate(value)]
    else:
        return None
    return next(filter(None, (_odd_number(part, name) for name, part in inner)), None)


def _depth(value: Any) -> int:
    """Nesting depth of containers; without recursion, which a client could exhaust."""
    depth, level = 0, [value]
    while level:
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        depth += 1
    return depth
