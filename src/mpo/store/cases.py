"""Cases: rollouts with their judgements, and the rubric that each group is pinned to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import StoreError
from ..records import Case, Judgement, Mode, Rollout
from .branches import CHAIN, Branches, Group, Writer, dump, load

__all__ = ["Cases", "StepResults"]

_VISIBLE = """
FROM chain CROSS JOIN scorings s ON s.branch = chain.branch AND s.seq <= chain.upto
"""
# Of several attempts at one rollout under one rubric the last one counts. Replacements are rare and
# have an index of their own, so that this costs next to nothing.
_LAST = """
NOT EXISTS (
    SELECT 1 FROM scorings later CROSS JOIN chain seen ON seen.branch = later.branch
    WHERE later.prior = s.seq AND later.seq <= seen.upto
)
"""


@dataclass(frozen=True)
class StepResults:
    """Results of one trainer step. Means are over the scored rollouts only (law 3)."""

    step: int
    n: int
    """Cases: scored + unscored."""
    scored: int
    unscored: int
    mean_reward: float | None
    """In the scale of the run; None where nothing was scored."""
    mean_normalized: float | None
    """0 to 1; None where nothing was scored."""
    rubric_ids: tuple[str, ...]
    """In the order in which they were first used in this step."""


class Cases(Branches):
    """Rollouts, judgements, and the events that bring them together. Base of `Store`."""

    def append(self, cases: Sequence[Case]) -> None:
        """Store cases: all of them, or none if it raises.

        A rollout or judgement that is stored already, on any branch, stays as it is; a judgement
        that is visible already is not counted twice. So a batch may be appended again after a
        doubtful end.

        Raises:
            StoreError: A judgement under a rubric that is not stored, one of another rollout (or
                its mode or cohort), one with a reward that is not a finite number; or the disk.
        """
        rows = list(map(_case_row, cases))  # before the lock: other writers wait for it
        if not rows:
            return
        with self.writing() as writer:
            rubrics: dict[str, int] = {}
            for row in rows:
                if row.rubric_id not in rubrics:
                    rubrics[row.rubric_id] = _rubric_number(writer, row.rubric_id)
                _insert_case(writer, row, rubrics[row.rubric_id])

    def pin(self, pins: Mapping[Group, str]) -> dict[Group, str]:
        """Fix the rubric that each group is scored under: the one that was named first (law 11).

        Holds across threads and processes; a restore takes back the pins made after its snapshot.

        Args:
            pins: Rubric id by group, for the groups that have no pin yet.

        Returns:
            The rubric id that counts, by group.

        Raises:
            StoreError: A rubric is not stored.
        """
        with self.writing() as writer:
            for rubric_id in dict.fromkeys(pins.values()):
                row = writer.execute("SELECT 1 FROM rubrics WHERE id = ?", (rubric_id,)).fetchone()
                if row is None:
                    raise StoreError(f"cannot pin to rubric {rubric_id!r}: it is not in the store")
            counting: dict[Group, str] = {}
            for group, rubric_id in pins.items():
                pinned = writer.pinned(group)
                if pinned is None:
                    cohort, name, step = group
                    writer.execute(
                        "INSERT INTO pins VALUES (?, ?, ?, ?, ?, ?)",
                        (writer.tick(), writer.branch, step, name, cohort, rubric_id),
                    )
                counting[group] = pinned or rubric_id
        return counting

    def rollout(self, id: str) -> Rollout:
        """A stored rollout, of any branch.

        Raises:
            StoreError: Unknown.
        """
        with self._db.read() as connection:
            row = connection.execute("SELECT content FROM rollouts WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise StoreError(f"there is no rollout {id!r} in store {str(self.path)!r}")
        return load(Rollout, row[0])

    def judgements_of(self, rollout_id: str) -> list[Judgement]:
        """The visible judgements of a rollout, all rubrics and attempts, oldest first."""
        query = CHAIN + "SELECT j.content FROM rollouts r CROSS JOIN scorings s ON s.rollout = r.n "
        query += "CROSS JOIN chain ON s.branch = chain.branch AND s.seq <= chain.upto "
        query += "CROSS JOIN judgements j ON j.n = s.judgement WHERE r.id = ? ORDER BY s.seq"
        with self._db.read() as connection:
            rows = connection.execute(query, (rollout_id,))
            return [load(Judgement, text) for (text,) in rows]

    def window(
        self,
        *,
        after_step: int | None = None,
        up_to_step: int | None = None,
        cohort: str | None = "",
        mode: Mode = "train",
        scored: bool | None = True,
    ) -> list[Case]:
        """Visible cases, by (step, index, rollout id); the last attempt per rollout and rubric.

        Args:
            after_step: Only steps greater than this; None for no bound.
            up_to_step: Only steps up to and with this one; None for no bound.
            cohort: Only this cohort; None for all.
            mode: `eval` cases are never mixed with `train` cases (law 7).
            scored: True for scored cases, False for unscored ones, None for both.
        """
        where, values = _filters(after_step, up_to_step, cohort, mode, scored)
        query = CHAIN + "SELECT r.content, j.content" + _VISIBLE
        query += "CROSS JOIN rollouts r ON r.n = s.rollout "
        query += "CROSS JOIN judgements j ON j.n = s.judgement "
        query += where + "ORDER BY s.step, s.idx, r.id, s.seq"
        with self._db.read() as connection:
            return [
                Case(rollout=load(Rollout, rollout), judgement=load(Judgement, judgement))
                for rollout, judgement in connection.execute(query, values)
            ]

    def count(
        self,
        *,
        after_step: int | None = None,
        up_to_step: int | None = None,
        cohort: str | None = "",
        mode: Mode = "train",
        scored: bool | None = True,
    ) -> int:
        """Number of cases that `window` returns for the same arguments."""
        where, values = _filters(after_step, up_to_step, cohort, mode, scored)
        query = CHAIN + "SELECT count(*)" + _VISIBLE + where
        with self._db.read() as connection:
            return int(connection.execute(query, values).fetchone()[0])

    def steps(self, cohort: str | None = None) -> list[StepResults]:
        """Summaries of the training rollouts, by step.

        Args:
            cohort: Only this cohort; None for all.
        """
        where, values = _filters(None, None, cohort, "train", None)
        query = CHAIN + "SELECT s.step, b.id, count(*), count(s.reward), sum(s.reward), "
        query += "sum(s.normalized)" + _VISIBLE + "CROSS JOIN rubrics b ON b.n = s.rubric " + where
        query += "GROUP BY s.step, s.rubric ORDER BY s.step, min(s.seq)"
        by_step: dict[int, list[Any]] = {}
        with self._db.read() as connection:
            for step, *row in connection.execute(query, values):
                by_step.setdefault(step, []).append(row)
        return [_summary(step, rows) for step, rows in by_step.items()]

    def unscored(self, cohort: str | None = None, mode: Mode = "train") -> dict[str, int]:
        """Unscored cases by the first word of their reason, the most frequent first.

        Args:
            cohort: Only this cohort; None for all.
            mode: `train` or `eval`.
        """
        where, values = _filters(None, None, cohort, mode, False)
        # The word alone: a reason may quote a model, and its text need not be valid UTF-8.
        reason = "json_extract(j.content, '$.unscored') || ':'"
        query = CHAIN + f"SELECT substr({reason}, 1, instr({reason}, ':') - 1) AS word, count(*) "
        query += _VISIBLE + "CROSS JOIN judgements j ON j.n = s.judgement " + where
        query += "GROUP BY word ORDER BY count(*) DESC, word"
        with self._db.read() as connection:
            return {str(word)[:40]: n for word, n in connection.execute(query, values)}

    def first_step(self, cohort: str | None = "") -> int | None:
        """The least step with a visible scored training case; None where there is none.

        Args:
            cohort: Only this cohort; None for all.
        """
        query = CHAIN + "SELECT min((SELECT s.step FROM scorings s WHERE s.branch = chain.branch "
        query += "AND s.mode = 'train' AND s.seq <= chain.upto AND s.reward IS NOT NULL "
        query += "AND (?1 IS NULL OR s.cohort = ?1) ORDER BY s.step LIMIT 1)) FROM chain"
        with self._db.read() as connection:
            (step,) = connection.execute(query, (cohort,)).fetchone()
        return None if step is None else int(step)

    def last_step(self) -> int | None:
        """The greatest step with a visible scoring, train or eval; None where there is none."""
        query = CHAIN + "SELECT max((SELECT s.step FROM scorings s WHERE s.branch = chain.branch "
        query += "AND s.mode = m.mode AND s.seq <= chain.upto ORDER BY s.step DESC LIMIT 1)) "
        query += "FROM chain, (SELECT 'train' AS mode UNION ALL SELECT 'eval') m"
        with self._db.read() as connection:
            (step,) = connection.execute(query).fetchone()
        return None if step is None else int(step)


@dataclass(frozen=True)
class _CaseRow:
    """A case, ready to be inserted."""

    rollout_id: str
    rollout: str
    rubric_id: str
    judgement: tuple[Any, ...]
    step: int
    mode: str
    cohort: str
    index: int


def _case_row(case: Case) -> _CaseRow:
    rollout, judgement, usage = case.rollout, case.judgement, case.judgement.usage
    for name, rollouts, judgements in (
        ("rollout id", rollout.id, judgement.rollout_id),
        ("mode", rollout.mode, judgement.mode),
        ("cohort", rollout.cohort, judgement.cohort),
    ):
        if rollouts != judgements:
            raise StoreError(
                f"judgement {judgement.key!r} has {name} {judgements!r}, its rollout "
                f"{rollouts!r}: they do not belong together"
            )
    for number in (judgement.reward, judgement.normalized_reward):
        # SQLite turns NaN into NULL: the reward would come back as missing.
        if number is not None and not math.isfinite(number):
            raise StoreError(
                f"judgement {judgement.key!r} has the reward {number!r}: a reward is a finite "
                "number, or None with `unscored` saying why"
            )
    return _CaseRow(
        rollout.id,
        dump(rollout),
        judgement.rubric_id,
        (
            judgement.key,
            judgement.reward,
            judgement.normalized_reward,
            usage.calls,
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.completion_tokens,
            dump(judgement),
        ),
        rollout.step,
        rollout.mode,
        rollout.cohort,
        rollout.index,
    )


def _rubric_number(writer: Writer, id: str) -> int:
    row = writer.execute("SELECT n FROM rubrics WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise StoreError(
            f"a judgement names rubric {id!r}, which is not in the store: decide() or "
            "put_rubric() it before appending"
        )
    return int(row[0])


def _insert_case(writer: Writer, row: _CaseRow, rubric: int) -> None:
    added = writer.execute(
        "INSERT INTO rollouts (id, step, content) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING",
        (row.rollout_id, row.step, row.rollout),
    )
    new = added.rowcount == 1
    rollout = added.lastrowid
    if not new:
        (rollout,) = writer.execute(
            "SELECT n FROM rollouts WHERE id = ?", (row.rollout_id,)
        ).fetchone()
    judgement, reward, normalized = _insert_judgement(writer, row.judgement)
    prior = None
    if not new:
        known = writer.execute(
            "SELECT seq, branch, judgement FROM scorings WHERE rollout = ? AND rubric = ? "
            "ORDER BY seq DESC",
            (rollout, rubric),
        )
        seen = [(seq, which) for seq, branch, which in known if writer.sees(branch, seq)]
        if any(which == judgement for _, which in seen):
            return
        prior = seen[0][0] if seen else None
    writer.execute(
        "INSERT INTO scorings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            writer.tick(),
            writer.branch,
            row.step,
            row.mode,
            row.cohort,
            row.index,
            rollout,
            rubric,
            judgement,
            reward,
            normalized,
            prior,
        ),
    )


def _insert_judgement(writer: Writer, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Number, reward and normalized reward of the judgement that is stored under the key.

    Not always the new one: where two processes asked at once, the first one stays.
    """
    added = writer.execute(
        "INSERT INTO judgements (key, reward, normalized, calls, prompt_tokens, cached_tokens, "
        "completion_tokens, content) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
        values,
    )
    if added.rowcount == 1:
        return added.lastrowid, values[1], values[2]
    row: tuple[Any, ...] = writer.execute(
        "SELECT n, reward, normalized FROM judgements WHERE key = ?", (values[0],)
    ).fetchone()
    return row


