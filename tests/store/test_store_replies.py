"""The store as a cache of answers: on no branch, committed in batches, lost only with a kill."""

from __future__ import annotations

import asyncio
import os
import pickle
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from mpo.chat import Cache, CachedChat, ChatRequest, ScriptedChat
from mpo.errors import StoreError
from mpo.records import Decision, Usage
from mpo.rubric import parse_rubric
from mpo.store import Store

SRC = Path(__file__).parents[2] / "src"
SEED = parse_rubric("# Seed\n## Flow  (weight 1)\nIdeas follow.\n- 0: no\n- 5: yes\n")
ANSWER = {"text": "Grüße \ud800 🌊", "usage": {"calls": 1}, "finish_reason": "stop"}


def kept(path: Path) -> list[str]:
    """Keys that another connection sees: what is committed."""
    connection = sqlite3.connect(path)
    try:
        return [key for (key,) in connection.execute("SELECT key FROM replies ORDER BY n")]
    finally:
        connection.close()


def plant(store: Store) -> None:
    store.decide(Decision(kind="seed", proposed=SEED.id, accepted=True, reason="seed"), SEED)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "mpo.db")


def test_what_was_put_comes_back_and_the_first_value_stays(store: Store) -> None:
    cache: Cache = store
    assert cache.get("a") is None
    cache.put("a", ANSWER)
    cache.put("a", {"text": "another"})
    assert cache.get("a") == ANSWER
    store.close()
    with Store(store.path) as again:
        assert again.get("a") == ANSWER
        again.put("a", {"text": "a third"})
    with Store(store.path) as again:
        assert again.get("a") == ANSWER


def test_without_a_loop_an_answer_is_committed_at_once(store: Store) -> None:
    store.put("a", ANSWER)
    assert kept(store.path) == ["a"]


def test_in_a_loop_answers_wait_for_each_other_but_a_moment(store: Store) -> None:
    async def scene() -> tuple[list[str], list[str]]:
        for n in range(20):
            store.put(f"k{n}", ANSWER)
        early = kept(store.path)
        assert store.get("k3") == ANSWER, "what waits is known"
        await asyncio.sleep(0.5)
        return early, kept(store.path)

    early, late = asyncio.run(scene())
    assert early == []
    assert late == [f"k{n}" for n in range(20)]


def test_many_answers_do_not_wait(store: Store) -> None:
    async def scene() -> int:
        for n in range(1000):
            store.put(f"k{n}", ANSWER)
        return len(kept(store.path))

    assert asyncio.run(scene()) >= 500
    store.flush()
    assert len(kept(store.path)) == 1000


def test_a_commit_of_events_takes_them_along(store: Store) -> None:
    async def scene() -> list[str]:
        store.put("a", ANSWER)
        plant(store)
        return kept(store.path)

    assert asyncio.run(scene()) == ["a"]


def test_closing_commits_and_an_ended_loop_forgets_nothing(store: Store) -> None:
    async def one(key: str) -> None:
        store.put(key, ANSWER)

    asyncio.run(one("a"))  # its timer ends with its loop
    asyncio.run(one("b"))
    store.close()
    assert set(kept(store.path)) == {"a", "b"}
    with pytest.raises(StoreError, match="closed"):
        store.put("c", ANSWER)


def test_answers_are_of_no_branch(store: Store) -> None:
    plant(store)
    snapshot = store.snapshot(0)
    store.put("a", ANSWER)
    store.log_event("x", 1, 0, [])
    store.restore(snapshot)
    assert store.events() == []
    assert store.get("a") == ANSWER


def test_threads_and_copies_share_what_is_committed(store: Store) -> None:
    def work(first: int) -> None:
        for n in range(first, first + 50):
            store.put(f"k{n}", {"text": str(n)})

    threads = [threading.Thread(target=work, args=(n,)) for n in (0, 25, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    copy = pickle.loads(pickle.dumps(store))
    assert [copy.get(f"k{n}") for n in range(100)] == [{"text": str(n)} for n in range(100)]
    assert len(kept(store.path)) == 100


def test_a_store_of_the_first_format_is_brought_up_to_date(store: Store) -> None:
    plant(store)
    store.close()
    connection = sqlite3.connect(store.path)
    connection.execute("DROP TABLE replies")
    connection.execute("DROP TABLE spending")
    connection.execute("DELETE FROM migrations WHERE version > 1")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    with Store(store.path) as old:
        old.put("a", ANSWER)
        assert old.get("a") == ANSWER
        assert old.head() == SEED


def test_a_value_that_json_cannot_express_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="JSON"):
        store.put("a", {"text": object()})
    assert store.get("a") is None


def test_a_value_of_another_program_counts_as_unknown(store: Store) -> None:
    store.put("a", ANSWER)
    connection = sqlite3.connect(store.path)
    connection.execute("UPDATE replies SET content = '[1, 2'")
    connection.commit()
    connection.close()
    assert store.get("a") is None


def test_a_killed_run_asks_only_what_it_had_not_committed(tmp_path: Path) -> None:
    """Answers that were committed survive a SIGKILL; a chat on the same file asks for the rest."""
    script = """
        import asyncio, os, signal, sys
        from mpo.chat import CachedChat, ChatRequest, ScriptedChat
        from mpo.store import Store

        store = Store(sys.argv[1])
        chat = CachedChat(ScriptedChat(lambda messages, schema, seed: "first"), store)

        async def main():
            for n in range(5):
                await chat.complete(ChatRequest(({"role": "user", "content": str(n)},)))
                await asyncio.sleep(0.2)  # committed by its timer
            await chat.complete(ChatRequest(({"role": "user", "content": "5"},)))
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main())
    """
    path = tmp_path / "mpo.db"
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(path)],
        env=os.environ | {"PYTHONPATH": str(SRC)},
        check=False,
    )
    assert child.returncode == -9
    inner = ScriptedChat(lambda messages, schema, seed: "second")
    with Store(path) as store:
        chat = CachedChat(inner, store)

        async def again() -> list[str]:
            requests = [ChatRequest(({"role": "user", "content": str(n)},)) for n in range(6)]
            return [(await chat.complete(request)).text for request in requests]

        assert asyncio.run(again()) == ["first"] * 5 + ["second"]
        assert chat.hits == 5
        assert inner.usage == Usage(calls=1, prompt_tokens=1, completion_tokens=1)
