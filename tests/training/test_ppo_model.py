"""Policy, reference and critic: what is computed is what transformers computes, only less of it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from mpo.training.generation import Sample, Sampling, generate  # noqa: E402
from mpo.training.ppo.batch import make_micro_batch, split_rows  # noqa: E402
from mpo.training.ppo.language_model import Folding, LanguageModel  # noqa: E402
from mpo.training.ppo.model import load_actor_critic  # noqa: E402
from training.tiny_ppo import LORA, ppo  # noqa: E402

CPU = torch.device("cpu")
SAMPLES = [
    Sample([3, 4, 5], [6, 7, 8, 9, 1], True),
    Sample([10, 11, 12, 13, 14], [15], False),
    Sample([16], [17, 18, 3], False),
]


def load(model: str, *, short: bool = False, **changes):
    ac = load_actor_critic(model, ppo(**changes), CPU, seed=0)
    if short:
        ac.enable_fast_path()
        assert ac.lm.fast is not None
    return ac


def wiggle(ac) -> None:
    """Adapters that do something: B starts at 0."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, p in ac.policy.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.2)
        ac.value_head.weight.normal_()


def whole_log_probs(model, one: Sample, temperature: float = 1.0):
    """By transformers' own forward pass over the sequence, one at a time."""
    ids = torch.tensor([one.prompt + one.completion])
    logps = (model(input_ids=ids).logits[0] / temperature).log_softmax(-1)
    first = len(one.prompt)
    return torch.stack([logps[first + i - 1, t] for i, t in enumerate(one.completion)])


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("changes", [{}, {"lora": LORA.model_dump()}, {"critic": "separate"}])
def test_a_micro_batch_is_each_sequence_by_itself(model: str, changes: dict, short: bool) -> None:
    ac = load(model, short=short, temperature=0.7, **changes)
    wiggle(ac)
    # As PEFT computes it, before any layer is folded.
    plain = load(model, gradient_checkpointing=True, **changes)
    plain.policy.load_state_dict(ac.policy.state_dict())
    expected = torch.cat([whole_log_probs(plain.policy, one, 0.7) for one in SAMPLES])
    chunk = make_micro_batch(SAMPLES, (0, 1, 2), 0, CPU)
    logps, values = ac.evaluate(
        chunk.ids, chunk.logit_positions, chunk.tokens, ac.folding.weights()
    )
    assert torch.allclose(logps, expected, atol=1e-5)

    body = ac.critic if ac.critic is not None else plain.lm.body
    states = []
    for one in SAMPLES:
        ids = torch.tensor([one.prompt + one.completion])
        hidden = body(input_ids=ids).last_hidden_state[0]
        states.append(hidden[len(one.prompt) - 1 : -1])
    assert torch.allclose(values, ac.value_head(torch.cat(states))[:, 0], atol=1e-5)


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("r", [1, 4])
def test_the_lora_reference_is_the_policy_with_adapters_off(
    model: str, r: int, short: bool
) -> None:
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model)
    ac = load(model, lora=LORA.model_dump() | {"r": r})
    wiggle(ac)
    if short:
        ac.enable_fast_path()
    chunk = make_micro_batch(SAMPLES, (0, 1, 2), 0, CPU)
    inputs = (chunk.ids, chunk.logit_positions, chunk.tokens)
    expected = torch.cat([whole_log_probs(base, one) for one in SAMPLES])
    assert torch.allclose(ac.reference_log_probs(*inputs), expected, atol=1e-6)
    # And the adapters are on again afterwards.
    logps, _ = ac.evaluate(*inputs, ac.folding.weights())
    assert not torch.allclose(logps, expected, atol=1e-2)


def gradients(ac, folded: bool) -> dict:
    chunk = make_micro_batch(SAMPLES, (0, 1, 2), 0, CPU)
    weights = ac.folding.begin()
    assert bool(weights.body) == folded
    for _ in range(2):  # two micro-batches add up
        logps, values = ac.evaluate(chunk.ids, chunk.logit_positions, chunk.tokens, weights)
        (logps.sum() + (values**2).sum()).backward()
    ac.folding.finish()
    return {n: p.grad for n, p in ac.modules.named_parameters() if p.grad is not None}


def test_folded_layers_have_the_gradients_of_lora_and_the_base_has_none(model: str) -> None:
    targets = ["q_proj", "v_proj", "down_proj", "lm_head"]
    lora = {"r": 16, "alpha": 8, "target_modules": targets}
    folded, plain = load(model, lora=lora), load(model, lora=lora)
    plain.folding = Folding(LanguageModel(plain.policy.get_base_model()), enabled=False)
    for layer in plain.folding.unfolded:
        layer.enable_adapters(True)
    wiggle(folded)
    plain.modules.load_state_dict(folded.modules.state_dict())
    mine, theirs = gradients(folded, True), gradients(plain, False)
    assert sorted(mine) == sorted(theirs)
    assert all(("lora_" in name) or name.startswith("value_head") for name in mine)
    for name, gradient in mine.items():
        assert torch.allclose(gradient, theirs[name], atol=2e-4, rtol=1e-4), name


