"""OpenRLHF's own dialect (0.11): the requests of its `--reward.remote_url`.

    POST {"query": [prompt + response], "prompts": [prompt], "labels": [label]}
    200  {"rewards": [0.5], "scores": [0.5], "extra_logs": {"mpo_unscored": [0.0], ...}}

The lists have one element in practice, and the texts contain special tokens. The client knows no
step and no group, so these come from the count and the prompt, or from the label: a JSON object in
it may have `id` (the dataset's row, whose completions are a group), `prompt` (as the RM should read
it), `cohort`, `mode` ("eval") and `columns`.

The client cannot take "unscored": it gets a mean, flagged in `extra_logs`. If there is no mean yet,
the request fails and the client sends it again.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..records import Mode
from ..task import Task
from .service import RewardService
from .wire import MAX_ITEMS, METRICS, Item, Refusal, Result, ScoreOptions, ScoreRequest

__all__ = ["Query", "Rewards", "completion_of", "score_query"]

_OPTIONS = ScoreOptions(
    on_failure="group_mean", deadline_s=170.0
)  # the client gives up after 180 s
_MODES: tuple[Mode, ...] = ("train", "eval")

_TOKEN = r"(?:<\|[^|<>\s]{1,40}\|>|</?s>|<(?:pad|eos|bos|unk|end_of_turn|start_of_turn)>)"
_ANY = re.compile(_TOKEN)
_AT_END = re.compile(rf"(?:\s*{_TOKEN})+\s*\Z")
_AT_START = re.compile(rf"\A\s*(?:{_TOKEN}\s*)+")


class Query(BaseModel):
    """Request of OpenRLHF's client."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    query: Annotated[list[str], Field(max_length=MAX_ITEMS)]
    prompts: Annotated[list[str], Field(max_length=MAX_ITEMS)]
    labels: Annotated[list[Any], Field(max_length=MAX_ITEMS)] = Field(default_factory=list)


class Rewards(BaseModel):
    """Response to OpenRLHF's client."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


async def score_query(query: Query, service: RewardService) -> Rewards:
    """Score a query: rewards in the order of its texts, and nothing but numbers.

    Raises:
        Refusal: The lists do not match, a query does not begin with its prompt, or an item is
            unscored and there is no mean yet.
    """
    items = _items(query, service.reward.task)
    requests = [
        ScoreRequest(
            mode=mode, items=[item for item, own in items if own == mode], options=_OPTIONS
        )
        for mode in _MODES
    ]
    # At once: one after the other, they could take twice the client's deadline.
    responses = await asyncio.gather(*(service.score(request) for request in requests))
    by_mode = {mode: iter(r.results) for mode, r in zip(_MODES, responses, strict=True)}
    return _rewards([next(by_mode[mode]) for _, mode in items])


def _items(query: Query, task: Task) -> list[tuple[Item, Mode]]:
    labels = query.labels or [None] * len(query.query)
    if not len(query.query) == len(query.prompts) == len(labels):
        raise Refusal(
            422,
            f"{len(query.query)} queries, {len(query.prompts)} prompts and {len(labels)} labels: "
            "send as many of each",
        )
    return [
        _item(text, prompt, label, task)
        for text, prompt, label in zip(query.query, query.prompts, labels, strict=True)
    ]


def _rewards(results: Sequence[Result]) -> Rewards:
    rewards: list[float] = []
    scores: list[float] = []
    for result in results:
        assert result.reward is not None  # `_OPTIONS` ask for a mean
        rewards.append(result.reward)
        scores.append(result.reward if result.score is None else result.score)
    logs = {key: [result.metrics[key] for result in results] for key in METRICS}
    return Rewards(rewards=rewards, scores=scores, extra_logs=logs)


def _item(text: str, prompt: str, label: Any, task: Task) -> tuple[Item, Mode]:
    facts = _facts(label, task)
    mode: Mode = "eval" if facts.pop("mode", "train") == "eval" else "train"
    rm_prompt = facts.pop("prompt", None)
    try:
        item = Item(
            prompt=rm_prompt if rm_prompt is not None else _ANY.sub("", prompt).strip(),
            completion=completion_of(text, prompt),
            # A label belongs to a row of the dataset, whose completions are a group.
            group_id=facts.pop("id", ""),
            **facts,
        )
    except (ValidationError, TypeError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise Refusal(422, f"this label cannot be used: {first}") from None
    return item, mode


def _facts(label: Any, task: Task) -> dict[str, Any]:
    """Contents of a label: our JSON object, or else the dataset's answer."""
    if isinstance(label, str) and label.lstrip().startswith("{"):
        try:
            # A NaN of the data set's is no value.
            facts = json.loads(label, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            facts = None
        known = ("id", "prompt", "cohort", "mode", "columns")
        if isinstance(facts, dict) and facts and all(key in known for key in facts):
            return facts
    if label in (None, "") or (isinstance(label, float) and not math.isfinite(label)):
        return {}
    data = task.spec.dataset
    return {"columns": {data.answer_column or data.reference_column or "label": label}}


def completion_of(query: str, prompt: str) -> str:
    """The policy's text: the query without its prompt and without special tokens around it.

    Raises:
        Refusal: The query does not begin with the prompt.
    """
    # A tokenizer may put a token of its own before the prompt (<s>), and only there.
    tokens = _AT_START.match(query)
    start = query.find(prompt, 0, len(prompt) + (tokens.end() if tokens else 0))
    if start < 0:
        raise Refusal(
            422,
            "a query does not begin with its prompt, so its completion cannot be found: check "
            "that the prompt was not truncated",
        )
    text = query[start + len(prompt) :]
    return _AT_START.sub("", _AT_END.sub("", text)).strip()
