"""What goes over the wire: the schema `mpo.reward/1`, its checks, and its errors.

    POST /v1/score   ScoreRequest -> ScoreResponse

Texts are a policy's, so they are hostile: they may hold any character, lone surrogates included.
What a client chooses (ids, groups, steps, columns) is bounded here, before anything else sees it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from ..errors import MPOError
from ..records import Mode

__all__ = [
    "MAX_ITEMS",
    "METRICS",
    "SCHEMA",
    "Item",
    "MetaStepRequest",
    "MetaStepResponse",
    "OnFailure",
    "Options",
    "Refusal",
    "RestoreRequest",
    "Result",
    "ScoreRequest",
    "ScoreResponse",
    "SnapshotRequest",
    "SnapshotResponse",
    "StateResponse",
    "flatten",
]

SCHEMA = "mpo.reward/1"
MAX_ITEMS = 1024
"""Of one request."""
MAX_STEP = 2**53 - 1
"""Larger integers do not survive JavaScript, nor SQLite's arithmetic."""
MAX_DEPTH = 16
"""Of nested columns."""

METRICS = (
    "mpo_unscored",
    "mpo_fallback",
    "mpo_late",
    "mpo_rule",
    "mpo_flags",
    "mpo_rubric_version",
)
"""Keys of `Result.metrics`: the same for every item, whatever became of it. Engines take the keys
of a batch from its first item (veRL), and make tensors of the values (OpenRLHF)."""

Name = Annotated[str, StringConstraints(max_length=256)]
Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Step = Annotated[int, Field(ge=0, le=MAX_STEP)]


class Refusal(MPOError):
    """A request that cannot be served as it stands.

    Args:
        status: Of HTTP: 404 unknown, 409 does not fit the run, 422 cannot be meant, 424 unscored,
            429 too much at once. No 5xx: those are for faults of the service itself.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(BaseModel):
    """A turn of a conversation, as OpenAI's API has it; other keys are not read."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: str = ""
    content: str | list[dict[str, Any]] | None = None
    """A text, or parts of which those with a `text` count."""


Text = str | list[Message]
OnFailure = Literal["null", "group_mean", "error"]


class Item(_Wire):
    """A completion to score."""

    id: Name = ""
    """The engine's own name for it. With the content it decides what is the same item: two equal
    completions of one prompt are told apart by it, and a resent one is recognised."""
    group_id: Name = ""
    """Completions of one prompt share it; by default those with equal prompts."""
    step: Step | None = None
    """Trainer step at which it was sampled; left out where the engine does not know it."""
    prompt: Text
    completion: Text
    task: Name = ""
    """Where given, it must be the task that is served: a guard against a wrong address."""
    cohort: Name = ""
    """Part of the task with a rubric of its own, for tasks that have cohorts."""
    columns: dict[str, Any] = Field(default_factory=dict)
    """The dataset's other columns: the reference solution, say."""

    @field_validator("columns")
    @classmethod
    def _not_too_deep(cls, columns: dict[str, Any]) -> dict[str, Any]:
        if _depth(columns) > MAX_DEPTH:
            raise ValueError(f"columns are nested deeper than {MAX_DEPTH}")
        return columns


class Options(_Wire):
    """How a batch is answered."""

    rubric_version: Step | None = None
    """Score groups that have no rubric yet under this one instead of the one in force."""
    deadline_s: Annotated[float, Field(gt=0, le=3600)] | None = None
    """Answer within so many seconds; the service's own deadline if None or longer."""
    on_failure: OnFailure = "null"
    """What an unscored item gets: no reward; the mean of its group (then of the run), flagged; or
    the whole request fails."""


class ScoreRequest(_Wire):
    """A batch of completions."""

    schema_: Literal["mpo.reward/1"] = Field(default="mpo.reward/1", alias="schema")
    run_id: Name = ""
    """Where given, it must be the run that is served."""
    mode: Mode = "train"
    """`eval` items are scored and stored, and never shown to the MRM nor counted."""
    items: Annotated[list[Item], Field(max_length=MAX_ITEMS)]
    options: Options = Options()


class Info(_Wire):
    """What a person may want to read of a judgement."""

    rule: str | None = None
    """The task rule that decided before the RM was asked."""
    scores: dict[str, int] = Field(default_factory=dict)
    rationales: dict[str, str] = Field(default_factory=dict)


class Result(_Wire):
    """What became of an item."""

    id: str
    status: Literal["ok", "fallback", "failed"]
    reward: float | None
    """None where it is unscored: never 0 for that."""
    score: float | None
    """0 to 1, whatever the scale of the rewards; a fallback's is a mean too."""
    rubric_version: int
    rubric_id: str
    metrics: dict[str, float]
    info: Info
    error: str | None
    """Why it is unscored, starting with one word for statistics."""


class ScoreResponse(_Wire):
    """Results in the order of the items."""

    schema_: Literal["mpo.reward/1"] = Field(default="mpo.reward/1", alias="schema")
    run_id: str
    rubric_version: int
    rubric_id: str
    results: list[Result]


class MetaStepRequest(_Wire):
    """After which update the rubric may change."""

    run_id: Name = ""
    step: Step


class MetaStepResponse(_Wire):
    """What the meta step decided; the same however often it is asked for."""

    run_id: str
    step: int
    due: bool
    """Whether a meta step was decided here, or the schedule asks for one."""
    changed: bool
    rubric_version: int
    rubric_id: str
    reasons: list[str]
    """Of the decisions, one per cohort."""


class SnapshotRequest(_Wire):
    """A checkpoint of the trainer."""

    run_id: Name = ""
    tag: Tag
    step: Step = 0


class SnapshotResponse(_Wire):
    """Where the store stands; for `POST /v1/restore`."""

    run_id: str
    tag: str
    snapshot: dict[str, Any]
    rubric_version: int
    rubric_id: str


class RestoreRequest(_Wire):
    """Where to go back to: a tag, or the snapshot itself. `genesis` is where the run began."""

    run_id: Name = ""
    tag: Tag | None = None
    snapshot: dict[str, Any] | None = None


class StateResponse(_Wire):
    """How the run stands."""

    run_id: str
    task: str
    rubric_version: int
    rubric_id: str
    heads: dict[str, str]
    """Rubric in force by cohort."""
    step: int
    """The latest trainer step that the service knows of."""
    scored: int
    unscored: int
    since_meta: int
    """Training items since the last meta step."""
    in_flight: int
    meta_step: int | None
    """The meta step that is being held."""


def flatten(content: str | Sequence[Message]) -> str:
    """Text of a prompt or completion, as the reward model reads it.

    A single message is its content; several are told apart by their roles.
    """
    if isinstance(content, str):
        return content
    texts = [(message.role, _text(message.content)) for message in content]
    if len(texts) == 1:
        return texts[0][1]
    return "\n\n".join(f"{role}: {text}" for role, text in texts)


def _text(content: str | Sequence[Mapping[str, Any]] | None) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "\n".join(str(part["text"]) for part in content if "text" in part)


def _depth(value: Any) -> int:
    """How deep containers are nested; without recursion, which a client could exhaust."""
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
