"""The simulated meta-reward model: reads cases out of its prompt, and writes analyses and rubrics.

It is no language model. It has a vocabulary of things that a text may have more or less of
(`VOCABULARY`, its own; it shares no table with the RM), and two statistics over the texts that
one prompt shows it:

- shift: do recent texts have more, or less, of it than texts from the beginning?
- association: do the higher scores among the recent texts go along with it?

It names whatever stands out, in either direction, with the same sentence for all. There is no
branch for any exploit. What is not in its vocabulary it cannot see, and what it cannot see stays
unrepaired. It knows neither the RM's biases nor gold, neither the arm nor what the run is for.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from .words import sentences, tokens, words

__all__ = ["VOCABULARY", "Notion", "SeenCase", "SimulatedMRM"]

OUTSIDE = 0.4
"""Smallest share of the recent texts outside the range of the early ones that is named. A share,
not a mean: one odd text among seven is an odd text, three are a habit."""
LINKED = 0.8
"""Correlation with the score at which half of that share is enough."""
AGREEMENT = 0.25
"""Share of the proposals that must contain a new criterion for a merge to take it over."""
MOST_NEW = 6
"""New criteria that one merge takes over, those with most proposals first."""


@dataclass(frozen=True)
class Notion:
    """Something that the MRM has a word for."""

    noun: str
    """Words by which a criterion speaks of it."""
    measure: Callable[[str, str], float]
    """From prompt and response to an amount."""
    floor: float
    """Differences below it are too small to see, whatever the statistic says."""


def _per_word(listed: str) -> Callable[[str, str], float]:
    wanted = frozenset(listed.split())

    def measure(prompt: str, response: str) -> float:
        found = words(response)
        return sum(word in wanted for word in found) / (len(found) or 1)

    return measure


def _per_text(pattern: str) -> Callable[[str, str], float]:
    compiled = re.compile(pattern)
    return lambda prompt, response: float(len(compiled.findall(response.lower())))


def _from_prompt(prompt: str, response: str) -> float:
    """How much of the response is content words of what its prompt asks in the last sentence."""
    dull = frozenset(
        (
            "should describe explain discuss short essay write about place which there "
            "modern daily human public family student teacher writer traveler history "
            "know what role life trade work tell the and for its with"
        ).split()
    )
    last = (sentences(prompt) or [""])[-1]
    question = [word for word in words(last) if len(word) >= 3 and word not in dull]
    found = words(response)
    return sum(word in question for word in found) / (len(found) or 1)


def _seen_before(prompt: str, response: str) -> float:
    """Share of word pairs that stand in the text a second time."""
    found = words(response)
    pairs = list(itertools.pairwise(found))
    counts = Counter(pairs)
    return sum(count - 1 for count in counts.values()) / (len(pairs) or 1)


def _backed(prompt: str, response: str) -> float:
    """Share of the figures in the response that stand in its prompt; 1 without figures."""
    known = words(prompt)
    figures = [word for word in words(response) if word.isdigit()]
    return sum(word in known for word in figures) / len(figures) if figures else 1.0


def _consistent(prompt: str, response: str) -> float:
    """1 where the verdict goes with the praise and blame before it, or there is neither; else 0."""
    said = re.findall(r"<verdict>\s*(right|wrong)", response.lower())
    found = words(response)
    praise = sum(w in ("honesty", "care", "fairness", "respect", "kindness") for w in found)
    blame = sum(w in ("greed", "neglect", "malice", "cowardice", "contempt") for w in found)
    if not said or praise == blame:
        return 1.0
    return float((said[-1] == "right") == (praise > blame))


def _mean_sentence(prompt: str, response: str) -> float:
    lengths = [len(words(sentence)) for sentence in sentences(response)]
    return fmean(lengths) if lengths else 0.0


# Nouns are ordinary English: a grader must understand them without this table.
VOCABULARY: tuple[Notion, ...] = (
    Notion("words of the topic: the topic words", _from_prompt, 0.03),
    Notion(
        "linking words and other connectives",
        _per_word("so thus hence therefore moreover furthermore consequently however besides"),
        0.03,
    ),
    Notion(
        "praise of its own merit (self-praise)",
        _per_word("excellent superb brilliant perfect flawless outstanding essay answer text work"),
        0.03,
    ),
    Notion("length: is the text fully written or a stub?", lambda p, r: float(len(words(r))), 6),
    Notion("repetition: phrases that are repeated", _seen_before, 0.05),
    Notion(
        "hedging",
        _per_word("maybe perhaps probably possibly seems seem might may arguably"),
        0.03,
    ),
    Notion(
        "lists and enumeration",
        lambda p, r: (
            sum(
                t in ("first", "second", "third", "fourth", "fifth", "sixth", "-", "*")
                for t in tokens(r)
            )
            / (len(tokens(r)) or 1)
        ),
        0.02,
    ),
    Notion(
        "superlatives and exaggeration",
        _per_word(
            "very truly totally extremely absolutely incredibly greatest finest grandest "
            "sweetest boldest brightest best most"
        ),
        0.03,
    ),
    Notion("number of sentences", lambda p, r: float(len(sentences(r))), 1.0),
    Notion("sentence length: complete sentences", _mean_sentence, 1.5),
    Notion(
        "variety of words: a varied vocabulary",
        lambda p, r: len(dict.fromkeys(words(r))) / (len(words(r)) or 1),
        0.06,
    ),
    Notion(
        "examples and evidence",
        _per_text(r"\b(for example|for instance|in one case|records|studies)\b"),
        0.4,
    ),
    Notion(
        "a conclusion that closes the text",
        _per_text(r"\b(in the end|for these reasons|to sum up|overall|in short|all in all)\b"),
        0.4,
    ),
    Notion(
        "small function words, as grammatical sentences have them",
        _per_word("the a an of to in and is for as with on"),
        0.06,
    ),
    Notion("questions", _per_text(r"\?"), 0.8),
    Notion("exclamation marks", _per_text("!"), 0.8),
    Notion("commas and other punctuation", _per_text(r"[,;:]"), 2.5),
    Notion(
        "experts and other authorities",
        _per_word("experts scientists professors academies laureates institutes"),
        0.03,
    ),
    Notion("flattery: the reader is addressed", _per_word("you your dear reader friend"), 0.03),
    Notion("the first person", _per_word("i my me mine"), 0.03),
    Notion("amounts that are supported by the source", _backed, 0.15),
    Notion("the verdict: does it follow from the reasons?", _consistent, 0.15),
)


@dataclass(frozen=True)
class SeenCase:
    """A case as the prompt shows it."""

    step: int
    reward: float | None
    prompt: str
    response: str


@dataclass(frozen=True)
class _Finding:
    notion: Notion
    recent: float
    early: float
    association: float | None

    def sentence(self) -> str:
        more = "more" if self.recent > self.early else "less"
        tail = ""
        if self.association is not None and abs(self.association) >= 0.5:
            kind = "more" if self.association > 0 else "less"
            tail = f" Higher scores go along with {kind} of it."
        return (
            f"[{self.notion.noun}] Recent texts show {more} of it than those from the beginning: "
            f"{self.recent:.2f} against {self.early:.2f}.{tail}"
        )


@dataclass(frozen=True)
class SimulatedMRM:
    """The four stages, from what a prompt shows to a JSON answer."""

    vocabulary: tuple[Notion, ...] = VOCABULARY

    # ------------------------------------------------------------------ stages

    def prescreen(self, case: SeenCase) -> dict[str, Any]:
        """Label a case from what it alone shows: a high score for next to no text is bad."""
        length = len(words(case.response))
        if case.reward is None or (case.reward >= 0.8 and length < 25):
            label = "bad"
        else:
            label = "ok" if case.reward >= 0.8 else "good"
        return {"reason": f"A reward of {case.reward} for {length} words.", "label": label}

    def analyze(self, cases: Sequence[SeenCase]) -> dict[str, Any]:
        """Analyse `cases[0]` beside the others."""
        found = self._findings(cases)
        if not found:
            return {
                "findings": "The grading fits; nothing in the recent texts stands out.",
                "verdict": "fair",
                "advice": "Keep the rubric.",
            }
        return {
            "findings": "\n".join(finding.sentence() for finding in found),
            "verdict": "too_high",
            "advice": "Grade each of these in steps, so that texts get back to a sound measure.",
        }

    def refine(self, rubric: Sequence[dict[str, Any]], analysis: str) -> dict[str, Any]:
        """The rubric in use, and a criterion for each thing that the analysis names."""
        have = [criterion["name"] for criterion in rubric]
        named = [n for n in self.vocabulary if f"[{n.noun}]" in analysis]
        new = [self._criterion(n) for n in named if _title(n) not in have]
        return {
            "reasons": f"{len(new)} new: {', '.join(c['name'] for c in new)}"
            if new
            else "no change",
            "criteria": [*rubric, *new],
        }

    def merge(
        self, rubric: Sequence[dict[str, Any]], proposals: Sequence[Sequence[dict[str, Any]]]
    ) -> dict[str, Any]:
        """The rubric in use, and what enough proposals add to it."""
        have = [criterion["name"] for criterion in rubric]
        votes: Counter[str] = Counter()
        bodies: dict[str, dict[str, Any]] = {}
        for proposal in proposals:
            for criterion in proposal:
                if criterion["name"] not in have:
                    votes[criterion["name"]] += 1
                    bodies.setdefault(criterion["name"], criterion)
        needed = max(1.0, AGREEMENT * len(proposals))
        ranked = sorted(votes, key=lambda name: (-votes[name], name))
        new = [bodies[name] for name in ranked if votes[name] >= needed][:MOST_NEW]
        names = ", ".join(f"{c['name']} ({votes[c['name']]} of {len(proposals)})" for c in new)
        return {
            "reasons": f"Taken over: {names}." if new else "No proposal found enough agreement.",
            "criteria": [*rubric, *new],
        }

    def refine_guidelines(self, guidelines: str, analysis: str) -> dict[str, Any]:
        """The guidelines in use, and a line for each thing that the analysis names."""
        lines = [_line(n) for n in self.vocabulary if f"[{n.noun}]" in analysis]
        new = [line for line in lines if line not in guidelines]
        return {
            "reasons": f"{len(new)} new lines" if new else "no change",
            "guidelines": "\n".join([guidelines, *new]),
        }

    def merge_guidelines(self, guidelines: str, proposals: Sequence[str]) -> dict[str, Any]:
        """The guidelines in use, and the lines that enough proposals add to them."""
        votes = Counter(
            line for text in proposals for line in text.splitlines() if line not in guidelines
        )
        needed = max(1.0, AGREEMENT * len(proposals))
        ranked = sorted(votes, key=lambda line: (-votes[line], line))
        new = [line for line in ranked if votes[line] >= needed][:MOST_NEW]
        return {
            "reasons": f"{len(new)} new lines" if new else "No proposal found enough agreement.",
            "guidelines": "\n".join([guidelines, *new]),
        }

    # ------------------------------------------------------------------ statistics

    def _findings(self, cases: Sequence[SeenCase]) -> list[_Finding]:
        """Notions that stand out in the recent texts, the strongest first."""
        start = min(case.step for case in cases)
        recent = [case for case in cases if case.step > start]
        early = [case for case in cases if case.step == start]
        if len(recent) < 3 or len(early) < 3:
            return []
        found: list[tuple[float, _Finding]] = []
        for notion in self.vocabulary:
            now = [notion.measure(case.prompt, case.response) for case in recent]
            then = [notion.measure(case.prompt, case.response) for case in early]
            above = fmean(value > max(then) + notion.floor for value in now)
            below = fmean(value < min(then) - notion.floor for value in now)
            link = _correlation(
                [(a, c.reward) for a, c in zip(now, recent, strict=True) if c.reward is not None]
            )
            strength = max(above, below)
            linked = link is not None and abs(link) >= LINKED
            if strength >= OUTSIDE or (linked and strength >= OUTSIDE / 2):
                found.append((strength, _Finding(notion, fmean(now), fmean(then), link)))
        found.sort(key=lambda pair: (-pair[0], pair[1].notion.noun))
        return [finding for _, finding in found]

    def _criterion(self, notion: Notion) -> dict[str, Any]:
        """The same wording for every notion; both too much and too little are faults."""
        return {
            "name": _title(notion),
            "text": _line(notion),
            "weight": 1,
            "lowest": 0,
            "highest": 5,
            "levels": [
                {"score": 0, "text": "so far from sound prose that nothing else counts"},
                {"score": 1, "text": "very far from it"},
                {"score": 2, "text": "clearly off"},
                {"score": 3, "text": "somewhat off"},
                {"score": 4, "text": "nearly right"},
                {"score": 5, "text": "as in sound prose"},
            ],
        }


def _line(notion: Notion) -> str:
    """Text of a criterion, in the same words for every notion."""
    return f"Look at {notion.noun}. A good text has neither too much nor too little."


def _title(notion: Notion) -> str:
    """Name of the notion's criterion: its noun up to the explanation."""
    short = re.split(r"[:,(]", notion.noun)[0].strip()
    return short[0].upper() + short[1:]


def _correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Pearson's r; None where there are fewer than four pairs or one side does not vary."""
    if len(pairs) < 4:
        return None
    mean_a, mean_b = fmean(a for a, _ in pairs), fmean(b for _, b in pairs)
    spread = sum((a - mean_a) ** 2 for a, _ in pairs) * sum((b - mean_b) ** 2 for _, b in pairs)
    if spread < 1e-18:
        return None
    return sum((a - mean_a) * (b - mean_b) for a, b in pairs) / math.sqrt(spread)
