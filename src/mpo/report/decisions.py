"""Section 3: the life of a run's rubric.

A drawing of the lineage, and every decision with its reasons, lint's findings, the gate's figures,
the diff against the parent, and the analysed rollouts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape

from ..records import Decision
from ..rubric import diff_rubrics
from .elements import anchor, badge, count, details, number, paragraphs, table
from .run_data import RunData

__all__ = ["decisions_section", "lint_sentence"]

ROOM = 1_200_000
"""The most characters of the section. Diffs are most of them."""
_FILE = re.compile(r"(?:---|\+\+\+) [0-9a-f]{16}\s*")
_DIFF_LINES = (100_000, 200, 60, 15)
"""Lines of a diff; the first number that fits is taken."""

REFUSED = "error "
"""Start of a finding that keeps a rubric from taking effect."""


def decisions_section(runs: Sequence[RunData], room: int = ROOM) -> str:
    """The section's HTML.

    Diffs are cut so that it has at most `room` characters, but a few lines of each always stay.
    """
    content = ""
    for lines in _DIFF_LINES:
        content = _all_lives(runs, lines)
        if len(content) <= room:
            break
    return content


def _all_lives(runs: Sequence[RunData], lines: int) -> str:
    if len(runs) == 1:
        return _life(runs[0], lines)
    # Open the first run whose rubric changed: it is the one to read.
    first = next((run for run in runs if run.switches), runs[0])
    parts = []
    for run in runs:
        proposals = [d for d in (*run.before, *run.decisions) if d.kind == "evolve"]
        accepted = sum(d.accepted for d in proposals)
        gist = "the seed rubric only"
        if proposals:
            gist = f"{accepted} of {len(proposals)} proposals accepted"
        summary = f'<span class="name">{escape(run.name)}</span> <span class="faint">{gist}</span>'
        parts.append(details(summary, _life(run, lines), kind="run", opened=run is first))
    return "\n".join(parts)


def _life(run: RunData, lines: int) -> str:
    sentence = lint_sentence(run)
    callout = f'<p class="callout">{sentence}</p>' if sentence else ""
    parts = [callout, _lineage_graphs(run)]
    if run.before:
        parts.append("<h3>Before training, on the untrained policy</h3>")
        parts += [_decision(run, i, d, lines, before=True) for i, d in enumerate(run.before)]
        parts.append("<h3>In training</h3>")
    parts += [_decision(run, i, d, lines) for i, d in enumerate(run.decisions)]
    return "\n".join(part for part in parts if part)


def lint_sentence(run: RunData) -> str:
    """HTML sentence on rubrics that took effect and that lint refuses, as in an imported run."""
    bad: list[str] = []
    for index, decision in enumerate(run.decisions):
        errors = _errors(decision)
        if errors and decision.accepted and decision.proposed:
            codes = ", ".join(dict.fromkeys(line.split()[1].replace("_", " ") for line in errors))
            label = run.label(decision.cohort, decision.proposed)
            bad.append(
                f'<a href="#{escape(anchor(run, index))}">{escape(label)}</a> ({escape(codes)})'
            )
    if not bad:
        return ""
    accepted = sum(d.kind == "evolve" and d.accepted for d in run.decisions)
    rubrics = f"{len(bad)} of {count(accepted, 'rubric')}"
    return (
        f"<strong>Lint would have refused {rubrics}</strong> that took effect in "
        f"{escape(run.name)}: {'; '.join(bad)}."
    )


def _decision(
    run: RunData, index: int, decision: Decision, lines: int, *, before: bool = False
) -> str:
    word, kind = _outcome(decision)
    when = "seed" if decision.kind == "seed" else f"{'round' if before else 'step'} {decision.step}"
    where = f"{decision.cohort} · " if decision.cohort else ""
    id = anchor(run, index, before=before)
    summary = (
        f"{badge(word, kind)} {_lint_badge(decision)}<span class='name'>{escape(where)}{when}"
        f"{_rubric_number(run, decision, before)}</span>"
        f' <span class="gist">{escape(_gist(decision))}</span>'
    )
    body = [
        _reason(decision),
        _change(run, decision, lines),
        _findings(decision),
        _figures(decision.figures),
        _cases(run, decision, id),
        _rubric(run, decision),
    ]
    content = "\n".join(part for part in body if part)
    return (
        f'<details class="decision {kind}" id="{escape(id)}"><summary>{summary}</summary>\n'
        f'<div class="body">{content}</div>\n</details>'
    )


def _lint_badge(decision: Decision) -> str:
    errors = _errors(decision)
    return badge(f"lint: {count(len(errors), 'error')}", "failed") + " " if errors else ""


def _errors(decision: Decision) -> list[str]:
    return [line for line in decision.findings if line.startswith(REFUSED)]


def _rubric_number(run: RunData, decision: Decision, before: bool) -> str:
    number = run.numbers.get((decision.cohort, decision.proposed or ""))
    if decision.proposed is None or before:
        return ""
    return f": rubric #{number}" if decision.accepted and number is not None else ": proposal"


def _outcome(decision: Decision) -> tuple[str, str]:
    if decision.kind == "seed":
        return "seed", "seed"
    if decision.kind == "rollback":
        return "rollback", "accepted"
    if decision.accepted:
        return "accepted", "accepted"
    return ("refused", "refused") if decision.proposed else ("failed", "failed")


def _gist(decision: Decision) -> str:
    line = " ".join(decision.reason.split()) if decision.kind != "seed" else ""
    return line if len(line) <= 110 else f"{line[:109]}…"


def _reason(decision: Decision) -> str:
    if decision.kind == "seed":
        return ""
    when = (
        f" Due after step {decision.due}, decided at step {decision.step}."
        if decision.due is not None and decision.due != decision.step
        else ""
    )
    parts = [f'<p class="reason">{escape(decision.reason)}.{when}</p>'.replace("..", ".")]
    refinement = decision.refinement
    if refinement is not None and refinement.reasons:
        parts.append(
            "<h3 class='minor'>Reasons of the meta-reward model</h3>"
            f"<blockquote>{paragraphs(refinement.reasons)}</blockquote>"
        )
    return "\n".join(parts)


def _findings(decision: Decision) -> str:
    if not decision.findings:
        return ""
    errors = _errors(decision)
    items = "".join(
        f'<li class="{"error" if line in errors else "warning"}">{escape(line)}</li>'
        for line in decision.findings
    )
    warnings = len(decision.findings) - len(errors)
    counts = f"{count(len(errors), 'error')}, {count(warnings, 'warning')}"
    note = " Errors keep a rubric from taking effect." if errors else ""
    return f"<h3 class='minor'>Lint: {counts}.{note}</h3><ul class='findings'>{items}</ul>"


def _figures(figures: Mapping[str, float]) -> str:
    """The gate's figures; those of the head and the proposal stand in one row."""
    if not figures:
        return ""
    pairs = [
        name[:-5] for name in figures if name.endswith("_head") and f"{name[:-5]}_new" in figures
    ]
    rows = [
        [_words(name), number(figures[f"{name}_head"], 3), number(figures[f"{name}_new"], 3)]
        for name in pairs
    ]
    paired = {f"{name}_{side}" for name in pairs for side in ("head", "new")}
    alone = [(name, value) for name, value in figures.items() if name not in paired]
    body = (
        table("The gate's figures", ["", "head", "proposal"], rows, visible=False) if rows else ""
    )
    if alone:
        listed = ", ".join(f"{_words(name)} {value:.4g}" for name, value in alone)
        body += f'<p class="faint">{listed}</p>'
    return f"<h3 class='minor'>Gate</h3>{body}"


