"""EvolvingReward and those laws of docs/design.md that are its own (1 to 6, 8, 10, 11)."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fakes import batch, judge_reply, loop_answer, loop_chat, make_reward, meta_reply, rubric_reply
from mpo.chat import Completion, Message, Schema, ScriptedChat
from mpo.errors import ChatReplyError, ChatTransportError, ConfigError, UnscoredError
from mpo.evolve.gate import GateResult
from mpo.evolve.schedule import Stratified
from mpo.judge.scale import Raw
from mpo.records import Case, Decision, Judgement, Refinement, Rollout, Usage
from mpo.reward import EvolvingReward
from mpo.rubric import Criterion, Rubric
from mpo.store import Store

SRC = Path(__file__).parents[1] / "src"


def make(path: Path, chat: Any = None, **options: Any) -> EvolvingReward:
    defaults: dict[str, Any] = {"every": 2, "samples": 4}
    return make_reward("essay", chat or loop_chat(), path, **{**defaults, **options})


def score(reward: EvolvingReward, rollouts: Sequence[Rollout]) -> list[Judgement]:
    return asyncio.run(reward.score(rollouts))


def step(reward: EvolvingReward, n: int) -> Decision | None:
    return asyncio.run(reward.step(n))


def run(reward: EvolvingReward, steps: range) -> list[list[float | None]]:
    """Train without a trainer: score each step's rollouts, then hold the meta step."""
    rewards = []
    for n in steps:
        rewards.append([j.reward for j in score(reward, batch(n))])
        step(reward, n + 1)
    return rewards


