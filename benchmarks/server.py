"""A chat endpoint that answers after a given time, and does nothing else, for `judge.py`.

    python benchmarks/server.py LATENCY_S < reply.json     prints its port

It reads no more of a request than where it ends, so that it does not compete for the processor
that is being measured. It ends when its stdin is closed.
"""

from __future__ import annotations

import asyncio
import json
import sys

__all__ = ["main"]


class _Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, as far as one known client needs it."""

    def __init__(self, answer: bytes, latency_s: float) -> None:
        self._answer = answer
        self._latency_s = latency_s
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._body_left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._body_left:
            self._body_left -= len(data)
            if self._body_left <= 0:
                self._loop.call_later(self._latency_s, self._reply)
                self._body_left = 0
            return
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[:end]).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        self._body_left = length - (len(self._buffer) - end - 4)
        self._buffer.clear()
        if self._body_left <= 0:
            self._loop.call_later(self._latency_s, self._reply)
            self._body_left = 0

    def _reply(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._answer)


def answer(text: str) -> bytes:
    """A whole reply with the text as the model's answer."""
    body = json.dumps(
        {
            "object": "chat.completion",
            "model": "bench",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": text},
                }
            ],
            "usage": {"prompt_tokens": 1637, "completion_tokens": 100, "total_tokens": 1737},
        }
    ).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def _serve(latency_s: float, text: str) -> None:
    loop = asyncio.get_running_loop()
    reply = answer(text)
    server = await loop.create_server(
        lambda: _Connection(reply, latency_s), "127.0.0.1", 0, backlog=1024
    )
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)  # until the parent closes it, or is gone


def main(arguments: list[str]) -> None:
    """Serve until stdin ends. Its first line is the answer's text, as JSON."""
    asyncio.run(_serve(float(arguments[0]), json.loads(sys.stdin.readline())))


if __name__ == "__main__":
    main(sys.argv[1:])
