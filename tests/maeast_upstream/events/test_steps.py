"""Time steps of long recordings, window by window."""

import dataclasses

import numpy as np
import pytest
import torch

from maeast_upstream.audio.reading import AudioError
from maeast_upstream.data.inputs import Segment
from maeast_upstream.data.windows import Windows
from maeast_upstream.decoding.stream import AudioStream
from maeast_upstream.events import steps
from maeast_upstream.events.steps import OwnSteps, embed_steps, step_hop_ms, step_readout, with_context
from maeast_upstream.extract.pipeline import FailedInput
from maeast_upstream.extract.table import Embedded

SECOND = 16_000


@pytest.fixture
def short_windows(monkeypatch):
    """Windows of 4 s that overlap by 2 s, for quick tests."""
    monkeypatch.setattr(steps, "STEP_WINDOWS", Windows(4.0, 2.0))


def test_each_time_step_of_a_long_recording_comes_once(make_encoder, tokens, long_clip, short_windows):
    encoder = make_encoder(tokens)
    readout = step_readout(encoder)
    audio = long_clip[: 11 * SECOND + 1234].numpy()
    found = list(embed_steps([(Segment("a"), audio), (Segment("b"), audio[:SECOND])], encoder, readout))
    hop_ms = step_hop_ms(encoder, readout)
    assert hop_ms == (40.0 if tokens == "patch" else 20.0)
    for name, samples in (("a", len(audio)), ("b", SECOND)):
        windows = [(window, own) for window, own in found if window.path == name]
        times = np.concatenate([window.times_ms[own] for window, own in windows])
        assert len(windows) == (5 if name == "a" else 1)
        assert np.all(np.diff(times) > 0.5 * hop_ms - 1e-6)
        assert np.all(np.diff(times) < 1.5 * hop_ms + 1e-6)
        whole = encoder.grid(readout.hop_ms).times_ms(samples).numpy()
        assert abs(len(times) - len(whole)) <= 1
        assert times[0] == whole[0]
        assert times[-1] == pytest.approx(whole[-1], abs=hop_ms)


def test_time_steps_of_windows_are_nearly_those_of_the_whole_recording(make_encoder, long_clip, short_windows):
    encoder = make_encoder(shape={"positions": "none"})  # with random weights they count for more than the sound
    readout = step_readout(encoder)
    audio = long_clip[: 8 * SECOND]
    found = list(embed_steps([(Segment("a"), audio.numpy())], encoder, readout))
    vectors = np.concatenate([window.vectors[0, own] for window, own in found])
    with torch.no_grad():
        whole = encoder.read(audio, readouts=[readout]).hidden_states[0][0].numpy()
    likeness = (vectors * whole).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(whole, axis=1)
    assert likeness.min() > 0.9  # attention sees the whole window


def test_a_recording_that_failed_midway_does_not_shift_the_next_one(short_windows):
    times = np.arange(0.0, 4000.0, 40.0)
    window = Embedded("a", 0, 0.0, 4000.0, np.zeros((1, 100, 2)), times, samples=4 * SECOND, is_last=False)
    own = OwnSteps(40.0)
    assert own.slice_of(window) == slice(0, 75)
    last = dataclasses.replace(window, start_ms=2000.0, end_ms=6000.0, times_ms=times + 2000.0, is_last=True)
    assert own.slice_of(last) == slice(25, 100)
    assert own.slice_of(window) == slice(0, 75)


def test_a_recording_that_breaks_off_takes_no_time_steps_of_the_next_one(make_encoder, long_clip, short_windows):
    encoder = make_encoder()
    audio = long_clip[: 11 * SECOND].numpy()
    broken = AudioStream(AudioStream.take)
    broken.add(audio)
    broken.add(AudioError("a: broken"))
    decoded = [(Segment("a"), broken), (Segment("b"), audio)]
    found = list(embed_steps(decoded, encoder, step_readout(encoder)))
    failures = [outcome for outcome in found if isinstance(outcome, FailedInput)]
    assert [(failure.path, failure.reason) for failure in failures] == [("a", "a: broken")]
    after = [own for outcome, own in found[found.index(failures[0]) + 1 :]]
    assert after == [own for _, own in embed_steps([(Segment("b"), audio)], encoder, step_readout(encoder))]


def test_neighbours_stand_beside_each_step_and_ends_are_repeated():
    rows = np.arange(4.0)[:, None]
    assert with_context(rows, (-2, 0, 1)).tolist() == [[0, 0, 1], [0, 1, 2], [0, 2, 3], [1, 3, 3]]
