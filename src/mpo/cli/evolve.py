"""`mpo evolve`: one checked meta step on the completions of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from ..chat import identity_of
from ..config import write_text
from ..errors import MetaStepError
from ..evolve.gate import AllOf, Gate, GateResult, Pairs, Probes
from ..evolve.meta_step import FAILED
from ..records import Case, Decision, Refinement, content_hash, to_json
from ..reward import roll_back
from ..rubric import Rubric, diff_rubrics
from ..watch.canaries import CANARIES_PER_RUBRIC, HALVES
from .offline.held_out import COLUMN, LEAST, HeldOut, agreement_lines, hold_out, remarks
from .offline.options import OfflineOptions, offline_command
from .offline.rows import FileRow
from .offline.session import (
    MetaOptions,
    OfflineSession,
    estimate_cost,
    open_session,
    print_estimate,
    score_in_chunks,
)
from .offline.stages import Stages
from .results import cost_lines

__all__ = ["REFUSED", "app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)

REFUSED = 3
"""Exit code where there is a proposal and a check refuses it."""

_KEY = "offline_evolve"
"""Fact of the store: hash of all that the last decision depends on."""


@offline_command(app)
def evolve(
    options: OfflineOptions,
    samples: int = typer.Option(16, min=1, help="Rollouts that the meta-reward model reads."),
    seed: int = typer.Option(0, min=0, help="Random seed for choosing them and held-out rows."),
    gate: list[str] = typer.Option(
        ["probes"], help="probes, pairs:FILE or always; of several, all must accept."
    ),
    meta_chat: str = typer.Option("", help="Endpoint or plugin that rewrites; else as --chat."),
    meta_model: str = typer.Option("", help="Model that rewrites; else as --model."),
    meta_api_key_env: str = typer.Option(
        "", help="Variable with its API key; OPENAI_API_KEY for another endpoint."
    ),
    meta_chat_option: list[str] = typer.Option(
        [], metavar="KEY=VALUE", help="As --chat-option, for the model that rewrites."
    ),
    meta_price: str = typer.Option("", help="As --price, for the model that rewrites."),
    out: Path = typer.Option(None, help="Write the proposed rubric to this file if it passes."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Propose a better rubric from a file's completions, and check it.

    A row's score and rationale are used unchanged, on any scale; rows without a score are scored
    under the rubric first. The meta-reward model reads a sample of the rows and rewrites the
    rubric; lint, gate and canaries check it as in training. Where rows have a human_score, two
    fifths of these are held out: the model sees people's scores of the others, and a proposal that
    ranks the held-out rows less as people do than the rubric before is refused.

    Prints the proposal, its diff and the reasons. Exit code 3: a proposal that was refused; --out
    is not written then. The same command continues where it stopped.

    Examples: mpo evolve rollouts.jsonl --rubric r.md --chat http://localhost:8000/v1 --model qwen

    mpo evolve rollouts.jsonl --chat http://localhost:8000/v1 --model qwen --estimate
    """
    meta = MetaOptions(
        samples=samples,
        seed=seed,
        gates=gate,
        chat=meta_chat,
        model=meta_model,
        api_key_env=meta_api_key_env,
        chat_option=meta_chat_option,
        price=meta_price,
    )
    trial = _Trial.of(open_session(options, meta), meta)
    session, past = trial.session, trial.past()
    planned = trial.planned(past)
    judgements = sum(planned.values())
    if options.estimate or past is None:
        estimate = estimate_cost(session, judgements, 0 if past else samples)
        print_estimate(estimate, as_json=options.estimate and as_json)
        planned = {"scoring": planned.pop("scoring"), "proposal": estimate["meta_calls"], **planned}
    if options.estimate:
        return
    decision, refusal, human = session.run(trial.run(past, Stages(planned)))
    before = session.reward.seed_rubric
    assert decision.refinement is not None
    if out is not None and not refusal:
        write_text(out, decision.refinement.rubric.to_markdown())
    if as_json:
        body = {**_body(session, before, decision, refusal), "human": human}
        typer.echo(to_json(body, indent=2))
    else:
        typer.echo(_text(session, before, decision, refusal, human, out))
    if refusal:
        kept = f"; {out} is not written" if out is not None else ""
        typer.echo(f"refused: {refusal}{kept}", err=True)
        raise typer.Exit(REFUSED)


