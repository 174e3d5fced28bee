"""Requests that one row leads to: recorded from the code that makes them, and sent to nobody."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import typer

from ..chat import ChatRequest, Completion
from ..config import policy_row
from ..data import COMPLETION, SourceRow
from ..errors import DataError
from ..evolve.evidence import Evidence
from ..evolve.meta_reward_model import MetaRewardModel
from ..judge import make_reward_model
from ..records import Case, Judgement, Rollout, Usage
from ..task import Task
from .dry_run import answer_to

__all__ = ["show_requests", "task_requests"]

FILLER = "(the policy's completion)"
_SECRET = b"task show"


class _Recorder:
    """A chat that keeps what it is asked, and answers in the shape that is wanted."""

    name = "nobody"

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    async def complete(self, request: ChatRequest) -> Completion:
        self.requests.append(
            {
                "messages": list(request.messages),
                "temperature": request.temperature,
                "max_tokens": request.max_tokens,
                "schema": request.schema,
            }
        )
        text = "(its answer)" if request.schema is None else json.dumps(answer_to(request.schema))
        return Completion(text=text, usage=Usage())

    async def aclose(self) -> None:
        return None


def task_requests(task: Task, row: SourceRow, completion: str = "") -> dict[str, Any]:
    """The policy's prompt, and the requests of the RM and the MRM, as JSON.

    Args:
        task: The task.
        row: Row of its data set.
        completion: Text to be judged; the row's own if empty, else a filler.

    Raises:
        DataError: The row lacks a column that the task needs.
    """
    values = policy_row(task, row)
    prompt = task.policy_prompt(values)
    if not completion:
        try:
            completion = row.completion(*COMPLETION)
        except DataError:
            completion = FILLER
    rollout = Rollout(prompt=prompt, completion=completion, columns=values)
    if task.spec.rm.answer_check != "off":
        task = task.with_rm(answer_check="off")
    rm, mrm = _Recorder(), _Recorder()
    result = asyncio.run(make_reward_model(task, rm, _SECRET).judge(rollout, task.rubric))
    judgement = Judgement(
        key="shown",
        rollout_id=rollout.id,
        rubric_id=task.rubric.id,
        scores=result.scores,
        reward=0.0,
        normalized_reward=0.0,
    )
    evidence = Evidence(cases=(Case(rollout=rollout, judgement=judgement),), baseline=())
    asyncio.run(MetaRewardModel(mrm, task, secret=_SECRET).run(evidence, task.rubric))
    return {"where": row.where, "policy": prompt, "rm": rm.requests, "mrm": mrm.requests}


def show_requests(requests: dict[str, Any]) -> None:
    """Print requests for a person."""
    typer.echo(f"row: {requests['where']}\n\n=== policy ===\n{requests['policy']}")
    names = {"rm": "reward model", "mrm": "meta-reward model"}
    for role, name in names.items():
        for number, request in enumerate(requests[role], start=1):
            typer.echo(
                f"\n=== {name}, request {number} of {len(requests[role])}: "
                f"temperature {request['temperature']:g}, max_tokens {request['max_tokens']} ==="
            )
            for message in request["messages"]:
                typer.echo(f"[{message['role']}]\n{message['content']}\n")
            if request["schema"] is not None:
                typer.echo(f"schema: {json.dumps(request['schema'])}")
