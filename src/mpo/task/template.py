"""A commented task folder to start from (`mpo task new`)."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from ..errors import TaskError

__all__ = ["TEMPLATE", "write_task_template"]

TEMPLATE = Path(__file__).parent / "_template"


def write_task_template(folder: Path) -> list[Path]:
    """Write a task folder that passes `mpo task check`, to be edited.

    Args:
        folder: Made where it is missing; its name becomes the task's.

    Returns:
        The files written, in order.

    Raises:
        TaskError: The folder holds something already, or cannot be written.
    """
    name = re.sub(r"[^a-z0-9_]+", "_", folder.resolve().name.lower()).strip("_") or "mytask"
    try:
        if folder.exists() and any(folder.iterdir()):
            raise TaskError(f"{folder} is not empty: name a new folder, nothing is overwritten")
        shutil.copytree(TEMPLATE, folder, dirs_exist_ok=True)
        spec = folder / "task.yaml"
        text = spec.read_text("utf-8")
        spec.write_text(re.sub(r"^name: .*$", f"name: {name}", text, flags=re.MULTILINE), "utf-8")
    except (OSError, shutil.Error) as error:
        raise TaskError(f"{folder}: cannot be written: {error}") from error
    return sorted(path for path in folder.rglob("*") if path.is_file())
