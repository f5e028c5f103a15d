import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from projections import projection_of, whitening_of

import hear_api
from hear_api.model import running_mean
from maeast_upstream import Readout, checkpoint
from maeast_upstream.audio.reading import read_audio
from maeast_upstream.checkpoint.folder import Loaded
from maeast_upstream.extract.api import embed_files
from maeast_upstream.time_grid import TimeGrid

AUDIO = Path(__file__).parents[1] / "data" / "audio"
MODEL = hear_api.load_model()
FINE_GRID = TimeGrid(16, 4, 1280).averaged()
PATCH_GRID = TimeGrid(16, 16, 0).averaged()
FRAME_GRID = TimeGrid(2, 2, 0).averaged()


@pytest.fixture(scope="module")
def drums():
    return torch.from_numpy(soundfile.read(AUDIO / "long_drums.opus", dtype="float32")[0][:80_000])[None]


@pytest.fixture
def frame_model(make_encoder, tmp_path):
    encoder = make_encoder("frame")
    checkpoint.save_folder(tmp_path / "frame", encoder.network, encoder.config)
    return hear_api.load_model(str(tmp_path / "frame"))


def test_the_sizes_are_whole_numbers_and_those_of_the_embeddings(drums):
    for size in (
        MODEL.sample_rate,
        MODEL.scene_embedding_size,
        MODEL.timestamp_embedding_size,
    ):
        assert type(size) is int
    assert hear_api.get_scene_embeddings(drums, MODEL).shape == (
        1,
        MODEL.scene_embedding_size,
    )
    embeddings, times = hear_api.get_timestamp_embeddings(drums, MODEL)
    assert embeddings.shape == (1, times.shape[1], MODEL.timestamp_embedding_size)
    assert embeddings.dtype == times.dtype == torch.float32


@pytest.mark.slow
def test_a_scene_is_what_maeast_embed_gives():
    path = AUDIO / "long_drums.opus"
    (row,) = embed_files([path], kind="scene")
    scene = hear_api.get_scene_embeddings(torch.from_numpy(read_audio(path))[None], MODEL)
    torch.testing.assert_close(scene[0], torch.as_tensor(row["vector"]), atol=1e-5, rtol=0)


def test_the_readout_in_config_json_is_what_a_user_changes(drums, make_encoder, tmp_path):
    make_encoder().save_pretrained(tmp_path)  # 3 layers, 8 patches of width 32
    before = hear_api.load_model(str(tmp_path))
    assert (before.scene_embedding_size, before.timestamp_embedding_size) == (256, 256)
    config = json.loads((tmp_path / "config.json").read_text())
    config["readout"] = {"layer": "all", "mel": "mean", "pool": "mean_max", "hop_ms": 40.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    after = hear_api.load_model(str(tmp_path))
    assert (after.scene_embedding_size, after.timestamp_embedding_size) == (192, 96)
    scene = hear_api.get_scene_embeddings(drums, after)
    steps = after.encoder.encode(drums, mel="mean", hop_ms=40.0)
    both = torch.cat(steps.hidden_states, dim=2)[0]
    torch.testing.assert_close(scene[0], torch.cat([both.mean(dim=0), both.amax(dim=0)]))


@pytest.mark.slow
def test_in_windows_a_click_moves_the_step_that_it_is_nearest_to(drums):
    """As over a minute, in small: windows of 1.9 s, clicks on both sides of their seams."""
    model = hear_api.load_model()
    whole, times = hear_api.get_timestamp_embeddings(drums, model)
    model.encoder.max_seconds, model.encoder.window_steps = 2.0, 12
    noise = 0.01 * torch.randn(drums.shape, generator=torch.Generator().manual_seed(0))
    windows, same_times = hear_api.get_timestamp_embeddings(drums, model)
    assert torch.equal(times, same_times)
    assert not torch.allclose(whole, windows, atol=1e-3)  # else nothing went in windows
    clicks = torch.arange(4000, noise.shape[1] - 2000, 8000)
    distance, centres = moved(model, noise, clicks)
    off = (centres[None] - clicks[:, None]).abs()
    assert (off.argmin(dim=1) == distance.argmax(dim=1)).sum() >= 0.9 * len(clicks)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 400, 1000, 2799, 2800, 16_000, 77_777])
