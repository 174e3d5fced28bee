"""RewardModel: an LLM that scores one rollout against a rubric (the paper's junior instructor).

A reward model asks and checks; it does not compute rewards. It returns a `JudgeResult`: a score per
criterion, or the reason for none. A failure never becomes a score.

Four protocols, chosen by `rm.protocol` in task.yaml:

    single          one call for all criteria (the default), or for a few at a time
    per_criterion   one call for each criterion, none of which sees another's score
    dialogue        the paper's: one growing conversation, for each criterion a rationale turn and
                    a score turn (arXiv 2504.20157)
    plan_execute    the paper's for math: plan from problem and reference solution, execute the
                    plan on the response, score

`rm.answer_check` lets some rollouts be graded by their final answer alone, whatever the protocol.
"""

from __future__ import annotations

from ..chat import Chat
from ..sanitize import ControlStrings
from ..task import Task
from ..task.answers import BoxedAnswers
from ..task.rules import Box, RuleHit, boxes, first_rule
from .answer_check import AnswerChecked, AnswerChecker
from .answer_format import (
    judgement_format,
    judgement_schema,
    parse_json,
    parse_judgement,
    render_criteria,
)
from .base import Grader, JudgeResult, RewardModel, judge_identity
from .paper import Dialogue, PlanExecute
from .single import PerCriterion, SingleCall

__all__ = [
    "AnswerChecked",
    "AnswerChecker",
    "Box",
    "Dialogue",
    "Grader",
    "JudgeResult",
    "PerCriterion",
    "PlanExecute",
    "RewardModel",
    "RuleHit",
    "SingleCall",
    "boxes",
    "first_rule",
    "judge_identity",
    "judgement_format",
    "judgement_schema",
    "make_reward_model",
    "parse_json",
    "parse_judgement",
    "render_criteria",
]

PROTOCOLS: dict[str, type[Grader]] = {
    "single": SingleCall,
    "per_criterion": PerCriterion,
    "dialogue": Dialogue,
    "plan_execute": PlanExecute,
}


def make_reward_model(
    task: Task,
    chat: Chat,
    secret: bytes,
    seed: int = 0,
    *,
    answers: AnswerChecker | None = None,
    control: ControlStrings | None = None,
) -> RewardModel:
    """The reward model that a task asks for.

    Args:
        task: Names the protocol, and has its prompts.
        chat: The model that grades.
        secret: Key of the fences; the run's own, unknown to the policy.
        seed: Random seed for the model and for every draw.
        answers: Compares final answers, for tasks with `rm.answer_check`; `BoxedAnswers()` if None.
        control: Control strings that no text may say, besides those that `clean` knows.
    """
    rm = task.spec.rm
    model = PROTOCOLS[rm.protocol](chat, task, secret=secret, seed=seed, control=control)
    if rm.answer_check == "off":
        return model
    return AnswerChecked(model, task, answers or BoxedAnswers(), seed=seed)
