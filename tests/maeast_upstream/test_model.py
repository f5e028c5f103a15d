import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from small import small_config
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from maeast_upstream.model import MaeAst, ModelConfig, patchify, preset, unpatchify
from maeast_upstream.modules.attention import Attention
from maeast_upstream.modules.positions import is_sinusoid, sinusoid
from maeast_upstream.modules.transformer import DropoutRates, TransformerBlock


@pytest.fixture
def network():
    torch.manual_seed(0)
    return MaeAst(small_config()).eval()


def patches_of(network, batch=2, steps=5):
    config = network.config
    return torch.randn(batch, steps * config.mel_patches, config.patch_dim)


def split(batch, count, hidden):
    order = torch.stack([torch.randperm(count) for _ in range(batch)])
    return order[:, hidden:], order[:, :hidden]


@pytest.mark.parametrize("padded", [False, True])
def test_attention_equals_torchs(padded):
    ours, theirs = Attention(24, 3, 0.0), nn.MultiheadAttention(24, 3, batch_first=True)
    ours.qkv.load_state_dict({"weight": theirs.in_proj_weight, "bias": theirs.in_proj_bias})
    ours.out.load_state_dict(theirs.out_proj.state_dict())
    x = torch.randn(2, 7, 24)
    padding = torch.arange(7) >= torch.tensor([[7], [4]]) if padded else None
    expected = theirs(x, x, x, key_padding_mask=padding, need_weights=False)[0]
    actual = ours(x, None if padding is None else ~padding[:, None, None, :])
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_attention_with_dropout_is_right_on_average(padded):
    torch.manual_seed(0)
    layer, x = Attention(24, 3, 0.2), torch.randn(1, 7, 24)
    key_mask = ~(torch.arange(7) >= 4)[None, None, None] if padded else None
    expected = layer.eval()(x, key_mask)
    layer.train()
    actual = layer(x.expand(20_000, -1, -1), key_mask)
    assert not torch.equal(actual[0], actual[1])
    torch.testing.assert_close(actual.mean(0, keepdim=True), expected, atol=5e-3, rtol=0)


