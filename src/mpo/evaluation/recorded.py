"""Recorded verdicts of judges on pairs whose better text is known: accuracy, order, panels.

    verdicts = [RecordedVerdict("GPT-4", "Vanilla", "7", "1", "2")]
    judge_table(verdicts, {"7": "1"})

A verdict is a winner, `1` or `2`, for the pair as it is and for the pair with its texts swapped;
both name the text, not the place. A missing verdict, or one of neither, is a tie and counts half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import DataError
from .intervals import Interval, mean_interval, np

__all__ = [
    "JudgeRecord",
    "PanelRecord",
    "RecordedVerdict",
    "judge_table",
    "panel",
]


@dataclass(frozen=True)
class RecordedVerdict:
    """One judge's verdicts on one pair, in both orders."""

    judge: str
    protocol: str
    pair: str
    winner: str | None
    """`1`, `2`, or None for neither."""
    swapped: str | None
    """The same when the texts were shown in the other order; None too where it was not asked."""


@dataclass(frozen=True)
class JudgeRecord:
    """One judge under one protocol. All shares are 0 to 1, with intervals over pairs."""

    judge: str
    protocol: str
    n: int
    one_order: Interval
    """Accuracy of the verdicts in the given order."""
    mean: Interval
    """Mean accuracy of both orders."""
    both: Interval
    """Accuracy of the pairs as both orders decide them: where they differ, it is a tie."""
    ties: Interval
    """Share of pairs that both orders together leave undecided."""
    consistency: Interval | None
    """Share of pairs with the same verdict in both orders, and not of neither text; None where
    only one order was asked, and then `mean` and `both` are `one_order`."""


@dataclass(frozen=True)
class PanelRecord:
    """Several judges under one protocol, each with one vote on a pair."""

    members: tuple[str, ...]
    protocol: str
    n: int
    accuracy: Interval
    """Accuracy of the majority; an even vote is a tie."""
    best_member: Interval
    """Accuracy of the best member on the same pairs, as both orders decide."""
    effective_votes: float
    """Number of independent judges whose votes would vary as much: `k / (1 + (k − 1) r)` for k
    members whose errors correlate by r on average (Kish's effective sample size)."""


def judge_table(
    verdicts: Sequence[RecordedVerdict], better: Mapping[str, str]
) -> list[JudgeRecord]:
    """One record per judge and protocol, in the order in which they first come.

    Args:
        verdicts: At most one per judge, protocol and pair.
        better: The better text, `1` or `2`, by the pair's id.

    Raises:
        DataError: A pair is unknown, or a judge has two verdicts on it.
    """
    return [
        _record(judge, protocol, rows, better)
        for (judge, protocol), rows in _by_judge(verdicts, better).items()
    ]


def panel(
    verdicts: Sequence[RecordedVerdict],
    better: Mapping[str, str],
    members: Sequence[str],
    protocol: str,
) -> PanelRecord:
    """The plain majority vote of some judges, on the pairs that all of them have seen.

    Args:
        verdicts: Verdicts of these judges, and of any others.
        better: The better text, `1` or `2`, by the pair's id.
        members: Names of at least two judges.
        protocol: The protocol under which they judged.

    Raises:
        DataError: A judge has no verdicts under the protocol, fewer than two judges are named, or
            they have no pair in common.
    """
    members = tuple(dict.fromkeys(members))
    if len(members) < 2:
        raise DataError(f"a panel needs two different judges or more, not {', '.join(members)!r}")
    known = _by_judge(verdicts, better)
    votes: list[dict[str, float]] = []
    for member in members:
        rows = known.get((member, protocol))
        if rows is None:
            there = ", ".join(f"{judge} ({name})" for judge, name in known)
            raise DataError(
                f"no verdicts by {member!r} under the protocol {protocol!r}; there are {there:.400}"
            )
        votes.append({row.pair: _both(row, better) for row in rows})
    pairs = [pair for pair in votes[0] if all(pair in one for one in votes)]
    if not pairs:
        raise DataError(f"{', '.join(members)} have no pair in common under {protocol!r}")
    right = [[one[pair] for pair in pairs] for one in votes]
    majority = [_majority([one[n] for one in right]) for n in range(len(pairs))]
    accuracies = [mean_interval(one, pairs) for one in right]
    return PanelRecord(
        members=members,
        protocol=protocol,
        n=len(pairs),
        accuracy=mean_interval(majority, pairs),
        best_member=max(accuracies, key=lambda interval: interval.value),
        effective_votes=_effective_votes(right),
    )


def _by_judge(
    verdicts: Sequence[RecordedVerdict], better: Mapping[str, str]
) -> dict[tuple[str, str], list[RecordedVerdict]]:
    grouped: dict[tuple[str, str], list[RecordedVerdict]] = {}
    seen: set[tuple[str, str, str]] = set()
    for verdict in verdicts:
        key = (verdict.judge, verdict.protocol, verdict.pair)
        if verdict.pair not in better:
            raise DataError(f"the pairs have none with the id {verdict.pair!r}: check --pairs")
        if key in seen:
            raise DataError(
                f"{verdict.judge} has two verdicts under {verdict.protocol!r} on the pair "
                f"{verdict.pair!r}: give them protocols of different names"
            )
        seen.add(key)
        grouped.setdefault(key[:2], []).append(verdict)
    return grouped


def _record(
    judge: str, protocol: str, rows: Sequence[RecordedVerdict], better: Mapping[str, str]
) -> JudgeRecord:
    pairs = [row.pair for row in rows]
    first = [_credit(row.winner, better[row.pair]) for row in rows]
    second = [_credit(row.swapped, better[row.pair]) for row in rows]
    both = [_both(row, better) for row in rows]
    same = [float(row.winner is not None and row.winner == row.swapped) for row in rows]
    if all(row.swapped is None for row in rows):
        second = both = first
    return JudgeRecord(
        judge=judge,
        protocol=protocol,
        n=len(rows),
        one_order=mean_interval(first, pairs),
        mean=mean_interval([(a + b) / 2 for a, b in zip(first, second, strict=True)], pairs),
        both=mean_interval(both, pairs),
        ties=mean_interval([float(credit == 0.5) for credit in both], pairs),
        consistency=mean_interval(same, pairs) if second is not first else None,
    )


def _credit(winner: str | None, better: str) -> float:
    return 0.5 if winner is None else float(winner == better)


def _both(row: RecordedVerdict, better: Mapping[str, str]) -> float:
    """Credit of the pair as both orders decide it: a tie, unless they name the same text."""
    return _credit(row.winner, better[row.pair]) if row.winner == row.swapped else 0.5


def _majority(credits: Sequence[float]) -> float:
    lead = sum(2 * credit - 1 for credit in credits)
    return 1.0 if lead > 0 else 0.0 if lead < 0 else 0.5


def _effective_votes(right: Sequence[Sequence[float]]) -> float:
    table = np.asarray(right, dtype=np.float64)
    votes = len(table)
    varying = table[table.std(axis=1) > 0]
    if len(varying) < 2:
        return float(votes)
    correlations = np.corrcoef(varying)
    mean = (correlations.sum() - len(varying)) / (len(varying) * (len(varying) - 1))
    # Below zero, errors cancel out; more votes than there are judges is no more than that.
    return float(votes / (1 + (votes - 1) * max(0.0, mean)))
