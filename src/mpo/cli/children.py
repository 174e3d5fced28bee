"""Runs as child processes: `python -m mpo train …`, several side by side.

Children belong to sessions of their own, so that Ctrl-C reaches only this process, which then ends
its own children and nobody else's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Job", "run_jobs"]

Tell = Callable[[str, Mapping[str, Any]], None]
"""Receives an event of a job, by its label."""

_LINE = 2**20
"""Longest line of a child, in bytes."""
_GRACE_S = 30.0
"""Seconds until an interrupted child is killed: it may be writing a checkpoint."""
_AGAIN_S = 5.0
"""Seconds between two interrupts: a library that is being imported may swallow one."""


@dataclass(frozen=True)
class Job:
    """One run to start."""

    label: str
    """`mpo-0`."""
    arguments: Sequence[str]
    """Arguments of `mpo`."""
    log: Path
    """Takes the child's stderr."""


def run_jobs(jobs: Sequence[Job], parallel: int, tell: Tell) -> dict[str, str]:
    """Run all jobs, at most `parallel` at once. A failed one does not stop the others.

    Returns:
        By label of each job that failed: its last error line.

    Raises:
        KeyboardInterrupt: All children were ended first.
    """
    children: dict[str, asyncio.subprocess.Process] = {}
    try:
        with _interruptible_children():
            return asyncio.run(_run_all(jobs, parallel, tell, children))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None  # by SIGTERM
    finally:
        # Only after a second Ctrl-C is anyone left here.
        for child in children.values():
            _signal(child, signal.SIGKILL)


async def _run_all(
    jobs: Sequence[Job],
    parallel: int,
    tell: Tell,
    children: dict[str, asyncio.subprocess.Process],
) -> dict[str, str]:
    task = asyncio.current_task()
    assert task is not None
    # `kill PID` ends the children as Ctrl-C does.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    places = asyncio.Semaphore(parallel)
    failed: dict[str, str] = {}

    async def one(job: Job) -> None:
        async with places:
            error = await _run(job, parallel > 1, tell, children)
        if error is not None:
            failed[job.label] = error
            tell(job.label, {"kind": "failed", "message": error})
        else:
            tell(job.label, {"kind": "done"})

    async with asyncio.TaskGroup() as group:
        for job in jobs:
            group.create_task(one(job))
    return failed


async def _run(
    job: Job, crowded: bool, tell: Tell, children: dict[str, asyncio.subprocess.Process]
) -> str | None:
    """Run a job to its end; its error line if it failed."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ, PYTHONUNBUFFERED="1")
    if crowded:
        # Two processes with a thread per core each are several times slower than one after the
        # other.
        environment["OMP_NUM_THREADS"] = "1"
    tell(job.label, {"kind": "status", "message": "starting"})
    with job.log.open("wb") as log:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mpo", *job.arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=environment,
            limit=_LINE,
            start_new_session=True,
        )
    children[job.label] = child
    try:
        await _listen(job.label, child, tell)
        code = await child.wait()
    finally:
        await _end(child)
        del children[job.label]
    return None if code == 0 else _last_error(job.log, code)


async def _listen(label: str, child: asyncio.subprocess.Process, tell: Tell) -> None:
    assert child.stdout is not None
    async for line in child.stdout:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a library that prints
        # `done` is reported when the process has ended well, not when it says so.
        if isinstance(event, dict) and event.get("kind") in ("status", "step", "meta"):
            tell(label, event)


async def _end(child: asyncio.subprocess.Process) -> None:
    """Interrupt a child that still runs, and kill it if that does not end it."""
    if child.returncode is not None:
        return
    waiting = asyncio.ensure_future(child.wait())
    for _ in range(round(_GRACE_S / _AGAIN_S)):
        _signal(child, signal.SIGINT)
        await asyncio.wait([waiting], timeout=_AGAIN_S)
        if waiting.done():
            break
    _signal(child, signal.SIGKILL)
    await waiting


def _signal(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)


def _last_error(log: Path, code: int) -> str:
    """Last words of a failed child: its `error:` line, else its last line."""
    with log.open(encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in deque(file, maxlen=200) if line.strip()]
    named = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    what = (named or lines or ["it said nothing"])[-1]
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{what} ({how}; all it said: {log})"


@contextlib.contextmanager
def _interruptible_children() -> Iterator[None]:
    """Children that can be interrupted, also where this process cannot be.

    A shell lets what it runs in the background ignore SIGINT, and ignoring is inherited: such
    children would write no checkpoint, and only die when their grace is over. A handler is not
    inherited: they start with the default.
    """
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
