"""Looks at the directory of a torch file, which is a zip archive, before something reads the entries.

torch stores entries one behind the other, never compressed, and pads its local headers, so that the sizes of all parts
add up to the file's. Where they do not, one part could be read many times, or unpacked to any size.
"""

import struct
import zipfile
import zlib
from pathlib import Path

from maeast_upstream.checks import quote
from maeast_upstream.messages import shortened

MAX_ENTRIES, MAX_DIRECTORY_BYTES = 50_000, 16 << 20
"""torch writes an entry for each tensor; an optimizer triples their number."""
SPARSE_BYTES, SPARSE_SHARE = 1 << 30, 1 / 16
"""Weights cannot be compressed: a large file of which less than this is on the disk has holes."""
LOCAL_HEADER, LOCAL_BYTES = b"PK\3\4", 30
DESCRIPTOR_BYTES = (0, 12, 16, 20, 24)
"""Lengths of what may follow an entry: nothing, or its checksum and sizes (ZIP specification, 4.3.9)."""
BLOCK_BYTES = 1 << 20
CHANGED = "the checksum of {} does not match: the file has changed since it was written"
END_BYTES, ZIP64_END_BYTES, ZIP64_END = 22, 76, b"PK\6\6"


def refuse_sparse(path: Path) -> None:
    """Raise ValueError for a large file that is next to empty on the disk: it would fill the memory with zeros.

    The message does not name the file.
    """
    status = path.stat()
    if status.st_size > SPARSE_BYTES and 0 < status.st_blocks * 512 < status.st_size * SPARSE_SHARE:
        raise ValueError(f"{status.st_size} bytes, of which only {status.st_blocks * 512} are on the disk")


def open_archive(path: Path) -> zipfile.ZipFile:
    """Open a zip archive as torch writes it.

    Raises:
        ValueError: Its entries are compressed, encrypted or overlap, have names that torch does not give, or do not
            fill the file. The message does not name the file.
        OSError: The file cannot be opened.
    """
    if not path.is_file():
        raise ValueError("no file, but a folder, pipe or device")
    refuse_sparse(path)
    with path.open("rb") as file:
        end = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # what ZipFile itself finds, but before it reads on
    if end is None:
        raise ValueError("an archive without its end: cut short?")
    signature, _, _, _, entries, size, start, _, comment, location = end[:10]
    if entries > MAX_ENTRIES or size > MAX_DIRECTORY_BYTES:
        raise ValueError(f"its directory has {entries} entries and {size} bytes, more than torch writes")
    before_end = location - (ZIP64_END_BYTES if signature == ZIP64_END else 0)
    if start + size != before_end or location + END_BYTES + len(comment) != path.stat().st_size:
        raise ValueError("its directory is not at its end: bytes were lost or added")
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise ValueError(f"a broken zip archive ({shortened(error)})") from error
    try:
        _check_entries(archive, start)
    except BaseException:
        archive.close()
        raise
    return archive


def check_sums(archive: zipfile.ZipFile) -> None:
    """Read all entries and raise ValueError if a checksum does not match; torch does not look at them.

    A checksum of 0 means that there is none: `torch.serialization.set_crc32_options` can turn them off.
    """
    for entry in archive.infolist():
        if entry.CRC:
            _read_to_end(archive, entry)


def _read_to_end(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    try:
        with archive.open(entry) as content:
            while content.read(BLOCK_BYTES):
                pass
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(CHANGED.format(quote(entry.filename))) from error


def read_entry(archive: zipfile.ZipFile, name: str) -> bytearray:
    """Return an entry of an archive that `open_archive` opened.

    `zipfile` itself makes two copies of it.

    Raises:
        ValueError: There is no such entry, it is cut short, or its checksum does not match.
    """
    if name not in archive.NameToInfo:
        raise ValueError(f"no entry {quote(name)}")
    entry, content = archive.getinfo(name), bytearray(archive.getinfo(name).file_size)
    offset = _data_offset(archive, entry)
    assert archive.fp is not None
    archive.fp.seek(offset)
    complete = archive.fp.readinto(content) == len(content)  # type: ignore[attr-defined]
    if not complete or entry.CRC not in (0, zlib.crc32(content)):
        raise ValueError(CHANGED.format(quote(name)))
    return content


def _check_entries(archive: zipfile.ZipFile, end: int) -> None:
    """Raise ValueError unless the entries fill the archive up to ``end``, one behind the other."""
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    if len({entry.filename for entry in entries}) < len(entries):
        raise ValueError("two entries have the same name")
    if not entries:
        raise ValueError("an empty archive")
    position = 0
    lengths: tuple[int, ...] = (0,)
    for entry in entries:
        name = quote(entry.filename)
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.compress_size != entry.file_size:
            raise ValueError(f"{name} is compressed or encrypted, which torch never does")
        if ".." in entry.filename.split("/") or entry.filename.startswith("/"):
            raise ValueError(f"{name} is not a name that torch gives")
        if entry.header_offset - position not in lengths:
            raise ValueError(f"{name} does not begin where the entry before it ends")
        position, lengths = _data_offset(archive, entry) + entry.file_size, DESCRIPTOR_BYTES
    if end - position not in lengths:
        raise ValueError("its entries do not fill it")


def _data_offset(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> int:
    """Return where the content of an entry begins."""
    assert archive.fp is not None
    archive.fp.seek(entry.header_offset)
    header = archive.fp.read(LOCAL_BYTES)
    if len(header) < LOCAL_BYTES or not header.startswith(LOCAL_HEADER):
        raise ValueError(f"{quote(entry.filename)} has no header")
    name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
    return entry.header_offset + LOCAL_BYTES + int(name_bytes) + int(extra_bytes)
