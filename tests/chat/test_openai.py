"""OpenAIChat against a real server on a real socket, healthy and not."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from typing import Any

import pytest

from mpo.chat import Chat, ChatRequest, Message, OpenAIChat, require_complete
from mpo.chat.replies import Retry, retry_after
from mpo.errors import ChatError, ChatReplyError, ChatTransportError, ConfigError
from mpo.records import Usage

ASK: tuple[Message, ...] = ({"role": "user", "content": "Say hello."},)
SCHEMA = {
    "title": "grade of an essay",
    "type": "object",
    "additionalProperties": False,
    "required": ["score"],
    "properties": {"score": {"type": "integer", "enum": [0, 1, 2]}},
}
KEY = "sk-very-secret-0123456789"


def run(coroutine: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(coroutine())


def ask(chat: OpenAIChat, **options: Any) -> Any:
    async def once() -> Any:
        try:
            return await chat.complete(ChatRequest(ASK, **options))
        finally:
            await chat.aclose()

    return asyncio.run(once())


def quick(url: str, **options: Any) -> OpenAIChat:
    return OpenAIChat(url, "tiny", **({"backoff_s": 0.002, "timeout_s": 2.0} | options))


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_a_call(endpoint: Any) -> None:
    chat = quick(endpoint.url, extra_body={"top_k": 1, "max_tokens": None})
    assert isinstance(chat, Chat)
    completion = ask(chat, temperature=0.5, max_tokens=7, seed=3)
    assert completion.text == "hello"
    assert completion.finish_reason == "stop"
    assert completion.model == "served-name"
    assert completion.usage == Usage(
        calls=1, prompt_tokens=10, cached_tokens=4, completion_tokens=3
    )
    assert endpoint.requests == [
        {
            "model": "tiny",
            "messages": list(ASK),
            "stream": False,
            "temperature": 0.5,
            "seed": 3,
            "top_k": 1,
        }
    ]
    assert "Authorization" not in endpoint.headers[0]


def test_the_schema_is_sent(endpoint: Any) -> None:
    ask(quick(endpoint.url, max_tokens_field="max_completion_tokens"), schema=SCHEMA)
    (request,) = endpoint.requests
    assert request["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "grade_of_an_essay", "strict": True, "schema": SCHEMA},
    }
    assert request["max_completion_tokens"] == 1024
    assert "seed" not in request


def test_text_with_a_lone_surrogate_is_sent(endpoint: Any) -> None:
    chat = quick(endpoint.url)

    async def once() -> Any:
        return await chat.complete(ChatRequest(({"role": "user", "content": "half \ud83d"},)))

    assert run(once).text == "hello"


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_what_passes_is_tried_again(endpoint: Any, status: int) -> None:
    endpoint.faults = [status, status]
    assert ask(quick(endpoint.url)).usage.calls == 1
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 307])
def test_what_does_not_pass_is_not(endpoint: Any, status: int) -> None:
    endpoint.default = (status, {"Location": "/elsewhere"})
    with pytest.raises(ChatTransportError, match=rf"^rejected: status {status}: status \d+ from"):
        ask(quick(endpoint.url))
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("fault", ["reset", "stall", "cut", "no_http"])
def test_a_broken_connection_is_tried_again(endpoint: Any, faults: Any, fault: str) -> None:
    endpoint.faults = [getattr(faults, fault)]
    assert ask(quick(endpoint.url, timeout_s=0.3)).text == "hello"
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    "raw",
    [
        b"<html>502</html>",
        b"",
        b'{"choices": [{"mess',
        b"\xff\xfe\x00",
        b"[" * 100_000,
    ],
)
def test_garbage_is_tried_again_and_then_reported(endpoint: Any, raw: bytes) -> None:
    endpoint.faults = [raw]
    assert ask(quick(endpoint.url)).text == "hello"
    endpoint.default = raw
    with pytest.raises(ChatTransportError, match=r"^malformed: the reply is no JSON.*base_url"):
        ask(quick(endpoint.url, retries=1))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "malformed: the reply is list"),
        ({}, "malformed: the reply has no choices"),
        ({"choices": []}, "malformed: the reply has no choices"),
        ({"error": {"message": "no such thing"}}, "no choices: no such thing"),
        ({"choices": [7]}, "first choice has no message"),
        ({"choices": [{"finish_reason": "stop"}]}, "first choice has no message"),
        (
            {"choices": [{"message": {"content": None}, "finish_reason": "stop"}]},
            "has no text",
        ),
        (
            {"choices": [{"message": {"refusal": "I will not."}, "finish_reason": "stop"}]},
            "refused: the model said 'I will not.'",
        ),
    ],
)
def test_a_reply_that_is_no_completion(endpoint: Any, body: Any, message: str) -> None:
    endpoint.default = body
    with pytest.raises(ChatReplyError, match=message):
        ask(quick(endpoint.url))
    assert len(endpoint.requests) == 1


def test_an_error_inside_a_200_counts_as_its_status(endpoint: Any) -> None:
    endpoint.faults = [{"error": {"code": 502, "message": "upstream"}}]
    assert ask(quick(endpoint.url)).text == "hello"
    endpoint.default = {"error": {"code": 401, "message": "who are you"}}
    with pytest.raises(ChatTransportError, match="OPENAI_API_KEY is set: it is empty"):
        ask(quick(endpoint.url))


def test_unfinished_answers_are_passed_on_and_refused_above(endpoint: Any, faults: Any) -> None:
    for reason, word in {"length": "truncated", "content_filter": "refused", None: "unf"}.items():
        endpoint.default = faults.body("par", finish_reason=reason)
        completion = ask(quick(endpoint.url))
        assert completion.text == "par"
        assert completion.finish_reason == (reason or "unknown")
        with pytest.raises(ChatReplyError, match=word):
            require_complete(completion)
    endpoint.default = faults.body(message={"content": None}, finish_reason="length")
    assert ask(quick(endpoint.url)).text == ""


def test_dialects_of_a_whole_answer(endpoint: Any, faults: Any) -> None:
    parts = [{"type": "text", "text": "he"}, {"type": "text", "text": "llo"}]
    endpoint.default = faults.body(message={"content": parts}, finish_reason="eos_token")
    completion = require_complete(ask(quick(endpoint.url)))
    assert completion.text == "hello"


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        (None, Usage(calls=1)),
        ([], Usage(calls=1)),
        ({"prompt_tokens": "9", "completion_tokens": -1}, Usage(calls=1)),
        ({"prompt_tokens": 10**30, "completion_tokens": True}, Usage(calls=1)),
        (
            {"prompt_tokens": 5, "prompt_tokens_details": None, "prompt_cache_hit_tokens": 9},
            Usage(calls=1, prompt_tokens=5, cached_tokens=5),
        ),
    ],
)
def test_usage_is_read_with_distrust(endpoint: Any, usage: Any, counted: Usage) -> None:
    endpoint.default = endpoint.default | {"usage": usage}
    assert ask(quick(endpoint.url)).usage == counted


def test_retry_after_is_obeyed(endpoint: Any) -> None:
    endpoint.faults = [(429, {"Retry-After": "0.3"})]
    started = time.monotonic()
    ask(quick(endpoint.url))
    assert 0.3 <= time.monotonic() - started < 1.5


def test_a_wait_past_the_deadline_is_not_begun(endpoint: Any) -> None:
    endpoint.default = (429, {"Retry-After": "60"})
    started = time.monotonic()
    with pytest.raises(ChatTransportError, match="past deadline_s"):
        ask(quick(endpoint.url, deadline_s=5))
    assert time.monotonic() - started < 2


def test_retry_after_in_all_its_forms() -> None:
    assert retry_after({"Retry-After": "7"}) == 7
    assert retry_after({"Retry-After-Ms": "250", "Retry-After": "7"}) == 0.25
    later = retry_after({"Retry-After": formatdate(time.time() + 30, usegmt=True)})
    assert later is not None
    assert 27 < later < 31
    for nonsense in ("soon", "-5", "inf", "nan", "", "1.2.3"):
        assert retry_after({"Retry-After": nonsense}) is None
    assert retry_after({}) is None
    assert Retry().wait(1, 10_000.0) <= 120.5


def test_backoff_is_full_jitter_under_a_cap() -> None:
    retry = Retry(base_s=0.5, cap_s=20)
    for attempt, top in [(1, 0.5), (2, 1.0), (4, 4.0), (30, 20.0)]:
        waits = [retry.wait(attempt, None) for _ in range(400)]
        assert 0 <= min(waits) < 0.1 * top
        assert 0.9 * top < max(waits) <= top


def test_a_server_that_dies_and_comes_back(endpoint: Any) -> None:
    chat = quick(endpoint.url, retries=12, backoff_s=0.02)

    async def through_a_restart() -> list[str]:
        first = await chat.complete(ChatRequest(ASK))
        endpoint.stop()
        threading.Timer(0.3, endpoint.start).start()
        second = await chat.complete(ChatRequest(ASK))
        await chat.aclose()
        return [first.text, second.text]

    assert run(through_a_restart) == ["hello", "hello"]


def test_an_endpoint_that_is_down_is_named(endpoint: Any) -> None:
    endpoint.stop()
    chat = quick(endpoint.url, retries=2)
    with pytest.raises(ChatTransportError) as caught:
        ask(chat)
    message = str(caught.value)
    assert message.startswith("unreachable: ")
    assert endpoint.url in message
    assert "3 attempts" in message
    assert "Check that the server is running" in message
    assert "\n" not in message
    endpoint.start()


def test_the_deadline_ends_a_stall(endpoint: Any, faults: Any) -> None:
    endpoint.default = faults.stall
    started = time.monotonic()
    with pytest.raises(ChatTransportError, match=r"^failed: no answer within"):
        ask(quick(endpoint.url, timeout_s=0.15, deadline_s=0.4, retries=50))
    assert time.monotonic() - started < 1.5


def test_the_key_is_sent_and_nowhere_else(
    endpoint: Any,
    faults: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    chat = quick(endpoint.url, api_key_env="JUDGE_KEY", retries=1)
    ask(chat)
    assert endpoint.headers[0]["Authorization"] == f"Bearer {KEY}"

    echo = {"error": {"message": f"Incorrect API key provided: {KEY}"}}
    seen = [repr(chat), str(vars(chat)), pickle.dumps(chat).decode("latin-1")]
    for fault in (
        lambda *_: _respond(401, echo),
        lambda *_: _respond(500, echo),
        lambda *_: _respond(200, echo),
        lambda *_: _respond(200, echo | {"choices": []}),
        f"not json {KEY}".encode(),
        faults.no_http,
        faults.cut,
        faults.reset,
    ):
        endpoint.default = fault
        with pytest.raises(ChatError) as caught:
            ask(chat)
        error = caught.value
        seen += [repr(error), *traceback.format_exception(error), str(error.__context__)]
        seen += _locals(error)
        seen.append(pickle.dumps(error).decode("latin-1"))
    assert not [text for text in [*seen, caplog.text] if KEY in text]
    assert "[secret]" in "".join(seen)


async def _respond(status: int, body: Any) -> Any:
    from aiohttp import web

    return web.json_response(body, status=status)


def _locals(error: BaseException) -> list[str]:
    """What a traceback that shows variables would print."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        if "/mpo/" in trace.tb_frame.f_code.co_filename:
            frames += [repr(value) for value in trace.tb_frame.f_locals.values()]
        trace = trace.tb_next
    return frames


