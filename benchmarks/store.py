"""The speed of the store, empty and full.

python benchmarks/store.py [--judgements N | --full] [--json]

Two processes append at once, in batches of one update, with their cases made before the clock
starts. Then the file is filled up, and a new process resumes the run and asks for the evidence of
one meta step: what it needs in time and memory must not depend on what lies before. The same is
measured before the file is filled up, to compare with.

The targets are for a machine with nothing else to do. Its load is printed, and the processor time
of the work, which a busy machine changes little.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from typing import IO, Any

import typer

from mpo.errors import StoreError
from mpo.records import Case, CriterionScore, Decision, Judgement, Rollout, Usage
from mpo.rubric import Criterion, Rubric
from mpo.store import Store
from program import run

BATCH = 64
"""Rollouts of an update (paper §3.1)."""
INTERVAL = 10
"""Updates of a meta step's evidence (paper §3.2)."""
QUICK, FULL = 100_000, 1_000_000
"""Judgements held, by default and with `--full`."""
WRITERS = 2
TIMED = 100
"""Batches that each writer appends against the clock."""
WINDOWS = 9

TARGETS = {"append_per_s": 10_000, "window_ms": 50, "resume_s": 5}

RUBRIC = Rubric(criteria=tuple(Criterion(name=f"Criterion {n}") for n in range(1, 6)))
ESSAY = "A river carries what the rain has washed from the hills, and gives it to the plain. " * 6
REASON = "The text names one cause and one effect, and leaves the second effect open."


