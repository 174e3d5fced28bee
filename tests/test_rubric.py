from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
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


LINE = st.text(st.characters(blacklist_categories=("Cs",)), max_size=30)
TRICKY = st.sampled_from(
    ["- 3: level", "## heading", "# title", "\\## x", "\\\\- 1: y", "  indented", "", "- x", "#"]
)
PROSE = st.lists(st.one_of(LINE, TRICKY), max_size=4).map("\n".join)


@st.composite
def criteria(draw: st.DrawFn) -> Criterion:
    scores = tuple(sorted(draw(st.sets(st.integers(-9, 20), min_size=2, max_size=6))))
    described = sorted(draw(st.sets(st.sampled_from(scores), max_size=4)))
    return Criterion(
        name=draw(LINE.filter(lambda s: bool(s.split()))),
        text=draw(PROSE),
        levels=tuple(Level(score=s, text=draw(PROSE)) for s in described),
        scores=scores,
        weight=draw(st.sampled_from([1.0, 0.5, 3.0, 1e-3])),
    )


@given(st.lists(criteria(), min_size=1, max_size=3), LINE)
def test_any_rubric_round_trips(parts: list[Criterion], title: str) -> None:
    rubric = Rubric(title=title, criteria=tuple(parts))
    again = read_rubric(rubric.to_markdown())
    assert again.rubric == rubric
    assert again.notes == ()
    assert again.rubric.to_markdown() == rubric.to_markdown()


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
