"""The page: headline, table, curves, the rubrics' lives, texts, cost, how to do it again."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

from ..errors import StoreError
from ..records import Usage
from .figures import colour, draw
from .load import RunData, load_run
from .rubrics import rubric_life

__all__ = ["write_report"]

_HERE = Path(__file__).parent


def write_report(runs: Sequence[Path], out: Path, compare: Mapping[str, Any] | None = None) -> None:
    """Write one self-contained HTML file.

    Args:
        runs: Folders of runs, at least one.
        out: The file; replaced if it is there.
        compare: Content of `compare.json`, for what only it knows (failed runs, seconds).

    Raises:
        DataError: A run without a judgement.
        MissingExtraError: bokeh is not installed.
        StoreError: A store cannot be read, or the file not written.
    """
    loaded = [load_run(path) for path in runs]
    html = render(loaded, out.parent.resolve().name, compare or {})
    partial = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # A model may emit a lone surrogate; a browser shows a replacement sign for it.
        partial.write_bytes(html.encode("utf-8", "replace"))
        partial.replace(out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(f"{out}: cannot be written: {error.strerror or error}") from error


def render(runs: Sequence[RunData], name: str, compare: Mapping[str, Any]) -> str:
    """The page's text."""
    reward, gold, script = draw(runs)
    sandbox = any(run.sandbox for run in runs)
    badge = ' <span class="badge sandbox">sandbox</span>' if sandbox else ""
    note = (
        "<p class='faint'>Everything on this page comes from the sandbox: a tiny policy and a "
        "simulated grader with declared biases. It is no evidence about real models.</p>"
        if sandbox
        else ""
    )
    body = [
        f"<header><h1>{escape(name)}{badge}</h1>",
        f"{headline(runs)}{note}</header>",
        _section("Arms", _arms(runs) + _failed(compare)),
        _section("Reward and gold", _curves(runs, reward, gold)),
        _section("The life of the rubric", _lives(runs)),
        _section("What the policy wrote", _specimens(runs)),
        _section("Cost and gaps", _cost(runs)),
        _section("How to do it again", _reproduce(runs, compare)),
    ]
    style = (_HERE / "style.css").read_text("utf-8")
    theme = (_HERE / "theme.js").read_text("utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(name)} - mpo report</title>\n<style>\n{style}</style>\n{script}\n"
        f"</head>\n<body>\n<main>\n{chr(10).join(body)}\n</main>\n<script>\n{theme}</script>\n"
        "</body>\n</html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"


# ---------------------------------------------------------------------- headline and table


def headline(runs: Sequence[RunData]) -> str:
    """One sentence per arm: what reward and gold did."""
    sentences = []
    for arm, group in _by_arm(runs).items():
        start, end = _mean(group, "reward", "start"), _mean(group, "reward", "end")
        peak, gold = _mean(group, "gold", "peak"), _mean(group, "gold", "end")
        changes = fmean(len(run.curves["switches"]) for run in group)
        told = f"<b>{escape(arm)}</b>: the reward went from {_number(start)} to {_number(end)}"
        if gold is not None and peak:
            told += f", gold ended at {_number(gold)}, {100 * gold / peak:.0f} % of its peak"
        if changes:
            told += f"; the rubric changed {changes:g} time{'' if changes == 1 else 's'}"
        sentences.append(f'<p class="headline">{told}.</p>')
    return "\n".join(sentences)


def _arms(runs: Sequence[RunData]) -> str:
    heads = ("run", "reward", "gold start · peak · end", "end / peak", "hacked", "rubrics")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    rows = []
    arms = list(_by_arm(runs))
    for arm, group in _by_arm(runs).items():
        rows += [_row(run.name, [run], colour(arm, arms)) for run in group]
        if len(group) > 1:
            rows.append(_row(f"{arm}, mean of {len(group)}", group, colour(arm, arms), "mean"))
    exploits = [
        f"{escape(run.name)}: {escape(', '.join(run.summary['exploits']))}"
        for run in runs
        if run.summary.get("exploits")
    ]
    legend = (
        '<p class="faint">Start and end: means of the first and last 10 steps; peak: the highest '
        "mean of 10 steps. Reward: normalized, 0 to 1. Hacked: share of the last 10 steps' texts "
        "with reward of at least 0.8 and gold of at most 0.5. – : not known.</p>"
    )
    if exploits:
        legend += f'<p class="faint">Biases of the simulated grader: {"; ".join(exploits)}.</p>'
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{legend}"
    )


def _row(name: str, group: Sequence[RunData], ink: str, kind: str = "") -> str:
    peak, end = _mean(group, "gold", "peak"), _mean(group, "gold", "end")
    cells = [
        f"{_number(_mean(group, 'reward', 'start'))} → {_number(_mean(group, 'reward', 'end'))}",
        f"{_number(_mean(group, 'gold', 'start'))} · {_number(peak)} · {_number(end)}",
        _number(end / peak if end is not None and peak else None),
        _number(_mean(group, "hacked_share_end")),
        f"{_mean(group, 'rubrics') or 0:g}",
    ]
    swatch = f'<span class="swatch" style="background:{ink}"></span>'
    data = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr class="{kind}"><th scope="row">{swatch}{escape(name)}</th>{data}</tr>'


