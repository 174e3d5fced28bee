"""Task: a folder of text that says what the policy is asked and how it is graded.

    task.yaml      name, description, dataset, prompt, response limits, rm, rules
    rubric.md      the seed rubric
    prompts/       rm.md, prescreen.md, analyze.md, refine.md, merge.md

A prompt file has `# System` and `# User` sections; `{{name}}` is a placeholder. Templates are
filled in one pass, so that a value can never bring in a placeholder of its own.

>>> load_task("essay").spec.response.max_words
350
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import RubricError, TaskError, TemplateError
from .records import content_hash
from .rubric import ReadRubric, Rubric, read_rubric

__all__ = ["PROMPTS", "PromptFile", "Task", "TaskSpec", "builtin_tasks", "load_task"]

BUILTIN = Path(__file__).parent / "tasks"

PROMPTS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "rm": (frozenset({"rubric", "prompt", "response"}), frozenset({"task", "format", "limits"})),
    "prescreen": (
        frozenset({"rubric", "case"}),
        frozenset({"task", "format", "limits"}),
    ),
    "analyze": (
        frozenset({"rubric", "case"}),
        frozenset({"task", "format", "limits", "others", "earlier", "hint"}),
    ),
    "refine": (
        frozenset({"rubric", "case", "analysis"}),
        frozenset({"task", "format", "limits", "hint"}),
    ),
    "merge": (frozenset({"rubric", "proposals"}), frozenset({"task", "format", "limits"})),
}
"""Per prompt file: the placeholders that it must have, and those that it may have."""

_PLACEHOLDER = re.compile(r"\{\{([^{}\n]*)\}\}")
_SECTION = re.compile(r"^# (System|User)[ \t]*$", re.MULTILINE)


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetSpec(_Spec):
    """Where the prompts come from."""

    path: str | None = None
    """Hub id, or a local JSONL, JSON or Parquet file (relative to the task folder)."""
    split: str = "train"
    prompt_column: str = "prompt"
    """Column that fills `{{prompt}}` of the policy's prompt template."""


class ResponseSpec(_Spec):
    """What the policy may write."""

    max_tokens: int = Field(default=400, gt=0)
    """Generation cap, in tokens of the policy."""
    max_words: int | None = Field(default=None, gt=0)
    """Stated to the policy, the RM and the MRM: no criterion may ask for more."""
    min_words: int = Field(default=1, ge=0)
    """Below it a rule gives the floor of the scale and the RM is not asked."""


class RMSpec(_Spec):
    """How the RM is asked."""

    protocol: Literal["single"] = "single"
    temperature: float = Field(default=0.0, ge=0)
    max_tokens: int = Field(default=1024, gt=0)


class TaskSpec(_Spec):
    """`task.yaml`."""

    name: str
    description: str
    """One or two sentences, shown to the RM and the MRM."""
    dataset: DatasetSpec = DatasetSpec()
    prompt: str = "{{prompt}}"
    """Template of the policy's prompt; placeholders are dataset columns."""
    response: ResponseSpec = ResponseSpec()
    rm: RMSpec = RMSpec()

    @property
    def limits(self) -> str:
        """The response limits in words, for prompts; empty when there are none."""
        top = self.response.max_words
        return f"A response may have at most {top} words." if top else ""


