"""Vectors of other extractors."""

import io
from pathlib import Path

import numpy as np
import pytest

from maeast_upstream.evaluation import vectors


def npz(names, vectors):
    file = io.BytesIO()
    np.savez(file, path=names, vector=vectors)
    return file.getvalue()


def test_a_csv_of_vectors_is_read_as_an_npz_is(tmp_path):
    (tmp_path / "v.csv").write_text("path,a,b\nx.wav,1,2\n\ny.wav,3,4.5\n\n")
    np.savez(tmp_path / "v.npz", path=["x.wav", "y.wav"], vector=[[1, 2], [3, 4.5]])
    first, second = (vectors.read_vectors(tmp_path / f"v.{kind}", []).vectors for kind in ("csv", "npz"))
    assert list(first) == list(second) == [Path("x.wav").resolve(), Path("y.wav").resolve()]
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.npz", npz(["x.wav"], [[1.0, 2.0]])[:200]),
        ("empty.npz", b""),
        ("scalar.npz", npz("x.wav", 1.0)),
        ("pickled.npz", npz(["x.wav"], np.array([{}], dtype=object))),
        ("short.csv", b"path,a,b\nx.wav,1,2\ny.wav\n"),
        ("none.csv", b"path\nx.wav\n"),
        ("twice.csv", b"path,a\nx.wav,1\n./x.wav,2\n"),
        ("null.csv", b"path,a\nx\0.wav,1\n"),
    ],
)
def test_a_file_without_vectors_is_refused_by_name(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: expected an .npz with path and vector"):
        vectors.read_vectors(path, [])
