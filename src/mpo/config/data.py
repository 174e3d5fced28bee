"""Rows: the prompts that a run trains on, from a file, the hub or a plugin.

Everything that can be wrong with a dataset is found here, before a model is loaded or paid for.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import DataError, MissingExtraError
from ..evolve.schedule import seeded
from ..task import Task, placeholders
from ..task.cohorts import Cohorts, cohorts_path
from .plugins import find_plugin
from .schema import Config

__all__ = ["is_local", "load_rows", "read_records"]

SAMPLE = "sample"
"""Value of `data.path` for the rows that ship with the task, written for trying it out."""

_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")


def load_rows(config: Config, task: Task) -> list[dict[str, Any]]:
    """The dataset's rows, each with the policy's prompt under `prompt` and its other columns.

    Raises:
        DataError: No such file or dataset, no row, a column missing, or a value that is no JSON.
        MissingExtraError: A hub dataset without the extra `train`.
    """
    source, rows = _read(config, task)
    if not rows:
        raise DataError(f"dataset {source!r} is empty: it has no row to train on")
    if config.data.shuffle:
        seeded(config.seed, "data").shuffle(rows)
    rows = _in_cohorts(task, source, rows[: config.data.limit])
    return [_row(task, source, number, row) for number, row in enumerate(rows, start=1)]


def _in_cohorts(task: Task, source: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with its `cohort`, where the task has cohorts.

    Raises:
        DataError: The saved cohorts do not know a row's, or have to be made first.
    """
    spec = task.spec.cohorts
    if spec is None or find_plugin(source) is not None:  # a plugin's rows have their cohort
        return rows
    path = cohorts_path(source)
    if path.is_file():
        cohorts = Cohorts.load(path)
    elif spec.clusters == 1:
        column = task.spec.dataset.prompt_column
        cohorts = Cohorts.build(rows, column=spec.column, text_column=column)
    else:
        raise DataError(
            f"task {task.name!r} grades by cohort, and {path} is not there: "
            f"mpo task cohorts {source} --task {task.name}"
        )
    return [{**row, "cohort": cohorts.assign(row)} for row in rows]


def _read(config: Config, task: Task) -> tuple[str, list[dict[str, Any]]]:
    data, dataset = config.data, task.spec.dataset
    source = data.path or dataset.path
    if source is None:
        raise DataError(f"task {task.name!r} names no dataset: set data.path to a file or a hub id")
    plugin = find_plugin(source)
    if plugin is not None:
        rows = plugin.rows(task.name, config.seed, data.limit)
        # A user's own task may name the prompts' column otherwise.
        return source, [{dataset.prompt_column: row.get("prompt"), **row} for row in rows]
    path = _path(config, task)
    if is_local(config, task):
        return str(path), read_records(path)
    return source, _hub(source, data.split or dataset.split)


def _path(config: Config, task: Task) -> Path:
    # A task's own file lies in its folder; a config's path is seen from where the command runs.
    data = config.data
    if data.path == SAMPLE:
        return task.sample
    return Path(data.path) if data.path else task.folder / (task.spec.dataset.path or "")


def is_local(config: Config, task: Task) -> bool:
    """True if the rows can be read without a network."""
    if find_plugin(config.data.path) is not None:
        return True
    path = _path(config, task)
    return path.exists() or str(path).endswith(_SUFFIXES)


def read_records(path: Path) -> list[dict[str, Any]]:
    """The objects of a local JSONL, JSON or Parquet file; a name ending in `.gz` is unpacked.

    Raises:
        DataError: No such file, another kind of file, or a line that is not a JSON object.
    """
    if not str(path).endswith(_SUFFIXES):
        raise DataError(f"{path}: cannot tell what it is; known are {', '.join(_SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix == ".parquet":
        return _parquet(path)
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = raw.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    return _json(path, text) if path.suffix == ".json" else _jsonl(path, text)


def _jsonl(path: Path, text: str) -> list[dict[str, Any]]:
    rows = []
    # Not splitlines(): JSON strings may hold U+2028 and the like as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}:{number}: not JSON: {error}") from error
            rows.append(_mapping(row, f"{path}:{number}"))
    return rows


def _json(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, list):
        raise DataError(f"{path}: must be a list of objects")
    return [_mapping(row, f"{path}: entry {n}") for n, row in enumerate(value, start=1)]


def _mapping(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{where}: must be a JSON object, not {row!r:.60}")
    return row


def _parquet(path: Path) -> list[dict[str, Any]]:
    if find_spec("pyarrow") is None:
        raise MissingExtraError("pyarrow", "train")
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from error
    return rows


def _hub(name: str, split: str) -> list[dict[str, Any]]:
    if find_spec("datasets") is None:
        raise MissingExtraError("datasets", "train")
    import datasets

    try:
        return [dict(row) for row in datasets.load_dataset(name, split=split)]
    except Exception as error:  # the hub's client lets out exceptions of a dozen packages
        what = " ".join(str(error).split())
        raise DataError(
            f"dataset {name!r} (split {split!r}) is neither a local file nor found on the hub: "
            f"{type(error).__name__}: {what:.200}"
        ) from error


def _row(task: Task, source: str, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    column = task.spec.dataset.prompt_column
    named = [
        column if name == "prompt" and "prompt" not in row else name
        for name in placeholders(task.spec.prompt)
    ]
    for name in dict.fromkeys([*named, *(n for n in task.spec.columns if n != column)]):
        if name not in row:
            raise DataError(
                f"dataset {source!r}, row {number}: column {name!r} is missing, which "
                f"task {task.name!r} needs; its columns are {', '.join(row) or 'none'}"
            )
        if name in named and not isinstance(row[name], str | int | float):
            raise DataError(
                f"dataset {source!r}, row {number}: column {name!r} must be text, "
                f"not {row[name]!r:.60}"
            )
    for name, value in row.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"dataset {source!r}, row {number}: column {name!r} cannot be stored as JSON "
                f"({error}); leave it out"
            ) from error
    return {**row, "prompt": task.policy_prompt(row)}
