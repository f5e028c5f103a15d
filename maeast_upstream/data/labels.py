"""Reads labels.csv: one row per clip, with paths relative to the folder of the file; see `tables` for its form."""

import logging
import unicodedata
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import MappingProxyType

from maeast_upstream.data.tables import ColumnNames, Header, option_hint, row_values
from maeast_upstream.data.tables import read_header as first_line
from maeast_upstream.display import as_text
from maeast_upstream.storage.remote import is_remote
from maeast_upstream.storage.text import file_name, lines_of, open_lines

logger = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")
SPLIT_NAMES = {
    **{split: split for split in SPLITS},
    **{"training": "train", "validation": "valid", "val": "valid", "dev": "valid", "testing": "test"},
}
"""What tables may call the splits, in capitals or not."""
NO_NAMES: ColumnNames = MappingProxyType({})
BACKSLASH_HINT = "; a path has / between folders, not \\"


def read_rows(path: Path, columns: Sequence[str], names: ColumnNames = NO_NAMES) -> dict[Path, tuple[str, ...]]:
    """Read the rows of a labels.csv by clip.

    Args:
        path: A table with a header.
        columns: Columns to read beside ``path``, such as label and split; other columns are ignored.
        names: What the table calls these columns, where it is something else.

    Returns:
        Maps the resolved path of each clip, which need not exist, to its values in the order of ``columns``.

    Raises:
        ValueError: As in `read_table`; a value is empty; a path is invalid; or a clip is listed twice.
    """
    clips: dict[Path, tuple[str, ...]] = {}
    for number, (name, *values) in enumerate(read_table(path, ["path", *columns], names=names), start=1):
        try:
            clip = clip_path(path.parent, name)
        except (OSError, RuntimeError, ValueError) as error:  # a zero byte, a loop of links
            raise ValueError(f"{path}: row {number}: {as_text(name)!r} is not a path ({error})") from error
        if clip in clips:
            raise ValueError(f"{path}: row {number} lists {as_text(name)} a second time")
        clips[clip] = tuple(values)
    return clips


def clip_path(folder: Path, name: str) -> Path:
    """Return the resolved path that a table in ``folder`` calls ``name``; an address but ``file://`` stays as it is.

    Raises:
        OSError, RuntimeError, ValueError: It is no path.
    """
    if is_remote(name) and not name.startswith("file://"):
        return Path(name)
    return (folder / name.removeprefix("file://")).resolve()


def read_table(
    path: Path, columns: Sequence[str], optional: Collection[str] = (), names: ColumnNames = NO_NAMES
) -> list[tuple[str, ...]]:
    """Read the rows of a table in their order.

    Args:
        path: A table with a header.
        columns: Columns to read; other columns are ignored.
        optional: Columns whose values may be empty.
        names: What the table calls these columns, where it is something else.

    Returns:
        The values of each row in the order of ``columns``, without blanks around them.

    Raises:
        ValueError: The file is missing or no table, or has no rows; a column is missing or occurs twice; a value is
            empty, or is neither a path nor UTF-8.
    """
    table: list[tuple[str, ...]] = []
    called = [names.get(column, column) for column in columns]
    if not path.exists():
        raise ValueError(f"{path}: no such file; expected columns {','.join(called)}")
    with open_lines(str(path)) as file:
        lines = lines_of(file, str(path))
        header = first_line(lines, str(path), called[0])
        numbers = [column_index(path, header, column, called) for column in called]
        for number, row in row_values(lines, header, str(path), first=1):
            values = [row[index].strip() for index in numbers]
            for column, value in zip(columns, values, strict=True):
                if not value and column not in optional:
                    raise ValueError(f"{path}: row {number} has no {names.get(column, column)}")
                shown = value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                if column != "path" and value != shown:
                    raise ValueError(f"{path}: row {number}: {shown} is not in UTF-8; save the table as UTF-8")
            table.append(tuple(file_name(v) if c == "path" else v for c, v in zip(columns, values, strict=True)))
    if not table:
        raise ValueError(f"{path}: no rows below the header")
    return table


