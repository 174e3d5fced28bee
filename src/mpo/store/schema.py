"""The tables, and the append-only list of migrations that lead to them.

Content (rubrics, rollouts, judgements) is stored once per id, whatever the branch: what a model was
paid for stays usable after a restore. Events (scorings, decisions, choices, pins, audits) say what
happened: each has a sequence number that grows over the whole file, and the branch it happened on.

To change the format append a function to `MIGRATIONS`; never change one that was released.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import uuid
from collections.abc import Callable

__all__ = ["APPLICATION_ID", "MIGRATIONS", "SCHEMA", "migrate"]

APPLICATION_ID = 0x6D706F31
"""`mpo1` in the file's header: tells a store from any other SQLite database."""

_TABLES = """
-- What never changes after creation: uuid, secret.
CREATE TABLE identity (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL);
-- The greatest sequence number given out. One row.
CREATE TABLE counter (seq INTEGER NOT NULL);
INSERT INTO counter VALUES (0);
-- A branch sees its own events, and its parent's up to `fork`. The row with the greatest id is the
-- current branch. `seq` is the branch's own place in the sequence.
CREATE TABLE branches (
    id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, parent INTEGER, fork INTEGER,
    step INTEGER NOT NULL
);
INSERT INTO branches VALUES (1, 0, NULL, NULL, 0);

-- Content, by id.
CREATE TABLE rubrics (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, content TEXT NOT NULL);
CREATE TABLE rollouts (
    n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, step INTEGER NOT NULL, content TEXT NOT NULL
);
CREATE TABLE judgements (
    n INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, reward REAL, normalized REAL,
    calls INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL, content TEXT NOT NULL
);
-- usage() sums over all judgements; this keeps it from reading their texts.
CREATE INDEX judgements_usage
    ON judgements (calls, prompt_tokens, cached_tokens, completion_tokens);

-- Events, by sequence number and branch.
CREATE TABLE scorings (
    seq INTEGER PRIMARY KEY, branch INTEGER NOT NULL, step INTEGER NOT NULL, mode TEXT NOT NULL,
    cohort TEXT NOT NULL, idx INTEGER NOT NULL, rollout INTEGER NOT NULL, rubric INTEGER NOT NULL,
    judgement INTEGER NOT NULL, reward REAL, normalized REAL,
    prior INTEGER  -- the scoring of the same rollout under the same rubric that this one replaces
);
CREATE INDEX scorings_window ON scorings (branch, mode, step, cohort);
CREATE INDEX scorings_rollout ON scorings (rollout, rubric);
CREATE INDEX scorings_prior ON scorings (prior) WHERE prior IS NOT NULL;
CREATE TABLE decisions (
    seq INTEGER PRIMARY KEY, branch INTEGER NOT NULL, step INTEGER NOT NULL, cohort TEXT NOT NULL,
    kind TEXT NOT NULL, accepted INTEGER NOT NULL, proposed TEXT, calls INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL, content TEXT NOT NULL
);
CREATE INDEX decisions_head ON decisions (branch, accepted, cohort, proposed);
CREATE TABLE choices (
    seq INTEGER PRIMARY KEY, branch INTEGER NOT NULL, step INTEGER NOT NULL, name TEXT NOT NULL,
    content TEXT NOT NULL
);
CREATE INDEX choices_name ON choices (branch, name);
CREATE TABLE pins (
    seq INTEGER PRIMARY KEY, branch INTEGER NOT NULL, step INTEGER NOT NULL, grp TEXT NOT NULL,
    cohort TEXT NOT NULL, rubric TEXT NOT NULL
);
CREATE INDEX pins_group ON pins (grp, step, cohort);
CREATE TABLE audits (
    seq INTEGER PRIMARY KEY, branch INTEGER NOT NULL, step INTEGER NOT NULL, name TEXT NOT NULL,
    rollout INTEGER NOT NULL, value REAL, parts TEXT NOT NULL
);
CREATE INDEX audits_name ON audits (branch, name, step);

-- Facts about the run; the last value of a key counts.
CREATE TABLE facts (n INTEGER PRIMARY KEY, key TEXT NOT NULL, value TEXT NOT NULL);
CREATE INDEX facts_key ON facts (key);
"""


def m001_initial(connection: sqlite3.Connection) -> None:
    """The first format."""
    # Not executescript: it commits first, and a killed creation would leave half the tables.
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.executemany(
        "INSERT INTO identity VALUES (?, ?)",
        [("uuid", uuid.uuid4().hex), ("secret", secrets.token_hex(32))],
    )


def m002_replies(connection: sqlite3.Connection) -> None:
    """Answers of a chat by the key of their question; of no branch."""
    connection.execute(
        "CREATE TABLE replies (n INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, "
        "content TEXT NOT NULL)"
    )


def m003_typed_fields(connection: sqlite3.Connection) -> None:
    """Renames two fields of judgements, and gives decisions typed fields for two of their figures.

    The replacement of text is exact: a quotation mark inside a JSON string has a backslash in
    front. Numbers keep every digit, which SQLite's JSON functions do not promise.
    """
    connection.execute(
        """UPDATE judgements SET content = replace(
            replace(content, '"normalized":', '"normalized_reward":'),
            '"flags":', '"injection_flags":'
        )"""
    )
    rows = connection.execute("SELECT seq, content FROM decisions").fetchall()
    for seq, content in rows:
        decision = json.loads(content)
        figures = decision.get("figures", {})
        decision["canary_failed"] = figures.pop("canary_failed", None) is not None
        slope, offset = figures.pop("scale_slope", None), figures.pop("scale_offset", None)
        anchors = figures.pop("scale_anchors", 0.0)
        degenerate = figures.pop("scale_degenerate", 0.0)
        decision["scale_map"] = None
        if slope is not None and offset is not None:
            decision["scale_map"] = {
                "slope": slope,
                "offset": offset,
                "anchors": int(anchors),
                "degenerate": bool(degenerate),
            }
        text = json.dumps(decision, separators=(",", ":"))
        connection.execute("UPDATE decisions SET content = ? WHERE seq = ?", (text, seq))


def m004_spending(connection: sqlite3.Connection) -> None:
    """The account of a run: all calls that were paid for, by role; of no branch."""
    connection.execute(
        "CREATE TABLE spending (role TEXT PRIMARY KEY, calls INTEGER NOT NULL, "
        "prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, "
        "completion_tokens INTEGER NOT NULL, usd REAL NOT NULL)"
    )


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    m001_initial,
    m002_replies,
    m003_typed_fields,
    m004_spending,
)
SCHEMA = len(MIGRATIONS)
"""The format that this package writes; a file's own is in `PRAGMA user_version`."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to `SCHEMA`, in the transaction that the caller has begun."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for number, migration in enumerate(MIGRATIONS[version:], start=version + 1):
        migration(connection)
        connection.execute("INSERT INTO migrations VALUES (?, ?)", (number, migration.__name__))
        connection.execute(f"PRAGMA user_version = {number}")
