"""PPO with an evolving reward: the paper's algorithm, in a loop of our own (TRL removed its PPO).

    summary = train_ppo(
        reward=reward, settings=PPOSettings(steps=100), model="Qwen/Qwen3-0.6B",
        rows=[{"prompt": "Write about tea."}, …], folder=Path("runs/a"), seed=0,
    )

Same contract, files and reports as `run.train`. Each step: sample a batch; while the reward is
asked, run the passes of reference, policy and critic; learn in `epochs` passes; hold the meta step
if one is due; write a checkpoint if one is due.

Nothing is normalised over time: the critic predicts returns on the reward's own scale, and rewards
and advantages are whitened within a batch only. So a new rubric leaves no running mean or variance
behind that would have to be reset; the scale `anchored` is what keeps the critic's past of use.

Every random choice of a step follows from seed, step and rank, so a run that continues from a
checkpoint draws what the run that was not stopped would have drawn.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ...chat import event_loop as loop
from ...errors import ConfigError, DataError, MissingExtraError
from ...integrations import trl as shared
from ...integrations.trl import GoldScorer
from ...judge.scale import Scale
from ...records import CriterionScore, Judgement, Rollout, ScaleMap, content_hash
from ...reward import EvolvingReward
from ...rubric import Rubric
from ..files import Checkpoint, newest_checkpoint, write_rubrics
from ..model import _check_trackers, check_model, is_main, load_tokenizer, processes, quiet
from ..trl_trainer import StepReport, _closing, _Reporter
from .checkpoint import Position, check_checkpoint, load_checkpoint, load_position, save_checkpoint
from .engine import Engine, make_accelerator
from .math import AdaptiveKL
from .rollout import Sample, Sampling, sample
from .settings import PPOSettings
from .trackers import Trackers
from .update import before, learn

__all__ = ["train_ppo"]


def train_ppo(
    *,
    reward: EvolvingReward,
    settings: PPOSettings,
    model: str,
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    seed: int,
    auditor: GoldScorer | None = None,
    progress: Callable[[StepReport], None] | None = None,
) -> dict[str, Any]:
    """Train a policy with PPO, from the beginning or from the newest complete checkpoint.

    Args:
        reward: Scores the completions; its schedule says when the rubric may change.
        settings: How policy and critic are updated.
        model: Folder or hub id of a causal language model.
        rows: Dataset; each row has the policy's `prompt` (text) and maybe other columns.
        folder: Of the run; made if missing.
        seed: Of sampling, data order and new weights.
        auditor: Scores the same completions from outside.
        progress: Called on the main process after each step.

    Returns:
        JSON values: `steps`, `resumed_from`, `seconds`, `checkpoint`, `rubrics`, `head`, `usage`.

    Raises:
        ConfigError: Settings, model or installation cannot be used. Nothing was asked yet.
        DataError: There are too few rows.
        UnscoredError: Too many completions stayed unscored.
        StoreError: A checkpoint cannot be written or read.
    """
    _check_before_loading(settings, rows)
    checkpoints = folder / "checkpoints"
    newest = newest_checkpoint(checkpoints, remove_broken=is_main())
    started = time.monotonic()
    if newest is not None and newest.step > settings.steps:
        raise ConfigError(
            f"{newest.folder} is beyond steps={settings.steps}: use another run folder"
        )
    if newest is None or newest.step < settings.steps:
        if newest is not None:
            check_checkpoint(newest, settings)
        check_model(model)
        with _closing(reward), quiet():
            run = _Run(reward, settings, model, rows, folder, seed, auditor, newest)
            run.train(progress)
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


def _check_before_loading(settings: PPOSettings, rows: Sequence[Mapping[str, Any]]) -> None:
    if len(rows) < settings.prompts:
        raise DataError(
            f"the dataset has {len(rows)} rows, and one step takes {settings.prompts} prompts "
            f"(batch_size={settings.batch_size} / num_generations={settings.num_generations}): "
            "give more rows or a smaller batch"
        )
    for number, row in enumerate(rows):
        if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise DataError(f"row {number} of the dataset has no text in its column 'prompt'")
    packages = ["torch", "transformers", "accelerate"]
    for package in [*packages, "peft"] if settings.lora else packages:
        if find_spec(package) is None:
            raise MissingExtraError(package, "train")
    settings.share(processes())
    _check_trackers(settings.report_to)


class _Run:
    """One run in one process."""

    def __init__(
        self,
        reward: EvolvingReward,
        settings: PPOSettings,
        model: str,
        rows: Sequence[Mapping[str, Any]],
        folder: Path,
        seed: int,
        auditor: GoldScorer | None,
        newest: Checkpoint | None,
    ) -> None:
        self.reward, self.settings, self.rows = reward, settings, rows
        self.folder, self.seed, self.auditor = folder, seed, auditor
        self.newest = newest
        self.accelerator = make_accelerator()
        self.rank = int(self.accelerator.process_index)
        self.share = settings.share(int(self.accelerator.num_processes))
        self.tokenizer = load_tokenizer(model)
        checkpoint = newest.folder if newest else None
        self.engine = Engine(model, settings, self.accelerator, seed, checkpoint)
        self.kl = AdaptiveKL(settings.kl_coef, settings.kl_target, settings.kl_horizon)
        self.sampling = Sampling(
            limit=reward.task.spec.response.max_tokens,
            ends=_end_tokens(self.tokenizer, self.engine.ac.lm.model),
            pad=int(self.tokenizer.pad_token_id),
            temperature=settings.temperature,
            top_p=settings.top_p,
        )
        self.history: list[dict[str, float]] = []
        self.spans: dict[str, float] = {}

    # ------------------------------------------------------------------ the loop

    def train(self, progress: Callable[[StepReport], None] | None) -> None:
        reporter = _Reporter(self.reward, self.settings.steps, self.folder / "rubrics", progress)
        meta = shared._MetaSteps(self.reward, on_step=reporter.decided)
        done = self._resume(meta)
        main = self.accelerator.is_main_process
        trackers = Trackers(
            self.settings.report_to if main else [],
            self.folder,
            self.settings.model_dump(),
            store=self.reward.store,
        )
        trackers.begin(self.engine.ac.policy)
        if main:
            _remove_parts(self.folder / "checkpoints")
            write_rubrics(self.folder / "rubrics", self.reward.store)
        for step in range(done, self.settings.steps):
            figures, kl = self.step(step)
            self.history.append({**figures, "step": step + 1})
            meta.on_step_end(None, self._place(step + 1), None)
            callback = meta.state() if self._due(step + 1) else None
            if main:
                trackers.log(step + 1, figures)
                reporter.tell(step + 1, kl)
            if callback is not None:
                self._save(step + 1, callback)
        trackers.end()

    def _place(self, step: int, stateful: Mapping[str, Any] | None = None) -> Any:
        """What a callback of a transformers trainer is told."""
        return SimpleNamespace(
            global_step=step,
            is_world_process_zero=self.accelerator.is_main_process,
            stateful_callbacks=stateful or {},
        )

    def _resume(self, meta: Any) -> int:
        if self.newest is None:
            meta.on_train_begin(None, self._place(0), None)
            return 0
        position = load_position(self.newest)
        stateful = {"MPOCallback": position.callback}
        meta.on_train_begin(None, self._place(position.step, stateful), None)
        load_checkpoint(self.newest, self.engine)
        self.kl.coefficient = position.kl_coef
        self.history = [dict(line) for line in position.history]
        return position.step

    def _due(self, step: int) -> bool:
        every = self.settings.save_every
        return step == self.settings.steps or bool(every and step % every == 0)

    def _save(self, step: int, callback: Mapping[str, Any]) -> None:
        position = Position(step, self.kl.coefficient, callback, self.history)
        folder = self.folder / "checkpoints"
        save_checkpoint(folder, self.engine, position, self.settings, self.tokenizer)

    def step(self, step: int) -> tuple[dict[str, float], float | None]:
        """Sample, score, learn: the figures of the step, and the divergence per token."""
        rows = self._batch(step)
        samples = self._sample(step, rows)
        scoring = _start(self._score(self._rollouts(step, rows, samples)))
        experience = before(self.engine, samples, self.sampling.pad)
        judgements = self._everywhere(scoring)
        scores = self._scores(samples, judgements)
        figures = self._figures(samples, judgements)
        figures["learning_rate"] = self.engine.rate()
        update = learn(self.engine, experience, scores, self.kl, step, self.seed, self.sampling.pad)
        self.engine.advance()
        return {**figures, **update.figures}, update.kl

    # ------------------------------------------------------------------ data and sampling

    def _batch(self, step: int) -> list[Mapping[str, Any]]:
        """This rank's rows; each epoch of the dataset goes through it in an order of its own."""
        prompts = self.settings.prompts
        per_epoch = len(self.rows) // prompts
        epoch, place = divmod(step, per_epoch)
        order = list(range(len(self.rows)))
        random.Random(f"mpo:ppo:data:{self.seed}:{epoch}").shuffle(order)
        chosen = order[place * prompts : (place + 1) * prompts]
        repeated = [self.rows[i] for i in chosen for _ in range(self.settings.num_generations)]
        return repeated[self.rank * self.share : (self.rank + 1) * self.share]

    def _sample(self, step: int, rows: Sequence[Mapping[str, Any]]) -> list[Sample]:
        import torch

        digest = hashlib.sha256(f"mpo:ppo:{self.seed}:{step}:{self.rank}".encode()).digest()
        generator = torch.Generator(self.engine.device)
        generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        ids = self.tokenizer([str(row["prompt"]) for row in rows])["input_ids"]
        with self.engine.ac.sampling():
            return sample(
                self.engine.sampler(),
                self.engine.sampling_weights(),
                ids,
                self.sampling,
                generator,
                self.engine.all_done if self.engine.sharded else None,
            )

    # ------------------------------------------------------------------ scoring

    def _rollouts(
        self, step: int, rows: Sequence[Mapping[str, Any]], samples: Sequence[Sample]
    ) -> list[Rollout]:
        texts = self.tokenizer.batch_decode(
            [one.completion for one in samples], skip_special_tokens=True
        )
        found = []
        for place, (row, text) in enumerate(zip(rows, texts, strict=True)):
            others = {k: shared._jsonable(v) for k, v in row.items() if k != "prompt"}
            cohort = str(others.pop("cohort", None) or "")
            prompt = str(row["prompt"])
            found.append(
                Rollout(
                    prompt=prompt,
                    completion=str(text),
                    columns=others,
                    step=step,
                    # Two rows may ask the same and want different answers.
                    group=content_hash([prompt, others]) if others else "",
                    index=self.rank * self.share + place,
                    cohort=cohort,
                )
            )
        return found

    async def _score(self, rollouts: Sequence[Rollout]) -> list[Judgement]:
        judgements = await self.reward.score(rollouts)
        if self.auditor is not None:
            distinct = list({rollout.id: rollout for rollout in rollouts}.values())
            self.reward.store.add_external_scores(self.auditor.audit(distinct), name="gold")
        return judgements

    def _everywhere(self, scoring: Future[list[Judgement]]) -> list[Judgement]:
        """This rank's judgements; what stopped the scoring of one rank stops all."""
        if self.engine.world == 1:
            return _wait(scoring)
        error: Exception | None = None
        judgements: list[Judgement] = []
        try:
            judgements = _wait(scoring)
        except Exception as raised:
            error = raised
        failure = None if error is None else (type(error).__name__, str(error))
        for rank, other in enumerate(shared._gather(failure)):
            if other is not None:
                raise error if error is not None else shared._rebuilt(other, rank)
        return judgements

    def _scores(
        self, samples: Sequence[Sample], judgements: Sequence[Judgement]
    ) -> list[float | None]:
        penalty = self.settings.missing_eos_penalty or 0.0
        found: list[float | None] = []
        for one, judgement in zip(samples, judgements, strict=True):
            score = judgement.reward
            if score is not None and not one.ended and penalty:
                relative = self.settings.missing_eos == "relative"
                score -= penalty * (self._span(judgement.rubric_id) if relative else 1.0)
            found.append(score)
        return found

    def _span(self, rubric_id: str) -> float:
        if rubric_id not in self.spans:
            store = self.reward.store
            self.spans[rubric_id] = reward_span(
                self.reward.scale, store.rubric(rubric_id), store.scale_map(rubric_id)
            )
        return self.spans[rubric_id]

    def _figures(
        self, samples: Sequence[Sample], judgements: Sequence[Judgement]
    ) -> dict[str, float]:
        import torch

        shares = [j.normalized_reward for j in judgements if j.normalized_reward is not None]
        sums = self.engine.total(
            torch.tensor(
                [
                    float(len(samples)),
                    float(len(shares)),
                    sum(shares),
                    float(sum(one.ended for one in samples)),
                    float(sum(len(one.completion) for one in samples)),
                ],
                device=self.engine.device,
            )
        )
        n, scored, total, ended, length = sums.tolist()
        figures = {
            "mpo/unscored": 1 - scored / n,
            "completions/ended": ended / n,
            "completions/length": length / n,
        }
        if scored:  # a mean over nothing is not 0
            figures["mpo/reward_normalized"] = total / scored
        return figures


