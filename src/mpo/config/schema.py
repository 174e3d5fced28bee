"""The keys of a config: what each is, its unit and its default.

At most 60 leaf keys in all (a test counts them; `meta_chat` and `second_judge` have the keys of
`chat` and count as one each). A key earns its place by being something that a
person changes between runs; what belongs to a task is in the task's folder.
"""

from __future__ import annotations

import math
import types
import typing
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..chat import StructuredOutput
from ..judge.injection_flags import OnInjection
from ..service.settings import ServiceSettings
from ..training.settings import TrainerSettings
from .arms import ARMS

__all__ = [
    "BudgetConfig",
    "ChatConfig",
    "Config",
    "DataConfig",
    "MetaConfig",
    "RewardConfig",
    "leaf_keys",
]

SANDBOX = "sandbox"
"""As `model`, `data.path` or `chat.sandbox`: the offline one that ships with the package."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(_Part):
    """Where the prompts come from; what is left out comes from the task."""

    path: str | None = None
    """Local JSONL, JSON or Parquet file, a hub id, or `sandbox`."""
    split: str | None = None
    """Of a hub dataset."""
    limit: int | None = Field(default=None, gt=0)
    """Rows to use; all if None."""
    shuffle: bool = False
    """In an order that the run's seed decides; before `limit` cuts."""


class ChatConfig(_Part):
    """A model that is asked: `{base_url: http://localhost:8000/v1, model: qwen}`, or
    `{sandbox: true}`."""

    sandbox: bool = False
    """The simulated model, in this process."""
    base_url: str | None = None
    """Up to and including the version: `http://localhost:8000/v1`."""
    model: str | None = None
    """Name that the endpoint knows the model by."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable with the API key. The key itself never stands in a config."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Of one attempt, in seconds."""
    retries: int = Field(default=5, ge=0)
    """Attempts after the first."""
    concurrency: int = Field(default=64, ge=1)
    """Most requests in flight."""
    structured_output: StructuredOutput | Literal["auto"] = "auto"
    """How answers are held to a shape; `auto` finds out what the endpoint enforces."""

    @model_validator(mode="after")
    def _one_kind(self) -> ChatConfig:
        if self.sandbox and self.base_url is not None:
            raise ValueError("sandbox: true and base_url exclude each other; leave one out")
        if not self.sandbox and (self.base_url is None or self.model is None):
            raise ValueError(
                "say which model is asked: base_url and model, or sandbox: true; e.g. "
                "{base_url: http://localhost:8000/v1, model: qwen}"
            )
        return self


class RewardConfig(_Part):
    """From the RM's scores to the reward."""

    scale: Literal["normalized", "raw", "anchored"] = "normalized"
    """`normalized`: 0 to 1 under every rubric. `raw`: the paper's plain sum. `anchored`:
    normalized, and a sample of rollouts keeps its mean and spread when the rubric changes."""
    max_unscored: float = Field(default=0.2, ge=0, le=1)
    """Largest share of one step that may stay unscored; above it the run stops."""
    on_injection: OnInjection = "observe"
    """What happens to a text that speaks to its grader; see `mpo.judge.injection_flags`."""


class BudgetConfig(_Part):
    """What a run may spend in all, over all its models. A run that has spent it stops, and goes on
    with a larger one."""

    usd: float | None = Field(default=None, gt=0)
    """US dollars; every model then needs its price."""
    tokens: int | None = Field(default=None, gt=0)
    """Prompt and completion tokens together."""
    calls: int | None = Field(default=None, gt=0)
    """Completed requests."""
    prices: dict[str, list[float]] = {}
    """US dollars per million tokens, by model: `{qwen: [prompt, completion]}`, and a third number
    for prompt tokens that the endpoint had cached."""

    @field_validator("prices")
    @classmethod
    def _two_or_three(cls, prices: dict[str, list[float]]) -> dict[str, list[float]]:
        for model, price in prices.items():
            if len(price) not in (2, 3) or not all(0 <= part < math.inf for part in price):
                raise ValueError(
                    f"the price of {model!r} is [prompt, completion] or [prompt, completion, "
                    f"cached], in US dollars per million tokens, not {price!r}"
                )
        return prices


