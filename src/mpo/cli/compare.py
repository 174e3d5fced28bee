"""`mpo compare`: several arms and seeds of one config, side by side."""

from __future__ import annotations

import difflib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import typer

from ..config import (
    ARMS,
    Config,
    RunFolder,
    arm_rubric,
    check,
    finished,
    load_config,
    read_rubric_file,
    write_text,
)
from ..config.plugins import Plugin, find_plugin
from ..errors import ConfigError
from ..records import to_json
from ..task import load_task
from .board import Board, open_board
from .children import Job, run_jobs
from .results import cost_lines, gather, next_commands, report_or_why, results_table, total_costs
from .runs import goes_on, run_path
from .tables import in_brackets, print_table

__all__ = ["app", "given_rubrics"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)

POLICY = "policy"
"""Label of the line that is shown while a plugin makes its policy."""


@app.command()
def compare(
    config: str = typer.Argument(..., help="A YAML file, or a preset such as sandbox/essay."),
    overrides: list[str] = typer.Argument(None, metavar="KEY=VALUE", help="Config overrides."),
    arms: str = typer.Option("fixed,mpo", help=f"Comma-separated, of {', '.join(ARMS)}."),
    seeds: int = typer.Option(1, min=1, help="Number of seeds of each arm, from 0 on."),
    name: str = typer.Option("", help="The folder is runs/NAME; the config's name if empty."),
    jobs: int = typer.Option(0, min=0, help="Runs at once; 0 means two, or one on a single core."),
    progress: Literal["auto", "live", "plain"] = typer.Option(
        "auto", help="How progress is shown on stderr."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print compare.json on stdout."),
) -> None:
    """Train several arms and seeds side by side, and compare them.

    Runs that are finished are not run again: the same command continues a comparison, also with
    another endpoint, other limits or more updates, and another arm or more seeds can be added. With
    the arm autoprompt, rubric=FILE is that arm's alone: the others start from the task's own.

    Example: mpo compare sandbox/essay --arms fixed,mpo --seeds 2 --name demo
    """
    loaded = load_config(config, overrides or [])
    chosen = _arms(arms)
    path = run_path(name or _default_name(config))
    with RunFolder(path, loaded, ignore=("arm", "seed")) as folder:
        for note in folder.notes:
            typer.echo(note, err=True)
        failed, seconds = _run_missing(loaded, folder.path, chosen, range(seeds), jobs, progress)
        result = _write(loaded, folder.path, chosen, range(seeds), failed, seconds)
        paths = [folder.path / f"{arm}-{seed}" for arm in chosen for seed in range(seeds)]
        done = [path for path in paths if finished(path) is not None]
        report = "no report: no run finished"
        if done:
            report = report_or_why(done, folder.path / "report.html", result)
    if as_json:
        typer.echo(to_json(result, indent=2))
    else:
        print_table(results_table(result))
        typer.echo(cost_lines(total_costs(result)))
        typer.echo(report)
        typer.echo(next_commands(path, compared=True))
    if failed:
        raise ConfigError(
            f"{len(failed)} of {len(chosen) * seeds} runs failed: "
            + "; ".join(f"{label}: {error}" for label, error in failed.items())
        )


def _arms(text: str) -> list[str]:
    chosen = list(dict.fromkeys(arm.strip() for arm in text.split(",") if arm.strip()))
    for arm in chosen:
        if arm not in ARMS:
            near = difflib.get_close_matches(arm, ARMS, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ConfigError(f"unknown arm {arm!r}{hint}: there are {', '.join(ARMS)}")
    if not chosen:
        raise ConfigError(f"--arms names none; there are {', '.join(ARMS)}")
    return chosen


def _default_name(config: str) -> str:
    """`sandbox-essay` for the preset `sandbox/essay`; a file's name without its ending."""
    path = Path(config)
    return path.stem if path.suffix else config.strip("/").replace("/", "-")


def _run_missing(
    config: Config, folder: Path, arms: list[str], seeds: Sequence[int], jobs: int, progress: str
) -> tuple[dict[str, str], float]:
    """Run what is not finished. Returns the failures by label, and the seconds that it took."""
    # Seed by seed, so that a comparison that is stopped has whole seeds.
    labels = [f"{arm}-{seed}" for seed in seeds for arm in arms]
    steps = config.trainer.steps
    missing = [label for label in labels if finished(folder / label, steps) is None]
    if not missing:
        return {}, 0.0
    rubrics = given_rubrics(config, arms)
    # One clear line now, not one for each child.
    check(config.model_copy(update={"arm": arms[0], "rubric": rubrics[arms[0]]}))
    task = load_task(config.task)
    for arm in arms:
        path = arm_rubric(arm, task, rubrics[arm])
        if path is not None:
            task.check_rubric(read_rubric_file(path))
    started = time.monotonic()
    title = f"mpo compare {folder.name}{in_brackets(config.simulated)}"
    plugin = find_plugin(config.model)
    first = [POLICY] if plugin is not None else []
    with open_board(progress, [*first, *labels], title) as board:
        for label in labels:
            if label not in missing:
                board.take(label, {"kind": "done", "message": "it was finished before"})
        if plugin is not None:
            _make_policy(board, plugin, task.name)
        try:
            failed = run_jobs(
                [_job(folder, label, rubrics) for label in missing],
                jobs or min(2, os.cpu_count() or 1),
                board.take,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_interrupted(folder, missing, steps)) from None
    return failed, time.monotonic() - started


def _interrupted(folder: Path, labels: Sequence[str], steps: int) -> str:
    """Message that says where the runs that were not finished will go on."""
    open_runs = [label for label in labels if finished(folder / label, steps) is None]
    where = "; ".join(
        f"{label} {goes_on(folder / label)}"
        if (folder / label).exists()
        else f"{label} has not begun"
        for label in open_runs
    )
    return f"interrupted; what was scored and decided is stored. With the same command {where}"


def _make_policy(board: Board, plugin: Plugin, task: str) -> None:
    """Have a plugin make its policy once, before several children would each make it."""

    def say(message: str) -> None:
        board.take(POLICY, {"kind": "status", "message": message})

    say(f"looking for the policy of plugin {plugin.name}")
    plugin.policy(task, say)
    board.take(POLICY, {"kind": "done"})


def given_rubrics(config: Config, arms: Sequence[str]) -> dict[str, str | None]:
    """The config's rubric by arm; None for an arm that runs with one of its own. Where one of
    several arms is there to try a given rubric, it is that arm's alone: the others start from the
    task's own."""
    mine = [arm for arm in arms if ARMS[arm].given]
    takers = mine or [arm for arm in arms if ARMS[arm].rubric is None]
    return {arm: config.rubric if arm in takers else None for arm in arms}


def _job(folder: Path, label: str, rubrics: dict[str, str | None]) -> Job:
    arm, _, seed = label.rpartition("-")
    name = str((folder / label).relative_to(run_path("x").parent))
    arguments = [
        *("train", str(folder / "config.yaml"), f"arm={arm}", f"seed={seed}"),
        f"rubric={json.dumps(rubrics[arm])}",
        *("--name", name, "--progress", "json"),
    ]
    return Job(label, arguments, folder / "logs" / f"{label}.txt")


def _write(
    config: Config,
    folder: Path,
    arms: list[str],
    seeds: Sequence[int],
    failed: dict[str, str],
    seconds: float,
) -> dict[str, Any]:
    path = folder / "compare.json"
    try:
        before = float(json.loads(path.read_text("utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        before = 0.0  # the first time, or a file that somebody has edited: only the total suffers
    result = {
        "simulated": config.simulated,
        "arms": gather(folder, arms, seeds),
        "seconds": round(before + seconds, 1),
        **({"failed": failed} if failed else {}),
    }
    write_text(path, to_json(result, indent=2) + "\n")
    return result
