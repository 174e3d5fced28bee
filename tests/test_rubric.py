from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo.errors import RubricError
from mpo.rubric import Criterion, Level, Rubric, diff_rubrics, parse_rubric, read_rubric
from shared_data import shared_data

EXAMPLE = """\
# Essay: discourse
## Logical flow  (weight 1)
How ideas follow from each other.
- 0: no order can be seen
- 3: ordered, with jumps
- 5: each paragraph prepares the next
"""


def test_the_documented_form_round_trips_to_the_letter() -> None:
    rubric = parse_rubric(EXAMPLE)
    assert rubric.to_markdown() == EXAMPLE
    assert rubric.title == "Essay: discourse"
    (criterion,) = rubric.criteria
    assert criterion.scores == (0, 3, 5)
    assert criterion.levels[1] == Level(score=3, text="ordered, with jumps")


def test_a_hand_edited_file_may_have_blank_lines_and_loose_spacing() -> None:
    loose = EXAMPLE.replace("\n## ", "\n\n\n## ").replace("  (weight 1)", " (weight 1)  ")
    assert parse_rubric(loose.replace("\n", "\r\n")) == parse_rubric(EXAMPLE)


@pytest.mark.parametrize(
    ("heading", "scores"),
    [
        ("## A  (weight 2, scores 0..5)", (0, 1, 2, 3, 4, 5)),
        ("## A  (weight 2, scores -3, 0, 2)", (-3, 0, 2)),
        ("## A", (0, 1, 2, 3, 4, 5)),
    ],
)
def test_the_heading_may_name_the_scores(heading: str, scores: tuple[int, ...]) -> None:
    rubric = parse_rubric(f"# T\n{heading}\ntext\n")
    assert rubric.criteria[0].scores == scores
    assert parse_rubric(rubric.to_markdown()) == rubric


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no criterion"),
        ("# Title only\nprose\n", "no criterion"),
        ("<rubric>nothing</rubric><item></rubric>", "no complete <item>"),
        ("# T\n## A  (weight 0)\n", "'A'.*positive"),
        ("# T\n## A\n- 3: x\n", "two or more"),
        ("# T\n## A\n- 3: x\n- 1: y\n", "ascend"),
        ("# T\n## A  (weight 1, scores 0..2)\n- 0: x\n- 7: y\n", "7"),
        ("# T\n## A  (weight 1, scores 5..0)\n", "scores"),
        ("[Start of Meta-Level Guidelines]\n\n[End of Meta-Level Guidelines]", "empty"),
    ],
)
def test_a_rubric_that_cannot_be_read_says_why(text: str, complaint: str) -> None:
    with pytest.raises(RubricError, match=complaint):
        parse_rubric(text)


def test_text_outside_criteria_is_reported() -> None:
    read = read_rubric("# T\nstray words\n" + EXAMPLE.partition("\n")[2] + "\nmore stray\n")
    assert [note.split(":")[0] for note in read.notes] == ["line 2", "line 9"]


LINES_OF_TRAPS = r"""
- 3: level|## heading|# title|\## x|\\- 1: y|  indented||- x|#|<item>|</item>|<rubric>|```|~~~|---
<rubric><item>x: 0 to 5</item></rubric>|[Start of Meta-Level Guidelines] x|- 123456: x|- +1:|- -0: x
[End of Meta-Level Guidelines]|## A  (weight 2, scores 0..9)|(weight 2)|(weight 1, scores 0..5)
\|\\|\# |#  x|### x|> x|===|**3**: x|  - 0: x|{{rubric}}|[x](y)|<ITEM>|< item>|<!-- x -->|-1: x
&lt;item&gt;|Key: a. Allowed scores: 0, 1.|weight 1|(weight nan)|(weight )
"""
ODD_CHARACTERS = (
    "- \uff13: full width|\ufeff# T|\ufeff|a\rb|a\r\nb|a\u2028b|a\u2029## b|a\x85- 0: b|\x1c## a|"
    "a\x0b## b|\u00a0x\u00a0|a\x00b|\ud800|\udfff|\udc00\ud800|## \ud800|\t- 0: x|\t## x|##\u00a0x"
)
TRICKY = st.sampled_from(
    [*LINES_OF_TRAPS.strip().replace("\n", "|").split("|"), *ODD_CHARACTERS.split("|")]
)
LINE = st.one_of(st.text(max_size=30), TRICKY, st.lists(TRICKY, max_size=3).map(" ".join))
PROSE = st.lists(LINE, max_size=4).map("\n".join)
WEIGHTS = st.one_of(
    st.sampled_from([1, 1 / 3, 0.1 + 0.2, 2 / 7, 1e-6, 1e6, 123456.789, 999999.9999999999]),
    st.floats(1e-6, 1e6),
)


