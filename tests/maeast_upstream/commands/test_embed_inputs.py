"""`maeast embed`: lists, manifests, tars, and files that cannot be read."""

import csv
import io
import shutil
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile
from embed_runs import errors, rows

from maeast_upstream import load_model
from maeast_upstream.cli import main
from maeast_upstream.extract import embed_files

DATA = Path(__file__).parents[2] / "data"


@pytest.mark.slow
def test_a_broken_file_is_listed_and_the_rest_goes_on(folder, tmp_path, capsys):
    (folder / "0broken.wav").write_bytes(b"nothing")
    out = tmp_path / "e.parquet"
    assert main(["embed", str(folder), "-o", str(out)]) == 3
    assert len(rows(out)) == 6
    with (tmp_path / "e.parquet.errors.tsv").open(newline="") as file:
        listed = list(csv.DictReader(file, delimiter="\t"))
    assert [row["path"] for row in listed] == [str(folder / "0broken.wav")]
    assert "not audio" in listed[0]["reason"]
    assert "0broken.wav" in errors(capsys)
    (folder / "0broken.wav").unlink()
    assert main(["embed", str(folder), "-o", str(out), "--force"]) == 0
    assert not (tmp_path / "e.parquet.errors.tsv").exists()


@pytest.mark.slow
def test_a_file_beyond_max_hours_is_left_out_with_its_length(tmp_path, capsys):
    long, short = tmp_path / "in" / "long.wav", tmp_path / "in" / "short.wav"
    long.parent.mkdir()
    for path, seconds in ((long, 5.0), (short, 1.0)):
        soundfile.write(path, np.zeros(round(seconds * 16000)) + 0.1, 16000)
    out, command = tmp_path / "e.parquet", ["embed", str(long.parent), "-o", str(tmp_path / "e.parquet")]
    assert main([*command, "--max-hours", "0.001"]) == 3
    message = f"{long}: 0.0013889 hours of audio; the limit is 0.001 hours (--max-hours)"
    assert message in errors(capsys)
    assert [row["path"] for row in rows(out)] == [str(short)]
    assert main([*command, "--max-hours", "1"]) == 1  # not "complete already"
    assert "was begun with max_hours 0.001, not 1.0" in errors(capsys)
    listed = []
    embedded = list(embed_files(long.parent, max_hours=0.001, on_error=lambda *error: listed.append(error)))
    assert [row["path"] for row in embedded] == [str(short)]
    assert listed == [(str(long), message)]


def test_nothing_readable_is_status_1_and_no_table(tmp_path, capsys):
    (tmp_path / "a.wav").write_bytes(b"nothing")
    out = tmp_path / "e.parquet"
    assert main(["embed", str(tmp_path / "a.wav"), "-o", str(out)]) == 1
    assert errors(capsys).splitlines()[-1].startswith("error: none of the 1 input files could be read; first error: ")
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


def test_a_name_that_is_not_utf8_is_written_with_a_mark(folder, tmp_path):
    clip = sorted(folder.iterdir())[0]
    clip.rename(folder / b"caf\xe9.opus".decode("utf-8", "surrogateescape"))
    out = tmp_path / "e.parquet"
    assert main(["embed", str(folder), "-o", str(out)]) == 0
    assert str(folder / "caf\\xe9.opus") in [row["path"] for row in rows(out)]


def test_stdin_gives_the_list(folder, tmp_path, monkeypatch):
    names = b"".join(bytes(path) + b"\n" for path in sorted(folder.iterdir()))
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": io.BytesIO(names)}))
    out = tmp_path / "e.parquet"
    assert main(["embed", "-", "-o", str(out)]) == 0
    assert [row["path"] for row in rows(out)] == [str(path) for path in sorted(folder.iterdir())]


def test_without_stdin_the_list_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", None)
    assert main(["embed", "-", "-o", str(tmp_path / "e.parquet")]) == 1
    assert errors(capsys) == "error: -: stdin is closed; expected a list of paths\n"


