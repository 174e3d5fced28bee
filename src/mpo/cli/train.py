"""`mpo train`: one arm, one seed, in one process or in several.

    torchrun --nproc-per-node 2 -m mpo train CONFIG --name NAME

Of several processes (by `torchrun` or `accelerate launch`), the main one holds the run's folder,
shows progress and writes what is kept. The others follow it: they wait until it has made folder and
store, train with it, and say nothing.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import typer

from ..config import ARMS, Config, Parts, RunFolder, build, finished, load_config
from ..errors import ConfigError
from ..evaluation.run_metrics import arm_seed_summary
from ..evolve.lineage import number_rubrics
from ..report import versions
from ..reward import EvolvingReward
from ..store import Store
from ..training.model import is_main, processes
from ..training.reporting import StepReport
from ..training.start import train as run_training
from ..training.trackers import tensorboard_folder
from ..training.untrained_arms import score_untrained
from .board import Board, Spending, open_board
from .results import cost_lines, next_commands, report_or_why, tensorboard_command
from .runs import default_name, goes_on, run_path
from .tables import in_brackets

__all__ = ["PendingStepsWatch", "app", "check_ranks"]

PATIENCE_S = 5
"""Seconds until a follower says what it waits for."""

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

    The same command continues a run that was stopped, also with another endpoint, other limits or
    more updates (`mpo config keys` marks the keys that may change). Another config is refused.

    With trainer.report_to=[tensorboard]: tensorboard --logdir runs/NAME/tensorboard

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
        _follow(loaded, run_path(label))
        return
    title = f"mpo train{in_brackets(loaded.simulated)}"
    with RunFolder(run_path(label), loaded) as run:
        for note in [*run.notes, *_goes_on(run.path, loaded)]:
            typer.echo(note, err=True)
        with open_board(progress, [label], title) as board, _interruptible(run.path):
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


def _train(config: Config, run: RunFolder, board: Board, label: str) -> None:
    started = time.monotonic()

    def say(message: str) -> None:
        board.take(label, {"kind": "status", "message": message})

    say("starting")
    parts = build(config, run.path, say)
    ages = _Ages(parts.reward.store)

    def on_step(report: StepReport) -> None:
        parts.chats.keep()
        board.take(label, _step_event(report, ages, parts.chats.costs()))

    def on_meta(due: list[int]) -> None:
        board.take(label, {"kind": "meta", "due": due})

    curves = tensorboard_folder(config.trainer, run.path)
    say(f"loading the policy{f'; curves: {tensorboard_command(curves)}' if curves else ''}")
    try:
        with PendingStepsWatch(parts.reward, on_meta):
            outcome = _start(parts, run.path, on_step)
    finally:
        parts.chats.keep()
    summary = _summary(parts, outcome, time.monotonic() - started)
    parts.reward.store.close()
    run.finish(summary)
    board.take(label, {"kind": "done"})


def _goes_on(folder: Path, config: Config) -> list[str]:
    """A line that says from which update a run goes on; none for a new or a finished one."""
    if finished(folder) is not None or not (folder / "mpo.db").exists():
        return []
    return [f"{folder} {goes_on(folder)} (of {config.trainer.steps})"]


@contextmanager
def _interruptible(folder: Path) -> Iterator[None]:
    """Make SIGTERM end a run as Ctrl-C does, and say where it will go on.

    Raises:
        KeyboardInterrupt: With what to say.
    """

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    # Of several processes, the one that waits for another would not get to it: let it be killed.
    alone = processes() == 1 and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, interrupt) if alone else None
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; what was scored and decided is stored. With the same command {folder} "
            f"{goes_on(folder)}"
        ) from None
    finally:
        if alone:
            signal.signal(signal.SIGTERM, before)


def _start(
    parts: Parts, folder: Path, progress: Callable[[StepReport], None] | None = None
) -> dict[str, Any]:
    start = run_training if ARMS[parts.config.arm].trains else score_untrained
    return start(
        reward=parts.reward,
        settings=parts.config.trainer,
        model=parts.model,
        rows=parts.rows,
        folder=folder,
        seed=parts.config.seed,
        gold_scorer=parts.gold_scorer,
        progress=progress,
    )


def _summary(parts: Parts, outcome: dict[str, Any], seconds: float) -> dict[str, Any]:
    config = parts.config
    return {
        "simulated": config.simulated,
        "arm": config.arm,
        "seed": config.seed,
        "measure": parts.measure,
        **arm_seed_summary(parts.reward.store),
        "exploits": list(parts.exploits),
        "cost": parts.chats.costs(),
        "unscored": parts.reward.store.unscored(),
        "prompts": {"kept": len(parts.rows), "dropped": parts.dropped},
        "trainer": outcome,
        "seconds": round(seconds, 1),
        "versions": versions(),
    }


# ---------------------------------------------------------------------- events


class _Age(NamedTuple):
    """A rubric in effect."""

    number: int
    """Number in its cohort, as on every screen; 0 is the seed."""
    since: int
    """Update after which it took effect."""
    title: str
    """At most 40 printable characters: a model may have written it."""


class _Ages:
    """Number, beginning and title of the rubric in effect, also in a run that was continued.

    Args:
        store: The run's store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: tuple[str, _Age] = ("", _Age(0, 0, ""))

    def of(self, rubric: str) -> _Age:
        """Number, beginning and title of the rubric with this id."""
        # The lineage holds every analysis: it is read when the rubric changes, not at each step.
        if self._known[0] != rubric:
            lineage = self._store.lineage()
            numbers = {id: n for (_, id), n in number_rubrics(lineage).items()}
            number = numbers.get(rubric, len(numbers))
            since = max((d.step for d in lineage if d.accepted and d.proposed == rubric), default=0)
            self._known = (rubric, _Age(number, since, _title(self._store.rubric(rubric).title)))
        return self._known[1]


