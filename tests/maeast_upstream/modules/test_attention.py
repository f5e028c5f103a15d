import pytest
import torch
import torch.nn.functional as F

from maeast_upstream.modules import attention as module
from maeast_upstream.modules.attention import (
    attention_by_clip,
    attention_by_kernel,
    attention_of_equal_clips,
    attention_of_padded_clips,
    packed_attention,
    varlen_kernel,
)
from maeast_upstream.modules.packing import PackedRow

HEADS = 2
CPU, META = torch.device("cpu"), torch.device("meta")


def reference_kernel(q, k, v, query_bounds, key_bounds, longest_query, longest_key):
    """What `varlen_attn` computes: (N, H, C) tokens, each attending to those between the same two bounds."""
    assert query_bounds.dtype == key_bounds.dtype == torch.int32
    lengths = query_bounds.diff().tolist()
    assert max(lengths) == longest_query == longest_key
    out = torch.full_like(q, torch.nan)
    for first, length in zip(query_bounds.tolist(), lengths, strict=False):
        clip = slice(first, first + length)
        parts = (part[clip].transpose(0, 1)[None] for part in (q, k, v))
        out[clip] = F.scaled_dot_product_attention(*parts)[0].transpose(0, 1)
    return out


def by_kernel(qkv, heads, row):
    return attention_by_kernel(qkv, heads, row, reference_kernel)


@pytest.mark.parametrize(
    ("method", "tokens"),
    [
        (attention_of_equal_clips, [5, 5, 5]),
        (attention_of_equal_clips, [7]),
        (attention_of_padded_clips, [3, 8, 1]),
        (attention_of_padded_clips, [4, 4]),
        (by_kernel, [3, 8, 1]),
        (by_kernel, [1, 1]),
    ],
)
def test_packed_attention_is_that_of_each_clip_alone_with_its_gradient(method, tokens):
    torch.manual_seed(0)
    qkv = torch.randn(1, sum(tokens), 3 * 16, requires_grad=True)
    row = PackedRow(tokens, CPU)
    expected, found = attention_by_clip(qkv, HEADS, row), method(qkv, HEADS, row)
    torch.testing.assert_close(found, expected)
    weight = torch.randn(found.shape)
    one, other = (torch.autograd.grad((value * weight).sum(), qkv)[0] for value in (found, expected))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("tokens", "kernel", "probability", "method"),
    [
        ([4, 4], True, 0.0, "attention_of_equal_clips"),
        ([3, 4], True, 0.0, "attention_by_kernel"),
        ([3, 4], True, 0.1, "attention_of_padded_clips"),
        ([3, 4], False, 0.0, "attention_of_padded_clips"),
    ],
)
def test_away_from_a_cpu_clips_are_attended_to_at_once(tokens, kernel, probability, method, monkeypatch):
    monkeypatch.setattr(module, "varlen_kernel", lambda *of: reference_kernel if kernel else None)
    monkeypatch.setattr(module, method, lambda qkv, *more: qkv[..., :16])
    for other in ("attention_of_equal_clips", "attention_by_kernel", "attention_of_padded_clips", "attention_by_clip"):
        if other != method:
            monkeypatch.setattr(module, other, None)
    qkv = torch.empty(1, sum(tokens), 3 * 16, device=META)
    assert packed_attention(qkv, HEADS, PackedRow(tokens, META), probability).shape == (1, sum(tokens), 16)


def test_there_is_no_flash_kernel_for_a_cpu():
    assert varlen_kernel(CPU, torch.bfloat16, 64) is None


def test_the_bounds_and_slots_of_a_row_say_where_its_clips_lie():
    row = PackedRow([2, 3, 1], CPU)
    assert row.bounds.tolist() == [0, 2, 5, 6]
    assert row.slots.tolist() == [0, 1, 3, 4, 5, 6]
    assert row.key_mask.int()[:, 0, 0].tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert not row.equal
    assert PackedRow([2, 2], CPU).equal


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [[496, 8, 96, 744], [64, 64]])
def test_packed_attention_on_a_gpu(dtype, tokens):
    """By torch's own flash attention where it has it."""
    torch.manual_seed(0)
    qkv = torch.randn(1, sum(tokens), 3 * 128).to(dtype)
    expected = attention_by_clip(qkv.float(), HEADS, PackedRow(tokens, CPU))
    found = packed_attention(qkv.cuda(), HEADS, PackedRow(tokens, torch.device("cuda"))).cpu()
    assert found.dtype == dtype
    assert (found.float() - expected).abs().max() <= (1e-5 if dtype == torch.float32 else 2e-2)
    if dtype != torch.float32 and hasattr(torch.nn.attention, "varlen"):
        assert varlen_kernel(torch.device("cuda"), dtype, 64) is not None
