import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maeast_upstream import Encoder, Readout, batching, load_model
from maeast_upstream.checkpoint import Card
from maeast_upstream.config import EncoderConfig
from maeast_upstream.model import patchify, preset
from maeast_upstream.time_grid import TimeGrid, window_ranges, window_starts


def noise(samples, seed=0):
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def own(encoded, row):
    return [state[row, : encoded.lengths[row]] for state in encoded.hidden_states]


@pytest.mark.parametrize(("tokens", "hop_ms"), [("patch", None), ("patch", 40.0), ("frame", None)])
def test_a_clip_is_the_same_alone_in_any_batch_and_in_any_order(make_encoder, tokens, hop_ms):
    encoder = make_encoder(tokens)
    lengths = [
        1,
        399,
        400,
        1519,
        1520,
        2799,
        2800,
        5360,
        16000,
        16010,
        24000,
        48000,
        47990,
        160000,
    ]
    batch = [noise(length, length) for length in lengths]
    together = encoder.encode(batch, hop_ms=hop_ms)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = encoder.encode([batch[i] for i in order], hop_ms=hop_ms)
    for row, clip in enumerate(batch):
        alone = encoder.encode([clip], hop_ms=hop_ms)
        assert alone.lengths[0] == together.lengths[row]
        assert torch.equal(alone.times_ms[0], together.times_ms[row, : alone.lengths[0]])
        for one, two, three in zip(
            own(alone, 0),
            own(together, row),
            own(shuffled, order.index(row)),
            strict=True,
        ):
            assert (one - two).abs().max() <= 1e-5
            assert (one - three).abs().max() <= 1e-5
    for row, state in enumerate(together.hidden_states[0]):
        assert (state[together.lengths[row] :] == 0).all()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9000), min_size=1, max_size=5), st.booleans())
def test_any_lengths_agree_with_lone_clips(lengths, fine):
    torch.manual_seed(0)
    from small import small_config

    encoder = Encoder(EncoderConfig(model=small_config(depth=1))).eval().requires_grad_(False)
    hop_ms = 40.0 if fine else None
    batch = [noise(length, length) for length in lengths]
    together = encoder.encode(batch, hop_ms=hop_ms)
    for row, clip in enumerate(batch):
        alone = encoder.encode([clip], hop_ms=hop_ms)
        assert (own(alone, 0)[0] - own(together, row)[0]).abs().max() <= 1e-5


def test_bf16_agrees_alone_and_in_a_batch(make_encoder):
    encoder = make_encoder(precision="bf16")
    batch = [noise(length, length) for length in (8000, 16000, 15000, 48000)]
    together = encoder.encode(batch)
    for row, clip in enumerate(batch):
        one, other = own(encoder.encode([clip]), 0)[-1], own(together, row)[-1]
        assert torch.nn.functional.cosine_similarity(one, other, dim=-1).min() >= 0.9999


def test_padded_rows_equal_a_list(make_encoder, clips):
    encoder = make_encoder()
    lengths = torch.tensor([len(clip) for clip in clips])
    padded = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=torch.nan)
    one, other = encoder.encode(clips), encoder.encode(padded, lengths)
    assert torch.equal(one.hidden_states[-1], other.hidden_states[-1])


def test_the_model_tells_its_rates(make_encoder, tokens):
    encoder = make_encoder(tokens)
    assert (encoder.sample_rate, encoder.num_layers, encoder.embed_dim) == (
        16000,
        3,
        32,
    )
    assert encoder.hop_samples == {"patch": 2560, "frame": 320}[tokens]


@pytest.mark.parametrize(
    ("tokens", "hop_ms", "first", "hop"),
    [
        ("patch", None, 87.5, 160.0),
        ("patch", 40.0, 7.5, 40.0),
        ("frame", None, 17.5, 20.0),
    ],
)
def test_times_are_the_centres_of_what_a_step_saw(make_encoder, tokens, hop_ms, first, hop):
    times = make_encoder(tokens).encode([noise(48000)], layers=[1], hop_ms=hop_ms).times_ms[0]
    assert torch.equal(times, first + hop * torch.arange(len(times), dtype=torch.float64))


def test_times_do_not_drift_over_an_hour():
    times = TimeGrid(16, 4, 1280).times_ms(3600 * 16000)
    assert times[-1].item() == 7.5 + 40 * (len(times) - 1)


