"""The way of one rollout through `score`: functions, files, SQLite connections, cleanings.

    python benchmarks/path.py [--json] [--list]

A profile hook counts while one rollout of the task `essay` is scored into a new store, with the
chats that a run has and a scripted model in the middle. Only code of the package `mpo` counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import mpo
from mpo.chat import ScriptedChat
from mpo.config.chats import compose
from mpo.config.schema import BudgetConfig
from mpo.records import Rollout
from mpo.reward import EvolvingReward
from mpo.store import Store

PACKAGE = str(Path(mpo.__file__).parent)
COMPLETION = (
    "The mill stands by the river, and its wheel turns from early spring until late autumn. " * 3
)


class PathCounter:
    """Profile hook that counts calls of Python functions of the package, from all threads."""

    def __init__(self) -> None:
        self.calls: Counter[CodeType] = Counter()
        self.connections = 0
        self.cleans = 0

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE):
            return
        self.calls[code] += 1
        # Every operation of the store takes a connection with this method.
        self.connections += code.co_qualname == "Database._take"
        if code.co_qualname == "clean" and code.co_filename.endswith("sanitize.py"):
            self.cleans += frame.f_locals["text"] == COMPLETION

    def figures(self) -> dict[str, int]:
        """The counts that are printed."""
        return {
            "functions": len(self.calls),
            "files": len({code.co_filename for code in self.calls}),
            "connections": self.connections,
            "cleans": self.cleans,
        }

    def listing(self) -> list[str]:
        """Every function with its number of calls, by file and line."""
        codes = sorted(self.calls, key=lambda code: (code.co_filename, code.co_firstlineno))
        return [
            f"{self.calls[code]:5}  {Path(code.co_filename).relative_to(PACKAGE)}"
            f":{code.co_firstlineno}  {code.co_qualname}"
            for code in codes
        ]


def answer(*request: Any) -> str:
    """The top score for every criterion that the schema names."""
    (schema,) = (part for part in request if isinstance(part, dict))
    return json.dumps(
        {
            key: {
                "rationale": "It reads well.",
                "score": entry["properties"]["score"]["enum"][-1],
            }
            for key, entry in schema["properties"].items()
        }
    )


def measure() -> PathCounter:
    """Counts for one rollout that is scored into a new store."""
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "mpo.db") as store:
        chat = ScriptedChat(answer)
        chats = compose(chat, chat, BudgetConfig(), store, cache=True)
        reward = EvolvingReward("essay", chats.rm, store)
        rollout = Rollout(prompt="Write an essay on a mill.", completion=COMPLETION)
        counter = PathCounter()

        async def score() -> None:
            threading.setprofile(counter)
            sys.setprofile(counter)
            try:
                (judgement,) = await reward.score([rollout])
            finally:
                sys.setprofile(None)
                threading.setprofile(None)
            assert judgement.reward == 1.0, judgement

        asyncio.run(score())
    return counter


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    parser.add_argument("--list", action="store_true", help="print every function with its calls")
    options = parser.parse_args()
    counter = measure()
    if options.json:
        print(json.dumps(counter.figures()))
        return
    if options.list:
        print("\n".join(counter.listing()))
    for name, count in counter.figures().items():
        print(f"{name:12}{count:5}")


if __name__ == "__main__":
    main()
