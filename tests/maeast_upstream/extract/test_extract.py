"""Many inputs to embeddings, in Python."""

import itertools
import pickle
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from embed_runs import note
from hypothesis import given
from hypothesis import strategies as st

from maeast_upstream import Readout, load_model
from maeast_upstream.audio.reading import AudioError, AudioWarning, read_audio
from maeast_upstream.data.inputs import Segment
from maeast_upstream.decoding import bounded
from maeast_upstream.extract import parts as extract_parts
from maeast_upstream.extract import pipeline
from maeast_upstream.extract.api import Embedder, embed_files, waveform_of
from maeast_upstream.extract.outputs import TableBuilder
from maeast_upstream.extract.part_store import PartStore
from maeast_upstream.extract.parts import PART_CLIPS, Part, Work, cut_parts, write_parts
from maeast_upstream.extract.pipeline import Pace, blocks, embed_decoded
from maeast_upstream.extract.table import Embedded, EmbeddingSpec, make_schema
from maeast_upstream.inference import Runtime
from maeast_upstream.storage.folder import Storage

AUDIO = Path(__file__).parents[2] / "data" / "audio"
CLIPS = sorted(AUDIO.glob("*.opus"))


@pytest.fixture(scope="module")
def model():
    return load_model()


def test_the_rows_come_one_after_the_other_in_the_order_of_the_files(model):
    paths = sorted(AUDIO.glob("*.opus"))[:5]
    rows = list(embed_files(paths, model))
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    for row, path in zip(rows, paths, strict=True):
        clip = torch.from_numpy(read_audio(path))
        assert row["end_ms"] == len(clip) / 16
        assert np.abs(row["vector"] - model.embed([clip])[0].numpy()).max() < 1e-4


def test_audio_that_comes_in_a_temporary_file_has_the_same_embeddings(model, monkeypatch):
    paths = sorted(AUDIO.glob("*.opus"))[:5]
    in_memory = list(embed_files(paths, model, workers=0))
    monkeypatch.setattr(bounded, "MEMORY_HOURS", 0.1 / 3600)
    for one, other in zip(in_memory, embed_files(paths, model, workers=0), strict=True):
        assert np.array_equal(one.pop("vector"), other.pop("vector"))
        assert one == other


def test_frames_of_several_layers(model):
    path = sorted(AUDIO.glob("*.opus"))[0]
    readouts = [Readout(layer=3, hop_ms=40), Readout(layer=5, hop_ms=40)]
    rows = list(embed_files([path], model, kind="frames", readout=readouts))
    expected = model.encode([torch.from_numpy(read_audio(path))], layers=[3, 5], hop_ms=40)
    assert [row["time_ms"] for row in rows] == expected.times_ms[0].tolist() * 2
    vectors = torch.cat([state[0] for state in expected.hidden_states]).numpy()
    assert np.allclose([row["vector"] for row in rows], vectors, atol=1e-4)


def test_an_input_that_cannot_be_read_is_told_or_raised(model, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"nothing")
    good = sorted(AUDIO.glob("*.opus"))[0]
    told = []
    rows = list(
        embed_files(
            [broken, good],
            model,
            on_error=lambda path, reason: told.append((path, reason)),
        )
    )
    assert [row["path"] for row in rows] == [str(good)]
    assert [path for path, _ in told] == [str(broken)]
    with pytest.raises(AudioError, match=r"broken\.wav"):
        list(embed_files([broken, good], model))


def test_what_is_noticed_about_an_input_is_a_warning_or_handed_over(model, monkeypatch):
    note(monkeypatch, lambda path: ["cut short"])
    found = []
    assert len(list(embed_files(CLIPS[0], model, on_warning=lambda *noticed: found.append(noticed)))) == 1
    assert found == [(str(CLIPS[0]), "cut short")]
    with pytest.warns(AudioWarning, match=f"{CLIPS[0].name}: cut short"):
        list(embed_files(CLIPS[0], model))


def test_an_embedding_that_is_not_finite_is_an_error_of_its_clip():
    class Values:
        """An encoder whose embedding of a clip is its first sample."""

        training, device, runtime = False, torch.device("cpu"), Runtime()
        max_seconds, can_stream = 60.0, True

        def embed_readouts(self, waveforms, readouts):
            return [torch.stack([waveform[:1] for waveform in waveforms])]

    values = [0.5, np.nan, np.inf, 1e5]
    decoded = [(Segment(f"{value}.wav"), np.full(500, value, np.float32)) for value in values]
    for vectors, good in (("float32", [0.5, 1e5]), ("float16", [0.5])):
        spec = EmbeddingSpec(readouts=(Readout(layer=1),), vectors=vectors)
        outcomes = list(embed_decoded(decoded, Values(), spec))
        assert [one.vectors.item() for one in outcomes if isinstance(one, Embedded)] == good
        assert all("NaN or infinite" in one.reason for one in outcomes if not isinstance(one, Embedded))
    assert "--vectors float32" in outcomes[-1].reason


