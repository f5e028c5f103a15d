"""Tars are listed as tarfile lists them, within bounds that no content of a tar can break."""

import contextlib
import io
import os
import random
import resource
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maeast_upstream.audio.files import is_hidden
from maeast_upstream.data import tars
from maeast_upstream.data.inputs import list_segments
from maeast_upstream.data.tars import Member, list_members

ANY_CASE = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
SUFFIXES = {".wav"}


def by_tarfile(path, suffixes):
    """List members by tarfile, which is the oracle for tars that are not hostile."""
    with Path(path).open("rb") as file, tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
        for member in tar:
            suffix = Path(f"x{member.name}").suffix.lower()
            if suffix not in suffixes or is_hidden(member.name) or member.isdir():
                continue
            if member.islnk() or member.issym():
                option = "--hard-dereference" if member.islnk() else "--dereference"
                yield Member(member.name, error=f"a link to {member.linkname}; make the tar with {option}")
            elif member.issparse():
                yield Member(member.name, error="a sparse member; make the tar without --sparse (-S)")
            elif member.isreg():
                yield Member(member.name, member.offset_data, member.size)


def listed(path):
    """Return the members before any fault, and the fault."""
    members = []
    try:
        members.extend(list_members(str(path), SUFFIXES))  # extend keeps what came before an error
    except ValueError as error:
        return members, str(error)
    return members, None


