import csv
import os
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from map_tables import write_table

import maeast_upstream.encoder
from maeast_upstream import cli, fingerprint
from maeast_upstream.data.embeddings import EmbeddingTable, read_embeddings
from maeast_upstream.data.inputs import Segment
from maeast_upstream.similarity import search, searching

AUDIO = Path(__file__).parents[2] / "data" / "audio"
CLIPS = sorted(AUDIO.glob("*.opus"), key=lambda clip: clip.stat().st_size)[20:32]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("search") / "t.parquet"
    assert cli.main(["embed", "-q", *map(str, CLIPS), "-o", str(path), "--engine", "torch"]) == 0
    return path


@pytest.fixture(scope="module", autouse=True)
def encoder(table):
    """Loaded once for all searches of the file."""
    origin = EmbeddingTable(table).origin
    encoder = fingerprint.load_same(origin.checkpoint, origin.fingerprint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "load_same", lambda *names: encoder)
        patch.setattr(maeast_upstream.encoder, "load_model", lambda *names: encoder)
        yield encoder


@pytest.fixture
def run(table, capsys):
    def run(*arguments, status=0, table=table):
        capsys.readouterr()
        assert cli.main(["search", *map(str, arguments), "-t", str(table)]) == status
        out, error = capsys.readouterr()
        assert "Traceback" not in error
        return out if status == 0 else error

    return run


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_clip_finds_what_is_nearest_by_the_plain_cosine(table, run, tmp_path):
    run(CLIPS[3], "-k", 5, "-o", tmp_path / "h.csv")
    embeddings = read_embeddings(table)
    unit = embeddings.vectors / np.linalg.norm(embeddings.vectors, axis=1, keepdims=True)
    order = [row for row in np.argsort(-(unit @ unit[3])) if row != 3][:5]
    hits = rows(tmp_path / "h.csv")
    assert [hit["path"] for hit in hits] == [embeddings.paths[row] for row in order]
    assert [int(hit["rank"]) for hit in hits] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose([float(hit["similarity"]) for hit in hits], (unit @ unit[3])[order], atol=1e-4)


def test_the_query_itself_is_left_out_unless_it_is_kept(run):
    assert str(CLIPS[3]) not in run(CLIPS[3]).split("\n", 1)[1]
    assert re.search(rf"\n +1 +1\.000 +{re.escape(str(CLIPS[3]))}", run(CLIPS[3], "--keep-self"))


def test_a_search_without_hits_says_so(run, tmp_path):
    alone = write_table(tmp_path / "o.parquet", ["a.wav"], np.float32([[1, 0]]))
    assert "no hits" in run("a.wav", table=alone)


def test_a_part_of_a_clip_finds_the_clip(run):
    assert CLIPS[3].name in run(f"{CLIPS[3]}@0-0.3", "-k", 3)


def test_a_file_whose_name_looks_like_a_segment_is_that_file(run, tmp_path):
    odd = tmp_path / "x.wav@1.2-2.0"
    odd.write_bytes(CLIPS[3].read_bytes())
    assert "1.000" in run(odd, "-k", 1)


def test_a_row_of_the_table_is_a_query_where_its_file_is_gone(run, tmp_path):
    vectors = np.float32([[1, 0], [1, 0.1], [0, 1]])
    other = write_table(tmp_path / "o.parquet", ["a.wav", "b.wav", "c.wav"], vectors)
    assert re.search(r"1 +0\.995 +b\.wav", run("a.wav", "-k", 1, table=other))
    twice = write_table(
        tmp_path / "p.parquet", ["a.wav", "a.wav", "b.wav"], vectors, start_ms=[0.0, 5e3, 0.0], end_ms=[5e3, 1e4, 1e3]
    )
    assert "a.wav@0-5" in run("a.wav", status=1, table=twice)
    assert re.search(r"1 +0\.995 +a\.wav  0\.00-5\.00 s", run("a.wav@5-10", "-k", 1, table=twice))


def test_queries_are_apart_or_averaged(run, table):
    apart = run(CLIPS[0], CLIPS[1], "-k", 2)
    assert apart.count("\n  1  ") == 2
    averaged = search(table, CLIPS[:2], 3, mean=True)
    vectors = read_embeddings(table).vectors[:2]
    mean = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).mean(0)
    expected = search(table, mean, 5)
    assert [hit.path for hit in averaged] == [hit.path for hit in expected if hit.path not in map(str, CLIPS[:2])][:3]
    assert averaged[0].query == f"{CLIPS[0]} + {CLIPS[1]}"
    assert CLIPS[0].name in run(CLIPS[0], CLIPS[1], "--average", "--keep-self", "-k", 1)


