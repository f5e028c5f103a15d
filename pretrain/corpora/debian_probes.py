"""``python -m pretrain.corpora.debian_probes --out DIR``: makes the labelled sets of the probe tables."""

import argparse
import csv
import logging
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maeast_upstream.arguments import Parser
from maeast_upstream.audio.reading import AudioError
from maeast_upstream.cli import ExitStatus, run
from maeast_upstream.data.inputs import Segment
from maeast_upstream.decoding.pool import DecodePool
from pretrain.corpora.debian.archives import expand, is_sound
from pretrain.corpora.debian.deb import ArchiveError, Source, UnpackFolder, read_deb
from pretrain.corpora.debian.fetch import FetchError, fetch, version_of
from pretrain.corpora.debian.memory import limit_memory
from pretrain.corpora.debian.packages import LISTS, Package
from pretrain.corpora.debian.programs import ProgramError, installed_version
from pretrain.corpora.sets.animals_machines import ANIMALS_MACHINES
from pretrain.corpora.sets.drums import DRUMS
from pretrain.corpora.sets.game_effects import GAME_EFFECTS
from pretrain.corpora.sets.game_voices import GAME_VOICES
from pretrain.corpora.sets.gm_instruments import GM_INSTRUMENTS
from pretrain.corpora.sets.keywords_tts import KEYWORDS_TTS
from pretrain.corpora.sets.labelled import SetFiles, SetRecipe, sha256_of, write_set
from pretrain.corpora.sets.letters_language import LETTERS_LANGUAGE
from pretrain.corpora.sets.mandarin_tone import MANDARIN_TONE
from pretrain.corpora.sets.note_pitch import NOTE_PITCH
from pretrain.corpora.sets.soundtracks import SOUNDTRACKS
from pretrain.corpora.sets.spoken_vowels import SPOKEN_VOWELS
from pretrain.corpora.sets.stamps_language import STAMPS_LANGUAGE

logger = logging.getLogger(__name__)

PROG = "python -m pretrain.corpora.debian_probes"
EIGHT = (
    *(DRUMS, GAME_EFFECTS, GAME_VOICES, GM_INSTRUMENTS, KEYWORDS_TTS),
    *(MANDARIN_TONE, SOUNDTRACKS, STAMPS_LANGUAGE),
)
BEYOND = (SPOKEN_VOWELS, LETTERS_LANGUAGE, NOTE_PITCH, ANIMALS_MACHINES)
GROUPS = {"eight": [recipe.name for recipe in EIGHT], "beyond": [recipe.name for recipe in BEYOND]}
RECIPES = {recipe.name: recipe for recipe in (*EIGHT, *BEYOND)}


def drawn_for_choosing(first: str, second: str) -> str:
    """The set of a pair whose valid clips may be used to choose a model; the other is read once, at the end.

    The draw is a hash of the names with a seed that was fixed before any features of the sets were computed.
    """
    return min((first, second), key=lambda name: sha256_of(f"beyond coin {name}"))


TO_CHOOSE_WITH = (
    drawn_for_choosing(SPOKEN_VOWELS.name, LETTERS_LANGUAGE.name),
    drawn_for_choosing(NOTE_PITCH.name, ANIMALS_MACHINES.name),
)
READ_AT_THE_END = tuple(name for name in GROUPS["beyond"] if name not in TO_CHOOSE_WITH)


class SetError(RuntimeError):
    """A set that cannot be made on this machine; the message holds its name and the reason."""


