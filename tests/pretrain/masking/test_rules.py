import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import small_config

from pretrain.config import LossConfig, MaskConfig
from pretrain.mask_map import main
from pretrain.masking import rules
from pretrain.masking.mask_types import MASK_TYPES
from pretrain.masking.rules import Grid, removal_frequency
from pretrain.masking.sampler import MaskSampler

OURS = ("random", "chunk", "span", "inverse")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def masked_of(mask_type, grid, ratio, seed=0):
    """(B, T, M) bool."""
    scores = MASK_TYPES[mask_type](grid, ratio, generator(seed))
    masked = rules.split_visible_masked(scores, rules.num_masked(grid.tokens, ratio))[1]
    picture = torch.zeros(grid.batch, grid.tokens, dtype=torch.bool).scatter(1, masked, True)
    return picture.view(*grid)


@given(st.integers(1, 500), st.floats(0.01, 0.99))
def test_the_count_is_the_published_one_and_leaves_a_token(tokens, ratio):
    visible = tokens - rules.num_masked(tokens, ratio)
    assert visible == max(1, int((1 - ratio) * tokens))


@pytest.mark.parametrize("mask_type", MASK_TYPES)
@given(st.integers(1, 4), st.integers(1, 30), st.sampled_from([1, 2, 8]), st.floats(0.01, 0.99), st.integers(0, 9))
def test_every_kind_removes_the_exact_count_of_any_grid(mask_type, batch, steps, mels, ratio, seed):
    grid = Grid(batch, steps, mels)
    scores = MASK_TYPES[mask_type](grid, ratio, generator(seed))
    assert scores.shape == (batch, grid.tokens)
    visible, masked = rules.split_visible_masked(scores, rules.num_masked(grid.tokens, ratio))
    assert masked.shape[1] == rules.num_masked(grid.tokens, ratio)
    every = torch.cat([visible, masked], 1).sort(1).values
    assert torch.equal(every, torch.arange(grid.tokens).expand(batch, -1))


@pytest.mark.parametrize("mask_type", MASK_TYPES)
def test_same_generator_state_gives_the_same_mask(mask_type):
    grid = Grid(16, 40, 8)
    assert torch.equal(masked_of(mask_type, grid, 0.75, 3), masked_of(mask_type, grid, 0.75, 3))
    assert not torch.equal(masked_of(mask_type, grid, 0.75, 3), masked_of(mask_type, grid, 0.75, 4))


@pytest.mark.parametrize("mask_type", OURS)
def test_every_clip_has_its_own_mask(mask_type):
    masks = masked_of(mask_type, Grid(16, 40, 8), 0.75).flatten(1)
    assert len({tuple(row) for row in masks.tolist()}) == 16


@pytest.mark.parametrize("mask_type", OURS)
@pytest.mark.parametrize("grid", [Grid(250, 62, 8), Grid(250, 500, 1)], ids=["patch", "frame"])
def test_every_token_is_equally_likely_to_be_removed(mask_type, grid):
    """Within five deviations of what 2,000 masks give; spans on few steps know an edge, see the next test."""
    frequency = removal_frequency(MASK_TYPES[mask_type], grid, 0.75, generator(), 8)
    assert frequency.mean() == pytest.approx(0.75, abs=1e-3)
    allowed = 5 * (0.75 * 0.25 / 2000) ** 0.5
    if mask_type == "span" and grid.mels > 1:
        allowed += 0.02
    assert (frequency - 0.75).abs().max() < allowed


def test_where_a_span_is_a_large_part_of_a_clip_its_ends_are_removed_less():
    frequency = removal_frequency(MASK_TYPES["span"], Grid(500, 12, 1), 0.75, generator(), 8).flatten()
    assert frequency[[0, -1]].max() < 0.72
    assert frequency[6] > 0.78


def neighbours_agree(masked):
    """Share of pairs that follow each other in time and are both masked or both visible."""
    return (masked[:, 1:] == masked[:, :-1]).float().mean()


def test_chunks_spans_and_blocks_hang_together():
    grid = Grid(500, 62, 8)
    assert neighbours_agree(masked_of("random", grid, 0.5)) < 0.55
    assert neighbours_agree(masked_of("chunk", grid, 0.5)) > 0.75
    assert neighbours_agree(masked_of("inverse", grid, 0.5)) > 0.8
    assert neighbours_agree(masked_of("span", Grid(500, 500, 1), 0.5)) > 0.9


