"""verifiers finds judge plugins by a top-level module's name: `id = "mpo-judge"` is this one."""

from mpo.integrations.verifiers import MPOJudge

__all__ = ["MPOJudge"]
