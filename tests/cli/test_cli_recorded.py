"""`mpo evaluate recorded`: a published log, and files that do not fit."""

from __future__ import annotations

import pytest

from cli.conftest import Here
from shared_data import shared_data


def test_the_published_accuracies_of_llmbar(here: Here) -> None:
    folder = shared_data("llmbar")
    source, pairs = folder / "recorded.jsonl.gz", folder / "pairs.jsonl.gz"
    body = here.json("recorded", source, "--pairs", pairs, "--panel", "GPT-4,ChatGPT")
    both = {(j["judge"], j["protocol"]): j["accuracy_both"] for j in body["judges"]}
    assert both["GPT-4", "Vanilla"] == pytest.approx(84.5, abs=0.05)
    assert both["GPT-4", "Metrics_Reference"] == pytest.approx(87.2, abs=0.05)
    assert both["ChatGPT", "Metrics_Reference"] == pytest.approx(48.8, abs=0.05)
    assert both["LLaMA2", "Vanilla"] == pytest.approx(44.3, abs=0.05)
    assert {p["protocol"] for p in body["panels"]} == {p for j, p in both if j == "ChatGPT"}


def test_ratings_name_a_winner_and_odd_labels_are_refused(here: Here) -> None:
    log, pairs = here.folder / "log.csv", here.folder / "pairs.csv"
    log.write_text("judge,id,score_1,score_2\na,x,5,3\na,y,2,2\na,z,1,4\n")
    pairs.write_text("id,label\nx,1\ny,1\nz,1\n")
    [judge] = here.json("recorded", log, "--pairs", pairs)["judges"]
    assert judge["accuracy_one_order"] == pytest.approx(50)
    assert judge["consistency"] is None
    pairs.write_text("id,label\nx,better\n")
    assert "must be 1 or 2" in here.refused("recorded", log, "--pairs", pairs)
