import csv
import errno
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import SCHEMA, SPEC, table

from maeast_upstream.extract.outputs import output_at
from maeast_upstream.extract.part_store import PartReport
from maeast_upstream.extract.table import Embedded, make_schema
from maeast_upstream.storage import folder
from maeast_upstream.storage.folder import Storage

METADATA = {"maeast": json.dumps({"settings": {"precision": "fp32"}})}


def npy_bytes():
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def filled(address, parts=3):
    output = output_at(str(address))
    store = output.store
    store.storage.make()
    store.open({})
    for number in range(parts):
        with store.write(number, SCHEMA) as (writer, report):
            writer.write_table(table("x" * (number + 1), number))
            report.add(PartReport(1, 2, 16000, []))
    return output


def test_parts_become_one_parquet_file_and_go(tmp_path):
    output = filled(tmp_path / "e.parquet")
    output.finish(make_schema(SPEC, 3, METADATA))
    rows = pq.read_table(tmp_path / "e.parquet").to_pylist()
    assert [row["path"] for row in rows] == ["x", "x", "xx", "xx", "xxx", "xxx"]
    assert output.recorded() == {"precision": "fp32"}
    assert [path.name for path in tmp_path.iterdir()] == ["e.parquet"]


def test_parts_become_one_npz_file_that_needs_no_pickle(tmp_path):
    output = filled(tmp_path / "e.npz")
    output.finish(make_schema(SPEC, 3, METADATA))
    with np.load(tmp_path / "e.npz") as arrays:
        assert arrays["path"].tolist() == ["x", "x", "xx", "xx", "xxx", "xxx"]
        assert arrays["layer"].tolist() == ["1", "2"] * 3
        assert arrays["vector"].dtype == np.float32
        assert arrays["vector"].tolist() == [[float(n // 2)] * 3 for n in range(6)]
        assert arrays["end_ms"].tolist() == [1000.0] * 6
    assert output.recorded() == {"precision": "fp32"}
    assert [path.name for path in tmp_path.iterdir()] == ["e.npz"]


def test_a_folder_keeps_its_parts(tmp_path):
    output = filled(tmp_path / "out")
    output.finish(make_schema(SPEC, 3, METADATA))
    assert pq.read_table(tmp_path / "out").num_rows == 6
    assert not output.whole()


def test_a_remote_address_works_alike():
    output = filled("memory://bucket/e.parquet") if Storage("memory://bucket").make() is None else None
    output.finish(make_schema(SPEC, 3, METADATA))
    assert output.parent.names() == ["e.parquet"]
    with output.parent.open("e.parquet") as file:
        assert pq.read_table(file).num_rows == 6
    output.remove()
    assert output.parent.names() == []


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        ("e.csv", None, "ends in .parquet or .npz, or a folder"),
        ("e.parquet", "npz", "format npz goes with a .npz"),
        ("e.parquet", "npy", "format npy goes with a folder"),
        ("e", "npz", "format npz goes with a name that ends in .npz"),
        ("missing/e.parquet", None, "missing: no such folder"),
        ("/", None, "give a name"),
        ("x" * 235 + ".parquet", None, "a name of more than 242 bytes"),
        (".", None, "give a name"),
        ("sub/..", None, "give a name"),
        ("memory://bucket/.", "npy", "give a name"),
    ],
)
def test_a_name_that_says_nothing_is_refused(name, format, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        output_at(name, format)


@pytest.mark.parametrize(("name", "kind"), [("e.parquet", "folder"), ("e.npz", "folder"), ("e", "file")])
def test_a_name_that_something_of_another_kind_has_is_refused(name, kind, tmp_path):
    (tmp_path / name).mkdir() if kind == "folder" else (tmp_path / name).touch()
    with pytest.raises(ValueError, match=f"{name}: a {kind} has this name"):
        output_at(str(tmp_path / name))


@pytest.mark.parametrize(("there", "wanted"), [("parquet", "npy"), ("npy", "parquet")])
def test_a_folder_of_one_format_takes_no_other(there, wanted, tmp_path):
    store = output_at(str(tmp_path / "out"), there).store
    store.storage.make()
    store.open({})
    with pytest.raises(ValueError, match=f"a folder of {there} files, not of {wanted}: give --format {there}"):
        output_at(str(tmp_path / "out"), wanted)
    assert output_at(str(tmp_path / "out"), there).store.begun


def test_an_address_that_is_not_utf8_can_be_printed(tmp_path):
    output = output_at(f"{tmp_path}/" + b"caf\xe9.parquet".decode("utf-8", "surrogateescape"))
    assert output.address == f"{tmp_path}/caf\\xe9.parquet"


@pytest.mark.parametrize("content", [b"", b"precious", b"PK\x03\x04", npy_bytes()])
@pytest.mark.parametrize("name", ["e.parquet", "e.npz"])
def test_what_is_not_ours_was_made_with_nothing(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert output_at(str(tmp_path / name)).recorded() == {}


def test_errors_are_listed_beside_and_go_when_there_are_none(tmp_path):
    output = output_at(str(tmp_path / "e.parquet"))
    errors = [("a\tb.wav", "empty file", 0), ("c\rd.wav", "empty file", 7), ("=1+1.wav", "empty file", 0)]
    output.write_lists(PartReport(errors=errors))
    with (tmp_path / "e.parquet.errors.tsv").open(newline="") as file:
        assert list(csv.reader(file, delimiter="\t")) == [
            ["path", "reason", "segment"],
            ["a\tb.wav", "empty file", "0"],
            ["c\rd.wav", "empty file", "7"],
            ["'=1+1.wav", "empty file", "0"],
        ]
    assert b"\r\n" not in (tmp_path / "e.parquet.errors.tsv").read_bytes()
    output.write_lists(PartReport())
    assert not list(tmp_path.iterdir())


def test_warnings_are_listed_beside_with_a_row_for_each_note(tmp_path):
    output = output_at(str(tmp_path / "e.parquet"))
    output.write_lists(PartReport(warnings=[("a.wav", 0, "cut short"), ("a.wav", 0, "no header"), ("b.wav", 3, "gap")]))
    with (tmp_path / "e.parquet.warnings.tsv").open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    assert rows == [
        ["path", "segment", "note"],
        ["a.wav", "0", "cut short"],
        ["a.wav", "0", "no header"],
        ["b.wav", "3", "gap"],
    ]
    output.write_lists(PartReport())
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_an_input_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = output_at("e.parquet")
    for name in ("e.parquet", "./e.parquet", str(tmp_path / "e.parquet"), "e.parquet.errors.tsv"):
        with pytest.raises(ValueError, match="an input, and the output"):
            output.refuse_as_input(["a.wav", name])
    output.refuse_as_input(["a.wav", "-", "s3://bucket/e.parquet"])
    (tmp_path / "audio").mkdir()
    with pytest.raises(ValueError, match="an input, and the output"):
        output_at("audio", "npy").refuse_as_input(["audio"])


@pytest.mark.parametrize(
    ("name", "format", "parts"), [("e.parquet", None, "e.parquet.parts"), ("e", "npy", "e/_parts")]
)
def test_parts_are_not_written_through_a_link(tmp_path, name, format, parts):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / parts).parent.mkdir(exist_ok=True)
    (tmp_path / parts).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="a link, where the parts"):
        output_at(str(tmp_path / name), format)


@pytest.mark.parametrize("name", ["e.parquet", "e.npz"])
def test_a_full_disk_leaves_the_parts_and_an_earlier_table(tmp_path, monkeypatch, name):
    output = filled(tmp_path / name)
    (tmp_path / name).write_text("earlier")
    full = lambda path, mode: Path("/dev/full").open(mode.replace("x", "w"))  # noqa: E731, SIM115
    monkeypatch.setattr(folder, "open", full, raising=False)
    with pytest.raises(OSError, match="No space left") as error:
        output.finish(make_schema(SPEC, 3, METADATA))
    assert error.value.errno == errno.ENOSPC
    assert (tmp_path / name).read_text() == "earlier"
    assert output.store.numbers() == [0, 1, 2]


def test_a_full_disk_is_told_while_an_npy_file_is_written(tmp_path, monkeypatch):
    output = output_at(str(tmp_path / "out"), "npy")
    output.store.storage.make()
    monkeypatch.setattr(folder, "open", lambda *_: Path("/dev/full").open("wb"), raising=False)  # noqa: SIM115
    clip = Embedded("a.wav", 0, 0.0, 1.0, np.zeros((2, 1, 3000), np.float32), np.zeros(1))
    with pytest.raises(OSError, match="No space left"):
        output.table_builder(SPEC, 3000, {}).table([clip])
    assert not list(tmp_path.rglob("*.npy"))


def test_a_part_that_names_a_file_elsewhere_removes_nothing_there(tmp_path):
    (tmp_path / "precious.npy").touch()
    output = output_at(str(tmp_path / "out"), "npy")
    output.store.storage.make()
    output.store.open({})
    names = pa.table({"file": ["../precious.npy", "a/../../precious.npy", "a.npy"]})
    with output.store.write(0, names.schema) as (writer, _):
        writer.write_table(names)
    (tmp_path / "out" / "a.npy").touch()
    output.remove()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["precious.npy"]
    assert not (tmp_path / "out" / "a.npy").exists()
