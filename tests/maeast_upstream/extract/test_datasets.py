"""`Embedder`: the audio columns of Hugging Face ``datasets``, as each of its versions gives them."""

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from maeast_upstream import load_model
from maeast_upstream.audio import AudioError
from maeast_upstream.extract import Embedder
from maeast_upstream.extract.api import waveform_of

SAMPLES = (0.1 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)


@pytest.fixture(scope="module")
def embedder():
    return Embedder(load_model())


class AudioDecoder:
    """What a row of datasets 4 and 5 is, without the decoder of torchcodec below it."""

    def __getitem__(self, key):
        return {"array": SAMPLES, "sampling_rate": 16_000}[key]


class TorchcodecDecoder:
    """What torchcodec itself gives: (channels, S)."""

    def get_all_samples(self):
        return SimpleNamespace(data=torch.from_numpy(np.stack([SAMPLES, SAMPLES])), sample_rate=16_000)


@pytest.mark.parametrize(
    "item",
    [
        AudioDecoder(),
        TorchcodecDecoder(),
        {"array": SAMPLES.tolist(), "sampling_rate": 16_000},
        {"array": SAMPLES, "sampling_rate": 16_000, "path": None},
        {"array": torch.from_numpy(SAMPLES), "sampling_rate": 16_000.0},
        {"array": np.round(SAMPLES * 32768).astype(np.int16), "sampling_rate": 16_000},
        {"array": np.stack([SAMPLES] * 6), "sampling_rate": np.int64(16_000)},
    ],
)
def test_a_row_is_its_samples_however_it_is_given(item):
    assert np.abs(waveform_of(item) - SAMPLES).max() <= 1 / 32768


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"array": SAMPLES}, "row 1: an array without sampling_rate: add it"),
        ({"array": SAMPLES * 32768, "sampling_rate": 16_000}, "row 1: samples: samples up to .*divide by 32768"),
        ({"array": np.round(SAMPLES * 32768).astype(int), "sampling_rate": 16_000}, "row 1: samples: .*64 bits"),
        ({"array": [], "sampling_rate": 16_000}, "row 1: samples: expected at least one sample"),
        ({"array": "text", "sampling_rate": 16_000}, "row 1: samples: expected numbers, got str"),
        ({"array": np.zeros((1, 2, 5)), "sampling_rate": 16_000}, r"row 1: samples: .*shape \(1, 2, 5\)"),
        ({"bytes": None, "path": None}, "row 1: expected a path, or a mapping"),
        (None, "row 1: expected a path, .* got NoneType"),
    ],
)
def test_a_row_that_cannot_be_meant_is_named(embedder, item, message):
    with pytest.raises(AudioError, match=message):
        embedder({"audio": [AudioDecoder(), item]})


def test_a_single_row_and_another_column_are_refused_with_the_remedy(embedder):
    for row in (AudioDecoder(), TorchcodecDecoder(), {"array": SAMPLES, "sampling_rate": 16_000}, "a.wav", None):
        with pytest.raises(ValueError, match="batched=True"):
            embedder({"audio": row})
    with pytest.raises(ValueError, match=r"no column 'audio': give Embedder\(audio=...\) one of sound, label"):
        embedder({"sound": [], "label": []})


@pytest.fixture
def column(tmp_path, monkeypatch):
    """A function that makes a data set of one stereo file at 44.1 kHz, and the vector of that file."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets")
    soundfile.write(tmp_path / "a.wav", np.stack([np.repeat(SAMPLES, 3), np.zeros(48_000)], 1), 44_100)

    def make(**options):
        rows = datasets.Dataset.from_dict({"audio": [str(tmp_path / "a.wav")] * 2})
        return rows.cast_column("audio", datasets.Audio(**options))

    return make, load_model().embed(tmp_path / "a.wav").numpy()


def test_the_library_maps_undecoded_columns(embedder, column):
    make, expected = column
    vectors = make(decode=False).map(embedder, batched=True)["embedding"]
    assert np.allclose(vectors, expected, atol=1e-5)


def test_the_library_maps_decoded_columns(embedder, column):
    make, expected = column
    try:
        from torchcodec.decoders import AudioDecoder as Decoder

        Decoder(soundfile_bytes())
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchcodec does not decode here: {str(error)[:60]}")
    assert np.allclose(make().map(embedder, batched=True)["embedding"], expected, atol=1e-5)
    resampled = np.array(make(sampling_rate=16_000).map(embedder, batched=True)["embedding"])
    assert np.corrcoef(resampled[0], expected[0])[0, 1] > 0.9  # FFmpeg's resampler is another than ours


def soundfile_bytes():
    import io

    file = io.BytesIO()
    soundfile.write(file, SAMPLES, 16_000, format="WAV")
    return file.getvalue()


def test_rows_in_place_of_columns_are_refused_in_one_line():
    with pytest.raises(ValueError, match="^expected a batch, columns by name, got list$"):
        Embedder(load_model())([{"audio": "a.wav"}])
