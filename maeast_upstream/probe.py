"""``maeast probe``: how well a linear classifier reads labels from frozen embeddings.

Protocol: one vector a clip; every dimension standardised on train; multinomial logistic regression
with an L2 penalty fitted on train for each C; the C with the best valid accuracy, in a tie the
smaller; the test accuracy is read once. Of several readouts the one with the best mean valid
accuracy over the sets is taken, and only its test accuracies are given out.
"""

import argparse
import csv
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from maeast_upstream.audio import read_audio
from maeast_upstream.command import (
    Parser,
    add_model_options,
    add_readout_options,
    parse_hop,
    parse_layer,
    parse_seed,
)
from maeast_upstream.embedding import like_lengths, scene_vectors
from maeast_upstream.encoder import Encoder, load_model
from maeast_upstream.files import refuse_no_file, replacing
from maeast_upstream.frontend import SAMPLE_RATE, SSAST_FRONTEND, WINDOW_SAMPLES, Fbank
from maeast_upstream.job import fingerprint
from maeast_upstream.labels import SPLITS, read_splits
from maeast_upstream.readings import READINGS_HELP, Reading, begin_log, log_readings
from maeast_upstream.readout import Mel, Pool, Readout, pool_time

C_GRID = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse strengths of the penalty."""
MAX_DEVIATIONS = 20.0
"""Standardised values are clipped here: a clip far outside the train split's range does no harm."""
READ_SECONDS = 600.0
"""Audio in memory at once (40 MB), to be sorted by length."""
BATCH_SECONDS = 60.0
"""Audio encoded at once, padding included: bounds what is kept, 110 MB for 12 layers of 8 x 768."""


@dataclass(frozen=True)
class LabelledSet:
    """Clips with labels and splits: what a labels.csv says."""

    name: str
    """In tables."""
    paths: list[Path]
    """Of the clips."""
    labels: np.ndarray
    """(clips,) strings."""
    splits: np.ndarray
    """(clips,) of train, valid and test."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Classes, and clips in train, valid and test."""
        train, valid, test = (int((self.splits == split).sum()) for split in SPLITS)
        return len(set(self.labels)), train, valid, test

    def digest(self, splits: Collection[str] = SPLITS) -> str:
        """12 hexadecimal digits of the clips of ``splits``, their labels and splits, wherever they lie."""
        rows = []
        for path, label, split in zip(self.paths, self.labels.tolist(), self.splits.tolist(), strict=True):
            if split in splits:
                with path.open("rb") as file:
                    rows.append([hashlib.file_digest(file, "sha256").hexdigest(), label, split])
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Score:
    """A probe's accuracies, in per cent."""

    valid: float
    test: float
    c: float
    """The chosen inverse strength of the penalty."""


Table = Mapping[str, list[Score]]
"""By readout the scores on each set."""


def main(argv: Sequence[str]) -> int:
    """Score frozen embeddings on labelled clips with logistic regression."""
    args = build_parser().parse_args(argv)
    if args.out is not None:
        refuse_no_file(args.out)
    sets = read_sets(args.labels)
    begin_log(args.readings)
    table: Table
    digest = ""
    if args.features == "logmel":
        refuse_options_of_models(args)
        table = {"mean and deviation": [probe_features(one, logmel_features) for one in sets]}
    else:
        encoder = load_model(args.checkpoint, args.device, args.precision)
        if args.features == "random":
            encoder = randomised(encoder, args.seed)
        digest = fingerprint(encoder)
        own = encoder.config.readout
        readouts = readout_grid(own, args.layer, args.mel, args.pool, args.hop_ms)
        refuse_other_readouts(encoder, readouts)
        scores = probe_sets(sets, encoder, readouts)
        table = {describe(readout): row for readout, row in scores.items()}
    best = best_readout(table)
    if args.readings is not None:
        names = {"model": args.checkpoint or "bundled", "random": "random weights", "logmel": "log-mel"}
        read = {"system": names[args.features], "digest": digest, "readout": best}
        log_readings(args.readings, [Reading(**read, set=one.name, clips=one.shape[-1]) for one in sets])
    if len(table) > 1:
        print(format_readouts(table), end="\n\n")
    print(f"{args.features}: {best}")
    print(format_scores(sets, table[best]))
    if args.out is not None:
        write_scores(args.out, args.features, sets, table)
    return 0


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(
        prog="maeast probe",
        description=f"{main.__doc__} Comma-separated lists for --layer, --mel, --pool and --hop-ms "
        "try all combinations and choose one on valid.",
    )
    parser.add_argument(
        "labels",
        nargs="+",
        type=Path,
        metavar="LABELS.csv",
        help="columns path (relative to the file), label, split (train, valid or test)",
    )
    parser.add_argument(
        "--features",
        choices=("model", "random", "logmel"),
        default="model",
        help="the checkpoint's embeddings (default); those of the same network with random "
        "weights; mean and deviation of the log-mel",
    )
    add_model_options(parser)
    add_readout_options(parser)
    parser.add_argument("--seed", type=parse_seed, default=0, help="of the random weights; default 0")
    parser.add_argument("-o", "--out", type=Path, help="write the scores as CSV, too")
    parser.add_argument("--readings", type=Path, metavar="CSV", help=READINGS_HELP)
    return parser


