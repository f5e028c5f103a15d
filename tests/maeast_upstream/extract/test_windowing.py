"""Long audio in windows, each with an embedding of its own."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from maeast_upstream import load_model
from maeast_upstream.audio.reading import read_audio
from maeast_upstream.cli import ExitStatus, main
from maeast_upstream.data.embeddings import EmbeddingTable, read_embeddings
from maeast_upstream.data.windows import Windows
from maeast_upstream.decoding import bounded
from maeast_upstream.extract.api import embed_files
from maeast_upstream.extract.in_memory import embed_in_memory
from maeast_upstream.extract.table import EmbeddingSpec

AUDIO = Path(__file__).parents[2] / "data" / "audio"
LONG = AUDIO / "long_drums.opus"
SHORT = sorted(AUDIO.glob("tone1*.opus"))[0]
WINDOWS = Windows(1.5, overlap=0.5)


@pytest.fixture(scope="module")
def model():
    return load_model()


def test_a_window_has_the_embedding_of_its_samples_alone(model):
    rows = list(embed_files([LONG, SHORT], model, windows=WINDOWS, workers=0))
    samples = read_audio(LONG)
    expected = [(start / 16, end / 16) for start, end in WINDOWS.bounds(len(samples))]
    assert len(expected) > 3
    assert [(row["start_ms"], row["end_ms"]) for row in rows[:-1]] == expected
    for row in rows[:-1]:
        start, end = (round(row[name] * 16) for name in ("start_ms", "end_ms"))
        alone = model.embed([torch.from_numpy(samples[start:end])])[0].numpy()
        assert np.abs(row["vector"] - alone).max() < 1e-4
    assert rows[-1]["path"] == str(SHORT)
    assert (rows[-1]["start_ms"], rows[-1]["end_ms"]) == (0, len(read_audio(SHORT)) / 16)


def test_windows_of_a_segment_lie_in_the_segment(model, tmp_path):
    table = tmp_path / "m.csv"
    table.write_text(f"path,start_ms,end_ms\n{SHORT},,\n{LONG},1000,4500\n")
    rows = list(embed_files([table], model, windows=WINDOWS, workers=0))
    assert [(row["segment"], row["start_ms"], row["end_ms"]) for row in rows[1:]] == [
        (1, 1000, 2500),
        (1, 2000, 3500),
        (1, 3000, 4500),
    ]


def test_windows_of_a_long_file_are_read_from_its_temporary_file(model, monkeypatch):
    in_memory = list(embed_files([LONG], model, windows=WINDOWS, workers=0))
    monkeypatch.setattr(bounded, "MEMORY_HOURS", 0.1 / 3600)
    for one, other in zip(in_memory, embed_files([LONG], model, windows=WINDOWS, workers=0), strict=True):
        assert np.array_equal(one.pop("vector"), other.pop("vector"))
        assert one == other


def test_the_command_writes_a_row_per_window_and_says_how_in_the_metadata(tmp_path, capsys):
    out = tmp_path / "t.parquet"
    command = ["embed", str(LONG), str(SHORT), "--window", "1.5", "--overlap", "0.5", "-o", str(out)]
    assert main(command) == ExitStatus.DONE
    table = EmbeddingTable(out)
    assert table.origin.windows == WINDOWS
    assert table.origin.checkpoint == "bundled"
    rows = read_embeddings(out)
    assert len(rows.paths) == table.rows == len(list(WINDOWS.bounds(len(read_audio(LONG))))) + 1
    assert f"2 files, {table.rows} rows" in capsys.readouterr().out
    assert main([*command, "--overlap", "0.25"]) == ExitStatus.FAILED
    assert "windows" in capsys.readouterr().err


def test_a_killed_run_continues_after_the_files_that_are_whole(tmp_path, monkeypatch):
    out, whole = tmp_path / "t", tmp_path / "whole.parquet"
    files = [LONG, SHORT, *sorted(AUDIO.glob("tone2*.opus"))[:3]]
    command = ["embed", *map(str, files), "--window", "1.5", "--overlap", "0.5", "-o"]
    assert main([*command, str(whole)]) == ExitStatus.DONE
    monkeypatch.setattr("maeast_upstream.extract.parts.PART_CLIPS", 2)
    assert main([*command, str(out)]) == ExitStatus.DONE
    parts = sorted(out.glob("part-*.parquet"))
    assert len(parts) == 3
    parts[0].unlink()
    assert main([*command, str(out)]) == ExitStatus.DONE
    assert pq.read_table(out).drop(["layer"]).equals(pq.read_table(whole).drop(["layer"]))


def test_a_window_without_finite_embedding_is_left_out_and_its_clip_counts_once(model, tmp_path, monkeypatch, capsys):
    samples = read_audio(LONG)
    bad = torch.from_numpy(samples[16_000:40_000])
    embed = type(model).embed_readouts

    def broken(self, clips, readouts):
        vectors = embed(self, clips, readouts)
        for row, clip in enumerate(clips):
            if len(clip) == len(bad) and torch.equal(clip, bad):
                vectors[0][row] = torch.nan
        return vectors

    monkeypatch.setattr(type(model), "embed_readouts", broken)
    out = tmp_path / "t.parquet"
    assert main(["embed", str(LONG), "--window", "1.5", "--overlap", "0.5", "-o", str(out)]) == ExitStatus.PARTIAL
    count = len(list(WINDOWS.bounds(len(samples))))
    assert len(read_embeddings(out).paths) == count - 1
    assert "window at 1000 ms: its embedding has NaN" in (tmp_path / "t.parquet.errors.tsv").read_text()
    assert f"1 file, {count - 1} rows" in capsys.readouterr().out


def test_npy_files_of_windows_have_their_times(tmp_path):
    assert main(["embed", str(LONG), "--window", "4", "--format", "npy", "-o", str(tmp_path / "t")]) == ExitStatus.DONE
    index = pq.read_table(tmp_path / "t" / "index.parquet")
    assert len(set(index["file"].to_pylist())) == len(index) > 1
    assert index["file"].to_pylist()[0].endswith("long_drums.opus.0.0-4000.npy")


def test_an_overlap_alone_or_windows_of_time_steps_are_refused(tmp_path, capsys):
    out = ["-o", str(tmp_path / "t.parquet")]
    assert main(["embed", str(SHORT), "--overlap", "1", *out]) == ExitStatus.FAILED
    assert capsys.readouterr().err == "error: --overlap goes with --window SECONDS\n"
    assert main(["embed", str(SHORT), "--window", "1", "--overlap", "1", *out]) == ExitStatus.FAILED
    assert capsys.readouterr().err.startswith("error: --overlap must be at least 0")
    with pytest.raises(ValueError, match="windows go with kind scene"):
        EmbeddingSpec(kind="frames", windows=WINDOWS)


def test_inputs_are_embedded_into_memory(model, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    rows, errors = embed_in_memory([LONG, tmp_path / "bad.wav"], model, windows=WINDOWS, workers=0)
    expected = list(embed_files([LONG], model, windows=WINDOWS, workers=0))
    np.testing.assert_array_equal(rows.vectors, [row["vector"] for row in expected])
    assert [name for name, _ in errors] == [str(tmp_path / "bad.wav")]
    with pytest.raises(ValueError, match="none of the inputs could be read"):
        embed_in_memory([tmp_path / "bad.wav"], model, workers=0)
