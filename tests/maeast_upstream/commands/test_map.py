"""`maeast map`: labels, outputs and options."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from map_pages import block, make_page
from map_tables import write_predictions, write_table
from matplotlib.image import imread

from maeast_upstream import cli
from maeast_upstream.arguments import UsageError
from maeast_upstream.commands import map as map_command
from maeast_upstream.data.embeddings import Embeddings
from maeast_upstream.visualization.map import projection
from maeast_upstream.visualization.map.labels import folders_of, labels_of

DATA = Path(__file__).parents[2] / "data"


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


def rows_of(paths, start_ms=None, end_ms=None) -> Embeddings:
    count = len(paths)
    return Embeddings(
        paths=[str(path) for path in paths],
        vectors=np.zeros((count, 1), np.float32),
        start_ms=np.zeros(count) if start_ms is None else np.array(start_ms, float),
        end_ms=np.full(count, np.nan) if end_ms is None else np.array(end_ms, float),
        segments=np.zeros(count, np.int64),
    )


def run(table: Path, *options: str) -> Path:
    out = table.with_name("map.png")
    assert map_command.main([str(table), "-o", str(out), *options]) == 0
    return out


def test_what_embed_writes_is_drawn_with_the_labels_of_a_csv(tmp_path, capsys):
    files = sorted((DATA / "audio").glob("*.opus"))[::9]
    table = tmp_path / "embeddings.parquet"
    assert cli.main(["embed", *map(str, files), "-o", str(table)]) == 0
    picture = imread(run(table, "--labels", str(DATA / "labels.csv"), "--method", "pca"))
    assert picture.shape[0] > 600
    assert picture.shape[1] > 900
    assert f"{len(files)} embeddings" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"embeddings.parquet", "map.png"}


def test_labels_match_on_the_resolved_path(tmp_path, monkeypatch):
    (tmp_path / "set" / "audio").mkdir(parents=True)
    (tmp_path / "set" / "labels.csv").write_text("path,label\naudio/a.wav,one\n./audio/b.wav,two\n")
    monkeypatch.chdir(tmp_path / "set" / "audio")
    found = labels_of(rows_of(["a.wav", "../audio/b.wav", "c.wav"]), tmp_path / "set" / "labels.csv")
    assert found.values == ["one", "two", None]


def test_the_labels_of_a_map_may_have_other_columns(table, tmp_path):
    rows = "".join(f"{path};{number % 3}\r\n" for number, path in enumerate(pq.read_table(table)["path"].to_pylist()))
    (tmp_path / "l.csv").write_text("File;Class\r\n" + rows, encoding="utf-8-sig")
    options = ["--labels", str(tmp_path / "l.csv"), "--path-column", "file", "--label-column", "class"]
    assert run(table, *options, "--method", "pca").exists()


def test_labels_match_names_in_any_bytes_and_addresses(tmp_path):
    (tmp_path / "l.csv").write_bytes(
        b"path,label\ncaf\xe9.wav,one\ns3://b/x.wav,two\n" + f"file://{tmp_path}/y.wav,three".encode()
    )
    paths = [f"{tmp_path}/caf\\xe9.wav", "s3://b/x.wav", f"{tmp_path}/y.wav", f"file://{tmp_path}/y.wav"]
    assert labels_of(rows_of(paths), tmp_path / "l.csv").values == ["one", "two", "three", "three"]


def test_without_labels_the_folder_is_the_class(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert folders_of(["x/dog/1.wav", "cat/2.wav", "3.wav"]) == ["dog", "cat", tmp_path.name]


def test_a_link_to_a_clip_is_of_the_folder_that_it_lies_in(tmp_path):
    clip = next((DATA / "audio").glob("*.opus"))
    for name in ("dog", "cat"):
        (tmp_path / name).mkdir()
        (tmp_path / name / clip.name).symlink_to(clip)
    paths = [str(tmp_path / name / clip.name) for name in ("dog", "cat")]
    assert folders_of(paths) == ["dog", "cat"]


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_a_table_of_fewer_than_three_rows_is_one_line(tmp_path, capsys, rows):
    table = write_table(tmp_path / "few.parquet", [Path(f"{row}.wav") for row in range(rows)], np.ones((rows, 4)))
    assert cli.run(map_command.main, [str(table), "-o", str(tmp_path / "map.png")]) == 1
    expected = f"error: {table}: {rows} embedding{'' if rows == 1 else 's'}, and a map needs 3\n"
    assert capsys.readouterr().err == expected
    assert list(tmp_path.iterdir()) == [table]


def test_rows_without_a_label_are_counted_and_left_out(table, tmp_path, capsys):
    paths = pq.read_table(table)["path"].to_pylist()[:20]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *(f"{path},a" for path in paths)]))
    run(table, "--labels", str(tmp_path / "labels.csv"), "--method", "pca")
    printed = capsys.readouterr().out
    assert "10 rows without a label left out" in printed
    assert "20 embeddings" in printed


def test_a_table_of_any_name_is_drawn(table, tmp_path):
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
        (["-o", "map.html"], ["tsne"]),
        (["-o", "map.png"], ["tsne"]),
        (["-o", "map.html", "--png", "map.png"], ["tsne"]),
        (["-o", "map.html", "--method", "pca"], ["pca"]),
    ],
)
def test_a_map_is_placed_by_tsne_unless_another_method_is_named(table, monkeypatch, options, methods):
    used, real = [], projection.project
    monkeypatch.setattr(projection, "project", lambda x, method, seed: used.append(method) or real(x, method, seed))
    monkeypatch.chdir(table.parent)
    assert map_command.main([str(table), *options]) == 0
    assert used == methods
    assert {path.name for path in Path().iterdir()} == {table.name, *options[1::2]} - {"pca"}


def test_a_page_of_many_points_is_placed_by_pca(table, monkeypatch, capsys):
    monkeypatch.setattr(projection, "MAX_TSNE_ROWS", 29)
    assert map_command.main([str(table), "-o", str(table.with_name("map.html")), "--audio", "none"]) == 0
    assert "30 embeddings, PCA" in capsys.readouterr().out


def test_the_layer_taken_is_told_and_can_be_chosen(tmp_path, capsys):
    vectors, _ = clusters(3, 10)
    table = write_table(tmp_path / "e.parquet", ["a/1.wav", "b/2.wav"] * 15, vectors, layer=["1", "2"] * 15)
    run(table, "--method", "pca")
    assert "layer 2 of 1, 2; --layer chooses another\n" in capsys.readouterr().out
    run(table, "--method", "pca", "--layer", "1")
    assert "another" not in capsys.readouterr().out


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
        ("matplotlib.figure", [], r"pip install .*\[plot\]"),
        ("sklearn.decomposition", [], r"pip install .*\[plot\]"),
        ("umap", ["--method", "umap"], r"pip install .*\[umap\]"),
        ("plotly.offline", ["-o", "map.html"], r"pip install .*\[plot\]"),
    ],
)
def test_a_missing_package_is_named(table, monkeypatch, module, options, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=message):
        run(table, *options)


def test_a_page_keeps_rows_without_a_label_and_counts_labels_of_other_clips(table, tmp_path, capsys):
    paths = pq.read_table(table)["path"].to_pylist()
    (tmp_path / "labels.csv").write_text(f"path,label\n{paths[0]},a\n{paths[0]},b\nelsewhere.wav,c\n")
    page = tmp_path / "map.html"
    options = ["-o", str(page), "--labels", str(tmp_path / "labels.csv"), "--audio", "none"]
    assert map_command.main([str(table), *options]) == 0
    printed = capsys.readouterr().out
    assert "labels.csv: 1 row of other clips" in printed
    assert "29 rows without a label\n" in printed
    assert "30 embeddings" in printed


def test_labels_of_no_row_are_refused_for_a_page_too(table, tmp_path):
    (tmp_path / "labels.csv").write_text("path,label\nelsewhere.wav,a\n")
    with pytest.raises(ValueError, match=r"0 of 30 rows have a label in .*labels\.csv"):
        map_command.main([str(table), "-o", str(tmp_path / "map.html"), "--labels", str(tmp_path / "labels.csv")])
    assert not (tmp_path / "map.html").exists()


def test_labels_with_times_belong_to_windows_and_several_labels_are_joined(tmp_path):
    (tmp_path / "l.csv").write_text(
        "path,label,start,end\na.wav,one,0,1\na.wav,two,0.0004,1\na.wav,three,0.5,1.5\na.wav,four,0.2,1.2\nb.wav,all,,\n"
    )
    windows = rows_of(
        [*[tmp_path / "a.wav"] * 3, *[tmp_path / "b.wav"] * 2],
        start_ms=[0, 500, 1000, 0, 500],
        end_ms=[1000, 1500, 2000, 1000, 1500],
    )
    found = labels_of(windows, tmp_path / "l.csv")
    assert found.values == ["one;two", "three", None, "all", "all"]
    assert found.others == 1


def test_predictions_are_counted_and_those_of_another_table_refused(table, tmp_path, capsys):
    paths = pq.read_table(table)["path"].to_pylist()
    ends = [np.nan] * 21
    file = write_predictions(
        tmp_path / "f.parquet", [*paths[:20], "x.wav"], ["a"] * 21, [1] * 21, [1] * 21, end_ms=ends
    )
    options = ["-o", str(tmp_path / "map.html"), "--audio", "none", "--predictions", str(file)]
    assert map_command.main([str(table), *options]) == 0
    assert "10 rows without a prediction" in (printed := capsys.readouterr().out)
    assert "1 row of other clips" in printed
    write_predictions(file, ["x.wav"], ["a"], [1], [1])
    assert cli.run(map_command.main, [str(table), *options]) == 1
    message = capsys.readouterr().err
    assert "none of its 1 rows is a row of the table" in message
    assert message.count("\n") == 1


def test_the_title_of_page_and_picture_is_the_file_or_the_option(table, tmp_path):
    for options, title in (([], "embeddings.parquet"), (["--title", "Birds & bats"], "Birds & bats")):
        page = make_page(table, "--method", "pca", *options)
        assert json.loads(block(page, "facts"))["title"] == title


@pytest.mark.slow
def test_a_folder_of_audio_is_embedded_and_cut_into_windows(tmp_path, capsys):
    folder = tmp_path / "audio"
    folder.mkdir()
    shutil.copy(DATA / "audio" / "long_drums.opus", folder)
    shutil.copy(next((DATA / "audio").glob("kick*")), folder)
    page = tmp_path / "map.html"
    assert map_command.main([str(folder), "--window", "1", "--overlap", "0.5", "-o", str(page)]) == 0
    facts = json.loads(block(page.read_text(), "facts"))
    segments = np.frombuffer(block(page.read_text(), "segments"), "<f8").reshape(-1, 2)
    assert facts["title"] == "audio"
    assert facts["timed"]
    assert len(segments) > 4
    assert (np.diff(segments, axis=1) <= 1000).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audio", "map.html"]
    (folder / "broken.wav").write_text("no audio")
    assert map_command.main([str(folder), "--window", "1", "-o", str(page)]) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--window", "5"], "--window goes with audio"),
        (["--checkpoint", "bundled"], "--checkpoint goes with audio"),
        (["--overlap", "1"], "--overlap goes with --window"),
    ],
)
def test_options_of_audio_do_not_go_with_a_table(table, options, message):
    with pytest.raises(UsageError, match=message):
        run(table, *options)


def test_a_table_beside_other_inputs_and_a_column_of_clusters_that_is_none_are_one_line(table, tmp_path, capsys):
    with pytest.raises(UsageError, match="one table, or audio; got 2 inputs"):
        map_command.main([str(table), str(table), "-o", str(tmp_path / "map.png")])
    write_table(table, ["a.wav", "b.wav", "c.wav"], np.ones((3, 2)), cluster=["x", "y", "z"])
    assert cli.run(map_command.main, [str(table), "-o", str(tmp_path / "map.png")]) == 1
    assert "cluster holds no whole numbers, but string" in capsys.readouterr().err
