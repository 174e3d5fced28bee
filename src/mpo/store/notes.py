"""The part of `Store` that keeps what goes with a run: pins, choices, audits, usage, facts."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import StoreError
from ..records import Usage
from .branches import CHAIN, Branches, View, dump

__all__ = ["Audit", "Choice", "Notes"]

_COUNTS = ("calls", "prompt_tokens", "cached_tokens", "completion_tokens")
_USAGE = "SELECT " + ", ".join(f"total({name})" for name in _COUNTS)
# Decisions are few, and what their meta steps asked the RM stands in their text alone.
_RM_USAGE = "SELECT " + ", ".join(
    f"total(json_extract(content, '$.rm_usage.{name}'))" for name in _COUNTS
)

_AUDIT_USAGE = "SELECT " + ", ".join(
    f"total(json_extract(parts, '$.usage.{name}'))" for name in _COUNTS
)


@dataclass(frozen=True)
class Choice:
    """A random choice and what came of it (law 6)."""

    name: str
    """What was chosen: `evidence`, `probes`, …"""
    step: int
    seed: Any
    """What the generator was seeded with."""
    result: Any
    """JSON values."""


@dataclass(frozen=True)
class Audit:
    """A rollout's score from outside."""

    value: float | None
    """None where the auditor gave none. Never 0 for that (law 3)."""
    parts: Mapping[str, Any]
    """What the value is made of, JSON values."""


