"""Rubric: an ordered list of criteria. Content only; its id is the hash of its content.

The file form is Markdown, made to be edited by a person, and round-trips exactly:

    # Essay: discourse
    ## Logical flow  (weight 1)
    How ideas follow from each other.
    - 0: no order can be seen
    - 3: ordered, with jumps
    - 5: each paragraph prepares the next

A criterion's score comes from a closed set of integers: the listed levels, or, where not every
score has a level, the set named in the heading: `(weight 1, scores 0..5)`. Without either, 0..5.

`read_rubric` also reads the `<rubric><item>…` text of the published MPO code and its bracketed
math guidelines, and reports in `ReadRubric.notes` what it could not place.

>>> rubric = parse_rubric("# Essay\\n## Flow  (weight 1)\\nIdeas follow.\\n- 0: no\\n- 1: yes\\n")
>>> rubric.criteria[0].scores
(0, 1)
>>> parse_rubric(rubric.to_markdown()) == rubric
True

    criterion.py   `Rubric`, its bounds, and its Markdown
    markdown.py    reading that Markdown
    published.py   reading the published code's forms
    forms.py       telling the forms apart
"""

from .criterion import MAX_CRITERIA, Criterion, Level, Rubric, diff_rubrics, spanned
from .forms import parse_rubric, read_rubric, rubric_form
from .markdown import ReadRubric, first_fault

__all__ = [
    "MAX_CRITERIA",
    "Criterion",
    "Level",
    "ReadRubric",
    "Rubric",
    "diff_rubrics",
    "first_fault",
    "parse_rubric",
    "read_rubric",
    "rubric_form",
    "spanned",
]
