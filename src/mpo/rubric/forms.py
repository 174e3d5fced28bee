"""Telling the forms of a rubric's text apart, and reading each."""

from __future__ import annotations

from typing import Literal

from .criterion import Rubric
from .markdown import ReadRubric, read_heading, read_markdown
from .published import GUIDELINES_START, read_guidelines, read_items

__all__ = ["RubricForm", "parse_rubric", "read_rubric", "rubric_form"]

RubricForm = Literal["markdown", "items", "guidelines"]
"""Our Markdown, or one of the published code's forms."""

_TAGS = ("<item>", "</item>")


def rubric_form(text: str) -> RubricForm:
    """The form that a rubric's text has.

    A mark of the published forms counts only before the first heading that names a weight, which
    ours alone have and which `Rubric.to_markdown` always writes; behind it, the mark is part of a
    criterion. Behind a heading by hand, without a weight, it counts at the start of a line.
    """
    titled = headed = False
    for line in text.removeprefix("\ufeff").replace("\r", "\n").split("\n"):
        line = line.rstrip()
        heading = read_heading(line)
        if heading is not None:
            if heading.weight is not None:
                return "markdown"
            headed = True
        elif line.startswith("# ") and not (titled or headed):
            titled = True
            continue
        start = line.lstrip().removeprefix("<rubric>").lstrip()
        if any(start.startswith(tag) if headed else tag in line for tag in _TAGS):
            return "items"
        if start.startswith(GUIDELINES_START) or (not headed and GUIDELINES_START in line):
            return "guidelines"
    return "markdown"


def parse_rubric(text: str) -> Rubric:
    """`read_rubric` without the notes.

    Raises:
        RubricError: See `read_rubric`.
    """
    return read_rubric(text).rubric


def read_rubric(text: str) -> ReadRubric:
    """Read a rubric in any known form: Markdown, `<item>` text, bracketed guidelines.

    Raises:
        RubricError: No criterion in it, or a criterion that breaks a bound of `Criterion` or
            `Rubric`; the message names the line or the criterion.
    """
    form = rubric_form(text)
    if form == "items":
        return read_items(text)
    return read_guidelines(text) if form == "guidelines" else read_markdown(text)
