"""Matches the names in a table with the clips of a corpus, whatever folder either begins at."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from maeast_upstream.display import as_name, as_text

MAX_FOLDERS = 32
"""Leading folders that names may have more than those of the other side."""


def match_names(names: Sequence[str], clips: Sequence[str], table: str) -> np.ndarray:
    """Find the clip of each name.

    The names of one side may begin with the same number of folders more than those of the other: a table made in
    another folder has ``data/corpus/a.wav`` where the corpus has ``a.wav``. The number that matches most names counts.

    Args:
        names: of the table, as `display.as_name` gives them.
        clips: of the corpus, in the order of its clips.
        table: the table, for messages.

    Returns:
        (names,) int64 numbers of clips; -1 where there is no such clip, or two whose names end so.

    Raises:
        ValueError: no name matches.
    """
    given, known = [name.removeprefix("./") for name in names], [as_name(clip) for clip in clips]
    best, most = np.full(len(given), -1), 0
    for more_in_table, more_in_corpus in _folders(given, known):
        numbers = _numbers(known, more_in_corpus)
        found = np.array([numbers.get(_without(name, more_in_table), -1) for name in given], np.int64)
        if (count := int((found >= 0).sum())) > most:
            best, most = found, count
        if most == len(given):
            break
    if not most:
        first = f"begins with {as_text(given[0])}" if given else "is empty"
        raise ValueError(
            f"{table}: none of its {len(given)} names is a clip of the corpus: it {first}, the corpus begins with "
            f"{as_text(known[0]) if known else 'nothing'}"
        )
    return best


def _folders(names: Iterable[str], clips: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Yield how many leading folders of the table's and of the corpus's names to leave out."""
    depth, other = (min(MAX_FOLDERS, max((name.count("/") for name in side), default=0)) for side in (names, clips))
    yield 0, 0
    yield from ((number, 0) for number in range(1, depth + 1))
    yield from ((0, number) for number in range(1, other + 1))


def _without(name: str, folders: int) -> str:
    return name.split("/", folders)[-1] if name.count("/") >= folders else "\0"


def _numbers(clips: Iterable[str], folders: int) -> dict[str, int]:
    """The number of each clip by its name without some leading folders; -1 for a name that two clips have."""
    numbers: dict[str, int] = {}
    for number, clip in enumerate(clips):
        short = _without(clip, folders)
        numbers[short] = -1 if short in numbers else number
    numbers.pop("\0", None)
    return numbers
