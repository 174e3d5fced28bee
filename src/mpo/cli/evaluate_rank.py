"""`mpo evaluate rank`: a ranking from verdicts, or from generations that a judge compares."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import typer
from rich.table import Table

from ..chat import Chat, Price, identity_of
from ..config.plugins import find_plugin
from ..data import PROMPT, ReadOptions, SourceRow, stem_of
from ..errors import ConfigError, DataError
from ..evaluation.games import Game, check_connected, read_games
from ..evaluation.intervals import Interval
from ..evaluation.pairwise import PairwiseJudge, Planned, Played, plan_games, read_pairwise_prompt
from ..evaluation.ranking import START, K, Ranking, elo, merge
from ..evaluation.ranking import rank as rank_games
from ..evaluation.rows import JsonlLog, Outputs, Row, common_prompts, read_outputs
from ..records import content_hash
from . import offline
from .endpoints import CHAT_OPTION, endpoint, read_price
from .evaluate_common import (
    AS_JSON,
    SEED,
    bounds,
    completion_row,
    percent,
    plain_row,
    progress_bar,
    rows_of_file,
    show,
)
from .runs import RUNS, open_store
from .tables import table

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)

Method = Literal["all", "elo", "bt"]
Files = Mapping[str, Sequence[Game]]
"""Games by file, in play order."""


@app.command()
def rank(
    files: list[str] = typer.Argument(
        ...,
        help="Verdict files; or generations files, one per model, as FILE or NAME=FILE.",
    ),
    columns: str = offline.COLUMNS,
    skip_bad: bool = offline.SKIP_BAD,
    split: str = offline.SPLIT,
    method: Method = typer.Option(
        "all", help="Ratings that --json prints, and that order the table."
    ),
    k: float = typer.Option(K, min=0, help="Elo: the most that one game moves a rating."),
    start: float = typer.Option(START, help="Elo: first rating. Bradley-Terry: mean rating."),
    resamples: int = typer.Option(1000, min=10, help="Bootstrap resamples over prompts."),
    seed: int = SEED,
    chat: str = typer.Option("", "--chat", help="Endpoint of the judge: http://host:port/v1."),
    model: str = offline.MODEL,
    api_key_env: str = offline.API_KEY_ENV,
    concurrency: int = offline.CONCURRENCY,
    chat_option: list[str] = CHAT_OPTION,
    run: str = typer.Option(
        "", help="The policy's run: warn if its reward model is the judge here, too."
    ),
    verdicts: Path = typer.Option(
        None, help="File in which verdicts are kept; by default one in runs/verdicts/."
    ),
    baseline: str = typer.Option("", help="Compare with this model only, instead of all pairs."),
    limit: int = typer.Option(0, min=0, help="Only the first prompts; 0 for all."),
    only_common: bool = typer.Option(
        False, "--only-common", help="Leave out prompts that some model did not answer."
    ),
    prompt: Path = typer.Option(None, help="A prompt file of your own for the judge."),
    price: str = typer.Option(
        "",
        "--price",
        "--price-per-mtok",
        help="US dollars per million tokens, for the estimate: PROMPT,COMPLETION.",
    ),
    yes: bool = typer.Option(False, "--yes", help="Do not ask about the price."),
    as_json: bool = AS_JSON,
) -> None:
    """Rank models by pairwise verdicts of a judge.

    Files with query, model_a, model_b and winner are ranked as they are. Several are runs of one
    tournament: Elo is their mean and population standard deviation, Bradley-Terry pools them.
    Files with prompt and completion are judged first, each pair in both orders. Verdicts are kept,
    and none is paid for twice.

    Examples: mpo evaluate rank verdicts.jsonl.gz --method elo --k 4 --start 1000 --json

    mpo evaluate rank base.jsonl mpo=a.jsonl --chat http://localhost:8000/v1 --model judge --yes
    """
    # `limit` counts prompts here.
    reading = offline.read_options(columns, None, skip_bad, split)
    sources = [_source(text, reading) for text in files]
    judged: dict[str, Any] = {}
    if any("winner" in source.rows[0] for source in sources):
        games, unjudged = _verdicts(sources)
    else:
        _check_judge(chat)
        numbers = read_price("--price", price)
        outputs = _outputs(sources)
        common = common_prompts(outputs, only_common=only_common)
        prompts = common[: limit or None]
        plan = plan_games(outputs, prompts, baseline=baseline or None, seed=seed)
        wording = read_pairwise_prompt(prompt) if prompt else read_pairwise_prompt()
        judge = endpoint(chat, model, api_key_env, concurrency, options=chat_option)
        _warn_if_rm(judge.name, run)
        # Named after the judge and the test set, so that one more model pays only for itself.
        name = content_hash([identity_of(judge), wording.hash, common], 12)
        path = verdicts or RUNS / "verdicts" / f"{name}.jsonl"
        with JsonlLog(path) as log:
            pairwise = PairwiseJudge(judge, log, prompt=wording, concurrency=concurrency, seed=seed)
            _agree(pairwise, plan, None if numbers is None else Price(*numbers), yes)
            played = asyncio.run(_play(pairwise, judge, plan))
        games, unjudged = {str(path): played.games}, len(played.failures)
        judged = {"judged": _judged(judge.name, path, played)}
    pooled = [game for part in games.values() for game in part]
    check_connected((game.first, game.second) for game in pooled)
    body: dict[str, Any] = {} if method == "bt" and as_json else _elo(games, k, start)
    if not (method == "elo" and as_json):
        settings: dict[str, Any] = {"start": start, "resamples": resamples, "seed": seed}
        whole = rank_games(pooled, **settings)
        if len(games) > 1:
            parts = {name: _bt(part, settings) for name, part in games.items()}
            body["files"] = {n: {**body.get("files", {}).get(n, {}), **parts[n]} for n in parts}
        body = {**body, **whole.to_json(), "unjudged": unjudged}
        if not as_json:
            names = list(whole.models)
            if method == "elo":
                names.sort(key=lambda name: -body["elo"][name])
            tables = [_ranking_table(games, body, whole, names)]
            tables += [_file_table(body, names)] if len(games) > 1 else []
            show(body, [*tables, *_remarks(whole, unjudged)], False)
    if judged:
        _print_judged(judged["judged"])
    if as_json:
        show({**body, **judged} if method == "all" else _part(body, method), [], True)


_KEYS = {"elo": ("elo", "elo_std", "files"), "bt": ("bt", "files")}
"""Keys that --json prints with one method."""


def _part(body: Mapping[str, Any], method: Method) -> dict[str, Any]:
    return {name: body[name] for name in _KEYS[method] if name in body}


@dataclass(frozen=True)
class _Source:
    """A file of the command line."""

    name: str
    """The name before `=`; empty if there is none."""
    path: Path
    rows: list[Row]

    @property
    def stem(self) -> str:
        """The file's name without its ending."""
        return stem_of(self.path)


