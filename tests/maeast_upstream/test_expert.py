"""The upstream: s3prl's own numbers for lone clips, nobody's but the clip's own in a batch, s3prl's contract."""

import math

import pytest
import torch
import yaml
from reads import Reads

from maeast_upstream import batching, load_model
from maeast_upstream.expert import UpstreamExpert, UpstreamOptions

TOLERANCE = 1e-5
EDGES = [
    400,
    401,
    559,
    800,
    880,
    961,
    1199,
    2560,
    2561,
    2799,
    2800,
    3840,
    5359,
    5360,
    7681,
    7919,
    16000,
    20001,
    48000,
]


def noise(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [0.1 * torch.randn(length, generator=generator) for length in lengths]


def differs(one, other):
    """The greatest difference, relative to numbers above 1."""
    return float(((one - other).abs() / one.abs().clamp(min=1)).max())


@pytest.fixture
def expert(write_published, tokens):
    return UpstreamExpert(write_published(tokens)).eval()


@torch.no_grad()
def states(upstream, clips):
    return upstream(clips)["hidden_states"]


@pytest.mark.s3prl
@pytest.mark.parametrize(
    "clips",
    [noise(16000), noise(48001), noise(30000, 30000, 30000)],
    ids=["1s", "3s", "batch"],
)
def test_every_layer_equals_s3prls_own(write_published, tokens, clips):
    from reference import load_expert

    path = write_published(tokens)
    theirs, ours = (
        states(load_expert(path), clips),
        states(UpstreamExpert(str(path)).eval(), clips),
    )
    assert len(theirs) == len(ours) == 3
    for one, other in zip(theirs, ours, strict=True):
        steps = one.shape[1]
        assert differs(one, other[:, :steps]) <= TOLERANCE
        assert torch.equal(other[:, steps:], other[:, steps - 1 : steps].expand_as(other[:, steps:]))


@pytest.mark.s3prl
def test_in_a_mixed_batch_s3prls_own_numbers_depend_on_batch_mates_and_ours_do_not(
    write_published,
):
    from reference import load_expert

    path = write_published("patch")
    clips = noise(17000, 60000)
    for upstream, changes in (
        (load_expert(path), True),
        (UpstreamExpert(path).eval(), False),
    ):
        alone, mixed = states(upstream, clips[:1])[-1], states(upstream, clips)[-1][:1]
        difference = differs(alone, mixed[:, : alone.shape[1]])
        assert difference > 1e-3 if changes else difference <= TOLERANCE


@pytest.mark.s3prl
@pytest.mark.parametrize("options", [{}, {"mel": "mean"}, {"repeat": 8}])
@pytest.mark.parametrize(
    "selection",
    [{}, {"feature_selection": "last_hidden_state"}, {"layer_selection": 1}],
)
def test_what_the_runners_featurizer_hands_to_the_head_is_the_same_alone_and_in_a_batch(
    write_published, tokens, options, selection
):
    from s3prl.upstream.interfaces import Featurizer

    upstream = UpstreamExpert(write_published(tokens), **options).eval()
    featurizer = Featurizer(upstream, upstream_device="cpu", **selection)
    clips = noise(*EDGES, 130_000)
    with torch.no_grad():
        batch = featurizer(clips, upstream(clips))
        for clip, mixed in zip(clips, batch, strict=True):
            (alone,) = featurizer([clip], upstream([clip]))
            assert (
                alone.shape
                == mixed.shape
                == (
                    round(len(clip) / featurizer.downsample_rate),
                    featurizer.output_dim,
                )
            )
            assert len(alone) == 0 or differs(alone, mixed) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"hop_ms": 40}, {"repeat": 4}])
def test_a_clip_of_any_length_gives_as_many_steps_as_s3prl_counts(write_published, options):
    expert = UpstreamExpert(write_published("patch"), **options).eval()
    grid, repeat, rate = (
        expert.encoder.grid(expert.options.hop_ms),
        expert.options.repeat,
        expert.get_downsample_rates(),
    )
    for samples in range(400, 960_001):
        assert 1 <= grid.steps(samples) * repeat <= math.ceil(samples / rate) + repeat - 1
    for clips in ([clip] for clip in noise(1, 10, *EDGES)):
        assert states(expert, clips)[0].shape[:2] == (
            1,
            math.ceil(len(clips[0]) / rate),
        )


