"""Long clips whose samples come block by block have the windows, and the numbers, that they have as a whole."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from maeast_upstream import load_model
from maeast_upstream.audio.reading import AudioError, AudioWarning, read_audio
from maeast_upstream.batching import pad_clips
from maeast_upstream.frontend import HOP_SAMPLES
from maeast_upstream.readout import Readout, TimeStatistics, fold_mel, pool_time
from maeast_upstream.spans import cut_spans
from maeast_upstream.time_grid import TimeGrid, window_ranges, window_starts

AUDIO = Path(__file__).parents[1] / "data" / "audio"
SECOND = 16_000
LENGTHS = [2 * SECOND + 1, 2 * SECOND + 160, 3 * SECOND, 3 * SECOND + 2560, 4 * SECOND + 77, 5 * SECOND + 1279]


@pytest.fixture(scope="module")
def model():
    return load_model(max_seconds=2, window_seconds=1)


@pytest.fixture(scope="module")
def sound():
    return torch.from_numpy(np.resize(read_audio(AUDIO / "long_drums.opus"), 5 * SECOND + 1279))


def in_windows(encoder, clip, grid, layer):
    """The definition: the whole clip's spectrogram, window by window."""
    steps = {}
    spectrogram = encoder.fbank(pad_clips([clip], grid, encoder.device)[0])
    for shift in range(grid.passes):
        frames = spectrogram[:, shift * grid.hop :]
        count = frames.shape[1] // grid.patch_frames
        length = min(encoder.window_steps, count)
        starts = window_starts(count, length)
        for start, (first, last) in zip(starts, window_ranges(starts, count, length), strict=True):
            part = frames[:, start * grid.patch_frames : (start + length) * grid.patch_frames]
            (tokens,) = encoder.network.features(encoder.patchify(part), None, [layer])
            rows = fold_mel(tokens, encoder.config.model.mel_patches, "concat")[0]
            for step in range(first, last):
                steps[shift + step * grid.passes] = rows[step - start]
    return torch.stack([steps[number] for number in range(grid.steps(len(clip)))])


def blocks_of(clip, sizes):
    """Cut a clip into blocks of these sizes, over and over."""
    first = number = 0
    while first < len(clip):
        yield clip[first : first + sizes[number % len(sizes)]]
        first, number = first + sizes[number % len(sizes)], number + 1


@pytest.mark.parametrize("hop_ms", [None, 40])
@pytest.mark.parametrize("length", LENGTHS)
def test_blocks_give_the_time_steps_of_the_whole_clip(model, sound, length, hop_ms):
    clip, readout = sound[:length], Readout(layer=2, hop_ms=hop_ms)
    grid = model.grid(hop_ms)
    (whole,) = model.encode([clip], layers=2, hop_ms=hop_ms).hidden_states
    assert len(whole[0]) == grid.steps(length)
    for sizes in ([length], [700, 1, 16_001], [4096]):
        spans = list(model.spans(blocks_of(clip, sizes), grid))
        steps = torch.cat([model.read_span(span, [readout])[0] for span in spans])
        assert torch.equal(steps, whole[0])
        assert [bool(span.total_samples) for span in spans] == [False] * (len(spans) - 1) + [True]
        assert spans[-1].total_samples == grid.left + length
    assert (in_windows(model, clip, grid, 2) - whole[0]).abs().max() < 1e-4


@pytest.mark.parametrize("pool", ["mean", "mean_max", "mean_std"])
def test_a_scene_that_is_pooled_span_by_span_is_that_of_all_time_steps(model, sound, pool):
    readout = Readout(layer=3, pool=pool)
    (first, *others) = (
        model.pool_span(span, [readout])[0] for span in model.spans(blocks_of(sound, [999]), model.grid(None))
    )
    for other in others:
        first = first.merged(other)
    assert (first.pooled(pool) - model.embed([sound], readout=readout)[0]).abs().max() < 1e-6


def test_statistics_of_many_large_steps_are_exact():
    steps = torch.randn(10_000, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([0.0, 100.0, -1000.0])
    parts = [TimeStatistics.of(part) for part in steps.split([1, 7, 992, 9000])]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merged(part)
    assert merged.steps == 10_000
    for pool in ("mean", "mean_max", "mean_std"):
        expected = pool_time(steps[None].double(), torch.tensor([10_000]), pool)[0]
        assert torch.allclose(merged.pooled(pool).double(), expected, rtol=1e-6, atol=1e-6)


def test_only_the_next_span_is_in_memory():
    grid, held = TimeGrid(16, 4, 1280), []

    def blocks():
        for _ in range(300):
            yield torch.zeros(SECOND)
            held.append(len(spans))

    spans = []
    for span in cut_spans(blocks(), grid, 62, 2):
        spans.append(span)
        assert len(span.samples) < 40 * SECOND
    assert held[100] > 5
    assert [span.first_sample for span in spans] == [number * 2 * 31 * 16 * HOP_SAMPLES for number in range(len(spans))]


@pytest.mark.parametrize(("suffix", "rate"), [("flac", 44100), ("mp3", 22050), ("wav", 8000)])
def test_a_long_file_that_is_given_by_its_path_has_the_numbers_of_its_samples(
    model, sound, tmp_path, suffix, rate, monkeypatch
):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.resize(np.stack([sound, -sound / 3], 1), (int(2.3 * rate), 2)), rate)
    samples = read_audio(path)
    pooled, pool = [], type(model).pool
    monkeypatch.setattr(type(model), "pool", lambda *given: pooled.append(pool(*given)) or pooled[-1])
    readout = Readout(layer="mean", pool="mean_std")
    scenes = model.embed([sound[:SECOND], path, sound[:8000]], readout=readout)
    whole = model.embed([sound[:SECOND], samples, sound[:8000]], readout=readout)
    assert torch.allclose(scenes, whole, atol=1e-6)
    assert len(pooled) == 1
    encoded, expected = model.encode(path, layers=[1, 3]), model.encode([samples], layers=[1, 3])
    assert all(map(torch.equal, encoded.hidden_states, expected.hidden_states))
    assert torch.equal(encoded.times_ms, expected.times_ms)


def test_a_long_file_that_breaks_off_is_an_error_and_one_that_is_cut_short_a_warning(model, sound, tmp_path):
    bad = sound.numpy().copy()
    soundfile.write(tmp_path / "a.wav", bad, SECOND, subtype="FLOAT")
    whole = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(whole[: -SECOND * 4])
    with pytest.warns(AudioWarning, match=r"a\.wav: cut short: "):
        scene = model.embed(tmp_path / "a.wav")
    assert torch.allclose(scene, model.embed([sound[:-SECOND]]), atol=1e-6)
    bad[4 * SECOND] = np.nan
    soundfile.write(tmp_path / "a.wav", bad, SECOND, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"a\.wav: NaN or infinite samples"):
        model.embed(tmp_path / "a.wav")
