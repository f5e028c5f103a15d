import pytest
import torch

from maeast_upstream.modules.cpu.dropout import Dropout, dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_the_share_of_zeros_and_the_mean_are_right(dtype, probability):
    torch.manual_seed(0)
    x = torch.ones(1001, 1003, dtype=dtype)
    y = dropout(x, probability)
    assert y.dtype == dtype
    assert (y == 0).float().mean() == pytest.approx(probability, abs=0.003)
    assert y.float().mean() == pytest.approx(1.0, abs=0.02)
    assert set(y.unique().tolist()) == {
        0.0,
        float(torch.tensor(1 / (1 - round(probability * 65536) / 65536)).to(dtype)),
    }


def test_neighbours_are_independent():
    """Four values share one random number: no two of them go together."""
    torch.manual_seed(0)
    kept = (dropout(torch.ones(4_000_000), 0.5) > 0).float().view(-1, 8) - 0.5
    correlation = kept.T @ kept / len(kept) * 4
    assert (correlation - torch.eye(8)).abs().max() < 0.01
    assert kept.mean(0).abs().max() < 0.005


def test_the_gradient_has_the_same_zeros():
    x = torch.randn(50, 70, requires_grad=True)
    y = dropout(x, 0.3)
    y.backward(torch.full_like(y, 2.0))
    torch.testing.assert_close(y, x * x.grad / 2)


def test_same_seed_same_zeros_and_evaluation_changes_nothing():
    x = torch.randn(100, 100)
    torch.manual_seed(3)
    one = dropout(x, 0.3)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.3), one)
    assert not torch.equal(dropout(x, 0.3), one)
    layer = Dropout(0.3)
    assert (layer(x) == 0).any()
    assert layer.eval()(x) is x
    assert dropout(x, 0.0) is x


def test_all_may_be_dropped_and_nothing_may_be_there():
    assert (dropout(torch.ones(5), 1.0) == 0).all()
    assert dropout(torch.ones(0, 3), 0.5).shape == (0, 3)
