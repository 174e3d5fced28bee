"""Internals of `mpo score` and `mpo evolve`, which need no trainer.

options.py   the options that both commands have
rows.py      the rows of the file
session.py   the file with its reward and store, and the cost of scoring it
held_out.py  rows with a person's score, kept from the MRM to compare rubrics on
stages.py    a line for each finished stage
"""

from .options import (
    API_KEY_ENV,
    CHAT,
    COLUMNS,
    CONCURRENCY,
    LIMIT,
    MODEL,
    RUBRIC,
    SKIP_BAD,
    SPLIT,
    STORE,
    TASK,
    read_options,
)

__all__ = [
    "API_KEY_ENV",
    "CHAT",
    "COLUMNS",
    "CONCURRENCY",
    "LIMIT",
    "MODEL",
    "RUBRIC",
    "SKIP_BAD",
    "SPLIT",
    "STORE",
    "TASK",
    "read_options",
]
