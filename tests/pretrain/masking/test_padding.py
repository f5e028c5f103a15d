import dataclasses

import pytest
import torch

from maeast_upstream.config import Normalisation
from maeast_upstream.frontend import num_frames
from pretrain.config import LossConfig
from pretrain.masking.padding import fit_disjoint_masks, fit_masks, share_of_masked, token_padding
from pretrain.masking.rules import num_masked
from pretrain.trainer import Trainer
from pretrain.training.build import build_objective, build_sampler

SAMPLES = (16_000, 9_000, 5_200, 16_000)


@pytest.fixture
def padded(recipe):
    """An objective in eval mode, and a padded batch of two views of two clips with its masks."""
    torch.manual_seed(0)
    data = dataclasses.replace(recipe.data, short_clips="pad", crop_seconds=1.0)
    recipe = dataclasses.replace(recipe, losses=LossConfig(), data=data)
    objective = build_objective(recipe, Normalisation(mean=-5.0, std=4.0)).eval()
    lengths = torch.tensor(SAMPLES)
    waveforms = 0.1 * torch.randn(4, 16_000)
    waveforms[torch.arange(16_000) >= lengths[:, None]] = 0.0
    patches = objective.patches(waveforms, lengths)
    padding = token_padding(lengths, patches.shape[1], recipe.model)
    generator = torch.Generator().manual_seed(0)
    drawn = build_sampler(recipe).draw(*patches.shape[:2], generator)[:2]
    noise = torch.rand(patches.shape[:2], generator=generator)
    return (
        objective,
        waveforms,
        patches,
        padding,
        fit_masks(*drawn, padding, 0.75, noise),
        drawn,
    )


def test_padding_begins_behind_the_last_whole_time_step(padded):
    objective, _, _, padding, _, _ = padded
    frames = num_frames(torch.tensor(SAMPLES))
    assert (~padding).sum(1).tolist() == (frames // objective.network.config.patch_frames * 8).tolist()


def test_every_row_has_its_own_exact_count_and_padding_is_neither(padded):
    *_, padding, (visible, masked), _ = padded
    assert torch.equal(torch.cat([visible, masked], 1).sort(1).values, torch.arange(48).expand(4, -1))
    for row in range(4):
        own = int((~padding[row]).sum())
        assert int((~padding[row, masked[row]]).sum()) == num_masked(own, 0.75)
        assert int((~padding[row, visible[row]]).sum()) == own - num_masked(own, 0.75)


def test_where_nothing_is_padded_the_mask_stays_as_it_was_drawn(padded):
    *_, (visible, masked), drawn = padded
    for row in (0, 3):
        assert sorted(visible[row].tolist()) == sorted(drawn[0][row].tolist())
        assert sorted(masked[row].tolist()) == sorted(drawn[1][row].tolist())


def test_the_loss_of_a_padded_batch_is_the_mean_of_its_clips_alone(padded):
    objective, waveforms, patches, padding, (visible, masked), _ = padded
    together = objective(patches, visible, masked, padding)
    alone = []
    for row, samples in enumerate(SAMPLES):
        own = objective.patches(waveforms[row : row + 1, :samples])
        seen, hidden = (index[row][~padding[row, index[row]]][None] for index in (visible, masked))
        assert own.shape[1] == seen.shape[1] + hidden.shape[1]
        alone.append(objective(own, seen, hidden))
    for name, value in together.items():
        torch.testing.assert_close(
            value,
            torch.stack([one[name] for one in alone]).mean(),
            atol=2e-5,
            rtol=1e-5,
        )


def test_what_lies_in_the_padding_changes_nothing(padded):
    objective, _, patches, padding, masks, _ = padded
    noisy = torch.where(padding[..., None], torch.randn_like(patches), patches)
    one, other = (objective(x, *masks, padding)["loss"] for x in (patches, noisy))
    assert float(one) == float(other)


def drawn_masks(rows, tokens, ratio, generator):
    order = torch.rand(rows, tokens, generator=generator).argsort(1)
    count = num_masked(tokens, ratio)
    return order[:, count:], order[:, :count]


@pytest.mark.parametrize("ratio", [0.5, 0.6, 0.75, 0.9])
def test_two_views_of_a_padded_clip_see_different_tokens_and_their_own_exact_number(ratio):
    generator = torch.Generator().manual_seed(0)
    valid = torch.tensor([2, 3, 5, 8, 13, 40, 47, 48])
    padding = (torch.arange(48) >= valid[:, None]).repeat(2, 1)
    noise = torch.rand(16, 48, generator=generator)
    visible, masked = fit_disjoint_masks(*drawn_masks(16, 48, ratio, generator), padding, ratio, noise)
    assert torch.equal(torch.cat([visible, masked], 1).sort(1).values, torch.arange(48).expand(16, -1))
    for clip, count in enumerate(valid.tolist()):
        seen = [set(visible[row].tolist()) & set(range(count)) for row in (clip, clip + 8)]
        assert [len(tokens) for tokens in seen] == [count - num_masked(count, ratio)] * 2
        assert not seen[0] & seen[1]


def test_two_views_of_a_clip_without_padding_keep_the_disjoint_masks_that_were_drawn(recipe):
    recipe = dataclasses.replace(recipe, losses=LossConfig(clip=1.0, clip_views="masks"))
    drawn = build_sampler(recipe).draw(8, 48, torch.Generator().manual_seed(0))
    visible, masked = (torch.cat([index[::2], index[1::2]]) for index in drawn[:2])
    fitted = fit_disjoint_masks(visible, masked, torch.zeros(8, 48, dtype=torch.bool), 0.75, torch.rand(8, 48))
    for one, other in zip(fitted, (visible, masked), strict=True):
        assert torch.equal(one.sort(1).values, other.sort(1).values)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.99])
def test_each_padded_row_predicts_its_share_of_its_masked_tokens(share):
    generator = torch.Generator().manual_seed(0)
    valid = torch.tensor([2, 3, 5, 8, 13, 40, 47, 48])
    padding = torch.arange(48) >= valid[:, None]
    noise, more = torch.rand(2, 8, 48, generator=generator)
    _, masked = fit_masks(*drawn_masks(8, 48, 0.75, generator), padding, 0.75, noise)
    chosen = share_of_masked(masked, padding, share, more)
    assert chosen.shape == (8, max(1, round(share * 36)))
    for row, count in enumerate(valid.tolist()):
        tokens = chosen[row].tolist()
        assert len(set(tokens)) == len(tokens)
        assert set(tokens) <= set(masked[row].tolist())
        kept = max(1, round(share * num_masked(count, 0.75)))
        assert sum(token < count for token in tokens) == min(kept, len(tokens))


@pytest.mark.slow
@pytest.mark.parametrize(
    "losses",
    [LossConfig(clip=1.0), LossConfig(), LossConfig(clip=1.0, clip_views="masks"), LossConfig(masked_share=0.4)],
)
@pytest.mark.parametrize("longest", [None, 3.0])
def test_a_run_on_clips_of_all_lengths(recipe, losses, longest):
    data = dataclasses.replace(recipe.data, short_clips="pad", crop_seconds=1.0, max_crop_seconds=longest)
    trainer = Trainer(dataclasses.replace(recipe, data=data, losses=losses))
    assert trainer.train()
    assert all(bool(p.isfinite().all()) for p in trainer.objective.parameters())
