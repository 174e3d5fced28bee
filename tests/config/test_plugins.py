"""Plugins: chat, policy, rows and gold that another package brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fakes import loop_chat
from mpo.chat import CachedChat, Chat, ScriptedChat
from mpo.config import Plugin, build, check, find_plugin, load_config, load_plugin
from mpo.config.plugins import is_free, plugin_names
from mpo.errors import ConfigError
from mpo.evaluation.simulated import read_simulated
from mpo.records import Rollout
from mpo.task import Task

HERE = f"{__name__}:plugin"
NOTHING = f"{__name__}:nothing"


class LengthScorer:
    """Gold that is the number of words."""

    def audit(
        self, rollouts: Sequence[Rollout]
    ) -> list[tuple[str, float | None, Mapping[str, float]]]:
        return [(r.id, len(r.completion.split()) / 100, {}) for r in rollouts]


class Acme(Plugin):
    """A plugin of the tests' own."""

    def chat(self, seed: int, options: Mapping[str, Any]) -> Chat:
        return loop_chat(f"acme-{seed}-{options.get('size', 'small')}")

    def policy(self, task: str, say: Any) -> str:
        say(f"fetching a policy for {task}")
        return "/models/acme"

    def rows(self, task: str, seed: int, limit: int | None) -> list[dict[str, Any]]:
        return [{"prompt": f"prompt {n} of seed {seed}"} for n in range(limit or 3)]

    def gold(self, task: Task) -> LengthScorer:
        return LengthScorer()

    def measure(self, task: Task) -> str:
        return "length"


plugin = Acme()
nothing = Plugin()
not_a_plugin = object()

OWN_CHAT = f"chat={{plugin: '{HERE}', options: {{size: large}}}}"
OWN_POLICY = f"model='{HERE}'"
OWN_ROWS = f"data={{path: '{HERE}', limit: 4}}"


def test_the_sandbox_is_found_by_its_name() -> None:
    assert "sandbox" in plugin_names()
    assert load_plugin("sandbox").simulated
    assert find_plugin("Qwen/Qwen2.5-1.5B") is None
    assert find_plugin(None) is None


def test_a_run_is_made_of_what_a_plugin_brings(tmp_path: Path) -> None:
    config = load_config("sandbox/essay", [OWN_CHAT, OWN_POLICY, OWN_ROWS, "seed=7"])
    lines: list[str] = []
    parts = build(config, tmp_path, lines.append)
    assert parts.model == "/models/acme"
    assert lines == ["fetching a policy for essay"]
    assert len(parts.rows) == 4
    assert "prompt 3 of seed 7" in parts.rows[3]["prompt"]
    assert parts.chats.rm.name == "acme-7-large"
    assert isinstance(parts.chats.rm, CachedChat), "its answers may have cost something"
    assert (parts.measure, parts.exploits) == ("length", ())
    assert isinstance(parts.gold_scorer, LengthScorer)
    assert not any(config.simulated.values())
    assert read_simulated(parts.reward.store) == dict.fromkeys(("policy", "data", "judge"), False)


def test_the_second_judge_has_a_seed_of_its_own() -> None:
    checked = check(load_config("sandbox/essay", ["seed=7", f"second_judge={{plugin: '{HERE}'}}"]))
    assert checked.second_judge is not None
    assert checked.second_judge.name == "acme-8-small"


def test_what_is_simulated_says_so() -> None:
    for overrides, parts in (
        ([], ["policy", "data", "judge"]),
        ([OWN_CHAT, OWN_POLICY], ["data"]),
        ([OWN_POLICY, OWN_ROWS], ["judge"]),
        ([OWN_CHAT, OWN_ROWS], ["policy"]),
        ([OWN_POLICY, OWN_ROWS, f"meta_chat={{plugin: '{HERE}'}}"], ["judge"]),
        ([OWN_POLICY, OWN_ROWS, "chat.base_url=http://h/v1", "chat.model=sandbox-3"], ["judge"]),
        ([OWN_POLICY, OWN_ROWS, "chat.base_url=http://h/v1", "chat.model=sandy"], []),
    ):
        simulated = load_config("sandbox/essay", overrides).simulated
        assert [part for part, mock in simulated.items() if mock] == parts


def test_a_chat_says_itself_that_it_is_free() -> None:
    assert is_free(load_plugin("sandbox").chat(0, {}))
    assert not is_free(ScriptedChat(["x"]))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("chat={plugin: acme}", "no plugin 'acme': there is sandbox. Install the package"),
        ("chat={plugin: 'no_such:thing'}", "plugin 'no_such:thing' cannot be loaded: No module"),
        (f"chat={{plugin: '{__name__}:gone'}}", "has no attribute 'gone'"),
        (f"chat={{plugin: '{__name__}:not_a_plugin'}}", "is an object, not an mpo.config.Plugin"),
        (f"chat={{plugin: '{NOTHING}'}}", "cannot be used as chat.plugin: it has no chat"),
        (f"data.path='{NOTHING}'", "cannot be used as data.path: it has no rows"),
        ("chat.options.jugde=bad_mrm", "chat.options.jugde: the sandbox does not know it"),
        ("chat.options.judge=good", "should be one of biased, unbiased, bad_mrm, not 'good'"),
    ],
)
def test_what_a_plugin_lacks_is_named(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(load_config("sandbox/essay", [override]))
    assert words in str(caught.value)


def test_a_plugin_without_a_policy_is_refused_before_a_store_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be used as model: it has no policy"):
        build(load_config("sandbox/essay", [f"model='{NOTHING}'"]), tmp_path)
    assert not (tmp_path / "mpo.db").exists()


def test_options_belong_to_a_plugin() -> None:
    endpoint = "chat={base_url: http://h/v1, model: m, options: {judge: biased}}"
    with pytest.raises(ConfigError, match="options are a plugin's"):
        load_config("sandbox/essay", [endpoint])
