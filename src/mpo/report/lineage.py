"""The lineage of a cohort's rubric as a drawing: rubrics in force on a line, what was refused
below it, rollbacks as arcs. Inline SVG; each node is a link to its decision."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..records import Decision
from .figures import anchor
from .load import RunData

__all__ = ["lineage_graphs"]

_STEP, _LEFT, _LANE, _BELOW = 74, 40, 46, 104


def lineage_graphs(run: RunData) -> str:
    """One drawing for each cohort that has more than its seed; empty where none has."""
    graphs = []
    for cohort in dict.fromkeys(d.cohort for d in run.decisions):
        own = [(i, d) for i, d in enumerate(run.decisions) if d.cohort == cohort]
        if len(own) > 1:
            graphs.append(_graph(run, cohort, own))
    return "\n".join(graphs)


def _graph(run: RunData, cohort: str, decisions: Sequence[tuple[int, Decision]]) -> str:
    edges, nodes = [], []
    places: dict[str, int] = {}  # of each rubric in force: x of its latest node
    head = _LEFT
    for column, (index, decision) in enumerate(decisions):
        x = _LEFT + column * _STEP
        if decision.accepted:
            if column:
                edges.append(f'<line x1="{head + 15}" y1="{_LANE}" x2="{x - 15}" y2="{_LANE}"/>')
            back = places.get(decision.proposed or "")
            if decision.kind == "rollback" and back is not None:
                edges.append(_arc(x, back))
            places[decision.proposed or ""] = head = x
        else:
            edges.append(
                f'<path class="no" d="M{head + 12} {_LANE + 9} C{head + 37} {_LANE + 16} '
                f'{head + 37} {_BELOW} {x - 15} {_BELOW}"/>'
            )
        nodes.append(_node(run, index, decision, x))
    height = _BELOW + 38 if any(not d.accepted for _, d in decisions) else _LANE + 38
    width = _LEFT * 2 + (len(decisions) - 1) * _STEP
    made = [d for _, d in decisions if d.kind != "seed"]
    accepted = sum(d.accepted for d in made)
    where = f" of {cohort}" if cohort else ""
    told = f"Lineage{where}: {accepted} of {len(made)} decisions accepted; the list below has each"
    name = f"<h3 class='minor'>{escape(cohort)}</h3>" if cohort else ""
    return (
        f'{name}<div class="scroll lineage" role="region" tabindex="0" aria-label="{escape(told)}">'
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="group" '
        f'aria-label="{escape(told)}"><g class="edges">{"".join(edges)}</g>{"".join(nodes)}</svg>'
        "</div>"
    )


def _arc(x: int, back: int) -> str:
    return f'<path class="back" d="M{x} {_LANE - 16} C{x} 4 {back} 4 {back} {_LANE - 16}"/>'


def _node(run: RunData, index: int, decision: Decision, x: int) -> str:
    number = run.numbers.get((decision.cohort, decision.proposed or ""))
    y = _LANE if decision.accepted else _BELOW
    kind: str = decision.kind
    if decision.accepted:
        name = f"#{number}"
        told = f"step {decision.step}: rubric #{number} in force"
    elif decision.proposed:
        kind, name = "refused", "×"
        told = f"step {decision.step}: proposal refused"
    else:
        kind, name = "failed", "!"
        told = f"step {decision.step}: the meta step failed"
    title = f"<title>{escape(told)}: {escape(decision.reason[:160])}</title>"
    return (
        f'<a href="#{escape(anchor(run, index))}" class="node {kind}" '
        f'aria-label="{escape(told)}">{title}'
        f'<circle cx="{x}" cy="{y}" r="15"/>'
        f'<text x="{x}" y="{y + 4}">{name}</text>'
        f'<text class="when" x="{x}" y="{y + 32}">step {decision.step}</text></a>'
    )
