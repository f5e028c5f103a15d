"""``python -m pretrain.corpora.synthesized --out DIR``: makes a corpus of synthesized speech and notes."""

import argparse
import logging
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from maeast_upstream.arguments import Parser, UsageError
from maeast_upstream.cli import ExitStatus, run
from pretrain.corpora.corpus.choose import choose
from pretrain.corpora.corpus.clips import ConvertedPackage
from pretrain.corpora.corpus.shards import write_corpus
from pretrain.corpora.debian.deb import ArchiveError
from pretrain.corpora.debian.fetch import FetchError, fetch, version_of
from pretrain.corpora.debian.memory import limit_memory
from pretrain.corpora.debian.packages import LISTS, Package, choose_packages, read_packages
from pretrain.corpora.debian.programs import ProgramError, installed_version
from pretrain.corpora.synthesizers.notes import play
from pretrain.corpora.synthesizers.speech import LANGUAGES_OF_SETS, number_of_words, speak
from pretrain.corpora.synthesizers.store import store
from pretrain.corpora.synthesizers.words import read_words

logger = logging.getLogger(__name__)

PROG = "python -m pretrain.corpora.synthesized"
PROGRAMS = {"speech": "espeak-ng", "instrument": "csound"}
"""The program of each kind, which is also the name of its Debian package."""
NOTES_SHARE = 0.15
DEFAULT_HOURS = 8.0


def main(argv: Sequence[str]) -> int:
    """Speak words of six languages by many voices, play notes, and write WebDataset shards as ``debian_audio`` does.

    Returns:
        The exit status: 0 for all packages of the list, 3 if programs or packages are missing, which are named.

    Raises:
        ValueError: The command line or the list is wrong, or nothing could be made.
    """
    args = _parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    packages = choose_packages(read_packages(args.list), [name for name in args.packages.split(",") if name])
    _check(packages)
    seconds = seconds_of(packages, 3600 * args.hours)
    work = args.work or args.out / "work"
    args.out.mkdir(parents=True, exist_ok=True)
    missing = [program for program in PROGRAMS.values() if not shutil.which(program)]
    failed = [f"{program}: not installed, its sounds are left out; apt-get install {program}" for program in missing]
    converted: dict[str, ConvertedPackage] = {}
    for number, package in enumerate(packages, start=1):
        if PROGRAMS[package.kind] in missing:
            continue
        try:
            result = make(package, seconds[package.package], args.seed, work)
        except (FetchError, ArchiveError, ProgramError) as error:
            failed.append(str(error))
            logger.warning("[%d/%d] left out: %s", number, len(packages), error)
            continue
        converted[package.package] = result
        minutes = sum(clip.seconds for clip in result.clips) / 60
        logger.info(
            "[%d/%d] %s: %d clips, %.1f minutes", number, len(packages), package.package, len(result.clips), minutes
        )
    clips = [clip for result in converted.values() for clip in result.clips]
    if not clips:
        raise ValueError(f"no sounds; {failed[0] if failed else 'the synthesizers made none'}")
    _report(args.out, write_corpus(args.out, choose(clips, None), converted), converted)
    for failure in failed:
        print(f"error: {failure}", file=sys.stderr)
    return ExitStatus.PARTIAL if failed else ExitStatus.DONE


def seconds_of(packages: Sequence[Package], seconds: float) -> dict[str, float]:
    """How long the sounds of each package are: 15 % are notes, and the languages have equal shares of the rest."""
    kinds = Counter(package.kind for package in packages)
    shares = {"speech": 1 - NOTES_SHARE, "instrument": NOTES_SHARE} if len(kinds) == 2 else dict.fromkeys(kinds, 1.0)
    return {package.package: seconds * shares[package.kind] / kinds[package.kind] for package in packages}


def make(package: Package, seconds: float, seed: int, work: Path) -> ConvertedPackage:
    """Make the sounds of one package, or read those that an earlier run kept.

    Raises:
        FetchError: The package of words cannot be downloaded.
        ArchiveError: It has no words.
        ProgramError: The synthesizer failed.
    """
    version = f"{PROGRAMS[package.kind]} {installed_version(PROGRAMS[package.kind]) or 'of unknown version'}"
    state: list[object] = [seconds, seed]
    if package.kind == "instrument":
        return store(package, version, state, lambda folder: play(seconds, seed, folder), work)
    deb = fetch(package, work / "packages")
    words = read_words(deb, work, number_of_words(seconds), seed)
    return store(
        package,
        f"{version_of(deb)}, {version}",
        [*state, words],
        lambda folder: speak(package.language, words, seconds, seed, folder),
        work,
    )


def _check(packages: Sequence[Package]) -> None:
    for package in packages:
        if package.kind not in PROGRAMS:
            raise ValueError(f"{package.package}: kind {package.kind!r}; expected {' or '.join(PROGRAMS)}")
        if package.kind == "speech" and not (package.language.isalpha() and package.language.isascii()):
            raise ValueError(f"{package.package}: language {package.language!r}; expected one, such as pl")
        if package.language in LANGUAGES_OF_SETS:
            raise ValueError(f"{package.package}: a labelled set has the language {package.language}; choose another")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog=PROG, description="Make a pretraining corpus of speech and notes by installed synthesizers.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards, manifest.tsv and summary.tsv")
    parser.add_argument(
        "--hours", type=float, default=DEFAULT_HOURS, help=f"approximate size (default: {DEFAULT_HOURS:g})"
    )
    parser.add_argument("--packages", default="", metavar="A,B", help="only these packages of the list")
    parser.add_argument("--list", type=Path, default=LISTS / "synthesized.tsv", help="another list of packages")
    parser.add_argument("--work", type=Path, help="folder for downloads and finished packages; default: OUT/work")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other words, voices and notes")
    args = parser.parse_args(list(argv))
    if not 0 < args.hours < float("inf"):
        raise UsageError(f"--hours must be above 0, got {args.hours:g}")
    return args


def _report(out: Path, totals: dict[str, tuple[float, int]], converted: dict[str, ConvertedPackage]) -> None:
    for what, (hours, count) in totals.items():
        print(f"{what.removeprefix('kind:').removeprefix('package:')}: {hours:.2f} h, {count} clips")
    dropped: Counter[str] = Counter()
    for result in converted.values():
        dropped.update(result.dropped)
    print(f"left out: {', '.join(f'{count} {reason}' for reason, count in sorted(dropped.items())) or 'nothing'}")
    print(out)


if __name__ == "__main__":
    limit_memory()
    raise SystemExit(run(main))
