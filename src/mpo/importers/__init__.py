"""Importers: runs of the published MPO code, read into a store so that every command works on them.

    experiment = read_experiment(Path("models/mpo_essay_writing"))
    with Store("runs/theirs/mpo.db") as store:
        imported = write_experiment(experiment, store)
    imported.unparsed         # rollouts whose scores could not be read, each with the reason

`experiment` reads the two layouts of files; `convert` makes records of them.
"""

from .convert import Imported, write_experiment
from .experiment import Experiment, MetaEvaluation, PublishedRollout, RubricFile, read_experiment

__all__ = [
    "Experiment",
    "Imported",
    "MetaEvaluation",
    "PublishedRollout",
    "RubricFile",
    "read_experiment",
    "write_experiment",
]