class Notes(Branches):
    """What goes with a run beside its rubrics and cases."""

    def pin(
        self, groups: Sequence[tuple[str, int]], rubric_id: str, cohort: str = ""
    ) -> dict[tuple[str, int], str]:
        """Under which rubric each group is scored: the one that was named first (law 11).

        Holds across threads and processes; a restore takes back the pins made after its snapshot.

        Args:
            groups: (group, step) pairs.
            rubric_id: For the groups that have no pin yet.
            cohort: Groups of the same name in two cohorts are two groups.

        Returns:
            By (group, step): the rubric id that counts.

        Raises:
            StoreError: The rubric is not stored.
        """
        with self._reading() as view:
            pins = {pair: _pinned(view, pair, cohort) for pair in groups}
        missing = [pair for pair, rubric in pins.items() if rubric is None]
        if missing:
            with self._writing() as writer:
                known = writer.execute("SELECT 1 FROM rubrics WHERE id = ?", (rubric_id,))
                if known.fetchone() is None:
                    raise StoreError(f"cannot pin to rubric {rubric_id!r}: it is not in the store")
                # Another process may have pinned, or restored, since: ask again for all.
                pins = {pair: _pinned(writer, pair, cohort) for pair in groups}
                for pair in [pair for pair, rubric in pins.items() if rubric is None]:
                    group, step = pair
                    writer.execute(
                        "INSERT INTO pins VALUES (?, ?, ?, ?, ?, ?)",
                        (writer.tick(), writer.branch, step, group, cohort, rubric_id),
                    )
                    pins[pair] = rubric_id
        return {pair: rubric for pair, rubric in pins.items() if rubric is not None}

    def log_choice(self, name: str, step: int, seed: Any, result: Any) -> None:
        """Log a random choice with its result (law 6); both as JSON values.

        Raises:
            StoreError: Seed or result cannot be written as JSON.
        """
        content = dump([seed, result])
        with self._writing() as writer:
            writer.execute(
                "INSERT INTO choices VALUES (?, ?, ?, ?, ?)",
                (writer.tick(), writer.branch, step, name, content),
            )

    def choices(self, name: str | None = None) -> list[Choice]:
        """The visible choices, oldest first; all names where none is given."""
        query = CHAIN + "SELECT c.name, c.step, c.content FROM chain CROSS JOIN choices c "
        query += "ON c.branch = chain.branch AND c.seq <= chain.upto "
        query += "WHERE ?1 IS NULL OR c.name = ?1 ORDER BY c.seq"
        with self._db.read() as connection:
            rows = connection.execute(query, (name,)).fetchall()
        return [Choice(name, step, *json.loads(content)) for name, step, content in rows]

    def audit(
        self,
        entries: Iterable[tuple[str, float | None, Mapping[str, Any]]],
        name: str = "gold",
    ) -> None:
        """Store scores from outside: gold in the sandbox, a second judge elsewhere.

        They are for people and monitors; no meta step ever sees them.

        Args:
            entries: (rollout id, value, parts); the last entry of a rollout counts.
            name: Of the auditor.

        Raises:
            StoreError: A rollout is not stored, or a value is not a finite number.
        """
        rows = [(id, _finite(id, value), dump(dict(parts))) for id, value, parts in entries]
        if not rows:
            return
        with self._writing() as writer:
            for id, value, parts in rows:
                found = writer.execute(
                    "SELECT n, step FROM rollouts WHERE id = ?", (id,)
                ).fetchone()
                if found is None:
                    raise StoreError(
                        f"cannot audit rollout {id!r}: it is not in the store; append it first"
                    )
                rollout, step = found
                writer.execute(
                    "INSERT INTO audits VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (writer.tick(), writer.branch, step, name, rollout, value, parts),
                )

    def audits(
        self, name: str = "gold", *, after_step: int | None = None, up_to_step: int | None = None
    ) -> dict[str, Audit]:
        """The visible audits of one auditor by rollout id, oldest first.

        Args:
            name: Of the auditor.
            after_step: Only rollouts of steps greater than this.
            up_to_step: Only rollouts of steps up to and with this one.
        """
        query = CHAIN + "SELECT r.id, a.value, a.parts FROM chain CROSS JOIN audits a "
        query += "ON a.branch = chain.branch AND a.seq <= chain.upto "
        query += "CROSS JOIN rollouts r ON r.n = a.rollout WHERE a.name = ?1 AND a.step > ?2 "
        query += "AND a.step <= ?3 ORDER BY a.seq"
        low = -1 if after_step is None else after_step
        high = 2**63 - 1 if up_to_step is None else up_to_step
        with self._db.read() as connection:
            rows = connection.execute(query, (name, low, high))
            return {id: Audit(value, json.loads(parts)) for id, value, parts in rows}

    def usage(self) -> dict[str, Usage]:
        """What the run has cost, abandoned branches included: they were paid for (law 4).

        Returns:
            `rm`: over all judgements, each key once, and what meta steps asked the RM; `mrm`:
            over all decisions; `audit`: what a second RM was asked, where one was.
        """
        with self._db.read() as connection:
            judged = _total(connection, f"{_USAGE} FROM judgements")
            asked = _total(connection, f"{_RM_USAGE} FROM decisions")
            decided = _total(connection, f"{_USAGE} FROM decisions")
            audited = _total(connection, f"{_AUDIT_USAGE} FROM audits WHERE name = 'audit'")
        usage = {"rm": judged + asked, "mrm": decided}
        return usage | ({"audit": audited} if audited.calls else {})

    def meta(self, key: str) -> str | None:
        """A fact about the run; None where it was never set."""
        query = "SELECT value FROM facts WHERE key = ? ORDER BY n DESC LIMIT 1"
        with self._db.read() as connection:
            row = connection.execute(query, (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Keep a fact about the run (hash of its config, …), whatever the branch.

        The last value counts; earlier ones stay in the file.
        """
        with self._db.write() as connection:
            connection.execute("INSERT INTO facts (key, value) VALUES (?, ?)", (key, value))


def _total(connection: sqlite3.Connection, query: str) -> Usage:
    calls, prompt, cached, completion = (int(n) for n in connection.execute(query).fetchone())
    return Usage(
        calls=calls, prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion
    )


def _pinned(view: View, pair: tuple[str, int], cohort: str) -> str | None:
    group, step = pair
    rows = view.execute(
        "SELECT branch, seq, rubric FROM pins WHERE grp = ? AND step = ? AND cohort = ?",
        (group, step, cohort),
    )
    return next((rubric for branch, seq, rubric in rows if view.sees(branch, seq)), None)


def _finite(rollout_id: str, value: float | None) -> float | None:
    # SQLite turns NaN into NULL: it would come back as "no value".
    if value is not None and not math.isfinite(value):
        raise StoreError(
            f"the audit of rollout {rollout_id!r} has the value {value!r}: give a finite number, "
            "or None where there is none"
        )
    return value
