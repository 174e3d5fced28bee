"""`mpo bench train`: how fast our PPO is, what grading costs GRPO, and how long a slow MRM holds
training up.

Ratios are taken within a round, between runs that follow one another, and the median round counts.
Wall time says how long a user waits; CPU time says the same on a machine that does other things
too, so the targets are held against it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from bench_judge import machine
from mpo.errors import MissingExtraError
from train_delay import MOST_WAIT, compare_delay
from train_gpu import table as gpu_table
from train_grpo import compare_grpo
from train_ppo import compare

__all__ = ["PEER", "TARGETS", "measure", "measure_delay", "measure_gpu", "missed", "render"]

PEER = Path(".venv-peer/bin/python")
"""Where `make bench-peer` puts TRL 0.17.0, seen from the checkout."""

TARGETS: Mapping[str, Any] = {
    "separate": {"aim": 2.0, "at_least": 1.25},
    "shared": {"aim": 3.5, "at_least": 1.8},
    "grpo_overhead": 0.05,
    "mrm_wait": MOST_WAIT,
}
"""PPO: times the peer's sequences per second. GRPO: what grading may add to an update. MRM: share
of wall time that may be waited."""

Say = Callable[[str], None]
_PLAIN: dict[str, Any] = {"title_justify": "left", "box": None, "pad_edge": False}


def measure(peer: Path, rounds: int, updates: int, say: Say) -> dict[str, Any]:
    """PPO beside its peer, and GRPO beside itself without grading; JSON values.

    Args:
        peer: Python of the peer's environment; left out, with a note, where there is none.
        rounds: Of all runs, one after the other.
        updates: Timed in each run.
        say: Told before each run.

    Raises:
        ConfigError: A run failed.
        MissingExtraError: Without the extra `train`.
    """
    for package in ("torch", "trl", "peft"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "train")
    before = machine()
    there = peer.exists()
    with tempfile.TemporaryDirectory(prefix="mpo-bench-") as scratch:
        folder = Path(scratch)
        ppo = compare(folder, peer=peer if there else None, updates=updates, rounds=rounds, say=say)
        # Its updates are short: twice as many take as long as PPO's.
        grpo = compare_grpo(folder, updates=2 * updates, rounds=rounds, say=say)
    note = (
        "" if there else f"no peer at {peer}: its figures are left out; make bench-peer builds it"
    )
    return {
        "ppo": ppo,
        "ppo_note": note,
        "grpo": grpo,
        "targets": TARGETS,
        "machine": _machine(before),
    }


def measure_delay(step_s: float, say: Say) -> dict[str, Any]:
    """What `--mrm-delay` prints."""
    before = machine()
    return {"mrm_delay": compare_delay(step_s=step_s, say=say), "machine": _machine(before)}


def measure_gpu(size: str, steps: int, say: Say) -> dict[str, Any]:
    """What `--gpu` prints.

    Raises:
        ConfigError: No GPU.
    """
    before = machine()
    return {"gpu": gpu_table(size, steps=steps, say=say), "machine": _machine(before)}


def _machine(before: Mapping[str, Any]) -> dict[str, Any]:
    return {**before, "load_after": machine()["load_average"]}


def missed(result: Mapping[str, Any]) -> list[str]:
    """What is off its target, in words; by CPU time where there is a choice."""
    found = []
    for name, ratio in result.get("ppo", {}).get("ratio", {}).items():
        least, got = TARGETS[name]["at_least"], ratio["cpu"]["median"]
        if got < least:
            found.append(f"PPO with a {name} critic: {got:.2f} times the peer, not {least:g}")
    if "grpo" in result:
        got, most = result["grpo"]["inside"], TARGETS["grpo_overhead"]
        if got > most:
            found.append(f"grading adds {got:.1%} to GRPO, not {most:.0%} at most")
    if "mrm_delay" in result:
        got = result["mrm_delay"]["background"]["waited_share"]
        if got > MOST_WAIT:
            found.append(f"waited {got:.1%} of wall time for the MRM, not {MOST_WAIT:.0%} at most")
    for name, row in result.get("gpu", {}).get("rows", {}).items():
        if "error" in row:
            found.append(f"{name}: {row['error']}")
    return found


# ---------------------------------------------------------------------- what is printed


def render(result: Mapping[str, Any], console: Console) -> None:
    """Print the tables."""
    for name, draw in (("ppo", _ppo), ("grpo", _grpo), ("mrm_delay", _delay), ("gpu", _gpu)):
        if name in result:
            console.print(draw(result[name]))
    if result.get("ppo_note"):
        typer.echo(result["ppo_note"])
    where = result["machine"]
    typer.echo(
        f"load average {where['load_average']:g} before, {where['load_after']:g} after, "
        f"{where['cores']} cores, Python {sys.version.split()[0]}"
    )


def _columns(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, **_PLAIN)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _ppo(ppo: Mapping[str, Any]) -> Table:
    names = ("sequences/s", "per CPU second", "times the peer", "by CPU", "aim", "at least")
    table = _columns("PPO, 1.26M weights, one thread", "", *names)
    rows = {
        "ours, separate critic": "separate",
        "ours, shared critic": "shared",
        "TRL 0.17.0, separate critic": "peer",
    }
    for label, name in rows.items():
        if name in ppo:
            cells = [f"{ppo[name][kind]:.2f}" for kind in ("wall", "cpu")]
            if name in ppo.get("ratio", {}):
                cells += [f"{ppo['ratio'][name][kind]['median']:.2f}" for kind in ("wall", "cpu")]
                cells += [f"{TARGETS[name][key]:g}" for key in ("aim", "at_least")]
            table.add_row(label, *cells)
    return table


def _grpo(grpo: Mapping[str, Any]) -> Table:
    table = _columns("GRPO through TRL, one update", "", "seconds", "CPU seconds")
    for label, name in (("constant reward", "plain_s"), ("TRLReward, chat of no latency", "mpo_s")):
        table.add_row(label, *(f"{grpo[name][kind]:.3f}" for kind in ("wall", "cpu")))
    added = [f"{grpo['overhead'][kind]:+.1%}" for kind in ("wall", "cpu")]
    table.add_row("added, from run to run", *added)
    most = f"added, timed within a run (at most {TARGETS['grpo_overhead']:.0%})"
    table.add_row(most, "", f"{grpo['inside']:+.1%}")
    return table


def _delay(delay: Mapping[str, Any]) -> Table:
    title = (
        f"meta step every {delay['every']} updates of {delay['step_s']:g} s, "
        f"an MRM of {delay['mrm_s']:g} s"
    )
    table = _columns(title, "", "delay", "meta steps", "wall s", "waited s", "share")
    for label, name in (("in the background", "background"), ("blocking (the paper)", "blocking")):
        row = delay[name]
        table.add_row(
            label,
            str(row["delay"]),
            str(row["decisions"]),
            f"{row['wall_s']:.2f}",
            f"{row['waited_s']:.2f}",
            f"{row['waited_share']:.1%}",
        )
    return table


def _gpu(gpu: Mapping[str, Any]) -> Table:
    title = f"{gpu['device']}, bfloat16, {gpu['weights'] / 1e9:.2f} billion random weights"
    table = _columns(title, "", "s/step", "sequences/s", "peak GB", "KL")
    for label, row in gpu["rows"].items():
        if "error" in row:
            table.add_row(label, "failed")
            continue
        peak = "" if row["peak_gb"] is None else f"{row['peak_gb']:.1f}"
        rates = [f"{row['step_s']:.2f}", f"{row['sequences_per_s']:.2f}"]
        table.add_row(label, *rates, peak, f"{row['kl']:.1e}")
    return table
