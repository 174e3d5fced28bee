"""The report in a real browser: Debian's Chromium, driven by Playwright.

Without one of them the tests are skipped with a message; continuous integration installs both.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpo.store import Store
from report.material import BETTER, CLOSING, EVIL, judged, make_run, report

pytest.importorskip("bokeh")

WIDTHS = (1280, 390)
DECISION = "decision-mpo_0-1"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; skips where there is none, fails there in continuous integration."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        found, missing = None, "playwright is not installed"
    else:
        found, missing = shutil.which("chromium"), "chromium is not installed"
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{missing}: the report must be opened in a real browser")
        pytest.skip(f"{missing}: the report is not opened in a browser")
    with sync_playwright() as playwright:
        # As root, in a container, Chromium has no sandbox of its own.
        yield playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run = make_run(folder / "mpo 0")
    (run / "replay").mkdir()
    with Store(run / "replay" / "x.db") as side:
        side.put_rubric(BETTER)
        side.append([judged(3, 0, BETTER, 0.6)])
    report(folder, [run, make_run(folder / "fixed-0", "fixed")])
    return folder / "out" / "report.html"


class Opened:
    """A page with all that its console said."""

    def __init__(self, browser: Any, file: Path, **more: Any) -> None:
        self.faults: list[str] = []
        self.page = browser.new_page(offline=True, **more)
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: self.faults.append(f"dialog {dialog.message}"))
        self.page.on("request", self._asked)
        self.page.goto(file.as_uri())
        self.page.wait_for_selector('html[data-figures="drawn"]', timeout=60_000)

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith(("file:", "blob:", "data:")):
            self.faults.append(f"asked for {request.url}")

    def found(self) -> str:
        """What the list of rollouts says about itself."""
        return str(self.page.locator("#found").text_content())


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Opened]:
    shown = Opened(browser, page_file, viewport={"width": 1280, "height": 900})
    yield shown
    shown.page.close()
    assert shown.faults == []


def place(opened: Opened, step: int) -> tuple[float, float]:
    """Of the reward's mark at a step, on the screen."""
    opened.page.locator("#plot-reward").scroll_into_view_if_needed()
    x, y = opened.page.evaluate(
        """(step) => {
          const plot = Bokeh.documents[0].roots()[0];
          const view = Bokeh.index.get_one(plot);
          const marks = [...plot.references()].filter((m) => m.type === "ColumnDataSource")
            .map((m) => m.data).find((d) => d.anchor && Array.from(d.step).includes(step));
          const i = Array.from(marks.step).indexOf(step);
          const box = view.el.getBoundingClientRect();
          return [box.left + view.frame.x_scale.compute(step),
                  box.top + view.frame.y_scale.compute(marks.mean[i])];
        }""",
        step,
    )
    return x, y


def test_a_mark_shows_its_values_and_a_click_its_diff(opened: Opened) -> None:
    decision = opened.page.locator(f"#{DECISION}")
    assert decision.get_attribute("open") is None
    x, y = place(opened, 12)
    opened.page.mouse.move(x, y)
    opened.page.get_by_text("click to see what changed").first.wait_for(timeout=10_000)
    opened.page.mouse.click(x, y)
    opened.page.wait_for_selector(f"#{DECISION}[open]", timeout=10_000)
    diff = decision.locator("pre.diff")
    assert diff.is_visible()
    assert "criterion added: Praise" in str(diff.text_content())
    assert opened.page.evaluate("document.activeElement.parentElement.id") == DECISION


def test_a_node_of_the_lineage_opens_its_decision_by_keyboard(opened: Opened) -> None:
    opened.page.locator(".lineage a.refused").focus()
    opened.page.keyboard.press("Enter")
    refused = opened.page.locator("details.decision.refused[open]")
    assert "worse on the probes" in str(refused.text_content())
    cases = refused.locator("details.cases")
    cases.locator("> summary").click()
    cases.locator("details.case > summary").click()
    cases.get_by_text("Be strict.").wait_for()
    cases.locator("details.rollout > summary").click()
    scores = cases.locator("details.rollout td.words")
    scores.first.wait_for()
    assert scores.first.text_content() == f"because {EVIL}", (
        "the rollout behind it, with its scores"
    )


def test_a_filter_narrows_the_rollouts(opened: Opened) -> None:
    assert opened.found() == "176 of 176 rollouts"
    form = opened.page.locator("#filter")
    form.locator('[name="run"]').select_option("mpo 0")
    assert opened.found() == "88 of 176 rollouts"
    form.locator('[name="from"]').fill("12")
    assert opened.found() == "40 of 176 rollouts"
    form.locator('[name="low"]').fill("0.9")
    assert opened.found() == "16 of 176 rollouts"
    form.locator('[name="rubric"]').select_option("#1")
    assert opened.found() == "8 of 176 rollouts"
    form.locator('[name="flag"]').select_option("grader_address")
    assert opened.found() == "2 of 176 rollouts"
    form.get_by_text("Clear").click()
    opened.page.get_by_text("176 of 176 rollouts").wait_for()
    form.locator('[name="flag"]').select_option("unscored")
    assert opened.found() == "2 of 176 rollouts"


def test_a_hostile_text_is_shown_and_does_nothing(opened: Opened) -> None:
    opened.page.locator('#filter [name="flag"]').select_option("under another rubric")
    rollout = opened.page.locator("#rollouts details.rollout")
    rollout.locator("> summary").click()
    rollout.locator("> .body").wait_for()
    shown = str(rollout.text_content())
    assert f"{EVIL} {CLOSING} 3 " in shown
    assert f"because {EVIL}" in shown
    assert "The same rollout under rubric #1: reward 0.60" in shown
    assert opened.page.locator("img").count() == 0
    opened.page.locator("button[data-rollout]").first.click()
    assert opened.found().startswith("1 rollout, chosen above")


def test_arms_are_hidden_and_the_theme_is_switched(opened: Opened) -> None:
    button = opened.page.locator("button.arm").first
    visible = "Bokeh.documents[0].roots()[0].renderers.filter((r) => r.visible).map((r) => r.name)"
    assert set(opened.page.evaluate(visible)) == {"mpo", "fixed"}
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert set(opened.page.evaluate(visible)) == {"fixed"}
    before = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    opened.page.locator("#theme").click()
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") != before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_screenshots(browser: Any, page_file: Path, tmp_path: Path, scheme: str) -> None:
    """To be looked at: MPO_SCREENSHOTS names a folder to keep them in."""
    keep = Path(os.environ.get("MPO_SCREENSHOTS", tmp_path))
    for width in WIDTHS:
        size = {"width": width, "height": 844}
        shown = Opened(browser, page_file, viewport=size, color_scheme=scheme)
        shown.page.locator(f"#{DECISION}").evaluate("node => { node.open = true }")
        wide = shown.page.evaluate("document.documentElement.scrollWidth")
        assert wide == width, "the page itself never scrolls sideways"
        picture = keep / f"report-{width}-{scheme}.png"
        shown.page.screenshot(path=picture, full_page=True)
        assert picture.stat().st_size > 50_000
        assert shown.faults == []
        shown.page.close()
