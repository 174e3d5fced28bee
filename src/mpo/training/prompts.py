"""Prompts that are too long for the policy: `dataset.max_prompt_tokens` of a task."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from ..errors import DataError, MissingExtraError
from .model import check_model, load_tokenizer

__all__ = ["fitting"]

_log = logging.getLogger(__name__)

BATCH = 256
"""Prompts that the tokenizer is given at once."""


def fitting(rows: Sequence[Mapping[str, Any]], model: str, most: int) -> list[dict[str, Any]]:
    """The rows whose prompt has at most `most` tokens of the policy; the log says how many lack.

    Args:
        rows: Each with the policy's `prompt`.
        model: Folder or hub id of the policy. Its tokenizer is loaded, not its weights.
        most: Tokens, special ones included.

    Raises:
        ConfigError: The policy's tokenizer cannot be loaded.
        DataError: No row is left.
        MissingExtraError: Without the extra `train`.
    """
    if find_spec("transformers") is None:
        raise MissingExtraError("transformers", "train")
    check_model(model)
    tokenizer = load_tokenizer(model)
    lengths: list[int] = []
    for start in range(0, len(rows), BATCH):
        texts = [str(row["prompt"]) for row in rows[start : start + BATCH]]
        lengths += map(len, tokenizer(texts)["input_ids"])
    kept = [dict(row) for row, n in zip(rows, lengths, strict=True) if n <= most]
    if not kept:
        raise DataError(
            f"all {len(rows)} prompts have more than dataset.max_prompt_tokens={most} tokens of "
            f"{model!r} (the shortest has {min(lengths)}): raise it in the task, or shorten them"
        )
    # Said also where nothing is dropped: the paper's runs are told apart by this number.
    _log.info("%d of %d prompts dropped: over %d tokens", len(rows) - len(kept), len(rows), most)
    return kept