@st.composite
def criteria(draw: st.DrawFn) -> Criterion:
    values = draw(st.sampled_from([st.integers(-9, 20), st.integers(-100_000, 100_000)]))
    scores = tuple(sorted(draw(st.sets(values, min_size=2, max_size=6))))
    described = sorted(draw(st.sets(st.sampled_from(scores), max_size=4)))
    return Criterion(
        name=draw(LINE.filter(lambda s: bool(s.split()) and len(s) <= 300)),
        text=draw(PROSE),
        levels=tuple(Level(score=s, text=draw(PROSE)) for s in described),
        scores=scores,
        weight=draw(WEIGHTS),
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(criteria(), min_size=1, max_size=3), LINE)
def test_any_rubric_round_trips(parts: list[Criterion], title: str) -> None:
    rubric = Rubric(title=title, criteria=tuple(parts))
    assert Rubric.model_validate_json(rubric.model_dump_json()) == rubric
    again = read_rubric(rubric.to_markdown().encode().decode())
    assert again.rubric == rubric
    assert again.notes == ()
    assert again.rubric.to_markdown() == rubric.to_markdown()
    assert again.rubric.id == rubric.id


def test_the_id_is_the_content_and_the_same_in_every_process() -> None:
    rubric = parse_rubric(EXAMPLE)
    code = f"from mpo.rubric import parse_rubric; print(parse_rubric({EXAMPLE!r}).id)"
    ids = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": str(seed), "PYTHONPATH": "src"},
            cwd=Path(__file__).parents[1],
        ).stdout.strip()
        for seed in (1, 2)
    ]
    assert ids == [rubric.id, rubric.id]
    assert parse_rubric(EXAMPLE.replace("jumps", "gaps")).id != rubric.id


def test_criterion_ids_are_unique_keys() -> None:
    names = ["Logical flow", "logical  flow!", "論理", "Logical_flow"]
    rubric = Rubric(criteria=tuple(Criterion(name=name) for name in names))
    assert rubric.criterion_ids == (
        "logical_flow",
        "logical_flow_2",
        "criterion_3",
        "logical_flow_3",
    )


def test_a_diff_names_what_changed() -> None:
    old = parse_rubric(EXAMPLE)
    new = parse_rubric(EXAMPLE.replace("jumps", "gaps") + "## Length  (weight 1)\nEnough words.\n")
    text = diff_rubrics(old, new)
    assert "+ criterion added: Length" in text
    assert "~ criterion changed: Logical flow" in text
    assert "-- 3: ordered, with jumps" in text
    assert "+- 3: ordered, with gaps" in text
    assert diff_rubrics(old, old) == ""


@pytest.mark.parametrize("mark", ["<item>", "</item>", "[Start of Meta-Level Guidelines]"])
def test_a_mark_of_the_published_forms_in_a_file_by_hand_is_text(mark: str) -> None:
    rubric = parse_rubric(f"# T\n## Form\nIt uses {mark} tags as asked.\n## Length\nEnough.\n")
    assert [c.name for c in rubric.criteria] == ["Form", "Length"]
    assert mark in rubric.criteria[0].text


def test_headings_before_the_items_of_the_published_form_are_outside() -> None:
    read = read_rubric("## New rubric\n<rubric>\n<item>\n# Flow: from 0 to 5\n</item>\n</rubric>")
    assert [c.name for c in read.rubric.criteria] == ["Flow"]
    assert any("New rubric" in note for note in read.notes)


