import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from maeast_upstream.modules import half as module
from maeast_upstream.modules.half import HalfEncoder, plain_add_norm

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def last_of(encoder, clips):
    return encoder.encode(clips).hidden_states[-1]


def autocast_only(encoder, clips):
    """What `encode` gives without cast weights."""
    weights = encoder._half_weights
    encoder._half_weights = type("None", (), {"current": lambda *of: None})()
    try:
        return encoder.encode(clips).hidden_states
    finally:
        encoder._half_weights = weights


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_cast_weights_give_the_bits_of_autocast(make_encoder, clips, precision):
    encoder = make_encoder(precision=precision)
    assert encoder._half_encoder(torch.zeros(1, 8, 256)) is not None
    for one, other in zip(encoder.encode(clips).hidden_states, autocast_only(encoder, clips), strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


def test_without_positions_sums_are_float32_where_a_cpu_s_autocast_has_bf16(make_encoder, clips):
    shape = {"positions": "none"}
    encoder, exact = make_encoder(precision="bf16", shape=shape), last_of(make_encoder(shape=shape), clips)
    ours, theirs = (
        (found - exact).square().sum() for found in (last_of(encoder, clips), autocast_only(encoder, clips)[-1])
    )
    assert ours < 0.5 * theirs


def test_cast_weights_give_the_bits_of_autocast_with_padding(make_encoder, clips, monkeypatch):
    encoder = make_encoder(precision="bf16")
    monkeypatch.setattr(encoder, "_packs", lambda clips: False)
    for one, other in zip(encoder.encode(clips).hidden_states, autocast_only(encoder, clips), strict=True):
        assert torch.equal(one, other)


def test_weights_are_cast_once(make_encoder, clips, monkeypatch):
    made = []
    monkeypatch.setattr(module, "HalfEncoder", lambda *of: made.append(1) or HalfEncoder(*of))
    encoder = make_encoder(precision="bf16")
    for _ in range(3):
        encoder.encode(clips)
    assert len(made) == 1
    with torch.inference_mode():
        encoder.encode(clips)
    assert len(made) == 1


def changed_in_place(encoder):
    with torch.no_grad():
        encoder.network.encoder.blocks[1].fc1.weight.mul_(2)


def changed_by_loading(encoder):
    encoder.network.load_state_dict({name: value * 1.5 for name, value in encoder.network.state_dict().items()})


def changed_by_an_optimizer(encoder):
    for weight in encoder.network.encoder.parameters():
        weight.grad = torch.ones_like(weight)
    for fused in (False, True):
        torch.optim.AdamW(encoder.network.encoder.parameters(), lr=0.1, fused=fused).step()


def changed_data(encoder):
    encoder.network.encoder.blocks[0].attention.qkv.weight.data = torch.randn(96, 32)


def another_layer(encoder):
    encoder.network.encoder.blocks[0].fc2 = nn.Linear(64, 32).requires_grad_(False)


def a_hook(encoder):
    encoder.network.encoder.blocks[2].register_forward_hook(lambda *of: of[2] + 1)


@pytest.mark.parametrize(
    "change",
    [changed_in_place, changed_by_loading, changed_by_an_optimizer, changed_data, another_layer, a_hook],
)
def test_a_change_of_the_weights_or_modules_is_seen(make_encoder, clips, change):
    encoder = make_encoder(precision="bf16")
    before = last_of(encoder, clips)
    change(encoder)
    after = last_of(encoder, clips)
    assert not torch.equal(after, before)
    assert torch.equal(after, autocast_only(encoder, clips)[-1])


def test_dropout_and_gradients_use_the_weights_themselves(make_encoder, clips):
    encoder, patches = make_encoder(precision="bf16"), torch.zeros(1, 8, 256)
    assert encoder._half_encoder(patches.clone().requires_grad_()) is None
    encoder.requires_grad_(True)
    assert encoder._half_encoder(patches) is None
    with torch.no_grad():
        assert encoder._half_encoder(patches) is not None
        encoder.train()
        assert encoder._half_encoder(patches) is None
    assert make_encoder(precision="fp32")._half_encoder(patches) is None


def test_what_was_cast_inside_inference_mode_serves_outside_it(make_encoder, clips):
    encoder = make_encoder(precision="bf16")
    with torch.inference_mode():
        inside = last_of(encoder, clips)
    assert torch.equal(last_of(encoder, clips), inside)


def test_cast_weights_are_in_no_copy_and_no_file(make_encoder, clips):
    encoder = make_encoder(precision="bf16")
    before = len(pickle.dumps(encoder))
    encoder.encode(clips)
    assert len(pickle.dumps(encoder)) == before
    twin = copy.deepcopy(encoder)
    changed_in_place(twin)
    assert not torch.equal(last_of(twin, clips), last_of(encoder, clips))
    assert "half" not in " ".join(encoder.state_dict())


INTERPRETED = """
import torch
from torch import nn
from maeast_upstream.modules.cuda.add_norm import add_norm
from maeast_upstream.modules.half import plain_add_norm
torch.manual_seed(0)
for columns in (32, 192):
    for dtype in (torch.bfloat16, torch.float16):
        norm = nn.LayerNorm(columns).requires_grad_(False)
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
        x, y = 3 + torch.randn(1, 5, columns), torch.randn(1, 5, columns).to(dtype)
        (one, half), (other, _) = add_norm(x, y, norm), plain_add_norm(x, y, norm)
        assert one.dtype == torch.float32 and half.dtype == dtype
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6)
        # the interpreter cuts bits off where a GPU rounds
        torch.testing.assert_close(half.float(), one, rtol=2**-7, atol=1e-6)
print("same")
"""


@pytest.mark.slow
def test_the_fused_kernel_computes_the_formula_in_tritons_interpreter():
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(module.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True)
    assert done.stdout == "same\n", done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES.values())
def test_the_fused_kernel_on_a_gpu(dtype):
    torch.manual_seed(0)
    device = torch.device("cuda")
    fused = module.fused_add_norm(device)
    assert fused is not None, "Triton is missing or cannot compile"
    norm = nn.LayerNorm(768, device=device).requires_grad_(False)
    x, y = torch.randn(2, 500, 768, device=device), torch.randn(2, 500, 768, device=device).to(dtype)
    for one, other in zip(fused(x, y, norm), plain_add_norm(x, y, norm), strict=True):
        torch.testing.assert_close(one, other, rtol=2**-7, atol=1e-5)


@pytest.mark.gpu
def test_on_a_gpu_cast_weights_stay_close_to_autocast(make_encoder, clips):
    encoder = make_encoder(precision="bf16").cuda()
    for one, other in zip(encoder.encode(clips).hidden_states, autocast_only(encoder, clips), strict=True):
        assert F.cosine_similarity(one, other, dim=-1)[other.abs().sum(-1) > 0].min() > 0.9995
