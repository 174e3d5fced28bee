"""RewardService without HTTP: what is asked once, under which rubric, and what engines are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from fakes import loop_answer
from mpo.chat import Budget, ChatRequest, ScriptedChat
from mpo.errors import BudgetError, ChatTransportError
from mpo.judge.scale import Raw
from mpo.service.service import RewardService
from mpo.service.wire import (
    METRICS,
    MetaStepRequest,
    Refusal,
    RestoreRequest,
    ScoreRequest,
    ScoreResponse,
    SnapshotRequest,
)
from service.node import SlowChat, make_service

Test = Callable[[RewardService], Coroutine[Any, Any, None]]


def item(text: str = "an essay about tea", prompt: str = "Write about tea.", **more: Any) -> dict:
    return {"prompt": prompt, "completion": text, **more}


def request(*items: dict, mode: str = "train", run_id: str = "", **options: Any) -> ScoreRequest:
    return ScoreRequest.model_validate(
        {"items": list(items), "mode": mode, "run_id": run_id, "options": options}
    )


def held(test: Test, folder: Path, **options: Any) -> None:
    """Run a test against a service of its own."""

    async def run() -> None:
        service = make_service(folder, **options)
        try:
            await test(service)
        finally:
            await service.aclose(5)

    asyncio.run(run())


def asked(service: RewardService) -> int:
    """Calls to the RM that the store knows of."""
    return service.reward.store.usage()["rm"].calls


def rewards(response: ScoreResponse) -> list[float | None]:
    return [result.reward for result in response.results]


async def step(service: RewardService, n: int) -> Any:
    return await service.meta_step(MetaStepRequest(step=n))


# ---------------------------------------------------------------------- once


def test_what_is_sent_again_is_not_asked_again(tmp_path: Path) -> None:
    async def test(service: RewardService) -> None:
        batch = request(*(item(f"essay {i}", step=3) for i in range(8)))
        first, second = await asyncio.gather(service.score(batch), service.score(batch))
        third = await service.score(batch)
        assert rewards(first) == rewards(second) == rewards(third)
        assert None not in rewards(first)
        assert asked(service) == 8
        assert service.stats().joined == 8

    held(test, tmp_path, chat=SlowChat(0.05))


def test_an_engines_own_ids_tell_equal_completions_apart(tmp_path: Path) -> None:
    async def test(service: RewardService) -> None:
        response = await service.score(request(item(id="a"), item(id="b"), item(id="a")))
        assert [result.id for result in response.results] == ["a", "b", "a"]
        assert asked(service) == 2

    held(test, tmp_path)


def test_after_a_restart_an_item_without_a_step_is_known(tmp_path: Path) -> None:
    async def first(service: RewardService) -> None:
        await service.score(request(item("one"), item("two")))

    async def second(service: RewardService) -> None:
        before = service.state()
        await service.score(request(item("two"), item("one")))
        assert asked(service) == 2
        await service.score(request(item("three")))
        assert asked(service) == 3
        assert service.state().scored == before.scored + 1

    held(first, tmp_path, every_items=100)
    held(second, tmp_path, every_items=100)


def test_an_empty_batch_is_answered(tmp_path: Path) -> None:
    async def test(service: RewardService) -> None:
        assert (await service.score(request())).results == []

    held(test, tmp_path)


def test_messages_and_any_character_are_taken(tmp_path: Path) -> None:
    async def test(service: RewardService) -> None:
        turns = [{"role": "user", "content": [{"type": "text", "text": "Write."}, {"type": "x"}]}]
        odd = item("lone \ud800 surrogate, \x00 and so on", prompt=turns, columns={"a": ["\udfff"]})
        (reward,) = rewards(await service.score(request(odd)))
        assert reward is not None
        (case,) = service.reward.store.window()
        assert case.rollout.prompt == "Write."

    held(test, tmp_path)


# ---------------------------------------------------------------------- which rubric


def test_a_group_keeps_its_rubric_and_a_new_one_gets_the_new(tmp_path: Path) -> None:
    async def test(service: RewardService) -> None:
        old = await service.score(request(item("one", step=9, group_id="g")))
        assert (await step(service, 10)).changed
        straggler = await service.score(request(item("two", step=9, group_id="g")))
        fresh = await service.score(request(item("two", step=10, group_id="g")))
        assert straggler.results[0].rubric_id == old.results[0].rubric_id
        assert fresh.results[0].rubric_id == fresh.rubric_id != old.rubric_id
        assert [r.results[0].rubric_version for r in (old, straggler, fresh)] == [0, 0, 1]
        assert fresh.results[0].metrics["mpo_rubric_version"] == 1.0

    held(test, tmp_path)


def test_the_old_rubric_is_in_force_while_a_meta_step_runs(tmp_path: Path) -> None:
    class Held(SlowChat):
        def __init__(self) -> None:
            super().__init__()
            self.go = asyncio.Event()
            self.loop: Any = None

        async def complete(self, request: ChatRequest) -> Any:
            assert request.schema is not None
            if request.schema["title"] == "analysis":
                home = asyncio.wrap_future(
                    asyncio.run_coroutine_threadsafe(self.go.wait(), home_loop)
                )
                await home
            return await super().complete(request)

    async def test(service: RewardService) -> None:
        nonlocal home_loop
        home_loop = asyncio.get_running_loop()
        await service.score(request(*(item(f"e{i}", step=9) for i in range(4))))
        meta = asyncio.create_task(step(service, 10))
        while service.state().meta_step != 10:
            await asyncio.sleep(0.01)
        meanwhile = await service.score(request(item("during", step=10, group_id="d")))
        assert meanwhile.results[0].rubric_version == 0
        chat.go.set()
        assert (await meta).rubric_version == 1
        late = await service.score(request(item("later", step=10, group_id="d")))
        assert late.results[0].rubric_version == 0, "its group has the old one"

    home_loop: Any = None
    chat = Held()
    held(test, tmp_path, chat=chat)


def test_a_batch_may_ask_for_an_earlier_rubric(tmp_path: Path) -> None:
    async def test(service: RewardService) -> None:
        await service.score(request(item("one", step=1, group_id="g")))
        await step(service, 10)
        old = await service.score(request(item("x", step=10, group_id="h"), rubric_version=0))
        assert old.results[0].rubric_version == 0
        with pytest.raises(Refusal, match="one group get one rubric"):
            await service.score(request(item("y", step=1, group_id="g"), rubric_version=1))
        with pytest.raises(Refusal, match="no rubric version 7"):
            await service.score(request(item("y", step=1, group_id="g"), rubric_version=7))

    held(test, tmp_path)


# ---------------------------------------------------------------------- unscored


def test_every_item_has_the_same_numeric_metrics(tmp_path: Path) -> None:
    async def test(service: RewardService) -> None:
        service.reward.chat.hang = 2.0  # type: ignore[attr-defined]
        batch = request(item("fine"), item("BROKEN"), item("SLOW"), item(""), deadline_s=0.5)
        response = await service.score(batch)
        fine, broken, slow, empty = response.results
        for result in response.results:
            assert tuple(result.metrics) == METRICS
            assert all(type(value) is float for value in result.metrics.values())
        assert (fine.status, broken.status, slow.status) == ("ok", "failed", "failed")
        assert broken.reward is None
        assert broken.error is not None
        assert broken.metrics["mpo_unscored"] == 1.0
        assert slow.metrics["mpo_late"] == 1.0
        assert (empty.reward, empty.metrics["mpo_rule"], empty.metrics["mpo_unscored"]) == (0, 1, 0)
        assert fine.info.rationales

    held(test, tmp_path)


def test_what_is_late_is_there_for_the_retry(tmp_path: Path) -> None:
    async def test(service: RewardService) -> None:
        service.reward.chat.hang = 0.5  # type: ignore[attr-defined]
        batch = [item("SLOW"), item("fine")]
        late = await service.score(request(*batch, deadline_s=0.2))
        assert [result.status for result in late.results] == ["failed", "ok"]
        again = await service.score(request(*batch))
        assert [result.status for result in again.results] == ["ok", "ok"]
        assert asked(service) == 2

    held(test, tmp_path)


def test_a_fallback_is_the_groups_mean_then_the_runs_and_never_nothing(tmp_path: Path) -> None:
    async def test(service: RewardService) -> None:
        mean = {"on_failure": "group_mean"}
        with pytest.raises(Refusal, match="no reward yet to fall back on"):
            await service.score(request(item("BROKEN", step=1), **mean))
        good = await service.score(request(item("good", step=1), item("tea", "Other.", step=1)))
        first, other = rewards(good)
        assert first is not None
        assert other is not None
        assert first != other
        fell = await service.score(
            request(item("BROKEN 1", step=1), item("BROKEN 2", "Third.", step=1), **mean)
        )
        assert [result.status for result in fell.results] == ["fallback", "fallback"]
        assert rewards(fell) == [first, pytest.approx((first + other) / 2)]
        assert [result.metrics["mpo_fallback"] for result in fell.results] == [1.0, 1.0]
        assert service.reward.store.count(scored=False) == 3, "a guess is not stored"
        with pytest.raises(Refusal) as refused:
            await service.score(request(item("BROKEN 3", step=1), on_failure="error"))
        assert refused.value.status == 424
        assert service.stats().unscored_ratio == pytest.approx(4 / 6)

    held(test, tmp_path)


def test_a_fallback_has_a_share_of_0_to_1_beside_its_reward(tmp_path: Path) -> None:
    async def test(service: RewardService) -> None:
        good = await service.score(request(item("good", step=1)))
        fell = await service.score(request(item("BROKEN", step=1), on_failure="group_mean"))
        for told, known in zip(fell.results, good.results, strict=True):
            assert told.status == "fallback"
            assert (told.reward, told.score) == (known.reward, known.score)
            assert told.reward != told.score, "the raw scale ends above 1"

    held(test, tmp_path, scale=Raw())


def test_a_spent_budget_is_not_a_missing_score(tmp_path: Path) -> None:
    budget = Budget(calls=2)

    async def test(service: RewardService) -> None:
        await service.score(request(item("one"), item("two")))
        with pytest.raises(BudgetError):
            await service.score(request(item("three")))
        assert None not in rewards(await service.score(request(item("one"), item("two"))))

    held(test, tmp_path, chat=budget.chat(ScriptedChat(loop_answer), "rm"))


# ---------------------------------------------------------------------- meta steps


def test_a_meta_step_is_held_once_however_many_ask(tmp_path: Path) -> None:
    async def test(service: RewardService) -> None:
        await service.score(request(*(item(f"e{i}", step=9) for i in range(4))))
        answers = await asyncio.gather(*(step(service, 10) for _ in range(5)))
        answers.append(await step(service, 10))
        assert all(answer == answers[0] for answer in answers)
        assert answers[0].changed
        assert [d.step for d in service.reward.store.lineage()] == [0, 10]
        assert not (await step(service, 11)).due
        await service.score(request(item("x", step=19)))
        await step(service, 20)
        assert (await step(service, 10)).rubric_id == service.state().rubric_id
        await service.score(request(item("x", step=39)))
        await step(service, 40)
        with pytest.raises(Refusal, match="40 is already decided"):
            await step(service, 30)

    held(test, tmp_path, k=10)


def test_a_meta_step_may_count_some_updates_later(tmp_path: Path) -> None:
    async def test(service: RewardService) -> None:
        await service.score(request(*(item(f"e{i}", step=9) for i in range(4))))
        begun = await step(service, 10)
        assert (begun.due, begun.changed) == (True, False)
        for n in (11, 12):
            assert not (await step(service, n)).changed
        decided = await step(service, 13)
        assert decided.changed
        assert decided.rubric_version == 1
        assert not (await step(service, 10)).changed, "the same answer as before"

    held(test, tmp_path, delay=3)


def test_the_count_drives_meta_steps_where_the_engine_cannot(tmp_path: Path) -> None:
    async def test(service: RewardService) -> None:
        for i in range(5):
            await service.score(request(item(f"eval {i}", f"Q{i}"), mode="eval"))
        for i in range(20):
            await service.score(request(item(f"essay {i}", f"Prompt {i}")))
        for _ in range(200):
            if len(service.reward.store.lineage()) == 3:
                break
            await asyncio.sleep(0.02)
        assert [d.step for d in service.reward.store.lineage()] == [0, 2, 4]
        steps = [case.rollout.step for case in service.reward.store.window()]
        assert steps[:16] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
        for decision in service.reward.store.lineage()[1:]:
            assert decision.refinement is not None
            seen = [service.reward.store.rollout(id) for id in decision.refinement.evidence]
            assert {rollout.mode for rollout in seen} == {"train"}

    held(test, tmp_path, k=2, every_items=8)


def test_a_counted_group_is_not_torn_between_two_steps(tmp_path: Path) -> None:
    async def test(service: RewardService) -> None:
        for i in range(6):  # 4 items make a step
            await service.score(request(item(f"essay {i}", "One prompt.")))
        assert {case.rollout.step for case in service.reward.store.window()} == {0}

    async def again(service: RewardService) -> None:
        await service.score(request(item("essay 6", "One prompt.")))
        assert {case.rollout.step for case in service.reward.store.window()} == {0}

    held(test, tmp_path, k=10, every_items=40)
    held(again, tmp_path, k=10, every_items=40)


def test_evaluation_is_no_evidence(tmp_path: Path) -> None:
    async def test(service: RewardService) -> None:
        await service.score(request(item("an eval text", step=9), mode="eval"))
        answer = await step(service, 10)
        assert not answer.changed
        assert "failed" in answer.reasons[0]
        assert service.state().scored == 0

    held(test, tmp_path)


def test_a_meta_step_that_fails_changes_nothing(tmp_path: Path) -> None:
    def reply(messages: Any, schema: Any, seed: Any) -> Any:
        if schema["title"] == "judgement":
            return loop_answer(messages, schema, seed)
        return ChatTransportError("unreachable: down")

    async def test(service: RewardService) -> None:
        await service.score(request(item("x", step=9)))
        answer = await step(service, 10)
        assert (answer.due, answer.changed, answer.rubric_version) == (True, False, 0)
        assert "down" in answer.reasons[0]

    held(test, tmp_path, chat=ScriptedChat(reply))


# ---------------------------------------------------------------------- checkpoints


def test_going_back_takes_the_rubric_back(tmp_path: Path) -> None:
    async def test(service: RewardService) -> None:
        await service.score(request(item("one", step=9)))
        seed = service.state().rubric_id
        await service.snapshot(SnapshotRequest(tag="step-9", step=9))
        changed = (await step(service, 10)).rubric_id
        await service.score(request(item("two", step=10)))
        back = await service.restore(RestoreRequest(tag="step-9"))
        assert (back.rubric_id, back.scored, back.step) == (seed, 1, 9)
        calls = asked(service)
        again = await service.score(request(item("one", step=9)))
        assert asked(service) == calls
        assert again.rubric_version == 0
        assert (await step(service, 10)).rubric_id == changed, "the same evidence, the same rubric"
        assert (await service.restore(RestoreRequest(tag="genesis"))).scored == 0
        for request_, status in [
            (RestoreRequest(tag="unknown"), 404),
            (RestoreRequest(), 422),
            (RestoreRequest(snapshot={"store": "x"}), 409),
        ]:
            with pytest.raises(Refusal) as refused:
                await service.restore(request_)
            assert refused.value.status == status

    held(test, tmp_path)


def test_going_back_waits_for_what_is_in_flight(tmp_path: Path) -> None:
    async def test(service: RewardService) -> None:
        await service.snapshot(SnapshotRequest(tag="a"))
        flying = asyncio.create_task(service.score(request(item("one"))))
        await asyncio.sleep(0.05)
        back = asyncio.create_task(service.restore(RestoreRequest(tag="a")))
        await asyncio.sleep(0.05)
        after = asyncio.create_task(service.score(request(item("two"))))
        assert rewards(await flying) != [None]
        assert (await back).scored == 0
        assert rewards(await after) != [None]
        assert [c.rollout.completion for c in service.reward.store.window()] == ["two"]

    held(test, tmp_path, chat=SlowChat(0.3))


# ---------------------------------------------------------------------- many clients


def test_a_small_request_does_not_wait_for_a_large_one(tmp_path: Path) -> None:
    async def test(service: RewardService) -> None:
        large = asyncio.create_task(
            service.score(request(*(item(f"essay {i}", step=0) for i in range(1000))))
        )
        await asyncio.sleep(0.1)
        await service.score(request(item("small", "Other.", step=0)))
        assert not large.done()
        assert service.reward.store.count() < 500
        assert None not in rewards(await large)

    held(test, tmp_path, chat=SlowChat(0.15))


def test_what_is_meant_for_others_is_refused(tmp_path: Path) -> None:
    async def test(service: RewardService) -> None:
        for wrong, status in [
            (request(item(), run_id="other"), 409),
            (request(item(task="math")), 409),
            (request(item(cohort="algebra")), 422),
        ]:
            with pytest.raises(Refusal) as refused:
                await service.score(wrong)
            assert refused.value.status == status
        assert rewards(await service.score(request(item(task="essay"), run_id="r1"))) != [None]
        assert asked(service) == 1

    held(test, tmp_path)


def test_the_end_waits_for_what_is_in_flight(tmp_path: Path) -> None:
    async def run() -> None:
        service = make_service(tmp_path, chat=SlowChat(0.3))
        late = await service.score(request(item("one"), deadline_s=0.05))
        assert rewards(late) == [None]
        await service.aclose(10)

    async def after(service: RewardService) -> None:
        assert service.state().scored == 1

    asyncio.run(run())
    held(after, tmp_path)
