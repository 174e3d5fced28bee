"""Generated English essays: what the sandbox's policy learns and what its gold is measured against.

A clean essay is an opening, three of its topic's five facts in any order, evidence, sometimes a
transition, and a conclusion: 45 to 70 tokens. Every sentence is a template with filled slots. A
sentence belongs to one of three disjoint parts by the checksum of its text, so no sentence of one
is ever in another:

- `"a"` (50 %): trains the policy; about 12 % of its essays are sloppy (see `bad_styles`).
- `"b"` (40 %): trains gold's language model; clean.
- `"held"` (10 %): clean, seen by neither; calibrates and checks gold.

Everything follows from the seed alone, in every process.
"""

import random
import zlib
from dataclasses import dataclass
from typing import Literal

from .bad_styles import HABITS
from .topics import FACTS, facts, topic_of, topics
from .words import join

__all__ = ["SLOPPY_SHARE", "Essay", "Half", "facts", "generate", "prompts", "topic_of", "topics"]

Half = Literal["a", "b", "held"]

SLOPPY_SHARE = 0.12
"""Share of half `"a"` that is sloppy."""

MIN_TOKENS, MAX_TOKENS = 45, 70
"""Length of a clean essay in tokens (words and punctuation); fits a cap of 72."""

_BUCKETS: dict[Half, range] = {"a": range(5), "b": range(5, 9), "held": range(9, 10)}

_SLOTS: dict[str, tuple[str, ...]] = {
    "adj": (
        "quiet",
        "useful",
        "simple",
        "old",
        "rich",
        "common",
        "curious",
        "gentle",
        "serious",
        "lasting",
    ),
    "person": (
        "teacher",
        "farmer",
        "doctor",
        "sailor",
        "student",
        "traveler",
        "writer",
        "scholar",
        "builder",
        "nurse",
    ),
    "place": (
        "village",
        "city",
        "valley",
        "harbor",
        "market",
        "school",
        "town",
        "island",
        "museum",
        "workshop",
    ),
    "time": ("winter", "summer", "spring", "autumn", "year", "morning", "decade", "century"),
    "field": (
        "daily life",
        "human history",
        "modern trade",
        "family life",
        "rural work",
        "public life",
    ),
    "lead": (
        "in fact",
        "as a rule",
        "above all",
        "of course",
        "in general",
        "often",
        "as we know",
        "even so",
    ),
    "tail": (
        "in most places",
        "to this day",
        "in every season",
        "for good reasons",
        "at all times",
        "even now",
    ),
    "link": ("for example", "for instance", "in one case", "as records show"),
    "wrap": ("in the end", "for these reasons", "to sum up", "overall", "in short", "all in all"),
    "gain": (
        "respect",
        "attention",
        "care",
        "a second look",
        "a place at the table",
        "some thought",
    ),
}

_OPENINGS = (
    "{topic} is a {adj} part of {field} .",
    "few things are as {adj} as {topic} in a {place} .",
    "many people in the {place} know little about {topic} .",
    "when a {person} speaks about {topic} , others listen .",
    "{topic} has a long and {adj} past .",
    "every {person} has a {adj} view of {topic} .",
    "there is more to {topic} than a {person} may see .",
    "the story of {topic} is part of {field} .",
    "it is easy to overlook {topic} in {field} .",
    "a {place} is a good place to study {topic} .",
)
_FACTS = (
    "the {key} depends on {value} {tail} .",
    "{lead} , the {key} needs {value} .",
    "the {key} needs {value} {tail} .",
    "without {value} there is no {key} .",
    "the {key} is based on {value} .",
    "thanks to {value} , the {key} can last .",
    "a {person} knows that the {key} needs {value} .",
    "{lead} , the secret of the {key} is {value} .",
    "the {key} owes much to {value} .",
    "it takes {value} to keep the {key} alive .",
    "{lead} , no {key} is possible without {value} .",
    "the {key} still needs {value} each {time} .",
    "every {key} relies on {value} {tail} .",
)
_EVIDENCE = (
    "{link} , a {person} wrote about {topic} every {time} .",
    "{link} , one {adj} {place} has lived from {topic} .",
    "{link} , the {person} of the {place} kept notes on {topic} .",
    "{link} , half of the {place} worked with {topic} .",
    "a {person} tested this in a {adj} {place} .",
    "{link} , a {adj} {person} can show this .",
    "records of the {place} show that it grew each {time} .",
    "{link} , {topic} brought a {person} to the {place} .",
)
_TRANSITIONS = (
    "this matters because {field} would be poorer without it .",
    "at the same time , the {person} should stay {adj} .",
    "therefore the {place} looks after it each {time} .",
    "because of this , the {person} returns every {time} .",
    "moreover , the {place} has a {adj} reason to care .",
    "that is why a {adj} {person} pays attention .",
)
_CONCLUSIONS = (
    "{wrap} , {topic} deserves {gain} .",
    "{wrap} , {topic} remains a {adj} part of {field} .",
    "{wrap} , a {place} without {topic} is less {adj} .",
    "{wrap} , the {person} is right to value {topic} .",
    "{wrap} , {topic} gives {field} a {adj} shape .",
    "{wrap} , we should give {topic} {gain} .",
)

