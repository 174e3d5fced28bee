"""Loading a policy, and the checks before one is loaded."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from ..errors import ConfigError, DataError, MissingExtraError
from ..integrations.trl import require_trl
from .settings import TrainerSettings

__all__ = [
    "check_before_loading",
    "check_model",
    "device_arguments",
    "filter_by_length",
    "is_main",
    "load_policy",
    "load_tokenizer",
    "lora_config",
    "processes",
    "quiet",
    "unknown_model",
]

_log = logging.getLogger(__name__)

TOKENIZER_BATCH = 256
"""Prompts per call of the tokenizer."""


def processes() -> int:
    """Number of processes of this training, from torchrun's environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """True in the process that writes files."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def quiet() -> Iterator[None]:
    """Switch off transformers' progress bars, and its warnings to its direct callers."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*will be removed in v6", FutureWarning)
            yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def check_before_loading(settings: TrainerSettings, rows: Sequence[Mapping[str, Any]]) -> None:
    """Find what is wrong without loading a model, and before a reward costs money.

    Raises:
        DataError: There are too few rows, or one has no prompt.
        MissingExtraError: A package is not installed.
        ConfigError: The settings cannot be used.
    """
    if len(rows) < settings.prompts:
        raise DataError(
            f"the dataset has {len(rows)} rows, and one update takes {settings.prompts} prompts "
            f"(batch_size={settings.batch_size} / num_generations={settings.num_generations}): "
            "give more rows or a smaller batch"
        )
    for number, row in enumerate(rows):
        if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise DataError(f"row {number} of the dataset has no text in its column 'prompt'")
    packages = ["torch", "transformers", "accelerate"]
    packages += ["peft"] if settings.lora else []
    packages += ["datasets"] if settings.algorithm != "ppo" else []
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError(package, "train")
    if settings.algorithm == "ppo":
        settings.per_rank_batch_size(processes())
    else:
        require_trl()
        settings.per_process(processes())
    _check_trackers(settings.report_to)


def _check_trackers(names: Sequence[str]) -> None:
    if not names:
        return
    from transformers.integrations.integration_utils import get_available_reporting_integrations

    installed = get_available_reporting_integrations()  # type: ignore[no-untyped-call]
    for name in names:
        if name not in (*installed, "none", "all"):
            raise ConfigError(
                f"report_to: {name!r} is unknown or not installed; installed are: "
                f"{', '.join(sorted(installed)) or 'none'}"
            )


def check_model(model: str) -> None:
    """Read the model's config.

    Raises:
        ConfigError: The model has none.
    """
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise unknown_model(model, error) from error


def unknown_model(model: str, error: Exception) -> ConfigError:
    """The error for a model that transformers cannot load."""
    reason = str(error).strip().partition("\n")[0]
    return ConfigError(
        f"model {model!r} cannot be loaded: {reason} (give a folder with a config.json, or a hub "
        "id that this machine can reach)"
    )


def device_arguments(settings: TrainerSettings) -> dict[str, Any]:
    """Arguments of GRPOConfig for this hardware: its defaults need a GPU with bfloat16."""
    import torch

    cpu = not torch.accelerator.is_available()
    capable = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    half = settings.dtype == "bfloat16" or (settings.dtype == "auto" and capable)
    return {
        "use_cpu": cpu,
        "bf16": half,
        "dataloader_pin_memory": not cpu,
        "model_init_kwargs": {"dtype": _weights_dtype(settings)},
    }


def _weights_dtype(settings: TrainerSettings) -> str:
    return "bfloat16" if settings.dtype == "bfloat16" else "float32"


def load_policy(model: str, settings: TrainerSettings) -> Any:
    """The policy before training, ready to sample from."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        policy: Any = AutoModelForCausalLM.from_pretrained(model, dtype=_weights_dtype(settings))
    except (OSError, ValueError) as error:
        raise unknown_model(model, error) from error
    accelerator = torch.accelerator.current_accelerator()
    return policy.to(accelerator if accelerator is not None else "cpu").eval()


def load_tokenizer(model: str) -> Any:
    """The policy's tokenizer, padding on the left, as generation needs it."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    except (OSError, ValueError) as error:
        raise unknown_model(model, error) from error
    if tokenizer.pad_token is None:
        _log.warning(
            "the tokenizer of %s has no padding token: its end token %r is used",
            model,
            tokenizer.eos_token,
        )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def lora_config(settings: TrainerSettings) -> Any:
    """PEFT's config of the adapters; None without LoRA."""
    if settings.lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora.r,
        lora_alpha=settings.lora.alpha,
        lora_dropout=settings.lora.dropout,
        target_modules=settings.lora.target_modules,
    )


def filter_by_length(
    rows: Sequence[Mapping[str, Any]], model: str, max_tokens: int
) -> list[dict[str, Any]]:
    """Rows whose prompt has at most `max_tokens` tokens of the policy; the log counts the others.

    Args:
        rows: Rows with the policy's `prompt`.
        model: Folder or hub id of the policy. Its tokenizer is loaded, not its weights.
        max_tokens: Most tokens of a prompt, special ones included.

    Raises:
        ConfigError: The policy's tokenizer cannot be loaded.
        DataError: No row is left.
        MissingExtraError: The extra `train` is not installed.
    """
    if find_spec("transformers") is None:
        raise MissingExtraError("transformers", "train")
    check_model(model)
    tokenizer = load_tokenizer(model)
    lengths: list[int] = []
    for start in range(0, len(rows), TOKENIZER_BATCH):
        texts = [str(row["prompt"]) for row in rows[start : start + TOKENIZER_BATCH]]
        lengths += map(len, tokenizer(texts)["input_ids"])
    short = [dict(row) for row, n in zip(rows, lengths, strict=True) if n <= max_tokens]
    if not short:
        raise DataError(
            f"all {len(rows)} prompts have more than dataset.max_prompt_tokens={max_tokens} tokens "
            f"of {model!r} (the shortest has {min(lengths)}): raise the limit in the task, or "
            "shorten the prompts"
        )
    # Logged also where nothing is dropped: it is one of the numbers by which runs are compared.
    dropped = len(rows) - len(short)
    _log.info("%d of %d prompts dropped: over %d tokens", dropped, len(rows), max_tokens)
    return short
