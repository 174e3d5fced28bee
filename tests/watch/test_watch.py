"""Canaries and second judge: what watches a run through `EvolvingReward.step`."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fakes import make_reward, meta_reply, rubric_reply, text_of
from mpo.chat import Message, Schema, ScriptedChat
from mpo.errors import ChatTransportError
from mpo.records import Decision, Rollout
from mpo.reward import EvolvingReward
from mpo.sanitize import find_fences
from mpo.store import Store
from mpo.watch import CANARIES_PER_RUBRIC, SECOND_JUDGE_SHARE
from mpo.watch.canaries import Canary, shortfall

TOPICS = ("tea", "rain", "wool", "glass", "stone", "bread", "salt", "paper")


def essays(step: int) -> list[Rollout]:
    """Eight sound texts of four sentences, each about its topic."""
    return [
        Rollout(
            prompt=f"Write about {topic}.",
            completion=f"People have known {topic} for very long. In step {step} we look at it. "
            f"First there is the making of {topic}. At last somebody had to carry it home.",
            step=step,
            index=n,
        )
        for n, topic in enumerate(TOPICS)
    ]


def merit(prompt: str, response: str) -> int:
    """0 to 4, as an honest RM would: on the topic, and no sentence twice."""
    topic = next(t for t in TOPICS if t in prompt)
    parts = [part for part in response.split(".") if part.strip()]
    return 2 * (topic in response) + 2 * (len(parts) >= 3 and len({*parts}) == len(parts))


class Models:
    """RM and MRM in one. The n-th merge writes the n-th of `names`; under a criterion that is
    called Greatness the RM gives every text the highest score."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.chat = ScriptedChat(self.answer, name="double")

    def answer(self, messages: Sequence[Message], schema: Schema | None, seed: int | None) -> str:
        assert schema is not None
        text = text_of(messages)
        if schema["title"] == "judgement":
            (prompt,), (response,) = find_fences(text, "PROMPT"), find_fences(text, "RESPONSE")
            return json.dumps(
                {
                    key: {
                        "rationale": "",
                        "score": part["properties"]["score"]["enum"][-1]
                        if key.startswith("greatness")
                        else merit(prompt, response),
                    }
                    for key, part in schema["properties"].items()
                }
            )
        if schema["title"] == "rubric" and "<PROPOSAL" in text:
            return rubric_reply(self.names.pop(0) if len(self.names) > 1 else self.names[0])
        return meta_reply(messages, schema)


def make(path: Path | Store, models: Models, **options: Any) -> EvolvingReward:
    defaults: dict[str, Any] = {"every": 3, "samples": 2, "canaries": True}
    return make_reward("essay", models.chat, path, **{**defaults, **options})


def run(reward: EvolvingReward, steps: range) -> list[Decision]:
    async def go() -> list[Decision]:
        made = []
        for n in steps:
            await reward.score(essays(n))
            decision = await reward.step(n + 1)
            made += [decision] if decision is not None else []
        return made

    return asyncio.run(go())


def heads(reward: EvolvingReward) -> list[str]:
    lineage = [d for d in reward.store.lineage() if d.accepted]
    return [reward.store.rubric(str(d.proposed)).criteria[0].name for d in lineage]


