"""A file in an earlier format opens, and gives the same rubrics, rewards and maps."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from mpo.chat import ScriptedChat
from mpo.judge.options import Scoring
from mpo.records import CriterionScore, Rollout, ScaleMap
from mpo.reward import EvolvingReward
from mpo.rubric import Rubric, parse_rubric
from mpo.store import Store
from store.store_doubles import assert_sound, rows

SEED = parse_rubric("# Seed\n## Flow  (weight 1)\nIdeas follow.\n- 0: no\n- 5: yes\n")
NEXT = parse_rubric("# Next\n## Depth  (weight 2)\nIt explains.\n- 0: no\n- 2: partly\n- 4: yes\n")
SLOPE, OFFSET = 0.1 + 0.2, -1 / 3  # numbers whose last digit a careless reader loses
RATIONALE = 'It says "normalized": 1, "flags": {} and \\"flags\\": of itself. \ud83c'
USAGE = {"calls": 1, "prompt_tokens": 90, "cached_tokens": 0, "completion_tokens": 7}

# The tables of schema 2 that the test fills, as that version wrote them.
TABLES = """
CREATE TABLE identity (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE counter (seq INTEGER NOT NULL);
CREATE TABLE branches (
    id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, parent INTEGER, fork INTEGER,
    step INTEGER NOT NULL
);
CREATE TABLE rubrics (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, content TEXT NOT NULL);
CREATE TABLE rollouts (
    n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, step INTEGER NOT NULL, content TEXT NOT NULL
);
CREATE TABLE judgements (
    n INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, reward REAL, normalized REAL,
    calls INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL, content TEXT NOT NULL
);
CREATE INDEX judgements_usage
    ON judgements (calls, prompt_tokens, cached_tokens, completion_tokens);
CREATE TABLE scorings (
    seq INTEGER PRIMARY KEY, branch INTEGER NOT NULL, step INTEGER NOT NULL, mode TEXT NOT NULL,
    cohort TEXT NOT NULL, idx INTEGER NOT NULL, rollout INTEGER NOT NULL, rubric INTEGER NOT NULL,
    judgement INTEGER NOT NULL, reward REAL, normalized REAL, prior INTEGER
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
CREATE TABLE facts (n INTEGER PRIMARY KEY, key TEXT NOT NULL, value TEXT NOT NULL);
CREATE INDEX facts_key ON facts (key);
CREATE TABLE replies (n INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, content TEXT NOT NULL);
INSERT INTO identity VALUES ('uuid', '00112233445566778899aabbccddeeff');
INSERT INTO identity VALUES ('secret', 'ab00000000000000000000000000000000000000000000000000000000000000');
INSERT INTO migrations VALUES (1, 'm001_initial'), (2, 'm002_replies');
INSERT INTO counter VALUES (5);
INSERT INTO branches VALUES (1, 0, NULL, NULL, 0);
INSERT INTO replies VALUES (1, 'k', '{"text":"a \\"flags\\": b","flags":1}');
INSERT INTO facts VALUES (1, 'note', '{"normalized":1,"flags":2}');
PRAGMA application_id = 1836085041;
PRAGMA user_version = 2;
"""  # noqa: E501


def as_json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def decision(rubric: Rubric, **fields: Any) -> dict[str, Any]:
    return {
        "step": 0,
        "cohort": "",
        "kind": "evolve",
        "parent": None,
        "proposed": rubric.id,
        "accepted": True,
        "reason": "it is better",
        "figures": {},
        "refinement": None,
        "usage": USAGE,
        "rm_usage": USAGE,
        "due": None,
        "findings": [],
        **fields,
    }


def rollout() -> Rollout:
    return Rollout(prompt="Write.", completion="The mill stands.", step=12, group="g")


def judgement() -> dict[str, Any]:
    return {
        "key": "0123456789abcdef",
        "rollout_id": rollout().id,
        "rubric_id": NEXT.id,
        "step": 12,
        "cohort": "",
        "mode": "train",
        "scores": [{"criterion": "depth", "score": 4, "rationale": RATIONALE}],
        "reward": SLOPE + OFFSET,
        "normalized": 1.0,
        "unscored": None,
        "rule": None,
        "protocol": "single",
        "template_hash": "e7edf30d955c",
        "model": "m",
        "usage": USAGE,
        "flags": {"role_turn": 2},
    }


DECISIONS = [
    decision(SEED, kind="seed"),
    decision(
        NEXT,
        step=10,
        parent=SEED.id,
        due=10,
        figures={
            "probe_pairs": 32.0,
            "scale_slope": SLOPE,
            "scale_offset": OFFSET,
            "scale_anchors": 16.0,
            "scale_degenerate": 0.0,
            "scale_jump": 0.25,
        },
    ),
    decision(
        SEED,
        kind="rollback",
        step=14,
        parent=NEXT.id,
        figures={"canary_failed": 2.0, "canary_auc": 0.5},
    ),
]


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    path = tmp_path / "mpo.db"
    connection = sqlite3.connect(path)
    connection.executescript(TABLES)
    for rubric in (SEED, NEXT):
        connection.execute(
            "INSERT INTO rubrics (id, content) VALUES (?, ?)",
            (rubric.id, as_json(rubric.model_dump())),
        )
    for seq, one in enumerate(DECISIONS, start=1):
        connection.execute(
            "INSERT INTO decisions VALUES (?, 1, ?, '', ?, 1, ?, 1, 90, 0, 7, ?)",
            (seq, one["step"], one["kind"], one["proposed"], as_json(one)),
        )
    connection.execute(
        "INSERT INTO rollouts VALUES (1, ?, 12, ?)",
        (rollout().id, as_json(rollout().model_dump())),
    )
    connection.execute(
        "INSERT INTO judgements VALUES (1, ?, ?, 1.0, 1, 90, 0, 7, ?)",
        (judgement()["key"], judgement()["reward"], as_json(judgement())),
    )
    connection.execute(
        "INSERT INTO scorings VALUES (4, 1, 12, 'train', '', 0, 1, 2, 1, ?, 1.0, NULL)",
        (judgement()["reward"],),
    )
    connection.execute("INSERT INTO pins VALUES (5, 1, 12, 'g', '', ?)", (NEXT.id,))
    connection.commit()
    connection.close()
    return path


def test_a_file_of_schema_2_gives_the_same(old_file: Path) -> None:
    with Store(old_file) as store:
        (case,) = store.window(cohort=None)
        assert case.rollout == rollout()
        assert (case.judgement.reward, case.judgement.normalized_reward) == (SLOPE + OFFSET, 1.0)
        assert case.judgement.injection_flags == {"role_turn": 2}
        assert case.judgement.scores == (
            CriterionScore(criterion="depth", score=4, rationale=RATIONALE),
        )
        assert [d.proposed for d in store.lineage()] == [SEED.id, NEXT.id, SEED.id]
        assert [d.figures for d in store.lineage()] == [
            {},
            {"probe_pairs": 32.0, "scale_jump": 0.25},
            {"canary_auc": 0.5},
        ]
        assert [d.canary_failed for d in store.lineage()] == [False, False, True]
        assert store.head() == SEED
        assert store.scale_map(SEED.id) is None
        expected = ScaleMap(slope=SLOPE, offset=OFFSET, anchors=16, degenerate=False)
        assert store.scale_map(NEXT.id) == expected  # bit for bit
        assert (store.usage()["rm"].calls, store.usage()["mrm"].calls) == (4, 3)
        with store.reading() as view:
            assert view.attempts("0123456789abcdef") == [case.judgement]
        assert store.get("k") == {"text": 'a "flags": b', "flags": 1}  # no judgement
        assert store.meta("note") == '{"normalized":1,"flags":2}'
    assert rows(old_file, "PRAGMA user_version") == [(4,)]
    assert rows(old_file, "SELECT name FROM migrations")[-1] == ("m004_spending",)
    assert_sound(old_file)


def test_a_pinned_group_of_an_old_file_is_scored_with_its_map(old_file: Path) -> None:
    reply = as_json({"depth": {"rationale": "r", "score": 2}})
    with Store(old_file) as store:
        reward = EvolvingReward(
            "essay", ScriptedChat([reply]), store, rubric=SEED, scoring=Scoring(scale="anchored")
        )
        again = rollout().model_copy(update={"id": "another", "completion": "Another text."})
        (judgement,) = asyncio.run(reward.score([again]))
    assert judgement.rubric_id == NEXT.id
    assert judgement.reward == SLOPE * 0.5 + OFFSET


def test_a_second_opening_migrates_nothing(old_file: Path) -> None:
    Store(old_file).close()
    before = rows(old_file, "SELECT * FROM decisions"), rows(old_file, "SELECT * FROM judgements")
    Store(old_file).close()
    assert before == (
        rows(old_file, "SELECT * FROM decisions"),
        rows(old_file, "SELECT * FROM judgements"),
    )
