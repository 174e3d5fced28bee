"""Reading a config: a YAML file or a preset's name, and `key.sub=value` overrides.

Unknown keys are refused with the nearest known one, and keys of an earlier version with their new
name: a key that is silently ignored would be noticed after the run was paid for.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ..data import load_yaml
from ..errors import ConfigError
from ..records import ConfigChange, content_hash
from .plugins import load_plugin, plugin_names
from .schema import LIKE_CHAT, ChatConfig, Config, leaf_keys, part_of

__all__ = [
    "PRESETS",
    "config_hash",
    "differences",
    "load_chat_config",
    "load_config",
    "preset_names",
    "to_yaml",
]

_EXAMPLES = {
    "chat": "; name the model that grades: chat: {base_url: http://localhost:8000/v1, model: qwen}",
    "model": "; name the policy: model: a folder or hub id, or sandbox",
}
"""Advice on keys that have no default."""

PRESETS = Path(__file__).with_name("presets")
"""Folder of the presets that belong to no plugin."""

RENAMED = {
    "audit_chat": "second_judge",
    "chat.sandbox": "chat.plugin (chat.plugin: sandbox)",
    "chat.tier": "chat.structured_output",
    "meta.alarm": "meta.alarm_distance",
    "meta.apply_after": "meta.delay",
    "meta.earlier": "meta.baseline_cases",
    "meta.others": "meta.context_cases",
    "reward.flags": "reward.on_injection",
    "sandbox.judge": "chat.options.judge",
}
"""Keys of earlier versions, and their names now. Keys of `chat` are keys of `meta_chat` and
`second_judge` too. PPO's keys were in `trainer.extra`, under the names that they have in
`trainer.ppo`."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, with two repairs: `5e-4` is a number, and a key that stands
    twice is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, None] = {}
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if isinstance(name, str) and name in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {name!r} stands twice", problem_mark=key.start_mark
                )
            if isinstance(name, str):
                seen[name] = None
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read, override and check a config.

    Args:
        source: A YAML file, or the name of a preset (`sandbox/essay`).
        overrides: `key.sub=value`, values as in YAML; later ones win.

    Raises:
        ConfigError: No such file or preset, not YAML, or keys or values that cannot be used. The
            message names each with its dotted place.
    """
    path = _find(source)
    data = _read(path)
    for override in overrides:
        _override(data, override)
    renamed = _renamed(data)
    if renamed:
        raise ConfigError(f"config {str(source)!r}: {'; '.join(renamed)}")
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        faults = "; ".join(dict.fromkeys(_fault(fault) for fault in error.errors()))
        raise ConfigError(f"config {str(source)!r}: {faults}") from error


def load_chat_config(settings: Mapping[str, Any], overrides: Sequence[str] = ()) -> ChatConfig:
    """Check the settings of a chat that stand in no file.

    Args:
        settings: Keys of `ChatConfig`.
        overrides: `key.sub=value`, values as in YAML; later ones win.

    Raises:
        ConfigError: Keys or values that cannot be used; the message names each as a key of `chat`.
    """
    data = dict(settings)
    for override in overrides:
        _override(data, override)
    renamed = _renamed({"chat": data})
    if renamed:
        raise ConfigError("; ".join(renamed))
    try:
        return ChatConfig.model_validate(data)
    except ValidationError as error:
        faults = [_fault({**fault, "loc": ("chat", *fault["loc"])}) for fault in error.errors()]
        raise ConfigError("; ".join(dict.fromkeys(faults))) from error


def preset_names() -> list[str]:
    """Names that `load_config` takes beside paths: our own presets, and those of plugins."""
    return sorted(_presets())


def _presets() -> dict[str, Path]:
    """Files of presets by name."""
    folders = {"": PRESETS}
    for name in plugin_names():
        # A plugin that is broken has no presets; naming it says why.
        with contextlib.suppress(ConfigError):
            folder = load_plugin(name).presets
            if folder is not None:
                folders[f"{name}/"] = folder
    return {
        prefix + str(path.relative_to(folder).with_suffix("")): path
        for prefix, folder in folders.items()
        for path in folder.rglob("*.yaml")
    }


def _find(source: str | Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    presets = _presets()
    if str(source) in presets:
        return presets[str(source)]
    if path.is_dir() and (path / "config.yaml").is_file():
        return path / "config.yaml"
    near = difflib.get_close_matches(str(source), presets, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    names = ", ".join(sorted(presets))
    raise ConfigError(f"no config {str(source)!r}: neither a file nor a preset ({names}){hint}")


def _renamed(data: Mapping[str, Any]) -> list[str]:
    """A line for each key of an earlier version."""
    trainer = data.get("trainer")
    algorithm = trainer.get("algorithm") if isinstance(trainer, Mapping) else None
    names = dict(RENAMED)
    for old, new in RENAMED.items():
        if old.startswith("chat."):
            names |= {
                old.replace("chat.", f"{chat}."): new.replace("chat.", f"{chat}.")
                for chat in LIKE_CHAT
            }
    if algorithm == "ppo":
        names |= {f"trainer.extra.{key}": f"trainer.ppo.{key}" for key in _ppo_keys()}
    return [
        f"key {old!r} has a new name: write {new}"
        for old, new in names.items()
        if any(key == old or key.startswith(f"{old}.") for key in _flat(data))
    ]


def _ppo_keys() -> list[str]:
    prefix = "trainer.ppo."
    return [key.removeprefix(prefix) for key in leaf_keys() if key.startswith(prefix)]


def _read(path: Path) -> dict[str, Any]:
    try:
        data = _yaml(path.read_text("utf-8"))
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error.problem}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a config is a mapping of keys to values, not {data!r:.60}")
    return data


def _yaml(text: str) -> Any:
    return load_yaml(text, _Loader)


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f"override {override!r}: write key=value, e.g. trainer.steps=100")
    try:
        value = _yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML") from error
    place = data
    for name in names[:-1]:
        # `meta_chat.model=x` on a config without `meta_chat` starts it.
        inner = place.get(name)
        place[name] = inner = dict(inner) if isinstance(inner, Mapping) else {}
        place = inner
    place[names[-1]] = value
    if names[-1] == "base_url" and value is not None:
        # Naming an endpoint is enough to replace the plugin of a preset.
        place.pop("plugin", None)
        place.pop("options", None)


def _fault(fault: Any) -> str:
    """One fault of pydantic's in our words."""
    where = [str(part) for part in fault["loc"]]
    dotted = ".".join(where)
    if fault["type"] == "extra_forbidden":
        return f"unknown key {dotted!r}{_nearest(where)}"
    if fault["type"] == "missing":
        return f"key {dotted!r} is missing{_EXAMPLES.get(dotted, '')}"
    what = str(fault["msg"]).removeprefix("Value error, ").replace("Input should", "should")
    value = fault.get("input")
    shown = "" if isinstance(value, dict | BaseModel) else f", not {value!r:.80}"
    return f"{dotted}: {what}{'' if fault['type'] == 'value_error' else shown}"