def _source(text: str, reading: ReadOptions) -> _Source:
    name, equals, place = text.partition("=")
    if not equals or Path(text).is_file():
        name, place = "", text
    return _Source(name, Path(place), rows_of_file(place, reading, _made))


def _made(row: SourceRow) -> Row:
    if row.has("winner"):
        return plain_row(row)
    return {**completion_row(row), "prompt": row.prompt(*PROMPT)}


def _verdicts(sources: Sequence[_Source]) -> tuple[dict[str, list[Game]], int]:
    """The games of verdict files, and the number of rows without a verdict."""
    games: dict[str, list[Game]] = {}
    unjudged = 0
    for source in sources:
        if "winner" not in source.rows[0]:
            raise DataError(
                f"{source.path} holds no verdicts, and other files do: rank verdicts and "
                "generations by two commands"
            )
        name = source.name or str(source.path)
        if name in games:
            raise ConfigError(f"{name} is given twice: name each file once")
        games[name], missing = read_games(source.rows, str(source.path))
        unjudged += missing
    return games, unjudged


def _elo(games: Files, k: float, start: float) -> dict[str, Any]:
    """Ratings of one file; of several, their mean and spread, and each file's own."""
    runs = {name: elo(part, k=k, start=start) for name, part in games.items()}
    if len(runs) == 1:
        return {"elo": next(iter(runs.values()))}
    means, deviations = merge(list(runs.values()))
    files = {name: {"elo": ratings} for name, ratings in runs.items()}
    return {"elo": means, "elo_std": deviations, "files": files}


