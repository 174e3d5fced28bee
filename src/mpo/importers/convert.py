"""Rollouts, judgements and decisions of a run of the published code, written into a store.

An interval's rollouts get its last update as their step, since the files do not separate the
updates of an interval. The rubric that the meta step of that update wrote is decided at the same
step.

The published code had no lint. Lint's findings on each rubric file are kept with its decision,
which stays accepted: the rubric was in effect, whatever lint would have done.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DataError, RubricError
from ..evolve.lint import lint
from ..judge.scale import Normalized, Raw
from ..records import (
    Analysis,
    Case,
    CriterionScore,
    Decision,
    Judgement,
    Proposal,
    Refinement,
    Rollout,
    content_hash,
)
from ..rubric import Rubric, read_rubric
from ..store import Store
from ..task import Task, load_task
from .experiment import Experiment, MetaEvaluation, PublishedRollout, RubricFile

__all__ = ["Imported", "UnparsedError", "read_scores", "write_experiment"]

PROTOCOL = "imported"
"""`Judgement.protocol` and `Judgement.model` of the published RM's judgements."""

_BATCH = 512
_SCORE = re.compile(r"</reason>\s*<score>\s*([+-]?\d{1,6})\s*</score>")
_PROMPTS = (("Instructions:\n", "\nYour Writing:"), ("Problem:", "Your solution with answer"))
"""Words before and after the prompt in a chat that was decoded without its special tokens."""
_TASKS = {"compose either an essay or a story": "essay", "Your solution with answer": "math"}
"""Words of a published prompt, and our task of the same kind, whose limits lint then knows."""
_LOG_COLUMNS = frozenset(
    "update rank index rubric_iteration junior_scores junior_evaluations queries "
    "student_responses".split()
)
# Columns of the published math rows, and their names in our task.
_COLUMNS = {"solutions": "solution", "gold_answers": "answer"}


@dataclass(frozen=True)
class Imported:
    """Counts of what was imported, and a list of what could not be."""

    rollouts: int
    rubrics: int
    meta_evaluations: int
    unparsed: tuple[Mapping[str, Any], ...]
    """Rollouts that stayed unscored, each with update, rank, index and reason."""
    notes: tuple[str, ...]
    """Everything else that did not fit, one line each."""


def write_experiment(experiment: Experiment, store: Store) -> Imported:
    """Write a run of the published code into an empty store.

    Raises:
        DataError: A rollout belongs to an update without a rubric.
        StoreError: The store cannot be written.
    """
    versions: dict[str, dict[int, RubricFile]] = defaultdict(dict)
    for file in experiment.rubrics:
        versions[file.cohort][file.number] = file
    numbers = {cohort: _numbers(experiment, cohort, versions[cohort]) for cohort in versions}
    for file in experiment.rubrics:
        store.put_rubric(file.rubric)
    cases, unparsed = _cases(experiment, versions, numbers)
    for start in range(0, len(cases), _BATCH):
        store.append(cases[start : start + _BATCH])
    notes = [
        f"{file.cohort}{' ' if file.cohort else ''}rubric {file.number}: {note}"
        for file in experiment.rubrics
        for note in file.notes
    ]
    rollouts = _by_text(case.rollout for case in cases)
    for step, decision in _decisions(experiment, versions, numbers, rollouts, notes):
        store.decide(decision, versions[decision.cohort][step].rubric)
    return Imported(
        rollouts=len(experiment.rollouts),
        rubrics=len(experiment.rubrics),
        meta_evaluations=len(experiment.evaluations),
        unparsed=tuple(unparsed),
        notes=tuple(notes),
    )


# ---------------------------------------------------------------------- which rubric


def _numbers(
    experiment: Experiment, cohort: str, files: Mapping[int, RubricFile]
) -> dict[int, int]:
    """Number of the rubric in effect, by update.

    A row names it, or an evaluation quotes the rubric. Otherwise the updates with files are
    counted, since each meta step writes the next version.
    """
    updates = sorted(
        {r.update for r in experiment.rollouts} | {e.update for e in experiment.evaluations}
    )
    by_order = sorted(files)
    numbers = dict(zip(updates, by_order, strict=False))
    texts: dict[str, list[int]] = defaultdict(list)
    for number, file in files.items():
        texts[file.text.strip()].append(number)
    for entry in experiment.evaluations:
        quoted = entry.row.get("junior_prompt", entry.row.get("meta_level_guidelines"))
        equal = texts.get(quoted.strip(), []) if isinstance(quoted, str) else []
        if entry.cohort == cohort and len(equal) == 1:
            numbers[entry.update] = equal[0]
    for rollout in experiment.rollouts:
        if rollout.cohort == cohort and rollout.rubric is not None:
            numbers[rollout.update] = rollout.rubric
    return numbers


def _decided_after(numbers: Mapping[int, int], number: int) -> int:
    """The update whose meta step wrote a rubric: the last one under an earlier version."""
    before = [update for update, current in numbers.items() if current < number]
    return max(before, default=0)