def store(
    judgements: int = typer.Option(QUICK, min=1, help="Judgements that the store holds."),
    full: bool = typer.Option(False, "--full", help="A million of them: minutes, 3 GB of disk."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Measure the store: appending from two processes, the evidence query, memory and resume.

    The store is in a temporary folder (set TMPDIR to move it). The rates hold for a machine with
    nothing else to do.

    Example: python benchmarks/store.py --json
    """
    result = measure(FULL if full else judgements)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    targets = result["targets"]
    typer.echo(f"{result['judgements']} judgements, {result['file_mb']} MB")
    typer.echo(
        f"append   {result['append_per_s']} judgements/s by 2 processes "
        f"(target {targets['append_per_s']}; {result['append_cpu_us']} us of a processor each)"
    )
    typer.echo(
        f"window   {result['window_ms']} ms for {result['window_cases']} cases "
        f"(target {targets['window_ms']}; {result['window_cpu_ms']} ms of a processor)"
    )
    typer.echo(f"resume   {result['resume_s']} s (target {targets['resume_s']})")
    typer.echo(
        f"memory   {result['peak_mb']} MB at most, resume and window ({result['peak_mb_before']} "
        f"MB with {result['judgements_before']} judgements)"
    )
    typer.echo(f"load     {result['load']} when it began")


def measure(judgements: int) -> dict[str, Any]:
    """Measure a store that holds so many judgements; JSON values.

    Raises:
        StoreError: A process failed; or the disk.
    """
    with tempfile.TemporaryDirectory(prefix="mpo-bench-") as folder:
        path = Path(folder) / "mpo.db"
        with Store(path) as store:
            store.decide(
                Decision(kind="seed", proposed=RUBRIC.id, accepted=True, reason="bench"), RUBRIC
            )
        timed = min(TIMED, max(1, judgements // (2 * WRITERS * BATCH)))
        load = os.getloadavg()[0]
        seconds, cpu = _append(path, timed)
        before = _resumed(path)
        with Store(path) as store:
            written = WRITERS * timed
            for step in range(written, max(written + INTERVAL, judgements // BATCH)):
                store.append(_batch(step))
            held = store.count(cohort=None)
        after = _resumed(path)
        return {
            "append_per_s": round(WRITERS * timed * BATCH / seconds),
            "append_cpu_us": round(1e6 * cpu / (WRITERS * timed * BATCH), 1),
            "window_ms": after["window_ms"],
            "window_cpu_ms": after["window_cpu_ms"],
            "peak_mb": after["peak_mb"],
            "peak_mb_before": before["peak_mb"],
            "resume_s": after["resume_s"],
            "load": round(load, 2),
            "judgements": held,
            "judgements_before": written * BATCH,
            "window_cases": after["cases"],
            "file_mb": round(path.stat().st_size / 1e6, 1),
            "targets": TARGETS,
        }


def _resumed(path: Path) -> dict[str, Any]:
    """Figures of a new process that resumes the run at its end."""
    with Store(path) as store:
        snapshot = store.snapshot(store.last_step() or 0)
    result: dict[str, Any] = json.loads(_finish(_start("resume", path, json.dumps(snapshot))))
    return result


def _append(path: Path, batches: int) -> tuple[float, float]:
    """Seconds that two processes need at once, on the clock and of a processor; each says when its
    cases are ready."""
    writers = [
        _start("append", path, str(number * batches), str(batches)) for number in range(WRITERS)
    ]
    for writer in writers:
        if _stream(writer.stdout).readline().strip() != "ready":
            raise StoreError(f"a process of the bench failed: {_finish(writer)}")
    started = time.perf_counter()
    for writer in writers:
        _stream(writer.stdin).write("go\n")
        _stream(writer.stdin).flush()
    lines = [_stream(writer.stdout).readline() for writer in writers]
    seconds = time.perf_counter() - started
    for writer in writers:
        _finish(writer)
    return seconds, sum(map(float, lines))


# ---------------------------------------------------------------------- in the other processes


def child(arguments: list[str]) -> None:
    """Work of the benchmark's other processes."""
    what, path, *rest = arguments
    if what == "append":
        _child_append(Path(path), int(rest[0]), int(rest[1]))
    else:
        _child_resume(Path(path), json.loads(rest[0]))


def _child_append(path: Path, first: int, batches: int) -> None:
    cases = [_batch(step) for step in range(first, first + batches)]
    with Store(path, create=False) as store:
        store.last_step()  # the connection is open
        _say("ready")
        sys.stdin.readline()
        before = time.process_time()
        for batch in cases:
            store.append(batch)
        _say(f"{time.process_time() - before:.6f}")


def _child_resume(path: Path, snapshot: dict[str, Any]) -> None:
    started = time.perf_counter()
    with Store(path, create=False) as store:
        store.restore(snapshot)
        store.heads()
        store.lineage()
        store.usage()
        last = store.last_step() or 0
        resumed = time.perf_counter() - started
        taken, spent, cases = [], [], 0
        for _ in range(WINDOWS):
            started, before = time.perf_counter(), time.process_time()
            cases = len(store.window(after_step=last - INTERVAL, up_to_step=last))
            taken.append(time.perf_counter() - started)
            spent.append(time.process_time() - before)
    _say(
        json.dumps(
            {
                "resume_s": round(resumed, 3),
                "window_ms": round(1000 * median(taken), 1),
                "window_cpu_ms": round(1000 * median(spent), 1),
                "cases": cases,
                "peak_mb": round(getrusage(RUSAGE_SELF).ru_maxrss / 1024, 1),
            }
        )
    )


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _batch(step: int) -> list[Case]:
    return list(_cases(step))


def _cases(step: int) -> Iterator[Case]:
    for index in range(BATCH):
        rollout = Rollout(
            prompt=f"Write about river {step * BATCH + index}.",
            completion=f"River {step}-{index}. {ESSAY}",
            step=step,
            index=index,
        )
        scores = tuple(
            CriterionScore(criterion=key, score=(step + index + n) % 6, rationale=REASON)
            for n, key in enumerate(RUBRIC.criterion_ids)
        )
        share = sum(s.score for s in scores) / (5 * len(scores))
        judgement = Judgement(
            key=f"{rollout.id}-bench",
            rollout_id=rollout.id,
            rubric_id=RUBRIC.id,
            step=step,
            scores=scores,
            reward=share,
            normalized_reward=share,
            usage=Usage(calls=1, prompt_tokens=900, completion_tokens=120),
        )
        yield Case(rollout=rollout, judgement=judgement)


# ---------------------------------------------------------------------- processes


def _start(what: str, path: Path, *rest: str) -> subprocess.Popen[str]:
    here = str(Path(__file__).parent)
    program = f"import sys; sys.path.insert(0, {here!r}); import store; store.child(sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", program, what, str(path), *rest],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None  # all three are pipes
    return stream


def _finish(process: subprocess.Popen[str]) -> str:
    """The rest of its output.

    Raises:
        StoreError: It failed.
    """
    out, err = process.communicate()
    if process.returncode:
        last = err.strip().splitlines()[-1:] or ["no message"]
        raise StoreError(f"a process of the bench failed: {last[0]}")
    return out


if __name__ == "__main__":
    run(store)
