"""Rows as they lie in a file, a folder or on the hub, one after the other.

JSONL, JSON (a list, or an object with one under `data`), CSV, TSV and Parquet, the text ones also
compressed with gzip, whatever their names say; a folder that `datasets.save_to_disk` wrote, or one
of such files; a data set of the hub. A fault of one row does not end the reading: it comes in the
row's place.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import DataError, MissingExtraError
from .values import Unreadable

__all__ = ["RawRow", "is_data", "looks_local", "raw_rows", "stem_of", "suffix_of"]

_KNOWN = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_COMPRESSED = tuple(f"{suffix}.gz" for suffix in _KNOWN)
_OTHER = {
    b"PK\x03\x04": "a zip archive or spreadsheet",
    b"(\xb5/\xfd": "compressed with zstd",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"ARROW1": "an Arrow file",
    b"SQLite format 3": "a SQLite database",
    b"\xff\xfe": "UTF-16 text and cannot be read as UTF-8",
    b"\xfe\xff": "UTF-16 text and cannot be read as UTF-8",
}
"""First bytes of files that cannot be read, and what they are."""
_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
_BOMB_BYTES, _BOMB_RATIO = 1 << 28, 100
"""A gzip file may unpack to 256 MiB, or to 100 times its size if that is more: JSON shrinks to a
tenth, seldom to a thirtieth."""


@dataclass(frozen=True)
class RawRow:
    """A row as its file has it, or the fault in its place."""

    where: str
    """`rows.jsonl:12` by line, `rows.parquet, row 12` by count; both from 1."""
    values: dict[str, Any]
    doubled: frozenset[str] = frozenset()
    """Columns that stand twice, with values that may differ."""
    fault: str | None = None
    """Reason why the row cannot be used by anybody."""


def suffix_of(path: str | Path) -> str:
    """The known ending of a file's name, `.gz` left out; empty if there is none."""
    name = str(path).lower().removesuffix(".gz")
    return next((suffix for suffix in _KNOWN if name.endswith(suffix)), "")


def stem_of(path: str | Path) -> str:
    """A file's name without its known ending: `model-1.5` for `model-1.5.jsonl.gz`."""
    name = Path(path).name
    suffix = suffix_of(name)
    return name[: name.lower().rindex(suffix)] if suffix else name


def looks_local(source: str | Path) -> bool:
    """True if a source is, or must be meant as, a file or folder: no network is needed for it."""
    text = str(source)
    is_path = text.startswith((".", "/", "~")) or _HUB.fullmatch(text) is None
    return Path(source).exists() or bool(suffix_of(text)) or is_path


def is_data(path: Path) -> bool:
    """True for a file, and for a folder that holds data and is no run."""
    if path.is_dir():
        return _is_saved(path) or bool(_parts(path))
    return path.is_file() and path.suffix != ".db"


def raw_rows(source: str | Path, split: str = "train") -> Iterator[RawRow]:
    """The rows of a source, in order.

    Args:
        source: A file or folder, or else a hub id: `owner/name`, or `owner/name:subset`.
        split: Split of a hub data set, or of a saved one that has several.

    Raises:
        DataError: There is no such source, or it cannot be read (any further).
        MissingExtraError: Parquet, a saved data set or the hub without the extra `train`.
    """
    path = Path(source)
    if path.is_dir():
        yield from _folder(path, split)
    elif path.is_file():
        yield from _file(path)
    elif looks_local(source):
        raise DataError(f"{source}: no such file")
    else:
        yield from _hub(str(source), split)


# ---------------------------------------------------------------------- files


def _file(path: Path) -> Iterator[RawRow]:
    with _refusing(path):
        with path.open("rb") as file:
            start = file.read(16)
        packed = start.startswith(b"\x1f\x8b")
        if start.startswith(b"PAR1"):
            yield from _parquet(path)
            return
        for magic, name in _OTHER.items():
            if start.startswith(magic):
                raise DataError(f"{path}: is {name}: save it as JSONL or CSV, in UTF-8")
        if packed:
            _check_size(path)
        with gzip.open(path) if packed else path.open("rb") as file:
            yield from _text(path, file)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn what a damaged file raises into one line."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read, gzip cannot unpack it: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _check_size(path: Path) -> None:
    """Refuse a file that unpacks to far more than its size; also finds damage before any row."""
    most = max(_BOMB_BYTES, _BOMB_RATIO * path.stat().st_size)
    total = 0
    with gzip.open(path) as file:
        while chunk := file.read(1 << 20):
            total += len(chunk)
            if total > most:
                raise DataError(
                    f"{path}: unpacks to more than {_BOMB_RATIO} times its size: unpack it "
                    "yourself if that is right"
                )


