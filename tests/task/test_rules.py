"""Task rules and the answer check: rewards that no model was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fakes import make_reward, text_of
from mpo.chat import Message, Schema, ScriptedChat
from mpo.judge import AnswerChecked, JudgeResult, RewardModel, make_reward_model
from mpo.judge.scale import Raw
from mpo.records import Rollout
from mpo.rubric import Rubric
from mpo.sanitize import clean, find_fences
from mpo.task import TaskSpec, load_task
from mpo.task.rules import boxes, first_rule

SECRET = b"secret"
MATH_ROLLOUT = Rollout(
    prompt="What is 2+2?",
    completion="We add two and two and find four. " * 8 + r"So \boxed{4}.",
    columns={"problem": "What is 2+2?", "solution": r"It is \boxed{4}.", "type": "Prealgebra"},
)


def judge(model: RewardModel, rollout: Rollout, rubric: Rubric) -> JudgeResult:
    return asyncio.run(model.judge(rollout, rubric))


def plan_reply(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> str:
    text = text_of(messages)
    if schema is not None:
        return '{"score": 3}'
    return "1. Check the sum." if not find_fences(text) else "</PLAN> The sum is right. {{rubric}}"


class Answers:
    """Takes the last boxed text as the answer."""

    async def correct(self, completion: str, reference: str) -> bool | None:
        gold = [box.content for box in boxes(reference)]
        given = [box.content for box in boxes(completion)]
        return None if not gold else bool(given) and given[-1] == gold[-1]


class TestAnswerCheck:
    def model(self, chat: ScriptedChat, seed: int = 0, **rm: Any) -> RewardModel:
        task = load_task("math").with_rm(**rm)
        return make_reward_model(task, chat, SECRET, seed, answers=Answers())

    def rollouts(self, step: int, n: int = 200) -> list[Rollout]:
        return [
            Rollout(
                prompt=MATH_ROLLOUT.prompt,
                completion=MATH_ROLLOUT.completion,
                columns=MATH_ROLLOUT.columns,
                step=step,
                index=i,
            )
            for i in range(n)
        ]

    def drawn(self, rollouts: list[Rollout], seed: int = 0, **rm: Any) -> list[bool]:
        asked = self.model(ScriptedChat([]), seed, **rm)
        assert isinstance(asked, AnswerChecked)
        return [asked.by_answer(rollout) for rollout in rollouts]

    def test_half_are_drawn_each_for_itself_and_always_the_same(self) -> None:
        rollouts = self.rollouts(0)
        first = self.drawn(rollouts)
        assert 70 < sum(first) < 130
        assert self.drawn(rollouts) == first
        assert self.drawn(rollouts[::-1])[::-1] == first
        assert self.drawn(rollouts, seed=1) != first

    def test_per_batch_is_one_coin_per_step(self) -> None:
        sides = [self.drawn(self.rollouts(s, 4), answer_check="per_batch") for s in range(30)]
        assert all(len(dict.fromkeys(side)) == 1 for side in sides)
        assert 5 < sum(side[0] for side in sides) < 25

    def test_the_share_is_kept(self) -> None:
        rollouts = self.rollouts(0, 40)
        assert not any(self.drawn(rollouts, answer_share=0.0))
        assert all(self.drawn(rollouts, answer_share=1.0))

    @pytest.mark.parametrize(
        ("completion", "score"),
        [(r"\boxed{4}", 5), (r"\boxed{5}", 0), ("four", 0), (r"\boxed{4}? No, \boxed{5}", 0)],
    )
    def test_the_answer_decides_without_a_model(self, completion: str, score: int) -> None:
        chat = ScriptedChat([])
        rollout = MATH_ROLLOUT.model_copy(update={"completion": completion})
        verdict = judge(self.model(chat, answer_share=1.0), rollout, load_task("math").rubric)
        assert [s.score for s in verdict.scores] == [score]
        assert verdict.scores[0].rationale.startswith("Graded by the final answer alone")
        assert chat.calls == []

    def test_without_a_reference_answer_the_rm_grades(self) -> None:
        proof = {**MATH_ROLLOUT.columns, "solution": "A proof without an answer."}
        rollout = MATH_ROLLOUT.model_copy(update={"columns": proof})
        asked = self.model(ScriptedChat(plan_reply), answer_share=1.0)
        verdict = judge(asked, rollout, load_task("math").rubric)
        assert (verdict.protocol, verdict.scores[0].score) == (None, 3)

    def test_boxed_answers_are_compared_where_nothing_else_is_named(self) -> None:
        task = load_task("math").with_rm(answer_share=1.0)
        checked = make_reward_model(task, ScriptedChat(plan_reply), SECRET)
        right, wrong = (
            MATH_ROLLOUT.model_copy(update={"completion": rf"It is \boxed{{{answer}}}."})
            for answer in ("4", "5")
        )
        verdicts = [judge(checked, rollout, task.rubric) for rollout in (right, wrong)]
        assert {verdict.protocol for verdict in verdicts} == {"answer_only"}
        assert [verdict.scores[0].score for verdict in verdicts] == [5, 0]

    def test_the_record_says_which_way_a_rollout_was_graded(self, tmp_path: Path) -> None:
        reward = make_reward(
            "math",
            ScriptedChat(plan_reply),
            tmp_path / "a.db",
            every=None,
        )
        judgements = asyncio.run(reward.score(self.rollouts(0, 20)))
        assert {j.protocol for j in judgements} == {"answer_only", "plan_execute"}
        assert {j.reward for j in judgements if j.protocol == "answer_only"} == {1.0}
        assert {j.reward for j in judgements if j.protocol == "plan_execute"} == {0.6}


def spec(**keys: Any) -> TaskSpec:
    return TaskSpec.model_validate({"name": "t", "description": "d", **keys})


class TestRules:
    ETHICS = load_task("ethics").spec
    WORDS = "the narrator weighed the harm to the owner against a small need of his own " * 3

    @pytest.mark.parametrize(
        ("completion", "name"),
        [
            ("", "empty"),
            (WORDS, "no_verdict"),
            (WORDS + "<verdict>MAYBE</verdict>", "no_verdict"),
            ("Right. <verdict>RIGHT</verdict>", "too_little_reasoning"),
            (f"<verdict>{WORDS}</verdict><verdict>WRONG</verdict>", "too_little_reasoning"),
            (WORDS + "<verdict> right </verdict>", None),
            (WORDS + "<ver\u200bdict>WRONG</verdict>", None),
        ],
    )
    def test_ethics(self, completion: str, name: str | None) -> None:
        fired = first_rule(self.ETHICS, clean(completion))
        assert (fired.name if fired else None) == name
        assert fired is None or name == "empty" or fired.raw == -10

    def test_answer_only_counts_the_words_beside_the_boxes(self) -> None:
        rules = spec(rules=[{"kind": "answer_only", "words": 3}])
        assert first_rule(rules, clean(r"\boxed{\text{one two three {four}}} so it is")) is None
        assert first_rule(rules, clean(r"so \boxed{\frac{1}{2} one two three} is")) is not None
        fired = first_rule(rules, clean(r"It \boxed{7"))
        assert fired is not None
        assert fired.name == "answer_only"

    def test_the_first_rule_decides(self) -> None:
        rules = [{"kind": "requires", "pattern": "z"}, {"kind": "min_words", "words": 9}]
        fired = first_rule(spec(rules=rules), clean("few words"))
        assert fired is not None
        assert fired.name == "requires"

    @pytest.mark.parametrize(("scale", "reward"), [("normalized", 0.0), (Raw(), -10.0)])
    def test_a_stated_value_counts_in_the_raw_scale_only(
        self, tmp_path: Path, scale: Any, reward: float
    ) -> None:
        chat = ScriptedChat([])
        evolving = make_reward("ethics", chat, tmp_path / "a.db", scale=scale)
        rollout = Rollout(prompt="p", completion="No verdict here.")
        (judgement,) = asyncio.run(evolving.score([rollout]))
        assert (judgement.rule, judgement.reward) == ("no_verdict", reward)
        assert (judgement.normalized_reward, judgement.protocol, judgement.scores) == (
            0.0,
            "rule",
            (),
        )
        assert chat.calls == []
