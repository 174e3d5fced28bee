"""Protocols `single` and `per_criterion`: structured calls that do not see one another.

A call answers with a JSON object keyed by criterion: one sentence of reasons, then an integer
score from the criterion's closed set. The published code asks 2n questions in one growing
conversation instead (`mpo.judge.paper`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from ..chat import Chat, SharedSchema
from ..records import CriterionScore, Rollout
from ..rubric import Rubric
from ..sanitize import ControlStrings
from ..task import Task
from .answer_format import (
    Keyed,
    judgement_format,
    judgement_schema,
    parse_judgement,
    render_criteria,
    render_criterion,
)
from .base import Grader, Scores, first_then_rest

__all__ = ["PerCriterion", "SingleCall"]

_FORMS = 256
"""Forms that are kept: a drawn order of criteria serves one group."""


@dataclass(frozen=True)
class _Form:
    """The part of a call that is the same for all rollouts with the same criteria."""

    values: dict[str, str]
    """Values of the placeholders that show the criteria and the answer's shape."""
    schema: SharedSchema


class SingleCall(Grader):
    """One structured call per rollout; `rm.criteria_per_call` splits a long rubric over several.

    Everything before the response is the same bytes for all completions of a group, so that a
    server's prefix cache serves the whole group.
    """

    protocol = "single"
    kinds = ("rm",)
    shuffles = True
    placeholder = "rubric"
    """Placeholder of the prompt that shows the criteria."""
    per_call: int | None = None
    """Largest number of criteria that one call asks for; None where the task decides."""

    def __init__(
        self,
        chat: Chat,
        task: Task,
        *,
        secret: bytes,
        seed: int = 0,
        control: ControlStrings | None = None,
    ) -> None:
        super().__init__(chat, task, secret=secret, seed=seed, control=control)
        self._forms: dict[tuple[str, ...], _Form] = {}

    async def _scores(
        self, chat: Chat, rollout: Rollout, rubric: Rubric, values: Mapping[str, str]
    ) -> Scores:
        criteria = self._criteria(rollout, rubric)
        size = self.per_call or self._rm.criteria_per_call or len(criteria)
        answers = await first_then_rest(
            [
                partial(self._part, chat, rubric, criteria[start : start + size], values)
                for start in range(0, len(criteria), size)
            ]
        )
        scores: dict[str, CriterionScore] = {}
        for answer in answers:
            for score in answer:
                scores[score.criterion] = score
        return scores

    async def _part(
        self, chat: Chat, rubric: Rubric, criteria: Keyed, values: Mapping[str, str]
    ) -> tuple[CriterionScore, ...]:
        form = self._form(rubric, criteria)
        messages = self._filled(self.kinds[0], {**values, **form.values})
        parse = partial(parse_judgement, criteria=criteria)
        return await self._ask(chat, messages, parse, form.schema)

    def _form(self, rubric: Rubric, criteria: Keyed) -> _Form:
        key = (rubric.id, *dict(criteria))
        form = self._forms.get(key)
        if form is None:
            if len(self._forms) >= _FORMS:
                self._forms.clear()
            values = {
                self.placeholder: self._shown(rubric, criteria),
                "format": judgement_format(criteria),
            }
            form = self._forms[key] = _Form(values, SharedSchema(judgement_schema(criteria)))
        return form

    def _shown(self, rubric: Rubric, criteria: Keyed) -> str:
        return render_criteria(rubric, criteria)


class PerCriterion(SingleCall):
    """One call for each criterion: no score colours another, and each can be weighed alone.

    In `criterion.md` the criterion comes last, so that the calls of a rollout share all that
    comes before it.
    """

    protocol = "per_criterion"
    kinds = ("criterion",)
    shuffles = False
    placeholder = "criterion"
    per_call = 1

    def _shown(self, rubric: Rubric, criteria: Keyed) -> str:
        return render_criterion(*criteria[0])
