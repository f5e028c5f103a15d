"""Reads the headers of a tar within fixed bounds of memory and time per header: V7, ustar, GNU and PAX.

Python's tarfile trusts what a header declares: it reads a name of any length into memory, recurses for each extended
header, and before Python 3.11.10 and 3.12.6 looks for digits in a PAX header in quadratic time (CVE-2024-6232).

Formats: POSIX.1-2017, ``pax``, "ustar Interchange Format" and "pax Header Block"; GNU tar's manual, "Basic Tar Format".
Where those leave a choice, such as between two names, it is tarfile's.
"""

import os
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

BLOCK = 512
MAX_EXTENSION_BYTES = 1 << 20
"""Limit of a PAX header; libarchive's, too. Extended attributes of a file take some 64 KiB."""
MAX_NAME_BYTES = 1 << 14
"""Limit of a name, 4 times that of a path in Linux."""
MAX_EXTENSIONS = 16
"""Limit of the extended headers of one member; tar programs write up to 4."""
MAX_PADDING = 1 << 20
"""Zeros after the end that are searched for another tar: more than the record of any tar program."""

REGULAR_TYPES = (b"0", b"\0", b"7")
HARD_LINK, SYMBOLIC_LINK, FOLDER, SPARSE, GLOBAL = b"1", b"2", b"5", b"S", b"g"
TYPES_WITHOUT_DATA = (HARD_LINK, SYMBOLIC_LINK, b"3", b"4", FOLDER, b"6")
PAX_TYPES = (b"x", b"X", GLOBAL)
GNU_TYPES = {b"L": b"path", b"K": b"linkpath"}
GNU_MAGIC = b"ustar  \0"
"""In headers with it, times stand where others have the first part of a long name."""
PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""First bytes of files by gzip, bzip2, xz and zstd."""


class Header(NamedTuple):
    """A member of a tar."""

    name: str
    type: bytes
    """Type flag, one byte."""
    linkname: str
    """Target of a link."""
    offset: int
    """Position of the first byte of its content in the tar."""
    size: int
    """Number of bytes of its content."""


def read_headers(file: BinaryIO) -> Iterator[Header]:
    """Read the headers of the members of a tar in their order.

    Args:
        file: The tar, which can seek.

    Yields:
        Each member whose content is there. A sparse file in a PAX tar has the type `SPARSE`, too.

    Raises:
        ValueError: The tar is broken, cut short or beyond the limits, after the members before that.
    """
    total = file.seek(0, os.SEEK_END)
    shared: dict[bytes, bytes] = {}
    extension: dict[bytes, bytes] = {}
    extensions = position = 0
    while any(block := _read_header(file, position)):
        begin, position = position, position + BLOCK
        member_type, size = block[156:157], _number(block[124:136], begin)
        if member_type in GNU_TYPES or member_type in PAX_TYPES:
            extensions += 1
            if extensions > MAX_EXTENSIONS:
                raise ValueError(f"more than {MAX_EXTENSIONS} extended headers of one member at byte {begin}")
            records = _read_extension(file, member_type, position, size)
            if member_type == GLOBAL:
                shared |= records
            else:
                extension = records | extension  # of two, the first counts
            position += _padded(size)
            continue
        header = _member(block, position, shared | extension)
        if block[156:157] == SPARSE:
            header = header._replace(offset=_end_of_sparse_map(file, block, position))
        extension, extensions = {}, 0
        if header.type not in TYPES_WITHOUT_DATA:
            if header.offset + header.size > total:
                raise ValueError(f"{header.name} is cut off")
            position = header.offset + _padded(header.size)
        yield header
    if extension:
        raise ValueError(f"an extended header without its member before byte {position}")
    _refuse_another_tar(file, position)


def _read_header(file: BinaryIO, position: int) -> bytes:
    """Return the header at a position, or the zeros of the end.

    Raises:
        ValueError: There is neither.
    """
    file.seek(position)
    block = file.read(BLOCK)
    if len(block) == BLOCK and (_is_header(block) or not any(block)):
        return block
    if position or not block:
        raise ValueError(f"no header and no end at byte {position}" if position else "empty file")
    raise ValueError("compressed; decompress it first" if block.startswith(COMPRESSED) else "no header at its start")


def _is_header(block: bytes) -> bool:
    """Whether the checksum of a block is right; of signed or unsigned bytes, as programs differ."""
    field = block[148:156]
    if not (declared := re.fullmatch(rb" *([0-7]+)[ \0].*| *([0-7]{1,8})", field, re.DOTALL)):
        return False
    checksum, rest = int(declared[1] or declared[2], 8), block[:148] + b" " * 8 + block[156:]
    return checksum == sum(rest) or checksum == sum(byte - 256 * (byte >> 7) for byte in rest)


def _number(field: bytes, begin: int) -> int:
    """Read a size: octal digits, or GNU tar's binary number for 8 GiB and more."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip()
    if re.fullmatch(rb"[0-7]*", digits) is None:
        raise ValueError(f"a header without a valid size at byte {begin}")
    return int(digits or b"0", 8)


