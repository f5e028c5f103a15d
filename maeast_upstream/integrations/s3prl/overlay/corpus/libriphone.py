"""LibriSpeech with phones for s3prl's ``-d ctc``: the class that its wheel lacks, written from its description."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import Dataset

Item = tuple[str, list[int]]


class Tokenizer(Protocol):
    """The method of s3prl's text encoders that is used."""

    def encode(self, s: str) -> list[int]:
        """Turn phones, separated by spaces, into their numbers, ended by the number of the end symbol."""
        ...


class LibriPhoneDataset(Dataset[Item | list[Item]]):
    """Paths of utterances with the numbers of their phones, sorted by the number of phones, most first.

    An item is a pair (path, numbers) if ``bucket_size`` is 1. Otherwise it is a list of ``bucket_size`` neighbouring
    pairs, which are of about equal length, so that a batch has little padding.
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
        """Read transcripts and lexicon; audio is not read.

        Args:
            split_list: folders below ``path``.
            tokenizer: s3prl's text encoder, made from the vocabulary file.
            bucket_size: number of utterances per item.
            path: the LibriSpeech folder.
            lexicon: files of lines ``WORD P1 P2 ...``; the first line of a word counts.
            ascending: sort by fewest phones first.
            _: other fields of the config's corpus section, which s3prl passes whole.

        Raises:
            ValueError: a split has no utterances, an utterance has no transcript, or no lexicon has a word.
        """
        words = read_lexicon(map(Path, lexicon))
        utterances = [utterance for split in split_list for utterance in read_split(Path(path) / split)]
        items = [(str(flac), tokenizer.encode(phones(flac, text, words))) for flac, text in utterances]
        self.items = sorted(items, key=lambda item: len(item[1]), reverse=not ascending)
        self.bucket_size = bucket_size

    def __len__(self) -> int:
        """Number of utterances; each of them starts a bucket, as in s3prl."""
        return len(self.items)

    def __getitem__(self, index: int) -> Item | list[Item]:
        """One utterance, or the bucket that starts with it; the last buckets start earlier, so that they are full."""
        if self.bucket_size == 1:
            return self.items[index]
        start = max(0, min(index, len(self.items) - self.bucket_size))
        return self.items[start : start + self.bucket_size]


def read_lexicon(paths: Iterator[Path]) -> dict[str, str]:
    """Read lexicons into a mapping from a word to its phones, separated by spaces; a word's first line counts."""
    words: dict[str, str] = {}
    for path in paths:
        for line in path.read_text(encoding="utf-8-sig").splitlines():
            word, _, spoken = line.replace("\t", " ").partition(" ")
            if spoken.strip():
                words.setdefault(word, " ".join(spoken.split()))
    return words


def read_split(folder: Path) -> list[tuple[Path, str]]:
    """The utterances of a split with their transcripts, sorted by path.

    Raises:
        ValueError: the folder is missing, holds no .flac, or has an utterance that no .trans.txt lists.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected a split of LibriSpeech")
    flacs = sorted(folder.rglob("*.flac"))
    if not flacs:
        raise ValueError(f"{folder}: it holds no .flac; expected SPEAKER/CHAPTER/SPEAKER-CHAPTER-N.flac")
    texts: dict[str, str] = {}
    for path in folder.rglob("*.trans.txt"):
        for line in path.read_text(encoding="utf-8-sig").splitlines():
            name, _, text = line.strip().partition(" ")
            texts[name] = text.strip()
    for flac in flacs:
        if not texts.get(flac.stem):
            raise ValueError(f"{flac}: no transcript; expected a line '{flac.stem} WORDS' in a .trans.txt beside it")
    return [(flac, texts[flac.stem]) for flac in flacs]


def phones(flac: Path, text: str, words: dict[str, str]) -> str:
    """The phones of a transcript, separated by spaces; ValueError names a word that is not in the lexicon."""
    for word in text.split():
        if word not in words:
            raise ValueError(f"{flac}: the lexicon has no word {word!r}")
    return " ".join(words[word] for word in text.split())
