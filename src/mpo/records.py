"""Records that flow and are stored: frozen, each field with its unit and range.

    Rollout ──RewardModel──> Judgement ──> Store
    Rollout + Judgement = Case ──MetaRewardModel──> Refinement ──gate──> Decision ──> Store

All records are pydantic models: they validate what comes in, cannot be changed afterwards, and
round-trip through JSON (`model_dump_json`, `model_validate_json`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .rubric import Rubric

__all__ = [
    "Analysis",
    "Case",
    "ConfigChange",
    "CriterionScore",
    "Decision",
    "Judgement",
    "Mode",
    "Proposal",
    "Refinement",
    "Rollout",
    "ScaleMap",
    "Usage",
    "content_hash",
    "to_json",
    "without_nan",
]

Mode = Literal["train", "eval", "canary"]
"""`eval` rollouts are scored and stored, and never shown to the MRM (law 7). `canary`
is a text of known rank (`mpo.watch`): the RM alone sees it."""


def content_hash(value: Any, length: int = 16) -> str:
    """First `length` hex digits of SHA-256 over canonical JSON; the same in every process.

    Args:
        value: Anything that `json.dumps` takes.
        length: Hex digits to keep, 1 to 64.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    # "surrogatepass": a policy may emit a lone surrogate, which must not stop the run.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON text that every reader takes: null for NaN and infinities, which JSON does not have, and
    escapes for lone surrogates, which UTF-8 does not have.

    Args:
        value: JSON values; NaN and infinities among them are allowed.
        indent: Blanks per level; None for one line without blanks.

    Raises:
        TypeError: It holds something else.
    """
    separators = (",", ":") if indent is None else None
    encode = partial(json.dumps, indent=indent, separators=separators, allow_nan=False)
    try:
        text = encode(value, ensure_ascii=False)
    except ValueError:
        value = without_nan(value)
        text = encode(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return encode(value, ensure_ascii=True)
    return text


def without_nan(value: Any) -> Any:
    """JSON values with None in place of NaN and infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    return value


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Usage(_Record):
    """Cost of model calls. Adds up with `+`."""

    calls: int = Field(default=0, ge=0)
    """Completed requests; retries inside one request are not counted."""
    prompt_tokens: int = Field(default=0, ge=0)
    cached_tokens: int = Field(default=0, ge=0)
    """Prompt tokens that the server had cached, by its own account."""
    completion_tokens: int = Field(default=0, ge=0)

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            calls=self.calls + other.calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
        )


class Rollout(_Record):
    """One completion by the policy for one prompt.

    `id` is the hash of all other fields, so a rollout that a trainer sends twice is the same
    rollout, and two equal completions of one group differ by `index`.
    """

    id: str = ""
    prompt: str
    """Text of the prompt as the task's template sees it (messages are flattened by the adapter)."""
    completion: str
    columns: Mapping[str, Any] = Field(default_factory=dict)
    """The dataset's other columns for this prompt; JSON values only. NaN and infinities, with which
    tables fill gaps, become None."""
    step: int = Field(default=0, ge=0)
    """Trainer step (optimizer updates) at which the completion was sampled."""
    group: str = ""
    """Completions of one prompt share it; the prompt's hash where the trainer names none."""
    index: int = Field(default=0, ge=0)
    """Position within the step: the same prompt and text may come twice."""
    cohort: str = ""
    """Part of the task with a rubric of its own; empty where the task has no cohorts."""
    mode: Mode = "train"

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        filled = dict(data)
        try:
            if isinstance(filled.get("columns"), Mapping):
                filled["columns"] = without_nan(filled["columns"])
        except RecursionError as error:
            raise ValueError("columns are nested too deeply") from error
        if not filled.get("group"):
            filled["group"] = content_hash(filled.get("prompt", ""))
        if not filled.get("id"):
            names = ("prompt", "completion", "step", "group", "index", "cohort", "mode")
            parts = {name: filled.get(name) for name in names}
            parts["columns"] = dict(filled.get("columns") or {})
            try:
                filled["id"] = content_hash(parts)
            except (TypeError, ValueError) as error:
                raise ValueError(f"columns must be JSON values: {error}") from error
        return filled


