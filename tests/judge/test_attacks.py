"""Hostile texts stay data, and honest ones stay what they are: tests/judge/attacks.yaml."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import yaml

from mpo.judge.injection_flags import flag_phrases
from mpo.sanitize import clean, fence, find_fences, precheck
from mpo.task import fill

DATA = yaml.safe_load(Path(__file__).with_name("attacks.yaml").read_text(encoding="utf-8"))
ATTACKS: list[dict[str, Any]] = DATA["attacks"]
BENIGN: list[str] = DATA["benign"]
SECRET = b"the run's secret"

# Written apart from the patterns in untrusted.py: what tokenizers of these families act on.
CONTROL_STRINGS = """
<|im_start|> <|im_end|> <|endoftext|> <|fim_prefix|> <|eot_id|> <|eot|> <|start_header_id|>
<|end_header_id|> <|begin_of_text|> <|header_start|> <|python_tag|> <|start|> <|end|> <|channel|>
<|message|> <|return|> <|user|> <|system|> <|assistant|> <|START_OF_TURN_TOKEN|> <|turn> <turn|>
<start_of_turn> <end_of_turn> <bos> <eos> <s> </s> [INST] [/INST] <<SYS>> <</SYS>>
[SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CALLS] [THINK] [/THINK] <think> </think> <tool_call>
</tool_call> [gMASK] <sop> <｜User｜> <｜Assistant｜> <｜end▁of▁sentence｜> <｜tool▁calls▁begin｜>
]~b] [e~[ <seed:bos> <extra_id_1> <unused7>
""".split()


def text_of(attack: dict[str, Any]) -> str:
    return str(attack["text"]) * int(attack.get("times", 1))


def name_of(attack: dict[str, Any]) -> str:
    return f"{ATTACKS.index(attack)}-{attack['class']}"


def test_there_are_enough_of_them_and_none_twice() -> None:
    assert len(ATTACKS) >= 120
    assert len(BENIGN) >= 60
    assert len({text_of(attack) for attack in ATTACKS}) == len(ATTACKS)
    assert len(set(BENIGN)) == len(BENIGN)
    assert {key for attack in ATTACKS for key in attack} <= {
        "class",
        "text",
        "times",
        "rule",
        "flags",
    }


@pytest.mark.parametrize("attack", ATTACKS, ids=name_of)
def test_an_attack_is_handled_as_expected(attack: dict[str, Any]) -> None:
    text = text_of(attack)
    assert precheck(clean(text).text, 1) == attack.get("rule")
    cleaned = clean(text)
    flags = cleaned.flags | flag_phrases(cleaned.text)
    if "rule" not in attack:
        missing = set(attack.get("flags", ())) - set(flags)
        assert not missing, f"{flags} lacks {missing}"
        if not attack.get("flags"):
            assert flags == {}, "the file says that nothing shows"


@pytest.mark.parametrize("attack", ATTACKS, ids=name_of)
def test_an_attack_brings_in_no_structure(attack: dict[str, Any]) -> None:
    cleaned = clean(text_of(attack)).text
    assert not [token for token in CONTROL_STRINGS if token in cleaned]
    assert not [char for char in cleaned if unicodedata.category(char) in ("Cf", "Cs", "Cn")]
    assert not re.search(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]", cleaned)
    block = fence(cleaned, secret=SECRET)
    prompt = fill(
        "Rubric: {{rubric}}\n{{response}}\nScore it by the rubric.",
        {"rubric": "R", "response": block},
        "test",
    )
    # One fence with the whole text in it, and what is ours exactly as it was.
    assert find_fences(prompt) == [cleaned]
    assert prompt == f"Rubric: R\n{block}\nScore it by the rubric."


def test_honest_texts_come_through() -> None:
    altered = [text for text in BENIGN if clean(text).text != unicodedata.normalize("NFC", text)]
    refused = [text for text in BENIGN if precheck(clean(text).text, 1) is not None]
    assert len(altered + refused) <= 2, (altered, refused)


def test_honest_texts_are_seldom_flagged() -> None:
    # A flag alone changes nothing, but a policy that penalizes flags should not hit these.
    flagged = {text: flags for text in BENIGN if (flags := flag_phrases(text))}
    assert len(flagged) <= 10, flagged
