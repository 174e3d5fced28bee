"""The texts of a report, packed: JSON, deflated, in base64; the page unpacks it when it is opened.

Rollouts are most of a report. Packed they take a fifth of the room, and no text by a policy or a
model can close the script element that holds them: base64 has no `<`.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..records import Decision, Judgement
from ..rubric import Rubric
from .figures import anchor
from .load import RunData
from .sample import Shown

__all__ = ["Packed", "pack", "pack_texts"]

LONGEST = 20_000
"""Characters of a completion or a prompt; of longer ones the page says how much is left out."""
_CUTS: tuple[tuple[int, bool], ...] = ((8000, True), (3000, True), (1500, False), (400, False))
"""Characters of an analysis, and whether the rubric that it led to is kept; the first that fits."""
_ANALYSES = 0.45
"""Most of the room that analyses may take; rollouts get the rest."""


@dataclass(frozen=True)
class Packed:
    """What fits."""

    text: str
    shown: int
    """Rollouts in it."""
    total: int
    """Rollouts of all runs."""
    cut: int | None
    """Characters to which analyses were cut; None where all are whole."""


def pack(text: str) -> str:
    """Deflated (no header), in base64."""
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    data = deflate.compress(text.encode()) + deflate.flush()
    return base64.b64encode(data).decode("ascii")


def pack_texts(runs: Sequence[RunData], room: int) -> Packed:
    """Rollouts, analyses and rubrics, so many that the result has at most `room` characters."""
    cases, cut = _fitting_cases(runs, int(room * _ANALYSES))
    total = sum(run.rollouts for run in runs)
    chosen = [(place, shown) for place, run in enumerate(runs) for shown in _all(run)]
    while True:
        content = _content(runs, chosen, cases)
        # ASCII: a lone surrogate, which a policy may emit, is an escape then.
        text = pack(json.dumps(content, separators=(",", ":")))
        if len(text) <= room or not chosen:
            return Packed(text, len(chosen), total, cut)
        chosen = _fewer(chosen, min(0.9, 0.97 * room / len(text)))


def _all(run: RunData) -> list[Shown]:
    return [*run.before_sample.shown, *run.sample.shown]


def _fewer(chosen: Sequence[tuple[int, Shown]], share: float) -> list[tuple[int, Shown]]:
    """Evenly fewer; those that a decision points at go last."""
    keep = int(len(chosen) * share)
    needed = sum(shown.needed for _, shown in chosen)
    rest = len(chosen) - needed
    of_needed, of_rest = min(needed, keep), max(0, keep - needed)
    kept, seen = [], {True: 0, False: 0}
    for entry in chosen:
        kind = entry[1].needed
        n, most, wanted = seen[kind], (needed if kind else rest), (of_needed if kind else of_rest)
        seen[kind] = n + 1
        if (n + 1) * wanted // most > n * wanted // most:
            kept.append(entry)
    return kept


# ---------------------------------------------------------------------- analyses


def _fitting_cases(runs: Sequence[RunData], room: int) -> tuple[dict[str, Any], int | None]:
    found: dict[str, Any] = {}
    for characters, proposals in _CUTS:
        found = dict(_cases(runs, characters, proposals))
        if len(pack(json.dumps(found))) <= room:
            whole = (characters, proposals) == _CUTS[0]
            return found, None if whole else characters
    return found, _CUTS[-1][0]


def _cases(
    runs: Sequence[RunData], characters: int, proposals: bool
) -> Iterator[tuple[str, list[list[Any]]]]:
    for place, run in enumerate(runs):
        for before, decisions in ((True, run.before), (False, run.decisions)):
            for index, decision in enumerate(decisions):
                if decision.refinement is not None:
                    id = anchor(run, index, before=before)
                    yield id, [*_case_rows(place, decision, characters, proposals)]


def _case_rows(
    place: int, decision: Decision, characters: int, proposals: bool
) -> Iterator[list[Any]]:
    """[run, rollout id, verdict, label, findings, advice, reasons, rubric] of each case."""
    refinement = decision.refinement
    assert refinement is not None
    led_to = {proposal.rollout_id: proposal for proposal in refinement.proposals}
    analysed = {analysis.rollout_id: analysis for analysis in refinement.analyses}
    for id in dict.fromkeys([*refinement.evidence, *analysed, *led_to]):
        analysis, proposal = analysed.get(id), led_to.get(id)
        yield [
            place,
            id,
            analysis.verdict.replace("_", " ") if analysis else "",
            refinement.labels.get(id, ""),
            _cut(analysis.findings, characters) if analysis else "",
            _cut(analysis.advice, characters) if analysis else "",
            _cut(proposal.reasons, characters) if proposal else "",
            _cut(proposal.rubric.to_markdown(), characters) if proposal and proposals else "",
        ]


def _cut(text: str, characters: int) -> str:
    if len(text) <= characters:
        return text
    return f"{text[:characters]}… [{len(text) - characters:,} more characters in the store]"


# ---------------------------------------------------------------------- rollouts


class _Table:
    """Texts that come again and again, each once."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def place(self, text: str) -> int:
        return self.places.setdefault(text, len(self.places))


