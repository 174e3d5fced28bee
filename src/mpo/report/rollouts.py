"""Section 4: the form that filters rollouts, and the packed texts that `report.js` shows.

Texts are JSON, deflated, in base64. Rollouts are most of a report; packed they take a fifth of the
space, and no text by a policy or a model can close the script element that holds them.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ..records import Decision, Judgement, to_json
from ..rubric import Rubric
from .elements import anchor
from .run_data import RunData, ShownRollout

__all__ = ["Packed", "pack", "pack_texts", "rollouts_section"]

LONGEST = 20_000
"""The most characters of a completion or a prompt; the page says how many are left out."""
_CUTS: tuple[tuple[int, bool], ...] = ((8000, True), (3000, True), (1500, False), (400, False))
"""The most characters of an analysis, and if its rubric stays. The first that fits."""
_ANALYSES = 0.45
"""Largest share of the room for analyses; rollouts get the rest."""


@dataclass(frozen=True)
class Packed:
    """Texts that fit into the page."""

    text: str
    shown: int
    """Number of rollouts among them."""
    total: int
    """Number of rollouts of all runs."""
    cut: int | None
    """Characters to which analyses were cut; None where none was."""


def pack(text: str) -> str:
    """Deflate a text (without a header), in base64."""
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    data = deflate.compress(text.encode()) + deflate.flush()
    return base64.b64encode(data).decode("ascii")


def pack_texts(runs: Sequence[RunData], room: int) -> Packed:
    """Pack rollouts, analyses and rubrics, as many as fit into `room` characters."""
    cases, cut = _fitting_cases(runs, int(room * _ANALYSES))
    total = sum(run.rollouts for run in runs)
    chosen = [(place, shown) for place, run in enumerate(runs) for shown in _all(run)]
    while True:
        content = _content(runs, chosen, cases)
        text = pack(to_json(content))
        if len(text) <= room or not chosen:
            return Packed(text, len(chosen), total, cut)
        chosen = _fewer(chosen, min(0.9, 0.97 * room / len(text)))


def _all(run: RunData) -> list[ShownRollout]:
    return [*run.before_sample.shown, *run.sample.shown]


def _fewer(
    chosen: Sequence[tuple[int, ShownRollout]], fraction: float
) -> list[tuple[int, ShownRollout]]:
    """Drop rollouts evenly; those to which a decision refers go last."""
    keep = int(len(chosen) * fraction)
    needed = sum(shown.needed for _, shown in chosen)
    rest = len(chosen) - needed
    of_needed, of_rest = min(needed, keep), max(0, keep - needed)
    result, seen = [], {True: 0, False: 0}
    for entry in chosen:
        kind = entry[1].needed
        n, most, wanted = seen[kind], (needed if kind else rest), (of_needed if kind else of_rest)
        seen[kind] = n + 1
        if (n + 1) * wanted // most > n * wanted // most:
            result.append(entry)
    return result


# ---------------------------------------------------------------------- analyses


def _fitting_cases(runs: Sequence[RunData], room: int) -> tuple[dict[str, Any], int | None]:
    cases: dict[str, Any] = {}
    for characters, proposals in _CUTS:
        cases = dict(_cases(runs, characters, proposals))
        if len(pack(to_json(cases))) <= room:
            whole = (characters, proposals) == _CUTS[0]
            return cases, None if whole else characters
    return cases, _CUTS[-1][0]


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
    proposed = {proposal.rollout_id: proposal for proposal in refinement.proposals}
    analysed = {analysis.rollout_id: analysis for analysis in refinement.analyses}
    for id in dict.fromkeys([*refinement.evidence, *analysed, *proposed]):
        analysis, proposal = analysed.get(id), proposed.get(id)
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
    """Repeated texts, each kept once."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def place(self, text: str) -> int:
        return self.places.setdefault(text, len(self.places))


def _content(
    runs: Sequence[RunData], chosen: Sequence[tuple[int, ShownRollout]], cases: Mapping[str, Any]
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
        "runs": [{"name": run.name, "labels": _labels(run), "gold": run.gold_name} for run in runs],
        "rubrics": [_rubric(id, known.get(id)) for id in rubrics.places],
        "prompts": list(prompts.places),
        "texts": list(texts.places),
        "rows": rows,
        "cases": cases,
    }


def _labels(run: RunData) -> dict[str, dict[str, str]]:
    """Names by cohort and rubric: cohorts may start with the same rubric."""
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


def _row(
    place: int, shown: ShownRollout, prompts: _Table, texts: _Table, rubrics: _Table
) -> list[Any]:
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
        rollout.id
        if shown.needed
        else "",  # digits do not compress, and nothing refers to the others
    ]


def _judgement(judgement: Judgement, texts: _Table, rubrics: _Table) -> list[Any]:
    """[rubric, normalized reward, reward if it differs, unscored, rule, flags, scores, model]."""
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


# ---------------------------------------------------------------------- the form


def rollouts_section(runs: Sequence[RunData], packed: Packed) -> str:
    """The section's HTML."""
    if packed.shown == packed.total:
        note = f"All {packed.total:,} rollouts are here."
    else:
        note = (
            f"{packed.shown:,} of {packed.total:,} rollouts are here, so that this file stays "
            "small: those to which a decision, an alarm or a replay refers, and an even sample of "
            "the others from every step. The store has all."
        )
    if packed.cut is not None:
        note += f" Analyses are cut after {packed.cut:,} characters."
    names = "".join(f"<option>{escape(run.name)}</option>" for run in runs)
    run_field = _field("run", f'<select name="run"><option value="">all</option>{names}</select>')
    golds = [run.gold_name for run in runs if any(s.gold is not None for s in run.sample.shown)]
    gap = f'<option value="gap">reward above {escape(golds[0])}</option>' if golds else ""
    fields = [
        run_field if len(runs) > 1 else "",
        _field("step from", '<input name="from" type="number" min="0" inputmode="numeric">'),
        _field("step to", '<input name="to" type="number" min="0" inputmode="numeric">'),
        _field("reward from", _reward_input("low")),
        _field("reward to", _reward_input("high")),
        _field("rubric", '<select name="rubric"><option value="">all</option></select>'),
        _field("flag", '<select name="flag"><option value="">any or none</option></select>'),
        _field("text contains", '<input name="text" type="search">'),
        _field(
            "order",
            '<select name="order"><option value="step">by step</option>'
            '<option value="high">highest reward</option>'
            '<option value="low">lowest reward</option>'
            f"{gap}</select>",
        ),
    ]
    return (
        f'<p class="faint">{note}</p>\n'
        '<form id="filter" class="filter" role="search" aria-label="Filter rollouts">'
        f"{''.join(fields)}"
        '<button type="reset">Clear</button></form>\n'
        '<p id="found" role="status" aria-live="polite"></p>\n'
        '<div id="rollouts"></div>\n'
        '<button type="button" id="more" hidden>Show more</button>\n'
        "<noscript><p>Rollouts and figures need JavaScript; everything else is here.</p></noscript>"
    )


def _field(label: str, control: str) -> str:
    return f"<label><span>{escape(label)}</span>{control}</label>"


def _reward_input(name: str) -> str:
    return f'<input name="{name}" type="number" min="0" max="1" step="0.05" inputmode="decimal">'
