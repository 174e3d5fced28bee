"""Secrets: finding them before anything is written, and keeping them out of every text.

    redact("proxy http://al:s3cret@h refused")    # 'proxy http://[secret]@h refused'
    find_secret({"base_url": "http://h/v1?api_key=abc"})     # where it stands, and why it is one
    read_secret("OPENAI_API_KEY")                 # the only way in: from the environment

Every `MPOError` redacts its message, so that error messages, reasons of unscored judgements and
answers of the service hold no secret. `LogRedaction` does the same to the package's log, with the
tracebacks of other packages' exceptions in it.

A secret is the value of an environment variable that is named like one or was read as one, the
credentials in a proxy variable, or a text with the shape of a key. It is removed as it stands, in
percent-encoding, as JSON, and in base64 at any offset (`Authorization: Basic`).
"""

from __future__ import annotations

import base64
import itertools
import json
import logging
import os
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

__all__ = [
    "LEAST",
    "SECRET",
    "LogRedaction",
    "find_secret",
    "is_variable_name",
    "looks_like_key",
    "read_secret",
    "redact",
    "redact_record",
    "traceback_text",
]

SECRET = "[secret]"
"""Stands in a text where a secret stood."""

LEAST = 8
"""Characters below which a value is not redacted: `EMPTY` and `none` are usual keys for servers
that need none, and usual words too."""

_read: dict[str, None] = {}
"""Names of the variables that were read as secrets. Never their values."""

# ---------------------------------------------------------------------- what is a secret

_SECRET_VARIABLE = re.compile(r"(?:.*_)?(?:API)?(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)")
_PROXY_VARIABLE = re.compile(r"(?:\w+_)?proxy", re.IGNORECASE)

_SECRET_NAME = re.compile(
    r".*(?:token|secret|password|passwd|pwd|credentials?|authorization|signature)"
    r"|(?:x|api|access|auth|client|function|functions|openai|private|service|subscription|ocpapim)*"
    r"(?:key|pass|auth|sig|code|jwt)"
)
"""Names of query parameters that hold a secret, as `_plain` writes them."""

_SECRET_SETTING = re.compile(
    r".*(?:(?:api|access|master|private|secret|subscription)key|(?:access|api|auth|bearer|hf|hub)token"
    r"|clientsecret|password|passwd|authorization|credentials?)|token|secret"
)
"""Names of settings that do. Fewer: a column of a data set may be called `key` or `code`."""

_SHAPE = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"sk[-_][A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|github_pat_\w{20,}|glpat-[\w-]{16,}|AIza[\w-]{30,}|A[KS]IA[A-Z0-9]{16}|xox[abprs]-[\w-]{10,}"
    r"|(?:gsk|r8|tgp|fw|xai|pplx|nvapi)[-_][A-Za-z0-9_-]{20,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"
    r")"
)
"""Keys that their makers gave a shape of its own."""

_USERINFO = re.compile(
    r"(\b[a-z][a-z0-9+.-]*://)[^\s/?#'\"<>@]*(?:@[^\s/?#'\"<>@]*)*@", re.IGNORECASE
)
_PARAMETER = re.compile(r"([?&;])([\w.%-]{1,60})=([^\s&;#'\"<>)]+)")
_HEADER = re.compile(
    r"(?i)((?:proxy-)?authorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic|digest|token)\s+)?"
    r"|\bbearer\s+(?=\S*\d)|(?:x-)?api-key['\"]?\s*[:=]\s*['\"]?)[\w.~+/=:-]{8,}"
)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def looks_like_key(text: str) -> bool:
    """True for a text that is a key rather than a name: a known shape, or a long stretch of letters
    and digits without a word in it."""
    if _SHAPE.search(text):
        return True
    for part in re.split(r"[^A-Za-z0-9]", text):
        changes = sum(a.isupper() != b.isupper() for a, b in itertools.pairwise(part))
        digits = sum(map(str.isdigit, part))
        if len(part) >= 16 and (digits >= 3 or changes > 0.4 * len(part)):
            return True
    return False


def is_variable_name(text: str) -> bool:
    """True for a name that an environment variable has: letters and underscores, with digits only
    among capitals. Pasted keys have another look."""
    named = re.fullmatch(r"[A-Z_][A-Z0-9_]*|[A-Za-z_]+", text) is not None
    return named and not looks_like_key(text)


def read_secret(variable: str) -> str:
    """The value of an environment variable, without blanks around it; empty where it is not set.

    From now on `redact` knows the variable, whatever its name.
    """
    _read[variable] = None
    return os.environ.get(variable, "").strip()


