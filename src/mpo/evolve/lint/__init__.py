"""Lint: faults of a rubric that can be found without a model.

    findings = lint(text, task=load_task("essay"), parent=head, evidence=cases)
    if has_errors(findings): ...

An error is only what no whole rubric can contain: something that is opened and never closed (a
bracket, a quote, a fence, an item); an ending in a comma, an article or a conjunction; an empty or
garbage criterion; a text copied from the example of the answer's format; a demand that the task's
limits forbid. Everything else is a warning. The rules read spelling and numbers, in English first;
a text in another language gets fewer of them.

Codes: `starts_mid_sentence`, `ends_mid_sentence`, `no_criteria`, `empty_criterion`,
`garbage_criterion`, `copied_example`, `forbidden_demand` (errors); `unreadable` (an error where
nothing can be read); `unclosed_item`, `text_outside`, `short_criterion`, `near_duplicate`,
`levels_out_of_order`, `missing_levels`, `unbounded_levels`, `score_range`, `limit_drift`, `leak`,
`grader_directed`, `control_string`, `url`, `too_large`, `fast_growth`, `lost_criterion` (warnings).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ...records import Case
from ...rubric import ReadRubric, Rubric
from ...task import Task
from .content import (
    check_criteria,
    check_growth,
    check_leaks,
    check_levels,
    check_limits,
    check_lost,
    check_strings,
    missing_criteria,
)
from .finding import Finding, Severity
from .reading import RubricReading, read
from .structure import check_structure

__all__ = ["Finding", "Severity", "has_errors", "lint", "missing_criteria"]


def lint(
    source: str | Rubric | ReadRubric,
    *,
    task: Task | None = None,
    parent: Rubric | None = None,
    evidence: Sequence[Case | str] = (),
    reasons: str = "",
) -> list[Finding]:
    """All faults, in a fixed order. Never raises.

    Args:
        source: A rubric file's text in any form that `read_rubric` takes, or a rubric. A text is
            better, because it still shows what the reader drops.
        task: Gives the limits and the usual scores; without it, no demand is forbidden.
        parent: The rubric that this one would replace.
        evidence: The cases that the MRM saw, or texts; used to find leaks.
        reasons: The MRM's reasons, which may explain why a criterion is gone.
    """
    # Each finding once: the end of the last criterion is the end of the rubric too.
    return list(dict.fromkeys(_findings(read(source), task, parent, evidence, reasons)))


def has_errors(findings: Iterable[Finding]) -> bool:
    """True if one of the findings keeps the rubric from taking effect."""
    return any(finding.severity == "error" for finding in findings)


def _findings(
    reading: RubricReading,
    task: Task | None,
    parent: Rubric | None,
    evidence: Sequence[Case | str],
    reasons: str,
) -> Iterator[Finding]:
    if reading.rubric is None:
        missing = "no criterion" in reading.fault or not reading.text.strip()
        if missing:
            yield Finding("no_criteria", "error", "rubric", reading.fault)
        else:
            yield Finding("unreadable", "error", "rubric", reading.fault)
    elif reading.fault:
        yield Finding("unreadable", "warning", "rubric", reading.fault)
    yield from check_structure(reading)
    yield from check_criteria(reading)
    if task is not None:
        yield from check_limits(reading, task)
    yield from check_levels(reading, task)
    for note in reading.notes:
        if not note.startswith(("item ", "unclosed item")):
            yield Finding("text_outside", "warning", "rubric", note)
    yield from check_strings(reading)
    yield from check_growth(reading, parent)
    if parent is not None:
        yield from check_lost(reading, parent, reasons)
    if evidence:
        yield from check_leaks(reading, [_texts(case) for case in evidence], parent)


def _texts(case: Case | str) -> tuple[str, ...]:
    if isinstance(case, str):
        return (case,)
    return (case.rollout.prompt, case.rollout.completion)
