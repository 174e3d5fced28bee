"""Start-up time of `mpo --help` and `import mpo`, and the heavy packages that they load.

python benchmarks/startup.py [--repeat N] [--json]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from statistics import median
from typing import Any

import typer

from mpo.errors import ConfigError
from program import run

TARGETS = {"mpo --help": 0.4, "import mpo": 0.25}
"""Median seconds on two cores."""
HEAVY = ("torch", "transformers", "trl", "bokeh", "datasets")
PROGRAMS = {
    "mpo --help": "import sys; sys.argv = ['mpo', '--help']; from mpo.cli import main; main()",
    "import mpo": "import mpo",
}


def startup(
    repeat: int = typer.Option(5, min=1, help="Runs of each program; the median counts."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Measure how long `mpo --help` and `import mpo` take in a new process.

    The exit code is 1 where one is over its target or loads a heavy package.

    Example: python benchmarks/startup.py --json
    """
    results: dict[str, dict[str, Any]] = {}
    for name, program in PROGRAMS.items():
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


def _seconds(program: str) -> float:
    started = time.perf_counter()
    _output(program)
    return time.perf_counter() - started


def _heavy(program: str) -> list[str]:
    """Heavy packages that the program loads."""
    watch = (
        "import atexit, sys; atexit.register(lambda: print('HEAVY', *[m for m in "
        f"{HEAVY!r} if m in sys.modules]))\n"
    )
    lines = _output(watch + program).splitlines()
    return next(line for line in lines if line.startswith("HEAVY")).split()[1:]


def _output(program: str) -> str:
    process = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=dict(os.environ, NO_COLOR="1"),
        check=False,
    )
    if process.returncode:
        raise ConfigError(f"{program!r} failed: {process.stderr.strip().splitlines()[-1:]}")
    return process.stdout


if __name__ == "__main__":
    run(startup)