@dataclass(frozen=True)
class _Trial:
    """One checked meta step on the rows of a session."""

    session: OfflineSession
    others: Sequence[FileRow]
    """Rows that are evidence."""
    held: HeldOut | None
    """Gate with the rows that are held out; None where there are too few human scores."""
    key: str

    @classmethod
    def of(cls, session: OfflineSession, meta: MetaOptions) -> _Trial:
        """Hold rows out, and show the MRM people's scores of the others."""
        reward, rows = session.reward, session.rows
        held = hold_out(rows, meta.seed)
        people = [[row.rollout.id, row.human] for row in rows if row.human is not None]
        if people and not held:
            typer.echo(
                f"rows with a human_score: {len(people)}; agreement with people is not "
                f"checked with fewer than {LEAST}",
                err=True,
            )
        reward.meta_reward_model = reward.meta_reward_model.remarking(remarks(rows, held))
        hidden = [row.rollout.id for row in held]
        mrm = identity_of(reward.meta_chat)
        return cls(
            session,
            [row for row in rows if row.rollout.id not in hidden],
            HeldOut(session, held) if held else None,
            content_hash([meta.samples, meta.seed, list(meta.gates), mrm, people]),
        )

    def past(self) -> Decision | None:
        """The decision of an earlier call with the same options, if it was one on the proposal."""
        store = self.session.reward.store
        decisions = [d for d in store.lineage() if d.kind == "evolve"]
        if store.meta(_KEY) != self.key or not decisions or not _decided(decisions[-1]):
            return None
        return decisions[-1]

    def planned(self, past: Decision | None) -> dict[str, int]:
        """Judgements to pay for, by stage; at most."""
        if past is not None:
            return {"scoring": 0}
        reward = self.session.reward
        gates = reward.gate.gates if isinstance(reward.gate, AllOf) else (reward.gate,)
        checked = (Probes, Pairs)
        return {
            "scoring": len(self.session.unscored(self.others)),
            "gate": sum(gate.calls() for gate in gates if isinstance(gate, checked)),
            "held-out rows": 2 * len(self.held.rows) if self.held else 0,
            "canaries": 2 * CANARIES_PER_RUBRIC if reward.watch.canaries else 0,
        }

    async def run(
        self, past: Decision | None, stages: Stages
    ) -> tuple[Decision, str, dict[str, Any] | None]:
        """The decision on the proposal, the reason of a refusal, and the agreement with people.

        Raises:
            MetaStepError: There is no proposal, or it could not be checked.
        """
        reward, decision = self.session.reward, past
        if decision is None:
            reward.store.set_meta(_KEY, self.key)
            # From the seed alone: rows that are held out may have been scored as evidence before.
            # What was paid for is taken over.
            reward.restore(reward.store.genesis())
            self.session.use_file_scores(self.others)
            await score_in_chunks(reward.score, self.session.unscored(self.others))
            stages.done("scoring")
            gates: list[Gate] = [_Announced(reward.gate, stages, "gate")]
            if self.held is not None:
                gates.append(_Announced(self.held, stages, "held-out rows"))
            reward.gate = AllOf(gates)
            budget = self.session.chats.budget
            decision = await stages.watch(reward.step(1), lambda: budget.spent.usage.calls)
            stages.done("proposal")
        assert decision is not None  # a meta step is due after every update
        if not _decided(decision):
            what = "checked" if decision.refinement is not None else "proposed"
            raise MetaStepError(f"no rubric was {what}: {decision.reason}")
        refusal = await self._refusal(decision)
        if decision.accepted:
            stages.done("canaries", "refuse" if refusal else "accept")
        human = None
        if self.held is not None and decision.refinement is not None and COLUMN in decision.figures:
            human = await self.held.compare(reward.seed_rubric, decision.refinement.rubric)
        return decision, refusal, human

    async def _refusal(self, decision: Decision) -> str:
        """The reason of a refusal by lint, a gate or the canaries; empty if all accept."""
        store, canaries = self.session.reward.store, self.session.reward.watch.canaries
        if not decision.accepted:
            # A rubric that the MRM leaves as it is has been refused by nobody.
            return "" if decision.proposed == decision.parent else decision.reason
        rejected = [d for d in store.lineage() if d.canary_failed]
        if canaries is None or rejected:
            return rejected[-1].reason if rejected else ""
        n = decision.step + HALVES
        failure, target = await canaries.failing(n, ""), canaries.target("")
        if failure is None or target is None:
            return ""
        return roll_back(
            store, target, n, failure.reason, "", failure.figures, canary_failed=True
        ).reason