def test_alone_as_in_a_batch_and_the_same_each_time(drums, samples):
    batch = torch.cat([drums[:, :samples], drums[:, -samples:]])
    for function in (
        hear_api.get_scene_embeddings,
        lambda *both: hear_api.get_timestamp_embeddings(*both)[0],
    ):
        together, again = function(batch, MODEL), function(batch, MODEL)
        assert torch.equal(together, again)
        torch.testing.assert_close(together[1:], function(batch[1:], MODEL), atol=1e-4, rtol=0)


def test_train_mode_and_gradients_change_nothing(drums, frame_model):
    for model in (MODEL, frame_model):
        before = hear_api.get_timestamp_embeddings(drums, model)[0]
        assert model.train() is model
        after = hear_api.get_timestamp_embeddings(drums, model)[0]
        assert torch.equal(before, after)
        assert not after.requires_grad


@given(st.integers(1, 20 * 60 * 16_000), st.sampled_from([20, 40, 160]))
def test_time_steps_reach_to_the_end_and_lie_inside_the_clip(samples, hop_ms):
    grid = {20: FRAME_GRID, 40: FINE_GRID, 160: PATCH_GRID}[hop_ms]
    times = grid.times_ms(samples)
    duration = samples / 16
    first = {20: 17.5, 40: 27.5, 160: 87.5}[hop_ms]
    assert times[0] == (first if first <= duration else duration / 2)
    assert duration - hop_ms < times[-1] <= duration
    assert grid.padding(samples)[1] <= 2800 + 3 * 640
    assert min(grid.padding(samples)) >= 0


@pytest.mark.parametrize("grid", [FRAME_GRID, FINE_GRID, PATCH_GRID])
def test_an_hour_does_not_drift(grid):
    times = grid.times_ms(3600 * 16_000)
    in_samples = times.float().double() * 16  # exact: a power of two
    exact = grid.first_sample + torch.arange(len(times)) * grid.hop_samples
    assert torch.equal(in_samples, exact.double())
    assert 3600 * 16_000 - exact[-1] < grid.hop_samples


def test_a_time_step_at_40_ms_is_the_mean_of_the_four_tokens_that_span_it(drums):
    for samples in (400, 16_000, 80_000):
        embeddings, times = hear_api.get_timestamp_embeddings(drums[:, :samples], MODEL)
        silence = torch.zeros(1, 2560)  # whole hops, so that tokens lie as before
        around = torch.cat([silence, drums[:, :samples], silence], dim=1)
        tokens = MODEL.encoder.read(around, readouts=[MODEL.steps])
        centres = tokens.times_ms[0] - 160
        for embedding, time in zip(embeddings[0], times[0], strict=True):
            if samples >= 440:
                span = (centres - time).abs() < 80
                assert span.sum() == 4
                assert (centres[span].mean() - time).abs() < 1e-6
                expected = tokens.hidden_states[0][0, span].mean(dim=0)
                assert torch.nn.functional.cosine_similarity(embedding, expected, dim=0) > 0.9


def test_the_running_mean_is_that_of_each_stretch():
    tokens = torch.randn(2, 2600, 3)
    expected = tokens.unfold(1, 4, 1).mean(dim=-1)
    torch.testing.assert_close(running_mean(tokens.clone(), 4), expected)
    assert torch.equal(running_mean(tokens, 1), tokens)


@pytest.mark.slow
def test_the_steps_of_the_encoder_are_those_that_are_promised(drums, frame_model):
    for model, grid in ((MODEL, FINE_GRID), (frame_model, FRAME_GRID)):
        assert model.encoder.grid(model.steps.hop_ms).averaged() == grid
    for model in (MODEL, frame_model, hear_api.load_model(hop_ms=160.0)):
        for samples in (*range(1, 6000, 379), 60_001):
            embeddings, times = hear_api.get_timestamp_embeddings(drums[:, :samples], model)
            assert embeddings.shape[1] == times.shape[1]
            assert torch.isfinite(embeddings).all()


