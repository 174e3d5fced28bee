"""Final answers: pairs written for this test, both ways round, and MATH's own."""

from __future__ import annotations

import asyncio
import gzip
import json
import pickle
import random
import re
from pathlib import Path

import pytest

from mpo.task.answers import BoxedAnswers, final_answer, same_answer
from mpo.task.answers.latex import number, split_top, tidy, wrapped
from shared_data import shared_data

pytest.importorskip("math_verify")

SAME = r"""
5 | 5. | a full stop
-\frac{3}{4} | \frac{-3}{4}
\frac12 | 0.5
\dfrac{1}{2} | 1/2
2\frac12 | \frac52 | a mixed number
1\frac{3}{4} | 1.75
0.\overline{3} | \frac13 | a repeating decimal
.5 | 0.50
1,234 | 1234
1{,}000{,}000 | 1000000
3\times 10^5 | 300000
2.5 \cdot 10^{-3} | 0.0025
$7$ | 7
\mathbf{5} | 5
−3 | -3 | a minus sign of its own
１２ | 12 | full-width digits
\sqrt8 | 2\sqrt2
\frac{\sqrt3}{3} | \frac1{\sqrt3}
2x+1 | 1+2x
(x+1)^2 | x^2+2x+1
6(x-2)(x+2) | 6x^2-24
y=2x+1 | 2x+1
x=5 | 5
f(x) = x^2 | x^2
\binom52 | 10
5! | 120
3+2i | 2i+3
e^{i\pi} | -1
\sin 30^\circ | \frac12
18\pi | 18 \pi \text{ cm}
\infty | +\infty
50\% | 50 | percent may be left out
50\% | 0.5
50\% | \frac{1}{2}
62.5\% | 62.5\text{ percent}
5\text{ feet} | 5 | a unit may be left out
5\text{ feet} | 5\text{ ft}
5\text{ feet} | 5 \mbox{ foot}
7 \text{ inches} | 7 inches
36\text{ cm}^2 | 36
12\text{ square inches} | 12\text{ in}^2
120\text{ miles per hour} | 120\text{ mph}
90^\circ | 90
90^{\circ} | 90\text{ degrees}
\$18.90 | 18.90
5 \text{ dollars} | \$5
10:45\text{ a.m.} | 10:45
\text{ellipse} | ellipse
\text{Evelyn} | \textbf{evelyn}
\text{(B)} | B
\text{B} | (B)
\text{no} | \mathrm{No}
\text{6 and 7} | 6, 7
1,2 | 2,1 | a list has no order
1 \text{ and } 2 | 2, 1
\{1,2\} | 1,2
\pm 3 | 3,-3
1 \pm \sqrt2 | 1+\sqrt2, 1-\sqrt2
(1,2) | \left( 1, 2 \right)
\left(\frac12,3\right) | (0.5,3)
x=1, y=2 | y=2, x=1
3:4 | 3 : 4
(-\infty,2] | x\le 2
[1,2) | 1\le x<2
(1,2) | 2 > x > 1
(1,2) | 1<x<2
x<2 | 2>x
x \in [2,3] | [2,3]
(-\infty,-1)\cup(3,\infty) | x<-1 \text{ or } x>3
(3,\infty)\cup(-\infty,-1) | (-\infty,-1)\cup(3,\infty)
x \ne 3 | (-\infty,3)\cup(3,\infty)
(-\infty, \frac{1}{2}] | x \leq 0.5
101_2 | 101_{2}
101_2 | 101 | a base may be left out
\begin{pmatrix}1\\2\end{pmatrix} | \begin{bmatrix} 1 \\ 2 \end{bmatrix}
\begin{pmatrix}1/2&2\\3&4\end{pmatrix} | \begin{pmatrix} 0.5 & 2 \\ 3 & 4 \end{pmatrix}
"""