def find_secret(value: object, where: str = "") -> tuple[str, str] | None:
    """The first place in a setting, or in a mapping or list of settings, that holds a secret.

    Args:
        value: JSON values.
        where: Dotted name of the value, for the result.

    Returns:
        Dotted name and what is there, in words that do not repeat it; None where nothing is.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            name = f"{where}.{key}" if where else str(key)
            if isinstance(inner, str) and inner and _SECRET_SETTING.fullmatch(_plain(str(key))):
                return name, "a key"
            found = find_secret(inner, name)
            if found is not None:
                return found
        return None
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        places = (find_secret(inner, f"{where}.{n}") for n, inner in enumerate(value))
        return next(filter(None, places), None)
    what = _secret_in(value) if isinstance(value, str) else None
    return None if what is None else (where, what)


def _secret_in(text: str) -> str | None:
    for match in _USERINFO.finditer(text):
        # `ssh://git@host` names no secret; the user name in `http://x@host` is a token.
        if ":" in match[0].removeprefix(match[1]) or match[1].lower().startswith("http"):
            return "a user name or password in its URL"
    for match in _PARAMETER.finditer(text):
        if _SECRET_NAME.fullmatch(_plain(unquote(match[2]))):
            return "a key in its URL"
    if _SHAPE.search(text):
        return "a key"
    for variable, secret in _environment():
        # `not-needed` may be a key, and a part of a path too.
        if secret in text and any(map(str.isdigit, secret)):
            return f"the value of the environment variable {variable}"
    return None


# ---------------------------------------------------------------------- keeping it out


def redact(text: str) -> str:
    """The text with `[secret]` in place of every secret."""
    for _, secret in _environment():
        for form in _forms(secret):
            if form in text:
                text = text.replace(form, SECRET)
    if "://" in text:
        text = _USERINFO.sub(rf"\1{SECRET}@", text)
    if "=" in text:
        text = _PARAMETER.sub(_hide_value, text)
    return _SHAPE.sub(SECRET, _HEADER.sub(rf"\1{SECRET}", text))


def traceback_text(error: BaseException) -> str:
    """The error's traceback, redacted: exceptions of other packages may carry headers and URLs."""
    return redact("".join(traceback.format_exception(error)))


def redact_record(record: logging.LogRecord) -> bool:
    """Redact a log record, its traceback included. A filter for handlers: lets everything pass."""
    record.msg, record.args = redact(record.getMessage()), ()
    if record.exc_info and record.exc_info[1] is not None:
        # Formatters use this text where it is there.
        record.exc_text = traceback_text(record.exc_info[1]).rstrip()
    return True


class LogRedaction(logging.Handler):
    """Redacts each record of a logger before the handlers above see it.

    It writes nothing, unless it is the only handler: Python's last resort would then write, and
    does not where there is any.
    """

    def emit(self, record: logging.LogRecord) -> None:
        redact_record(record)
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return
            logger = logger.parent if logger.propagate else None
        if logging.lastResort is not None and record.levelno >= logging.lastResort.level:
            logging.lastResort.handle(record)


def _hide_value(match: re.Match[str]) -> str:
    if not _SECRET_NAME.fullmatch(_plain(unquote(match[2]))):
        return match[0]
    return f"{match[1]}{match[2]}={SECRET}"


def _environment() -> Iterator[tuple[str, str]]:
    """Variable and value of every secret in the environment, long values first."""
    secrets: dict[str, str] = {}
    for variable, value in os.environ.items():
        value = value.strip()
        if _PROXY_VARIABLE.fullmatch(variable):
            for secret in _credentials(value):
                secrets.setdefault(secret, variable)
        elif not value.startswith(("/", "~/", "./")) and (  # the path of a file of keys
            variable in _read or _SECRET_VARIABLE.fullmatch(variable.upper())
        ):
            secrets.setdefault(value, variable)
    longest = sorted(secrets, key=len, reverse=True)
    return iter([(secrets[secret], secret) for secret in longest if len(secret) >= LEAST])


def _credentials(url: str) -> Iterator[str]:
    """Credentials in a URL: `user:password` and the password, as written and decoded."""
    try:
        userinfo, at, _ = urlsplit(url if "://" in url else f"//{url}").netloc.rpartition("@")
        query = parse_qsl(urlsplit(url).query)
    except ValueError:
        return
    if at:
        for text in (userinfo, unquote(userinfo)):
            yield text
            yield text.partition(":")[2]
    for name, value in query:
        if _SECRET_NAME.fullmatch(_plain(name)):
            yield value


def _forms(secret: str) -> list[str]:
    """The ways in which a secret may stand in a text."""
    forms = [secret, quote(secret, safe=""), quote(secret), quote_plus(secret)]
    forms += [re.sub("%..", lambda match: match[0].lower(), form) for form in forms[1:]]
    forms += [json.dumps(secret)[1:-1], repr(secret)[1:-1]]
    raw = secret.encode("utf-8", "surrogateescape")
    for offset, cut in ((0, 0), (1, 2), (2, 3)):  # characters that the bytes in front change
        padded = b"\0" * offset + raw
        whole = len(padded) * 8 // 6  # the last character may depend on the bytes behind
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            forms.append(encode(padded).decode()[cut:whole])
    return list(dict.fromkeys(forms))
