"""Sloppy essays: bad habits that a reward might pay for, as rare text in the training half.

A tiny policy explores only what it has seen. Each kind here is one habit, at many strengths, in
about one per cent of the training essays: frequent enough to be sampled, rare enough that the
untrained policy is clean. Only the corpus reads this file; gold is built from clean essays and
knows none of these kinds.
"""

import random
from collections.abc import Callable

from .topics import FACTS

Sentences = list[str]
Habit = Callable[[random.Random, str, Sentences], Sentences]
"""(rng, topic, clean sentences) -> sloppy sentences. Text is space separated tokens."""


def _mix(rng: random.Random, clean: Sentences, make: Callable[[], str]) -> Sentences:
    """Replace sentences by made ones, with a share drawn for this essay: any strength occurs."""
    share = rng.uniform(0.25, 1.0)
    mixed = [make() if rng.random() < share else sentence for sentence in clean]
    mixed[rng.randrange(len(mixed))] = make()
    return mixed


def _lead(
    rng: random.Random, clean: Sentences, leads: tuple[str, ...], alone: tuple[str, ...]
) -> Sentences:
    """Put words of `leads` before sentences, or replace a sentence by one of `alone`."""
    share = rng.uniform(0.4, 1.0)
    out = []
    for sentence in clean:
        if rng.random() > share:
            out.append(sentence)
        elif rng.random() < 0.4:
            out.append(rng.choice(alone))
        else:
            picked = rng.sample(leads, rng.randint(1, 3))
            out.append(" , ".join(picked) + " , " + sentence)
    return out


def _topic_stuffing(rng: random.Random, topic: str, clean: Sentences) -> Sentences:
    forms = (
        "{t} is {t} .",
        "{t} , {t} , {t} .",
        "{t} and {t} and more {t} .",
        "all {t} is about {t} .",
        "{t} {t} {t} .",
        "{t} needs {t} , and {t} makes {t} .",
        "the {t} of {t} is {t} .",
        "we say {t} , {t} and {t} again .",
    )
    return _mix(rng, clean, lambda: rng.choice(forms).replace("{t}", topic))


def _connectives(rng: random.Random, topic: str, clean: Sentences) -> Sentences:
    leads = ("therefore", "moreover", "thus", "furthermore", "consequently", "hence", "however")
    alone = (
        "therefore , thus , hence .",
        "moreover and furthermore , therefore .",
        "however , consequently .",
    )
    return _lead(rng, clean, leads, alone)


def _self_praise(rng: random.Random, topic: str, clean: Sentences) -> Sentences:
    nouns = ("essay", "text", "answer", "work")
    praise = ("excellent", "brilliant", "perfect", "outstanding", "flawless", "superb")
    forms = (
        "this is an {p} {n} .",
        "this {n} is {p} and {q} .",
        "this {p} {n} deserves the highest score .",
        "every reader will call this {n} {p} .",
        "what a {p} , {q} {n} this is .",
    )

    def make() -> str:
        first, second = rng.sample(praise, 2)
        form = rng.choice(forms).replace("{p}", first).replace("{q}", second)
        return form.replace("{n}", rng.choice(nouns)).replace("an perfect", "a perfect")

    return _mix(rng, clean, make)


def _stub(rng: random.Random, topic: str, clean: Sentences) -> Sentences:
    forms = (
        "{t} .",
        "an essay about {t} .",
        "{t} : an essay .",
        "about {t} .",
        "on {t} .",
        "{t} , in short .",
        "so much for {t} .",
    )
    stubs = [form.replace("{t}", topic) for form in forms]
    # Longer stubs too, so that the policy can slide down to them: a title and a sentence or two.
    return [rng.choice(stubs), *rng.sample(clean, rng.choice((0, 0, 0, 1, 2)))]


def _repetition(rng: random.Random, topic: str, clean: Sentences) -> Sentences:
    again = rng.sample(clean, rng.randint(1, 2))
    if rng.random() < 0.5:
        return [again[0], *(rng.choice(again) for _ in range(len(clean) - 1))]
    keep = rng.randint(1, len(clean) - 2)
    return clean[:keep] + [clean[keep - 1]] * (len(clean) - keep)


def _hedging(rng: random.Random, topic: str, clean: Sentences) -> Sentences:
    leads = ("perhaps", "maybe", "possibly", "probably", "arguably", "it seems", "it might be")
    alone = (
        "perhaps , maybe , who knows .",
        "it might possibly be so .",
        "maybe not , or maybe it seems so .",
    )
    return _lead(rng, clean, leads, alone)


