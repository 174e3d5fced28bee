"""`mpo evaluate rank`: a ranking from verdicts, or from generations that a judge compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import typer
from rich.console import Console

from ..errors import ConfigError, DataError
from ..evaluation.games import Game, check_connected, read_games
from ..evaluation.intervals import Interval
from ..evaluation.ranking import START, K, Ranking, elo, merge
from ..evaluation.ranking import rank as rank_games
from . import offline
from .evaluate_common import (
    AS_JSON,
    SEED,
    bounds,
    columns,
    percent,
    plain,
    rows_of_file,
    show,
    table,
)
from .evaluate_judging import Judged, JudgeOptions, Source, judge_generations

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
    sources = [_source(text) for text in files]
    judged = None
    if any("winner" in source.rows[0] for source in sources):
        games, unjudged = _verdicts(sources)
    else:
        options = JudgeOptions(
            chat=chat,
            model=model,
            api_key_env=api_key_env,
            concurrency=concurrency,
            run=run,
            verdicts=verdicts,
            baseline=baseline,
            limit=limit,
            only_common=only_common,
            prompt=prompt,
            price=price,
            yes=yes,
            seed=seed,
        )
        judged = judge_generations(sources, options)
        games = {str(judged.verdicts): judged.played.games}
        unjudged = len(judged.played.failures)
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
            _print(games, body, whole, method)
    if judged is not None:
        body["judged"] = _judged(judged)
        _print_judged(judged)
    if as_json:
        show(body if method == "all" else _part(body, method), [], True)


_KEYS = {"elo": ("elo", "elo_std", "files"), "bt": ("bt", "files")}
"""Keys that --json prints with one method."""


def _part(body: Mapping[str, Any], method: Method) -> dict[str, Any]:
    return {name: body[name] for name in _KEYS[method] if name in body}


def _source(text: str) -> Source:
    name, equals, place = text.partition("=")
    if not equals or Path(text).is_file():
        name, place = "", text
    source = Source(name, Path(place), rows_of_file(Path(place)))
    if not source.rows:
        raise DataError(f"{place} is empty: model {name or source.stem!r} has no outputs in it")
    return source


def _verdicts(sources: Sequence[Source]) -> tuple[dict[str, list[Game]], int]:
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


def _judged(judged: Judged) -> dict[str, Any]:
    played = judged.played
    return {
        "judge": judged.judge,
        "verdicts": str(judged.verdicts),
        "calls": played.calls,
        "failures": len(played.failures),
        "first_failure": played.failures[0] if played.failures else None,
        "usage": played.usage.model_dump(),
    }


# ---------------------------------------------------------------------- for people


def _print(games: Files, body: Mapping[str, Any], whole: Ranking, method: Method) -> None:
    console = Console()
    shown = table(
        f"{whole.games} games of {len(whole.models)} models on {whole.prompts} prompts"
        + (f", in {len(games)} files" if len(games) > 1 else "")
    )
    columns(shown, "BT", "95 %", "Elo", *(["sd"] if "elo_std" in body else []))
    columns(shown, "win rate", "95 %", "at equal length")
    names = whole.models
    if method == "elo":
        names = tuple(sorted(names, key=lambda name: -body["elo"][name]))
    for name in names:
        shown.add_row(plain(name), *_cells(name, body, whole))
    console.print(shown)
    if len(games) > 1:
        _print_files(console, body, names)
    for line in _remarks(whole, int(body["unjudged"])):
        console.print(plain(line), highlight=False)


def _cells(name: str, body: Mapping[str, Any], whole: Ranking) -> list[str]:
    rating, rate = whole.strengths.ratings[name], whole.strengths.win_rates[name]
    controlled = whole.length.win_rates[name] if whole.length else None
    spread = [f"{body['elo_std'][name]:.1f}"] if "elo_std" in body else []
    return [
        f"{rating.value:.1f}",
        _bounds(rating),
        f"{body['elo'][name]:.1f}",
        *spread,
        percent(rate.value),
        _bounds(rate, 100),
        percent(controlled),
    ]


def _bounds(interval: Interval, scale: float = 1.0) -> str:
    return bounds(interval.low, interval.high, scale)


def _print_files(console: Console, body: Mapping[str, Any], names: Sequence[str]) -> None:
    shown = table("by file: Bradley-Terry with its interval, and Elo")
    columns(shown, "games", *names)
    for file, part in body["files"].items():
        cells = []
        for name in names:
            bt = (part["bt"] or {}).get(name)
            rating = "–" if bt is None else f"{bt['rating']:.1f} [{_of(bt)}]"
            score = part["elo"].get(name)
            cells.append(f"{rating}  {'–' if score is None else f'{score:.1f}'}")
        shown.add_row(plain(Path(file).name), str(part["games"]), *map(plain, cells))
    console.print(shown)


def _of(bt: Mapping[str, float | None]) -> str:
    return bounds(bt["low"], bt["high"])


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


def _print_judged(judged: Judged) -> None:
    played = judged.played
    usage = played.usage
    lines = [
        f"verdicts of {judged.judge}: {judged.verdicts} ({played.calls} new calls, "
        f"{usage.prompt_tokens:,} prompt and {usage.completion_tokens:,} completion tokens)"
    ]
    if played.failures:
        lines.append(
            f"{len(played.failures)} without a usable answer, the first because of: "
            f"{' '.join(played.failures[0].split())[:200]}; run the same command again to retry "
            "them"
        )
    typer.echo("\n".join(lines), err=True)
