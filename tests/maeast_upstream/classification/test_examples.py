"""Vectors of labelled clips, embedded or found in a table."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from maeast_upstream.classification.examples import embed_clips, look_up_clips
from maeast_upstream.classification.labelled_clips import read_clips
from maeast_upstream.commands import embed
from maeast_upstream.data.embeddings import EmbeddingTable
from maeast_upstream.data.windows import Windows
from maeast_upstream.readout import Readout


@pytest.fixture
def clips(tmp_path):
    """Four noises of 1 to 2.5 s in a folder, and their labels."""
    folder = tmp_path / "clips"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        soundfile.write(folder / f"{number}.wav", 0.1 * rng.normal(size=16000 + 8000 * number), 16000)
    (tmp_path / "labels.csv").write_text(
        "path,label\n" + "\n".join(f"clips/{number}.wav,{'ab'[number % 2]}" for number in range(4))
    )
    return tmp_path


def labelled(folder, text=None):
    if text:
        (folder / "labels.csv").write_text(text)
    return read_clips(folder / "labels.csv", multi_label=False)


def test_clips_are_embedded_in_order_and_windows_belong_to_their_clip(clips, make_encoder):
    encoder = make_encoder()
    whole = embed_clips(labelled(clips), encoder, "bundled", Readout(), workers=0)
    assert [Path(clip.path).name for clip in whole.clips] == [f"{n}.wav" for n in range(4)]
    cut = embed_clips(labelled(clips), encoder, "bundled", Readout(), Windows(1.0, 0.5), workers=0)
    assert [Path(clip.path).name[0] for clip in cut.clips] == list("0112223333")
    np.testing.assert_allclose(cut.vectors[0], whole.vectors[0], atol=1e-5)


def test_a_clip_that_cannot_be_read_is_left_out_with_its_reason(clips, make_encoder):
    (clips / "clips" / "1.wav").write_bytes(b"no audio")
    (clips / "clips" / "2.wav").unlink()
    examples = embed_clips(labelled(clips), make_encoder(), "bundled", Readout(), workers=0)
    assert len(examples.vectors) == 2
    assert [Path(clip.path).name for clip, _ in examples.left_out] == ["1.wav", "2.wav"]


def test_without_any_readable_clip_there_is_an_error(clips, make_encoder):
    for path in (clips / "clips").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="none of the 4 clips"):
        embed_clips(labelled(clips), make_encoder(), "bundled", Readout(), workers=0)


@pytest.fixture
def table(clips, monkeypatch):
    monkeypatch.chdir(clips)
    assert embed.main(["clips", "-o", "t.parquet", "--workers", "0", "-q"]) == 0
    return clips / "t.parquet"


@pytest.mark.parametrize("place", [".", "elsewhere"])
def test_rows_of_a_table_are_found_by_path_from_any_folder(clips, table, place, monkeypatch):
    (clips / "elsewhere").mkdir()
    monkeypatch.chdir(clips / place)
    found = look_up_clips(labelled(clips), EmbeddingTable(table), clips)
    rows = pq.read_table(table).to_pylist()
    expected = {row["path"]: row["vector"] for row in rows}
    for clip, vector in zip(found.clips, found.vectors, strict=True):
        assert vector.tolist() == expected[os.path.relpath(clip.path, clips)]
    assert found.source.checkpoint == "bundled"


def test_labels_that_the_map_saved_elsewhere_name_clips_as_the_table_does(clips, table):
    (clips / "downloads").mkdir()
    (clips / "downloads" / "labels.csv").write_text((clips / "labels.csv").read_text())
    folder = clips / "downloads"
    assert len(look_up_clips(labelled(folder), EmbeddingTable(table), folder).vectors) == 4


def test_files_of_the_same_names_in_another_folder_are_not_confused(clips, table):
    (clips / "other").mkdir()
    text = f"path,label\nclips/0.wav,a\n{clips}/clips/1.wav,b\n{clips}/clips/2.wav,b\nclips/3.wav,a"
    (clips / "other" / "labels.csv").write_text(text)
    found = look_up_clips(labelled(clips / "other"), EmbeddingTable(table), clips / "other")
    assert [Path(clip.path).name for clip in found.clips] == ["1.wav", "2.wav"]


def test_a_path_that_may_be_that_of_two_labelled_files_is_refused(clips, table, monkeypatch):
    (clips / "other" / "clips").mkdir(parents=True)
    monkeypatch.chdir(clips / "other")
    text = "path,label\nclips/0.wav,a\nother/clips/0.wav,b\nclips/1.wav,a\nother/clips/1.wav,b\n"
    with pytest.raises(ValueError, match=r"clips/0.wav may be .*/clips/0.wav or .*/other/clips/0.wav; move the table"):
        look_up_clips(labelled(clips, text), EmbeddingTable(table), clips)
    monkeypatch.chdir(clips)
    assert len(look_up_clips(labelled(clips, text), EmbeddingTable(table), clips).vectors) == 2


def test_a_table_of_windows_is_joined_by_times_and_by_whole_files(clips, table):
    arguments = ["clips", "-o", "w.parquet", "--workers", "0", "--window", "1", "--overlap", "0.5", "-q"]
    assert embed.main(arguments) == 0
    windows = EmbeddingTable(clips / "w.parquet")
    whole = look_up_clips(labelled(clips), windows, clips)
    assert len(whole.vectors) == 10
    assert whole.windows == Windows(1.0, 0.5)
    text = "path,label,start_ms,end_ms\n" + "\n".join(
        f"clips/{number}.wav,{label},{start},{start + 1000}"
        for number, label, start in [(1, "a", 0), (1, "b", 500), (3, "a", 1000), (3, "b", 1500), (3, "a", 77)]
    )
    timed = look_up_clips(labelled(clips, text), windows, clips)
    assert [clip.start_ms for clip in timed.clips] == [0, 500, 1000, 1500]
    assert [(clip.start_ms, "w.parquet" in reason) for clip, reason in timed.left_out] == [(77, True)]


def test_clips_that_the_table_lacks_are_left_out(clips, table):
    text = (clips / "labels.csv").read_text() + "\nother/5.wav,a\n"
    found = look_up_clips(labelled(clips, text), EmbeddingTable(table), clips)
    assert len(found.vectors) == 4
    assert [Path(clip.path).name for clip, _ in found.left_out] == ["5.wav"]


def test_a_table_of_other_clips_or_of_another_program_is_refused(clips, table):
    text = "path,label\nx.wav,a\ny.wav,a\nz.wav,b\nv.wav,b\n"
    with pytest.raises(ValueError, match="none of the 4 labelled clips"):
        look_up_clips(labelled(clips, text), EmbeddingTable(table), clips)
    rows = pq.read_table(table)
    pq.write_table(pa.table({"path": rows["path"], "vector": rows["vector"]}), clips / "other.parquet")
    with pytest.raises(ValueError, match="does not tell the checkpoint"):
        look_up_clips(labelled(clips), EmbeddingTable(clips / "other.parquet"), clips)