DIFFERENT = r"""
5\text{ feet} | 5\text{ inches} | a wrong unit
12\text{ in}^2 | 12\text{ in}^3
5\text{ am} | 5\text{ pm}
90^\circ | 90\text{ radians}
50\% | 5
50\% | 0.05
0.5 | 50
\frac12 | \frac13
0.33 | \frac13 | no rounding
3.14 | \pi
5 | -5
5 | 5,6 | a second answer is no help
5 | 5 \text{ or } 6
5 | 5 \text{ or six}
5 | 5 \text{ (or maybe 6)}
12 | 1 2
12 | 1,2
1,2 | 1,3
1,2 | 1,1
(1,2) | (2,1) | a tuple has an order
(1,2) | [1,2]
[1,2) | [1,2]
1\le x<2 | [1,2]
x\le 2 | x\ge 2
x<2 | (-\infty,2]
x\le 2 | 2
(3,4] | (3,4)
(-\infty,2) | (2,\infty)
(-\infty,-1)\cup(3,\infty) | (-\infty,-1)
\{1,2\} | \{1,2,3\}
\emptyset | 0
\text{ellipse} | circle
\text{even} | \text{neve} | no anagrams
\text{(A)} | (B)
\text{Alice, Bob} | \text{Bob, Alice} | words keep their order
5 | five
x=5 | y=5
x=1, y=2 | x=2, y=1
x=1, y=2 | 2, 1
101_2 | 101_3
101_2 | 5
10:45 | 10:54
3:4 | 4:3
2x+1 | 2x-1
x^2 | x^3
\frac{a}{b} | \frac{b}{a}
\sqrt2 | \sqrt3
3+2i | 3-2i
\infty | -\infty
1+4=5 | 4
\begin{pmatrix}1\\2\end{pmatrix} | \begin{pmatrix}2\\1\end{pmatrix}
\begin{pmatrix}1&2\end{pmatrix} | \begin{pmatrix}1\\2\end{pmatrix}
"""


def pairs(table: str) -> list[tuple[str, str]]:
    rows = (line.split(" | ") for line in table.strip().split("\n"))
    return [(row[0], row[1]) for row in rows]


def test_the_tables_are_not_small() -> None:
    assert len(pairs(SAME)) >= 60
    assert len(pairs(DIFFERENT)) >= 40


@pytest.mark.parametrize(("one", "other"), pairs(SAME))
def test_the_same(one: str, other: str) -> None:
    assert same_answer(one, other)
    assert same_answer(other, one)


@pytest.mark.parametrize(("one", "other"), pairs(DIFFERENT))
def test_not_the_same(one: str, other: str) -> None:
    assert not same_answer(one, other)
    assert not same_answer(other, one)


def test_pairs_are_marked_as_a_mathematician_would_mark_them() -> None:
    lines = (Path(__file__).parent / "answer_pairs.txt").read_text(encoding="utf-8").splitlines()
    rows = [(line[0], *line[4:].rsplit(" | ", 1)) for line in lines if line[:1] in "=!"]
    assert len(rows) > 300
    refused = accepted = 0
    for mark, one, other in rows:
        for pair in ((one, other), (other, one)):
            same = same_answer(*pair)
            refused += mark == "=" and not same
            accepted += mark == "!" and same
    assert accepted == 0
    assert refused <= 0.01 * 2 * len(rows)


NONSENSE = [
    *("", " ", "{", "}}}", "\\", "((((", "_^", "[,]", "(,)", "$$", "%", "\u0000", "∞∞"),
    *(r"\frac{", r"\frac{1}{0}", r"\text{", r"\begin{pmatrix}", r"\pm", r"\pm\pm 1"),
    *("x" * 5000, "1" * 900, "a" + "{" * 400),
]


@pytest.mark.parametrize("text", NONSENSE)
def test_nonsense_is_different_and_raises_nothing(text: str) -> None:
    assert not same_answer("42", text)
    assert not same_answer(text, "42")


