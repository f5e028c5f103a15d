"""What inputs hold: complete, in order, lazily, with errors that name their place."""

import io
import itertools
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sounds import tone

from maeast_upstream.audio.files import is_hidden
from maeast_upstream.audio.reading import AudioError, read_audio
from maeast_upstream.data.inputs import Segment, cost, list_segments
from maeast_upstream.data.manifest import Row, read_fairseq
from maeast_upstream.data.packed import open_packed
from maeast_upstream.decoding.pool import DecodePool
from maeast_upstream.decoding.worker import read_segment
from maeast_upstream.display import as_text
from maeast_upstream.storage.delimited import write_csv

CLIPS = sorted((Path(__file__).parents[2] / "data" / "audio").glob("*.opus"))
ANY_CASE = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def paths(*inputs, **options):
    return [segment.path for segment in list_segments(inputs, **options)]


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_packed(folder, lengths):
    folder.mkdir(parents=True)
    (folder / "audio.i16").write_bytes(np.arange(sum(lengths), dtype="<i2").tobytes())
    rows = [f"clip {number}.wav\t\t{length}\n" for number, length in enumerate(lengths)]
    (folder / "clips.tsv").write_text("clip\tkind\tsamples\n" + "".join(rows))
    return folder


def test_folders_are_listed_like_sorted_paths(tmp_path):
    touch(
        tmp_path,
        "b.wav",
        "a/z.WAV",
        "a/b/1.flac",
        "a b/x.opus",
        "c/notes.txt",
        ".hidden/y.mp3",
        "é.wav",
        "Z.aif",
    )
    listed = (path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".txt")
    expected = sorted(path for path in listed if not is_hidden(str(path.relative_to(tmp_path))))
    assert paths(tmp_path) == list(map(str, expected))


@ANY_CASE
@given(
    names=st.sets(
        st.lists(
            st.text("ab.é \n", min_size=1, max_size=3).filter(lambda name: name.strip(".")),
            min_size=1,
            max_size=3,
        )
        .map("/".join)
        .map(lambda name: f"{name}.wav"),
        max_size=8,
    )
)
def test_any_tree_is_listed_once_in_the_same_order(tmp_path, names):
    shutil.rmtree(tmp_path / "t", ignore_errors=True)
    (tmp_path / "t").mkdir()
    touch(tmp_path / "t", "0.wav")
    for name in names:
        try:
            touch(tmp_path / "t", name)
        except (NotADirectoryError, IsADirectoryError, FileExistsError):
            continue
    root = tmp_path / "t"
    shown = (path for path in root.rglob("*.wav") if path.is_file() and not is_hidden(str(path.relative_to(root))))
    files = sorted(shown)
    assert paths(tmp_path / "t") == list(map(str, files)) == paths(f"{tmp_path}/t/", tmp_path / "t")


def test_the_names_are_relative_where_the_input_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a/x.wav", "y.wav")
    assert paths(".") == paths("./") == ["a/x.wav", "y.wav"]
    assert paths("./a") == paths("a/") == ["a/x.wav"]


def test_inputs_come_in_their_order_and_none_twice(tmp_path):
    touch(tmp_path, "odd.bin", "a/1.wav", "a/b/2.wav", "a/c/3.wav")
    a = tmp_path / "a"
    found = paths(
        tmp_path / "odd.bin",
        a / "c",
        a,
        a / "1.wav",
        f"{a}/../a/",
        tmp_path / "odd.bin",
    )
    assert [Path(path).name for path in found] == ["odd.bin", "3.wav", "2.wav", "1.wav"]


def test_links_to_files_are_taken_and_links_to_folders_are_followed_once(tmp_path, caplog):
    touch(tmp_path, "t/x.wav", "elsewhere/y.wav", "elsewhere/deep/z.wav")
    (tmp_path / "t" / "loop").symlink_to(tmp_path / "t")
    (tmp_path / "t" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "t" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "deep" / "up").symlink_to("..")
    (tmp_path / "t" / "itself").symlink_to("itself")
    (tmp_path / "t" / "unplugged").symlink_to(tmp_path / "disk")
    (tmp_path / "t" / "dangling.wav").symlink_to(tmp_path / "nowhere")
    (tmp_path / "t" / "y.wav").symlink_to(tmp_path / "elsewhere" / "y.wav")
    found = [os.path.relpath(path, tmp_path / "t") for path in paths(tmp_path / "t")]
    assert found == ["dangling.wav", "x.wav", "y.wav", "again/deep/z.wav", "again/y.wav"]
    assert f"left out: 2 broken links (the first: {tmp_path}/t/itself)" in caplog.text
    assert [Path(path).name for path in paths(tmp_path / "t" / "more")] == ["z.wav", "y.wav"]


