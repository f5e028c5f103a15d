"""``maeast hoplite``: converts tables of embeddings to and from databases of Perch-Hoplite."""

from collections.abc import Sequence
from pathlib import Path

from maeast_upstream.arguments import Parser
from maeast_upstream.cli import ExitStatus
from maeast_upstream.messages import counted


def main(argv: Sequence[str]) -> int:
    """Convert a table of embeddings to a Perch-Hoplite database, or a database to a table.

    BirdNET-Analyzer, OpenSoundscape and Perch's notebooks read and write such a database: a folder with hoplite.sqlite
    and usearch.index. Vectors are float16 in it.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    from maeast_upstream.integrations import hoplite
    from maeast_upstream.storage.atomic import refuse_to_overwrite, refuse_to_replace_inputs, refuse_unwritable

    source, inputs = Path(args.source), [Path(args.source), *([args.labels] if args.labels else [])]
    refuse_to_overwrite(args.out, args.force)
    if hoplite.is_database(source):
        exports = {"--layer": args.layer, "--audio": args.audio, "--normalize": args.normalize}
        if given := [name for name, value in exports.items() if value]:
            raise ValueError(f"{given[0]} goes with a table of embeddings; {source} is a database")
        refuse_unwritable(args.out)
        if args.labels is not None:
            refuse_to_overwrite(args.labels, args.force)
            refuse_unwritable(args.labels)
        done = hoplite.import_hoplite(source, args.out, args.labels, args.dataset)
        if args.labels is not None:
            print(f"wrote {args.labels}: {counted(done.labels, 'label')}" if done.labels else "no labels to write")
    else:
        from maeast_upstream.data.embeddings import EmbeddingTable
        from maeast_upstream.data.labelled_segments import read_labelled_segments

        table = EmbeddingTable(source, args.layer)
        if args.out.is_file() or (args.out.is_dir() and any(args.out.iterdir()) and not hoplite.is_database(args.out)):
            raise ValueError(f"{args.out}: not a database of Perch-Hoplite, so it is not replaced; give another -o")
        refuse_to_replace_inputs([args.out], inputs)
        labels = read_labelled_segments(args.labels) if args.labels else []
        options = {"dataset": args.dataset or "maeast", "audio": args.audio, "normalize": args.normalize}
        done = hoplite.export_hoplite(table, args.out, labels, **options)
        if args.labels is not None:
            print(f"{counted(done.labels, 'label')} of {args.labels}")
    for what, number in done.left_out.items():
        print(f"left out: {number} x {what}")
    print(f"wrote {args.out}: {counted(done.rows, 'window')}")
    return ExitStatus.DONE


def build_parser() -> Parser:
    """Build the parser of the command's options."""
    parser = Parser(prog="maeast hoplite", description=main.__doc__)
    parser.add_argument("source", help="table that maeast embed wrote, or a folder with hoplite.sqlite")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the database, or FILE.parquet")
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="labels to put into the database; or CSV for those that it has"
    )
    parser.add_argument(
        "--dataset", metavar="NAME", help="name of the collection in the database (default: maeast); or the one to read"
    )
    parser.add_argument(
        "--audio", type=Path, metavar="FOLDER", help="where relative paths of the table start (default: here)"
    )
    parser.add_argument(
        "--normalize", action="store_true", help="vectors of length 1, so that the database searches by cosine"
    )
    parser.add_argument("--layer", help="which layer of a table with several; default: its last")
    parser.add_argument("--force", action="store_true", help="replace the output if it exists")
    return parser