class MetaConfig(_Part):
    """When and from what the rubric is rewritten."""

    every: int = Field(default=10, ge=1)
    """Updates between meta steps (paper §3.2: 10 for essays)."""
    samples: int = Field(default=16, ge=1)
    """Rollouts per meta step."""
    selection: Literal["uniform", "stratified", "prescreen", "prescreen+uniform"] = "uniform"
    """How they are picked; `prescreen` has the MRM label all of them first."""
    others: int = Field(default=6, ge=0)
    """Other cases of the sample that the MRM sees beside each."""
    earlier: int = Field(default=6, ge=0)
    """Cases from the start of the run that it sees for comparison."""
    gate: str | list[str] = "probes"
    """What decides whether a proposal becomes the rubric: `always` (the paper), `probes`,
    `pairs:FILE` (labelled preference pairs), or a list of which all must accept. With any but
    `always`, canaries are read after each switch too, and an earlier rubric comes back where they
    fail twice in a row (`mpo.watch`)."""
    lint: bool = True
    """Check proposals without a model, have the MRM mend one with errors once, then refuse it."""
    delay: int = Field(default=4, ge=0)
    """Updates between a meta step's start and its decision; it runs in the background meanwhile.
    0 waits for it (the paper)."""
    alarm: int | None = Field(default=None, ge=1)
    """A monitor's alarm calls for a meta step too, at least so many updates after the last one;
    alarms only inform if None."""
    analysis: Literal["per_case", "joint"] = "per_case"
    """An analysis per case and one merge, or one of all cases and no merge (the paper's math)."""
    rationales: bool = True
    """Show the MRM scores and rationales per criterion; the published code shows the total."""

    @model_validator(mode="after")
    def _one_at_a_time(self) -> MetaConfig:
        if self.delay >= self.every:
            raise ValueError(
                f"delay={self.delay} must be below every={self.every}: a meta step is "
                "decided before the next one starts"
            )
        return self


class SandboxConfig(_Part):
    """The simulated chat model. The run's seed draws its biases."""

    judge: Literal["biased", "unbiased", "bad_mrm"] = "biased"
    """`unbiased` grades honestly; `bad_mrm` is biased, and a third of its merges is truncated, off
    the topic or poisoned: for testing gates."""


class Config(_Part):
    """Everything that a run is made of."""

    task: str = "essay"
    """A built-in task, or a task folder."""
    model: str
    """The policy: a folder or hub id that transformers can load, or `sandbox`."""
    seed: int = Field(default=0, ge=0)
    """Of every random choice of the run."""
    arm: str = "mpo"
    """Which way of running the task; see `arms.py`."""
    rubric: str | None = None
    """File of the seed rubric; the task's own if None."""
    data: DataConfig = DataConfig()
    chat: ChatConfig
    """The model that grades (RM)."""
    meta_chat: ChatConfig | None = None
    """The model that rewrites rubrics (MRM); the RM's if None."""
    second_judge: ChatConfig | None = None
    """A second RM, of another family, that grades 5 % of the rollouts under the same rubric: a
    monitor of the gap; nobody if None."""
    reward: RewardConfig = RewardConfig()
    meta: MetaConfig = MetaConfig()
    trainer: TrainerSettings = TrainerSettings.model_validate({})
    budget: BudgetConfig = BudgetConfig()
    cache: bool = True
    """Keep the answers of real endpoints in the store, and ask nothing twice."""
    service: ServiceSettings = ServiceSettings()
    sandbox: SandboxConfig = SandboxConfig()

    @field_validator("arm")
    @classmethod
    def _known_arm(cls, arm: str) -> str:
        if arm not in ARMS:
            raise ValueError(f"unknown arm {arm!r}; there are {', '.join(ARMS)}")
        return arm

    @property
    def is_sandbox(self) -> bool:
        """Whether any number of this run comes from the sandbox: all it prints then says so."""
        chats = [c for c in (self.chat, self.meta_chat, self.second_judge) if c is not None]
        return self.model == SANDBOX or self.data.path == SANDBOX or any(c.sandbox for c in chats)

    @property
    def guarded(self) -> bool:
        """Whether canaries are read after each switch: wherever rubrics change and a gate checks
        proposals. Under `always` nothing stands in the way of a proposal (the paper)."""
        gates = [self.meta.gate] if isinstance(self.meta.gate, str) else self.meta.gate
        return ARMS[self.arm].evolves and any(gate != "always" for gate in gates)


def leaf_keys(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Dotted names of all keys that take a value, in order."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        part = part_of(field.annotation)
        keys += [prefix + name] if part is None else leaf_keys(part, f"{prefix}{name}.")
    return keys


def part_of(annotation: object) -> type[BaseModel] | None:
    """The model behind a field's annotation (`Part`, `Part | None`); None for a leaf."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [part_of(option) for option in typing.get_args(annotation)]
        return next((part for part in parts if part is not None), None)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None
