"""Store: rubrics and decisions, events, external scores, usage and facts, on top of cases."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, StoreError
from ..records import ConfigChange, Decision, ScaleMap, Usage, to_json
from ..rubric import Rubric
from .branches import CHAIN, DECISIONS, Writer, dump, load
from .cases import Cases

__all__ = ["Event", "ExternalScore", "Store"]

_CHANGES = "config_changes"
_PREFIX = 4  # shortest prefix of an id that is taken for it
_INSERT_RUBRIC = "INSERT INTO rubrics (id, content) VALUES (?, ?) ON CONFLICT (id) DO NOTHING"
_COUNTS = ("calls", "prompt_tokens", "cached_tokens", "completion_tokens")
_USAGE = "SELECT " + ", ".join(f"total({name})" for name in _COUNTS)
# Decisions are few, and the usage of the RM in their meta steps stands in their text alone.
_RM_USAGE = "SELECT " + ", ".join(
    f"total(json_extract(content, '$.rm_usage.{name}'))" for name in _COUNTS
)

_SECOND_JUDGE_USAGE = "SELECT " + ", ".join(
    f"total(json_extract(parts, '$.usage.{name}'))" for name in _COUNTS
)


@dataclass(frozen=True)
class Event:
    """A random choice with its result (law 6), or a reading of the monitors."""

    name: str
    """Kind of the event: `evidence`, `earlier`, `monitor`, `alarm`."""
    step: int
    seed: Any
    """Seed of the generator."""
    result: Any
    """JSON values."""


@dataclass(frozen=True)
class ExternalScore:
    """A rollout's score from outside: gold, or a second judge's."""

    value: float | None
    """None where there is none. Never 0 for that (law 3)."""
    parts: Mapping[str, Any]
    """JSON values that the value is made of."""


class Store(Cases):
    """Everything that happens in a run, in one file.

    Args:
        path: Path of the file; its folder must exist.
        create: Make the file where it is missing. Without, a missing file is an error.
        uuid: Identity that the store must have (`Store.uuid`): one that is missing, empty or
            another one is an error then. None takes any.

    Raises:
        StoreError: The file cannot be opened, or is not a store.
        StoreFileError: It cannot be used now: the disk is full, the file is damaged or locked, or
            is not the store with this `uuid`.
        NewerStoreError: It was written by a newer version of this package.
    """

    # ------------------------------------------------------------------ rubrics and decisions

    def put_rubric(self, rubric: Rubric) -> str:
        """Store a rubric, without putting it into effect. Twice is the same as once.

        Returns:
            Its id.
        """
        rows = _rubric_rows([rubric])
        with self._db.write() as connection:
            connection.executemany(_INSERT_RUBRIC, rows)
        return rubric.id

    def rubric(self, id: str) -> Rubric:
        """A stored rubric, of any branch.

        Args:
            id: 16 hex digits, or a prefix of at least 4 that fits one rubric only.

        Raises:
            StoreError: Unknown or ambiguous; the message names the nearest ids.
        """
        with self.reading() as view:
            rubric = view.rubric(id)
            if rubric is None:
                known = [known for (known,) in view.execute("SELECT id FROM rubrics")]
                rubric = view.rubric(_complete(id, known))
        assert rubric is not None
        return rubric

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
            decision: The decision of one meta step, of the seed, or of a rollback.
            rubric: The proposed rubric; may be left out where it is in `decision.refinement` or
                stored already. The proposals of the refinement are stored too.

        Returns:
            The decision's sequence number, unique in the store and growing.

        Raises:
            StoreError: `decision.proposed` is unknown, or not the id of `rubric`; or the decision
                accepts and its parent is not the head (another writer decided first). Nothing is
                stored then.
        """
        if rubric is not None and decision.proposed != rubric.id:
            raise StoreError(
                f"the decision at step {decision.step} proposes rubric {decision.proposed!r}, but "
                f"comes with rubric {rubric.id!r}: pass the one that it names"
            )
        rubrics = [rubric] if rubric is not None else []
        if decision.refinement is not None:
            rubrics.append(decision.refinement.rubric)
            rubrics += [proposal.rubric for proposal in decision.refinement.proposals]
        rows, content = _rubric_rows(rubrics), dump(decision)
        with self.writing() as writer:
            writer.executemany(_INSERT_RUBRIC, rows)
            _check(writer, decision)
            seq = writer.tick()
            _insert_decision(writer, seq, decision, content)
        return seq

    def plant_seed(self, cohort: str, seed: Rubric) -> Rubric:
        """Make the seed rubric the head of a cohort that has none.

        Returns:
            The head.

        Raises:
            ConfigError: The cohort's lineage starts from another rubric.
        """
        if self.head(cohort) is None:
            decision = Decision(
                cohort=cohort, kind="seed", proposed=seed.id, accepted=True, reason="seed rubric"
            )
            try:
                self.decide(decision, seed)
            except StoreError:
                # Another rank may have planted it first; only then is there a head now.
                if self.head(cohort) is None:
                    raise
        first = self.lineage(cohort)[0]
        if first.proposed != seed.id:
            raise ConfigError(
                f"{self.path} continues seed rubric {first.proposed}, not {seed.id} "
                f"({seed.title!r}): use another store, or the rubric that it began with "
                "(mpo rubric show)"
            )
        head = self.head(cohort)
        assert head is not None
        return head

    def head(self, cohort: str = "") -> Rubric | None:
        """The rubric in effect; None before the cohort's seed decision."""
        with self.reading() as view:
            id = view.head_id(cohort)
            return None if id is None else view.rubric(id)

    def heads(self) -> dict[str, str]:
        """Ids of the rubrics in effect by cohort, in the order of their first decisions."""
        query = (
            CHAIN + "SELECT d.cohort, d.proposed" + DECISIONS + "WHERE d.accepted ORDER BY d.seq"
        )
        with self._db.read() as connection:
            return dict(connection.execute(query).fetchall())  # of equal keys the last one counts

    def lineage(self, cohort: str | None = None) -> list[Decision]:
        """The visible decisions, oldest first, rejected ones included.

        Args:
            cohort: Only this cohort; None for all.
        """
        query = CHAIN + "SELECT d.content" + DECISIONS
        query += "WHERE ?1 IS NULL OR d.cohort = ?1 ORDER BY d.seq"
        with self._db.read() as connection:
            return [load(Decision, text) for (text,) in connection.execute(query, (cohort,))]

    def scale_map(self, rubric_id: str) -> ScaleMap | None:
        """The rubric's map, from the last visible decision that accepted it; None without one."""
        with self.reading() as view:
            return view.scale_map(rubric_id)

    # ------------------------------------------------------------------ events

    def log_event(self, name: str, step: int, seed: Any, result: Any) -> None:
        """Log a random choice with its seed and result (law 6), or a reading of the monitors.

        Raises:
            StoreError: Seed or result cannot be written as JSON.
        """
        content = dump([seed, result])
        with self.writing() as writer:
            writer.execute(
                "INSERT INTO choices VALUES (?, ?, ?, ?, ?)",
                (writer.tick(), writer.branch, step, name, content),
            )

    def events(self, name: str | None = None, *, after_step: int | None = None) -> list[Event]:
        """The visible events, oldest first.

        Args:
            name: Only events of this name; None for all.
            after_step: Only steps greater than this; None for no bound.
        """
        query = CHAIN + "SELECT c.name, c.step, c.content FROM chain CROSS JOIN choices c "
        query += "ON c.branch = chain.branch AND c.seq <= chain.upto "
        query += "WHERE (?1 IS NULL OR c.name = ?1) AND (?2 IS NULL OR c.step > ?2) ORDER BY c.seq"
        with self._db.read() as connection:
            rows = connection.execute(query, (name, after_step)).fetchall()
        return [Event(name, step, *json.loads(content)) for name, step, content in rows]

    # ------------------------------------------------------------------ external scores

    def add_external_scores(
        self,
        entries: Iterable[tuple[str, float | None, Mapping[str, Any]]],
        name: str = "gold",
    ) -> None:
        """Store scores from outside: gold in the sandbox, a second judge elsewhere.

        They are for people and monitors; no meta step ever sees them.

        Args:
            entries: (rollout id, value, parts); the last entry of a rollout counts.
            name: Name of the scorer.

        Raises:
            StoreError: A rollout is not stored, or a value is not a finite number.
        """
        rows = [(id, _finite(id, value), dump(dict(parts))) for id, value, parts in entries]
        if not rows:
            return
        with self.writing() as writer:
            for id, value, parts in rows:
                row = writer.execute("SELECT n, step FROM rollouts WHERE id = ?", (id,)).fetchone()
                if row is None:
                    raise StoreError(
                        f"cannot keep a score of rollout {id!r}: it is not in the store; append "
                        "it first"
                    )
                rollout, step = row
                writer.execute(
                    "INSERT INTO audits VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (writer.tick(), writer.branch, step, name, rollout, value, parts),
                )

    def external_scores(
        self, name: str = "gold", *, after_step: int | None = None, up_to_step: int | None = None
    ) -> dict[str, ExternalScore]:
        """The visible scores of one scorer by rollout id, oldest first.

        Args:
            name: Name of the scorer.
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
            return {id: ExternalScore(value, json.loads(parts)) for id, value, parts in rows}

    # ------------------------------------------------------------------ usage and facts

    def usage(self) -> dict[str, Usage]:
        """Usage of the run by role, abandoned branches included: they were paid for (law 4).

        Returns:
            The run's account (`spending`), which also has what was paid for and could not be used.
            Where nobody kept it, the sums of what is stored: `rm` of all judgements, each key once,
            and of the RM's calls in meta steps; `mrm` of all decisions; `audit` of the second
            judge's scores, where there are any.
        """
        usage = self.stored_usage()
        for role, (spent, _) in self.spending().items():
            if spent.calls >= usage.get(role, Usage()).calls:
                usage[role] = spent
        return usage

    def stored_usage(self) -> dict[str, Usage]:
        """Usage by role that judgements, decisions and the second judge's scores carry."""
        with self._db.read() as connection:
            judgements = _total(connection, f"{_USAGE} FROM judgements")
            rm_in_meta_steps = _total(connection, f"{_RM_USAGE} FROM decisions")
            mrm = _total(connection, f"{_USAGE} FROM decisions")
            second_judge = _total(
                connection, f"{_SECOND_JUDGE_USAGE} FROM audits WHERE name = 'audit'"
            )
        usage = {"rm": judgements + rm_in_meta_steps, "mrm": mrm}
        return usage | ({"audit": second_judge} if second_judge.calls else {})

    def meta(self, key: str) -> str | None:
        """A fact about the run; None where it was never set."""
        query = "SELECT value FROM facts WHERE key = ? ORDER BY n DESC LIMIT 1"
        with self._db.read() as connection:
            row = connection.execute(query, (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Keep a fact about the run (hash of its config, …), on all branches.

        The last value counts; earlier ones stay in the file.
        """
        with self._db.write() as connection:
            connection.execute("INSERT INTO facts (key, value) VALUES (?, ?)", (key, value))

    def log_changes(self, changes: Iterable[ConfigChange]) -> None:
        """Keep the keys of the config that have changed, on all branches."""
        known, new = self.config_changes(), list(changes)
        # A start that ended between this and the writing of its config is no second change.
        if new and known[-len(new) :] != new:
            values = [change.model_dump(mode="json") for change in (*known, *new)]
            self.set_meta(_CHANGES, to_json(values))

    def config_changes(self) -> list[ConfigChange]:
        """The keys of the config that have changed since the run began, oldest first."""
        values = json.loads(self.meta(_CHANGES) or "[]")
        return [ConfigChange.model_validate(value) for value in values]


def _check(writer: Writer, decision: Decision) -> None:
    known = writer.execute("SELECT 1 FROM rubrics WHERE id = ?", (decision.proposed,))
    if decision.proposed is not None and known.fetchone() is None:
        raise StoreError(
            f"the decision at step {decision.step} proposes rubric {decision.proposed!r}, "
            "which is not in the store: pass it to decide(), or put_rubric() it first"
        )
    head = writer.head_id(decision.cohort)
    if decision.accepted and decision.parent != head:
        raise StoreError(
            f"the decision at step {decision.step} replaces rubric {decision.parent!r}, but "
            f"the head of cohort {decision.cohort!r} is {head!r}: another writer decided "
            "first; read the head and decide again"
        )


def _rubric_rows(rubrics: Iterable[Rubric]) -> list[tuple[str, str]]:
    return [(rubric.id, dump(rubric)) for rubric in rubrics]


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


def _total(connection: sqlite3.Connection, query: str) -> Usage:
    calls, prompt, cached, completion = (int(n) for n in connection.execute(query).fetchone())
    return Usage(
        calls=calls, prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion
    )


def _finite(rollout_id: str, value: float | None) -> float | None:
    # SQLite turns NaN into NULL: it would come back as "no value".
    if value is not None and not math.isfinite(value):
        raise StoreError(
            f"the external score of rollout {rollout_id!r} is {value!r}: pass a finite number, "
            "or None where there is none"
        )
    return value
