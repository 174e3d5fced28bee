"""The keys of a config: what each is, its unit and its default.

A key earns its place by being something that a person changes between runs; what belongs to a task
is in the task's folder. `docs/config.md` is generated from these classes.
"""

from __future__ import annotations

import math
import types
import typing
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..chat import StructuredOutput
from ..errors import ConfigError
from ..evolve.options import Evolve
from ..judge.options import Scoring
from ..operational import Operational, is_marked
from ..redaction import find_secret, is_variable_name
from ..service.service import ServiceSettings
from ..training.settings import TrainerSettings
from .arms import ARMS
from .plugins import is_simulated

__all__ = [
    "BudgetConfig",
    "ChatConfig",
    "Config",
    "DataConfig",
    "is_operational",
    "leaf_keys",
    "operational_keys",
]


LIKE_CHAT = ("meta_chat", "second_judge")
"""Parts of a config that have the keys of `chat`."""


class _Part(BaseModel):
    # An error of pydantic's would repeat the values, and one of them may be a key.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _no_secret(cls, data: Any) -> Any:
        """A config is written into the run's folder, the store and the report: no key enters it.

        Raises a `ConfigError` instead of a `ValueError`, which would carry the value along.
        """
        secret = find_secret(data)
        if secret is not None:
            where, what = secret
            raise ConfigError(
                f"{where} holds {what}, and settings are written into the run's folder. Put it "
                "into an environment variable, and name the variable in api_key_env"
            )
        return data


class DataConfig(_Part):
    """Where the prompts come from; what is left out comes from the task."""

    path: str | None = None
    """JSONL, JSON, CSV, TSV or Parquet file, also with `.gz`; a folder that `save_to_disk` wrote; a
    hub id (`owner/name`, `owner/name:subset`), `sample` (the rows that ship with the task), or a
    plugin such as `sandbox`; the task's own dataset if None."""
    split: str | None = None
    """Split of a hub dataset, or of a saved one; the task's own if None."""
    columns: dict[str, str] = {}
    """The dataset's column by the name that the task uses: `{prompt: instruction}`."""
    limit: int | None = Field(default=None, gt=0)
    """Number of rows to use; all if None."""
    skip_bad: bool = False
    """Leave out rows that cannot be used and say how many, instead of refusing the dataset."""
    shuffle: bool = False
    """Shuffle the rows, in an order that follows from the run's seed, before `limit` cuts them."""


class ChatConfig(_Part):
    """A chat model: an endpoint, `{base_url: http://localhost:8000/v1, model: qwen}`, or one that a
    plugin brings, `{plugin: sandbox}`."""

    plugin: str | None = None
    """Plugin that brings the chat: its name (`sandbox`), or `module:attribute`."""
    options: dict[str, Any] = {}
    """Options of the plugin's chat. The sandbox has one, `judge`: `biased`, `unbiased` or
    `bad_mrm`."""
    base_url: Operational[str | None] = None
    """URL of an OpenAI-compatible endpoint, with the version: `http://localhost:8000/v1`."""
    model: str | None = None
    """Name by which the endpoint knows the model."""
    api_key_env: Operational[str] = "OPENAI_API_KEY"
    """Environment variable that holds the API key. The key itself never stands in a config."""
    timeout_s: Operational[float] = Field(default=120.0, gt=0)
    """Time limit of one attempt, in seconds. It grows for an endpoint that is slow, at most to
    `deadline_s`."""
    deadline_s: Operational[float] = Field(default=600.0, gt=0)
    """Time limit of one call with all its attempts and waits, in seconds."""
    retries: Operational[int] = Field(default=5, ge=0)
    """Number of attempts after the first."""
    concurrency: Operational[int] = Field(default=64, ge=1)
    """Most requests in flight at once."""
    window_tokens: Operational[int | None] = Field(default=None, gt=0)
    """Tokens that the model reads and writes in one call, counted roughly. A completion that
    does not fit stays unscored, without a call; the texts that a meta-reward model reads are
    clipped, with a mark. None: it is left to the endpoint."""
    structured_output: Operational[StructuredOutput | Literal["auto"]] = "auto"
    """How the endpoint is held to a schema: `json_schema`, `json_object_schema`, `json_object` or
    `lines`; `auto` detects what it enforces."""
    max_tokens_field: Operational[str] = "max_tokens"
    """The endpoint's name for this field of a request; where one name is refused, the other usual
    one is used."""
    extra_body: dict[str, Any] = {}
    """Fields added to each request, for options of one server:
    `{chat_template_kwargs: {enable_thinking: false}}`. The value null takes a field out."""

    @field_validator("api_key_env")
    @classmethod
    def _variable(cls, name: str) -> str:
        if not is_variable_name(name):  # most likely the key itself, so it is not repeated
            raise ConfigError(
                "api_key_env must be the name of an environment variable, like OPENAI_API_KEY, and "
                "the value is no such name. Put the key into the variable, not here"
            )
        return name

    @model_validator(mode="after")
    def _one_kind(self) -> ChatConfig:
        if self.plugin is not None and self.base_url is not None:
            raise ValueError("plugin and base_url exclude each other; leave one out")
        if self.plugin is None and (self.base_url is None or self.model is None):
            raise ValueError(
                "name a model: base_url and model, or plugin; e.g. "
                "{base_url: http://localhost:8000/v1, model: qwen}"
            )
        if self.plugin is None and self.options:
            raise ValueError("options are a plugin's: add plugin, or leave them out")
        return self