def _content(
    runs: Sequence[RunData], chosen: Sequence[tuple[int, Shown]], cases: Mapping[str, Any]
) -> dict[str, Any]:
    prompts, texts, rubrics = _Table(), _Table(), _Table()
    for run in runs:
        for decision in (*run.before, *run.decisions):
            for id in (decision.parent, decision.proposed):
                if id is not None:
                    rubrics.place(id)
    rows = [_row(place, shown, prompts, texts, rubrics) for place, shown in chosen]
    known = {id: rubric for run in runs for id, rubric in run.rubrics.items()}
    return {
        "runs": [{"name": run.name, "labels": _labels(run)} for run in runs],
        "rubrics": [_rubric(id, known.get(id)) for id in rubrics.places],
        "prompts": list(prompts.places),
        "texts": list(texts.places),
        "rows": rows,
        "cases": cases,
    }


def _labels(run: RunData) -> dict[str, dict[str, str]]:
    """By cohort and rubric: cohorts may have begun with the same one."""
    labels: dict[str, dict[str, str]] = {}
    for cohort, id in run.numbers:
        labels.setdefault(cohort, {})[id] = run.label(cohort, id)
    return labels


def _rubric(id: str, rubric: Rubric | None) -> list[Any]:
    """[id, text, [[key, name, least, most] of each criterion]]."""
    if rubric is None:
        return [id, "", []]
    keyed = zip(rubric.criterion_ids, rubric.criteria, strict=True)
    return [id, rubric.to_markdown(), [[k, c.name, c.scores[0], c.scores[-1]] for k, c in keyed]]


def _row(place: int, shown: Shown, prompts: _Table, texts: _Table, rubrics: _Table) -> list[Any]:
    """[run, step, cohort, prompt, completion, gold, judgement, other judgements, id]."""
    rollout = shown.rollout
    return [
        place,
        rollout.step,
        rollout.cohort,
        prompts.place(_cut(rollout.prompt, LONGEST)),
        _cut(rollout.completion, LONGEST),
        _rounded(shown.gold),
        _judgement(shown.judgement, texts, rubrics),
        [_judgement(other, texts, rubrics) for other in shown.others],
        rollout.id if shown.needed else "",  # digits do not pack, and nothing points at the others
    ]


def _judgement(judgement: Judgement, texts: _Table, rubrics: _Table) -> list[Any]:
    """[rubric, normalized, reward where it differs, unscored, rule, flags, scores, model]."""
    reward = None if judgement.reward == judgement.normalized_reward else judgement.reward
    return [
        rubrics.place(judgement.rubric_id),
        _rounded(judgement.normalized_reward),
        _rounded(reward),
        judgement.unscored or "",
        judgement.rule or "",
        dict(judgement.injection_flags),
        [[s.criterion, s.score, texts.place(s.rationale)] for s in judgement.scores],
        texts.place(judgement.model),
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
