"""Task: a folder of text: the policy's prompt, and how its completions are graded.

    task.yaml      name, description, dataset, prompt, response limits, rm, rules, cohorts
    rubric.md      the seed rubric
    prompts/       prescreen.md, analyze.md, refine.md, merge.md, and what the RM's protocol
                   needs: rm.md (single), criterion.md (per_criterion), dialogue.md (dialogue),
                   or plan.md, execute.md and score.md (plan_execute)
    sample.jsonl   a few rows, so that the task runs offline; optional

A prompt file has `# System` and `# User` sections; `{{name}}` is a placeholder. Templates are
filled in one pass, so that a value can never bring in a placeholder of its own.

>>> load_task("essay").spec.response.max_words
350
"""

from .folder import BUILTIN, Task, builtin_tasks, check_task, load_task
from .prompts import PROMPTS, PROTOCOL_PROMPTS, PromptFile, fill, placeholders, read_prompt
from .spec import (
    AnswerOnly,
    CohortSpec,
    DatasetSpec,
    MinWords,
    Protocol,
    Requires,
    ResponseSpec,
    RMSpec,
    Rule,
    TaskSpec,
)

__all__ = [
    "BUILTIN",
    "PROMPTS",
    "PROTOCOL_PROMPTS",
    "AnswerOnly",
    "CohortSpec",
    "DatasetSpec",
    "MinWords",
    "PromptFile",
    "Protocol",
    "RMSpec",
    "Requires",
    "ResponseSpec",
    "Rule",
    "Task",
    "TaskSpec",
    "builtin_tasks",
    "check_task",
    "fill",
    "load_task",
    "placeholders",
    "read_prompt",
]
