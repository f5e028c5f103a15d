"""``python -m pretrain.corpora.debian_audio --out DIR``: makes a corpus of the free audio in Debian packages."""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from maeast_upstream.arguments import Parser, UsageError
from maeast_upstream.cli import ExitStatus, run
from maeast_upstream.decoding.pool import DecodePool
from pretrain.corpora.corpus.choose import DuplicateFilter, choose
from pretrain.corpora.corpus.clips import ConvertedPackage, CorpusClip, convert
from pretrain.corpora.corpus.shards import write_corpus
from pretrain.corpora.debian.deb import ArchiveError
from pretrain.corpora.debian.fetch import FetchError, fetch
from pretrain.corpora.debian.memory import limit_memory
from pretrain.corpora.debian.packages import LISTS, Package, choose_packages, read_excluded, read_packages

logger = logging.getLogger(__name__)

PROG = "python -m pretrain.corpora.debian_audio"


def main(argv: Sequence[str]) -> int:
    """Download packages of free audio (4 GB), convert them, write WebDataset shards (37 hours, 0.6 GB).

    Returns:
        The exit status: 0 for all packages, 3 if some failed, which are named.

    Raises:
        ValueError: The command line or the list is wrong, or there are no clips.
    """
    args = _parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    packages = choose_packages(read_packages(args.list), [name for name in args.packages.split(",") if name])
    excluded = read_excluded(LISTS / "exclude.sha256")
    work = args.work or args.out / "work"
    args.out.mkdir(parents=True, exist_ok=True)
    converted: dict[str, ConvertedPackage] = {}
    clips: list[CorpusClip] = []
    failed: list[str] = []
    dropped: Counter[str] = Counter()
    duplicates = DuplicateFilter()
    with DecodePool(args.workers) as pool:
        for number, package in enumerate(packages, start=1):
            try:
                result = convert(package, fetch(package, work / "packages"), work, excluded, pool)
            except (FetchError, ArchiveError) as error:
                failed.append(str(error))
                logger.warning("[%d/%d] left out: %s", number, len(packages), error)
                continue
            converted[package.package] = result
            new = duplicates.without_duplicates(result.clips)
            clips += new
            dropped.update(result.dropped)
            dropped["repeat"] += len(result.clips) - len(new)
            _log_progress(number, len(packages), package, new)
    if not clips:
        raise ValueError(f"no clips; {failed[0] if failed else 'the packages hold no audio except excluded files'}")
    _report(args.out, write_corpus(args.out, choose(clips, args.hours), converted), dropped)
    for failure in failed:
        print(f"error: {failure}", file=sys.stderr)
    return ExitStatus.PARTIAL if failed else ExitStatus.DONE


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog=PROG, description="Make a pretraining corpus of free audio in Debian packages.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards, manifest.tsv and summary.tsv")
    parser.add_argument(
        "--hours", type=float, help="approximate size, in equal shares of the kinds; default: all clips"
    )
    parser.add_argument("--packages", default="", metavar="A,B", help="only these packages of the list")
    parser.add_argument("--list", type=Path, default=LISTS / "debian_audio.tsv", help="another list of packages")
    parser.add_argument("--work", type=Path, help="folder for downloads and converted packages; default: OUT/work")
    parser.add_argument("--workers", type=int, default=2, help="number of decoding processes")
    args = parser.parse_args(list(argv))
    if args.hours is not None and not args.hours > 0:
        raise UsageError(f"--hours must be above 0, got {args.hours:g}")
    if args.workers < 0:
        raise UsageError(f"--workers must be 0 or more, got {args.workers}")
    return args


def _log_progress(number: int, total: int, package: Package, clips: list[CorpusClip]) -> None:
    minutes = sum(clip.seconds for clip in clips) / 60
    logger.info("[%d/%d] %s: %d clips, %.1f minutes", number, total, package.package, len(clips), minutes)


def _report(out: Path, totals: dict[str, tuple[float, int]], dropped: Counter[str]) -> None:
    for what, (hours, count) in totals.items():
        if not what.startswith("package:"):
            print(f"{what.removeprefix('kind:')}: {hours:.2f} h, {count} clips")
    print(
        f"left out: {', '.join(f'{count} {reason}' for reason, count in sorted(dropped.items()) if count) or 'nothing'}"
    )
    print(f"{out}")


if __name__ == "__main__":
    limit_memory()
    raise SystemExit(run(main))
