"""Finds audio files by their names, and refuses paths that are no file with content."""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from maeast_upstream.audio.backends import PYAV_SUFFIXES, AudioError
from maeast_upstream.storage.walking import LeftOut, walk

AUDIO_SUFFIXES = PYAV_SUFFIXES | {
    *(".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".spx", ".mp3", ".mp2", ".mpga"),
    *(".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".sph", ".voc"),
}
"""Suffixes of the files that count as audio in a folder or tar."""


def is_hidden(name: str) -> bool:
    """Tell whether a file is hidden, by its path below the folder or tar that is searched.

    It is if a part of the path begins with a dot, such as ``.git/x.wav`` or ``._x.wav``, in which macOS stores what
    other file systems cannot hold of ``x.wav``.
    """
    return any(part.startswith(".") and part not in (".", "..") for part in re.split(r"[/\\]", name))


def looks_like_audio(name: str) -> bool:
    """Tell whether a folder or tar is expected to hold audio under this name, by its suffix; not if it is hidden."""
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES and not is_hidden(name)  # noqa: PTH122


def find_audio(inputs: Iterable[Path | str]) -> list[Path]:
    """List audio files: files as given, and those of folders at any depth, sorted within a folder; no file twice.

    Hidden files and those in hidden folders are left out, see `is_hidden`, and one line of the log counts them. Links
    to folders are followed, see `walk`.

    Raises:
        ValueError: A path does not exist, or a folder holds no audio.
    """
    found: dict[Path, None] = {}
    left_out = LeftOut()
    for item in map(Path, inputs):
        if item.is_dir():
            files = [Path(path) for path in _audio_in(str(item), left_out)]
            if not files:
                known = f"looked for {' '.join(sorted(AUDIO_SUFFIXES))}"
                problem = "; ".join(filter(None, ["a folder without audio", str(left_out), known]))
                raise ValueError(f"{item}: {problem}")
            found.update(dict.fromkeys(files))
        elif item.exists():
            found[item] = None
        else:
            raise ValueError(f"{item}: no such file or folder")
    left_out.log()
    return list(found)


def _audio_in(folder: str, left_out: LeftOut) -> Iterator[str]:
    for entry in walk(folder, set()):
        is_audio = looks_like_audio(Path(entry.path).name.lstrip("."))
        if entry.kind == "file" and is_audio:
            if Path(entry.path).is_file():
                yield entry.path
            else:
                left_out.add(entry._replace(kind="device"))
        elif entry.kind not in ("file", "folder", "hidden file") or (entry.kind == "hidden file" and is_audio):
            left_out.add(entry)


def check_path(path: Path) -> None:
    """Raise AudioError if ``path`` is not a file with content."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise AudioError(f"{path}: a folder; expected an audio file")
        if not stat.S_ISREG(mode):  # reading a pipe may never begin, reading /dev/zero never end
            raise AudioError(f"{path}: a pipe or device; expected a file")
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError:
        dangling = os.path.islink(path)  # noqa: PTH114
        hint = "; a path has / between folders, not \\" if re.search(r"\\(?!x[89a-f])", path.name) else ""
        problem = "a link to a file that does not exist" if dangling else f"no such file{hint}"
        raise AudioError(f"{path}: {problem}") from None
    except AudioError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise AudioError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if empty:
        raise AudioError(f"{path}: empty file")


LOOKS = {
    "an HTML page": rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|script)",
    "XML": rb"(\xef\xbb\xbf)?\s*<\?xml",
    "JSON": rb"\s*[{\[]\s*[\"{\[\]}\d]",
    "a PDF": rb"%PDF",
    "a zip archive": rb"PK[\x03\x05]\x04?",
    "another archive": rb"\x1f\x8b|Rar!|7z\xbc\xaf|BZh|\xfd7zXZ",
    "MIDI, which is notes": rb"MThd",
    "a picture": rb"\x89PNG|\xff\xd8\xff|GIF8",
    "a pointer of Git LFS to a file that was not fetched": rb"version https://git-lfs",
    "a file of macOS beside another one, without sound": rb"\x00\x05\x16\x07",
    "text": rb"[\t\n\r -~]+\Z",
}
"""How files that are often named like audio by mistake begin, without regard to case."""


def look_of(head: bytes) -> str:
    """Return what a file without audio looks like by its first bytes, such as "an HTML page"; "" if that is unknown."""
    found = (look for look, pattern in LOOKS.items() if re.match(pattern, head, re.IGNORECASE | re.DOTALL))
    return next(found, "")