@pytest.mark.parametrize("padded", [False, True])
def test_block_equals_torchs(padded):
    theirs = nn.TransformerEncoderLayer(24, 3, 48, dropout=0.0, activation="gelu", batch_first=True)
    ours = like_torchs(theirs, TransformerBlock(24, 3, 48, DropoutRates()).eval())
    x = torch.randn(2, 9, 24)
    padding = torch.arange(9) >= torch.tensor([[9], [5]]) if padded else torch.zeros(2, 9, dtype=torch.bool)
    actual = ours(x, ~padding[:, None, None, :] if padded else None)
    expected = theirs(x, src_key_padding_mask=padding if padded else None)
    torch.testing.assert_close(actual[~padding], expected[~padding], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_encoder_equals_a_stack_of_torchs_layers(network, padded):
    layers = [nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", batch_first=True) for _ in range(3)]
    for ours, theirs in zip(network.encoder.blocks, layers, strict=True):
        like_torchs(theirs, ours)
    patches = patches_of(network)
    padding = torch.arange(40) >= torch.tensor([[40], [24]]) if padded else torch.zeros(2, 40, dtype=torch.bool)
    x = network.encoder.norm(network.patch_embed(patches) + sinusoid(40, 32))
    for actual, theirs in zip(network.features(patches, padding if padded else None), layers, strict=True):
        x = theirs(x, src_key_padding_mask=padding if padded else None)
        torch.testing.assert_close(actual[~padding], x[~padding], atol=1e-5, rtol=1e-4)


def like_torchs(theirs, ours):
    """Give our block the weights of torch's layer."""
    attention = theirs.self_attn
    ours.attention.qkv.load_state_dict({"weight": attention.in_proj_weight, "bias": attention.in_proj_bias})
    ours.attention.out.load_state_dict(attention.out_proj.state_dict())
    pairs = {
        "fc1": "linear1",
        "fc2": "linear2",
        "attention_norm": "norm1",
        "ffn_norm": "norm2",
    }
    for name, other in pairs.items():
        getattr(ours, name).load_state_dict(getattr(theirs, other).state_dict())
    return ours


def test_equals_the_stored_network():
    path = Path(__file__).parents[1] / "golden" / "network.safetensors"
    stored = load_file(path)
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    network = MaeAst(ModelConfig(**config)).eval()
    weights = {name: value for name, value in stored.items() if name.startswith("weights.")}
    network.load_state_dict({name.removeprefix("weights."): value for name, value in weights.items()})
    prediction = network.predict(stored["patches"], stored["visible"], stored["masked"])
    given = network.features(stored["patches"], stored["padding"])
    pairs = {f"features.{number}": value for number, value in enumerate(given, start=1)}
    pairs |= {
        "reconstruction": prediction.reconstruction,
        "classification": prediction.classification,
    }
    pairs |= {"whole": network.encode_with_mask_tokens(stored["patches"], stored["masked"])}
    for name, value in pairs.items():
        torch.testing.assert_close(value, stored[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tokens", ["patch", "frame"])
def test_patchify_is_time_major_and_undone_by_unpatchify(tokens):
    config = small_config(tokens)
    frames = 3 * config.patch_frames
    spectrogram = torch.randn(2, frames + 1, 128)
    patches = patchify(spectrogram, config)
    assert patches.shape == (2, 3 * config.mel_patches, config.patch_dim)
    assert torch.equal(unpatchify(patches, config), spectrogram[:, :frames])
    step, mel = 1, config.mel_patches - 1
    kt, kf = config.patch_frames, config.patch_mels
    block = spectrogram[0, step * kt : (step + 1) * kt, mel * kf : (mel + 1) * kf]
    assert torch.equal(patches[0, step * config.mel_patches + mel], block.flatten())


@pytest.mark.parametrize(("row", "change", "expected"), [(0, 0.0, True), (599, 0.01, True), (599, 0.03, False)])
def test_a_table_of_positions_is_compared_to_its_last_row(row, change, expected):
    table = sinusoid(600, 8)
    table[row, 5] += change
    assert is_sinusoid(table, 0.02) == expected
    assert is_sinusoid(table.half(), 0.02) == expected
    table[300, 2] = float("nan")
    assert not is_sinusoid(table, 0.02)


def test_sinusoid_has_sines_at_even_and_cosines_at_odd_channels():
    table = sinusoid(50, 8)
    rate = 10_000 ** (-2 / 8)
    torch.testing.assert_close(table[7, 2], torch.tensor(7 * rate).sin())
    torch.testing.assert_close(table[7, 3], torch.tensor(7 * rate).cos())


@pytest.mark.parametrize(
    ("size", "millions"),
    [("tiny", 5.4), ("small", 21.4), ("base", 85.3), ("base6", 42.7), ("large", 302.6)],
)
def test_presets_have_the_known_sizes(size, millions):
    with torch.device("meta"):
        network = MaeAst(preset(size))
    count = sum(p.numel() for m in (network.patch_embed, network.encoder) for p in m.parameters())
    assert abs(count / 1e6 - millions) < 0.1


def test_kept_layers_are_those_of_the_full_list(network):
    patches = patches_of(network)
    every = network.features(patches)
    assert len(every) == 3
    some = network.features(patches, layers=[3, 1])
    assert torch.equal(some[0], every[0])
    assert torch.equal(some[1], every[2])


def test_nothing_above_the_last_kept_layer_is_computed(network):
    network.encoder.blocks[2] = nn.Module()  # would raise if it were called
    assert len(network.features(patches_of(network), layers=[1, 2])) == 2


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_a_row_does_not_depend_on_its_mates_nor_on_padding(lengths):
    torch.manual_seed(0)
    network = MaeAst(small_config()).eval()
    batch = torch.full((len(lengths), 8 * max(lengths), 256), 1e3)
    for row, length in enumerate(lengths):
        batch[row, : 8 * length] = torch.randn(8 * length, 256)
    padding = torch.arange(batch.shape[1]) >= 8 * torch.tensor(lengths)[:, None]
    with torch.no_grad():
        together = network.features(batch, padding)
        for row, length in enumerate(lengths):
            alone = network.features(batch[row : row + 1, : 8 * length])
            for one, other in zip(alone, together, strict=True):
                assert (one[0] - other[row, : 8 * length]).abs().max() <= 1e-5


@pytest.mark.parametrize("lengths", [[1, 5, 2, 5], [4], [0x201, 1]], ids=["mixed", "one", "past the table"])
def test_packed_clips_share_nothing(lengths):
    torch.manual_seed(0)
    network = MaeAst(small_config(depth=2)).eval()
    clips = [torch.randn(1, 8 * length, 256) for length in lengths]
    tokens = [clip.shape[1] for clip in clips]
    with torch.no_grad():
        together = network.features(torch.cat(clips, 1), packed=tokens)
        for clip, row in zip(clips, zip(*(layer.split(tokens, 1) for layer in together), strict=True), strict=True):
            for one, other in zip(network.features(clip), row, strict=True):
                assert (one - other).abs().max() <= 1e-5


def test_layerdrop_never_touches_features():
    network = MaeAst(small_config(layerdrop=0.9)).train()
    for _ in range(5):
        assert len(network.features(patches_of(network))) == 3


def test_layerdrop_skips_layers_in_pretraining():
    network = MaeAst(small_config(layerdrop=0.9, dropout=0.0, input_dropout=0.0, attention_dropout=0.0)).train()
    x = torch.randn(1, 8, 32)
    torch.manual_seed(0)
    outputs = [network.encoder(x, 0.9) for _ in range(8)]
    assert any(not torch.equal(outputs[0], other) for other in outputs)


def test_prediction_never_sees_the_masked_patches(network):
    patches = patches_of(network)
    visible, masked = split(2, 40, 30)
    first = network.predict(patches, visible, masked)
    changed = patches.scatter(1, masked[..., None].expand(-1, -1, 256), 7.0)
    second = network.predict(changed, visible, masked)
    assert torch.equal(first.reconstruction, second.reconstruction)
    assert torch.equal(first.classification, second.classification)
    assert (second.targets == 7.0).all()
    assert torch.equal(first.targets[1, 3], patches[1, masked[1, 3]])
    assert first.encoded.shape == (2, 10, 32)


def test_prediction_depends_on_where_the_visible_tokens_are(network):
    patches = patches_of(network)
    visible, masked = split(2, 40, 30)
    one = network.predict(patches, visible, masked).reconstruction
    other = network.predict(patches.flip(1), 39 - visible, masked).reconstruction
    assert not torch.allclose(one, other)


def test_a_decoder_of_another_width_works():
    network = MaeAst(small_config(decoder_dim=24, decoder_heads=3)).eval()
    visible, masked = split(2, 40, 30)
    assert network.predict(patches_of(network), visible, masked).reconstruction.shape == (2, 30, 256)


def test_a_decoder_of_cross_attention_equals_torchs():
    """Each masked place by itself looks at what the encoder made of the visible tokens."""
    torch.manual_seed(0)
    shape = {"decoder_dim": 24, "decoder_heads": 3, "decoder_depth": 1, "decoder_ffn_dim": 48}
    network = MaeAst(small_config(decoder_attention="cross", **shape)).eval()
    theirs = nn.MultiheadAttention(24, 3, batch_first=True)
    block = network.decoder.blocks[0]
    block.attention.q.load_state_dict({"weight": theirs.in_proj_weight[:24], "bias": theirs.in_proj_bias[:24]})
    block.attention.kv.load_state_dict({"weight": theirs.in_proj_weight[24:], "bias": theirs.in_proj_bias[24:]})
    block.attention.out.load_state_dict(theirs.out_proj.state_dict())
    patches = patches_of(network)
    visible, masked = split(2, 40, 30)
    encoded = network.encode_visible(patches, visible)
    x = network.decoder.norm(network.decoder_mask + sinusoid(40, 24)[masked])
    memory = network.decoder_embed(encoded)
    x = block.attention_norm(x + theirs(x, memory, memory, need_weights=False)[0])
    x = block.ffn_norm(x + block.fc2(nn.functional.gelu(block.fc1(x))))
    decoded = network.decode(encoded, visible, masked, 40)
    torch.testing.assert_close(decoded, x, atol=1e-5, rtol=1e-4)
    some = network.decode(encoded, visible, masked[:, 5:9], 40)
    torch.testing.assert_close(some, decoded[:, 5:9], atol=1e-5, rtol=1e-4)
    assert network.predict(patches, visible, masked).reconstruction.shape == (2, 30, 256)


def test_cross_attention_never_looks_at_padding():
    network = MaeAst(small_config(decoder_attention="cross")).eval()
    patches, (visible, masked) = patches_of(network, batch=1), split(1, 40, 30)
    padding = torch.zeros(1, 40, dtype=torch.bool).scatter(1, visible[:, 7:], True)
    whole = network.predict(patches, visible, masked, padding)
    alone = network.predict(patches, visible[:, :7], masked)
    torch.testing.assert_close(whole.reconstruction, alone.reconstruction, atol=1e-5, rtol=1e-4)


def test_the_decoder_may_be_given_some_of_the_masked_tokens(network):
    """As if the others were not there: they are no choice of its attention."""
    patches = patches_of(network)
    visible, masked = split(2, 40, 30)
    encoded = network.encode_visible(patches, visible)
    some = network.decode(encoded, visible, masked[:, :10], 40)
    absent = torch.zeros(2, 40, dtype=torch.bool).scatter(1, masked[:, 10:], True)
    expected = network.decode(encoded, visible, masked, 40, absent)[:, :10]
    torch.testing.assert_close(some, expected, atol=1e-5, rtol=1e-4)


def test_mask_tokens_hide_the_masked_patches(network):
    patches = patches_of(network)
    _, masked = split(2, 40, 30)
    changed = patches.scatter(1, masked[..., None].expand(-1, -1, 256), 7.0)
    encoded = network.encode_with_mask_tokens(patches, masked)
    assert encoded.shape == (2, 40, 32)
    assert torch.equal(encoded, network.encode_with_mask_tokens(changed, masked))


def test_activation_checkpointing_changes_no_gradient():
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = MaeAst(small_config(checkpoint_activations=recompute, layerdrop=0.0)).train()
        patches = patches_of(network)
        visible, masked = split(2, 40, 30)
        torch.manual_seed(1)  # the same dropout, which the recomputation has to repeat
        prediction = network.predict(patches, visible, masked)
        (prediction.reconstruction - prediction.targets).square().mean().backward()
        network.features(patches)[-1].square().mean().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    plain, recomputed = gradients
    assert plain.keys() == recomputed.keys()
    assert len(plain) > 50
    for name, value in plain.items():
        torch.testing.assert_close(recomputed[name], value, atol=1e-6, rtol=1e-4, msg=name)


def test_gradients_reach_every_encoder_weight_in_train_mode(network):
    network.train().features(patches_of(network))[-1].square().sum().backward()
    for module in (network.patch_embed, network.encoder):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all()
            # a bias on the keys shifts all scores of a query alike: no gradient but rounding
            assert (parameter.grad != 0).any(), name


def test_dropout_acts_in_train_mode_only(network):
    patches = patches_of(network)
    assert torch.equal(network.features(patches)[-1], network.features(patches)[-1])
    network.train()
    assert not torch.equal(network.features(patches)[-1], network.features(patches)[-1])


def test_a_prediction_equals_the_plain_steps(network):
    """The encoder on the visible tokens at their own places, the decoder on all, one mask vector in the gaps."""
    patches = patches_of(network, batch=1)
    visible, masked = split(1, 40, 30)
    tokens = network.patch_embed(patches) + sinusoid(40, 32)
    encoded = network.encoder(tokens[:, visible[0]])
    full = network.decoder_mask.repeat(1, 40, 1)
    for place, index in enumerate(visible[0].tolist()):
        full[0, index] = encoded[0, place]
    decoded = network.decoder(full + sinusoid(40, 32))[:, masked[0]]
    prediction = network.predict(patches, visible, masked)
    torch.testing.assert_close(prediction.reconstruction, network.reconstruction_head(decoded))
    torch.testing.assert_close(prediction.classification, network.classification_head(decoded))
    assert torch.equal(prediction.targets, patches[:, masked[0]])


class CountOps(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_no_loop_over_the_batch(network):
    counts = []
    for batch in (2, 16):
        visible, masked = split(batch, 40, 30)
        patches = patches_of(network, batch)
        padding = torch.zeros(batch, 40, dtype=torch.bool)
        with CountOps() as mode, torch.no_grad():
            network.features(patches, padding)
            network.predict(patches, visible, masked)
        counts.append(mode.count)
    assert counts[0] == counts[1]


def test_bf16_autocast_stays_close(network):
    patches = patches_of(network)
    exact = network.features(patches)[-1]
    with torch.autocast("cpu", torch.bfloat16):
        rough = network.features(patches)[-1]
    assert nn.functional.cosine_similarity(exact, rough.float(), dim=-1).min() > 0.999


def test_without_positions_order_does_not_matter():
    network = MaeAst(small_config(positions="none")).eval()
    patches = patches_of(network)
    one, other = network.features(patches)[-1], network.features(patches.flip(1))[-1]
    torch.testing.assert_close(one, other.flip(1), atol=1e-5, rtol=1e-4)


def test_more_tokens_than_stored_positions(network):
    short = network.encoder_positions(torch.zeros(1, 10, 32))
    long = network.encoder_positions(torch.zeros(1, 5000, 32))
    assert torch.equal(long[:, :10], short)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"patch_mels": 10}, "patch_mels 10 does not divide num_mel_bins 128"),
        ({"num_heads": 5}, "num_heads 5 does not divide embed_dim 768"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"dropout": 1.0}, "dropout is a probability"),
        ({"positions": "learned"}, "positions must be"),
        ({"decoder_depth": -1}, "decoder_depth must be at least 0, got -1"),
        ({"decoder_attention": "none"}, "decoder_attention must be self or cross, got 'none'"),
        (
            {"decoder_attention": "cross", "decoder_depth": 0},
            "decoder_attention cross and decoder_depth 0 do not go together",
        ),
    ],
)
def test_impossible_shapes_are_refused_by_name(setting, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**setting)


def test_unknown_presets_are_answered_with_the_known():
    with pytest.raises(ValueError, match="tiny, small, base, base6, large"):
        preset("huge")


@pytest.mark.gpu
def test_gpu_in_bf16_stays_close(network):
    patches = patches_of(network)
    cpu = network.features(patches)[-1]
    with torch.autocast("cuda", torch.bfloat16):
        gpu = network.cuda().features(patches.cuda())[-1].float().cpu()
    assert nn.functional.cosine_similarity(cpu, gpu, dim=-1).min() > 0.999


@pytest.mark.gpu
def test_gpu_equals_cpu(network):
    patches = patches_of(network)
    cpu = network.features(patches)[-1]
    gpu = network.cuda().features(patches.cuda())[-1].cpu()
    assert (cpu - gpu).abs().max() <= 1e-4
