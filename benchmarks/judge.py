"""The cost of grading in time, processor, memory, calls and tokens.

python benchmarks/judge.py [--in-flight 64,256,512] [--json]

There are two tables. The load table sends real requests over a real socket to an endpoint that
answers after a fixed time (`server.py`), from a process of its own (`load.py`), all the way from
rollout to stored judgement. The cost table counts calls and prompt tokens of each protocol, beside
what the published code needs for the same material.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from statistics import median
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from material import make_reply, make_rollouts, make_rubric
from mpo.chat import Message, Schema, ScriptedChat
from mpo.errors import ConfigError
from mpo.judge import make_reward_model
from mpo.task import load_task
from program import run, say

HERE = Path(__file__).parent

TOKENS_PER_WORD = 1.3
CRITERIA = (1, 5, 10, 20)
PROTOCOLS = {
    "single": "essay",
    "per_criterion": "essay",
    "dialogue": "essay",
    "plan_execute": "math",
}
"""The protocols, each with a built-in task that has its prompts."""
PUBLISHED = {
    1: {"calls": 2, "prompt_tokens": 1_763, "prompt_tokens_cached": 1_763 - 796},
    5: {"calls": 10, "prompt_tokens": 14_015, "prompt_tokens_cached": 14_015 - 1_836},
    10: {"calls": 20, "prompt_tokens": 41_030, "prompt_tokens_cached": 41_030 - 3_136},
    20: {"calls": 40, "prompt_tokens": 134_060, "prompt_tokens_cached": 134_060 - 5_736},
}
"""The published code's figures (minnesotanlp/mpo): its own prompts, captured from its frontend and
counted in words × 1.3; criteria of 125 words, a response of 350."""
AIMS = {"cpu_ms_per_judgement": 0.6, "fraction_of_ideal": {64: 0.95, 256: 0.80}}
"""On 2 cores with the server on the same machine, and nothing else running."""
ROUNDS = {"mpo": 15, "openai": 4}
"""Answers per place in flight, by client."""


def judge(
    in_flight: str = typer.Option("64,256,512", help="Requests in flight, comma-separated."),
    latency: float = typer.Option(0.2, min=0.001, help="Seconds that the endpoint takes."),
    criteria: int = typer.Option(5, min=1, help="Criteria of 125 words that each call grades."),
    repeat: int = typer.Option(3, min=1, help="Runs of each load; the median counts."),
    openai: bool = typer.Option(True, help="Also measure the official client, if installed."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Measure grading: rate, processor time and memory under load, calls and tokens by protocol.

    A local endpoint answers after a fixed time. The rates hold for a machine with nothing else to
    do; the load average is printed with them.

    Example: python benchmarks/judge.py --in-flight 64 --repeat 1
    """
    try:
        places = [int(part) for part in in_flight.split(",")]
    except ValueError:
        raise ConfigError(f"--in-flight {in_flight!r}: give numbers, e.g. 64,256") from None
    if min(places) < 1:
        raise ConfigError(f"--in-flight {in_flight!r}: each must be at least 1")
    where = machine()
    ours = loads(places, latency, criteria, repeat)
    note = sdk_missing() if openai else "left out, because of --no-openai"
    theirs = [] if note else loads(places, latency, criteria, 1, "openai")
    result = {
        "load": ours,
        "cost": costs(),
        "openai": peers(ours, theirs) if theirs else None,
        "openai_note": note,
        "criteria": criteria,
        "machine": {**where, "load_after": machine()["load_average"]},
    }
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        render(result, Console())


# ---------------------------------------------------------------------- load


