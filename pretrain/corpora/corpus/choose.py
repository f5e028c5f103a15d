"""Which clips of the finished packages make the corpus: no repeats, and so many hours in level shares of the kinds."""

from collections import defaultdict
from collections.abc import Iterable

from pretrain.corpora.corpus.clips import Clip


class Seen:
    """Knows the clips that came before: copies of a file, and of a sound by its fingerprint."""

    def __init__(self) -> None:
        self._digests: set[tuple[str, int]] = set()
        self._fingerprints: set[str] = set()

    def new(self, clips: Iterable[Clip]) -> list[Clip]:
        """Those that are no repeats, also of one another."""
        kept = []
        for clip in clips:
            copied = (clip.digest, clip.part) in self._digests or clip.fingerprint in self._fingerprints
            if not copied:
                self._digests.add((clip.digest, clip.part))
                self._fingerprints.add(clip.fingerprint)
                kept.append(clip)
        return kept


def choose(clips: Iterable[Clip], hours: float | None) -> list[Clip]:
    """About ``hours`` of the clips, or all for None, in an order that is mixed and always the same.

    The kinds get equal shares; what one cannot fill goes to the others. A smaller corpus is a part of a larger one.
    """
    ordered = sorted(clips, key=lambda clip: clip.key)
    if hours is None:
        return ordered
    there: defaultdict[str, float] = defaultdict(float)
    for clip in ordered:
        there[clip.kind] += clip.seconds
    shares = level_shares(there, 3600 * hours)
    used = dict.fromkeys(there, 0.0)
    chosen = []
    for clip in ordered:
        if used[clip.kind] < shares[clip.kind]:
            used[clip.kind] += clip.seconds
            chosen.append(clip)
    return chosen


def level_shares(there: dict[str, float], wanted: float) -> dict[str, float]:
    """How much of each kind: equal parts of ``wanted``, of a kind that has less all that it has."""
    shares: dict[str, float] = {}
    for done, (kind, amount) in enumerate(sorted(there.items(), key=lambda item: item[1])):
        shares[kind] = min(amount, wanted / (len(there) - done))
        wanted -= shares[kind]
    return shares
