"""The load that the service bears, and what it loses when it is killed.

python benchmarks/service.py [--full | --quick] [--json]

Everything runs on loopback: the service in one process, clients in others. The simulated model
takes 50 ms, so that what a request takes beyond that is overhead.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from mpo.errors import ConfigError
from mpo.store import Store
from program import run

TARGETS = {"items_per_s": 500.0, "p99_overhead_ms": 100.0}
LATENCY_S = 0.05
BATCH = 32
RATE = 200.0
"""Items per second at which the overhead is measured."""
META_EVERY_S = 5.0
K = 1
"""Updates between meta steps: each one that is announced is held."""


@dataclass(frozen=True)
class Settings:
    """Length of the measurement."""

    items: int = 20_000
    """At full speed; memory is compared between its first and its last fifth."""
    rated_s: float = 30.0
    """Seconds at `RATE`, for batches and again for single items."""
    kills: int = 20
    kill_items: int = 16_000
    """Sent while the service is killed and started again."""
    clients: int = 2


def service(
    full: bool = typer.Option(False, "--full", help="200,000 items instead of 20,000."),
    quick: bool = typer.Option(False, "--quick", help="A tenth, to see that it works."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Measure the service under load, and kill it, with a simulated model that takes 50 ms.

    The exit code is 1 where a figure misses its target, or a kill has lost anything.

    Example: python benchmarks/service.py --json
    """
    settings = Settings(items=200_000 if full else 20_000)
    if quick:
        settings = Settings(items=1_600, rated_s=3, kills=2, kill_items=800)
    figures = measure(settings)
    missed = figures.pop("missed")
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        for name, value in figures.items():
            typer.echo(f"{name:<24} {value}")
    if missed:
        raise ConfigError(f"off target: {', '.join(missed)}")


@dataclass
class _Node:
    """The service, as a process."""

    folder: Path
    latency_s: float = LATENCY_S
    port: int = 0
    process: subprocess.Popen[str] = field(init=False)
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        arguments = [self.folder, self.port, self.latency_s, K]
        self.process = _program("node.py", *map(str, arguments))
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            _, said = self.process.communicate()
            raise ConfigError(f"the service did not start: {said.strip()[-300:]}")
        self.port = int(self.url.rpartition(":")[2])

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.communicate(timeout=60)

    def memory_mb(self) -> float:
        """Resident memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def meta_step(self, n: int) -> bool:
        """Announce an update; False where the service is not there just now."""
        data = json.dumps({"step": n}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/v1/meta_step", data, headers)
        with suppress(OSError), urllib.request.urlopen(request, timeout=30) as response:
            return bool(json.load(response)["due"])
        return False


def measure(settings: Settings) -> dict[str, Any]:
    """Measure everything.

    Returns:
        Figures by name, and under `missed` what is over or under its target.
    """
    with tempfile.TemporaryDirectory(prefix="mpo-bench-") as folder:
        figures: dict[str, Any] = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
        figures |= _speed(Path(folder) / "speed", settings)
        figures |= _overhead(Path(folder) / "rated", settings)
        figures |= _killed(Path(folder) / "killed", settings)
    missed = []
    if figures["items_per_s"] < TARGETS["items_per_s"]:
        missed.append(f"items_per_s={figures['items_per_s']:g}")
    if figures["p99_overhead_ms"] > TARGETS["p99_overhead_ms"]:
        missed.append(f"p99_overhead_ms={figures['p99_overhead_ms']:g}")
    missed += [f"{name}={figures[name]}" for name in ("lost", "scored_twice") if figures[name]]
    if figures["memory_growth_mb"] > 0.1 * figures["peak_mb"]:
        missed.append(f"memory_growth_mb={figures['memory_growth_mb']:g}")
    return figures | {"missed": missed}


# ---------------------------------------------------------------------- the parts


def _speed(folder: Path, settings: Settings) -> dict[str, Any]:
    """Items per second as fast as they are answered, and the memory that takes."""
    folder.mkdir()
    node = _Node(folder)
    memory: list[float] = []
    clients = _clients(node.url, settings.clients, settings.items, BATCH, 0.0)
    started = time.perf_counter()
    while any(client.process.poll() is None for client in clients):
        memory.append(node.memory_mb())
        time.sleep(0.2)
    wall = time.perf_counter() - started
    results = [client.result() for client in clients]
    node.stop()
    fifth = max(1, len(memory) // 5)
    first, last = memory[fifth : 2 * fifth] or memory, memory[-fifth:]
    return {
        "items": sum(len(t["rewards"]) for t in results),
        "items_per_s": round(
            sum(len(t["rewards"]) for t in results) / max(t["wall_s"] for t in results), 1
        ),
        "wall_s": round(wall, 1),
        "peak_mb": round(max(memory), 1),
        "memory_growth_mb": round(max(last) - max(first), 1),
    }


def _overhead(folder: Path, settings: Settings) -> dict[str, Any]:
    """Time of a request beyond the model's own, while meta steps are held."""
    folder.mkdir()
    node = _Node(folder)
    figures: dict[str, Any] = {}
    for name, batch in (("", BATCH), ("_single", 1)):
        items = int(RATE * settings.rated_s / settings.clients) // batch * batch
        clients = _clients(node.url, settings.clients, items * settings.clients, batch, RATE)
        with _MetaSteps(node):
            results = [client.result() for client in clients]
        times = sorted(second for t in results for second in t["seconds"])
        figures[f"p50_overhead_ms{name}"] = _ms(times, 0.50)
        figures[f"p99_overhead_ms{name}"] = _ms(times, 0.99)
        figures[f"requests{name}"] = len(times)
    node.stop()
    return figures


