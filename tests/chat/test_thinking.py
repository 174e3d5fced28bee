"""Thinking in front of an answer is taken off, however it is marked; a draft in it is no answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from fakes import batch, loop_answer, make_reward
from mpo.chat import ChatRequest, OpenAIChat, require_complete
from mpo.chat.structured import OUTPUTS, read_answer
from mpo.chat.thinking import split_thinking
from mpo.errors import ChatReplyError
from mpo.evaluation.pairwise import PairwiseJudge, plan_games
from mpo.evaluation.rows import JsonlLog, Outputs, common_prompts
from mpo.judge import make_reward_model
from mpo.records import Rollout
from mpo.store import Store
from mpo.task import load_task

A = '{"a": 1}'
SCHEMA = {
    "type": "object",
    "required": ["a"],
    "properties": {"a": {"type": "integer", "enum": [1, 2]}},
}
BLOCKS = {
    "empty": "<think>\n\n</think>\n\n{}",
    "reasons": "<think>\nIt is short.\n</think>{}",
    "no opening tag": "It is short.\n</think>\n\n{}",
    "nothing before the closing tag": "</think>{}",
    "a draft": '<think>I could write {"a": 2} or\na: 2\n</think>\n{}',
    "a draft, no opening tag": '{"a": 2}\n</think>\n{}',
    "a draft in lines, no opening tag": "a: 2\n</think>\n{}",
    "another name": "<Thinking>x</Thinking>{}",
    "an attribute": '<reasoning effort="3">x</reasoning >{}',
    "a prefix": "<seed:think>x</seed:think>{}",
    "brackets": "[THINK]x[/THINK]{}",
    "triangles": "◁think▷x◁/think▷{}",
    "a byte order mark": "\ufeff<think>x</think>{}",
    "channels": "<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final"
    "<|message|>{}<|return|>",
    "one channel": "<|channel|>final <|constrain|>json<|message|>{}",
    "channels without their strings": "analysisWe need a.assistantfinal{}",
    "a phrase": "Here is my thought process: x Here is my response: {}",
    "a quoted end": "<think>It says </think> and goes on.</think>{}",
}


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("block", BLOCKS)
def test_the_answer_is_what_comes_after_the_block(block: str, output: Any) -> None:
    said = "a: 1" if output == "lines" else A
    _, answer = read_answer(BLOCKS[block].replace("{}", said), SCHEMA, output)
    assert json.loads(answer) == {"a": 1}
    assert read_answer(BLOCKS[block].replace("{}", "Free text."), None, "lines")[1] == "Free text."


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "it quotes </think> and <think>"}',
        '```json\n{"a": "</think>{}"}\n```',
        "It wraps its work in <think>…</think> tags.",
        "The <reasoning> tag is never closed.",
        "analysis of the text",
        "  plain text\n",
        "",
    ],
)
def test_an_answer_that_quotes_a_tag_stays_whole(text: str) -> None:
    output: Any = "json_schema" if text[:1] in "{`" else "lines"
    schema = SCHEMA if output == "json_schema" else None
    answer = read_answer(text, schema, output)[1]
    assert answer == text.removeprefix("```json\n").removesuffix("\n```")


def test_a_rationale_that_quotes_a_tag_is_behind_the_block() -> None:
    answer = '{"a": "</think>{}"}'
    assert split_thinking(f"<think>x</think>{answer}", lambda t: t == answer) == ("x", answer)


@pytest.mark.parametrize(
    "text", ["<think>" * 30_000, "</think>" * 30_000, "<" * 200_000, " " * 300_000 + "x"]
)
def test_hostile_lengths_are_read_in_linear_time(text: str) -> None:
    read_answer(text, SCHEMA, "json_schema")


def ask(endpoint: Any, **options: Any) -> str:
    async def once() -> str:
        chat = OpenAIChat(endpoint.url, "m", structured_output="json_object")
        try:
            request = ChatRequest(({"role": "user", "content": "?"},), **options)
            return require_complete(await chat.complete(request)).text
        finally:
            await chat.aclose()

    return asyncio.run(once())


@pytest.mark.parametrize(
    ("message", "finish_reason", "words"),
    [
        ({"content": "<think>on and on"}, "length", r"truncated: .*thinking used up max_tokens"),
        ({"content": "", "reasoning_content": "…"}, "length", r"truncated: .*thinking used up"),
        ({"content": f"<think>{A}"}, "stop", "unfinished: the reply is all thinking"),
        ({"content": None, "reasoning_content": A}, "stop", "unfinished: .*in reasoning_content"),
        ({"content": " ", "reasoning": A}, "stop", "unfinished: .*stands in reasoning,"),
        ({"content": A}, None, "unfinished: the server gives no finish_reason"),
    ],
)
def test_an_answer_that_is_missing_names_its_cause(
    endpoint: Any, faults: Any, message: Any, finish_reason: Any, words: str
) -> None:
    endpoint.default = faults.body(message=message, finish_reason=finish_reason)
    for schema in (SCHEMA, None):
        with pytest.raises(ChatReplyError, match=words):
            ask(endpoint, schema=schema)


def test_parts_that_are_thinking_are_no_answer(endpoint: Any, faults: Any) -> None:
    parts = [{"type": "thinking", "text": "2"}, {"type": "text", "text": A}]
    endpoint.default = faults.body(message={"content": parts})
    assert ask(endpoint, schema=SCHEMA) == A


class ThinksFirst:
    """An endpoint without a parser for its model's thinking; its answers are the fakes'."""

    def __init__(self, endpoint: Any, faults: Any) -> None:
        self.block = ""
        self.body = faults.body
        endpoint.default = self.answer

    async def answer(self, request: Any, body: dict[str, Any]) -> Any:
        from aiohttp import web

        format = body.get("response_format")
        schema = format["json_schema"]["schema"] if format else None
        title = schema.get("title") if schema else None
        if schema is None:
            said = "A free text."
        elif title == "score":
            said = json.dumps({"score": schema["properties"]["score"]["enum"][1]})
        elif title == "pairwise":
            said = json.dumps({"reason": "Better.", "winner": "A"})
        else:
            said = loop_answer(body["messages"], schema, None)
        return web.json_response(self.body(self.block.replace("{}", said) or said))


@pytest.mark.parametrize("block", ["empty", "no opening tag", "a draft", "channels"])
def test_every_question_of_the_method_is_answered_alike(
    endpoint: Any, faults: Any, tmp_path: Path, block: str
) -> None:
    server = ThinksFirst(endpoint, faults)
    rollout = Rollout(
        prompt="Write.", completion="Several words.", step=0, columns={"solution": r"\boxed{1}"}
    )
    outputs = [Outputs(name, {"p": f"a text by {name}"}) for name in ("a", "b")]

    async def answers(folder: Path) -> list[Any]:
        chat, found = OpenAIChat(endpoint.url, "m", retries=0), []
        folder.mkdir()
        try:
            for name, protocol in PROTOCOLS:
                task = load_task(name).with_rm(protocol=protocol, answer_check="off")
                result = await make_reward_model(task, chat, b"secret").judge(rollout, task.rubric)
                found += [result.unscored, result.scores]
            reward = make_reward("essay", chat, Store(folder / "mpo.db"), every=1, samples=2)
            found += [judgement.reward for judgement in await reward.score(batch(0))]
            decision = await reward.step(1)
            found += [decision.accepted if decision else None, reward.rubric().id]
            with JsonlLog(folder / "v.jsonl") as log:
                plan = plan_games(outputs, common_prompts(outputs))
                played = await PairwiseJudge(chat, log).play(plan)
            found += [played.failures, [(game.first, game.score) for game in played.games]]
        finally:
            await chat.aclose()
        return found

    plain = asyncio.run(answers(tmp_path / "plain"))
    assert not [part for part in plain[: 2 * len(PROTOCOLS) : 2] if part is not None]
    server.block = BLOCKS[block]
    assert asyncio.run(answers(tmp_path / "thinks")) == plain


PROTOCOLS = [
    ("essay", "single"),
    ("essay", "per_criterion"),
    ("essay", "dialogue"),
    ("math", "plan_execute"),
]
