"""Plugins: models, policies and prompts that another package brings, reached by name.

    chat: {plugin: acme, options: {fast: true}}     # a chat of its own
    model: acme                                     # a policy of its own
    data: {path: acme}                              # prompts of its own

A package announces its plugin as an entry point of the group `mpo.plugins`:

    [project.entry-points."mpo.plugins"]
    acme = "acme.mpo_plugin:plugin"

`module:attribute` (`acme.mpo_plugin:plugin`) works in every one of these places too, without an
entry point. The sandbox that ships with mpo is such a plugin.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, NoReturn

from ..chat import Chat
from ..errors import ConfigError
from ..integrations.trainer_rollouts import GoldScorer
from ..task import Task

__all__ = [
    "GROUP",
    "Plugin",
    "Say",
    "find_plugin",
    "is_free",
    "is_simulated",
    "load_plugin",
    "plugin_names",
]

GROUP = "mpo.plugins"
"""Group of entry points in which packages announce their plugins."""

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""`module:attribute`; no hub id and no file of rows looks like it."""

Say = Callable[[str], None]
"""Receives a line about what takes long."""


class Plugin:
    """Base class of plugins. A subclass overrides the parts that it offers; a part that it does
    not offer is refused by name when a config uses it."""

    name: str = ""
    """Name that a config reaches it by; set when the plugin is loaded."""
    simulated: bool = False
    """True if its numbers are not about real models: all that is printed then names the part."""
    presets: Path | None = None
    """Folder of YAML files: `NAME.yaml` is the preset `PLUGIN/NAME`."""

    def chat(self, seed: int, options: Mapping[str, Any]) -> Chat:
        """A chat model, for `chat.plugin`.

        Two attributes of the chat are optional: `free = True` for one that costs nothing and
        answers at once (it needs no price, and its answers are not cached), and `biases`, the names
        of the biases to print beside a run's results.

        Args:
            seed: The run's seed; the second judge has the next one.
            options: The config's `chat.options`.

        Raises:
            ConfigError: An option that it does not know, or a value that it cannot use.
        """
        self._lacks("chat", "chat.plugin")

    def policy(self, task: str, say: Say) -> str | Path:
        """Folder or hub id of a policy that transformers can load, for `model`.

        Args:
            task: Name of the task that it is to be trained on.
        """
        self._lacks("policy", "model")

    def policy_task(self, task: Task) -> Task:
        """The task as the plugin's policy can do it: the template of its prompts and the most
        tokens of a response. The task as it is, unless overridden."""
        return task

    def rows(self, task: str, seed: int, limit: int | None) -> list[dict[str, Any]]:
        """Rows of a dataset, for `data.path`. Where the task has cohorts, each has its `cohort`.

        Args:
            task: Name of the task.
            limit: Most rows; None leaves the number to the plugin.
        """
        self._lacks("rows", "data.path")

    def gold(self, task: Task) -> GoldScorer | None:
        """Scorer of the quality that the reward was meant to measure, on the plugin's own rows;
        None where nobody knows it."""
        return None

    def measure(self, task: Task) -> str:
        """Name of what `gold` measures, as the head of its columns."""
        return "gold"

    def _lacks(self, part: str, key: str) -> NoReturn:
        raise ConfigError(
            f"plugin {self.name!r} cannot be used as {key}: it has no {part}. Use another plugin, "
            f"or override Plugin.{part}"
        )


def plugin_names() -> list[str]:
    """Names of the plugins that installed packages announce."""
    return sorted(_announced())


def find_plugin(name: str | None) -> Plugin | None:
    """The plugin of this name; None where no plugin has it, so that it names something else.

    Raises:
        ConfigError: The plugin cannot be loaded.
    """
    if not name or not (name in _announced() or _REFERENCE.fullmatch(name)):
        return None
    return load_plugin(name)


@functools.cache
def load_plugin(name: str) -> Plugin:
    """The plugin of this name.

    Args:
        name: Name of an entry point, or `module:attribute`.

    Raises:
        ConfigError: There is none, or it cannot be loaded.
    """
    try:
        if name in _announced():
            plugin = _announced()[name].load()
        elif _REFERENCE.fullmatch(name):
            module, _, attribute = name.partition(":")
            plugin = getattr(importlib.import_module(module), attribute)
        else:
            raise ConfigError(
                f"no plugin {name!r}: there is {', '.join(plugin_names()) or 'none'}. Install the "
                "package that brings it (mpo itself brings sandbox), or write module:attribute"
            )
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"plugin {name!r} cannot be loaded: {error}") from error
    if not isinstance(plugin, Plugin):
        kind = type(plugin).__name__
        raise ConfigError(f"plugin {name!r} is an {kind}, not an mpo.config.Plugin")
    plugin.name = name
    return plugin


def is_simulated(name: str | None, model: str = "") -> bool:
    """True if a simulated plugin has this name, or serves this model: it may also do so over HTTP,
    under a name such as `sandbox-0`."""
    serving = model.partition("-")[0]
    plugin = find_plugin(name) or (find_plugin(serving) if serving in _announced() else None)
    return plugin is not None and plugin.simulated


def is_free(chat: Chat) -> bool:
    """True for a chat that costs nothing: it says so itself, by the attribute `free`."""
    return getattr(chat, "free", False) is True


@functools.cache
def _announced() -> Mapping[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
