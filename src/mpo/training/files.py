"""Files of a run: the newest complete checkpoint, and the rubrics as Markdown."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..errors import StoreError
from ..integrations.meta_steps import processes_in, saved_state, snapshot_in
from ..store import Store

__all__ = ["Checkpoint", "checkpoint_error", "newest_checkpoint", "write_rubrics"]

_log = logging.getLogger(__name__)

_OURS = re.compile(r"step-\d{6}.*-[0-9a-f]{16}\.md")
"""Names of rubric files; others in the folder are the user's."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint folder."""

    step: int
    folder: Path


def newest_checkpoint(folder: Path, *, remove_broken: bool = False) -> Checkpoint | None:
    """The complete checkpoint with the greatest step; None where there is none.

    Args:
        folder: Folder of all checkpoints; may be missing.
        remove_broken: Delete newer, incomplete ones. Otherwise the trainer would write into them
            when it reaches that step again, and a kill in the middle would leave a mixture.
    """
    checkpoints = [
        Checkpoint(int(match[1]), path)
        for path in (sorted(folder.iterdir()) if folder.is_dir() else [])
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and path.is_dir()
    ]
    for checkpoint in sorted(checkpoints, key=lambda checkpoint: -checkpoint.step):
        fault = _fault(checkpoint)
        if fault is None:
            return checkpoint
        _log.warning("%s is incomplete (%s): skipped", checkpoint.folder, fault)
        if remove_broken:
            shutil.rmtree(checkpoint.folder)
    return None


def _fault(checkpoint: Checkpoint) -> str | None:
    """Reason why a checkpoint cannot be used; None if it can.

    The trainer writes weights, optimizer and random state first and `trainer_state.json` last, so
    a process that was killed, or ran out of disk, leaves none or a torn one.
    """
    try:
        text = (checkpoint.folder / "trainer_state.json").read_text("utf-8")
        state = json.loads(text)
        step, saved = state["global_step"], saved_state(state["stateful_callbacks"])
        ranks = processes_in(saved)
    except FileNotFoundError:
        return "no trainer_state.json"
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return "its trainer_state.json cannot be read"
    if step != checkpoint.step or snapshot_in(saved) is None:
        return "its trainer_state.json does not say which rubric was in effect"
    # Other ranks write their random state beside the main process.
    names = [f"rng_state_{rank}.pth" for rank in range(ranks)] if ranks > 1 else ["rng_state.pth"]
    missing = [name for name in names if not _has_content(checkpoint.folder / name)]
    return f"no {missing[0]}" if missing else None


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:  # missing, or being removed by another rank
        return False


def checkpoint_error(folder: Path, error: Exception) -> StoreError | None:
    """The error for an exception that stopped the writing of a checkpoint; None if it did not.

    torch and safetensors raise exceptions of their own when the disk is full, so an unfinished
    folder is the evidence.
    """
    for path in sorted(folder.glob("checkpoint-*")) if folder.is_dir() else []:
        match = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if match and (fault := _fault(Checkpoint(int(match[1]), path))) is not None:
            newest = newest_checkpoint(folder)
            remedy = f"continues from {newest.folder.name}" if newest else "begins again"
            return StoreError(
                f"{path} could not be written ({fault}): {error}; if the disk is full free some "
                f"space, and run the same command again: the run {remedy}"
            )
    return None


def write_rubrics(folder: Path, store: Store) -> None:
    """Write every rubric that took effect to `step-NNNNNN-<id>.md`, each in one rename.

    Files whose decision was set aside by a restore are removed; the store still has their rubrics.

    Raises:
        StoreError: The disk is full, or the folder cannot be written.
    """
    wanted: dict[str, str] = {}
    for decision in store.lineage():
        if decision.accepted and decision.proposed is not None:
            cohort = f"-{re.sub(r'[^A-Za-z0-9]+', '_', decision.cohort)}" if decision.cohort else ""
            name = f"step-{decision.step:06d}{cohort}-{decision.proposed}.md"
            wanted[name] = decision.proposed
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("step-*.md"):
            if path.name not in wanted and _OURS.fullmatch(path.name):
                path.unlink()
        for name, rubric_id in wanted.items():
            if not (folder / name).exists():
                _write(folder / name, store.rubric(rubric_id).to_markdown())
    except OSError as error:
        remedy = "free some space" if error.errno == errno.ENOSPC else "fix the folder"
        raise StoreError(
            f"{folder}: a rubric could not be written: {error.strerror or error}; {remedy} and run "
            "the same command again: the store has the rubric already"
        ) from error


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        part.write_text(text, "utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
