"""Rows of evaluation files, in any of the dresses in which they are handed around: JSONL or one
JSON list, packed with gzip or not, whatever the name says. And files that grow row by row."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import ConfigError, DataError, StoreError

__all__ = ["JsonlLog", "Row", "read_rows", "text_column"]

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The objects of a file.

    Raises:
        DataError: No such file, not readable, or something in it that is no JSON object.
    """
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    if text.lstrip()[:1] == "[":
        return _list(path, text)
    # Not splitlines(): JSON strings may hold U+2028 and the like as they are.
    lines = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    return [_object(f"{path}:{n}", _parse(f"{path}:{n}", line)) for n, line in lines]


def _list(path: Path, text: str) -> list[Row]:
    try:
        value = _parse(str(path), text)
    except DataError:
        # Several lists, one per line, are no JSON: the line is what has to be named.
        value = [_parse(f"{path}:{n}", line) for n, line in enumerate(text.split("\n"), start=1)]
    return [_object(f"{path}: entry {n}", row) for n, row in enumerate(value, start=1)]


def _parse(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}") from error


def _object(where: str, row: Any) -> Row:
    if not isinstance(row, dict):
        raise DataError(f"{where}: must be a JSON object, not {row!r:.60}")
    return row


def text_column(row: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    """The text of the first of these columns that the row has.

    Raises:
        DataError: It has none of them, or it holds no text.
    """
    for name in names:
        if name in row:
            if not isinstance(row[name], str):
                raise DataError(f"{where}: column {name!r} must be text, not {row[name]!r:.60}")
            return str(row[name])
    wanted = " or ".join(repr(name) for name in names)
    raise DataError(f"{where}: has no column {wanted}; its columns are {', '.join(row) or 'none'}")


class JsonlLog:
    """A JSONL file that grows row by row, held by one process; a killed one leaves whole rows.

    Args:
        path: Made where it is missing, with its folder.

    Raises:
        ConfigError: Another process writes it.
        DataError: It holds something that is no row.
        StoreError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        self._file = self._open()

    def _open(self) -> IO[bytes]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("ab+")
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.seek(0)
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):  # half a row, by a process that was killed
                file.truncate(whole)
            lines = content[:whole].decode("utf-8").split("\n")
            numbered = [(n, line) for n, line in enumerate(lines, start=1) if line.strip()]
            self.rows = [
                _object(f"{self.path}:{n}", _parse(f"{self.path}:{n}", line))
                for n, line in numbered
            ]
        except BlockingIOError:
            file.close()
            raise ConfigError(f"{self.path} is being written by another process") from None
        except UnicodeDecodeError as error:
            file.close()
            raise DataError(f"{self.path}: is no JSONL file: {error}") from error
        except BaseException:
            file.close()
            raise
        return file

    def append(self, row: Row) -> None:
        """Write one row, and hand it to the system at once."""
        # Not ensure_ascii=False: a lone surrogate of a policy could not be encoded.
        line = json.dumps(row, allow_nan=False) + "\n"
        try:
            self._file.write(line.encode("ascii"))
            self._file.flush()
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {error.strerror}") from error
        self.rows.append(row)

    def sort(self, key: Callable[[Row], int]) -> None:
        """Put the file's rows in order, in one rename: a reader sees the old file or the new."""
        ordered = sorted(self.rows, key=key)
        if ordered == self.rows:
            return
        fresh = self.path.with_name(f".{self.path.name}.sorted")
        fresh.write_text("".join(json.dumps(row) + "\n" for row in ordered), "ascii")
        os.replace(fresh, self.path)
        self.rows = ordered

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> JsonlLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
