"""Rows of runs, files that grow row by row, and what models wrote."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from ..data import COMPLETION, PROMPT
from ..errors import ConfigError, DataError, StoreError
from ..records import Case
from ..store import Store

__all__ = [
    "JsonlLog",
    "Outputs",
    "Row",
    "common_prompts",
    "completed_rows",
    "read_outputs",
    "rows_of_run",
    "text_column",
]

Row = dict[str, Any]

LAST_STEPS = 10
"""Steps at a run's end that count where the run has no evaluation rollouts."""


def _lines(path: Path, text: str) -> list[Row]:
    # Not splitlines(): JSON strings may hold U+2028 and the like as they are.
    lines = [(f"{path}:{n}", line) for n, line in enumerate(text.split("\n"), start=1)]
    return [_object(where, _parse(where, line)) for where, line in lines if line.strip()]


def _parse(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}") from error


def _object(where: str, row: Any) -> Row:
    if not isinstance(row, dict):
        raise DataError(f"{where}: must be a JSON object, not {row!r:.60}")
    return row


def text_column(row: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    """The text of the first of these columns that the row has.

    Raises:
        DataError: The row has none of them, or the column holds no text.
    """
    for name in names:
        if name in row:
            if not isinstance(row[name], str):
                raise DataError(f"{where}: column {name!r} must be text, not {row[name]!r:.60}")
            return str(row[name])
    wanted = " or ".join(repr(name) for name in names)
    raise DataError(f"{where}: has no column {wanted}; its columns are {', '.join(row) or 'none'}")


class JsonlLog:
    """A JSONL file that grows row by row, held by one process; a killed one leaves whole rows.

    Args:
        path: The file; made where it is missing, with its folder.

    Raises:
        ConfigError: Another process writes the file.
        DataError: The file holds something that is no row.
        StoreError: The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        self._file = self._open()

    def _open(self) -> IO[bytes]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("ab+")
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.seek(0)
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):  # half a row, by a process that was killed
                file.truncate(whole)
            self.rows = _lines(self.path, content[:whole].decode("utf-8"))
        except BlockingIOError:
            file.close()
            raise ConfigError(f"{self.path} is being written by another process") from None
        except UnicodeDecodeError as error:
            file.close()
            raise DataError(f"{self.path}: is no JSONL file: {error}") from error
        except BaseException:
            file.close()
            raise
        return file

    def append(self, row: Row) -> None:
        """Write one row, and hand it to the operating system at once."""
        # Not ensure_ascii=False: a lone surrogate by a policy could not be encoded.
        line = json.dumps(row, allow_nan=False) + "\n"
        try:
            self._file.write(line.encode("ascii"))
            self._file.flush()
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {error.strerror}") from error
        self.rows.append(row)

    def sort(self, key: Callable[[Row], int]) -> None:
        """Put the file's rows in order, in one rename: a reader sees the old file or the new."""
        ordered = sorted(self.rows, key=key)
        if ordered == self.rows:
            return
        fresh = self.path.with_name(f".{self.path.name}.sorted")
        fresh.write_text("".join(json.dumps(row) + "\n" for row in ordered), "ascii")
        os.replace(fresh, self.path)
        self.rows = ordered

    def close(self) -> None:
        """Close the file, so that another process may write it."""
        self._file.close()

    def __enter__(self) -> JsonlLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ---------------------------------------------------------------------- completions


def completed_rows(rows: Sequence[Row], where: str) -> list[Row]:
    """The rows, each with its completion under `completion`.

    Raises:
        DataError: There are no rows, or one has no completion.
    """
    if not rows:
        raise DataError(f"{where} is empty: it has no row with a completion")
    return [
        {**row, "completion": text_column(row, COMPLETION, f"{where}, row {number}")}
        for number, row in enumerate(rows, start=1)
    ]


def rows_of_run(store: Store, mode: Literal["auto", "train", "eval"] = "auto") -> list[Row]:
    """The rollouts of a run as rows: prompt, completion, step, and the dataset's other columns.

    Args:
        store: The run's store.
        mode: `eval`: the rollouts of the last evaluation. `train`: those of the last 10 training
            steps. `auto`: the former where there are any, else the latter.

    Raises:
        StoreError: The run has no such rollouts.
    """
    last = store.last_step()
    evaluated = [] if mode == "train" else store.window(cohort=None, mode="eval", scored=None)
    if evaluated:
        newest = max(case.rollout.step for case in evaluated)
        return _rows([case for case in evaluated if case.rollout.step == newest])
    trained = []
    if mode != "eval" and last is not None:
        steps = [summary.step for summary in store.steps()][-LAST_STEPS:]
        after = steps[0] - 1 if steps else last
        trained = store.window(after_step=after, cohort=None, scored=None)
    if not trained:
        raise StoreError(f"{store.path} has no {'' if mode == 'auto' else mode + ' '}rollouts yet")
    return _rows(trained)


def _rows(cases: Sequence[Case]) -> list[Row]:
    # Once per rollout: it may have been scored under several rubrics.
    rollouts = {case.rollout.id: case.rollout for case in cases}
    return [
        {**r.columns, "prompt": r.prompt, "completion": r.completion, "step": r.step}
        for r in rollouts.values()
    ]


# ---------------------------------------------------------------------- outputs of models


@dataclass
class Outputs:
    """One model's completions."""

    model: str
    completions: dict[str, str] = field(default_factory=dict)
    """Completions by prompt, in the file's order."""
    repeated: int = 0
    """Number of rows left out, since an earlier row has the same prompt."""


def read_outputs(rows: Sequence[Row], where: str, name: str | None, stem: str) -> list[Outputs]:
    """The models of a generations file, in order of appearance.

    Args:
        rows: Rows with `prompt` and `completion` (or `query` and `model_response`), and optionally
            `model`.
        where: The file, for messages.
        name: The model's name, whatever the rows say.
        stem: The model's name where neither `name` nor the rows have one.

    Raises:
        DataError: There are no rows, or one has no prompt or no completion.
    """
    if not rows:
        raise DataError(f"{where} is empty: model {name or stem!r} has no outputs")
    models: dict[str, Outputs] = {}
    for number, row in enumerate(rows, start=1):
        at = f"{where}, row {number}"
        prompt, completion = text_column(row, PROMPT, at), text_column(row, COMPLETION, at)
        column = row.get("model")
        model = name or (column if isinstance(column, str) and column else stem)
        outputs = models.setdefault(model, Outputs(model))
        if prompt in outputs.completions:
            outputs.repeated += 1
        else:
            outputs.completions[prompt] = completion
    return list(models.values())


def common_prompts(models: Sequence[Outputs], *, only_common: bool = False) -> list[str]:
    """The prompts on which all models are compared, in the first model's order.

    Args:
        models: At least two models with different names.
        only_common: Leave out prompts that some model did not answer, instead of refusing them.

    Raises:
        DataError: There are fewer than two models, two have one name, or the prompts differ.
    """
    names = [outputs.model for outputs in models]
    if len(names) < 2:
        raise DataError(
            f"a ranking needs at least two models; there is {', '.join(names) or 'none'}"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"two files hold a model called {twice[0]!r}: give each another name, NAME=FILE"
        )
    shared = [p for p in models[0].completions if all(p in m.completions for m in models)]
    if not shared:
        raise DataError(f"no prompt is common to {', '.join(names)}: they answered different tests")
    if only_common:
        return shared
    every = dict.fromkeys(prompt for outputs in models for prompt in outputs.completions)
    for outputs in models:
        missing = [prompt for prompt in every if prompt not in outputs.completions]
        if missing:
            raise DataError(
                f"model {outputs.model!r} has no output for {len(missing)} of {len(every)} prompts "
                f"that others answered, e.g. {' '.join(missing[0].split())[:60]!r}: generate them, "
                "or rank on the common prompts (--only-common)"
            )
    return shared
