"""Decodes containers and codecs by libsndfile, and what it cannot read of a file by FFmpeg."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from maeast_upstream.audio import backends
from maeast_upstream.audio.backends import MAX_CHANNELS, AudioError, Note, Reader, Source, UnknownFormatError, mono
from maeast_upstream.audio.ffmpeg import open_pyav
from maeast_upstream.audio.ogg import first_link
from maeast_upstream.audio.quiet import quiet_c

if TYPE_CHECKING:
    import soundfile

UNKNOWN_FRAMES = 1 << 62
"""From here on, the number of frames is libsndfile's placeholder for one that the header does not give."""
MAX_TAG_BYTES = 4096
"""Bytes after the last sample that need not be sound."""
SEEK_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF"})
SEEK_SUBTYPES = re.compile("PCM_|FLOAT|DOUBLE|ULAW|ALAW")
"""Formats in which libsndfile seeks to the exact sample. After a seek, Opus and MP3 decode to slightly other values,
and Vorbis to other audio."""
OGG_DAMAGE = re.compile(r"Skipped \d+ bytes|reports a hole|Hole found")
"""What libsndfile logs when it leaves out a part of an Ogg file, whose length it does not keep."""


@contextlib.contextmanager
def open_soundfile(source: Source, name: str, file: BinaryIO | None = None) -> Iterator[Reader]:
    """Open a file by libsndfile.

    Args:
        source: A path, or a binary file object.
        name: Name of the file in messages.
        file: The file of a path, if it is open and not read any more.

    Raises:
        soundfile.LibsndfileError, RuntimeError, TypeError: libsndfile cannot read it.
    """
    import soundfile

    with contextlib.ExitStack() as stack:
        opened: int | Source = source
        if isinstance(source, (str, Path)) and os.name == "posix":
            # without its name, because libsndfile reads anything called .au, and soundfile encodes names as UTF-8
            opened = (file or stack.enter_context(Path(source).open("rb"))).fileno()
            os.lseek(opened, 0, os.SEEK_SET)
        with quiet_c():
            sound = stack.enter_context(soundfile.SoundFile(opened, closefd=False))
        if not 1 <= sound.channels <= MAX_CHANNELS:
            raise AudioError(f"{name}: {sound.channels} channels; expected 1 to {MAX_CHANNELS}")
        yield _SoundfileReader(sound, opened, source, name)


class _SoundfileReader:
    def __init__(self, file: "soundfile.SoundFile", opened: int | Source, source: Source, name: str) -> None:
        self.rate: int = file.samplerate
        self.position = 0
        self.notes: list[Note] = []
        self.seeks = _seeks_exactly(file)
        self.seconds = file.frames / file.samplerate if file.frames < UNKNOWN_FRAMES else 0.0
        self._file, self._opened, self._source, self._name = file, opened, source, name

    def blocks(self, first: int) -> Iterator[np.ndarray]:
        file = self._file
        rows = max(1, backends.BLOCK_FRAMES // file.channels)
        for block in self._whole_blocks(rows) if self._seek(first) else ():
            skip = max(0, first - self.position)
            self.position += len(block)
            if self.position > file.frames + self.rate and file.format != "MP3":  # some broken Opus files never end
                raise AudioError(f"{self._name}: broken: {file.frames} samples declared, {self.position} or more found")
            yield mono(block[skip:])
        if self._is_whole():
            return
        yield from self._continue(first)
        self._note_shortfall()

    def _seek(self, first: int) -> bool:
        """Go to sample ``first`` where that is exact; False if a fault in the file forbids it."""
        import soundfile

        if first and self.seeks and self._file.frames < UNKNOWN_FRAMES:
            try:
                self.position = self._file.seek(min(first, self._file.frames))
            except (soundfile.LibsndfileError, RuntimeError):  # FLAC with damaged frames
                return False
        return True

    def _whole_blocks(self, rows: int) -> Iterator[np.ndarray]:
        """Yield blocks until the end or the first fault."""
        import soundfile

        damage = len(OGG_DAMAGE.findall(self._file.extra_info))
        with contextlib.suppress(soundfile.LibsndfileError, RuntimeError):
            while len(block := self._read(rows)):
                if self._file.format == "OGG" and len(OGG_DAMAGE.findall(self._file.extra_info)) > damage:
                    return
                yield block

    def _read(self, rows: int) -> np.ndarray:
        with quiet_c() if self._file.format == "MP3" else contextlib.nullcontext():
            block: np.ndarray = self._file.read(rows, dtype="float32", always_2d=True)
        return block

    def _is_whole(self) -> bool:
        """Tell whether no more is to be read.

        libsndfile finds the length of compressed streams near their end, off by a little in whole files.
        """
        if self._file.frames >= UNKNOWN_FRAMES:
            return False
        if self._file.format == "FLAC" and self._rest() > MAX_TAG_BYTES:
            return False
        return bool(self.position >= self._file.frames - max(self.rate // 10, 1))

    def _rest(self) -> int:
        """Return the number of bytes that libsndfile did not look at; 0 where that is not known."""
        if isinstance(self._opened, int):
            return os.fstat(self._opened).st_size - os.lseek(self._opened, 0, os.SEEK_CUR)
        if isinstance(self._opened, (str, Path)):
            return 0
        at = self._opened.tell()
        rest = self._opened.seek(0, os.SEEK_END) - at
        self._opened.seek(at)
        return rest

    def _continue(self, first: int) -> Iterator[np.ndarray]:
        """Yield what FFmpeg reads from the present position on."""
        with contextlib.ExitStack() as stack:
            source = self._source
            if self._file.format == "OGG":
                source = stack.enter_context(first_link(source))
            elif not isinstance(source, (str, Path)):
                source.seek(0)
            stack.enter_context(contextlib.suppress(UnknownFormatError))
            reader = stack.enter_context(open_pyav(source, self._name, self.rate))
            before = self.position
            for block in reader.blocks(max(first, before)):
                self.position = max(reader.position, before)
                yield block
            self.position = max(reader.position, before)
            self.notes += reader.notes

    def _note_shortfall(self) -> None:
        frames = self._file.frames
        if frames < UNKNOWN_FRAMES and abs(frames - self.position) > self.rate // 10:
            text = f"{frames} samples declared, {self.position} found"
            self.notes.append(
                Note(
                    f"cut short: {text}" if self.position < frames else f"{text}; all were read",
                    min(frames, self.position) / self.rate,
                )
            )


def _seeks_exactly(file: "soundfile.SoundFile") -> bool:
    return file.format == "FLAC" or (file.format in SEEK_FORMATS and SEEK_SUBTYPES.match(file.subtype) is not None)