def test_a_link_to_a_folder_around_is_not_followed_but_named(tmp_path, caplog):
    touch(tmp_path, "other/y.wav", "t/a/x.wav", "disk/b/z.wav")
    (tmp_path / "t" / "a" / "up").symlink_to("../..")
    (tmp_path / "t" / "root").symlink_to("/")
    (tmp_path / "t" / "more").symlink_to(tmp_path / "disk" / "b")
    (tmp_path / "disk" / "b" / "up").symlink_to("..")
    assert [Path(path).name for path in paths(tmp_path / "t")] == ["x.wav", "z.wav"]
    assert caplog.messages == [f"left out: 3 linked folders (the first: {tmp_path}/t/a/up)"]


def test_a_folder_has_its_real_name_whatever_links_lead_to_it(tmp_path):
    touch(tmp_path, "t/z/x.wav", "t/.store/y.wav", "disk/w.wav")
    (tmp_path / "t" / "a").symlink_to("z")
    (tmp_path / "t" / "b").symlink_to(".store")
    (tmp_path / "t" / "c").symlink_to(tmp_path / "disk")
    (tmp_path / "link").symlink_to("t")
    relative = [os.path.relpath(path, tmp_path) for path in paths(tmp_path / "t")]
    assert relative == ["t/z/x.wav", "t/b/y.wav", "t/c/w.wav"]
    for others in ([tmp_path / "disk"], [tmp_path / "link"], [tmp_path / "t" / "a", tmp_path / "t" / "c"]):
        for inputs in ([tmp_path / "t", *others], [*others, tmp_path / "t"]):
            assert sorted(Path(path).name for path in paths(*inputs)) == ["w.wav", "x.wav", "y.wav"]


def test_folders_far_deeper_than_python_recurses_are_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(1100):
        Path("d").mkdir()
        os.chdir("d")
    Path("x.wav").touch()
    try:
        assert len(paths(tmp_path)) == 1
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # shutil.rmtree recurses


def test_hidden_files_are_counted_in_a_line_and_read_when_they_are_named(tmp_path, caplog):
    touch(tmp_path, "d/x.wav", "d/._x.wav", "d/.y.flac", "d/.DS_Store", "d/.git/z.wav", "d/.n/z.wav")
    assert [Path(path).name for path in paths(tmp_path / "d")] == ["x.wav"]
    assert caplog.messages == [
        f"left out: 2 hidden files (the first: {tmp_path}/d/._x.wav), 2 hidden folders (the first: {tmp_path}/d/.git)"
    ]
    (tmp_path / "d" / "x.wav").unlink()
    with pytest.raises(ValueError, match=r"a folder without audio; left out: 2 hidden files .*; looked for .*\.wav"):
        list_segments([tmp_path / "d"])
    named = [tmp_path / "d" / ".y.flac", tmp_path / "d" / ".git"]
    assert [Path(path).name for path in paths(*named)] == [".y.flac", "z.wav"]


def test_a_folder_that_may_not_be_read_is_an_error_of_its_own(tmp_path, monkeypatch):
    touch(tmp_path, "a/x.wav", "b/y.wav", "c/z.wav")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list(list_segments([tmp_path]))
    assert [segment.error for segment in found] == [
        None,
        f"{tmp_path}/b: cannot be read (Permission denied)",
        None,
    ]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere.wav", "nowhere.wav: no such file or folder"),
        ("nowhere.tsv", "nowhere.tsv: no such file or folder"),
        ("dangling.wav", "dangling.wav: no such file or folder"),
        ("empty", r"empty: a folder without audio; looked for .*\.wav.* \.tar"),
        ("empty.csv", "empty.csv: expected a header with the column path"),
        ("", "an empty path"),
    ],
)
def test_what_is_wrong_with_an_input_shows_at_once(tmp_path, monkeypatch, name, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "good.wav", "empty/notes.txt")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "dangling.wav").symlink_to("nothing")
    with pytest.raises(ValueError, match=reason):
        list_segments(["good.wav", name])


def test_listing_is_lazy(tmp_path, monkeypatch):
    touch(tmp_path, *(f"{number}/x.wav" for number in range(10)))
    scanned, scan = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (scanned.append(str(path)), scan(path))[1])
    segments = list_segments([tmp_path])
    list(itertools.islice(segments, 3))
    assert not any(path.endswith("/5") for path in scanned)