# ---------------------------------------------------------------------- cases


def _cases(
    experiment: Experiment,
    versions: Mapping[str, Mapping[int, RubricFile]],
    numbers: Mapping[str, Mapping[int, int]],
) -> tuple[list[Case], list[Mapping[str, Any]]]:
    cases: list[Case] = []
    unparsed: list[Mapping[str, Any]] = []
    counted: dict[int, int] = defaultdict(int)
    for published in experiment.rollouts:
        number = numbers[published.cohort].get(published.update)
        file = versions[published.cohort].get(number) if number is not None else None
        if file is None:
            raise DataError(
                f"{experiment.folder}, update {published.update}: its rubric "
                f"evaluation_rubric_iter_{'N' if number is None else number}.txt is missing"
            )
        rollout = _rollout(published, counted[published.update])
        counted[published.update] += 1
        judgement = _judgement(published, rollout, file)
        cases.append(Case(rollout=rollout, judgement=judgement))
        if judgement.unscored is not None:
            unparsed.append(
                {
                    "update": published.update,
                    "rank": published.rank,
                    "index": published.index,
                    "reason": judgement.unscored,
                }
            )
    return cases, unparsed


def _rollout(published: PublishedRollout, index: int) -> Rollout:
    row = published.row
    columns = {
        _COLUMNS.get(key, key): value for key, value in row.items() if key not in _LOG_COLUMNS
    }
    return Rollout(
        prompt=_prompt(row["queries"]),
        completion=row["student_responses"],
        columns=columns,
        step=published.update,
        index=index,
        cohort=published.cohort,
    )


def _prompt(query: str) -> str:
    turn = query.find("user\n")
    if turn < 0:
        return query.strip()
    for before, after in _PROMPTS:
        start = query.find(before, turn)
        end = query.find(after, start)
        if 0 <= start < end:
            return query[start + len(before) : end].strip()
    whole = query.rstrip()
    if whole.endswith("\nassistant"):
        return whole[turn + len("user\n") : -len("\nassistant")].strip()
    return whole.strip()


def _judgement(published: PublishedRollout, rollout: Rollout, file: RubricFile) -> Judgement:
    rubric, row = file.rubric, published.row
    reward = normalized = unscored = None
    try:
        scores = read_scores(row.get("junior_evaluations"), row.get("junior_scores"), rubric)
        reward = Raw().reward(rubric, scores)
        normalized = Normalized().reward(rubric, scores)
    except UnparsedError as error:
        scores, unscored = (), str(error)
    return Judgement(
        key=content_hash([PROTOCOL, rollout.id, rubric.id]),
        rollout_id=rollout.id,
        rubric_id=rubric.id,
        step=rollout.step,
        cohort=rollout.cohort,
        scores=scores,
        reward=reward,
        normalized_reward=normalized,
        unscored=unscored,
        protocol=PROTOCOL,
        model=PROTOCOL,
    )


# ---------------------------------------------------------------------- decisions

_Texts = Mapping[tuple[int, str], Sequence[Rollout]]