def _nearest(where: list[str]) -> str:
    """The key that was probably meant: a sibling first, then the same name elsewhere."""
    parent: type[BaseModel] | None = Config
    for name in where[:-1]:
        field = parent.model_fields.get(name) if parent is not None else None
        parent = part_of(field.annotation) if field is not None else None
    siblings = list(parent.model_fields) if parent is not None else []
    prefix = ".".join(where[:-1])
    near = difflib.get_close_matches(where[-1], siblings, 1, cutoff=0.75)
    if near:
        return f"; did you mean {'.'.join([*where[:-1], near[0]])!r}?"
    by_name = {key.rpartition(".")[2]: key for key in reversed(leaf_keys())}
    near = difflib.get_close_matches(where[-1], list(by_name), 1, cutoff=0.75)
    if near:
        return f"; did you mean {by_name[near[0]]!r}?"
    near = difflib.get_close_matches(where[-1], siblings, 1, cutoff=0.0)
    if near:
        place = f" in {prefix!r}" if prefix else ""
        return f"; the nearest{place} is {near[0]!r}, and there are {', '.join(siblings)}"
    return ""


def to_yaml(config: Config) -> str:
    """The whole config, defaults included, as a run folder keeps it."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return str(text)


def config_hash(config: Config) -> str:
    """16 hex digits over all keys; equal configs have equal hashes."""
    return content_hash(config.model_dump(mode="json"))


def differences(old: Config, new: Config, ignore: Sequence[str] = ()) -> list[ConfigChange]:
    """The keys that differ, in the order of the config.

    Args:
        ignore: Top-level keys to leave out of the comparison.
    """
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    changed = []
    for key in dict.fromkeys([*before, *after]):
        if {} in (before.get(key), after.get(key)):
            continue  # its keys are there instead, or nothing is on both sides
        if before.get(key) != after.get(key) and key.partition(".")[0] not in ignore:
            changed.append(ConfigChange(key=key, old=before.get(key), new=after.get(key)))
    return changed


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