def manifest(tmp_path, text, name="m.tsv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_manifest_gives_segments_with_the_number_of_their_row(tmp_path):
    table = "speaker\tpath\tstart_ms\tend_ms\nx\ta.wav\t500\t1500.5\ny\t/b c.wav\t\t\n\nz\tsub/a.wav\t0\t\n"
    assert list(list_segments([manifest(tmp_path, table)])) == [
        Segment(f"{tmp_path}/a.wav", 0, 500.0, 1500.5),
        Segment("/b c.wav", 1),
        Segment(f"{tmp_path}/sub/a.wav", 2, 0.0),
    ]


def test_seconds_and_quotes_and_a_byte_order_mark_are_understood(tmp_path):
    table = '\ufeffpath,start,end\r\n"a, ""b""\nc.wav",0.25,1\r\ns3://bucket/x.wav,,2\r\n'
    assert list(list_segments([manifest(tmp_path, table, "m.CSV")])) == [
        Segment(f'{tmp_path}/a, "b"\nc.wav', 0, 250.0, 1000.0),
        Segment("s3://bucket/x.wav", 1, None, 2000.0),
    ]


def test_bytes_that_are_not_utf8_name_the_same_file(tmp_path):
    name = os.fsdecode(b"caf\xe9.opus")
    shutil.copy(CLIPS[0], tmp_path / name)
    (segment,) = list_segments([manifest(tmp_path, b"path\ncaf\xe9.opus\n")])
    assert np.array_equal(read_segment(segment), read_audio(CLIPS[0]))
    assert as_text(segment.path) == f"{tmp_path}/caf\\xe9.opus"  # and other bytes are another text


def test_fairseq_s_manifest_has_its_root_in_the_first_line(tmp_path):
    (tmp_path / "x y").mkdir()
    found = list(list_segments([manifest(tmp_path, f'{tmp_path}/x y\na/1.flac\t16000\n"2".flac\t5\tspeech\n')]))
    assert found == [Segment(f"{tmp_path}/x y/a/1.flac", 0), Segment(f'{tmp_path}/x y/"2".flac', 1)]
    assert paths(manifest(tmp_path, "x y\n1.wav\t5\n")) == [f"{tmp_path}/x y/1.wav"]
    assert paths(manifest(tmp_path, "s3://bucket/x\n1.wav\t5\n")) == ["s3://bucket/x/1.wav"]


def test_fairseq_s_manifest_gives_samples_and_kinds_to_pretraining(tmp_path):
    root, rows = read_fairseq(str(manifest(tmp_path, "\ufeff.\r\na/1.flac\t16000\r\n  \r\n2.flac\t5\tspeech\r\n")))
    assert root == f"{tmp_path}/."
    assert list(rows) == [Row("a/1.flac", 0, samples=16000), Row("2.flac", 1, samples=5, kind="speech")]
    with pytest.raises(ValueError, match="a root folder"):
        read_fairseq(str(manifest(tmp_path, "path\tkind\n1.flac\tspeech\n")))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "file\tstart\nx.wav\t1\n",
            r"m\.tsv: expected a header with the column path.* got 'file",
        ),
        ("path\n", r"m\.tsv: no rows"),
        (
            "path\tstart\tstart_ms\nx\t1\t1\n",
            r"m\.tsv: both start .* and start_ms",
        ),
        ("path\tpath\nx\ty\n", r"m\.tsv: two columns are called 'path'"),
        (
            "path\tstart\nx.wav\t1\ny.wav\tsoon\n",
            r"m\.tsv: row 1 \(counted from 0\): start 'soon' is not a number",
        ),
        (
            "path\tstart_ms\nx.wav\t-1\n",
            r"m\.tsv: row 0 .*: start_ms is -1; expected 0 or more",
        ),
        ("path\tend\nx.wav\tnan\n", r"m\.tsv: row 0 .*: end is nan"),
        (
            "path\tstart\tend\nx.wav\t2\t1\n",
            r"m\.tsv: row 0 .*: starts at 2000 ms and ends at 1000 ms",
        ),
        ("path\tend\nx.wav\t0\n", r"m\.tsv: row 0 .*: starts at 0 ms and ends at 0 ms"),
        ("path\tend\n\t1\n", r"m\.tsv: row 0 .*: no path"),
        ("/no/where\nx.wav\t1\n", r"m\.tsv: expected .* a root folder that exists .* '/no/where'"),
        (
            ".\nx.wav\t1\ny.wav\n",
            r"m\.tsv: row 1 .*: expected path, tab, samples",
        ),
    ],
)
def test_a_wrong_manifest_is_named_with_its_row(tmp_path, text, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        list(list_segments([manifest(tmp_path, text)]))
    assert "\n" not in str(caught.value)


@ANY_CASE
@given(
    rows=st.lists(
        st.tuples(
            st.text(min_size=1).filter(str.strip),
            st.floats(0, 1e6),
            st.floats(0.001, 1e6),
        ),
        min_size=1,
    )
)
def test_what_python_s_csv_writes_is_read_back(tmp_path, rows):
    import csv

    rows = [(path.replace("\0", "").replace("\r", "") or "x", start, start + length) for path, start, length in rows]
    with (tmp_path / "m.csv").open("w", newline="", encoding="utf-8", errors="surrogatepass") as file:
        csv.writer(file).writerows([("path", "start_ms", "end_ms"), *rows])
    found = list(list_segments([tmp_path / "m.csv"]))
    assert [(segment.number, segment.start_ms, segment.end_ms) for segment in found] == [
        (number, start, end) for number, (_, start, end) in enumerate(rows)
    ]


@pytest.mark.parametrize("header", ["path, start, end", "path ,\tStart,END", "Path,START ,End"])
def test_names_of_columns_may_have_blanks_around_them_and_capitals(tmp_path, header):
    table = f"{header}\n{CLIPS[0]}, 0.1, 0.2\n"
    assert list(list_segments([manifest(tmp_path, table, "m.csv")])) == [Segment(str(CLIPS[0]), 0, 100.0, 200.0)]


def test_fairseq_s_root_keeps_its_capitals_and_blanks(tmp_path):
    (tmp_path / "Data X ").mkdir()
    assert paths(manifest(tmp_path, "Data X \n1.wav\t5\n")) == [f"{tmp_path}/Data X /1.wav"]


@pytest.mark.parametrize("name", ["m.tsv", "m.csv"])
@pytest.mark.parametrize("clip", ['"x".opus', '"x.opus'])
def test_a_name_that_begins_with_a_quotation_mark_swallows_no_rows(tmp_path, name, clip):
    tab = "\t" if name == "m.tsv" else ","
    table = "".join(f"{tab.join(row)}\n" for row in [("path", "end"), ("a.wav", "1"), (clip, "2"), ("b.wav", "3")])
    with pytest.raises(ValueError, match=rf"{name}: row 1 \(counted from 0\): .*quotation marks"):
        list(list_segments([manifest(tmp_path, table, name)]))
    quoted = table.replace(clip, '"' + clip.replace('"', '""') + '"')
    assert [Path(path).name for path in paths(manifest(tmp_path, quoted, name))] == ["a.wav", clip, "b.wav"]


@ANY_CASE
@given(text=st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_a_value_error(tmp_path, text):
    try:
        list(list_segments([manifest(tmp_path, text)]))
    except ValueError as error:
        assert str(tmp_path) in str(error)


def test_members_of_a_tar_are_listed_by_their_headers(tmp_path):
    clip = CLIPS[0].read_bytes()
    long_name = "d/" + "x" * 150 + ".opus"
    members = [
        ("a/é b.opus", clip),
        ("a/x.json", b"{}"),
        (long_name, clip),
        ("y.WAV", b"not audio"),
    ]
    shard = write_tar(tmp_path / "shard.tar", members)
    found = list(list_segments([shard]))
    assert [segment.path for segment in found] == [
        f"{shard}/a/é b.opus",
        f"{shard}/{long_name}",
        f"{shard}/y.WAV",
    ]
    assert {segment.number for segment in found} == {0}
    assert [cost(segment) for segment in found] == [len(clip), len(clip), 9]
    for segment in found[:2]:
        assert np.array_equal(read_segment(segment), read_audio(CLIPS[0]))
    with pytest.raises(AudioError, match=rf"{shard}/y\.WAV: not audio"):
        read_segment(found[2])


def sparse_headers(name, size, form):
    """A member of 512 stored bytes, with the header of a sparse file of ``size``."""
    member = tarfile.TarInfo(name)
    member.size = 512
    if form == "pax":
        member.pax_headers = {"GNU.sparse.map": f"{size - 512},512", "GNU.sparse.size": str(size)}
        return member.tobuf(tarfile.PAX_FORMAT)
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"%011o\0%011o\0" % (size - 512, 512)
    header[483:495] = b"%011o\0" % size
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header)


@pytest.mark.parametrize("form", ["gnu", "pax"])
@pytest.mark.parametrize("size", [1024, 1 << 20])
def test_a_sparse_member_is_an_error_of_its_own(tmp_path, form, size):
    shard = write_tar(tmp_path / "x.tar", [("b.opus", CLIPS[0].read_bytes())])
    shard.write_bytes(sparse_headers("a.wav", size, form) + bytes(512) + shard.read_bytes())
    sparse, whole = list_segments([shard])
    assert sparse == Segment(
        f"{shard}/a.wav", error=f"{shard}/a.wav: a sparse member; make the tar without --sparse (-S)"
    )
    assert np.array_equal(read_segment(whole), read_audio(CLIPS[0]))


def test_a_link_in_a_tar_is_an_error_that_names_its_target(tmp_path):
    for name in ("a.opus", "notes.txt"):
        shutil.copy(CLIPS[0], tmp_path / name)
    os.link(tmp_path / "a.opus", tmp_path / "b.opus")
    os.link(tmp_path / "notes.txt", tmp_path / "notes 2.txt")
    (tmp_path / "c.opus").symlink_to("a.opus")
    shard = tmp_path / "x.tar"
    with tarfile.open(shard, "w") as tar:
        for name in ("a.opus", "b.opus", "c.opus", "notes.txt", "notes 2.txt"):
            tar.add(tmp_path / name, name)
    whole, hard, soft = list_segments([shard])
    assert (whole.path, whole.error) == (f"{shard}/a.opus", None)
    assert hard == Segment(
        f"{shard}/b.opus", error=f"{shard}/b.opus: a link to a.opus; make the tar with --hard-dereference"
    )
    assert soft == Segment(
        f"{shard}/c.opus", error=f"{shard}/c.opus: a link to a.opus; make the tar with --dereference"
    )


@pytest.mark.parametrize(
    ("size", "kind"),
    [(-1, tarfile.REGTYPE), (-512, tarfile.REGTYPE), (-5000, tarfile.REGTYPE), (-512, tarfile.GNUTYPE_SPARSE)],
)
def test_a_member_of_negative_size_ends_its_tar_as_an_error(tmp_path, size, kind):
    shard = write_tar(tmp_path / "x.tar", [("a.wav", bytes(700))])
    member = tarfile.TarInfo("b.wav")
    member.size, member.type = size, kind
    shard.write_bytes(shard.read_bytes()[:1536] + member.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    found = list(itertools.islice(list_segments([shard]), 9))
    assert [segment.path for segment in found] == [f"{shard}/a.wav", str(shard)]
    assert found[1].error.startswith(f"{shard}: not a whole tar file (")


def test_tars_in_a_folder_are_listed_among_its_files(tmp_path):
    touch(tmp_path, "a.wav", "c.wav")
    write_tar(tmp_path / "b.tar", [("x.wav", b"x")])
    assert [path.removeprefix(f"{tmp_path}/") for path in paths(tmp_path)] == [
        "a.wav",
        "b.tar/x.wav",
        "c.wav",
    ]


def test_of_a_tar_cut_anywhere_the_whole_members_are_listed_and_it_is_an_error(
    tmp_path,
):
    whole = write_tar(tmp_path / "whole.tar", [(f"{number}.wav", bytes(700)) for number in range(3)]).read_bytes()
    shard = tmp_path / "x.tar"
    for length in range(1, 3 * 1536 + 1, 100):
        shard.write_bytes(whole[:length])
        *members, error = list_segments([shard])
        assert error.path == str(shard)
        assert error.error.startswith(f"{shard}: not a whole tar file (")
        assert [segment.path for segment in members] == [f"{shard}/{n}.wav" for n in range((length + 324) // 1536)]
    shard.write_bytes(whole[: 3 * 1536 + 512])  # one block of zeros is an end
    assert all(segment.error is None for segment in list_segments([shard]))


@pytest.mark.parametrize("content", [b"", b"no tar at all", b"x" * 5000])
def test_what_is_no_tar_is_an_error_of_its_own(tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content)
    (segment,) = list_segments([tmp_path / "x.tar"])
    assert "x.tar: not a whole tar file" in segment.error
    with DecodePool(0) as pool:
        assert [str(result) for _, result in pool.decode([segment])] == [segment.error]


def test_a_broken_header_in_a_tar_ends_it_as_an_error(tmp_path):
    shard = write_tar(tmp_path / "x.tar", [(f"{number}.wav", bytes(700)) for number in range(3)])
    raw = bytearray(shard.read_bytes())
    raw[1536 + 10] ^= 0xFF
    shard.write_bytes(raw)
    found = list(list_segments([shard]))
    assert [segment.path for segment in found] == [f"{shard}/0.wav", str(shard)]
    assert "no header and no end at byte 1536" in found[1].error


@ANY_CASE
@given(
    places=st.lists(st.tuples(st.integers(0, 6143), st.integers(0, 255)), max_size=8),
    length=st.integers(0, 6144),
)
def test_a_broken_tar_never_raises(tmp_path, places, length):
    shard = write_tar(tmp_path / "x.tar", [(f"{number}.wav", bytes(700)) for number in range(3)])
    raw = bytearray(shard.read_bytes())
    for place, value in places:
        raw[place] = value
    shard.write_bytes(raw[:length])
    for segment in list_segments([shard]):
        assert segment.error or segment.offset + segment.size <= length


def test_a_tar_that_was_changed_after_it_was_listed_is_an_error(tmp_path):
    shard = write_tar(tmp_path / "x.tar", [("x.wav", bytes(700))])
    (segment,) = list_segments([shard])
    shard.write_bytes(shard.read_bytes()[:600])
    with pytest.raises(AudioError, match=r"x\.tar/x\.wav: .*x\.tar ends before this member; was it changed"):
        read_segment(segment)
    shard.unlink()
    with pytest.raises(AudioError, match=r"x\.wav: cannot be read \(No such file"):
        read_segment(segment)


def test_packed_clips_have_their_names_numbers_and_places(tmp_path):
    folder = write_packed(tmp_path / "packed", [3, 5, 1])
    file = f"{folder}/audio.i16"
    expected = [
        Segment(
            f"clip {number}.wav",
            number,
            offset=offset,
            size=size,
            file=file,
            packed=True,
        )
        for number, (offset, size) in enumerate([(0, 6), (6, 10), (16, 2)])
    ]
    assert list(list_segments([folder])) == list(list_segments([tmp_path])) == expected
    with DecodePool(2) as pool:
        assert [result.tolist() for _, result in pool.decode(expected)] == [
            [0, 1, 2],
            [3, 4, 5, 6, 7],
            [8],
        ]
    assert open_packed(folder).lengths.tolist() == [3, 5, 1]


def test_a_packed_folder_that_is_not_whole_is_refused(tmp_path):
    folder = write_packed(tmp_path / "packed", [3, 5])
    (folder / "audio.i16").write_bytes(bytes(10))
    with pytest.raises(ValueError, match=r"audio\.i16 has 10 bytes, clips\.tsv declares 16; remove both"):
        list(list_segments([folder]))
    with DecodePool(0) as pool:
        segment = Segment("x", 0, offset=6, size=10, file=f"{folder}/audio.i16", packed=True)
        ((_, result),) = pool.decode([segment])
    assert "x: 2 samples in" in str(result)


def test_stdin_gives_a_path_a_line(tmp_path):
    shard = write_tar(tmp_path / "x.tar", [("m.wav", b"x")])
    lines = io.BytesIO(b"a b.wav\ncaf\xe9.wav\r\n\n" + os.fsencode(shard) + b"\nlast.opus")
    assert [os.fsencode(path) for path in paths("-", stdin=lines)] == [
        b"a b.wav",
        b"caf\xe9.wav",
        os.fsencode(shard) + b"/m.wav",
        b"last.opus",
    ]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_list_on_stdin_may_have_a_byte_order_mark_and_any_line_ends(encoding, end):
    lines = io.BytesIO(end.join(["a.wav ", " ", "é b.wav", ""]).encode(encoding))
    assert paths("-", stdin=lines) == ["a.wav", "é b.wav"]


def test_a_name_with_a_carriage_return_is_kept_if_there_is_such_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a\rb.wav")
    assert paths("-", stdin=io.BytesIO(b"a\rb.wav\n")) == ["a\rb.wav"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("a.wav\nb.wav\n".encode("utf-16-le"), "stdin: a zero byte in line 1; expected text in UTF-8"),
        (b"a.wav\0b.wav\0", "stdin: a zero byte in line 1"),
        (b"\xff\xfea", "stdin: line 1 is not in utf-16"),
        (b"a.wav\n" + b"x" * (1 << 23), "stdin: line 2 has more than"),
    ],
)
def test_what_is_no_list_on_stdin_is_one_line(data, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        paths("-", stdin=io.BytesIO(data))
    assert "\n" not in str(caught.value)


def test_a_manifest_may_call_the_column_of_paths_otherwise(tmp_path):
    table = manifest(tmp_path, "file,end\nx.wav,1\n", "m.csv")
    assert list(list_segments([table], path_column="File")) == [Segment(f"{tmp_path}/x.wav", 0, None, 1000.0)]
    with pytest.raises(ValueError, match=r"a column of paths, 'File', goes with a manifest"):
        list_segments([tmp_path], path_column="File")


def test_cost_grows_with_the_audio_and_never_raises(tmp_path):
    (tmp_path / "x.wav").write_bytes(bytes(1234))
    assert cost(Segment(str(tmp_path / "x.wav"))) == 1234
    assert cost(Segment(str(tmp_path / "x.wav"), 0, 500, 1500)) == 16_000
    assert cost(Segment(str(tmp_path / "x.wav"), 0, 500)) == 1234
    assert cost(Segment("x", offset=5, size=77, file="y")) == 77
    for path in ("nowhere", "a\0b", "s3://bucket/x.wav", "x" * 5000, ""):
        assert cost(Segment(path)) == 0
    assert cost(Segment("x.tar", error="cut")) == 0


@pytest.fixture
def memory():
    import fsspec

    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def test_addresses_work_as_file_folder_manifest_and_tar(memory, tmp_path):
    clip = CLIPS[0].read_bytes()
    shard = write_tar(tmp_path / "s.tar", [("m.opus", clip)]).read_bytes()
    table = b"path,start_ms,end_ms\nb/x.opus,50,100\n"
    for name, data in {
        "b/x.opus": clip,
        "b/notes.txt": b"",
        "a.opus": clip,
        "c/s.tar": shard,
        "m.csv": table,
    }.items():
        memory.pipe_file(f"/set/{name}", data)
    found = list(list_segments(["memory://set"]))
    listed = [
        "memory:///set/a.opus",
        "memory:///set/b/x.opus",
        "memory:///set/c/s.tar/m.opus",
    ]
    assert [segment.path.replace(":///", "://") for segment in found] == [
        path.replace(":///", "://") for path in listed
    ]
    found += list_segments(["memory://set/a.opus", "memory://set/m.csv", "memory://set/c/s.tar"])
    with DecodePool(0) as pool:  # in this process, because others have a memory:// of their own
        results = [result for _, result in pool.decode(found)]
    whole = read_audio(CLIPS[0])
    for number, result in enumerate(results):
        assert np.array_equal(result, whole[800:1600] if number == 4 else whole), result
    assert [cost(segment) for segment in found[:3]] == [len(clip)] * 3


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("memory://nowhere/x.wav", "memory://nowhere/x.wav: no such file or folder"),
        ("nosuch://x/y.wav", r"nosuch://x/y\.wav: its protocol is not available \("),
    ],
)
def test_an_address_that_leads_nowhere_is_one_clear_line(memory, address, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        list_segments([address])
    assert "\n" not in str(caught.value)


def test_a_protocol_whose_package_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ValueError, match=r"s3://bucket/x\.wav: its protocol is not available \(.*s3fs"):
        list_segments(["s3://bucket/x.wav"])


def test_file_addresses_are_decoded_by_processes(tmp_path):
    shutil.copy(CLIPS[0], tmp_path / "a b.opus")
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    (tmp_path / "empty.wav").touch()
    with DecodePool(1) as pool:
        results = dict(pool.decode(list_segments([f"file://{tmp_path}"])))
        missing = [str(result) for _, result in pool.decode([Segment(f"file://{tmp_path}/nowhere.wav")])]
    good, bad, empty = results.values()
    assert np.array_equal(good, read_audio(CLIPS[0]))
    assert str(bad).startswith(f"file://{tmp_path}/bad.wav: not audio")
    assert str(empty) == f"file://{tmp_path}/empty.wav: empty file"
    assert missing == [f"file://{tmp_path}/nowhere.wav: cannot be read (No such file or directory)"]


def test_a_connection_that_breaks_is_no_recording_cut_short(memory, monkeypatch):
    import soundfile
    from fsspec.implementations.memory import MemoryFile

    file = io.BytesIO()
    soundfile.write(file, tone(16000, 5), 16000, format="WAV")
    memory.pipe_file("/x.wav", file.getvalue())
    read = MemoryFile.read

    def broken(self, size=-1):
        if self.tell() > 100_000:
            raise ConnectionResetError(104, "Connection reset by peer")
        return read(self, size)

    monkeypatch.setattr(MemoryFile, "read", broken)
    with pytest.raises(AudioError, match=r"x\.wav: cannot be read \(Connection reset by peer\)"):
        read_segment(Segment("memory://x.wav"))


LIST = """
import sys
from maeast_upstream.data.inputs import cost, list_segments
count = sum(1 for segment in list_segments([sys.argv[1]]) if cost(segment) >= 0)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(count, int(peak.split()[1]) / 1024)
"""


def listed(path):
    done = subprocess.run([sys.executable, "-c", LIST, path], capture_output=True, text=True, check=True)
    count, mib = done.stdout.split()
    return int(count), float(mib)


@pytest.mark.slow
def test_a_long_manifest_and_a_large_tar_are_listed_in_flat_memory(tmp_path):
    for count in (10, 100_000):
        with (tmp_path / f"{count}.tsv").open("w") as file:
            file.write("path\tstart\tend\n")
            file.writelines(f"clip{number}.wav\t{number}\t{number + 1}\n" for number in range(count))
    small, large = listed(tmp_path / "10.tsv"), listed(tmp_path / "100000.tsv")
    assert (small[0], large[0]) == (10, 100_000)
    assert large[1] < 1.1 * small[1]
    write_tar(tmp_path / "x.tar", ((f"{number}.wav", b"x") for number in range(20_000)))
    count, mib = listed(tmp_path / "x.tar")
    assert count == 20_000
    assert mib < 1.1 * small[1]


def test_a_table_that_pack_did_not_write_is_refused(tmp_path):
    folder = write_packed(tmp_path / "packed", [3])
    for text in (
        "name\tlength\nx\t3\n",
        "clip\tkind\tsamples\nx\n",
        "clip\tkind\tsamples\nx\t\tmany\n",
    ):
        (folder / "clips.tsv").write_text(text)
        with pytest.raises(ValueError, match=r"clips\.tsv is not what pretrain\.pack writes"):
            list(list_segments([folder]))


def test_hidden_files_and_linked_folders_at_addresses_are_left_out_and_counted(memory, tmp_path, caplog):
    for name in ("a.wav", "b/._c.wav", ".git/d.wav", "b/e.wav"):
        memory.pipe_file(f"/set/{name}", b"x")
    assert [path.rpartition("/")[2] for path in paths("memory://set")] == ["a.wav", "e.wav"]
    assert "1 hidden folder (memory:///set/.git), 1 hidden file (memory:///set/b/._c.wav)" in caplog.text
    touch(tmp_path, "d/x.wav", "e/y.wav")
    (tmp_path / "d" / "more").symlink_to("../e")
    assert paths(f"file://{tmp_path}/d") == [f"file://{tmp_path}/d/x.wav"]
    assert f"left out: 1 linked folder (file://{tmp_path}/d/more)" in caplog.text


def test_a_remote_folder_that_cannot_be_listed_to_its_end_is_an_error_of_its_own(memory, monkeypatch):
    memory.pipe_file("/set/a.wav", b"x")
    memory.pipe_file("/set/b/c.wav", b"x")
    segments = list_segments(["memory://set"])
    list_folder = type(memory).ls

    def refuse(self, path, **options):
        if path.endswith("/b"):
            raise PermissionError("Forbidden")
        return list_folder(self, path, **options)

    monkeypatch.setattr(type(memory), "ls", refuse)
    first, last = segments
    assert first.error is None
    assert last.error == "memory://set: not listed to its end (Forbidden)"


def test_members_of_one_name_are_numbered(tmp_path):
    write_tar(tmp_path / "s.tar", [("a.wav", b"1"), ("b.wav", b"2"), ("a.wav", b"3"), ("a.wav", b"4")])
    found = [(segment.path, segment.number) for segment in list_segments(str(tmp_path / "s.tar"))]
    expected = [("a", 0), ("b", 0), ("a", 1), ("a", 2)]
    assert found == [(f"{tmp_path}/s.tar/{name}.wav", number) for name, number in expected]


def test_a_list_of_errors_is_a_manifest_whose_marks_are_no_part_of_names(tmp_path):
    write_csv(tmp_path / "e.tsv", [("path", "reason"), ("=1.wav", "empty"), ("'=2.wav", "empty")], "\t")
    expected = [f"{tmp_path}/=1.wav", f"{tmp_path}/'=2.wav"]
    assert [segment.path for segment in list_segments(str(tmp_path / "e.tsv"))] == expected
    (tmp_path / "'=1.wav").touch()  # a name that is there as it stands
    assert [segment.path for segment in list_segments(str(tmp_path / "e.tsv"))] == [f"{tmp_path}/'=1.wav", expected[1]]


@pytest.mark.parametrize("inputs", [None, 5, [None], b"a.wav", [b"a.wav"], np.zeros(3)])
def test_what_is_no_path_is_refused_in_one_line(inputs):
    with pytest.raises(ValueError, match="^an input of type .*; expected paths or addresses$"):
        list_segments(inputs)
