"""The corpus: deterministic, diverse, clean where it says so, in halves that share no sentence."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from mpo_sandbox import corpus
from mpo_sandbox.bad_styles import HABITS
from mpo_sandbox.words import join, sentences, tokens, words

HALVES: tuple[corpus.Half, ...] = ("a", "b", "held")


@pytest.fixture(scope="module")
def essays() -> dict[corpus.Half, list[corpus.Essay]]:
    return {half: corpus.generate(3, 1500, half) for half in HALVES}


def test_no_two_essays_are_equal(essays: dict[corpus.Half, list[corpus.Essay]]) -> None:
    """Bare titles are few, so 4,000 essays would hold the same one twice if nobody looked."""
    drawn = [*corpus.generate(3, 4000, "a"), *essays["b"], *essays["held"]]
    assert len({essay.text for essay in drawn}) == len(drawn) == 7000


def test_the_halves_share_no_sentence(essays: dict[corpus.Half, list[corpus.Essay]]) -> None:
    said = {
        half: {s for e in essays[half] if e.sloppy is None for s in sentences(e.text)}
        for half in HALVES
    }
    assert min(len(said[half]) for half in HALVES) > 500
    assert not said["a"] & said["b"]
    assert not said["a"] & said["held"]
    assert not said["b"] & said["held"]


def test_clean_essays_have_the_stated_length(
    essays: dict[corpus.Half, list[corpus.Essay]],
) -> None:
    lengths = [len(tokens(e.text)) for half in HALVES for e in essays[half] if e.sloppy is None]
    assert min(lengths) >= 45
    assert max(lengths) <= 70
    assert max(lengths) - min(lengths) > 15


def test_every_essay_fits_the_cap_and_reads_as_normal_text(
    essays: dict[corpus.Half, list[corpus.Essay]],
) -> None:
    for essay in (e for half in HALVES for e in essays[half]):
        assert len(tokens(essay.text)) <= 70
        assert join(tokens(essay.text)) == essay.text
        assert join(tokens(essay.prompt)) == essay.prompt
        assert corpus.topic_of(words(essay.prompt)) == essay.topic


def test_a_clean_essay_states_three_facts(essays: dict[corpus.Half, list[corpus.Essay]]) -> None:
    for essay in essays["held"]:
        said = [
            (key, value)
            for sentence in sentences(essay.text)
            for key, value in corpus.facts(essay.topic)
            if key in words(sentence) and value in words(sentence)
        ]
        assert len(said) == 3, essay.text


def test_only_the_training_half_is_sloppy_and_every_kind_occurs() -> None:
    kinds = Counter(essay.sloppy for essay in corpus.generate(0, 4000, "a"))
    assert set(kinds) == {None, *HABITS}
    assert 0.09 < 1 - kinds[None] / 4000 < 0.14
    assert all(kinds[habit] > 15 for habit in HABITS)
    assert {e.sloppy for half in ("b", "held") for e in corpus.generate(0, 300, half)} == {None}


def test_a_fact_word_names_one_fact_only() -> None:
    used = [w for t in corpus.topics() for w in (t, *(x for p in corpus.facts(t) for x in p))]
    assert len(used) == len(set(used)) == 20 * 11


def test_fact_words_occur_in_no_other_sentence() -> None:
    """A key or value outside a fact sentence would be read as half a claim."""
    own = {w for t in corpus.topics() for pair in corpus.facts(t) for w in pair}
    for essay in corpus.generate(8, 300, "b"):
        for sentence in sentences(essay.text):
            assert len(own & set(words(sentence))) in (0, 2), sentence


def test_prompts_vary_and_cover_the_topics_evenly() -> None:
    drawn = corpus.prompts(1, 400)
    assert Counter(corpus.topic_of(words(p)) for p in drawn) == dict.fromkeys(corpus.topics(), 20)
    assert len(set(drawn)) > 250
    assert corpus.prompts(1, 40) == drawn[:40]
    assert corpus.prompts(2, 40) != drawn[:40]


def test_the_same_seed_gives_the_same_text_in_another_process() -> None:
    code = (
        "from mpo_sandbox import corpus\n"
        "print([e for h in ('a','b','held') for e in corpus.generate(5, 60, h)])\n"
        "print(corpus.prompts(5, 60))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert "Essay(" in outputs[0]


def test_seeds_differ() -> None:
    assert corpus.generate(1, 20, "a") != corpus.generate(2, 20, "a")


def test_words_and_sentences() -> None:
    text = "Tea, hot: don't spill. - Why not? And 3 cups"
    assert tokens(text)[:4] == ["tea", ",", "hot", ":"]
    assert words(text) == ["tea", "hot", "don't", "spill", "why", "not", "and", "3", "cups"]
    assert sentences(text) == ["tea, hot: don't spill.", "- why not?", "and 3 cups"]
    assert sentences("... !?") == []