def runs(row):
    """(value, length) of each run of equal values."""
    values, lengths = torch.unique_consecutive(row, return_counts=True)
    return list(zip(values.tolist(), lengths.tolist(), strict=True))


def test_spans_are_ten_steps_of_all_mel_patches():
    masked = masked_of("span", Grid(50, 100, 4), 0.2)
    count = masked.sum(2)
    assert ((count == 0) | (count == 4)).float().mean() > 0.99
    short = 0
    for row in count > 0:
        inner = [length for value, length in runs(row)[1:-1] if value]
        short += sum(length < 10 for length in inner)
    assert short <= 50, "only a clip's last span is cut"


@pytest.mark.parametrize(("mask_type", "visible"), [("chunk", False), ("inverse", True)])
def test_the_first_block_is_square_and_does_not_wrap_around_the_mel_edge(mask_type, visible):
    """Five by five tokens are the first that are covered: of at most five neighbouring mel patches."""
    grid = Grid(300, 12, 8)
    first = rules.block_scores(grid, rules.CHUNK_SIDES if mask_type == "chunk" else (5,), 0.5, generator()) < 1
    for row in first.view(*grid):
        places = row.nonzero()
        if len(places):
            extent = places.amax(0) - places.amin(0) + 1
            assert extent.max() <= 5
            assert len(places) == extent[0] * extent[1]
    ratio = 0.9 if visible else 0.1  # 9 tokens, fewer than two chunks of 3 x 3
    group = masked_of(mask_type, grid, ratio) != visible
    for row in group:
        places = row.nonzero()
        assert (places.amax(0) - places.amin(0)).max() < 12


def test_a_mix_has_its_shares():
    masking = MaskConfig(chunk_share=0.25, inverse_share=0.25, span_share=0.25)
    grid = Grid(2000, 20, 8)
    random, span = rules.random_scores, lambda grid, *_: torch.full((grid.batch, grid.tokens), 7.0)
    mixed = rules.mixed_scores([(span, 0.25)], grid, 0.75, generator())
    assert ((mixed == 7.0).all(1).float().mean() - 0.25).abs() < 0.04
    assert ((mixed < 1.0).all(1).float().mean() - 0.75).abs() < 0.04
    scores = MaskSampler(masking, LossConfig(), small_config()).scores(grid, masking.ratio, generator())
    assert ((scores < 0).all(1).float().mean() - 0.25).abs() < 0.04, "inverse blocks"
    assert ((scores <= 0).any(1) | (scores > 1).any(1)).float().mean() == pytest.approx(0.75, abs=0.04)
    assert random(grid, 0.5, generator()).max() < 1


def test_no_loop_over_clips():
    """As many operations for sixty clips as for two."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        number = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.number += 1
            return func(*args, **(kwargs or {}))

    for mask_type, scores in MASK_TYPES.items():
        counts = []
        for batch in (2, 60):
            with Count() as count:
                rules.split_visible_masked(scores(Grid(batch, 30, 8), 0.75, generator()), 180)
            counts.append(count.number)
        assert counts[0] == counts[1], mask_type


def test_disjoint_rows_share_no_visible_token():
    grid = Grid(40, 20, 8)
    for mask_type in OURS:
        scores = rules.make_disjoint(MASK_TYPES[mask_type](grid, 0.75, generator()), 120)
        visible, masked = rules.split_visible_masked(scores, 120)
        assert visible.shape == (40, 40)
        for one, other in zip(visible[::2].tolist(), visible[1::2].tolist(), strict=True):
            assert not set(one) & set(other)
        assert masked.shape == (40, 120)


def test_subsampled_masked_tokens_differ_between_rows():
    masked = torch.arange(100).expand(30, -1) + 5
    chosen = rules.subsample_masked(masked, 0.34, generator())
    assert chosen.shape == (30, 34)
    assert (chosen[:, 1:] > chosen[:, :-1]).all()
    assert len({tuple(row) for row in chosen.tolist()}) == 30
    assert rules.subsample_masked(masked, 1e-9, generator()).shape == (30, 1)


def test_the_map_of_all_mask_types_is_drawn_by_a_command(tmp_path):
    assert main(["-o", str(tmp_path / "masks.png"), "--batches", "1"]) == 0
    assert (tmp_path / "masks.png").stat().st_size > 5000