@pytest.mark.parametrize("samples", [1, 100, 1399])
def test_a_padded_step_is_centred_inside_its_clip(make_encoder, samples):
    encoder = make_encoder()
    assert encoder.encode([noise(samples)]).times_ms.tolist() == [[samples / 32]]
    assert encoder.encode([noise(samples)], hop_ms=40).times_ms.tolist() == [[min(7.5, samples / 32)]]


def test_the_native_grid_is_every_fourth_step_of_the_fine_one(make_encoder):
    encoder = make_encoder()
    clip = noise(30000)
    native, fine = encoder.encode([clip]), encoder.encode([clip], hop_ms=40)
    assert torch.equal(fine.times_ms[0, 2::4][: native.lengths[0]], native.times_ms[0])
    difference = fine.hidden_states[-1][0, 2::4][: native.lengths[0]] - native.hidden_states[-1][0]
    assert difference.abs().max() <= 1e-5


def test_only_kept_layers_are_returned(make_encoder):
    encoder = make_encoder()
    every = encoder.encode([noise(16000)])
    some = encoder.encode([noise(16000)], layers=[3, 2])
    assert len(every.hidden_states) == 3
    assert torch.equal(some.hidden_states[0], every.hidden_states[1])
    assert torch.equal(some.hidden_states[1], every.hidden_states[2])


def test_mel_patches_are_concatenated_or_averaged(make_encoder):
    encoder = make_encoder()
    concat = encoder.encode([noise(16000)]).hidden_states[-1]
    mean = encoder.encode([noise(16000)], mel="mean").hidden_states[-1]
    assert concat.shape == (1, 6, 256)
    assert (concat.unflatten(-1, (8, 32)).mean(-2) - mean).abs().max() <= 1e-6


@pytest.mark.parametrize(("tokens", "hop_ms"), [("patch", None), ("patch", 40.0), ("frame", None)])
def test_long_audio_goes_in_windows_as_defined(make_encoder, tokens, hop_ms):
    encoder = make_encoder(tokens, max_seconds=3.0, window_seconds=2.0)
    clip = noise(16000 * 7 + 777)
    actual = encoder.encode([noise(16000), clip], hop_ms=hop_ms).hidden_states[-1][1]
    config = encoder.config.model
    passes, left = (4, 1280) if hop_ms else (1, 0)
    fbank = encoder.fbank(torch.nn.functional.pad(clip, (left, 0))[None])
    frames_of_2_s = 1 + (32000 - 400) // 160
    length = frames_of_2_s // config.patch_frames // 2 * 2
    for shift in range(passes):
        grid = fbank[:, 4 * shift :]
        steps = grid.shape[1] // config.patch_frames
        starts = window_starts(steps, length)
        for start, (first, last) in zip(starts, window_ranges(starts, steps, length), strict=True):
            cut = grid[:, start * config.patch_frames : (start + length) * config.patch_frames]
            patches = patchify((cut + 6.0) / 4.0 * 0.5, config)
            with torch.no_grad():
                expected = encoder.network.features(patches)[-1].reshape(length, -1)
            taken = actual[shift::passes][first:last]
            assert (taken - expected[first - start : last - start]).abs().max() <= 1e-5


def test_up_to_max_seconds_it_is_one_piece(make_encoder):
    clip = noise(16000 * 3)
    one_piece = make_encoder().encode([clip]).hidden_states[-1]
    limit = make_encoder(max_seconds=3.0, window_seconds=2.0).encode([clip]).hidden_states[-1]
    windows = make_encoder(max_seconds=2.99, window_seconds=2.0).encode([clip]).hidden_states[-1]
    assert torch.equal(one_piece, limit)
    assert not torch.allclose(one_piece, windows)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_reach_every_encoder_parameter_and_the_waveforms(make_encoder, training):
    encoder = make_encoder().requires_grad_(True).train(training)
    clips = [noise(16000).requires_grad_(), noise(4000)]
    states = encoder.encode(clips).hidden_states
    sum(state.square().mean() for state in states).backward()
    parts = (encoder.network.patch_embed, encoder.network.encoder)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for part in parts for p in part.parameters())
    assert clips[0].grad.abs().sum() > 0


@pytest.mark.parametrize("training", [True, False])
def test_torchs_grad_mode_decides_whether_a_graph_is_recorded(make_encoder, training):
    encoder = make_encoder().requires_grad_(True).train(training)
    assert encoder.embed([noise(16000)]).requires_grad
    with torch.no_grad():
        assert not encoder.embed([noise(16000)]).requires_grad


def test_a_loaded_model_records_nothing_until_its_weights_are_unfrozen():
    encoder = load_model()
    assert not encoder.training
    assert not encoder.embed([noise(16000)]).requires_grad
    assert encoder.requires_grad_(True).embed([noise(16000)]).requires_grad


