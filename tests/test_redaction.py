"""No secret reaches a message, a log, a config or a store, wherever a person has put it."""

from __future__ import annotations

import base64
import io
import logging
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

import mpo
from mpo.config.load import load_config
from mpo.config.schema import ChatConfig
from mpo.errors import ChatTransportError, ConfigError
from mpo.redaction import SECRET, find_secret, is_variable_name, read_secret, redact

CANARY = "c4nary/s3cr3t+pass=word"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OPENAI_API_KEY", CANARY),
        ("MPO_TOKEN", CANARY),
        ("HF_TOKEN", CANARY),
        ("HTTPS_PROXY", f"http://alice:{quote(CANARY, safe='')}@proxy:3128"),
        ("all_proxy", f"socks5://alice:{quote(CANARY, safe='')}@proxy:3128"),
    ],
)
@pytest.mark.parametrize(
    "form",
    [
        CANARY,
        quote(CANARY, safe=""),
        quote(CANARY, safe="").lower(),
        base64.b64encode(f"alice:{CANARY}".encode()).decode(),
        base64.b64encode(f"bob:{CANARY}".encode()).decode(),
        base64.urlsafe_b64encode(f"al:{CANARY}:more".encode()).decode(),
    ],
)
def test_a_secret_of_the_environment_is_in_no_text(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, form: str
) -> None:
    monkeypatch.setenv(variable, value)
    shown = redact(f"the server said: {form}; bye")
    assert SECRET in shown
    assert not any(part in shown for part in ("c4nary", "s3cr3t", form[6:-4]))
    assert shown.startswith("the server said: ")
    assert shown.endswith("; bye")


@pytest.mark.parametrize(
    "text",
    [
        "http://al:pw-1@host/v1 failed",
        "http://tok-1@host/v1 failed",
        "http://al:p@w-1@host/v1 failed",
        "GET https://h/v1?x=1&api_key=pw-1 failed",
        "GET https://h/v1?key=pw-1#x failed",
        "GET https://h/v1?X-Amz-Signature=pw-1&sig=tok-1 failed",
        "url='wss://h/v1?access%5Ftoken=pw-1' failed",
        "{'Authorization': 'Basic pw-1tok-1'} failed",
        '{"api-key": "pw-1tok-1"} failed',
        "Proxy-Authorization: Digest pw-1tok-1 failed",
    ],
)
def test_what_has_the_shape_of_a_secret_is_in_no_text(text: str) -> None:
    shown = redact(text)
    assert "pw-1" not in shown
    assert "tok-1" not in shown
    assert shown.endswith("failed")


@pytest.mark.parametrize(
    "text",
    [
        "rejected: status 400: max_tokens=5&top_k=3 is too large",
        "http://localhost:8000/v1?api-version=2024-10-21 answers",
        "mail ann@example.org about the token count; the key is under the mat",
        "a basic understanding of the bearer of bad news",
        "hf://datasets/org/name@main/file.jsonl",
    ],
)
def test_other_texts_stay(text: str) -> None:
    assert redact(text) == text
    assert find_secret(text) is None


def test_a_variable_is_known_once_it_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_JUDGE", "judge-s3cr3t")
    assert read_secret("MY_JUDGE") == "judge-s3cr3t"
    assert str(ChatTransportError("failed: judge-s3cr3t")) == f"failed: {SECRET}"


def test_the_log_is_redacted_with_its_tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    logging.getLogger().addHandler(handler)
    log = logging.getLogger(f"{mpo.__name__}.somewhere")
    try:
        try:
            raise ValueError(f"headers: {CANARY}")
        except ValueError:
            log.exception("asked with %s", CANARY)
    finally:
        logging.getLogger().removeHandler(handler)
    assert "ValueError: headers: [secret]" in written.getvalue()
    assert "asked with [secret]" in written.getvalue()
    assert CANARY not in written.getvalue()


@pytest.mark.parametrize(
    "name", ["OPENAI_API_KEY", "KEY2", "_K", "my_key", "AZURE_OPENAI_API_KEY_2", "DEEPSEEKAPIKEY"]
)
def test_a_variables_name(name: str) -> None:
    assert is_variable_name(name)


@pytest.mark.parametrize(
    "key",
    [
        "sk-proj-0123456789abcdef", "hf_AbCdEfGhIjKlMnOpQrSt",
        "AIzaSyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
        "AKIAIOSFODNN7EXAMPLE", "0123456789abcdef0123456789abcdef", "s3cr3tCanary", "a b", "",
        "gsk_a1b2c3d4e5f6g7h8i9j0k1l2", "E3FF2839C048B25C084DEBE9B26995E3", "aBcDeFgHiJkLmNoPqR",
    ],
)  # fmt: skip
def test_a_pasted_key_is_no_variables_name(key: str) -> None:
    assert not is_variable_name(key)
    with pytest.raises(ConfigError, match="environment variable") as caught:
        ChatConfig(base_url="http://h/v1", model="m", api_key_env=key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "chat.base_url=http://al:s3cr3t-1@h/v1",
        "chat.base_url=http://s3cr3t-1@h/v1",
        "chat.base_url='http://h/v1?api_key=s3cr3t-1'",
        "chat.base_url='http://h/v1?key=s3cr3t-1&x=1'",
        "chat.api_key_env=s3cr3t-1",
        "meta_chat={base_url: 'http://al:s3cr3t-1@h/v1', model: m}",
        "second_judge={base_url: 'http://h/v1', model: m, api_key_env: s3cr3t-1}",
        "chat={plugin: sandbox, options: {api_key: s3cr3t-1}}",
        "chat={plugin: sandbox, options: {headers: {Authorization: s3cr3t-1}}}",
        "data.path=https://al:s3cr3t-1@h/data.jsonl",
        "data.path='https://h/data.jsonl?token=s3cr3t-1'",
        "model=https://s3cr3t-1@huggingface.co/org/model",
        "trainer.extra={hub_token: s3cr3t-1}",
        "data.path=env-s3cr3t-1/data.jsonl",
        "chat={base_url: 'http://al:s3cr3t-1@h/v1'}",
        "chat={base_url: 'http://al:s3cr3t-1@h/v1', modl: x}",
    ],
)
def test_a_config_with_a_secret_is_refused(monkeypatch: pytest.MonkeyPatch, override: str) -> None:
    monkeypatch.setenv("OTHER_TOKEN", "env-s3cr3t-1")
    with pytest.raises(ConfigError) as caught:
        load_config("sandbox/essay", [override])
    error: BaseException | None = caught.value
    while error is not None:  # no traceback shows it either
        assert "s3cr3t-1" not in str(error)
        error = error.__cause__ or error.__context__


def test_a_secret_on_the_command_line_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    key = "api_key=" + CANARY[:6]
    done = subprocess.run(
        [sys.executable, "-m", "mpo", "train", "sandbox/essay", f"chat.base_url=http://h/v1?{key}",
         "chat.model=m", "--name", "a"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: an argument holds a key in its URL")
    assert CANARY[:6] not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
