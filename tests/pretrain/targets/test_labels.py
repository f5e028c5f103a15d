import json
import logging
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pretrain.data.batches import Batch
from pretrain.targets.labels import open_labels, refuse_other_classes, write_record
from pretrain.targets.rows import ClipRows

CPU = torch.device("cpu")
CLIPS = ["s-0.tar/a.opus", "s-0.tar/b.opus", "s-1.tar/a.opus", "s-1.tar/c.opus"]
ROWS = ClipRows(np.full(4, 16_000), joined=False)
TEXT = "shard\tpath\tkind\tsound\ns-0.tar\ta.opus\tspeech\tbell|click\ns-0.tar\tb.opus\tmusic\t\n"
TEXT += "s-1.tar\ta.opus\tspeech\tbell\nother.tar\ta.opus\teffect\twind\n"


@pytest.fixture
def table(tmp_path):
    (tmp_path / "manifest.tsv").write_text(TEXT)
    return str(tmp_path / "manifest.tsv")


def a_batch(clips, drawn=None):
    starts = torch.zeros(len(clips), dtype=torch.int64)
    return Batch(torch.zeros(len(clips), 16_000), starts + 16_000, 0, len(clips), clips, 0, (), starts, drawn or clips)


def test_a_manifest_of_shards_gives_classes_and_sets_of_labels_and_minus_1_and_nan_where_none_is(table, caplog):
    caplog.set_level(logging.INFO)
    target = open_labels(table, ["kind", "sound"], CLIPS, ROWS)
    assert [column.classes for column in target.columns] == [{"music": 1, "speech": 2}, {"bell": 2, "click": 1}]
    found = target(a_batch((0, 1, 2, 3, -1)), CPU)
    assert found["label0"].tolist() == [1, 0, 1, -1, -1]
    np.testing.assert_array_equal(found["label1"], [[1, 1], [np.nan] * 2, [1, 0], [np.nan] * 2, [np.nan] * 2])
    torch.testing.assert_close(found["label0_weights"], torch.tensor([5 / 3, 5 / 3, 5 / 3, 0, 0]))
    torch.testing.assert_close(found["label1_weights"], torch.tensor([2.5, 0, 2.5, 0, 0]))
    assert "kind of 3 of 4 clips, 2 classes: speech 2, music 1" in caplog.text


def test_parquet_gives_what_text_does(table, tmp_path):
    rows = [line.split("\t") for line in TEXT.splitlines()]
    columns = {name: pa.array([row[i] or None for row in rows[1:]]) for i, name in enumerate(rows[0])}
    columns["path"] = [f"{row[0]}/{row[1]}" for row in rows[1:]]
    columns["sound"] = pa.array([["bell", "click"], None, ["bell"], ["wind"]])
    del columns["shard"]
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    text, parquet = (open_labels(path, ["sound", "kind"], CLIPS, ROWS) for path in (table, str(tmp_path / "t.parquet")))
    for one, other in zip(text.columns, parquet.columns, strict=True):
        assert one.classes == other.classes
        np.testing.assert_array_equal(one.cells, other.cells)


def test_a_cell_that_is_null_or_nan_in_parquet_is_no_label(tmp_path):
    path = tmp_path / "t.parquet"
    numbers = pa.array([1.0, float("nan"), 2.0, None], from_pandas=False)
    pq.write_table(pa.table({"path": CLIPS, "kind": numbers, "sound": [["a", None], ["b"], [None], ["b"]]}), path)
    kind, sound = open_labels(str(path), ["kind", "sound"], CLIPS, ROWS).columns
    assert kind.classes == {"1.0": 1, "2.0": 1}
    assert sound.classes == {"a": 1, "b": 2}
    assert sound.cells.tolist() == [0, 1, -1, 1]


