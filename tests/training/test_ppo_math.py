"""PPO's arithmetic against values worked out by hand and by brute force."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from mpo.training.ppo.math import (  # noqa: E402
    AdaptiveKL,
    advantages,
    clipped_policy_loss,
    clipped_value_loss,
    kl_estimate,
    log_probs,
    token_rewards,
    whiten,
)


def alone(value):
    return value


def ragged(n: int = 5, r: int = 7):
    lengths = torch.tensor([7, 1, 3, 5, 2])[:n]
    return torch.arange(r)[None] < lengths[:, None]


# ---------------------------------------------------------------------- GAE


def test_advantages_worked_out_by_hand() -> None:
    rewards = torch.tensor([[0.0, 0.0, 1.0]])
    values = torch.tensor([[0.5, 0.25, 0.5]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    found, returns = advantages(rewards, values, mask, gamma=1.0, lam=0.5)
    # errors: .25 - .5 = -.25;  .5 - .25 = .25;  1 - .5 = .5
    assert found.tolist() == [[-0.25 + 0.5 * (0.25 + 0.5 * 0.5), 0.25 + 0.5 * 0.5, 0.5]]
    assert torch.equal(returns, found + values)


def brute_force(rewards, values, length: int, gamma: float, lam: float) -> list[float]:
    """The definition: a sum over all later errors."""
    after = [*values[1:length], 0.0]
    errors = [rewards[t] + gamma * after[t] - values[t] for t in range(length)]
    return [
        sum((gamma * lam) ** (u - t) * errors[u] for u in range(t, length)) for t in range(length)
    ]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.0), (0.97, 1.0)])
def test_advantages_of_ragged_rows_and_junk_outside_the_mask(gamma: float, lam: float) -> None:
    torch.manual_seed(0)
    mask = ragged()
    rewards, values = torch.randn(5, 7).double(), torch.randn(5, 7).double()
    expected = [
        brute_force(rewards[i].tolist(), values[i].tolist(), int(mask[i].sum()), gamma, lam)
        for i in range(5)
    ]
    junk = torch.full_like(values, math.nan)
    found, returns = advantages(
        torch.where(mask, rewards, junk), torch.where(mask, values, junk), mask, gamma, lam
    )
    assert found[mask].tolist() == pytest.approx([x for row in expected for x in row])
    assert torch.allclose((returns - found)[mask], values[mask])


def test_reward_per_token() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False]])
    kl = torch.tensor([[0.1, 0.2, 0.3], [0.4, math.nan, math.nan]])
    found = token_rewards(torch.tensor([2.0, -1.0]), kl, 0.5, mask)
    assert found.flatten().tolist() == pytest.approx([-0.05, -0.1, 2 - 0.15, -1 - 0.2, 0, 0])
    assert token_rewards(torch.tensor([2.0, -1.0]), None, 0.5, mask).tolist() == [
        [0, 0, 2],
        [-1, 0, 0],
    ]


# ---------------------------------------------------------------------- losses


def test_policy_loss_follows_the_ratio_up_to_the_clip() -> None:
    ratios = torch.tensor([1.0, 1.1, 1.5, 1.5, 0.5, 0.5])
    advantage = torch.tensor([2.0, 1.0, 1.0, -1.0, 1.0, -1.0])
    old = torch.full((6,), -3.0)
    logps = (old + ratios.log()).requires_grad_()
    loss, cut = clipped_policy_loss(logps, old, advantage, 0.2)
    assert loss.tolist() == pytest.approx([-2.0, -1.1, -1.2, 1.5, -0.5, 0.8])
    assert cut.tolist() == [False, False, True, False, False, True]
    loss.sum().backward()
    # Gradient of -A·r is -A·r, and none beyond the clip.
    assert logps.grad.tolist() == pytest.approx([-2.0, -1.1, 0, 1.5, -0.5, 0])


def test_value_loss_takes_the_worse_of_plain_and_clipped() -> None:
    values = torch.tensor([0.1, 0.5, 0.5, -0.5], requires_grad=True)
    old, returns = torch.zeros(4), torch.tensor([1.0, 1.0, 0.0, 0.2])
    loss, cut = clipped_value_loss(values, old, returns, 0.2)
    expected = [0.5 * 0.9**2, 0.5 * 0.8**2, 0.5 * 0.5**2, 0.5 * 0.7**2]
    assert loss.tolist() == pytest.approx(expected)
    assert cut.tolist() == [False, True, False, False]
    loss.sum().backward()
    assert values.grad.tolist() == pytest.approx([-0.9, 0, 0.5, -0.7])


def test_log_probs_and_their_gradient_are_those_of_autograd() -> None:
    torch.manual_seed(1)
    logits = torch.randn(6, 11, dtype=torch.float32, requires_grad=True)
    tokens = torch.randint(0, 11, (6,))
    weight = torch.randn(6)
    found = log_probs(logits, tokens)
    (found * weight).sum().backward()
    mine, logits.grad = logits.grad, None
    plain = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    (plain * weight).sum().backward()
    assert torch.allclose(found, plain)
    assert torch.allclose(mine, logits.grad, atol=1e-7)


# ---------------------------------------------------------------------- divergence


def test_both_estimators_are_unbiased_and_k3_is_never_negative() -> None:
    torch.manual_seed(2)
    p, q = torch.randn(2, 50).double().log_softmax(-1)
    exact = float((p.exp() * (p - q)).sum())
    for name in ("k1", "k3"):
        each = kl_estimate(p, q, name)
        assert float((p.exp() * each).sum()) == pytest.approx(exact)
    assert float(kl_estimate(p, q, "k1").min()) < 0 <= float(kl_estimate(p, q, "k3").min())
    assert kl_estimate(torch.tensor([-1.0]), torch.tensor([-3.0])).item() == 2
    k3 = kl_estimate(torch.tensor([-1.0]), torch.tensor([-3.0]), "k3").item()
    assert k3 == pytest.approx(math.exp(-2) + 1)


def test_the_coefficient_moves_toward_the_target_and_never_far() -> None:
    kl = AdaptiveKL(0.1, target=2.0, horizon=100)
    kl.update(2.2, 10)
    assert kl.coefficient == pytest.approx(0.1 * (1 + 0.1 * 0.1))
    kl = AdaptiveKL(0.1, target=2.0, horizon=100)
    kl.update(90.0, 10)
    assert kl.coefficient == pytest.approx(0.1 * 1.02)
    kl.update(0.0, 10)
    assert kl.coefficient == pytest.approx(0.1 * 1.02 * 0.98)
    fixed = AdaptiveKL(0.1)
    fixed.update(90.0, 10)
    assert fixed.coefficient == 0.1


# ---------------------------------------------------------------------- whitening


def test_whitening_counts_what_is_masked_in() -> None:
    torch.manual_seed(3)
    mask, values = ragged(), torch.randn(5, 7) * 3 + 5
    found = whiten(torch.where(mask, values, torch.tensor(math.nan)), mask, alone)[mask]
    inside = values[mask]
    assert torch.allclose(found, (inside - inside.mean()) / inside.std(), atol=1e-5)
    kept = whiten(values, mask, alone, shift_mean=False)[mask]
    assert torch.allclose(kept, found + inside.mean(), atol=1e-5)
    assert torch.isfinite(whiten(values, torch.zeros_like(mask), alone)[mask]).all()


def together(*works: Callable) -> list:
    """Run functions side by side; each gets a sum over what all of them hand in."""
    barrier = threading.Barrier(len(works), timeout=20)
    slots: list = [None] * len(works)
    results: list = [None] * len(works)

    def run(rank: int) -> None:
        def total(value):
            slots[rank] = value
            barrier.wait()
            found = sum(slots[1:], slots[0])
            barrier.wait()
            return found

        results[rank] = works[rank](total)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_ranks_whiten_as_one() -> None:
    torch.manual_seed(4)
    mask, values = ragged(), torch.randn(5, 7) * 2 - 1
    whole = whiten(values, mask, alone)
    empty = torch.zeros_like(mask[:2])
    for rows in (slice(0, 1), slice(1, 5)), (slice(0, 5), slice(5, 5)):
        parts = together(
            *(lambda total, r=r: whiten(values[r], mask[r], total) for r in rows),
            lambda total: whiten(values[:2], empty, total),  # a rank with nothing scored
        )
        found = torch.cat([parts[0][mask[rows[0]]], parts[1][mask[rows[1]]]])
        assert torch.allclose(found, whole[mask], atol=1e-6)