def test_sixty_seconds(write_published, tokens):
    expert = UpstreamExpert(write_published(tokens, encoder_layers=1)).eval()
    rate = expert.get_downsample_rates()
    batch = states(expert, noise(400, 960_000))
    assert batch[0].shape[:2] == (2, math.ceil(960_000 / rate))
    assert torch.equal(batch[0][0], batch[0][0, :1].expand_as(batch[0][0]))


@pytest.mark.parametrize(("tokens", "options", "rate", "width"), [
    ("patch", {}, 2560, 8 * 48),
    ("frame", {}, 320, 48),
    ("patch", {"mel": "mean"}, 2560, 48),
    ("patch", {"hop_ms": 40}, 640, 8 * 48),
    ("patch", {"hop_ms": 40, "mel": "mean", "repeat": 2}, 320, 48),
    ("patch", {"hop_ms": 160.0, "repeat": 8}, 320, 8 * 48),
])  # fmt: skip
def test_the_clock_and_the_width_are_what_the_options_say(write_published, tmp_path, tokens, options, rate, width):
    path = tmp_path / "options.yaml"
    path.write_text(yaml.safe_dump(options))
    expert = UpstreamExpert(ckpt=write_published(tokens), model_config=str(path), refresh=False).eval()
    assert expert.get_downsample_rates("hidden_states") == rate
    output = states(expert, noise(20_000))
    assert output[0].shape == (1, math.ceil(20_000 / rate), width)


def test_forty_milliseconds_are_the_encoders_own(write_published):
    path = write_published("patch")
    (clip,) = noise(30_000)
    expected = load_model(path).encode([clip], hop_ms=40).hidden_states[-1]
    actual = states(UpstreamExpert(path, hop_ms=40).eval(), [clip])[-1]
    assert torch.equal(actual[:, : expected.shape[1]], expected)


def test_repeated_steps_are_the_same_steps(write_published):
    path = write_published("patch")
    clips = noise(30_000, 9_000)
    once, often = (states(UpstreamExpert(path, repeat=n).eval(), clips)[-1] for n in (1, 8))
    assert torch.equal(often, once.repeat_interleave(8, dim=1)[:, : often.shape[1]])


def test_bf16_is_close_and_gives_float32(write_published, tokens):
    path = write_published(tokens)
    one, other = (states(UpstreamExpert(path, precision=p).eval(), noise(30_000))[-1] for p in ("fp32", "bf16"))
    assert other.dtype == torch.float32
    assert not torch.equal(one, other)
    assert torch.nn.functional.cosine_similarity(one, other, dim=-1).min() > 0.999


def test_both_keys_are_there(expert):
    output = expert(noise(16000))
    assert output["last_hidden_state"] is output["hidden_states"][-1]