def test_a_column_that_is_twice_in_parquet_is_refused_by_name(tmp_path):
    arrays = [pa.array(values) for values in (CLIPS, ["a", "b"] * 2, ["b", "a"] * 2)]
    pq.write_table(pa.Table.from_arrays(arrays, names=["path", "kind", "kind"]), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t\.parquet: two columns are called 'kind'"):
        open_labels(str(tmp_path / "t.parquet"), ["kind"], CLIPS, ROWS)


def test_a_text_for_every_clip_takes_memory_for_the_texts_only(tmp_path):
    clips = [f"{number}.wav" for number in range(4000)]
    (tmp_path / "t.csv").write_text("path,text\n" + "".join(f"{clip},x {clip}|y\n" for clip in clips))
    rows = ClipRows(np.full(len(clips), 16_000), joined=False)
    tracemalloc.start()
    target = open_labels(str(tmp_path / "t.csv"), ["text"], clips, rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20  # a table of clips and classes would have 64 MB
    found = target(a_batch((0, 3999)), CPU)["label0"]
    assert found.sum(dim=1).tolist() == [2, 2]


REFUSED = {
    "no such file": (None, "no such file"),
    "no names": ("file,kind\na,b\n", "no column clip, path, name; it has file, kind"),
    "no column": ("path,sort\na,b\n", "no column 'kind'; it has path, sort"),
    "other clips": ("path,kind\nx,speech\n", "none of its 1 names is a clip"),
    "one class": ("path,kind\ns-0.tar/a.opus,speech\n", "column kind has 1 class among the clips of the corpus"),
    "none": ("path,kind\ns-0.tar/a.opus,\n", "column kind has 0 classes"),
    "two labels": (
        "path,kind\ns-0.tar/a.opus,speech\ns-0.tar/a.opus,music\n",
        "a clip has two different labels in column kind, 'speech' and 'music'",
    ),
    "binary": ("\0\1", "no column clip"),
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_a_wrong_table_is_one_line_that_names_it(tmp_path, content):
    path = tmp_path / "t.csv"
    if content[0] is not None:
        path.write_text(content[0])
    with pytest.raises(ValueError, match=r"t\.csv") as error:
        open_labels(str(path), ["kind"], CLIPS, ROWS)
    assert content[1] in str(error.value)
    assert "\n" not in str(error.value)


def test_other_labels_of_the_same_classes_are_said_when_a_run_continues(table, tmp_path, caplog):
    write_record(tmp_path, open_labels(table, ["kind"], CLIPS, ROWS))
    text = Path(table).read_text()
    (tmp_path / "moved.csv").write_text(text.replace("music", "x").replace("speech", "music").replace("x", "speech"))
    caplog.set_level("WARNING")
    refuse_other_classes(tmp_path, open_labels(table, ["kind"], CLIPS, ROWS))
    assert not caplog.records
    refuse_other_classes(tmp_path, open_labels(str(tmp_path / "moved.csv"), ["kind"], CLIPS, ROWS))
    assert re.search(r"begun with other labels of kind, .* than .*moved\.csv gives now: it continues", caplog.text)
    old = json.loads((tmp_path / "labels.json").read_text())
    del old["columns"]["kind"]["digest"]
    (tmp_path / "labels.json").write_text(json.dumps(old))
    caplog.clear()
    refuse_other_classes(tmp_path, open_labels(str(tmp_path / "moved.csv"), ["kind"], CLIPS, ROWS))
    assert not caplog.records


def test_a_run_is_not_continued_with_other_classes(table, tmp_path):
    target = open_labels(table, ["kind"], CLIPS, ROWS)
    refuse_other_classes(tmp_path, target)
    write_record(tmp_path, target)
    refuse_other_classes(tmp_path, target)
    columns = json.loads((tmp_path / "labels.json").read_text())["columns"]
    digest = columns["kind"].pop("digest")
    assert columns == {"kind": {"several_labels": False, "classes": {"music": 1, "speech": 2}}}
    assert digest == target.columns[0].digest
    (tmp_path / "other.csv").write_text("path,kind\ns-0.tar/a.opus,speech\ns-0.tar/b.opus,effect\n")
    other = open_labels(str(tmp_path / "other.csv"), ["kind"], CLIPS, ROWS)
    with pytest.raises(ValueError, match=r"was begun with 2 classes of kind.*'effect', 'music'.*another --out"):
        refuse_other_classes(tmp_path, other)
    (tmp_path / "both.csv").write_text("path,kind\ns-0.tar/a.opus,speech|music\ns-0.tar/b.opus,speech\n")
    both = open_labels(str(tmp_path / "both.csv"), ["kind"], CLIPS, ROWS)
    with pytest.raises(ValueError, match=r"begun with one label of kind in a cell, and labels .* has several labels"):
        refuse_other_classes(tmp_path, both)
    (tmp_path / "labels.json").write_text("{")
    with pytest.raises(ValueError, match=r"labels\.json: not JSON"):
        refuse_other_classes(tmp_path, target)
