import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from sklearn.neighbors import KNeighborsClassifier

from maeast_upstream import map as maeast_map
from maeast_upstream.extract import embed_files

DATA = Path(__file__).parents[1] / "data"


def write_table(path: Path, paths, vectors: np.ndarray) -> Path:
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).ravel()), vectors.shape[1])
    pq.write_table(pa.table({"path": [str(p) for p in paths], "vector": values}), path)
    return path


def clusters(classes: int, each: int, dimensions: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), each)
    return 6 * rng.normal(size=(classes, dimensions))[labels] + rng.normal(size=(len(labels), dimensions)), labels


@pytest.fixture
def table(tmp_path) -> Path:
    """Three classes of ten clips, in a folder for each class."""
    vectors, labels = clusters(3, 10)
    paths = [tmp_path / "audio" / f"class{label}" / f"{i}.wav" for i, label in enumerate(labels)]
    return write_table(tmp_path / "embeddings.parquet", paths, vectors)


def run(table: Path, *options: str) -> Path:
    out = table.with_name("map.png")
    assert maeast_map.main([str(table), "-o", str(out), *options]) == 0
    return out


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_classes_that_are_apart_stay_apart(method):
    vectors, labels = clusters(4, 15)
    points = maeast_map.project(vectors, method, seed=0)
    assert points.shape == (60, 2)
    assert KNeighborsClassifier(3).fit(points, labels).score(points, labels) > 0.95


def test_the_same_seed_gives_the_same_map():
    vectors, _ = clusters(3, 8)
    one, same = (maeast_map.project(vectors, "tsne", seed=1) for _ in range(2))
    np.testing.assert_array_equal(one, same)


def test_scale_and_offset_of_a_dimension_do_not_matter():
    vectors, _ = clusters(3, 8)
    scaled = vectors * np.linspace(1, 100, vectors.shape[1]) + 7
    np.testing.assert_allclose(maeast_map.project(vectors, "pca", 0), maeast_map.project(scaled, "pca", 0), atol=1e-6)


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_three_clips_are_enough(method):
    assert np.isfinite(maeast_map.project(clusters(3, 1)[0], method, 0)).all()


def test_what_embed_writes_is_drawn_with_the_labels_of_a_csv(make_encoder, tmp_path, capsys):
    files = sorted((DATA / "audio").glob("*.opus"))[::9]
    table = tmp_path / "embeddings.parquet"
    embed_files(files, table, make_encoder())
    picture = imread(run(table, "--labels", str(DATA / "labels.csv"), "--method", "pca"))
    assert picture.shape[0] > 600
    assert picture.shape[1] > 900
    assert f"{len(files)} embeddings" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"embeddings.parquet", "map.png"}


def test_labels_match_on_the_resolved_path(tmp_path, monkeypatch):
    (tmp_path / "set" / "audio").mkdir(parents=True)
    (tmp_path / "set" / "labels.csv").write_text("path,label\naudio/a.wav,one\n./audio/b.wav,two\n")
    monkeypatch.chdir(tmp_path / "set" / "audio")
    found = maeast_map.labels_of(["a.wav", "../audio/b.wav", "c.wav"], tmp_path / "set" / "labels.csv")
    assert found == ["one", "two", None]


def test_without_labels_the_folder_is_the_class(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert maeast_map.labels_of(["x/dog/1.wav", "cat/2.wav", "3.wav"], None) == ["dog", "cat", tmp_path.name]


def test_rows_without_a_label_are_counted_and_left_out(table, tmp_path, capsys):
    paths = pq.read_table(table)["path"].to_pylist()[:20]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *(f"{path},a" for path in paths)]))
    run(table, "--labels", str(tmp_path / "labels.csv"), "--method", "pca")
    printed = capsys.readouterr().out
    assert "10 rows without a label left out" in printed
    assert "20 embeddings" in printed


def test_every_class_has_its_own_look_and_a_place_in_the_legend():
    names = [f"class {number:02}" for number in range(45)]
    figure = Figure()
    maeast_map.draw(figure, np.random.default_rng(0).normal(size=(45, 2)), names)
    dots = figure.axes[0].collections
    looks = {(tuple(dot.get_facecolor()[0]), dot.get_paths()[0].vertices.tobytes()) for dot in dots}
    assert len(looks) == 45
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("path,label\nelsewhere.wav,a\n", "0 of 30 rows have a label, a map needs 3"),
        ("path,class\na.wav,a\n", "no column 'label'; expected path,label"),
        ("path,label\na.wav\n", "row 1 has no label"),
    ],
)
def test_labels_that_do_not_fit_are_refused(table, tmp_path, labels, message):
    (tmp_path / "labels.csv").write_text(labels)
    with pytest.raises(ValueError, match=message):
        run(table, "--labels", str(tmp_path / "labels.csv"))
    assert not (tmp_path / "map.png").exists()


def test_what_is_no_table_of_embeddings_is_refused(tmp_path):
    path = tmp_path / "x.parquet"
    with pytest.raises(ValueError, match=r"x\.parquet: not a table of embeddings"):
        run(path)
    path.write_text("no parquet")
    with pytest.raises(ValueError, match=r"x\.parquet: not a table of embeddings"):
        run(path)
    pq.write_table(pa.table({"path": ["a"], "vector": [1.0]}), path)
    with pytest.raises(ValueError, match="expected columns path and vector"):
        run(path)
    pq.write_table(pa.table({"path": ["a"]}), path)
    with pytest.raises(ValueError, match=r"x\.parquet"):
        run(path)
    with pytest.raises(ValueError, match="0 of 0 rows"):
        run(write_table(path, [], np.zeros((0, 4))))
    with pytest.raises(ValueError, match="NaN or infinite"):
        run(write_table(path, "abc", np.full((3, 4), np.nan)))


def test_a_wrong_output_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match=r"a name that ends in \.png"):
        maeast_map.main(["nowhere.parquet", "-o", str(tmp_path / "map.doc")])


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        ("matplotlib.figure", [], r"maeast-upstream\[plot\]"),
        ("sklearn.decomposition", [], r"maeast-upstream\[plot\]"),
        ("umap", ["--method", "umap"], "pip install umap-learn"),
    ],
)
def test_a_missing_package_is_named(table, monkeypatch, module, options, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=message):
        run(table, *options)
