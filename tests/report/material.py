"""Runs as folders, written through the store, and reports about them."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpo.config import load_config, to_yaml
from mpo.evaluation.run_metrics import arm_seed_summary
from mpo.evaluation.simulated import keep_simulated
from mpo.records import (
    Analysis,
    Case,
    CriterionScore,
    Decision,
    Judgement,
    Proposal,
    Refinement,
    Rollout,
    Usage,
)
from mpo.report import write_report
from mpo.rubric import Criterion, Rubric
from mpo.store import Store

EVIL = '<script>alert("x")</script>'
CLOSING = "</script><!--<script><img src=x onerror=alert(1)>]]>"
SEED = Rubric(title="Essay", criteria=(Criterion(name="Discourse", text="How it reads."),))
BETTER = Rubric(
    title="Essay",
    criteria=(*SEED.criteria, Criterion(name=f"Praise {EVIL}", text=f"No praise. {EVIL}")),
)
WORSE = Rubric(title="Essay", criteria=(Criterion(name="Anything", text="All is well."),))
FINDINGS = (
    'error forbidden_demand at criterion 1 "Length": asks for 750 words where 350 are allowed',
    f"warning leak at criterion 2: copied from a rollout: {EVIL}",
)


def judged(step: int, index: int, rubric: Rubric, reward: float | None, text: str = "") -> Case:
    completion = text or f"{EVIL} {CLOSING} {step} \ud800 text"
    rollout = Rollout(prompt=f"Write. {EVIL}", completion=completion, step=step, index=index)
    score = 0 if reward is None else round(5 * reward)
    scores = tuple(
        CriterionScore(criterion=id, score=score, rationale=f"because {EVIL}")
        for id in rubric.criterion_ids
    )
    return Case(
        rollout=rollout,
        judgement=Judgement(
            key=f"{rollout.id} {rubric.id}",
            rollout_id=rollout.id,
            rubric_id=rubric.id,
            step=step,
            scores=() if reward is None else scores,
            reward=reward,
            normalized_reward=reward,
            unscored=f"truncated: {EVIL}" if reward is None else None,
            injection_flags={"grader_address": 1} if index == 1 else {},
            usage=Usage(calls=1, prompt_tokens=1234, completion_tokens=10),
        ),
    )


def evolve(
    parent: Rubric, proposed: Rubric, step: int, accepted: bool, reason: str, evidence: str
) -> Decision:
    return Decision(
        step=step,
        parent=parent.id,
        proposed=proposed.id,
        accepted=accepted,
        reason=reason,
        figures={"agreement": 0.25, "probe_rank_head": 0.5, "probe_rank_new": 0.75},
        findings=FINDINGS,
        refinement=Refinement(
            rubric=proposed,
            reasons=f"Because of {EVIL}",
            evidence=(evidence,),
            labels={evidence: "bad"},
            analyses=(
                Analysis(
                    rollout_id=evidence, verdict="too_high", findings=EVIL, advice="Be strict."
                ),
            ),
            proposals=(Proposal(rollout_id=evidence, rubric=proposed, reasons="It follows."),),
            skipped=(f"rollout q: {EVIL}",),
        ),
        usage=Usage(calls=7),
    )


def make_run(
    folder: Path, arm: str = "mpo", *, steps: int = 22, gold: bool = True, per_step: int = 4
) -> Path:
    """The rubric changes at step 12; a proposal is refused at 16, a meta step fails at 18, and at
    20 the seed comes back. Monitors call at steps 8 to 9."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(load_config("sandbox/essay", [f"arm={arm}"])))
    with Store(folder / "mpo.db") as store:
        store.decide(Decision(kind="seed", proposed=SEED.id, accepted=True, reason="seed"), SEED)
        head, first = SEED, ""
        for step in range(steps):
            if arm == "mpo":
                head = _meta_steps(store, step, head, first)
            cases = [
                judged(step, n, head, None if step == 5 and n == 0 else min(1.0, step / 20))
                for n in range(per_step)
            ]
            first = cases[0].rollout.id
            store.append(cases)
            if gold:
                store.add_external_scores(
                    [(c.rollout.id, 1 - step / 40, {"facts": 0.5}) for c in cases]
                )
            store.log_event("monitor", step + 1, 0, _reading(step, first))
        keep_simulated(store, {"policy": True, "data": True, "judge": True})
        timing = {"calls": 88, "seconds": 44.0, "slowest_s": 2.0, "cached": 1, "shared": 2}
        store.set_meta("timings", json.dumps({"rm": timing}))
        summary = {
            **arm_seed_summary(store),
            "exploits": ["topic_stuffing", "hedging"],
            "cost": {"rm": {"usd": 1.25}},
            "seconds": 75.0,
        }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def _meta_steps(store: Store, step: int, head: Rubric, first: str) -> Rubric:
    if step == 12:
        store.decide(evolve(head, BETTER, 12, True, f"passed {EVIL}", first), BETTER)
        return BETTER
    if step == 16:
        store.decide(evolve(head, WORSE, 16, False, "worse on the probes", first), WORSE)
    if step == 18:
        store.decide(Decision(step=18, parent=head.id, accepted=False, reason="nobody answered"))
    if step == 20:
        back = Decision(
            step=20, kind="rollback", parent=head.id, proposed=SEED.id, accepted=True, reason="back"
        )
        store.decide(back, SEED)
        return SEED
    return head


def _reading(step: int, rollout: str) -> dict[str, Any]:
    alarm = {
        "monitor": "phrase",
        "step": step,
        "message": f"all say {EVIL}",
        "figures": {},
        "rollouts": [rollout],
        "new": step == 8,
    }
    return {"figures": {"length_mean": 50.0 - step}, "alarms": [alarm] if step in (8, 9) else []}


def report(folder: Path, runs: Sequence[Path], **more: object) -> str:
    out = folder / "out" / "report.html"
    write_report(runs, out, dict(more) or None)
    return out.read_text("utf-8")


def unpack(html: str, key: str) -> Any:
    """What the page's script unpacks."""
    found = re.search(
        rf'<script type="text/plain" id="data-{key}">([A-Za-z0-9+/=]*)</script>', html
    )
    assert found is not None, "nothing but base64 may stand there"
    text = zlib.decompress(base64.b64decode(found[1]), -15).decode()
    return json.loads(text) if key != "library" else text