class TestScore:
    def test_judgements_come_in_the_order_of_the_rollouts(self, tmp_path: Path) -> None:
        reward = make(tmp_path / "a.db")
        rollouts = batch(0)
        judgements = score(reward, rollouts[::-1])
        assert [j.rollout_id for j in judgements] == [r.id for r in rollouts[::-1]]
        assert {j.reward for j in judgements} > {0.0} or len({j.reward for j in judgements}) > 1
        assert all(j.rubric_id == reward.rubric().id for j in judgements)

    def test_what_was_paid_for_is_not_asked_again(self, tmp_path: Path) -> None:
        chat = loop_chat()
        reward = make(tmp_path / "a.db", chat)
        first = score(reward, batch(0))
        assert score(reward, batch(0)) == first
        assert len(chat.calls) == 8

    def test_the_same_rollout_twice_in_one_call_is_one_question(self, tmp_path: Path) -> None:
        chat = loop_chat()
        one = batch(0)[0]
        first, second = score(make(tmp_path / "a.db", chat), [one, one])
        assert first == second
        assert len(chat.calls) == 1

    def test_a_rule_decides_before_the_rm_is_asked(self, tmp_path: Path) -> None:
        chat = loop_chat()
        (judgement,) = score(make(tmp_path / "a.db", chat), [Rollout(prompt="p", completion="  ")])
        assert (judgement.rule, judgement.reward, chat.calls) == ("empty", 0.0, [])

    def test_raw_is_the_papers_sum(self, tmp_path: Path) -> None:
        rubric = Rubric(
            criteria=(
                Criterion(name="a", scores=(-2, 0, 2)),
                Criterion(name="b", scores=(0, 10), weight=0.5),
            )
        )
        answer = {"a": {"rationale": "", "score": -2}, "b": {"rationale": "", "score": 10}}
        chat = ScriptedChat([json.dumps(answer)])
        reward = make(tmp_path / "a.db", chat, rubric=rubric, scale=Raw())
        (judgement,) = score(reward, [Rollout(prompt="p", completion="some words")])
        assert judgement.reward == -2 + 0.5 * 10
        assert judgement.normalized_reward == pytest.approx((-2 + 5 + 2) / (4 + 5))

    @pytest.mark.parametrize(
        ("reply", "reason"),
        [
            ("no json", "invalid_json"),
            ('{"discourse": {"rationale": "", "score": 6}}', "out_of_range"),
            ('{"discourse": {"rationale": "", "score": "5/5"}}', "invalid_score"),
            ('{"discourse": {"rationale": "", "score": true}}', "invalid_score"),
            ('{"discourse": {"rationale": "", "score": NaN}}', "invalid_json"),
            ('{"discourse": {"rationale": "", "score": 1e128}}', "invalid_score"),
            ('{"discourse": {"score": 1}, "discourse": {"score": 5}}', "invalid_json"),
            ('{"other": {"rationale": "", "score": 5}}', "wrong_keys"),
            ("[]", "invalid_json"),
            (Completion('{"discourse": {"rationale": "", "sc', Usage(), "length"), "truncated"),
            (ChatTransportError("unreachable: down"), "unreachable"),
            (ChatReplyError("refused: no"), "refused"),
        ],
    )
    def test_a_failure_is_unscored_with_its_reason(
        self, tmp_path: Path, reply: Any, reason: str
    ) -> None:
        chat = ScriptedChat([reply, reply])
        (judgement,) = score(make(tmp_path / "a.db", chat), [Rollout(prompt="p", completion="w")])
        assert judgement.reward is None
        assert judgement.unscored is not None
        assert judgement.unscored.startswith(reason)
        # A reply that cannot be used is asked for once more; a dead endpoint is not.
        assert len(chat.calls) == (1 if isinstance(reply, ChatTransportError) else 2)

    def test_one_corrective_retry_saves_the_judgement(self, tmp_path: Path) -> None:
        good = '{"discourse": {"rationale": "fine", "score": 4}}'
        chat = ScriptedChat(["<score>5</score>", good])
        (judgement,) = score(make(tmp_path / "a.db", chat), [Rollout(prompt="p", completion="w")])
        assert judgement.reward == 0.8
        assert judgement.usage == chat.usage  # both calls are paid for
        assert "<score>" not in chat.calls[1].prompt

    def test_too_many_unscored_stop_the_run_and_lose_nothing(self, tmp_path: Path) -> None:
        def answer(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> Any:
            prompt = "".join(m["content"] for m in messages)
            assert schema is not None
            if "essay 0 about 0" in prompt:
                return judge_reply(messages, schema)
            return ChatTransportError("unreachable: down")

        reward = make(tmp_path / "a.db", ScriptedChat(answer))
        with pytest.raises(UnscoredError, match="7 of 8.*max_unscored=0.2.*unreachable"):
            score(reward, batch(0))
        assert reward.store.count(scored=True) == 1
        # The endpoint is back: what was scored is not asked again, what was not is.
        chat = loop_chat("scripted")
        again = make(tmp_path / "a.db", chat)
        assert all(j.reward is not None for j in score(again, batch(0)))
        assert len(chat.calls) == 7

    def test_an_error_that_is_no_chat_error_surfaces_as_itself(self, tmp_path: Path) -> None:
        chat = ScriptedChat(['{"discourse": {"rationale": "", "score": 1}}'])
        reward = make(tmp_path / "a.db", chat)
        with pytest.raises(ConfigError, match="has 1 replies"):
            score(reward, batch(0))
        assert reward.store.count() == 1  # what came in before is kept

    def test_everything_before_the_response_is_the_same_for_a_group(self, tmp_path: Path) -> None:
        chat = loop_chat()
        score(make(tmp_path / "a.db", chat), batch(0, prompts=1, group=4))
        heads = {call.prompt.partition("<RESPONSE")[0] for call in chat.calls}
        assert len(heads) == 1
        assert len(heads.pop()) > 1000


class TestStep:
    def test_the_schedule_decides_when(self, tmp_path: Path) -> None:
        reward = make(tmp_path / "a.db", every=3)
        score(reward, batch(0))
        assert [step(reward, n) is not None for n in range(7)] == [
            False, False, False, True, False, False, True,
        ]  # fmt: skip
        assert step(make(tmp_path / "b.db", every=None), 10) is None

    def test_an_accepted_proposal_is_the_head_from_then_on(self, tmp_path: Path) -> None:
        reward = make(tmp_path / "a.db")
        seed = reward.rubric()
        score(reward, batch(0))
        decision = step(reward, 2)
        assert decision is not None
        assert decision.accepted
        assert (decision.parent, decision.proposed) == (seed.id, reward.rubric().id)
        assert reward.rubric() != seed
        assert reward.rubric().title == seed.title
        assert {j.rubric_id for j in score(reward, batch(2))} == {reward.rubric().id}

    def test_a_step_is_decided_once(self, tmp_path: Path) -> None:
        chat = loop_chat()
        reward = make(tmp_path / "a.db", chat)
        score(reward, batch(0))
        first = step(reward, 2)
        asked = len(chat.calls)
        assert step(reward, 2) == first
        assert len(chat.calls) == asked

    def test_the_mrm_sees_scores_rationales_peers_and_the_beginning(self, tmp_path: Path) -> None:
        chat = loop_chat()
        reward = make(tmp_path / "a.db", chat, every=4, context_cases=2, baseline_cases=3)
        for n in range(4):
            score(reward, batch(n))
        step(reward, 4)
        analyses = [c.prompt for c in chat.calls if c.schema and c.schema["title"] == "analysis"]
        assert len(analyses) == 4
        for prompt in analyses:
            assert prompt.count("<RESPONSE") == 1 + 2 + 3
            assert "because of discourse" in prompt
            early = prompt.partition("Texts from the beginning")[2]
            assert early.count("Step 0.") == 3

    def test_evidence_is_what_came_since_the_last_meta_step(self, tmp_path: Path) -> None:
        reward = make(tmp_path / "a.db", samples=100)
        run(reward, range(4))
        last = reward.store.lineage()[-1]
        assert last.refinement is not None
        steps = {reward.store.rollout(id).step for id in last.refinement.evidence}
        assert steps == {2, 3}

    def test_a_gate_may_refuse(self, tmp_path: Path) -> None:
        class Refuse:
            async def check(
                self, parent: Rubric, refinement: Refinement, evidence: Sequence[Case]
            ) -> GateResult:
                return GateResult(False, "no", {"margin": -0.5})

        reward = make(tmp_path / "a.db", gate=Refuse())
        seed = reward.rubric()
        score(reward, batch(0))
        decision = step(reward, 2)
        assert decision is not None
        assert (decision.accepted, decision.reason) == (False, "no")
        assert decision.figures["margin"] == -0.5
        assert reward.rubric() == seed
        assert decision.proposed in reward.store.rubrics()  # rejected proposals are kept

    def test_cohorts_have_rubrics_of_their_own(self, tmp_path: Path) -> None:
        reward = make(tmp_path / "a.db")
        algebra = [r.model_copy(update={"cohort": "algebra", "id": f"al{r.id}"}) for r in batch(0)]
        idle = [r.model_copy(update={"cohort": "idle", "id": f"id{r.id}"}) for r in batch(0)]
        score(reward, algebra)
        reward.rubric("idle")
        step(reward, 2)
        assert reward.rubric("algebra") != reward.rubric("idle") == reward.task.rubric
        assert score(reward, idle)[0].rubric_id == reward.task.rubric.id


class TestLaws:
    def test_1_score_never_moves_the_head(self, tmp_path: Path) -> None:
        reward = make(tmp_path / "a.db", every=1)
        before = reward.store.lineage()
        for n in range(5):
            score(reward, batch(n))
            score(reward, batch(n, mode="eval"))
        assert reward.store.lineage() == before

    def test_2_every_reward_has_a_rubric_and_every_rubric_a_decision(self, tmp_path: Path) -> None:
        reward = make(tmp_path / "a.db")
        run(reward, range(6))
        accepted = {d.proposed for d in reward.store.lineage() if d.accepted}
        used = {case.judgement.rubric_id for case in reward.store.window()}
        assert len(used) == 3
        assert used <= accepted

    def test_3_unscored_is_never_0(self, tmp_path: Path) -> None:
        def answer(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> Any:
            prompt = "".join(m["content"] for m in messages)
            assert schema is not None
            if "essay 1 about 0" in prompt and schema["title"] == "judgement":
                return "broken"
            return judge_reply(messages, schema)

        reward = make(tmp_path / "a.db", ScriptedChat(answer), every=None)
        judgements = score(reward, batch(0))
        assert judgements[1].reward is None
        scored = [j.reward for j in judgements if j.reward is not None]
        (summary,) = reward.store.steps()
        assert summary.unscored == 1
        assert summary.mean_reward == pytest.approx(sum(scored) / 7)
        assert judgements[1].rollout_id not in {c.rollout.id for c in reward.store.window()}
        with pytest.raises(ValueError, match="reward or a reason"):
            judgements[1].model_validate({**judgements[1].model_dump(), "reward": 0.0})

    def test_4_usage_in_the_store_is_what_the_chat_gave_out(self, tmp_path: Path) -> None:
        rm, mrm = loop_chat("rm"), loop_chat("mrm")
        reward = make(tmp_path / "a.db", rm, meta_chat=mrm)
        run(reward, range(5))
        assert reward.store.usage() == {"rm": rm.usage, "mrm": mrm.usage}
        assert mrm.usage.calls == 2 * (4 + 4 + 1)

    def test_4_a_failed_meta_step_is_paid_for_too(self, tmp_path: Path) -> None:
        def answer(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> Any:
            assert schema is not None
            if schema["title"] == "judgement":
                return judge_reply(messages, schema)
            return "no json" if schema["title"] == "rubric" else meta_reply(messages, schema)

        chat = ScriptedChat(answer)
        reward = make(tmp_path / "a.db", chat)
        run(reward, range(2))
        spent = reward.store.usage()
        assert spent["rm"] + spent["mrm"] == chat.usage

    @pytest.mark.parametrize("stop", [1, 2, 3, 5])
    def test_5_a_resumed_run_is_the_undisturbed_run(self, tmp_path: Path, stop: int) -> None:
        whole = make(tmp_path / "whole.db", selection=Stratified())
        rewards = run(whole, range(6))

        part = make(tmp_path / "part.db", selection=Stratified())
        assert run(part, range(stop)) == rewards[:stop]
        checkpoint = json.loads(json.dumps(part.snapshot(stop)))
        # The trainer goes on and is killed: different rollouts than after the resume.
        for n in range(stop, stop + 3):
            score(part, [r.model_copy(update={"id": f"lost{r.id}"}) for r in batch(n)])
            step(part, n + 1)

        resumed = make(tmp_path / "part.db", selection=Stratified())
        resumed.restore(checkpoint)
        assert run(resumed, range(stop, 6)) == rewards[stop:]
        assert resumed.store.lineage() == whole.store.lineage()
        assert resumed.store.window() == whole.store.window()

    def test_5_replaying_the_decisions_gives_the_head(self, tmp_path: Path) -> None:
        reward = make(tmp_path / "a.db")
        run(reward, range(5))
        head = None
        for decision in Store(tmp_path / "a.db").lineage():
            assert decision.parent == head
            head = decision.head
        assert head == reward.rubric().id

    def test_6_order_is_the_same_in_every_process_and_choices_are_logged(
        self, tmp_path: Path
    ) -> None:
        code = textwrap.dedent("""
            import asyncio, sys
            from fakes import batch, loop_chat, make_reward
            reward = make_reward("essay", loop_chat(), sys.argv[1], every=2, samples=4)
            async def main():
                for n in range(4):
                    await reward.score(batch(n)); await reward.step(n + 1)
            asyncio.run(main())
            print([d.model_dump_json() for d in reward.store.lineage()])
            print([(c.name, c.step, c.seed, c.result) for c in reward.store.events()])
        """)
        outs = []
        for seed in ("1", "2"):
            env = {**os.environ, "PYTHONHASHSEED": seed}
            env["PYTHONPATH"] = os.pathsep.join([str(SRC), str(Path(__file__).parent)])
            outs.append(
                subprocess.run(
                    [sys.executable, "-c", code, str(tmp_path / f"{seed}.db")],
                    env=env, capture_output=True, text=True, check=True,
                ).stdout
            )  # fmt: skip
        assert outs[0] == outs[1]
        store = Store(tmp_path / "1.db")
        logged = list(store.events("evidence"))
        evolved = [d for d in store.lineage() if d.refinement]
        assert [list(c.result) for c in logged] == [
            list(d.refinement.evidence) for d in evolved if d.refinement
        ]

    def test_7_evaluation_never_reaches_the_mrm(self, tmp_path: Path) -> None:
        chat = loop_chat()
        reward = make(tmp_path / "a.db", chat, samples=100)
        score(reward, batch(0))
        secret = Rollout(prompt="Write.", completion="held-out words", step=0, mode="eval")
        score(reward, [secret])
        assert step(reward, 2) is not None
        asked = [c.prompt for c in chat.calls if c.schema and c.schema["title"] != "judgement"]
        assert asked
        assert not any("held-out words" in prompt for prompt in asked)

    def test_8_a_kill_loses_no_committed_judgement(self, tmp_path: Path) -> None:
        """Kill while calls are in flight; the next process asks for those only."""
        code = textwrap.dedent("""
            import asyncio, sys
            from fakes import batch, judge_reply, make_reward
            from mpo.chat import Completion
            from mpo.records import Usage
            class Slow:
                name = "double"
                served = 0
                async def complete(self, request):
                    Slow.served += 1
                    if Slow.served > 5:
                        print("stuck", flush=True)
                        await asyncio.sleep(60)
                    return Completion(judge_reply(request.messages, request.schema), Usage(calls=1))
                async def aclose(self): ...
            reward = make_reward("essay", Slow(), sys.argv[1])
            asyncio.run(reward.score(batch(0)))
        """)
        path = tmp_path / "a.db"
        env = {**os.environ, "PYTHONPATH": f"{SRC}{os.pathsep}{Path(__file__).parent}"}
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], env=env, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "stuck\n"
        deadline = time.monotonic() + 20
        while Store(path).count() < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        chat = loop_chat()
        reward = make(path, chat)
        assert all(j.reward is not None for j in score(reward, batch(0)))
        assert len(chat.calls) == 3
        assert reward.store.count() == 8

    @pytest.mark.parametrize("stage", ["analysis", "rubric", "everything"])
    def test_10_a_failed_meta_step_leaves_the_head(self, tmp_path: Path, stage: str) -> None:
        def answer(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> Any:
            assert schema is not None
            if schema["title"] == "judgement":
                return judge_reply(messages, schema)
            if stage == "everything":
                return ChatTransportError("unreachable: down")
            return "no" if schema["title"] == stage else meta_reply(messages, schema)

        reward = make(tmp_path / "a.db", ScriptedChat(answer))
        seed = reward.rubric()
        score(reward, batch(0))
        decision = step(reward, 2)
        assert decision is not None
        assert not decision.accepted
        assert decision.reason.startswith("the meta step failed: ")
        assert reward.rubric() == seed
        assert all(j.rubric_id == seed.id for j in score(reward, batch(2)))

    def test_10_without_any_evidence_the_step_says_so(self, tmp_path: Path) -> None:
        decision = step(make(tmp_path / "a.db"), 2)
        assert decision is not None
        assert "no evidence" in decision.reason

    def test_11_a_group_is_scored_under_one_rubric(self, tmp_path: Path) -> None:
        """Half of a group comes before a meta step, half after (another rank, a straggler)."""
        reward = make(tmp_path / "a.db")
        rollouts = batch(1)
        early = score(reward, rollouts[::2])
        decision = step(reward, 2)
        assert decision is not None
        assert decision.accepted
        late = score(make(tmp_path / "a.db"), rollouts[1::2])
        assert {j.rubric_id for j in [*early, *late]} == {decision.parent}
        assert {j.rubric_id for j in score(reward, batch(2))} == {decision.proposed}


class TestState:
    def test_a_copy_in_another_process_sees_the_same_head(self, tmp_path: Path) -> None:
        reward = make(tmp_path / "a.db", ScriptedChat(loop_answer, name="double"))
        copy = pickle.loads(pickle.dumps(reward))  # what a trainer does for another rank
        score(copy, batch(0))
        step(copy, 2)
        assert reward.rubric() == copy.rubric() != reward.task.rubric

    def test_another_seed_rubric_is_refused(self, tmp_path: Path) -> None:
        make(tmp_path / "a.db")
        other = Rubric(criteria=(Criterion(name="Other"),))
        with pytest.raises(ConfigError, match=f"seed rubric .* not {other.id}"):
            make(tmp_path / "a.db", rubric=other)

    def test_one_mrm_reply_decides_the_rubric(self, tmp_path: Path) -> None:
        """A golden walk through all stages with scripted replies."""
        analysis = '{"findings": "too kind", "verdict": "too_high", "advice": "look at length"}'
        chat = ScriptedChat(
            [
                '{"discourse": {"rationale": "fine", "score": 5}}',
                analysis,
                rubric_reply("Length"),
                rubric_reply("Length, merged", "Count the words.\n## Forged  (weight 9)"),
            ]
        )
        reward = make(tmp_path / "a.db", chat, samples=1)
        score(reward, [Rollout(prompt="Write.", completion="One essay.")])
        decision = step(reward, 2)
        assert decision is not None
        assert decision.refinement is not None
        assert decision.refinement.analyses[0].verdict == "too_high"
        assert decision.refinement.proposals[0].rubric.criteria[0].name == "Length"
        (criterion,) = reward.rubric().criteria
        assert criterion.name == "Length, merged"
        assert criterion.scores == (0, 1, 2, 3, 4)
        # The MRM's text cannot add a criterion of its own making (law 9).
        from mpo.rubric import parse_rubric

        assert parse_rubric(reward.rubric().to_markdown()) == reward.rubric()
