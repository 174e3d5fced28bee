"""`mpo evolve` on 320 rollouts of a real run, against a recorded chat on a real socket."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cli.conftest import Mpo
from mpo.chat import Chat, ChatRequest, Message, RecordedChat, Schema, ScriptedChat
from mpo.cli.offline.stages import Stages
from mpo.errors import MPOError
from mpo.sanitize import find_fences
from shared_data import shared_data

SCORED, HUMAN = 160, 80
"""Rows that bring the published RM's score, and rows with a person's."""


def rows() -> list[dict[str, Any]]:
    """The first 320 rollouts. The person of this test likes long texts."""
    file = shared_data("mpo-run") / "rollouts.jsonl.gz"
    found = []
    with gzip.open(file, "rt") as lines:
        for number, line in zip(range(320), lines, strict=False):
            said = json.loads(line)
            row = {"prompt": said["queries"], "completion": said["student_responses"]}
            if number < SCORED:
                row |= {"score": said["junior_scores"], "rationale": said["junior_evaluations"][0]}
            if number % (320 // HUMAN) == 0:
                row["human_score"] = len(row["completion"].split())
            found.append(row)
    return found


def reply(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> str:
    """A judge that counts words where the rubric says so and else throws a coin; an MRM that has
    that idea."""
    assert schema is not None
    text = "\n".join(message["content"] for message in messages)
    if schema["title"] == "judgement":
        [response] = find_fences(text, "RESPONSE")
        words = min(5, len(response.split()) // 60)
        coin = hashlib.sha256(response.encode()).digest()[0] % 6
        scores = {k: words if k.startswith("length") else coin for k in schema["properties"]}
        return json.dumps({k: {"rationale": "counted", "score": s} for k, s in scores.items()})
    if schema["title"] == "analysis":
        return json.dumps({"findings": "too short", "verdict": "too_high", "advice": "count"})
    levels = [{"score": n, "text": f"about {60 * n} words or more"} for n in range(6)]
    criterion = {
        "name": "Length",
        "text": "How long the text is, in words.",
        "weight": 1,
        "lowest": 0,
        "highest": 5,
        "levels": levels,
    }
    return json.dumps(
        {"reasons": "short texts scored as high as long ones", "criteria": [criterion]}
    )


def _word(schema: Schema) -> str:
    return str(schema["properties"]["word"]["enum"][0])


@contextmanager
def served(chat: Chat) -> Iterator[tuple[str, list[str]]]:
    """A chat as an OpenAI-compatible server; its URL, and the titles of what it was asked."""
    asked: list[str] = []

    async def complete(request: web.Request) -> web.Response:
        body = await request.json()
        schema = body["response_format"]["json_schema"]["schema"]
        # The client finds out whether a schema is enforced, with a word of its own each time.
        probe = ScriptedChat(lambda *_: json.dumps({"word": _word(schema)}))
        if schema["title"] != "probe":
            asked.append(schema["title"])
        try:
            wanted = ChatRequest(
                tuple(body["messages"]),
                schema,
                temperature=body["temperature"],
                max_tokens=body.get("max_tokens") or body["max_completion_tokens"],
                seed=body.get("seed"),
            )
            answer = await (probe if schema["title"] == "probe" else chat).complete(wanted)
        except MPOError as error:
            return web.json_response({"error": {"message": str(error)}}, status=400)
        usage = {
            "prompt_tokens": answer.usage.prompt_tokens,
            "completion_tokens": answer.usage.completion_tokens,
        }
        message = {"role": "assistant", "content": answer.text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({"model": body["model"], "choices": [choice], "usage": usage})

    async def start() -> web.AppRunner:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/chat/completions", complete)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(20)
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1", asked
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def test_a_rubric_that_agrees_better_with_people(tmp_path: Path) -> None:
    run, again = Mpo(tmp_path / "one"), Mpo(tmp_path / "two")
    tape = tmp_path / "tape.jsonl"
    for here in (run, again):
        here.folder.mkdir()
        here.write("r.jsonl", rows())

    def evolve(here: Mpo, url: str, *more: str) -> Any:
        model = ["--chat", url, "--model", "scripted", "--price", "1,2", "--samples", "4"]
        return json.loads(here.ok("evolve", "r.jsonl", *model, "--json", *more))

    with served(RecordedChat(tape, inner=ScriptedChat(reply))) as (url, asked):
        estimate = evolve(run, url, "--estimate")
        assert asked == [], "nothing is paid before it is known what it will be"
        told = evolve(run, url)
        # Rows with a score are not scored again, unless they are held out to compare the rubrics.
        least = 320 - SCORED - HUMAN // 2 + 2 * 32
        assert least <= asked.count("judgement") <= estimate["judgements"]
        assert asked.count("analysis") == 4
        paid = len(asked)
        assert evolve(run, url) == told, "the same command repeats its answer"
        assert len(asked) == paid
    assert told["accepted"]
    assert "+ criterion added: Length" in told["diff"]
    assert "short texts" in told["reasons"]
    human = told["human"]
    assert human["human_scores"] == HUMAN
    assert HUMAN > human["n"] == human["held_out"] >= 0.3 * HUMAN
    assert human["proposal"]["spearman"]["value"] > 0.7 > human["head"]["spearman"]["value"]
    assert human["change"]["pairwise"]["value"] > 0
    spent = sum(role["usd"] for role in told["cost"].values())
    assert 0.2 < estimate["usd"] / spent < 5

    with served(RecordedChat(tape)) as (url, _):  # in another run, whose fences have other ids
        replayed = evolve(again, url)
    for key in ("markdown", "diff", "reasons", "accepted", "human"):
        assert replayed[key] == told[key]


def essays(sign: int, count: int = 24) -> list[dict[str, Any]]:
    """Rows of one prompt each; people like them long (1) or short (-1)."""
    return [
        {
            "prompt": f"Write about topic {n}.",
            "completion": f"Essay {n}. " + "It is so. " * (5 + 7 * n),
            "human_score": sign * n,
        }
        for n in range(count)
    ]


SMALL = ("evolve", "r.jsonl", "--samples", "3", "--json")


def test_a_proposal_that_agrees_worse_with_people_is_refused(run: Mpo) -> None:
    run.write("r.jsonl", essays(-1))
    chat = ScriptedChat(reply)
    with served(chat) as (url, asked):
        command = (*SMALL, "--chat", url, "--model", "m", "--gate", "always", "--out", "next.md")
        refused = run(*command)
        assert refused.returncode == 3
        paid = len(asked)
        again = run(*command)
        assert (again.returncode, again.stdout) == (3, refused.stdout)
        assert len(asked) == paid, "a rerun pays nothing"
    assert not (run.folder / "next.md").exists()
    told = json.loads(refused.stdout)
    assert not told["accepted"]
    assert told["reason"].startswith("it agrees worse with people")
    assert "refused: it agrees worse with people" in refused.stderr
    assert "next.md is not written" in refused.stderr
    human = told["human"]
    assert human["human_scores"] == 24
    assert human["held_out"] >= 0.3 * 24
    assert human["change"]["pairwise"]["high"] < 0
    stages = [line for line in refused.stderr.splitlines() if ": done" in line]
    assert [line.split(":")[0] for line in stages] == ["scoring", "proposal", "held-out rows"]
    assert "left" in stages[0]
    assert "last stage" in stages[-1]


def test_the_mrm_sees_people_only_where_nothing_is_held_out(run: Mpo) -> None:
    rows = essays(1)
    run.write("r.jsonl", rows)
    chat = ScriptedChat(reply)
    with served(chat) as (url, asked):
        model = ("--chat", url, "--model", "m")
        # Scored as a whole before: the store has judgements of all rows, and no row is paid again.
        run.ok("score", "r.jsonl", *model)
        more = ("--samples", "24", "--gate", "always", "--out", "next.md")
        told = json.loads(run.ok(*SMALL, *model, *more))
        assert asked.count("judgement") == 24 + told["human"]["held_out"]
    assert (run.folder / "next.md").read_text() == told["markdown"]
    prompts = [call.prompt for call in chat.calls if (call.schema or {}).get("title") == "analysis"]
    shown = "".join(prompts)
    seen = [n for n, row in enumerate(rows) if f"{row['prompt']}\n" in shown]
    assert len(seen) == 24 - told["human"]["held_out"] == len(prompts)
    low, high = min(seen), max(seen)
    for n in seen:
        assert f"A person's score: {n} (people's scores go from {low} to {high})." in shown
    judged = [c.prompt for c in chat.calls if (c.schema or {}).get("title") == "judgement"]
    assert not any("person's score" in prompt for prompt in judged)


def test_another_model_may_rewrite(run: Mpo) -> None:
    run.write("r.jsonl", essays(1, 4))
    with served(ScriptedChat(reply)) as (rm, judged), served(ScriptedChat(reply)) as (mrm, rewrote):
        models = ("--chat", rm, "--model", "m", "--meta-chat", mrm, "--gate", "always")
        assert "--meta-model is missing" in run(*SMALL, *models).stderr
        made = run(*SMALL, *models, "--meta-model", "n")
        assert made.returncode == 0, made.stderr
    assert set(judged) == {"judgement"}
    assert set(rewrote) == {"analysis", "rubric"}
    assert json.loads(made.stdout)["human"] is None
    assert "rows with a human_score: 4;" in made.stderr


def test_gate_and_canaries_check_the_proposal(run: Mpo) -> None:
    run.write("r.jsonl", [{k: row[k] for k in ("prompt", "completion")} for row in essays(1)])

    def flat(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> str:
        """Under the proposal every text gets the same score."""
        assert schema is not None
        keys = schema.get("properties", {})
        if schema["title"] == "judgement" and "length" in keys:
            return json.dumps({"length": {"rationale": "counted", "score": 3}})
        return reply(messages, schema, seed)

    with served(ScriptedChat(flat)) as (url, _):
        model = ("--chat", url, "--model", "m")
        refused = run(*SMALL, *model)
        assert refused.returncode == 3
        assert json.loads(refused.stdout)["reason"]
        unknown = run(*SMALL, *model, "--gate", "nobody")
        assert unknown.returncode == 1
        assert "unknown gate 'nobody'" in unknown.stderr
        # The same store, asked for otherwise: the proposal is known, and counts unchecked.
        assert json.loads(run.ok(*SMALL, *model, "--gate", "always"))["accepted"]


def test_long_work_says_how_many_calls_it_has_made(capsys: pytest.CaptureFixture[str]) -> None:
    made = 3

    stages = Stages({"proposal": 5}, every_s=0.02)
    seen: list[str] = []

    async def listening() -> str:
        nonlocal made
        made = 8
        for _ in range(500):
            seen.append(capsys.readouterr().err)
            if "at work" in seen[-1]:
                break
            await asyncio.sleep(0.01)
        return "done"

    assert asyncio.run(stages.watch(listening(), lambda: made)) == "done"
    assert "at work: 5 calls made, 0:00 so far" in "".join(seen)
