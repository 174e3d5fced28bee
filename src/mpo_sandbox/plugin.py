"""The sandbox as a plugin: what `chat.plugin`, `model` and `data.path` reach as `sandbox`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpo.config.plugins import Plugin, Say
from mpo.errors import ConfigError
from mpo.task import Task
from mpo.task.answers import BoxedAnswers

from .chat import SimulatedChat
from .environments import environment_of
from .gold_scorer import SandboxGold
from .policy import ensure_policy

__all__ = ["Sandbox", "plugin"]

ROWS = 512
"""Prompts that are written where a config sets no limit."""

MAX_TOKENS = 72
"""Longest response of the policies, in their tokens (words and marks): the texts that they have
learned end at 70."""

_SUFFIXES = {"biased": "", "unbiased": "-unbiased", "bad_mrm": "-bad"}
"""Ending of the simulated model's name, by the option `judge`."""


class Sandbox(Plugin):
    """Simulated models, tiny policies, generated prompts, and gold."""

    simulated = True
    presets = Path(__file__).with_name("presets")

    def chat(self, seed: int, options: Mapping[str, Any]) -> SimulatedChat:
        """The simulated RM and MRM; the seed draws its biases.

        Args:
            options: `judge`: `biased` (default), `unbiased` (it grades honestly), or `bad_mrm`: a
                third of its merges is truncated, off the topic or poisoned, for testing gates.
        """
        unknown = [name for name in options if name != "judge"]
        if unknown:
            raise ConfigError(
                f"chat.options.{unknown[0]}: the sandbox does not know it; its only option is judge"
            )
        judge = options.get("judge", "biased")
        if judge not in _SUFFIXES:
            raise ConfigError(
                f"chat.options.judge: should be one of {', '.join(_SUFFIXES)}, not {judge!r:.80}"
            )
        return SimulatedChat(f"sandbox-{seed}{_SUFFIXES[judge]}")

    def policy(self, task: str, say: Say) -> Path:
        """Folder of the task's tiny policy, which is trained first where the cache lacks it."""
        return ensure_policy(task=task, progress=say)

    def policy_task(self, task: Task) -> Task:
        """The task for a policy that knows no instruction but its corpus's own."""
        response = task.spec.response.model_copy(
            update={"max_tokens": MAX_TOKENS, "max_words": MAX_TOKENS}
        )
        spec = task.spec.model_copy(update={"prompt": "{{prompt}}", "response": response})
        return dataclasses.replace(task, spec=spec)

    def rows(self, task: str, seed: int, limit: int | None) -> list[dict[str, Any]]:
        """Generated prompts, with the columns of the task."""
        return environment_of(task).rows(seed, limit or ROWS)

    def gold(self, task: Task) -> SandboxGold:
        """Gold of essays and summaries, accuracy of verdicts, exact answers."""
        return SandboxGold(task.name, BoxedAnswers())

    def measure(self, task: Task) -> str:
        """Name of the task's gold."""
        return environment_of(task.name).measure


plugin = Sandbox()
