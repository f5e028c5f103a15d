"""Writes hits as a page to listen to: a single HTML file without scripts, which needs no network and no other file."""

import base64
import hashlib
import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from maeast_upstream.audio.reading import AudioError
from maeast_upstream.display import printable
from maeast_upstream.messages import counted
from maeast_upstream.progress import progress_bar
from maeast_upstream.similarity.hits import Hit, by_query, read_sound, times
from maeast_upstream.storage.atomic import replacing
from maeast_upstream.visualization.map.sound import MAX_CLIPS, MAX_SECONDS, opus

STYLE = """
:root { color-scheme: light dark; font: 16px/1.4 system-ui, sans-serif; }
body { max-width: 48rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin-top: 2rem; overflow-wrap: anywhere; }
ol { list-style: none; padding: 0; }
li { display: grid; grid-template-columns: 2.5rem 4rem 1fr; gap: 0 .5rem; align-items: center;
  padding: .6rem 0; border-top: 1px solid #8884; }
li > * { min-width: 0; } .rank { color: #888; text-align: right; } .name { overflow-wrap: anywhere; }
audio, .note { grid-column: 1 / -1; width: 100%; } .note, footer { color: #888; font-size: .9rem; }
"""


def write_page(path: Path, hits: Sequence[Hit], title: str, root: str = "") -> list[tuple[Hit, str]]:
    """Write the page; each hit holds its first ten seconds.

    Args:
        path: The file, which appears whole.
        hits: The results of `search`.
        title: What was searched.
        root: The folder that relative paths of hits start at; "" for the current one.

    Returns:
        The hits whose audio could not be read, and the reasons.

    Raises:
        ValueError: There are too many hits for a page that browsers can open.
    """
    if len(hits) > MAX_CLIPS:
        raise ValueError(f"{len(hits)} hits, and a page holds up to {MAX_CLIPS}; give a smaller -k, or -o hits.csv")
    failed: list[tuple[Hit, str]] = []
    with replacing(path) as part, part.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.writelines(_pieces(hits, title, root, failed))
    return failed


def _pieces(hits: Sequence[Hit], title: str, root: str, failed: list[tuple[Hit, str]]) -> Iterator[str]:
    """Yield the page; all text from outside goes through `_text`, and nothing in it can run or load anything."""
    style = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; media-src data:; img-src data:; style-src 'sha256-{style}'"
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
    yield f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{_text(title)}</h1>\n"
    groups = by_query(hits)
    bar = progress_bar(total=len(hits), unit="hit")
    for query, found in groups.items():
        yield f"<section>\n<h2>{_text(query)}</h2>\n<ol>\n"
        for hit in found:
            yield _item(hit, root, failed)
            bar.update()
        yield "</ol>\n</section>\n"
    bar.close()
    seconds = f"of each the first {MAX_SECONDS:g} seconds"
    yield f"<footer>{counted(len(hits), 'hit')}; {seconds}; the number is the cosine.</footer>\n</body>\n</html>\n"


def _item(hit: Hit, root: str, failed: list[tuple[Hit, str]]) -> str:
    label = _text(f"{hit.rank}: {hit.path} {times(hit)}")
    try:
        sound = opus(read_sound(hit.path, hit.start_ms, hit.end_ms, MAX_SECONDS, root))
        data = base64.b64encode(sound).decode()
        player = f'<audio controls preload="none" aria-label="{label}" src="data:audio/ogg;base64,{data}"></audio>'
    except AudioError as error:
        failed.append((hit, str(error)))
        player = f'<span class="note">no sound: {_text(str(error))}</span>'
    similarity = "" if math.isnan(hit.similarity) else f"{hit.similarity:.3f}"
    place = f'<span class="name">{_text(hit.path)} <small>{_text(times(hit))}</small></span>'
    return f'<li><span class="rank">{hit.rank}</span><b>{similarity}</b>{place}{player}</li>\n'


def _text(text: str) -> str:
    """Return text from outside as text of the page, without control characters or marks that turn its direction."""
    return escape(printable(text))
