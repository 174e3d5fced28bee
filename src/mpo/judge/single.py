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
from ..sanitize import clean
from ..task import Task
from .answer_format import Form, parse_judgement, render_criterion
from .base import Grader, Keyed, Scores, first_then_rest

__all__ = ["PerCriterion", "SingleCall"]

_FORMS = 256
"""Forms that are kept: a drawn order of criteria serves one group."""


class SingleCall(Grader):
    """One structured call per rollout; `rm.criteria_per_call` splits a long rubric over several.

    Everything before the response is the same bytes for all completions of a group, so that a
    server's prefix cache serves the whole group.
    """

    protocol = "single"
    kinds = ("rm",)
    shuffles = True
    placeholder = "rubric"
    """Where the prompt shows the criteria."""

    def __init__(self, chat: Chat, task: Task, *, secret: bytes, seed: int = 0) -> None:
        super().__init__(chat, task, secret=secret, seed=seed)
        self._forms: dict[tuple[str, ...], Form] = {}

    def messages(self, rollout: Rollout, rubric: Rubric) -> tuple[list[Message], dict[str, int]]:
        """The conversation of an unsplit call, and what was found in the response and
        neutralised."""
        form = self._form(rubric, self._criteria(rollout, rubric))
        return self._messages(rollout, form), clean(rollout.completion).flags

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
        form = self._form(rubric, criteria)
        return await self._ask(
            chat,
            self._messages(rollout, form),
            lambda text: parse_judgement(text, rubric, form.criteria),
            form.schema,
        )

    def _form(self, rubric: Rubric, criteria: Keyed) -> Form:
        """What is asked for these criteria; remembered."""
        name = (rubric.id, *(key for key, _ in criteria))
        form = self._forms.get(name)
        if form is None:
            if len(self._forms) >= _FORMS:
                self._forms.clear()
            form = self._forms[name] = self._make_form(rubric, criteria)
        return form

    def _make_form(self, rubric: Rubric, criteria: Keyed) -> Form:
        return Form.of(rubric, criteria)

    def _messages(self, rollout: Rollout, form: Form) -> list[Message]:
        shown = {self.placeholder: form.shown, "format": form.format}
        return self._filled(self.kinds[0], self._values(rollout, **shown))


class PerCriterion(SingleCall):
    """One call for each criterion: no score colours another, and each can be weighed alone.

    In `criterion.md` the criterion comes last, so that the calls of a rollout share all that
    comes before it.
    """

    protocol = "per_criterion"
    kinds = ("criterion",)
    shuffles = False
    placeholder = "criterion"

    def _size(self, rubric: Rubric) -> int:
        return 1

    def _make_form(self, rubric: Rubric, criteria: Keyed) -> Form:
        ((key, criterion),) = criteria
        return Form.of(rubric, criteria, render_criterion(key, criterion))