_PROMPTS = (
    "write an essay about {topic} .",
    "write a short essay about {topic} for a {person} .",
    "explain {topic} to a {person} .",
    "tell a {person} about {topic} .",
    "describe the role of {topic} in {field} .",
    "discuss {topic} and its place in {field} .",
    "why does {topic} matter in a {place} ?",
    "what should a {person} know about {topic} ?",
)


@dataclass(frozen=True)
class Essay:
    """One essay with the prompt it answers; `sloppy` names its bad habit, None if it is clean."""

    topic: str
    prompt: str
    text: str
    sloppy: str | None


def half_of(sentence: str) -> Half:
    """The half that a sentence (space separated tokens) belongs to: fixed by its text."""
    bucket = zlib.crc32(sentence.encode()) % 10
    return next(half for half, buckets in _BUCKETS.items() if bucket in buckets)


def _fill(rng: random.Random, template: str, given: dict[str, str]) -> str:
    """Fill a template; each slot without a given value gets a random one."""
    values = {name: given.get(name) or rng.choice(options) for name, options in _SLOTS.items()}
    return template.format(**values, **{k: v for k, v in given.items() if k not in values})


def _sentence(
    rng: random.Random, templates: tuple[str, ...], given: dict[str, str], half: Half
) -> str:
    """A random sentence of `half`."""
    while True:
        sentence = _fill(rng, rng.choice(templates), given)
        if half_of(sentence) == half:
            return sentence


def _clean(rng: random.Random, topic: str, half: Half) -> list[str]:
    """The sentences of a clean essay of the right length."""
    given = {"topic": topic}
    while True:
        pairs = rng.sample(FACTS[topic], 3)
        middle = [
            _sentence(rng, _FACTS, {"key": key, "value": value}, half) for key, value in pairs
        ]
        middle.insert(rng.randint(0, 3), _sentence(rng, _EVIDENCE, given, half))
        if rng.random() < 0.4:
            middle.insert(rng.randint(1, 4), _sentence(rng, _TRANSITIONS, given, half))
        opening = _sentence(rng, _OPENINGS, given, half)
        essay = [opening, *middle, _sentence(rng, _CONCLUSIONS, given, half)]
        if MIN_TOKENS <= sum(len(s.split()) for s in essay) <= MAX_TOKENS:
            return essay


def _trim(sentences: list[str]) -> list[str]:
    """Drop sentences from the end until the essay fits the cap."""
    kept = list(sentences)
    while sum(len(s.split()) for s in kept) > MAX_TOKENS:
        kept.pop()
    return kept


def _prompt(rng: random.Random, topic: str) -> str:
    return join(_fill(rng, rng.choice(_PROMPTS), {"topic": topic}).split())


def generate(seed: int, n: int, half: Half) -> list[Essay]:
    """`n` essays, all different, of one half; only half `"a"` holds sloppy ones."""
    rng = random.Random(f"essays {seed} {half}")
    kinds = tuple(HABITS)
    seen: dict[str, None] = {}
    essays: list[Essay] = []
    while len(essays) < n:
        topic = rng.choice(topics())
        sentences = _clean(rng, topic, half)
        sloppy = rng.choice(kinds) if half == "a" and rng.random() < SLOPPY_SHARE else None
        if sloppy is not None:
            sentences = _trim(HABITS[sloppy](rng, topic, sentences))
        text = join(" ".join(sentences).split())
        if text in seen:
            continue
        seen[text] = None
        essays.append(Essay(topic, _prompt(rng, topic), text, sloppy))
    return essays


def prompts(seed: int, n: int) -> list[str]:
    """`n` prompts: the topics in balanced order, each with varied phrasing and audience."""
    rng = random.Random(f"prompts {seed}")
    drawn: list[str] = []
    while len(drawn) < n:
        drawn += [_prompt(rng, topic) for topic in rng.sample(topics(), len(topics()))]
    return drawn[:n]
