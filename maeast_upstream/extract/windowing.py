"""Cuts decoded segments into windows, each of which is embedded as a clip of its own."""

import dataclasses
import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from maeast_upstream.audio.reading import AudioError
from maeast_upstream.data.inputs import Segment
from maeast_upstream.data.windows import Windows

RELEASE_SAMPLES = 1 << 24
"""Pages of a mapped file are dropped after so many samples, 64 MB."""


@dataclass(frozen=True, slots=True)
class WindowSegment(Segment):
    """A window of a segment. The first one has the notes about the segment's audio."""

    first_sample: int = 0
    """Where it begins in the segment's audio."""
    new_samples: int = 0
    """Samples that no earlier window of the segment had."""
    is_last: bool = True
    """Whether it is the segment's last one."""


def cut_windows(
    decoded: Iterable[tuple[Segment, np.ndarray | AudioError]], windows: Windows | None
) -> Iterator[tuple[Segment, np.ndarray | AudioError]]:
    """Replace each segment by its windows, whose samples are views of the segment's.

    Args:
        decoded: Segments with their samples, or with the reason why they could not be read, which stay as they are.
        windows: How to cut; None to leave all segments whole.
    """
    for segment, audio in decoded:
        if windows is None or isinstance(audio, AudioError):
            yield segment, audio
            continue
        fields = {field.name: getattr(segment, field.name) for field in dataclasses.fields(segment)}
        done = released = 0
        for start, end in windows.bounds(len(audio)):
            is_last = end == len(audio)
            after = end if is_last else start + windows.step
            window = WindowSegment(**fields, first_sample=start, new_samples=after - done, is_last=is_last)
            yield window, audio[start:end]
            fields["notes"], done = (), after
            if start - released > RELEASE_SAMPLES:
                release(audio, start)
                released = start


def release(audio: np.ndarray, samples: int) -> None:
    """Let the system drop the pages of the first samples of audio that a file is mapped to; they can be read again."""
    owner: object = audio
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap):
        owner.madvise(mmap.MADV_DONTNEED, 0, samples * audio.itemsize // mmap.PAGESIZE * mmap.PAGESIZE)
