"""`mpo rubric`: show, compare, check and roll back the rubrics of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from ..config import read_rubric_file
from ..errors import ConfigError, RubricError
from ..evolve.lineage import number_rubrics
from ..evolve.lint import lint as find_faults
from ..records import to_json
from ..reward import roll_back
from ..rubric import Rubric, diff_rubrics
from ..store import Store
from ..task import load_task
from .rubric_choice import COHORT, WHICH, choose_cohort, choose_rubric
from .runs import RUN, is_store, open_store

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False, no_args_is_help=True)


@app.callback()
def rubric() -> None:
    """Show, compare, check and roll back rubrics."""


@app.command()
def show(
    run: str = typer.Argument(..., help=f"{RUN} Or a rubric file."),
    which: str = typer.Argument("head", help=f"{WHICH}."),
    cohort: str = COHORT,
    lineage: bool = typer.Option(False, help="List every decision instead."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Print a rubric, or the decisions that led to it.

    Example: mpo rubric show runs/sandbox-essay/mpo-0 --lineage
    """
    if lineage:
        with open_store(run) as store:
            _print_lineage(store, as_json)
        return
    rubric = _resolve(run, which, cohort)
    if as_json:
        typer.echo(to_json({"id": rubric.id, **rubric.model_dump(mode="json")}, indent=2))
    else:
        typer.echo(rubric.to_markdown(), nl=False)


@app.command()
def diff(
    run: str = typer.Argument(..., help=f"{RUN} Or a rubric file."),
    old: str = typer.Argument("seed", help=f"{WHICH}; or another rubric file."),
    new: str = typer.Argument("head", help=f"{WHICH}."),
    cohort: str = COHORT,
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Print what changed from one rubric to another: by default from the seed to the head.

    Examples: mpo rubric diff runs/sandbox-essay/mpo-0
    mpo rubric diff old.md new.md
    """
    if _is_rubric_file(run):
        if not Path(old).is_file():
            raise ConfigError(f"{run} is a rubric file: name a second one to compare it with")
        before, after = read_rubric_file(Path(run)), read_rubric_file(Path(old))
    else:
        before, after = _resolve(run, old, cohort), _resolve(run, new, cohort)
    change = diff_rubrics(before, after)
    if as_json:
        typer.echo(to_json({"old": before.id, "new": after.id, "diff": change}, indent=2))
    else:
        typer.echo(change or f"no change: both are {before.id}\n", nl=False)


@app.command()
def lint(
    file: Path = typer.Argument(..., help="A rubric file, in any form that can be read."),
    task: str = typer.Option("", "--task", help="A built-in task or a folder, for its limits."),
    parent: Path = typer.Option(None, "--parent", help="Rubric file to compare with."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Find faults of a rubric without a model. Exit code 1 on an error, 0 with warnings.

    Example: mpo rubric lint proposed.md --task essay --parent current.md
    """
    if file.is_dir() or is_store(file):
        raise RubricError(f"{file} is a run: write its rubric to a file, mpo rubric show {file}")
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RubricError(f"rubric {str(file)!r}: cannot be read as text: {error}") from error
    findings = find_faults(
        text,
        task=load_task(task) if task else None,
        parent=read_rubric_file(parent) if parent is not None else None,
    )
    bad = sum(finding.severity == "error" for finding in findings)
    if as_json:
        rows = [finding.to_dict() for finding in findings]
        typer.echo(to_json({"ok": not bad, "findings": rows}, indent=2))
    else:
        for finding in findings:
            typer.echo(str(finding))
        typer.echo(f"{file}: {_counted(bad, 'error')}, {_counted(len(findings) - bad, 'warning')}")
    if bad:
        raise typer.Exit(1)


@app.command()
def rollback(
    run: str = typer.Argument(..., help=RUN),
    which: str = typer.Argument(..., help=f"{WHICH}."),
    cohort: str = COHORT,
    reason: str = typer.Option("by hand", help="Reason to record with the decision."),
) -> None:
    """Put an earlier rubric back into effect, as a decision of its own. Nothing is deleted.

    A run that is training picks it up with its next update.

    Example: mpo rubric rollback runs/essay-mpo-0 661d920d --reason "the policy got worse"
    """
    with open_store(run) as store:
        cohort = choose_cohort(store, cohort)
        rubric = choose_rubric(store, which, cohort)
        last = store.last_step()
        decision = roll_back(store, rubric.id, 0 if last is None else last + 1, reason, cohort)
    typer.echo(f"rubric {decision.proposed} is in effect again, after {decision.parent}")


def _counted(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def _is_rubric_file(text: str) -> bool:
    path = Path(text)
    return path.is_file() and path.suffix not in (".yaml", ".yml") and not is_store(path)


def _resolve(run: str, which: str, cohort: str) -> Rubric:
    if _is_rubric_file(run):
        if which != "head":
            raise ConfigError(f"{run} is a rubric file, not a run: it has no rubric {which!r}")
        return read_rubric_file(Path(run))
    with open_store(run) as store:
        return choose_rubric(store, which, cohort)


def _print_lineage(store: Store, as_json: bool) -> None:
    decisions = store.lineage()
    if as_json:
        entries: list[dict[str, Any]] = [
            {
                **d.model_dump(mode="json", exclude={"refinement"}),
                "reasons": d.refinement.reasons if d.refinement else None,
            }
            for d in decisions
        ]
        typer.echo(to_json(entries, indent=2))
        return
    numbers = number_rubrics(decisions)
    for d in decisions:
        same = d.proposed is not None and d.proposed == d.parent
        verdict = "in effect" if d.accepted else "unchanged" if same else "refused"
        n = numbers.get((d.cohort, d.proposed or ""))
        number = f"{d.cohort} #{n}".strip() if n is not None else d.cohort
        rubric = f"{number:<4}  {d.proposed or '-':<16}"
        typer.echo(f"step {d.step:>5}  {d.kind:<8}  {rubric}  {verdict}: {d.reason}")
        if d.refinement is not None and d.refinement.reasons:
            typer.echo(f"            {' '.join(d.refinement.reasons.split())}")
