"""A whole training run from settings: load, train with GRPO or RLOO, keep checkpoints, continue.

    summary = train(
        reward=reward, settings=TrainerSettings(steps=100), model="Qwen/Qwen3-0.6B",
        rows=[{"prompt": "Write about tea."}, …], folder=Path("runs/a"), seed=0,
    )

In the folder: `checkpoints/checkpoint-N/` and `rubrics/*.md`, one file per rubric that came into
force. A run that has checkpoints continues from the newest complete one, with the rubric, the
random state and the learning rate that it had then.

Started with `torchrun`, every process calls `train` with a reward on the same store. On a CPU
torch takes as many threads as there are cores; OMP_NUM_THREADS=1 is faster where other programs
run beside it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..chat.event_loop import run_in_loop
from ..errors import ConfigError, MPOError
from ..integrations import trl as mpo_trl
from ..integrations.trl import GoldScorer, TRLReward
from ..records import Decision
from ..reward import EvolvingReward
from ..watch.second_judge import AUDIT
from .files import checkpoint_error, newest_checkpoint, write_rubrics
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
from .settings import TrainerSettings
from .trackers import guard_trackers

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["GoldScorer", "StepReport", "train"]


@dataclass(frozen=True)
class StepReport:
    """What one update did. Means are over what is known; None where nothing is (law 3)."""

    step: int
    """1 to `steps`."""
    steps: int
    reward: float | None
    """Mean normalized reward, 0 to 1, of the completions of this update."""
    gold: float | None
    """Mean of what the auditor gave the same completions."""
    audit: float | None
    """Mean of what a second RM gave some of them; None where it graded none."""
    unscored: int
    """Completions without a reward."""
    words: float
    """Mean words of a completion."""
    rubric_id: str
    """In force after the update."""
    kl: float | None
    """KL divergence from the policy before training; None where `beta` is 0."""
    decision: Decision | None
    """Of the meta step after this update, if there was one."""
    seconds: float
    """Since the update before."""


def train(
    *,
    reward: EvolvingReward,
    settings: TrainerSettings,
    model: str,
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    seed: int,
    auditor: GoldScorer | None = None,
    progress: Callable[[StepReport], None] | None = None,
) -> dict[str, Any]:
    """Train a policy, from the beginning or from the newest complete checkpoint.

    Args:
        reward: Scores the completions; its schedule says when the rubric may change.
        settings: How the policy is updated.
        model: Folder or hub id of a causal language model.
        rows: Dataset; each row has the policy's `prompt` (text) and maybe other columns.
        folder: Of the run; made if missing.
        seed: Of sampling and data order.
        auditor: Scores the same completions from outside.
        progress: Called on the main process after each update.

    Returns:
        JSON values: `steps`, `resumed_from`, `seconds`, `checkpoint`, `rubrics`, `head`, `usage`.

    Raises:
        ConfigError: Settings, model or installation cannot be used. Nothing was asked yet.
        DataError: There are too few rows.
        UnscoredError: Too many completions stayed unscored.
        MPOError: The disk is full; what was stored before is kept.
    """
    check_before_loading(settings, rows)
    checkpoints = folder / "checkpoints"
    newest = newest_checkpoint(checkpoints, remove_broken=is_main())
    started = time.monotonic()
    if newest is None or newest.step < settings.steps:
        check_model(model)
        with _one_line_errors(checkpoints), _closing(reward), quiet():
            trainer = _trainer(reward, settings, model, rows, folder, seed, auditor, progress)
            trainer.train(resume_from_checkpoint=str(newest.folder) if newest else None)
    elif newest.step > settings.steps:
        raise ConfigError(
            f"{newest.folder} is beyond steps={settings.steps}: use another run folder"
        )
    write_rubrics(folder / "rubrics", reward.store)
    last = newest_checkpoint(checkpoints)
    store = reward.store
    return {
        "steps": settings.steps,
        "resumed_from": newest.step if newest else None,
        "seconds": round(time.monotonic() - started, 3),
        "checkpoint": str(last.folder) if last else None,
        "rubrics": len({d.proposed for d in store.lineage() if d.accepted}),
        "head": store.heads(),
        "usage": {role: usage.model_dump() for role, usage in store.usage().items()},
    }


# ---------------------------------------------------------------------- the trainer


def _trainer(
    reward: EvolvingReward,
    settings: TrainerSettings,
    model: str,
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    seed: int,
    auditor: GoldScorer | None,
    progress: Callable[[StepReport], None] | None,
) -> Any:
    from datasets import Dataset
    from transformers import PrinterCallback, ProgressCallback
    from trl import GRPOTrainer, RLOOTrainer  # type: ignore[attr-defined]

    reporter = _Reporter(reward, settings.steps, folder / "rubrics", progress)
    callback = mpo_trl.MPOCallback(reward, on_step=reporter.decided)
    arguments = _arguments(settings, reward, folder, seed)
    # TRL's own annotation knows no coroutine functions.
    rewards: list[Any] = [TRLReward(reward, auditor=auditor)]
    try:
        trainer = (RLOOTrainer if settings.algorithm == "rloo" else GRPOTrainer)(
            model=model,
            reward_funcs=rewards,
            args=arguments,
            train_dataset=Dataset.from_list([dict(row) for row in rows]),
            processing_class=load_tokenizer(model),
            callbacks=[callback, reporter.callback()],
            peft_config=lora_config(settings),
        )
    except OSError as error:
        raise unknown_model(model, error) from error
    # A library prints nothing; `progress` says what there is to say.
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    guard_trackers(trainer, reward.store)
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
        raise ConfigError(f"trainer settings that TRL does not take: {error}") from error


# ---------------------------------------------------------------------- while it runs


class _Reporter:
    """Tells `progress` of each update, and writes each accepted rubric to a file."""

    def __init__(
        self,
        reward: EvolvingReward,
        steps: int,
        rubrics: Path,
        progress: Callable[[StepReport], None] | None,
    ) -> None:
        self._reward = reward
        self._steps = steps
        self._rubrics = rubrics
        self._progress = progress
        self._decision: Decision | None = None
        self._told = time.monotonic()

    def decided(self, step: int, decision: Decision | None) -> None:
        self._decision = decision
        if decision is not None and decision.accepted:
            write_rubrics(self._rubrics, self._reward.store)

    def callback(self) -> Any:
        """A trainer callback: `on_log` comes after `on_step_end`, and has the KL."""
        from transformers import TrainerCallback

        reporter = self

        class Report(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.is_world_process_zero:
                    write_rubrics(reporter._rubrics, reporter._reward.store)
                reporter._told = time.monotonic()

            def on_log(
                self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any
            ) -> None:
                # The last log of a run has its totals and no loss.
                if state.is_world_process_zero and logs and "loss" in logs:
                    reporter.tell(state.global_step, logs.get("kl"))

        return Report()

    def tell(self, step: int, kl: Any) -> None:
        if self._progress is None:
            return
        store = self._reward.store
        first, last = step - 2, step - 1  # what this update learned from was sampled before it
        cases = store.window(after_step=first, up_to_step=last, cohort=None, scored=None)
        shares = [
            c.judgement.normalized_reward
            for c in cases
            if c.judgement.normalized_reward is not None
        ]

        def audited(name: str) -> list[float]:
            found = store.external_scores(name, after_step=first, up_to_step=last).values()
            return [one.value for one in found if one.value is not None]

        gold, audit = audited("gold"), audited(AUDIT)
        now = time.monotonic()
        self._progress(
            StepReport(
                step=step,
                steps=self._steps,
                reward=statistics.fmean(shares) if shares else None,
                gold=statistics.fmean(gold) if gold else None,
                audit=statistics.fmean(audit) if audit else None,
                unscored=len(cases) - len(shares),
                words=_mean_words(cases),
                rubric_id=next(iter(store.heads().values())),
                kl=None if kl is None else float(kl),
                decision=self._decision,
                seconds=now - self._told,
            )
        )
        self._told = now


def _mean_words(cases: Sequence[Any]) -> float:
    return statistics.fmean(len(c.rollout.completion.split()) for c in cases) if cases else 0.0


@contextmanager
def _closing(reward: EvolvingReward) -> Iterator[None]:
    """Close the reward's connections, also where training failed."""
    try:
        yield
    finally:
        run_in_loop(reward.aclose())


@contextmanager
def _one_line_errors(checkpoints: Path) -> Iterator[None]:
    """No exception of another package leaves, if it can be told what it means."""
    try:
        yield
    except MPOError:
        raise
    except Exception as error:
        meaning = checkpoint_error(checkpoints, error)
        if meaning is None:
            raise
        raise meaning from error