def refuse_options_of_models(args: argparse.Namespace) -> None:
    """ValueError for an option that the log-mel would not heed."""
    for name in ("checkpoint", "layer", "mel", "pool", "hop_ms"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} says nothing about --features logmel: leave it out")


def read_sets(paths: Sequence[Path]) -> list[LabelledSet]:
    """Several labels.csv.

    Raises:
        ValueError: as in `read_labels`; two of one name, which tables could not tell apart.
    """
    sets = [read_labels(path) for path in paths]
    if twice := [name for name, count in Counter(one.name for one in sets).items() if count > 1]:
        raise ValueError(f"two sets are called {twice[0]!r}; rename a file or its folder")
    return sets


def read_labels(path: Path) -> LabelledSet:
    """Read a labels.csv with columns path, label, split and check that it can be probed.

    Raises:
        ValueError: as in `read_splits`; one class only.
    """
    rows = read_splits(path)
    labels, splits = (np.array(column) for column in zip(*rows.values(), strict=True))
    if len(set(labels)) < 2:
        raise ValueError(f"{path}: only one class, {str(labels[0])!r}; a probe needs two")
    name = path.resolve().parent.name if path.stem == "labels" else path.stem
    return LabelledSet(name, list(rows), labels, splits)


def probe_sets(
    sets: Sequence[LabelledSet], encoder: Encoder, readouts: Sequence[Readout]
) -> dict[Readout, list[Score]]:
    """Probe every set with every readout; the network sees each clip once for each hop.

    ``best_readout`` chooses of the result on valid; the other readouts' test accuracies are there
    but nobody should look at them.
    """
    table: dict[Readout, list[Score]] = {readout: [] for readout in readouts}
    for one in sets:
        features = embeddings(one.paths, encoder, readouts)
        for readout in tqdm(table, desc=f"{one.name}: fit", leave=False, disable=None):
            table[readout].append(probe(features.pop(readout), one.labels, one.splits))
    return table


def valid_accuracies(one: LabelledSet, encoder: Encoder, readouts: Sequence[Readout]) -> dict[Readout, float]:
    """By readout the best valid accuracy over the penalties, in per cent; test clips are not even decoded."""
    kept = one.splits != "test"
    features = embeddings(list(itertools.compress(one.paths, kept)), encoder, readouts)
    return {readout: fit_probe(features[readout], one.labels[kept], one.splits[kept]).valid for readout in readouts}


def probe_features(one: LabelledSet, features: Callable[[Sequence[Path]], np.ndarray]) -> Score:
    """Probe one set with ``features``, which turns the clips' paths into (clips, dimensions)."""
    return probe(features(one.paths), one.labels, one.splits)


def probe(features: np.ndarray, labels: np.ndarray, splits: np.ndarray) -> Score:
    """Fit the probe on one set.

    Args:
        features: (clips, dimensions).
        labels: (clips,) strings.
        splits: (clips,) train, valid or test.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    fitted = fit_probe(features, labels, splits)
    test = splits == "test"
    return Score(fitted.valid, 100 * fitted.model.score(fitted.x[test], labels[test]), fitted.c)


@dataclass(frozen=True)
class FittedProbe:
    """The classifier that valid chose."""

    model: Any
    """scikit-learn's."""
    x: np.ndarray
    """(clips, dimensions) what it reads, standardised."""
    valid: float
    """Accuracy, in per cent."""
    c: float
    """The chosen inverse strength of the penalty."""


