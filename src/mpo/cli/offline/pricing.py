"""Calls, tokens and dollars of `mpo score` and `mpo evolve`, estimated before anything is paid."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

import typer

from ...chat import Price
from ...config import Config
from ...records import Usage
from ..plan import make_plan
from ..run_view import short
from .session import OfflineSession

__all__ = ["estimate_cost", "print_estimate"]


def estimate_cost(session: OfflineSession, judgements: int, samples: int = 0) -> dict[str, Any]:
    """Estimate from the task's own prompts and the lengths of the file's texts.

    Args:
        session: The file and its reward.
        judgements: Number of judgements that are needed.
        samples: Rollouts that the meta step looks at; 0 for no meta step.

    Returns:
        JSON values: `judgements`, `calls`, `prompt_tokens`, `completion_tokens`, and `usd`, None
        without a price.
    """
    options = session.options
    config = Config.model_validate(
        {
            "task": options.task,
            "model": "none",
            "chat": {"plugin": "sandbox"},
            "rubric": str(options.rubric) if options.rubric is not None else None,
            "meta": {"every": 1, "samples": max(samples, 1), "gate": "always", "delay": 0},
            "trainer": {"steps": 1, "batch_size": 2 * max(samples, 2), "num_generations": 2},
        }
    )
    plan = make_plan(
        config,
        prompt_words=_mean_words(row.rollout.prompt for row in session.rows),
        response_words=_mean_words(row.rollout.completion for row in session.rows),
    )
    usage = _usage(plan["rm"], judgements / plan["judgements"])
    if samples:
        usage = usage + _usage(plan["mrm"], 1.0)
    usd = None if session.price is None else round(Price(*session.price).of(usage), 6)
    return {
        "judgements": judgements,
        "calls": usage.calls,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "usd": usd,
    }


def _mean_words(texts: Iterable[str]) -> int:
    return max(1, round(fmean(len(text.split()) for text in texts)))


def _usage(figures: Mapping[str, int], times: float) -> Usage:
    return Usage(
        calls=round(figures["calls"] * times),
        prompt_tokens=round(figures["prompt_tokens"] * times),
        completion_tokens=round(figures["output_tokens"] * times),
    )


def print_estimate(estimate: Mapping[str, Any], *, as_json: bool = False) -> None:
    """Print an estimate: one line on stderr, or JSON on stdout."""
    if as_json:
        typer.echo(json.dumps(estimate, indent=2))
        return
    usd = "" if estimate["usd"] is None else f", about {estimate['usd']:.4f} USD"
    typer.echo(
        f"about {estimate['calls']:,} calls, {short(estimate['prompt_tokens'])} prompt and "
        f"{short(estimate['completion_tokens'])} completion tokens{usd}",
        err=True,
    )
