"""Checkpoints of PPO: everything that a stopped run needs to continue bit for bit.

    checkpoint-N/
      adapter_model.safetensors or model.safetensors, config, tokenizer   the policy, a normal model
      critic.safetensors, optimizer.pt, scheduler.pt                      what else is trained
      rng_state.pth (one per rank: rng_state_0.pth, …)                    random states
      ppo.json                                                            critic, LoRA, KL weight
      trainer_state.json                                                  step, store snapshot

The folder is written under another name and renamed when it is complete.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError, StoreError
from ...integrations.meta_steps import CALLBACK, saved_state
from ..files import Checkpoint
from ..settings import TrainerSettings

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["Position", "check_checkpoint", "load_checkpoint", "load_position", "save_checkpoint"]


@dataclass(frozen=True)
class Position:
    """Where a run stands, beside its weights."""

    step: int
    """Steps that are done."""
    kl_coef: float
    """Current coefficient of the KL term."""
    meta_steps: Mapping[str, Any]
    """State of the meta steps: where the store stands, and how many ranks there are."""
    history: Sequence[Mapping[str, Any]] = ()
    """Figures that were logged, one entry per step."""


def check_checkpoint(checkpoint: Checkpoint, settings: TrainerSettings) -> None:
    """Check that a run with these settings can continue from the checkpoint.

    Raises:
        ConfigError: Another trainer wrote it, or its weights are of other settings.
    """
    try:
        written = json.loads((checkpoint.folder / "ppo.json").read_text("utf-8"))["settings"]
        before = {name: written[name] for name in _shaping(settings)}
    except FileNotFoundError:
        raise ConfigError(
            f"{checkpoint.folder} was not written by PPO (no ppo.json): use another run folder, "
            "or the algorithm that wrote it"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{checkpoint.folder}/ppo.json cannot be read: {error}") from error
    for name, new in _shaping(settings).items():
        if before[name] != new:
            raise ConfigError(
                f"{checkpoint.folder} has other weights: it was trained with "
                f"{name}={before[name]!r}, and the settings say {new!r}: use another run "
                "folder, or the old value"
            )


def _shaping(settings: TrainerSettings) -> dict[str, Any]:
    """Settings that decide which weights there are, as JSON values."""
    lora = settings.lora.model_dump(mode="json") if settings.lora else None
    return {"critic": settings.ppo.critic, "lora": lora}


# ---------------------------------------------------------------------- writing


def save_checkpoint(folder: Path, engine: Engine, position: Position, tokenizer: Any) -> Path:
    """Write `checkpoint-N` into `folder`; all ranks call it together.

    Raises:
        StoreError: The disk is full, or the folder cannot be written.
    """
    final = folder / f"checkpoint-{position.step}"
    part = folder / f".checkpoint-{position.step}.part"
    accelerator = engine.accelerator
    try:
        if accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        accelerator.wait_for_everyone()
        _save_random(part / _rng_name(accelerator))
        _save_weights(part, engine)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            tokenizer.save_pretrained(part)
            _save_position(part, position, engine.settings)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(part, final)
    except Exception as error:  # torch and safetensors have exceptions of their own for a full disk
        raise _write_error(folder, final, error) from error
    accelerator.wait_for_everyone()
    return final


def _write_error(folder: Path, final: Path, error: Exception) -> StoreError:
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    remedy = "free some space" if full else "if the disk is full, free some space"
    return StoreError(
        f"{final} could not be written: {error}; {remedy}, and run the same command again: "
        f"the run continues from the checkpoint before it in {folder}, if there is one"
    )


def _rng_name(accelerator: Any) -> str:
    if accelerator.num_processes == 1:
        return "rng_state.pth"
    return f"rng_state_{accelerator.process_index}.pth"


def _save_random(path: Path) -> None:
    import numpy as np
    import torch

    kind, keys, *rest = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (kind, [int(key) for key in keys], *rest),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    torch.save(state, path)


def _save_weights(part: Path, engine: Engine) -> None:
    accelerator = engine.accelerator
    options: dict[str, Any] = {"save_embedding_layers": False} if engine.ac.lora else {}
    if engine.sharded:
        accelerator.save_state(str(part / "accelerate"))
        options["state_dict"] = _policy_part(accelerator.get_state_dict(engine.wrapped))
    if not accelerator.is_main_process:
        return
    engine.ac.policy.save_pretrained(str(part), **options)
    if engine.sharded:
        return
    import torch
    from safetensors.torch import save_file

    save_file(_critic_state(engine), str(part / "critic.safetensors"))
    torch.save(engine.optimizer.state_dict(), part / "optimizer.pt")
    torch.save(engine.schedule.state_dict(), part / "scheduler.pt")


def _policy_part(state: Mapping[str, Any]) -> dict[str, Any]:
    prefix = "parts.policy."
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}


def _critic_state(engine: Engine) -> dict[str, Any]:
    state = engine.ac.modules.state_dict()
    return {k: v.contiguous() for k, v in state.items() if not k.startswith("policy.")}


def _save_position(part: Path, position: Position, settings: TrainerSettings) -> None:
    ppo = {"settings": _shaping(settings), "kl_coef": position.kl_coef}
    (part / "ppo.json").write_text(json.dumps(ppo, indent=2), "utf-8")
    state = {
        "global_step": position.step,
        "log_history": list(position.history),
        # Where a trainer of transformers puts it, so that the same readers find it.
        "stateful_callbacks": {CALLBACK: dict(position.meta_steps)},
    }
    (part / "trainer_state.json").write_text(json.dumps(state, indent=2), "utf-8")


# ---------------------------------------------------------------------- reading


def load_position(checkpoint: Checkpoint) -> Position:
    """Where the run of a complete checkpoint stood."""
    state = json.loads((checkpoint.folder / "trainer_state.json").read_text("utf-8"))
    ppo = json.loads((checkpoint.folder / "ppo.json").read_text("utf-8"))
    return Position(
        step=checkpoint.step,
        kl_coef=float(ppo["kl_coef"]),
        meta_steps=saved_state(state["stateful_callbacks"]),
        history=state["log_history"],
    )


def load_checkpoint(checkpoint: Checkpoint, engine: Engine) -> None:
    """Load critic, optimizer, learning rate and random states. The engine has the policy already.

    Raises:
        StoreError: A file is damaged.
    """
    folder = checkpoint.folder
    try:
        if engine.sharded:
            engine.accelerator.load_state(str(folder / "accelerate"))
        else:
            _load_weights(folder, engine)
        random_states = folder / _rng_name(engine.accelerator)
        if random_states.exists():  # otherwise another number of processes wrote them
            _load_random(random_states)
    except Exception as error:  # torch, pickle and safetensors each have their own
        raise StoreError(
            f"{folder} cannot be read: {error}; delete it, and the run continues from the "
            "checkpoint before it"
        ) from error


def _load_weights(folder: Path, engine: Engine) -> None:
    import torch
    from safetensors.torch import load_file

    state = load_file(str(folder / "critic.safetensors"))
    keys = engine.ac.modules.load_state_dict(state, strict=False)
    missing = [key for key in keys.missing_keys if not key.startswith("policy.")]
    if missing or keys.unexpected_keys:
        raise ValueError(f"its critic does not fit: {[*missing, *keys.unexpected_keys][:3]}")
    states = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
    engine.optimizer.load_state_dict(states)  # to where the weights are
    engine.schedule.load_state_dict(torch.load(folder / "scheduler.pt", weights_only=True))


def _load_random(path: Path) -> None:
    import numpy as np
    import torch

    state = torch.load(path, weights_only=True)
    torch.set_rng_state(state["torch"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
