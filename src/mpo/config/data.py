"""Rows: the prompts that a run trains on, from a file, the hub or a plugin.

Everything that can be wrong with a dataset is found here, before a model is loaded or paid for.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ..data import RawRow, ReadOptions, SourceRow, looks_local, plain, read_table
from ..errors import DataError
from ..evolve.schedule import seeded
from ..task import Task, placeholders
from ..task.cohorts import Cohorts, cohorts_path
from .plugins import find_plugin
from .schema import Config

__all__ = ["is_local", "load_rows", "policy_row"]

SAMPLE = "sample"
"""Value of `data.path` for the rows that ship with the task, written for trying it out."""

_log = logging.getLogger(__name__)


def load_rows(config: Config, task: Task) -> list[dict[str, Any]]:
    """The dataset's rows, each with the policy's prompt under `prompt` and its other columns.

    Raises:
        DataError: No such file or dataset, no row, a column missing, or a value that is no text.
        MissingExtraError: A hub dataset, a saved one or Parquet without the extra `train`.
    """
    data, source = config.data, _source(config, task)
    plugin = find_plugin(source)
    if plugin is not None:
        column = task.spec.dataset.prompt_column
        made = plugin.rows(task.name, config.seed, data.limit)
        # A user's own task may name the prompts' column otherwise.
        raws = [
            RawRow(f"{source}, row {n}", {column: row.get("prompt"), **row})
            for n, row in enumerate(made, start=1)
        ]
        rows = [policy_row(task, SourceRow(raw, ReadOptions())) for raw in raws]
        if not rows:
            raise DataError(f"dataset {source!r} is empty: it has no row to train on")
    else:
        reading = ReadOptions(
            columns=data.columns,
            limit=None if data.shuffle else data.limit,
            skip_bad=data.skip_bad,
            split=data.split or task.spec.dataset.split,
            asked_by="config",
        )
        table = read_table(source, lambda row: policy_row(task, row), reading)
        rows = table.rows
        if table.bad:
            _log.warning("%s: %s", source, table.remark)
    if data.shuffle:
        seeded(config.seed, "data").shuffle(rows)
    rows = _in_cohorts(task, str(source), rows[: data.limit])
    return [{**row, "prompt": task.policy_prompt(row)} for row in rows]


def policy_row(task: Task, row: SourceRow) -> dict[str, Any]:
    """A row's columns as JSON, with a text in each that the task's prompt shows.

    Columns that the task does not use may hold anything.

    Raises:
        DataError: A column that the task needs is missing, or holds no text.
    """
    spec, column = task.spec, task.spec.dataset.prompt_column
    values = {name: plain(value) for name, value in row.named().items()}
    shown = placeholders(spec.prompt)
    for name in shown:
        if name in (column, "prompt"):
            name = name if row.has(name) else column
            values[name] = row.prompt(name)
        else:
            values[name] = row.text(name)
    for name in spec.columns:
        if name not in shown and name != column:
            row.text(name)
    return values


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


def _source(config: Config, task: Task) -> str:
    """The file, folder, hub id or plugin that the rows come from."""
    named = config.data.path or task.spec.dataset.path
    if named is None:
        raise DataError(f"task {task.name!r} names no dataset: set data.path to a file or a hub id")
    if find_plugin(named) is not None:
        return named
    return str(_path(config, task)) if is_local(config, task) else named


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
    named = config.data.path or task.spec.dataset.path
    if named is None:
        return False
    return _path(config, task).exists() or looks_local(named)