def loads(
    in_flight: Sequence[int],
    latency_s: float,
    criteria: int,
    repeat: int,
    client: str = "mpo",
) -> list[dict[str, Any]]:
    """Medians of `repeat` runs at each number of requests in flight.

    Raises:
        ConfigError: A run failed.
    """
    rows = []
    with _server(latency_s, make_reply(make_rubric(criteria))) as url:
        for places in in_flight:
            spec = {
                "url": url,
                "in_flight": places,
                "rollouts": places * ROUNDS[client],
                "criteria": criteria,
                "client": client,
            }
            say(f"{client}: {places} in flight")
            runs = [_load(spec) for _ in range(repeat)]
            rate = median(run["judgements_per_s"] for run in runs)
            rows.append(
                {
                    "in_flight": places,
                    "latency_s": latency_s,
                    "judgements_per_s": round(rate, 1),
                    "fraction_of_ideal": round(rate * latency_s / places, 3),
                    "cpu_ms_per_judgement": round(
                        median(run["cpu_ms_per_judgement"] for run in runs), 3
                    ),
                    "peak_mb": round(max(run["peak_mb"] for run in runs), 1),
                }
            )
    return rows


@contextlib.contextmanager
def _server(latency_s: float, reply: str) -> Iterator[str]:
    command = [sys.executable, str(HERE / "server.py"), str(latency_s)]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(json.dumps(reply) + "\n")
        child.stdin.flush()
        port = child.stdout.readline().strip()
        if not port:
            raise ConfigError("bench: the latency server did not start")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        child.stdin.close()
        child.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(10)
        child.kill()
        child.wait()


