"""A model's context window: what does not fit is refused or clipped before it is paid for."""

from __future__ import annotations

from dataclasses import replace

from ..errors import ChatReplyError
from ..sanitize import FENCE
from .base import Chat, ChatRequest, ChatWrapper, Completion, Message

__all__ = ["WindowedChat", "estimate_tokens"]

SHORTEST = 400
"""Characters that stay of a clipped text, at least."""


def estimate_tokens(text: str) -> int:
    """Tokens of a text, roughly: four bytes each, as in English prose, code and Chinese."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return size // 4 + 1


class WindowedChat(ChatWrapper):
    """A chat whose model reads so many tokens and no more.

    Many servers cut a long prompt in silence, and then the end of a rubric or of a text is missing
    where nobody looks for it.

    Args:
        inner: The chat that answers.
        tokens: Tokens that the model takes, prompt and answer together.
        clips: Clip the longest fenced texts of a request, with a mark in the middle, instead of
            refusing it. For a model that grades it would be wrong: the score of a part is none.
    """

    def __init__(self, inner: Chat, tokens: int, *, clips: bool = False) -> None:
        super().__init__(inner)
        self.tokens = tokens
        self.clips = clips

    def check_reachable(self, timeout_s: float = 5.0) -> None:
        """Check the endpoint; see `OpenAIChat.check_reachable`."""
        check = getattr(self.inner, "check_reachable", None)
        if check is not None:
            check(timeout_s)

    async def complete(self, request: ChatRequest) -> Completion:
        excess = _needed(request) - self.tokens
        if excess > 0 and self.clips:
            request = _clipped(request, excess)
            excess = _needed(request) - self.tokens
        if excess > 0:
            raise ChatReplyError(
                f"too_long: the request needs about {_needed(request)} tokens, answer included, "
                f"and window_tokens is {self.tokens}"
            )
        return await self.inner.complete(request)


def _needed(request: ChatRequest) -> int:
    return request.max_tokens + sum(estimate_tokens(m["content"]) for m in request.messages)


def _clipped(request: ChatRequest, excess: int) -> ChatRequest:
    """The request with its longest fenced texts cut to one length, so that it fits if that can be.

    The fences stay as they are: their ids need not be those of what is left.
    """
    bodies = sorted(
        (len(m[3]) for message in request.messages for m in FENCE.finditer(message["content"])),
        reverse=True,
    )
    to_cut, longest = 4 * excess + 200 * len(bodies), 0
    for count in range(1, len(bodies) + 1):
        # Cut the first `count` bodies down to what the next one has, or to what is needed.
        longest = (sum(bodies[:count]) - to_cut) // count
        if longest >= (bodies[count] if count < len(bodies) else 0):
            break
    longest = max(longest, SHORTEST)
    return replace(
        request,
        messages=tuple(
            Message(
                role=message["role"],
                content=FENCE.sub(
                    lambda m: m[0].replace(m[3], _cut(m[3], longest)), message["content"]
                ),
            )
            for message in request.messages
        ),
    )


def _cut(text: str, longest: int) -> str:
    """The text's beginning and end, with a mark that says how much is missing between them."""
    if len(text) <= longest:
        return text
    head, tail = text[: longest * 2 // 3], text[len(text) - longest // 3 :]
    missing = len(text) - len(head) - len(tail)
    return f"{head}\n[… {missing:,} characters left out: too long for this model …]\n{tail}"
