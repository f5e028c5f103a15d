"""Finds the streams of an Ogg file that follow each other, as radio recorders and joined files have them (RFC 3533)."""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import BinaryIO

from maeast_upstream.audio.backends import Source
from maeast_upstream.audio.window import opened, window

FIRST_PAGE = re.compile(rb"OggS\x00[\x02\x06]\x00{8}", re.DOTALL)
"""A page of version 0 that begins a stream, at time 0 (RFC 3533, section 6)."""
PAGE_HEADER_BYTES = 27
"""Bytes of a page before its table of segments; the last gives the length of that table."""
MAX_PAGE_BYTES = 27 + 255 + 255 * 255
SEARCH_BYTES = 1 << 20


def first_pages_end(file: BinaryIO, start: int) -> int:
    """Return where the pages that begin the streams of a link end, the first of which is at ``start``."""
    while True:
        file.seek(start)
        header = file.read(PAGE_HEADER_BYTES)
        if FIRST_PAGE.match(header) is None:
            return start
        if len(header) < PAGE_HEADER_BYTES:  # the file ends in it
            return start + len(header)
        start += PAGE_HEADER_BYTES + header[-1] + sum(file.read(header[-1]))


def next_link(file: BinaryIO, first: int) -> int | None:
    """Return where the first page that begins a stream lies, from byte ``first`` on; None if there is none."""
    kept = b""
    file.seek(first)
    while part := file.read(SEARCH_BYTES):
        found = FIRST_PAGE.search(kept + part)
        if found:
            return first - len(kept) + found.start()
        first += len(part)
        kept = (kept + part)[-PAGE_HEADER_BYTES:]
    return None


def is_chain(file: BinaryIO) -> bool:
    """Tell whether the last page of a file belongs to another stream than its first page."""
    last = _last_page(file)
    file.seek(0)
    return file.read(18)[14:] != last[14:18]


def is_ended(file: BinaryIO) -> bool:
    """Tell whether the last page of a file is whole and marked as the end of its stream."""
    last = _last_page(file)
    if len(last) < PAGE_HEADER_BYTES or not last[5] & 4:
        return False
    segments = last[PAGE_HEADER_BYTES : PAGE_HEADER_BYTES + last[26]]
    return len(last) >= PAGE_HEADER_BYTES + last[26] + sum(segments)


def _last_page(file: BinaryIO) -> bytes:
    file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_PAGE_BYTES))
    tail = file.read()
    return tail[max(0, tail.rfind(b"OggS")) :]


@contextlib.contextmanager
def first_link(source: Source) -> Iterator[BinaryIO]:
    """Open the first link of a chain by itself."""
    with opened(source) as file:
        yield window(file, 0, next_link(file, first_pages_end(file, 0)))
