"""What a report shows of a run, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..evaluation.metrics import arm_seed_summary, curves
from ..records import Decision, Usage
from ..rubric import Rubric
from ..store import Store

__all__ = ["RunData", "Specimen", "load_run"]


@dataclass(frozen=True)
class Specimen:
    """A text of the policy that a report quotes."""

    step: int
    prompt: str
    completion: str
    reward: float
    gold: float | None


@dataclass(frozen=True)
class RunData:
    """A run, ready to be shown."""

    name: str
    arm: str
    seed: int
    sandbox: bool
    config: str
    """Its config.yaml; empty where it has none."""
    curves: Mapping[str, Any]
    """As `evaluation.metrics.curves`."""
    summary: Mapping[str, Any]
    """As `evaluation.metrics.arm_seed_summary`, and `exploits`, `seconds` where known."""
    decisions: Sequence[Decision]
    before: Sequence[Decision]
    """Decisions of the blind arm's rounds before training."""
    rubrics: Mapping[str, Rubric]
    usage: Mapping[str, Usage]
    unscored: Mapping[str, int]
    """Unscored rollouts by the first word of the reason."""
    specimens: Sequence[Specimen]
    """The best rewarded text of the first, the middle and the last step."""

    @property
    def numbers(self) -> dict[str, int]:
        """Rubrics that came into force, numbered from 1 (the seed) in order."""
        ids = [d.proposed for d in self.decisions if d.accepted and d.proposed is not None]
        return {id: n for n, id in enumerate(dict.fromkeys(ids), start=1)}


def load_run(folder: Path) -> RunData:
    """Read a run.

    Raises:
        DataError: It has no judgement yet.
        StoreError: Its store cannot be read.
    """
    with Store(folder / "mpo.db", create=False) as store:
        drawn = curves(store)
        if not drawn["step"]:
            raise DataError(f"{folder}: no rollout has been judged yet: there is nothing to report")
        summary = _json(folder / "summary.json") or arm_seed_summary(store)
        config_text, config = _config(folder)
        decisions, rubrics = store.lineage(), store.rubrics()
        usage = store.usage()
        unscored = store.unscored()
        specimens = _specimens(store, drawn["step"])
    before, more, spent = _blind(folder)
    for role, part in spent.items():
        usage[role] = usage.get(role, Usage()) + part
    return RunData(
        name=folder.name,
        arm=str(config.get("arm", "scored")),
        seed=int(config.get("seed", 0)),
        sandbox=bool(summary.get("sandbox")) or "sandbox" in (config.get("model"),),
        config=config_text,
        curves=drawn,
        summary=summary,
        decisions=decisions,
        before=before,
        rubrics={**more, **rubrics},
        usage=usage,
        unscored=unscored,
        specimens=specimens,
    )


def _json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None  # a run that is still going, or was stopped
    return value if isinstance(value, dict) else None


def _config(folder: Path) -> tuple[str, dict[str, Any]]:
    import yaml

    try:
        text = (folder / "config.yaml").read_text("utf-8")
        value = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return "", {}
    return text, value if isinstance(value, dict) else {}


def _specimens(store: Store, steps: Sequence[int]) -> list[Specimen]:
    chosen = dict.fromkeys((steps[0], steps[len(steps) // 2], steps[-1]))
    found = []
    for step in chosen:
        cases = store.window(after_step=step - 1, up_to_step=step, cohort=None)
        if cases:
            best = max(cases, key=lambda c: c.judgement.normalized or 0.0)
            audit = store.audits("gold", after_step=step - 1, up_to_step=step).get(best.rollout.id)
            found.append(
                Specimen(
                    step=step,
                    prompt=best.rollout.prompt,
                    completion=best.rollout.completion,
                    reward=best.judgement.normalized or 0.0,
                    gold=audit.value if audit is not None else None,
                )
            )
    return found


def _blind(folder: Path) -> tuple[list[Decision], dict[str, Rubric], dict[str, Usage]]:
    """What the blind arm did before training; nothing for other arms."""
    path = folder / "blind.db"
    if not path.is_file():
        return [], {}, {}
    with Store(path, create=False) as store:
        return store.lineage(), store.rubrics(), store.usage()
