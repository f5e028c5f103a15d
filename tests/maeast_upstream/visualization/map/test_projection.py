"""Projections, neighbours and pictures of a map."""

import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.neighbors import KNeighborsClassifier

from maeast_upstream.visualization.figures import drawing
from maeast_upstream.visualization.map import projection


def clusters(classes: int, each: int, dimensions: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), each)
    return 6 * rng.normal(size=(classes, dimensions))[labels] + rng.normal(size=(len(labels), dimensions)), labels


def project(vectors: np.ndarray, method: str, seed: int = 0) -> np.ndarray:
    return projection.project(projection.reduce(vectors, seed), method, seed)


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


def test_every_class_has_its_own_look_and_a_place_in_the_legend():
    names = [f"class {number:02}" for number in range(45)]
    figure = Figure()
    projection.draw(figure, np.random.default_rng(0).normal(size=(45, 2)), names)
    dots = figure.axes[0].collections
    looks = {(tuple(dot.get_facecolor()[0]), dot.get_paths()[0].vertices.tobytes()) for dot in dots}
    assert len(looks) == 45
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names


def test_a_class_is_drawn_under_any_name():
    names = ["_other", "$5", "$x_", "a$\\b$", "dog"]
    figure = Figure(layout="constrained")
    projection.draw(figure, np.random.default_rng(0).normal(size=(5, 2)), names)
    figure.canvas.draw()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == sorted(names)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_equal_embeddings_as_of_silence_lie_in_one_place(method):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        points = project(np.full((6, 8), 0.1, np.float32), method)
    assert points.shape == (6, 2)
    assert np.ptp(points, axis=0).max() < 1e-6


def test_embeddings_that_are_too_large_are_one_line():
    with pytest.raises(ValueError, match="embeddings up to 3e\\+38 cannot be compared"):
        projection.reduce(np.array([[3e38, 1.0], [-3e38, 1.0], [3e38, 2.0]], np.float32), 0)


def test_many_classes_with_long_names_leave_room_for_the_points(tmp_path):
    labels = [f"{'long ' * 20}{number}" for number in range(300)] + ["common"] * 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with drawing(tmp_path / "x.png", 8, 6) as figure:
            projection.draw(figure, np.random.default_rng(0).normal(size=(len(labels), 2)), labels)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(legend) == 60
    assert "common" in legend
    assert legend[-1] == "242 rarer classes"


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


@pytest.mark.parametrize("rows", [3, 5, pytest.param(12, marks=pytest.mark.stress)])
@pytest.mark.slow
def test_umap_places_few_rows_without_a_warning(rows):
    pytest.importorskip("umap")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        points = project(clusters(1, rows)[0], "umap")
    assert np.isfinite(points).all()
    assert [str(warning.message) for warning in caught if "umap" in str(warning.filename)] == []


def test_the_axes_say_what_their_numbers_mean():
    vectors = np.zeros((8, 3))
    vectors[:, 0] = np.arange(8)
    vectors[:, 1] = [0, 1] * 4
    components = projection.reduce(vectors, 0)
    first, second = projection.axis_names("pca", components)
    assert components.explained.sum() == pytest.approx(1)
    assert first == f"component 1 ({components.explained[0]:.0%} of the variance)"
    assert second == f"component 2 ({components.explained[1]:.0%} of the variance)"
    assert projection.axis_names("tsne", components) == ("t-SNE 1 (no unit)", "t-SNE 2 (no unit)")


def test_equal_and_one_dimensional_embeddings_explain_no_second_axis():
    assert projection.axis_names("pca", projection.reduce(np.ones((4, 3)), 0))[0] == "component 1 (0% of the variance)"
    assert projection.axis_names("pca", projection.reduce(np.arange(4.0)[:, None], 0)) == (
        "component 1 (100% of the variance)",
        "component 2 (0% of the variance)",
    )


@pytest.mark.parametrize(("rows", "method"), [(3, "tsne"), (5000, "tsne"), (5001, "pca")])
def test_t_sne_places_pages_of_up_to_5000_points(rows, method):
    assert projection.usual_method(rows) == method
