import logging

import numpy as np
import pytest
import torch

from maeast_upstream import load_model
from pretrain.data.batches import Batch
from pretrain.targets import vector_files
from pretrain.targets.rows import ClipRows
from pretrain.targets.vectors import (
    CheckpointTeacher,
    TableTeacher,
    open_teachers,
    read_teacher_vectors,
    refuse_other_teachers,
    unit_vectors,
    write_digests,
)

CPU = torch.device("cpu")
CLIPS, LENGTHS = ["a", "b", "c", "d"], np.array([16_000, 160_000, 16_000, 32_000])


@pytest.fixture
def table(tmp_path):
    """Clip a as a whole; b in three parts, out of order; a clip that is not in the corpus; d without a direction."""
    vectors = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    vectors[5] = 0
    names = ["b", "a", "b", "x", "b", "d"]
    start, end = [4, np.nan, 0, 0, 8, np.nan], [8, np.nan, 4, 1, np.nan, np.nan]
    np.savez(tmp_path / "t.npz", path=names, vector=vectors, start=np.array(start), end=np.array(end))
    return tmp_path / "t.npz", vectors


def a_batch(clips, starts, lengths, drawn=None):
    waveforms, numbers = torch.zeros(len(starts), max(lengths)), tuple(clips)
    lengths = torch.tensor(lengths)
    return Batch(waveforms, lengths, 0, len(clips), numbers, 0, (), torch.tensor(starts), drawn or numbers)


def test_the_row_whose_middle_is_nearest_to_the_crop_s_counts(table):
    found = read_teacher_vectors(table[0], CLIPS, LENGTHS)
    unit = unit_vectors(table[1])[0].astype(np.float32)
    clips, seconds = np.array([1, 1, 1, 1, 0, 2, 3, -1]), np.array([0.0, 3.9, 4.1, 100.0, 5.0, 0.0, 0.0, 0.0])
    rows = found.rows(clips, seconds)
    np.testing.assert_array_equal(rows[:5], unit[[2, 2, 0, 4, 1]])
    assert np.isnan(rows[5:]).all()
    assert found.has_vector.tolist() == [True, True, False, False]


def test_standardized_values_have_mean_0_and_deviation_1_over_the_rows_of_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(vector_files, "BLOCK_ROWS", 7)
    random = np.random.default_rng(0)
    vectors = (random.standard_normal((40, 6)) * [1, 2, 3, 4, 5, 0] + 1000).astype(np.float32)
    vectors[3], vectors[20] = np.nan, 0.0
    clips = [f"c{number}" for number in range(40)]
    with (tmp_path / "t.csv").open("w") as file:
        file.write("path,a,b,c,d,e,constant\n")
        file.writelines(f"{clip},{','.join(map(str, row))}\n" for clip, row in zip(clips, vectors, strict=True))
    found = read_teacher_vectors(tmp_path / "t.csv", clips, np.full(40, 16_000), standardize=True)
    kept = np.delete(vectors.astype(np.float64), [3, 20], axis=0)
    plain = (kept - kept.mean(axis=0)) / np.where(kept.std(axis=0) > 0, kept.std(axis=0), np.inf)
    plain /= np.linalg.norm(plain, axis=1, keepdims=True)
    rows = found.rows(np.delete(np.arange(40), [3, 20]), np.full(38, 0.5))
    np.testing.assert_allclose(rows, plain, atol=1e-3)
    assert not found.has_vector[[3, 20]].any()


def test_the_vectors_of_a_checkpoint_are_not_standardized():
    with pytest.raises(ValueError, match="teacher_standardize needs a table of vectors"):
        open_teachers("bundled", CLIPS, ClipRows(LENGTHS, joined=False), "fp32", standardize=True)


def test_how_many_clips_have_a_vector_is_logged(table, caplog):
    caplog.set_level(logging.INFO)
    read_teacher_vectors(table[0], CLIPS, LENGTHS)
    assert "vectors of 8 values for 2 of 4 clips, from 4 of its 6 rows; 1 rows are zero or not finite" in caplog.text


