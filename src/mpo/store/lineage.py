"""The part of `Store` that keeps rubrics and decisions: the lineage and its head."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from ..errors import StoreError
from ..records import Decision, ScaleMap
from ..rubric import Rubric
from .branches import CHAIN, Branches, Writer, dump, load

__all__ = ["Lineage"]

_PREFIX = 4  # shortest prefix of an id that is taken for it
_DECISIONS = """
FROM chain CROSS JOIN decisions d ON d.branch = chain.branch AND d.seq <= chain.upto
"""


class Lineage(Branches):
    """Rubrics by id, and the decisions that put them in force."""

    def put_rubric(self, rubric: Rubric) -> str:
        """Store a rubric, without putting it in force. Twice is the same as once.

        Returns:
            Its id.
        """
        rows = _rubric_rows([rubric])
        with self._db.write() as connection:
            _insert_rubrics(connection, rows)
        return rubric.id

    def rubric(self, id: str) -> Rubric:
        """A stored rubric, of any branch.

        Args:
            id: 16 hex digits, or a prefix of at least 4 that fits one rubric only.

        Raises:
            StoreError: Unknown or ambiguous; the message names the nearest ids.
        """
        with self._db.read() as connection:
            row = connection.execute("SELECT content FROM rubrics WHERE id = ?", (id,)).fetchone()
            if row is None:
                known = [known for (known,) in connection.execute("SELECT id FROM rubrics")]
                full = _complete(id, known)
                row = connection.execute(
                    "SELECT content FROM rubrics WHERE id = ?", (full,)
                ).fetchone()
        return load(Rubric, row[0])

    def rubrics(self) -> dict[str, Rubric]:
        """All stored rubrics by id, rejected proposals and other branches included.

        In the order in which they were first stored.
        """
        with self._db.read() as connection:
            rows = connection.execute("SELECT id, content FROM rubrics ORDER BY n").fetchall()
        return {id: load(Rubric, content) for id, content in rows}

    def decide(self, decision: Decision, rubric: Rubric | None = None) -> int:
        """Store a decision with all rubrics that belong to it, in one transaction.

        An accepted decision moves the head of its cohort. Calling twice stores two decisions.

        Args:
            decision: Of one meta step, of the seed, or of a rollback.
            rubric: The proposed one; may be left out where it is in `decision.refinement` or
                stored already. The proposals of the refinement are stored too.

        Returns:
            The decision's sequence number, unique in the store and growing.

        Raises:
            StoreError: `decision.proposed` is not the rubric given, or is unknown; or the decision
                accepts and its parent is not the head (another writer decided first). Nothing is
                stored then.
        """
        if rubric is not None and decision.proposed != rubric.id:
            raise StoreError(
                f"the decision at step {decision.step} proposes rubric {decision.proposed!r}, but "
                f"comes with rubric {rubric.id!r}: pass the one that it names"
            )
        given = [rubric] if rubric is not None else []
        if decision.refinement is not None:
            given.append(decision.refinement.rubric)
            given += [proposal.rubric for proposal in decision.refinement.proposals]
        rows, content = _rubric_rows(given), dump(decision)
        with self._writing() as writer:
            _insert_rubrics(writer.connection, rows)
            self._check(writer, decision)
            seq = writer.tick()
            _insert_decision(writer, seq, decision, content)
        return seq

    def _check(self, writer: Writer, decision: Decision) -> None:
        known = writer.execute("SELECT 1 FROM rubrics WHERE id = ?", (decision.proposed,))
        if decision.proposed is not None and known.fetchone() is None:
            raise StoreError(
                f"the decision at step {decision.step} proposes rubric {decision.proposed!r}, "
                "which is not in the store: pass it to decide(), or put_rubric() it first"
            )
        head = _head_id(writer.connection, decision.cohort)
        if decision.accepted and decision.parent != head:
            raise StoreError(
                f"the decision at step {decision.step} replaces rubric {decision.parent!r}, but "
                f"the head of cohort {decision.cohort!r} is {head!r}: another writer decided "
                "first; read the head and decide again"
            )

    def head(self, cohort: str = "") -> Rubric | None:
        """The rubric in force; None before the cohort's seed decision."""
        with self._db.read() as connection:
            id = _head_id(connection, cohort)
            if id is None:
                return None
            row = connection.execute("SELECT content FROM rubrics WHERE id = ?", (id,)).fetchone()
        return load(Rubric, row[0])

    def heads(self) -> dict[str, str]:
        """Id of the rubric in force by cohort, in the order of their first decisions."""
        query = (
            CHAIN + "SELECT d.cohort, d.proposed" + _DECISIONS + "WHERE d.accepted ORDER BY d.seq"
        )
        with self._db.read() as connection:
            return dict(connection.execute(query).fetchall())  # of equal keys the last one counts

    def lineage(self, cohort: str | None = None) -> list[Decision]:
        """The visible decisions, oldest first, rejected ones included.

        Args:
            cohort: Only of this cohort; None for all.
        """
        query = CHAIN + "SELECT d.content" + _DECISIONS
        query += "WHERE ?1 IS NULL OR d.cohort = ?1 ORDER BY d.seq"
        with self._db.read() as connection:
            return [load(Decision, text) for (text,) in connection.execute(query, (cohort,))]

    def scale_map(self, rubric_id: str) -> ScaleMap | None:
        """The rubric's map, from the last visible decision that accepted it; None without one."""
        with self._db.read() as connection:
            return read_scale_map(connection, rubric_id)