def test_segments_of_a_manifest_are_rows_of_that_audio(tmp_path, long_clip):
    manifest = tmp_path / "m.tsv"
    name = DATA / "audio" / "long_drums.opus"
    manifest.write_text(f"path\tstart\tend\n{name}\t0.5\t1.5\n{name}\t2\t4.25\n")
    out = tmp_path / "e.parquet"
    assert main(["embed", str(manifest), "-o", str(out)]) == 0
    model = load_model()
    table = rows(out)
    assert [(row["segment"], row["start_ms"], row["end_ms"]) for row in table] == [(0, 500, 1500), (1, 2000, 4250)]
    for row, segment in zip(table, (long_clip[8000:24000], long_clip[32000:68000]), strict=True):
        assert np.allclose(row["vector"], model.embed([segment])[0].numpy(), atol=1e-4)
    frames = tmp_path / "f.parquet"
    assert main(["embed", str(manifest), "-o", str(frames), "--kind", "frames"]) == 0
    second = [row["time_ms"] for row in rows(frames) if row["segment"] == 1]
    assert (
        second
        == (2000 + model.encode([long_clip[32000:68000]], hop_ms=model.config.readout.hop_ms).times_ms[0]).tolist()
    )


@pytest.mark.slow
def test_tars_and_packed_corpora_give_the_rows_of_their_clips(folder, tmp_path):
    from pretrain.data.packing import pack

    paths = sorted(folder.iterdir())
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for path in paths:
            tar.add(path, path.name)
    pack(folder, tmp_path / "packed")
    tables = {}
    for name in ("clips", "shard.tar", "packed"):
        assert main(["embed", str(tmp_path / name), "-o", str(tmp_path / f"{name}.parquet")]) == 0
        tables[name] = rows(tmp_path / f"{name}.parquet")
    assert [row["path"] for row in tables["shard.tar"]] == [f"{tmp_path}/shard.tar/{path.name}" for path in paths]
    for one, tar, packed in zip(*tables.values(), strict=True):
        assert np.allclose(one["vector"], tar["vector"], atol=1e-4)
        assert np.allclose(one["vector"], packed["vector"], atol=0.02), "int16 rounding only"


def test_an_output_that_is_not_utf8_is_told_where_printing_is_strict(folder, tmp_path, monkeypatch):
    out = tmp_path / b"caf\xe9.parquet".decode("utf-8", "surrogateescape")
    told = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(told, "utf-8", "strict", write_through=True))
    for _ in range(2):
        assert main(["embed", str(folder), "-o", str(out)]) == 0
    assert b"caf\\xe9.parquet is complete already" in told.getvalue()
    assert out.exists()


def test_segments_of_two_manifests_and_the_whole_file_have_an_npy_file_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(DATA / "audio" / "long_drums.opus", "one.opus")
    for name, end in (("short", 0.1), ("long", 0.3)):
        Path(f"{name}.csv").write_text(f"path,start,end\none.opus,0,{end}\n")
    assert main(["embed", "short.csv", "long.csv", "one.opus", "-o", "out", "--format", "npy"]) == 0
    names = ["one.opus.0.0-100.npy", "one.opus.0.0-300.npy", "one.opus.npy"]
    assert [row["file"] for row in rows(Path("out/index.parquet"))] == names
    arrays = [np.load(Path("out") / name) for name in names]
    assert not np.array_equal(arrays[0], arrays[1])


