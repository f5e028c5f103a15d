"""LibriSpeech with phones for s3prl's ``-d ctc``: the class that its wheel leaves out, written from its description."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import Dataset

Item = tuple[str, list[int]]


class Tokenizer(Protocol):
    """What s3prl's text encoders have."""

    def encode(self, s: str) -> list[int]:
        """Phones with spaces between them -> their numbers, with that of the end."""
        ...


class LibriPhoneDataset(Dataset[Item | list[Item]]):
    """Paths of utterances with the numbers of their phones, most phones first.

    An item is one (path, numbers), or, where ``bucket_size`` is above 1, a batch of so many neighbours: of about equal
    length, so that little of it is padding.
    """

    def __init__(
        self,
        split_list: Sequence[str],
        tokenizer: Tokenizer,
        bucket_size: int,
        *,
        path: str,
        lexicon: Sequence[str],
        ascending: bool = False,
        **_: Any,
    ) -> None:
        """Read transcripts and lexicon; no audio yet.

        Args:
            split_list: folders below ``path``.
            tokenizer: s3prl's, made from the vocabulary file.
            bucket_size: utterances of an item.
            path: the LibriSpeech folder.
            lexicon: files of lines ``WORD P1 P2 ...``; a word's first line counts.
            ascending: fewest phones first.
            _: s3prl hands its whole corpus section in.

        Raises:
            ValueError: a split without utterances; an utterance without transcript; a word that no lexicon has.
        """
        words = read_lexicon(map(Path, lexicon))
        utterances = [one for split in split_list for one in read_split(Path(path) / split)]
        items = [(str(flac), tokenizer.encode(phones(flac, text, words))) for flac, text in utterances]
        self.items = sorted(items, key=lambda item: len(item[1]), reverse=not ascending)
        self.bucket_size = bucket_size

    def __len__(self) -> int:
        """Utterances: every one begins a bucket, as in s3prl."""
        return len(self.items)

    def __getitem__(self, index: int) -> Item | list[Item]:
        """One utterance, or the bucket that begins with it; the last buckets are moved back to be full."""
        if self.bucket_size == 1:
            return self.items[index]
        start = max(0, min(index, len(self.items) - self.bucket_size))
        return self.items[start : start + self.bucket_size]


def read_lexicon(paths: Iterator[Path]) -> dict[str, str]:
    """Word -> phones with spaces between them; the first line of a word counts."""
    words: dict[str, str] = {}
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            word, _, spoken = line.replace("\t", " ").partition(" ")
            if spoken.strip():
                words.setdefault(word, " ".join(spoken.split()))
    return words


def read_split(folder: Path) -> list[tuple[Path, str]]:
    """The utterances of a split with their transcripts, sorted by path.

    Raises:
        ValueError: no such folder, no .flac in it, an utterance that its chapter's .trans.txt does not list.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected a split of LibriSpeech")
    flacs = sorted(folder.rglob("*.flac"))
    if not flacs:
        raise ValueError(f"{folder}: no .flac in it; expected SPEAKER/CHAPTER/SPEAKER-CHAPTER-N.flac")
    texts: dict[str, str] = {}
    for path in folder.rglob("*.trans.txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, text = line.strip().partition(" ")
            texts[name] = text.strip()
    for flac in flacs:
        if not texts.get(flac.stem):
            raise ValueError(f"{flac}: no transcript; expected a line '{flac.stem} WORDS' in a .trans.txt beside it")
    return [(flac, texts[flac.stem]) for flac in flacs]


def phones(flac: Path, text: str, words: dict[str, str]) -> str:
    """The phones of a transcript; ValueError names a word that the lexicon lacks."""
    for word in text.split():
        if word not in words:
            raise ValueError(f"{flac}: the lexicon has no word {word!r}")
    return " ".join(words[word] for word in text.split())
