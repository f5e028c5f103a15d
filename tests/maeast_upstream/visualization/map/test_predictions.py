"""Predictions that are joined to the rows of a table."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from map_tables import write_predictions, write_table

from maeast_upstream.data.embeddings import read_embeddings
from maeast_upstream.visualization.map.predictions import predictions_of

NAMES = [f"{letter}.wav" for letter in "abcd"]


@pytest.fixture
def table(tmp_path):
    """Four files of a second."""
    times = {"segment": [0] * 4, "start_ms": [0.0] * 4, "end_ms": [1000.0] * 4}
    return read_embeddings(write_table(tmp_path / "e.parquet", NAMES, np.ones((4, 2)), **times))


def test_rows_have_their_best_label_in_any_order(tmp_path, table):
    names = ["d.wav", "a.wav", "a.wav", "x.wav"]
    file = write_predictions(tmp_path / "f.parquet", names, "KLMN", [0.5, 0.3, 0.6, 0.9], [0.1, 0.2, 0.3, 0.4])
    found = predictions_of(table, file)
    assert found.labels == ["M", None, None, "K"]
    np.testing.assert_allclose(found.probability, [0.6, np.nan, np.nan, 0.5], rtol=1e-6)
    np.testing.assert_allclose(found.margin, [0.3, np.nan, np.nan, 0.1], rtol=1e-6)
    assert (found.missing, found.others) == (2, 1)


def test_windows_are_joined_by_their_times_and_other_windows_are_none_of_the_table(tmp_path):
    starts, ends = [0.0, 500.0, 1250.5], [1000.0, 1500.0, 2250.5]
    times = {"segment": [0] * 3, "start_ms": starts, "end_ms": ends}
    table = read_embeddings(write_table(tmp_path / "e.parquet", ["a.wav"] * 3, np.ones((3, 2)), **times))
    file = tmp_path / "f.parquet"
    same = predictions_of(table, write_predictions(file, ["a.wav"] * 3, "KLM", [1] * 3, [1] * 3, starts, ends))
    assert same.labels == ["K", "L", "M"]
    longer = [0.0, 500.0, 900.0], [2000.0, 1500.0, 1900.0]
    other = predictions_of(table, write_predictions(file, ["a.wav"] * 3, "KLM", [1] * 3, [1] * 3, *longer))
    assert other.labels == [None, "L", None]
    assert other.others == 2


def test_paths_are_compared_from_the_working_folder(tmp_path, table, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write_predictions(tmp_path / "f.parquet", [tmp_path / "b.wav", "./c.wav"], "KL", [1, 1], [1, 1])
    assert predictions_of(table, file).labels == [None, "K", "L", None]


def test_a_csv_and_a_folder_of_parts_are_read_too(tmp_path, table):
    csv = tmp_path / "f.csv"
    csv.write_text(
        "path,segment,start_ms,end_ms,label,probability,margin\n"
        'a.wav,0,0.0,1000.0,\'=K,0.75,0.5\nb.wav,0,,,"L, M",1e-1,\n'
    )
    found = predictions_of(table, csv)
    assert found.labels == ["=K", "L, M", None, None]
    assert found.probability[:2].tolist() == [0.75, 0.1]
    (tmp_path / "parts").mkdir()
    for number, name in enumerate(NAMES):
        write_predictions(tmp_path / "parts" / f"part-{number}.parquet", [name], "K", [1], [1])
    write_predictions(tmp_path / "parts" / ".part-9.parquet", ["a.wav"], "Z", [1], [1])
    assert predictions_of(table, tmp_path / "parts").labels == ["K"] * 4


def test_predictions_of_other_clips_are_refused(tmp_path, table):
    file = write_predictions(tmp_path / "f.parquet", ["x.wav"] * 2, "KL", [1, 1], [1, 1])
    with pytest.raises(ValueError, match=r"f\.parquet: none of its 2 rows is a row of the table; expected what maeast"):
        predictions_of(table, file)
    with pytest.raises(ValueError, match="none of its 0 rows"):
        predictions_of(table, write_predictions(file, [], "", [], []))


def test_what_is_no_table_of_predictions_is_one_line(tmp_path, table):
    file = tmp_path / "f.parquet"
    with pytest.raises(ValueError, match=r"f\.parquet: no such file or folder; expected a table that maeast predict"):
        predictions_of(table, file)
    file.write_text("no parquet")
    with pytest.raises(ValueError, match=r"not a table of predictions \("):
        predictions_of(table, file)
    with pytest.raises(ValueError, match="no column segment; expected path, segment"):
        predictions_of(table, write_table(file, NAMES, np.ones((4, 2))))
    with pytest.raises(ValueError, match=r"a folder without \.parquet files"):
        predictions_of(table, (tmp_path / "empty").mkdir() or tmp_path / "empty")
    (tmp_path / "f.csv").write_text("path,segment,start_ms,end_ms,label,probability,margin\na.wav,0,0,1000,K,high,1\n")
    with pytest.raises(ValueError, match=r"f\.csv: row 1: .*'high'; expected a number"):
        predictions_of(table, tmp_path / "f.csv")


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("probability", pa.array([1.5] * 4), "a probability of 1.5 for a.wav; expected 0 to 1"),
        ("probability", pa.array([np.nan] * 4), "a probability of nan"),
        ("probability", pa.array(["high"] * 4), "probability holds no numbers, but string"),
        ("label", pa.array([None, "K", "K", "K"]), "a row without a label"),
        ("label", pa.array([b"\xff"] * 4), "not a table of predictions"),
        ("path", pa.array([[1]] * 4), "not a table of predictions"),
        ("segment", pa.array([[1]] * 4), "segment holds no numbers"),
    ],
)
def test_columns_of_other_kinds_are_one_line(tmp_path, table, column, values, reason):
    file = write_predictions(tmp_path / "f.parquet", NAMES, "KLMN", [1] * 4, [1] * 4)
    columns = pq.read_table(file)
    pq.write_table(columns.set_column(columns.column_names.index(column), column, values), file)
    with pytest.raises(ValueError, match=reason) as caught:
        predictions_of(table, file)
    assert "\n" not in str(caught.value)