def main(argv: Sequence[str]) -> int:
    """Download packages and make the labelled sets from them: SET/labels.csv, SET/audio, SET/SOURCES.tsv.

    A set that exists already is not made again.

    Returns:
        The exit status: 0 for all sets, 3 if some could not be made, which are named.

    Raises:
        ValueError: The command line is wrong, or no set could be made.
    """
    args = _parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    chosen = [name for name in args.sets.split(",") if name] or ["eight"]
    names = list(dict.fromkeys(name for group in chosen for name in GROUPS.get(group, [group])))
    if unknown := sorted(set(names) - set(RECIPES)):
        raise ValueError(f"unknown set {unknown[0]!r}; the sets are {', '.join((*RECIPES, *GROUPS))}")
    args.out.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    with DecodePool(args.workers) as pool:
        for name in names:
            if (args.out / name).exists():
                print(f"{name}: exists already")
                continue
            try:
                counts = make(RECIPES[name], args.out, args.work or args.out / "work", pool)
                print(f"{name}: {sum(counts.values())} clips, {counts['train']} / {counts['valid']} / {counts['test']}")
            except SetError as error:
                failed.append(str(error))
                logger.warning("left out: %s", error)
    if len(failed) == len(names):
        raise ValueError(f"no set could be made; {failed[0]}")
    for failure in failed:
        print(f"error: {failure}", file=sys.stderr)
    return ExitStatus.PARTIAL if failed else ExitStatus.DONE


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog=PROG, description="Make the labelled sets of the probe tables from Debian packages.")
    parser.add_argument("--out", type=Path, required=True, help="folder in which each set gets its own folder")
    parser.add_argument(
        "--sets",
        default="eight",
        metavar="A,B",
        help=f"eight: {', '.join(GROUPS['eight'])}; beyond: {', '.join(GROUPS['beyond'])}; or some of these names",
    )
    parser.add_argument(
        "--work", type=Path, help="folder for downloads, may be that of debian_audio; default: OUT/work"
    )
    parser.add_argument("--workers", type=int, default=2, help="number of decoding processes")
    args = parser.parse_args(list(argv))
    if args.workers < 0:
        parser.error(f"--workers must be 0 or more, got {args.workers}")
    return args


def make(recipe: SetRecipe, out: Path, work: Path, pool: DecodePool) -> Counter[str]:
    """Write a set into ``out``, and return its numbers of clips by split.

    Raises:
        SetError: A package or program is not available; without it the set would be another one.
    """
    missing = [program for program in recipe.programs if not shutil.which(program)]
    if missing:
        raise SetError(f"{recipe.name}: {missing[0]} is not installed; apt-get install {' '.join(recipe.installed)}")
    packages = _packages(recipe)
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{recipe.name}-", dir=work) as scratch:
        files: list[tuple[str, Source]] = []
        sources: list[tuple[str, str, str]] = []
        try:
            for package in packages:
                if package.package in recipe.installed:
                    version = installed_version(package.package)
                else:
                    deb = fetch(package, work / "packages")
                    version = version_of(deb)
                    files += _unpack(recipe, package.package, deb, Path(scratch))
                sources.append((package.package, version, package.licence))
            clips = recipe.build(SetFiles(files, lambda source: _read(pool, source), Path(scratch)))
        except (FetchError, ArchiveError, ProgramError, AudioError) as error:
            raise SetError(f"{recipe.name}: {error}") from error
        if not clips:
            raise SetError(f"{recipe.name}: its packages contain none of its files")
        write_set(out / recipe.name, clips, sources)
    return Counter(clip.split for clip in clips)


def _packages(recipe: SetRecipe) -> list[Package]:
    with (LISTS / "sets" / "packages.tsv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["set"] == recipe.name]
    return [Package(package=row["package"], version=row["version"], licence=row["licence"]) for row in rows]


def _unpack(recipe: SetRecipe, package: str, deb: Path, scratch: Path) -> list[tuple[str, Source]]:
    folder = UnpackFolder(scratch / package, package)
    if not recipe.expands:
        return [(package, source) for source in read_deb(deb, folder, lambda name: recipe.select(package, name))]
    sources = read_deb(deb, folder, is_sound)
    return [
        (package, member)
        for source in sources
        for member in expand(source, folder, lambda name: recipe.select(package, name))
    ]


def _read(pool: DecodePool, source: Source) -> np.ndarray | None:
    ((_, result),) = pool.decode([Segment(str(source.path))])
    return None if isinstance(result, AudioError) else result


if __name__ == "__main__":
    limit_memory()
    raise SystemExit(run(main))
