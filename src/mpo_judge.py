"""verifiers finds judge plugins by the name of a top-level module: `id = "mpo-judge"` is this one."""

from mpo.service.verifiers import MPOJudge

__all__ = ["MPOJudge"]