def _title(text: str) -> str:
    # What is not printable could move the cursor, or colour the screen.
    shown = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(shown.split())[:40]


def _step_event(
    report: StepReport, ages: _Ages, costs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """A step of the trainer as an event. Without long texts of a model: it must fit a line.

    Args:
        report: The trainer's report of the step.
        ages: _Ages of the run's rubrics.
        costs: Use by role since the run began.
    """
    decision = report.decision
    age = ages.of(report.rubric_id)
    return {
        "kind": "step",
        "step": report.step,
        "steps": report.steps,
        "reward": report.reward,
        "gold": report.gold,
        "audit": report.audit,
        "unscored": report.unscored,
        "words": report.words,
        "kl": report.kl,
        "rubric": report.rubric_id,
        "rubric_number": age.number,
        "rubric_since": age.since,
        "rubric_title": age.title,
        "cost": asdict(Spending.of(costs)),
        "seconds": report.seconds,
        "alarms": [" ".join(alarm.split())[:200] for alarm in report.alarms],
        "accepted": None if decision is None else decision.accepted,
        "reason": None if decision is None else " ".join(decision.reason.split())[:200],
    }


class PendingStepsWatch:
    """Tells of meta steps under way while its block lasts, from a thread: one that training waits
    for cannot tell of itself.

    Args:
        reward: The run's reward.
        tell: Receives the updates whose meta step is under way, whenever they change.
        every_s: Seconds between two looks; a shorter meta step may be missed.
    """

    def __init__(
        self, reward: EvolvingReward, tell: Callable[[list[int]], None], every_s: float = 0.5
    ) -> None:
        self._reward, self._tell, self._every_s = reward, tell, every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="mpo-meta", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        known: list[int] = []
        while not self._over.wait(self._every_s):
            due = self._reward.pending_steps
            if due != known:
                self._tell(due)
                known = due


# ---------------------------------------------------------------------- several processes


def check_ranks(config: Config) -> None:
    """Refuse a config that cannot be trained in as many processes as there are.

    Raises:
        ConfigError: Its arm does not train, or it has a cap, at which several processes cannot stop
            together.
    """
    if processes() == 1:
        return
    if not ARMS[config.arm].trains:
        raise ConfigError(f"arm {config.arm!r} does not train: run it in one process")
    caps = [name for name in ("usd", "tokens", "calls") if getattr(config.budget, name) is not None]
    if caps:
        raise ConfigError(
            f"budget.{caps[0]} cannot stop a run cleanly where these are {processes()} processes: "
            "the first that finds it spent leaves the others in the middle of a step. Leave it "
            "out and cap the endpoint's key, or train in one process"
        )


def _follow(config: Config, folder: Path) -> None:
    """Train as a process that is not the main one.

    Raises:
        MPOError: As in the main process.
    """
    _wait(folder / "config.yaml")
    if finished(folder, config.trainer.steps) is not None:
        return
    _wait(folder / "mpo.db")  # by then the main process has the sandbox's policy too
    if ARMS[config.arm].blind:
        _wait(folder / "blind.md")
    parts = build(config, folder)
    _start(parts, folder)
    parts.reward.store.close()


def _wait(path: Path) -> None:
    # Without a limit: where the main process fails, the launcher ends this one.
    started, reported = time.monotonic(), False
    while not path.exists():
        if not reported and time.monotonic() - started > PATIENCE_S:
            typer.echo(f"waiting until the process of rank 0 has made {path}", err=True)
            reported = True
        time.sleep(0.2)