def _words(name: str) -> str:
    return escape(name.replace("_", " "))


def _change(run: RunData, decision: Decision, lines: int) -> str:
    parent = run.rubrics.get(decision.parent or "")
    proposed = run.rubrics.get(decision.proposed or "")
    if parent is None or proposed is None:
        return ""
    change = diff_rubrics(parent, proposed)
    against = escape(run.label(decision.cohort, decision.parent or ""))
    if not change:
        return '<p class="faint">The rubric did not change.</p>'
    shown = change.splitlines()
    left = len(shown) - lines
    more = f'<p class="faint">{left:,} more lines: mpo rubric diff</p>' if left > 0 else ""
    diff = f'<pre class="diff">{_diff(shown[:lines])}</pre>{more}'
    return f'<h3 class="minor">Changes against {against}</h3>{diff}'


def _diff(shown: Sequence[str]) -> str:
    """One span per line, without the file names of the unified diff, which are ids."""
    kinds = {"+": "add", "-": "del", "~": "mod", "@": "at"}
    lines = []
    for line in shown:
        if _FILE.fullmatch(line):
            continue
        lines.append(f'<span class="{kinds.get(line[:1], "same")}">{escape(line) or " "}</span>')
    return "".join(lines)  # each is a block; a line break between them would show as an empty line


def _cases(run: RunData, decision: Decision, id: str) -> str:
    """A placeholder that `report.js` fills with the analyses and their rollouts."""
    refinement = decision.refinement
    if refinement is None:
        return ""
    skipped = "".join(f'<li class="faint">left out: {escape(s)}</li>' for s in refinement.skipped)
    left = f"<ul>{skipped}</ul>" if skipped else ""
    analyses = len(refinement.analyses)
    if not analyses and not refinement.evidence:
        return left
    words = f"{analyses} analys{'is' if analyses == 1 else 'es'}, and their rollouts"
    if not analyses:
        words = f"{len(refinement.evidence)} rollouts of the evidence"
    return details(words, f'<div data-cases="{escape(id)}"></div>{left}', kind="cases")


