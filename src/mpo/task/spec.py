"""The keys of `task.yaml`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .prompts import placeholders

__all__ = [
    "AnswerOnly",
    "CohortSpec",
    "DatasetSpec",
    "MinWords",
    "Protocol",
    "RMSpec",
    "Requires",
    "ResponseSpec",
    "Rule",
    "TaskSpec",
]

Protocol = Literal["single", "per_criterion", "dialogue", "plan_execute"]
"""Protocol of the RM; see `mpo.judge`."""


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetSpec(_Spec):
    """Where the prompts come from."""

    path: str | None = None
    """Hub id, or a local JSONL, JSON or Parquet file (relative to the task folder)."""
    split: str = "train"
    prompt_column: str = "prompt"
    """Column that fills `{{prompt}}` of the policy's prompt template."""
    reference_column: str | None = None
    """Reference solution; shown to the RM where a prompt asks for it, and to the MRM."""
    answer_column: str | None = None
    """Reference answer for the answer check; the reference's last boxed one if None."""
    hidden_columns: tuple[str, ...] = ()
    """Gold labels and the like: stored with a rollout, and never part of any prompt."""
    max_prompt_tokens: int | None = Field(default=None, gt=0)
    """Rows whose prompt has more tokens of the policy are dropped, and counted in the log."""


class ResponseSpec(_Spec):
    """Limits of a completion."""

    max_tokens: int = Field(default=400, gt=0)
    """Generation cap, in tokens of the policy."""
    max_words: int | None = Field(default=None, gt=0)
    """Stated to the policy, the RM and the MRM: no criterion may ask for more."""
    min_words: int = Field(default=1, ge=0)
    """Least words of a response; below it a rule gives the floor of the scale, without the RM."""


class RMSpec(_Spec):
    """How the RM grades."""

    protocol: Protocol = "single"
    temperature: float = Field(default=0.0, ge=0)
    max_tokens: int = Field(default=1024, gt=0)
    """Most tokens of one answer."""
    criteria_per_call: int | None = Field(default=None, gt=0)
    """`single` only: a longer rubric is split over several calls; one call if None."""
    shuffle: bool | None = None
    """Ask for the criteria in an order drawn per prompt and step, against order effects; None:
    with `single` only, where one answer holds all scores."""
    answer_check: Literal["off", "per_rollout", "per_batch"] = "off"
    """Grade some rollouts by their final answer alone, without the RM (paper §3.3.3): drawn for
    each rollout, or once for all rollouts of a step, as the published code does."""
    answer_share: float = Field(default=0.5, ge=0, le=1)
    """Share, or chance, of being graded so."""


class _Rule(_Spec):
    name: str = ""
    """Reason that the judgement gives when it fires; the kind if empty."""
    raw: float | None = None
    """Reward in the `raw` scale; the floor of the rubric if None, and always in other scales."""

    @property
    def title(self) -> str:
        """The name for the record."""
        return self.name or str(getattr(self, "kind", ""))


def _check_pattern(pattern: str | None) -> str | None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return pattern


class MinWords(_Rule):
    """Fires below a number of words."""

    kind: Literal["min_words"]
    words: int = Field(gt=0)
    without: str | None = None
    """Regular expression of what does not count, e.g. a verdict tag."""

    _pattern = field_validator("without")(_check_pattern)


class Requires(_Rule):
    """Fires where a regular expression is not found, e.g. a verdict tag."""

    kind: Literal["requires"]
    pattern: str

    _pattern = field_validator("pattern")(_check_pattern)


class AnswerOnly(_Rule):
    """Fires where fewer than `words` words stand beside the boxed answers."""

    kind: Literal["answer_only"]
    words: int = Field(default=1, gt=0)


Rule = Annotated[MinWords | Requires | AnswerOnly, Field(discriminator="kind")]


class CohortSpec(_Spec):
    """Parts of the task with a rubric of their own."""

    column: str
    """Rows with different values are in different cohorts."""
    clusters: int = Field(default=1, ge=1)
    """Clusters of similar prompts that each of them is split into (`mpo task cohorts`)."""


class TaskSpec(_Spec):
    """`task.yaml`."""

    name: str
    description: str
    """One or two sentences, shown to the RM and the MRM."""
    dataset: DatasetSpec = DatasetSpec()
    prompt: str = "{{prompt}}"
    """Template of the policy's prompt; placeholders are dataset columns."""
    response: ResponseSpec = ResponseSpec()
    rm: RMSpec = RMSpec()
    rules: tuple[Rule, ...] = ()
    """Rules, applied in order before the RM grades; the first that fires decides."""
    cohorts: CohortSpec | None = None

    @property
    def limits(self) -> str:
        """The response limits in words, for prompts; empty when there are none."""
        top = self.response.max_words
        return f"A response may have at most {top} words." if top else ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The dataset columns that a run needs, each once."""
        data = self.dataset
        prompt = [data.prompt_column if n == "prompt" else n for n in placeholders(self.prompt)]
        others = [data.reference_column, data.answer_column]
        others += [self.cohorts.column] if self.cohorts else []
        return tuple(dict.fromkeys([*prompt, *(name for name in others if name)]))

    def contradictions(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Keys that do not go together, each with what is wrong."""
        data, rm = self.dataset, self.rm
        shown: dict[tuple[str, ...], tuple[str, ...]] = {
            ("prompt",): placeholders(self.prompt),
            ("dataset", "prompt_column"): (data.prompt_column,),
            ("dataset", "reference_column"): (data.reference_column or "",),
        }
        for key, names in shown.items():
            for name in names:
                if name in data.hidden_columns:
                    yield key, f"column {name!r} is among dataset.hidden_columns"
        if rm.protocol == "plan_execute" and data.reference_column is None:
            yield ("rm", "protocol"), "plan_execute needs dataset.reference_column"
        if rm.criteria_per_call is not None and rm.protocol != "single":
            yield ("rm", "criteria_per_call"), "goes with protocol single only"
        if rm.answer_check != "off" and not (data.reference_column or data.answer_column):
            yield (
                ("rm", "answer_check"),
                "needs dataset.answer_column or dataset.reference_column",
            )
