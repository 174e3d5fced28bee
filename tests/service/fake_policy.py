"""A policy behind OpenAI's chat API, with streaming: what verifiers' harness talks to.

python tests/service/fake_policy.py       prints its port; ends with its stdin
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

NUMBERS = count()


class Policy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = f"Essay number {next(NUMBERS)}: it has several words, and says little."
        base = {"id": "c", "created": 0, "model": body.get("model", "policy")}
        usage = {"prompt_tokens": 5, "completion_tokens": 12, "total_tokens": 17}
        if body.get("stream"):
            chunk = base | {"object": "chat.completion.chunk"}
            start = {"index": 0, "delta": {"role": "assistant", "content": text}}
            end = {"index": 0, "delta": {}, "finish_reason": "stop"}
            parts = [
                chunk | {"choices": [start | {"finish_reason": None}]},
                chunk | {"choices": [end]},
                chunk | {"choices": [], "usage": usage},
            ]
            lines = [f"data: {json.dumps(part)}\n\n" for part in parts]
            self._send("".join([*lines, "data: [DONE]\n\n"]), "text/event-stream")
            return
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        whole = base | {"object": "chat.completion", "choices": [choice], "usage": usage}
        self._send(json.dumps(whole), "application/json")

    def do_GET(self) -> None:
        self._send(json.dumps({"data": [{"id": "policy", "object": "model"}]}), "application/json")

    def _send(self, text: str, kind: str) -> None:
        data = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Policy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
