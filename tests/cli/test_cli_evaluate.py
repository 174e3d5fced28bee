"""`mpo evaluate`: files, runs, and a judge on a real loopback socket."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cli.conftest import Here, Mpo
from mpo.cli.evaluate import COMMANDS
from mpo.records import Case, CriterionScore, Judgement, Rollout
from mpo.rubric import parse_rubric
from mpo.sanitize import find_fences
from mpo.store import Store
from shared_data import shared_data


class Judge:
    """An OpenAI-compatible judge on a loopback socket: the longer response is better."""

    def __init__(self) -> None:
        self.asked = 0
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        text = body["messages"][-1]["content"]
        schema = body["response_format"]["json_schema"]["schema"]
        if schema["title"] == "probe":  # the client finds out whether a schema is enforced
            content = json.dumps({"word": schema["properties"]["word"]["enum"][0]})
        else:
            self.asked += 1
            a, b = find_fences(text, "RESPONSE")
            winner = "tie" if len(a) == len(b) else "A" if len(a) > len(b) else "B"
            content = json.dumps({"reason": "it is longer", "winner": winner})
        message = {"role": "assistant", "content": content}
        return web.json_response(
            {
                "model": body["model"],
                "choices": [{"message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": len(text.split()), "completion_tokens": 9},
            }
        )

    async def _open(self) -> None:
        server = web.Application()
        server.router.add_post("/v1/chat/completions", self.answer)
        self._runner = web.AppRunner(server)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    def start(self) -> None:
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()

        def serve() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._open())
            ready.set()
            self._loop.run_forever()

        self._thread = threading.Thread(target=serve, daemon=True)
        self._thread.start()
        assert ready.wait(10)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def judge() -> Iterator[Judge]:
    served = Judge()
    served.start()
    yield served
    served.stop()


def test_help_of_every_command_has_an_example(here: Here) -> None:
    listed = here.ok("--help")
    for name, line in COMMANDS.items():
        assert name in listed
        shown = " ".join(here.ok(name, "--help").split())
        assert line in shown
        assert f"mpo evaluate {name} " in shown.partition("Example")[2], shown


# ---------------------------------------------------------------------- rank


def test_elo_of_a_published_file_in_a_process_of_its_own(run: Mpo) -> None:
    folder = shared_data("elo")
    file = folder / "32b_32b-vs-32b_72b-1.jsonl.gz"
    shown = run.ok("evaluate", "rank", file, *"--method elo --k 4 --start 1000 --json".split())
    stored = json.loads((folder / "32b_32b-vs-32b_72b-1.scores.json").read_text())
    assert json.loads(shown) == {"elo": stored}


def test_the_published_files_together(here: Here) -> None:
    folder = shared_data("elo")
    files = sorted(folder.glob("*.jsonl.gz"))
    found = here.json("rank", *files, "--method", "elo")
    merged = json.loads((folder / "32b_32b-vs-32b_72b-merged.scores.json").read_text())
    assert {"mean elo": found["elo"], "mean stds": found["elo_std"]} == merged
    for file in files:
        stored = Path(str(file).replace(".jsonl.gz", ".scores.json"))
        assert found["files"][str(file)] == {"elo": json.loads(stored.read_text())}
    shown = here.ok("rank", *files, "--resamples", "50")
    assert "2500 games of 2 models on 1852 prompts, in 5 files" in shown
    assert "291 of 401 pairs (72.6 %)" in shown
    assert "1017.9" in shown, "Bradley-Terry beside Elo"
    assert "1018.5" in shown


def game(a: str, b: str, winner: Any, query: str = "q") -> dict[str, Any]:
    return {"query": query, "model_a": a, "model_b": b, "winner": winner}


def test_a_json_list_with_ties(here: Here) -> None:
    games = [game("x", "y", "tie"), game("y", "x", "x", "r"), game("x", "y", None, "s")]
    (here.folder / "list.json").write_text(json.dumps(games))
    (here.folder / "list.json.gz").write_bytes(gzip.compress(json.dumps(games).encode()))
    for name in ("list.json", "list.json.gz"):
        found = here.json("rank", name, "--k", "32")
        assert found["elo"] == {"x": 1016, "y": 984}
        assert set(found["bt"]["x"]) == {"rating", "low", "high"}
        assert (found["games"], found["ties"], found["unjudged"]) == (2, 1, 1)
        assert found["win_rate"]["x"]["raw"] == 0.75
    assert set(here.json("rank", "list.json", "--method", "bt")) == {"bt"}
    here.write("won.jsonl", [games[1]])
    assert "no finite rating for x, y" in here.ok("rank", "won.jsonl")
    shown = here.ok("rank", "list.json")
    assert "1 games have no verdict" in shown
    assert "no pair was judged in both orders" in shown


def generations(here: Here, **models: str) -> list[Path]:
    """Files of models that write their word as often as the prompt's number says."""
    return [
        here.write(
            f"{name}.jsonl",
            [{"prompt": f"p{n}", "completion": " ".join([word] * n)} for n in range(1, 5)],
        )
        for name, word in models.items()
    ]