def _bt(games: Sequence[Game], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Ratings of one of several files; null where some of its models never met."""
    try:
        return {"bt": rank_games(games, **settings).to_json()["bt"], "games": len(games)}
    except DataError:
        return {"bt": None, "games": len(games)}


# ---------------------------------------------------------------------- judging


def _check_judge(chat: str) -> None:
    if not chat:
        raise ConfigError(
            "these files hold generations: say who compares them, --chat URL --model NAME"
        )
    if find_plugin(chat) is not None:
        raise ConfigError(
            "the simulated model grades single texts and compares none: give the --chat URL of a "
            "real one"
        )


def _outputs(sources: Sequence[_Source]) -> list[Outputs]:
    models: list[Outputs] = []
    for source in sources:
        in_file = read_outputs(source.rows, str(source.path), source.name or None, source.stem)
        for outputs in in_file:
            if outputs.repeated:
                _say(
                    f"{source.path}: {outputs.repeated} rows of {outputs.model!r} repeat a "
                    "prompt; the first row of each prompt counts"
                )
        models += in_file
    return models


def _warn_if_rm(judge: str, run: str) -> None:
    """Warn if the judge is the model that the policy was trained to please."""
    if not run:
        return
    with open_store(run) as store:
        last = store.last_step()
        cases = [] if last is None else store.window(after_step=last - 10, cohort=None, scored=None)
    models = sorted({case.judgement.model for case in cases if case.judgement.model})
    if not models:
        raise ConfigError(f"run {run!r} has no judgements: leave --run out, or name another run")
    for model in models:
        # "org/name" and "name" are the same weights behind two servers.
        if model.rpartition("/")[2].lower() == judge.rpartition("/")[2].lower():
            _say(
                f"warning: {judge!r} gave the reward of {run}, too: the policy was trained to "
                "please it. Use another model as the judge"
            )


def _agree(
    pairwise: PairwiseJudge, plan: Sequence[Planned], price: Price | None, yes: bool
) -> None:
    """Print the expected cost, and continue only with consent.

    Raises:
        ConfigError: There is no terminal to ask on, and no --yes.
        typer.Exit: The answer is no.
    """
    estimate = pairwise.estimate(plan)
    if not estimate.calls:
        _say(f"all {estimate.games} games are judged already: nothing to pay")
        return
    cost = "" if price is None else f", about ${estimate.usd(price):.2f}"
    text = (
        f"{estimate.calls} calls for {estimate.games} games ({estimate.known} need none): about "
        f"{estimate.prompt_tokens:,} prompt and {estimate.completion_tokens:,} completion "
        f"tokens{cost}"
    )
    if yes:
        _say(text)
    elif sys.stdin.isatty() and sys.stderr.isatty():
        if not typer.confirm(f"{text}. Continue?", err=True):
            raise typer.Exit(1)
    else:
        raise ConfigError(f"{text}: nothing was sent yet; add --yes to continue")


async def _play(pairwise: PairwiseJudge, judge: Chat, plan: Sequence[Planned]) -> Played:
    try:
        with progress_bar("judging") as progress:
            return await pairwise.play(plan, progress)
    finally:
        await judge.aclose()


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _judged(judge: str, path: Path, played: Played) -> dict[str, Any]:
    return {
        "judge": judge,
        "verdicts": str(path),
        "calls": played.calls,
        "failures": len(played.failures),
        "first_failure": played.failures[0] if played.failures else None,
        "usage": played.usage.model_dump(),
    }


# ---------------------------------------------------------------------- for people


def _ranking_table(
    games: Files, body: Mapping[str, Any], whole: Ranking, names: Sequence[str]
) -> Table:
    several = "elo_std" in body
    rows = []
    for name in names:
        rating, rate = whole.strengths.ratings[name], whole.strengths.win_rates[name]
        row = [name, f"{rating.value:.1f}", _bounds(rating), f"{body['elo'][name]:.1f}"]
        row += [f"{body['elo_std'][name]:.1f}"] if several else []
        controlled = whole.length.win_rates[name] if whole.length else None
        rows.append([*row, percent(rate.value), _bounds(rate, 100), percent(controlled)])
    heads = ["BT", "95 %", "Elo", *(["sd"] if several else []), "win rate", "95 %"]
    title = f"{whole.games} games of {len(whole.models)} models on {whole.prompts} prompts"
    title += f", in {len(games)} files" if len(games) > 1 else ""
    return table(title, [*heads, "at equal length"], rows)


def _bounds(interval: Interval, scale: float = 1.0) -> str:
    return bounds(interval.low, interval.high, scale)


def _file_table(body: Mapping[str, Any], names: Sequence[str]) -> Table:
    rows = []
    for file, part in body["files"].items():
        row = [Path(file).name, str(part["games"])]
        for name in names:
            bt, score = (part["bt"] or {}).get(name), part["elo"].get(name)
            rating = f"{bt['rating']:.1f} [{bounds(bt['low'], bt['high'])}]" if bt else "–"
            row.append(f"{rating}  {'–' if score is None else f'{score:.1f}'}")
        rows.append(row)
    title = "by file: Bradley-Terry with its interval, and Elo"
    return table(title, ["games", *names], rows)


def _remarks(whole: Ranking, unjudged: int) -> list[str]:
    """Remarks on how far the table can be trusted."""
    swaps = whole.swaps
    lines = [f"the response shown first won {percent(whole.first_wins)}, ties: {whole.ties}"]
    if swaps.pairs:
        lines.append(
            f"swapped, the judge gave the same verdict on {swaps.same} of {swaps.pairs} pairs "
            f"({percent(swaps.rate)})"
        )
    else:
        lines.append("no pair was judged in both orders: position bias cannot be measured")
    if whole.length is not None:
        lines.append(f"the longer response won {percent(whole.length.longer_wins)}")
        if whole.length.confounded > 0.9:
            lines.append(
                "models differ so much in length that the length-controlled win rates say little"
            )
    if whole.unbounded:
        lines.append(
            f"no finite rating for {', '.join(whole.unbounded)}: some models won or lost "
            "all games against the others"
        )
    if unjudged:
        lines.append(f"{unjudged} games have no verdict and are left out")
    return lines


def _print_judged(judged: Mapping[str, Any]) -> None:
    usage = judged["usage"]
    _say(
        f"verdicts of {judged['judge']}: {judged['verdicts']} ({judged['calls']} new calls, "
        f"{usage['prompt_tokens']:,} prompt and {usage['completion_tokens']:,} completion tokens)"
    )
    if judged["failures"]:
        _say(
            f"{judged['failures']} without a usable answer, the first because of: "
            f"{' '.join(judged['first_failure'].split())[:200]}; run the same command again to "
            "retry them"
        )
