"""`mpo report` as a person calls it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys

import pytest

from cli.conftest import Mpo, environment
from report.material import make_run

pytest.importorskip("bokeh")


def test_it_writes_where_it_says_and_opens_a_browser(run: Mpo) -> None:
    make_run(run.folder / "runs" / "a", steps=4)
    browser = run.folder / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {run.folder}/opened\n')
    browser.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "mpo", "report", "a", "--open"],
        cwd=run.folder,
        env=environment(BROWSER=f"{browser} %s"),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == "report: runs/a/report.html\n"
    page = run.folder / "runs" / "a" / "report.html"
    assert (run.folder / "opened").read_text().strip() == page.resolve().as_uri()
    assert "<h1>a " in page.read_text()


def test_a_run_of_a_newer_mpo_is_one_clear_error(run: Mpo) -> None:
    newer = make_run(run.folder / "runs" / "newer", steps=2)
    with sqlite3.connect(newer / "mpo.db") as file:
        file.execute("PRAGMA user_version = 99")
    said = run.refused("report", "newer")
    assert "99" in said
    assert "newer" in said
