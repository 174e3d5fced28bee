"""Everything that a report shows of a run, read from the run's folder.

A plain sum of points jumps whenever the rubric changes its size, with the same policy (in the
published run from 3.35 of 5 to 30.9 of 52). The normalized reward does not, so for each switch of
the rubric both stand side by side.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from ..chat import TIMINGS
from ..data import load_yaml
from ..errors import DataError, StoreError
from ..evaluation.run_metrics import arm_seed_summary, curves
from ..evaluation.simulated import read_simulated
from ..evolve.lineage import number_rubrics
from ..integrations.trainer_figures import TRAINER
from ..records import ConfigChange, Decision, Judgement, Rollout, Usage
from ..reward import MONITOR
from ..rubric import Rubric
from ..store import RunFiles, StepResults, Store
from ..watch.monitors import observe
from ..watch.state import MonitorState

__all__ = [
    "AlarmSpan",
    "Readings",
    "RolloutSample",
    "RunData",
    "ShownRollout",
    "Switch",
    "load_run",
]

GOLD_NAMES = ("gold", "audit")
"""Names under which external scores are looked for, in this order."""
PAUSE = 5
"""Readings without an alarm that do not end it: at a threshold it flickers."""
SIDE = 5
"""Steps on each side of a switch that are compared, where the rubric stayed for as many."""
SCALE = 1.25
"""Factor of the attainable points from which on sums before and after cannot be compared."""


@dataclass(frozen=True)
class AlarmSpan:
    """An alarm, from the step at which it began to the last one at which it held."""

    monitor: str
    first: int
    last: int
    message: str
    """Message at its first step. May quote the policy."""
    rollouts: tuple[str, ...]
    """Ids of rollouts that show it."""


@dataclass(frozen=True)
class Readings:
    """Figures and alarms of the monitors over a run."""

    steps: Sequence[int] = ()
    figures: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    """Values by name, one per step; None where a step has none."""
    alarms: Sequence[AlarmSpan] = ()
    afterwards: bool = False
    """True if the run kept no readings (an imported run), and they were made for this report."""


@dataclass(frozen=True)
class ShownRollout:
    """A rollout with its judgements and gold."""

    rollout: Rollout
    judgement: Judgement
    """Judgement from which the policy learned: that of the first rubric."""
    others: tuple[Judgement, ...] = ()
    """Judgements of the same rollout under other rubrics: replayed, or scored again in the run."""
    gold: float | None = None
    needed: bool = False
    """True if a decision, an alarm or a replay refers to it."""


@dataclass(frozen=True)
class RolloutSample:
    """The rollouts that a report may show."""

    shown: Sequence[ShownRollout] = ()
    """Rollouts in the order of their steps."""
    rubrics: Mapping[str, Rubric] = field(default_factory=dict)
    """Rubrics of replays that the run's own store lacks."""

    @property
    def models(self) -> list[str]:
        """Names of the chat models that judged the rollouts."""
        return list(dict.fromkeys(s.judgement.model for s in self.shown if s.judgement.model))


@dataclass(frozen=True)
class Switch:
    """A step at which another rubric took effect."""

    index: int
    """Place of its decision in the lineage."""
    step: int
    cohort: str
    old: int | None
    """Number of the rubric before; None where it was never in effect."""
    new: int
    """Number of the rubric that took effect."""
    old_range: tuple[float, float]
    """Least and most points under the old rubric."""
    new_range: tuple[float, float]
    normalized_before: float | None
    """Mean normalized reward, 0 to 1, over the last steps under the old rubric; None: not known."""
    normalized_after: float | None
    """Mean normalized reward over the first steps under the new rubric."""

    @property
    def points_before(self) -> float | None:
        """Mean of the paper's plain sum, in the old rubric's points."""
        return _points(self.normalized_before, self.old_range)

    @property
    def points_after(self) -> float | None:
        """Mean of the paper's plain sum, in the new rubric's points."""
        return _points(self.normalized_after, self.new_range)

    @property
    def rescaled(self) -> bool:
        """True if the attainable points changed so much that sums cannot be compared."""
        old, new = (high - low for low, high in (self.old_range, self.new_range))
        return max(old, new) >= SCALE * min(old, new)


