"""Hostile and broken files: one clear error, nothing run, nothing left changed."""

import argparse
import collections
import os
import pickle
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_checkpoints import write_all
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maeast_upstream import checkpoint
from maeast_upstream.checkpoint import unpickle

NAMES = [
    ("builtins", "eval"),
    ("builtins", "getattr"),
    ("os", "system"),
    ("subprocess", "Popen"),
    ("torch", "load"),
    ("torch.hub", "load"),
    ("numpy", "load"),
    ("collections", "namedtuple"),
    ("functools", "partial"),
    ("fairseq", "x"),
    ("fairseqs.checkpoint", "x"),
    ("torch", "os.system"),
    ("argparse", "Namespace.__init__"),
]


def write(path, data):
    """A pickle as torch would store it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    return path


def text(value):
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def read(path):
    return unpickle.load(path, ("cfg", "model"))


@pytest.mark.parametrize(("module", "name"), NAMES)
@pytest.mark.parametrize("form", ["stack", "memo", "line", "instance", "bare"])
def test_any_other_name_is_refused_before_anything_is_built(tmp_path, module, name, form):
    forms = {
        "stack": b"\x80\x04" + text(module) + text(name) + pickle.STACK_GLOBAL + b".",
        "memo": b"\x80\x04" + text(name) + b"\x94" + text(module) + b"h\x00" + pickle.STACK_GLOBAL + b".",
        "line": f"c{module}\n{name}\n.".encode(),
        "instance": f"(i{module}\n{name}\n.".encode(),
    }
    if form == "bare":
        path = tmp_path / "file.pt"
        path.write_bytes(forms["stack"])
    else:
        path = write(tmp_path / "file.pt", forms[form])
    with pytest.raises(unpickle.RefusedError, match=f"asks for {module}.{name}; nothing of it was run"):
        read(path)


def test_a_name_that_comes_after_others_is_found(tmp_path):
    sentinel = tmp_path / "was_run"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {sentinel}",)

    content = {
        "args": argparse.Namespace(),
        "many": list(range(5000)),
        "last": [Evil()],
    }
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(unpickle.RefusedError, match="system"):
        read(tmp_path / "file.pt")
    assert not sentinel.exists()


def test_a_name_in_a_message_is_no_command_for_a_terminal(tmp_path):
    data = b"\x80\x04" + text("os\x1b[2J") + text("a\nb") + pickle.STACK_GLOBAL + b"."
    with pytest.raises(unpickle.RefusedError, match=r"asks for os\\x1b\[2J\.a\\nb; nothing"):
        read(write(tmp_path / "file.pt", data))


def test_an_extension_code_is_refused(tmp_path):
    with pytest.raises(unpickle.RefusedError, match="the extension 7"):
        read(write(tmp_path / "file.pt", b"\x80\x02\x82\x07."))


def test_torchscript_is_refused(tmp_path):
    class Net(torch.nn.Module):
        def forward(self, x):
            return x

    torch.jit.script(Net()).save(tmp_path / "script.pt")
    with pytest.raises(ValueError, match="is compressed"):  # which is seen before the names are
        read(tmp_path / "script.pt")


@pytest.mark.parametrize(
    "target",
    [
        "ctorch\nFloatStorage\n",
        "ctorch._utils\n_rebuild_tensor_v2\n",
        "cargparse\nNamespace\n",
    ],
)
def test_attributes_of_what_is_named_stay_as_they_are(tmp_path, target):
    before = (
        dict(vars(torch.FloatStorage)),
        torch._utils._rebuild_tensor_v2.__defaults__,
        dict(vars(argparse.Namespace)),
    )
    data = f"{target}(N(dS'__defaults__'\n(I1\ntsS'device'\nI1\nsttb.".encode()
    with pytest.raises(ValueError, match="file.pt"):
        read(write(tmp_path / "file.pt", data))
    after = (
        dict(vars(torch.FloatStorage)),
        torch._utils._rebuild_tensor_v2.__defaults__,
        dict(vars(argparse.Namespace)),
    )
    assert before == after


def test_a_huge_memo_index_takes_no_memory(tmp_path):
    data = b"\x80\x02cargparse\nNamespace\n)\x81r\xff\xff\xff\x7f."
    assert read(write(tmp_path / "file.pt", data)) is None


def test_what_unpacks_to_more_than_the_file_holds_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"cargparse\nNamespace\n" + b"0" * 1000)
    with pytest.raises(ValueError, match="compressed"):
        read(tmp_path / "bomb.pt")


def test_what_contains_itself_or_shares_much_ends(tmp_path):
    loop, shared = [], [1]
    loop.append(loop)
    for _ in range(60):
        shared = [shared, shared]
    torch.save(
        {"cfg": loop, "model": shared, "args": argparse.Namespace()},
        tmp_path / "file.pt",
    )
    assert read(tmp_path / "file.pt")["cfg"] == [None]


def test_tensors_are_those_that_were_saved_whatever_their_kind(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    model = {
        "view": whole[1:, ::2],
        "transposed": whole.t(),
        "half": whole.half(),
        "bf16": whole.bfloat16(),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(whole),
    }
    module = torch.nn.Linear(2, 3)
    model |= module.state_dict()
    torch.save(
        {"model": collections.OrderedDict(model), "args": argparse.Namespace()},
        tmp_path / "file.pt",
    )
    loaded = read(tmp_path / "file.pt")["model"]
    assert loaded.keys() == model.keys()
    for name, value in model.items():
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], value), name


def test_a_tensor_larger_than_what_is_stored_is_refused(tmp_path):
    stretched = torch.zeros(1).expand(1 << 40)
    torch.save({"model": stretched, "args": argparse.Namespace()}, tmp_path / "file.pt")
    with pytest.raises(ValueError, match="in a storage of 1 values"):
        read(tmp_path / "file.pt")


def test_settings_are_found_in_namespaces_slots_and_enumerations(tmp_path, monkeypatch):
    class Slots:
        __slots__ = ("width",)

    class Choice:
        def __init__(self, value):
            self.value = value

        def __reduce__(self):
            return Choice, (self.value,)

    module = types.ModuleType("fairseq.options")
    for kind in (Slots, Choice):
        kind.__module__, kind.__qualname__ = "fairseq.options", kind.__name__
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "fairseq", types.ModuleType("fairseq"))
    monkeypatch.setitem(sys.modules, "fairseq.options", module)
    slots = Slots()
    slots.width = 3
    cfg = {
        "space": argparse.Namespace(lr=0.1, sub=argparse.Namespace(a=[1])),
        "slots": slots,
        "choice": Choice("gelu"),
    }
    torch.save({"cfg": cfg, "other": np.arange(3)}, tmp_path / "file.pt")
    assert read(tmp_path / "file.pt") == {
        "cfg": {
            "space": {"lr": 0.1, "sub": {"a": [1]}},
            "slots": {"width": 3},
            "choice": "gelu",
        }
    }


def broken_copy(data, whole):
    """Drawn damage: cut short, or some bytes changed."""
    whole = bytearray(whole)
    if data.draw(st.booleans()):
        return whole[: data.draw(st.integers(0, len(whole) - 1))]
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    return whole


fuzz = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@fuzz
@given(data=st.data())
@pytest.mark.parametrize("legacy", [False, True])
def test_broken_files_end_in_one_clear_error(tmp_path, data, legacy):
    whole, broken = tmp_path / "whole.pt", tmp_path / "broken.pt"
    if not whole.exists():
        content = {
            "cfg": {"model": {}, "task": {}},
            "model": {"a": torch.zeros(4)},
            "x": argparse.Namespace(),
        }
        torch.save(content, whole, _use_new_zipfile_serialization=not legacy)
    broken.write_bytes(broken_copy(data, whole.read_bytes()))
    with pytest.raises(ValueError, match="broken.pt"):
        checkpoint.read(broken)


@fuzz
@given(data=st.data())
def test_broken_pickles_end_in_one_clear_error(tmp_path, data):
    whole = tmp_path / "whole.pt"
    if not whole.exists():
        torch.save(
            {
                "cfg": {},
                "model": {"a": torch.zeros(4)},
                "x": argparse.Namespace(y=[1.5]),
            },
            whole,
        )
    with zipfile.ZipFile(whole) as archive:
        path = write(
            tmp_path / "broken.pt",
            bytes(broken_copy(data, archive.read("whole/data.pkl"))),
        )
    with pytest.raises(ValueError, match="broken.pt"):
        checkpoint.read(path)


READ = """
import resource, sys, time
from pathlib import Path
from maeast_upstream import checkpoint
now = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmData" in line)
resource.setrlimit(resource.RLIMIT_DATA, [(now << 10) + (1 << 30)] * 2)
for path in sorted(Path(sys.argv[1]).iterdir()):
    start = time.monotonic()
    try:
        checkpoint.read(path)
        what = "loaded"
    except Exception as error:
        what = f"{isinstance(error, ValueError)} {len(str(error)) - len(str(path))} {error}"
    print(path.name, int(time.monotonic() - start), what, sep="\\t")
"""


@pytest.mark.slow
@pytest.mark.parametrize("slow", [False, pytest.param(True, marks=pytest.mark.stress)])
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux counts the memory of a process there")
def test_nothing_hostile_takes_a_gigabyte_or_ten_seconds_or_a_long_message(tmp_path, slow):
    files = write_all(tmp_path, slow)
    done = subprocess.run([sys.executable, "-c", READ, tmp_path], capture_output=True, text=True, check=True)
    lines = [line.split("\t", 2) for line in done.stdout.splitlines()]
    assert [name for name, *_ in lines] == [path.name for path in files]
    for name, seconds, what in lines:
        assert int(seconds) < 10, name
        is_value_error, length, *_ = what.split()
        assert is_value_error == "True", f"{name}: {what}"
        assert int(length) < 300, f"{name}: {what}"
        assert "MemoryError" not in what, name
