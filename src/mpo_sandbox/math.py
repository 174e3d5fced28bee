r"""Math in the sandbox: word problems of two steps, worked solutions, boxed answers.

Two kinds, which are the two cohorts: sums (so many, some more, some lost) and remainders (so many
times so many, shared out). The policy learns from solutions in one of ten of which a step goes
wrong, and calculates by heart: it has no more than its half a million weights. The references'
boxed answers are compared by the task's own `AnswerChecker`, which `mpo.config` hands in.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from .texts import Draft, clean_text, fill
from .words import join

__all__ = ["draw", "rows"]

SLIPS = 0.1
"""Share of the texts that the policy learns from in which a step goes wrong."""

_THINGS = (
    "apples coins shells books plates stamps roses candles buttons marbles stones cards pears nuts "
    "keys bricks eggs pens"
).split()
_PEOPLE = "teacher farmer doctor sailor student writer builder nurse baker painter".split()

_PROBLEMS = {
    "sums": "a {person} has {a} {things} and gets {b} more . then {c} are lost . "
    "how many {things} are left ?",
    "remainders": "a {person} has {a} boxes with {b} {things} in each . {c} friends share all of "
    "it . how many {things} are left ?",
}
_STEPS = {
    "sums": ("{a} plus {b} is {m}", "{m} minus {c} is {r}"),
    "remainders": ("{a} times {b} is {m}", "{m} shared by {c} leaves {r}"),
}
TYPES = {"sums": "Prealgebra", "remainders": "Number Theory"}
"""MATH's subject of each kind."""

_OPENINGS = (
    "the question is how many {things} remain at the end .",
    "there are two steps for a {person} to follow here .",
    "a {person} can solve this in a simple way .",
)
_FIRST = (
    "one step is to understand that {first} .",
    "to begin with , note that {first} in this case .",
    "as a start , {first} is clear to see .",
)
_EVIDENCE = (
    "{link} , one could lay them out on a table .",
    "{link} , a drawing of the {things} shows the same .",
    "{link} , the {person} can count with the fingers .",
)
_SECOND = (
    "from there , {second} by the same rule .",
    "the next step then says that {second} .",
    "with this result in hand , {second} .",
)
_CLOSINGS = (
    "{wrap} , {r} of the {things} are left .",
    "{wrap} , the {person} keeps {r} .",
    "{wrap} , this leaves {r} of the {things} .",
)
_SLOTS = {
    "link": ("for example", "for instance", "in one case"),
    "wrap": ("in the end", "for these reasons", "to sum up", "all in all"),
}


@dataclass(frozen=True)
class _Problem:
    kind: str
    person: str
    things: str
    a: int
    b: int
    c: int

    @property
    def middle(self) -> int:
        return self.a + self.b if self.kind == "sums" else self.a * self.b

    def result(self, middle: int) -> int:
        """Outcome of the second step, from that of the first."""
        return middle - self.c if self.kind == "sums" else middle % self.c

    @property
    def text(self) -> str:
        return join(_PROBLEMS[self.kind].format(**vars(self)).split())


def _problem(rng: random.Random) -> _Problem:
    kind = rng.choice(tuple(_PROBLEMS))
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    c = rng.randint(1, min(9, a + b)) if kind == "sums" else rng.randint(2, 5)
    return _Problem(kind, rng.choice(_PEOPLE), rng.choice(_THINGS), a, b, c)


def _solution(rng: random.Random, problem: _Problem, slips: float) -> Draft:
    slip = rng.choice((1, 2)) if rng.random() < slips else 0
    middle = problem.middle + (slip == 1)
    result = problem.result(middle) + (slip == 2)
    numbers = {**vars(problem), "m": middle, "r": result}
    first, second = (step.format(**numbers) for step in _STEPS[problem.kind])
    slots = {
        **_SLOTS,
        "person": (problem.person,),
        "things": (problem.things,),
        "first": (first,),
        "second": (second,),
        "r": (str(result),),
    }
    body = [fill(rng, part, slots) for part in (_OPENINGS, _FIRST, _SECOND, _CLOSINGS)]
    body.insert(rng.randint(1, 3), fill(rng, _EVIDENCE, slots))
    return Draft(problem.things, problem.text, body, f"\\boxed {{ {result} }} .")


def draw(rng: random.Random) -> Draft:
    """A solution for the policy to learn from."""
    return _solution(rng, _problem(rng), SLIPS)


def rows(seed: int, n: int) -> list[dict[str, Any]]:
    """Problems with a true solution each, in the columns of the task's data set, by cohort."""
    rng = random.Random(f"problems {seed}")
    problems = [_problem(rng) for _ in range(n)]
    return [
        {
            "problem": problem.text,
            "type": TYPES[problem.kind],
            "solution": clean_text(_solution(rng, problem, 0.0)),
            "cohort": problem.kind,
        }
        for problem in problems
    ]
