"""Loading a task folder, and saying everything that is wrong with one."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..data import check_yaml, load_yaml
from ..errors import ConfigError, DataError, RubricError, TaskError
from ..records import content_hash
from ..rubric import ReadRubric, Rubric, read_rubric
from .prompts import META, PROMPTS, PROTOCOL_PROMPTS, PromptFile, fill, read_prompt
from .spec import RMSpec, TaskSpec

__all__ = ["BUILTIN", "Task", "builtin_tasks", "check_task", "load_task"]

BUILTIN = Path(__file__).with_name("builtin")
REPAIR = Path(__file__).with_name("repair.md")
"""The prompt of tasks that have none of their own."""


@dataclass(frozen=True)
class Task:
    """A loaded and checked task folder."""

    folder: Path
    spec: TaskSpec
    seed: ReadRubric
    prompts: Mapping[str, PromptFile]
    """By kind: the MRM's, the protocol's, and those of other protocols that the folder has."""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def rubric(self) -> Rubric:
        """The seed rubric."""
        return self.seed.rubric

    @property
    def sample(self) -> Path:
        """Rows that ship with the task, in the dataset's columns; the file may be missing."""
        return self.folder / "sample.jsonl"

    @cached_property
    def meta_hash(self) -> str:
        """Hash of the MRM's templates; stored with every refinement."""
        return content_hash([self.prompts[kind].hash for kind in (*META, "repair")], 12)

    def with_rm(self, **changes: Any) -> Task:
        """The same task with other `rm` keys, e.g. `with_rm(protocol="dialogue")`.

        Raises:
            ConfigError: A value that the key does not take, or a protocol for which the folder
                has no prompt.
        """
        try:
            rm = RMSpec.model_validate({**self.spec.rm.model_dump(), **changes})
        except ValidationError as error:
            fault = error.errors()[0]
            raise ConfigError(f"rm.{fault['loc'][0]}: {fault['msg']}") from error
        spec = self.spec.model_copy(update={"rm": rm})
        faults = [f"{'.'.join(key)}: {what}" for key, what in spec.contradictions()]
        faults += [
            f"protocol {rm.protocol} needs {self.folder / 'prompts' / kind}.md"
            for kind in PROTOCOL_PROMPTS[rm.protocol]
            if kind not in self.prompts
        ]
        faults += _rubric_faults(spec, self.rubric)
        if faults:
            raise ConfigError(f"task {self.name!r}: {faults[0]}")
        return dataclasses.replace(self, spec=spec)

    def check_rubric(self, rubric: Rubric) -> None:
        """Raises an error where the task's protocol cannot score a rubric.

        Raises:
            ConfigError: Guidelines are wanted, and the rubric has several criteria.
        """
        for what in _rubric_faults(self.spec, rubric):
            raise ConfigError(f"task {self.name!r}, rubric {rubric.title!r}: {what}")

    def policy_prompt(self, columns: Mapping[str, Any]) -> str:
        """The prompt that the policy sees for one dataset row. Hidden columns cannot get into it.

        Raises:
            TemplateError: The row lacks a column that the template names.
        """
        data = self.spec.dataset
        values = {n: str(v) for n, v in columns.items() if n not in data.hidden_columns}
        if "prompt" not in values and data.prompt_column in values:
            values["prompt"] = values[data.prompt_column]
        return fill(self.spec.prompt, values, f"task {self.name!r}: prompt")

    def reference(self, columns: Mapping[str, Any]) -> str:
        """The reference solution of a rollout; empty where the task has none. The only column
        that RM and MRM ever see.

        Raises:
            DataError: The rollout lacks the column.
        """
        return self._column(self.spec.dataset.reference_column, columns)

    def reference_answer(self, columns: Mapping[str, Any]) -> str:
        """The reference answer of a rollout, or the solution that ends in it.

        Raises:
            DataError: The rollout lacks the column.
        """
        column = self.spec.dataset.answer_column
        return self._column(column, columns) if column else self.reference(columns)

    def _column(self, name: str | None, columns: Mapping[str, Any]) -> str:
        if name is None:
            return ""
        if columns.get(name) is None:
            raise DataError(
                f"task {self.name!r} needs column {name!r} with every rollout; this one has "
                f"{', '.join(columns) or 'none'}"
            )
        return str(columns[name])


def builtin_tasks() -> tuple[str, ...]:
    """Names of the tasks that ship with the package."""
    names = (path.parent.name for path in BUILTIN.glob("*/task.yaml"))
    return tuple(sorted(name for name in names if not name.startswith("_")))


def load_task(name_or_folder: str | Path) -> Task:
    """Load a built-in task by name, or any task by its folder.

    Raises:
        TaskError: The task is unknown or has a fault; the message lists every fault found.
    """
    folder = _find(name_or_folder)
    task, faults = check_task(folder)
    if task is None or faults:
        raise TaskError("\n".join(faults))
    return task


