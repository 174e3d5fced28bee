"""One validated config for everything, and the only place where parts are put together.

    config = load_config("sandbox/essay", ["trainer.steps=20", "arm=fixed"])
    with RunFolder("runs/a", config) as folder:
        parts = build(config, folder.path)

`schema` says which keys there are, `load` reads them, `data` reads the rows, `arms` says what an
arm changes, `folder` keeps a run's folder, `chats` makes the models' clients, `plugins` finds what
other packages bring, and `build` joins the parts.
"""

from .arms import ARMS, Arm, arm_rubric
from .build import Parts, Served, build, build_served, check, read_rubric_file
from .chats import Chats, Endpoints, compose, make_chat, reachable
from .data import load_rows, policy_row
from .load import (
    PRESETS,
    config_hash,
    differences,
    load_chat_config,
    load_config,
    preset_names,
    to_yaml,
)
from .plugins import Plugin, find_plugin, load_plugin
from .run_folder import RunFolder, finished, read_run_config, write_text
from .schema import Config, leaf_keys

__all__ = [
    "ARMS",
    "PRESETS",
    "Arm",
    "Chats",
    "Config",
    "Endpoints",
    "Parts",
    "Plugin",
    "RunFolder",
    "Served",
    "arm_rubric",
    "build",
    "build_served",
    "check",
    "compose",
    "config_hash",
    "differences",
    "find_plugin",
    "finished",
    "leaf_keys",
    "load_chat_config",
    "load_config",
    "load_plugin",
    "load_rows",
    "make_chat",
    "policy_row",
    "preset_names",
    "reachable",
    "read_rubric_file",
    "read_run_config",
    "to_yaml",
    "write_text",
]