def _failed(compare: Mapping[str, Any]) -> str:
    failed = compare.get("failed") or {}
    items = "".join(f"<li><b>{escape(k)}</b>: {escape(str(v))}</li>" for k, v in failed.items())
    return f'<p class="refused">Failed runs:</p><ul>{items}</ul>' if items else ""


def _by_arm(runs: Sequence[RunData]) -> dict[str, list[RunData]]:
    groups: dict[str, list[RunData]] = {}
    for run in runs:
        groups.setdefault(run.arm, []).append(run)
    return groups


def _mean(group: Sequence[RunData], *path: str) -> float | None:
    values = []
    for run in group:
        value: Any = run.summary
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        if isinstance(value, int | float):
            values.append(float(value))
    return fmean(values) if values else None


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


# ---------------------------------------------------------------------- the other sections


def _curves(runs: Sequence[RunData], reward: str, gold: str) -> str:
    ends = "; ".join(
        f"{run.name} {_number(_mean([run], 'reward', 'start'))} to "
        f"{_number(_mean([run], 'reward', 'end'))}"
        for run in runs
    )
    parts = [
        '<p class="faint">Thin: each step. Thick: mean of the last 10. Diamonds: the rubric '
        "changed; click one to see how and why. Click an arm in the legend to hide it.</p>",
        f'<figure role="img" aria-label="Reward over steps: {escape(ends)}">'
        f"<figcaption>Reward (what the policy is trained on)</figcaption>{reward}</figure>",
    ]
    if gold:
        parts.append(
            '<figure role="img" aria-label="Gold over steps; the table above has its values">'
            "<figcaption>Gold (what the reward was meant to measure; nobody trains on it)"
            f"</figcaption>{gold}</figure>"
        )
    return "\n".join(parts)


def _lives(runs: Sequence[RunData]) -> str:
    parts = []
    # The first run whose rubric changed is what a reader came for.
    first = next((run for run in runs if len(run.decisions) > 1), runs[0])
    for run in runs:
        made = [d for d in (*run.before, *run.decisions) if d.kind != "seed"]
        accepted = sum(d.accepted for d in made)
        told = f"{accepted} of {len(made)} proposals accepted" if made else "the seed rubric only"
        parts.append(
            f'<details class="run"{" open" if run is first else ""}>'
            f"<summary>{escape(run.name)}: {told}</summary>\n{rubric_life(run)}\n</details>"
        )
    return "\n".join(parts)


def _specimens(runs: Sequence[RunData]) -> str:
    parts = ['<p class="faint">The best rewarded text of a step, as it is.</p>']
    for run in runs:
        texts = "".join(
            f'<div class="text"><p class="faint">step {s.step}: reward {_number(s.reward)}'
            f"{f', gold {_number(s.gold)}' if s.gold is not None else ''}; "
            f"prompt: {escape(s.prompt[:300])}</p><p>{escape(s.completion[:3000])}</p></div>"
            for s in run.specimens
        )
        parts.append(f'<details class="run"><summary>{escape(run.name)}</summary>{texts}</details>')
    return "\n".join(parts)


def _cost(runs: Sequence[RunData]) -> str:
    heads = ("run", "role", "calls", "prompt tokens", "of them cached", "completion tokens")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    rows = "".join(
        f'<tr><th scope="row">{escape(run.name)}</th><td>{escape(role)}</td>{_usage(usage)}</tr>'
        for run in runs
        for role, usage in run.usage.items()
    )
    gaps = [
        f"{escape(run.name)}: "
        + ", ".join(f"{count} {escape(reason)}" for reason, count in run.unscored.items())
        for run in runs
        if run.unscored
    ]
    told = "; ".join(gaps) if gaps else "none"
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        f"</div><p>Unscored texts (never counted as 0): {told}.</p>"
    )


def _usage(usage: Usage) -> str:
    values = (usage.calls, usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
    return "".join(f"<td>{value:,}</td>" for value in values)


def _reproduce(runs: Sequence[RunData], compare: Mapping[str, Any]) -> str:
    package = importlib.import_module((__package__ or "").partition(".")[0])
    parts = [f"<p>mpo {package.__version__}, Python {platform.python_version()}.</p>"]
    if compare.get("seconds") is not None:
        parts.append(f"<p>The comparison took {float(compare['seconds']):.0f} s.</p>")
    for run in runs:
        if run.config:
            command = f"mpo train config.yaml --name {run.name}"
            parts.append(
                f"<details><summary>{escape(run.name)}: config.yaml</summary>"
                f"<p><code>{escape(command)}</code></p><pre>{escape(run.config)}</pre></details>"
            )
    return "\n".join(parts)