def reward_span(scale: Scale, rubric: Rubric, scale_map: ScaleMap | None = None) -> float:
    """From the lowest reward under a rubric to the highest."""
    best = [
        CriterionScore(criterion=name, score=criterion.scores[-1])
        for name, criterion in zip(rubric.criterion_ids, rubric.criteria, strict=True)
    ]
    return scale.reward(rubric, best, scale_map) - scale.floor(rubric, scale_map)


def _end_tokens(tokenizer: Any, model: Any) -> frozenset[int]:
    """Tokens that end a completion, as tokenizer and model say.

    Raises:
        ConfigError: Neither says.
    """
    said = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *(said if isinstance(said, list) else [said])} - {None}
    if not ends:
        raise ConfigError("neither the tokenizer nor the model names an end token: set eos_token")
    return frozenset(int(end) for end in ends)


def _remove_parts(checkpoints: Path) -> None:
    """Checkpoints that a killed process was writing."""
    for path in checkpoints.glob(".checkpoint-*.part"):
        shutil.rmtree(path, ignore_errors=True)


def _start(work: Any) -> Future[list[Judgement]]:
    return asyncio.run_coroutine_threadsafe(work, loop._THREAD.get())


def _wait(scoring: Future[list[Judgement]]) -> list[Judgement]:
    try:
        return scoring.result()
    except BaseException:  # Ctrl-C in the waiting thread ends the work as well
        scoring.cancel()
        raise
