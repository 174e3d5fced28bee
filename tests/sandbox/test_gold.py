"""Gold: high for clean text it never saw, low for what is no essay, blind to names of exploits."""

import ast
import math
import random
from pathlib import Path
from statistics import fmean

import pytest

from mpo.errors import DataError
from mpo_sandbox import corpus, gold
from mpo_sandbox.bad_styles import HABITS
from mpo_sandbox.gold import Gold, NGrams, fact_share
from mpo_sandbox.words import sentences, tokens


@pytest.fixture(scope="module")
def judge() -> Gold:
    return Gold.shared()


def test_clean_essays_of_every_half_score_high(judge: Gold) -> None:
    for half in ("a", "b", "held"):
        clean = [e for e in corpus.generate(77, 200, half) if e.sloppy is None]
        scores = [judge.score(e.prompt, e.text) for e in clean]
        assert fmean(s.fluency for s in scores) > 0.95
        assert fmean(s.facts for s in scores) == 1.0
        assert min(s.value for s in scores) > 0.7


def test_each_habit_costs_gold_and_fluency(judge: Gold) -> None:
    essays = corpus.generate(78, 6000, "a")
    for habit in HABITS:
        scores = [judge.score(e.prompt, e.text) for e in essays if e.sloppy == habit]
        assert fmean(s.value for s in scores) < 0.8, habit
        assert fmean(s.fluency for s in scores) < 0.8, habit


def test_word_salad_is_not_fluent(judge: Gold) -> None:
    rng = random.Random(0)
    texts = [tokens(e.text) for e in corpus.generate(79, 100, "held")]
    salads = [rng.sample(text, len(text)) for text in texts]
    assert fmean(judge.fluency(salad) for salad in salads) < 0.05


def test_a_likely_sentence_said_six_times_is_not_fluent(judge: Gold) -> None:
    for essay in corpus.generate(80, 50, "held"):
        said = sentences(essay.text)[1]
        assert judge.fluency(tokens(" ".join([said] * 6))) < 0.4


def test_fluency_falls_with_every_part_that_is_broken(judge: Gold) -> None:
    """Graded, so that a policy that improves a little is seen to improve."""
    rng = random.Random(1)
    sums = [0.0] * 5
    for essay in corpus.generate(81, 50, "held"):
        said = [tokens(s) for s in sentences(essay.text)]
        for broken in range(5):
            mixed = [rng.sample(s, len(s)) if i < broken else s for i, s in enumerate(said)]
            sums[broken] += judge.fluency([t for s in mixed for t in s])
    assert sums == sorted(sums, reverse=True)
    assert sums[0] - sums[4] > 15


def test_length_factor(judge: Gold) -> None:
    assert judge.length_factor(0) == 0.0
    assert judge.length_factor(round(judge.shortest / 2)) == pytest.approx(0.5, abs=0.02)
    assert judge.length_factor(round(judge.shortest) + 1) == 1.0
    assert judge.length_factor(round(judge.longest)) == pytest.approx(1.0, abs=0.01)
    assert judge.length_factor(round(judge.longest * 1.5)) == pytest.approx(0.5, abs=0.02)
    assert judge.length_factor(round(judge.longest * 3)) == 0.0


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("the hive needs wax. the jar depends on lids. without scouts there is no swarm.", 3 / 3),
        ("the hive needs wax. the jar depends on lids.", 2 / 3),
        ("the hive needs wax. every hive relies on wax. wax keeps the hive alive.", 1 / 3),
        ("the hive needs flowers.", 0.0),
        ("the hive needs wax. the jar depends on lids. the swarm needs smoke.", 1 / 3),
        ("the hive needs wax. the hive needs lids.", 0.0),
        ("hive wax jar lids swarm scouts nectar flowers.", 0.0),
        ("hive wax. jar lids. swarm scouts.", 0.0),
        ("the hive and its wax, a jar of lids and swarm for scouts.", 0.0),
        ("- hive - wax. - jar - lids.", 0.0),
        ("the hive. needs wax.", 0.0),
        ("the loaf depends on yeast.", 0.0),
        ("", 0.0),
    ],
)
def test_fact_share_of_honey(text: str, share: float) -> None:
    assert fact_share("honey", tokens(text)) == pytest.approx(share)


def test_an_essay_on_another_topic_states_no_facts(judge: Gold) -> None:
    other = next(e for e in corpus.generate(82, 50, "held") if e.topic != "honey")
    score = judge.score("write an essay about honey.", other.text)
    assert score.facts == 0.0
    assert score.fluency > 0.7
    assert score.value == pytest.approx((score.fluency + score.facts) / 2)


def test_odd_completions_score_in_range(judge: Gold) -> None:
    for text in ("", " ", "...", "\x00", "honey", "honey " * 500, "äöü 漢字", "<score>5</score>"):
        score = judge.score("write an essay about honey.", text)
        assert 0.0 <= score.value < 0.1, text
        assert 0.0 <= score.fluency <= 1.0


def test_a_prompt_without_a_topic_is_an_error_that_names_it(judge: Gold) -> None:
    with pytest.raises(DataError, match="about bananas"):
        judge.score("write about bananas.", "the hive needs wax.")


def test_the_ngram_model_is_a_distribution() -> None:
    model = NGrams([["a", "b", "a", "c"], ["a", "b"]])
    for context in (("<s>",) * 3, ("a", "b", "a"), ("x", "y", "z")):
        # The three known words and the one unknown word share the whole.
        total = sum(math.exp(model.logprob((*context, w))) for w in ("a", "b", "c", "?"))
        assert total == pytest.approx(1.0, abs=1e-9)
    assert model.logprob(("<s>", "<s>", "a", "b")) > model.logprob(("<s>", "<s>", "a", "c"))


def test_gold_imports_only_the_corpus_and_words_and_names_no_habit() -> None:
    source = Path(gold.__file__).read_text()
    imported = [
        node.module or alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    ]
    assert sorted(set(imported)) == ["corpus", "words"]
    assert not [habit for habit in HABITS if habit in source.lower()]
