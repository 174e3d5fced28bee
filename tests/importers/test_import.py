"""Runs of the published code: the real one, and a small one in each of its layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from importers.experiment import NEXT, SEED, answer, meta, published, row, write
from mpo.errors import DataError
from mpo.importers import Imported, read_experiment, write_experiment
from mpo.importers.convert import UnparsedError, read_scores
from mpo.rubric import parse_rubric
from mpo.store import Store
from shared_data import shared_data


def arrive(folder: Path, store: Path) -> tuple[Imported, Store]:
    opened = Store(store)
    return write_experiment(read_experiment(folder), opened), opened


class TestPublishedFolder:
    def test_all_of_it_arrives(self, tmp_path: Path) -> None:
        found, store = arrive(published(tmp_path / "run"), tmp_path / "a.db")
        assert (found.rollouts, found.rubrics, found.meta_evaluations) == (7, 2, 2)
        assert [(s.step, s.n, s.scored, s.mean_reward) for s in store.steps()] == [
            (10, 3, 3, 1.0),
            (20, 4, 1, 7.0),
        ]
        assert [case.rollout.prompt for case in store.window()] == [
            "Write about tea.",
            "Write about sea.",
            "Write about tea.",
            "Write about tea.",
        ]
        first = store.window(up_to_step=10)[0].judgement
        assert [(s.criterion, s.score, s.rationale) for s in first.scores] == [
            ("flow", 1, "because of 1")
        ]
        assert first.normalized_reward == 0.5

    def test_what_does_not_fit_the_rubric_is_listed_and_stays_unscored(
        self, tmp_path: Path
    ) -> None:
        found, store = arrive(published(tmp_path / "run"), tmp_path / "a.db")
        assert [(u["update"], u["rank"], u["index"]) for u in found.unparsed] == [
            (20, "cuda:0", 1),
            (20, "cuda:0", 2),
            (20, "cuda:0", 3),
        ]
        assert store.unscored() == {"out_of_range": 1, "wrong_number": 1, "wrong_sum": 1}

    def test_the_rubrics_are_a_lineage_with_their_analyses(self, tmp_path: Path) -> None:
        _, store = arrive(published(tmp_path / "run"), tmp_path / "a.db")
        seed, evolved = store.lineage()
        assert (seed.kind, seed.proposed) == ("seed", parse_rubric(SEED).id)
        assert (evolved.kind, evolved.step, evolved.parent) == ("evolve", 10, seed.proposed)
        assert evolved.accepted
        assert evolved.reason == "imported"
        assert store.head() == parse_rubric(NEXT)
        refinement = evolved.refinement
        assert refinement is not None
        tea, sea = store.window(up_to_step=10)[:2]
        assert refinement.evidence == (tea.rollout.id, sea.rollout.id)
        assert refinement.labels == {tea.rollout.id: "bad", sea.rollout.id: "bad"}
        assert [(a.rollout_id, a.verdict, a.findings) for a in refinement.analyses] == [
            (tea.rollout.id, "unknown", "The score of 'Tea.' is too high."),
            (sea.rollout.id, "unknown", "The score of 'Sea.' is too high."),
        ]
        (proposal,) = refinement.proposals
        assert proposal.rollout_id == tea.rollout.id
        (skipped,) = refinement.skipped
        assert skipped.startswith(f"case 2 ({sea.rollout.id})")

    def test_an_evaluation_tells_the_rubric_where_files_are_missing(self, tmp_path: Path) -> None:
        folder = write(
            tmp_path / "run",
            {
                "prompts/evaluation_rubric_iter_0.txt": SEED,
                "prompts/evaluation_rubric_iter_1.txt": NEXT,
                "rollouts/rollouts-20-cuda:0.json": [row("tea", "Tea is hot.", 2, 5)],
                "evaluations/meta_evaluation_results_20.json": [
                    meta("tea", "Tea is hot.", NEXT, NEXT)
                ],
            },
        )
        found, store = arrive(folder, tmp_path / "a.db")
        assert not found.unparsed
        assert store.window()[0].judgement.rubric_id == parse_rubric(NEXT).id
        assert found.notes == ("update 20: its analyses led to no rubric file, and are left out",)


def test_cohorts_have_rubrics_and_lineages_of_their_own(tmp_path: Path) -> None:
    def solved(subject: int, cluster: int, score: int) -> dict[str, Any]:
        return {
            "junior_scores": score,
            "junior_evaluations": answer(score)[0],
            "queries": "user\nSolve.\nProblem: 1+1?\nYour solution with answer:\nassistant\n",
            "student_responses": f"Two, {score} times.",
            "domain_ids": subject,
            "cluster_ids": cluster,
            "solutions": "2",
        }

    guidelines = "Be consistent."
    files: dict[str, Any] = {
        f"prompts/{subject}/cluster-{cluster}/evaluation_rubric_iter_{n}.txt": f"{guidelines} {n}"
        for subject in ("algebra", "geometry")
        for cluster in (1, 2)
        for n in (0, 1)
    }
    files["rollouts/rollouts-10-cuda:0.json"] = [solved(0, 2, 3), solved(2, 1, 5)]
    files["evaluations/meta_evaluation_results_10.json"] = [
        {
            "domain": "algebra",
            "cluster_id": 2,
            "meta_analysis": "Too mild.",
            "meta_refinement": f"{guidelines} 1",
            "meta_level_guidelines": f"{guidelines} 0",
        }
    ]
    found, store = arrive(write(tmp_path / "run", files), tmp_path / "a.db")
    assert (found.rollouts, found.rubrics, found.unparsed) == (2, 8, ())
    assert set(store.heads()) == {"algebra-1", "algebra-2", "geometry-1", "geometry-2"}
    (case,) = store.window(cohort="algebra-2")
    assert (case.rollout.prompt, case.rollout.columns["solution"]) == ("1+1?", "2")
    assert case.judgement.reward == 3
    last = store.lineage("algebra-2")[-1]
    assert last.step == 10
    assert last.refinement is not None
    assert last.refinement.analyses[0].findings == "Too mild."
    assert not [line for line in last.findings if line.startswith("error ")]


@pytest.mark.parametrize(
    ("answers", "total", "word"),
    [
        (["<reason>cut\n<score>1</score>"], 1, "broken_tags"),
        ([None], 1, "no_text"),
        (None, -10, "no_text"),
        (["no answer"], 0, "wrong_number"),
        (answer(1, 1), 2, "wrong_number"),
        (answer(7), 7, "out_of_range"),
        (answer(-1), -1, "out_of_range"),
        (answer(1), None, "no_sum"),
        (answer(1), float("nan"), "no_sum"),
        (answer(1), 2, "wrong_sum"),
    ],
)
def test_nothing_is_guessed(answers: Any, total: Any, word: str) -> None:
    with pytest.raises(UnparsedError, match=f"^{word}: "):
        read_scores(answers, total, parse_rubric(SEED))


RUBRIC = {"prompts/evaluation_rubric_iter_0.txt": SEED}
ROLLOUTS = "rollouts/rollouts-10-cuda:0.json"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"readme.txt": "nothing"}, "no experiment of the published MPO code"),
        (RUBRIC, "no rollouts"),
        ({"prompts/evaluation_rubric_iter_0.txt": "<rubric></rubric>"}, "no criterion"),
        ({**RUBRIC, ROLLOUTS: "[{"}, "not JSON"),
        ({**RUBRIC, ROLLOUTS: {}}, "no list of rows"),
        ({**RUBRIC, ROLLOUTS: [1]}, "no JSON object"),
        ({**RUBRIC, ROLLOUTS: [{"queries": "q"}]}, "'student_responses' is missing"),
        (
            {**RUBRIC, ROLLOUTS: [row("a", "A", 1) | {"domain_ids": 9}]},
            "there is no cohort with domain",
        ),
        (
            {**RUBRIC, ROLLOUTS: [row("a", "A", 1) | {"domain_ids": 0, "cluster_ids": 1}]},
            "cohort 'algebra-1', for which there is no rubric",
        ),
        (
            {
                **RUBRIC,
                ROLLOUTS: [row("a", "A", 1)],
                "rollouts/rollouts-20-cuda:0.json": [row("a", "B", 1)],
            },
            "its rubric evaluation_rubric_iter_N.txt is missing",
        ),
        ({**RUBRIC, "rollouts.jsonl": '{"queries": "q", "student_responses": "a"}'}, "'update'"),
        ({**RUBRIC, "rollouts.jsonl.gz": "not packed"}, "cannot be read"),
    ],
)
def test_a_broken_folder_is_one_clear_error(
    tmp_path: Path, files: dict[str, Any], says: str
) -> None:
    folder = write(tmp_path / "run", files)
    with pytest.raises(DataError, match=says.replace("'", ".")):
        arrive(folder, tmp_path / "a.db")


def test_the_real_run_arrives_whole(tmp_path: Path) -> None:
    folder = shared_data("mpo-run")
    experiment = read_experiment(folder)
    store = Store(tmp_path / "mpo.db")
    found = write_experiment(experiment, store)
    assert (found.rollouts, found.rubrics, found.meta_evaluations) == (4160, 14, 260)
    # The rationale was cut by its token limit, in the middle of Chinese.
    assert [(u["update"], u["rank"], u["index"]) for u in found.unparsed] == [(90, "2", 24)]
    assert store.unscored() == {"broken_tags": 1}
    totals = {(r.update, r.rank, r.index): r.row["junior_scores"] for r in experiment.rollouts}
    cases = store.window(scored=None)
    assert len(cases) == 4160
    for case, total in zip(cases, totals.values(), strict=True):
        if case.judgement.reward is not None:
            assert sum(s.score for s in case.judgement.scores) == case.judgement.reward == total
    steps = store.steps()
    assert [s.step for s in steps] == list(range(10, 131, 10))
    means = [round(s.mean_reward or 0, 2) for s in steps[:2]]
    assert means == pytest.approx([3.35, 30.9], abs=0.05)
    lineage = store.lineage()
    assert [d.step for d in lineage] == list(range(0, 131, 10))
    analysed = [d.refinement for d in lineage if d.refinement is not None]
    assert [(len(r.analyses), len(r.proposals)) for r in analysed] == [(20, 20)] * 13
    assert all(len(set(r.evidence)) == 20 for r in analysed)
    refused = {
        number: {line.split()[1] for line in decision.findings if line.startswith("error ")}
        for number, decision in enumerate(lineage)
    }
    assert {number: codes for number, codes in refused.items() if codes} == {
        1: {"forbidden_demand"},
        4: {"starts_mid_sentence"},
        12: {"starts_mid_sentence", "ends_mid_sentence", "garbage_criterion"},
    }
