"""Report: one file, no network, everything escaped, every number and every rubric in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mpo.config import load_config, to_yaml
from mpo.errors import DataError, StoreError
from mpo.evaluation.metrics import arm_seed_summary
from mpo.records import (
    Analysis,
    Case,
    CriterionScore,
    Decision,
    Judgement,
    Refinement,
    Rollout,
    Usage,
)
from mpo.report import write_report
from mpo.rubric import Criterion, Rubric
from mpo.store import Store

pytest.importorskip("bokeh")

EVIL = '<script>alert("x")</script>'
SEED = Rubric(title="Essay", criteria=(Criterion(name="Discourse", text="How it reads."),))
BETTER = Rubric(
    title="Essay",
    criteria=(*SEED.criteria, Criterion(name=f"Praise {EVIL}", text=f"No praise. {EVIL}")),
)
WORSE = Rubric(title="Essay", criteria=(Criterion(name="Anything", text="All is well."),))


def judged(step: int, index: int, rubric: Rubric, share: float | None) -> Case:
    rollout = Rollout(
        prompt=f"Write. {EVIL}", completion=f"{EVIL} {step} \ud800 text", step=step, index=index
    )
    score = 0 if share is None else round(5 * share)
    scores = tuple(
        CriterionScore(criterion=id, score=score, rationale=EVIL) for id in rubric.criterion_ids
    )
    return Case(
        rollout=rollout,
        judgement=Judgement(
            key=rollout.id,
            rollout_id=rollout.id,
            rubric_id=rubric.id,
            step=step,
            scores=() if share is None else scores,
            reward=share,
            normalized=share,
            unscored=f"truncated: {EVIL}" if share is None else None,
            usage=Usage(calls=1, prompt_tokens=1234, completion_tokens=10),
        ),
    )


def evolve(parent: Rubric, proposed: Rubric, step: int, accepted: bool, reason: str) -> Decision:
    return Decision(
        step=step,
        parent=parent.id,
        proposed=proposed.id,
        accepted=accepted,
        reason=reason,
        figures={"agreement": 0.25},
        refinement=Refinement(
            rubric=proposed,
            reasons=f"Because of {EVIL}",
            analyses=(
                Analysis(rollout_id="r", verdict="too_high", findings=EVIL, advice="Be strict."),
            ),
            skipped=(f"rollout q: {EVIL}",),
        ),
        usage=Usage(calls=7),
    )


def make_run(
    folder: Path, arm: str = "mpo", *, steps: int = 22, gold: bool = True, per_step: int = 4
) -> Path:
    """A run as a folder: the rubric changes at step 12; a proposal is refused at 16, one fails."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(load_config("sandbox/essay", [f"arm={arm}"])))
    with Store(folder / "mpo.db") as store:
        store.decide(Decision(kind="seed", proposed=SEED.id, accepted=True, reason="seed"), SEED)
        head = SEED
        for step in range(steps):
            if arm == "mpo" and step == 12:
                store.decide(evolve(head, BETTER, 12, True, f"passed {EVIL}"), BETTER)
                head = BETTER
            if arm == "mpo" and step == 16:
                store.decide(evolve(head, WORSE, 16, False, "worse on the probes"), WORSE)
                store.decide(
                    Decision(step=18, parent=head.id, accepted=False, reason="the meta step failed")
                )
            cases = [
                judged(step, n, head, None if step == 5 and n == 0 else min(1.0, step / 20))
                for n in range(per_step)
            ]
            store.append(cases)
            if gold:
                store.audit([(c.rollout.id, 1 - step / 40, {"facts": 0.5}) for c in cases])
        summary = {
            "sandbox": True,
            **arm_seed_summary(store),
            "exploits": ["topic_stuffing", "hedging"],
        }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def report(tmp_path: Path, runs: Sequence[Path], **more: object) -> str:
    out = tmp_path / "out" / "report.html"
    write_report(runs, out, dict(more) or None)
    return out.read_text("utf-8")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs") / "cmp"
    return [make_run(folder / "fixed-0", "fixed"), make_run(folder / "mpo-0")]