def test_a_manifest_of_other_columns_and_separators_is_embedded(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    names = sorted(path.name for path in folder.iterdir())[:2]
    table = tmp_path / "m.csv"
    lines = ["Audio;END", *(f"{folder / name};0,1" for name in names)]
    table.write_text("\r\n".join(lines), "utf-16")
    assert main(["embed", str(table), "--path-column", "audio", "-o", str(tmp_path / "e.parquet")]) == 0
    assert [row["end_ms"] for row in rows(tmp_path / "e.parquet")] == [100.0, 100.0]


def test_an_error_has_the_row_of_its_manifest(tmp_path):
    good = DATA / "audio" / "long_drums.opus"
    (tmp_path / "m.csv").write_text(f"path,start,end\n{good},0,1\n{good},7000,7001\n")
    assert main(["embed", str(tmp_path / "m.csv"), "-o", str(tmp_path / "e.parquet")]) == 3
    with (tmp_path / "e.parquet.errors.tsv").open(newline="") as file:
        assert [row["segment"] for row in csv.DictReader(file, delimiter="\t")] == ["1"]


def test_a_password_in_an_address_stands_nowhere(folder, tmp_path, capsys):
    files = fsspec.filesystem("memory")
    for name in ("one", "two"):  # to the file system in memory these are names of folders
        files.pipe(f"/user:S3CRET-{name}@host/a.opus", sorted(folder.iterdir())[0].read_bytes())
    names = [f"user:S3CRET-{name}" for name in ("one/gone", "two/gone", "one@host/a", "two@host/a")]
    lines = [f"memory://{name.replace('/gone', '@host/gone')}.opus" for name in names]
    (tmp_path / "m.csv").write_text("\n".join(["path", *lines]))
    for options in (["-o", str(tmp_path / "e.parquet")], ["-o", "memory://user:S3CRET-out@host/e.parquet"]):
        assert main(["embed", str(tmp_path / "m.csv"), *options, "--workers", "0"]) == 3
    assert main(["embed", "memory://user:S3CRET-none@host/a.wav", "-o", str(tmp_path / "f.parquet")]) == 1
    told = capsys.readouterr()
    assert "S3CRET" not in told.out + told.err
    assert "memory://user:***@host/a.wav: no such file" in told.err
    for path in tmp_path.glob("e.*"):
        assert b"S3CRET" not in path.read_bytes()
    table = rows(tmp_path / "e.parquet")
    assert [row["path"] for row in table] == ["memory://user:***@host/a.opus", "memory://user:***2@host/a.opus"]


@pytest.mark.slow
def test_paths_relative_to_a_folder_hold_on_other_machines(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [path.name for path in sorted(folder.iterdir())]
    assert main(["embed", "clips", "-o", "t.parquet", "--relative-to", "clips"]) == 0
    assert [row["path"] for row in rows(tmp_path / "t.parquet")] == names
    assert [row["path"] for row in embed_files("clips", workers=0, relative_to="clips")] == names


@pytest.mark.slow
def test_readers_of_a_table_find_the_audio_that_its_paths_are_relative_to(folder, tmp_path, monkeypatch, capsys):
    from maeast_upstream.data.embeddings import EmbeddingTable
    from maeast_upstream.data.inputs import segment_of
    from maeast_upstream.similarity import duplicates

    out, names = tmp_path / "t.parquet", [path.name for path in sorted(folder.iterdir())]
    shutil.copy(folder / names[0], folder / "copy.opus")
    assert main(["embed", str(folder), "-o", str(out), "--relative-to", str(folder)]) == 0
    monkeypatch.chdir("/")
    table = EmbeddingTable(out)
    (block,) = table.blocks()
    assert (table.root, block.root, table.take([1, 0]).root) == (str(folder),) * 3
    assert sorted(block.files) == [str(path) for path in sorted(folder.iterdir())]
    assert all(Path(segment_of(path, block.root).path).is_file() for path in block.paths)
    assert {clip.path for clip in duplicates(out, compare="bytes").found} == {names[0], "copy.opus"}
    assert main(["map", str(out), "-o", str(tmp_path / "map.html"), "--audio", "embed"]) == 0
    assert "without sound" not in "".join(capsys.readouterr())
    folder.rename(tmp_path / "moved")  # as on another machine: then paths start at the current folder
    assert EmbeddingTable(out).root == ""


def test_a_run_continues_only_with_paths_relative_to_the_same_folder(folder, tmp_path, capsys):
    out = tmp_path / "t.parquet"
    assert main(["embed", str(folder), "-o", str(out), "--relative-to", str(folder)]) == 0
    for options in ([], ["--relative-to", str(tmp_path)]):
        assert main(["embed", str(folder), "-o", str(out), *options]) == 1
        assert f"was begun with relative_to '{folder}', not " in errors(capsys)
    assert main(["embed", str(folder), "-o", str(out), "--relative-to", str(folder)]) == 0
    assert main(["embed", str(DATA / "audio"), "-o", str(tmp_path / "u.parquet"), "--relative-to", str(folder)]) == 1
    assert ".opus: outside of " in errors(capsys)
    assert not (tmp_path / "u.parquet").exists()
