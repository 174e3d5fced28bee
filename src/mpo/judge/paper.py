"""Protocols `dialogue` and `plan_execute`: the paper's (arXiv 2504.20157).

`dialogue` is one growing conversation. For each criterion the RM is asked for its reasons, then for
a number; later criteria see the answers to earlier ones. The published code pastes the free reasons
before the score and takes the first `<score>` in the whole text, so that a quoted score wins. Here
a score is read from the answer to the score turn, against the criterion's closed set.

`plan_execute` is the paper's for math (§3.3.3), after EvalPlanner:

    plan      from the problem, the reference solution and the guidelines: points to check
    execute   the plan on the response
    score     a number from the execution

Its rubric is one free-text criterion, the guidelines. The plan does not see the response, so it
is the same question for all completions of a problem: a reply cache answers it once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ..chat import Chat, Message
from ..errors import ChatReplyError, ConfigError
from ..records import CriterionScore, Rollout
from ..rubric import Rubric
from ..sanitize import clean, fence
from .answer_format import (
    SCORE_FORMAT,
    parse_score,
    render_criteria,
    render_criterion,
    score_schema,
)
from .base import Grader, Scores

__all__ = ["Dialogue", "PlanExecute"]

OPENING, RATIONALE, SCORE = range(3)
"""The `# User` sections of `dialogue.md`."""


class Dialogue(Grader):
    """Two calls per criterion, one after the other."""

    protocol = "dialogue"
    kinds = ("dialogue",)

    async def _scores(
        self, chat: Chat, rollout: Rollout, rubric: Rubric, values: Mapping[str, str]
    ) -> Scores:
        prompt = self._task.prompts["dialogue"]
        values = {**values, "format": SCORE_FORMAT}
        opening = prompt.turn(OPENING, values)
        messages = [Message(role="system", content=text) for text in prompt.system(values)]
        scores: dict[str, CriterionScore] = {}
        for key, criterion in self._criteria(rollout, rubric):
            values["criterion"] = render_criterion(key, criterion)
            question = prompt.turn(RATIONALE, values)
            # Roles alternate, as most chat templates want: the opening and the first question
            # are one turn.
            messages.append(Message(role="user", content=f"{opening}\n\n{question}".strip()))
            opening = ""
            rationale = await self._ask(chat, messages, free_text)
            messages.append(Message(role="assistant", content=rationale))
            messages.append(Message(role="user", content=prompt.turn(SCORE, values)))
            parse = partial(parse_score, key=key, criterion=criterion, rationale=rationale)
            score = await self._ask(chat, messages, parse, score_schema(criterion))
            messages.append(Message(role="assistant", content=f'{{"score": {score.score}}}'))
            scores[key] = score
        return scores


class PlanExecute(Grader):
    """Three calls per rollout."""

    protocol = "plan_execute"
    kinds = ("plan", "execute", "score")

    async def _scores(
        self, chat: Chat, rollout: Rollout, rubric: Rubric, values: Mapping[str, str]
    ) -> Scores:
        if len(rubric.criteria) != 1:
            raise ConfigError(
                "plan_execute takes guidelines: a rubric with one criterion, "
                f"not {len(rubric.criteria)} ({rubric.title!r})"
            )
        ((key, criterion),) = rubric.keyed
        values = {**values, "rubric": render_criteria(rubric), "format": SCORE_FORMAT}
        plan = await self._ask(chat, self._filled("plan", values), free_text)
        # Both answers stand in later prompts: they are fenced, as model text that quotes others.
        values["plan"] = fence(plan, secret=self._secret, label="PLAN")
        execution = await self._ask(chat, self._filled("execute", values), free_text)
        values["execution"] = fence(execution, secret=self._secret, label="EXECUTION")
        rationale = f"Plan:\n{plan}\n\nExecution:\n{execution}"
        parse = partial(parse_score, key=key, criterion=criterion, rationale=rationale)
        score = await self._ask(chat, self._filled("score", values), parse, score_schema(criterion))
        return {key: score}


def free_text(text: str) -> str:
    """A free answer, fit to stand in a prompt again: it quotes the policy.

    Raises:
        ChatReplyError: The answer is empty.
    """
    cleaned = clean(text).text.strip()
    if not cleaned:
        raise ChatReplyError("empty: the answer has no text")
    return cleaned
