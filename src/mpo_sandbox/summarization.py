"""Summarization in the sandbox: short bills, summaries of them, and how true and complete they are.

A bill settles six things (actor, amount, receiver, purpose, deadline, exception). Its
summary states most of them; in what the policy learns from, one statement in eight is wrong. Gold
is the mean of

- **faithfulness**: of what a summary states, the share that the bill says;
- **coverage**: of what the bill settles, the share that the summary states rightly.

A heap of words states nothing.
"""

from __future__ import annotations

import random
from typing import Any

from .texts import Draft, clean_text, fill
from .words import join, sentences, words

__all__ = ["draw", "faithfulness_and_coverage", "rows"]

UNFAITHFUL = 1 / 8
"""Chance that a statement of a text that the policy learns from is wrong."""
MOST = 1 / 3
"""Share of a sentence's words that may be statements: above it, it is a heap."""

THINGS = {
    "agency": "secretary director commissioner governor".split(),
    "amount": "500 1200 4000 9000 25000 60000".split(),
    "who": "farmers teachers veterans nurses tenants sailors".split(),
    "what": "training repairs housing tools books medicine".split(),
    "days": "30 45 60 90 120 180".split(),
    "except": "islands deserts highways prisons casinos airports".split(),
}
"""Things that a bill settles, and their words; no word stands for two things."""

_TOPICS = (
    "well bus seed river bridge library forest harbor school clinic market railway mill orchard "
    "museum theater mine dairy ferry park"
).split()

_BILL = (
    "{agency} pays {amount} dollars to {who} for {what} . report in {days} days . "
    "not for {except} . summarize the {topic} act ."
)
_FIRST = (
    "the {topic} act tells the {agency} to help {who} .",
    "under the {topic} act , the {agency} supports {who} .",
    "{lead} , the {agency} has a duty to {who} .",
)
_SECOND = (
    "the sum of {amount} dollars is meant for {what} .",
    "{lead} , it gives {amount} dollars for {what} .",
    "for {what} there is a grant of {amount} dollars .",
)
_THIRD = (
    "a report has to be ready in {days} days .",
    "{lead} , officials report within {days} days .",
    "after {days} days a report is due .",
)
_FOURTH = (
    "the rules leave out {except} .",
    "{lead} , no money goes to {except} .",
    "an exception is made for {except} .",
)
_EVIDENCE = (
    "{link} , a {person} could ask for it this {time} .",
    "{link} , an office in the {place} may apply .",
    "{link} , the {place} has waited for it since {time} .",
)
_CLOSINGS = (
    "{wrap} , the act changes a {adj} part of the law .",
    "{wrap} , officials get a {adj} new task .",
    "{wrap} , this is a {adj} step for the {place} .",
)
_SLOTS = {
    "lead": ("in fact", "as a rule", "above all", "of course", "in general"),
    "link": ("for example", "for instance", "in one case"),
    "wrap": ("in the end", "for these reasons", "to sum up", "all in all"),
    "adj": ("small", "useful", "common", "lasting", "simple", "rich"),
    "person": ("clerk", "mayor", "builder", "scholar", "doctor"),
    "place": ("town", "valley", "county", "city", "village"),
    "time": ("spring", "winter", "summer", "autumn"),
}

Bill = dict[str, str]
"""The thing that each slot of the bill has."""


def _bill(rng: random.Random) -> Bill:
    drawn = {kind: rng.choice(values) for kind, values in THINGS.items()}
    return {**drawn, "topic": rng.choice(_TOPICS)}


def _prompt(bill: Bill) -> str:
    return join(_BILL.format(**bill).split())


def _summary(rng: random.Random, bill: Bill, unfaithful: float) -> list[str]:
    said = {
        kind: (rng.choice(THINGS[kind]) if kind in THINGS and rng.random() < unfaithful else value,)
        for kind, value in bill.items()
    }
    slots = {**_SLOTS, **said}
    body = [fill(rng, templates, slots) for templates in (_FIRST, _SECOND, _THIRD, _FOURTH)]
    body.insert(rng.randint(2, 4), fill(rng, _EVIDENCE, slots))
    return [*body, fill(rng, _CLOSINGS, slots)]


def draw(rng: random.Random) -> Draft:
    """A summary for the policy to learn from."""
    bill = _bill(rng)
    return Draft(bill["topic"], _prompt(bill), _summary(rng, bill, UNFAITHFUL))


def rows(seed: int, n: int) -> list[dict[str, Any]]:
    """Bills with a true summary each, in the columns of the task's data set."""
    rng = random.Random(f"bills {seed}")
    found = []
    for bill in (_bill(rng) for _ in range(n)):
        summary = Draft(bill["topic"], "", _summary(rng, bill, 0.0))
        found.append({"clean_text": _prompt(bill), "clean_summary": clean_text(summary)})
    return found


def faithfulness_and_coverage(prompt: str, completion: str) -> tuple[float, dict[str, float]]:
    """Gold of a summary, and its two parts; all 0 to 1. Who states nothing is not faithful."""
    kind_of = {value: kind for kind, values in THINGS.items() for value in values}
    bill = {kind_of[word]: word for word in words(prompt) if word in kind_of}
    stated: dict[str, dict[str, None]] = {}
    for sentence in sentences(completion):
        found = words(sentence)
        things = [word for word in found if word in kind_of]
        if len(things) <= MOST * len(found):
            for word in things:
                stated.setdefault(kind_of[word], {})[word] = None
    claims = [(kind, word) for kind, said in stated.items() for word in said]
    true = sum(bill.get(kind) == word for kind, word in claims)
    # A summary that names both the true amount and another leaves its reader with neither.
    covered = sum(list(said) == [bill.get(kind)] for kind, said in stated.items())
    faithfulness = true / len(claims) if claims else 0.0
    coverage = covered / len(bill) if bill else 0.0
    return (faithfulness + coverage) / 2, {"faithfulness": faithfulness, "coverage": coverage}