@dataclass(frozen=True)
class RunData:
    """Data of a run for its report."""

    name: str
    arm: str
    seed: int
    simulated: Mapping[str, bool]
    """True for each simulated part of the run, False for each real one; empty if nobody said."""
    config: Mapping[str, Any]
    config_text: str
    """Text of config.yaml; empty where the run has none."""
    changes: Sequence[ConfigChange]
    """Keys that were changed while the run went on, oldest first; `config` has the last values."""
    curves: Mapping[str, Any]
    """Result of `evaluation.run_metrics.curves`."""
    raw: Sequence[float | None]
    """Mean reward of each step in the run's scale; empty where that is `normalized`."""
    summary: Mapping[str, Any]
    """Result of `evaluation.run_metrics.arm_seed_summary`; `exploits` and `seconds` where known."""
    decisions: Sequence[Decision]
    before: Sequence[Decision]
    """Decisions of the blind arm's rounds before training."""
    rubrics: Mapping[str, Rubric]
    numbers: Mapping[tuple[str, str], int]
    """Numbers of the rubrics that took effect by (cohort, id), from 0 (the seed) in each cohort."""
    switches: Sequence[Switch]
    usage: Mapping[str, Usage]
    unscored: Mapping[str, int]
    """Number of unscored rollouts by the first word of the reason."""
    rollouts: int
    """Number of training rollouts, scored and unscored."""
    readings: Readings
    sample: RolloutSample
    trainer: Mapping[str, Mapping[int, float | None]] = field(default_factory=dict)
    """Figures of the trainer by name and by the step of the rollouts from which the policy learned;
    empty where the trainer told of none."""
    timings: Mapping[str, Any] = field(default_factory=dict)
    """Timings of calls by role; empty where the run kept none."""
    gold_name: str = "gold"
    """Name of gold on the page: `gold`, or that of the task's own measure."""
    before_sample: RolloutSample = field(default_factory=RolloutSample)
    """Rollouts on which `before` rests."""

    def label(self, cohort: str, rubric: str) -> str:
        """Name of a rubric on the page: its number, or the start of its id if it was rejected."""
        number = self.numbers.get((cohort, rubric))
        where = f"{cohort} " if cohort else ""
        return f"{where}#{number}" if number is not None else f"{where}{rubric[:6]}"


def load_run(path: Path, quota: int, name: str = "") -> RunData:
    """Read a run.

    Args:
        path: The run's folder, or its store.
        quota: Number of rollouts to keep, beside those on which a decision rests.
        name: Name of the run on the page; the folder's name if empty.

    Raises:
        DataError: The run has no judgement yet.
        StoreError: The run's store cannot be read.
    """
    files = RunFiles.at(path)
    config_text, config = _config(files.beside("config.yaml"))
    before, before_rubrics, before_sample = _blind(files.beside("blind.db"))
    with Store(files.store, create=False) as store:
        steps = store.steps()
        if not steps:
            raise DataError(
                f"{files.path}: no rollout has been judged yet, so there is nothing to report; "
                "train, or score rollouts, first"
            )
        gold_name = next(
            (name for name in GOLD_NAMES if store.external_scores(name)), GOLD_NAMES[0]
        )
        by_step = curves(store, gold_name)
        summary = _json(files.beside("summary.json")) or arm_seed_summary(store, gold_name)
        decisions, rubrics = store.lineage(), {**before_rubrics, **store.rubrics()}
        readings = _readings(store)
        usage = store.usage()
        simulated = read_simulated(store)
        unscored = store.unscored()
        by_cohort = {d.cohort: store.steps(d.cohort) for d in decisions}
        wanted = _wanted(decisions, readings)
        sample = _sample(files.replays, store, wanted, quota, gold_name)
        trainer = _trainer(store)
        timings = json.loads(store.meta(TIMINGS) or "{}")
        changes = store.config_changes()
    numbers = number_rubrics(decisions)
    other_scale = any(s.mean_reward != s.mean_normalized for s in steps)
    return RunData(
        name=name or path.resolve().name,
        arm=str(config.get("arm") or summary.get("arm") or "scored"),
        seed=int(config.get("seed") or 0),
        simulated=simulated,
        config=config,
        config_text=config_text,
        changes=changes,
        curves=by_step,
        raw=[s.mean_reward for s in steps] if other_scale else [],
        summary=summary,
        decisions=decisions,
        before=before,
        rubrics={**rubrics, **sample.rubrics},
        numbers=numbers,
        switches=_find_switches(decisions, by_cohort, rubrics, numbers),
        usage=usage,
        unscored=unscored,
        rollouts=sum(s.n for s in steps),
        readings=readings,
        sample=sample,
        trainer=trainer,
        timings=timings,
        gold_name=str(summary.get("measure") or gold_name) if gold_name == "gold" else gold_name,
        before_sample=before_sample,
    )


