"""What `mpo score` and `mpo evolve` would ask and cost, said before anything is paid."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import typer

from ..chat import Price
from ..config import Config
from ..records import Usage
from .offline import Offline
from .plan import make_plan
from .run_view import short

__all__ = ["estimate", "say_estimate"]


def estimate(opened: Offline, judgements: int, samples: int = 0) -> dict[str, Any]:
    """Calls, tokens and dollars, from the task's own prompts and the file's own lengths.

    Args:
        opened: The file, with what scores it.
        judgements: That would be asked for.
        samples: Rollouts that a meta step looks at; 0 for no meta step.

    Returns:
        JSON values: `judgements`, `calls`, `prompt_tokens`, `completion_tokens`, and `usd`, None
        without a price.
    """
    texts = [row.rollout for row in opened.rows]
    batch = 2 * max(samples, 2)
    config = Config.model_validate(
        {
            "task": opened.options.task,
            "model": "none",
            "chat": {"plugin": "sandbox"},
            "rubric": str(opened.options.rubric) if opened.options.rubric is not None else None,
            "meta": {"every": 1, "samples": max(samples, 1), "gate": "always", "delay": 0},
            "trainer": {"steps": 1, "batch_size": batch, "num_generations": 2},
        }
    )
    plan = make_plan(
        config,
        prompt_words=_words(text.prompt for text in texts),
        response_words=_words(text.completion for text in texts),
    )
    each = _usage(plan["rm"], judgements / plan["judgements"])
    whole = each + (_usage(plan["mrm"], 1.0) if samples else Usage())
    price = opened.price
    return {
        "judgements": judgements,
        "calls": whole.calls,
        "prompt_tokens": whole.prompt_tokens,
        "completion_tokens": whole.completion_tokens,
        "usd": None if price is None else round(Price(*price).of(whole), 6),
    }


def _words(texts: Any) -> int:
    return max(1, round(fmean(len(text.split()) for text in texts)))


def _usage(figures: Mapping[str, int], times: float) -> Usage:
    return Usage(
        calls=round(figures["calls"] * times),
        prompt_tokens=round(figures["prompt_tokens"] * times),
        completion_tokens=round(figures["output_tokens"] * times),
    )


def say_estimate(found: Mapping[str, Any]) -> None:
    """One line on stderr."""
    usd = "" if found["usd"] is None else f", about {found['usd']:.4f} USD"
    typer.echo(
        f"about {found['calls']:,} calls, {short(found['prompt_tokens'])} prompt and "
        f"{short(found['completion_tokens'])} completion tokens{usd}",
        err=True,
    )
