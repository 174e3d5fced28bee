"""Loading a policy, and everything that can be found wrong before one is loaded."""

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
    "is_main",
    "load_policy",
    "load_tokenizer",
    "lora_config",
    "processes",
    "quiet",
    "unknown_model",
]

_log = logging.getLogger(__name__)


def processes() -> int:
    """Processes of this training, as torchrun says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that writes files."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers, and no warnings that only its own callers can heed."""
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
    """What can be wrong without loading a model, asked first: a reward may cost money.

    Raises:
        DataError: Too few rows, or a row without a prompt.
        MissingExtraError: A package is not installed.
        ConfigError: Settings that cannot be used.
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
    packages = ["torch", "transformers", "accelerate", "datasets", "trl"]
    for package in [*packages, "peft"] if settings.lora else packages:
        if find_spec(package) is None:
            raise MissingExtraError(package, "train")
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
        ConfigError: There is none.
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
    """Arguments of GRPOConfig that depend on the hardware; its own defaults need a GPU with
    bfloat16."""
    import torch

    cpu = not torch.accelerator.is_available()
    capable = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    half = settings.dtype == "bfloat16" or (settings.dtype == "auto" and capable)
    return {
        "use_cpu": cpu,
        "bf16": half,
        "dataloader_pin_memory": not cpu,
        "model_init_kwargs": {"dtype": _weights(settings)},
    }


def _weights(settings: TrainerSettings) -> str:
    return "bfloat16" if settings.dtype == "bfloat16" else "float32"


def load_policy(model: str, settings: TrainerSettings) -> Any:
    """The policy before training, ready to sample from."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        policy: Any = AutoModelForCausalLM.from_pretrained(model, dtype=_weights(settings))
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
    """What TRL takes as `peft_config`; None without LoRA."""
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