class CriterionScore(_Record):
    """The RM's score of one criterion."""

    criterion: str
    """`Criterion.id` within the rubric named by the judgement."""
    score: int
    """One of the criterion's closed set."""
    rationale: str = ""


class Judgement(_Record):
    """The RM's result for one rollout under one rubric.

    Either scored (`reward` is a number, `unscored` is None) or unscored (`reward` is None and
    `unscored` says why). There is no third state, and unscored is never 0 (law 3).
    """

    key: str
    """Hash of rollout, rubric, prompt template, protocol and the model's identity: unique in a
    store."""
    rollout_id: str
    rubric_id: str
    step: int = Field(default=0, ge=0)
    cohort: str = ""
    mode: Mode = "train"
    scores: tuple[CriterionScore, ...] = ()
    """In the rubric's order; empty when unscored or when a rule fired."""
    reward: float | None = None
    """In the scale of the run (`normalized`: 0 to 1)."""
    normalized_reward: float | None = None
    """Σ w·(s−min) / Σ w·(max−min), 0 to 1, whatever the scale of the run."""
    unscored: str | None = None
    """Why there is no reward, starting with one word for statistics: `truncated: …`."""
    rule: str | None = None
    """Name of the task rule that decided the reward before the RM was asked."""
    protocol: str = "single"
    template_hash: str = ""
    model: str = ""
    """Name of the model, for people."""
    identity: str = ""
    """Identity of the model (`mpo.chat.identity`), where its name does not say all of it."""
    usage: Usage = Usage()
    injection_flags: Mapping[str, int] = Field(default_factory=dict)
    """Signs of an injection in the response, counted by kind (`mpo.sanitize`)."""

    @property
    def answered_by(self) -> str:
        """Identity of the model; empty where nobody knows (scores from a file or an import)."""
        return self.identity or self.model

    @model_validator(mode="after")
    def _scored_or_not(self) -> Judgement:
        if (self.reward is None) != (self.unscored is not None):
            raise ValueError(
                "a judgement has a reward or a reason why it is unscored, not both or neither; "
                f"got reward={self.reward!r}, unscored={self.unscored!r}"
            )
        if (self.reward is None) != (self.normalized_reward is None):
            raise ValueError("reward and normalized_reward are both set or both missing")
        return self


class Case(_Record):
    """A rollout with its judgement: one piece of evidence."""

    rollout: Rollout
    judgement: Judgement


class Analysis(_Record):
    """Meta-analysis of one case: faults of its scoring (arXiv 2504.20157, §2.3, stage 1)."""

    rollout_id: str
    verdict: Literal["too_high", "fair", "too_low", "unknown"]
    """Opinion on the reward that the RM gave; `unknown` in imported runs of the published code,
    whose analyses are prose. The MRM itself is asked for one of the first three."""
    findings: str
    """Faults that the score overlooked, in words."""
    advice: str = ""
    """Demands that the rubric should make so that the next score is right."""


class Proposal(_Record):
    """A rubric refined for one case (arXiv 2504.20157, §2.3, stage 2)."""

    rollout_id: str
    rubric: Rubric
    reasons: str = ""
    injection_flags: Mapping[str, int] = Field(default_factory=dict)
    """Signs of an injection in the MRM's answer before it was cleaned, counted by kind."""


