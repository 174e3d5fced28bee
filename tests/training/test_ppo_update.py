"""One update: what it learns from, and what it leaves out."""

from __future__ import annotations

import contextlib

import pytest

torch = pytest.importorskip("torch")

from mpo.training.generation import Sample, Sampling  # noqa: E402
from mpo.training.ppo.engine import Engine, make_accelerator  # noqa: E402
from mpo.training.ppo.math import AdaptiveKL  # noqa: E402
from mpo.training.ppo.update import forward_pass, ppo_update  # noqa: E402
from training.tiny_ppo import LORA, ppo  # noqa: E402

SAMPLES = [
    Sample([3, 4, 5], [6, 7, 8, 9, 1], True),
    Sample([10, 11, 12, 13, 14], [15], False),
    Sample([16], [17, 18, 3], False),
    Sample([4, 4, 4, 9], [12, 1], True),
]
SCORES = [0.2, 1.0, 0.4, 0.0]


class Recorded(Engine):
    """An engine that keeps the gradients of each optimizer step."""

    steps: list[dict]

    def step(self) -> float:
        gradients = {n: p.grad for n, p in self.ac.modules.named_parameters() if p.requires_grad}
        self.__dict__.setdefault("steps", []).append(
            {n: g.clone() for n, g in gradients.items() if g is not None}
        )
        return super().step()


def engine(model: str, accelerator=None, **changes) -> Recorded:
    settings = ppo(max_grad_norm=None, **changes)
    made = Recorded(model, settings, accelerator or make_accelerator(), seed=0)
    torch.manual_seed(6)
    with torch.no_grad():  # a reference and values that differ from what is trained
        made.ac.value_head.weight.normal_()
        for name, p in made.ac.policy.named_parameters():
            if "lora_B" in name or "mlp" in name:
                p.add_(torch.randn_like(p) * 0.1)
    return made


def update(engine: Recorded, samples, scores, step: int = 0):
    kl = AdaptiveKL(engine.settings.beta)
    batch = forward_pass(engine, samples, pad=0)
    return ppo_update(engine, batch, scores, kl, step=step, seed=0)


def assert_same(one: list[dict], other: list[dict], atol: float = 2e-6) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert sorted(a) == sorted(b)
        for name in a:
            assert torch.allclose(a[name], b[name], atol=atol, rtol=1e-3), name