def test_a_table_without_a_usable_vector_is_refused(tmp_path):
    np.savez(tmp_path / "t.npz", path=["a", "b"], vector=np.array([[0.0, 0.0], [np.nan, 1.0]]))
    with pytest.raises(ValueError, match="no vector of a clip of the corpus is finite"):
        read_teacher_vectors(tmp_path / "t.npz", CLIPS, LENGTHS)


def test_vectors_are_kept_in_16_bits_whatever_their_scale():
    vectors = np.array([[3e30, 4e30], [3e-30, 4e-30], [0.0, 0.0], [np.inf, 0.0]])
    unit, usable = unit_vectors(vectors)
    assert unit.dtype == np.float16
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0.6, 0.8], [0, 0], [0, 0]], atol=1e-3)
    assert usable.tolist() == [True, True, False, False]


def test_the_middle_of_a_row_is_that_of_what_it_shows_of_its_clip():
    rows = ClipRows(LENGTHS, joined=False)
    batch = a_batch([1, 0], [16_000, 12_000, 0, 4000], [32_000, 32_000, 32_000, 32_000])
    np.testing.assert_allclose(rows.middles(batch), [2.0, 0.25, 1.0, 0.75])
    assert rows.clips(batch).tolist() == [1, 0, 1, 0]


def test_a_joined_crop_that_is_mostly_of_other_clips_has_no_target():
    batch = a_batch([0, 1, 3], [0, 0, 0], [64_000] * 3)
    assert ClipRows(LENGTHS, joined=True).clips(batch).tolist() == [-1, 1, 3]


def test_a_run_does_not_continue_with_other_vectors_under_the_same_name(table, tmp_path):
    rows = ClipRows(LENGTHS, joined=False)
    path, vectors = table
    teachers = [TableTeacher("teacher0", read_teacher_vectors(path, CLIPS, LENGTHS), rows)]
    refuse_other_teachers(tmp_path, str(path), teachers)  # a new run
    write_digests(tmp_path, teachers)
    refuse_other_teachers(tmp_path, str(path), teachers)
    content = dict(np.load(path))
    np.savez(path, **{**content, "vector": vectors + np.float32(0.1)})
    changed = [TableTeacher("teacher0", read_teacher_vectors(path, CLIPS, LENGTHS), rows)]
    with pytest.raises(ValueError, match=r"begun with other vectors than those of .*t\.npz: give the same teacher, or"):
        refuse_other_teachers(tmp_path, str(path), changed)
    write_digests(tmp_path, changed)  # the record of the beginning stays
    refuse_other_teachers(tmp_path, str(path), teachers)
    (tmp_path / "teachers.json").write_text("[")
    with pytest.raises(ValueError, match=r"teachers\.json: .*give another --out"):
        refuse_other_teachers(tmp_path, str(path), teachers)


def test_micro_batches_weight_rows_as_the_whole_batch_does(table):
    found = read_teacher_vectors(table[0], CLIPS, LENGTHS)
    teacher = TableTeacher("teacher0", found, ClipRows(LENGTHS, joined=False))
    drawn = (0, 1, 2, 1, 3, 2, -1, 0)
    halves = [a_batch(drawn[i : i + 4], [0] * 4, [16_000] * 4, drawn) for i in (0, 4)]
    weights = [teacher(half, CPU)["teacher0_weights"] for half in halves]
    losses = torch.arange(8.0)
    mean = sum((part * weight).mean() for part, weight in zip(losses.split(4), weights, strict=True)) / 2
    torch.testing.assert_close(mean, losses[[0, 1, 3, 7]].mean())


def test_a_checkpoint_gives_its_own_embeddings_of_the_whole_rows():
    torch.manual_seed(0)
    batch = a_batch([0, 1], [0, 0], [16_000, 9000])._replace(waveforms=0.1 * torch.randn(2, 16_000))
    vectors = CheckpointTeacher("teacher0", "bundled", "fp32")(batch, CPU)["teacher0"]
    expected = load_model().embed([batch.waveforms[0], batch.waveforms[1, :9000]])
    torch.testing.assert_close(vectors, expected)
    assert not vectors.requires_grad
