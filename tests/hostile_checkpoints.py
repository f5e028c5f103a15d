"""Writes checkpoints that ask for any amount of memory or time, each small on the disk."""

import json
import os
import pickle
import struct
import zipfile
import zlib

import torch
from small import small_config

from maeast_upstream import checkpoint
from maeast_upstream.config import EncoderConfig
from maeast_upstream.model import MaeAst

MB = 1 << 20
ENDS = {"version": b"3\n", "byteorder": b"little"}


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def many(*parts):
    return b"(" + b"".join(parts) + b"t"


def number(value):
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<I", len(data)) + data


def tensor(key, count, size, stride=None, offset=0, kind="FloatStorage"):
    """The pickle of a tensor; ``key`` names its storage."""
    if stride is None:
        stride = [1] * len(size)
        for axis in range(len(size) - 2, -1, -1):
            stride[axis] = stride[axis + 1] * size[axis + 1]
    storage = many(text("storage"), named("torch", kind), text(key), text("cpu"), number(count)) + b"Q"
    shape = number(offset) + many(*map(number, size)) + many(*map(number, stride))
    hooks = named("collections", "OrderedDict") + b")R"
    return named("torch._utils", "_rebuild_tensor_v2") + many(storage, shape, b"\x89", hooks) + b"R"


def content(**tensors):
    """The pickle of a checkpoint with these tensors and an empty cfg."""
    items = b"".join(text(name) + value for name, value in tensors.items())
    return b"\x80\x02}(" + text("cfg") + b"}" + text("model") + b"}(" + items + b"uu."


def archive(path, pickled, values=b"\0" * 64, method=zipfile.ZIP_STORED, extra=()):
    """An archive as torch writes it, with one storage."""
    with zipfile.ZipFile(path, "w", method) as file:
        entries = [("data.pkl", pickled), *ENDS.items(), ("data/0", values), *extra]
        for name, value in entries:
            file.writestr(f"archive/{name}", value)


