"""Cuts decoded segments into windows, each of which is embedded as a clip of its own."""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from maeast_upstream.audio.reading import AudioError
from maeast_upstream.data.segment import Segment
from maeast_upstream.data.windows import Windows
from maeast_upstream.decoding.stream import AudioStream


@dataclass(frozen=True, slots=True)
class WindowSegment(Segment):
    """A window of a segment. The first one has the notes on the segment, or the last one where they come later."""

    first_sample: int = 0
    """Where it begins in the segment's audio."""
    new_samples: int = 0
    """Samples that no earlier window of the segment had."""
    is_last: bool = True
    """Whether it is the segment's last one."""


def cut_windows(
    decoded: Iterable[tuple[Segment, np.ndarray | AudioStream | AudioError]], windows: Windows | None
) -> Iterator[tuple[Segment, np.ndarray | AudioStream | AudioError]]:
    """Replace each segment by its windows, as soon as their samples have come.

    Args:
        decoded: Segments with their samples, or with the reason why they could not be read, which stay as they are.
        windows: How to cut; None to leave all segments whole.

    Yields:
        Windows with their samples, views where the segment's have come whole. The last one has the notes on the audio
        of a stream; an error may come in its place.
    """
    for segment, audio in decoded:
        if windows is None or isinstance(audio, AudioError):
            yield segment, audio
            continue
        fields = {field.name: getattr(segment, field.name) for field in dataclasses.fields(segment)}
        done = 0
        try:
            for start, samples, is_last in _cut(audio if isinstance(audio, AudioStream) else [audio], windows):
                after = start + (len(samples) if is_last else windows.step)
                if is_last and isinstance(audio, AudioStream):
                    fields["notes"] += audio.notes
                yield WindowSegment(**fields, first_sample=start, new_samples=after - done, is_last=is_last), samples
                fields["notes"], done = (), after
        except AudioError as error:
            yield segment, error


def _cut(blocks: Iterable[np.ndarray], windows: Windows) -> Iterator[tuple[int, np.ndarray, bool]]:
    """Yield where each of `Windows.bounds` begins, its samples, and whether it is the last one."""
    held = np.empty(0, np.float32)
    begin = start = 0
    for block in blocks:
        held = np.concatenate([held, block]) if len(held) else block
        while start - begin + windows.samples < len(held):
            yield start, held[start - begin :][: windows.samples], False
            start += windows.step
        # the last window may begin before the next one would
        keep = max(0, min(start - begin, len(held) - windows.samples))
        held, begin = held[keep:], begin + keep
    last = max(0, begin + len(held) - windows.samples)
    yield last, held[last - begin :], True
