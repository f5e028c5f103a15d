"""Chooses the clips of the corpus: no duplicates, and a number of hours in even shares of the kinds."""

from collections import defaultdict
from collections.abc import Iterable

from pretrain.corpora.corpus.clips import CorpusClip


class DuplicateFilter:
    """Recognizes copies of earlier clips: of a file by its digest, and of a sound by its fingerprint."""

    def __init__(self) -> None:
        self._digests: set[tuple[str, int]] = set()
        self._fingerprints: set[str] = set()

    def without_duplicates(self, clips: Iterable[CorpusClip]) -> list[CorpusClip]:
        """The clips that are no copies of earlier ones or of each other."""
        kept = []
        for clip in clips:
            copied = (clip.digest, clip.part) in self._digests or clip.fingerprint in self._fingerprints
            if not copied:
                self._digests.add((clip.digest, clip.part))
                self._fingerprints.add(clip.fingerprint)
                kept.append(clip)
        return kept


def choose(clips: Iterable[CorpusClip], hours: float | None) -> list[CorpusClip]:
    """Choose about ``hours`` of the clips, or all for None, in a mixed order that is always the same.

    The kinds get equal shares; what one kind cannot fill goes to the others. A smaller corpus is a subset of a larger
    one.
    """
    ordered = sorted(clips, key=lambda clip: clip.key)
    if hours is None:
        return ordered
    available: defaultdict[str, float] = defaultdict(float)
    for clip in ordered:
        available[clip.kind] += clip.seconds
    shares = even_shares(available, 3600 * hours)
    used = dict.fromkeys(available, 0.0)
    chosen = []
    for clip in ordered:
        if used[clip.kind] < shares[clip.kind]:
            used[clip.kind] += clip.seconds
            chosen.append(clip)
    return chosen


def even_shares(available: dict[str, float], total: float) -> dict[str, float]:
    """Divide ``total`` among the kinds: equal parts, and all of a kind of which less is available."""
    shares: dict[str, float] = {}
    for done, (kind, amount) in enumerate(sorted(available.items(), key=lambda item: item[1])):
        shares[kind] = min(amount, total / (len(available) - done))
        total -= shares[kind]
    return shares
