"""``python -m pretrain.targets RUN --data.corpus CORPUS -o FOLDER`` clusters the tokens of an earlier model."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maeast_upstream.arguments import Parser, UsageError, parse_seed
from maeast_upstream.checks import quote
from maeast_upstream.cli import ExitStatus, run
from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.messages import counted
from maeast_upstream.storage.atomic import refuse_to_overwrite
from pretrain.config import DataConfig
from pretrain.targets.clusters import MAX_CLUSTERS, RECORD_NAME, packed_of


def main(argv: Sequence[str]) -> int:
    """Cluster the tokens of a layer of an earlier model: the targets of losses.cluster."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name, low, high in (("clusters", 2, MAX_CLUSTERS), ("sample", 2, 1 << 31), ("workers", 0, 1024)):
        if not low <= getattr(args, name) <= high:
            raise UsageError(f"--{name} must be {low} to {high}, got {getattr(args, name)}")
    refuse_to_overwrite(args.out, args.force)
    if args.out.exists() and not (args.out / RECORD_NAME).is_file():
        raise ValueError(f"{args.out}: not a folder of targets, and not replaced; give another name")
    from maeast_upstream.encoder import load_model
    from pretrain.data.corpus import open_clips
    from pretrain.targets.clustering import write_clusters

    encoder = load_model(args.run, args.device, args.precision)
    layer = encoder.num_layers // 2 if args.layer is None else args.layer
    if not 1 <= layer <= encoder.num_layers:
        raise ValueError(f"--layer must be 1 to {encoder.num_layers}, got {quote(layer)}")
    data = DataConfig(corpus=args.corpus, packed=args.packed, workers=args.workers, max_bad_share=args.max_bad_share)
    beside = Path(args.run).parent if Path(args.run).is_dir() else args.out.parent
    clips = open_clips(args.corpus, data, encoder.config.model, beside)
    if clips is None:
        raise ValueError(f"--data.corpus {args.corpus}: streamed shards have no numbers; pack them first")
    packed, _ = packed_of(clips)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    counts = write_clusters(
        args.out, encoder, str(args.run), packed, layer, args.clusters, sample=args.sample, seed=args.seed
    )
    print(report(args.out, packed.lengths, layer, counts))
    return ExitStatus.DONE


def report(out: Path, lengths: np.ndarray, layer: int, counts: np.ndarray) -> str:
    """A line for people: how much was clustered, and how evenly."""
    shares = counts[counts > 0] / counts.sum()
    perplexity = np.exp(-(shares * np.log(shares)).sum())
    return (
        f"{out}: {counted(len(lengths), 'clip')}, {lengths.sum() / SAMPLE_RATE / 3600:.2f} h, {counts.sum()} tokens of "
        f"layer {layer}; {len(shares)} of {counted(len(counts), 'cluster')} have tokens, perplexity {perplexity:.1f}"
    )


def build_parser() -> Parser:
    """Build the parser of the command's options."""
    parser = Parser(prog="python -m pretrain.targets", description=main.__doc__)
    parser.add_argument("run", metavar="RUN", help="earlier model: a run's folder, or what else load_model takes")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to create; a recipe names it in clusters")
    parser.add_argument(
        "--data.corpus", dest="corpus", required=True, help="audio to train on, as of python -m pretrain; packed or not"
    )
    parser.add_argument("--data.packed", dest="packed", help="folder for the decoded corpus, as of python -m pretrain")
    parser.add_argument(
        "--data.max_bad_share",
        dest="max_bad_share",
        type=float,
        default=DataConfig.max_bad_share,
        help="stop when more than this share of the files cannot be decoded; default %(default)s",
    )
    parser.add_argument("--layer", type=int, help="layer, counted from 1; default: the middle one")
    parser.add_argument("--clusters", type=int, default=500, metavar="K", help="number of clusters; default 500")
    parser.add_argument(
        "--sample",
        type=int,
        default=200_000,
        metavar="TOKENS",
        help="tokens in which the clusters are found, of each clip about as many; default 200000",
    )
    parser.add_argument("--seed", type=parse_seed, default=0, help="seed of the sample and of k-means; default 0")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; default: the CPU")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="default fp32")
    parser.add_argument("--workers", type=int, default=1, help="processes that decode the corpus; default 1")
    parser.add_argument("--force", action="store_true", help="replace the folder if it exists")
    return parser


if __name__ == "__main__":
    raise SystemExit(run(main))