def fit_probe(features: np.ndarray, labels: np.ndarray, splits: np.ndarray) -> FittedProbe:
    """All of `probe` but the reading of test, of which there may be no clip.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ValueError("maeast probe needs scikit-learn: pip install 'maeast-upstream[probe]'") from error
    x = standardise(features, splits == "train")
    train, valid = ((x[splits == split], labels[splits == split]) for split in ("train", "valid"))
    best: FittedProbe | None = None
    # thousands of small products, whose threads wait for each other: two took 30 times as long on a busy machine
    with threadpool_limits(1):
        for c in C_GRID:
            model = LogisticRegression(C=c, max_iter=3000, tol=1e-4).fit(*train)
            accuracy = 100 * model.score(*valid)
            if best is None or accuracy > best.valid:
                best = FittedProbe(model, x, accuracy, c)
    assert best is not None
    return best


def standardise(features: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Zero mean, unit deviation on the train rows; no more dimensions than there are train rows.

    With an L2 penalty the solution lies in the span of the train rows: rotated to their principal
    axes nothing changes but the size. The axes come from the rows' products, a small matrix.
    """
    x = features.astype(np.float64)
    x -= x[train].mean(axis=0)
    deviation = x[train].std(axis=0)
    x /= np.where(deviation > 1e-8, deviation, 1.0)
    np.clip(x, -MAX_DEVIATIONS, MAX_DEVIATIONS, out=x)
    if x.shape[1] <= train.sum():
        return x
    products = x @ x[train].T  # (clips, train clips)
    values, vectors = np.linalg.eigh(products[train])
    kept = values > 1e-12 * values[-1]
    rotated: np.ndarray = products @ (vectors[:, kept] / np.sqrt(values[kept]))
    return rotated


def best_readout(table: Mapping[Any, list[Score]]) -> Any:
    """The key of `probe_sets`' table with the best mean valid accuracy; in a tie the first."""
    return max(table, key=lambda readout: mean_valid(table[readout]))


def mean_valid(scores: Sequence[Score]) -> float:
    """Over the sets, in per cent."""
    return float(np.mean([score.valid for score in scores]))


def embeddings(paths: Sequence[Path], encoder: Encoder, readouts: Sequence[Readout]) -> dict[Readout, np.ndarray]:
    """(clips, dimensions) by readout, from one pass for all that share a hop."""
    table: dict[Readout, np.ndarray] = {}
    for rows, clips in read_batches(paths):
        for hop_ms in dict.fromkeys(readout.hop_ms for readout in readouts):
            same = [readout for readout in readouts if readout.hop_ms == hop_ms]
            for readout, vectors in zip(same, scene_vectors(encoder, clips, same), strict=True):
                if readout not in table:
                    table[readout] = np.empty((len(paths), vectors.shape[1]), np.float32)
                table[readout][rows] = vectors.cpu().numpy()
    return table


def logmel_features(paths: Sequence[Path]) -> np.ndarray:
    """(clips, 256): SSAST's log-mel, mean and deviation over time; the plain baseline."""
    fbank = Fbank(SSAST_FRONTEND)
    features = np.empty((len(paths), 2 * SSAST_FRONTEND.num_mel_bins), np.float32)
    for rows, clips in read_batches(paths):
        for row, clip in zip(rows, clips, strict=True):
            missing = max(0, WINDOW_SAMPLES - len(clip))
            logmel = fbank(torch.nn.functional.pad(clip, (0, missing))[None])
            frames = torch.tensor([logmel.shape[1]])
            features[row] = pool_time(logmel, frames, "mean_std")[0].numpy()
    return features


def randomised(encoder: Encoder, seed: int = 0) -> Encoder:
    """The same encoder with the weights that training would begin with."""
    with torch.random.fork_rng(devices=[]):  # torch's initialisers take no generator
        torch.manual_seed(seed)
        fresh = Encoder(encoder.config, encoder.precision)
    return fresh.eval().to(encoder.device)


