"""Recorded verdicts, by hand on six pairs. A published log is in tests/cli/test_cli_recorded.py."""

from __future__ import annotations

import pytest

from mpo.errors import DataError
from mpo.evaluation.recorded import RecordedVerdict, judge_table, panel

BETTER = {str(n): "1" for n in range(6)}


def verdicts(judge: str, both: str, protocol: str = "plain") -> list[RecordedVerdict]:
    """`11 12 --`: the winner in either order, pair by pair; `-` is none."""
    named = {"1": "1", "2": "2", "-": None}
    return [
        RecordedVerdict(judge, protocol, str(n), named[pair[0]], named[pair[1]])
        for n, pair in enumerate(both.split())
    ]


def test_a_judge_by_hand() -> None:
    [record] = judge_table(verdicts("a", "11 11 12 22 1- --"), BETTER)
    assert record.n == 6
    assert record.one_order.value == pytest.approx((4 + 0.5) / 6)
    assert record.mean.value == pytest.approx((1 + 1 + 0.5 + 0 + 0.75 + 0.5) / 6)
    assert record.both.value == pytest.approx((1 + 1 + 0.5 + 0 + 0.5 + 0.5) / 6)
    assert record.ties.value == pytest.approx(3 / 6)
    assert record.consistency is not None
    assert record.consistency.value == pytest.approx(3 / 6)
    assert record.both.low is not None
    assert record.both.high is not None
    assert 0 < record.both.low < record.both.value < record.both.high < 1


def test_one_order_alone_says_nothing_of_the_other() -> None:
    [record] = judge_table(verdicts("a", "1- 2- 1- 1- -- 1-"), BETTER)
    assert record.one_order == record.mean == record.both
    assert record.both.value == pytest.approx(4.5 / 6)
    assert record.ties.value == pytest.approx(1 / 6)
    assert record.consistency is None


def test_a_panel_by_hand() -> None:
    log = [
        *verdicts("a", "11 11 11 22 22 11"),
        *verdicts("b", "11 22 11 11 22 12"),
        *verdicts("c", "22 11 22 11 22 11"),
        *verdicts("alike", "11 11 11 22 22 11"),
    ]
    vote = panel(log, BETTER, ["a", "b", "c"], "plain")
    assert vote.accuracy.value == pytest.approx(5 / 6)
    assert vote.best_member.value == pytest.approx(4 / 6)
    assert panel(log, BETTER, ["a", "alike"], "plain").effective_votes == pytest.approx(1)
    assert 2 < vote.effective_votes <= 3


@pytest.mark.parametrize(
    ("members", "protocol", "message"),
    [
        (["a", "nobody"], "plain", "no verdicts by 'nobody'"),
        (["a", "b"], "other", "there are a \\(plain\\), b \\(plain\\)"),
        (["a", "a"], "plain", "two different judges"),
    ],
)
def test_a_panel_that_is_none(members: list[str], protocol: str, message: str) -> None:
    log = [*verdicts("a", "11 11"), *verdicts("b", "11 11")]
    with pytest.raises(DataError, match=message):
        panel(log, BETTER, members, protocol)


def test_a_log_that_does_not_fit_its_pairs() -> None:
    with pytest.raises(DataError, match="none with the id '1'"):
        judge_table(verdicts("a", "11 11"), {"0": "1"})
    with pytest.raises(DataError, match="two verdicts"):
        judge_table(verdicts("a", "11") * 2, BETTER)
