"""`mpo import` as a person runs it."""

from __future__ import annotations

import json

from cli.conftest import Mpo
from importers.experiment import published


def test_the_other_commands_work_on_it(run: Mpo) -> None:
    published(run.folder / "theirs")
    out = json.loads(run.ok("import", "theirs", "--name", "a", "--json"))
    assert {k: out[k] for k in ("rollouts", "rubrics", "meta_evaluations", "run")} == {
        "rollouts": 7,
        "rubrics": 2,
        "meta_evaluations": 2,
        "run": "runs/a",
    }
    assert len(out["unparsed"]) == 3
    folder = run.folder / "runs" / "a"
    assert sorted(p.name for p in folder.iterdir()) == ["mpo.db", "rubrics", "summary.json"]
    assert len(list((folder / "rubrics").glob("*.md"))) == 2
    assert "criterion added: Facts" in run.ok("rubric", "diff", "a")
    assert "exists: choose another --name" in run.refused("import", "theirs", "--name", "a")
    run.ok("report", "runs/a")
    assert "out_of_range" in (folder / "report.html").read_text("utf-8")


def test_a_folder_that_is_none_leaves_nothing(run: Mpo) -> None:
    assert "no such folder" in run.refused("import", "theirs", "--name", "a")
    (run.folder / "theirs").mkdir()
    assert "no experiment" in run.refused("import", "theirs", "--name", "a")
    assert not (run.folder / "runs").exists()
