"""From what became of a rollout to what its engine is told."""

from __future__ import annotations

from ..records import Judgement
from .fallback import Means
from .flights import Outcome
from .versions import Versions
from .wire import METRICS, Info, Item, OnFailure, Refusal, Result

__all__ = ["answer"]


def answer(
    item: Item, outcome: Outcome, on_failure: OnFailure, means: Means, versions: Versions
) -> Result:
    """The result of one item.

    Raises:
        Refusal: It is unscored, and the engine takes neither that nor a mean that is not there.
    """
    rollout, judgement = outcome.rollout, outcome.judgement
    reward = judgement.reward if judgement is not None else None
    share = judgement.normalized_reward if judgement is not None else None
    fallback = means.of(rollout) if reward is None and on_failure == "group_mean" else None
    if reward is None and fallback is None and on_failure != "null":
        why = ", and there is no reward yet to fall back on" if on_failure == "group_mean" else ""
        raise Refusal(
            424, f"item {item.id or rollout.id!r} is unscored ({outcome.error}){why}: send it again"
        )
    if judgement is not None:
        rubric = judgement.rubric_id
        number = versions.number(rubric, rollout.cohort)
    else:
        number, rubric = versions.head(rollout.cohort)
    return Result(
        id=item.id or rollout.id,
        status="ok" if reward is not None else "fallback" if fallback is not None else "failed",
        reward=reward if fallback is None else fallback.reward,
        score=share if fallback is None else fallback.share,
        rubric_version=number,
        rubric_id=rubric,
        metrics=_metrics(outcome, number, fallback is not None),
        info=_info(judgement),
        error=outcome.error if reward is None else None,
    )


def _metrics(outcome: Outcome, version: int, fallback: bool) -> dict[str, float]:
    judgement = outcome.judgement
    unscored = judgement is None or judgement.reward is None
    rule = judgement is not None and judgement.rule is not None
    flags = sum(judgement.injection_flags.values()) if judgement is not None else 0
    values = (unscored, fallback, outcome.late, rule, flags, version)
    return {key: float(value) for key, value in zip(METRICS, values, strict=True)}


def _info(judgement: Judgement | None) -> Info:
    if judgement is None:
        return Info()
    return Info(
        rule=judgement.rule,
        scores={score.criterion: score.score for score in judgement.scores},
        rationales={score.criterion: score.rationale for score in judgement.scores},
    )
