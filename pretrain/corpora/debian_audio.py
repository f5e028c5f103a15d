"""``python -m pretrain.corpora.debian_audio --out DIR``: free audio of Debian packages as a corpus to pretrain on."""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from maeast_upstream.arguments import Parser, UsageError
from maeast_upstream.cli import run
from maeast_upstream.decoding.pool import DecodePool
from pretrain.corpora.corpus.choose import Seen, choose
from pretrain.corpora.corpus.clips import Clip, Finished, convert
from pretrain.corpora.corpus.shards import write_corpus
from pretrain.corpora.debian.deb import ArchiveError
from pretrain.corpora.debian.fetch import FetchError, fetch
from pretrain.corpora.debian.memory import limit_memory
from pretrain.corpora.debian.packages import HERE, Package, choose_packages, read_excluded, read_packages

logger = logging.getLogger(__name__)

PROG = "python -m pretrain.corpora.debian_audio"


def main(argv: Sequence[str]) -> int:
    """Download packages of free audio (4 GB), convert them, write WebDataset shards (37 hours, 0.6 GB).

    Returns:
        0 all packages, 1 none or wrong usage, 3 some packages failed; they are named.

    Raises:
        ValueError: a wrong command line or list.
    """
    args = _parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    packages = choose_packages(read_packages(args.list), [name for name in args.packages.split(",") if name])
    excluded = read_excluded(HERE / "exclude.sha256")
    work = args.work or args.out / "work"
    args.out.mkdir(parents=True, exist_ok=True)
    finished: dict[str, Finished] = {}
    clips: list[Clip] = []
    failed: list[str] = []
    dropped: Counter[str] = Counter()
    seen = Seen()
    with DecodePool(args.workers) as pool:
        for number, package in enumerate(packages, start=1):
            try:
                done = convert(package, fetch(package, work / "packages"), work, excluded, pool)
            except (FetchError, ArchiveError) as error:
                failed.append(str(error))
                logger.warning("[%d/%d] left out: %s", number, len(packages), error)
                continue
            finished[package.package] = done
            new = seen.new(done.clips)
            clips += new
            dropped.update(done.dropped)
            dropped["repeat"] += len(done.clips) - len(new)
            _tell(number, len(packages), package, new)
    if not clips:
        raise ValueError(f"no clips; {failed[0] if failed else 'the packages hold no audio that is not excluded'}")
    _report(args.out, write_corpus(args.out, choose(clips, args.hours), finished), dropped)
    for failure in failed:
        print(f"error: {failure}", file=sys.stderr)
    return 3 if failed else 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog=PROG, description="Free audio of Debian packages as a corpus to pretrain on.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards, manifest.tsv and summary.tsv")
    parser.add_argument("--hours", type=float, help="about so many, in equal shares of the kinds; default: all")
    parser.add_argument("--packages", default="", metavar="A,B", help="only these of the list")
    parser.add_argument("--list", type=Path, default=HERE / "debian_audio.tsv", help="another list of packages")
    parser.add_argument("--work", type=Path, help="downloads and finished packages; default: OUT/work")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode")
    args = parser.parse_args(list(argv))
    if args.hours is not None and not args.hours > 0:
        raise UsageError(f"--hours must be above 0, got {args.hours:g}")
    if args.workers < 0:
        raise UsageError(f"--workers must be 0 or more, got {args.workers}")
    return args


def _tell(number: int, of: int, package: Package, clips: list[Clip]) -> None:
    minutes = sum(clip.seconds for clip in clips) / 60
    logger.info("[%d/%d] %s: %d clips, %.1f minutes", number, of, package.package, len(clips), minutes)


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