def test_one_input_needs_no_list(model):
    for clip in (CLIPS[0], str(CLIPS[0])):
        assert [row["path"] for row in embed_files(clip, model)] == [str(CLIPS[0])]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (None, "expected a path, or a mapping with bytes, array or path, got None"),
        ({"bytes": None, "path": None}, "expected a path"),
        ({"bytes": b"nothing", "path": None}, "not audio"),
        ({"array": np.zeros(0), "sampling_rate": 16_000}, "at least one sample"),
        ({"array": np.full(500, np.nan), "sampling_rate": 16_000}, "NaN or infinite"),
        ({"array": np.full(500, np.nan), "sampling_rate": 8_000}, "NaN or infinite"),
        ({"array": np.zeros(500), "sampling_rate": 0}, "sample rate 0 Hz"),
    ],
)
def test_a_row_of_a_dataset_without_audio_is_an_audio_error(model, item, message):
    with pytest.raises(AudioError, match=message):
        Embedder(model)({"audio": [item]})


def test_a_callable_for_datasets_takes_bytes_paths_and_arrays(model):
    paths = sorted(AUDIO.glob("*.opus"))[:3]
    wave = read_audio(paths[2])
    batch = {
        "audio": [
            {"bytes": paths[0].read_bytes(), "path": None},
            {"bytes": None, "path": str(paths[1])},
            {"array": wave, "sampling_rate": 16000},
            str(paths[0]),
        ]
    }
    column = pickle.loads(pickle.dumps(Embedder(model)))(batch)["embedding"]
    for vector, path in zip(column, [*paths, paths[0]], strict=True):
        assert np.allclose(
            vector,
            model.embed([torch.from_numpy(read_audio(path))])[0].numpy(),
            atol=1e-4,
        )


@pytest.mark.parametrize("channels_first", [True, False])
def test_channels_of_an_array_are_mixed_wherever_their_axis_is(channels_first):
    wave = read_audio(CLIPS[0])
    stereo = np.stack([wave, np.zeros_like(wave)])
    item = {"array": stereo if channels_first else stereo.T, "sampling_rate": 16_000}
    assert np.array_equal(waveform_of(item), wave / 2)


def test_an_encoder_in_train_mode_is_refused_as_its_dropout_would_be_in_the_rows():
    encoder = load_model().train()
    for work in (lambda: list(embed_files(CLIPS[0], encoder)), lambda: Embedder(encoder)({"audio": [CLIPS[0]]})):
        with pytest.raises(ValueError, match="call eval"):
            work()


def made_up(lengths):
    """Decoded segments: noise, or an error for length 0."""
    for number, length in enumerate(lengths):
        audio = np.full(length, 0.01 * number, np.float32) if length else AudioError("broken")
        yield Segment(f"clip{number}", number, None, None, None, None), audio


@given(
    st.lists(st.integers(0, 40_000), max_size=12),
    st.sampled_from([0.01, 1.0, 100.0]),
    st.sampled_from([1, 3]),
)
def test_every_segment_has_its_outcome_in_its_place(lengths, seconds, streams):
    lengths_seen = []

    class FirstSamples:
        """An encoder whose embedding of a clip is its first sample."""

        training, device, runtime = False, torch.device("cpu"), Runtime(streams=streams)
        max_seconds, can_stream = 60.0, True

        def embed_readouts(self, waveforms, readouts):
            lengths_seen.extend(map(len, waveforms))
            return [torch.stack([waveform[:1] for waveform in waveforms])]

    outcomes = list(
        embed_decoded(made_up(lengths), FirstSamples(), EmbeddingSpec(readouts=(Readout(layer=1),)), seconds)
    )
    assert [outcome.path for outcome in outcomes] == [f"clip{number}" for number in range(len(lengths))]
    assert [isinstance(outcome, Embedded) for outcome in outcomes] == [length > 0 for length in lengths]
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, Embedded):
            assert outcome.vectors[0, 0, 0] == np.float32(0.01 * number)
            assert outcome.end_ms == lengths[number] / 16
    assert sorted(lengths_seen) == sorted(length for length in lengths if length)


@given(st.lists(st.integers(0, 40_000), max_size=50), st.floats(0.1, 10), st.integers(1, 60))
def test_blocks_hold_everything_once_and_little_more_than_asked(lengths, seconds, clips):
    found = list(blocks(made_up(lengths), seconds, 4 * seconds, clips))
    assert all(len(block) <= clips for block in found)
    assert [segment.number for block in found for segment, _ in block] == list(range(len(lengths)))
    for number, block in enumerate(found):
        limit = seconds * min(2**number, 4)
        assert sum(len(a) for _, a in block[:-1] if isinstance(a, np.ndarray)) < limit * 16000


