"""Protocols `single` and `per_criterion`: structured calls that do not see one another.

A call answers with a JSON object keyed by criterion: one sentence of reasons, then an integer
score from the criterion's closed set. The published code asks 2n questions in one growing
conversation instead (`dialogue`; cost: notes/reference.md §D).
"""

from __future__ import annotations

from functools import partial

from ..chat import Chat, Message
from ..records import CriterionScore, Rollout
from ..rubric import Rubric
from ..untrusted import clean
from .base import Grader, Keyed, Scores, first_then_rest
from .judgement import (
    judgement_format,
    judgement_schema,
    parse_judgement,
    render_criteria,
    render_criterion,
)

__all__ = ["PerCriterion", "SingleCall"]


class SingleCall(Grader):
    """One structured call per rollout; `rm.criteria_per_call` splits a long rubric over several.

    Everything before the response is the same bytes for all completions of a group, so that a
    server's prefix cache serves the whole group.
    """

    protocol = "single"
    kinds = ("rm",)

    def messages(self, rollout: Rollout, rubric: Rubric) -> tuple[list[Message], dict[str, int]]:
        """The conversation of an unsplit call, and what was found in the response and
        neutralised."""
        asked = self._messages(rollout, rubric, self._criteria(rollout, rubric))
        return asked, clean(rollout.completion).flags

    async def _scores(self, chat: Chat, rollout: Rollout, rubric: Rubric) -> Scores:
        criteria = self._criteria(rollout, rubric)
        size = self._size(rubric)
        parts = [criteria[start : start + size] for start in range(0, len(criteria), size)]
        answers = await first_then_rest(
            [partial(self._part, chat, rollout, rubric, part) for part in parts]
        )
        return {score.criterion: score for answer in answers for score in answer}

    def _size(self, rubric: Rubric) -> int:
        """How many criteria one call asks for, at most."""
        return self._rm.criteria_per_call or len(rubric.criteria)

    async def _part(
        self, chat: Chat, rollout: Rollout, rubric: Rubric, criteria: Keyed
    ) -> tuple[CriterionScore, ...]:
        return await self._ask(
            chat,
            self._messages(rollout, rubric, criteria),
            lambda text: parse_judgement(text, rubric, criteria),
            judgement_schema(rubric, criteria),
        )

    def _messages(self, rollout: Rollout, rubric: Rubric, criteria: Keyed) -> list[Message]:
        values = self._values(
            rollout,
            rubric=render_criteria(rubric, criteria),
            format=judgement_format(rubric, criteria),
        )
        return self._filled("rm", values)


class PerCriterion(SingleCall):
    """One call for each criterion: no score colours another, and each can be weighed alone.

    In `criterion.md` the criterion comes last, so that the calls of a rollout share all that
    comes before it.
    """

    protocol = "per_criterion"
    kinds = ("criterion",)

    def _size(self, rubric: Rubric) -> int:
        return 1

    def _messages(self, rollout: Rollout, rubric: Rubric, criteria: Keyed) -> list[Message]:
        ((key, criterion),) = criteria
        values = self._values(
            rollout,
            criterion=render_criterion(key, criterion),
            format=judgement_format(rubric, criteria),
        )
        return self._filled("criterion", values)
