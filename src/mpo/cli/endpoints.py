"""The model that the options of a command name, and its price."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import typer

from ..chat import Chat
from ..config import load_chat_config, make_chat, reachable
from ..config.plugins import find_plugin
from ..errors import ConfigError

__all__ = ["CHAT_OPTION", "endpoint", "read_price"]

CHAT_OPTION: Any = typer.Option(
    [],
    "--chat-option",
    metavar="KEY=VALUE",
    help="Any other key of `chat` in a config: timeout_s=300, retries=2, "
    "'extra_body={top_k: 1}', ...; may be repeated.",
)
"""Option of every command that calls a model without a config."""


def endpoint(
    chat: str,
    model: str,
    api_key_env: str,
    concurrency: int = 64,
    seed: int = 0,
    options: Sequence[str] = (),
) -> Chat:
    """The client of a model over HTTP, which must be reachable; or the chat of a plugin.

    Args:
        chat: `http://host:port/v1`, or the name of a plugin such as `sandbox`.
        model: The model's name there; empty for a plugin.
        api_key_env: Environment variable with the API key.
        concurrency: Largest number of requests in flight.
        seed: Random seed for a plugin's chat.
        options: Other keys of `chat` in a config, as `KEY=VALUE`.

    Raises:
        ConfigError: The model's name is missing, or an option cannot be used.
        ChatTransportError: The endpoint cannot be reached.
    """
    if find_plugin(chat) is not None:
        return make_chat(load_chat_config({"plugin": chat}, options), seed)
    if not model:
        raise ConfigError(f"--model is missing: name the model to call at {chat}")
    settings = {
        "base_url": chat,
        "model": model,
        "api_key_env": api_key_env,
        "concurrency": concurrency,
    }
    client = make_chat(load_chat_config(settings, options), 0)
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
