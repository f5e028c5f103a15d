import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from tables import SCHEMA, table

from maeast_upstream.extract.part_store import PartReport, PartStore
from maeast_upstream.storage.folder import Storage


@pytest.fixture
def store(tmp_path):
    store = PartStore(Storage(tmp_path / "parts"))
    store.storage.make()
    store.open({"precision": "fp32", "readout": {"layer": "last"}})
    return store


def write(store, number, errors=()):
    with store.write(number, SCHEMA) as (writer, report):
        writer.write_table(table(f"clip{number}", number))
        report.add(PartReport(1, 2, 16000, list(errors)))


def test_parts_come_back_in_order_with_their_reports(store):
    for number in (2, 0):
        write(store, number, [("bad.wav", "empty file", 7)])
    assert store.numbers() == [0, 2]
    assert store.report(2) == PartReport(1, 2, 16000, [("bad.wav", "empty file", 7)])
    assert store.total() == PartReport(2, 4, 32000, [("bad.wav", "empty file", 7)] * 2)
    assert [row["path"] for rows in store.tables() for row in rows.to_pylist()] == ["clip0"] * 2 + ["clip2"] * 2


def test_a_part_that_fails_is_not_there(store):
    def fail():
        with store.write(0, SCHEMA) as (writer, _):
            writer.write_table(table("clip"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert store.numbers() == []
    assert store.storage.names() == ["_settings.json"]


def test_readers_of_parquet_folders_see_the_rows_alone(store):
    write(store, 0)
    with store.locked():
        assert pq.read_table(store.storage.root).num_rows == 2


def test_going_on_with_other_settings_is_refused_with_both(store):
    store.open({"precision": "fp32", "readout": {"layer": "last"}})
    with pytest.raises(ValueError, match=r"begun with precision 'fp32', not 'bf16': .*--force"):
        store.open({"precision": "bf16", "readout": {"layer": "last"}})
    with pytest.raises(ValueError, match=r"begun with readout\.layer 'last', not 3"):
        store.open({"precision": "fp32", "readout": {"layer": 3}})


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="other things in it"):
        PartStore(Storage(tmp_path)).open({})
    assert (tmp_path / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize("content", [b"", b"PAR1 nothing", b"half"])
def test_a_broken_part_is_named_with_the_remedy(store, content):
    with store.storage.files.open(store.storage.path("part-0000000.parquet"), "wb") as file:
        file.write(content)
    with pytest.raises(ValueError, match=r"part-0000000\.parquet: not a complete part; remove it"):
        store.report(0)


def test_broken_settings_are_named_with_the_remedy(store):
    with store.storage.files.open(store.storage.path("_settings.json"), "wb") as file:
        file.write(b"{")
    with pytest.raises(ValueError, match=r"_settings\.json: broken; give --force"):
        store.open({})


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_is_refused(store):
    code = (
        "import sys\n"
        "from maeast_upstream.extract.part_store import PartStore\n"
        "from maeast_upstream.storage.folder import Storage\n"
        "with PartStore(Storage(sys.argv[1])).locked(): pass"
    )
    command = [sys.executable, "-c", code, store.storage.root]
    with store.locked():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "another run is writing here" in done.stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_a_part_keeps_the_warnings_of_its_clips_and_one_without_has_none(store):
    write(store, 0)
    with store.write(1, SCHEMA) as (_, report):
        report.add(PartReport(errors=[("b.wav", "empty file", 0)], warnings=[("a.wav", 2, "cut short")]))
    assert store.total().warnings == [("a.wav", 2, "cut short")]
    part = store.storage.path("part-0000001.parquet")
    metadata = json.loads(pq.read_metadata(part).metadata[b"maeast.part"])
    del metadata["warnings"]  # as 0.1.0 wrote it
    with pq.ParquetWriter(part, SCHEMA) as writer:
        writer.add_key_value_metadata({b"maeast.part": json.dumps(metadata).encode()})
    assert store.report(1) == PartReport(errors=[("b.wav", "empty file", 0)])


@pytest.mark.parametrize(("parts", "count"), [([0, 3], 4), ([0, 1, 2], 5), ([1], 2), ([0, 1, 2], 2), ([], 1)])
def test_parts_that_are_not_every_clip_once_are_no_table(store, parts, count):
    for number in parts:
        write(store, number, [("a.wav", "empty file", 0)])
    with pytest.raises(ValueError, match="was another run writing here"):
        store.total(count)


def test_parts_that_hold_every_clip_once_are_a_table(store):
    for number in (0, 2, 4):
        write(store, number, [("a.wav", "empty file", 0)])
    store.total(6)


def test_removing_leaves_nothing(store, tmp_path):
    write(store, 0)
    store.remove()
    assert not list(tmp_path.iterdir())


def test_the_report_lies_in_the_parquet_file_itself(store):
    write(store, 0, [("bad.wav", "empty file", 7)])
    metadata = pq.read_metadata(store.storage.path("part-0000000.parquet")).metadata
    assert json.loads(metadata[b"maeast.part"])["errors"] == [["bad.wav", "empty file", 7]]