def _rubric(run: RunData, decision: Decision) -> str:
    rubric = run.rubrics.get(decision.proposed or "")
    if rubric is None or decision.proposed is None:
        return ""
    criteria = len(rubric.criteria)
    low, high = rubric.score_range
    points = f"{high:g} points" if low == 0 else f"{low:g} to {high:g} points"
    words = f"The whole rubric: {criteria} criteri{'on' if criteria == 1 else 'a'}, {points}"
    place = f'<pre data-rubric="{escape(decision.proposed)}"></pre>'
    id = f' <code class="id">{escape(decision.proposed)}</code>'
    return details(words + id, place, opened=decision.kind == "seed")


# ---------------------------------------------------------------------- lineage

_STEP, _LEFT, _LANE, _BELOW = 74, 40, 46, 104  # pixels


def _lineage_graphs(run: RunData) -> str:
    """One drawing for each cohort that has more than its seed; empty where none has.

    Rubrics that took effect stand on a line, refused proposals below it, and rollbacks are arcs.
    Each node is a link to its decision.
    """
    graphs = []
    for cohort in dict.fromkeys(d.cohort for d in run.decisions):
        own = [(i, d) for i, d in enumerate(run.decisions) if d.cohort == cohort]
        if len(own) > 1:
            graphs.append(_graph(run, cohort, own))
    return "\n".join(graphs)


def _graph(run: RunData, cohort: str, decisions: Sequence[tuple[int, Decision]]) -> str:
    edges, nodes = [], []
    places: dict[str, int] = {}  # x of the latest node of each rubric that took effect
    head = _LEFT
    for column, (index, decision) in enumerate(decisions):
        x = _LEFT + column * _STEP
        if decision.accepted:
            if column:
                edges.append(f'<line x1="{head + 15}" y1="{_LANE}" x2="{x - 15}" y2="{_LANE}"/>')
            back = places.get(decision.proposed or "")
            if decision.kind == "rollback" and back is not None:
                top = _LANE - 16
                edges.append(f'<path class="back" d="M{x} {top} C{x} 4 {back} 4 {back} {top}"/>')
            places[decision.proposed or ""] = head = x
        else:
            edges.append(
                f'<path class="no" d="M{head + 12} {_LANE + 9} C{head + 37} {_LANE + 16} '
                f'{head + 37} {_BELOW} {x - 15} {_BELOW}"/>'
            )
        nodes.append(_node(run, index, decision, x))
    height = _BELOW + 38 if any(not d.accepted for _, d in decisions) else _LANE + 38
    width = _LEFT * 2 + (len(decisions) - 1) * _STEP
    proposals = [d for _, d in decisions if d.kind != "seed"]
    accepted = sum(d.accepted for d in proposals)
    where = f" of {cohort}" if cohort else ""
    counts = f"{accepted} of {len(proposals)} decisions accepted"
    label = escape(f"Lineage{where}: {counts}; the list below has each")
    name = f"<h3 class='minor'>{escape(cohort)}</h3>" if cohort else ""
    return (
        f'{name}<div class="scroll lineage" role="region" tabindex="0" aria-label="{label}">'
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="group" '
        f'aria-label="{label}"><g class="edges">{"".join(edges)}</g>{"".join(nodes)}</svg>'
        "</div>"
    )


def _node(run: RunData, index: int, decision: Decision, x: int) -> str:
    number = run.numbers.get((decision.cohort, decision.proposed or ""))
    y = _LANE if decision.accepted else _BELOW
    kind: str = decision.kind
    if decision.accepted:
        name = f"#{number}"
        label = f"step {decision.step}: rubric #{number} takes effect"
    elif decision.proposed:
        kind, name = "refused", "×"
        label = f"step {decision.step}: proposal refused"
    else:
        kind, name = "failed", "!"
        label = f"step {decision.step}: the meta step failed"
    title = f"<title>{escape(label)}: {escape(decision.reason[:160])}</title>"
    return (
        f'<a href="#{escape(anchor(run, index))}" class="node {kind}" '
        f'aria-label="{escape(label)}">{title}'
        f'<circle cx="{x}" cy="{y}" r="15"/>'
        f'<text x="{x}" y="{y + 4}">{name}</text>'
        f'<text class="when" x="{x}" y="{y + 32}">step {decision.step}</text></a>'
    )
