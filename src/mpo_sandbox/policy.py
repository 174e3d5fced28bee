"""A tiny real language model that writes a task's texts: half a million weights, from scratch.

Word-level tokens and a two-layer Llama are what makes it fluent within a minute on two cores. Each
task of the sandbox has a policy of its own. The result is an ordinary checkpoint folder for
`AutoModelForCausalLM` and `AutoTokenizer`, cached under a name that covers its code, its seed and
its settings, so that a changed corpus never meets an old policy.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mpo.errors import MissingExtraError, MPOError

from . import corpus
from .environments import ESSAY, Environment, environment_of
from .words import WHOLE, tokens

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"


@dataclass(frozen=True)
class PolicySettings:
    """Size and training of the policy. The defaults take about 35 s on two cores."""

    hidden: int = 128
    layers: int = 2
    heads: int = 4
    essays: int = 8000  # one pass over them: `steps` x `batch`
    steps: int = 500
    batch: int = 16
    learning_rate: float = 4e-3
    threads: int = 1  # OpenMP with two collapses when anything else runs on a two-core machine


def cache_root() -> Path:
    """`$MPO_CACHE/sandbox` if the variable is set, else `~/.cache/mpo/sandbox`."""
    root = os.environ.get("MPO_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "mpo") / "sandbox"


def ensure_policy(
    cache_dir: Path | None = None,
    *,
    task: str = ESSAY,
    seed: int = 0,
    settings: PolicySettings | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """The folder of a task's trained policy; trains it first if the cache does not hold it.

    A task that the sandbox does not know gets the policy that writes essays.

    The folder appears in one rename, so it is complete or absent. Two processes that race both
    train, and the later one keeps the earlier one's folder. On one machine the same seed and
    settings give the same weights; another machine may round differently.
    """
    settings = settings or PolicySettings()
    root = cache_dir or cache_root()
    environment = environment_of(task)
    folder = root / f"policy-{_key(environment, seed, settings)}"
    if folder.is_dir():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=root))
    try:
        _train(building, environment, seed, settings, progress or (lambda message: None))
        try:
            os.replace(building, folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was first
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def _key(environment: Environment, seed: int, settings: PolicySettings) -> str:
    digest = hashlib.sha256(json.dumps([seed, asdict(settings), environment.length]).encode())
    for name in (*environment.sources, "policy.py"):
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:16]


def _train(
    folder: Path,
    environment: Environment,
    seed: int,
    settings: PolicySettings,
    say: Callable[[str], None],
) -> None:
    """Train on the environment's texts and save model and tokenizer to `folder`."""
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "train")
    import torch

    essays = environment.texts(seed, settings.essays)
    tokenizer = build_tokenizer(essays)
    with _threads(settings.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _new_model(len(tokenizer), settings)
        size = model.num_parameters()
        say(f"training the sandbox policy: {size:,} weights, {settings.steps} steps")
        _fit(model, _encode(tokenizer, essays, environment.length), settings, say)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    check_round_trip(folder, essays[0])


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """Run torch on `n` threads, then as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def build_tokenizer(essays: list[corpus.Essay]) -> "PreTrainedTokenizerFast":
    """One token per word or punctuation mark of essays and prompts, in order of first use.

    Decoding puts a space between words and none before a mark. Padding is on the left, as
    generation needs it.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab: dict[str, int] = {PAD: 0, EOS: 1, UNK: 2}
    for essay in essays:
        for token in (*tokens(essay.prompt), *tokens(essay.text)):
            vocab.setdefault(token, len(vocab))
    inner = Tokenizer(models.WordLevel(vocab, unk_token=UNK))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex(rf"{WHOLE}|[^a-z0-9']"), behavior="isolated"),
        ]
    )
    # WordPiece without a real prefix only puts the spaces; the rest takes them away before a mark.
    spaces = decoders.WordPiece(prefix="##", cleanup=False)
    marks = [decoders.Replace(f" {mark}", mark) for mark in ".,!?;:"]
    inner.decoder = decoders.Sequence([spaces, decoders.Fuse(), *marks])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )


def _new_model(vocab: int, settings: PolicySettings) -> "LlamaForCausalLM":
    """An untrained Llama; token ids as `build_tokenizer` gives them, for generation too."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=settings.hidden,
        intermediate_size=3 * settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    # Otherwise the bos of transformers' defaults (1, our eos) comes back with the saved generation
    # config.
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=None, eos_token_id=1, pad_token_id=0, do_sample=True
    )
    return model


Batch = tuple["Tensor", "Tensor", "Tensor"]
"""Token ids, attention mask, labels: each [essays, length], int64; label -100 means no loss."""


def _encode(tokenizer: "PreTrainedTokenizerFast", essays: list[corpus.Essay], length: int) -> Batch:
    """Prompt, essay and end token, padded on the right; only the essay and its end are learned."""
    import torch

    ids = torch.zeros(len(essays), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    prompts = tokenizer([essay.prompt for essay in essays])["input_ids"]
    texts = tokenizer([essay.text for essay in essays])["input_ids"]
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        whole = torch.tensor([*prompt, *text, tokenizer.eos_token_id][:length])
        ids[row, : len(whole)] = whole
        mask[row, : len(whole)] = 1
        labels[row, len(prompt) : len(whole)] = whole[len(prompt) :]
    return ids, mask, labels


def _fit(
    model: "LlamaForCausalLM", data: Batch, settings: PolicySettings, say: Callable[[str], None]
) -> None:
    """AdamW over the essays in order; the learning rate warms up, then falls linearly to zero."""
    import torch

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.01
    )
    warm = max(1, settings.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (settings.steps - step) / settings.steps)
    )
    model.train()
    for step in range(settings.steps):
        rows = torch.arange(step * settings.batch, (step + 1) * settings.batch) % len(data[0])
        ids, mask, labels = (part[rows] for part in data)
        longest = int(mask.sum(dim=1).max())
        loss = model(
            input_ids=ids[:, :longest], attention_mask=mask[:, :longest], labels=labels[:, :longest]
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % 50 == 0 or step + 1 == settings.steps:
            say(f"step {step + 1}/{settings.steps}: loss {loss.item():.2f} per token")
    model.train(False)


def check_round_trip(folder: Path, essay: corpus.Essay) -> None:
    """Load tokenizer and model as a user would, and read an essay back.

    AutoTokenizer replaces the tokenizer of some model types in silence (qwen2, for one).
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in (essay.prompt, essay.text):
        back = tokenizer.decode(tokenizer(text)["input_ids"])
        if back != text:
            raise MPOError(f"the policy's tokenizer in {folder} reads {text!r} back as {back!r}")
    model = AutoModelForCausalLM.from_pretrained(folder)
    known = (tokenizer.eos_token_id, tokenizer.pad_token_id)
    said = (model.generation_config.eos_token_id, model.generation_config.pad_token_id)
    if known != said or known[0] == known[1]:
        raise MPOError(
            f"the policy in {folder} ends with tokens (eos, pad) {said}, its tokenizer with {known}"
        )
