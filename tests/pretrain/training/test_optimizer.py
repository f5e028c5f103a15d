import pytest
import torch
from small import small_config

from maeast_upstream.model import MaeAst
from pretrain.config import OptimConfig
from pretrain.training.optimizer import learning_rate, make_optimizer


def test_warm_up_constant_decay():
    optim = OptimConfig(lr=1.0, steps=100, warmup_steps=10, decay_steps=20)
    rates = [learning_rate(step, optim) for step in range(100)]
    assert rates[0] == 0.1
    assert rates[9:80] == [1.0] * 71
    assert rates[90] == 0.5
    assert rates[99] == 0.05


def test_the_decay_is_a_polynomial_or_a_cosine():
    square = OptimConfig(lr=1.0, steps=100, warmup_steps=0, decay_steps=100, decay_power=2.0)
    assert learning_rate(50, square) == 0.25
    cosine = OptimConfig(lr=1.0, steps=100, warmup_steps=0, decay_steps=100, decay="cosine")
    assert learning_rate(0, cosine) == 1.0
    assert learning_rate(25, cosine) == pytest.approx(0.5 + 0.5 * 0.5**0.5)
    assert learning_rate(50, cosine) == pytest.approx(0.5)
    assert learning_rate(99, cosine) < 1e-3


def test_neither_warm_up_nor_decay():
    optim = OptimConfig(lr=1.0, steps=3, warmup_steps=0, decay_steps=0)
    assert [learning_rate(step, optim) for step in range(3)] == [1.0, 1.0, 1.0]


def test_the_published_schedule_rises_to_the_peak_and_falls_to_0():
    optim = OptimConfig()
    assert learning_rate(31_999, optim) == optim.lr
    assert learning_rate(optim.steps - 1, optim) < 1e-9


def fairseq_rate(updates, peak, warmup, total):
    """The rate after a number of updates. Source: polynomial_decay of fairseq, power 1, end at 0."""
    if updates <= warmup:
        return peak * updates / warmup
    return peak * (1 - (updates - warmup) / (total - warmup))


def test_with_warmup_from_zero_the_schedule_is_that_of_fairseq():
    optim = OptimConfig(lr=1e-4, steps=100, warmup_steps=10, decay_steps=90, warmup_from_zero=True)
    rates = [learning_rate(step, optim) for step in range(100)]
    assert rates[0] == 0.0
    assert rates == pytest.approx([fairseq_rate(step, 1e-4, 10, 100) for step in range(100)], rel=1e-12)


def test_with_decay_all_every_weight_decays():
    network = MaeAst(small_config())
    optimizer = make_optimizer(network, OptimConfig(lr=0.1, weight_decay=0.5, decay_all=True))
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.detach(), 0.95 * before[name])


def test_weight_decay_is_for_matrices_only():
    network = MaeAst(small_config())
    optimizer = make_optimizer(network, OptimConfig(weight_decay=0.05, beta1=0.8, beta2=0.9, eps=1e-5))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in network.named_parameters():
        assert (id(parameter) in decayed) == (parameter.dim() == 2), name
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))
    assert optimizer.defaults["betas"] == (0.8, 0.9)
    assert optimizer.defaults["eps"] == 1e-5