def test_generations_are_judged_once(here: Here, judge: Judge) -> None:
    files = generations(here, long="wonderful", short="fine")
    http = ["--chat", judge.url, "--model", "gpt"]
    told = here.refused("rank", *files, *http)
    assert "8 calls for 8 games" in told
    assert "nothing was sent yet; add --yes" in told
    assert judge.asked == 0
    found = here.json("rank", *files, *http, "--yes", "--price-per-mtok", "2.5,10")
    assert "about $0.0" in here.stderr
    assert judge.asked == found["judged"]["calls"] == found["games"] == 8
    assert found["judged"]["judge"] == "gpt"
    assert found["bt"]["long"]["rating"] > found["bt"]["short"]["rating"]
    assert found["elo"]["long"] > 1000 > found["elo"]["short"]
    assert found["swap_consistency"]["rate"] == 1
    assert found["win_rate"]["long"]["raw"] == 1
    assert here.json("rank", *files, *http)["elo"] == found["elo"], "without --yes: nothing to pay"
    assert judge.asked == 8
    third = generations(here, middle="splendid")
    assert here.json("rank", *files, *third, *http, "--yes")["judged"]["calls"] == 16
    (kept,) = (here.folder / "runs" / "verdicts").glob("*.jsonl")
    assert here.json("rank", kept)["games"] == 24, "the verdict file is one to rank from"
    renamed = here.json("rank", f"base={files[0]}", f"mpo={files[1]}", *http)
    assert set(renamed["elo"]) == {"base", "mpo"}
    assert judge.asked == 24


RUBRIC = parse_rubric("# R\n## One\nHow.\n## Two\nHow.\n")


def store_of(path: Path, model: str, twist: int = 0) -> Path:
    """A run of 20 rollouts, scored by `model`."""
    path.parent.mkdir(parents=True)
    store = Store(path)
    store.put_rubric(RUBRIC)
    for n in range(20):
        rollout = Rollout(
            prompt=f"p{n // 2}",
            completion=r"so \boxed{4}, <verdict>RIGHT</verdict>",
            columns={"answer": str(4 + n % 2), "label": "RIGHT", "reference": "so it is", "n": n},
        )
        scores = (n % 6, (n + twist) % 6)
        reward = sum(scores) / 10
        judgement = Judgement(
            key=str(n),
            rollout_id=rollout.id,
            rubric_id=RUBRIC.id,
            scores=tuple(
                CriterionScore(criterion=key, score=score)
                for key, score in zip(RUBRIC.criterion_ids, scores, strict=True)
            ),
            reward=reward,
            normalized_reward=reward,
            model=model,
        )
        store.append([Case(rollout=rollout, judgement=judgement)])
    store.close()
    return path.parent