def test_a_frozen_encoder_passes_gradients_to_waveforms(make_encoder):
    clips = [noise(16000).requires_grad_(), noise(4000)]
    make_encoder().embed(clips).sum().backward()
    assert clips[0].grad.abs().sum() > 0


def test_rows_past_a_clips_own_steps_are_zero_or_repeat_its_last_step(make_encoder):
    encoder = make_encoder()
    clips = [noise(16000), noise(4000)]
    plain = encoder.encode(clips).hidden_states[-1]
    zero = encoder.encode(clips, steps=9).hidden_states[-1]
    repeated = encoder.encode(clips, steps=9, past="repeat").hidden_states[-1]
    assert torch.equal(zero[:, :6], plain)
    assert (zero[:, 6:] == 0).all()
    for row, length in enumerate(encoder.encode(clips).lengths):
        assert torch.equal(repeated[row, :length], plain[row, :length])
        assert torch.equal(repeated[row, length:], plain[row, length - 1].expand(9 - length, -1))


def test_a_call_is_embed_and_hooks_see_it(make_encoder):
    encoder = make_encoder()
    seen = []
    encoder.register_forward_hook(lambda module, given, result: seen.append(result))
    clips, readout = [noise(16000), noise(4000)], Readout(layer=2, pool="mean_max")
    vectors = encoder(clips, readout=readout)
    assert torch.equal(vectors, encoder.embed(clips, readout=readout))
    assert seen[0] is vectors
    assert len(seen) == 1


def test_torch_compile_takes_an_encoder(make_encoder):
    encoder = make_encoder()
    compiled = torch.compile(encoder, backend="eager")
    clips = [noise(16000), noise(4000)]
    torch.testing.assert_close(compiled(clips), encoder.embed(clips), atol=1e-5, rtol=0)


def test_distributed_data_parallel_takes_an_encoder_and_hands_back_its_gradients(make_encoder):
    encoder = make_encoder().requires_grad_(True).train()
    clips = [noise(16000), noise(4000)]
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(encoder, find_unused_parameters=True)
        parallel(clips).square().sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert encoder.network.patch_embed.weight.grad.abs().sum() > 0


def test_embed_pools_each_clip_over_its_own_steps(make_encoder):
    encoder = make_encoder()
    clips = [noise(16000), noise(48000)]
    vectors = encoder.embed(clips, readout=Readout(layer=2, pool="mean_std"))
    for clip, vector in zip(clips, vectors, strict=True):
        steps = encoder.encode([clip], layers=[2]).hidden_states[0][0]
        expected = torch.cat([steps.mean(0), steps.std(0, correction=0)])
        assert (vector - expected).abs().max() <= 1e-5
    assert encoder.embed(clips, readout=Readout(layer="all", mel="mean", pool="mean_max")).shape == (2, 2 * 3 * 32)
    assert encoder.embed(clips, readout=Readout(layer="mean")).shape == (2, 256)


def test_many_clips_are_embedded_batch_by_batch_in_their_order(make_encoder, monkeypatch):
    encoder = make_encoder()
    clips = [noise(length, length) for length in (4000, 16000, 9000, 48000, 700)]
    readouts = [Readout(layer=1), Readout(layer="all", mel="mean", pool="mean_std")]
    monkeypatch.setitem(batching.BATCH_TOKENS, "cpu", 100)
    limits = encoder.batch_limits(clips)
    assert len(list(batching.plan_batches([len(clip) for clip in clips], encoder.grid(None), limits))) > 1
    for vectors, readout in zip(encoder.embed_readouts(clips, readouts), readouts, strict=True):
        for vector, clip in zip(vectors, clips, strict=True):
            torch.testing.assert_close(vector, encoder.embed([clip], readout=readout)[0], atol=1e-5, rtol=0)


