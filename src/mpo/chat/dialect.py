"""Dialect: the way in which one endpoint wants its requests, as its answers have shown it.

Nothing of it is configured. A field that was refused is left out from then on, the time limit grows
with a server that is slow, and what enforces a schema has been tried (`probe.py`). Every finding is
logged once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .base import ChatRequest, Completion
from .structured import OUTPUTS, StructuredOutput

__all__ = ["Changes", "Dialect"]

_log = logging.getLogger(__name__)

_LIMIT_FIELDS = ("max_tokens", "max_completion_tokens")
_LEAST_WORDS = 100
"""Words of a prompt that is long enough to be compared with the tokens that a server reports."""
_TOKENS_PER_WORD = 0.9
"""Fewer tokens than this are no whole prompt. Tokenizers that split at blanks need at least 1;
Qwen2.5's needs 1.66 to 1.77 for the prompts of the built-in tasks, so half of one is at most 0.89.
The few that join words can come near it with plain prose: a warning too many, once."""
_LONGEST_WORD = 5
"""Characters per token above which the words are counted: counting takes time."""


@dataclass(frozen=True)
class Changes:
    """Changes to a request's fields that an endpoint has asked for."""

    dropped: frozenset[str] = frozenset()
    """Names of fields that are left out."""
    limit_field: str | None = None
    """Name of the field for the answer's length, where it is not the one that the chat sends."""

    def without(self, name: str) -> Changes:
        """These changes and one field less. For the answer's length another name is tried first."""
        if name in _LIMIT_FIELDS and self.limit_field is None:
            return replace(self, limit_field=next(each for each in _LIMIT_FIELDS if each != name))
        return replace(self, dropped=self.dropped | {name})

    def apply(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a request with these changes."""
        return {
            name: value
            for given, value in fields.items()
            if (name := (given in _LIMIT_FIELDS and self.limit_field) or given) not in self.dropped
        }

    def __or__(self, other: Changes) -> Changes:
        return Changes(self.dropped | other.dropped, self.limit_field or other.limit_field)


@dataclass
class Dialect:
    """Findings about one endpoint and model.

    Shared by all chats of a process that call it. Findings are only added, so a call may go on
    with those that it started with.
    """

    endpoint: str
    """URL and model, for messages."""
    structured_output: StructuredOutput | None = None
    """The strictest output that the endpoint enforces; None where it has not been probed."""
    refused_outputs: set[StructuredOutput] = field(default_factory=set)
    """Outputs whose `response_format` the endpoint refuses, or does not keep to."""
    changes: Changes = Changes()
    """Changes to each request."""
    timeout_s: float = 0.0
    """Time limit of one attempt that the endpoint has needed, in seconds."""
    _told: set[str] = field(default_factory=set)
    _most_prompt_tokens: int = 0
    _suspected: bool = False

    def learn(self, changes: Changes, refusals: Mapping[str, str]) -> None:
        """Keep changes that have helped.

        Args:
            changes: Changes that a request was sent with.
            refusals: The endpoint's message for each field that it refused.
        """
        self.changes = self.changes | changes
        for name, message in refusals.items():
            if name in self._told:
                continue
            self._told.add(name)
            other = changes.limit_field if name in _LIMIT_FIELDS else None
            instead = f" ({other} in its place)" if other and other not in changes.dropped else ""
            _log.warning(
                "%s: requests go without %s%s from now on, as it was refused: %s",
                self.endpoint,
                name,
                instead,
                message,
            )

    def output(self, wanted: StructuredOutput) -> StructuredOutput:
        """The wanted output, or the next weaker one that the endpoint does not refuse."""
        weaker = OUTPUTS[OUTPUTS.index(wanted) :]
        return next(each for each in weaker if each not in self.refused_outputs)

    def refuse_output(self, output: StructuredOutput, message: str) -> None:
        """Remember that the endpoint refuses an output, or does not keep to it."""
        if output not in self.refused_outputs:
            self.refused_outputs.add(output)
            _log.warning(
                "%s: structured output is %s from now on and not %s: %s",
                self.endpoint,
                self.output(output),
                output,
                message,
            )

    def slow(self, limit_s: float, most_s: float) -> None:
        """Raise the time limit after an attempt that has run into it.

        Args:
            limit_s: Time limit of that attempt, in seconds.
            most_s: Highest time limit, in seconds.
        """
        # Attempts that ran at once raise it once.
        if self.timeout_s <= limit_s < most_s:
            self.timeout_s = min(2 * limit_s, most_s)
            _log.warning(
                "%s: no answer within %.3g s; the time limit is %.3g s from now on. Set it with "
                "chat.timeout_s (at most chat.deadline_s, %.3g s)",
                self.endpoint,
                limit_s,
                self.timeout_s,
                most_s,
            )

    def check_prompt(self, request: ChatRequest, completion: Completion) -> None:
        """Warn once where a server has counted far fewer tokens than the prompt has: it may have
        cut the prompt, and the rubric with it."""
        usage = completion.usage
        tokens = self._most_prompt_tokens = max(self._most_prompt_tokens, usage.prompt_tokens)
        # Some servers count cached tokens apart. One that has counted a prompt of this length
        # before has not cut it.
        if self._suspected or not usage.prompt_tokens or usage.cached_tokens >= usage.prompt_tokens:
            return
        if sum(len(turn["content"]) for turn in request.messages) < _LONGEST_WORD * tokens:
            return
        words = sum(len(turn["content"].split()) for turn in request.messages)
        if words >= _LEAST_WORDS and tokens < _TOKENS_PER_WORD * words:
            self._suspected = True
            _log.warning(
                "%s: the server reports %d prompt tokens for a prompt of %d words, which has more. "
                "It seems to have cut the prompt, so that a part of the rubric or of the text was "
                "not read. Give the server a longer context (Ollama: OLLAMA_CONTEXT_LENGTH; "
                "llama.cpp: --ctx-size for each slot), and score again",
                self.endpoint,
                usage.prompt_tokens,
                words,
            )