def test_small_adapters_are_not_folded(model: str) -> None:
    ac = load(model, lora={"r": 1, "alpha": 8})
    assert ac.folding.weights().body == {}
    assert len(ac.folding.unfolded) == 7
    assert all("lora_" in n for n in gradients(ac, False) if not n.startswith("value_head"))


def test_gradient_checkpointing_changes_no_gradient(model: str) -> None:
    found = []
    for on in (False, True):
        ac = load(model, critic="separate", gradient_checkpointing=on)
        wiggle(ac)
        found.append(gradients(ac, False))
    assert sorted(found[0]) == sorted(found[1])
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], atol=1e-5), name


def test_sampling_keeps_its_cache_under_gradient_checkpointing(model: str) -> None:
    found = []
    for on in (False, True):
        ac = load(model, gradient_checkpointing=on)
        assert ac.lm.body.training == on  # transformers checkpoints in training mode only
        with ac.generation_mode():
            assert not any(module.training for module in ac.policy.modules())
            limits = Sampling(8, frozenset({1}), 0, top_p=1e-6)
            prompts = [[3, 4, 5, 6], [9]]
            found.append(complete(ac.lm, prompts, limits, 0, ac.generation_weights()))
        assert ac.lm.body.training == on
    assert found[0] == found[1]


def test_the_shared_critic_trains_the_trunk_and_the_separate_one_itself(model: str) -> None:
    chunk = make_micro_batch(SAMPLES, (0, 1, 2), 0, CPU)
    for critic in ("shared", "separate"):
        ac = load(model, critic=critic)
        wiggle(ac)
        _, values = ac.evaluate(chunk.ids, chunk.logit_positions, chunk.tokens, ac.folding.begin())
        values.sum().backward()
        trunk = [p.grad for p in ac.lm.body.parameters()]
        assert all((g is None) == (critic == "separate") for g in trunk)
        assert ac.lm.head.weight.grad is None
        if critic == "separate":
            assert all(p.grad is not None for p in ac.critic.parameters())
            assert "lm_head.weight" not in ac.critic.state_dict()  # no logits of the critic
            assert len(ac.groups()) == 2


def test_bfloat16_samples_from_copies_and_keeps_float32_masters(model: str) -> None:
    ac = load(model, dtype="bfloat16")
    before = {n: p.detach().clone() for n, p in ac.policy.named_parameters()}
    weights = ac.generation_weights()
    assert {w.dtype for w in [*weights.body.values(), *weights.head.values()]} == {torch.bfloat16}
    with ac.precision():
        complete(ac.lm, [[3, 4], [5]], Sampling(4, frozenset({1}), 0), 0, weights)
    for name, p in ac.policy.named_parameters():
        assert p.dtype == torch.float32
        assert torch.equal(p, before[name])
    assert next(ac.reference.body.parameters()).dtype == torch.bfloat16
    assert {p.dtype for group in ac.groups() for p in group} == {torch.float32}
    lora = load(model, dtype="bfloat16", lora=LORA.model_dump())
    assert {p.dtype for group in lora.groups() for p in group} == {torch.float32}


def complete(lm, prompts, sampling: Sampling, seed: int, weights=None) -> list[Sample]:
    generator = torch.Generator().manual_seed(seed)
    return generate(lm, prompts, sampling, device=CPU, generator=generator, weights=weights)


# ---------------------------------------------------------------------- the short way

TINY = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}