@given(st.lists(st.integers(1, 100_000), max_size=30), st.booleans())
def test_a_plan_holds_every_clip_once_longest_first_within_its_limits(samples, packed):
    grid = TimeGrid(16, 4, 1280)
    limits = batching.BatchLimits(steps=40, packed=packed, whole_samples=90_000)
    plan = list(batching.plan_batches(samples, grid, limits))
    assert sorted(clip for batch in plan for clip in batch) == list(range(len(samples)))
    lengths = [samples[clip] for batch in plan for clip in batch]
    assert lengths == sorted(lengths, reverse=True)
    for batch in plan:
        steps = [grid.steps(samples[clip]) // 4 + 1 for clip in batch]
        area = sum(steps) if packed else len(steps) * steps[0]
        if len(batch) > 1:
            assert area <= 40
            assert sum(steps) >= 0.9 * area
            assert samples[batch[0]] <= 90_000


@pytest.mark.parametrize("layers", [2, np.int64(2), [2], np.array([2]), torch.tensor(2), {2}, iter([2])])
def test_a_layer_may_be_given_alone_and_as_any_whole_number(make_encoder, layers):
    encoder = make_encoder()
    (state,) = encoder.encode([noise(16000)], layers=layers).hidden_states
    assert torch.equal(state, encoder.encode([noise(16000)]).hidden_states[1])


@pytest.mark.parametrize(
    "layers", [0, -1, 4, True, [True], 2.0, "2", ["2"], [], [[2]], b"2", {"a": 1}, list(range(9999))]
)
def test_what_is_no_layer_is_refused_in_one_line(make_encoder, layers):
    with pytest.raises(ValueError, match=r"layers are counted from 1 to 3, got .{1,80}$"):
        make_encoder().encode([noise(16000)], layers=layers)


def test_a_readout_that_is_none_is_refused_with_an_example(make_encoder):
    for readout in ("last", 6, {"layer": 6}):
        with pytest.raises(ValueError, match=r"expected a Readout, such as Readout\(layer='last'\), or .*, got"):
            make_encoder().embed([noise(1000)], readout=readout)


def test_steps_that_are_no_whole_number_and_a_readout_without_its_list_are_one_line(make_encoder):
    for steps in ("9", 9.5, True):
        with pytest.raises(ValueError, match="steps must be a whole number, got"):
            make_encoder().encode([noise(1000)], steps=steps)
    with pytest.raises(ValueError, match="or for `read` a list of them, got Readout"):
        make_encoder().read([noise(1000)], readouts=Readout())


def test_encoded_shows_shapes(make_encoder):
    encoded = make_encoder().encode([noise(16000), noise(4000)], layers=[1, 2])
    assert repr(encoded) == "Encoded(hidden_states=[(2, 6, 256), (2, 6, 256)], lengths=(2,), times_ms=(2, 6))"


def test_wrong_options_are_answered_with_the_right_ones(make_encoder):
    encoder = make_encoder()
    clip = [noise(1000)]
    with pytest.raises(ValueError, match="counted from 1 to 3"):
        encoder.encode(clip, layers=[0])
    with pytest.raises(ValueError, match="160 or 40 ms"):
        encoder.encode(clip, hop_ms=50)
    with pytest.raises(ValueError, match="20 ms apart"):
        make_encoder("frame").encode(clip, hop_ms=40)
    with pytest.raises(ValueError, match="concat, mean"):
        encoder.encode(clip, mel="sum")
    with pytest.raises(ValueError, match="fp32, bf16, fp16"):
        make_encoder(precision="fp8")
    with pytest.raises(ValueError, match="steps must be at least 6"):
        encoder.encode([noise(16000)], steps=5)
    with pytest.raises(ValueError, match="zero, repeat"):
        encoder.encode(clip, past="last")
    with pytest.raises(ValueError, match="max_seconds"):
        make_encoder(max_seconds=5.0)


def test_the_bundled_checkpoint_loads_and_knows_more_than_chance(clips):
    encoder = load_model()
    assert encoder.config.model == preset("tiny", dropout=0.0, attention_dropout=0.0, input_dropout=0.0, layerdrop=0.0)
    assert encoder.embed(clips).isfinite().all()


def test_saved_and_loaded_again_it_is_the_same(make_encoder, tmp_path):
    encoder = make_encoder()
    encoder.save_pretrained(tmp_path / "saved")
    again = Encoder.from_pretrained(tmp_path / "saved")
    clip = [noise(16000)]
    assert torch.equal(encoder.encode(clip).hidden_states[-1], again.encode(clip).hidden_states[-1])


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with one repository in a folder, in place of the real one."""
    import huggingface_hub

    class Api:
        def create_repo(self, repo_id, **options):
            assert repo_id == "me/model"

        def file_exists(self, repo_id, name, *, revision):
            return (tmp_path / "hub" / name).exists()

        def hf_hub_download(self, repo_id, name, *, revision):
            return str(tmp_path / "hub" / name)

        def upload_folder(self, *, repo_id, folder_path, revision, ignore_patterns, delete_patterns):
            (tmp_path / "hub").mkdir(exist_ok=True)
            for path in folder_path.iterdir():
                if path.name not in (ignore_patterns or []):
                    (tmp_path / "hub" / path.name).write_bytes(path.read_bytes())
            return "commit"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return tmp_path / "hub"


def test_push_to_hub_uploads_weights_settings_and_card(make_encoder, hub):
    assert make_encoder().push_to_hub("me/model", card=Card(license="mit")) == "commit"
    assert sorted(path.name for path in hub.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    card = (hub / "README.md").read_text()
    assert "license: mit" in card
    assert 'load_model("me/model")' in card


def test_push_to_hub_replaces_a_card_unless_it_was_edited(make_encoder, hub, caplog):
    make_encoder().push_to_hub("me/model")
    make_encoder().push_to_hub("me/model", card=Card(license="mit"))
    assert "license: mit" in (hub / "README.md").read_text()
    assert not caplog.records
    (hub / "README.md").write_text("# mine")
    (hub / "config.json").unlink()
    make_encoder().push_to_hub("me/model", card=Card(license="cc0-1.0"))
    assert (hub / "README.md").read_text() == "# mine"
    assert (hub / "config.json").exists()
    assert "me/model: its README.md was edited" in caplog.text


@pytest.mark.parametrize(("tokens", "hop_ms"), [("patch", None), ("patch", 40.0), ("frame", None)])
def test_clips_that_are_joined_for_the_front_end_give_the_patches_of_each_alone(make_encoder, tokens, hop_ms):
    encoder = make_encoder(tokens)
    grid = encoder.grid(hop_ms)
    lengths = [1, 399, 400, 2799, 2800, 5360, 5361, 16_000, 40_079, 40_080, 48_000]
    clips = [noise(length, length).requires_grad_() for length in lengths]
    joined, alone = encoder._joined_patches(clips, grid), encoder._patches_by_clip(clips, grid)
    frames = torch.tensor([grid.frames(len(clip)) for clip in clips])
    for shift in range(grid.passes):
        steps = ((frames - shift * grid.hop) // grid.patch_frames).clamp(min=0)
        one, other = joined(shift, steps), alone(shift, steps)
        assert one.shape == (1, int(steps.sum()) * encoder.config.model.mel_patches, 256)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
        gradients = (torch.autograd.grad(patches.square().sum(), clips, retain_graph=True) for patches in (one, other))
        for first, second in zip(*gradients, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3 * float(second.abs().max()))


@pytest.mark.parametrize("joined", [False, True])
def test_int16_samples_give_the_bits_of_their_floats(make_encoder, monkeypatch, joined):
    encoder = make_encoder()
    if joined:
        monkeypatch.setattr(encoder, "_patches_by_clip", encoder._joined_patches)
    whole = [(32768 * noise(length, length)).to(torch.int16) for length in (16_000, 9_000, 40_000, 700)]
    floats, readouts = [clip.float() / 32768 for clip in whole], [Readout(layer="last")]
    (expected,) = encoder.embed_readouts(floats, readouts)
    for clips in (whole, [*whole[:2], *floats[2:]]):
        assert torch.equal(encoder.embed_readouts(clips, readouts)[0], expected)
    encoder.max_seconds, encoder.window_steps = 1.0, 4
    assert torch.equal(encoder.embed_readouts(whole, readouts)[0], encoder.embed_readouts(floats, readouts)[0])


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99999), ("bf16", 0.999), ("fp16", 0.999)])
def test_gpu_agrees_with_cpu(make_encoder, clips, precision, least):
    cpu = make_encoder().encode(clips).hidden_states[-1]
    gpu = make_encoder(precision=precision).cuda().encode(clips).hidden_states[-1].cpu()
    assert torch.nn.functional.cosine_similarity(cpu.flatten(), gpu.flatten(), dim=0) > least


@pytest.mark.gpu
def test_nobody_waits_for_the_gpu_until_the_features_are_read(make_encoder, clips):
    encoder = make_encoder(precision="bf16").cuda()
    expected = encoder.encode(clips).hidden_states[-1]
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = encoder.encode(clips).hidden_states[-1]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found, expected)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("bf16", 0.1)])
def test_on_a_gpu_a_clip_is_the_same_alone_and_packed(make_encoder, clips, precision, bound):
    encoder = make_encoder(precision=precision).cuda()
    together = encoder.encode(clips)
    for row, clip in enumerate(clips):
        for one, other in zip(own(encoder.encode([clip]), 0), own(together, row), strict=True):
            assert (one - other).abs().max() <= bound
