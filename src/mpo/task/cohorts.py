"""Cohorts: parts of a task with a rubric of their own, by a column and by similar prompts.

    cohorts = Cohorts.build(rows, column="type", text_column="problem", clusters=3)
    cohorts.save(cohorts_path("train.jsonl"))        # train.cohorts.json, beside the data
    Cohorts.load(path).assign(row)                   # "algebra-2"

Problems of one subject are split by k-means over sentence embeddings where sentence-transformers
is installed (the paper: subject × 3 clusters by `all-MiniLM-L6-v2`), over TF-IDF otherwise. The
file knows the cohort of each row that it was built from, so that a run needs neither package;
another row goes to the nearest centroid.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from ..errors import DataError, MissingExtraError
from ..records import content_hash, to_json

__all__ = ["Cohorts", "Embed", "cohorts_path"]

Embed = Callable[[Sequence[str]], Sequence[Sequence[float]]]
"""Texts to vectors of one length."""

Method = Literal["auto", "embeddings", "tfidf"]

MODEL = "all-MiniLM-L6-v2"
"""Sentence embeddings of the paper's clusters."""
TFIDF = "tfidf"
WORDS = 500
"""Most frequent words per group that TF-IDF looks at."""
VERSION = 1

_WORD = re.compile(r"\\[a-zA-Z]+|[A-Za-z]{2,}|\d+")


@dataclass(frozen=True)
class Group:
    """The rows with one value of the column."""

    name: str
    """Beginning of its cohorts' names."""
    centroids: tuple[tuple[float, ...], ...]
    """One per cluster; empty where there is only one."""
    words: tuple[str, ...] = ()
    """TF-IDF terms with their weights; empty for embeddings."""
    weights: tuple[float, ...] = ()

    def cohort(self, cluster: int) -> str:
        """Name of a cluster's cohort, counted from 0."""
        return f"{self.name}-{cluster + 1}" if self.centroids else self.name


class Cohorts:
    """Which rows belong together.

    Args:
        column: Rows with different values are never together.
        text_column: Column of the texts that are compared.
        method: `tfidf`, or the name of a sentence-transformers model.
        groups: By value of the column.
        known: Cohort by hash of value and text, of the rows that the clusters were built from.
        embed: Makes the vectors of unknown rows; the model named by `method` if None.
    """

    def __init__(
        self,
        column: str,
        text_column: str,
        method: str,
        groups: Mapping[str, Group],
        known: Mapping[str, str],
        embed: Embed | None = None,
    ) -> None:
        self.column = column
        self.text_column = text_column
        self.method = method
        self._groups = dict(groups)
        self._known = dict(known)
        self._embed = embed

    @property
    def names(self) -> tuple[str, ...]:
        """All cohorts, in order."""
        return tuple(
            group.cohort(n)
            for group in self._groups.values()
            for n in range(max(1, len(group.centroids)))
        )

    # ------------------------------------------------------------------ building

    @classmethod
    def build(
        cls,
        rows: Sequence[Mapping[str, Any]],
        *,
        column: str,
        text_column: str,
        clusters: int = 1,
        seed: int = 0,
        method: Method = "auto",
        embed: Embed | None = None,
    ) -> Cohorts:
        """Split rows by a column, and each part into clusters.

        Args:
            rows: The data set's.
            column: See `Cohorts`.
            text_column: See `Cohorts`.
            clusters: Per value of the column; fewer where it has fewer rows.
            seed: Of k-means.
            method: `auto` takes embeddings where sentence-transformers is installed.
            embed: Makes vectors in place of either.

        Raises:
            DataError: No rows, a column missing, or two values with the same name.
            MissingExtraError: scikit-learn is not installed.
        """
        if not rows:
            raise DataError("no rows to build cohorts from")
        members: dict[str, list[str]] = {}
        for row in rows:
            value, text = _value(row, column), _value(row, text_column)
            members.setdefault(value, []).append(text)
        name, embed = _vectors(method, embed) if clusters > 1 else (TFIDF, None)
        groups: dict[str, Group] = {}
        known: dict[str, str] = {}
        for value in sorted(members):
            slug = _slug(value)
            if any(group.name == slug for group in groups.values()):
                raise DataError(f"two values of column {column!r} are both named {slug!r}")
            texts = list(dict.fromkeys(members[value]))
            groups[value], labels = _group(slug, texts, min(clusters, len(texts)), seed, embed)
            for text, label in zip(texts, labels, strict=True):
                known[content_hash([value, text])] = groups[value].cohort(label)
        return cls(column, text_column, name, groups, known, embed)

    # ------------------------------------------------------------------ use

    def assign(self, row: Mapping[str, Any]) -> str:
        """The cohort of a row.

        Raises:
            DataError: The row lacks a column, or its value is in no cohort.
            MissingExtraError: A new row, and no sentence-transformers to embed it.
        """
        value, text = _value(row, self.column), _value(row, self.text_column)
        group = self._groups.get(value)
        if group is None:
            raise DataError(
                f"column {self.column!r}: {value!r} is in no cohort; known are "
                f"{', '.join(self._groups)}. Build them again from this data: mpo task cohorts"
            )
        known = self._known.get(content_hash([value, text]))
        if known is not None:
            return known
        if len(group.centroids) < 2:
            return group.cohort(0)
        if group.words:
            vector: Sequence[float] = _tfidf(text, group.words, group.weights)
        else:
            if self._embed is None:
                self._embed = _sentence_embeddings(self.method)
            vector = self._embed([text])[0]
        distances = [math.dist(vector, centroid) for centroid in group.centroids]
        return group.cohort(distances.index(min(distances)))

    # ------------------------------------------------------------------ files

    def save(self, path: Path) -> None:
        """Write the file.

        Raises:
            DataError: It cannot be written.
        """
        content = {
            "version": VERSION,
            "column": self.column,
            "text_column": self.text_column,
            "method": self.method,
            "groups": {
                value: {
                    "name": group.name,
                    "words": group.words,
                    "weights": group.weights,
                    "centroids": group.centroids,
                }
                for value, group in self._groups.items()
            },
            "known": self._known,
        }
        try:
            path.write_text(to_json(content) + "\n", "utf-8")
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error}") from error

    @classmethod
    def load(cls, path: Path, embed: Embed | None = None) -> Cohorts:
        """Read a file that `save` wrote.

        Raises:
            DataError: No such file, or no cohorts in it.
        """
        try:
            content = json.loads(path.read_text("utf-8"))
            if content["version"] != VERSION:
                raise DataError(
                    f"{path}: cohorts of version {content['version']}, not {VERSION}; build them "
                    "again: mpo task cohorts"
                )
            groups = {
                value: Group(
                    name=group["name"],
                    centroids=tuple(tuple(c) for c in group["centroids"]),
                    words=tuple(group["words"]),
                    weights=tuple(group["weights"]),
                )
                for value, group in content["groups"].items()
            }
            return cls(
                content["column"],
                content["text_column"],
                content["method"],
                groups,
                content["known"],
                embed,
            )
        except FileNotFoundError:
            raise DataError(f"{path}: no such file; build it first: mpo task cohorts") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"{path}: no file of cohorts: {error!r}") from error


