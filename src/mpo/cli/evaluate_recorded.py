"""`mpo evaluate recorded`: accuracy of recorded judges, alone and as panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from rich.table import Table

from ..data import SourceRow
from ..errors import ConfigError
from ..evaluation.intervals import Interval
from ..evaluation.recorded import JudgeRecord, PanelRecord, RecordedVerdict, judge_table, panel
from . import offline
from .evaluate_common import AS_JSON, Output, bounds, percent, rows_of_file, show

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def recorded(
    source: str = typer.Argument(
        ...,
        help="Verdicts: a file with judge, protocol, id, winner (1 or 2), winner_swapped; "
        "score_1 and score_2 where there is no winner.",
    ),
    pairs: str = typer.Option(
        ..., help="Pairs: a file with id and label (1 or 2), the better text."
    ),
    panel_of: str = typer.Option(
        "", "--panel", help="Judges to vote together, as A,B,C; all of each protocol if left out."
    ),
    protocol: str = typer.Option("", help="Only verdicts under this protocol."),
    columns: str = offline.COLUMNS,
    as_json: bool = AS_JSON,
) -> None:
    """Measure recorded judges on pairs whose better text is known.

    Both verdicts name a text, whatever its place: winner_swapped is that of the pair shown in the
    other order. Anything but 1 or 2 is no verdict; it counts half, as a tie.

    Example: mpo evaluate recorded verdicts.jsonl --pairs pairs.jsonl --panel A,B --protocol plain
    """
    reading = offline.read_options(columns, None, False, "train")
    verdicts = rows_of_file(source, reading, _verdict)
    if protocol:
        verdicts = [verdict for verdict in verdicts if verdict.protocol == protocol]
        if not verdicts:
            raise ConfigError(f"{source}: no verdicts under the protocol {protocol!r}")
    better = dict(rows_of_file(pairs, offline.read_options("", None, False, "train"), _label))
    judges = judge_table(verdicts, better)
    panels = [
        panel(verdicts, better, members, name)
        for name, members in _panels(judges, _names(panel_of), protocol)
    ]
    body = {"judges": [_judge_json(j) for j in judges], "panels": [_panel_json(p) for p in panels]}
    show(body, _output(judges, panels), as_json)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _panels(
    judges: Sequence[JudgeRecord], members: Sequence[str], protocol: str
) -> list[tuple[str, list[str]]]:
    """Protocol and members of each panel to measure."""
    protocols = [protocol] if protocol else list(dict.fromkeys(j.protocol for j in judges))
    there = {name: [j.judge for j in judges if j.protocol == name] for name in protocols}
    if members:
        # Without a protocol: each under which all of them judged; if none, the error names them.
        shared = [name for name in protocols if set(members) <= set(there[name])]
        return [(name, list(members)) for name in shared or protocols[:1]]
    return [(name, names) for name, names in there.items() if len(names) > 1]


def _verdict(row: SourceRow) -> RecordedVerdict:
    winner = _winner(row, "winner")
    if winner is None and row.has("score_1") and row.has("score_2"):
        one, two = row.number("score_1"), row.number("score_2")
        if one is not None and two is not None and one != two:
            winner = "1" if one > two else "2"
    protocol = row.text("protocol") if row.has("protocol") else ""
    return RecordedVerdict(
        row.text("judge"), protocol, row.text("id"), winner, _winner(row, "winner_swapped")
    )


def _winner(row: SourceRow, name: str) -> str | None:
    value = str(row.value(name)).strip() if row.has(name) else ""
    return value if value in ("1", "2") else None


def _label(row: SourceRow) -> tuple[str, str]:
    label = str(row.value("label")).strip()
    if label not in ("1", "2"):
        raise row.fault("label", f"must be 1 or 2, the better text, not {label!r:.40}")
    return row.text("id"), label


# ---------------------------------------------------------------------- output


def _share(name: str, interval: Interval | None) -> dict[str, Any]:
    """A figure in percent, and its interval beside it."""
    if interval is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    ends = (interval.value, interval.low, interval.high)
    value, low, high = (None if end is None else round(100 * end, 4) for end in ends)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _judge_json(record: JudgeRecord) -> dict[str, Any]:
    return {
        "judge": record.judge,
        "protocol": record.protocol,
        "n": record.n,
        **_share("accuracy_one_order", record.one_order),
        **_share("accuracy_mean", record.mean),
        **_share("accuracy_both", record.both),
        **_share("ties", record.ties),
        **_share("consistency", record.consistency),
    }


def _panel_json(record: PanelRecord) -> dict[str, Any]:
    return {
        "members": list(record.members),
        "protocol": record.protocol,
        "n": record.n,
        **_share("accuracy", record.accuracy),
        **_share("best_member", record.best_member),
        "effective_votes": round(record.effective_votes, 4),
    }


def _output(judges: Sequence[JudgeRecord], panels: Sequence[PanelRecord]) -> Output:
    table = Table("judge", "protocol", "pairs", "one order", "both orders", "95 %", "ties", "same")
    for judge in judges:
        table.add_row(
            judge.judge,
            judge.protocol,
            str(judge.n),
            percent(judge.one_order.value),
            percent(judge.both.value),
            bounds(judge.both.low, judge.both.high, 100),
            percent(judge.ties.value),
            percent(judge.consistency.value if judge.consistency else None),
        )
    parts: list[Table | str] = [table]
    if panels:
        votes = Table(
            "panel", "protocol", "pairs", "vote", "95 %", "best member", "effective votes"
        )
        for one in panels:
            votes.add_row(
                ", ".join(one.members),
                one.protocol,
                str(one.n),
                percent(one.accuracy.value),
                bounds(one.accuracy.low, one.accuracy.high, 100),
                percent(one.best_member.value),
                f"{one.effective_votes:.2f}",
            )
        parts.append(votes)
    return parts
