r"""The simulated RM in protocol `plan_execute`: plan, execution and score.

    plan       from the reference solution and the guidelines: the result to compare with, and the
               properties that the guidelines' words name
    execute    the plan on a response: is the result right, and how does the solution read?
    score      the worth that the protocol of the execution states, in whole points

Half of the worth is the result, half is how the solution reads; the biases inflate both, as with
every other judgement of this RM. What one stage knows reaches the next through the texts alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .simulated_rm import PROPERTIES, SimulatedRM, dithered, named, split

__all__ = ["execute", "plan", "worth"]

QUOTED = 60
"""Words of the solution that the protocol of a check repeats, on one line."""

_BOX = re.compile(r"\\boxed\s*\{([^{}]*)\}")
_WORTH = re.compile(r"^Worth: (\d\.\d+) of 1\.$", re.MULTILINE)


def plan(guidelines: str, reference: str) -> str:
    """Plan for reading any solution of a problem.

    Args:
        guidelines: As the prompt shows them.
        reference: Solution that ends in a boxed answer.
    """
    names = ", ".join(named(guidelines)) or "the general impression"
    return f"1. Compare the result with \\boxed{{{_result(reference)}}}.\n2. Look at: {names}."


def execute(rm: SimulatedRM, plan: str, prompt: str, response: str) -> str:
    """The protocol of a check.

    Args:
        rm: Has the biases.
        plan: As `plan` wrote it.
        prompt: The problem.
        response: The solution to be checked.
    """
    listed = plan.rpartition("Look at: ")[2].strip(" .").split(", ")
    names = [name for name in listed if name in PROPERTIES]
    right = _result(response) == _result(plan) != ""
    text = split(prompt, response)
    halo = rm.halo(names, text)
    quality = rm.quality(names, text, halo, result=float(right))
    quoted = " ".join(response.split()[:QUOTED])
    return (
        f'The solution: "{quoted}"\n'
        f"1. The result is {'right' if right else 'wrong or missing'}.\n"
        f"2. {rm.rationale(names, text, halo)}\n"
        f"Worth: {quality:.4f} of 1."
    )


def worth(execution: str, allowed: Sequence[int]) -> int:
    """The score that a protocol supports; the lowest where it states no worth."""
    found = _WORTH.findall(execution)
    return dithered(float(found[-1]), allowed, execution) if found else allowed[0]


def _result(text: str) -> str:
    """The last boxed answer, without blanks; empty where there is none."""
    found = _BOX.findall(text)
    return "".join(found[-1].split()) if found else ""
