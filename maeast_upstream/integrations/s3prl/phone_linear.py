"""The clips of s3prl's ``-d phone_linear``, and how many of them are in a batch: it leaves out the last of a split.

Source: s3prl/downstream/phone_linear/dataset.py, ``PhoneDataset``.
"""

import csv
import io
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from maeast_upstream.integrations.s3prl.task_data import (
    DATA,
    MAX_LIST_BYTES,
    Clips,
    existing,
    file,
    folder,
    lines,
    value,
)
from maeast_upstream.storage.text import read_text


def split_train(names: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Split the names of train_split.txt into train and dev, as s3prl does: by a shuffle, nine to one."""
    shuffled = list(names)
    random.Random(seed).shuffle(shuffled)
    count = int(len(shuffled) * 0.9)
    return shuffled[:count], shuffled[count:]


def batched(lengths: Mapping[str, float], used: Collection[str], batch: int) -> int:
    """Return how many clips of a split are in a batch.

    Args:
        lengths: The length of each clip in the table of all splits, by its name.
        used: The names of the split.
        batch: Its batch size.
    """
    order = sorted(lengths, key=lambda name: -lengths[name])
    rest = sum(name in used for name in order) % batch
    # the last, partial batch counts if it has two clips, and if the shortest clip of all splits is in this split
    is_dropped = rest == 1 or not order or order[-1] not in used
    return sum(name in used for name in order) - (rest if is_dropped else 0)


def phone_clips(config: Mapping[str, Any]) -> Clips:
    """The clips of frame-wise phone classification. Source: s3prl/downstream/phone_linear."""
    root = folder(config, f"{DATA}.libri_root")
    aligned_in = file(config, f"{DATA}.phone_path", "converted_aligned_phones.txt")
    aligned = {line[0] for line in lines(aligned_in)}
    table = file(config, f"{DATA}.bucket_file", "train-clean-100.csv")
    text = read_text(table, MAX_LIST_BYTES)
    try:
        read = csv.DictReader(io.StringIO(text, newline=""))
        rows = [(row["file_path"], float(row["length"])) for row in read]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{table}: expected columns file_path and length ({error!r})") from error
    lengths = {Path(path).name.split(".")[0]: length for path, length in rows}
    listed = {Path(path).name.split(".")[0]: path for path, _ in rows}
    names: dict[str, list[str]] = {}
    for split in ("train", "test"):
        names_in = file(config, f"{DATA}.phone_path", f"{split}_split.txt")
        names[split] = [line[0] for line in lines(names_in)]
        if missing := next((name for name in names[split] if name in listed and name not in aligned), None):
            raise ValueError(f"{aligned_in}: no phones of {missing}, which {names_in} lists")
    seed, sizes = value(config, DATA).get("train_dev_seed", 1337), {}
    names["train"], names["dev"] = split_train(names["train"], seed)
    for split in names:
        sizes[split] = int(value(config, f"{DATA}.{'train' if split == 'train' else 'eval'}_batch_size"))
    found = {
        split: existing((root / listed[name] for name in part if name in listed), table)
        for split, part in names.items()
    }
    counts = {split: batched(lengths, set(names[split]), sizes[split]) for split in names}
    return Clips(found["train"], found["dev"], found["test"], batched=counts)