def cohorts_path(source: str | Path) -> Path:
    """Where the cohorts of a data set are: beside a file, in the working folder for a hub id."""
    path = Path(source)
    if path.suffix in (".jsonl", ".json", ".parquet", ".gz"):
        return path.with_name(path.name.partition(".")[0] + ".cohorts.json")
    return Path(str(source).replace("/", "--") + ".cohorts.json")


def _value(row: Mapping[str, Any], column: str) -> str:
    if row.get(column) is None:
        raise DataError(
            f"cohorts need column {column!r}; this row has {', '.join(map(str, row)) or 'none'}"
        )
    return str(row[column])


def _slug(value: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", value.lower()).strip("_") or "cohort"


# ---------------------------------------------------------------------- vectors


def _vectors(method: Method, embed: Embed | None) -> tuple[str, Embed | None]:
    """Name of the method and its function; None for TF-IDF, whose words differ by group."""
    if embed is not None:
        return "custom", embed
    if method == "embeddings" or (method == "auto" and find_spec("sentence_transformers")):
        return MODEL, _sentence_embeddings(MODEL)
    return TFIDF, None


def _sentence_embeddings(name: str) -> Embed:
    if find_spec("sentence_transformers") is None:
        raise MissingExtraError("sentence_transformers", "eval")
    try:
        model = import_module("sentence_transformers").SentenceTransformer(name)
    except Exception as error:  # the hub's client lets out exceptions of a dozen packages
        raise DataError(
            f"the sentence embeddings {name!r} cannot be loaded ({error!s:.200}); take TF-IDF: "
            "mpo task cohorts --method tfidf"
        ) from error

    def embed(texts: Sequence[str]) -> Sequence[Sequence[float]]:
        vectors: list[list[float]] = model.encode(list(texts)).tolist()
        return vectors

    return embed


def _group(
    name: str, texts: Sequence[str], clusters: int, seed: int, embed: Embed | None
) -> tuple[Group, list[int]]:
    """A group, and the cluster of each of its texts."""
    if clusters < 2:
        return Group(name, ()), [0] * len(texts)
    words: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    if embed is None:
        words, weights = _vocabulary(texts)
        vectors: Sequence[Sequence[float]] = [_tfidf(text, words, weights) for text in texts]
    else:
        vectors = embed(texts)
    if find_spec("sklearn") is None:
        raise MissingExtraError("sklearn", "eval")
    means = import_module("sklearn.cluster").KMeans(clusters, n_init=4, random_state=seed)
    # Its threads wait for each other in a busy loop: on a shared machine that costs minutes.
    with import_module("threadpoolctl").threadpool_limits(1):
        labels = [int(label) for label in means.fit_predict([list(v) for v in vectors])]
    centroids = tuple(tuple(round(float(x), 5) for x in c) for c in means.cluster_centers_)
    return Group(name, centroids, words, weights), labels


def _vocabulary(texts: Sequence[str]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The words that TF-IDF looks at, and their weights. Commands of LaTeX are words."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(dict.fromkeys(_words(text), 1))
    # What nearly all texts have tells none apart.
    telling = [(word, n) for word, n in counts.items() if n < 0.8 * len(texts) or n == 1]
    chosen = sorted(telling, key=lambda item: (-item[1], item[0]))[:WORDS]
    weights = (math.log((1 + len(texts)) / (1 + n)) + 1 for _, n in chosen)
    return tuple(word for word, _ in chosen), tuple(round(weight, 5) for weight in weights)


def _tfidf(text: str, words: Sequence[str], weights: Sequence[float]) -> list[float]:
    counts = Counter(_words(text))
    vector = [counts[word] * weight for word, weight in zip(words, weights, strict=True)]
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector] if length else vector


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