class Refinement(_Record):
    """A proposed rubric with everything that led to it: the product of one meta step."""

    rubric: Rubric
    reasons: str = ""
    injection_flags: Mapping[str, int] = Field(default_factory=dict)
    """Signs of an injection in the MRM's answer before it was cleaned, counted by kind."""
    evidence: tuple[str, ...] = ()
    """Rollout ids in the order in which they were selected."""
    labels: Mapping[str, str] = Field(default_factory=dict)
    """Prescreen labels by rollout id, where the prescreen ran."""
    analyses: tuple[Analysis, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    skipped: tuple[str, ...] = ()
    """Cases that yielded nothing, each with the reason."""
    prompts_hash: str = ""
    """Hash of the MRM's templates: they are data, and may themselves change one day."""
    model: str = ""
    """Name of the MRM, for people."""
    identity: str = ""
    """Identity of the MRM (`mpo.chat.identity`), where its name does not say all of it."""

    @property
    def answered_by(self) -> str:
        """Identity of the MRM."""
        return self.identity or self.model


class ScaleMap(_Record):
    """Affine map from normalized reward to reward, for one rubric under the scale `anchored`.

    `reward = slope · normalized reward + offset`
    """

    slope: float = 1.0
    offset: float = 0.0
    anchors: int = Field(default=0, ge=0)
    """Rollouts scored under both rubrics that the map was fitted to."""
    degenerate: bool = False
    """The anchors had no spread under one of the rubrics: the map keeps their mean only."""

    def __call__(self, normalized_reward: float) -> float:
        return self.slope * normalized_reward + self.offset


class Decision(_Record):
    """Acceptance or refusal of a proposal: an edge of the lineage."""

    step: int = Field(default=0, ge=0)
    cohort: str = ""
    kind: Literal["seed", "evolve", "rollback", "given_up"] = "evolve"
    """`given_up` is a meta step that was not waited for: the run was stopped, or went back. It
    decides nothing and may be held again; it is here for what it has cost."""
    parent: str | None = None
    """Id of the rubric that was in effect; None only for the seed."""
    proposed: str | None = None
    """Id of the proposed rubric; None where the meta step failed before it had one."""
    accepted: bool
    reason: str
    figures: Mapping[str, float] = Field(default_factory=dict)
    """Measurements for people, by name. Nothing is decided by them. One that came out as no number
    is left out."""
    scale_map: ScaleMap | None = None
    """Map of the accepted rubric; None where the scale needs none."""
    canary_failed: bool = False
    """A rollback that canaries caused: `parent` must not come back into effect."""
    refinement: Refinement | None = None
    usage: Usage = Usage()
    """Usage of the MRM, failed calls that were billed included."""
    rm_usage: Usage = Usage()
    """Usage of the RM in this meta step: the gate's probes, the scale's anchors."""
    due: int | None = None
    """Update after which the meta step was due and its evidence was frozen; None for a seed or a
    rollback. Equal to `step` unless meta steps run in the background."""
    findings: tuple[str, ...] = ()
    """Lint findings in the proposal, one line each."""

    @field_validator("figures")
    @classmethod
    def _finite(cls, figures: Mapping[str, float]) -> Mapping[str, float]:
        return {name: figure for name, figure in figures.items() if math.isfinite(figure)}

    @model_validator(mode="after")
    def _accepts_something(self) -> Decision:
        if self.accepted and self.proposed is None:
            raise ValueError("a decision that accepts must name the rubric that it accepts")
        return self

    @property
    def head(self) -> str | None:
        """Id of the rubric in effect after this decision."""
        return self.proposed if self.accepted else self.parent


class ConfigChange(_Record):
    """A key of a run's config that another start of the run gave another value."""

    step: int = Field(default=0, ge=0)
    """Update from which the run went on with the new value."""
    key: str
    """Dotted name."""
    old: Any
    """JSON value."""
    new: Any
    """JSON value."""

    def __str__(self) -> str:
        return f"{self.key}: {self.old!r} -> {self.new!r}"


def total_usage(parts: Sequence[Usage]) -> Usage:
    """Sum of usages; zero for an empty sequence."""
    total = Usage()
    for part in parts:
        total = total + part
    return total
