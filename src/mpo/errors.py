"""Every error that leaves this package.

    MPOError
    ├── ConfigError              a config, an argument or a run folder that cannot be used
    │   └── MissingExtraError    an optional dependency is not installed
    ├── RubricError              text that cannot be read as a rubric
    ├── TaskError                a task folder with a fault
    │   └── TemplateError        a prompt template with a missing or unknown placeholder
    ├── DataError                a dataset or JSONL file that cannot be used
    ├── ChatError                a model gave no usable answer
    │   ├── ChatTransportError   it could not be reached, or kept failing
    │   ├── ChatReplyError       it answered, but not in a way that may be used
    │   └── UnseenPromptError    a recorded chat was asked a question that is not in its file
    ├── BudgetError              the run's cap on calls, tokens or money is used up
    ├── MetaStepError            a meta step that ended without a rubric
    ├── UnscoredError            too many rollouts of one step stayed unscored
    └── StoreError               the store cannot be read or written
        ├── StoreFileError       its file is the cause: full disk, damage, deleted or replaced
        └── NewerStoreError      it was written by a newer version of this package

A message says what is wrong, which value, and what to do. No exception of another
package crosses a public function: it is wrapped at the boundary, with `raise ... from`.
"""

from __future__ import annotations

from .redaction import redact

__all__ = [
    "BudgetError",
    "ChatError",
    "ChatReplyError",
    "ChatTransportError",
    "ConfigError",
    "DataError",
    "MPOError",
    "MetaStepError",
    "MissingExtraError",
    "NewerStoreError",
    "RubricError",
    "StoreError",
    "StoreFileError",
    "TaskError",
    "TemplateError",
    "UnscoredError",
    "UnseenPromptError",
]


class MPOError(Exception):
    """Base of all errors of this package; catch it at a program's edge.

    Args:
        message: The fault, the value, and the remedy. Secrets in it are redacted.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(redact(message))


class ConfigError(MPOError):
    """A config, an argument or a run folder that cannot be used."""


class MissingExtraError(ConfigError):
    """An optional dependency is not installed.

    Args:
        package: The import name that is missing.
        extra: The extra of this distribution that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package!r} is not installed; it belongs to the extra {extra!r}: "
            f"pip install 'mpo-rl[{extra}]'"
        )
        self.package = package
        self.extra = extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), (self.package, self.extra)


class RubricError(MPOError):
    """Text that cannot be read as a rubric."""


class TaskError(MPOError):
    """A task folder with a fault."""


class TemplateError(TaskError):
    """A prompt template with a missing or unknown placeholder."""


class DataError(MPOError):
    """A dataset or JSONL file that cannot be used."""


class ChatError(MPOError):
    """A model gave no usable answer. Never turned into a score."""

    usage: object = None
    """Usage of replies that are billed all the same (`mpo.records.Usage`); None where the server
    did not report any."""


class ChatTransportError(ChatError):
    """The endpoint could not be reached, or kept failing until the retries ran out."""


class ChatReplyError(ChatError):
    """The model answered, but the answer may not be used (truncated, refused, off schema)."""


class UnseenPromptError(ChatError):
    """A recorded chat was asked a question that its file does not hold."""


class BudgetError(MPOError):
    """The run's cap on calls, tokens or money is used up. Stops the run, which can be resumed.

    No `ChatError`: a rollout that could not be paid for must not pass as merely unscored.
    """


class MetaStepError(MPOError):
    """A meta step that ended without a rubric. The head stays where it was (law 10)."""


class UnscoredError(MPOError):
    """More rollouts of one step stayed unscored than `max_unscored` allows."""


class StoreError(MPOError):
    """The store cannot be read or written."""


class StoreFileError(StoreError):
    """The store's file cannot be used: the disk is full, or the file is damaged, locked, deleted or
    replaced. No other write would fare better, until somebody has repaired it."""


class NewerStoreError(StoreError):
    """The store was written by a newer version of this package."""
