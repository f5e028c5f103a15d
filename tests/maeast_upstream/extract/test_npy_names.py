import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import SCHEMA, SPEC

from maeast_upstream.extract.npy_names import npy_name
from maeast_upstream.extract.outputs import NpyTableBuilder
from maeast_upstream.extract.table import Embedded
from maeast_upstream.storage.folder import Storage


def clip(path, segment=0, start_ms=0.0, end_ms=None, is_segment=False):
    end_ms = start_ms + 500.0 if end_ms is None else end_ms
    return Embedded(path, segment, start_ms, end_ms, np.zeros((1, 1, 2), np.float32), np.zeros(1), is_segment)


def builder(tmp_path):
    scratch = Storage(tmp_path / "_parts")
    scratch.make()
    return NpyTableBuilder(SCHEMA, SPEC, Storage(tmp_path), scratch)


def test_a_clip_has_its_npy_file_where_its_path_says():
    assert npy_name(clip("sub/Clip 1.wav")) == "sub/Clip 1.wav.npy"
    assert npy_name(clip("../sub/clip.wav")) == "__/sub/clip.wav.npy"
    assert npy_name(clip("/data/clip.wav")) == "_/data/clip.wav.npy"
    assert npy_name(clip("s3://bucket/clip.wav")) == "_s3/bucket/clip.wav.npy"
    assert npy_name(clip("shard.tar/clip.wav")) == "shard.tar/clip.wav.npy"
    assert npy_name(clip("clip.wav", 7)) == "clip.wav.7.npy"


def test_a_segment_has_its_row_start_and_end_in_the_name():
    assert npy_name(clip("clip.wav", 7, 1000.0, 1250.5, is_segment=True)) == "clip.wav.7.1000-1250.5.npy"
    assert npy_name(clip("clip.wav", 0, 0.0, 100.0, is_segment=True)) == "clip.wav.0.0-100.npy"


def test_segments_of_the_same_row_of_two_manifests_and_the_whole_file_have_a_file_each():
    places = [(0, 0.0, 100.0), (0, 0.0, 300.0), (0, 50.0, 300.0), (7, 1000.0, 3000.0), (7, 2000.0, 3000.0)]
    places.append((7, 2000.0, 3000.0000000001))
    names = [npy_name(clip("clip.wav", *place, is_segment=True)) for place in places]
    assert len({*names, npy_name(clip("clip.wav"))}) == len(places) + 1


ALIKE = [
    ["/D/x.wav", "D/x.wav", "_/D/x.wav", "//D/x.wav", "__/D/x.wav"],
    ["../y.wav", "__/y.wav", "___/y.wav", "_/../y.wav", "./y.wav", "y.wav", "/y.wav"],
    ["s3://b/a.wav", "s3/b/a.wav", "_s3/b/a.wav", "__s3/b/a.wav", "s3:/b/a.wav", "/s3/b/a.wav", "s3:///b/a.wav"],
    ["a/b.wav", "a_b.wav", "a//b.wav", "a/./b.wav", "a /b.wav", "a./b.wav", "a~/b.wav"],
    ["a.wav", "a.wav.npy", "a.wav.npy/b.wav", "a.wav.npy~/b.wav", "a.wav.NPY/b.wav", "a.wav.7", "a.wav.7.0-500"],
    ["index.parquet/a.wav", "index.parquet~/a.wav", "Index.Parquet/a.wav", "_parts/a.wav", "__parts/a.wav"],
    ["x" * 300 + ".wav", "x" * 299 + ".wav", "x" * 150, "x" * 151, "y/" * 1500 + "a.wav", "y/" * 1501 + "a.wav"],
    ["é/" * 900 + "a.wav", "_long/a.wav", "long://a.wav", "/_long/a.wav", "__long/a.wav"],
]


def segments_of(path):
    return [clip(path), clip(path, 7), clip(path, 7, 0.0, 500.0, True), clip(path, 0, 0.0, 500.0, True)]


@pytest.mark.parametrize("paths", ALIKE, ids=lambda paths: paths[0][:12])
@pytest.mark.parametrize("any_case", [False, True])
def test_paths_that_look_alike_have_a_file_each(paths, any_case):
    names = {npy_name(each, any_case).removesuffix(".npy") for path in paths for each in segments_of(path)}
    clips = [each for path in sorted({*paths, *names}) for each in segments_of(path)]
    found = {npy_name(each, any_case) for each in clips}
    assert len({name.casefold() if any_case else name for name in found}) == len(clips)


PIECES = ["a", "A", "..", ".", "", "_", "__", "a.npy", "a.", "~", "1", ".7", "é", "e\u0301", "s3:", "x" * 160]
PATHS = st.tuples(st.lists(st.sampled_from(PIECES), min_size=1, max_size=3), st.sampled_from("/~._"))


@given(st.lists(PATHS, min_size=2, max_size=8), st.booleans())
def test_no_two_clips_share_a_file_nor_is_ones_file_anothers_folder(paths, any_case):
    clips = {path: segments_of(path) for pieces, between in paths if (path := between.join(pieces))}
    names = [npy_name(each, any_case) for group in clips.values() for each in group]
    assert len({name.casefold() if any_case else name for name in names}) == len(names)
    folders = {name[:end] for name in names for end in range(len(name)) if name[end] == "/"}
    assert not folders & set(names)
    for name in names:
        assert all(0 < len(os.fsencode(part)) <= 255 and part not in (".", "..") for part in name.split("/"))
        assert not name.startswith("_parts/")


def test_names_that_differ_in_case_have_a_file_each_where_the_file_system_takes_them_for_one(tmp_path):
    (tmp_path / "_parts").mkdir()
    (tmp_path / "_parts" / "_SETTINGS.JSON").touch()  # found as this on such a file system
    names = builder(tmp_path).table([clip("A.wav"), clip("a.wav")])["file"].to_pylist()
    assert len({name.lower() for name in names}) == 2


def test_a_name_that_leaves_no_room_for_an_ending_is_shortened_and_stays_its_own(tmp_path):
    clips = [clip("é" * 124 + f"{number}.wav") for number in range(2)]
    names = builder(tmp_path).table(clips)["file"].to_pylist()
    assert sorted(["_parts", *names]) == sorted(path.name for path in tmp_path.iterdir())
    assert len(set(names)) == 2
