"""`mpo plan`: what a run will ask and cost, before it starts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import typer

from ..config import load_config
from .planning import make_plan

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def plan(
    config: str = typer.Argument(..., help="A YAML file, or a preset such as paper/essay."),
    overrides: list[str] = typer.Argument(None, metavar="KEY=VALUE", help="Config overrides."),
    price: str = typer.Option(
        "",
        metavar="PROMPT,COMPLETION[,CACHED]",
        help="US dollars per million tokens, of both models; budget.prices if empty.",
    ),
    prompt_words: int = typer.Option(0, min=0, help="Words of a prompt; 0: measured on rows."),
    response_words: int = typer.Option(
        0, min=0, help="Words of a response; 0: what the task allows."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Say what a run will ask and cost.

    Nothing is loaded or asked.

    Tokens are estimated from the task's own prompts; what was assumed is printed too.

    Example: mpo plan paper/essay --price 0.4,0.4
    """
    found = make_plan(
        load_config(config, overrides or []),
        _price(price),
        prompt_words=prompt_words or None,
        response_words=response_words or None,
    )
    typer.echo(json.dumps(found, indent=2) if as_json else _shown(found))


def _price(text: str) -> list[float] | None:
    if not text.strip():
        return None
    try:
        price = [float(part) for part in text.split(",")]
    except ValueError:
        price = []
    if len(price) not in (2, 3) or not all(0 <= part < math.inf for part in price):
        raise typer.BadParameter(
            f"{text!r}: write PROMPT,COMPLETION or PROMPT,COMPLETION,CACHED, in US dollars per "
            "million tokens, e.g. 0.4,0.4",
            param_hint="--price",
        )
    return price


def _shown(found: Mapping[str, Any]) -> str:
    cohorts = f", each for {found['cohorts']} cohorts" if found["cohorts"] > 1 else ""
    lines = [
        f"arm {found['arm']}{' (sandbox)' if found['sandbox'] else ''}",
        f"updates        {found['updates']:>16,}",
        f"meta steps     {found['meta_steps']:>16,}{cohorts}",
        f"judgements     {found['judgements']:>16,}",
        f"RM calls       {found['rm_calls']:>16,}",
        f"MRM calls      {found['mrm_calls']:>16,}",
        *([f"audit calls    {found['audit_calls']:>16,}"] if found["audit_calls"] else []),
        f"prompt tokens  {found['prompt_tokens']:>16,}",
        f"  with a prefix cache {found['prompt_tokens_cached']:>9,}",
        f"output tokens  {found['output_tokens']:>16,}",
    ]
    if found["cost"] is None:
        lines.append("cost           no price given: --price PROMPT,COMPLETION[,CACHED]")
    else:
        lines.append(f"cost           {found['cost']:>16,.2f} USD")
    return "\n".join([*lines, "assumed:", *(f"  {line}" for line in found["assumptions"])])
