"""Runs of the published MPO code, read into a store so that every command works on them.

    experiment = read_experiment(Path("models/mpo_essay_writing"))
    with Store("runs/theirs/mpo.db") as store:
        found = write_experiment(experiment, store)
    found.unparsed            # what could not be read as scores, each with the reason

`files` knows the two layouts, `scores` reads what the published RM answered, `write` makes
rollouts, judgements and decisions of it.
"""

from .files import Experiment, MetaEvaluation, PublishedRollout, RubricFile, read_experiment
from .write import Imported, write_experiment

__all__ = [
    "Experiment",
    "Imported",
    "MetaEvaluation",
    "PublishedRollout",
    "RubricFile",
    "read_experiment",
    "write_experiment",
]
