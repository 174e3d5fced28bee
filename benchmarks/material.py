"""Material that `judge.py` grades: rubrics and rollouts of the sizes in the published run.

Criteria of 125 words and responses of 350: short ones would flatter.
"""

from __future__ import annotations

import json
import random

from mpo.records import Rollout
from mpo.rubric import Criterion, Rubric

__all__ = ["CRITERION_WORDS", "RESPONSE_WORDS", "make_reply", "make_rollouts", "make_rubric"]

CRITERION_WORDS = 125
RESPONSE_WORDS = 350
PROMPT_WORDS = 12
RATIONALE_WORDS = 32

_WORDS = (
    "a the of and to in that it with as for was on are by this be at from or have an they which "
    "river stone garden letter window morning teacher orchard bridge winter music paper harbour "
    "careful sudden quiet early distant narrow honest writes argues follows turns explains carries "
    "answers keeps leaves finds because although while before after there what paragraph reader "
    "claim evidence sentence story ending beginning voice detail reason order contrast example"
).split()


def _text(rng: random.Random, words: int) -> str:
    parts = [rng.choice(_WORDS) for _ in range(words)]
    return " ".join(f"{word}." if n % 13 == 12 else word for n, word in enumerate(parts))


def make_rubric(criteria: int) -> Rubric:
    """A rubric whose criteria have 125 words each, scored 0 to 5."""
    rng = random.Random(criteria)
    return Rubric(
        title="Bench",
        criteria=tuple(
            Criterion(name=f"Criterion {n}", text=_text(rng, CRITERION_WORDS))
            for n in range(1, criteria + 1)
        ),
    )


def make_rollouts(count: int, group: int = 8) -> list[Rollout]:
    """Rollouts of 350 words, no two alike, in groups of one prompt each."""
    rng = random.Random(count)
    prompts = [_text(rng, PROMPT_WORDS) for _ in range(-(-count // group))]
    return [
        Rollout(
            prompt=f"{n // group}: {prompts[n // group]}",
            completion=f"{n} {_text(rng, RESPONSE_WORDS)}",
            columns={"reference": "The reference solution."},
            index=n,
        )
        for n in range(count)
    ]


def make_reply(rubric: Rubric) -> str:
    """An answer of the RM under the rubric."""
    rng = random.Random(0)
    return json.dumps(
        {
            key: {"rationale": _text(rng, RATIONALE_WORDS), "score": 3}
            for key in rubric.criterion_ids
        }
    )