def _read_extension(file: BinaryIO, extension_type: bytes, position: int, size: int) -> dict[bytes, bytes]:
    """Read the records of a PAX header or a long name of GNU tar."""
    limit = MAX_NAME_BYTES if extension_type in GNU_TYPES else MAX_EXTENSION_BYTES
    if size > limit:
        raise ValueError(f"an extended header of {size} bytes at byte {position - BLOCK}; the limit is {limit}")
    file.seek(position)
    data = file.read(size)
    if len(data) < size:
        raise ValueError(f"an extended header at byte {position - BLOCK} is cut off")
    if extension_type in GNU_TYPES:
        return {GNU_TYPES[extension_type]: data.partition(b"\0")[0]}
    records = dict(_pax_records(data, position))
    if extension_type == GLOBAL and b"size" in records:
        raise ValueError(f"a size for all members at byte {position}")
    return records


def _pax_records(data: bytes, position: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield keyword and value of the records that concern a member's name or content."""
    begin = 0
    while begin < len(data) and data[begin]:
        record = PAX_RECORD.match(data, begin, min(len(data), begin + MAX_NAME_BYTES))
        end = begin + int(record[1]) if record else 0
        if record is None or not record.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise ValueError(f"an extended header that is not valid at byte {position + begin}")
        keyword, value = record[2], data[record.end() : end - 1]
        if keyword in (b"path", b"linkpath", b"size", b"GNU.sparse.name"):
            if len(value) > MAX_NAME_BYTES:
                raise ValueError(f"a name of {len(value)} bytes at byte {position + begin}; limit {MAX_NAME_BYTES}")
            yield keyword, value.partition(b"\0")[0]
        elif keyword in (b"GNU.sparse.map", b"GNU.sparse.size", b"GNU.sparse.major"):
            yield SPARSE, b""
        begin = end


def _member(block: bytes, position: int, records: dict[bytes, bytes]) -> Header:
    """Return the member of a header with the records before it."""
    name, linkname = (field.partition(b"\0")[0] for field in (block[:100], block[157:257]))
    member_type, size = block[156:157], _number(block[124:136], position - BLOCK)
    prefix = block[345:500].partition(b"\0")[0]
    if member_type == b"\0" and name.endswith(b"/"):  # V7
        member_type = FOLDER
    if prefix and block[257:265] != GNU_MAGIC:
        name = prefix + b"/" + name
    if b"path" in records:
        name = records[b"path"].rstrip(b"/")
    if SPARSE in records:
        name, member_type = records.get(b"GNU.sparse.name", name), SPARSE
    if b"size" in records:
        if re.fullmatch(rb"\d{1,20}", records[b"size"]) is None:
            raise ValueError(f"a header without a valid size before byte {position}")
        size = int(records[b"size"])
    return Header(_decoded(name), member_type, _decoded(records.get(b"linkpath", linkname)), position, size)


def _end_of_sparse_map(file: BinaryIO, block: bytes, position: int) -> int:
    """Return where the content of GNU tar's sparse file begins: after the blocks that continue its map."""
    continued = block[482]
    file.seek(position)
    while continued:
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            raise ValueError(f"the map of a sparse file at byte {position} is cut off")
        continued, position = block[504], position + BLOCK
    return position


def _refuse_another_tar(file: BinaryIO, position: int) -> None:
    """Raise ValueError if another tar follows the end of this one, as after ``cat a.tar b.tar``."""
    file.seek(position)
    padding = file.read(MAX_PADDING)
    used = len(padding) - len(padding.lstrip(b"\0"))
    begin = used - used % BLOCK
    if len(block := padding[begin : begin + BLOCK]) == BLOCK and _is_header(block):
        raise ValueError(f"another tar follows its end, at byte {position + begin}; give each as a file of its own")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _decoded(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return os.fsdecode(name)