def test_the_rm_as_judge_is_warned_of(here: Here, judge: Judge) -> None:
    files = generations(here, long="wonderful", short="fine")
    run = store_of(here.folder / "runs" / "a" / "mpo.db", "org/Qwen")
    http = ["--chat", judge.url, "--yes", "--run", run, "--limit", "1"]
    here.json("rank", *files, *http, "--model", "qwen")
    assert "warning: 'qwen' gave the reward" in here.stderr
    here.json("rank", *files, *http, "--model", "another")
    assert "warning" not in here.stderr
    Store(here.folder / "empty.db").close()
    told = here.refused("rank", *files, *http[:4], here.folder / "empty.db", "--model", "m")
    assert "has no judgements" in told
    assert judge.asked == 4


ROW = {"prompt": "p", "completion": "c"}


@pytest.mark.parametrize(
    ("files", "arguments", "words"),
    [
        ([[ROW], []], [], "f1.jsonl is empty"),
        ([[ROW], [ROW]], [], "say who compares them, --chat URL --model NAME"),
        ([[ROW], [ROW]], ["--chat", "sandbox"], "compares none"),
        ([[ROW], [{**ROW, "prompt": "q"}]], ["--chat", "URL"], "no prompt is common to f0, f1"),
        (
            [[ROW, {**ROW, "prompt": "q"}], [ROW]],
            ["--chat", "URL"],
            "'f1' has no output for 1 of 2 prompts",
        ),
        ([[ROW]], ["--chat", "URL"], "at least two models; there is f0"),
        ([[ROW], [ROW]], ["--chat", "URL"], "--model is missing"),
        ([[ROW], [ROW]], ["--chat", "URL", "--price-per-mtok", "x"], "write PROMPT,COMPLETION"),
        ([[ROW], [ROW]], ["--chat", "URL", "--baseline", "z"], "no model is called 'z'"),
        (
            [[game("a", "b", "a"), game("c", "d", "c")]],
            [],
            "2 parts that were never compared",
        ),
        ([[game("a", "b", "z")]], [], "f0.jsonl, row 1: winner 'z' is neither 'a' nor 'b'"),
        ([[game("a", "b", "a")], [ROW]], [], "f1.jsonl holds no verdicts"),
    ],
)
def test_what_cannot_be_ranked_is_said_before_anything_is_paid(
    here: Here, judge: Judge, files: list[list[dict[str, Any]]], arguments: list[str], words: str
) -> None:
    for number, rows in enumerate(files):
        here.write(f"f{number}.jsonl", rows)
    names = [f"f{number}.jsonl" for number in range(len(files))]
    told = here.refused("rank", *names, *[a.replace("URL", judge.url) for a in arguments])
    assert words in told
    assert judge.asked == 0
    assert not (here.folder / "runs").exists()


# ---------------------------------------------------------------------- math, verdict, rouge