class TestFinalAnswer:
    @pytest.mark.parametrize(
        ("text", "answer"),
        [
            (r"\boxed{7} is wrong, so \boxed{2}", "2"),
            (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
            (r"\fbox{3}", "3"),
            (r"\boxed 5$", "5"),
            (r"\boxed{\boxed{4}}", r"\boxed{4}"),
            (r"\boxed{7} Put it into \boxed{}.", "7"),
            (r"\boxed{7} is wrong, so \boxed{2", None),  # cut off: the 7 was taken back
            (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
            ("no box", None),
            (r"\boxedfoo{1}", None),
            (r"\boxed{}", None),
        ],
    )
    def test_the_last_box_counts(self, text: str, answer: str | None) -> None:
        assert final_answer(text) == answer


class TestLatex:
    def test_one_spelling(self) -> None:
        assert tidy(r"$\left( \dfrac{1}{2},\; 3 \right)$.") == r"( \frac{1}{2}, 3 )"
        assert tidy(r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}") == (
            r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"
        )

    @pytest.mark.parametrize("text", ["x", "1.2.3", "1/0", "--", "1,23", "", "2 3", "½x"])
    def test_what_is_no_plain_number(self, text: str) -> None:
        assert number(text) is None

    def test_brackets_are_matched(self) -> None:
        assert split_top(r"(1,2), \{3,4\}, 5", ",") == ["(1,2)", r"\{3,4\}", "5"]
        assert wrapped("(1)(2)", "(", ")") is None
        assert wrapped("((1),2)", "(", ")") == "(1),2"


class TestBoxedAnswers:
    def test_a_completion_against_a_solution(self) -> None:
        answers = BoxedAnswers()

        async def ask(completion: str, reference: str) -> bool | None:
            return await answers.correct(completion, reference)

        solution = r"It follows that $x = \boxed{\frac{1}{2}}$."
        assert asyncio.run(ask(r"so \boxed{0.5}", solution)) is True
        assert asyncio.run(ask(r"so \boxed{0.6}", solution)) is False
        assert asyncio.run(ask("so it is one half", solution)) is False
        assert asyncio.run(ask(r"\boxed{\frac12}", "0.5")) is True
        assert asyncio.run(ask(r"\boxed{1}", "A proof.\nIn two lines.")) is None
        assert asyncio.run(ask(r"\boxed{1}", "")) is None

    def test_what_takes_too_long_is_not_equal_and_the_next_one_is_compared(self) -> None:
        answers = BoxedAnswers(timeout_s=1.0)
        try:
            assert not answers.same("3x", r"9^{9^{9^{9}}}!x")
            assert answers.same("2x+1", "1+2x")
            # A copy for another rank has a process of its own, and none before it needs one.
            copy = pickle.loads(pickle.dumps(answers))
            assert copy.timeout_s == 1.0
            assert copy.same("1", "1.0")
        finally:
            answers.close()


def perturbed(answer: str, rng: random.Random) -> list[str]:
    """Wrong answers that look like it."""
    wrong = []
    digits = list(re.finditer(r"\d", answer))
    if digits:
        digit = rng.choice(digits)
        other = str((int(digit[0]) + rng.randint(1, 8)) % 10)
        wrong.append(answer[: digit.start()] + other + answer[digit.end() :])
    if re.fullmatch(r"[1-9]\d*", answer):
        wrong += [f"-{answer}", f"{answer}0"]
    return wrong


def test_on_maths_own_answers() -> None:
    """Each last boxed answer is itself, also in other dress, and not what looks like it."""
    path = shared_data("math") / "test-part.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        solutions = [json.loads(line)["solution"] for line in file]
    rng = random.Random(0)
    answers = [final_answer(solution) for solution in solutions]
    assert None not in answers
    for answer in rng.sample([a for a in answers if a], 120):
        dressed = "$" + answer.replace(r"\frac", r"\dfrac").replace(r"\left", "") + ".$"
        assert same_answer(answer, dressed.replace(r"\right", ""))
        for wrong in perturbed(answer, rng):
            assert not same_answer(answer, wrong), (answer, wrong)
    thousands = [answer for answer in answers if answer and r",\!" in answer]
    assert len(thousands) == 19
    for answer in thousands:
        assert same_answer(answer, re.sub(r",\\!\s*", "", answer))
