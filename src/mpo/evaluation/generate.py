"""Completions of checkpoints on a test set, into one JSONL file for each checkpoint.

    rows = [{"prompt": "Write about tea.", "id": 7}, …]
    with JsonlLog(Path("outputs/mpo.jsonl")) as log:
        generate("runs/a/checkpoints/checkpoint-140", "mpo", rows, log)

A file that is there already continues: its rows are not generated again. Each row of the test set
is in the file once, since nothing is padded to full batches over processes (the published code
does, and counts some test items twice: notes/paper.md §4.5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataError, MissingExtraError
from ..records import content_hash
from .rows import JsonlLog

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Sampling", "check_packages", "generate"]

Progress = Callable[[int, int], None]
"""Told how many rows are done, of how many."""

_OURS = ("row", "key", "model", "completion", "finished", "settings")


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled."""

    max_tokens: int = 400
    temperature: float = 0.0
    """0: always the likeliest token."""
    top_p: float = 1.0
    template: bool = False
    """Wrap the prompt in the tokenizer's chat template; without, it is taken as it is, as the
    trainers of this package do."""
    seed: int = 0


def check_packages() -> None:
    """Before anything is loaded.

    Raises:
        MissingExtraError: torch or transformers is not installed.
    """
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "train")


def generate(
    checkpoint: str,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    log: JsonlLog,
    *,
    sampling: Sampling | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> int:
    """Generate what the log does not hold yet, and leave it in the test set's order.

    A row of the log has all columns of the test set's row, and `row` (its number, from 0),
    `model`, `completion`, `finished` (whether the model came to its end token), `key`, `settings`.

    Args:
        checkpoint: Folder or hub id, of a model or of a LoRA adapter.
        name: The model's name in the log.
        rows: The test set, each with a `prompt`.
        log: One file for each checkpoint.
        sampling: Limits.
        batch_size: Completions at once.
        progress: Told now and then.

    Returns:
        How many completions were generated now.

    Raises:
        DataError: No rows, or one without a prompt.
        ConfigError: The model cannot be loaded, or the log is of other settings.
        MissingExtraError: torch or transformers is not installed.
    """
    sampling = sampling or Sampling()
    keys = _keys(rows)
    settings = content_hash([checkpoint, asdict(sampling)])
    done = _done(log, settings)
    todo = [number for number, key in enumerate(keys) if key not in done]
    if not todo:
        return 0
    check_packages()
    policy = _Policy(checkpoint, sampling)
    # Prompts of like length share a batch, so that little of it is padding.
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
                    "settings": settings,
                }
            )
        if progress is not None:
            progress(len(rows) - len(todo) + start + len(batch), len(rows))
    log.sort(lambda row: int(row["row"]))
    return len(todo)


def _keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells a row of the test set from all others, an equal one included."""
    if not rows:
        raise DataError("the test set is empty: it has no row with a prompt")
    keys, seen = [], dict[str, int]()
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise DataError(f"test set, row {number}: has no text in its column 'prompt'")
        taken = [column for column in _OURS if column in row]
        if taken:
            raise DataError(
                f"test set, row {number}: column {taken[0]!r} has the name of one that is "
                "written; rename it"
            )
        content = content_hash(dict(row))
        seen[content] = seen.get(content, 0) + 1
        keys.append(content if seen[content] == 1 else f"{content}~{seen[content]}")
    return keys


def _done(log: JsonlLog, settings: str) -> set[str]:
    for number, row in enumerate(log.rows, start=1):
        if row.get("settings") != settings:
            raise ConfigError(
                f"{log.path}, row {number}, is of another checkpoint or other settings: give "
                "another --out, or the settings that it was begun with"
            )
    return {str(row["key"]) for row in log.rows}


class _Policy:
    """A checkpoint that completes prompts."""

    def __init__(self, checkpoint: str, sampling: Sampling) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint, padding_side="left")
            model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype="auto")
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"model {checkpoint!r} cannot be loaded: {reason} (give a folder with a "
                "config.json, or a hub id that this machine can reach)"
            ) from error
        if sampling.template and not self.tokenizer.chat_template:
            raise ConfigError(f"the tokenizer of {checkpoint!r} has no chat template")
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        accelerator = torch.accelerator.current_accelerator()
        self.model: Any = model.to(accelerator if accelerator is not None else "cpu").eval()
        self.sampling = sampling
        self.ends = self._end_tokens()

    def _end_tokens(self) -> list[int]:
        # Chat models end a turn with another token than a text; their generation config knows.
        stated = getattr(self.model.generation_config, "eos_token_id", None)
        ends = stated if isinstance(stated, list) else [stated]
        return sorted({int(e) for e in [*ends, self.tokenizer.eos_token_id] if e is not None})

    def complete(self, prompts: Sequence[str], seed: int) -> list[tuple[str, bool]]:
        """Completion and whether it came to its end, for each prompt."""
        import torch
        from transformers import GenerationConfig, set_seed

        inputs = self._encode(prompts)
        sampled = self.sampling.temperature > 0
        # All of it stated: a checkpoint's own defaults (top_k, penalties) must not slip in.
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=self.sampling.max_tokens,
            do_sample=sampled,
            eos_token_id=self.ends or None,
            pad_token_id=self.tokenizer.pad_token_id,
            **({"temperature": self.sampling.temperature} if sampled else {}),
            **({"top_p": self.sampling.top_p, "top_k": 0} if sampled else {}),
        )
        set_seed(self.sampling.seed * 1_000_003 + seed)
        with torch.no_grad():
            output = self.model.generate(**inputs, generation_config=config)
        return [self._text(row) for row in output[:, inputs["input_ids"].shape[1] :]]

    def _encode(self, prompts: Sequence[str]) -> Any:
        texts = list(prompts)
        if self.sampling.template:
            texts = [
                self.tokenizer.apply_chat_template(
                    [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
                )
                for text in texts
            ]
        # A template writes its own start tokens.
        inputs = self.tokenizer(
            texts,
            return_tensors="pt",
            padding=True,
            add_special_tokens=not self.sampling.template,
            return_token_type_ids=False,
        )
        return inputs.to(self.model.device)

    def _text(self, ids: Tensor) -> tuple[str, bool]:
        tokens = ids.tolist()
        end = next((n for n, token in enumerate(tokens) if token in self.ends), None)
        text = self.tokenizer.decode(tokens[:end], skip_special_tokens=True)
        return str(text), end is not None
