"""int8 products: each layer stays near float32, a clip is the same in any batch, and outliers keep their precision."""

import pytest
import torch
import torch.nn.functional as F
from processors import HAS_AMX
from small import small_config

from maeast_upstream import load_model
from maeast_upstream.batching import pad_clips
from maeast_upstream.config import EncoderConfig, Normalisation
from maeast_upstream.encoder import Encoder
from maeast_upstream.engines import attach, int8
from maeast_upstream.engines.graph import trial_batch
from maeast_upstream.model import preset

pytestmark = pytest.mark.slow

WIDER = {"embed_dim": 64, "ffn_dim": 128}


@pytest.fixture
def engine():
    """A function from an encoder to its int8 engine."""
    pytest.importorskip("openvino")
    from maeast_upstream.engines.openvino import OpenVinoTransformer

    return lambda encoder: OpenVinoTransformer(encoder, "int8")


def least_cosines(encoder, transformer, clips):
    """The least cosine of a token with torch's float32, for each layer."""
    layers = range(1, encoder.num_layers + 1)
    with torch.no_grad():
        inputs = [encoder.patches(clip[None]) for clip in clips] + [trial_batch(encoder)[0]]
        pairs = [(encoder.network.features(x, None, layers), transformer(x, None, layers)) for x in inputs]
    return [
        min(float(F.cosine_similarity(exact[n], rounded[n], dim=-1).min()) for exact, rounded in pairs)
        for n in range(len(layers))
    ]


def test_a_weight_is_off_by_half_a_step_of_its_channel_at_most():
    weight = torch.randn(5, 64) * torch.tensor([1e-6, 1.0, 100.0, 0.0, 1.0])[:, None]
    stored, scale = int8.quantized(weight)
    assert stored.dtype == torch.int8
    assert stored.abs().amax(1).tolist() == [127, 127, 127, 0, 127]
    assert ((stored * scale - weight).abs() <= 0.5001 * scale).all()


def test_values_are_rounded_in_groups_of_a_token():
    x = torch.randn(2, 3, 64)
    x[0, 0, 0] = 1e6
    rounded = int8.rounded_groups(x, 32)
    assert (rounded[0, 0, 1:32] == 0).all()
    rounded[0, 0, :32] = x[0, 0, :32]
    assert 0 < (rounded - x).abs().max() <= x[1].abs().max() / 127
    assert torch.equal(int8.rounded_groups(x, 0), x)


@pytest.mark.parametrize(
    ("width", "ffn", "group"), [(768, 3072, 256), (192, 768, 192), (32, 64, 32), (80, 320, 80), (36, 144, 0)]
)
def test_a_group_divides_every_width(width, ffn, group):
    assert int8.group_size(small_config(embed_dim=width, ffn_dim=ffn)) == group


def test_every_layer_of_the_bundled_checkpoint_is_near_float32_on_real_clips(engine, clips, caplog):
    encoder = load_model()
    cosines = least_cosines(encoder, engine(encoder), clips)
    assert min(cosines) >= 0.999
    assert max(cosines) < 0.999999  # it is int8
    assert caplog.messages == []


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(3))
def test_every_layer_of_base_models_with_random_weights_is_near_float32(engine, clips, seed, caplog):
    torch.manual_seed(seed)
    config = EncoderConfig(model=preset("base"), normalisation=Normalisation(mean=-5.2, std=4.4))
    encoder = Encoder(config).eval().requires_grad_(False)
    assert min(least_cosines(encoder, engine(encoder), clips[:4])) >= 0.999
    assert caplog.messages == []


def rounds_inputs():
    """Whether OpenVINO rounds the inputs of products, too: with AMX they are in bf16, and only weights are rounded."""
    return not HAS_AMX


def test_the_engine_rounds_as_the_imitation_does(engine, clips):
    encoder = load_model()
    group = int8.group_size(encoder.config.model) if rounds_inputs() else 0
    patches = encoder.patches(clips[0][None])
    network = encoder.network
    tokens = network.encoder.norm(network.encoder_positions(network.patch_embed(patches)))
    output = engine(encoder)(patches, None, [1, 2, 3])
    exact = network.features(patches, None, [1, 2, 3])
    for number, block in enumerate(network.encoder.blocks[:3]):
        imitation, _ = int8.imitate(block, group)
        tokens = imitation(tokens)
        assert (output[number] - tokens).norm() < 0.8 * (output[number] - exact[number]).norm()


