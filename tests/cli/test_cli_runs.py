"""Runs and rubrics as a person names them, and the tables of a pipe."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mpo.cli.replay import app as replay_app
from mpo.cli.report import app as report_app
from mpo.cli.rubric import app as rubric_app
from mpo.cli.rubric_choice import choose_cohort, choose_rubric
from mpo.cli.runs import expand, find_place, find_run, open_store
from mpo.cli.tables import in_brackets, print_table, table
from mpo.errors import ConfigError, MPOError, RubricError
from mpo.records import Decision
from mpo.rubric import Rubric
from mpo.store import Store
from report.material import BETTER, SEED, WORSE, make_run


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(here: Path) -> Path:
    return make_run(here / "runs" / "a", steps=22)


def ok(app: typer.Typer, *arguments: object) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


@contextmanager
def refused(*words: str) -> Iterator[None]:
    """One line with all the words; no other kind of error."""
    with pytest.raises(MPOError) as caught:
        yield
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


# ---------------------------------------------------------------------- runs


def test_a_run_is_found_by_folder_store_name_and_config(run: Path, here: Path) -> None:
    other = shutil.copy(run / "mpo.db", run / "other.db")
    shutil.copy(run / "mpo.db", here / "mine.sqlite")
    for text, store in (
        ("a", "runs/a/mpo.db"),
        ("runs/a", "runs/a/mpo.db"),
        ("runs/a/", "runs/a/mpo.db"),
        ("runs/a/mpo.db", "runs/a/mpo.db"),
        ("runs/a/config.yaml", "runs/a/mpo.db"),
        ("a/config.yaml", "runs/a/mpo.db"),
        ("runs/a/other.db", "runs/a/other.db"),
        ("a/other.db", "runs/a/other.db"),
        (str(other), str(other)),
        ("mine.sqlite", "mine.sqlite"),
    ):
        assert str(find_run(text).store) == store
    # A folder of this name without a run does not hide the run.
    (here / "a").mkdir()
    assert str(find_run("a").store) == "runs/a/mpo.db"


def test_a_config_names_the_run_that_was_started_from_it(run: Path, here: Path) -> None:
    shutil.copy(run / "config.yaml", here / "mine.yaml")
    with refused("mine.yaml is a config", "runs/essay-mpo-0 holds no run of it"):
        find_run("mine.yaml")
    run.rename(here / "runs" / "essay-mpo-0")
    assert str(find_run("mine.yaml").store) == "runs/essay-mpo-0/mpo.db"


def test_what_is_no_run_is_one_line(run: Path, here: Path) -> None:
    (here / "empty").mkdir()
    (here / "started").mkdir()
    shutil.copy(run / "config.yaml", here / "started")
    (here / "junk.db").write_text("not a database, but long enough to be read as one" * 9)
    (here / "empty.db").touch()
    (here / "folder.db").mkdir()
    with sqlite3.connect(here / "foreign.db") as file:
        file.execute("CREATE TABLE t (x)")
    with sqlite3.connect(shutil.copy(run / "mpo.db", here / "newer.db")) as file:
        file.execute("PRAGMA user_version = 99")
    for text, words in (
        ("gone", "no run 'gone'"),
        ("aa", "did you mean 'a'?"),
        ("gone.db", "no run 'gone.db'"),
        ("x" * 400, "no run"),
        ("nul\0", "no run"),
        ("", "no run ''"),
        ("empty", "it has no mpo.db"),
        ("started", "its run made no store yet"),
        ("runs/a/summary.json", "is not the store of a run"),
        ("junk.db", "not a database"),
        ("empty.db", "is empty"),
        ("folder.db", "is not the folder of a run"),
        ("foreign.db", "of another program"),
        ("newer.db", "99"),
    ):
        with refused(words):
            open_store(text)


def test_several_runs_are_expanded_or_named(run: Path, here: Path) -> None:
    make_run(here / "runs" / "b", steps=3)
    Store(here / "runs" / "b" / "later.db").close()
    assert [str(one.store) for one in expand(find_place("runs"))] == [
        "runs/a/mpo.db",
        "runs/b/mpo.db",
    ]
    with refused("holds several runs", "runs/a", "runs/b"):
        find_run("runs")
    (here / "mine").mkdir()
    shutil.copy(run / "mpo.db", here / "mine" / "essay.db")
    assert str(find_run("mine").store) == "mine/essay.db"


def test_a_report_is_about_the_store_that_is_named(run: Path, here: Path) -> None:
    pytest.importorskip("bokeh")
    other = make_run(here / "elsewhere", "fixed", steps=3)
    shutil.copy(other / "mpo.db", run / "other.db")
    assert ok(report_app, "runs/a/other.db") == "report: runs/a/other-report.html\n"
    page = (run / "other-report.html").read_text()
    assert "12 rollouts judged" in page
    assert "The run has no config" in page, "config.yaml is that of mpo.db"
    assert not (run / "report.html").exists()
    ok(report_app, "runs/a")
    assert "88 rollouts judged" in (run / "report.html").read_text()
    assert ok(report_app, "runs/a", "runs/a/mpo.db", "--out", "x.html") == "report: x.html\n"
    assert "88 rollouts judged" in Path("x.html").read_text(), "it is the same run twice"


def test_replays_of_a_named_store_are_its_own(run: Path) -> None:
    shutil.copy(run / "mpo.db", run / "other.db")
    arguments = ["a/other.db", "--chat", "sandbox", "--limit", "3", "--json"]
    out = json.loads(ok(replay_app, *arguments, "--rubric", "1"))
    assert (out["rubric"], out["rollouts"]) == (BETTER.id, 3)
    assert (run / "other-replay" / f"{BETTER.id}.db").is_file()
    assert not (run / "replay").exists()
    with refused("was never in effect"):
        CliRunner().invoke(
            replay_app, [*arguments, "--rubric", WORSE.id[:4]], catch_exceptions=False
        )


# ---------------------------------------------------------------------- rubrics


@pytest.mark.parametrize(
    ("which", "rubric"),
    [
        ("0", SEED),
        ("1", BETTER),
        ("#1", BETTER),
        (" # 1 ", BETTER),
        ("seed", SEED),
        ("head", SEED),  # it came back
        (SEED.id, SEED),
        (BETTER.id[:5].upper(), BETTER),
        (WORSE.id[:6], WORSE),  # refused, and shown by its id
    ],
)
def test_a_rubric_is_named_as_the_screens_do(run: Path, which: str, rubric: Any) -> None:
    with open_store("a") as store:
        assert choose_rubric(store, which) == rubric
    assert ok(rubric_app, "show", "a", which) == rubric.to_markdown()


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("2", "the run has rubrics 0 (the seed) to 1"),
        ("#x", "the run has rubrics 0"),
        ("#", "the run has rubrics 0"),
        ("-1", "there is no rubric '-1'"),
        ("", "there is no rubric ''"),
        ("zz", f"the last are {SEED.id} (#0), {BETTER.id} (#1)"),
        ("9" * 30, "there is no rubric"),
        ("#" + "9" * 6000, "there is no rubric"),
        ("x #1", "has no cohort 'x'"),
    ],
)
def test_what_is_no_rubric_names_those_that_are(run: Path, which: str, words: str) -> None:
    with open_store("a") as store, refused(words):
        choose_rubric(store, which)


def test_an_ambiguous_start_lists_what_it_fits(here: Path) -> None:
    made = (Rubric(title=f"Essay {n}", criteria=SEED.criteria) for n in range(100))
    rubrics = {rubric.id[:2]: rubric for rubric in made if rubric.id[0].isalpha()}
    first = next(iter(rubrics.values()))
    others = [r for start, r in rubrics.items() if start[0] == first.id[0]]
    assert len(others) > 1
    with Store(here / "s.db") as store:
        store.plant_seed("", first)
        for rubric in others:
            store.put_rubric(rubric)
        with refused("give more digits", f"{first.id} (#0)", "(never in effect)"):
            choose_rubric(store, first.id[0])
        assert choose_rubric(store, first.id[:2]) == first


def test_numbers_and_heads_are_a_cohorts_own(here: Path) -> None:
    with Store(here / "s.db") as store:
        with refused("has no rubric yet"):
            choose_rubric(store, "head")
        for cohort, new in (("algebra", BETTER), ("geometry", WORSE)):
            store.plant_seed(cohort, SEED)
            decision = Decision(
                step=1,
                cohort=cohort,
                parent=SEED.id,
                proposed=new.id,
                accepted=True,
                reason="better",
            )
            store.decide(decision, new)
        assert choose_rubric(store, "seed") == choose_rubric(store, "0") == SEED
        assert choose_rubric(store, "geometry #1") == choose_rubric(store, "1", "geometry") == WORSE
        assert choose_rubric(store, "head", "algebra") == BETTER
        for which in ("head", "1"):
            with refused("add --cohort", f"algebra ({BETTER.id})", f"geometry ({WORSE.id})"):
                choose_rubric(store, which)
        with refused("add --cohort; algebra, geometry"):
            choose_cohort(store, "")
        with refused("its cohorts: algebra, geometry"):
            choose_cohort(store, "history")
    shown = ok(rubric_app, "show", "s.db", "--lineage")
    assert "algebra #1" in shown
    ok(rubric_app, "rollback", "s.db", "0", "--cohort", "algebra")
    with open_store("s.db") as store:
        assert store.heads() == {"algebra": SEED.id, "geometry": WORSE.id}


def test_diff_and_rollback_take_numbers(run: Path) -> None:
    assert json.loads(ok(rubric_app, "diff", "a", "0", "#1", "--json"))["new"] == BETTER.id
    assert BETTER.id in ok(rubric_app, "rollback", "a", "1")
    with pytest.raises(ConfigError, match="in effect already"):
        CliRunner().invoke(rubric_app, ["rollback", "a", "head"], catch_exceptions=False)
    Path("r.md").write_text(SEED.to_markdown())
    with pytest.raises(RubricError, match="is a run: write its rubric to a file"):
        CliRunner().invoke(rubric_app, ["lint", "runs/a"], catch_exceptions=False)
    with pytest.raises(ConfigError, match="name a second one"):
        CliRunner().invoke(rubric_app, ["diff", "r.md"], catch_exceptions=False)
    with pytest.raises(ConfigError, match="it has no rubric '1'"):
        CliRunner().invoke(rubric_app, ["show", "r.md", "1"], catch_exceptions=False)


# ---------------------------------------------------------------------- tables


def test_a_piped_table_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    name, title = "a long name of a criterion " * 9, "a title of many words " * 9
    heads = [f"figure number {n}" for n in range(20)]
    cells = [f"{n}.123456789" for n in range(20)]
    print_table(table(title, heads, [[name, *cells, "faults " * 40]], words="faults"))
    first, head, row = capsys.readouterr().out.splitlines()
    assert first.strip() == title.strip()
    assert " ".join(head.split()) == " ".join([*heads, "faults"])
    assert " ".join(row.split()) == " ".join([name.strip(), *cells, ("faults " * 40).strip()])


def test_a_column_without_a_value_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["[red]x[/]", "–", "1", "", "– → –"], None, ["y", "", "–"]]
    print_table(table("", ("gone", "kept", "empty", "both"), rows, words="words"))
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["kept"]
    assert [line.split() for line in lines if line.strip()] == [["[red]x[/]", "1"], ["y", "–"]]


def test_each_simulated_part_is_named() -> None:
    parts = {"policy": True, "data": True, "judge": False}
    assert in_brackets(parts) == " (sandbox policy and data, real judge)"
    assert in_brackets({"judge": True}) == " (sandbox judge)"
    assert in_brackets(dict.fromkeys(parts, True)) == " (sandbox policy, data and judge)"
    assert in_brackets(dict.fromkeys(parts, False)) == in_brackets({}) == ""
