"""Metrics and texts of a run, under the same names whichever trainer logs them.

    log = RunLog(store)
    log.note(decision)              # after each update
    log.metrics(step)               # {"mpo/reward_normalized": 0.61, …} since the last call
    log.texts()                     # rubrics, their changes and alarms that were not shown yet

Everything is read from the store: figures are over the rollouts of all ranks, and a run that is
continued logs as one that was not stopped. docs/training.md lists the names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from ..chat.ledger import Price
from ..records import Case, Decision
from ..rubric import Rubric, diff_rubrics
from ..store import Store
from ..watch import MONITOR

__all__ = ["ALARM", "DIFF", "RUBRIC", "RunLog"]

RUBRIC = "mpo/rubric"
"""Name of the text of a rubric that takes effect; a cohort's name follows after a slash."""
DIFF = "mpo/rubric_diff"
"""Name of the text of a rubric change: its reason, and the criteria that changed."""
ALARM = "mpo/alarm"
"""Name of the text of an update's alarms."""

_LOGGED_ALREADY = ("unscored", "reward_mean")
"""Readings of the monitors, over several updates, of which there is a metric for each update."""

Text = tuple[str, str, int]
"""Name, text and update."""


class RunLog:
    """Metrics and texts of one run. Read on the main process.

    Args:
        store: The run's store, where it stands when training begins.
        since: Updates made before.
        prices: Price of each role's model; dollars are logged where every role has one.
    """

    def __init__(
        self, store: Store, since: int = 0, prices: Mapping[str, Price | None] | None = None
    ) -> None:
        self._store = store
        self._prices = dict(prices or {})
        self._logged = since
        self._evaluated: set[str] = set()
        self._rubrics: dict[str, Rubric] = {}
        self._heads: dict[str, str] = {}
        self._decided = False
        self._shown: set[tuple[int, str, str | None]] = set()
        self._changes: dict[str, float] = {}
        self._changed_at = 0
        self._read_to: int | None = None  # update of the last reading of the monitors
        self._alarms: Counter[str] = Counter()
        self._readings: dict[str, float] = {}
        self._texts: list[Text] = []

    def note(self, decision: Decision | None) -> None:
        """Note the decision of an update; None where there was none."""
        self._decided |= decision is not None

    # ------------------------------------------------------------------ metrics

    def metrics(self, step: int) -> dict[str, float]:
        """Figures of the updates since the last call, and where the run stands.

        Args:
            step: Updates made.
        """
        cases = self._store.window(
            after_step=self._logged - 1, up_to_step=step - 1, cohort=None, scored=None
        )
        self._logged = step
        self._refresh()
        figures = {
            **self._judged(cases),
            **self._changes,
            "mpo/rubric_age": float(step - self._changed_at),
            "mpo/alarms": float(self._alarms.total()),
            **{f"{ALARM}/{monitor}": float(n) for monitor, n in sorted(self._alarms.items())},
            **{
                f"mpo/monitor/{name}": float(value)
                for name, value in self._readings.items()
                if name not in _LOGGED_ALREADY
            },
        }
        return figures | self._costs()

    def evaluation_metrics(self, step: int) -> dict[str, float]:
        """Figures of the evaluation rollouts of a step that were not in a call before."""
        cases = self._store.window(
            after_step=step - 1, up_to_step=step, cohort=None, mode="eval", scored=None
        )
        fresh = [case for case in cases if case.rollout.id not in self._evaluated]
        self._evaluated = {case.rollout.id for case in cases}
        return self._judged(fresh)

    def _judged(self, cases: Sequence[Case]) -> dict[str, float]:
        """Means over rollouts. A mean over nothing is left out: it is not 0."""
        if not cases:
            return {}
        rewards: list[float] = []
        shares: dict[str, list[float]] = {}
        for case in cases:
            judgement = case.judgement
            if judgement.normalized_reward is not None:
                rewards.append(judgement.normalized_reward)
            scales = dict(self._rubric(judgement.rubric_id).keyed)
            for part in judgement.scores:
                lowest, *_, highest = scales[part.criterion].scores
                share = (part.score - lowest) / (highest - lowest)
                shares.setdefault(part.criterion, []).append(share)
        figures = {"mpo/unscored": 1 - len(rewards) / len(cases)}
        if rewards:
            figures["mpo/reward_normalized"] = fmean(rewards)
        return figures | {f"mpo/criterion/{id}": fmean(shares[id]) for id in sorted(shares)}

    def _rubric(self, id: str) -> Rubric:
        if id not in self._rubrics:
            self._rubrics[id] = self._store.rubric(id)
        return self._rubrics[id]

    def _costs(self) -> dict[str, float]:
        usage = self._store.usage()
        figures = {
            "mpo/cost/calls": float(sum(u.calls for u in usage.values())),
            "mpo/cost/prompt_tokens": float(sum(u.prompt_tokens for u in usage.values())),
            "mpo/cost/completion_tokens": float(sum(u.completion_tokens for u in usage.values())),
        }
        prices = [(self._prices.get(role), spent) for role, spent in usage.items()]
        known = [price.of(spent) for price, spent in prices if price is not None]
        return figures | ({"mpo/cost/usd": sum(known)} if len(known) == len(prices) else {})

    # ------------------------------------------------------------------ texts

    def texts(self) -> list[Text]:
        """Name, text and update of each text since the last call, in order.

        The first call gives all texts of the run so far: the trackers of a continued run know none.
        """
        self._refresh()
        texts, self._texts = self._texts, []
        return texts

    def _refresh(self) -> None:
        heads = self._store.heads()
        # The lineage holds every analysis: it is read after a decision, not at each update.
        if self._decided or heads != self._heads:
            self._heads, self._decided = heads, False
            self._read_lineage(heads)
        self._read_monitors()

    def _read_lineage(self, heads: Mapping[str, str]) -> None:
        lineage = self._store.lineage()
        accepted = [decision for decision in lineage if decision.accepted]
        self._changes = {
            "mpo/rubric_changes": float(sum(d.kind != "seed" for d in accepted)),
            "mpo/proposals_refused": float(len(lineage) - len(accepted)),
        }
        self._changed_at = max((d.step for d in accepted), default=0)
        if len(heads) == 1:  # cohorts have rubrics of their own
            (head,) = heads.values()
            distinct = list(dict.fromkeys(d.proposed for d in accepted))
            self._changes["mpo/rubric_number"] = float(distinct.index(head))
        for decision in accepted:
            key = (decision.step, decision.cohort, decision.proposed)
            if key not in self._shown:
                self._shown.add(key)
                self._texts += self._change(decision)

    def _change(self, decision: Decision) -> list[Text]:
        assert decision.proposed is not None  # an accepted decision names its rubric
        rubric = self._rubric(decision.proposed)
        suffix = f"/{decision.cohort}" if decision.cohort else ""
        texts = [(RUBRIC + suffix, rubric.to_markdown(), decision.step)]
        if decision.parent is not None:
            why = decision.refinement.reasons if decision.refinement is not None else ""
            change = diff_rubrics(self._rubric(decision.parent), rubric)
            parts = [f"{decision.kind}: {decision.reason}", why, change]
            texts.append((DIFF + suffix, "\n\n".join(filter(None, parts)), decision.step))
        return texts

    def _read_monitors(self) -> None:
        for event in self._store.events(MONITOR, after_step=self._read_to):
            self._read_to = event.step
            self._readings = event.result["figures"]
            fresh = [alarm for alarm in event.result["alarms"] if alarm["new"]]
            self._alarms.update(alarm["monitor"] for alarm in fresh)
            if fresh:
                lines = [f"{alarm['monitor']}: {alarm['message']}" for alarm in fresh]
                self._texts.append((ALARM, "\n".join(lines), event.step))
