"""Prompt templates: what each must and may have, and filling them in one pass."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ..errors import TemplateError
from ..records import content_hash

__all__ = ["META", "PROMPTS", "PROTOCOL_PROMPTS", "PromptFile", "fill", "placeholders"]

_COMMON = frozenset({"task", "format", "limits"})

PROMPTS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "rm": (frozenset({"rubric", "prompt", "response"}), _COMMON | {"reference"}),
    "criterion": (frozenset({"criterion", "prompt", "response"}), _COMMON | {"reference"}),
    "dialogue": (
        frozenset({"criterion", "prompt", "response", "format"}),
        _COMMON | {"reference"},
    ),
    "plan": (frozenset({"rubric", "prompt", "reference"}), frozenset({"task", "limits"})),
    "execute": (
        frozenset({"plan", "prompt", "response"}),
        frozenset({"task", "limits", "rubric", "reference"}),
    ),
    "score": (
        frozenset({"execution", "format"}),
        frozenset({"task", "limits", "rubric", "prompt", "response", "plan", "reference"}),
    ),
    "prescreen": (frozenset({"rubric", "case"}), _COMMON),
    "analyze": (frozenset({"rubric", "case"}), _COMMON | {"others", "earlier", "hint"}),
    "refine": (frozenset({"rubric", "case", "analysis"}), _COMMON | {"hint"}),
    "merge": (frozenset({"rubric", "proposals"}), _COMMON),
    "repair": (frozenset({"proposal", "findings"}), _COMMON | {"rubric"}),
}
"""Per prompt file: the placeholders that it must have, and those that it may have."""

META = ("prescreen", "analyze", "refine", "merge")
"""The MRM's prompt files that every task has. `repair` is the package's own (`repair.md` beside
this file) where a task has none: what a fault of form is depends on no task."""

PROTOCOL_PROMPTS: Mapping[str, tuple[str, ...]] = {
    "single": ("rm",),
    "per_criterion": ("criterion",),
    "dialogue": ("dialogue",),
    "plan_execute": ("plan", "execute", "score"),
}
"""The RM's prompt files, by protocol."""

DIALOGUE_TURNS = (
    ("opening", frozenset({"prompt", "response"})),
    ("rationale", frozenset({"criterion"})),
    ("score", frozenset({"format"})),
)
"""The three `# User` sections of `dialogue.md`. The first opens the conversation; the other two
come once per criterion."""

_PLACEHOLDER = re.compile(r"\{\{([^{}\n]*)\}\}")
_SECTION = re.compile(r"^# (System|User)[ \t]*$", re.MULTILINE)


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

    @cached_property
    def hash(self) -> str:
        """Hash of the wording; stored with every judgement made through it."""
        return content_hash([self.kind, self.sections], 12)

    def messages(self, values: Mapping[str, str]) -> list[dict[str, str]]:
        """Filled chat messages, `{"role": …, "content": …}`.

        Raises:
            TemplateError: A placeholder has no value.
        """
        return [{"role": role, "content": self._fill(text, values)} for role, text in self.sections]

    def turn(self, number: int, values: Mapping[str, str]) -> str:
        """The filled text of one `# User` section, counted from 0.

        Raises:
            TemplateError: A placeholder has no value.
        """
        return self._fill([text for role, text in self.sections if role == "user"][number], values)

    def system(self, values: Mapping[str, str]) -> list[str]:
        """The filled texts of the `# System` sections.

        Raises:
            TemplateError: A placeholder has no value.
        """
        return [self._fill(text, values) for role, text in self.sections if role == "system"]

    def _fill(self, text: str, values: Mapping[str, str]) -> str:
        return fill(text, values, f"prompt {self.kind!r}")


def read_prompt(kind: str, text: str, where: str) -> PromptFile:
    """Split a prompt file into sections and check its placeholders.

    Raises:
        TemplateError: No `# User` section, or a placeholder missing or unknown; the message
            starts with `where:line`.
    """
    starts = list(_SECTION.finditer(text))
    ends = [match.start() for match in starts[1:]] + [len(text)]
    sections = tuple(
        (match[1].lower(), text[match.end() : end].strip())
        for match, end in zip(starts, ends, strict=True)
    )
    users = [_line(text, match.start()) for match in starts if match[1] == "User"]
    if not users or text[: starts[0].start()].strip():
        raise TemplateError(
            f"{where}:1: a prompt file starts with '# System' or '# User' and has a '# User' "
            "section"
        )
    required, optional = PROMPTS[kind]
    for match in _PLACEHOLDER.finditer(text):
        if match[1].strip() not in required | optional:
            raise TemplateError(
                f"{where}:{_line(text, match.start())}: unknown placeholder "
                f"{match[1].strip()!r}; allowed: {', '.join(sorted(required | optional))}"
            )
    _require(required, placeholders(text), f"{where}:{users[0]}")
    prompt = PromptFile(kind, sections)
    if kind == "dialogue":
        _check_dialogue(prompt, users, where)
    return prompt


def _check_dialogue(prompt: PromptFile, lines: list[int], where: str) -> None:
    texts = [text for role, text in prompt.sections if role == "user"]
    if len(texts) != len(DIALOGUE_TURNS):
        raise TemplateError(
            f"{where}:{lines[-1]}: a dialogue has three '# User' sections (opening, rationale, "
            f"score), not {len(texts)}"
        )
    for text, line, (name, required) in zip(texts, lines, DIALOGUE_TURNS, strict=True):
        _require(required, placeholders(text), f"{where}:{line}", f" in the {name} turn")
    before = [text for role, text in prompt.sections if role == "system"] + texts[:1]
    if any("criterion" in placeholders(text) for text in before):
        raise TemplateError(
            f"{where}:{lines[0]}: {{{{criterion}}}} belongs into the rationale and score turns, "
            "not before them"
        )


def _require(required: frozenset[str], used: tuple[str, ...], where: str, part: str = "") -> None:
    missing = sorted(required - set(used))
    if missing:
        raise TemplateError(
            f"{where}: placeholder {missing[0]!r} is missing{part}: add {{{{{missing[0]}}}}}"
        )


def _line(text: str, at: int) -> int:
    """Number of the line in which a character stands."""
    return text.count("\n", 0, at) + 1
