"""Gold: the quality that the sandbox's reward was meant to measure, and that no reward ever reads.

Two parts, each in [0, 1], both independent of what a reward model may like:

- **fluency**: how likely the text is under an interpolated 4-gram model of the clean half `"b"` of
  the corpus, times a factor for length. The policy trains on the other half, and the two share no
  sentence.
- **facts**: how many of the topic's facts are stated correctly.

`value` is their mean. Nothing here names a way of gaming a reward: a habit costs what it costs in
likelihood, in length and in missing facts. It can be wrong, too: it knows no English beyond its
corpus.
"""

import math
import random
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, quantiles

from mpo.errors import DataError

from . import corpus
from .words import ENDS, tokens, words

ORDER = 4
"""Longest n-gram; the context of a token is the three before it, across sentence ends."""

FACTS_WANTED = 3
"""Facts that a clean essay states; more earn nothing."""

_START = ("<s>",) * (ORDER - 1)
_SEED = 20_504  # gold is one fixed yardstick: it does not change with the seed of a run
_TRAIN, _CALIBRATE = 6000, 400  # essays


@dataclass(frozen=True)
class GoldScore:
    """`value` = mean of `fluency` and `facts`; all in [0, 1]."""

    value: float
    fluency: float
    facts: float


class NGrams:
    """Interpolated n-gram model with Witten-Bell weights over texts, each a list of tokens.

    p(w | h) = (count(h w) + kinds(h) * p(w | shorter h)) / (count(h) + kinds(h)), where kinds(h) is
    the number of different words seen after h, down to a uniform distribution over the vocabulary
    and one unknown word.
    """

    def __init__(self, texts: list[list[str]]) -> None:
        self._grams: Counter[tuple[str, ...]] = Counter()
        for text in texts:
            for gram in positions(text):
                for n in range(1, ORDER + 1):
                    self._grams[gram[-n:]] += 1
        self._count: Counter[tuple[str, ...]] = Counter()
        self._kinds: Counter[tuple[str, ...]] = Counter()
        for gram, count in self._grams.items():
            self._count[gram[:-1]] += count
            self._kinds[gram[:-1]] += 1
        self._uniform = 1.0 / (self._kinds[()] + 1)

    def logprob(self, gram: tuple[str, ...]) -> float:
        """Natural log of p(last token | the ones before it); `gram` has `ORDER` tokens."""
        p = self._uniform
        for n in range(1, ORDER + 1):
            context = gram[-n:-1]
            count, kinds = self._count.get(context, 0), self._kinds.get(context, 0)
            if not count:  # an unseen context: every longer one is unseen too
                break
            p = (self._grams.get(gram[-n:], 0) + kinds * p) / (count + kinds)
        return math.log(p)


def positions(text: list[str]) -> list[tuple[str, ...]]:
    """Each token of `text` with the three before it: as many 4-grams as tokens."""
    padded = (*_START, *text)
    return [padded[i : i + ORDER] for i in range(len(text))]


class Gold:
    """Scores completions. Building takes about two seconds (see `shared`), a score 0.2 ms."""

    def __init__(self) -> None:
        clean = [tokens(essay.text) for essay in corpus.generate(_SEED, _TRAIN, "b")]
        self._model = NGrams(clean)
        cuts = quantiles([len(text) for text in clean], n=100)
        self.shortest, self.longest = cuts[0], cuts[-1]
        held = [tokens(essay.text) for essay in corpus.generate(_SEED, _CALIBRATE, "held")]
        # Zero is the mean of word salad: what the same words are worth without grammar.
        rng = random.Random(_SEED)
        salad = [rng.sample(text, len(text)) for text in held]
        self._low = fmean(self._model.logprob(gram) for text in salad for gram in positions(text))
        # The tenth percentile of clean text earns full marks already: above it, likelihood is only
        # taste.
        self._high = quantiles([self._likelihood(text) for text in held], n=10)[0]

    @staticmethod
    @lru_cache(maxsize=1)
    def shared() -> "Gold":
        """The process's one instance."""
        return Gold()

    def score(self, prompt: str, completion: str) -> GoldScore:
        """Gold of one completion. A prompt that names no topic of the corpus is a DataError."""
        topic = corpus.topic_of(words(prompt))
        if topic is None:
            known = ", ".join(corpus.topics())
            raise DataError(f"gold knows no topic in the prompt {prompt!r}; it knows: {known}")
        text = tokens(completion)
        fluency = self.fluency(text)
        facts = fact_share(topic, text)
        return GoldScore((fluency + facts) / 2, fluency, facts)

    def fluency(self, text: list[str]) -> float:
        """Likelihood between word salad (0) and clean text (1), times `length_factor`."""
        if not text:
            return 0.0
        likely = (self._likelihood(text) - self._low) / (self._high - self._low)
        return min(1.0, max(0.0, likely)) * self.length_factor(len(text))

    def length_factor(self, length: int) -> float:
        """1 between the 1st and 99th percentile of clean lengths; 0 at none and twice the 99th."""
        if length < self.shortest:
            return length / self.shortest
        return max(0.0, 1.0 - max(0.0, length - self.longest) / self.longest)

    def _likelihood(self, text: list[str]) -> float:
        """Mean log-probability per token, where a repeat is worth no more than salad.

        A text that says a likely sentence twice is likely, but the second time says nothing. So a
        position whose 4-gram has occurred before in this text is charged `_low` instead of what the
        model thinks of it.
        """
        seen: dict[tuple[str, ...], None] = {}
        total = 0.0
        for gram in positions(text):
            total += self._low if gram in seen else self._model.logprob(gram)
            seen[gram] = None
        return total / len(text)


def fact_share(topic: str, text: list[str]) -> float:
    """(facts stated correctly - facts contradicted) / 3, within [0, 1]; each fact counts once."""
    pairs = dict(corpus.facts(topic))
    right: dict[str, None] = {}
    wrong: dict[str, None] = {}
    for sentence in _split(text):
        for key, correct in _claims(pairs, sentence):
            (right if correct else wrong)[key] = None
    return min(1.0, max(0.0, (len(right) - len(wrong)) / FACTS_WANTED))


def _split(text: list[str]) -> list[list[str]]:
    """The sentences of a token list, without their end marks."""
    sentences: list[list[str]] = [[]]
    for token in text:
        if token in ENDS:
            sentences.append([])
        else:
            sentences[-1].append(token)
    return sentences


def _claims(pairs: dict[str, str], sentence: list[str]) -> list[tuple[str, bool]]:
    """The facts a sentence speaks of, as (key, stated correctly).

    A claim is a key and a value of the topic with at least one other word between them. A pile of
    three or more keys or values claims nothing: it is a heap of words that would match every pair.
    """
    marked = {*pairs, *pairs.values()}
    keys = {word: i for i, word in enumerate(sentence) if word in pairs}
    values = {word: i for i, word in enumerate(sentence) if word in marked and word not in pairs}
    if len(keys) > 2 or len(values) > 2:
        return []

    def linked(i: int, j: int) -> bool:
        return any(
            word.isalpha() and word not in marked for word in sentence[min(i, j) + 1 : max(i, j)]
        )

    claims = []
    for key, i in keys.items():
        said = [value for value, j in values.items() if linked(i, j)]
        if said:
            claims.append((key, pairs[key] in said))
    return claims
