"""What a report shows of a run, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..chat import TIMINGS
from ..errors import DataError
from ..evaluation.metrics import arm_seed_summary, curves
from ..records import Decision, Usage
from ..rubric import Rubric
from ..store import Store
from .readings import Readings, read_readings
from .sample import Sample, read_sample
from .switches import Switch, find_switches, number_rubrics

__all__ = ["RunData", "load_run"]

AUDITORS = ("gold", "audit")
"""Under which names scores from outside are looked for, in this order."""


@dataclass(frozen=True)
class RunData:
    """A run, ready to be shown."""

    name: str
    arm: str
    seed: int
    sandbox: bool
    config: Mapping[str, Any]
    config_text: str
    """Its config.yaml; empty where it has none."""
    curves: Mapping[str, Any]
    """As `evaluation.metrics.curves`."""
    raw: Sequence[float | None]
    """Mean reward of each step in the scale of the run, where that is not `normalized`."""
    summary: Mapping[str, Any]
    """As `evaluation.metrics.arm_seed_summary`, and `exploits`, `seconds` where known."""
    decisions: Sequence[Decision]
    before: Sequence[Decision]
    """Decisions of the blind arm's rounds before training."""
    rubrics: Mapping[str, Rubric]
    numbers: Mapping[tuple[str, str], int]
    """Rubrics that came into force, by (cohort, id), numbered from 0 (the seed) in each cohort."""
    switches: Sequence[Switch]
    usage: Mapping[str, Usage]
    unscored: Mapping[str, int]
    """Unscored rollouts by the first word of the reason."""
    rollouts: int
    """Training rollouts: scored + unscored."""
    models: Sequence[str]
    """Names of the chat models that judged what is shown."""
    readings: Readings
    sample: Sample
    timings: Mapping[str, Any] = field(default_factory=dict)
    """By role, as `mpo.config.chats.Chats.timings`; empty where the run kept none."""
    auditor: str = "gold"
    """What stands beside the reward: `gold`, or by which name the task measures it."""
    before_sample: Sample = field(default_factory=Sample)
    """Rollouts behind `before`."""

    def label(self, cohort: str, rubric: str) -> str:
        """How the page names a rubric: by its number, a rejected one by its id."""
        found = self.numbers.get((cohort, rubric))
        where = f"{cohort} " if cohort else ""
        return f"{where}#{found}" if found is not None else f"{where}{rubric[:6]}"


def load_run(folder: Path, quota: int, name: str = "") -> RunData:
    """Read a run.

    Args:
        folder: With `mpo.db`.
        quota: Rollouts to keep, beside those that a decision rests on.
        name: How the page calls it; the folder's name if empty.

    Raises:
        DataError: It has no judgement yet.
        StoreError: Its store cannot be read.
    """
    config_text, config = _config(folder)
    before, more, spent, before_sample = _blind(folder)
    with Store(folder / "mpo.db", create=False) as store:
        steps = store.steps()
        if not steps:
            raise DataError(
                f"{folder}: no rollout has been judged yet, so there is nothing to report; train, "
                "or score rollouts, first"
            )
        auditor = next((name for name in AUDITORS if store.external_scores(name)), AUDITORS[0])
        drawn = curves(store, auditor)
        summary = _json(folder / "summary.json") or arm_seed_summary(store, auditor)
        decisions, rubrics = store.lineage(), {**more, **store.rubrics()}
        readings = read_readings(store)
        usage = store.usage()
        unscored = store.unscored()
        by_cohort = {d.cohort: store.steps(d.cohort) for d in decisions}
        wanted = _wanted(decisions, readings)
        sample = read_sample(folder, store, wanted, quota, auditor)
        timings = json.loads(store.meta(TIMINGS) or "{}")
    for role, part in spent.items():
        usage[role] = usage.get(role, Usage()) + part
    numbers = number_rubrics(decisions)
    other_scale = any(s.mean_reward != s.mean_normalized for s in steps)
    return RunData(
        name=name or folder.resolve().name,
        arm=str(config.get("arm") or summary.get("arm") or "scored"),
        seed=int(config.get("seed") or 0),
        sandbox=bool(summary.get("sandbox")) or config.get("model") == "sandbox",
        config=config,
        config_text=config_text,
        curves=drawn,
        raw=[s.mean_reward for s in steps] if other_scale else [],
        summary=summary,
        decisions=decisions,
        before=before,
        rubrics={**rubrics, **sample.rubrics},
        numbers=numbers,
        switches=find_switches(decisions, by_cohort, rubrics, numbers),
        usage=usage,
        unscored=unscored,
        rollouts=sum(s.n for s in steps),
        models=sample.models,
        readings=readings,
        sample=sample,
        timings=timings,
        auditor=str(summary.get("measure") or auditor) if auditor == "gold" else auditor,
        before_sample=before_sample,
    )


def _wanted(decisions: Sequence[Decision], readings: Readings) -> dict[str, None]:
    """Rollouts that the page must show: what decisions and alarms rest on. In order, once each."""
    ids = [id for d in decisions if d.refinement for id in d.refinement.evidence]
    ids += [id for spell in readings.spells for id in spell.rollouts]
    return dict.fromkeys(id for id in ids if id)


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


def _blind(
    folder: Path,
) -> tuple[list[Decision], dict[str, Rubric], dict[str, Usage], Sample]:
    """What the blind arm did before training; nothing for other arms."""
    path = folder / "blind.db"
    if not path.is_file():
        return [], {}, {}, Sample()
    with Store(path, create=False) as store:
        decisions = store.lineage()
        sample = read_sample(None, store, _wanted(decisions, Readings()), 0, AUDITORS[0])
        return decisions, store.rubrics(), store.usage(), sample
