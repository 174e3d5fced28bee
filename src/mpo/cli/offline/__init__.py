"""Internals of `mpo score` and `mpo evolve`, which need no trainer.

options.py           the options that both commands have
rows.py              the rows of the file
session.py           the file with its reward and store
pricing.py           calls, tokens and dollars, before anything is paid
human_agreement.py   agreement with human scores, before and after
"""

from .options import API_KEY_ENV, CHAT, CONCURRENCY, MODEL, RUBRIC, STORE, TASK

__all__ = ["API_KEY_ENV", "CHAT", "CONCURRENCY", "MODEL", "RUBRIC", "STORE", "TASK"]
