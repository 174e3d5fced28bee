"""Cases, rubrics and child processes for the tests of the store."""

import os
import sqlite3
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpo.records import Case, CriterionScore, Decision, Judgement, Rollout, Usage, content_hash
from mpo.rubric import Rubric, parse_rubric
from mpo.store import Store

COST = Usage(calls=1, prompt_tokens=100, cached_tokens=10, completion_tokens=7)


def make_rubric(title: str = "Seed") -> Rubric:
    return parse_rubric(f"# {title}\n## Flow  (weight 1)\nIdeas follow.\n- 0: no\n- 5: yes\n")


SEED = make_rubric()


def make_case(
    step: int = 1,
    index: int = 0,
    *,
    rubric: Rubric = SEED,
    reward: float | None = 0.5,
    attempt: int = 0,
    cohort: str = "",
    mode: Any = "train",
    usage: Usage = COST,
) -> Case:
    rollout = Rollout(
        prompt="Write.",
        completion=f"text {step} {index}",
        columns={"topic": "rivers"},
        step=step,
        index=index,
        cohort=cohort,
        mode=mode,
    )
    judgement = Judgement(
        key=content_hash([rollout.id, rubric.id]) + (f"~{attempt}" if attempt else ""),
        rollout_id=rollout.id,
        rubric_id=rubric.id,
        step=step,
        cohort=cohort,
        mode=mode,
        scores=() if reward is None else (CriterionScore(criterion="flow", score=3),),
        reward=reward,
        normalized_reward=reward,
        unscored="truncated: no answer" if reward is None else None,
        usage=usage,
    )
    return Case(rollout=rollout, judgement=judgement)


def batch(step: int, n: int = 8, **options: Any) -> list[Case]:
    return [make_case(step, index, **options) for index in range(n)]


def seed_decision(rubric: Rubric = SEED, cohort: str = "") -> Decision:
    return Decision(
        kind="seed", cohort=cohort, proposed=rubric.id, accepted=True, reason="the seed"
    )


def evolve(store: Store, title: str, step: int = 10, **options: Any) -> Rubric:
    """Put a new rubric in force."""
    rubric, head = make_rubric(title), store.head(options.get("cohort", ""))
    assert head is not None
    decision = Decision(
        step=step, parent=head.id, proposed=rubric.id, accepted=True, reason="better", **options
    )
    store.decide(decision, rubric)
    return rubric


def fork(work: Callable[[], None]) -> int:
    """Run `work` in a child process; its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)
    return pid


def join(pid: int) -> int:
    """Exit code of a child, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def rows(path: Path, query: str) -> list[Any]:
    """What is in the file, asked past the Store."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def assert_sound(path: Path) -> None:
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert rows(path, "SELECT key FROM judgements GROUP BY key HAVING count(*) > 1") == []
    doubled = "SELECT 1 FROM scorings GROUP BY branch, judgement HAVING count(*) > 1"
    assert rows(path, doubled) == []


def steps(store: Store) -> list[int]:
    assert [s.step for s in store.steps()] == sorted({c.rollout.step for c in store.window()})
    return [summary.step for summary in store.steps()]
