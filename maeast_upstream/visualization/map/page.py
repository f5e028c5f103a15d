"""Writes a map as a single HTML page that needs no network and no other file."""

import base64
import gzip
import hashlib
import importlib.resources
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maeast_upstream.data.embeddings import Embeddings
from maeast_upstream.display import as_name, from_name
from maeast_upstream.messages import install_extra
from maeast_upstream.storage.remote import is_remote
from maeast_upstream.visualization.map.predictions import Predictions, absolute_path
from maeast_upstream.visualization.map.sound import MAX_SECONDS, Sound

MEDIA = {"embed": "blob:", "link": "'self' file:", "none": "'none'"}
"""Sources of sound that the page's content security policy allows, by the mode of its sound."""


SCRIPTS = (
    "sound.js",
    "data.js",
    "groups.js",
    "map.js",
    "overlay.js",
    "selection.js",
    "clip.js",
    "legend.js",
    "labels.js",
    "labels_file.js",
    "queue.js",
    "keys.js",
    "start.js",
)
"""In the order in which the page runs them, after plotly."""
NO_CLASS = 0xFFFFFFFF
"""Number of the class of rows that have none."""
DIGEST_LENGTH = 24


@dataclass(frozen=True, kw_only=True)
class Colouring:
    """Something that the colours of the points can show."""

    kind: str
    """label, prediction, cluster or folder."""
    values: Sequence[str | None]
    """By row; None for rows without one."""


@dataclass(frozen=True, kw_only=True)
class MapPage:
    """The content of a map page."""

    title: str
    method: str
    """Name of the projection, as the reader sees it."""
    axes: tuple[str, str]
    """Names of the two coordinates."""
    table: Embeddings
    colourings: Sequence[Colouring]
    """What colours can show; a page without "label" gets it, without any labels, since labels are typed there."""
    colour_by: str
    """The kind that is shown at first."""
    points: np.ndarray
    """(rows, 2)."""
    neighbours: tuple[np.ndarray, np.ndarray]
    """(rows, K) the nearest rows of each row, nearest first, and (rows, K) their cosines."""
    sound: Sound
    predictions: Predictions | None = None
    """The probabilities and margins that go with the colouring "prediction"."""


