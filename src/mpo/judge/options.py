"""`Scoring`: how judgements become rewards. Options of `EvolvingReward`, and the config's
`reward:`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..operational import Operational
from .injection_flags import OnInjection
from .scale import Anchored, Normalized, Raw, Scale

__all__ = ["SCALES", "STEP_DEADLINE_S", "Scoring", "name_or_object"]

SCALES: dict[str, type[Scale]] = {"normalized": Normalized, "raw": Raw, "anchored": Anchored}
"""Scales by the name in a config."""

STEP_DEADLINE_S = 1500.0
"""Default of `Scoring.deadline_s`, in seconds: ranks wait for each other, and torch.distributed
gives up after 1800."""


class Scoring(BaseModel):
    """From the RM's scores to the reward.

    Raises:
        pydantic.ValidationError: An unknown name, or a value out of range (a `ValueError`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    scale: Literal["normalized", "raw", "anchored"] | Scale = "normalized"
    """`normalized`: 0 to 1 under every rubric. `raw`: the paper's plain sum. `anchored`:
    normalized, and a sample of rollouts keeps its mean and spread when the rubric changes. In
    Python also an object that satisfies `mpo.judge.scale.Scale`."""
    max_unscored: Operational[float] = Field(default=0.2, ge=0, le=1)
    """Largest share of one step that may stay unscored, 0 to 1, over all calls and ranks; above it
    the run stops. A single unscored rollout never stops a run."""
    deadline_s: Operational[float | None] = Field(default=STEP_DEADLINE_S, gt=0)
    """Longest time for one call of `score`, in seconds; what has no answer by then is unscored.
    None: every call ends by the chat's own deadline."""
    on_injection: OnInjection = "observe"
    """Treatment of a text that speaks to its grader: `observe` counts it, `penalize` takes a
    quarter of the scale's span, `refuse` gives it the lowest reward."""
    control_strings: tuple[str, ...] = ()
    """Control strings of the judge's chat template beyond those that `mpo.sanitize` knows, such as
    `<|turn_over|>`: no response may say them. Trainers add what the policy's tokenizer calls
    special."""

    @field_validator("scale", mode="plain")
    @classmethod
    def _known_scale(cls, scale: Any) -> Any:
        return name_or_object(scale, SCALES, ("reward", "floor", "anchors", "refit"))

    def make_scale(self) -> Scale:
        """The scale that `scale` names, or the caller's own."""
        return SCALES[self.scale]() if isinstance(self.scale, str) else self.scale


def name_or_object(value: Any, names: Collection[str], members: Collection[str]) -> Any:
    """`value` if it is one of `names`, or an object that has all `members`.

    Raises:
        ValueError: It is neither; the message gives the choices.
    """
    if isinstance(value, str):
        known = value in names
    else:
        known = all(hasattr(value, member) for member in members)
    if not known or isinstance(value, type):
        *rest, last = map(repr, names)
        choices = f"{', '.join(rest)} or {last}" if rest else last
        own = ", ".join(members)
        raise ValueError(f"should be {choices}, or an object with {own}, not {value!r:.80}")
    return value
