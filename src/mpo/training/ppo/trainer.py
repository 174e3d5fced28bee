"""PPO with an evolving reward: the paper's algorithm, in a loop of our own (TRL removed its PPO).

Each step samples a batch; runs the passes of reference, policy and critic while the reward is
computed; updates in `epochs` passes; holds the meta step, and writes a checkpoint, if one is due.

Nothing is normalised over time: the critic predicts returns on the reward's own scale, and rewards
and advantages are whitened within a batch only. So a new rubric leaves no running mean or variance
behind that would have to be reset; the scale `anchored` keeps the critic's past useful.

Every random choice of a step follows from seed, step and rank, so a run that continues from a
checkpoint draws what the run that was not stopped would have drawn.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ...chat.event_loop import submit
from ...errors import ConfigError
from ...integrations.meta_steps import MetaSteps, run_on_all
from ...integrations.trainer_figures import keep_figures
from ...integrations.trainer_rollouts import GoldScorer, make_rollout, score_rollouts
from ...judge.scale import Scale
from ...records import CriterionScore, Judgement, Rollout, ScaleMap
from ...reward import EvolvingReward
from ...rubric import Rubric
from ...sanitize import control_strings_of
from ..files import Checkpoint, newest_checkpoint
from ..generation import Sample, Sampling, end_tokens
from ..model import check_before_loading, check_model, is_main, load_tokenizer, quiet
from ..reporting import Progress, StepReporter, closing, finish_run
from ..settings import TrainerSettings
from ..trackers import LoopTrackers
from .checkpoint import Position, check_checkpoint, load_checkpoint, load_position, save_checkpoint
from .engine import Engine, make_accelerator
from .math import AdaptiveKL
from .update import forward_pass, ppo_update

__all__ = ["reward_span", "train_ppo"]


def train_ppo(
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
    """Train a policy with PPO; see `start.train` for arguments, result and errors."""
    check_before_loading(settings, rows)
    newest = newest_checkpoint(folder / "checkpoints", remove_broken=is_main())
    started = time.monotonic()
    if newest is not None and newest.step > settings.steps:
        raise ConfigError(
            f"{newest.folder} is beyond steps={settings.steps}: use another run folder"
        )
    if newest is None or newest.step < settings.steps:
        if newest is not None:
            check_checkpoint(newest, settings)
        check_model(model)
        with closing(reward), quiet():
            run = _Run(reward, settings, model, rows, folder, seed, gold_scorer, newest)
            run.train(progress)
    return finish_run(
        folder, reward.store, steps=settings.steps, resumed_from=newest, started=started
    )


class _Run:
    """One run in one process."""

    def __init__(
        self,
        reward: EvolvingReward,
        settings: TrainerSettings,
        model: str,
        rows: Sequence[Mapping[str, Any]],
        folder: Path,
        seed: int,
        gold_scorer: GoldScorer | None,
        newest: Checkpoint | None,
    ) -> None:
        self.reward, self.settings, self.rows = reward, settings, rows
        self.folder, self.seed, self.gold_scorer = folder, seed, gold_scorer
        self.newest = newest
        self.accelerator = make_accelerator()
        self.rank = int(self.accelerator.process_index)
        self.per_rank = settings.per_rank_batch_size(int(self.accelerator.num_processes))
        self.tokenizer = load_tokenizer(model)
        reward.control_strings.add(control_strings_of(self.tokenizer))
        checkpoint = newest.folder if newest else None
        self.engine = Engine(model, settings, self.accelerator, seed, checkpoint)
        ppo = settings.ppo
        self.kl = AdaptiveKL(settings.beta, ppo.kl_target, ppo.kl_horizon)
        self.pad = int(self.tokenizer.pad_token_id)
        self.sampling = Sampling(
            max_tokens=reward.task.spec.response.max_tokens,
            end_tokens=_end_tokens(self.tokenizer, self.engine.ac.lm.model),
            pad_token=self.pad,
            temperature=settings.temperature,
            top_p=settings.top_p,
        )
        self.history: list[dict[str, float]] = []
        self.spans: dict[str, float] = {}
        """Reward range of each rubric, by its id."""

    # ------------------------------------------------------------------ the loop

    def train(self, progress: Progress | None) -> None:
        main = self.accelerator.is_main_process
        reporter = StepReporter(self.reward, self.settings.steps, self.folder, progress)
        meta_steps = MetaSteps(self.reward, on_step=reporter.note_decision)
        done = self._resume(meta_steps)
        reports = self.settings if main else self.settings.model_copy(update={"report_to": []})
        trackers = LoopTrackers(reports, self.folder, meta_steps.log)
        trackers.begin(self.engine.ac.policy)
        if main:
            _remove_parts(self.folder / "checkpoints")
            reporter.begin()
        for step in range(done, self.settings.steps):
            figures, kl = self.step(step)
            self.history.append({**figures, "step": step + 1})
            if main:  # before the snapshot: a run that continues from it has them, too
                known = {} if kl is None else {"kl": kl}
                keep_figures(self.reward.store, step + 1, {**figures, **known})
            meta_steps.hold(step + 1, self.settings.steps)
            state = meta_steps.state() if self._checkpoint_due(step + 1) else None
            if main:
                if trackers.callbacks:
                    trackers.log(step + 1, figures | meta_steps.log.metrics(step + 1))
                reporter.report(step + 1, kl)
            if state is not None:
                self._save(step + 1, state)
        trackers.end()

    def _resume(self, meta_steps: MetaSteps) -> int:
        """Put store, weights and random states where the run begins; steps that are done."""
        if self.newest is None:
            meta_steps.begin()
            return 0
        position = load_position(self.newest)
        meta_steps.begin(position.step, position.meta_steps)
        load_checkpoint(self.newest, self.engine)
        self.kl.coefficient = position.kl_coef
        self.history = [dict(line) for line in position.history]
        return position.step

    def _checkpoint_due(self, step: int) -> bool:
        every = self.settings.save_every
        return step == self.settings.steps or bool(every and step % every == 0)

    def _save(self, step: int, meta_steps: Mapping[str, Any]) -> None:
        position = Position(step, self.kl.coefficient, meta_steps, self.history)
        save_checkpoint(self.folder / "checkpoints", self.engine, position, self.tokenizer)

    def step(self, step: int) -> tuple[dict[str, float], float | None]:
        """Sample, score and update: the figures of the step, and the mean KL per token."""
        rows = self._batch(step)
        samples = self._sample(step, rows)
        rollouts = self._rollouts(step, rows, samples)
        scoring = submit(score_rollouts(self.reward, rollouts, self.gold_scorer))
        batch = forward_pass(self.engine, samples, self.pad)  # while the reward is computed
        judgements = run_on_all(lambda: _wait(scoring))
        figures = self._figures(samples, judgements)
        figures["learning_rate"] = self.engine.learning_rate
        scores = self._scores(samples, judgements)
        update = ppo_update(self.engine, batch, scores, self.kl, step=step, seed=self.seed)
        self.engine.advance_schedule()
        return {**figures, **update.figures}, update.kl

    # ------------------------------------------------------------------ data and sampling

    def _batch(self, step: int) -> list[Mapping[str, Any]]:
        """This rank's rows; each epoch of the dataset has an order of its own."""
        prompts = self.settings.prompts
        per_epoch = len(self.rows) // prompts
        epoch, place = divmod(step, per_epoch)
        order = list(range(len(self.rows)))
        random.Random(f"mpo:ppo:data:{self.seed}:{epoch}").shuffle(order)
        chosen = order[place * prompts : (place + 1) * prompts]
        repeated = [self.rows[i] for i in chosen for _ in range(self.settings.num_generations)]
        return repeated[self.rank * self.per_rank : (self.rank + 1) * self.per_rank]

    def _sample(self, step: int, rows: Sequence[Mapping[str, Any]]) -> list[Sample]:
        import torch

        digest = hashlib.sha256(f"mpo:ppo:{self.seed}:{step}:{self.rank}".encode()).digest()
        generator = torch.Generator(self.engine.device)
        generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        ids = self.tokenizer([str(row["prompt"]) for row in rows])["input_ids"]
        return self.engine.generate(ids, self.sampling, generator)

    # ------------------------------------------------------------------ scoring

    def _rollouts(
        self, step: int, rows: Sequence[Mapping[str, Any]], samples: Sequence[Sample]
    ) -> list[Rollout]:
        completions = [sample.completion for sample in samples]
        texts = self.tokenizer.batch_decode(completions, skip_special_tokens=True)
        return [
            make_rollout(
                str(row["prompt"]),
                str(text),
                {name: value for name, value in row.items() if name != "prompt"},
                step=step,
                index=self.rank * self.per_rank + place,
            )
            for place, (row, text) in enumerate(zip(rows, texts, strict=True))
        ]

    def _scores(
        self, samples: Sequence[Sample], judgements: Sequence[Judgement]
    ) -> list[float | None]:
        """Rewards less the penalty for a missing end; None for unscored."""
        ppo = self.settings.ppo
        penalty = ppo.missing_eos_penalty or 0.0
        scores: list[float | None] = []
        for sample, judgement in zip(samples, judgements, strict=True):
            score = judgement.reward
            if score is not None and not sample.ended and penalty:
                relative = ppo.missing_eos == "relative"
                score -= penalty * (self._span(judgement.rubric_id) if relative else 1.0)
            scores.append(score)
        return scores

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
        """Means over the completions of all ranks."""
        import torch

        rewards = [j.normalized_reward for j in judgements if j.normalized_reward is not None]
        local = [
            float(len(samples)),
            float(len(rewards)),
            sum(rewards),
            float(sum(sample.ended for sample in samples)),
            float(sum(len(sample.completion) for sample in samples)),
        ]
        sums = self.engine.sum_over_ranks(torch.tensor(local, device=self.engine.device))
        n, scored, reward_sum, ended, length = sums.tolist()
        figures = {
            "mpo/unscored": 1 - scored / n,
            "completions/ended": ended / n,
            "completions/length": length / n,
        }
        if scored:  # a mean over nothing is not 0
            figures["mpo/reward_normalized"] = reward_sum / scored
        return figures


def reward_span(scale: Scale, rubric: Rubric, scale_map: ScaleMap | None = None) -> float:
    """Distance from the lowest reward under a rubric to the highest."""
    best = [
        CriterionScore(criterion=name, score=criterion.scores[-1])
        for name, criterion in zip(rubric.criterion_ids, rubric.criteria, strict=True)
    ]
    return scale.reward(rubric, best, scale_map) - scale.floor(rubric, scale_map)


def _end_tokens(tokenizer: Any, model: Any) -> frozenset[int]:
    ends = end_tokens(tokenizer, model)
    if not ends:
        raise ConfigError("neither the tokenizer nor the model names an end token: set eos_token")
    return ends


def _remove_parts(checkpoints: Path) -> None:
    """Remove checkpoints that a killed process was writing."""
    for path in checkpoints.glob(".checkpoint-*.part"):
        shutil.rmtree(path, ignore_errors=True)


def _wait(scoring: Future[list[Judgement]]) -> list[Judgement]:
    try:
        return scoring.result()
    except BaseException:  # Ctrl-C in the waiting thread ends the work as well
        scoring.cancel()
        raise