def plotly_source() -> str:
    """Return the source of plotly.js.

    Raises:
        ValueError: the package plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ValueError(f"a map page needs plotly: {install_extra('plot')}") from error
    return str(get_plotlyjs())


def write_page(path: Path, page: MapPage, folder: Path) -> None:
    """Write the page.

    Args:
        path: the file to write.
        page: its content.
        folder: where the page will lie, to which its links are relative.

    Raises:
        ValueError: plotly is not installed.
    """
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(_pieces(page, folder))


def _pieces(page: MapPage, folder: Path) -> Iterator[str]:
    """Yield the template with its insert comments replaced."""
    scripts = [
        plotly_source(),
        *(_resource(name) for name in SCRIPTS),
    ]
    for piece in re.split(r"(<!-- insert \w+ -->)", _resource("map.html")):
        match piece.removeprefix("<!-- insert ").removesuffix(" -->"):
            case "policy":
                yield _policy(page.sound.mode, scripts)
            case "style":
                yield f"<style>{_resource('map.css')}</style>"
            case "data":
                yield from _blocks(page, folder)
            case "scripts":
                yield from (f"<script>{script}</script>\n" for script in scripts)
            case text:
                yield text


def _resource(name: str) -> str:
    return (importlib.resources.files("maeast_upstream.visualization.map") / "assets" / name).read_text(
        encoding="utf-8"
    )


def _policy(mode: str, scripts: Sequence[str]) -> str:
    """Return a content security policy that allows these scripts only, and nothing over the network."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    connect = "'self'" if mode == "link" else "'none'"
    policy = {
        "default-src": "'none'",
        # plotly's WebGL library compiles its draw calls with Function()
        "script-src": "'unsafe-eval' " + " ".join(f"'sha256-{value}'" for value in hashes),
        "style-src": "'unsafe-inline'",
        "img-src": "data: blob:",
        "media-src": MEDIA[mode],
        "connect-src": connect,
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    content = "; ".join(f"{name} {value}" for name, value in policy.items())
    return f'<meta http-equiv="Content-Security-Policy" content="{content}">'


def _blocks(page: MapPage, folder: Path) -> Iterator[str]:
    """Yield everything that comes from the user as base64, so that no file name can become markup."""
    table = page.table
    root, names = short_names(table.files)
    colourings = {colouring.kind: colouring for colouring in page.colourings}
    colourings.setdefault("label", Colouring(kind="label", values=[None] * len(names)))
    classes = {kind: sorted({value for value in c.values if value is not None}) for kind, c in colourings.items()}
    segments = np.stack([table.start_ms, table.end_ms], axis=1).astype("<f8")
    facts = {
        "title": page.title,
        "method": page.method,
        "axes": page.axes,
        "layer": table.layer,
        "colourings": [{"kind": kind, "classes": found} for kind, found in classes.items()],
        "colour_by": page.colour_by,
        "labelled": bool(classes["label"]),
        "timed": bool((table.start_ms > 0).any()) or len(set(names)) < len(names),
        "audio": page.sound.mode,
        "held_s": MAX_SECONDS,
        "base": None if root is None else _link_base(root, folder),
        "folder": None if root is None else Path(root).as_posix(),
        "digest": digest_of(table),
        "given": _digest(list(colourings["label"].values)),
        "unread": page.sound.unread,
    }
    yield _block("facts", _json(facts))
    yield _block("names", _json(names))
    for kind, colouring in colourings.items():
        number: dict[str | None, int] = {name: index for index, name in enumerate(classes[kind])}
        numbers = [number.get(value, NO_CLASS) for value in colouring.values]
        yield _block(f"class-of-{kind}", np.array(numbers, "<u4").tobytes())
    yield _block("points", page.points.astype("<f4").tobytes())
    yield _block("segments", segments.tobytes())
    yield _block("neighbours", page.neighbours[0].astype("<u4").tobytes())
    yield _block("similarity", page.neighbours[1].astype("<f4").round(3).tobytes())
    if page.predictions:
        yield _block("probability", page.predictions.probability.astype("<f4").tobytes())
        yield _block("margin", page.predictions.margin.astype("<f4").tobytes())
    for row, clip in page.sound.clips.items():
        yield f'<script type="audio/ogg" id="clip-{row}">{base64.b64encode(clip).decode()}</script>\n'


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _block(name: str, data: bytes) -> str:
    packed = base64.b64encode(gzip.compress(data, mtime=0)).decode()
    return f'<script type="application/gzip" id="data-{name}">{packed}</script>\n'


def digest_of(table: Embeddings) -> str:
    """Return what identifies the clips of a table, under which a browser keeps their labels.

    Relative paths are those from the working folder: clips of another folder have the same names there.
    """
    paths = map(absolute_path, table.files)
    times = (column.tolist() for column in (table.segments, table.start_ms, table.end_ms))
    return _digest(list(zip(paths, *times, strict=True)))


def _digest(value: Any) -> str:
    return hashlib.sha256(_json(value)).hexdigest()[:DIGEST_LENGTH]


def _link_base(root: str, folder: Path) -> str:
    """Return the path from the page's folder to the one that its clips have in common, as `as_name` writes it."""
    return as_name(Path(os.path.relpath(Path(from_name(root)).resolve(), folder.resolve())).as_posix())


def short_names(paths: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split paths into the folder that they have in common and the rest; None and whole paths if one is an address."""
    absolute = [absolute_path(path) for path in paths]
    if any(map(is_remote, paths)):
        return None, absolute
    root = os.path.commonpath({os.path.dirname(path) for path in absolute})  # noqa: PTH120
    skip = len(root.rstrip(os.sep)) + 1
    return root, [path[skip:].replace(os.sep, "/") for path in absolute]
