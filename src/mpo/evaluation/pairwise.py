"""Pairwise judging: which of two responses to one prompt is better, in both orders.

    plan = plan_games(models, prompts, seed=0)
    with JsonlLog(Path("verdicts.jsonl")) as log:
        judge = PairwiseJudge(chat, log)
        estimate = judge.estimate(plan)           # before anything is paid for
        result = await judge.play(plan)           # calls the judge for what the log lacks
    rank(result.games)

A verdict is kept under the hash of everything that it depends on: judge, prompt file, prompt and
the two responses in their order, not the models' names. So no verdict is paid for twice, whatever
the models are called and whatever else is compared.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from ..chat import (
    Chat,
    ChatRequest,
    Message,
    Metered,
    Price,
    Schema,
    identity_of,
    require_complete,
)
from ..errors import ChatError, ChatReplyError, DataError, TemplateError
from ..judge import parse_json
from ..records import Usage, content_hash
from ..sanitize import clean, fence
from ..task import PromptFile, placeholders
from .games import Game
from .rows import JsonlLog, Outputs, Row

__all__ = [
    "SCHEMA",
    "Estimate",
    "PairwiseJudge",
    "Planned",
    "Played",
    "plan_games",
    "read_pairwise_prompt",
]

SCHEMA: Schema = {
    "title": "pairwise",
    "type": "object",
    "additionalProperties": False,
    "required": ["reason", "winner"],
    # Property order is generation order: the reason comes before the verdict.
    "properties": {
        "reason": {"type": "string"},
        "winner": {"type": "string", "enum": ["A", "B", "tie"]},
    },
}
MAX_TOKENS = 512
TYPICAL_TOKENS = 80
"""Tokens of an answer, for the estimate: a JSON object with one or two sentences."""
_SCORES = {"A": 1.0, "B": 0.0, "tie": 0.5}
_PLACEHOLDERS = ("prompt", "response_a", "response_b")
_FILE = Path(__file__).parent / "prompts" / "pairwise.md"

ALL_FAILED = 16
"""Number of failures at the start, without one verdict among them, after which judging stops: to
continue would send every game to a dead endpoint, with all retries."""


@dataclass(frozen=True)
class Planned:
    """A game without a verdict yet: `first` is shown as A."""

    query: str
    first: str
    second: str
    first_response: str
    second_response: str

    def game(self, score: float) -> Game:
        """The game with its verdict."""
        responses = (self.first_response, self.second_response)
        return Game(self.query, self.first, self.second, score, *responses)


@dataclass(frozen=True)
class Estimate:
    """Expected cost of judging."""

    games: int
    known: int
    """Number of games that need no call: judged before, planned twice, or of equal texts."""
    calls: int
    prompt_tokens: int
    """Estimated tokens: a quarter of the prompts' bytes."""
    completion_tokens: int
    """Estimated tokens: 80 for each call."""

    def usd(self, price: Price) -> float:
        """Cost in US dollars."""
        tokens = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}
        return price.of(Usage(calls=self.calls, **tokens))


@dataclass
class Played:
    """Result of judging."""

    games: list[Game] = field(default_factory=list)
    """Games with a verdict, in play order, whatever the order in which the answers arrived."""
    calls: int = 0
    """Number of games for which the judge was called."""
    failures: list[str] = field(default_factory=list)
    """Reasons why games have no verdict. They are left out, never ties, and retried next time."""
    usage: Usage = field(default_factory=Usage)


def plan_games(
    models: Sequence[Outputs], prompts: Sequence[str], *, baseline: str | None = None, seed: int = 0
) -> list[Planned]:
    """Every pair on every prompt in both orders, shuffled: Elo depends on the order of play.

    Args:
        models: Outputs of the models to compare.
        prompts: Prompts that all models answered.
        baseline: Play only pairs with this model; all pairs if None.
        seed: Random seed for the order.

    Raises:
        DataError: There is no such baseline.
    """
    by_name = {outputs.model: outputs for outputs in models}
    if baseline is not None and baseline not in by_name:
        raise DataError(f"no model is called {baseline!r}; there are {', '.join(by_name)}")
    plan = []
    for prompt in prompts:
        for one, other in combinations(by_name, 2):
            if baseline is None or baseline in (one, other):
                for a, b in ((one, other), (other, one)):
                    texts = (by_name[a].completions[prompt], by_name[b].completions[prompt])
                    plan.append(Planned(prompt, a, b, *texts))
    random.Random(content_hash(["play order", seed])).shuffle(plan)
    return plan