def _load(spec: Mapping[str, Any]) -> dict[str, float]:
    command = [sys.executable, str(HERE / "load.py"), json.dumps(spec)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        last = process.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ConfigError(f"bench: a run with {spec['in_flight']} in flight failed: {last[0]}")
    result: dict[str, float] = json.loads(process.stdout)
    return result


def peers(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The official client's figures, and how many times ours are better."""
    return [
        {
            **peer,
            "times_cpu": round(peer["cpu_ms_per_judgement"] / own["cpu_ms_per_judgement"], 2),
            "times_rate": round(own["judgements_per_s"] / peer["judgements_per_s"], 2),
        }
        for own, peer in zip(ours, theirs, strict=True)
    ]


def sdk_missing() -> str:
    """Reason to leave out the official client; empty where it is installed."""
    if find_spec("openai") is not None:
        return ""
    return "the official openai client is not installed: that comparison is left out"


# ---------------------------------------------------------------------- cost


def costs() -> dict[str, dict[int, dict[str, int]]]:
    """Calls and prompt tokens per rollout, by protocol and number of criteria.

    `prompt_tokens_cached` is what a prefix cache serves of them, for the second and later rollouts
    of a group.
    """
    table: dict[str, dict[int, dict[str, int]]] = {}
    for protocol in PROTOCOLS:
        # Guidelines are one text.
        numbers = (1,) if protocol == "plan_execute" else CRITERIA
        table[protocol] = {n: asyncio.run(_cost(protocol, n)) for n in numbers}
    return table | {"published": PUBLISHED}


async def _cost(protocol: str, criteria: int) -> dict[str, int]:
    changes = {"answer_check": "off"} if PROTOCOLS[protocol] == "math" else {}
    task = load_task(PROTOCOLS[protocol]).with_rm(protocol=protocol, **changes)
    chat = ScriptedChat(_answer)
    model = make_reward_model(task, chat, b"bench")
    rubric = make_rubric(criteria)
    first, second = (
        rollout.model_copy(update={"columns": {"solution": "The reference solution."}})
        for rollout in make_rollouts(2)
    )
    for rollout in (first, second):
        verdict = await model.judge(rollout, rubric)
        if verdict.unscored is not None:
            raise ConfigError(f"bench: protocol {protocol}: {verdict.unscored}")
    prompts = [_words(call.messages) for call in chat.calls]
    half = len(prompts) // 2
    cached = sum(
        max(_common(prompt, before) for before in prompts[:at])
        for at, prompt in enumerate(prompts)
        if at >= half
    )
    words = sum(len(prompt) for prompt in prompts[half:])
    return {
        "calls": half,
        "prompt_tokens": round(TOKENS_PER_WORD * words),
        "prompt_tokens_cached": round(TOKENS_PER_WORD * cached),
    }


def _answer(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> str:
    """Rationales of 32 words, as in the material of the published code's figures."""
    reply: dict[str, Any] = json.loads(make_reply(make_rubric(1)))
    (entry,) = reply.values()
    if schema is None:
        return str(entry["rationale"])
    if schema["title"] == "score":
        return json.dumps({"score": entry["score"]})
    return json.dumps(dict.fromkeys(schema["properties"], entry))


def _words(messages: Sequence[Message]) -> list[str]:
    return [word for m in messages for word in (m["role"], *m["content"].split())]


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


# ---------------------------------------------------------------------- tables


def machine() -> dict[str, Any]:
    """Conditions of the run: on a busy machine the rates say little, processor time more."""
    return {
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": sys.version.split()[0],
    }


def render(result: Mapping[str, Any], console: Console) -> None:
    """Print the tables."""
    console.print(_load_table(result))
    before, after = (f"{result['machine'][key]:g}" for key in ("load_average", "load_after"))
    typer.echo(f"load average {before} before, {after} after, {result['machine']['cores']} cores")
    if result["openai"]:
        table = Table(title="the official openai client, same run", **_PLAIN)
        for name in ("in flight", "judgements/s", "CPU ms", "peak MB", "times our CPU"):
            table.add_column(name, justify="right")
        for row in result["openai"]:
            table.add_row(
                str(row["in_flight"]),
                f"{row['judgements_per_s']:,.0f}",
                f"{row['cpu_ms_per_judgement']:.2f}",
                f"{row['peak_mb']:.0f}",
                f"{row['times_cpu']:.1f}",
            )
        console.print(table)
    else:
        typer.echo(result["openai_note"])
    console.print(_cost_table(result["cost"]))
    typer.echo(
        "tokens: words x 1.3, criteria of 125 words, a response of 350; cached: by a prefix "
        "cache, for the second and later rollouts of a group"
    )


_PLAIN: dict[str, Any] = {"title_justify": "left", "box": None, "pad_edge": False}


def _load_table(result: Mapping[str, Any]) -> Table:
    latency, criteria = result["load"][0]["latency_s"], result["criteria"]
    title = f"from rollout to stored judgement, {latency:g} s per answer, {criteria} criteria"
    table = Table(title=title, **_PLAIN)
    for name in ("in flight", "judgements/s", "of ideal", "aim", "CPU ms", "aim", "peak MB"):
        table.add_column(name, justify="right")
    for row in result["load"]:
        aim = AIMS["fraction_of_ideal"].get(row["in_flight"])  # type: ignore[attr-defined]
        table.add_row(
            str(row["in_flight"]),
            f"{row['judgements_per_s']:,.0f}",
            f"{row['fraction_of_ideal']:.1%}",
            f"{aim:.0%}" if aim and latency == 0.2 else "",
            f"{row['cpu_ms_per_judgement']:.2f}",
            f"{AIMS['cpu_ms_per_judgement']:g}",
            f"{row['peak_mb']:.0f}",
        )
    return table


def _cost_table(cost: Mapping[str, Mapping[int, Mapping[str, int]]]) -> Table:
    table = Table(title="per rollout: calls, prompt tokens (of them cached)", **_PLAIN)
    table.add_column("protocol")
    for n in CRITERIA:
        table.add_column(f"{n} criteri{'on' if n == 1 else 'a'}", justify="right")
    for protocol, by_number in cost.items():
        cells = [
            f"{c['calls']}, {c['prompt_tokens']:,} ({c['prompt_tokens_cached']:,})" if c else "–"
            for c in (by_number.get(n) for n in CRITERIA)
        ]
        table.add_row(protocol, *cells)
    return table


if __name__ == "__main__":
    run(judge)