def unpacks_to(path, name, megabytes):
    """An archive of which one entry is compressed zeros."""
    one = zlib.compressobj(6, zlib.DEFLATED, -15)
    block = one.compress(bytes(16 * MB)) + one.flush(zlib.Z_FULL_FLUSH)
    data = block * (megabytes // 16) + zlib.compressobj(6, zlib.DEFLATED, -15).flush()
    archive(path, content(a=tensor("0", 16, [16])))
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        start, count = file.start_dir, len(file.infolist())
    label = f"archive/{name}".encode()
    fixed = struct.pack("<HHHHIIIHH", 0, 8, 0, 0, 0, len(data), megabytes * MB, len(label), 0)
    local = b"PK\3\4\x14\0" + fixed + label + data
    directory = (
        raw[start : raw.rindex(b"PK\5\6")] + b"PK\1\2\x14\0\x14\0" + fixed + bytes(10) + struct.pack("<I", start)
    )
    directory += label
    end = struct.pack("<HHIIH", count + 1, count + 1, len(directory), start + len(local), 0)
    path.write_bytes(raw[:start] + local + directory + b"PK\5\6\0\0\0\0" + end)


def overlapping(path, count):
    """An archive whose directory names one stored entry many times."""
    tensors = {f"x{i}": tensor(str(i), MB, [MB]) for i in range(count)}
    archive(path, content(**tensors), bytes(4 * MB))
    raw = path.read_bytes()
    end = raw.rindex(b"PK\5\6")
    with zipfile.ZipFile(path) as file:
        start = file.start_dir
    directory = raw[start:end]
    last = directory[directory.rindex(b"PK\1\2") :]
    names = [f"archive/data/{i}".encode() for i in range(1, count)]
    directory += b"".join(last[:28] + struct.pack("<H", len(name)) + last[30:46] + name for name in names)
    entries = struct.pack("<HHIIH", count + 3, count + 3, len(directory), start, 0)
    path.write_bytes(raw[:start] + directory + b"PK\5\6\0\0\0\0" + entries)


def large_directory(path, count):
    """An archive with an index of many entries and nothing in them."""
    entry = b"PK\1\2" + struct.pack("<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    directory = entry * count
    end64 = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, len(directory), 0)
    locator = b"PK\6\7" + struct.pack("<IQI", 0, len(directory), 1)
    end = b"PK\5\6\0\0\0\0" + struct.pack("<HHIIH", 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(b"PK\3\4" + directory[4:] + end64 + locator + end)


def one_of(index):
    """The pickle of one of many tuples that have the same hash, as -1 and -2 have."""
    return many(*(number(-1 - (index >> bit & 1)) for bit in range(17)))


def pickles():
    """Pickles inside an archive, by name."""
    shared = b"\x80\x02" + many(b"N") + b"".join(b"2\x86" for _ in range(60))
    forms = {
        "laughing_key": shared + b"q\0}h\0Ns.",
        "laughing_tag": shared + b"q\0" + b"(h\0h\0h\0tQ.",
        "laughing_cfg": b"\x80\x02}(" + text("cfg") + shared[2:] + text("model") + b"}u.",
        "deep": b"\x80\x02}(" + text("cfg") + b"(" * 100_000 + b"l" * 100_000 + text("model") + b"}u.",
        "deep_key": b"\x80\x02}N" + b"\x85" * 100_000 + b"Ns.",
        "marks": b"\x80\x02" + b"(" * 2_000_000,
        "sets": b"\x80\x04" + b"\x8f" * 2_000_000,
        "one_hash": b"\x80\x02}(" + b"".join(number(i * (2**61 - 1)) + b"N" for i in range(1, 200_000)) + b"u.",
        "one_hash_of_tuples": b"\x80\x02}(" + b"".join(one_of(i) + b"N" for i in range(60_000)) + b"u.",
        "classes": b"\x80\x02" + b"".join(named("fairseq.x", f"n{i}") for i in range(300_000)) + b".",
        "objects": b"\x80\x02" + named("argparse", "Namespace") + b"q\0" + b"h\0)R" * 400_000 + b".",
        "arguments": b"\x80\x02" + many(b"N" * 100_000) + b"q\0" + named("fairseq.x", "y") + b"q\1" + b"h\1h\0R" * 9000,
        "spread": b"\x80\x02" + text("x" * MB) + b"q\0" + named("fairseq.x", "y") + b"h\0R" * 1000 + b".",
        "long_key": b"\x80\x02}(" + text("cfg") + b"}" + text("model") + b"}" + text("x" * 8 * MB) + b"Nsu.",
        "long_name": b"\x80\x02c" + b"x" * 8 * MB + b"\ny\n.",
        "long_number": b"\x80\x02}(" + text("cfg") + b"}(" + text("model") + b"}" + text("task") + b"}u"
        + text("model") + b"}" + text("a") + number(1 << (8 * 8 * MB)) + b"su.",
        "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 12 << 30) + b"x.",
        "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 12 << 30) + b"x.",
        "unicode": b"\x80\x04\x8d" + struct.pack("<Q", 12 << 30) + b"x.",
        "long4": b"\x80\x02\x8b" + struct.pack("<I", 0x7FFFFFFF) + b"x.",
        "frame": b"\x80\x04\x95" + struct.pack("<Q", 12 << 30) + b"N.",
        "memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
    }  # fmt: skip
    many_times = {f"x{i}": tensor("0", 16, [16]) for i in range(3000)}
    slots = b"\x80\x02}(" + b"".join(text(str(i)) + b"N" for i in range(20_000)) + b"uq\0" + named("fairseq.x", "y")
    slots += b"q\1](" + b"h\1)\x81Nh\0\x86b" * 5000 + b"eq\2}(" + text("cfg") + b"h\2" + text("model") + b"}u."
    huge = [1 << 40, 1 << 40]
    tensors = {
        "expanded": tensor("0", 16, [1 << 40], [0]),
        "overflowing": tensor("0", 16, [1 << 32, 1 << 32], [0, 0]),
        "empty_but_huge": tensor("0", 16, [0, *huge]),
        "negative": tensor("0", 16, [-4]),
        "negative_stride": tensor("0", 16, [4], [-1], 8),
        "outside": tensor("0", 16, [4], [1], 14),
        "strided_outside": tensor("0", 16, [4], [8]),
        "huge_size": tensor("0", 16, [1 << 100_000]),
        "dimensions": tensor("0", 16, [1] * 50_000),
        "absent": tensor("7", 16, [16]),
        "larger_than_stored": tensor("0", 1 << 40, [1 << 40]),
        "quantized": tensor("0", 16, [16], kind="QInt8Storage"),
    }
    forms |= {name: content(a=value) for name, value in tensors.items()}
    return {**forms, "many_times": content(**many_times), "slots": slots}


def write_folder(folder, change=lambda config: None, weights=None):
    """A checkpoint folder with other settings or weights than it should have."""
    model = small_config()
    checkpoint.save_folder(folder, MaeAst(model), EncoderConfig(model=model))
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)


def write_folders(root):
    def mels(config):
        config["model"]["num_mel_bins"] = config["frontend"]["num_mel_bins"] = 16_000_000

    write_folder(root / "mels", mels)
    write_folder(root / "depth", lambda config: config["model"].update(depth=10**9))
    write_folder(root / "width", lambda config: config["model"].update(embed_dim=1 << 62))
    write_folder(root / "frames", lambda config: config["model"].update(patch_frames=1 << 40))
    write_folder(root / "long_text", lambda config: config["provenance"].update(data="x" * 8 * MB))
    header = b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' + b" " * 50 * MB + b"}"
    write_folder(root / "long_header", weights=len(header).to_bytes(8, "little") + header)
    write_folder(root / "claimed_header", weights=(1 << 62).to_bytes(8, "little") + b"{}")
    names = ",".join(f'"{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(5000))
    header = f"{{{names}}}".encode()
    write_folder(root / "many_tensors", weights=len(header).to_bytes(8, "little") + header)
    write_folder(root / "endless_config")
    os.truncate(root / "endless_config" / "config.json", 1 << 40)
    write_folder(root / "sparse_weights")
    os.truncate(root / "sparse_weights" / "model.safetensors", 1 << 40)
    write_folder(root / "deep_config")
    (root / "deep_config" / "config.json").write_text("[" * 1_000_000)
    write_folder(root / "device")
    (root / "device" / "model.safetensors").unlink()
    (root / "device" / "model.safetensors").symlink_to("/dev/zero")


SLOW = {"marks", "sets", "objects", "deep_key", "one_hash", "one_hash_of_tuples"}
"""Pickles that take a second or two, as long as any may."""


def write_all(root, slow):
    """Write all files and folders, or all but the ``SLOW`` ones; return their paths."""
    forms = pickles()
    for name in forms.keys() - (set() if slow else SLOW - {"sets"}):
        archive(root / f"{name}.pt", forms[name])
    (root / "bare_bytearray.pt").write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 12 << 30) + b"x.")
    for name in ("bytes", "unicode", "long4", "frame"):
        (root / f"bare_{name}.pt").write_bytes(forms[name])
    unpacks_to(root / "deflated.pt", "version2", 2048)
    unpacks_to(root / "deflated_pickle.pt", "sub/data.pkl", 2048)
    overlapping(root / "overlap.pt", 300)
    large_directory(root / "directory.pt", 1_000_000)
    archive(root / "compressed.pt", content(a=tensor("0", 16, [16])), method=zipfile.ZIP_DEFLATED)
    archive(root / "upwards.pt", content(a=tensor("0", 16, [16])), extra=[("../../etc/x", b"1")])
    archive(root / "two.pt", content(a=tensor("0", 16, [16])), extra=[("sub/data.pkl", b"N.")])
    inner = (root / "upwards.pt").read_bytes()
    (root / "behind_another.pt").write_bytes(b"PK\3\4" + bytes(100) + inner)
    (root / "followed.pt").write_bytes(inner + b"x" * 100)
    (root / "empty.pt").write_bytes(b"")
    legacy = {"cfg": {"model": {}, "task": {}}, "model": {"a": torch.zeros(4)}}
    torch.save(legacy, root / "legacy_count.pt", _use_new_zipfile_serialization=False)
    raw = (root / "legacy_count.pt").read_bytes()
    (root / "legacy_count.pt").write_bytes(raw[:-24] + struct.pack("<q", 1 << 40) + raw[-16:])
    (root / "sparse.pt").write_bytes(raw)
    os.truncate(root / "sparse.pt", 1 << 40)
    os.mkfifo(root / "pipe.pt")
    (root / "zero.pt").symlink_to("/dev/zero")
    (root / "pickle.pt").write_bytes(pickle.dumps(legacy))
    write_folders(root)
    return sorted(root.iterdir())