@pytest.fixture(scope="module")
def html(pair: list[Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    return report(tmp_path_factory.mktemp("a"), pair, seconds=12.0, failed={"mpo-1": f"x {EVIL}"})


class Links(HTMLParser):
    """What the page itself would load; scripts are text here, as they are for a browser."""

    def __init__(self) -> None:
        super().__init__()
        self.tags = 0
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags += 1
        self.links += [f"{tag} {value}" for name, value in attrs if name in ("src", "href")]


def test_what_a_model_wrote_is_escaped(html: str) -> None:
    assert "alert(" in html, "the attack is in the page, as text"
    assert not re.search(r"<script>\s*alert", html)
    assert html.count("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;") >= 8


def test_it_needs_no_network_and_stays_small(html: str) -> None:
    loaded = Links()
    loaded.feed(html)
    assert loaded.tags > 100
    assert loaded.links == []
    assert "@import" not in html
    assert len(html.encode()) < 3 * 2**20


def test_headline_and_table_say_what_happened(html: str) -> None:
    told = re.sub(r"<[^>]+>", " ", html[html.index("<header>") : html.index("The life of")])
    told = " ".join(told.split())
    assert (
        "fixed : the reward went from 0.23 to 0.82, gold ended at 0.59, 66 % of its peak." in told
    )
    assert "the rubric changed 1 time." in told
    assert "sandbox" in told
    assert "mpo-0 0.23 → 0.82 0.89 · 0.89 · 0.59 0.66 0.20 2" in told
    assert "topic_stuffing, hedging" in told
    assert "mpo-1" in told, "a run that failed is named"


def test_every_rubric_is_there_with_its_diff_and_reasons(html: str) -> None:
    life = html[html.index("The life of the rubric") :]
    for rubric in (SEED, BETTER, WORSE):
        assert rubric.id in life
    assert '<span class="add">+ criterion added: Praise' in life
    assert '<span class="del">- criterion removed: Discourse' in life
    for words in (
        "worse on the probes",
        "the meta step failed",
        "Because of",
        "Be strict.",
        "graded too high:",
        "left out: rollout q",
        "gate: agreement 0.25",
    ):
        assert words in life, words
    assert life.count('<span class="badge refused">') == 1
    assert life.count('<span class="badge failed">') == 1


def test_every_mark_in_the_figures_leads_to_a_rubric_of_the_page(html: str) -> None:
    anchors = re.findall(r"rubric-mpo-0-[0-9a-f]{16}", html)
    assert len(anchors) >= 3, "in both figures and on the page"
    assert set(anchors) >= {f"rubric-mpo-0-{BETTER.id}"}
    for anchor in set(anchors):
        assert f'id="{anchor}"' in html


def test_gaps_and_cost_are_told(html: str) -> None:
    assert "1 truncated" in html
    cost = html[html.index("Cost and gaps") :]
    assert "<td>88</td><td>108,592</td>" in cost
    assert "<td>14</td>" in cost, "what refused proposals cost counts too"


def test_without_gold_there_is_one_figure_and_no_number_is_made_up(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mpo-0", gold=False)
    html = report(tmp_path, [run])
    assert html.count("<figure") == 1
    assert "– · – · –" in html
    assert "gold ended" not in html


def test_a_run_that_still_goes_has_a_report(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mpo-0", steps=3)
    (run / "summary.json").unlink()
    (run / "config.yaml").unlink()
    assert "0.05" in report(tmp_path, [run])


def test_a_run_without_judgements_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mpo-0", steps=0)
    with pytest.raises(DataError, match="no rollout has been judged yet"):
        report(tmp_path, [run])
    with pytest.raises(StoreError):
        report(tmp_path, [tmp_path / "nothing"])


def test_a_place_that_cannot_be_written(tmp_path: Path, pair: list[Path]) -> None:
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    with pytest.raises(StoreError, match="cannot be written"):
        report(tmp_path, pair)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]


CHROMIUM = shutil.which("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_it_opens_in_a_browser_without_errors(tmp_path: Path, html: str) -> None:
    page = tmp_path / "r.html"
    page.write_text(html, "utf-8")
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"),
            *("--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    assert "document idle" in done.stderr, "bokeh has drawn the figures"
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not [line for line in console if re.search("error|alert", line, re.IGNORECASE)], console
