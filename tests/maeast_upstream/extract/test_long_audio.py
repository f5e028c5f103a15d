"""Long files are embedded while they are decoded: the rows are those of the file as a whole, or none."""

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from maeast_upstream import load_model
from maeast_upstream.audio.reading import AudioError, DecodedAudio, read_audio
from maeast_upstream.cli import ExitStatus, main
from maeast_upstream.config import FrontendConfig
from maeast_upstream.data.embeddings import read_embeddings
from maeast_upstream.data.inputs import Segment
from maeast_upstream.data.windows import Windows
from maeast_upstream.decoding import stream
from maeast_upstream.decoding.stream import AudioStream
from maeast_upstream.extract import long_audio, outputs, table, whole_clips
from maeast_upstream.extract.api import embed_files
from maeast_upstream.extract.pipeline import FailedInput, embed_decoded
from maeast_upstream.extract.table import Embedded, EmbeddingSpec
from maeast_upstream.readout import Readout

AUDIO = Path(__file__).parents[2] / "data" / "audio"
SECOND = 16_000
MAX = 2 * SECOND


@pytest.fixture(scope="module")
def model():
    return load_model(max_seconds=2, window_seconds=1)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(stream, "BLOCK_SAMPLES", 5000)


@pytest.fixture(scope="module")
def sound():
    return np.resize(read_audio(AUDIO / "long_drums.opus"), 7 * SECOND)


def stream_of(samples, error=None, notes=(), size=5000):
    """A stream that has come to its end."""
    blocks = AudioStream(AudioStream.take)
    for first in range(0, len(samples), size):
        blocks.add(samples[first : first + size])
    blocks.add(error or DecodedAudio(samples[:0], notes))
    return blocks


@pytest.mark.parametrize("length", [MAX, MAX + 1, 3 * SECOND + 77])
@pytest.mark.parametrize("kind", ["scene", "frames"])
@pytest.mark.parametrize("hop_ms", [None, 40])
def test_a_streamed_file_has_the_rows_of_the_whole_one(model, sound, length, kind, hop_ms):
    readouts = tuple(Readout(layer=layer, hop_ms=hop_ms, pool="mean_std") for layer in (1, 3))
    spec = EmbeddingSpec(kind=kind, readouts=readouts)
    segment = Segment("a.wav", notes=("listed",))
    (found,) = embed_decoded([(segment, stream_of(sound[:length], notes=("decoded",)))], model, spec)
    assert isinstance(found, Embedded)
    assert (found.start_ms, found.end_ms, found.samples) == (0.0, length / 16, length)
    assert found.notes == ("listed", "decoded")
    clip = torch.from_numpy(sound[:length])
    with torch.no_grad():
        if kind == "scene":
            expected = torch.stack(model.embed_readouts([clip], readouts)).numpy()
            assert np.abs(found.vectors - expected).max() < 1e-6
        else:
            encoded = model.read_clips([clip], readouts)
            expected = torch.cat(encoded.hidden_states).numpy()
            assert np.array_equal(found.vectors, expected)
            assert np.array_equal(found.times_ms, encoded.times_ms[0].numpy())
    (whole,) = embed_decoded([(segment, sound[:length])], model, spec)
    assert np.array_equal(whole.vectors, found.vectors)


def test_windows_of_a_streamed_stereo_file_are_those_of_its_samples(model, tmp_path, sound):
    soundfile.write(tmp_path / "a.flac", np.stack([sound, -sound / 2], 1)[: 5 * SECOND], 44100)
    samples = read_audio(tmp_path / "a.flac")
    windows = Windows(0.5, overlap=0.2)
    rows = list(embed_files([tmp_path / "a.flac"], model, windows=windows, workers=0))
    bounds = list(windows.bounds(len(samples)))
    assert [(row["start_ms"] * 16, row["end_ms"] * 16) for row in rows] == bounds
    alone = model.embed([torch.from_numpy(samples[start:end]) for start, end in bounds]).numpy()
    assert np.abs(np.stack([row["vector"] for row in rows]) - alone).max() < 1e-5


def test_long_windows_are_cut_into_those_of_the_encoder(model, sound):
    spec = EmbeddingSpec(windows=Windows(3.0))
    found = list(embed_decoded([(Segment("a.wav"), stream_of(sound))], model, spec))
    assert [outcome.is_last for outcome in found] == [False, False, True]
    for outcome, (start, end) in zip(found, spec.windows.bounds(len(sound)), strict=True):
        alone = model.embed([torch.from_numpy(sound[start:end])], readout=Readout())[0].numpy()
        assert np.abs(outcome.vectors[0, 0] - alone).max() < 1e-6
        assert (outcome.start_ms, outcome.end_ms) == (start / 16, end / 16)