def header(name, size=0, kind=b"0", magic=b"ustar\x0000", size_field=None, **fields):
    """A block of a tar with the right checksum; ``fields`` are bytes by their position, as ``at345=b"..."``."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:124] = b"0000644\0" + b"0000000\0" * 2
    block[124:136] = size_field or b"%011o\0" % size
    block[136:156] = b"00000000000\0" + b" " * 8
    block[156:157] = kind
    block[257:265] = magic
    for field, value in fields.items():
        begin = int(field.removeprefix("at"))
        block[begin : begin + len(value)] = value
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data):
    return data + bytes(-len(data) % 512)


def pax(*records, kind=b"x"):
    """A PAX header with records (keyword, value)."""
    data = b""
    for keyword, value in records:
        rest = b" " + keyword + b"=" + value + b"\n"
        length = len(rest) + 1
        while length != len(str(length)) + len(rest):
            length = len(str(length)) + len(rest)
        data += str(length).encode() + rest
    return header(b"pax", len(data), kind) + padded(data)


def binary(number):
    return number.to_bytes(12, "big") if number < 0 else b"\x80" + number.to_bytes(11, "big")


GOOD = header(b"good.wav", 700) + padded(b"x" * 700)
END = bytes(1024)
NAMES = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40),
    st.integers(90, 300).map(lambda length: "d/" * 20 + "x" * length),
    st.binary(min_size=1, max_size=20).map(lambda name: os.fsdecode(name.replace(b"\0", b"-"))),
)


@st.composite
def any_tar(draw):
    """A tar by tarfile: any format, with files, folders and links, with any names."""
    form = draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    shared = draw(st.sampled_from([{}, {"comment": "made by a test", "mtime": "7"}]))
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form, pax_headers=shared, errors="surrogateescape") as tar:
        for name in draw(st.lists(NAMES, max_size=6)):
            member = tarfile.TarInfo(name + draw(st.sampled_from([".wav", ".WAV", ".json", ""])))
            kinds = [b"0", b"0", b"\0", b"7", b"1", b"2", b"5", b"3"]
            member.type = draw(st.sampled_from(kinds))
            member.linkname = draw(NAMES) if member.type in b"12" else ""
            member.size = draw(st.sampled_from([0, 1, 511, 512, 513, 3000])) if member.isreg() else 0
            member.mtime = draw(st.sampled_from([0, 1.5, 1 << 40]))
            member.uname = draw(st.sampled_from(["", "root", "müller"]))
            with contextlib.suppress(ValueError, UnicodeError):  # a name that this format cannot hold
                tar.addfile(member, io.BytesIO(bytes(member.size)))
        tar.addfile(tarfile.TarInfo("last.wav"))
    return file.getvalue()


@ANY_CASE
@given(content=any_tar(), cut=st.integers(0, 1 << 14))
def test_any_tar_is_listed_as_tarfile_lists_it_and_a_cut_one_up_to_the_cut(tmp_path, content, cut):
    tar = tmp_path / "x.tar"
    tar.write_bytes(content)
    members, fault = listed(tar)
    assert fault is None
    assert [member for member in members if "of type" not in (member.error or "")] == list(by_tarfile(tar, SUFFIXES))
    tar.write_bytes(content[:cut])
    before, fault = listed(tar)
    assert before == members[: len(before)]
    assert fault or before == members


def test_tars_of_gnu_tar_are_listed_as_tarfile_lists_them(tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "a é.wav").write_bytes(b"x" * 1000)
    (clips / ("n" * 120 + ".wav")).write_bytes(b"y")
    (clips / os.fsdecode(b"caf\xe9.wav")).write_bytes(b"z")
    with (clips / "holes.wav").open("wb") as file:
        for piece in range(40):  # more than a header describes
            file.seek(piece << 16)
            file.write(b"x")
        file.truncate(41 << 16)
    os.link(clips / "a é.wav", clips / "hard.wav")
    (clips / "soft.wav").symlink_to("a é.wav")
    tar = tmp_path / "x.tar"
    forms = ["v7", "ustar", "oldgnu", "gnu", "posix", "gnu -S"]
    for form in [*forms, *(f"posix -S --sparse-version={version}" for version in ("0.0", "0.1", "1.0"))]:
        command = ["tar", "-cf", str(tar), *f"--format={form}".split(), "-C", str(clips), "."]
        subprocess.run(command, capture_output=True, check=form not in ("v7", "ustar"))  # which have no such long names
        members, fault = listed(tar)
        assert fault is None
        assert members == list(by_tarfile(tar, SUFFIXES)), form
        assert len(members) >= 5
        assert ("sparse" in str(members)) == ("-S" in form)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (pax((b"path", b"p.wav"), (b"size", b"3")) + header(b"x") + padded(b"abc"), [("p.wav", 1536, 3)]),
        (header(b"x.wav", size_field=binary(3)) + padded(b"abc"), [("x.wav", 512, 3)]),
        (pax((b"hdrcharset", b"BINARY"), (b"path", b"caf\xe9.wav")) + header(b"x"), [("caf\udce9.wav", 1536, 0)]),
        (
            pax((b"path", b"all.wav"), kind=b"g") + header(b"x") + header(b"y"),
            [("all.wav", 1536, 0), ("all.wav", 2048, 0)],
        ),
        (pax((b"comment", b"of a revision"), kind=b"g"), []),
        (pax((b"path", b"1.wav")) + pax((b"path", b"2.wav")) + header(b"x"), [("1.wav", 2560, 0)]),
        (pax((b"path", b"a.wav\0.txt")) + header(b"x"), [("a.wav", 1536, 0)]),
        (header(b"a.wav", at345=b"long/folder"), [("long/folder/a.wav", 512, 0)]),
        (header(b"a.wav", magic=b"ustar  \0", at345=b"14000000000\0"), [("a.wav", 512, 0)]),  # a time of access
        (header(b"a.wav/", kind=b"\0", magic=bytes(8)) + GOOD, [("good.wav", 1024, 700)]),  # a folder in V7
        (header(b"a.wav", 5, kind=b"5") + GOOD, [("good.wav", 1024, 700)]),
        (header(b"a.txt", 5, kind=b"V") + padded(b"label") + GOOD, [("good.wav", 1536, 700)]),
        (header(b"f\xfc.wav"), [("f\udcfc.wav", 512, 0)]),
    ],
)
def test_headers_of_other_programs_are_read(tmp_path, content, expected):
    tar = tmp_path / "x.tar"
    tar.write_bytes(content + END)
    assert listed(tar) == ([Member(*member) for member in expected], None)


def test_a_checksum_of_signed_bytes_is_right_too(tmp_path):
    block = bytearray(header(b"caf\xe9.wav"))
    block[148:156] = b"%06o\0 " % (int(block[148:154], 8) - 256)
    (tmp_path / "x.tar").write_bytes(block + END)
    assert listed(tmp_path / "x.tar") == ([Member("caf\udce9.wav", 512, 0)], None)


@pytest.mark.parametrize("kind", [b"3", b"4", b"6", b"M"])
def test_what_is_no_file_but_named_like_audio_is_an_error_of_its_own(tmp_path, kind):
    (tmp_path / "x.tar").write_bytes(header(b"a.wav", kind=kind) + GOOD + END)
    (strange, good), fault = listed(tmp_path / "x.tar")
    assert strange == Member("a.wav", error=f"a member of type {kind!r}; expected a file")
    assert (good.name, fault) == ("good.wav", None)


DIGITS = header(b"pax", 200_192, b"x") + b"1" * 200_192
HUGE = b"\x80\0\0\0" + (1 << 62).to_bytes(8, "big")
HOSTILE = {
    "digits in a PAX header": (DIGITS, "not valid"),
    "PAX headers without end": (pax((b"comment", b"x")) * 3000, "more than 16"),
    "global PAX headers without end": (pax((b"comment", b"x"), kind=b"g") * 3000, "more than 16"),
    "long names without end": ((header(b"L", 2, b"L") + padded(b"x\0")) * 3000, "more than 16"),
    "a long name of 2^62 bytes": (header(b"././@LongLink", kind=b"L", size_field=HUGE), "the limit is"),
    "a long link of 2^62 bytes": (header(b"././@LongLink", kind=b"K", size_field=HUGE), "the limit is"),
    "a PAX header of 2^62 bytes": (header(b"pax", kind=b"x", size_field=HUGE), "the limit is"),
    "a PAX header of 8 GiB": (header(b"pax", (1 << 33) - 1, b"x"), "the limit is"),
    "a name of 1 MB": (pax((b"path", b"n" * 1_000_000)) + header(b"x"), "a name of 1000000 bytes"),
    "a member of 2^62 bytes": (header(b"x.wav", size_field=HUGE), "x.wav is cut off"),
    "a member of 2^88 bytes": (header(b"x.wav", size_field=b"\x80" + b"\xff" * 11), "x.wav is cut off"),
    "a size with all bits": (header(b"x.wav", size_field=b"\xff" * 12), "without a valid size"),
    "a negative size": (header(b"x.wav", size_field=b"-0000001000\0"), "without a valid size"),
    "a negative PAX size": (pax((b"size", b"-512")) + header(b"x.wav"), "without a valid size"),
    "a PAX size of digits": (pax((b"size", b"9" * 5000)) + header(b"x.wav"), "without a valid size"),
    "a PAX size of other digits": (pax((b"size", "٣".encode())) + header(b"x.wav"), "without a valid size"),
    "a PAX size beyond the tar": (pax((b"size", b"9" * 20)) + header(b"x.wav"), "x.wav is cut off"),
    "a PAX record of length 0": (header(b"pax", 6, b"x") + padded(b"0 a=b\n"), "not valid"),
    "a PAX record that ends before its value": (header(b"pax", 9, b"x") + padded(b"3 path=b\n"), "not valid"),
    "a PAX record beyond its header": (header(b"pax", 9, b"x") + padded(b"99 pat=b\n"), "not valid"),
    "a PAX record without equals sign": (header(b"pax", 4000, b"x") + padded(b"4000 " + b"k" * 3995), "not valid"),
    "a size for all members": (pax((b"size", b"5"), kind=b"g") + header(b"x.wav"), "a size for all members"),
    "an extended header at the end": (pax((b"path", b"x.wav")), "without its member"),
    "another tar": (END + GOOD, "another tar follows its end"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tar_is_one_error_after_the_members_before_it(tmp_path, name):
    content, reason = HOSTILE[name]
    tar = tmp_path / "x.tar"
    tar.write_bytes(GOOD + content + END)
    good, fault = list_segments([tar])
    assert (good.path, good.error) == (f"{tar}/good.wav", None)
    assert fault.error.startswith(f"{tar}: not a whole tar file (")
    assert reason in fault.error
    assert len(fault.error) < 1000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
def test_no_hostile_tar_needs_memory_or_time(tmp_path):
    for number, (content, _) in enumerate(HOSTILE.values()):
        (tmp_path / f"{number}.tar").write_bytes(GOOD + content + END)
    code = "import sys; from maeast_upstream.data.inputs import *; print(len(list(list_segments(sys.argv[1:]))))"

    def limit():
        resource.setrlimit(resource.RLIMIT_DATA, (200 << 20, 200 << 20))
        resource.setrlimit(resource.RLIMIT_CPU, (10, 10))

    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, preexec_fn=limit)
    assert (done.stdout, done.returncode) == (f"{2 * len(HOSTILE)}\n", 0), done.stderr


@pytest.mark.parametrize("content", [zlib.compress(b"", wbits=31), b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"])
def test_a_compressed_tar_is_named_as_what_it_is(tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content + bytes(1000))
    assert listed(tmp_path / "x.tar") == ([], "not a whole tar file (compressed; decompress it first)")


def test_a_pipe_named_as_a_tar_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "x.tar")
    (tmp_path / "y.tar").symlink_to("/dev/zero")
    for name in ("x.tar", "y.tar"):
        assert listed(tmp_path / name) == ([], "not a whole tar file (a pipe or device; expected a file)")


def test_a_hostile_tar_behind_an_address_is_one_error(tmp_path, monkeypatch):
    for name, (content, reason) in HOSTILE.items():
        (tmp_path / "x.tar").write_bytes(GOOD + content + END)
        (good,), fault = listed(f"file://{tmp_path}/x.tar")
        assert (good.name, reason in fault) == ("good.wav", True), name

    class LostConnectionError(Exception):
        """As libraries of protocols raise it: no OSError."""

    def lose(*_):
        raise LostConnectionError

    monkeypatch.setattr(tars, "read_headers", lose)
    assert listed(f"file://{tmp_path}/x.tar") == ([], "not a whole tar file (LostConnectionError)")
    with pytest.raises(LostConnectionError):
        listed(tmp_path / "x.tar")


def mutations(count):
    """Yield tars with changed bytes, repeated or dropped blocks, and checksums that are right again."""
    chance = random.Random(7)
    parts = [content for content, _ in HOSTILE.values() if len(content) < 10_000] + [
        GOOD,
        END,
        pax((b"path", b"p.wav")),
    ]
    for _ in range(count):
        blocks = bytearray(b"".join(chance.choices(parts, k=chance.randrange(1, 5))))
        for _ in range(chance.randrange(5)):
            begin = 512 * chance.randrange(len(blocks) // 512)
            place = begin + chance.choice([0, 124, 135, 156, 257, 345, 482, chance.randrange(512)])
            blocks[place] = chance.choice([0, 0x80, 0xFF, *b"0179LKxgS5 =-"])
            if chance.random() < 0.9:
                blocks[begin + 148 : begin + 156] = b" " * 8
                blocks[begin + 148 : begin + 156] = b"%06o\0 " % sum(blocks[begin : begin + 512])
        yield bytes(blocks[: chance.randrange(len(blocks) + 1)] if chance.random() < 0.3 else blocks)


@pytest.mark.parametrize("count", [300, pytest.param(100_000, marks=pytest.mark.stress)])
def test_any_bytes_are_members_within_the_tar_or_a_value_error(tmp_path, count):
    tar = tmp_path / "x.tar"
    for content in mutations(count):
        tar.write_bytes(content)
        members, fault = listed(tar)
        assert len(members) <= len(content) // 512
        assert all(
            member.error or 0 <= member.offset <= member.offset + member.size <= len(content) for member in members
        )
        assert fault is None or fault.startswith("not a whole tar file (")