def _wanted(decisions: Sequence[Decision], readings: Readings) -> dict[str, None]:
    """Ids of the rollouts on which decisions and alarms rest, in order, once each."""
    ids = [id for d in decisions if d.refinement for id in d.refinement.evidence]
    ids += [id for alarm in readings.alarms for id in alarm.rollouts]
    return dict.fromkeys(id for id in ids if id)


def _json(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None  # the run is not finished
    return value if isinstance(value, dict) else None


def _config(path: Path | None) -> tuple[str, dict[str, Any]]:
    if path is None:
        return "", {}
    try:
        text = path.read_text("utf-8")
        value = load_yaml(text)
    except (OSError, ValueError, yaml.YAMLError):
        return "", {}
    return text, value if isinstance(value, dict) else {}


def _blind(
    path: Path | None,
) -> tuple[list[Decision], dict[str, Rubric], RolloutSample]:
    """Decisions, rubrics and rollouts of the blind arm before training; empty for others."""
    if path is None:
        return [], {}, RolloutSample()
    with Store(path, create=False) as store:
        decisions = store.lineage()
        sample = _sample(None, store, _wanted(decisions, Readings()), 0, GOLD_NAMES[0])
        return decisions, store.rubrics(), sample


def _trainer(store: Store) -> dict[str, dict[int, float | None]]:
    figures: dict[str, dict[int, float | None]] = {}
    for event in store.events(TRAINER):
        for name, value in event.result.items():
            # Update n learns from the rollouts that were sampled at step n - 1.
            figures.setdefault(name, {})[event.step - 1] = value
    return figures


# ---------------------------------------------------------------------- monitors


def _readings(store: Store) -> Readings:
    """The readings that the run kept; else those of today's monitors, over its rollouts."""
    stored = {event.step: event.result for event in store.events(MONITOR)}
    if stored:
        # A reading at update n is of the rollouts sampled at step n - 1.
        return _over_steps({step - 1: reading for step, reading in sorted(stored.items())}, False)
    state, made = MonitorState(), {}
    for summary in store.steps():
        step = summary.step
        cases = store.window(after_step=step - 1, up_to_step=step, cohort=None, scored=None)
        state, reading = observe(state, step, cases)
        made[step] = {
            "figures": reading.figures,
            "alarms": [alarm.to_dict() for alarm in reading.alarms],
        }
    return _over_steps(made, True)


def _over_steps(readings: Mapping[int, Mapping[str, Any]], afterwards: bool) -> Readings:
    steps = list(readings)
    names = dict.fromkeys(name for reading in readings.values() for name in reading["figures"])
    return Readings(
        steps=steps,
        figures={name: [readings[s]["figures"].get(name) for s in steps] for name in names},
        alarms=_alarm_spans(readings),
        afterwards=afterwards,
    )


def _alarm_spans(readings: Mapping[int, Mapping[str, Any]]) -> list[AlarmSpan]:
    done: list[AlarmSpan] = []
    open_: dict[str, AlarmSpan] = {}
    latest: dict[str, int] = {}  # place of the last reading with this alarm
    for place, (step, reading) in enumerate(readings.items()):
        for alarm in reading["alarms"]:
            name = str(alarm["monitor"])
            if name in open_ and place - latest[name] > PAUSE:
                done.append(open_.pop(name))
            latest[name] = place
            since = open_.get(name)
            open_[name] = AlarmSpan(
                monitor=name,
                first=since.first if since else step,
                last=step,
                message=since.message if since else str(alarm["message"]),
                rollouts=since.rollouts if since else tuple(alarm["rollouts"]),
            )
    return sorted([*done, *open_.values()], key=lambda span: (span.first, span.monitor))


# ---------------------------------------------------------------------- rollouts


def _sample(
    replay_folder: Path | None, store: Store, wanted: Collection[str], quota: int, gold_name: str
) -> RolloutSample:
    """Rollouts that a report may show.

    Those on which a decision or an alarm rests, those that were replayed under another rubric, and
    of the rest as many as the quota allows, spread evenly over the run.

    Args:
        replay_folder: Folder of the run's replays; None for none.
        store: The run's store.
        wanted: Ids of rollouts that must be shown.
        quota: Number of further rollouts.
        gold_name: Name under which gold is stored.
    """
    replays, rubrics = _replays(replay_folder) if replay_folder is not None else ({}, {})
    needed = {*wanted, *replays}
    total = store.count(cohort=None, scored=None)
    shown: list[ShownRollout] = []
    seen = 0
    for summary in store.steps():
        step = summary.step
        judged: dict[str, tuple[Rollout, list[Judgement]]] = {}
        for case in store.window(after_step=step - 1, up_to_step=step, cohort=None, scored=None):
            picked = (seen + 1) * quota // total > seen * quota // total
            seen += 1
            id = case.rollout.id
            if picked or id in needed or id in judged:
                judged.setdefault(id, (case.rollout, []))[1].append(case.judgement)
        external = (
            store.external_scores(gold_name, after_step=step - 1, up_to_step=step) if judged else {}
        )
        for id, (rollout, judgements) in judged.items():
            score = external.get(id)
            first = judgements[0]
            more = [*judgements[1:], *replays.get(id, ())]
            others = [j for j in more if j.rubric_id != first.rubric_id]
            shown.append(
                ShownRollout(
                    rollout=rollout,
                    judgement=first,
                    others=tuple({j.rubric_id: j for j in others}.values()),
                    gold=score.value if score is not None else None,
                    needed=id in needed,
                )
            )
    return RolloutSample(shown, rubrics)


def _replays(folder: Path) -> tuple[dict[str, list[Judgement]], dict[str, Rubric]]:
    """Judgements and rubrics of `mpo replay`, which keeps a store for each rubric in one folder."""
    judgements: dict[str, list[Judgement]] = {}
    rubrics: dict[str, Rubric] = {}
    for path in sorted(folder.glob("*.db")):
        try:
            with Store(path, create=False) as store:
                cases = store.window(cohort=None, scored=None)
                rubrics |= store.rubrics()
        except StoreError:
            continue  # the replay was stopped before its first answer
        for case in cases:
            judgements.setdefault(case.rollout.id, []).append(case.judgement)
    return judgements, rubrics


# ---------------------------------------------------------------------- switches


def _find_switches(
    decisions: Sequence[Decision],
    steps: Mapping[str, Sequence[StepResults]],
    rubrics: Mapping[str, Rubric],
    numbers: Mapping[tuple[str, str], int],
) -> list[Switch]:
    """All switches of a run, oldest first.

    Args:
        decisions: The lineage.
        steps: Summaries of the steps by cohort.
        rubrics: Rubrics by id.
        numbers: Result of `number_rubrics`.
    """
    switches = []
    for index, decision in enumerate(decisions):
        parent, proposed = decision.parent, decision.proposed
        if not decision.accepted or parent is None or proposed is None or parent == proposed:
            continue
        of_cohort = steps[decision.cohort]
        before, after = _around(of_cohort, parent, proposed, decision.step)
        switches.append(
            Switch(
                index=index,
                step=decision.step,
                cohort=decision.cohort,
                old=numbers.get((decision.cohort, parent)),
                new=numbers[decision.cohort, proposed],
                old_range=rubrics[parent].score_range,
                new_range=rubrics[proposed].score_range,
                normalized_before=before,
                normalized_after=after,
            )
        )
    return switches


def _around(
    steps: Sequence[StepResults], parent: str, proposed: str, at: int
) -> tuple[float | None, float | None]:
    """Mean normalized rewards of the last steps under one rubric, and the first under the next."""
    alone = [s for s in steps if len(s.rubric_ids) == 1 and s.mean_normalized is not None]
    before = [s for s in alone if s.rubric_ids[0] == parent and s.step <= at][-SIDE:]
    after = [s for s in alone if s.rubric_ids[0] == proposed and s.step >= at][:SIDE]
    return _mean(before), _mean(after)


def _mean(steps: Sequence[StepResults]) -> float | None:
    return (
        fmean(s.mean_normalized for s in steps if s.mean_normalized is not None) if steps else None
    )


def _points(normalized: float | None, limits: tuple[float, float]) -> float | None:
    low, high = limits
    return None if normalized is None else low + normalized * (high - low)
