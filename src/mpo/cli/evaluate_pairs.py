"""`mpo evaluate judge` on preference pairs: asking the reward model, and its accuracy by subset."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from ..config import read_rubric_file
from ..config.plugins import find_plugin
from ..errors import ConfigError, DataError, StoreError
from ..evaluation.judge_accuracy import Outcome, Pair, PairAccuracy, accuracy, read_pairs
from ..evaluation.judge_accuracy import score_pairs as score
from ..evolve.options import Evolve
from ..judge.options import Scoring
from ..records import content_hash
from ..reward import EvolvingReward
from ..store import Store
from ..task import load_task
from .endpoints import endpoint
from .evaluate_common import bounds, columns, percent, plain, progress_bar, rows_of_file
from .evaluate_common import table as new_table
from .train import RUNS

__all__ = ["PairsAsking", "judge_pairs", "read_pair_files"]


@dataclass(frozen=True)
class PairsAsking:
    """What scores the pairs; the options of the command line."""

    task: str
    rubric: Path | None
    chat: str
    model: str
    api_key_env: str
    concurrency: int
    store: Path | None
    seed: int


def read_pair_files(sources: Sequence[str], limit: int) -> list[Pair]:
    """The pairs of all files, those of each file with its name as their subset.

    Raises:
        DataError: A file cannot be read, has no pairs, or holds something else.
    """
    pairs: list[Pair] = []
    for source in sources:
        path = Path(source)
        rows = rows_of_file(path)
        stem = path.name.partition(".json")[0]
        # LLMBar keeps each subset as dataset.json in a folder of its own.
        subset = path.resolve().parent.name if stem == "dataset" else stem
        if rows and "chosen" not in rows[0] and "output_1" not in rows[0]:
            raise DataError(
                f"{path} holds no preference pairs (prompt, chosen, rejected; or input, output_1, "
                f"output_2, label): its columns are {', '.join(rows[0])}. To compare two columns "
                "of scores give --compare ONE,OTHER"
            )
        pairs += read_pairs(rows, source, subset)[: limit or None]
    return pairs


def judge_pairs(pairs: Sequence[Pair], asking: PairsAsking) -> tuple[dict[str, Any], list[Table]]:
    """Score pairs, and say how often the reward prefers what people preferred: JSON and tables.

    Raises:
        MPOError: Task, rubric, endpoint or store cannot be used, or nothing could be scored.
    """
    if not asking.chat:
        raise ConfigError("say which reward model scores the pairs: --chat URL --model NAME")
    reward = _reward(pairs, asking)
    outcomes = asyncio.run(_score(reward, pairs))
    whole = accuracy(outcomes, asking.seed)
    parts = _by_subset(outcomes, asking.seed)
    rubric = reward.rubric()
    body = {
        **whole.to_json(),
        "by_subset": {name: part.to_json() for name, part in parts.items()},
        "rubric": rubric.id,
        "model": reward.chat.name,
        "store": str(reward.store.path),
    }
    reward.store.close()
    plugin = find_plugin(asking.chat)
    title = f"{plugin.name if plugin is not None else reward.chat.name} with {rubric.title!r}"
    return body, [_table(title, whole, parts)]


def _reward(pairs: Sequence[Pair], asking: PairsAsking) -> EvolvingReward:
    task = load_task(asking.task)
    rubric = read_rubric_file(asking.rubric) if asking.rubric is not None else task.rubric
    client = endpoint(
        asking.chat, asking.model, asking.api_key_env, asking.concurrency, asking.seed
    )
    path = asking.store
    if path is None:
        texts = [[pair.prompt, pair.chosen, pair.rejected] for pair in pairs]
        wording = sorted(prompt.hash for prompt in task.prompts.values())
        key = [texts, rubric.id, wording, client.name, asking.seed]
        path = RUNS / f"judge-{content_hash(key, 12)}" / "mpo.db"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{path.parent}: cannot be made: {error.strerror}") from error
    return EvolvingReward(
        task,
        client,
        Store(path),
        rubric=rubric,
        scoring=Scoring(max_unscored=1.0, deadline_s=None),  # the result says what is missing
        evolve=Evolve(every=None),
        seed=asking.seed,
    )


async def _score(reward: EvolvingReward, pairs: Sequence[Pair]) -> list[Outcome]:
    try:
        with progress_bar("scoring pairs") as progress:
            return await score(reward, pairs, progress)
    finally:
        await reward.aclose()


def _by_subset(outcomes: Sequence[Outcome], seed: int) -> dict[str, PairAccuracy]:
    names = dict.fromkeys(outcome.pair.subset for outcome in outcomes)
    return {name: accuracy([o for o in outcomes if o.pair.subset == name], seed) for name in names}


def _table(title: str, whole: PairAccuracy, parts: dict[str, PairAccuracy]) -> Table:
    made = new_table(f"preference accuracy of {title}: ties count half")
    columns(made, "accuracy", "95 %", "longer wins", "always tie", "ties", "unscored", "pairs")
    for name, part in {"all": whole, **(parts if len(parts) > 1 else {})}.items():
        value = part.interval
        made.add_row(
            plain(name),
            percent(None if value is None else value.value),
            "–" if value is None else bounds(value.low, value.high, 100),
            percent(part.length),
            percent(0.5),
            str(part.ties),
            str(part.pairs - part.n),
            str(part.pairs),
        )
    return made