def read_pairwise_prompt(path: Path = _FILE) -> PromptFile:
    """The judge's prompt: a `# System` and a `# User` section, with `{{prompt}}`,
    `{{response_a}}` and `{{response_b}}`.

    Raises:
        TemplateError: The file cannot be read, a section is missing, or a placeholder is missing or
            unknown.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"judge's prompt {path}: cannot be read: {error}") from error
    head, user, body = text.partition("# User\n")
    system = head.strip().removeprefix("# System").strip()
    if not user or (head.strip() and not head.lstrip().startswith("# System\n")):
        raise TemplateError(f"judge's prompt {path}: needs a '# System' and a '# User' section")
    used = placeholders(text)
    wrong = [f"{name!r} is missing" for name in _PLACEHOLDERS if name not in used]
    wrong += [f"{name!r} is unknown" for name in used if name not in _PLACEHOLDERS]
    if wrong:
        raise TemplateError(f"judge's prompt {path}: placeholder {wrong[0]}")
    sections = [("system", system)] if system else []
    return PromptFile("pairwise", (*sections, ("user", body.strip())))


class PairwiseJudge:
    """Calls a model for verdicts, and keeps them.

    Args:
        chat: The judge; another model than the one that gave the reward.
        log: File of the verdicts, with the columns that `read_games` reads.
        prompt: The judge's prompt file; the package's own if None.
        concurrency: The most games in flight.
        seed: Random seed for servers that take one.
    """

    def __init__(
        self,
        chat: Chat,
        log: JsonlLog,
        *,
        prompt: PromptFile | None = None,
        concurrency: int = 64,
        seed: int = 0,
    ) -> None:
        self._chat = chat
        self._log = log
        self._prompt = prompt or read_pairwise_prompt()
        self._concurrency = concurrency
        self._seed = seed
        # The fences' key need not outlive the process: no policy sees a verdict's prompt.
        self._secret = secrets.token_bytes(32)

    def estimate(self, plan: Sequence[Planned]) -> Estimate:
        """Estimate the calls that `play` would make, without making any."""
        missing = self._missing(plan)
        sizes = [
            len(message["content"].encode("utf-8", "surrogatepass"))
            for _, planned in missing.values()
            for message in self._messages(planned)
        ]
        calls = len(missing)
        return Estimate(
            games=len(plan),
            known=len(plan) - calls,
            calls=calls,
            prompt_tokens=sum(sizes) // 4,
            completion_tokens=TYPICAL_TOKENS * calls,
        )

    async def play(
        self, plan: Sequence[Planned], progress: Callable[[int, int], None] | None = None
    ) -> Played:
        """Get the verdicts that the log lacks, and return all games that have one.

        Args:
            plan: Games in play order.
            progress: Called with the number of calls that are done, and of all calls.

        Raises:
            ChatError: None of the first games got a verdict.
            MPOError: The budget is used up, or the log cannot be written; verdicts so far are kept.
        """
        played = Played()
        await self._judge_all(self._missing(plan), played, progress)
        logged = {_game_id(row): _SCORES[row["winner_side"]] for row in self._verdicts()}
        known = {str(row["key"]): row for row in self._verdicts()}
        for place, planned in enumerate(plan):
            key = self._key(planned)
            score = logged.get((key, planned.first, planned.second))
            if score is None:
                score = self._free(place, planned, known.get(key))
            if score is not None:
                played.games.append(planned.game(score))
        return played

    def _free(self, place: int, planned: Planned, equal: Row | None) -> float | None:
        """The verdict of a game that needs no call, also written to the log to make it complete."""
        if planned.first_response == planned.second_response:
            winner, reason = "tie", "the responses are equal"
        elif equal is not None:
            winner, reason = str(equal["winner_side"]), str(equal["reason"])
        else:
            return None
        self._log.append(self._row(place, planned, winner, reason, Usage()))
        return _SCORES[winner]

    # ------------------------------------------------------------------ the log

    def _key(self, planned: Planned) -> str:
        texts = (planned.query, planned.first_response, planned.second_response)
        return content_hash([identity_of(self._chat), self._prompt.hash, *texts])

    def _verdicts(self) -> list[Row]:
        """The rows of the log that a `PairwiseJudge` wrote."""
        return [r for r in self._log.rows if "key" in r and r.get("winner_side") in _SCORES]

    def _missing(self, plan: Sequence[Planned]) -> dict[str, tuple[int, Planned]]:
        """The games that need a call, each once, by key, with their place in the plan."""
        known = {str(row["key"]) for row in self._verdicts()}
        missing: dict[str, tuple[int, Planned]] = {}
        for place, planned in enumerate(plan):
            key = self._key(planned)
            if key not in known and planned.first_response != planned.second_response:
                missing.setdefault(key, (place, planned))
        return missing

    # ------------------------------------------------------------------ calls

    async def _judge_all(
        self,
        missing: Mapping[str, tuple[int, Planned]],
        played: Played,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        waiting = iter(missing.values())

        async def worker() -> None:
            for place, planned in waiting:
                await self._judge_one(place, planned, played)
                if progress is not None:
                    progress(played.calls, len(missing))

        count = min(self._concurrency, len(missing))
        workers = [asyncio.create_task(worker()) for _ in range(count)]
        try:
            await asyncio.gather(*workers)
        finally:
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        if played.calls and len(played.failures) == played.calls:
            raise _no_verdicts(played)

    async def _judge_one(self, place: int, planned: Planned, played: Played) -> None:
        meter = Metered(self._chat)
        try:
            winner, reason = await self._verdict(meter, planned)
        except ChatError as error:
            played.calls += 1
            played.failures.append(str(error))
            if len(played.failures) == played.calls >= ALL_FAILED:
                raise _no_verdicts(played) from error
            return
        finally:
            played.usage = played.usage + meter.usage
        played.calls += 1
        self._log.append(self._row(place, planned, winner, reason, meter.usage))

    async def _verdict(self, chat: Chat, planned: Planned) -> tuple[str, str]:
        """Call the judge, and once more if its answer could not be used."""
        messages = self._messages(planned)
        for attempt in (0, 1):
            try:
                request = ChatRequest(
                    tuple(messages), SCHEMA, max_tokens=MAX_TOKENS, seed=self._seed + attempt
                )
                completion = await chat.complete(request)
                return _read_verdict(require_complete(completion).text)
            except ChatReplyError as error:
                if attempt:
                    raise
                # Only our own code for the fault: the answer may carry the policy's text.
                note = f"Your last answer could not be used ({str(error).partition(':')[0]})."
                last = messages[-1]
                content = f"{last['content']}\n\n{note} Answer again, with the JSON object only."
                messages = [*messages[:-1], Message(role=last["role"], content=content)]
        raise AssertionError("unreachable")

    def _messages(self, planned: Planned) -> list[Message]:
        values = {
            "prompt": self._fenced(planned.query, "PROMPT"),
            "response_a": self._fenced(planned.first_response, "RESPONSE"),
            "response_b": self._fenced(planned.second_response, "RESPONSE"),
        }
        filled = self._prompt.messages(values)
        return [Message(role=m["role"], content=m["content"]) for m in filled]

    def _fenced(self, text: str, label: str) -> str:
        return fence(clean(text).text, secret=self._secret, label=label)

    def _row(self, place: int, planned: Planned, winner: str, reason: str, usage: Usage) -> Row:
        names: dict[str, Any] = {"A": planned.first, "B": planned.second, "tie": "tie"}
        return {
            "key": self._key(planned),
            "game": place,
            "query": planned.query,
            "model_a": planned.first,
            "model_b": planned.second,
            "winner": names[winner],
            "winner_side": winner,
            "reason": reason,
            "judge": self._chat.name,
            "usage": usage.model_dump(),
            "model_a_response": planned.first_response,
            "model_b_response": planned.second_response,
        }


def _game_id(row: Row) -> tuple[str, str, str]:
    return str(row["key"]), str(row["model_a"]), str(row["model_b"])


def _no_verdicts(played: Played) -> ChatError:
    return ChatError(
        f"none of the first {played.calls} games got a verdict; the first because of: "
        f"{played.failures[0]}"
    )


def _read_verdict(text: str) -> tuple[str, str]:
    """Winner and reason, taken from their places and from nowhere else.

    Raises:
        ChatReplyError: The text is no JSON object of the expected shape.
    """
    answer = parse_json(text)
    winner, reason = answer.get("winner"), answer.get("reason")
    if winner not in _SCORES:
        raise ChatReplyError(f"invalid_winner: {str(winner)[:40]!r} is not A, B or tie")
    if not isinstance(reason, str):
        raise ChatReplyError("invalid_reason: the answer has no reason in text")
    return str(winner), reason
