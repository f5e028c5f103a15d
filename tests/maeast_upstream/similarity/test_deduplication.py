import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from map_tables import write_table

from maeast_upstream.data.embeddings import Embeddings, read_embeddings
from maeast_upstream.similarity import duplicates, unit_rows

AUDIO = Path(__file__).parents[2] / "data" / "audio"
FAR = np.eye(8, dtype=np.float32)
"""Vectors of which no two are similar."""


def rows(paths, vectors, start_ms=None, end_ms=None):
    count = len(paths)
    return Embeddings(
        paths=[str(path) for path in paths],
        vectors=np.asarray(vectors, np.float32),
        start_ms=np.zeros(count) if start_ms is None else np.array(start_ms, np.float64),
        end_ms=np.full(count, np.nan) if end_ms is None else np.array(end_ms, np.float64),
        segments=np.arange(count),
    )


def groups_of(result):
    """Per group the paths, the kept one first."""
    groups = {}
    for clip in result.found:
        groups.setdefault(clip.group, []).append(clip.path)
    return list(groups.values())


@pytest.fixture
def files(tmp_path):
    """Three clips and a copy of the first."""
    names = sorted(AUDIO.glob("*.opus"))[:3]
    paths = [shutil.copy(name, tmp_path) for name in names]
    return [*paths, shutil.copy(names[0], tmp_path / "copy.opus")]


def test_files_of_equal_bytes_are_exact_copies_whatever_their_vectors(files):
    result = duplicates(rows(files, FAR[:4]))
    assert groups_of(result) == [[files[0], str(files[3])]]
    assert [(clip.kind, clip.similarity, clip.keep) for clip in result.found] == [
        ("exact", 1, True),
        ("exact", 1, False),
    ]
    assert result.removable == (str(files[3]),)
    assert result.not_found == ()


def test_vectors_alone_need_no_files():
    vectors = FAR[[0, 1, 2, 0]]
    vectors[3, 1] = 0.1
    table = rows(["a.wav", "b.wav", "c.wav", "d.wav"], vectors, end_ms=[100, 100, 100, 200])
    result = duplicates(table, 0.99, compare="vectors")
    assert groups_of(result) == [["d.wav", "a.wav"]]  # the longest is kept
    assert result.found[1].similarity == pytest.approx(1 / math.sqrt(1.01))
    assert result.found[1].kind == "near"
    assert result.not_found == ()
    assert duplicates(table, 0.999, compare="vectors").found == ()


def test_files_that_are_not_found_are_named_and_their_vectors_compared(files):
    result = duplicates(rows([*files, "gone.wav", "s3://bucket/a.wav"], FAR[[0, 1, 2, 3, 1, 4]]))
    assert result.not_found == ("gone.wav", "s3://bucket/a.wav")
    assert groups_of(result) == [[files[0], str(files[3])], [files[1], "gone.wav"]]
    with pytest.raises(ValueError, match=r"gone\.wav: not found"):
        duplicates(rows(["gone.wav", "b.wav"], FAR[:2]), compare="bytes")


def test_relative_paths_start_at_the_folder(files):
    names = [Path(path).name for path in files]
    assert len(duplicates(rows(names, FAR[:4]), folder=Path(files[0]).parent).found) == 2
    assert len(duplicates(rows(names, FAR[:4])).not_found) == 4


def test_overlapping_windows_of_one_recording_are_no_copies():
    table = rows(["a.wav"] * 3 + ["b.wav"], FAR[[0, 0, 0, 1]], [0, 500, 1000, 0], [1000, 1500, 2000, 1000])
    result = duplicates(table, compare="vectors")
    assert [(clip.start_ms, clip.keep) for clip in result.found] == [(0, True), (1000, False)]
    assert result.removable == ()  # the file holds the clip that is kept


def test_a_file_is_removable_if_all_of_its_windows_are_copies():
    table = rows(["a.wav"] * 2 + ["b.wav"] * 2 + ["c.wav"] * 2, FAR[[0, 1, 0, 1, 0, 2]], [0, 9] * 3, [9, 18] * 3)
    assert duplicates(table, compare="vectors").removable == ("b.wav",)