def test_hits_become_wav_files_that_lie_in_the_folder(run, tmp_path):
    run(CLIPS[0], "-k", 2, "--cut", tmp_path / "cut")
    files = sorted((tmp_path / "cut").iterdir())
    assert [re.fullmatch(r"[12]-0\.\d{3}-[\w.-]+\.wav", file.name) is not None for file in files] == [True, True]
    assert soundfile.info(files[0]).samplerate == 16000
    assert "exists already" in run(CLIPS[0], "-k", 2, "--cut", tmp_path / "cut", status=1)
    run(CLIPS[0], "-k", 2, "--cut", tmp_path / "cut", "--force")


def test_only_wav_files_that_were_written_are_counted(table, tmp_path, capsys):
    other = write_table(tmp_path / "o.parquet", ["a.wav", "gone.wav", CLIPS[0]], np.float32([[1, 0], [1, 0], [1, 1]]))
    arguments = ["search", "a.wav", "-t", str(other), "--cut", str(tmp_path / "cut"), "-o", str(tmp_path / "h.html")]
    assert cli.main(arguments) == 3
    out, error = capsys.readouterr()
    assert "2 hits: " in out
    assert "1 hit as WAV files" in out
    assert error.count("gone.wav: no such file") == 1


def test_no_name_of_a_row_leaves_the_folder_or_becomes_markup(run, tmp_path):
    evil = tmp_path / "<script>alert(1)<" / "script>" / "..%2f'; rm -rf \".wav"
    evil.parent.mkdir(parents=True)
    evil.write_bytes(CLIPS[0].read_bytes())
    other = write_table(tmp_path / "o.parquet", [evil, "../../gone.wav"], np.float32([[1, 0], [0.9, 0.1]]))
    error = run(evil, "--keep-self", "--cut", tmp_path / "cut", "-o", tmp_path / "h.html", table=other, status=3)
    assert "gone.wav" in error
    (written,) = (tmp_path / "cut").iterdir()
    assert re.fullmatch(r"1-\d\.\d+-\.\._2f___rm_-rf__\.wav", written.name)
    page = (tmp_path / "h.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;" in page
    assert page.count("<audio controls") == 1
    assert "default-src 'none'" in page


def test_a_table_of_hits_is_written(run, tmp_path):
    run(CLIPS[0], "-k", 2, "-o", tmp_path / "h.parquet")
    assert pq.read_table(tmp_path / "h.parquet").column_names == [
        "query", "rank", "path", "segment", "start_ms", "end_ms", "similarity"]  # fmt: skip


def test_a_folder_of_audio_is_searched_without_a_table(run, tmp_path, caplog):
    for clip in CLIPS[:3]:
        (tmp_path / clip.name).symlink_to(clip)
    assert re.search(r"1 +1\.000", run(CLIPS[1], "--keep-self", "-k", 1, "--window", 5, table=tmp_path))
    (tmp_path / "broken.wav").write_text("no audio")
    run(CLIPS[1], table=tmp_path, status=3)
    assert "broken.wav" in caplog.text


BAD = {
    "silent": (["silent.wav"], "silent"),
    "too short": (["short.wav"], "shorter than a token of 175 ms"),
    "no audio": (["text.wav"], "text.wav"),
    "past the end": ([f"{CLIPS[0]}@1000-1001"], "cannot start at"),
    "reversed": ([f"{CLIPS[0]}@2-1"], "ends before it begins"),
    "nowhere": (["nowhere.wav"], "no such file, and no row"),
    "k of 0": ([str(CLIPS[0]), "-k", "0"], "at least 1"),
    "a folder": (["."], "a folder; expected audio files"),
    "other ending": ([str(CLIPS[0]), "-o", "h.txt"], "-o takes a name"),
    "no such layer": ([str(CLIPS[0]), "--layer", "7"], "no layer '7'"),
}


@pytest.mark.parametrize(("arguments", "reason"), BAD.values(), ids=BAD)
def test_a_bad_query_is_one_line(table, tmp_path, monkeypatch, capsys, arguments, reason):
    monkeypatch.chdir(tmp_path)
    soundfile.write("silent.wav", np.zeros(16000), 16000)
    soundfile.write("short.wav", np.random.default_rng(0).normal(size=2000) / 10, 16000)
    Path("text.wav").write_text("no audio")
    assert cli.run(lambda given: cli.main(["search", *given]), [*arguments, "-t", str(table)]) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1


BAD_TABLES = {
    "time steps": ({"time_ms": [1.0, 2.0]}, np.eye(2), "one row per time step"),
    "NaN": ({}, np.full((2, 2), np.nan), "NaN"),
    "zero": ({}, np.zeros((2, 2)), "zero or not finite"),
    "empty": ({}, np.zeros((0, 2)), "without rows"),
}


@pytest.mark.parametrize(("columns", "vectors", "reason"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_table_that_cannot_be_searched_is_one_line(run, tmp_path, columns, vectors, reason):
    path = write_table(tmp_path / "bad.parquet", ["a.wav", "b.wav"][: len(vectors)], vectors, **columns)
    assert reason in run("a.wav", status=1, table=path)


def test_a_table_of_another_program_has_no_checkpoint_for_audio(run, tmp_path):
    path = write_table(tmp_path / "o.parquet", ["a.wav"], np.ones((1, 2)))
    assert "does not tell its checkpoint" in run(CLIPS[0], status=1, table=path)


def test_python_takes_arrays_and_vectors(table, encoder):
    samples, rate = soundfile.read(CLIPS[2], dtype="float32")
    hits = search(table, {"array": samples, "sampling_rate": rate}, 1)
    assert hits[0].path == str(CLIPS[2])
    embeddings = read_embeddings(table)
    assert search(embeddings, embeddings.vectors[:2], 1)[1].path == str(CLIPS[1])
    assert search(embeddings, CLIPS[2], 1, keep_self=True, encoder=encoder)[0].path == str(CLIPS[2])
    with pytest.raises(ValueError, match="of length 3; the table has"):
        search(table, np.ones(3), 1)
    with pytest.raises(ValueError, match="needs the encoder|does not tell"):
        search(embeddings, {"array": samples, "sampling_rate": rate})


def test_a_query_that_is_given_twice_is_listed_once(run, tmp_path):
    once = run(CLIPS[3], "-k", 2)
    assert run(CLIPS[3], CLIPS[3], "-k", 2, "--cut", tmp_path / "cut").startswith(once)
    assert len(list((tmp_path / "cut").iterdir())) == 2


def test_segments_of_one_file_are_queries_of_different_names(table, encoder):
    segments = [Segment(str(CLIPS[3]), start_ms=0, end_ms=250.0), Segment(str(CLIPS[3]), start_ms=100.0)]
    hits = search(table, [*segments, Segment(str(CLIPS[3]))], k=1, encoder=encoder)
    assert [hit.query for hit in hits] == [f"{CLIPS[3]}@0-0.25", f"{CLIPS[3]}@0.1-end", str(CLIPS[3])]


@pytest.mark.parametrize("ending", ["csv", "parquet", "html"])
def test_a_query_whose_name_is_not_utf8_is_written_as_in_tables(run, tmp_path, ending):
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/\xff.wav"))
    odd.write_bytes(CLIPS[3].read_bytes())
    run(odd, "-k", 1, "-o", tmp_path / f"h.{ending}")
    assert rb"\xff.wav" in (tmp_path / f"h.{ending}").read_bytes()


def test_no_part_of_a_table_is_replaced_or_added(run, tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    part = write_table(folder / "a.parquet", ["a.wav", "b.wav"], np.eye(2, dtype=np.float32))
    before = part.read_bytes()
    for name in ("a.parquet", "new.parquet"):
        assert "an input" in run("a.wav", "-o", folder / name, table=folder, status=1)
    assert part.read_bytes() == before
    assert "1 hit" in run("a.wav", "-o", folder / "h.csv", table=folder)


def test_a_query_alone_takes_no_int8(table, capsys):
    assert cli.main(["search", str(CLIPS[0]), "-t", str(table), "--precision", "int8"]) == 1
    error = capsys.readouterr().err
    assert "--precision int8 goes with audio in place of a table" in error
    assert "--checkpoint" not in error