def make(name: str, **changes) -> LanguageModel:
    """A random model of some kind, with norms that do something."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**TINY | changes)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.normal_(1, 0.3)
    return LanguageModel(model)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("Llama", {}),
        ("Qwen2", {}),
        ("Qwen3", {"head_dim": 16}),
        ("Mistral", {"sliding_window": None}),
    ],
)
def test_the_short_way_comes_to_the_same_place(name: str, changes: dict) -> None:
    lm = make(name, **changes)
    samples = [*SAMPLES, Sample([7] * 90 + [8], [9] * 60 + [1], True)]  # blocks of attention
    chunk = make_micro_batch(samples, (3, 0, 1, 2), 0, CPU)
    found = []
    for short in (False, True):
        if short:
            lm.enable_fast_path()
            assert lm.fast is not None
        logps, states = lm.logprobs_at(chunk.ids, chunk.logit_positions, chunk.tokens, 0.7)
        (logps.sum() + states.square().sum()).backward()
        found.append([logps, states, *(p.grad for p in lm.model.parameters())])
        lm.model.zero_grad()
    for long, short in zip(*found, strict=True):
        assert torch.allclose(long, short, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "changes", "apart"),
    [
        ("Mistral", {"sliding_window": 4}, True),
        ("Gemma", {"head_dim": 8}, True),
        ("Gemma2", {"head_dim": 8}, False),
        ("Granite", {"residual_multiplier": 0.5, "logits_scaling": 3.0}, False),
        ("Cohere", {}, False),
    ],
)
def test_a_model_of_another_kind_goes_its_own_way(name: str, changes: dict, apart: bool) -> None:
    lm = make(name, **changes)
    lm.enable_fast_path()
    assert (lm.fast, lm.separable) == (None, apart)
    found = complete(lm, [[3, 4, 5, 6, 7, 8], [9]], Sampling(9, frozenset({1}), 0), 3)
    chunk = make_micro_batch(found, (0, 1), 0, CPU)
    logps, _ = lm.logprobs_at(chunk.ids, chunk.logit_positions, chunk.tokens, 1.0)
    expected = torch.cat([whole_log_probs(lm.model, one) for one in found])
    assert torch.allclose(logps, expected, atol=1e-5)


# ---------------------------------------------------------------------- sampling


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("r", [1, 4])
def test_greedy_completions_are_those_of_generate(model: str, short: bool, r: int) -> None:
    lora = LORA.model_dump() | {"r": r}
    ac = load(model, short=short, lora=lora)
    wiggle(ac)
    plain = load(model, lora=lora, gradient_checkpointing=True)
    plain.policy.load_state_dict(ac.policy.state_dict())
    plain.policy.eval()
    prompts = [[3, 4, 5, 6, 7, 8], [9], [10, 11, 12]]
    likeliest = Sampling(10, frozenset({1}), 0, top_p=1e-6)
    found = complete(ac.lm, prompts, likeliest, 0, ac.generation_weights())
    for prompt, one in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        own = plain.policy.generate(
            input_ids=ids, max_new_tokens=10, do_sample=False, eos_token_id=1, pad_token_id=0
        )[0, len(prompt) :].tolist()
        assert one.completion == own
        assert one.ended == (own[-1] == 1)


@pytest.mark.parametrize("short", [False, True])
def test_rows_that_end_leave_the_batch_and_the_rest_goes_on(model: str, short: bool) -> None:
    ac = load(model, short=short)
    prompts = [[3 + i] * (1 + i % 4) for i in range(12)]
    ends = Sampling(12, frozenset(range(1, 6)), 0)

    def sample(prompts: list[list[int]], sampling: Sampling, seed: int) -> list[Sample]:
        return complete(ac.lm, prompts, sampling, seed, ac.generation_weights())

    found = sample(prompts, ends, 1)
    assert len({len(one.completion) for one in found}) > 3
    for one in found:
        assert one.ended == (one.completion[-1] in ends.end_tokens)
        assert not ends.end_tokens & {*one.completion[:-1]}
        assert one.ended or len(one.completion) == 12
    assert sample(prompts, ends, 1) == found
    assert sample(prompts, ends, 2) != found
    # With nothing left to chance, a row does not notice the others.
    greedy = Sampling(12, frozenset({*range(1, 6), *range(15, 20)}), 0, top_p=1e-6)
    together = sample(prompts, greedy, 1)
    assert len({len(one.completion) for one in together}) > 1
    assert together == [sample([prompt], greedy, 1)[0] for prompt in prompts]


def test_sampling_follows_temperature_and_top_p(model: str) -> None:
    ac = load(model)
    with torch.no_grad():
        logits = ac.lm.model(input_ids=torch.tensor([[3, 4]])).logits[0, -1]
    n = 4000
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.5)):
        probs = (logits / temperature).softmax(-1)
        order = probs.argsort(descending=True)
        ahead = probs[order].cumsum(0) - probs[order]
        kept = order[ahead < top_p]
        expected = torch.zeros_like(probs)
        expected[kept] = probs[kept] / probs[kept].sum()
        sampling = Sampling(1, frozenset({1}), 0, temperature, top_p)
        found = complete(ac.lm, [[3, 4]] * n, sampling, 2, ac.generation_weights())
        counts = torch.bincount(
            torch.tensor([one.completion[0] for one in found]), minlength=len(probs)
        )
        assert torch.allclose(counts / n, expected, atol=0.03)
        assert counts[expected == 0].sum() == 0


# ---------------------------------------------------------------------- micro-batches


def test_micro_batches_hold_sequences_of_similar_length() -> None:
    lengths = [5, 9, 2, 9, 4, 8]
    samples = [Sample([3] * (n - 1), [4], False) for n in lengths]
    rows = range(6)
    assert split_rows(samples, rows, most=None, tokens=None) == [(1, 3, 5, 0, 4, 2)]
    assert split_rows(samples, rows, most=2, tokens=None) == [(1, 3), (5, 0), (4, 2)]
    assert split_rows(samples, rows, most=None, tokens=18) == [(1, 3), (5, 0), (4, 2)]
    assert split_rows(samples, [2, 0], most=None, tokens=1) == [(0,), (2,)]
    assert split_rows(samples, [], most=2, tokens=None) == []
    padding = sum(
        make_micro_batch(samples, c, 0, CPU).ids.numel() for c in [(1, 3), (5, 0), (4, 2)]
    )
    assert padding == 18 + 16 + 8