def moved(model, audio, clicks):
    """(clicks, T) how far an added click moves each time step, and their centres in samples."""
    before, times = hear_api.get_timestamp_embeddings(audio, model)
    rows = []
    for some in clicks.split(20):
        batch = audio.repeat(len(some), 1)
        batch[range(len(some)), some] += 0.9
        rows.append((hear_api.get_timestamp_embeddings(batch, model)[0] - before).norm(dim=-1))
    return torch.cat(rows), times[0] * 16


@pytest.mark.slow
@pytest.mark.parametrize("hop_ms", [20, 40, 160])
def test_a_click_moves_most_the_step_whose_centre_is_nearest(hop_ms, drums, frame_model):
    """Anywhere in the clip, its ends too; in noise, and (where louder sounds move, too) over drums."""
    model = frame_model if hop_ms == 20 else hear_api.load_model(hop_ms=float(hop_ms))
    noise = 0.01 * torch.randn(1, 32_000, generator=torch.Generator().manual_seed(0))
    for audio, least in ((noise, 95), (drums[:, :16_000], 85)):
        clicks = torch.randint(0, audio.shape[1], (100,), generator=torch.Generator().manual_seed(1))
        distance, centres = moved(model, audio, clicks)
        off = (centres[None] - clicks[:, None]).abs()
        right = off.argmin(dim=1) == distance.argmax(dim=1)
        assert right.sum() >= least


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (torch.zeros(0, 16_000), r"got \(0, 16000\): give at least one clip"),
        (torch.zeros(2, 0), r"got \(2, 0\): give at least one clip and one sample"),
        (
            torch.zeros(16_000),
            r"got 1 dimensions, \(16000,\): give one clip as audio\[None\]",
        ),
        (
            torch.zeros(2, 16_000, 2),
            r"got 3 dimensions, \(2, 16000, 2\): mix it to mono",
        ),
        (
            torch.zeros(2, 16_000, dtype=torch.int16),
            r"got torch.int16: give audio.float\(\) / 32768",
        ),
        (
            torch.zeros(2, 16_000, dtype=torch.float64),
            r"got torch.float64: give audio.float\(\)$",
        ),
        (
            torch.tensor([[0.0] * 800, [float("nan")] * 800]),
            "NaN or infinite samples in clip 1",
        ),
        (torch.tensor([[float("inf")] * 800]), "NaN or infinite samples in clip 0"),
        (torch.tensor([[0.0] * 800, [-1e20] * 800]), r"samples up to 1e\+20 in clip 1"),
        (torch.full((2, 800), 3000.0), "samples up to 3e[+]03 in clip 0, where 1 is full scale: divide by 32768"),
        ([0.0], "got list"),
        (torch.zeros(1, 800).to_sparse(), "got a sparse or nested tensor"),
        (torch.zeros(1, 800, device="meta"), "or one without data"),
    ],
)
def test_audio_of_another_kind_is_refused_in_words(audio, message):
    for function in (hear_api.get_scene_embeddings, hear_api.get_timestamp_embeddings):
        with pytest.raises(ValueError, match=f"expected audio of shape .*{message}"):
            function(audio, MODEL)


def test_the_model_is_in_eval_mode_and_stays_there():
    model = hear_api.load_model()
    for switched in (model, model.train(), model.train().eval()):
        assert not any(module.training for module in switched.modules())


def test_samples_beyond_one_are_taken():
    audio = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0)) * 3
    assert torch.isfinite(hear_api.get_scene_embeddings(audio, MODEL)).all()


@pytest.mark.parametrize("kind", ["text", "other network", "published of another network", "empty folder"])
def test_a_checkpoint_of_another_kind_is_refused_in_words(kind, tmp_path):
    path = tmp_path / "other.pt"
    if kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "empty folder":
        path.mkdir()
    else:
        state = torch.nn.Linear(2, 2).state_dict()
        torch.save(state if kind == "other network" else {"cfg": {"model": {}, "task": {}}, "model": state}, path)
    with pytest.raises(ValueError, match=r"other\.pt") as error:
        hear_api.load_model(str(path))
    assert "\n" not in str(error.value)


