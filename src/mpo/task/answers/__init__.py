"""Final answers: finding them in a solution, and telling whether two are the same.

>>> final_answer(r"First \\boxed{7}? No: it is \\boxed{2}.")
'2'
>>> same_answer(r"50\\%", "50"), same_answer(r"5\\text{ feet}", r"5\\text{ inches}")
(True, False)

`BoxedAnswers` is what a run uses: it compares in a process of its own, which is killed when an
answer takes too long (a policy may well write `9^{9^{9^9}}`).
"""

from .equality import same_answer
from .latex import final_answer
from .worker import BoxedAnswers

__all__ = ["BoxedAnswers", "final_answer", "same_answer"]
