import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretrain import masking


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 500), st.floats(0.01, 0.99))
def test_the_count_is_the_published_one_and_leaves_a_token(tokens, ratio):
    visible = tokens - masking.num_masked(tokens, ratio)
    assert visible == max(1, int((1 - ratio) * tokens))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_visible_and_masked_share_the_tokens_out(share):
    scores = masking.mixed_scores(7, 12, 8, share, generator())
    visible, masked = masking.split(scores, 72)
    assert visible.shape == (7, 24)
    assert masked.shape == (7, 72)
    assert torch.equal(torch.cat([visible, masked], 1).sort(1).values, torch.arange(96).expand(7, 96))


def test_same_generator_state_gives_the_same_mask_and_every_clip_its_own():
    one, other = (masking.mixed_scores(16, 12, 8, 0.5, generator(3)) for _ in range(2))
    assert torch.equal(one, other)
    masks = {tuple(row) for row in masking.split(one, 72)[1].tolist()}
    assert len(masks) == 16


@pytest.mark.parametrize("kind", ["random", "chunk"])
def test_every_token_is_equally_likely_to_be_masked(kind):
    batch = 6000
    if kind == "random":
        scores = masking.random_scores(batch, 96, generator())
    else:
        scores = masking.chunk_scores(batch, 12, 8, generator())
    _, masked = masking.split(scores, 48)
    frequency = torch.bincount(masked.flatten(), minlength=96) / batch
    assert (frequency - 0.5).abs().max() < 0.05


def agreement(masked):
    """Share of neighbouring pairs (along time) that are both masked or both visible."""
    picture = torch.zeros(len(masked), 96).scatter(1, masked, 1.0).view(-1, 12, 8)
    return (picture[:, 1:] == picture[:, :-1]).float().mean()


def test_chunks_are_chunks():
    _, random = masking.split(masking.random_scores(500, 96, generator()), 48)
    _, chunked = masking.split(masking.chunk_scores(500, 12, 8, generator()), 48)
    assert agreement(random) < 0.55
    assert agreement(chunked) > 0.75


def test_chunks_do_not_wrap_around_the_mel_edge():
    """A first chunk of at most 5 x 5 tokens covers at most 5 neighbouring mel patches."""
    scores = masking.chunk_scores(300, 12, 8, generator())
    for row in scores:
        first = (row < 1).view(12, 8).nonzero()
        if len(first):
            assert first[:, 1].max() - first[:, 1].min() < 5
            assert first[:, 0].max() - first[:, 0].min() < 5


def test_frame_tokens_have_chunks_along_time():
    scores = masking.chunk_scores(500, 100, 1, generator())
    _, masked = masking.split(scores, 50)
    picture = torch.zeros(500, 100).scatter(1, masked, 1.0)
    assert (picture[:, 1:] == picture[:, :-1]).float().mean() > 0.65
    assert (picture.mean(0) - 0.5).abs().max() < 0.12