def _text(path: Path, lines: Iterable[bytes]) -> Iterator[RawRow]:
    # By bytes: JSON strings may hold U+2028 and the like, which end no line.
    numbered = enumerate(lines, start=1)
    first = next(((n, line) for n, line in numbered if line.strip()), None)
    if first is None:
        return
    first = (first[0], first[1].removeprefix(b"\xef\xbb\xbf"))
    every = chain([first], numbered)
    suffix = suffix_of(path)
    opening = first[1].lstrip()[:1]
    if suffix == ".parquet":
        raise DataError(f"{path}: cannot be read as Parquet: it does not begin like a Parquet file")
    if suffix in (".csv", ".tsv"):
        yield from _csv(path, every, "\t" if suffix == ".tsv" else None)
    elif opening == b"[" or (opening == b"{" and suffix == ".json"):
        yield from _json(path, [(n, line) for n, line in every if line.strip()])
    elif opening == b"{" or suffix:
        yield from _jsonl(path, ((n, line) for n, line in every if line.strip()))
    else:
        raise DataError(f"{path}: cannot tell what it is; known are {', '.join(_KNOWN)}")


def _decode(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"cannot be read as UTF-8 text: {error.reason} at byte {error.start}"
        ) from error


# ---------------------------------------------------------------------- JSON


def _jsonl(path: Path, lines: Iterable[tuple[int, bytes]]) -> Iterator[RawRow]:
    for number, line in lines:
        yield _row(f"{path}:{number}", lambda line=line: _loads(_decode(line)))


def _json(path: Path, lines: list[tuple[int, bytes]]) -> Iterator[RawRow]:
    """One JSON value of many lines, or else an object or a list in each line."""
    try:
        value = _loads("".join(_decode(line) for _, line in lines))
    except DataError as error:
        if len(lines) == 1 or not _is_json(lines[0][1]):
            raise DataError(f"{path}: {error}") from error
        yield from _jsonl(path, lines)
        return
    if isinstance(value, dict):
        value = value["data"] if isinstance(value.get("data"), list) else [value]
    if not isinstance(value, list):
        raise DataError(f"{path}: must be a list of objects, not {value!r:.60}")
    for number, entry in enumerate(value, start=1):
        yield _row(f"{path}, row {number}", lambda entry=entry: entry)


def _is_json(line: bytes) -> bool:
    try:
        _loads(_decode(line))
    except DataError:
        return False
    return True