def test_parts_are_cut_by_number_and_size_and_the_same_each_time(monkeypatch):
    monkeypatch.setattr(extract_parts, "cost", lambda segment: segment.number)
    monkeypatch.setattr(extract_parts, "PART_CLIPS", 3)
    monkeypatch.setattr(extract_parts, "PART_BYTES", 10)
    segments = [segment for segment, _ in made_up([1] * 9)]
    parts = list(cut_parts(segments))
    assert [[segment.number for segment in part.segments] for part in parts] == [
        [0, 1, 2],
        [3, 4],
        [5],
        [6],
        [7],
        [8],
    ]
    assert [part.number for part in parts] == [0, 3, 5, 6, 7, 8]
    assert parts == list(cut_parts(iter(segments)))


def test_what_is_done_is_left_out_wherever_it_would_be_cut_today(monkeypatch):
    monkeypatch.setattr(extract_parts, "cost", lambda segment: 1)
    monkeypatch.setattr(extract_parts, "PART_CLIPS", 3)
    segments = [segment for segment, _ in made_up([1] * 10)]
    parts = list(cut_parts(segments, {1: 2, 3: 1, 5: 4}))
    assert [(part.number, [segment.number for segment in part.segments]) for part in parts] == [
        (0, [0]),
        (4, [4]),
        (9, [9]),
    ]


def test_progress_is_told_while_a_part_is_made(model, tmp_path):
    store = PartStore(Storage(tmp_path))
    spec = EmbeddingSpec(readouts=(model.config.readout,))
    builder = TableBuilder(make_schema(spec, spec.width(model.config)), spec)
    work = Work(store, builder, model, workers=0, batch_seconds=0.5)
    segments = [Segment(str(path)) for path in CLIPS[:4]] + [Segment("gone.wav")]
    told = []
    write_parts([Part(0, segments)], work, lambda report: told.append((report.segments, store.numbers())))
    assert sum(count for count, _ in told) == 5
    assert told[0] == (1, [])
    assert store.report(0).clips == 4
    assert [name for name, *_ in store.report(0).errors] == ["gone.wav"]


def test_a_part_ends_early_rather_than_that_a_kill_costs_much(model, tmp_path, monkeypatch):
    store = PartStore(Storage(tmp_path))
    spec = EmbeddingSpec(readouts=(model.config.readout,))
    builder = TableBuilder(make_schema(spec, spec.width(model.config)), spec)
    segments = [Segment(str(path)) for path in CLIPS[:3]] + [Segment("gone.wav")] + [Segment(str(CLIPS[3]))]
    clock = itertools.count(step=10.0)
    monkeypatch.setattr(extract_parts, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    told = []
    work = Work(store, builder, model, workers=0, batch_seconds=0.5, save_seconds=15.0)
    write_parts([Part(7, segments)], work, lambda report: told.append(store.numbers()))
    assert store.numbers() == [7, 9, 11]
    assert [store.report(number).segments for number in store.numbers()] == [2, 2, 1]
    assert told[-1] == [7, 9]
    paths = [path for table in store.tables() for path in table["path"].to_pylist()]
    assert paths == [str(path) for path in CLIPS[:4]]


def test_a_block_is_no_longer_than_the_encoder_embeds_in_little_time():
    pace = Pace()
    found = blocks(made_up([16_000] * 60), 2.0, 16.0, 100, pace)
    assert [len(next(found)) for _ in range(3)] == [2, 4, 8]
    pace.update(16_000 * 5, elapsed=15.0)  # a third of a second of audio per second
    assert [len(next(found)) for _ in range(2)] == [5, 5]
    pace.update(0, elapsed=1.0)
    pace.update(16_000, elapsed=100.0)
    assert len(next(found)) == 2, "no less than the first one, which is one call of the encoder"


def test_a_block_does_not_wait_long_for_its_clips(monkeypatch):
    clock = itertools.count(step=10.0)
    monkeypatch.setattr(pipeline, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert [len(block) for block in blocks(made_up([16_000] * 6), 30.0, 600.0, 100)] == [2, 2, 2]


def test_parts_are_cut_as_they_are_asked_for():
    def endless():
        number = 0
        while True:
            yield Segment("clip", number, None, None, None, None)
            number += 1

    tracemalloc.start()
    parts = cut_parts(endless())
    for _ in range(3):
        assert len(next(parts).segments) == PART_CLIPS
    tracemalloc.stop()
