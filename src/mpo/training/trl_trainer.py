"""A whole training run with GRPO or RLOO, by TRL: load, train, keep checkpoints, continue."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ConfigError, MPOError
from ..integrations import trl as mpo_trl
from ..integrations.trainer_rollouts import GoldScorer
from ..reward import EvolvingReward
from .files import checkpoint_error, newest_checkpoint
from .model import (
    check_before_loading,
    check_model,
    device_arguments,
    is_main,
    load_tokenizer,
    lora_config,
    processes,
    quiet,
    unknown_model,
)
from .reporting import Progress, StepReporter, closing, finish_run
from .settings import TrainerSettings
from .trackers import guard_trackers

__all__ = ["train_trl"]


def train_trl(
    *,
    reward: EvolvingReward,
    settings: TrainerSettings,
    model: str,
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    seed: int,
    gold_scorer: GoldScorer | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a policy with TRL; see `start.train` for arguments, result and errors."""
    check_before_loading(settings, rows)
    checkpoints = folder / "checkpoints"
    newest = newest_checkpoint(checkpoints, remove_broken=is_main())
    started = time.monotonic()
    if newest is None or newest.step < settings.steps:
        check_model(model)
        reporter = StepReporter(reward, settings.steps, folder, progress)
        with _checkpoint_errors(checkpoints), closing(reward), quiet():
            trainer = _trainer(reward, settings, model, rows, folder, seed, gold_scorer, reporter)
            trainer.train(resume_from_checkpoint=str(newest.folder) if newest else None)
    elif newest.step > settings.steps:
        raise ConfigError(
            f"{newest.folder} is beyond steps={settings.steps}: use another run folder"
        )
    return finish_run(
        folder, reward.store, steps=settings.steps, resumed_from=newest, started=started
    )


def _trainer(
    reward: EvolvingReward,
    settings: TrainerSettings,
    model: str,
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    seed: int,
    gold_scorer: GoldScorer | None,
    reporter: StepReporter,
) -> Any:
    from datasets import Dataset
    from transformers import PrinterCallback, ProgressCallback
    from trl import GRPOTrainer, RLOOTrainer  # type: ignore[attr-defined]

    callback = mpo_trl.MPOCallback(reward, on_step=reporter.note_decision)
    # TRL's own annotation knows no coroutine functions.
    rewards: list[Any] = [mpo_trl.TRLReward(reward, gold_scorer=gold_scorer)]
    try:
        trainer = (RLOOTrainer if settings.algorithm == "rloo" else GRPOTrainer)(
            model=model,
            reward_funcs=rewards,
            args=_arguments(settings, reward, folder, seed),
            train_dataset=Dataset.from_list([dict(row) for row in rows]),
            processing_class=load_tokenizer(model),
            callbacks=[callback, _report_callback(reporter)],
            peft_config=lora_config(settings),
        )
    except OSError as error:
        raise unknown_model(model, error) from error
    # A library prints nothing; `progress` says what there is to say.
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    guard_trackers(trainer, folder)
    return trainer


def _arguments(settings: TrainerSettings, reward: EvolvingReward, folder: Path, seed: int) -> Any:
    from trl import GRPOConfig, RLOOConfig  # type: ignore[attr-defined]

    micro, passes = settings.per_process(processes())
    try:
        return (RLOOConfig if settings.algorithm == "rloo" else GRPOConfig)(
            **device_arguments(settings),
            output_dir=str(folder / "checkpoints"),
            max_steps=settings.steps,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=passes,
            num_generations=settings.num_generations,
            max_completion_length=reward.task.spec.response.max_tokens,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.lr_schedule,
            beta=settings.beta,
            temperature=settings.temperature,
            top_p=settings.top_p,
            gradient_checkpointing=settings.gradient_checkpointing,
            save_strategy="steps",
            save_steps=settings.save_every or settings.steps,
            logging_steps=1,
            report_to=list(settings.report_to) or "none",
            seed=seed,
            disable_tqdm=True,
            **settings.extra,
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"TRL does not accept these trainer settings: {error}") from error


def _report_callback(reporter: StepReporter) -> Any:
    """A trainer callback: `on_log` comes after `on_step_end`, and has the KL divergence."""
    from transformers import TrainerCallback

    class Report(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            state.save_steps = args.save_steps  # a checkpoint brings its own along
            if state.is_world_process_zero:
                reporter.begin()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            # The last log of a run has its totals and no loss.
            if state.is_world_process_zero and logs and "loss" in logs:
                kl = logs.get("kl")
                reporter.report(state.global_step, None if kl is None else float(kl))

    return Report()


@contextmanager
def _checkpoint_errors(checkpoints: Path) -> Iterator[None]:
    """Turn another package's exception into a StoreError where a checkpoint was being written."""
    try:
        yield
    except MPOError:
        raise
    except Exception as error:
        meaning = checkpoint_error(checkpoints, error)
        if meaning is None:
            raise
        raise meaning from error