def _decided(decision: Decision) -> bool:
    """True for a decision on a proposal; a failure is tried again by the same command."""
    failed = decision.reason.startswith(FAILED) or "stayed unscored" in decision.reason
    return decision.refinement is not None and not failed


@dataclass(frozen=True)
class _Announced:
    """A gate that says when it is finished."""

    gate: Gate
    stages: Stages
    name: str

    async def check(
        self, parent: Rubric, refinement: Refinement, evidence: Sequence[Case]
    ) -> GateResult:
        self.stages.done("proposal")
        answer = await self.gate.check(parent, refinement, evidence)
        outcome = "accepts" if answer.accepted else "refuses"
        self.stages.done(self.name, "no change" if refinement.rubric == parent else outcome)
        return answer


def _body(
    session: OfflineSession, before: Rubric, decision: Decision, refusal: str
) -> dict[str, Any]:
    refinement = decision.refinement
    assert refinement is not None
    return {
        "sandbox": session.sandbox,
        "accepted": decision.accepted and not refusal,
        "reason": refusal or decision.reason,
        "reasons": refinement.reasons,
        "parent": before.id,
        "rubric": refinement.rubric.model_dump(mode="json"),
        "markdown": refinement.rubric.to_markdown(),
        "diff": diff_rubrics(before, refinement.rubric),
        "analyses": [analysis.model_dump(mode="json") for analysis in refinement.analyses],
        "skipped": list(refinement.skipped),
        "usage": {role: usage.model_dump() for role, usage in session.reward.store.usage().items()},
        "cost": session.chats.costs(),
        "store": str(session.reward.store.path),
    }


def _text(
    session: OfflineSession,
    before: Rubric,
    decision: Decision,
    refusal: str,
    human: dict[str, Any] | None,
    out: Path | None,
) -> str:
    refinement = decision.refinement
    assert refinement is not None
    change = diff_rubrics(before, refinement.rubric) or "no change\n"
    verdict = f"refused: {refusal}" if refusal else decision.reason
    if decision.accepted and not refusal:
        verdict = f"accepted: {verdict}"
    parts = [
        f"{'sandbox judge: ' if session.sandbox else ''}proposed rubric {refinement.rubric.id}",
        "",
        refinement.rubric.to_markdown(),
        f"diff against {before.id}",
        "",
        change,
        "why",
        "",
        refinement.reasons or "(no reasons given)",
        "",
        f"{verdict}; from {len(refinement.analyses)} analyses"
        + (f", {len(refinement.skipped)} cases left out" if refinement.skipped else ""),
        *([agreement_lines(human)] if human is not None else []),
        cost_lines(session.chats.costs()),
        f"store: {session.reward.store.path}",
    ]
    if out is not None and not refusal:
        parts.append(f"written to {out}")
    return "\n".join(parts)