def test_metrics_of_a_file_and_of_a_run(here: Here) -> None:
    rows = [{"prompt": "p", "solution": r"\boxed{2}", "completion": r"\boxed{2}", "type": "A"}] * 3
    file = here.write("m.jsonl", [*rows, {**rows[0], "completion": "2", "prompt": "q"}])
    found = here.json("math", file)
    assert (found["accuracy"], found["n"], found["no_answer"]) == (0.75, 4, 1)
    assert found["by_subject"]["A"]["n"] == 4
    assert "75.0 %" in here.ok("math", file)
    run = store_of(here.folder / "runs" / "a" / "mpo.db", "m")
    assert here.json("math", run)["accuracy"] == 0.5
    assert here.json("math", "a", "--mode", "train")["n"] == 20, "a run's name is enough"
    told = here.json("verdict", run)
    assert (told["accuracy"], told["majority"]["accuracy"]) == (1, 1)
    assert "always RIGHT" in here.ok("verdict", run)
    overlap = here.json("rouge", run)
    assert set(overlap) == {"rouge1", "rouge2", "rougeL", "rougeLsum", "n"}
    assert 0 < overlap["rouge1"]["f1"] < 100
    assert "rougeLsum" in here.ok("rouge", run, "--reference", "reference")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["math", "gone.jsonl"], "gone.jsonl: no such file"),
        (["math", "gone"], "no run 'gone'"),
        (["math", "empty.jsonl"], "empty.jsonl is empty"),
        (["math", "plain.jsonl"], "plain.jsonl:1: has no 'answer' and no 'solution'"),
        (["math", "empty.db"], "has no rollouts yet"),
        (["verdict", "plain.jsonl"], "has no label in"),
        (["rouge", "plain.jsonl", "--reference", "gold"], "no text in 'gold'"),
        (["judge", "empty.db"], "has no judgements yet"),
        (["judge", "newer.db"], "has schema 99, and this version of mpo reads"),
        (["math", "newer.db"], "has schema 99, and this version of mpo reads"),
        (["judge", "empty.jsonl", "--chat", "sandbox"], "empty.jsonl is empty"),
        (["judge", "plain.jsonl", "--chat", "sandbox"], "holds no preference pair"),
        (["judge", "pairs.jsonl"], "say which reward model scores the pairs"),
        (["judge", "plain.jsonl", "--compare", "a"], "write two columns"),
        (["judge", "plain.jsonl", "--compare", "a,b"], "plain.jsonl:1: 'a' is missing"),
        (["judge", "plain.jsonl", "empty.db"], "only files of preference pairs may be several"),
        (["generate", "empty.jsonl", "m"], "empty.jsonl is empty"),
        (["generate", "plain.jsonl", "./gone"], "no checkpoint './gone'"),
        (["generate", "plain.jsonl", "a=x", "a=y"], "two checkpoints are called 'a'"),
        (["generate", "plain.jsonl", "../x=y"], "'../x' is no name for a file"),
    ],
)
def test_what_cannot_be_measured(here: Here, arguments: list[str], words: str) -> None:
    here.write("empty.jsonl", [])
    here.write("plain.jsonl", [ROW])
    here.write("pairs.jsonl", [{"prompt": "p", "chosen": "c", "rejected": "r"}])
    Store(here.folder / "empty.db").close()
    Store(here.folder / "newer.db").close()
    with contextlib.closing(sqlite3.connect(here.folder / "newer.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert words in here.refused(*arguments)
    assert not (here.folder / "runs").exists()
    assert not (here.folder / "outputs").exists()


# ---------------------------------------------------------------------- judge


def test_a_rubric_on_pairs(here: Here) -> None:
    good = "First, rain fills the well. Therefore people drink, and because they drink they live."
    pairs = [
        {"prompt": f"Write about {n}.", "chosen": f"{good} {n}", "rejected": "Rain"}
        for n in range(3)
    ]
    here.write("easy.jsonl", pairs)
    (here.folder / "Hard").mkdir()
    bar = [{"input": "Write.", "output_1": "Rain", "output_2": good, "label": 2}]
    (here.folder / "Hard" / "dataset.json").write_text(json.dumps(bar))
    files = ["easy.jsonl", "Hard/dataset.json"]
    found = here.json("judge", *files, "--chat", "sandbox")
    assert (found["pairs"], found["unscored"]) == (4, 0)
    assert set(found["by_subset"]) == {"easy", "Hard"}
    assert found["by_subset"]["Hard"]["pairs"] == 1
    assert found["baselines"] == {"length": 1.0, "tie": 0.5}
    assert 0 <= found["accuracy"] <= 1
    shown = here.ok("judge", *files, "--chat", "sandbox")
    assert "always tie" in shown
    assert "easy" in shown
    limited = here.json("judge", *files, "--chat", "sandbox", "--limit", "1")
    assert limited["pairs"] == 2
    again = here.json("judge", found["store"])
    assert again["n"] == 8, "the store that it leaves can be looked into"


def test_criteria_and_agreement_of_runs(here: Here) -> None:
    one = store_of(here.folder / "runs" / "a" / "mpo.db", "m")
    two = store_of(here.folder / "runs" / "b" / "mpo.db", "n", twist=1)
    found = here.json("judge", one)
    assert [c["name"] for c in found["criteria"]] == ["One", "Two"]
    assert found["criteria"][0]["faults"] == ["redundant"]
    assert found["dead_groups"] == 0
    assert "redundant" in here.ok("judge", "a", "--which", RUBRIC.id[:6])
    told = here.json("judge", one, "--other", two)
    first, second = (told["criteria"][key] for key in RUBRIC.criterion_ids)
    assert first["kappa_quadratic"] == 1
    assert second["kappa_quadratic"] < 1
    assert told["reward"]["n"] == 10, "rollouts of one prompt with one text are one response"
    shown = here.ok("judge", one, "--other", two)
    assert "κ quadratic" in shown
    assert "Two" in shown


def test_agreement_of_two_columns(here: Here) -> None:
    rows = [{"score": n % 6, "human_score": n % 6 // 2} for n in range(30)]
    file = here.write("s.jsonl", [*rows, {"score": None, "human_score": 3}])
    found = here.json("judge", file, "--compare", "score,human_score")
    assert (found["n"], found["unscored"]) == (30, 1)
    assert 0 < found["spearman"] < 1
    # 0 to 5 beside 0 to 2: nobody can tell whether that is one scale.
    shown = here.ok("judge", file, "--compare", "score,human_score")
    assert "score runs from 0 to 5 and human_score from 0 to 3: these may be two scales" in shown
    assert "α ordinal" not in shown
    assert (found["exact"], found["alpha_ordinal"], found["comparable"]) == (None, None, False)

    known = ["judge", file, "--compare", "score,human_score", "--scales"]
    rescaled = here.ok(*known, "0:5,0:3")
    assert "score (0 to 5) and human_score (0 to 3) were rescaled to 0 to 1" in rescaled
    assert "α ordinal" in rescaled
    same = here.json(*known, "0:5")
    assert same["exact"] == pytest.approx(1 / 6)
    assert same["remark"] == ""
    assert "4 is not on the scale 0 to 3: correct --scales" in here.refused(*known, "0:3,0:3")
    for wrong in ("0", "5:0", "a:b", "0:1,0:1,0:1", "0:inf", "0:nan"):
        assert "write LOW:HIGH,LOW:HIGH" in here.refused(*known, wrong)


@pytest.mark.parametrize(
    ("columns", "comparable"),
    [
        (([0.1, 0.5, 0.9], [0.2, 0.4, 0.95]), True),  # shares of the points
        (([1, 3, 5], [1, 2, 5]), True),
        (([0.2, 0.5, 1.0], [1, 3, 5]), False),  # normalized beside raw
        (([1, 3, 5], [2, 6, 10]), False),
        (([1, 5, 5], [1, 5, 7]), False),
        (([-1, 0, 1], [0.0, 0.5, 1.0]), False),  # a preference beside a score
        (([0, 1, 1], [0.2, 0.4, 0.9]), False),  # a label beside a score
    ],
)
def test_columns_that_may_be_on_two_scales_are_ranked_only(
    here: Here, columns: tuple[list[float], list[float]], comparable: bool
) -> None:
    file = here.write("s.jsonl", [{"a": a, "b": b} for a, b in zip(*columns, strict=True)])
    found = here.json("judge", file, "--compare", "a,b")
    assert found["comparable"] is comparable
    assert (found["kappa_quadratic"] is not None) is comparable
    assert found["spearman"] is not None


# ---------------------------------------------------------------------- generate


def test_generate_and_go_on(here: Here) -> None:
    from training.tiny import make_model

    folder = make_model(here.folder / "runs" / "a" / "policy")
    rows = here.write("test.jsonl", [{"prompt": "tea and rain", "id": n} for n in range(3)])
    asked = ["generate", rows, f"one={folder}", f"two={folder}", "--max-tokens", "4"]
    found = here.json(*asked)
    assert found["two"] == {
        "file": "outputs/two.jsonl",
        "rows": 3,
        "new": 3,
        "cut_off": found["one"]["cut_off"],
    }
    assert "3 rows, 0 of them new" in here.ok(*asked)
    lines = (here.folder / "outputs" / "one.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [0, 1, 2]
    wrapped = here.json("generate", rows, folder, "--task", "essay", "--max-tokens", "4")
    (row, *_) = (here.folder / wrapped["policy"]["file"]).read_text().splitlines()
    assert "Instruction: tea and rain" in json.loads(row)["prompt"]
