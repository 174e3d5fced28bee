"""The life of a run's rubric as HTML: every decision with its reasons and what it changed."""

from __future__ import annotations

from html import escape

from ..records import Analysis, Decision
from ..rubric import diff_rubrics
from .figures import anchor
from .load import RunData

__all__ = ["rubric_life"]

LONGEST = 1200
"""Characters of one analysis: sixteen of them per meta step, and the file stays small."""


def rubric_life(run: RunData) -> str:
    """All decisions of a run, oldest first."""
    parts = []
    if run.before:
        parts.append("<h4>Before training, on the untrained policy</h4>")
        parts += [_decision(run, d, blind=True) for d in run.before]
        parts.append("<h4>In training</h4>")
    parts += [_decision(run, d) for d in run.decisions]
    return "\n".join(parts)


def _decision(run: RunData, decision: Decision, *, blind: bool = False) -> str:
    number = None if blind else run.numbers.get(decision.proposed or "")
    verdict, mark = _verdict(decision)
    when = "round" if blind else "step"
    title = f"{when} {decision.step}" if decision.kind != "seed" else "seed"
    name = f"rubric #{number}" if number is not None and decision.accepted else "proposal"
    where = f"{decision.cohort}: " if decision.cohort else ""
    id = anchor(run, decision.proposed) if decision.accepted and decision.proposed else ""
    body = [_reason(decision), _change(run, decision), _rubric(run, decision), _analyses(decision)]
    place = f' id="{escape(id)}"' if id and not blind else ""
    return (
        f'<article class="decision {mark}"{place}>\n'
        f'<h5><span class="badge {mark}">{verdict}</span> {escape(where)}{title}: '
        f"{name if decision.proposed else 'no proposal'}"
        f' <code class="id">{escape(decision.proposed or "")}</code></h5>\n'
        + "\n".join(part for part in body if part)
        + "\n</article>"
    )


def _verdict(decision: Decision) -> tuple[str, str]:
    if decision.kind == "seed":
        return "seed", "seed"
    if decision.kind == "rollback":
        return "rollback", "accepted"
    if decision.accepted:
        return "in force", "accepted"
    return ("refused", "refused") if decision.proposed else ("failed", "failed")


def _reason(decision: Decision) -> str:
    if decision.kind == "seed":
        return ""
    parts = [f'<p class="reason">{escape(decision.reason)}</p>']
    refinement = decision.refinement
    if refinement is not None and refinement.reasons:
        parts.append(f"<blockquote>{_lines(refinement.reasons)}</blockquote>")
    if decision.figures:
        figures = ", ".join(f"{escape(k)} {v:.3g}" for k, v in decision.figures.items())
        parts.append(f'<p class="faint">gate: {figures}</p>')
    return "\n".join(parts)


def _lines(text: str) -> str:
    return "<br>".join(escape(line) for line in text.strip().split("\n"))


def _change(run: RunData, decision: Decision) -> str:
    parent = run.rubrics.get(decision.parent or "")
    proposed = run.rubrics.get(decision.proposed or "")
    if parent is None or proposed is None:
        return ""
    change = diff_rubrics(parent, proposed)
    if not change:
        return '<p class="faint">no change</p>'
    return f'<pre class="diff">{_diff(change)}</pre>'


def _diff(text: str) -> str:
    """One span per line. The file names of the unified diff are ids, told elsewhere."""
    kinds = {"+": "add", "-": "del", "~": "mod", "@": "at"}
    lines = []
    for line in text.splitlines():
        if line.startswith(("--- ", "+++ ")):
            continue
        lines.append(f'<span class="{kinds.get(line[:1], "same")}">{escape(line) or " "}</span>')
    return "".join(lines)  # each is a block; a line break between them would show as an empty line


def _rubric(run: RunData, decision: Decision) -> str:
    rubric = run.rubrics.get(decision.proposed or "")
    if rubric is None:
        return ""
    count = len(rubric.criteria)
    words = f"the whole rubric: {count} criteri{'on' if count == 1 else 'a'}"
    shown = " open" if decision.kind == "seed" else ""
    text = escape(rubric.to_markdown())
    return f"<details{shown}><summary>{words}</summary><pre>{text}</pre></details>"


def _analyses(decision: Decision) -> str:
    refinement = decision.refinement
    if refinement is None:
        return ""
    items = "\n".join(f"<li>{_analysis(a)}</li>" for a in refinement.analyses)
    items += "\n".join(f'<li class="faint">left out: {escape(s)}</li>' for s in refinement.skipped)
    count = len(refinement.analyses)
    return f"<details><summary>{count} analyses behind it</summary><ol>{items}</ol></details>"


def _analysis(analysis: Analysis) -> str:
    verdict = analysis.verdict.replace("_", " ")
    advice = f"<br><em>{escape(analysis.advice[:LONGEST])}</em>" if analysis.advice else ""
    return (
        f'<span class="faint">graded {escape(verdict)}:</span> '
        f"{escape(analysis.findings[:LONGEST])}{advice}"
    )
