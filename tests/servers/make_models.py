"""Tiny models for real servers. Runs in the servers' own environment, not in the tests':

python make_models.py gguf FILE          random weights, for llama.cpp
python make_models.py random FOLDER      random weights, for transformers
python make_models.py lines FOLDER       always writes two lines, as `lines` requires
"""

from __future__ import annotations

import sys
from pathlib import Path

ANSWER = "discourse.rationale: ideas follow from each other\ndiscourse.score: 3"
PRINTABLE = [chr(code) for code in range(33, 127)]
WIDTH, HEADS, INNER, CONTEXT = 32, 4, 64, 16384


def make_gguf(path: Path) -> None:
    """A Llama of one layer over bytes and printable characters."""
    import gguf
    import numpy as np

    # Byte tokens let it write anything, control characters and broken UTF-8 included.
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *PRINTABLE]
    unknown, control, byte, normal = 2, 3, 6, 1
    kinds = [unknown, control, control, *[byte] * 256, *[normal] * (1 + len(PRINTABLE))]
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)

    def put(name: str, *shape: int) -> None:
        flat = np.ones(shape) if len(shape) == 1 else rng.normal(0, 0.3, shape)
        writer.add_tensor(name, flat.astype(np.float32))

    put("token_embd.weight", len(tokens), WIDTH)
    put("output.weight", len(tokens), WIDTH)
    put("output_norm.weight", WIDTH)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        put(f"blk.0.{name}.weight", WIDTH, WIDTH)
    for name in ("ffn_gate", "ffn_up"):
        put(f"blk.0.{name}.weight", INNER, WIDTH)
    put("blk.0.ffn_down.weight", WIDTH, INNER)
    put("blk.0.attn_norm.weight", WIDTH)
    put("blk.0.ffn_norm.weight", WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_checkpoint(folder: Path, kind: str) -> None:
    """A Llama of one layer over words, of which it knows few."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "<unk>", "<assistant>", ANSWER, *"a the of and { } : , 5 0".split()]
    vocab = {word: number for number, word in enumerate(words)}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}<assistant>"
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=WIDTH,
            intermediate_size=INNER,
            num_hidden_layers=1,
            num_attention_heads=HEADS,
            max_position_embeddings=CONTEXT,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
            tie_word_embeddings=False,
        )
    )
    if kind == "lines":
        _answer_always(model, vocab)
    model.generation_config.eos_token_id = 1
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _answer_always(model, vocab) -> None:  # type: ignore[no-untyped-def]
    """Make the next token depend on the last one alone: <assistant>, the answer, the end."""
    import torch

    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embed, head = model.model.embed_tokens.weight, model.lm_head.weight
        embed.zero_()
        head.zero_()
        embed[:, 0] = 1.0
        head[vocab["<eos>"], 0] = 1.0
        for place, (last, following) in enumerate((("<assistant>", ANSWER), (ANSWER, "<eos>")), 1):
            embed[vocab[last], place] = 20.0
            head[vocab[following], place] = 20.0


if __name__ == "__main__":
    if sys.argv[1] == "gguf":
        make_gguf(Path(sys.argv[2]))
    else:
        make_checkpoint(Path(sys.argv[2]), sys.argv[1])