def _killed(folder: Path, settings: Settings) -> dict[str, Any]:
    """kill -9 and start again, under load: what was committed is there, and nothing twice."""
    folder.mkdir()
    node = _Node(folder)
    clients = _clients(node.url, settings.clients, settings.kill_items, BATCH, RATE)
    committed: dict[str, None] = {}
    heads_lost = 0
    with _MetaSteps(node) as meta:
        for kill in range(settings.kills):
            time.sleep((1.0, 6.0)[kill % 2])  # with and without a meta step in between
            node.stop(signal.SIGKILL)
            with Store(node.folder / "mpo.db", create=False) as store:
                cases = store.window(cohort=None, scored=None)
                committed |= dict.fromkeys(case.judgement.key for case in cases)
                head = store.heads().get("")
            node.start()
            with Store(node.folder / "mpo.db", create=False) as store:
                heads_lost += head not in [d.proposed for d in store.lineage()]
        results = [client.result() for client in clients]
    node.stop()
    return _compared(node.folder, committed, results) | {
        "kills": settings.kills,
        "heads_lost": heads_lost,
        "meta_steps": meta.held,
    }


def _compared(folder: Path, committed: Any, results: list[dict[str, Any]]) -> dict[str, Any]:
    """The store against what was seen in it before, and against the rewards that clients got."""
    rewards = {id: reward for t in results for id, reward in t["rewards"].items()}
    with Store(folder / "mpo.db", create=False) as store:
        cases = store.window(cohort=None, scored=None)
        usage = store.usage()["rm"].calls
        evolved = [d.step for d in store.lineage() if d.kind == "evolve"]
    keys = [case.judgement.key for case in cases]
    stored = sorted(case.judgement.reward for case in cases if case.judgement.reward is not None)
    given = sorted(reward for reward in rewards.values() if reward is not None)
    return {
        "lost": len([key for key in committed if key not in dict.fromkeys(keys)])
        + abs(len(stored) - len(given)),
        "scored_twice": len(keys) - len(set(keys)) + usage - len(keys)
        + len(evolved) - len(set(evolved)),
        "answers_that_differ": sum(a != b for a, b in zip(stored, given, strict=False)),
        "unscored": sum(reward is None for reward in rewards.values()),
    }  # fmt: skip


# ---------------------------------------------------------------------- processes


def _program(name: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name(name)), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ, OMP_NUM_THREADS="1"),
    )


class _Client:
    """A client process with its job."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.process = _program("client.py")
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job))
        self.process.stdin.close()
        self._output = ""
        # Read while it runs: a pipe that is full would stop it.
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self._output = self.process.stdout.read()

    def result(self) -> dict[str, Any]:
        """The client's figures."""
        self._reader.join()
        if self.process.wait():
            assert self.process.stderr is not None
            raise ConfigError(f"a client failed: {self.process.stderr.read().strip()[-300:]}")
        result: dict[str, Any] = json.loads(self._output)
        return result


def _clients(url: str, count: int, items: int, batch: int, rate: float) -> list[_Client]:
    common = {"url": url, "items": items // count, "batch": batch, "rate": rate / count}
    return [_Client({"name": f"c{batch}-{i}", **common}) for i in range(count)]


class _MetaSteps:
    """Announces an update every `META_EVERY_S` seconds, while the block lasts."""

    def __init__(self, node: _Node) -> None:
        self._node = node
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.held = 0

    def __enter__(self) -> _MetaSteps:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    def _run(self) -> None:
        n = 0
        while not self._over.wait(META_EVERY_S):
            n += 1
            self.held += self._node.meta_step(n)


def _ms(times: list[float], quantile: float) -> float:
    """A quantile beyond the model's own time, in milliseconds."""
    return round(1000 * (times[min(len(times) - 1, int(quantile * len(times)))] - LATENCY_S), 1)


if __name__ == "__main__":
    run(service)