def _loads(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise DataError("is nested too deeply") from None
    except ValueError as error:
        raise DataError(f"not JSON: {error}") from error


class _Doubled(dict[str, Any]):
    """An object in which keys stand twice."""

    doubled: frozenset[str]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    marked = _Doubled(values)
    marked.doubled = _twice(key for key, _ in pairs)
    return marked


def _row(where: str, read: Any) -> RawRow:
    try:
        value = read()
    except DataError as error:
        return RawRow(where, {}, fault=str(error))
    if not isinstance(value, dict):
        return RawRow(where, {}, fault=f"must be a JSON object, not {value!r:.60}")
    return RawRow(where, value, getattr(value, "doubled", frozenset()))


# ---------------------------------------------------------------------- CSV


def _csv(path: Path, lines: Iterator[tuple[int, bytes]], delimiter: str | None) -> Iterator[RawRow]:
    places: list[int] = []
    """Numbers of the lines that the reader has taken for the present row."""

    def taken() -> Iterator[str]:
        for number, line in lines:
            places.append(number)
            try:
                yield _decode(line)
            except DataError as error:
                raise DataError(f"{path}:{number}: {error}: save the file as UTF-8") from error

    stream = taken()
    head = next(stream)
    csv.field_size_limit(sys.maxsize)
    sign = delimiter or _delimiter(head)
    reader = csv.reader(chain([head], stream), delimiter=sign, strict=True)
    names: list[str] = []
    doubled: frozenset[str] = frozenset()
    while True:
        try:
            cells = next(reader, None)
            fault = None
        except csv.Error as error:
            cells, fault = ["?"], f"is not CSV: {error}; mind the quotes"
        where = f"{path}:{places[0] if places else 1}"
        places.clear()
        if cells is None:
            return
        if not names and cells:
            if fault is not None:
                raise DataError(f"{where}: {fault}")
            names = [name.strip() for name in cells]
            doubled = _twice(names)
        elif cells:
            if any(cell.strip() for cell in cells[len(names) :]):
                fault = f"has {len(cells)} cells, and the head has {len(names)}"
            values = {} if fault else _first(zip(names, cells, strict=False))
            yield RawRow(where, values, doubled, fault)


def _twice(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name for name, count in Counter(names).items() if count > 1)


def _first(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The values by name: of several of one name, the first."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        values.setdefault(name, value)
    return values


def _delimiter(head: str) -> str:
    """The sign that separates the head's cells: the most frequent one outside of quotes."""
    bare = re.sub(r'"[^"]*"', "", head)
    return max(",;\t|", key=bare.count)


# ---------------------------------------------------------------------- Parquet, folders, the hub


def _parquet(path: Path) -> Iterator[RawRow]:
    if find_spec("pyarrow") is None:
        raise MissingExtraError("pyarrow", "train")
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from _batches(str(path), file.iter_batches(batch_size=1024))
    except (pyarrow.ArrowException, ValueError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from error


def _batches(name: str, batches: Iterable[Any]) -> Iterator[RawRow]:
    """Rows of Arrow batches. One column at a time: one that is odd must not hide the others."""
    number = 0
    for batch in batches:
        names = [str(column) for column in batch.schema.names]
        doubled = _twice(names)
        columns = [_values(column) for column in batch.columns]
        for values in zip(*columns, strict=True):
            number += 1
            pairs = zip(names, values, strict=True)
            yield RawRow(f"{name}, row {number}", _first(pairs), doubled)


def _values(column: Any) -> list[Any]:
    try:
        return list(column.to_pylist())
    except Exception as error:  # whatever a type's conversion to Python raises
        return [Unreadable(str(error))] * len(column)


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _parts(folder: Path) -> list[Path]:
    """Files of rows in a folder, in the order of their names."""
    if (folder / "mpo.db").exists():
        return []
    return sorted(p for p in folder.iterdir() if p.is_file() and suffix_of(p) not in ("", ".json"))


def _folder(folder: Path, split: str) -> Iterator[RawRow]:
    if not _is_saved(folder):
        parts = _parts(folder)
        if not parts:
            raise DataError(
                f"{folder}: holds neither a saved data set nor files of rows "
                f"({', '.join(s for s in _KNOWN if s != '.json')})"
            )
        for part in parts:
            yield from _file(part)
        return
    datasets = _datasets()
    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # damaged JSON, Arrow or a missing file, by several packages
        raise _unusable(f"{folder}: cannot be read as a saved data set", error) from error
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise DataError(f"{folder}: has no split {split!r}; its splits are {', '.join(saved)}")
        saved = saved[split]
    yield from _saved(str(folder), saved)


def _saved(name: str, rows: Any) -> Iterator[RawRow]:
    try:
        # As Arrow, so that no picture or sound of an unused column is decoded.
        yield from _batches(name, rows.with_format("arrow").iter(batch_size=1024))
    except Exception as error:  # damaged Arrow files, by several packages
        raise _unusable(f"{name}: cannot be read any further", error) from error


def _hub(source: str, split: str) -> Iterator[RawRow]:
    datasets = _datasets()
    name, _, subset = source.partition(":")
    try:
        rows = datasets.load_dataset(name, subset or None, split=split)
    except Exception as error:  # the hub's client lets out exceptions of a dozen packages
        raise _unusable(
            f"dataset {source!r} (split {split!r}) is neither a local file nor found on the hub",
            error,
        ) from error
    yield from _saved(source, rows)


def _datasets() -> Any:
    if find_spec("datasets") is None:
        raise MissingExtraError("datasets", "train")
    import datasets

    return datasets


def _unusable(what: str, error: Exception) -> DataError:
    return DataError(f"{what}: {type(error).__name__}: {' '.join(str(error).split()):.200}")
