"""What lies in the zip archives and sound fonts that games and instruments come as."""

import hashlib
import io
import wave
import zipfile
import zlib
from collections.abc import Iterator

from maeast_upstream.audio.reading import AUDIO_SUFFIXES
from pretrain.corpora.debian.deb import ArchiveError, EmbeddingSpec, Room, Source, suffix_of

ZIP_SUFFIXES = frozenset({".pk3", ".pk4", ".wz", ".zip", ".dpk"})
FONT_SUFFIX = ".sf2"
SOUND_SUFFIXES = AUDIO_SUFFIXES | {".snd", ".spx"}


def is_sound(name: str) -> bool:
    """Whether a file is audio, or may hold some, by its suffix."""
    return suffix_of(name) in SOUND_SUFFIXES | ZIP_SUFFIXES | {FONT_SUFFIX}


def expand(source: Source, room: Room, wanted: EmbeddingSpec) -> Iterator[Source]:
    """The audio files in a source that are wanted: itself, or what it holds. An archive is removed after that.

    Raises:
        ArchiveError: larger than ``room`` takes.
    """
    suffix = suffix_of(source.name)
    if suffix in ZIP_SUFFIXES:
        yield from _zipped(source, room, wanted)
    elif suffix == FONT_SUFFIX:
        yield from _recordings(source, room, wanted)
    elif wanted(source.name):
        yield source


def _zipped(source: Source, room: Room, wanted: EmbeddingSpec) -> Iterator[Source]:
    """Nothing of what is not a zip file; of a broken one the members that are whole."""
    try:
        archive = zipfile.ZipFile(source.path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return
    with archive:
        for inner in sorted(set(archive.namelist())):
            name = f"{source.name}!{inner}"
            if suffix_of(inner) not in SOUND_SUFFIXES or not wanted(name):
                continue
            try:
                with archive.open(inner) as stream:
                    kept = room.keep(name, stream)
            except ArchiveError:
                raise
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, NotImplementedError):
                continue
            yield kept
    source.path.unlink()


def _recordings(source: Source, room: Room, wanted: EmbeddingSpec) -> Iterator[Source]:
    from pretrain.corpora.debian.soundfont import read_recordings

    for label, rate, samples in read_recordings(source.path):
        name = f"{source.name}!{label}"
        if not wanted(name):
            continue
        file = io.BytesIO()
        with wave.open(file, "wb") as wav:
            wav.setnchannels(1)
            wav.setsampwidth(2)
            wav.setframerate(rate)
            wav.writeframes(samples)
        file.seek(0)
        kept = room.keep(f"{name}.wav", file)
        yield Source(name, kept.path, hashlib.sha256(samples).hexdigest())
    source.path.unlink()