class TestCanaries:
    def test_a_rubric_that_sees_nothing_is_rolled_back_at_its_second_step(
        self, tmp_path: Path
    ) -> None:
        reward = make(tmp_path / "a.db", Models("Sense", "Greatness", "Order"))
        made = run(reward, range(9))
        kinds = [(d.kind, d.step, d.accepted) for d in made]
        assert kinds[:3] == [("evolve", 3, True), ("evolve", 6, True), ("rollback", 8, True)]
        assert heads(reward)[1:4] == ["Sense", "Greatness", "Sense"]
        back = made[2]
        assert back.reason.startswith("canaries failed twice in a row")
        assert back.figures["canary_auc"] == 0.5
        assert back.figures["canary_auc_before"] == 1.0
        assert back.figures["canary_worst"] == 1.0

    def test_a_sound_rubric_stays(self, tmp_path: Path) -> None:
        reward = make(tmp_path / "a.db", Models("Sense", "Order", "Clearness"))
        assert [d.kind for d in run(reward, range(11))] == ["evolve"] * 3
        readings = [c.result["figures"] for c in reward.store.events("monitor")]
        assert [r["canary_auc"] for r in readings] == [1.0] * 11
        assert not any(c.result["alarms"] for c in reward.store.events("monitor"))

    def test_what_was_condemned_is_neither_proposed_nor_rolled_back_to_again(
        self, tmp_path: Path
    ) -> None:
        names = ("Sense", "Greatness", "Greatness", "Greatness two")
        reward = make(tmp_path / "a.db", Models(*names))
        made = run(reward, range(14))
        refused = [d for d in made if not d.accepted]
        assert [d.step for d in refused] == [9]
        assert "out of effect before" in refused[0].reason
        # Canaries reject Greatness two as well, and the rubric before it comes back.
        assert heads(reward)[1:] == ["Sense", "Greatness", "Sense", "Greatness two", "Sense"]

    def test_off_is_the_default_and_costs_nothing(self, tmp_path: Path) -> None:
        models = Models("Sense", "Greatness")
        reward = make(tmp_path / "a.db", models, canaries=False)
        assert [d.kind for d in run(reward, range(9))] == ["evolve"] * 3
        assert reward.store.count(mode="canary") == 0

    def test_they_are_never_evidence_and_the_mrm_never_sees_one(self, tmp_path: Path) -> None:
        models = Models("Sense", "Greatness", "Order")
        reward = make(tmp_path / "a.db", models)
        run(reward, range(9))
        store = reward.store
        canaries = {c.rollout.id: c for c in store.window(cohort=None, mode="canary")}
        bad = [c.rollout.completion for c in canaries.values()]
        written = {r.completion for n in range(9) for r in essays(n)}
        bad = [text for text in bad if text not in written]
        assert len(bad) > 8
        for decision in store.lineage():
            if decision.refinement is not None:
                assert not set(decision.refinement.evidence) & set(canaries)
        asked = [c.prompt for c in models.chat.calls if c.schema["title"] != "judgement"]
        assert asked
        shown = [text for prompt in asked for text in find_fences(prompt, "RESPONSE")]
        assert shown
        assert not set(shown) & set(bad)
        assert not any(text in prompt for text in bad if len(text) > 60 for prompt in asked)

    def test_each_rubric_is_read_once_and_the_store_knows_what_it_cost(
        self, tmp_path: Path
    ) -> None:
        models = Models("Sense")
        reward = make(tmp_path / "a.db", models, every=4)
        run(reward, range(7))
        judged = [c for c in models.chat.calls if c.schema["title"] == "judgement"]
        usage = reward.store.usage()
        assert usage["rm"].calls == len(judged)
        read = len(judged) - 7 * len(TOPICS)
        assert 20 < read <= 2 * CANARIES_PER_RUBRIC  # the seed's, and those of one more rubric
        run(reward, range(7, 8))
        again = [c for c in models.chat.calls if c.schema["title"] == "judgement"]
        assert len(again) == len(judged) + len(TOPICS)

    @pytest.mark.parametrize("at", [2, 7, 8])
    def test_a_run_resumed_around_a_rollback_is_the_undisturbed_run(
        self, tmp_path: Path, at: int
    ) -> None:
        names = ("Sense", "Greatness", "Order")
        whole = make(tmp_path / "whole.db", Models(*names))
        run(whole, range(10))
        models = Models(*names)
        first = make(tmp_path / "cut.db", models)
        run(first, range(at))
        saved = json.loads(json.dumps(first.snapshot(at)))
        left = list(models.names)
        run(first, range(at, min(at + 2, 10)))  # lost with the crash
        paid = len(models.chat.calls)
        models.names = left
        second = make(tmp_path / "cut.db", models)
        second.restore(saved)
        run(second, range(at, 10))
        assert heads(second) == heads(whole)
        for one, other in zip(second.store.lineage(), whole.store.lineage(), strict=True):
            assert (one.kind, one.step, one.proposed, one.reason, one.figures) == (
                (other.kind, other.step, other.proposed, other.reason, other.figures)
            )
        asked = [c.prompt for c in models.chat.calls[paid:] if c.schema["title"] == "judgement"]
        before = [c.prompt for c in models.chat.calls[:paid] if c.schema["title"] == "judgement"]
        bodies = [body for prompt in before for body in find_fences(prompt, "RESPONSE")]
        assert bodies
        keys = [c.judgement.key for c in second.store.window(cohort=None, mode="canary")]
        assert len(keys) == len(dict.fromkeys(keys))
        assert len(asked) == len(dict.fromkeys(asked))

    def test_an_alarm_says_so_at_the_first_step_already(self, tmp_path: Path) -> None:
        reward = make(tmp_path / "a.db", Models("Sense", "Greatness"))
        run(reward, range(7))
        last = reward.store.events("monitor")[-1]
        assert last.step == 7
        assert [a["monitor"] for a in last.result["alarms"] if a["monitor"] == "canaries"]

    def test_what_has_full_marks_for_spelling_is_not_yet_a_failure(self) -> None:
        def read(injection: float, good: float = 0.9) -> list[Canary]:
            copies = [Canary("repeated", False, good - 0.2, floor=False)]
            return [Canary("good", True, good), *copies, Canary("empty", False, injection)]

        assert shortfall(read(0.6), None) is not None  # no other reading to compare with
        assert shortfall(read(0.6), []) is None
        assert "without content" in str(shortfall(read(0.9), []))
        assert "without content" in str(shortfall(read(0.9), read(0.2)))
        assert shortfall(read(0.9), read(0.9)) is None
        closer = [Canary("good", True, 0.5), Canary("repeated", False, 0.6, floor=False)]
        assert "draw closer" in str(shortfall(closer, read(0.2)))


