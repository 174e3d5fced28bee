"""Comparing answers in a process of its own, under a time limit.

A policy may write `9^{9^{9^9}}`. Neither a thread nor an alarm stops what the interpreter then
computes in one go; a process can be killed. It is started when first needed, and again after a
kill; plain cases never get there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
from typing import Any

from .equality import LONGEST, same_answer
from .latex import final_answer, number, tidy

__all__ = ["BoxedAnswers", "serve"]


class BoxedAnswers:
    """Compares last boxed answers; an `mpo.judge.AnswerChecker`.

    Args:
        timeout_s: Longest time for one comparison, in seconds; what takes longer is not equal.
            The first one also waits for the process to start.
    """

    def __init__(self, timeout_s: float = 5.0) -> None:
        self.timeout_s = timeout_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"timeout_s": self.timeout_s}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    async def correct(self, completion: str, reference: str) -> bool | None:
        """True if the completion's last boxed answer is the reference's.

        Args:
            completion: The text by the policy.
            reference: A solution with a boxed answer, or the bare answer.

        Returns:
            None if the reference is empty.
        """
        gold = _reference_answer(reference)
        if gold is None:
            return None
        given = final_answer(completion)
        if given is None:
            return False
        quick = _quick(gold, given)
        return quick if quick is not None else await asyncio.to_thread(self.same, gold, given)

    def same(self, gold: str, given: str) -> bool:
        """Compare two answers as `same_answer` does, in the process. Blocks."""
        quick = _quick(gold, given)
        if quick is not None:
            return quick
        with self._lock:
            return self._ask(gold, given)

    def close(self) -> None:
        """End the process, if there is one. The next comparison starts another."""
        with self._lock:
            self._end()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._end()

    def _ask(self, gold: str, given: str) -> bool:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = _start()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps([gold, given]) + "\n")
            process.stdin.flush()
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                if not selector.select(self.timeout_s):
                    self._end()
                    return False
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:  # it died: out of memory, most likely
            self._end()
            return False
        return line.strip() == "true"

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()


def _reference_answer(reference: str) -> str | None:
    boxed = final_answer(reference)
    if boxed is not None:
        return boxed
    bare = reference.strip()
    # A solution without a box is prose; an answer column holds the bare answer.
    return bare if bare and len(bare) <= 200 and "\n" not in bare else None


def _quick(gold: str, given: str) -> bool | None:
    """The comparison where it is plain; None where it takes more."""
    if len(given) > LONGEST:
        return given == gold
    first, second = tidy(gold), tidy(given)
    if first == second:
        return first != ""
    a, b = number(first), number(second)
    return a == b if a is not None and b is not None else None


def _start() -> subprocess.Popen[str]:
    """Start the process and wait until it is ready, so that imports do not eat the time limit."""
    # A process of its own program, no fork or spawn: a trainer holds CUDA, and a user's script may
    # have no `if __name__ == "__main__"`.
    process = subprocess.Popen(
        # Not -m: the package has imported this module by then, of which Python warns.
        [sys.executable, "-c", f"from {__name__} import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)},
    )
    assert process.stdout is not None
    ready = process.stdout.readline()
    if ready.strip() != "ready":
        process.kill()
        process.wait()
    return process


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        gib = 1 << 30
        resource.setrlimit(resource.RLIMIT_AS, (4 * gib, 4 * gib))


def serve() -> None:
    """Answer comparisons, a line each, until stdin ends; the process's program."""
    _limit_memory()
    with contextlib.suppress(Exception):
        same_answer("x+1", "1+x")  # loads math-verify
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        try:
            gold, given = json.loads(line)
            same = same_answer(gold, given)
        except Exception:  # a checker that dies would take the run's answers with it
            same = False
        print(json.dumps(same), flush=True)  # noqa: T201
