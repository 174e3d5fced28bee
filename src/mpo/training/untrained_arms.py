"""Arms without training, which run beside the method to put its result into proportion.

`score_untrained` (arm base) scores texts of the policy before training: every other arm begins
there. `blind_rubric` (arm blind) spends the meta steps before training: would the same effort have
found the same rubric without watching the policy learn? Its rubric is then fixed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..chat.event_loop import run_in_loop
from ..errors import ConfigError
from ..integrations.trainer_rollouts import GoldScorer, score_rollouts
from ..records import Rollout
from ..reward import EvolvingReward
from ..rubric import Rubric
from ..sanitize import control_strings_of
from .generation import Sampling, end_tokens, generate
from .model import check_before_loading, check_model, load_policy, load_tokenizer, quiet
from .ppo.language_model import LanguageModel
from .reporting import Progress, StepReporter, closing, finish_run
from .settings import TrainerSettings

__all__ = ["BATCHES", "blind_rubric", "score_untrained"]

BATCHES = 10
"""Most batches that are scored of the untrained policy: as many steps as the means of a run's start
and end are over."""


def score_untrained(
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
    """Sample batches of the run's size from the policy before training, and score them.

    Arguments and result are those of `start.train`; `settings` gives batch size, sampling and the
    most batches. Started again after a crash it samples the same texts, and pays for no judgement
    twice.

    Raises:
        ConfigError: Settings or model cannot be used. No model was called yet.
        UnscoredError: Too many completions stayed unscored.
    """
    check_before_loading(settings, rows)
    check_model(model)
    started = time.monotonic()
    batches = min(BATCHES, settings.steps)
    reporter = StepReporter(reward, batches, folder, progress)
    with closing(reward):
        policy = _Policy(model, settings)
        for n in range(1, batches + 1):
            batch = policy.sample_batch(reward, rows, n, seed)
            run_in_loop(score_rollouts(reward, batch, gold_scorer))
            reporter.report(n, None)
    return finish_run(folder, reward.store, steps=0, resumed_from=None, started=started)


def blind_rubric(
    *,
    reward: EvolvingReward,
    settings: TrainerSettings,
    model: str,
    rows: Sequence[Mapping[str, Any]],
    rounds: int,
    seed: int,
) -> Rubric:
    """Evolve the rubric on the policy before training.

    Each round samples one update's worth of completions and holds one meta step. Rounds that are
    decided already are not repeated, so that it may be called again after a crash.

    Args:
        reward: A reward on a store of its own (`folder/blind.db`), with `schedule=Every(1)`.
        settings: The run's settings, for batch size and sampling.
        model: Folder or hub id of a causal language model.
        rows: Dataset; each row has a `prompt`.
        rounds: Meta steps to hold.
        seed: Random seed for the choice of prompts and for sampling.

    Raises:
        ConfigError: The model cannot be used, or the reward's schedule skips a round.
        UnscoredError: Too many completions stayed unscored.
    """
    skipped = [n for n in range(1, rounds + 1) if not reward.schedule.due(n)]
    if skipped:
        raise ConfigError(
            f"blind: the reward's schedule holds no meta step after round {skipped[0]}: give it "
            "schedule=Every(1)"
        )
    check_before_loading(settings, rows)
    done = {d.step for d in reward.store.lineage() if d.kind == "evolve"}
    remaining = [n for n in range(1, rounds + 1) if n not in done]
    if remaining:
        check_model(model)
        with closing(reward):
            policy = _Policy(model, settings)
            reward.control_strings.add(control_strings_of(policy.tokenizer))
            for n in remaining:
                run_in_loop(reward.score(policy.sample_batch(reward, rows, n, seed)))
                run_in_loop(reward.step(n))
    return reward.rubric()


class _Policy:
    """The policy before training."""

    def __init__(self, model: str, settings: TrainerSettings) -> None:
        self.settings = settings
        with quiet():
            self.model, self.tokenizer = load_policy(model, settings), load_tokenizer(model)
        self.lm = LanguageModel(self.model)

    def sample_batch(
        self, reward: EvolvingReward, rows: Sequence[Mapping[str, Any]], n: int, seed: int
    ) -> list[Rollout]:
        """Completions of round `n` (1-based), the same in every run with the same seed."""
        settings = self.settings
        picked = random.Random(f"mpo:blind:{seed}:{n}").sample(list(rows), settings.prompts)
        repeated = [row for row in picked for _ in range(settings.num_generations)]
        size = settings.micro_batch_size or len(repeated)
        limit = reward.task.spec.response.max_tokens
        texts: list[str] = []
        with _torch_seed(seed * 1_000_003 + n):
            for start in range(0, len(repeated), size):
                texts += self._complete(repeated[start : start + size], limit)
        return [
            Rollout(
                prompt=str(row["prompt"]),
                completion=text,
                columns={k: value for k, value in row.items() if k not in ("prompt", "cohort")},
                cohort=str(row.get("cohort") or ""),
                step=n - 1,
                index=i,
            )
            for i, (row, text) in enumerate(zip(repeated, texts, strict=True))
        ]

    def _complete(self, rows: Sequence[Mapping[str, Any]], limit: int) -> list[str]:
        sampling = Sampling(
            max_tokens=limit,
            end_tokens=end_tokens(self.tokenizer, self.model),
            pad_token=int(self.tokenizer.pad_token_id),
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
        )
        ids = self.tokenizer([str(row["prompt"]) for row in rows])["input_ids"]
        samples = generate(self.lm, ids, sampling, device=self.model.device)
        completions = [sample.completion for sample in samples]
        texts = self.tokenizer.batch_decode(completions, skip_special_tokens=True)
        return [str(text) for text in texts]


@contextmanager
def _torch_seed(seed: int) -> Iterator[None]:
    """Set torch's random state from a seed, and restore it afterwards."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
