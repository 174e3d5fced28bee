"""Laws 5 and 8: a run that is killed at any point, and started again, ends as if nothing had been.

Each test kills a real process with SIGKILL at one point of its run, looks at what it left behind,
starts the run again in a new process, and compares everything that the two processes made together
with a run that nothing stopped: rubrics, decisions and rewards to the bit, and the policy, which
has learned from them. See `kill_driver` for the run.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kill_driver
from killing import Driver
from mpo.records import Judgement, Usage
from mpo.store import Store
from store.store_doubles import assert_sound, rows

Point = tuple[str, str, int]
"""Plan, event, and the how-many-eth of these events."""

POINTS: list[Point] = [
    # While rollouts are judged: the first call of all, within a batch, the last call of a step,
    # the second batch of a step, an evaluation.
    ("blocking", "rm rollout", 1),
    ("blocking", "rm rollout", 6),
    ("blocking", "rm rollout", 21),
    ("background", "rm rollout", 13),
    ("guarded", "rm rollout", 60),
    # In each stage of a meta step.
    ("blocking", "mrm analysis", 1),
    ("blocking", "mrm analysis", 5),
    ("blocking", "mrm refine", 2),
    ("blocking", "mrm merge", 1),
    ("blocking", "mrm merge", 4),
    ("overlapping", "mrm prescreen", 3),
    ("guarded", "mrm merge", 2),
    # Its questions to the RM: probes of the gate, anchors of the scale, canaries after it.
    ("guarded", "rm other", 5),
    ("guarded", "rm other", 90),
    ("background", "rm other", 3),
    ("background", "rm other", 40),
    ("guarded", "audit other", 1),
    # While a meta step is under way in the background: rollouts of the steps after it are judged.
    ("background", "rm rollout", 33),
    ("background", "rm rollout", 45),
    ("background", "learned", 4),
    ("overlapping", "rm rollout", 42),
    ("overlapping", "learned", 7),
    # Between them: before and after the meta step's update, with and without a decision.
    ("blocking", "learned", 2),
    ("blocking", "stepped", 2),
    ("background", "stepped", 5),
    ("overlapping", "stepped", 5),
    # Within a transaction of the store, when some statements are done and others are not.
    ("blocking", "SQL BEGIN IMMEDIATE", 1),
    ("blocking", "SQL INSERT INTO decisions", 1),
    ("blocking", "SQL INSERT INTO judgements", 1),
    ("blocking", "SQL INSERT INTO judgements", 12),
    ("blocking", "SQL INSERT INTO scorings", 30),
    ("blocking", "SQL INSERT INTO pins", 9),
    ("blocking", "SQL INSERT INTO choices", 3),
    ("blocking", "SQL INSERT INTO rubrics", 5),
    ("blocking", "SQL INSERT INTO decisions", 3),
    ("blocking", "SQL UPDATE counter SET", 40),
    ("background", "SQL COMMIT", 90),
    ("background", "SQL INSERT INTO decisions", 2),
    ("background", "SQL INSERT INTO choices", 6),
    ("guarded", "SQL INSERT INTO replies", 30),
    ("guarded", "SQL INSERT INTO audits", 1),
    # While a checkpoint is written.
    ("blocking", "checkpoint: empty", 1),
    ("blocking", "checkpoint: no random state", 2),
    ("background", "checkpoint: half a state", 1),
    ("background", "checkpoint: half a state", 2),
    ("overlapping", "checkpoint: whole", 2),
    ("guarded", "checkpoint: whole", 3),
]


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    driver = Driver(Path(kill_driver.__file__))
    yield driver
    driver.close()


@pytest.fixture(scope="module")
def wholes(driver: Driver, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each plan that nothing stopped. Not to be changed."""
    folders = {}
    for plan in kill_driver.PLANS:
        folders[plan] = tmp_path_factory.mktemp(plan)
        assert train(driver, folders[plan], plan) == 0
    return folders


def train(driver: Driver, folder: Path, plan: str, *kill: Any, **options: Any) -> int:
    """Exit code of a new process that trains in the folder, or goes on there."""
    return driver.run(folder=str(folder), plan=plan, kill=kill, **options)


# ---------------------------------------------------------------------- what a run came to


def outcome(folder: Path, plan: str) -> dict[str, Any]:
    """All that a run decided, scored and learned."""
    last = folder / "checkpoints" / f"checkpoint-{kill_driver.STEPS}"
    with Store(folder / "mpo.db", create=False) as store:
        decisions = store.lineage()
        cases = [
            (case.rollout, _first_attempt(case.judgement))
            for mode in ("train", "eval", "canary")
            for case in store.window(cohort=None, mode=mode, scored=None)  # type: ignore[arg-type]
        ]
        if plan == "guarded":  # an answer that was kept costs nothing when it is used again
            free = {"usage": Usage(), "rm_usage": Usage()}
            decisions = [decision.model_copy(update=free) for decision in decisions]
            cases = [(r, j.model_copy(update={"usage": Usage()})) for r, j in cases]
        return {
            "decisions": decisions,
            "rubrics": [store.rubric(d.proposed) for d in decisions if d.accepted and d.proposed],
            "cases": cases,
            "choices": store.events(),
            "audits": {id: audit.value for id, audit in store.external_scores("audit").items()},
            "policy": (last / "policy.json").read_text(),
        }


