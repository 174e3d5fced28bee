"""Protocol `plan_execute`: the paper's for math (§3.3.3), after EvalPlanner.

    plan      from the problem, the reference solution and the guidelines: what to look at
    execute   the plan on the response
    score     a number from the execution

The rubric is one free-text criterion, the guidelines. The plan does not see the response, so it
is the same question for all completions of a problem: a reply cache answers it once.
"""

from __future__ import annotations

from ..chat import Chat
from ..errors import ConfigError
from ..records import Rollout
from ..rubric import Rubric
from .answer_format import SCORE_FORMAT, parse_score, render_criteria, score_schema
from .base import Grader, Scores
from .dialogue import said

__all__ = ["PlanExecute"]


class PlanExecute(Grader):
    """Three calls per rollout."""

    protocol = "plan_execute"
    kinds = ("plan", "execute", "score")

    async def _scores(self, chat: Chat, rollout: Rollout, rubric: Rubric) -> Scores:
        if len(rubric.criteria) != 1:
            raise ConfigError(
                "plan_execute takes guidelines: a rubric with one criterion, "
                f"not {len(rubric.criteria)} ({rubric.title!r})"
            )
        (key,), (criterion,) = rubric.criterion_ids, rubric.criteria
        values = self._values(rollout, rubric=render_criteria(rubric), format=SCORE_FORMAT)
        plan = await self._ask(chat, self._filled("plan", values), said)
        # Both answers stand in later prompts: they are fenced, as model text that quotes others.
        values["plan"] = self._fenced(plan, "PLAN")
        execution = await self._ask(chat, self._filled("execute", values), said)
        values["execution"] = self._fenced(execution, "EXECUTION")
        rationale = f"Plan:\n{plan}\n\nExecution:\n{execution}"
        score = await self._ask(
            chat,
            self._filled("score", values),
            lambda text: parse_score(text, key, criterion, rationale),
            score_schema(criterion),
        )
        return {key: score}
