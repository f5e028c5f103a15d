import pytest
import torch

from maeast_upstream.modules.cpu import attention as module
from maeast_upstream.modules.cpu.attention import attention
from maeast_upstream.modules.cpu.dropout import STEPS

PROBABILITY = 0.3
KEPT = STEPS / (STEPS - round(PROBABILITY * STEPS))


@pytest.fixture(params=[1 << 20, 1], ids=["all-at-once", "row-by-row"])
def cached(request, monkeypatch):
    monkeypatch.setattr(module, "CACHED_WEIGHTS", request.param)


def tensors(dtype=torch.float32, keys=11):
    generator = torch.Generator().manual_seed(0)
    shapes = (3, 2, 7, 8), (3, 2, keys, 8), (3, 2, keys, 8)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def padding(keys=11):
    return (torch.arange(keys) < torch.tensor([[keys], [4], [1]]))[:, None, None]


def drops_of(q, k, attend):
    """Which weights the call after `torch.manual_seed(1)` drops: with the identity for values it gives the weights."""
    torch.manual_seed(1)
    values = torch.eye(k.shape[2]).expand(*k.shape[:2], -1, -1)
    return attention(q.detach(), k.detach(), values.to(q.dtype), attend, PROBABILITY) == 0


@pytest.mark.parametrize("attend", [None, padding()], ids=["whole", "padded"])
@pytest.mark.usefixtures("cached")
def test_dropped_attention_and_its_gradients_are_those_of_the_formula(attend):
    q, k, v = tensors()
    drops = drops_of(q, k, attend)
    torch.manual_seed(1)
    found = attention(q, k, v, attend, PROBABILITY)
    scores = q @ k.mT / 8**0.5
    if attend is not None:
        scores = scores.masked_fill(~attend, -torch.inf)
    expected = (scores.softmax(-1) * KEPT).masked_fill(drops, 0) @ v
    torch.testing.assert_close(found, expected)
    weight = torch.randn(found.shape)
    ours = torch.autograd.grad((found * weight).sum(), (q, k, v))
    theirs = torch.autograd.grad((expected * weight).sum(), (q, k, v))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_the_share_of_dropped_weights_is_right():
    q, k, _ = (torch.randn(2, 3, 200, 8) for _ in range(3))
    assert drops_of(q, k, None).float().mean() == pytest.approx(PROBABILITY, abs=0.005)


def test_bf16_stays_bf16_under_autocast():
    q, k, v = tensors(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(q, k, v, None, PROBABILITY)
        found.float().sum().backward()
    assert found.dtype == q.grad.dtype == torch.bfloat16
    assert all(part.grad.isfinite().all() for part in (q, k, v))


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_nothing_or_all_may_be_dropped(probability):
    q, k, v = tensors()
    found = attention(q, k, v, None, probability)
    expected = (q @ k.mT / 8**0.5).softmax(-1) @ v * (1 - probability)
    torch.testing.assert_close(found, expected)