def _by_text(rollouts: Iterable[Rollout]) -> _Texts:
    by_text: dict[tuple[int, str], list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        by_text[rollout.step, rollout.completion.strip()].append(rollout)
    return by_text


def _decisions(
    experiment: Experiment,
    versions: Mapping[str, Mapping[int, RubricFile]],
    numbers: Mapping[str, Mapping[int, int]],
    rollouts: _Texts,
    notes: list[str],
) -> list[tuple[int, Decision]]:
    """The lineage of all cohorts by step, each decision with the number of its rubric."""
    decisions: list[tuple[int, Decision]] = []
    used: set[tuple[str, int]] = set()
    task = _task(experiment)
    for cohort, files in versions.items():
        parent: str | None = None
        before: RubricFile | None = None
        for number in sorted(files):
            proposed = files[number]
            step = 0 if parent is None else _decided_after(numbers[cohort], number)
            used.add((cohort, step))
            decision = Decision(
                step=step,
                cohort=cohort,
                kind="seed" if parent is None else "evolve",
                parent=parent,
                proposed=proposed.rubric.id,
                accepted=True,
                reason="imported",
                findings=_findings(proposed, before, task),
                due=None if parent is None else step,
                refinement=None
                if parent is None
                else _refinement(experiment, cohort, step, proposed, rollouts),
            )
            decisions.append((number, decision))
            parent, before = proposed.rubric.id, proposed
    for update, cohort in sorted({(e.update, e.cohort) for e in experiment.evaluations}):
        if (cohort, update) not in used:
            notes.append(f"update {update}: its analyses led to no rubric file, and are left out")
    return sorted(decisions, key=lambda pair: pair[1].step)


def _task(experiment: Experiment) -> Task | None:
    """Our task of the same kind; None where the prompts fit none."""
    query = experiment.rollouts[0].row["queries"]
    return next((load_task(name) for words, name in _TASKS.items() if words in query), None)


def _findings(file: RubricFile, parent: RubricFile | None, task: Task | None) -> tuple[str, ...]:
    """Lint's findings on the file's text: a parsed rubric does not show what the reader dropped."""
    if parent is None:
        return ()  # a person wrote the seed
    source: str | Rubric = file.text
    try:
        read_rubric(file.text)
    except RubricError:
        source = file.rubric  # free-text guidelines have no structure that could be broken
    return tuple(str(finding) for finding in lint(source, task=task, parent=parent.rubric))


def _refinement(
    experiment: Experiment, cohort: str, step: int, proposed: RubricFile, rollouts: _Texts
) -> Refinement:
    """The meta step of an update: the analysis of each case, and the rubric proposed after it."""
    analyses: list[Analysis] = []
    proposals: list[Proposal] = []
    skipped: list[str] = []
    labels: dict[str, str] = {}
    evidence: list[str] = []
    entries = [e for e in experiment.evaluations if (e.update, e.cohort) == (step, cohort)]
    for position, entry in enumerate(entries, start=1):
        id = _evidence(entry, rollouts)
        analysis = str(entry.row.get("meta_analysis") or "")
        analyses.append(Analysis(rollout_id=id, verdict="unknown", findings=analysis))
        if id:
            evidence.append(id)
            if entry.row.get("prescreened_verdict"):
                labels[id] = str(entry.row["prescreened_verdict"])
        try:
            rubric = read_rubric(str(entry.row.get("meta_refinement") or "")).rubric
        except RubricError as error:
            if cohort:  # one joint analysis, and the guidelines that it led to
                rubric = proposed.rubric
            else:
                skipped.append(f"case {position} ({id or 'not found'}): its rubric: {error}")
                continue
        proposals.append(Proposal(rollout_id=id, rubric=rubric))
    return Refinement(
        rubric=proposed.rubric,
        reasons="",
        evidence=tuple(evidence),
        labels=labels,
        analyses=tuple(analyses),
        proposals=tuple(proposals),
        skipped=tuple(skipped),
        model=PROTOCOL,
    )


def _evidence(entry: MetaEvaluation, rollouts: _Texts) -> str:
    """Id of the analysed rollout; empty where none or several match."""
    text = str(entry.row.get("student_generation") or "").strip()
    matching = rollouts.get((entry.update, text), []) if text else []
    prompt = str(entry.row.get("student_prompt") or "").strip()
    if len(matching) > 1:
        matching = [rollout for rollout in matching if prompt and prompt in rollout.prompt]
    return matching[0].id if len(matching) == 1 else ""


# ---------------------------------------------------------------------- scores


class UnparsedError(Exception):
    """Answers that do not fit the rubric. The text starts with one word for statistics."""


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """Reasons and scores, each score with the first reason that no other score has."""
    at = 0
    for score in _SCORE.finditer(text):
        start = text.find("<reason>", at, score.start())
        if start >= 0:
            yield text[start + len("<reason>") : score.start()], score[1]
            at = score.end()


def read_scores(answers: Any, total: Any, rubric: Rubric) -> tuple[CriterionScore, ...]:
    """The published RM's scores by criterion, in the rubric's order.

    It answers `<reason>…</reason> <score>…</score>`, one pair per criterion.

    Args:
        answers: Value of `junior_evaluations`: one text per criterion, or a single text.
        total: Value of `junior_scores`, the sum of the scores.
        rubric: The rubric in effect.

    Raises:
        UnparsedError: The scores' number or range does not fit the rubric, or they do not add up.
            The published parser takes the first digits that it finds and checks neither.
    """
    texts = answers if isinstance(answers, list) else [answers]
    if not all(isinstance(text, str) for text in texts):
        raise UnparsedError("no_text: the evaluations are not text")
    pairs = [pair for text in texts for pair in _pairs(text)]
    opened = sum(text.count("<score>") for text in texts)
    if opened != len(pairs):
        raise UnparsedError(
            f"broken_tags: {opened} <score> tags, {len(pairs)} of them after a whole <reason>"
        )
    wanted = len(rubric.criteria)
    if len(pairs) != wanted:
        raise UnparsedError(f"wrong_number: {len(pairs)} scores for {wanted} criteria")
    scores = []
    keyed = zip(rubric.criterion_ids, rubric.criteria, pairs, strict=True)
    for key, criterion, (reason, digits) in keyed:
        score = int(digits)
        if score not in criterion.scores:
            raise UnparsedError(
                f"out_of_range: criterion {key!r} got {score}, its scores are "
                f"{criterion.scores[0]} to {criterion.scores[-1]}"
            )
        scores.append(CriterionScore(criterion=key, score=score, rationale=reason.strip()))
    if not isinstance(total, int | float) or isinstance(total, bool) or not math.isfinite(total):
        raise UnparsedError(f"no_sum: junior_scores is {total!r:.40}")
    added = sum(s.score for s in scores)
    if added != total:
        raise UnparsedError(f"wrong_sum: the scores add up to {added}, junior_scores is {total:g}")
    return tuple(scores)