def read_batches(paths: Sequence[Path]) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Row numbers and waveforms of clips of like length, for at most BATCH_SECONDS."""
    block: list[tuple[int, Tensor]] = []
    seconds = 0.0
    for row, path in enumerate(tqdm(paths, unit="clip", leave=False, disable=None)):
        block.append((row, torch.from_numpy(read_audio(path))))
        seconds += len(block[-1][1]) / SAMPLE_RATE
        if seconds > READ_SECONDS:
            yield from sorted_batches(block)
            block, seconds = [], 0.0
    yield from sorted_batches(block)


def sorted_batches(
    block: list[tuple[int, Tensor]],
) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Cut numbered clips into batches of like length."""
    for batch in like_lengths([len(clip) for _, clip in block], BATCH_SECONDS * SAMPLE_RATE):
        yield [block[i][0] for i in batch], [block[i][1] for i in batch]


def readout_grid(
    default: Readout,
    layer: str | None,
    mel: str | None,
    pool: str | None,
    hop: str | None,
) -> list[Readout]:
    """All combinations of comma-separated choices, each once; ``default``'s own where None is given."""
    layers = [default.layer] if layer is None else [parse_layer(text) for text in layer.split(",")]
    mels = [default.mel] if mel is None else mel.split(",")
    pools = [default.pool] if pool is None else pool.split(",")
    hops = [default.hop_ms] if hop is None else [parse_hop(text) for text in hop.split(",")]
    grid = [
        Readout(layer=one, mel=cast(Mel, two), pool=cast(Pool, three), hop_ms=four)
        for one, two, three, four in itertools.product(layers, mels, pools, hops)
    ]
    return list(dict.fromkeys(grid))


def refuse_other_readouts(encoder: Encoder, readouts: Sequence[Readout]) -> None:
    """ValueError for a layer or hop that the encoder does not have, before any clip is read."""
    for readout in readouts:
        encoder.kept_layers(readout.layers(encoder.num_layers))
        encoder.grid(readout.hop_ms)


def describe(readout: Readout) -> str:
    """A readout in words."""
    hop = "native" if readout.hop_ms is None else f"{readout.hop_ms:g} ms"
    return f"layer {readout.layer}, mel {readout.mel}, pool {readout.pool}, hop {hop}"


def format_readouts(table: Table) -> str:
    """The mean valid accuracy of every readout, the best on top."""
    width = max(map(len, table))
    ranked = sorted(table, key=lambda readout: -mean_valid(table[readout]))
    lines = [f"{readout:{width}}  {mean_valid(table[readout]):10.1f}" for readout in ranked]
    return "\n".join([f"{'readout':{width}}  mean valid", *lines])


def format_scores(sets: Sequence[LabelledSet], scores: Sequence[Score]) -> str:
    """A line for each set, then the means."""
    width = max(len("mean"), *(len(one.name) for one in sets))
    lines = [f"{'set':{width}}  classes  train/valid/test  chance  valid   test"]
    for one, score in zip(sets, scores, strict=True):
        classes, *sizes = one.shape
        lines.append(
            f"{one.name:{width}}  {classes:7}  {'/'.join(map(str, sizes)):>16}"
            f"  {100 / classes:6.1f}  {score.valid:5.1f}  {score.test:5.1f}"
        )
    test = float(np.mean([score.test for score in scores]))
    lines.append(f"{'mean':{width + 35}}  {mean_valid(scores):5.1f}  {test:5.1f}")
    return "\n".join(lines)


def write_scores(path: Path, features: str, sets: Sequence[LabelledSet], table: Table) -> None:
    """Every readout's valid accuracies as CSV, in per cent; test and C of the chosen one only."""
    best = best_readout(table)
    header = "features,readout,set,classes,train,valid,test,chance,valid_accuracy,test_accuracy,C"
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        for readout, scores in table.items():
            for one, score in zip(sets, scores, strict=True):
                chance = f"{100 / one.shape[0]:.2f}"
                chosen = [f"{score.test:.2f}", score.c] if readout == best else ["", ""]
                row = [
                    features,
                    readout,
                    one.name,
                    *one.shape,
                    chance,
                    f"{score.valid:.2f}",
                ]
                writer.writerow([*row, *chosen])