def _find(name_or_folder: str | Path) -> Path:
    if str(name_or_folder) in builtin_tasks():
        return BUILTIN / str(name_or_folder)
    folder = Path(name_or_folder)
    if (folder / "task.yaml").is_file():
        return folder
    raise TaskError(
        f"unknown task {str(name_or_folder)!r}: neither a built-in task "
        f"({', '.join(builtin_tasks())}) nor a folder with a task.yaml"
    )


def check_task(folder: Path) -> tuple[Task | None, list[str]]:
    """Load what can be loaded, and say everything that is wrong.

    Returns:
        The task (None when a part is unusable), and one line per fault: `file:line: what`.
    """
    faults: list[str] = []
    spec = _load_spec(folder / "task.yaml", faults)
    seed = _load_seed(folder / "rubric.md", faults)
    needed = META + (PROTOCOL_PROMPTS[spec.rm.protocol] if spec else ())
    prompts = _load_prompts(folder / "prompts", needed, faults)
    if "repair" not in prompts and not (folder / "prompts" / "repair.md").exists():
        prompts["repair"] = read_prompt("repair", _read(REPAIR), str(REPAIR))
    if spec is not None and seed is not None:
        faults += [
            f"{folder / 'rubric.md'}:1: {what}" for what in _rubric_faults(spec, seed.rubric)
        ]
    if spec is None or seed is None or any(kind not in prompts for kind in (*needed, "repair")):
        return None, faults
    if spec.dataset.reference_column is None:
        faults += [
            f"{folder / 'prompts' / kind}.md:1: {{{{reference}}}} needs dataset.reference_column"
            for kind, prompt in prompts.items()
            if any("{{reference}}" in text.replace(" ", "") for _, text in prompt.sections)
        ]
    return Task(folder, spec, seed, prompts), faults


def _rubric_faults(spec: TaskSpec, rubric: Rubric) -> list[str]:
    if spec.rm.protocol == "plan_execute" and len(rubric.criteria) != 1:
        return [
            "plan_execute takes guidelines: a rubric with one criterion, "
            f"not {len(rubric.criteria)}"
        ]
    return []


def _load_prompts(folder: Path, needed: Sequence[str], faults: list[str]) -> dict[str, PromptFile]:
    prompts: dict[str, PromptFile] = {}
    for kind in PROMPTS:
        path = folder / f"{kind}.md"
        if kind in needed or path.exists():
            try:
                prompts[kind] = read_prompt(kind, _read(path), str(path))
            except TaskError as error:
                faults.append(str(error))
    return prompts


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise TaskError(f"{path}:1: missing; this task needs one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}:1: cannot be read as UTF-8 text ({error})") from error


def _load_seed(path: Path, faults: list[str]) -> ReadRubric | None:
    try:
        return read_rubric(_read(path))
    except RubricError as error:
        line = re.search(r"\bline (\d+)", str(error))
        faults.append(f"{path}:{line[1] if line else 1}: {error}")
    except TaskError as error:
        faults.append(str(error))
    return None


# ---------------------------------------------------------------------- task.yaml


def _load_spec(path: Path, faults: list[str]) -> TaskSpec | None:
    try:
        text = _read(path)
    except TaskError as error:
        faults.append(str(error))
        return None
    try:
        root, data = check_yaml(text), load_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else 1
        faults.append(f"{path}:{line}: not valid YAML: {getattr(error, 'problem', None) or error}")
        return None
    if root is None or not isinstance(data, dict):
        faults.append(f"{path}:1: must be a mapping of keys to values")
        return None
    faults += [f"{path}:{line}: {key!r} is given twice" for key, line in _doubled(root)]
    try:
        spec = TaskSpec.model_validate(data)
    except ValidationError as error:
        for fault in error.errors():
            where = ".".join(str(part) for part in fault["loc"])
            what = fault["msg"].removeprefix("Value error, ")
            faults.append(f"{path}:{_line_of(root, fault['loc'])}: {where}: {what}")
        return None
    for key, what in spec.contradictions():
        faults.append(f"{path}:{_line_of(root, key)}: {'.'.join(key)}: {what}")
    return spec


def _line_of(root: yaml.Node, loc: Sequence[int | str]) -> int:
    """Line of the key that a fault names, or of the nearest one around it."""
    node, line = root, root.start_mark.line
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    node, line = value, key.start_mark.line
                    break
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line
    return int(line) + 1


def _doubled(node: yaml.Node) -> list[tuple[str, int]]:
    """Keys that a mapping has twice, which YAML readers let pass in silence."""
    found: list[tuple[str, int]] = []
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, None] = {}
        for key, value in node.value:
            if str(key.value) in seen:
                found.append((str(key.value), key.start_mark.line + 1))
            seen[str(key.value)] = None
            found += _doubled(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            found += _doubled(item)
    return found
