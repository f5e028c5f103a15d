import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from map_tables import write_table
from matplotlib.figure import Figure
from matplotlib.image import imread
from sklearn.neighbors import KNeighborsClassifier

from maeast_upstream import cli
from maeast_upstream.commands import map as map_command
from maeast_upstream.visualization.map import projection

DATA = Path(__file__).parents[2] / "data"


def clusters(classes: int, each: int, dimensions: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), each)
    return 6 * rng.normal(size=(classes, dimensions))[labels] + rng.normal(size=(len(labels), dimensions)), labels


def project(vectors: np.ndarray, method: str, seed: int = 0) -> np.ndarray:
    return projection.project(projection.reduce(vectors, seed), method, seed)


@pytest.fixture
def table(tmp_path) -> Path:
    """Three classes of ten clips, in a folder for each class."""
    vectors, labels = clusters(3, 10)
    paths = [tmp_path / "audio" / f"class{label}" / f"{i}.wav" for i, label in enumerate(labels)]
    return write_table(tmp_path / "embeddings.parquet", paths, vectors)


def run(table: Path, *options: str) -> Path:
    out = table.with_name("map.png")
    assert map_command.main([str(table), "-o", str(out), *options]) == 0
    return out


@pytest.mark.parametrize("method", ["tsne", "pca", pytest.param("umap", marks=pytest.mark.stress)])
def test_classes_that_are_apart_stay_apart(method):
    vectors, labels = clusters(4, 15)
    points = project(vectors, method, seed=0)
    assert points.shape == (60, 2)
    assert KNeighborsClassifier(3).fit(points, labels).score(points, labels) > 0.95


def test_the_same_seed_gives_the_same_map():
    vectors, _ = clusters(3, 8)
    one, same = (project(vectors, "tsne", seed=1) for _ in range(2))
    np.testing.assert_array_equal(one, same)


def test_scale_and_offset_of_a_dimension_do_not_matter():
    vectors, _ = clusters(3, 8)
    scaled = vectors * np.linspace(1, 100, vectors.shape[1]) + 7
    np.testing.assert_allclose(project(vectors, "pca", 0), project(scaled, "pca", 0), atol=1e-6)


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_three_clips_are_enough(method):
    assert np.isfinite(project(clusters(3, 1)[0], method, 0)).all()


def test_what_embed_writes_is_drawn_with_the_labels_of_a_csv(tmp_path, capsys):
    files = sorted((DATA / "audio").glob("*.opus"))[::9]
    table = tmp_path / "embeddings.parquet"
    assert cli.main(["embed", *map(str, files), "-o", str(table)]) == 0
    picture = imread(run(table, "--labels", str(DATA / "labels.csv"), "--method", "pca"))
    assert picture.shape[0] > 600
    assert picture.shape[1] > 900
    assert f"{len(files)} embeddings" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {
        "embeddings.parquet",
        "map.png",
    }


def test_labels_match_on_the_resolved_path(tmp_path, monkeypatch):
    (tmp_path / "set" / "audio").mkdir(parents=True)
    (tmp_path / "set" / "labels.csv").write_text("path,label\naudio/a.wav,one\n./audio/b.wav,two\n")
    monkeypatch.chdir(tmp_path / "set" / "audio")
    found = map_command.labels_of(["a.wav", "../audio/b.wav", "c.wav"], tmp_path / "set" / "labels.csv")
    assert found == ["one", "two", None]