class BudgetConfig(_Part):
    """Caps on what a run may spend, over all its models. A run that reaches a cap stops; the same
    command continues it under a larger one."""

    usd: float | None = Field(default=None, gt=0)
    """Cap in US dollars; every model then needs its price. None: no cap."""
    tokens: int | None = Field(default=None, gt=0)
    """Cap on prompt and completion tokens together. None: no cap."""
    calls: int | None = Field(default=None, gt=0)
    """Cap on completed requests. None: no cap."""
    prices: dict[str, list[float]] = {}
    """Prices by model, in US dollars per million tokens: `{qwen: [prompt, completion]}`; a third
    number is the price of prompt tokens that the endpoint had cached."""

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


class Config(_Part):
    """Everything that a run is made of."""

    task: str = "essay"
    """Name of a built-in task, or a task folder."""
    model: str
    """The policy: a folder or hub id that transformers can load, or a plugin such as `sandbox`."""
    seed: int = Field(default=0, ge=0)
    """Random seed for every choice of the run."""
    arm: str = "mpo"
    """Way of running the task: `base`, `fixed`, `expert`, `oracle`, `autoprompt`, `blind` or
    `mpo`."""
    rubric: str | None = None
    """File of the seed rubric; the task's own if None."""
    data: DataConfig = DataConfig()
    chat: ChatConfig
    """The model that grades (RM)."""
    meta_chat: ChatConfig | None = None
    """The model that rewrites rubrics (MRM), with the keys of `chat`; the RM's if None."""
    second_judge: ChatConfig | None = None
    """A second RM, of another family, with the keys of `chat`. It grades 5 % of the rollouts under
    the same rubric, for the monitor of the gap between the two; none if None."""
    reward: Scoring = Scoring()
    meta: Evolve = Evolve()
    trainer: TrainerSettings = TrainerSettings.model_validate({})
    budget: Operational[BudgetConfig] = BudgetConfig()
    cache: Operational[bool] = True
    """Keep the answers of real endpoints in the store, so that no call is paid for twice."""
    service: Operational[ServiceSettings] = ServiceSettings()

    @field_validator("arm")
    @classmethod
    def _known_arm(cls, arm: str) -> str:
        if arm not in ARMS:
            raise ValueError(f"unknown arm {arm!r}; there are {', '.join(ARMS)}")
        return arm

    @property
    def simulated(self) -> dict[str, bool]:
        """True for each part of the run that is simulated, False for each real one; all that the
        run prints says so."""
        return {
            "policy": is_simulated(self.model),
            "data": is_simulated(self.data.path),
            **self.simulated_models,
        }

    @property
    def simulated_models(self) -> dict[str, bool]:
        """The same for the models that are asked: all there is of a run that another engine
        trains."""
        chats = {
            "judge": self.chat,
            "meta-reward model": self.meta_chat,
            "second judge": self.second_judge,
        }
        return {
            role: is_simulated(chat.plugin, chat.model or "")
            for role, chat in chats.items()
            if chat is not None
        }

    @property
    def evolve(self) -> Evolve:
        """The part `meta` as the arm uses it: only an arm that evolves changes its rubric while the
        policy trains."""
        if ARMS[self.arm].evolves:
            return self.meta
        return self.meta.model_copy(update=_UNCHANGED)


_UNCHANGED = {"every": None, "alarm_distance": None, "canaries": False}
"""Parts of `meta` for an arm that keeps its rubric."""


def leaf_keys(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Dotted names of all keys that take a value, in order."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        part = part_of(field.annotation)
        keys += [prefix + name] if part is None else leaf_keys(part, f"{prefix}{name}.")
    return keys


def is_operational(key: str) -> bool:
    """True for a key that may change while a run goes on.

    Args:
        key: Dotted name; it may go on into a value (`budget.prices.qwen`).
    """
    model: type[BaseModel] | None = Config
    for name in key.split("."):
        field = model.model_fields.get(name) if model is not None else None
        if field is None:
            return False
        if is_marked(field):
            return True
        model = part_of(field.annotation)
    return False


def operational_keys() -> list[str]:
    """Keys that may change while a run goes on; a part of which all may, by its own name. Those of
    `meta_chat` and `second_judge`, which are the keys of `chat`, are not repeated."""
    keys = [key for key in leaf_keys() if is_operational(key)]
    parts = {key.partition(".")[0]: None for key in leaf_keys() if "." in key}
    whole = [part for part in parts if is_operational(part)]
    one_by_one = [k for k in keys if k.partition(".")[0] not in (*whole, *LIKE_CHAT)]
    return [*one_by_one, *(f"{part}.*" for part in whole)]


def part_of(annotation: object) -> type[BaseModel] | None:
    """The model behind a field's annotation (`Part`, `Part | None`); None for a leaf."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [part_of(option) for option in typing.get_args(annotation)]
        return next((part for part in parts if part is not None), None)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None