def read_scale_map(connection: sqlite3.Connection, rubric_id: str) -> ScaleMap | None:
    query = CHAIN + "SELECT d.content" + _DECISIONS
    # A decision's text is long, and most scales have no maps: look before it is parsed.
    query += "WHERE d.accepted AND d.proposed = ? AND instr(d.content, '\"scale_map\":{') "
    query += "ORDER BY d.seq DESC LIMIT 1"
    row = connection.execute(query, (rubric_id,)).fetchone()
    return None if row is None else load(Decision, row[0]).scale_map


def _head_id(connection: sqlite3.Connection, cohort: str) -> str | None:
    query = CHAIN + "SELECT d.proposed" + _DECISIONS
    query += "WHERE d.accepted = 1 AND d.cohort = ? ORDER BY d.seq DESC LIMIT 1"
    row = connection.execute(query, (cohort,)).fetchone()
    return None if row is None else str(row[0])


def _rubric_rows(rubrics: Iterable[Rubric]) -> list[tuple[str, str]]:
    return [(rubric.id, dump(rubric)) for rubric in rubrics]


def _insert_rubrics(connection: sqlite3.Connection, rows: list[tuple[str, str]]) -> None:
    connection.executemany(
        "INSERT INTO rubrics (id, content) VALUES (?, ?) ON CONFLICT (id) DO NOTHING", rows
    )


def _insert_decision(writer: Writer, seq: int, decision: Decision, content: str) -> None:
    usage = decision.usage
    writer.execute(
        "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            seq,
            writer.branch,
            decision.step,
            decision.cohort,
            decision.kind,
            decision.accepted,
            decision.proposed,
            usage.calls,
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.completion_tokens,
            content,
        ),
    )


def _complete(prefix: str, known: list[str]) -> str:
    """The one id that starts with the prefix."""
    fitting = [id for id in known if id.startswith(prefix)] if len(prefix) >= _PREFIX else []
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise StoreError(f"rubric {prefix!r} fits {', '.join(fitting[:5])}: give more digits")
    near = sorted(known, key=lambda id: -_shared(id, prefix))[:3]
    raise StoreError(
        f"there is no rubric {prefix!r} in the store; "
        + (f"the nearest are {', '.join(near)}" if near else "it holds no rubric yet")
    )


def _shared(one: str, other: str) -> int:
    """Length of the common prefix."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(other))
