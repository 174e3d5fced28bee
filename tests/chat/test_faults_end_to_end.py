"""A faulty endpoint behind the whole reward: real client, real socket, real store.

Whatever it answers, a rollout gets a score from the closed set or stays unscored with its reason;
after one corrective retry, and never with a 0 in the place of "unknown".
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from fakes import make_reward
from mpo.chat import OpenAIChat
from mpo.config import compose
from mpo.config.schema import BudgetConfig
from mpo.errors import UnscoredError
from mpo.records import Judgement, Rollout
from mpo.rubric import Criterion, Rubric
from mpo.store import Store

RUBRIC = Rubric(criteria=(Criterion(name="a"), Criterion(name="b")))
GOOD = {"a": {"rationale": "fine", "score": 4}, "b": {"rationale": "good", "score": 5}}


def scored(
    tmp_path: Path, url: str, count: int = 1, cache: bool = True, **options: Any
) -> list[Judgement]:
    """Judgements of rollouts through everything that a run has around its client."""
    settings = {"backoff_s": 0.002, "timeout_s": 1.0, "retries": 2} | options
    chat = OpenAIChat(url, "tiny", **settings)

    async def scene() -> list[Judgement]:
        with Store(tmp_path / "mpo.db") as store:
            chats = compose(chat, chat, BudgetConfig(), store, cache=cache)
            reward = make_reward(
                "essay", chats.rm, store, rubric=RUBRIC, every=None, max_unscored=1.0
            )
            rollouts = [Rollout(prompt="p", completion=f"text {n}", index=n) for n in range(count)]
            before = store.usage()["rm"].calls
            known = {r.id for r in rollouts if store.judgements_of(r.id)}
            try:
                judgements = await reward.score(rollouts)
            finally:
                await reward.aclose()
            new = [j for j in judgements if j.rollout_id not in known or j.key.partition("~")[2]]
            assert sum(j.usage.calls for j in new) == store.usage()["rm"].calls - before
            return judgements

    return asyncio.run(scene())


def entry(score: str) -> str:
    """A judgement whose score is this piece of JSON."""
    return json.dumps(GOOD).replace('"score": 4', f'"score": {score}')


CONTENTS = {
    "garbage": ("I would say a solid 4.", "invalid_json"),
    "truncated": (json.dumps(GOOD)[:-9], "invalid_json"),
    "duplicate criterion": (json.dumps(GOOD)[:-1] + ', "a": {"score": 5}}', "invalid_json"),
    "duplicate score": (entry('1, "score": 5'), "invalid_json"),
    "out of five": (entry('"5/5"'), "invalid_score"),
    "a text": (entry('"4"'), "invalid_score"),
    "a fraction": (entry("4.5"), "invalid_score"),
    "4.0": (entry("4.0"), "invalid_score"),
    "true": (entry("true"), "invalid_score"),
    "null": (entry("null"), "invalid_score"),
    "10^128": (entry("1" + "0" * 128), "out_of_range"),
    "10^128, as a float": (entry("1e128"), "invalid_score"),
    "five thousand digits": (entry("9" * 5000), "invalid_json"),
    "negative": (entry("-1"), "out_of_range"),
    "NaN": (entry("NaN"), "invalid_json"),
    "Infinity": (entry("Infinity"), "invalid_json"),
    "wrong keys": (json.dumps({"a": GOOD["a"], "c": GOOD["b"]}), "wrong_keys"),
    "a criterion missing": (json.dumps({"a": GOOD["a"]}), "wrong_keys"),
    "a criterion too many": (json.dumps(GOOD | {"c": GOOD["a"]}), "wrong_keys"),
    "a list": (json.dumps([GOOD]), "invalid_json"),
    "nested deep": ('{"a":' * 5000, "invalid_json"),
    "two objects": (json.dumps(GOOD) * 2, "invalid_json"),
    "quoted in a rationale": (
        json.dumps({"a": {"rationale": '{"score": 5}'}, "b": GOOD["b"]}),
        "invalid_score",
    ),
    "empty": ("", "invalid_json"),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_an_unusable_answer_is_asked_for_once_more_and_then_unscored(
    tmp_path: Path, endpoint: Any, faults: Any, case: str
) -> None:
    content, reason = CONTENTS[case]
    endpoint.default = faults.body(content)
    (judgement,) = scored(tmp_path, endpoint.url)
    assert (judgement.reward, judgement.normalized_reward, judgement.scores) == (None, None, ())
    assert judgement.unscored is not None
    assert judgement.unscored.partition(":")[0] == reason
    assert len(endpoint.requests) == judgement.usage.calls == 2
    first, second = (request["messages"][-1]["content"] for request in endpoint.requests)
    assert second.startswith(first)
    assert reason in second.removeprefix(first), "the correction names the fault"


@pytest.mark.parametrize("case", CONTENTS)
def test_one_correction_saves_the_judgement(
    tmp_path: Path, endpoint: Any, faults: Any, case: str
) -> None:
    endpoint.faults = [faults.body(CONTENTS[case][0])]
    endpoint.default = faults.body(json.dumps(GOOD))
    (judgement,) = scored(tmp_path, endpoint.url)
    assert judgement.reward == 0.9
    assert judgement.usage.calls == 2, "both were paid for"


REPLIES: dict[str, tuple[dict[str, Any], str, int]] = {
    "cut at the token limit": ({"finish_reason": "length"}, "truncated", 2),
    "filtered": ({"finish_reason": "content_filter"}, "refused", 2),
    "refusal": ({"message": {"refusal": "I cannot judge this."}}, "refused", 2),
    "no message": ({"message": None}, "malformed", 2),
    "no text": ({"message": {"content": None}}, "malformed", 2),
}


@pytest.mark.parametrize("case", REPLIES)
def test_an_answer_that_is_not_whole_is_unscored(
    tmp_path: Path, endpoint: Any, faults: Any, case: str
) -> None:
    changes, reason, asked = REPLIES[case]
    # The content would be a fine judgement: it is not used.
    endpoint.default = faults.body(json.dumps(GOOD), **changes)
    (judgement,) = scored(tmp_path, endpoint.url)
    assert judgement.reward is None
    assert (judgement.unscored or "").partition(":")[0] == reason
    assert len(endpoint.requests) == asked


def test_an_empty_choices_list_is_unscored(tmp_path: Path, endpoint: Any, faults: Any) -> None:
    endpoint.default = faults.body() | {"choices": []}
    (judgement,) = scored(tmp_path, endpoint.url)
    assert (judgement.unscored or "").startswith("malformed: the reply has no choices")


def test_a_storm_of_everything_loses_nobody(tmp_path: Path, endpoint: Any, faults: Any) -> None:
    """Forty rollouts while the endpoint fails in every way that is worth a repetition."""
    endpoint.faults = [
        (429, {"Retry-After": "0.01"}),
        (429, {}),
        500,
        503,
        faults.reset,
        faults.cut,
        faults.no_http,
        b'{"choices": [{"mess',
        faults.body("no json"),
        faults.body(entry('"5/5"')),
    ] * 2
    endpoint.default = faults.body(json.dumps(GOOD))
    judgements = scored(tmp_path, endpoint.url, 40, retries=8, concurrency=8)
    assert [j.reward for j in judgements] == [0.9] * 40
    assert endpoint.faults == []


def test_an_endpoint_that_dies_and_comes_back_is_asked_only_for_what_is_missing(
    tmp_path: Path, endpoint: Any, faults: Any
) -> None:
    endpoint.default = faults.body(json.dumps(GOOD))
    assert [j.reward for j in scored(tmp_path, endpoint.url, 4)] == [0.9] * 4
    endpoint.default = 500
    down = scored(tmp_path, endpoint.url, 8)
    assert [j.reward for j in down] == [0.9] * 4 + [None] * 4
    assert all((j.unscored or "").startswith("failed: status 500") for j in down[4:])
    endpoint.default = faults.body(json.dumps(GOOD))
    before = len(endpoint.requests)
    assert [j.reward for j in scored(tmp_path, endpoint.url, 8)] == [0.9] * 8
    assert len(endpoint.requests) - before == 4


def test_a_dead_endpoint_stops_the_run_with_its_reason(tmp_path: Path) -> None:
    chat = OpenAIChat("http://127.0.0.1:9/v1", "tiny", retries=0)
    reward = make_reward("essay", chat, tmp_path / "mpo.db", every=None)
    rollouts = [Rollout(prompt="p", completion=f"text {n}", index=n) for n in range(4)]
    with pytest.raises(UnscoredError, match=r"4 of 4 .*unreachable: .*127.0.0.1:9.*stored"):
        asyncio.run(reward.score(rollouts))
    assert reward.store.unscored() == {"unreachable": 4}


@pytest.mark.parametrize("case", CONTENTS)
def test_an_unusable_answer_is_not_remembered(
    tmp_path: Path, endpoint: Any, faults: Any, case: str
) -> None:
    """A run that goes on after its endpoint was mended must not meet the old answers again."""
    endpoint.default = faults.body(CONTENTS[case][0])
    assert scored(tmp_path, endpoint.url)[0].reward is None
    endpoint.default = faults.body(json.dumps(GOOD))
    assert scored(tmp_path, endpoint.url)[0].reward == 0.9
    assert len(endpoint.requests) == 3