def _filters(
    after_step: int | None,
    up_to_step: int | None,
    cohort: str | None,
    mode: str,
    scored: bool | None,
) -> tuple[str, list[Any]]:
    """WHERE clause over a scoring `s`, and its values."""
    terms, values = ["s.mode = ?"], [mode]
    options: list[tuple[str, Any]] = [
        ("s.step > ?", after_step),
        ("s.step <= ?", up_to_step),
        ("s.cohort = ?", cohort),
    ]
    for term, value in options:
        if value is not None:
            terms.append(term)
            values.append(value)
    if scored is not None:
        terms.append("s.reward IS NOT NULL" if scored else "s.reward IS NULL")
    return f"WHERE {' AND '.join(terms)} AND {_LAST}", values


def _summary(step: int, rows: list[Any]) -> StepResults:
    n, scored = sum(row[1] for row in rows), sum(row[2] for row in rows)
    reward = sum(row[3] for row in rows if row[3] is not None)
    normalized = sum(row[4] for row in rows if row[4] is not None)
    return StepResults(
        step=step,
        n=n,
        scored=scored,
        unscored=n - scored,
        mean_reward=reward / scored if scored else None,
        mean_normalized=normalized / scored if scored else None,
        rubric_ids=tuple(row[0] for row in rows),
    )