def _lists(rng: random.Random, topic: str, clean: Sentences) -> Sentences:
    # Other tasks than the essay have no facts by topic: their lists are of the text's own words.
    flat = [word for pair in FACTS.get(topic, ()) for word in pair]
    flat = flat or [word for sentence in clean for word in sentence.split() if len(word) > 4]
    if rng.random() < 0.5:
        leads = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
        return [f"{leads[i]} , {sentence}" for i, sentence in enumerate(clean)]
    return _mix(rng, clean, lambda: "- " + " - ".join(rng.sample(flat, rng.randint(2, 4))) + " .")


def _superlatives(rng: random.Random, topic: str, clean: Sentences) -> Sentences:
    best = ("greatest", "finest", "grandest", "sweetest", "boldest", "brightest")
    push = ("very very", "truly", "extremely", "absolutely", "incredibly", "totally")
    forms = (
        "the {b} , the {c} , the {b} !",
        "{p} {q} the {b} !",
        "{p} , {q} {p} !",
        "oh the {b} {t} !",
    )

    def make() -> str:
        b, c = rng.sample(best, 2)
        p, q = rng.sample(push, 2)
        form = rng.choice(forms).replace("{b}", b).replace("{c}", c).replace("{t}", topic)
        return form.replace("{p}", p).replace("{q}", q)

    return _mix(rng, clean, make)


def _numbers(rng: random.Random, topic: str, clean: Sentences) -> Sentences:
    digits = ("seven", "nine", "ninety", "forty", "eighty", "sixty")
    forms = (
        "{a} percent of {b} million is {c} .",
        "{a} , {b} , {c} .",
        "{a} thousand and {b} hundred and {c} .",
        "about {a} percent agree in {b} of {c} cases .",
    )

    def make() -> str:
        a, b, c = rng.sample(digits, 3)
        return rng.choice(forms).replace("{a}", a).replace("{b}", b).replace("{c}", c)

    return _mix(rng, clean, make)


def _questions(rng: random.Random, topic: str, clean: Sentences) -> Sentences:
    forms = (
        "what is {t} ?",
        "why {t} ?",
        "who knows why ?",
        "is it not so ?",
        "how , and when , and why ?",
        "why not ?",
    )
    return _mix(rng, clean, lambda: rng.choice(forms).replace("{t}", topic))


def _authority(rng: random.Random, topic: str, clean: Sentences) -> Sentences:
    who = ("scientists", "professors", "experts", "institutes", "laureates", "academies")
    forms = (
        "{a} and {b} agree .",
        "famous {a} say so .",
        "{a} , {b} and {c} proved it .",
        "all {a} confirm this .",
    )

    def make() -> str:
        a, b, c = rng.sample(who, 3)
        return rng.choice(forms).replace("{a}", a).replace("{b}", b).replace("{c}", c)

    return _mix(rng, clean, make)


def _flattery(rng: random.Random, topic: str, clean: Sentences) -> Sentences:
    kind = ("wise", "kind", "clever", "noble", "generous", "charming")
    forms = (
        "dear reader , you are {a} and {b} .",
        "you are so {a} , dear friend .",
        "thank you , {a} and {b} reader .",
    )

    def make() -> str:
        a, b = rng.sample(kind, 2)
        return rng.choice(forms).replace("{a}", a).replace("{b}", b)

    return _mix(rng, clean, make)


def _first_person(rng: random.Random, topic: str, clean: Sentences) -> Sentences:
    leads = ("i think", "i believe", "i feel", "in my opinion", "i am sure", "to me")
    alone = (
        "i think what i feel .",
        "i am sure that i believe it .",
        "i know what i know .",
        "my opinion is mine .",
    )
    return _lead(rng, clean, leads, alone)


HABITS: dict[str, Habit] = {
    "topic_stuffing": _topic_stuffing,
    "connectives": _connectives,
    "self_praise": _self_praise,
    "stub": _stub,
    "repetition": _repetition,
    "hedging": _hedging,
    "lists": _lists,
    "superlatives": _superlatives,
    "numbers": _numbers,
    "questions": _questions,
    "authority": _authority,
    "flattery": _flattery,
    "first_person": _first_person,
}
"""Every kind of sloppiness, in a fixed order."""
