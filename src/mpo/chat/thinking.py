"""The thinking that some models write in front of their answer, in the same text.

A server with a parser for it returns the two apart. One without leaves a block in front:
`<think>…</think>`, or another name; often without the opening tag, which the chat template has
written into the prompt; and empty where thinking is switched off. An answer is never read from
inside the block: a draft is no answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["split_thinking"]


class _Marks(NamedTuple):
    opening: re.Pattern[str]
    closing: re.Pattern[str]


_WORD = (
    r"(?:[a-z]{1,12}[:_])?"  # <seed:think>
    r"(?:think|thinking|thoughts?|reason|reasoning|reflection|analysis|scratchpad)"
)
_HEADER = r"<\|channel\|>\s*{}\b.{{0,40}}?<\|message\|>"
_MARKS = [
    _Marks(re.compile(opening, re.IGNORECASE), re.compile(closing, re.IGNORECASE))
    for opening, closing in (
        (rf"<({_WORD})(?:\s[^<>]*)?>", rf"</({_WORD})\s*>"),
        (r"\[(THINK)\]", r"\[/(THINK)\]"),  # Magistral
        (r"◁(think)▷", r"◁/(think)▷"),  # Kimi
        (r"<\|begin_of_(thought)\|>", r"<\|end_of_(thought)\|>"),
        (r"<\|START_(THINKING)\|>", r"<\|END_(THINKING)\|>"),  # Command
        (r"<\|channel>\s*thought()", r"<channel\|>()"),  # Gemma
        # gpt-oss, with its control strings and as servers write it that leave them out
        (_HEADER.format("(?:analysis|commentary)()"), _HEADER.format("final()")),
        (r"(?-i:analysis(?=[A-Z]))()", r"(?-i:assistantfinal)()"),
        (r"here(?:'s| is) my thought process:()", r"here(?:'s| is) my response:()"),  # Granite
    )
]
_BLANK = re.compile(r"[\s\ufeff]*")
_END_OF_TURN = ("<|return|>", "<|end|>", "<|im_end|>")


def split_thinking(text: str, usable: Callable[[str], bool]) -> tuple[str, str]:
    """The thinking in front of an answer, and the answer.

    The block ends at its last closing tag, since the thinking may quote one. Without an opening tag
    at the start, a closing tag counts if the answer behind it can be read, or if no opening tag
    comes before it; else the answer itself quotes the two.

    Args:
        text: A model's whole reply.
        usable: True for an answer that can be read. One that can be read as it stands is left
            alone, whatever it quotes.

    Returns:
        Thinking and answer. The thinking is empty if there is none; the answer is empty if the
        block has no end.
    """
    start = _BLANK.match(text).end()  # type: ignore[union-attr]  # it matches any text
    for marks in _MARKS:
        opened = marks.opening.match(text, start)
        ends = list(marks.closing.finditer(text))
        if not (opened or ends) or usable(text):
            continue
        if opened:
            start = opened.end()
            ends = [end for end in ends if _tag(end) == _tag(opened)]
            if not ends:
                return text[start:].strip(), ""
        for end in dict.fromkeys([ends[-1], ends[0]]):
            answer = _answer(text, end)
            if usable(answer):
                return text[start : end.start()].strip(), answer
        if not opened:
            openings = reversed(list(marks.opening.finditer(text)))
            first = {_tag(opening): opening.start() for opening in openings}
            ends = [end for end in ends if end.start() < first.get(_tag(end), len(text))]
            if not ends:
                continue
        return text[start : ends[-1].start()].strip(), _answer(text, ends[-1])
    return "", text


def _answer(text: str, end: re.Match[str]) -> str:
    answer = text[end.end() :].strip()
    # A server that leaves the control strings around the thinking leaves the last one, too.
    for control in _END_OF_TURN:
        answer = answer.removesuffix(control).rstrip()
    return answer


def _tag(mark: re.Match[str]) -> str:
    return mark[1].lower()
