"""The keys of `service` in a config."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ServiceSettings"]


class ServiceSettings(BaseModel):
    """The reward over HTTP (`mpo serve`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every_items: int | None = Field(default=None, ge=1)
    """Training items between meta steps, for engines that cannot say when: the service then holds
    them itself. None leaves it to the engine (`POST /v1/meta_step`)."""
    deadline_s: float = Field(default=120.0, gt=0, le=3600)
    """Longest time until an answer, in seconds. Stay below the engine's own time-out (OpenRLHF: 180
    s): what is not there by then is unscored, and its judgement is kept for the retry."""