def _first_attempt(judgement: Judgement) -> Judgement:
    """A run that starts again asks again for what stayed unscored, under a later key."""
    if judgement.reward is not None:
        return judgement
    return judgement.model_copy(update={"key": judgement.key.partition("~")[0]})


def asked(folder: Path) -> list[list[Any]]:
    """The questions to the models, in order, over all processes: role, stage, whether the answer
    was usable."""
    path = folder / "asked.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def usable(questions: list[list[Any]], plan: str) -> int:
    """How many were answered for good; only those about rollouts where answers are not kept."""
    return sum(
        answered and (plan == "guarded" or (role, stage) == ("rm", "rollout"))
        for role, stage, answered in questions
    )


def kept(folder: Path, plan: str) -> int:
    """How many of these answers a killed run had committed."""
    if not (folder / "mpo.db").exists():
        return 0
    if plan == "guarded":
        replies = rows(folder / "mpo.db", "SELECT json_extract(content, '$.text') FROM replies")
        return sum(text != kill_driver.UNUSABLE for (text,) in replies)
    query = "SELECT count(*) FROM judgements WHERE reward IS NOT NULL AND "
    return int(rows(folder / "mpo.db", query + "json_extract(content, '$.mode') <> 'canary'")[0][0])


def assert_same(folder: Path, whole: Path, plan: str) -> None:
    one, other = outcome(folder, plan), outcome(whole, plan)
    for name in other:
        assert one[name] == other[name], name
    assert_sound(folder / "mpo.db")


# ---------------------------------------------------------------------- the tests


def test_the_runs_are_worth_killing(driver: Driver, wholes: dict[str, Path]) -> None:
    assert driver.heavy == []  # no torch, no numpy
    assert len(POINTS) >= 30
    for plan, folder in wholes.items():
        made = outcome(folder, plan)
        assert len({d.proposed for d in made["decisions"] if d.accepted}) >= 2
        assert any(judgement.reward is None for _, judgement in made["cases"])
        assert len({judgement.rubric_id for _, judgement in made["cases"]}) >= 2
    reasons = [d.reason for d in outcome(wholes["overlapping"], "overlapping")["decisions"]]
    assert any("no longer" in reason for reason in reasons)
    assert outcome(wholes["guarded"], "guarded")["audits"]


@pytest.mark.parametrize(("plan", "event", "n"), POINTS)
def test_a_killed_run_ends_as_one_that_was_not(
    driver: Driver, wholes: dict[str, Path], tmp_path: Path, plan: str, event: str, n: int
) -> None:
    assert train(driver, tmp_path, plan, event, n) == -signal.SIGKILL
    assert_sound(tmp_path / "mpo.db")
    paid, before = kept(tmp_path, plan), len(asked(tmp_path))

    assert train(driver, tmp_path, plan) == 0

    assert_same(tmp_path, wholes[plan], plan)
    # Nothing that was answered and committed is asked for again.
    again = usable(asked(tmp_path)[before:], plan)
    assert again == usable(asked(wholes[plan]), plan) - paid


@pytest.mark.parametrize(
    ("plan", "kills"),
    [
        ("background", [("mrm refine", 3), ("checkpoint: half a state", 1), ("learned", 2)]),
        ("overlapping", [("rm rollout", 30), ("rm rollout", 20), ("SQL INSERT INTO decisions", 1)]),
        # While the run is being taken up again: before it goes back, within, and right after.
        (
            "blocking",
            [
                ("learned", 5),
                ("SQL INSERT INTO branches", 1),
                ("SQL COMMIT", 2),
                ("resumed", 1),
                ("rm rollout", 1),
            ],
        ),
    ],
)
def test_a_run_killed_again_and_again(
    driver: Driver, wholes: dict[str, Path], tmp_path: Path, plan: str, kills: list[tuple[str, int]]
) -> None:
    for event, n in kills:
        assert train(driver, tmp_path, plan, event, n) == -signal.SIGKILL
        assert_sound(tmp_path / "mpo.db")
    assert train(driver, tmp_path, plan) == 0
    assert_same(tmp_path, wholes[plan], plan)


@pytest.mark.parametrize("limit", [3_000, 30_000, 200_001, 402_345])
def test_a_run_that_ends_in_the_middle_of_a_write(
    driver: Driver, wholes: dict[str, Path], tmp_path: Path, limit: int
) -> None:
    """At that byte of a file: of the new database, or of a commit that is half in the log."""
    assert train(driver, tmp_path, "blocking", file_limit=limit) == -signal.SIGXFSZ
    assert train(driver, tmp_path, "blocking") == 0
    assert_same(tmp_path, wholes["blocking"], "blocking")
