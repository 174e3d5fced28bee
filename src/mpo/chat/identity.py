"""Identity of a model: who answered.

    endpoint_identity("http://h:80/v1/", "qwen")                                # 'http://h/v1 qwen'
    endpoint_identity("http://h/v1", "qwen", {"extra_body": {"top_k": 1}})
    # 'http://h/v1 qwen 5b2c5a9d'

URL without query and credentials, model name, and a hash of the settings that change an answer. It
is part of every key under which an answer or a judgement is used again; the name alone is for
people. The API key, timeouts, retries, concurrency and the name of the max-tokens field are no part
of it: they decide whether an answer comes, not which.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ..records import content_hash

__all__ = ["endpoint_identity"]

_PORTS = {"http": 80, "https": 443}


def endpoint_identity(url: str, model: str, settings: Mapping[str, Any] | None = None) -> str:
    """Identity of a model behind an endpoint.

    Args:
        url: URL of the endpoint; the spellings of one address have one identity.
        model: The endpoint's name for the model.
        settings: Settings that change an answer, as JSON values. Empty ones do not count, and
            without any the identity has no hash.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port in (None, _PORTS.get(parts.scheme)) else f":{parts.port}"
    path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    counted = {name: value for name, value in (settings or {}).items() if value}
    identity = f"{parts.scheme}://{host}{port}{path} {model}"
    if not counted:
        return identity
    return f"{identity} {content_hash(json.dumps(counted, sort_keys=True, default=dict), 8)}"
