"""Chooses words from the list of words in a Debian package."""

import heapq
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from pretrain.corpora.debian.deb import ArchiveError, UnpackFolder, read_deb
from pretrain.corpora.sets.labelled import sha256_of

LIST = re.compile(r"usr/share/(dict/[^/]+|hunspell/[^/]+\.dic)")
MIN_LETTERS, MAX_LETTERS = 4, 9


def read_words(deb: Path, scratch: Path, count: int, seed: int) -> list[str]:
    """Choose words of 4 to 9 lower-case letters by a hash, so that fewer are a part of more.

    Args:
        deb: a package with a list of words: ``usr/share/dict/NAME``, or a dictionary of hunspell.
        scratch: a folder for the unpacked list.
        count: the number of words.
        seed: another seed gives other words.

    Raises:
        ArchiveError: The package is broken, or has no such list or too few words.
    """
    name = deb.name.split("_")[0]
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        sources = read_deb(deb, UnpackFolder(Path(folder), name), lambda file: LIST.fullmatch(file) is not None)
        if not sources:
            raise ArchiveError(f"{name}: no list of words in usr/share/dict or usr/share/hunspell")
        largest = max(sources, key=lambda source: source.path.stat().st_size)
        first = heapq.nsmallest(2 * count, _suitable(_lines(largest.path)), key=lambda word: sha256_of(f"{seed}{word}"))
    words = list(dict.fromkeys(first))[:count]
    if len(words) < count:
        raise ArchiveError(f"{name}: {len(words)} words of {MIN_LETTERS} to {MAX_LETTERS} letters, needed {count}")
    return words


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text in UTF-8 or, where it is none, Latin-1."""
    try:
        with path.open(encoding="utf-8") as file:
            for _ in file:
                pass
        encoding = "utf-8"
    except UnicodeDecodeError:
        encoding = "latin-1"
    with path.open(encoding=encoding) as file:
        yield from file


def _suitable(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        word = line.partition("/")[0].strip()  # hunspell writes its rules after a slash
        if MIN_LETTERS <= len(word) <= MAX_LETTERS and word.isalpha() and word.islower():
            yield word
