"""`mpo bench`: how fast this installation is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import typer
from rich.console import Console

import bench_judge
import bench_serve
import bench_store
import bench_train
from mpo.errors import ConfigError

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False, no_args_is_help=True)

TARGETS = {"mpo --help": 0.4, "import mpo": 0.25}
"""Seconds, median, on two cores."""
HEAVY = ("torch", "transformers", "trl", "bokeh", "datasets")
_PROGRAMS = {
    "mpo --help": "import sys; sys.argv = ['mpo', '--help']; from mpo.cli import main; main()",
    "import mpo": "import mpo",
}


@app.callback()
def bench() -> None:
    """Measure this installation."""


@app.command()
def startup(
    repeat: int = typer.Option(5, min=1, help="Runs of each; the median counts."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Measure how long `mpo --help` and `import mpo` take in a new process.

    Exit code 1 where one is over its target or loads a heavy package.

    Example: mpo bench startup --json
    """
    results: dict[str, dict[str, Any]] = {}
    for name, program in _PROGRAMS.items():
        seconds = [_seconds(program) for _ in range(repeat)]
        results[name] = {
            "median_s": round(median(seconds), 3),
            "min_s": round(min(seconds), 3),
            "target_s": TARGETS[name],
            "heavy": _heavy(program),
        }
    if as_json:
        typer.echo(json.dumps(results, indent=2))
    else:
        for name, r in results.items():
            heavy = f"  loads {', '.join(r['heavy'])}" if r["heavy"] else ""
            typer.echo(
                f"{name:<12} {r['median_s']:.3f} s (best {r['min_s']:.3f}, "
                f"target {r['target_s']}){heavy}"
            )
    slow = [name for name, r in results.items() if r["median_s"] > r["target_s"] or r["heavy"]]
    if slow:
        raise ConfigError(f"over target: {', '.join(slow)}")


@app.command()
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
    do; what the load was is printed with them.

    Example: mpo bench judge --in-flight 64 --repeat 1
    """
    try:
        places = [int(part) for part in in_flight.split(",")]
    except ValueError:
        raise ConfigError(f"--in-flight {in_flight!r}: give numbers, e.g. 64,256") from None
    if min(places) < 1:
        raise ConfigError(f"--in-flight {in_flight!r}: each must be at least 1")

    def say(message: str) -> None:
        typer.echo(f"measuring {message}", err=True)

    where = bench_judge.machine()
    ours = bench_judge.loads(places, latency, criteria, repeat, say=say)
    note = bench_judge.sdk_missing() if openai else "left out, as asked"
    theirs = [] if note else bench_judge.loads(places, latency, criteria, 1, "openai", say)
    result = {
        "load": ours,
        "cost": bench_judge.costs(),
        "openai": bench_judge.peers(ours, theirs) if theirs else None,
        "openai_note": note,
        "criteria": criteria,
        "machine": {**where, "load_after": bench_judge.machine()["load_average"]},
    }
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        bench_judge.render(result, Console())


@app.command()
def store(
    judgements: int = typer.Option(
        bench_store.QUICK, min=1, help="How many the store holds when it is asked."
    ),
    full: bool = typer.Option(False, "--full", help="A million of them: minutes, 3 GB of disk."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Measure the store: appending from two processes, the evidence query, memory and resume.

    In a temporary folder (TMPDIR says where). The rates hold for a machine with nothing else to
    do.

    Example: mpo bench store --json
    """
    result = bench_store.measure(bench_store.FULL if full else judgements)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    targets = result["targets"]
    typer.echo(f"{result['judgements']} judgements, {result['file_mb']} MB")
    typer.echo(
        f"append   {result['append_per_s']} judgements/s by 2 processes "
        f"(target {targets['append_per_s']}; {result['append_cpu_us']} us of a processor each)"
    )
    typer.echo(
        f"window   {result['window_ms']} ms for {result['window_cases']} cases "
        f"(target {targets['window_ms']}; {result['window_cpu_ms']} ms of a processor)"
    )
    typer.echo(f"resume   {result['resume_s']} s (target {targets['resume_s']})")
    typer.echo(
        f"memory   {result['peak_mb']} MB at most, resume and window ({result['peak_mb_before']} "
        f"MB with {result['judgements_before']} judgements)"
    )
    typer.echo(f"load     {result['load']} when it began")


@app.command()
def train(
    mrm_delay: bool = typer.Option(
        False, "--mrm-delay", help="Only: how long training waits for an MRM as slow as 3 steps."
    ),
    step: float = typer.Option(0.25, min=0.01, help="With --mrm-delay: seconds of a step."),
    gpu: bool = typer.Option(
        False, "--gpu", help="Only: PPO and GRPO in bfloat16 on random weights."
    ),
    size: str = typer.Option("1.5b", help="With --gpu: 1.5b, or tiny, which needs no GPU."),
    rounds: int = typer.Option(3, min=1, help="Of all runs; the median of the ratios counts."),
    updates: int = typer.Option(4, min=1, help="Timed in each run, after one that is not."),
    peer: Path = typer.Option(
        bench_train.PEER, help="Python with TRL 0.17.0; see make bench-peer."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Measure training: our PPO beside TRL 0.17.0's, GRPO with and without grading.

    One thread, a random model of 1.26M weights: about 2 minutes a round. Exit code 1 where a
    figure misses its target by CPU time, which says more on a busy machine.

    Examples: mpo bench train --json

    mpo bench train --mrm-delay
    """

    def say(message: str) -> None:
        typer.echo(f"measuring {message}", err=True)

    if mrm_delay and gpu:
        raise ConfigError("--mrm-delay and --gpu are two measurements: ask for one of them")
    if mrm_delay:
        result = bench_train.measure_delay(step, say)
    elif gpu:
        result = bench_train.measure_gpu(size, updates + 1, say)
    else:
        result = bench_train.measure(peer, rounds, updates, say)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        bench_train.render(result, Console())
    if off := bench_train.missed(result):
        raise ConfigError(f"off target: {'; '.join(off)}")


@app.command()
def serve(
    full: bool = typer.Option(False, "--full", help="200,000 items instead of 20,000."),
    quick: bool = typer.Option(False, "--quick", help="A tenth, to see that it works."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Measure the service under load, and kill it, with a simulated model that takes 50 ms.

    Exit code 1 where a figure misses its target, or a kill has lost anything.

    Example: mpo bench serve --json
    """
    settings = bench_serve.Settings(items=200_000 if full else 20_000)
    if quick:
        settings = bench_serve.Settings(items=1_600, rated_s=3, kills=2, kill_items=800)
    figures = bench_serve.run(settings)
    missed = figures.pop("missed")
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        for name, value in figures.items():
            typer.echo(f"{name:<24} {value}")
    if missed:
        raise ConfigError(f"off target: {', '.join(missed)}")


def _seconds(program: str) -> float:
    started = time.perf_counter()
    _run(program)
    return time.perf_counter() - started


def _heavy(program: str) -> list[str]:
    """Heavy packages that the program loads."""
    watch = (
        "import atexit, sys; atexit.register(lambda: print('HEAVY', *[m for m in "
        f"{HEAVY!r} if m in sys.modules]))\n"
    )
    line = next(line for line in _run(watch + program).splitlines() if line.startswith("HEAVY"))
    return line.split()[1:]


def _run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=dict(os.environ, NO_COLOR="1"),
        check=False,
    )
    if done.returncode:
        raise ConfigError(f"{program!r} failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout
