"""Protocol `dialogue`: the paper's. One growing conversation, criterion by criterion.

For each criterion the RM is asked for its reasons, then for a number; later criteria see what was
said of earlier ones. The published code pastes the free reasons before the score and takes the
first `<score>` in the whole text, so that a quoted score wins (notes/reference.md D2, D3). Here
a score is read from the answer to the score turn, against the criterion's closed set.
"""

from __future__ import annotations

from functools import partial

from ..chat import Chat, Message
from ..errors import ChatReplyError
from ..records import CriterionScore, Rollout
from ..rubric import Rubric
from ..sanitize import clean
from .answer_format import SCORE_FORMAT, parse_score, render_criterion, score_schema
from .base import Grader, Scores

__all__ = ["Dialogue"]

OPENING, RATIONALE, SCORE = range(3)
"""The `# User` sections of `dialogue.md`."""


class Dialogue(Grader):
    """Two calls per criterion, one after the other."""

    protocol = "dialogue"
    kinds = ("dialogue",)

    async def _scores(self, chat: Chat, rollout: Rollout, rubric: Rubric) -> Scores:
        prompt = self._task.prompts["dialogue"]
        values = self._values(rollout, format=SCORE_FORMAT)
        opening = prompt.turn(OPENING, values)
        talk = [Message(role="system", content=text) for text in prompt.system(values)]
        scores: dict[str, CriterionScore] = {}
        for key, criterion in self._criteria(rollout, rubric):
            values["criterion"] = render_criterion(key, criterion)
            question = prompt.turn(RATIONALE, values)
            # Roles alternate, as most chat templates want: the opening and the first question
            # are one turn.
            talk.append(Message(role="user", content=f"{opening}\n\n{question}".strip()))
            opening = ""
            rationale = await self._ask(chat, talk, said)
            talk.append(Message(role="assistant", content=rationale))
            talk.append(Message(role="user", content=prompt.turn(SCORE, values)))
            read = partial(parse_score, key=key, criterion=criterion, rationale=rationale)
            score = await self._ask(chat, talk, read, score_schema(criterion))
            talk.append(Message(role="assistant", content=f'{{"score": {score.score}}}'))
            scores[key] = score
        return scores


def said(text: str) -> str:
    """A free answer, fit to stand in a prompt again: it quotes the policy.

    Raises:
        ChatReplyError: There is nothing in it.
    """
    cleaned = clean(text).text.strip()
    if not cleaned:
        raise ChatReplyError("empty: the answer has no text")
    return cleaned
