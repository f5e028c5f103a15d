"""Lists the files of a corpus without decoding them; their names, sizes and times tell one corpus from another."""

import hashlib
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from maeast_upstream.audio.files import AUDIO_SUFFIXES, find_audio
from maeast_upstream.data.manifest import read_fairseq
from maeast_upstream.storage.walking import walk

DIGEST_LETTERS = 16
"""Hexadecimal digits of a digest that are kept: two corpora among millions do not share them."""


@dataclass(frozen=True)
class Listing:
    """The files of a corpus."""

    corpus: Path
    """The folder or manifest."""
    shards: list[Path] = field(default_factory=list)
    """Its tar files."""
    files: list[tuple[Path, str]] = field(default_factory=list)
    """Its audio files and their kinds, "" where the corpus does not declare it."""

    def __len__(self) -> int:
        return len(self.shards) + len(self.files)

    @cached_property
    def digest(self) -> str:
        """A digest of the name, kind, size and time of each file, which changes when a file is added or changed."""
        digest = hashlib.sha256()
        for path, kind in [*((shard, "") for shard in self.shards), *self.files]:
            try:
                facts = path.stat()
                size, time = facts.st_size, facts.st_mtime_ns
            except OSError:  # a row of a manifest without its file
                size = time = -1
            digest.update(os.fsencode(f"{self.name(path)}\0{kind}\0{size}\0{time}\n"))
        return digest.hexdigest()[:DIGEST_LETTERS]

    @cached_property
    def folder(self) -> Path:
        """The folder that the names of the files begin at."""
        return self.corpus if self.corpus.is_dir() else self.corpus.parent

    def name(self, path: Path) -> str:
        """The path of a file relative to the folder of the corpus."""
        return str(path).removeprefix(f"{self.folder}{os.sep}")


def list_corpus(corpus: Path) -> Listing:
    """List the tar files and the audio files below a folder, the files of a manifest, or a single tar.

    Hidden files and folders are left out.

    Raises:
        ValueError: There is no such folder, manifest or tar, or there is no audio in it.
    """
    if corpus.suffix == ".tsv":
        root, rows = read_fairseq(str(corpus))
        files = [(Path(root) / row.path, row.kind) for row in rows]
        if not files:
            raise ValueError(f"{corpus}: no clip below its first line; expected path, tab, samples on each")
        return Listing(corpus, files=files)
    if corpus.suffix == ".tar" and corpus.is_file():
        return Listing(corpus, shards=[corpus])
    if not corpus.is_dir():
        raise ValueError(no_corpus(corpus))
    shards = list_shards(corpus)
    try:
        files = [(path, "") for path in find_audio([corpus])]
    except ValueError:
        files = []
    if not shards and not files:
        raise ValueError(f"{corpus} holds neither *.tar shards nor audio files ({', '.join(sorted(AUDIO_SUFFIXES))})")
    return Listing(corpus, shards, files)


def no_corpus(corpus: Path) -> str:
    """What is wrong with a corpus that is no folder, .tsv or .tar."""
    what = "a file" if corpus.exists() else "no such folder"
    return f"corpus {corpus}: {what}; give a folder of audio files or *.tar shards, a .tar, or a .tsv manifest"


def list_shards(folder: Path) -> list[Path]:
    """The tar files below a folder, sorted; hidden ones and those in hidden folders are left out."""
    entries = (entry for entry in walk(str(folder), set()) if entry.kind == "file" and entry.path.endswith(".tar"))
    return sorted(path for path in (Path(entry.path) for entry in entries) if path.is_file())
