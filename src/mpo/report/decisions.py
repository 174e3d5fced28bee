"""Section 3: the life of a run's rubric. Every decision with its reasons, lint's findings, the
gate's figures, the diff against the parent, and the analysed rollouts behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape

from ..records import Decision
from ..rubric import diff_rubrics
from .elements import badge, details, number, paragraphs, table
from .figures import anchor
from .lineage import lineage_graphs
from .load import RunData

__all__ = ["lint_sentence", "lives_section"]

ROOM = 1_200_000
"""Characters that the section may take. Diffs are most of it."""
_FILE = re.compile(r"(?:---|\+\+\+) [0-9a-f]{16}\s*")
_LINES = (100_000, 200, 60, 15)
"""Lines of a diff; the first that fits."""

REFUSED = "error "
"""How a finding begins that keeps a rubric from coming into force."""


def lives_section(runs: Sequence[RunData], room: int = ROOM) -> str:
    """The section's HTML, with so much of each diff that it has at most `room` characters; with a
    few lines of each in any case."""
    content = ""
    for lines in _LINES:
        content = _lives(runs, lines)
        if len(content) <= room:
            break
    return content


def _lives(runs: Sequence[RunData], lines: int) -> str:
    if len(runs) == 1:
        return _life(runs[0], lines)
    # The first run whose rubric changed is what a reader came for.
    first = next((run for run in runs if run.switches), runs[0])
    parts = []
    for run in runs:
        made = [d for d in (*run.before, *run.decisions) if d.kind != "seed"]
        accepted = sum(d.accepted for d in made)
        told = f"{accepted} of {len(made)} proposals accepted" if made else "the seed rubric only"
        summary = f'<span class="name">{escape(run.name)}</span> <span class="faint">{told}</span>'
        parts.append(details(summary, _life(run, lines), kind="run", opened=run is first))
    return "\n".join(parts)


def _life(run: RunData, lines: int) -> str:
    said = lint_sentence(run)
    parts = [f'<p class="callout">{said}</p>' if said else "", lineage_graphs(run)]
    if run.before:
        parts.append("<h3>Before training, on the untrained policy</h3>")
        parts += [_decision(run, i, d, lines, before=True) for i, d in enumerate(run.before)]
        parts.append("<h3>In training</h3>")
    parts += [_decision(run, i, d, lines) for i, d in enumerate(run.decisions)]
    return "\n".join(part for part in parts if part)


def lint_sentence(run: RunData) -> str:
    """Which rubrics came into force that lint refuses, as those of an imported run may; HTML."""
    bad: list[str] = []
    for index, decision in enumerate(run.decisions):
        errors = [line for line in decision.findings if line.startswith(REFUSED)]
        if errors and decision.accepted and decision.proposed:
            codes = ", ".join(dict.fromkeys(line.split()[1].replace("_", " ") for line in errors))
            label = run.label(decision.cohort, decision.proposed)
            bad.append(
                f'<a href="#{escape(anchor(run, index))}">{escape(label)}</a> ({escape(codes)})'
            )
    if not bad:
        return ""
    made = sum(d.kind == "evolve" and d.accepted for d in run.decisions)
    rubrics = f"{len(bad)} of {_count(made, 'rubric')}"
    return (
        f"<strong>Lint would have refused {rubrics}</strong> that came into force in "
        f"{escape(run.name)}: {'; '.join(bad)}."
    )


def _decision(
    run: RunData, index: int, decision: Decision, lines: int, *, before: bool = False
) -> str:
    word, kind = _verdict(decision)
    when = "seed" if decision.kind == "seed" else f"{'round' if before else 'step'} {decision.step}"
    where = f"{decision.cohort} · " if decision.cohort else ""
    id = anchor(run, index, before=before)
    summary = (
        f"{badge(word, kind)} {_lint_badge(decision)}<span class='name'>{escape(where)}{when}"
        f"{_named(run, decision, before)}</span>"
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
    errors = sum(line.startswith(REFUSED) for line in decision.findings)
    return badge(f"lint: {_count(errors, 'error')}", "failed") + " " if errors else ""


def _named(run: RunData, decision: Decision, before: bool) -> str:
    number = run.numbers.get((decision.cohort, decision.proposed or ""))
    if decision.proposed is None or before:
        return ""
    return f": rubric #{number}" if decision.accepted and number is not None else ": proposal"


def _verdict(decision: Decision) -> tuple[str, str]:
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
    errors = sum(line.startswith(REFUSED) for line in decision.findings)
    items = "".join(
        f'<li class="{"error" if line.startswith(REFUSED) else "warning"}">{escape(line)}</li>'
        for line in decision.findings
    )
    warnings = len(decision.findings) - errors
    told = f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"
    refuse = " Errors keep a rubric from coming into force." if errors else ""
    return f"<h3 class='minor'>Lint: {told}.{refuse}</h3><ul class='findings'>{items}</ul>"


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'s' * (n != 1)}"


def _figures(figures: Mapping[str, float]) -> str:
    """The gate's figures; of those that compare the head with the proposal, a pair in a row."""
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
        told = ", ".join(f"{_words(name)} {value:.4g}" for name, value in alone)
        body += f'<p class="faint">{told}</p>'
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
    """One span per line. The file names of the unified diff are ids, told elsewhere."""
    kinds = {"+": "add", "-": "del", "~": "mod", "@": "at"}
    lines = []
    for line in shown:
        if _FILE.fullmatch(line):
            continue
        lines.append(f'<span class="{kinds.get(line[:1], "same")}">{escape(line) or " "}</span>')
    return "".join(lines)  # each is a block; a line break between them would show as an empty line


def _cases(run: RunData, decision: Decision, id: str) -> str:
    """A place that `report.js` fills with the analyses and their rollouts."""
    refinement = decision.refinement
    if refinement is None:
        return ""
    skipped = "".join(f'<li class="faint">left out: {escape(s)}</li>' for s in refinement.skipped)
    left = f"<ul>{skipped}</ul>" if skipped else ""
    count = len(refinement.analyses)
    if not count and not refinement.evidence:
        return left
    words = f"{count} analys{'is' if count == 1 else 'es'}, and the rollouts behind them"
    if not count:
        words = f"{len(refinement.evidence)} rollouts behind it"
    return details(words, f'<div data-cases="{escape(id)}"></div>{left}', kind="cases")


def _rubric(run: RunData, decision: Decision) -> str:
    rubric = run.rubrics.get(decision.proposed or "")
    if rubric is None or decision.proposed is None:
        return ""
    count = len(rubric.criteria)
    low, high = rubric.score_range
    points = f"{high:g} points" if low == 0 else f"{low:g} to {high:g} points"
    words = f"The whole rubric: {count} criteri{'on' if count == 1 else 'a'}, {points}"
    place = f'<pre data-rubric="{escape(decision.proposed)}"></pre>'
    told = f' <code class="id">{escape(decision.proposed)}</code>'
    return details(words + told, place, opened=decision.kind == "seed")
