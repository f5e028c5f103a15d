import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maeast_upstream.cli import main as maeast
from pretrain.targets.vector_files import is_table, read_vector_rows

NAMES = ["a.wav", "sub/b.wav", "sub/b.wav"]
START, END = [np.nan, 0.0, 2.0], [np.nan, 2.0, 3.5]
VECTORS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


def write_parquet(path, lists):
    vectors = pa.FixedSizeListArray.from_arrays(VECTORS.ravel(), 4) if lists == "fixed" else VECTORS.tolist()
    pq.write_table(pa.table({"path": NAMES, "start": pa.array(START), "end": pa.array(END), "vector": vectors}), path)


def write_csv(path):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["clip", "start", "end", *"wxyz"])
        for name, start, end, vector in zip(NAMES, START, END, VECTORS, strict=True):
            times = ["" if np.isnan(time) else time for time in (start, end)]
            writer.writerow([name, *times, *map(str, vector)])


def write_npz(path):
    np.savez(path, path=NAMES, start_ms=1000 * np.array(START), end_ms=1000 * np.array(END), vector=VECTORS)


WRITERS = {
    "fixed.parquet": lambda path: write_parquet(path, "fixed"),
    "lists.parquet": lambda path: write_parquet(path, "lists"),
    "t.csv": write_csv,
    "t.npz": write_npz,
}


def whole(path):
    blocks = list(read_vector_rows(path))
    names = [name for block in blocks for name in block.names]
    return names, *(np.concatenate([getattr(b, key) for b in blocks]) for key in ("vectors", "start_ms", "end_ms"))


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_gives_the_same_rows_with_times_in_seconds_or_ms(tmp_path, name):
    WRITERS[name](tmp_path / name)
    assert is_table(tmp_path / name)
    names, vectors, start, end = whole(tmp_path / name)
    assert names == NAMES
    np.testing.assert_allclose(vectors, VECTORS, rtol=1e-6)
    np.testing.assert_array_equal(start, 1000 * np.array(START))
    np.testing.assert_array_equal(end, 1000 * np.array(END))


def test_a_folder_of_npy_files_has_a_clip_in_each(tmp_path):
    (tmp_path / "sub").mkdir()
    np.save(tmp_path / "a.wav.npy", VECTORS[0])
    np.save(tmp_path / "sub" / "b.wav.npy", VECTORS[1:3])
    assert is_table(tmp_path)
    names, vectors, start, _ = whole(tmp_path)
    assert names == ["a.wav", "sub/b.wav"]
    np.testing.assert_array_equal(vectors, VECTORS[[0, 2]])
    assert np.isnan(start).all()


@pytest.mark.slow
def test_what_maeast_embed_writes_is_read_in_all_its_formats(tmp_path, packed):
    options = [str(packed), "--window", "0.5", "--quiet"]
    assert maeast(["embed", *options, "-o", str(tmp_path / "t.parquet")]) == 0
    expected = whole(tmp_path / "t.parquet")
    for out, *form in (["t.npz"], ["parts"], ["npy", "--format", "npy"], ["int8.parquet", "--vectors", "int8"]):
        assert maeast(["embed", *options, "-o", str(tmp_path / out), *form]) == 0
        rows = whole(tmp_path / out)
        assert rows[0] == expected[0]
        np.testing.assert_allclose(rows[1], expected[1], atol=0.05 if "int8" in out else 1e-6)
        np.testing.assert_array_equal(rows[2], expected[2])
        np.testing.assert_array_equal(rows[3], expected[3])


def npz(**arrays):
    return lambda path: np.savez(path, **arrays)


