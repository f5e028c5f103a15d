"""``maeast superb-data``: lays out labelled recordings as the data of a SUPERB task."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from maeast_upstream.arguments import Parser, add_column_options, columns_from
from maeast_upstream.cli import ExitStatus
from maeast_upstream.data.labels import SPLITS
from maeast_upstream.messages import counted


def main(argv: Sequence[str]) -> int:
    """Lay out labelled clips for s3prl's keyword (ks), speaker (sid) or emotion (er) head, with a config."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.steps < 1:
        raise ValueError(f"--steps must be at least 1, got {args.steps}")
    if args.noise and args.task != "ks":
        raise ValueError(f"--noise is for ks only: {args.task} has no class for silence")
    from maeast_upstream.integrations.s3prl.prepare_data import (
        CONFIG_NAME,
        ERRORS_NAME,
        LAYOUTS,
        check_out,
        launch_line,
        read_noises,
        read_sources,
        write_clips,
        write_config,
        write_errors,
    )
    from maeast_upstream.storage.atomic import replacing_folder

    out: Path = args.out.resolve()
    check_out(out, args.force)
    with replacing_folder(out) as folder:
        sources = read_sources(args.labels, args.task, columns_from(args))
        noises = read_noises(args.noise, args.labels) if args.task == "ks" else {}
        paths, failed = write_clips(sources, folder, args.task)
        fields = LAYOUTS[args.task](paths, folder, out, noises)
        write_config(folder / CONFIG_NAME, args, fields, paths)
        write_errors(folder / ERRORS_NAME, failed)
    counts = Counter(clip.split for clip in paths)
    classes = len({clip.label for clip in paths})
    print(
        f"wrote {out}: {', '.join(f'{counts[split]} {split}' for split in SPLITS)} clips of {counted(classes, 'label')}"
    )
    if failed:
        print(f"{counted(len(failed), 'clip')} left out, listed in {out / ERRORS_NAME}")
    print(launch_line(args.task, out))
    return ExitStatus.PARTIAL if failed else ExitStatus.DONE


def build_parser() -> Parser:
    """The parser of the command line."""
    parser = Parser(
        prog="maeast superb-data",
        description=f"{main.__doc__} Clips become 16 kHz mono WAV files, and each stays in its split. "
        "ks knows ten words (yes no up down left right on off stop go), everything else is _unknown_, and its class "
        "_silence_ needs --noise; sid (up to 1251 classes) and er (any number) take any labels.",
    )
    parser.add_argument("task", choices=("er", "ks", "sid"))
    parser.add_argument(
        "labels", type=Path, metavar="LABELS.csv", help="columns path (relative to the file), label, split"
    )
    add_column_options(parser, "path", "label", "split")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder to create")
    parser.add_argument(
        "--noise",
        nargs="+",
        metavar="PATH",
        help="ks: recordings without words, each of 2 s or more, or folders of them; "
        "'made' generates a minute each of white and pink noise",
    )
    parser.add_argument("--steps", type=int, default=2000, help="training steps in the config; default 2000")
    parser.add_argument("--force", action="store_true", help="replace DIR if superb-data made it")
    return parser