TWO = (Criterion(name="A", text="a " * 24_000), Criterion(name="B"))
BROKEN: dict[str, Callable[[], object]] = {
    "weight": lambda: Criterion(name="A", weight=1e308),
    "weight of": lambda: Criterion(name="A", weight=10**400),
    "not nan": lambda: Criterion(name="A", weight=math.nan),
    "must be a number": lambda: Criterion(name="A", weight=True),
    "not an integer of": lambda: Criterion(name="A", weight=10**5000),
    "from -100,000 to 100,000": lambda: Criterion(name="A", scores=(0, 10**18)),
    "integer of 1329 bits": lambda: Criterion(name="A", scores=(-(10**400), 0)),
    "valid integer": lambda: Criterion(name="A", scores=(False, True)),
    "1,000 scores": lambda: Criterion(name="A", scores=tuple(range(1000))),
    "10,000 characters": lambda: Criterion(name="n" * 10_000),
    "60,000 characters": lambda: Criterion(name="A", text="n" * 60_000),
    "70,000 characters": lambda: Level(score=1, text="n" * 70_000),
    "the title has": lambda: Rubric(title="t" * 301, criteria=TWO),
    "3,000": lambda: Rubric(criteria=TWO[1:] * 3000),
    "shorten it to 200,000": lambda: Rubric(criteria=TWO * 5),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_the_bounds_hold_wherever_a_rubric_is_made(fault: str) -> None:
    with pytest.raises(ValueError, match=fault.removesuffix(" of")):
        BROKEN[fault]()


@pytest.mark.parametrize(
    "text",
    [
        "# T\n## A  (weight 1e308)\n",
        "# T\n## A  (weight 1e999)\n",
        "# T\n## A  (weight 1.2.3)\n",
        "# T\n## A  (weight 0)\n",
        f"# T\n## A  (weight 1, scores 0..1{'0' * 5000})\n",
        f"# T\n## A  (weight 1, scores 0, 1{'0' * 5000})\n",
        "# T\n## A  (weight 1, scores -999999..-999998)\n",
        "# T\n## A  (weight 1, scores ..)\n",
        "# T\n" + "## A\n" * 3000,
        f"# T\n## {'a' * 5000}\n",
        f"# T\n## A\n{'a' * 60_000}\n",
        f"<item>\n# {'a' * 5000}\n</item>",
        f"<item>\nA\n{'a' * 60_000}\n</item>",
        "<item>a: 0 to 5</item>" * 3000,
        f"[Start of Meta-Level Guidelines]{'a' * 60_000}",
    ],
    ids=lambda text: text[:40],
)
def test_the_bounds_hold_for_files_in_one_line(text: str) -> None:
    with pytest.raises(RubricError) as caught:
        read_rubric(text)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


class TestPublishedForm:
    def test_every_real_rubric_is_read_and_round_trips(self) -> None:
        files = sorted(shared_data("rubrics").glob("*.txt"))
        files += sorted(shared_data("mpo-run/rubrics").glob("*.txt"))
        assert len(files) == 24
        for path in files:
            rubric = read_rubric(path.read_text()).rubric
            assert parse_rubric(rubric.to_markdown()) == rubric, path.name

    def test_what_is_known_of_the_real_run_is_seen(self) -> None:
        folder = shared_data("mpo-run/rubrics")
        read = {
            n: read_rubric((folder / f"evaluation_rubric_iter_{n}.txt").read_text())
            for n in range(14)
        }
        assert [len(read[n].rubric.criteria) for n in (0, 1, 4)] == [1, 11, 6]
        # The maximum that the run's scores were out of: 5, then 52 (data/README.md).
        assert read[0].rubric.score_range == (0, 5)
        assert read[1].rubric.score_range == (0, 52)
        assert any("text outside items" in note for note in read[4].notes)
        assert read[12].rubric.criteria[0].text == "` and `"
        assert any("unclosed item" in note for note in read[12].notes)

    def test_the_experts_closing_note_is_reported_not_dropped(self) -> None:
        read = read_rubric((shared_data("rubrics") / "essay_writing-expert.txt").read_text())
        assert any("NOTE" in note for note in read.notes)
        assert [c.scores[-1] for c in read.rubric.criteria] == [6, 6, 6, 6, 4]