BROKEN = {
    "no.npz": (None, "no such file"),
    "text.npz": (lambda path: path.write_text("x"), "expected an .npz with arrays path and vector"),
    "pickle.npz": (npz(path=np.array([{}], object), vector=VECTORS[:1]), "expected an .npz with arrays"),
    "novector.npz": (npz(path=["a"]), "expected an .npz with arrays path and vector"),
    "rows.npz": (npz(path=["a"], vector=VECTORS), "expected 1 vectors of numbers"),
    "numbers.npz": (npz(path=[1, 2, 3], vector=VECTORS), r"expected arrays path \(text\)"),
    "other.parquet": (lambda path: pq.write_table(pa.table({"path": ["a"]}), path), "expected columns path and vector"),
    "frames.parquet": (
        lambda path: pq.write_table(pa.table({"path": ["a"], "time_ms": [1], "vector": [[1.0]]}), path),
        "one row per time step",
    ),
    "ragged.parquet": (
        lambda path: pq.write_table(pa.table({"path": ["a", "b"], "vector": [[1.0], [1.0, 2.0]]}), path),
        "vectors of different lengths",
    ),
    "scale.npz": (npz(path=["a", "b"], vector=VECTORS[:2], scale=[1.0]), "expected arrays path .* with as many rows"),
    "texts.parquet": (
        lambda path: pq.write_table(pa.table({"path": ["a"], "vector": [["x"]]}), path),
        "a list of numbers in each row",
    ),
    "novalues.parquet": (
        lambda path: pq.write_table(pa.table({"path": ["a"], "vector": pa.array([[]], pa.list_(pa.float32()))}), path),
        "vectors without values",
    ),
    "word.csv": (lambda path: path.write_text("path,x\na.wav,one\n"), "row 1: 'one' is not a number"),
    "noname.csv": (lambda path: path.write_text("x,y\n1,2\n"), "no column 'path'"),
    "empty.csv": (lambda path: path.write_text(""), "no column 'path'"),
    "nonumbers.csv": (lambda path: path.write_text("path\na.wav\n"), "expected a vector for each name"),
    "time.csv": (lambda path: path.write_text("path,start,x\na.wav,-1,2\n"), "start is -1"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_table_is_refused_in_one_line_with_its_name(tmp_path, name):
    write, message = BROKEN[name]
    if write is not None:
        write(tmp_path / name)
    with pytest.raises(ValueError, match=message) as error:
        whole(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("error")
def test_numbers_beyond_float32_become_infinite_without_a_warning(tmp_path):
    (tmp_path / "t.csv").write_text(f"path,x,y\na.wav,{10**400},1\nb.wav,{10**40},1\n")
    np.savez(tmp_path / "t.npz", path=["a.wav"], vector=[[1e200, 1.0]])
    pq.write_table(pa.table({"path": ["a.wav"], "vector": [[1e200, 1.0]]}), tmp_path / "t.parquet")
    for name in ("t.csv", "t.npz", "t.parquet"):
        np.testing.assert_array_equal(np.isfinite(whole(tmp_path / name)[1]).all(axis=1), False)


@pytest.mark.parametrize("name", ["../out.npy", "/etc/passwd", None])
def test_an_index_reads_no_file_outside_its_folder(tmp_path, name):
    np.save(tmp_path / "out.npy", VECTORS[0])
    (tmp_path / "npy").mkdir()
    pq.write_table(pa.table({"path": ["a"], "file": pa.array([name], pa.string())}), tmp_path / "npy" / "index.parquet")
    with pytest.raises(ValueError, match="name of a file in the folder"):
        whole(tmp_path / "npy")


@pytest.mark.parametrize("part", [".", "last"])
def test_a_checkpoint_or_run_that_holds_vectors_is_no_table(tmp_path, part):
    np.save(tmp_path / "a.npy", VECTORS[0])
    assert is_table(tmp_path)
    (tmp_path / part).mkdir(exist_ok=True)
    (tmp_path / part / "config.json").write_text("{}")
    assert not is_table(tmp_path)


def test_vectors_of_different_lengths_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", VECTORS[0])
    np.save(tmp_path / "b.npy", VECTORS[0, :2])
    with pytest.raises(ValueError, match=r"vectors of different lengths, \[2, 4\]"):
        whole(tmp_path)