@pytest.mark.parametrize("spec", [EmbeddingSpec(), EmbeddingSpec(kind="frames"), EmbeddingSpec(windows=Windows(0.5))])
def test_a_file_that_breaks_in_the_middle_is_an_error_and_no_row(model, sound, spec):
    broken = stream_of(sound, AudioError("b.wav: NaN or infinite samples"))
    decoded = [(Segment("a.wav"), stream_of(sound)), (Segment("b.wav"), broken), (Segment("c.wav"), stream_of(sound))]
    found = list(whole_clips.only_whole(embed_decoded(decoded, model, spec)))
    (failure,) = (outcome for outcome in found if isinstance(outcome, FailedInput))
    assert (failure.path, failure.reason, failure.is_window) == ("b.wav", "b.wav: NaN or infinite samples", False)
    first, other = ([each for each in found if each.path == path] for path in ("a.wav", "c.wav"))
    assert [np.array_equal(one.vectors, two.vectors) for one, two in zip(first, other, strict=True)]
    assert len(first) + len(other) + 1 == len(found)


def test_the_command_leaves_out_a_file_with_nan_in_the_middle_and_its_part_has_no_row_of_it(tmp_path, sound, capsys):
    bad = sound.copy()
    bad[5 * SECOND] = np.nan
    for name, samples in (("a", sound), ("b", bad), ("c", sound)):
        soundfile.write(tmp_path / f"{name}.wav", samples, 16000, subtype="FLOAT")
    out = tmp_path / "t.parquet"
    command = ["embed", *(str(tmp_path / f"{name}.wav") for name in "abc"), "--window", "0.5", "-o", str(out)]
    assert main([*command, "--engine", "torch", "--workers", "0"]) == ExitStatus.PARTIAL
    assert [Path(path).name for path in read_embeddings(out).paths] == ["a.wav"] * 14 + ["c.wav"] * 14
    assert "b.wav: NaN or infinite samples" in (tmp_path / "t.parquet.errors.tsv").read_text()
    assert "2 files, 28 rows" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["parquet", "npy"])
def test_time_steps_that_lie_in_temporary_files_are_written_as_those_in_memory(tmp_path, sound, monkeypatch, form):
    soundfile.write(tmp_path / "a.wav", np.tile(sound, 10), 16000)
    command = ["embed", str(tmp_path / "a.wav"), "--kind", "frames", "--layer", "1,3", "--engine", "torch"]
    command += ["--workers", "0", "--format", form, "-o"]
    assert main([*command, str(tmp_path / "memory")]) == ExitStatus.DONE
    monkeypatch.setattr(long_audio, "MEMORY_BYTES", 50_000)
    for module in (table, outputs):
        monkeypatch.setattr(module, "ROW_GROUP_BYTES", 20_000)
    assert main([*command, str(tmp_path / "files")]) == ExitStatus.DONE
    if form == "npy":
        one, other = (np.load(next((tmp_path / name).rglob("*.npy"))) for name in ("memory", "files"))
        assert one.shape[0] == 2
        assert np.array_equal(one, other)
    else:
        one, other = (pq.read_table(tmp_path / name) for name in ("memory", "files"))
        assert one.column_names == other.column_names
        assert one.equals(other)


def test_windows_that_wait_in_a_temporary_file_come_in_their_order(model, sound, monkeypatch):
    spec = EmbeddingSpec(windows=Windows(0.5, overlap=0.25))
    found = list(embed_decoded([(Segment("a.wav"), sound)], model, spec))
    monkeypatch.setattr(whole_clips, "MEMORY_BYTES", 20_000)
    held = list(whole_clips.only_whole(iter(found * 2)))
    assert len(held) == 2 * len(found) > 40
    for one, other in zip(held, found * 2, strict=True):
        assert np.array_equal(one.vectors, other.vectors)
        assert one.start_ms == other.start_ms


def test_a_model_that_removes_the_mean_of_a_clip_embeds_it_whole(make_encoder, sound):
    encoder = make_encoder(max_seconds=2, window_seconds=1)
    encoder.fbank.config = FrontendConfig(remove_mean=True)
    assert not encoder.can_stream
    (found,) = embed_decoded([(Segment("a.wav"), stream_of(sound))], encoder, EmbeddingSpec())
    expected = encoder.embed([torch.from_numpy(sound)], readout=Readout())[0].numpy()
    assert np.array_equal(found.vectors[0, 0], expected)


def test_a_full_disk_of_temporary_files_is_named_with_its_remedy(monkeypatch):
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(long_audio.tempfile, "TemporaryFile", full)
    monkeypatch.setattr(long_audio, "MEMORY_BYTES", 10)
    with pytest.raises(OSError, match="No space left on device.*set TMPDIR") as raised:
        long_audio.StepRows(1).add([np.zeros((2, 3), np.float32)])
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, tempfile.gettempdir())
