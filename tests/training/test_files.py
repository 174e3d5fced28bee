"""Which checkpoint counts, and the rubric files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mpo.errors import StoreError
from mpo.records import Decision
from mpo.rubric import Criterion, Rubric
from mpo.store import Store
from mpo.training.files import newest_checkpoint, write_rubrics

SNAPSHOT = {"MPOCallback": {"args": {}, "attributes": {}, "snapshot": {"seq": 1}}}


def checkpoint(folder: Path, step: int, **state: object) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "rng_state.pth").write_bytes(b"state")
    whole = {"global_step": step, "stateful_callbacks": SNAPSHOT} | state
    (path / "trainer_state.json").write_text(json.dumps(whole))
    return path


def rubric(name: str) -> Rubric:
    criterion = Criterion(name=name, text="how good", levels=(), scores=(0, 1, 2), weight=1.0)
    return Rubric(title="Essay", criteria=(criterion,))


def test_the_newest_complete_checkpoint_counts(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "missing") is None
    checkpoint(tmp_path, 20)
    hundred = checkpoint(tmp_path, 100)  # 100 > 20, though "100" < "20"
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-999").write_text("a file")
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert (found.step, found.folder) == (100, hundred)


@pytest.mark.parametrize("fault", ["no state", "torn", "no rng", "empty rng", "no rubric", "list"])
def test_what_is_incomplete_is_skipped_and_taken_away(tmp_path: Path, fault: str) -> None:
    checkpoint(tmp_path, 3)
    newer = checkpoint(tmp_path, 6)
    state = newer / "trainer_state.json"
    if fault == "no state":
        state.unlink()
    elif fault == "torn":
        state.write_text(state.read_text()[:20])
    elif fault == "no rng":
        (newer / "rng_state.pth").unlink()
    elif fault == "empty rng":
        (newer / "rng_state.pth").write_bytes(b"")
    elif fault == "no rubric":
        state.write_text(json.dumps({"global_step": 6, "stateful_callbacks": {}}))
    else:
        state.write_text("[]")
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 3
    assert newer.exists()  # only whoever is about to train takes it away
    newest_checkpoint(tmp_path, remove_broken=True)
    assert not newer.exists()


def test_every_rank_must_have_left_its_random_state(tmp_path: Path) -> None:
    entry = SNAPSHOT["MPOCallback"] | {"processes": 2}
    path = checkpoint(tmp_path, 3, stateful_callbacks={"MPOCallback": entry})
    (path / "rng_state_0.pth").write_bytes(b"state")
    assert newest_checkpoint(tmp_path) is None
    (path / "rng_state_1.pth").write_bytes(b"state")
    assert newest_checkpoint(tmp_path) is not None


def test_rubric_files_follow_the_lineage(tmp_path: Path) -> None:
    store = Store(tmp_path / "mpo.db")
    seed, second = rubric("Clarity"), rubric("Depth")
    seeded = Decision(kind="seed", proposed=seed.id, accepted=True, reason="seed")
    store.decide(seeded, seed)
    before = store.snapshot(0)
    accepted = Decision(step=10, parent=seed.id, proposed=second.id, accepted=True, reason="ok")
    store.decide(accepted, second)
    rejected = Decision(step=20, parent=second.id, proposed=seed.id, accepted=False, reason="no")
    store.decide(rejected, seed)

    folder = tmp_path / "rubrics"
    write_rubrics(folder, store)
    (folder / "step-notes.md").write_text("mine")
    first, other = f"step-000000-{seed.id}.md", f"step-000010-{second.id}.md"
    assert sorted(p.name for p in folder.iterdir()) == [first, other, "step-notes.md"]

    store.restore(before)
    write_rubrics(folder, store)
    assert sorted(p.name for p in folder.iterdir()) == [first, "step-notes.md"]


def test_a_rubric_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path / "mpo.db")
    seed = rubric("Clarity")
    store.decide(Decision(kind="seed", proposed=seed.id, accepted=True, reason="seed"), seed)
    (tmp_path / "rubrics").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"rubrics: a rubric could not be written: File exists"):
        write_rubrics(tmp_path / "rubrics", store)
    # A device that is always full.
    full = tmp_path / "full"
    full.mkdir()
    name = f"step-000000-{seed.id}.md"
    (full / name).with_suffix(f".{os.getpid()}.part").symlink_to("/dev/full")
    with pytest.raises(StoreError, match="No space left on device; free some space"):
        write_rubrics(full, store)
    assert list(full.iterdir()) == []