def test_options_choose_the_readout():
    model = hear_api.load_model("", layer=3, mel="mean", pool="mean_max", hop_ms=160.0, precision="bf16")
    assert (model.scene_embedding_size, model.timestamp_embedding_size) == (384, 192)
    assert hear_api.get_timestamp_embeddings(torch.zeros(1, 32_000), model)[1][0, :2].tolist() == [87.5, 247.5]
    assert model.encoder.precision == "bf16"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 13}, "layers are counted from 1 to 12"),
        ({"layer": 2.5}, "layer must be a number from 1, last, mean or all, got 2.5"),
        ({"layer": True}, "layer must be a number from 1, last, mean or all, got True"),
        ({"layer": "all"}, "more than 8192"),
        ({"hop_ms": 50.0}, "time steps are 160 or 40 ms apart, got hop_ms 50"),
        ({"pool": "max"}, "pool must be"),
        ({"precision": "int4"}, "precision must be one of"),
        ({"model_file_path": "nowhere.pt"}, "nowhere.pt"),
    ],
)
def test_options_that_there_are_not_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        hear_api.load_model(**options)


def test_a_readout_that_is_too_long_for_scenes_loses_its_second_statistic(make_encoder, tmp_path):
    encoder = make_encoder(shape={"embed_dim": 768, "depth": 1})
    config = encoder.config.from_dict(encoder.config.to_dict() | {"readout": {"pool": "mean_std"}})
    checkpoint.save_state(tmp_path / "wide", Loaded(config, encoder.network.state_dict()).state, config)
    assert hear_api.load_model(str(tmp_path / "wide")).scene_embedding_size == 6144
    with pytest.raises(ValueError, match="embeddings of 12288 numbers, more than 8192"):
        hear_api.load_model(str(tmp_path / "wide"), pool="mean_std")


TWENTY_MINUTES = """
import sys, torch, hear_api
torch.set_num_threads(2)
audio = torch.randn(1, 20 * 60 * 16_000, generator=torch.Generator().manual_seed(0)) * 0.1
model = hear_api.load_model(sys.argv[1])
embeddings, times = hear_api.get_timestamp_embeddings(audio, model)
assert embeddings.shape == (1, 30_000, 6144) and torch.isfinite(embeddings).all(), embeddings.shape
assert hear_api.get_scene_embeddings(audio, model).shape == (1, 6144)
print(int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 2**20)
"""


@pytest.mark.stress
def test_twenty_minutes_of_the_base_model_fit_into_4_gb(tmp_path):
    from reference import write_checkpoint

    command = [
        sys.executable,
        "-c",
        TWENTY_MINUTES,
        str(write_checkpoint(tmp_path / "base.pt")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-2000:]
    print(f"peak {float(done.stdout):.2f} GB")
    assert float(done.stdout) <= 4.0


def test_dims_shorten_scenes_but_no_time_steps(make_encoder, tmp_path, drums):
    encoder = make_encoder()
    encoder.use_projection(projection_of(encoder.config))
    encoder.save_pretrained(tmp_path / "projected")
    model = hear_api.load_model(str(tmp_path / "projected"), dims=6)
    full = hear_api.load_model(str(tmp_path / "projected"), dims="full")
    assert (model.scene_embedding_size, full.scene_embedding_size) == (6, 256)
    assert hear_api.get_scene_embeddings(drums, model).shape == (1, 6)
    steps = [hear_api.get_timestamp_embeddings(drums, each)[0] for each in (model, full)]
    assert torch.equal(*steps)
    with pytest.raises(ValueError, match="was fitted for layer last"):
        hear_api.load_model(str(tmp_path / "projected"), layer=1, dims=6)


def test_scenes_are_whitened_as_the_checkpoint_or_the_option_says_and_time_steps_never(make_encoder, tmp_path, drums):
    encoder = make_encoder()
    encoder.use_projection(whitening_of(encoder.config))
    encoder.config = dataclasses.replace(encoder.config, readout=Readout(whiten=True))
    encoder.save_pretrained(tmp_path / "white")
    models = [hear_api.load_model(str(tmp_path / "white"), **options) for options in ({}, {"whiten": False})]
    white, plain = (hear_api.get_scene_embeddings(drums, model) for model in models)
    assert torch.equal(white, encoder.embed(drums))
    assert torch.equal(plain, encoder.embed(drums, readout=Readout()))
    assert not torch.equal(white, plain)
    assert torch.equal(*(hear_api.get_timestamp_embeddings(drums, model)[0] for model in models))
    assert not hear_api.load_model(str(tmp_path / "white"), layer=1).scene.whiten
