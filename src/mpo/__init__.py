"""MPO: rewards from an LLM judge whose rubric evolves with the policy.

After Kim et al., "Toward Evaluative Thinking: Meta Policy Optimization with Evolving Reward
Models" (arXiv 2504.20157).

    import mpo

    reward = mpo.EvolvingReward(
        task="essay",
        chat=mpo.OpenAIChat("http://localhost:8000/v1", model="qwen"),
        store="runs/a/mpo.db",
    )
    judgements = await reward.score(rollouts)
    decision = await reward.step(120)

Names are loaded on first use, so that `import mpo` stays fast and pulls in no torch.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from .redaction import LogRedaction

if TYPE_CHECKING:
    from .chat import Chat, ChatRequest, Completion, Message, OpenAIChat, RecordedChat, ScriptedChat
    from .errors import MPOError
    from .evolve.options import Evolve
    from .judge.options import Scoring
    from .records import Decision, Judgement, Refinement, Rollout, Usage
    from .reward import EvolvingReward
    from .rubric import Criterion, Level, Rubric, diff_rubrics, parse_rubric, read_rubric
    from .store import Store
    from .task import Task, load_task

__version__ = "0.1.0"

_HOME = {
    "Chat": "chat",
    "ChatRequest": "chat",
    "Completion": "chat",
    "Criterion": "rubric",
    "Decision": "records",
    "Evolve": "evolve.options",
    "EvolvingReward": "reward",
    "Judgement": "records",
    "Level": "rubric",
    "MPOError": "errors",
    "Message": "chat",
    "OpenAIChat": "chat",
    "RecordedChat": "chat",
    "Refinement": "records",
    "Rollout": "records",
    "Rubric": "rubric",
    "Scoring": "judge.options",
    "ScriptedChat": "chat",
    "Store": "store",
    "Task": "task",
    "Usage": "records",
    "diff_rubrics": "rubric",
    "load_task": "task",
    "parse_rubric": "rubric",
    "read_rubric": "rubric",
}

__all__ = [
    "Chat",
    "ChatRequest",
    "Completion",
    "Criterion",
    "Decision",
    "Evolve",
    "EvolvingReward",
    "Judgement",
    "Level",
    "MPOError",
    "Message",
    "OpenAIChat",
    "RecordedChat",
    "Refinement",
    "Rollout",
    "Rubric",
    "Scoring",
    "ScriptedChat",
    "Store",
    "Task",
    "Usage",
    "__version__",
    "diff_rubrics",
    "load_task",
    "parse_rubric",
    "read_rubric",
]


logging.getLogger(__name__).addHandler(LogRedaction())


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
