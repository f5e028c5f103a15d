"""Finds the recordings of annotation files, see `annotations`."""

import os
import re
from collections import defaultdict
from pathlib import Path

from maeast_upstream.audio.files import AUDIO_SUFFIXES
from maeast_upstream.data.labels import read_table
from maeast_upstream.display import as_text, from_name, without_secrets
from maeast_upstream.storage.delimited import from_cell
from maeast_upstream.storage.remote import is_remote

ANNOTATION_SUFFIX = ".txt"
PATHS = ("Begin Path", "Begin File")
ENDINGS = re.compile(
    r"(\.table\.\d+)?(\.selections)+$|(\.birdnet)?\.selection\.table$|\.birdnet\.results$", re.IGNORECASE
)
"""What Raven and BirdNET-Analyzer add to the name of a recording."""
INDEX_NAME, INDEX_COLUMNS = "_recordings.csv", ("file", "path")
"""The table of the recordings of annotation files in its folder and the folders in that."""
_MARK = r"(?:x([01][0-9a-f]|20|5c|7f)|u(0085|00a0|1680|20[0-5][0-9a-f]|3000))"
_MARKED = re.compile(rf"\\{_MARK}")
_TO_MARK = re.compile(rf"[\x00-\x1f\x7f\x85\u2028\u2029]|^\s|\s$|\\(?={_MARK})")


class Recordings:
    """Finds the recordings of annotation files; lists each folder once."""

    def __init__(self) -> None:
        self._listed: dict[str, dict[str, list[str]]] = {}
        self._named: dict[tuple[str, str], str] = {}
        self._indices: dict[str, dict[str, str]] = {}

    def beside(self, table: str) -> str:
        """Return the recording that an index lists for a table, or the audio file beside the table that has its name.

        Raises:
            ValueError: There is none, or there are several.
        """
        if listed := self._in_index(table):
            return self.named(os.path.dirname(table), listed, as_text(table))
        folder, name = os.path.split(table[: -len(ANNOTATION_SUFFIX)])
        files = self._files(folder)
        for stem in dict.fromkeys((name, ENDINGS.sub("", name))):
            found = files.get(stem, [])
            if len(found) > 1:
                both = " and ".join(map(as_text, found))
                raise ValueError(
                    f"{as_text(table)}: {both} lie beside it; expected one recording, or the column {PATHS[0]}"
                )
            if found:
                return os.path.join(folder, found[0])
        looked = as_text(ENDINGS.sub("", name))
        raise ValueError(
            f"{as_text(table)}: no recording beside it; expected {looked}.wav or the like, or a selection table with "
            f"the column {PATHS[0]}"
        )

    def named(self, folder: str, name: str, where: str) -> str:
        """Return the recording that a table in ``folder`` calls ``name``, or the file beside the table of that name.

        Raises:
            ValueError: There is none.
        """
        if is_remote(name) and not name.startswith("file://"):
            return name
        key = (folder, name)
        if key not in self._named:
            texts = dict.fromkeys((name.removeprefix("file://"), from_name(from_field(name))))
            wanted = [os.path.join(folder, text) for text in texts]
            wanted += [os.path.join(folder, re.split(r"[/\\]", text)[-1]) for text in texts]
            found = next((path for path in wanted if _is_file(path)), None)
            if found is None:
                last = as_text(wanted[2 if len(texts) == 2 else 1].rpartition("/")[2])
                shown = as_text(without_secrets(name))
                raise ValueError(f"{where}: no such recording: {shown}, and no {last} beside the table")
            self._named[key] = found
        return self._named[key]

    def _in_index(self, table: str) -> str:
        """Return what the index in a folder around a table lists as its recording; "" for nothing."""
        folder, name = os.path.split(os.path.abspath(table))
        while True:
            if folder not in self._indices:
                index = Path(folder, INDEX_NAME)
                rows = read_table(index, INDEX_COLUMNS) if index.is_file() else []
                self._indices[folder] = {from_field(from_cell(file)): from_cell(path) for file, path in rows}
            if name in self._indices[folder]:
                return self._indices[folder][name]
            folder, last = os.path.split(folder)
            if not last:
                return ""
            name = f"{last}/{name}"

    def _files(self, folder: str) -> dict[str, list[str]]:
        """Return the audio files of a folder by their whole names and by their names without suffixes."""
        if folder not in self._listed:
            files: dict[str, list[str]] = defaultdict(list)
            for name in sorted(os.listdir(folder or ".")):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in AUDIO_SUFFIXES and not name.startswith("."):
                    files[stem].append(name)
                    files[name] = [name]
            self._listed[folder] = files
        return self._listed[folder]


def as_field(text: str) -> str:
    r"""Return text as a value of an annotation file, which quotes nothing.

    Tabs, line breaks and other control characters, and blanks at both ends, become marks such as ``\x09``; a backslash
    that would look like one becomes ``\x5c``.
    """
    return _TO_MARK.sub(lambda found: f"\\x{code:02x}" if (code := ord(found[0])) < 128 else f"\\u{code:04x}", text)


def from_field(text: str) -> str:
    """Return the text that `as_field` was given."""
    return _MARKED.sub(lambda found: chr(int(found[1] or found[2], 16)), text)


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)
    except (OSError, ValueError):  # a zero byte
        return False
