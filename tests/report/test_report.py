"""Report: one file, no network, everything escaped, every number and every rubric in it."""

from __future__ import annotations

import json
import random
import re
import sqlite3
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mpo.errors import DataError, NewerStoreError, StoreError
from mpo.evaluation.simulated import keep_simulated
from mpo.importers import read_experiment, write_experiment
from mpo.integrations.trainer_figures import keep_figures
from mpo.records import Case, ConfigChange, CriterionScore, Decision, Judgement, Rollout
from mpo.report import write_report
from mpo.report.decisions import decisions_section
from mpo.report.levels import interval, welch
from mpo.report.page import LARGEST
from mpo.report.rollouts import pack_texts
from mpo.report.run_data import load_run
from mpo.rubric import Criterion, Rubric
from mpo.store import Store
from report.material import BETTER, EVIL, SEED, WORSE, evolve, judged, make_run, report, unpack
from shared_data import shared_data

pytest.importorskip("bokeh")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs") / "cmp"
    return [make_run(folder / "fixed-0", "fixed"), make_run(folder / "mpo-0")]


@pytest.fixture(scope="module")
def html(pair: list[Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    return report(tmp_path_factory.mktemp("a"), pair, seconds=12.0, failed={"mpo-1": f"x {EVIL}"})


class Outline(HTMLParser):
    """What the page itself would load, its ids and headings; scripts are text here, as they are
    for a browser."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.headings: list[int] = []
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))


def text_between(html: str, start: str, end: str) -> str:
    """The words between two marks, without tags."""
    part = html[html.index(start) : html.index(end)]
    return " ".join(re.sub(r"<[^>]+>", " ", part).split())


class TestPage:
    def test_what_a_model_wrote_is_escaped(self, html: str) -> None:
        assert "alert(" in html, "the attack is in the page, as text"
        assert not re.search(r"<script>\s*alert", html)
        assert "onerror" not in html, "completions are packed"
        assert html.count("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;") >= 8

    def test_it_needs_no_network(self, html: str) -> None:
        page = Outline(html)
        assert len(page.tags) > 300
        assert [link for link in page.links if not link.startswith("#")] == []
        assert "@import" not in html
        assert len(html.encode()) < 1_000_000

    def test_runs_of_one_name_are_told_apart(self, tmp_path: Path) -> None:
        runs = [make_run(tmp_path / place / "mpo-0", steps=13) for place in ("a", "b")]
        page = Outline(report(tmp_path, runs))
        assert {"decision-a/mpo-0-1", "decision-b/mpo-0-1"} <= set(page.ids)
        assert len(page.ids) == len(dict.fromkeys(page.ids))

    def test_every_link_has_its_place_and_every_id_is_there_once(self, html: str) -> None:
        page = Outline(html)
        assert len(page.ids) == len(dict.fromkeys(page.ids))
        assert {link[1:] for link in page.links} <= set(page.ids)

    def test_headings_skip_no_level_and_there_are_landmarks(self, html: str) -> None:
        page = Outline(html)
        assert page.headings[0] == 1
        steps = [b - a for a, b in zip(page.headings, page.headings[1:], strict=False)]
        assert max(steps) == 1
        assert {"header", "main", "nav"} <= set(page.tags)
        assert page.tags.count("table") == page.tags.count("caption")

    def test_the_sections_are_in_the_order_of_the_questions(self, html: str) -> None:
        titles = re.findall(r'<h2 id="(\w+)-title">', html)
        assert titles == ["arms", "curves", "rubric", "texts", "monitors", "reproduce"]


class TestResult:
    def test_one_sentence_says_who_got_better(self, html: str) -> None:
        head = text_between(html, "<header>", "<nav")
        assert "task essay; 2 arms; policy sandbox by grpo; 22 steps" in head
        assert "176 rollouts judged" in head
        assert "By gold, fixed got worse (0.89 → 0.59); mpo got worse (0.89 → 0.59)" in head
        assert "their rewards ended at 0.82." in head
        assert "sandbox policy, data and judge" in head

    def test_the_table_has_intervals(self, html: str) -> None:
        table = text_between(html, 'id="arms"', 'id="curves"')
        assert "mpo 1 0.23 ± 0.11 0.82 ± 0.10 0.89 ± 0.05 0.89 0.59 ± 0.05 0.66 0.20 2" in table
        assert "One seed an arm" in table
        assert "topic_stuffing, hedging" in table
        assert "mpo-1" in table, "a run that failed is named"

    def test_over_seeds_the_interval_is_students(self, tmp_path: Path) -> None:
        runs = [make_run(tmp_path / f"fixed-{n}", "fixed", steps=4 + 8 * n) for n in range(3)]
        table = text_between(report(tmp_path, runs), 'id="arms"', 'id="curves"')
        # Ends at steps 3, 9 to 11 and 10 to 19: 0.15, 0.5, 0.725; t(2) = 4.303, sd 0.2897.
        assert "fixed 3 0.09 ± 0.29 0.46 ± 0.72" in table
        assert "over the seeds" in table

    def test_without_gold_no_number_is_made_up(self, tmp_path: Path) -> None:
        html = report(tmp_path, [make_run(tmp_path / "mpo-0", gold=False)])
        assert "whether the policy got better is not known" in html
        assert 'id="figure-gold"' not in html
        result = text_between(html, 'id="arms"', 'id="curves"')
        assert "arm seeds reward start reward end rubrics mpo 1" in " ".join(result.split())
        for word in ("gold", "peak", "Hacked", "not known"):
            assert word not in result
        assert "reward above gold" not in html

    def test_figures_of_the_trainer_have_curves(self, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "mpo-0", gold=False)
        with Store(folder / "mpo.db") as store:
            for update in range(2, 23, 5):  # it logs every fifth update
                logs = {"loss": 0.5 / update, "entropy": 3.0, "learning_rate": 1e-6 * update}
                keep_figures(store, update, {**logs, "kl": float("nan")})
            keep_figures(store, 22, {"train_runtime": 3.0})  # the totals at the end
        html = report(tmp_path, [folder])
        for name in ("loss", "entropy", "learning_rate"):
            assert f'id="figure-{name}"' in html
        assert 'id="figure-kl"' not in html, "it never had a value"
        rates = " ".join(text_between(html, 'id="figure-learning_rate"', 'id="switches"').split())
        # Update 2 learns from the rollouts of step 1.
        assert "1 2e-06 6 7e-06 11 1.2e-05 16 1.7e-05 21 2.2e-05" in rates

    def test_each_simulated_part_is_named(self, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "mpo-0", steps=3)
        with Store(folder / "mpo.db") as store:
            keep_simulated(store, {"policy": True, "data": True, "judge": False})
        head = text_between(report(tmp_path, [folder]), "<header>", "<nav")
        assert "sandbox policy and data, real judge" in head
        assert "Real: judge." in head
        assert "declared biases" not in head
        with Store(folder / "mpo.db") as store:
            keep_simulated(store, {"policy": False, "data": False, "judge": False})
        assert "andbox" not in text_between(report(tmp_path, [folder]), "<header>", "<nav").replace(
            "policy sandbox by", ""
        )

    def test_what_matters_most_comes_first(self, html: str) -> None:
        first = text_between(html, "To look at first", 'id="curves"')
        order = (
            "the reward rose while gold fell",
            "Lint would have refused 1 of 1 rubric",
            "monitor phrase raised an alarm",
            "meta steps failed",
            "a change of scale",
        )
        places = [first.index(words) for words in order]
        assert places == sorted(places)

    def test_intervals_of_known_values(self) -> None:
        # t(2) = 4.303, sd 1, n 3; Welch by hand: 4.303 for 2 degrees of freedom would be too few.
        found = interval([1.0, None, 2.0, 3.0])
        assert found is not None
        assert (found.mean, found.half, found.n) == (2.0, pytest.approx(2.484, abs=1e-3), 3)
        assert interval([None]) is None
        change = welch([0.0, 1.0, 2.0], [10.0, 11.0, 12.0])
        assert change is not None
        assert (change.mean, change.half) == (10.0, pytest.approx(2.776 * (2 / 3) ** 0.5, abs=1e-3))


class TestRubric:
    def test_every_decision_is_there_with_its_diff_and_reasons(self, html: str) -> None:
        life = html[html.index('id="rubric"') : html.index('id="texts"')]
        for rubric in (SEED, BETTER, WORSE):
            assert rubric.id in life
        assert '<span class="add">+ criterion added: Praise' in life
        assert '<span class="del">- criterion removed: Discourse' in life
        for words in (
            "worse on the probes",
            "nobody answered",
            "Because of",
            "left out: rollout q",
            "agreement 0.25",
            "Lint: 1 error, 1 warning",
        ):
            assert words in life, words
        assert "probe rank 0.500 0.750" in text_between(html, 'id="rubric"', 'id="texts"')
        kinds = re.findall(r'<span class="badge (\w+)">(?:accepted|refused|failed|rollback)', life)
        assert kinds == ["accepted", "refused", "failed", "accepted"]

    def test_the_lineage_is_drawn_with_what_was_refused_and_taken_back(self, html: str) -> None:
        drawing = html[html.index('class="scroll lineage"') : html.index("</svg>")]
        nodes = re.findall(r'class="node (\w+)"', drawing)
        assert nodes == ["seed", "evolve", "refused", "failed", "rollback"]
        assert drawing.count('class="back"') == 1, "an arc leads back to the seed"

    def test_the_analyses_and_their_rollouts_are_packed(self, html: str) -> None:
        data = unpack(html, "texts")
        (row,) = data["cases"]["decision-mpo-0-1"]
        run, id, verdict, label, findings, advice, reasons, rubric = row
        assert data["runs"][run]["name"] == "mpo-0"
        assert (verdict, label, findings, advice) == ("too high", "bad", EVIL, "Be strict.")
        assert reasons == "It follows."
        assert rubric == BETTER.to_markdown()
        assert id in [row[-1] for row in data["rows"]]

    def test_every_mark_in_the_figures_leads_to_a_decision(self, html: str) -> None:
        plots = json.dumps(unpack(html, "plots"))
        assert set(re.findall(r"decision-[\w-]+", plots)) == {
            "decision-mpo-0-1",
            "decision-mpo-0-4",
        }

    def test_where_room_is_short_diffs_are_cut_and_say_so(self, tmp_path: Path) -> None:
        run = tmp_path / "long"
        run.mkdir()
        long = Rubric(
            criteria=tuple(Criterion(name=f"Part {n}", text="-- so\n--- what") for n in range(30))
        )
        with Store(run / "mpo.db") as store:
            store.decide(Decision(kind="seed", proposed=long.id, accepted=True, reason=""), long)
            store.decide(evolve(long, SEED, 1, True, "shorter", ""), SEED)
            store.append([judged(1, 0, SEED, 0.5)])
        loaded = load_run(run, 10)
        whole = decisions_section([loaded])
        assert whole.count("---- what") == 30, "a rubric's own dashes are no file name"
        assert "more lines" not in whole
        short = decisions_section([loaded], len(whole) - 1000)
        assert "more lines: mpo rubric diff" in short
        assert len(short) <= len(whole) - 1000

    def test_lint_says_which_rubric_should_not_have_come(self, html: str) -> None:
        said = text_between(html, "Lint would have refused", 'id="curves"')
        assert said.startswith("Lint would have refused 1 of 1 rubric that")
        assert "#1 (forbidden demand)" in said


class TestRollouts:
    def test_all_of_a_small_run_are_there_with_rationales(self, html: str) -> None:
        data = unpack(html, "texts")
        assert len(data["rows"]) == 176
        assert "All 176 rollouts are here." in html
        run, step, cohort, prompt, completion, gold, said, others, _ = data["rows"][-1]
        assert (data["runs"][run]["name"], step, cohort) == ("mpo-0", 21, "")
        assert data["prompts"][prompt] == f"Write. {EVIL}"
        assert completion.startswith(EVIL)
        assert gold == 0.475
        rubric, normalized, reward, unscored, rule, flags, scores, _ = said
        assert data["rubrics"][rubric][0] == SEED.id
        assert (normalized, reward, unscored, rule, flags) == (1.0, None, "", "", {})
        assert [[key, n, data["texts"][text]] for key, n, text in scores] == [
            ["discourse", 5, f"because {EVIL}"]
        ]
        assert others == []

    def test_what_was_replayed_stands_beside_it(self, tmp_path: Path) -> None:
        run = make_run(tmp_path / "mpo-0")
        (run / "replay").mkdir()
        with Store(run / "replay" / "x.db") as side:
            side.put_rubric(BETTER)
            side.append([judged(3, 0, BETTER, 0.6)])
        (run / "replay" / "torn.db").write_text("no store")
        data = unpack(report(tmp_path, [run]), "texts")
        (row,) = [row for row in data["rows"] if row[-2]]
        assert row[1] == 3
        ((rubric, normalized, *_),) = row[-2]
        assert (data["rubrics"][rubric][0], normalized) == (BETTER.id, 0.6)

    def test_where_room_is_short_those_behind_decisions_stay(self, pair: list[Path]) -> None:
        runs = [load_run(path, 1000) for path in pair]
        whole = pack_texts(runs, 10**6)
        assert (whole.shown, whole.total, whole.cut) == (176, 176, None)
        short = pack_texts(runs, len(whole.text) - 600)
        assert len(short.text) <= len(whole.text) - 600
        assert 4 < short.shown < 176
        html = f'<script type="text/plain" id="data-texts">{short.text}</script>'
        assert sum(bool(row[-1]) for row in unpack(html, "texts")["rows"]) == 4


class TestMonitorsAndCost:
    def test_alarms_last_as_long_as_they_called(self, html: str) -> None:
        said = text_between(html, 'id="monitors"', 'id="reproduce"')
        assert "mpo-0 8 to 9 phrase all say" in said
        assert "length mean words per completion 50.0 29.0 50.0 29.0" in said

    def test_gaps_and_cost_are_shown(self, html: str) -> None:
        said = text_between(html, 'id="monitors"', 'id="reproduce"')
        assert "mpo-0 truncated 1 1.14 %" in said
        assert "mpo-0 reward model 88 108,592 0 880 1.2500 0.50 s 2.00 s 3" in said
        assert "mpo-0 meta-reward model 14" in said, "what refused proposals cost counts too"

    def test_monitors_look_at_a_run_that_had_none(self, tmp_path: Path) -> None:
        folder = tmp_path / "scored"
        folder.mkdir()
        with Store(folder / "mpo.db") as store:
            store.decide(
                Decision(kind="seed", proposed=SEED.id, accepted=True, reason="seed"), SEED
            )
            for step, words in enumerate((100, 100, 20)):
                cases = [judged(step, n, SEED, 0.5, "word " * words) for n in range(256)]
                store.append(cases)
        said = text_between(report(tmp_path, [folder]), "<header>", 'id="reproduce"')
        assert "The policy's texts collapsed from 100 words to 20 at step 2" in said
        assert "The run kept no readings" in said


class TestReproduce:
    def test_config_versions_seeds_and_command(self, html: str) -> None:
        said = text_between(html, 'id="reproduce"', "</main>")
        assert "mpo train config.yaml --name mpo-0" in said
        assert "mpo-0 0 22 88 1 min 15 s" in said
        assert re.search(r"mpo \d+\.\d+\S*, Python 3\.", said)
        assert "batch_size: 64" in said
        assert "The whole comparison took 12.0 s." in said


class TestBadInput:
    def test_a_run_that_still_goes_has_a_report(self, tmp_path: Path) -> None:
        run = make_run(tmp_path / "mpo-0", steps=3)
        (run / "summary.json").unlink()
        (run / "config.yaml").unlink()
        assert "scored 1 0.00 0.10" in text_between(
            report(tmp_path, [run]), 'id="arms"', 'id="curves"'
        )

    def test_a_run_without_judgements_is_refused(self, tmp_path: Path) -> None:
        run = make_run(tmp_path / "mpo-0", steps=0)
        with pytest.raises(DataError, match="no rollout has been judged yet"):
            report(tmp_path, [run])
        with pytest.raises(StoreError, match="does not exist"):
            report(tmp_path, [tmp_path / "nothing"])

    def test_a_run_of_a_newer_schema_is_refused_with_its_number(self, tmp_path: Path) -> None:
        run = make_run(tmp_path / "mpo-0", steps=3)
        with sqlite3.connect(run / "mpo.db") as file:
            file.execute("PRAGMA user_version = 99")
        with pytest.raises(NewerStoreError, match="99"):
            report(tmp_path, [run])

    def test_a_place_that_cannot_be_written(self, tmp_path: Path, pair: list[Path]) -> None:
        (tmp_path / "out" / "report.html").mkdir(parents=True)
        with pytest.raises(StoreError, match="cannot be written"):
            report(tmp_path, pair)
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]


def test_the_published_run_shows_its_jump_its_collapse_and_its_faulty_rubrics(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    with Store(folder / "mpo.db") as store:
        write_experiment(read_experiment(shared_data("mpo-run")), store)
    html = report(tmp_path, [folder])
    first = text_between(html, "To look at first", 'id="curves"')
    assert (
        "A change of scale, not of quality: in theirs at step 10 the mean went from 3.35 of 5 "
        "points to 30.89 of 52" in first
    )
    assert "the mean fell: 0.67 → 0.59" in first
    assert "collapsed from 314 words to 57 at step 40" in first
    assert "as long as before at step 80" in first
    assert "Lint would have refused 3 of 13 rubrics" in first
    # Faulty rubrics weigh more than a change of scale.
    assert re.findall(r"#\d+ ", first) == ["#1 ", "#4 ", "#12 ", "#1 "]
    assert "step 10: #0 → #1 5 → 52 3.35 → 30.89 0.67 → 0.59 −0.08" in text_between(
        html, "What each switch did", 'id="rubric"'
    )
    data = unpack(html, "texts")
    assert sum(len(cases) for cases in data["cases"].values()) == 260
    assert len(data["rows"]) > 1000
    assert len(html.encode()) <= LARGEST


@pytest.mark.slow
def test_a_report_of_many_long_rollouts_stays_small(tmp_path: Path) -> None:
    """Texts of 300 words that share nothing but their vocabulary, five rationales each."""
    draw = random.Random(0)
    words = [
        "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 9)))
        for _ in range(3000)
    ]

    def text(n: int) -> str:
        return " ".join(draw.choices(words, k=n))

    rubric = Rubric(criteria=tuple(Criterion(name=f"Part {n}", text=text(9)) for n in range(5)))
    (tmp_path / "long").mkdir()
    with Store(tmp_path / "long" / "mpo.db") as store:
        store.decide(Decision(kind="seed", proposed=rubric.id, accepted=True, reason=""), rubric)
        for step in range(60):
            cases = []
            for index in range(60):
                rollout = Rollout(prompt=text(20), completion=text(300), step=step, index=index)
                scores = tuple(
                    CriterionScore(criterion=id, score=3, rationale=text(25))
                    for id in rubric.criterion_ids
                )
                judgement = Judgement(
                    key=rollout.id,
                    rollout_id=rollout.id,
                    rubric_id=rubric.id,
                    step=step,
                    scores=scores,
                    reward=0.6,
                    normalized_reward=0.6,
                )
                cases.append(Case(rollout=rollout, judgement=judgement))
            store.append(cases)
    out = tmp_path / "report.html"
    write_report([tmp_path / "long"], out)
    assert out.stat().st_size <= LARGEST
    data = unpack(out.read_text(), "texts")
    assert 500 < len(data["rows"]) < 3600, "not all fit"
    assert {row[1] for row in data["rows"]} == set(range(60)), "every step has some"


def test_keys_that_were_changed_on_the_way_are_shown(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    old, new = "http://a:1/v1", EVIL
    with Store(folder / "mpo.db") as store:
        store.log_changes([ConfigChange(step=7, key="chat.base_url", old=old, new=new)])
    page = report(tmp_path, [folder])
    (line,) = re.findall(r"<li>a: at update 7, .*?</li>", page)
    assert "<code>chat.base_url</code> from <code>&#x27;http://a:1/v1&#x27;</code> to" in line
    assert EVIL not in line