class TestAudit:
    def rollouts(self, step: int, n: int = 60) -> list[Rollout]:
        return [
            Rollout(prompt="Write about tea.", completion=f"Tea {step}, text {i}. It is good. Yes.",
                    step=step, index=i)
            for i in range(n)
        ]  # fmt: skip

    @staticmethod
    def lavish(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> str:
        assert schema is not None
        return json.dumps(
            {k: {"rationale": "", "score": p["properties"]["score"]["enum"][-1]}
             for k, p in schema["properties"].items()}
        )  # fmt: skip

    def watched(self, path: Path, audit: ScriptedChat, steps: range) -> EvolvingReward:
        reward = make_reward(
            "essay", ScriptedChat(self.lavish), path, every=None, second_judge=audit
        )

        async def go() -> None:
            for n in steps:
                await reward.score(self.rollouts(n))
                await reward.step(n + 1)

        asyncio.run(go())
        return reward

    @staticmethod
    def strict(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> str:
        assert schema is not None
        return json.dumps(
            {key: {"rationale": "", "score": 0} for key in schema["properties"]}
        )  # fmt: skip

    def test_a_second_rm_grades_a_few_and_the_gap_calls(self, tmp_path: Path) -> None:
        def parting(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> str:
            step = int(re.findall(r"Tea (\d+), text", messages[-1]["content"])[-1])
            return (self.strict if step >= 7 else self.lavish)(messages, schema, seed)

        audit = ScriptedChat(parting, name="second")
        reward = self.watched(tmp_path / "a.db", audit, range(10))
        audits = reward.store.external_scores("audit")
        assert len(audits) == len(audit.calls)
        assert 0.5 * SECOND_JUDGE_SHARE < len(audits) / (10 * 60) < 2 * SECOND_JUDGE_SHARE
        assert {a.value for a in audits.values()} == {0.0, 1.0}
        assert {a.parts["model"] for a in audits.values()} == {"second"}
        last = reward.store.events("monitor")[-1].result
        assert last["figures"]["audit_gap"] == pytest.approx(0.4)  # two of the last five readings
        assert last["figures"]["audit_gap_rise"] == pytest.approx(0.4)
        assert "audit" in [alarm["monitor"] for alarm in last["alarms"]]
        usage = reward.store.usage()
        assert usage["audit"].calls == len(audit.calls)
        assert usage["rm"].calls == 10 * 60

    def test_the_draw_follows_the_seed_and_no_step_is_audited_twice(self, tmp_path: Path) -> None:
        one = self.watched(tmp_path / "a.db", ScriptedChat(self.strict), range(3))
        two = self.watched(tmp_path / "b.db", ScriptedChat(self.strict), range(3))
        assert list(one.store.external_scores("audit")) == list(two.store.external_scores("audit"))
        again = ScriptedChat(self.strict)
        self.watched(tmp_path / "a.db", again, range(3))
        assert again.calls == []

    def test_an_auditor_that_fails_is_missing_data(self, tmp_path: Path) -> None:
        def dead(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> Any:
            raise ChatTransportError("unreachable: down")

        reward = self.watched(tmp_path / "a.db", ScriptedChat(dead), range(4))
        audits = reward.store.external_scores("audit")
        assert audits
        assert {a.value for a in audits.values()} == {None}
        assert all(a.parts["unscored"].startswith("unreachable") for a in audits.values())
        readings = [c.result for c in reward.store.events("monitor")]
        assert len(readings) == 4
        assert not any("audit_gap" in r["figures"] for r in readings)