def test_frozen_features_can_be_used_in_a_graph(expert):
    """They are computed in inference mode, and a weighted sum must still be able to learn its weights."""
    with torch.no_grad():
        features = expert(noise(16000, 5000))["hidden_states"]
    weights = torch.ones(3, requires_grad=True)
    sum(w * f for w, f in zip(weights, features, strict=True)).square().sum().backward()
    assert (weights.grad > 0).all()
    assert not any(feature.requires_grad or feature.is_inference() for feature in features)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_reach_every_parameter(expert, training):
    """In eval mode as well, where torch's grad mode is on: an s3prl upstream is a module like any other."""
    expert.train(training)
    output = expert(noise(16000, 5000, 400))
    sum(state.square().sum() for state in output["hidden_states"]).backward()
    unmoved = [name for name, p in expert.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    # a key bias shifts all of a query's logits alike: its gradient is zero but for rounding
    assert unmoved == []


def test_fine_tuning_moves_the_features_and_not_the_normalisation(expert):
    clips = noise(16000, 9000)
    before = states(expert, clips)[-1]
    normalisation = expert.encoder.config.normalisation
    expert.train()
    optimizer = torch.optim.Adam(expert.parameters(), 1e-3)
    for _ in range(2):
        expert(clips)["last_hidden_state"].square().sum().backward()
        optimizer.step()
    assert expert.encoder.config.normalisation == normalisation
    assert not list(expert.buffers()) or not any(b.requires_grad for b in expert.buffers())
    expert.eval()
    assert differs(before, states(expert, clips)[-1]) > 1e-3


def test_no_layer_is_ever_left_out(write_published):
    expert = UpstreamExpert(write_published("patch", encoder_layerdrop=0.9)).train()
    for seed in range(10):
        torch.manual_seed(seed)
        assert len(expert(noise(8000))["hidden_states"]) == 3


def test_its_state_has_no_tables_and_no_decoder_and_takes_files_that_have(expert, write_published, tokens):
    state = expert.state_dict()
    assert all(name.startswith(("encoder.network.patch_embed.", "encoder.network.encoder.")) for name in state)
    path = write_published(tokens)
    other = UpstreamExpert(path)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    full = {f"encoder.network.{name}": value for name, value in load_model(path).network.state_dict().items()}
    full["encoder.network.encoder_positions.table"] = torch.zeros(7, 48)
    full["enc_sine_pos_embed.pe"] = torch.zeros(1, 7, 48)
    other.load_state_dict(full)
    clips = noise(16000)
    assert torch.equal(states(other.eval(), clips)[-1], states(expert, clips)[-1])
    del full["encoder.network.patch_embed.weight"]
    with pytest.raises(RuntimeError, match="patch_embed"):
        other.load_state_dict(full)


def pseudo_wavs(n, shortest, longest):
    """As s3prl's get_pseudo_wavs makes them: not leaves of the graph, with gradients."""
    torch.manual_seed(0)
    lengths = torch.randint(round(shortest * 16000), round(longest * 16000) + 1, (n,)).tolist()
    return [torch.randn(length, requires_grad=True).to("cpu") for length in lengths]


@pytest.mark.parametrize("sizes", [(2, 1, 3), (1, 0.05, 0.05), (2, 0.05, 0.05), (3, 0.05, 1)])
def test_forward_and_backward_as_s3prl_tests_it(expert, sizes):
    """Its own upstream fails the two in the middle."""
    wavs = pseudo_wavs(*sizes)
    with torch.autograd.set_detect_anomaly(True):
        output = expert.train()(wavs)["hidden_states"]
        sum(state.sum() for state in output).backward()
    assert all(torch.isfinite(p.grad).all() for p in expert.parameters())


def test_waveforms_get_gradients_and_stay_as_they_are(expert):
    wavs = [clip.requires_grad_() for clip in noise(16000, 5000)]
    copies = [wav.detach().clone() for wav in wavs]
    expert.train()(wavs)["last_hidden_state"].square().sum().backward()
    assert all(torch.equal(wav, copy) and wav.grad.abs().sum() > 0 for wav, copy in zip(wavs, copies, strict=True))


def test_eval_calls_repeat_themselves_and_keep_the_number_of_layers(expert):
    clips = noise(20_000, 33_333)
    first = states(expert, clips)
    for _ in range(2):
        assert all(torch.equal(one, other) for one, other in zip(first, states(expert, clips), strict=True))
    assert len(expert.train()(noise(700))["hidden_states"]) == len(first)


def test_no_checkpoint_is_the_bundled_one():
    expert = UpstreamExpert().eval()
    (clip,) = noise(16000)
    assert torch.equal(states(expert, [clip])[-1][:, :6], load_model().encode([clip]).hidden_states[-1])


@pytest.mark.parametrize(("options", "message"), [
    ({"precison": "fp32"}, "unknown key 'precison'"),
    ({"precision": "int8"}, "precision must be one of fp32, bf16, fp16"),
    ({"mel": "sum"}, "mel must be one of concat, mean"),
    ({"hop_ms": 20}, "160 or 40 ms apart, got hop_ms 20"),
    ({"repeat": 3}, "repeat must divide the 2560 samples"),
    ({"repeat": 0}, "repeat must divide"),
    ({"repeat": True}, "repeat must be int"),
    ("hop_ms", "expected a mapping"),
])  # fmt: skip
def test_a_wrong_option_is_named(tmp_path, options, message):
    path = tmp_path / "options.yaml"
    path.write_text(yaml.safe_dump(options))
    with pytest.raises(ValueError, match=message) as caught:
        UpstreamExpert(model_config=path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [None, b"\xff\xfe\xfd", b"a: [", b""],
    ids=["none", "binary", "broken", "empty"],
)
def test_an_options_file_that_is_none(tmp_path, content):
    path = tmp_path / "options.yaml"
    if content is not None:
        path.write_bytes(content)
    if content == b"":
        assert UpstreamOptions.read(path) == UpstreamOptions()
        return
    with pytest.raises(ValueError, match=r"cannot be read as YAML|not YAML \(") as caught:
        UpstreamOptions.read(path)
    assert "\n" not in str(caught.value)


def test_native_is_a_hop():
    assert UpstreamOptions.read({"hop_ms": "native"}).hop_ms is None


@pytest.mark.parametrize(("clips", "message"), [
    ([torch.zeros(0), torch.zeros(5)], "clip 0: expected a"),
    ([torch.zeros(5), torch.zeros(2, 5)], "clip 1: expected a"),
    ([], "at least one clip"),
])  # fmt: skip
def test_what_is_no_clip_is_named(write_published, clips, message):
    with pytest.raises(ValueError, match=message):
        UpstreamExpert(write_published("frame")).eval()(clips)


def test_a_batch_is_one_pass_without_padding_and_with_an_engine_as_many_as_padding_allows(write_published, monkeypatch):
    clips = noise(16000, 100_000, 40_000)
    upstream = UpstreamExpert(write_published("patch"), precision="bf16").eval()
    encoder, grid, samples = upstream.encoder, upstream.encoder.grid(None), [len(clip) for clip in clips]
    alone = [states(upstream, [clip])[-1] for clip in clips]
    layers, seen = encoder._layers, []
    monkeypatch.setattr(
        encoder, "_layers", lambda *given, **more: seen.append(given[0].shape[:2]) or layers(*given, **more)
    )
    packed = states(upstream, clips)[-1]
    assert seen == [(1, 8 * sum(grid.steps(length) for length in samples))]
    monkeypatch.setattr(encoder, "_packs", lambda clips: False)
    assert len(list(batching.plan_batches(samples, grid, encoder.batch_limits(clips)))) == 3
    for batch in (packed, states(upstream, clips)[-1]):
        for one, other in zip(alone, batch, strict=True):
            assert torch.nn.functional.cosine_similarity(one[0], other[: one.shape[1]], dim=-1).min() > 0.999


@pytest.mark.parametrize("trained", [False, True])
def test_a_gpu_is_waited_for_once_a_batch(write_published, trained):
    """The check of the samples waits; neither the passes nor what puts the time steps together reads a number."""
    upstream, clips = UpstreamExpert(write_published("patch")).train(trained), noise(16000, 100_000, 40_000)
    with torch.set_grad_enabled(trained), Reads() as reads:
        loss = sum(state.square().mean() for state in upstream(clips)["hidden_states"])
        if trained:
            loss.backward()
    assert reads.names == ["tolist"]


@pytest.mark.parametrize("options", [{}, {"hop_ms": 40}, {"repeat": 4}])
def test_a_batchs_gradient_is_the_sum_of_its_clips(write_published, options):
    """With steps past a clip's own, one that goes in windows, and one shorter than a token."""
    clips = noise(16_000, 5_000, 400, 90_000, 40_001)
    expert = UpstreamExpert(write_published("patch"), **options).eval()
    expert.encoder.max_seconds, expert.encoder.window_steps = 5.0, 20
    rate = expert.get_downsample_rates()

    def gradients(batches):
        expert.zero_grad()
        for batch in batches:
            ends = [-(-len(clip) // rate) for clip in batch]
            for_all = expert(batch)["hidden_states"]
            sum(state[row, :end].square().sum() for state in for_all for row, end in enumerate(ends)).backward()
        return [parameter.grad.clone() for parameter in expert.parameters()]

    for together, alone in zip(gradients([clips]), gradients([[clip] for clip in clips]), strict=True):
        assert (together - alone).abs().max() <= 1e-4 * alone.abs().max().clamp(min=1)


@pytest.mark.parametrize(("kind", "options"), [("patch", {}), ("frame", {}), ("patch", {"hop_ms": 40})])
def test_features_with_a_graph_are_those_without(write_published, kind, options):
    expert = UpstreamExpert(write_published(kind), **options).eval()
    clips = noise(16_000, 5_000, 400, 40_001)
    recorded = expert(clips)["hidden_states"]
    assert recorded[0].requires_grad
    for one, other in zip(recorded, states(expert, clips), strict=True):
        assert one.shape == other.shape
        assert differs(one.detach(), other) <= TOLERANCE