def padded(encoder, clips):
    spectrogram = encoder.fbank(*pad_clips(clips, encoder.grid(None), encoder.device))
    patches = encoder.patchify(spectrogram)
    tokens = torch.tensor([encoder.patches(clip[None]).shape[1] for clip in clips])
    return patches, torch.arange(patches.shape[1]) >= tokens[:, None]


def test_a_clip_has_the_same_bits_whatever_stands_beside_it(engine, clips):
    encoder = load_model()
    transformer = engine(encoder)
    longest = clips[0][:40000]
    batch = [longest, clips[1][:20000], clips[2][:33000], clips[3][:8000]]

    def tokens_of(waveforms):
        patches, padding = padded(encoder, waveforms)
        return [row[~beyond] for row, beyond in zip(*transformer(patches, padding, [12]), padding, strict=True)]

    first = tokens_of(batch)
    loud = tokens_of([*batch[:2], 1e3 * torch.ones(39000)])
    for other in (tokens_of(batch[::-1])[::-1], loud[:2], tokens_of(batch[:1])):
        assert all(torch.equal(one, same) for one, same in zip(first, other, strict=False))


def test_a_clip_that_is_padded_further_differs_by_the_rounding_of_a_step(engine, clips):
    encoder = load_model()
    transformer = engine(encoder)
    patches, padding = padded(encoder, [clips[1][:20000]])
    tokens = patches.shape[1]
    (short,) = transformer(patches, padding, [12])
    (long,) = transformer(F.pad(patches, (0, 0, 0, 64)), F.pad(padding, (0, 64), value=True), [12])
    assert F.cosine_similarity(short, long[:, :tokens], dim=-1).min() >= 0.9995


def with_large_activations(block):
    """Values of the feed-forward network share a scale with one that is 10,000 times as large and without effect."""
    block.fc1.weight.mul_(20)
    block.fc2.weight.mul_(20)
    block.fc1.bias[:: int8.GROUP_STEP] = 1e4
    block.fc2.weight[:, :: int8.GROUP_STEP] = 0


def with_large_weights(block):
    """The weights of each channel share a scale with one that is large, whose input is small."""
    block.attention_norm.weight[0] = block.attention_norm.bias[0] = 0
    block.fc1.weight.mul_(20)
    block.fc2.weight.mul_(20)
    block.fc1.weight[:, 0] = 1e3


@pytest.mark.parametrize("outliers", [with_large_activations, with_large_weights])
def test_a_layer_with_outliers_keeps_a_higher_precision(make_encoder, clips, caplog, monkeypatch, outliers):
    pytest.importorskip("openvino")
    encoder = make_encoder(shape=WIDER)
    outliers(encoder.network.encoder.blocks[1])
    layers = [1, 2, 3]
    assert attach(encoder, "openvino", "int8", layers).precision == "int8"
    assert caplog.messages == [
        "int8 would change the outputs of layers [2] too much: they keep a higher precision",
    ]
    assert min(least_cosines(encoder, encoder.runtime.transformer, clips[:3])) >= 0.999
    assert {name.split(".")[1] for name in int8.int8_weights(encoder)} == {"0", "2"}
    caplog.clear()
    if outliers is with_large_activations and not rounds_inputs():
        return  # the layer is right without being kept from int8
    monkeypatch.setattr(int8, "MIN_COSINE", -1.0)
    assert attach(encoder, "openvino", "int8", layers).engine == "torch"
    assert "engine openvino failed, torch replaces it: its vectors' cosine with torch's is" in caplog.text


def test_the_layers_are_chosen_alike_on_any_number_of_threads(make_encoder):
    encoder = make_encoder(shape=WIDER)
    with_large_activations(encoder.network.encoder.blocks[1])
    threads, chosen = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            chosen.append(list(int8.int8_weights(encoder)))
    finally:
        torch.set_num_threads(threads)
    assert chosen[0] == chosen[1]


def test_widths_that_no_group_divides_still_work(make_encoder, clips):
    pytest.importorskip("openvino")
    encoder = make_encoder(shape={"embed_dim": 36, "ffn_dim": 72})
    assert attach(encoder, "openvino", "int8").engine == "openvino"
    assert min(least_cosines(encoder, encoder.runtime.transformer, clips[:2])) >= 0.999


def test_weights_that_the_model_lacks_are_an_error(make_encoder):
    pytest.importorskip("openvino")
    from maeast_upstream.engines.openvino import convert

    encoder = make_encoder()
    weights = int8.int8_weights(encoder)
    other = make_encoder(shape={"depth": 4})
    with pytest.raises(ValueError, match=r"lacks the weight blocks\.0\.attention\.out"):
        int8.quantize(convert(other.network), encoder.network, weights)
