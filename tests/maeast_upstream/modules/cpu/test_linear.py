import pytest
import torch
import torch.nn.functional as F

from maeast_upstream.modules.cpu import linear
from maeast_upstream.modules.cpu.linear import Linear, by_convolution


@pytest.fixture
def convolving(monkeypatch):
    """As on a machine where the convolution is faster."""
    monkeypatch.setattr(linear, "convolution_is_faster", lambda: True)
    calls = []
    monkeypatch.setattr(
        linear,
        "by_convolution",
        lambda *args: calls.append(args) or by_convolution(*args),
    )
    return calls


@pytest.mark.parametrize("shape", [(5,), (1, 5), (2, 3, 5), (7, 1, 2, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_torch_for_any_shape(convolving, shape, bias):
    layer = Linear(5, 3, bias=bias)
    x = torch.randn(shape)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-6, rtol=0)
    assert convolving


def test_no_rows_give_no_rows(convolving):
    assert Linear(5, 3)(torch.empty(2, 0, 5)).shape == (2, 0, 3)


def test_gradients_equal_torchs(convolving):
    x = torch.randn(2, 4, 5, requires_grad=True)
    layer = Linear(5, 3)
    layer(x).square().sum().backward()
    ours = [x.grad.clone(), layer.weight.grad.clone(), layer.bias.grad.clone()]
    for parameter in (x, layer.weight, layer.bias):
        parameter.grad = None
    F.linear(x, layer.weight, layer.bias).square().sum().backward()
    for one, other in zip(ours, (x.grad, layer.weight.grad, layer.bias.grad), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_other_types_autocast_and_exports_stay_torchs(convolving):
    layer, x = Linear(5, 3), torch.randn(2, 5)
    layer.double()(x.double())
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    torch.export.export(layer, (x,))
    assert not convolving


@pytest.fixture
def cpuinfo(monkeypatch, tmp_path):
    linear.convolution_is_faster.cache_clear()
    monkeypatch.setattr(linear, "CPUINFO", tmp_path / "cpuinfo")
    yield tmp_path / "cpuinfo"
    linear.convolution_is_faster.cache_clear()


@pytest.mark.parametrize(("vendor", "faster"), [("AuthenticAMD", True), ("GenuineIntel", False), (None, False)])
def test_the_processor_decides(cpuinfo, vendor, faster):
    if vendor:
        cpuinfo.write_text(f"vendor_id\t: {vendor}\n")
    assert linear.convolution_is_faster() is faster


def test_without_onednn_there_is_no_choice(cpuinfo, monkeypatch):
    cpuinfo.write_text("vendor_id\t: AuthenticAMD\n")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not linear.convolution_is_faster()