def test_a_file_under_two_names_is_no_copy_of_itself(files):
    link = Path(files[0]).with_name("link.opus")
    link.symlink_to(files[0])
    there = os.path.join(os.path.dirname(files[1]), ".", os.path.basename(files[1]))  # noqa: PTH118, PTH119, PTH120
    for compare in ("both", "bytes", "vectors"):
        result = duplicates(rows([files[0], link, files[1], there], FAR[[0, 0, 1, 1]]), compare=compare)
        assert result.found == result.removable == ()
        assert result.repeated == 2


def test_a_hard_link_is_an_exact_copy(files):
    link = Path(files[1]).with_name("link.opus")
    link.hardlink_to(files[1])
    assert groups_of(duplicates(rows([files[1], link], FAR[:2]), compare="bytes")) == [[files[1], str(link)]]


def test_clips_linked_by_others_are_one_group_with_their_own_similarity():
    angles = np.deg2rad([0, 7, 14])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    result = duplicates(rows(["a", "b", "c"], vectors), 0.99, compare="vectors")
    assert [clip.similarity for clip in result.found] == pytest.approx(np.cos(angles), abs=1e-6)
    assert result.found[-1].similarity < 0.99


def test_pairs_on_both_sides_of_the_threshold_are_shown():
    angles = np.deg2rad([0, 7, 90, 90 + 9])  # cosines of 0.9925 and 0.9877
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    result = duplicates(rows(["a", "b", "c", "d"], vectors), 0.99, compare="vectors")
    assert [(pair.first, pair.second) for pair in result.above] == [("a", "b")]
    assert [(pair.first, pair.second) for pair in result.below] == [("c", "d")]
    assert result.below[0].similarity == pytest.approx(math.cos(math.radians(9)), abs=1e-6)


def test_vectors_of_zeros_are_counted_and_left_out():
    result = duplicates(rows(list("abcd"), np.concatenate([FAR[:2], 0 * FAR[:2]])), compare="vectors")
    assert (result.zero_vectors, result.found) == (2, ())


def test_huge_and_tiny_values_have_the_cosine_of_their_directions():
    vectors = np.array([[1e38, 1e38], [1e-38, 1e-38], [1, 1]], np.float32)
    assert len(duplicates(rows(list("abc"), vectors), compare="vectors").found) == 3


def test_a_table_in_a_temporary_file_gives_the_same_result(tmp_path, monkeypatch):
    vectors = np.random.default_rng(0).standard_normal((1000, 5)).astype(np.float32)
    path = write_table(tmp_path / "t.parquet", map(str, range(1000)), vectors)
    in_memory = duplicates(path, 0.995, compare="vectors")
    monkeypatch.setattr(unit_rows, "MAX_BYTES_IN_MEMORY", 1000)
    from_file = duplicates(path, 0.995, compare="vectors")
    assert len(in_memory.found) > 10
    assert repr(from_file) == repr(in_memory)
    assert repr(duplicates(read_embeddings(path), 0.995, compare="vectors")) == repr(in_memory)


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (rows(["a"], FAR[:1]), {}, "1 embedding; expected at least 2"),
        (rows(["a", "b"], [[1, np.nan], [1, 2]]), {}, "NaN"),
        (rows(["a", "b"], FAR[:2]), {"threshold": 1.5}, "from -1 to 1, got 1.5"),
        (rows(["a", "b"], FAR[:2]), {"threshold": math.nan}, "finite"),
        (rows(["a", "b"], FAR[:2]), {"compare": "names"}, "both, bytes, vectors, got 'names'"),
        ("gone.parquet", {}, "gone.parquet: no such file"),
    ],
)
def test_what_cannot_be_compared_is_refused(table, options, message):
    with pytest.raises(ValueError, match=message):
        duplicates(table, **options)