VARIANTS = [
    {},
    {"critic": "separate"},
    {"lora": LORA.model_dump()},
    {"lora": {"r": 1, "alpha": 4}, "micro_batch_size": 2},
    {"whiten_rewards": True, "kl_estimator": "k3", "gamma": 0.9},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_an_unscored_completion_is_as_if_it_were_not_there(model: str, changes: dict) -> None:
    with_none, without = engine(model, epochs=1, **changes), engine(model, epochs=1, **changes)
    stray = Sample([5, 6], [7, 7, 7, 7, 7, 7, 7], False)  # the longest, and first in order
    one = update(with_none, [SAMPLES[0], stray, *SAMPLES[1:]], [SCORES[0], None, *SCORES[1:]])
    two = update(without, SAMPLES, SCORES)
    assert_same(with_none.steps, without.steps)
    assert one.figures == pytest.approx(two.figures, rel=1e-5, abs=1e-6)
    assert one.kl == pytest.approx(two.kl, abs=1e-6)


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_without_any_score_nothing_is_updated(model: str, critic: str) -> None:
    made = engine(model, critic=critic, lora=LORA.model_dump())
    weights = {n: p.detach().clone() for n, p in made.ac.modules.named_parameters()}
    found = update(made, SAMPLES, [None] * 4)
    assert (found.figures, found.kl) == ({}, None)
    assert not hasattr(made, "steps")
    assert made.optimizer.state_dict()["state"] == {}
    for name, p in made.ac.modules.named_parameters():
        assert torch.equal(p, weights[name])
        assert p.grad is None
    update(made, SAMPLES, SCORES)  # and the next batch is learned from
    assert len(made.steps) == 2


@pytest.mark.parametrize("changes", [{}, {"critic": "separate", "lora": LORA.model_dump()}])
def test_micro_batches_make_no_difference(model: str, changes: dict) -> None:
    # None keeps the first pass's graph; the others make that pass again.
    runs = []
    for size in (None, 4, 3, 1):
        made = engine(model, micro_batch_size=size, **changes)
        update(made, SAMPLES, SCORES)
        runs.append(made.steps)
    assert len(runs[0]) == 2
    assert_same(runs[0][:1], runs[1][:1])
    for other in runs[2:]:
        assert_same(runs[1][:1], other[:1])


def test_the_gradient_of_the_first_step_is_the_policy_gradient(model: str) -> None:
    # Before any update the ratio is 1, so that the gradient is that of -A·log p.
    made = engine(
        model, epochs=1, beta=0.0, value_coef=0.0, whiten_advantages=False, gamma=1.0, lam=1.0
    )
    with torch.no_grad():
        made.ac.value_head.weight.zero_()
    update(made, SAMPLES, SCORES)
    loss = 0.0
    # The step has been taken: the gradient is wanted at the weights before it.
    fresh = engine(
        model, epochs=1, beta=0.0, value_coef=0.0, whiten_advantages=False, gamma=1.0, lam=1.0
    )
    lm = fresh.ac.lm.model
    for one, score in zip(SAMPLES, SCORES, strict=True):
        ids = torch.tensor([one.prompt + one.completion])
        logps = lm(input_ids=ids).logits[0].log_softmax(-1)
        first = len(one.prompt) - 1
        loss = loss - score * sum(logps[first + i, t] for i, t in enumerate(one.completion))
    (loss / sum(len(one.completion) for one in SAMPLES)).backward()
    expected = {n: p.grad for n, p in fresh.ac.modules.named_parameters() if p.grad is not None}
    for name, gradient in expected.items():
        assert torch.allclose(made.steps[0][name], gradient, atol=1e-6), name


class Wrapping:
    """An accelerator of the sharding kind, which shards nothing and counts the calls it wraps."""

    distributed_type = "DistributedType.FSDP"
    num_processes, process_index, is_main_process = 1, 0, True
    device = torch.device("cpu")
    state = None

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.waited = 0
        self.registered: list[object] = []

    def prepare(self, module, optimizer):
        module.register_forward_pre_hook(lambda _, inputs: self.calls.append(inputs[0]))
        return module, optimizer

    def register_for_checkpointing(self, schedule) -> None:
        self.registered.append(schedule)

    def no_sync(self, module):
        self.waited += 1
        return contextlib.nullcontext()

    def backward(self, loss) -> None:
        loss.backward()

    def clip_grad_norm_(self, parameters, limit):
        return torch.nn.utils.clip_grad_norm_(list(parameters), limit)


@pytest.mark.parametrize(
    "changes", [{"micro_batch_size": 2}, {"critic": "separate", "lora": LORA.model_dump()}]
)
def test_a_sharded_model_is_only_called_through_its_wrapper(model: str, changes: dict) -> None:
    scores = [0.2, None, 0.4, 0.0]
    wrapping = Wrapping()
    wrapped = engine(model, wrapping, **changes)
    plain = engine(model, **changes)
    update(wrapped, SAMPLES, scores)
    update(plain, SAMPLES, scores)
    assert_same(wrapped.steps[:1], plain.steps[:1])
    passes = 2 if "micro_batch_size" in changes else 1
    assert wrapping.calls.count("evaluate") == passes * (1 + 2)  # before, and two epochs
    assert wrapping.waited == 2 * (passes - 1)
    if "lora" in changes:
        assert wrapping.calls.count("reference_log_probs") == 1
    assert wrapping.registered == [wrapped.schedule]
    wrapping.calls.clear()
    sampling = Sampling(5, frozenset({1}), 0, top_p=1e-6)
    prompts = [[3, 4, 5], [6]]
    found = [e.generate(prompts, sampling, torch.Generator()) for e in (wrapped, plain)]
    assert set(wrapping.calls) == {"next_logits"}
    assert len(wrapping.calls) == max(len(one.completion) for one in found[0])


def test_mini_batches_take_a_step_each_in_an_order_of_their_own(model: str) -> None:
    made, again = engine(model, minibatches=2), engine(model, minibatches=2)
    update(made, SAMPLES, SCORES)
    update(again, SAMPLES, SCORES)
    assert len(made.steps) == 4
    assert_same(made.steps, again.steps, atol=0)
    other = engine(model, minibatches=2)
    update(other, SAMPLES, SCORES, step=3)
    name = "value_head.weight"
    assert any(
        not torch.equal(a[name], b[name]) for a, b in zip(made.steps, other.steps, strict=True)
    )


def test_figures_of_an_update(model: str) -> None:
    made = engine(model)
    figures = update(made, SAMPLES, SCORES).figures
    assert figures["objective/scores"] == pytest.approx(0.4)
    expected = 0.4 - made.settings.beta * figures["objective/kl"]
    assert figures["objective/rlhf_reward"] == pytest.approx(expected)
    assert {"loss/policy", "loss/value", "policy/clipfrac", "grad_norm"} <= set(figures)
    assert figures["objective/entropy"] > 0