def fill(text: str, values: Mapping[str, str], where: str) -> str:
    """Fill `{{name}}` placeholders in one pass.

    Raises:
        TemplateError: A placeholder without a value; the message names it.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1].strip()
        if name not in values:
            known = ", ".join(sorted(values)) or "none"
            raise TemplateError(f"{where}: no value for placeholder {name!r}; known: {known}")
        return values[name]

    return _PLACEHOLDER.sub(value, text)


def placeholders(text: str) -> tuple[str, ...]:
    """Names of the placeholders in order of first appearance."""
    return tuple(dict.fromkeys(match.strip() for match in _PLACEHOLDER.findall(text)))


@dataclass(frozen=True)
class PromptFile:
    """A prompt template: one or more (role, text) sections."""

    kind: str
    sections: tuple[tuple[str, str], ...]

    @property
    def hash(self) -> str:
        """Changes whenever the wording does; stored with what was asked through it."""
        return content_hash([self.kind, self.sections], 12)

    def messages(self, values: Mapping[str, str]) -> list[dict[str, str]]:
        """Filled chat messages, `{"role": …, "content": …}`.

        Raises:
            TemplateError: A placeholder has no value.
        """
        return [
            {"role": role, "content": fill(text, values, f"prompt {self.kind!r}")}
            for role, text in self.sections
        ]


def read_prompt(kind: str, text: str, where: str) -> PromptFile:
    """Split a prompt file into sections and check its placeholders.

    Raises:
        TemplateError: No `# User` section, or a placeholder missing or unknown.
    """
    required, optional = PROMPTS[kind]
    pieces = _SECTION.split(text)
    sections = tuple(
        (role.lower(), body.strip()) for role, body in zip(pieces[1::2], pieces[2::2], strict=True)
    )
    if pieces[0].strip() or not any(role == "user" for role, _ in sections):
        raise TemplateError(
            f"{where}: a prompt file starts with '# System' or '# User' and has a '# User' section"
        )
    used = placeholders("\n".join(body for _, body in sections))
    missing = sorted(required - set(used))
    if missing:
        raise TemplateError(
            f"{where}: placeholder {missing[0]!r} is missing: add {{{{{missing[0]}}}}}"
        )
    unknown = [name for name in used if name not in required | optional]
    if unknown:
        raise TemplateError(
            f"{where}: unknown placeholder {unknown[0]!r}; "
            f"allowed: {', '.join(sorted(required | optional))}"
        )
    return PromptFile(kind, sections)


@dataclass(frozen=True)
class Task:
    """A loaded and checked task folder."""

    folder: Path
    spec: TaskSpec
    seed: ReadRubric
    prompts: Mapping[str, PromptFile]

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def rubric(self) -> Rubric:
        """The seed rubric."""
        return self.seed.rubric

    @cached_property
    def meta_hash(self) -> str:
        """Hash of the MRM's templates; stored with every refinement."""
        kinds = ("prescreen", "analyze", "refine", "merge")
        return content_hash([self.prompts[kind].hash for kind in kinds], 12)

    def policy_prompt(self, columns: Mapping[str, Any]) -> str:
        """The prompt that the policy sees for one dataset row.

        Raises:
            TemplateError: The row lacks a column that the template names.
        """
        values = {name: str(value) for name, value in columns.items()}
        if "prompt" not in values and self.spec.dataset.prompt_column in values:
            values["prompt"] = values[self.spec.dataset.prompt_column]
        return fill(self.spec.prompt, values, f"task {self.name!r}: prompt")


def builtin_tasks() -> tuple[str, ...]:
    """Names of the tasks that ship with the package."""
    return tuple(sorted(path.parent.name for path in BUILTIN.glob("*/task.yaml")))


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
    builtin = BUILTIN / str(name_or_folder)
    if re.fullmatch(r"[a-z0-9_]+", str(name_or_folder)) and (builtin / "task.yaml").is_file():
        return builtin
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
    prompts: dict[str, PromptFile] = {}
    for kind in PROMPTS:
        path = folder / "prompts" / f"{kind}.md"
        try:
            prompts[kind] = read_prompt(kind, _read(path), str(path))
        except TaskError as error:
            faults.append(str(error))
    if spec is None or seed is None or len(prompts) < len(PROMPTS):
        return None, faults
    return Task(folder, spec, seed, prompts), faults


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        raise TaskError(f"{path}: missing; every task folder has one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def _load_spec(path: Path, faults: list[str]) -> TaskSpec | None:
    try:
        data = yaml.safe_load(_read(path))
        if not isinstance(data, dict):
            raise TaskError(f"{path}: must be a mapping of keys to values")
        return TaskSpec.model_validate(data)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        faults.append(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}")
    except ValidationError as error:
        text = path.read_text("utf-8")
        faults += [_spec_fault(path, text, fault) for fault in error.errors()]
    except TaskError as error:
        faults.append(str(error))
    return None


def _spec_fault(path: Path, text: str, fault: Any) -> str:
    key = str(fault["loc"][-1]) if fault["loc"] else ""
    match = re.search(rf"^\s*{re.escape(key)}\s*:", text, re.MULTILINE) if key else None
    line = f":{text.count(chr(10), 0, match.start()) + 1}" if match else ""
    where = ".".join(str(part) for part in fault["loc"])
    return f"{path}{line}: {where}: {fault['msg']}"


def _load_seed(path: Path, faults: list[str]) -> ReadRubric | None:
    try:
        return read_rubric(_read(path))
    except RubricError as error:
        faults.append(f"{path}: {error}")
    except TaskError as error:
        faults.append(str(error))
    return None
