"""Files of rows: the one reading layer of commands, config and service.

    table = read_table("chats.jsonl.gz", lambda row: (row.text("prompt"), row.number("score")))

`formats` gives the rows of any file, folder or hub data set, `table` applies a user's choice of
columns and says what happens to a bad row, `values` reads one value, `conversation` makes a text of
messages, and `bounded_yaml` reads YAML that somebody else may have written.
"""

from .bounded_yaml import check_yaml, load_yaml
from .conversation import flatten, prompt_text, split_conversation
from .formats import RawRow, is_data, looks_local, stem_of, suffix_of
from .table import (
    COMPLETION,
    PROMPT,
    ReadOptions,
    SourceRow,
    Table,
    parse_columns,
    read_rows,
    read_table,
)
from .values import plain

__all__ = [
    "COMPLETION",
    "PROMPT",
    "RawRow",
    "ReadOptions",
    "SourceRow",
    "Table",
    "check_yaml",
    "flatten",
    "is_data",
    "load_yaml",
    "looks_local",
    "parse_columns",
    "plain",
    "prompt_text",
    "read_rows",
    "read_table",
    "split_conversation",
    "stem_of",
    "suffix_of",
]