def test_without_labels_the_folder_is_the_class(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert map_command.labels_of(["x/dog/1.wav", "cat/2.wav", "3.wav"], None) == [
        "dog",
        "cat",
        tmp_path.name,
    ]


def test_a_link_to_a_clip_is_of_the_folder_that_it_lies_in(tmp_path):
    clip = next((DATA / "audio").glob("*.opus"))
    for name in ("dog", "cat"):
        (tmp_path / name).mkdir()
        (tmp_path / name / clip.name).symlink_to(clip)
    paths = [str(tmp_path / name / clip.name) for name in ("dog", "cat")]
    assert map_command.labels_of(paths, None) == ["dog", "cat"]


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
    projection.draw(figure, np.random.default_rng(0).normal(size=(45, 2)), names)
    dots = figure.axes[0].collections
    looks = {(tuple(dot.get_facecolor()[0]), dot.get_paths()[0].vertices.tobytes()) for dot in dots}
    assert len(looks) == 45
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names


def test_a_class_is_drawn_under_any_name(table, tmp_path):
    names = ["_other", "$5", "$x_", "a$\\b$", "dog"]
    figure = Figure(layout="constrained")
    projection.draw(figure, np.random.default_rng(0).normal(size=(5, 2)), names)
    figure.canvas.draw()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == sorted(names)
    run(table.rename(tmp_path / "$\\b$.parquet"), "--method", "pca")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("path,label\nelsewhere.wav,a\n", "0 of 30 rows have a label"),
        ("path,class\na.wav,a\n", "no column 'label'; expected path,label"),
        ("path,label\na.wav\n", "row 1 has no label"),
    ],
)
def test_labels_that_do_not_fit_are_refused(table, tmp_path, labels, message):
    (tmp_path / "labels.csv").write_text(labels)
    with pytest.raises(ValueError, match=message):
        run(table, "--labels", str(tmp_path / "labels.csv"))
    assert not (tmp_path / "map.png").exists()


@pytest.mark.parametrize(
    ("options", "methods"),
    [
        (["-o", "map.html"], ["pca"]),
        (["-o", "map.png"], ["tsne"]),
        (["-o", "map.html", "--png", "map.png"], ["pca"]),
        (["-o", "map.html", "--method", "tsne"], ["tsne"]),
    ],
)
def test_a_page_is_placed_by_pca_and_a_picture_alone_by_tsne(table, monkeypatch, options, methods):
    used, real = [], projection.project
    monkeypatch.setattr(
        projection,
        "project",
        lambda x, method, seed: used.append(method) or real(x, method, seed),
    )
    monkeypatch.chdir(table.parent)
    assert map_command.main([str(table), *options]) == 0
    assert used == methods
    assert {path.name for path in Path().iterdir()} == {table.name, *options[1::2]} - {"tsne"}


def test_the_layer_taken_is_told_and_can_be_chosen(tmp_path, capsys):
    vectors, _ = clusters(3, 10)
    table = write_table(
        tmp_path / "e.parquet",
        ["a/1.wav", "b/2.wav"] * 15,
        vectors,
        layer=["1", "2"] * 15,
    )
    run(table, "--method", "pca")
    assert "layer 2 of 1, 2; --layer chooses another\n" in capsys.readouterr().out
    run(table, "--method", "pca", "--layer", "1")
    assert "another" not in capsys.readouterr().out


def test_neighbours_are_those_of_the_greatest_cosine_without_the_row_itself():
    vectors = np.random.default_rng(0).normal(size=(40, 8))
    near, cosine = projection.neighbours(vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    every = unit @ unit.T
    np.fill_diagonal(every, -2)
    np.testing.assert_array_equal(near, np.argsort(-every, axis=1)[:, : projection.NEIGHBOURS])
    np.testing.assert_allclose(cosine, np.take_along_axis(every, near, axis=1), atol=1e-6)


def test_equal_rows_are_neighbours_but_none_is_its_own():
    near, cosine = projection.neighbours(np.ones((30, 4)))
    assert near.shape == (30, projection.NEIGHBOURS)
    assert not (near == np.arange(30)[:, None]).any()
    np.testing.assert_allclose(cosine, 1, atol=1e-6)


def test_a_table_of_three_has_two_neighbours_each():
    near, _ = projection.neighbours(clusters(3, 1)[0])
    np.testing.assert_array_equal(np.sort(near, axis=1), [[1, 2], [0, 2], [0, 1]])


@pytest.mark.parametrize("option", [["--png", "b.png"], ["--audio", "none"]])
def test_options_of_the_page_are_refused_without_a_page(table, option):
    with pytest.raises(ValueError, match=f"{option[0]} goes with a page: -o OUT.html"):
        run(table, *option)


def test_a_wrong_output_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match=r"a name that ends in \.png"):
        map_command.main(["nowhere.parquet", "-o", str(tmp_path / "map.doc")])


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        ("matplotlib.figure", [], r"maeast-upstream\[plot\]"),
        ("sklearn.decomposition", [], r"maeast-upstream\[plot\]"),
        ("umap", ["--method", "umap"], r"maeast-upstream\[umap\]"),
        ("plotly.offline", ["-o", "map.html"], r"maeast-upstream\[plot\]"),
    ],
)
def test_a_missing_package_is_named(table, monkeypatch, module, options, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=message):
        run(table, *options)
