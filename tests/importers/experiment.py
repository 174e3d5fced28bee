"""A small run in the published code's layout, written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SEED = "<rubric>\n<item>\n### Flow\n- 0: none\n- 1: some\n- 2: full\n</item>\n</rubric>\n"
NEXT = SEED.replace("</rubric>", "<item>\n### Facts\n- 0: none\n- 5: many\n</item>\n</rubric>")
QUERY = (
    "system\nYou are a helpful assistant.\nuser\nYou will act as an English writer.\n\n"
    "Instructions:\nWrite about {}.\n\nYour Writing:\n\nassistant\n"
)


def answer(*scores: object) -> list[str]:
    return [f"<reason>because of {s}</reason> <score>{s}</score> " for s in scores]


def row(topic: str, text: str, *scores: int, total: float | None = None) -> dict[str, Any]:
    return {
        "junior_scores": float(sum(scores)) if total is None else total,
        "junior_evaluations": answer(*scores),
        "queries": QUERY.format(topic),
        "student_responses": text,
    }


def meta(topic: str, text: str, refinement: str, junior_prompt: str) -> dict[str, Any]:
    return {
        "junior_prompt": junior_prompt.strip(),
        "meta_analysis": f"The score of {text!r} is too high.",
        "meta_refinement": f"Junior Instructor's Scoring Criteria Set #1:\n{refinement}\n",
        "task_description": "You will act as an English writer.",
        "student_prompt": f"Write about {topic}.",
        "student_generation": text,
        "junior_score": 1.0,
        "prescreened_verdict": "bad",
    }


def write(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return folder


def published(folder: Path) -> Path:
    """Two intervals by two ranks, and the meta step after the first."""
    return write(
        folder,
        {
            "prompts/mrm_merge.txt": "a template",
            "prompts/evaluation_rubric_iter_0.txt": SEED,
            "prompts/evaluation_rubric_iter_1.txt": NEXT,
            "rollouts/rollouts-10-cuda:0.json": [row("tea", "Tea.", 1), row("sea", "Sea.", 2)],
            "rollouts/rollouts-10-cuda:1.json": [row("tea", "Tea again.", 0)],
            "rollouts/rollouts-20-cuda:0.json": [
                row("tea", "Tea is hot.", 2, 5),
                row("tea", "Tea is cold.", 2, 3),  # no such level
                row("tea", "Tea is wet.", 1),  # a score is missing
                row("tea", "Tea is tea.", 1, 5, total=7.0),
            ],
            "evaluations/meta_evaluation_results_10.json": [
                meta("tea", "Tea.", NEXT, SEED),
                meta("sea", "Sea.", "no rubric here", SEED),
            ],
        },
    )
