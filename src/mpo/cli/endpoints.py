"""The model that the options of a command name, and its price."""

from __future__ import annotations

import math

from ..chat import Chat
from ..config import make_chat, reachable
from ..config.plugins import find_plugin
from ..config.schema import ChatConfig
from ..errors import ConfigError

__all__ = ["endpoint", "read_price"]


def endpoint(chat: str, model: str, api_key_env: str, concurrency: int = 64, seed: int = 0) -> Chat:
    """The client of a model over HTTP, which must be reachable; or the chat of a plugin.

    Args:
        chat: `http://host:port/v1`, or the name of a plugin such as `sandbox`.
        model: The model's name there; empty for a plugin.
        api_key_env: Environment variable with the API key.
        concurrency: Largest number of requests in flight.
        seed: Random seed for a plugin's chat.

    Raises:
        ConfigError: The model's name is missing.
        ChatTransportError: The endpoint cannot be reached.
    """
    if find_plugin(chat) is not None:
        return make_chat(ChatConfig(plugin=chat), seed)
    if not model:
        raise ConfigError(f"--model is missing: name the model to call at {chat}")
    config = ChatConfig(
        base_url=chat, model=model, api_key_env=api_key_env, concurrency=concurrency
    )
    client = make_chat(config, 0)
    reachable(client)
    return client


def read_price(option: str, text: str) -> list[float] | None:
    """Read a price: US dollars per million prompt, completion and cached prompt tokens.

    Args:
        option: Name of the option, for the message.
        text: `2.5,10` or `2.5,10,0.25`, or a single number for all.

    Returns:
        Two or three numbers; None for an empty text.

    Raises:
        ConfigError: The text is no price.
    """
    if not text.strip():
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2, 3) or not all(0 <= n < math.inf for n in numbers):
        raise ConfigError(
            f"{option} {text!r}: write PROMPT,COMPLETION or PROMPT,COMPLETION,CACHED, in US "
            "dollars per million tokens; e.g. 0.15,0.6"
        )
    return numbers * 2 if len(numbers) == 1 else numbers
