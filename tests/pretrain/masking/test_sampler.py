"""The masks of a batch, however it is shared."""

import pytest
import torch
from small import small_config

from maeast_upstream.frontend import num_frames
from pretrain.config import LossConfig, MaskConfig
from pretrain.masking.published import spans_official
from pretrain.masking.rules import num_masked
from pretrain.masking.sampler import BatchRows, MaskSampler, hash_seed

CPU, TOKENS = torch.device("cpu"), 96
MASKINGS = {
    "random": MaskConfig(),
    "chunk": MaskConfig(chunk_share=1.0),
    "mix": MaskConfig(chunk_share=0.3, span_share=0.2, inverse_share=0.2, chunk_official_share=0.1),
}


def sampler(masking=MASKINGS["mix"], **losses):
    return MaskSampler(masking, LossConfig(**losses), small_config())


def sample(masks, first, clips, total=100, views=2, lengths=None):
    return masks.sample(BatchRows(clips, first, total, views), TOKENS, (3, 7), CPU, lengths)


@pytest.mark.parametrize("masking", MASKINGS.values(), ids=MASKINGS)
@pytest.mark.parametrize("losses", [{}, {"masked_share": 0.5}, {"clip": 1.0, "clip_views": "masks"}])
def test_a_rows_mask_does_not_depend_on_how_the_batch_is_shared(masking, losses):
    masks = sampler(masking, **losses)
    whole = sample(masks, 0, 100)
    for size in (50, 25, 20):
        for first in range(0, 100, size):
            part = sample(masks, first, size)
            for drawn, expected in zip(part[:2], whole[:2], strict=True):
                views = expected.view(2, 100, -1)[:, first : first + size]
                assert torch.equal(drawn, views.reshape(2 * size, -1))


def test_the_seed_decides_the_masks():
    masks, rows = sampler(), BatchRows(4, 0, 4, 1)
    first, same, other = (masks.sample(rows, TOKENS, seed, CPU).visible for seed in ((0, 1), (0, 1), (0, 2)))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_every_row_of_a_batch_has_a_mask_with_the_exact_count():
    visible, masked, padding = sample(sampler(MASKINGS["random"]), 0, 100)
    assert padding is None
    assert masked.shape == (200, num_masked(TOKENS, 0.75))
    assert torch.equal(torch.cat([visible, masked], 1).sort(1).values, torch.arange(TOKENS).expand(200, -1))
    assert len({tuple(row) for row in masked.tolist()}) == 200


def test_a_share_of_the_masked_tokens_is_among_them():
    every, some = (sample(sampler(MASKINGS["random"], masked_share=share), 0, 64, 64, 1) for share in (1.0, 0.25))
    assert torch.equal(every.visible, some.visible)
    assert some.masked.shape == (64, 18)
    assert all(set(few) <= set(all_) for few, all_ in zip(some.masked.tolist(), every.masked.tolist(), strict=True))


def test_two_views_of_a_clip_see_no_token_twice():
    visible = sample(sampler(clip=1.0, clip_views="masks"), 10, 30).visible
    for one, other in zip(visible[:30].tolist(), visible[30:].tolist(), strict=True):
        assert not set(one) & set(other)


def test_padding_is_neither_visible_nor_masked_and_unpadded_rows_keep_their_masks():
    lengths = torch.tensor([32_000, 20_000, 9_000, 32_000])
    plain, padded = (sample(sampler(), 0, 4, 4, 1, given) for given in (None, lengths))
    valid = num_frames(lengths) // 16 * 8
    assert (~padded.padding).sum(1).tolist() == valid.tolist()
    for row, count in enumerate(valid.tolist()):
        masked = padded.masked[row][~padded.padding[row, padded.masked[row]]]
        assert len(masked) == num_masked(count, 0.75)
    for row in (0, 3):
        assert sorted(plain.masked[row].tolist()) == sorted(padded.masked[row].tolist())


@pytest.fixture
def official_spans():
    return MaskSampler(MaskConfig(spans_official_probability=1.45), LossConfig(), small_config("frame"))


def test_spans_of_a_probability_are_the_published_ones_of_the_whole_batch(official_spans):
    visible, masked, _ = official_spans.sample(BatchRows(100, 0, 100, 1), 500, (3, 7), CPU)
    generator = torch.Generator().manual_seed(hash_seed(3, 7, 0))
    expected = spans_official(500, 1.45, torch.zeros(100, 500, dtype=torch.bool), generator)
    assert torch.equal(visible, expected[0])
    assert torch.equal(masked, expected[1])
    assert 0.7 < visible.shape[1] / 500 < 0.78, "the smallest share of 100 clips, of which 0.79 is the mean"


def test_spans_of_a_probability_do_not_depend_on_how_the_batch_is_shared(official_spans):
    whole = official_spans.sample(BatchRows(100, 0, 100, 2), 100, (3, 7), CPU)
    parts = [official_spans.sample(BatchRows(50, first, 100, 2), 100, (3, 7), CPU) for first in (0, 50)]
    for name in ("visible", "masked"):
        views = [getattr(part, name).chunk(2) for part in parts]
        shared = torch.cat([view for number in (0, 1) for view in (views[0][number], views[1][number])])
        assert torch.equal(shared, getattr(whole, name))
