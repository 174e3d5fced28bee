"""Processes that kill themselves where they are told to, for the tests of laws 5 and 8.

A program calls `serve(work)`. It reads jobs as lines of JSON on stdin, does each in a child that is
forked from it, whose imports are done (they take ten times as long as most jobs), and answers with
the child's exit code. `Driver` is the other end, in the test.

Where a child is, it tells its `Killer`, which learns of statements inside a transaction from the
trace that SQLite gives (Python tells of every new connection through `sys.addaudithook`).
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE_S = 300
"""A job that takes longer hangs, and is ended."""

Job = dict[str, Any]


class Killer:
    """Kills this process with SIGKILL when an event happens the n-th time.

    Events are what the process itself names, `SQL …` at the start of each SQL statement (by its
    first three words), and `write NAME` before a file of that name is opened to be written.
    """

    def __init__(self, event: str | None = None, n: int = 0) -> None:
        self.event, self.n = event, n
        self._lock = threading.Lock()
        self._seen = 0
        self._opened: list[sqlite3.Connection] = []
        sys.addaudithook(self._hear)

    def at(self, event: str) -> None:
        self.trace()
        if event != self.event:
            return
        with self._lock:
            self._seen += 1
            if self._seen == self.n:
                os.kill(os.getpid(), signal.SIGKILL)

    def trace(self) -> None:
        """Follow the connections that were opened since."""
        while self._opened:
            self._opened.pop().set_trace_callback(
                lambda sql: self.at("SQL " + " ".join(sql[:80].split()[:3]))
            )

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "sqlite3.connect/handle":
            self._opened.append(arguments[0])  # it takes no callback before it is all there
        elif event == "open" and "w" in str(arguments[1]):
            self.at(f"write {os.path.basename(str(arguments[0]))}")


def serve(work: Callable[[Job], None]) -> None:
    """Do jobs until stdin ends. The first answer is which heavy packages are loaded."""
    say([name for name in ("numpy", "torch") if name in sys.modules])
    for line in sys.stdin:
        say(_in_a_child(work, json.loads(line)))


def say(answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _in_a_child(work: Callable[[Job], None], job: Job) -> int:
    """Exit code, negative where a signal ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(PATIENCE_S)
            sys.stdout = sys.stderr  # the other one is for answers
            work(job)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Driver:
    """A program that serves.

    Args:
        program: Its file.

    Attributes:
        heavy: The heavy packages that it has loaded.
    """

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(program)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.heavy: list[str] = self._answer()

    def run(self, **job: Any) -> int:
        """Exit code of a new process that does the job."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(self._answer())

    def close(self) -> None:
        self._process.communicate(timeout=30)

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the program has ended"
        return json.loads(line)
