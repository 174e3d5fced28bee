"""Outputs: what each model wrote on the same prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import DataError
from .rows import Row, text_column

__all__ = ["COMPLETION", "PROMPT", "Outputs", "common_prompts", "read_outputs"]

PROMPT = ("prompt", "query")
COMPLETION = ("completion", "model_response", "response")
"""Columns, the first that a row has; the later ones are those of the paper's files."""


@dataclass
class Outputs:
    """One model's completions."""

    model: str
    completions: dict[str, str] = field(default_factory=dict)
    """By prompt, in the file's order."""
    repeated: int = 0
    """Rows left out since their prompt was there before: padding, or further samples."""


def read_outputs(rows: Sequence[Row], where: str, name: str | None, stem: str) -> list[Outputs]:
    """The models of a generations file, in order of appearance.

    Args:
        rows: With `prompt` and `completion` (or `query` and `model_response`), maybe `model`.
        where: The file, for messages.
        name: Of the model, whatever the rows say.
        stem: Its name where neither `name` nor the rows say one.

    Raises:
        DataError: No rows, or a row without prompt or completion.
    """
    if not rows:
        raise DataError(f"{where} is empty: model {name or stem!r} has no outputs")
    models: dict[str, Outputs] = {}
    for number, row in enumerate(rows, start=1):
        at = f"{where}, row {number}"
        prompt, completion = text_column(row, PROMPT, at), text_column(row, COMPLETION, at)
        said = row.get("model")
        model = name or (said if isinstance(said, str) and said else stem)
        outputs = models.setdefault(model, Outputs(model))
        if prompt in outputs.completions:
            outputs.repeated += 1
        else:
            outputs.completions[prompt] = completion
    return list(models.values())


def common_prompts(models: Sequence[Outputs], *, only_common: bool = False) -> list[str]:
    """The prompts on which all models are compared, in the first model's order.

    Args:
        models: At least two, of different names.
        only_common: Leave out what some model lacks, instead of refusing.

    Raises:
        DataError: Too few models, two of one name, or prompts that do not match.
    """
    names = [outputs.model for outputs in models]
    if len(names) < 2:
        raise DataError(
            f"a ranking needs at least two models; there is {', '.join(names) or 'none'}"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"two files are of a model called {twice[0]!r}: name them apart, NAME=FILE")
    shared = [p for p in models[0].completions if all(p in m.completions for m in models)]
    if not shared:
        raise DataError(f"no prompt is common to {', '.join(names)}: they answered different tests")
    if not only_common:
        _check_complete({m.model: m.completions for m in models})
    return shared


def _check_complete(models: Mapping[str, Iterable[str]]) -> None:
    every = dict.fromkeys(prompt for prompts in models.values() for prompt in prompts)
    for name, prompts in models.items():
        missing = [prompt for prompt in every if prompt not in prompts]
        if missing:
            raise DataError(
                f"model {name!r} has no output for {len(missing)} of {len(every)} prompts that "
                f"others answered, e.g. {' '.join(missing[0].split())[:60]!r}: generate them, or "
                "rank on the common prompts (--only-common)"
            )
