"""The configs under examples/accelerate are ones that accelerate itself takes."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("accelerate")

from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

FOLDER = Path(__file__).parents[2] / "examples" / "accelerate"
LAUNCHED = {  # what each starts, and the group of its own options
    "cpu.yaml": ("MULTI_GPU", None),
    "multi_gpu.yaml": ("MULTI_GPU", None),
    "fsdp2.yaml": ("FSDP", "fsdp_config"),
    "deepspeed_zero2.yaml": ("DEEPSPEED", "deepspeed_config"),
    "deepspeed_zero3.yaml": ("DEEPSPEED", "deepspeed_config"),
}


def test_every_config_is_known_here() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(LAUNCHED)


@pytest.mark.parametrize("name", LAUNCHED)
def test_accelerate_takes_it(name: str) -> None:
    kind, group = LAUNCHED[name]
    config = load_config_from_file(str(FOLDER / name))  # an unknown key is an error
    assert config.distributed_type.value == kind
    assert config.num_processes > 1
    assert config.use_cpu == (name == "cpu.yaml")
    # accelerate hands these to the launcher's options by name, and drops a name it does not know.
    options = {action.dest for action in launch_command_parser()._actions}
    own = getattr(config, group) if group else {}
    assert set(own) <= options
    assert bool(own) == bool(group)


def test_zero_3_differs_from_zero_2_where_it_must() -> None:
    two, three = (
        load_config_from_file(str(FOLDER / f"deepspeed_zero{stage}.yaml")).deepspeed_config
        for stage in (2, 3)
    )
    assert {key for key in three if three[key] != two.get(key)} == {
        "zero_stage",
        "zero3_save_16bit_model",
    }
