"""Ours against s3prl's own upstream on the same published checkpoint: an independent version agreed to 4e-6."""

import pytest
import torch

from maeast_upstream import checkpoint, load_model
from maeast_upstream.model import MaeAst, patchify

pytestmark = pytest.mark.s3prl

TOLERANCE = 1e-5


@pytest.fixture
def experts(write_published):
    from reference import load_expert

    def make(tokens, seed=0, **settings):
        path = write_published(tokens, seed, **settings)
        return load_expert(path), load_model(path)

    return make


def worst(theirs, ours):
    with torch.no_grad():
        expected = theirs(ours_clips := [clip.clone() for clip in ours[1]])["hidden_states"]
    actual = ours[0].encode(ours_clips).hidden_states
    assert len(expected) == len(actual)
    differences = []
    for one, other in zip(expected, actual, strict=True):
        assert one.shape == other.shape
        differences.append(((one - other).abs() / one.abs().clamp(min=1)).max())
    return max(differences)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_single_clips_of_every_length(experts, tokens, seed):
    theirs, ours = experts(tokens, seed)
    shortest = {"patch": 2800, "frame": 560}[tokens]
    for samples in (shortest, shortest + 1, 5360, 16000, 31999, 48000, 160000):
        clip = 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))
        assert worst(theirs, (ours, [clip])) <= TOLERANCE


def test_sixty_seconds(experts, tokens):
    theirs, ours = experts(tokens, encoder_layers=1)
    assert worst(theirs, (ours, [0.1 * torch.randn(960_000)])) <= TOLERANCE


def test_real_clips(experts, tokens, clips):
    theirs, ours = experts(tokens)
    for clip in clips:
        if len(clip) >= 2800:
            assert worst(theirs, (ours, [clip])) <= TOLERANCE


def test_batches_of_equal_length(experts, tokens):
    theirs, ours = experts(tokens)
    for samples in (3000, 16000, 50000):
        batch = list(0.1 * torch.randn(3, samples, generator=torch.Generator().manual_seed(samples)))
        assert worst(theirs, (ours, batch)) <= TOLERANCE


@pytest.mark.slow
def test_base_size(experts, tokens):
    size = {
        "encoder_layers": 12,
        "encoder_embed_dim": 768,
        "encoder_ffn_embed_dim": 3072,
        "encoder_attention_heads": 12,
    }
    theirs, ours = experts(tokens, **size, decoder_embed_dim=768)
    assert worst(theirs, (ours, [0.1 * torch.randn(48000)])) <= TOLERANCE


def test_pretraining_pass(write_published):
    """The decoder: the published forward with our mask gives our predictions and targets."""
    from reference import load_expert

    path = write_published("patch")
    theirs, loaded = load_expert(path).model, checkpoint.read(path)
    ours = MaeAst(loaded.config.model).eval()
    ours.load_state_dict(loaded.state)
    fbank = -6 + 4 * torch.randn(2, 96, 128)
    order = torch.stack([torch.randperm(48) for _ in range(2)])
    visible, masked = order[:, 36:].sort().values, order[:, :36].sort().values
    theirs.forward_mask = lambda features, padding: (
        list(visible.numpy()),
        list(masked.numpy()),
        36,
    )
    with torch.no_grad():
        expected = theirs(fbank, padding_mask=torch.zeros(2, 96, dtype=torch.bool), mask=True)
        normalisation = loaded.config.normalisation
        patches = patchify((fbank - normalisation.mean) / normalisation.std * 0.5, loaded.config.model)
        actual = ours.predict(patches, visible, masked)
    assert (expected["target_m_list"] - actual.targets).abs().max() <= TOLERANCE
    assert (expected["logit_m_list_recon"] - actual.reconstruction).abs().max() <= TOLERANCE
    assert (expected["logit_m_list_class"] - actual.classification).abs().max() <= TOLERANCE