def column_index(path: Path, header: Header, column: str, called: Sequence[str]) -> int:
    """Return the number of a column, counted from 0.

    Args:
        path: The table, for messages.
        header: Its columns.
        column: The name.
        called: The names of all columns that are required.

    Raises:
        ValueError: No column has this name, or two.
    """
    try:
        return header.index(column)
    except ValueError as error:
        if header.has(column):
            raise ValueError(f"{path}: {error}") from error
        raise ValueError(f"{path}: {error}; expected {','.join(called)}, got {header}{option_hint(column)}") from error


def read_header(path: Path, names: ColumnNames = NO_NAMES) -> set[str]:
    """Return the names of the columns of a table, in small letters.

    Raises:
        ValueError: The file is missing or no text.
    """
    with open_lines(str(path)) as file:
        header = first_line(lines_of(file, str(path)), str(path), names.get("path", "path"))
        return set(map(str.casefold, header.columns))


def read_splits(
    path: Path, classify: Callable[[str], str] = str, names: ColumnNames = NO_NAMES
) -> dict[Path, tuple[str, str]]:
    """Read the classes and splits of a labels.csv with the columns path, label and split.

    Args:
        path: The table.
        classify: Converts a label to its class, where several labels form one class; may raise ValueError.
        names: What the table calls these columns, where it is something else.

    Returns:
        Maps the resolved path of each clip to (class, split), in the order of the file; a split is one of `SPLITS`.

    Raises:
        ValueError: As in `read_rows`; a split is unknown or has no clips; a clip does not exist; or a class has no
            clip in train.
    """
    listed = read_rows(path, ["label", "split"], names)
    rows = {clip: (classify(label), split_of(path, split)) for clip, (label, split) in listed.items()}
    refuse_missing(path, rows)
    for split in SPLITS:
        if not any(split == other for _, other in rows.values()):
            raise ValueError(f"{path}: no clip in split {split}; each of {', '.join(SPLITS)} needs at least one")
    trained = {label for label, split in rows.values() if split == "train"}
    if unseen := sorted({label for label, _ in rows.values()} - trained):
        raise ValueError(f"{path}: no clip of class {unseen[0]!r} in train; each class needs at least one")
    name_alike(path, trained)
    return rows


def split_of(path: Path, name: str) -> str:
    """Return the split, one of `SPLITS`, that a table calls ``name``.

    Raises:
        ValueError: It is none of `SPLIT_NAMES`.
    """
    if name.casefold() not in SPLIT_NAMES:
        raise ValueError(f"{path}: unknown split {name!r}; expected {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[name.casefold()]


def refuse_missing(path: Path, clips: Collection[Path]) -> None:
    """Raise ValueError if clips of a table do not exist; the message counts them and names the first."""
    missing = [clip for clip in clips if not clip.is_file()]
    if missing:
        count = f"{len(missing)} of {len(clips)} clips do not exist; the first: " if len(missing) > 1 else ""
        name, shown = str(missing[0]), as_text(str(missing[0]))
        hint = BACKSLASH_HINT if "\\" in name else f"; paths are relative to {path.parent}"
        hint = hint if missing[0].is_absolute() else "; labels need files of this machine, not addresses"
        hint = hint if shown == name else "; the table is not in UTF-8: save it as UTF-8 if the names of files are"
        raise ValueError(f"{path}: no such clip: {count}{shown}{hint}")


def name_alike(path: Path, labels: Collection[str]) -> None:
    """Log one line for labels that look alike but count as different classes, such as dog and Dog."""
    alike: dict[str, list[str]] = {}
    for label in sorted(labels):
        alike.setdefault(" ".join(unicodedata.normalize("NFKC", label).casefold().split()), []).append(label)
    pairs = [same for same in alike.values() if len(same) > 1]
    if pairs:
        first = " and ".join(map(repr, pairs[0]))
        more = f", and {len(pairs) - 1} more such groups" if len(pairs) > 1 else ""
        logger.warning("%s: the labels %s differ in capitals or blanks only, and count as classes of their own%s",
                       path, first, more)  # fmt: skip
