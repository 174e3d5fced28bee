"""`mpo score`, `mpo evolve`, `mpo rubric`, `mpo task`: without a trainer, against a real socket."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.conftest import Endpoint, Mpo
from mpo.cli.task import app
from mpo.errors import TaskError
from mpo.rubric import parse_rubric
from mpo.task.template import write_task_template
from mpo_sandbox import corpus

SEED = 3
"""Whatever its biases are: the model is the same in both processes."""


def rollouts(n: int = 12) -> list[dict[str, Any]]:
    essays = corpus.generate(0, n, "a")
    return [{"prompt": e.prompt, "completion": e.text, "score": 5, "id": e.topic} for e in essays]


def http(endpoint: Endpoint) -> list[str]:
    return ["--chat", endpoint.url, "--model", f"sandbox-{SEED}"]


def test_score_keeps_rows_and_order_and_pays_once(run: Mpo, endpoint: Endpoint) -> None:
    rows = rollouts()
    file = run.write("a.jsonl", rows)
    printed = run.ok("score", file, *http(endpoint), "--json", "--out", "scored.jsonl")
    scored = [json.loads(line) for line in printed.splitlines()]
    assert [{key: row[key] for key in rows[0]} for row in scored] == rows
    assert all(0 <= row["reward"] <= 1 and row["scores"] for row in scored)
    assert (run.folder / "scored.jsonl").read_text() == printed
    assert endpoint.asked["judgement"] == len(rows)
    assert run.ok("score", file, *http(endpoint), "--json") == printed
    assert endpoint.asked["judgement"] == len(rows), "what is stored is not asked again"


def test_evolve_after_score_asks_only_for_the_rubric(run: Mpo, endpoint: Endpoint) -> None:
    file = run.write("a.jsonl", rollouts())
    table = run.ok("score", file, *http(endpoint))
    assert "sandbox" in table
    assert "12 completions" in table
    unchecked = ("--samples", "4", "--gate", "always", "--json")
    told = json.loads(run.ok("evolve", file, *http(endpoint), *unchecked))
    assert endpoint.asked["judgement"] == 12
    assert endpoint.asked["analysis"] == 4
    assert len(told["analyses"]) == 4
    assert parse_rubric(told["markdown"]).criteria
    assert told["usage"]["rm"]["calls"] >= 12, "the scores were paid for in the run before"


def test_http_and_in_process_agree(run: Mpo, endpoint: Endpoint) -> None:
    file = run.write("a.jsonl", rollouts())
    seed = ["--seed", str(SEED)]
    over_http = json.loads(run.ok("evolve", file, *http(endpoint), *seed, "--json"))
    direct = json.loads(
        run.ok("evolve", file, "--chat", "sandbox", *seed, "--json", "--store", "x.db")
    )
    for key in ("markdown", "diff", "reasons", "accepted", "analyses"):
        assert over_http[key] == direct[key]


def test_evolve_prints_rubric_diff_and_why(run: Mpo) -> None:
    file = run.write("a.jsonl", rollouts(24))
    rubric = run.write("r.md", "# Mine\n## Overall\nHow good the essay is.\n")
    told = run.ok("evolve", file, "--rubric", rubric, "--chat", "sandbox", "--out", "new.md")
    written = parse_rubric((run.folder / "new.md").read_text())
    assert written.to_markdown() in told
    assert "# Mine" in told
    assert "\nwhy\n" in told
    [store] = (run.folder / "runs").glob("offline-*/mpo.db")
    assert run.ok("rubric", "show", store, "seed") == rubric.read_text().replace(
        "## Overall\n", "## Overall  (weight 1)\n"
    )
    change = run.ok("rubric", "diff", rubric, "new.md")
    assert "## Overall" in change or change.startswith("no change")
    lineage = json.loads(run.ok("rubric", "show", store.parent, "--lineage", "--json"))
    assert [entry["kind"] for entry in lineage] == ["seed", "evolve"]
    again = run.ok("evolve", file, "--rubric", rubric, "--chat", "sandbox")
    assert again == told.replace("\nwritten to new.md", ""), "the same command repeats its answer"


def test_task_check(run: Mpo) -> None:
    assert run.ok("task", "check", "essay").startswith("essay: ok")
    folder = run.folder / "mine"
    folder.mkdir()
    run.write("mine/task.yaml", "name: mine\ndescription: d\nrm: {protocol: dialog}\n")
    run.write("mine/rubric.md", "nothing here\n")
    done = run("task", "check", folder)
    assert done.returncode == 1
    assert "task.yaml:3" in done.stderr
    assert "rubric.md" in done.stderr
    assert "no criterion found" in done.stderr
    told = run("task", "check", folder, "--json")
    assert told.returncode == 1
    assert json.loads(told.stdout)["ok"] is False


GOOD = [{"prompt": "p", "completion": "c"}]
DOWN = ["--chat", "http://127.0.0.1:9/v1", "--model", "m"]


@pytest.mark.parametrize(
    ("rows", "arguments", "words"),
    [
        (GOOD, DOWN, "nobody answers at http://127.0.0.1:9/v1"),
        (GOOD, ["--chat", "http://127.0.0.1:9/v1"], "--model is missing"),
        (GOOD, ["--chat", "sandbox", "--rubric", "gone.md"], "gone.md': no such file"),
        (GOOD, ["--chat", "sandbox", "--rubric", "a.jsonl"], "no criterion found"),
        (GOOD, ["--chat", "sandbox", "--task", "esay"], "unknown task 'esay'"),
        ([], ["--chat", "sandbox"], "is empty"),
        ([{"prompt": "p"}], ["--chat", "sandbox"], "a.jsonl:1: 'completion' is missing"),
        ([{"prompt": "p", "completion": [3]}], ["--chat", "sandbox"], "'completion' must be text"),
        (
            [*GOOD, {**GOOD[0], "human_score": "good"}],
            ["--chat", "sandbox"],
            "a.jsonl:2: 'human_score' must be a number or null, not 'good'",
        ),
        (
            [{**GOOD[0], "score": True}],
            ["--chat", "sandbox"],
            "a.jsonl:1: 'score' must be a number",
        ),
        ([{**GOOD[0], "rationale": [3]}], ["--chat", "sandbox"], "'rationale' must be text"),
        (
            GOOD,
            ["--chat", "sandbox", "--price", "cheap"],
            "--price 'cheap': write PROMPT,COMPLETION",
        ),
    ],
)
def test_bad_input_is_one_line(
    run: Mpo, rows: list[dict[str, Any]], arguments: list[str], words: str
) -> None:
    run.write("a.jsonl", rows)
    command = "evolve" if rows == GOOD else "score"  # both open their input the same way
    assert words in run.refused(command, "a.jsonl", *arguments)
    assert not (run.folder / "runs").exists(), "nothing was begun"


def test_a_model_that_the_endpoint_does_not_know(run: Mpo, endpoint: Endpoint) -> None:
    run.write("a.jsonl", rollouts(3))
    told = run.refused("score", "a.jsonl", "--chat", endpoint.url, "--model", "gpt")
    assert "none of the first 3 completions could be scored" in told
    assert "gpt" in told


CHATS = [
    {
        "conversations": [
            {"from": "human", "value": "Where is my parcel?"},
            {"from": "gpt", "value": t},
        ]
    }
    for t in ("It is on its way, and it comes on Friday.", "I do not know.", "I do not know.")
]


def test_a_file_of_conversations_needs_no_task(run: Mpo, endpoint: Endpoint) -> None:
    """Duplicates are paid for once, a bad row is left out and counted, and nobody says essay."""
    rows = [*CHATS, {"conversations": [{"from": "human", "value": "Hello?"}]}]
    run.write("a.jsonl", rows)
    told = run.refused("score", "a.jsonl", *http(endpoint))
    assert "a.jsonl:4: 'conversations' ends with a message of role 'user'" in told
    assert not endpoint.asked
    done = run("score", "a.jsonl", *http(endpoint), "--skip-bad", "--json")
    first, note, *_ = done.stderr.splitlines()
    assert first.startswith("task: generic")
    assert note.startswith("a.jsonl: 1 of 4 rows left out; the first: a.jsonl:4: ")
    assert note.endswith("1 of 3 rows repeat an earlier one: each counts once")
    scored = [json.loads(line) for line in done.stdout.splitlines()]
    assert [{"conversations": row["conversations"]} for row in scored] == CHATS
    assert scored[1]["reward"] == scored[2]["reward"] is not None
    assert endpoint.asked["judgement"] == 2
    shown = run.ok("task", "show", "generic", "--data", "a.jsonl", "--row", "2")
    assert "Where is my parcel?" in shown
    assert "I do not know." in shown
    assert "=== meta-reward model, request 1 of " in shown
    assert "essay" not in shown.lower()


def test_task_check_opens_the_data_set(tmp_path: Path) -> None:
    def check(*options: str) -> tuple[str, Any]:
        told = CliRunner().invoke(app, ["check", str(tmp_path / "mine"), *options])
        return told.output, told.exception

    def write(*rows: dict[str, Any]) -> None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "mine/sample.jsonl").write_text(text)

    write_task_template(tmp_path / "mine")
    write({"instruction": "Say hello."}, {"instruction": None})
    output, error = check()
    assert "sample.jsonl:1: 'prompt' is missing; the columns are instruction" in output
    assert isinstance(error, TaskError)
    columns = ("--columns", "prompt=instruction")
    output, error = check(*columns)
    assert "sample.jsonl:2: 'instruction' (prompt) must be text" in output
    assert "1 of 2 rows cannot be used" in output
    assert isinstance(error, TaskError)
    write({"instruction": "Say hello."})
    body = json.loads(check(*columns, "--json")[0])
    assert (body["rows"], body["first_prompt"]) == (1, "Say hello.")


def test_every_key_of_a_chat_is_an_option(run: Mpo, endpoint: Endpoint) -> None:
    run.write("a.jsonl", rollouts(1))
    arguments = ["score", "a.jsonl", *http(endpoint), "--chat-option"]
    run.ok(*arguments, "extra_body.top_k=3", "--chat-option", "extra_body={top_k: 5, seed: null}")
    probe, judged = endpoint.bodies
    for body in (probe, judged):
        assert body["top_k"] == 5
        assert "seed" not in body
    assert "did you mean 'chat.timeout_s'?" in run.refused(*arguments, "timeout=9")


LIMITED = """
    import resource, sys
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
    sys.argv[0] = "mpo"
    from mpo.cli import main
    main()
"""


def test_a_full_disk_is_one_line_and_loses_nothing(run: Mpo, endpoint: Endpoint) -> None:
    """A limit on the size of any file stands for the disk: the same error path."""
    assert resource.RLIMIT_FSIZE is not None
    file = run.write("a.jsonl", rollouts(120))
    program = [sys.executable, "-c", textwrap.dedent(LIMITED.format(limit=300_000))]
    done: subprocess.CompletedProcess[str] = run(
        "score", file, "--task", "essay", *http(endpoint), program=program
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr, done.stderr
    _, line = done.stderr.splitlines()  # after what it would cost
    assert line.startswith("error: ")
    assert "mpo.db" in line
    paid = endpoint.asked["judgement"]
    printed = run.ok("score", file, "--task", "essay", *http(endpoint), "--json")
    assert len(printed.splitlines()) == 120
    asked = endpoint.asked["judgement"] - paid
    assert asked < 120, "what was stored before the disk was full is still there"