def test_a_dummy_key_is_a_word_like_any_other(
    endpoint: Any, faults: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, text in {
        "x": "x-rays",
        "EMPTY": "EMPTY set",
        "not-needed": "a not-needed word",
    }.items():
        monkeypatch.setenv("OPENAI_API_KEY", key)
        endpoint.default = faults.body(text)
        assert ask(quick(endpoint.url)).text == text


def test_a_key_that_no_header_may_have(endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a\r\nX-Evil: 1")
    with pytest.raises(ConfigError) as caught:
        ask(quick(endpoint.url))
    assert "sk-a" not in str(caught.value)


def test_a_key_in_the_place_of_a_variables_name() -> None:
    with pytest.raises(ConfigError, match="the name of an environment variable") as caught:
        OpenAIChat("http://h/v1", "tiny", api_key_env=KEY)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000/v1", "base_url must be like"),
        ("http://me:pass@host/v1", "holds a user name or password"),
        ("", "base_url must be like"),
    ],
)
def test_base_urls_that_cannot_be_used(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        OpenAIChat(url, "tiny")
    assert "pass@" not in str(caught.value)


def test_base_urls_are_forgiving() -> None:
    for url in ("http://h/v1", "http://h/v1/", "http://h/v1/chat/completions"):
        assert OpenAIChat(url, "m").url == "http://h/v1/chat/completions"
    azure = OpenAIChat("https://h/openai?api-version=1", "m")
    assert azure.url == "https://h/openai/chat/completions?api-version=1"
    assert "api-version" not in repr(azure)


def test_the_limit_on_requests_in_flight_holds(endpoint: Any) -> None:
    endpoint.delay_s = 0.02
    chat = quick(endpoint.url, concurrency=5)

    async def many() -> None:
        await asyncio.gather(*(chat.complete(ChatRequest(ASK)) for _ in range(40)))
        await chat.aclose()

    run(many)
    assert len(endpoint.requests) == 40
    assert endpoint.most_in_flight == 5
    assert chat.limiter.in_flight == 0


def test_two_loops_in_two_threads_share_one_limit(endpoint: Any) -> None:
    endpoint.delay_s = 0.01
    chat = quick(endpoint.url, concurrency=4)
    texts: list[str] = []

    def work() -> None:
        async def many() -> None:
            got = await asyncio.gather(*(chat.complete(ChatRequest(ASK)) for _ in range(30)))
            texts.extend(completion.text for completion in got)
            await chat.aclose()

        asyncio.run(many())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert texts == ["hello"] * 60
    assert endpoint.most_in_flight == 4
    assert chat.limiter.in_flight == 0


def test_loops_one_after_the_other_without_closing(
    endpoint: Any, caplog: pytest.LogCaptureFixture
) -> None:
    chat = quick(endpoint.url)

    async def once() -> Any:
        return await chat.complete(ChatRequest(ASK))

    for _ in range(5):
        assert run(once).text == "hello"
    assert len(chat._sessions._by_loop) == 1
    assert not caplog.records


def test_a_copy_works_in_its_own_loop(endpoint: Any) -> None:
    chat = quick(endpoint.url, concurrency=3, extra_body={"top_k": 2})

    async def copy_while_busy() -> OpenAIChat:
        endpoint.delay_s = 0.05
        busy = asyncio.create_task(chat.complete(ChatRequest(ASK)))
        await asyncio.sleep(0.02)
        copied: OpenAIChat = pickle.loads(pickle.dumps(chat))
        await busy
        await chat.aclose()
        await chat.aclose()
        return copied

    copied = run(copy_while_busy)
    assert copied.limiter.in_flight == 0
    assert ask(copied).text == "hello"
    assert endpoint.requests[-1]["top_k"] == 2


def test_a_cancelled_call_gives_its_place_back(endpoint: Any, faults: Any) -> None:
    endpoint.default = faults.stall
    chat = quick(endpoint.url, concurrency=2)

    async def cancelled() -> None:
        calls = [asyncio.create_task(chat.complete(ChatRequest(ASK))) for _ in range(6)]
        await asyncio.sleep(0.1)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        endpoint.default = faults.body("again")
        assert (await chat.complete(ChatRequest(ASK))).text == "again"
        await chat.aclose()

    run(cancelled)
    assert chat.limiter.in_flight == 0


def test_the_proxy_of_the_environment_is_used(
    endpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", endpoint.url.removesuffix("/v1"))
    monkeypatch.delenv("no_proxy", raising=False)
    assert ask(quick("http://judge.invalid/v1")).text == "hello"
    assert endpoint.headers[0]["Host"] == "judge.invalid"
