"""Completions of checkpoints on a test set, into one JSONL file for each checkpoint.

    rows = [{"prompt": "Write about tea.", "id": 7}, …]
    with JsonlLog(Path("outputs/mpo.jsonl")) as log:
        complete_test_set("runs/a/checkpoints/checkpoint-140", "mpo", rows, log)

A file that exists is continued: its rows are not generated again. Each row of the test set is in
the file once. (The paper's code pads the last batch over processes, which counts some rows twice.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from ..errors import ConfigError, DataError, MissingExtraError
from ..evaluation.rows import JsonlLog
from ..records import content_hash
from .generation import Sample, Sampling, end_tokens, generate
from .model import load_tokenizer, unknown_model
from .ppo.language_model import LanguageModel

__all__ = ["CompletionSettings", "check_packages", "complete_test_set"]

OWN_COLUMNS = ("row", "key", "model", "completion", "finished", "settings")


@dataclass(frozen=True)
class CompletionSettings:
    """How a test set is completed."""

    max_tokens: int = 400
    """Most tokens of a completion."""
    temperature: float = 0.0
    """0: always the likeliest token."""
    top_p: float = 1.0
    """Probability mass that tokens are sampled from."""
    template: bool = False
    """Wrap the prompt in the tokenizer's chat template; without, it is taken as it is, as the
    trainers of this package do."""
    seed: int = 0
    """Random seed for sampling."""


def check_packages() -> None:
    """Check that generation is installed, before anything is loaded.

    Raises:
        MissingExtraError: torch or transformers is not installed.
    """
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "train")


def complete_test_set(
    checkpoint: str,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    log: JsonlLog,
    *,
    settings: CompletionSettings | None = None,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Generate what the log does not hold yet, and leave it in the test set's order.

    A row of the log has all columns of the test set's row, and `row` (its number, from 0),
    `model`, `completion`, `finished` (whether it reached an end token), `key`, `settings`.

    Args:
        checkpoint: Folder or hub id of a model or of a LoRA adapter.
        name: The model's name in the log.
        rows: The test set; each row has a `prompt`.
        log: The checkpoint's file of completions.
        settings: Limits and sampling.
        batch_size: Completions at once.
        progress: Called after each batch with the rows that are done, and the rows in all.

    Returns:
        Number of completions that were generated now.

    Raises:
        DataError: There are no rows, or one has no prompt.
        ConfigError: The model cannot be loaded, or the log was written with other settings.
        MissingExtraError: torch or transformers is not installed.
    """
    settings = settings or CompletionSettings()
    keys = _keys(rows)
    fingerprint = content_hash([checkpoint, asdict(settings)])
    done = _done(log, fingerprint)
    todo = [number for number, key in enumerate(keys) if key not in done]
    if not todo:
        return 0
    check_packages()
    policy = _Policy(checkpoint, settings)
    # Prompts of similar length share a batch, so that little of it is padding.
    todo.sort(key=lambda number: (len(str(rows[number]["prompt"])), number))
    for start in range(0, len(todo), batch_size):
        batch = todo[start : start + batch_size]
        # What is drawn depends on the batch's first row, not on what was done before.
        answers = policy.complete([str(rows[n]["prompt"]) for n in batch], seed=batch[0])
        for number, (text, finished) in zip(batch, answers, strict=True):
            log.append(
                {
                    **rows[number],
                    "row": number,
                    "key": keys[number],
                    "model": name,
                    "completion": text,
                    "finished": finished,
                    "settings": fingerprint,
                }
            )
        if progress is not None:
            progress(len(rows) - len(todo) + start + len(batch), len(rows))
    log.sort(lambda row: int(row["row"]))
    return len(todo)


def _keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys of the rows, different for equal rows too."""
    if not rows:
        raise DataError("the test set is empty: it has no row with a prompt")
    keys, seen = [], dict[str, int]()
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise DataError(f"test set, row {number}: has no text in its column 'prompt'")
        taken = [column for column in OWN_COLUMNS if column in row]
        if taken:
            raise DataError(
                f"test set, row {number}: column {taken[0]!r} has the name of one that is "
                "written: rename it"
            )
        content = content_hash(dict(row))
        seen[content] = seen.get(content, 0) + 1
        keys.append(content if seen[content] == 1 else f"{content}~{seen[content]}")
    return keys


def _done(log: JsonlLog, fingerprint: str) -> set[str]:
    for number, row in enumerate(log.rows, start=1):
        if row.get("settings") != fingerprint:
            raise ConfigError(
                f"{log.path}, row {number}, is of another checkpoint or other settings: give "
                "another --out, or the settings that the file was started with"
            )
    return {str(row["key"]) for row in log.rows}


class _Policy:
    """A checkpoint that completes prompts."""

    def __init__(self, checkpoint: str, settings: CompletionSettings) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.tokenizer = load_tokenizer(checkpoint)
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype="auto")
        except (OSError, ValueError) as error:
            raise unknown_model(checkpoint, error) from error
        if settings.template and not self.tokenizer.chat_template:
            raise ConfigError(f"the tokenizer of {checkpoint!r} has no chat template")
        accelerator = torch.accelerator.current_accelerator()
        self.model: Any = model.to(accelerator if accelerator is not None else "cpu").eval()
        self.lm = LanguageModel(self.model)
        self.settings = settings
        # All of it is stated: a checkpoint's own defaults (top_k, penalties) do not count.
        self.sampling = Sampling(
            max_tokens=settings.max_tokens,
            end_tokens=end_tokens(self.tokenizer, self.model),
            pad_token=int(self.tokenizer.pad_token_id),
            temperature=settings.temperature,
            top_p=settings.top_p,
        )

    def complete(self, prompts: Sequence[str], seed: int) -> list[tuple[str, bool]]:
        """Text of each prompt's completion, and whether it reached an end token."""
        from transformers import set_seed

        set_seed(self.settings.seed * 1_000_003 + seed)
        samples = generate(self.lm, self._encode(prompts), self.sampling, device=self.model.device)
        return [(self._text(sample), sample.ended) for sample in samples]

    def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
        texts = list(prompts)
        if self.settings.template:
            texts = [
                self.tokenizer.apply_chat_template(
                    [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
                )
                for text in texts
            ]
        # A template writes its own start tokens.
        special = not self.settings.template
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=special)["input_ids"]
        return ids

    def _text(self, sample: Sample) -> str:
        tokens = sample.completion[:-1] if sample.ended else sample.completion
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))
