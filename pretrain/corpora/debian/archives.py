"""Unpacks the zip archives and SoundFonts in which games and instruments keep their audio."""

import hashlib
import io
import wave
import zipfile
import zlib
from collections.abc import Iterator

from pretrain.corpora.debian.deb import ArchiveError, NameFilter, Source, UnpackFolder, suffix_of

ZIP_SUFFIXES = frozenset({".pk3", ".pk4", ".wz", ".zip", ".dpk"})
FONT_SUFFIX = ".sf2"
SOUND_SUFFIXES = frozenset(
    {
        *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".snd", ".spx"),
        *(".m4a", ".mp4", ".mkv", ".webm", ".aac", ".wma", ".g722", ".gsm"),
    }
)
"""Suffixes of audio in packages; of others that `maeast` reads, .ts is a translation there and .mpg a video."""


def is_sound(name: str) -> bool:
    """Whether a file is audio, or may hold some, by its suffix."""
    return suffix_of(name) in SOUND_SUFFIXES | ZIP_SUFFIXES | {FONT_SUFFIX}


def expand(source: Source, folder: UnpackFolder, select: NameFilter) -> Iterator[Source]:
    """Yield the selected audio files of a source: the source itself, or the files in it. An archive is deleted then.

    Raises:
        ArchiveError: A limit of ``folder`` is exceeded.
    """
    suffix = suffix_of(source.name)
    if suffix in ZIP_SUFFIXES:
        yield from _expand_zip(source, folder, select)
    elif suffix == FONT_SUFFIX:
        yield from _expand_font(source, folder, select)
    elif select(source.name):
        yield source


def _expand_zip(source: Source, folder: UnpackFolder, select: NameFilter) -> Iterator[Source]:
    """Yield nothing for a file that is no zip archive, and the whole members of a broken one."""
    try:
        archive = zipfile.ZipFile(source.path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return
    with archive:
        for member in sorted(set(archive.namelist())):
            name = f"{source.name}!{member}"
            if suffix_of(member) not in SOUND_SUFFIXES or not select(name):
                continue
            try:
                with archive.open(member) as stream:
                    unpacked = folder.store(name, stream)
            except ArchiveError:
                raise
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, NotImplementedError):
                continue
            yield unpacked
    source.path.unlink()


def _expand_font(source: Source, folder: UnpackFolder, select: NameFilter) -> Iterator[Source]:
    from pretrain.corpora.debian.soundfont import read_recordings

    for label, rate, samples in read_recordings(source.path):
        name = f"{source.name}!{label}"
        if not select(name):
            continue
        file = io.BytesIO()
        with wave.open(file, "wb") as wav:
            wav.setnchannels(1)
            wav.setsampwidth(2)
            wav.setframerate(rate)
            wav.writeframes(samples)
        file.seek(0)
        unpacked = folder.store(f"{name}.wav", file)
        yield Source(name, unpacked.path, hashlib.sha256(samples).hexdigest())
    source.path.unlink()
