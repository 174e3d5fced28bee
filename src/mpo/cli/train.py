"""`mpo train`: one arm, one seed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Literal

import typer

from ..config import ARMS, Config, Parts, RunFolder, build, finished, load_config
from ..evaluation.run_metrics import arm_seed_summary
from ..report import versions
from ..training.model import is_main
from ..training.reporting import StepReport
from ..training.start import train as run_training
from ..training.untrained_arms import score_untrained
from .board import Board, open_board
from .ranks import check_ranks, costs, follow
from .results import cost_lines, next_commands, report_or_why
from .run_view import Ages, PendingStepsWatch, step_event

__all__ = ["RUNS", "app", "default_name"]

RUNS = Path("runs")
"""Folder of all runs, seen from where the command runs."""

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def train(
    config: str = typer.Argument(..., help="A YAML file, or a preset such as sandbox/essay."),
    overrides: list[str] = typer.Argument(None, metavar="KEY=VALUE", help="Config overrides."),
    name: str = typer.Option(
        "", help="The run's folder is runs/NAME; made from task, arm and seed if empty."
    ),
    arm: str = typer.Option("", help=f"One of {', '.join(ARMS)}; the config's if empty."),
    progress: Literal["auto", "live", "plain", "json"] = typer.Option(
        "auto", help="How progress is shown; json prints one object per line."
    ),
) -> None:
    """Train a policy with one arm.

    The same command continues a run that was stopped. A folder of another config is refused.

    On several GPUs or CPUs: torchrun --nproc-per-node 2 -m mpo train CONFIG, or accelerate launch
    with a config of examples/accelerate.

    Example: mpo train sandbox/essay trainer.steps=20 --arm fixed --name first
    """
    loaded = load_config(config, [*(overrides or []), *([f"arm={arm}"] if arm else [])])
    label = name or default_name(loaded)
    # Before transformers is imported: its notices would tear the display apart.
    for key, value in (("TRANSFORMERS_VERBOSITY", "error"), ("TOKENIZERS_PARALLELISM", "false")):
        os.environ.setdefault(key, value)
    check_ranks(loaded)
    if not is_main():
        follow(loaded, run_path(label))
        return
    title = f"mpo train{' (sandbox)' if loaded.is_sandbox else ''}"
    # A run that has spent its budget goes on with a larger one.
    folder = RunFolder(run_path(label), loaded, ignore=("budget",))
    with folder as run, open_board(progress, [label], title) as board:
        if finished(run.path) is not None:
            board.take(label, {"kind": "done", "message": "it was finished before"})
        else:
            _train(loaded, run, board, label)
    # Also for a run that was finished before: its report may be of an older version, or gone.
    report = report_or_why([run.path], run.path / "report.html")
    if progress != "json":
        typer.echo(cost_lines((finished(run.path) or {}).get("cost", {})))
        typer.echo(report)
        typer.echo(next_commands(run.path))


def default_name(config: Config) -> str:
    """`essay-mpo-0`: task, arm and seed."""
    return f"{Path(config.task).name}-{config.arm}-{config.seed}"


def run_path(name: str) -> Path:
    """`runs/NAME`, for a name that stays inside.

    Raises:
        typer.BadParameter: It does not.
    """
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise typer.BadParameter(f"{name!r} is not a name for a run: use letters, digits, '-', '/'")
    return RUNS / name


def _train(config: Config, run: RunFolder, board: Board, label: str) -> None:
    started = time.monotonic()

    def say(message: str) -> None:
        board.take(label, {"kind": "status", "message": message})

    say("starting")
    parts = build(config, run.path, say)
    ages = Ages(parts.reward.store)

    def on_step(report: StepReport) -> None:
        parts.chats.keep()
        board.take(label, step_event(report, ages, costs(parts)))

    def on_meta(due: list[int]) -> None:
        board.take(label, {"kind": "meta", "due": due})

    say("loading the policy")
    start = run_training if ARMS[config.arm].trains else score_untrained
    try:
        with PendingStepsWatch(parts.reward, on_meta):
            outcome = start(
                reward=parts.reward,
                settings=config.trainer,
                model=parts.model,
                rows=parts.rows,
                folder=run.path,
                seed=config.seed,
                gold_scorer=parts.gold_scorer,
                progress=on_step,
            )
    finally:
        parts.chats.keep()
    summary = _summary(parts, outcome, time.monotonic() - started)
    parts.reward.store.close()
    run.finish(summary)
    board.take(label, {"kind": "done"})


def _summary(parts: Parts, outcome: dict[str, Any], seconds: float) -> dict[str, Any]:
    config = parts.config
    return {
        "sandbox": config.is_sandbox,
        "arm": config.arm,
        "seed": config.seed,
        "measure": parts.measure,
        **arm_seed_summary(parts.reward.store),
        "exploits": list(parts.exploits),
        "cost": costs(parts),
        "unscored": parts.reward.store.unscored(),
        "prompts": {"kept": len(parts.rows), "dropped": parts.dropped},
        "trainer": outcome,
        "seconds": round(seconds, 1),
        "versions": versions(),
    }
