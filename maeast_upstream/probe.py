"""How good frozen embeddings are: logistic regression on labelled clips, one table for any number of sets.

The protocol: every dimension is standardised on the train split; multinomial logistic regression with an L2
penalty is fitted on train for each C; the C with the best valid accuracy is taken, the smaller one in a tie; the
test accuracy is read once. Where several readouts are tried, the one with the best mean valid accuracy is taken
in the same way.
"""

import csv
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from maeast_upstream.audio import read_audio
from maeast_upstream.command import (
    Parser,
    add_model_options,
    add_readout_options,
    parse_hop,
    parse_layer,
)
from maeast_upstream.encoder import Encoder, Precision, load_model
from maeast_upstream.files import replacing
from maeast_upstream.frontend import SAMPLE_RATE, SSAST_FRONTEND, WINDOW_SAMPLES, Fbank
from maeast_upstream.labels import read_labels
from maeast_upstream.readout import Mel, Pool, Readout, combine_layers, fold_mel, pool_time

SPLITS = ("train", "valid", "test")
C_GRID = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse strengths of the L2 penalty that are tried."""
MAX_DEVIATIONS = 20.0
"""Standardised values are clipped here, so that a clip far outside the train split's range does no harm."""
READ_SECONDS = 600.0
"""Audio that is in memory at once (40 MB), to be sorted by length."""
BATCH_SECONDS = 60.0
"""Padded audio that is encoded at once: bounds what all layers' outputs take (110 MB for 12 layers of 768)."""

Array = NDArray[np.float64]
Features = Callable[[Sequence[Path]], dict[str, NDArray[np.float32]]]
"""Paths of clips -> by readout the (clips, E) embeddings."""


@dataclass(frozen=True)
class LabelledSet:
    """Clips with labels and splits: the content of a labels.csv."""

    name: str
    """For tables."""
    paths: list[Path]
    """Of the clips."""
    labels: NDArray[np.str_]
    """(clips,)"""
    splits: NDArray[np.str_]
    """(clips,) of train, valid and test."""

    @property
    def classes(self) -> int:
        """How many different labels there are."""
        return len(set(self.labels))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Clips in train, valid and test."""
        return tuple(int((self.splits == split).sum()) for split in SPLITS)


@dataclass(frozen=True)
class Score:
    """What the probe says of one set, as shares of 1."""

    valid: float
    """Accuracy on valid, by which C was chosen."""
    test: float
    """Accuracy on test."""
    C: float
    """The chosen inverse strength of the penalty."""


@dataclass(frozen=True)
class ProbeResult:
    """Scores of several readouts on several sets; test accuracies of the chosen readout only."""

    sets: list[LabelledSet]
    """What was probed."""
    valid: dict[str, list[float]]
    """By readout, the valid accuracy on each set."""
    readout: str
    """The readout with the best mean valid accuracy; the first one in a tie."""
    scores: list[Score]
    """The chosen readout's, one for each set."""

    @property
    def mean_test(self) -> float:
        """Mean test accuracy over the sets."""
        return float(np.mean([score.test for score in self.scores]))


def read_set(path: Path) -> LabelledSet:
    """Read a labels.csv with columns path,label,split and check that it can be probed.

    Raises:
        ValueError: as in `read_labels`; an unknown split, an empty one, a clip that is missing, one class only, a
            class that is absent from train.
    """
    rows = read_labels(path, ["label", "split"])
    for clip, (_, split) in rows.items():
        if split not in SPLITS:
            raise ValueError(
                f"{path}: unknown split {split!r} of {clip.name}; expected {', '.join(SPLITS)}"
            )
        if not clip.is_file():
            raise ValueError(f"{path}: clip {clip} is missing; paths are relative to {path.parent}")
    name = path.resolve().parent.name if path.stem == "labels" else path.stem
    labels, splits = (np.array(column) for column in zip(*rows.values(), strict=True))
    labelled = LabelledSet(name, list(rows), labels, splits)
    for split, size in zip(SPLITS, labelled.sizes, strict=True):
        if size == 0:
            raise ValueError(
                f"{path}: no clip in split {split}; the probe needs all of {', '.join(SPLITS)}"
            )
    if absent := sorted(set(labels) - set(labels[splits == "train"])):
        raise ValueError(f"{path}: no train clip of class {absent[0]!r}; every class needs one")
    if labelled.classes < 2:
        raise ValueError(f"{path}: only one class, {labels[0]!r}; the probe needs two")
    return labelled


def probe(embeddings: NDArray[Any], labels: NDArray[np.str_], splits: NDArray[np.str_]) -> Score:
    """The protocol on one set's (clips, E) embeddings, (clips,) labels and (clips,) splits.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ValueError(
            "the probe needs scikit-learn: pip install 'maeast-upstream[probe]'"
        ) from error

    x = standardise(embeddings, splits == "train")
    train, valid, test = ((x[splits == split], labels[splits == split]) for split in SPLITS)
    best: tuple[float, float, Any] | None = None
    for C in C_GRID:
        model = LogisticRegression(C=C, max_iter=3000, tol=1e-4).fit(*train)
        accuracy = model.score(*valid)
        if best is None or accuracy > best[0]:
            best = (accuracy, C, model)
    assert best is not None
    return Score(valid=best[0], test=best[2].score(*test), C=best[1])


def standardise(embeddings: NDArray[Any], train: NDArray[np.bool_]) -> Array:
    """Zero mean, unit deviation on the train rows; at most as many dimensions as there are train rows.

    With an L2 penalty the solution lies in the span of the train rows, so that their principal axes lose nothing.
    They come from the train rows' Gram matrix, many times smaller than the embeddings' covariance.
    """
    x = embeddings.astype(np.float64)
    x -= x[train].mean(axis=0)
    deviation = x[train].std(axis=0)
    x /= np.where(deviation > 1e-8, deviation, 1.0)
    np.clip(x, -MAX_DEVIATIONS, MAX_DEVIATIONS, out=x)
    if x.shape[1] <= train.sum():
        return x
    products = x @ x[train].T  # (clips, train clips)
    values, vectors = np.linalg.eigh(products[train])
    significant = values > values[-1] * 1e-12
    return cast(Array, products @ (vectors[:, significant] / np.sqrt(values[significant])))


def probe_sets(sets: Sequence[LabelledSet], features: Features) -> ProbeResult:
    """Probe every readout that ``features`` gives on every set, and choose one by the mean valid accuracy.

    Example: ``probe_sets([read_set(path) for path in paths], encoder_features(encoder, readouts))``.
    """
    scores: dict[str, list[Score]] = {}
    for labelled in sets:
        embeddings = features(labelled.paths)
        for readout in tqdm(
            list(embeddings), desc=f"{labelled.name}: fit", leave=False, disable=None
        ):
            score = probe(embeddings.pop(readout), labelled.labels, labelled.splits)
            scores.setdefault(readout, []).append(score)
    valid = {readout: [score.valid for score in row] for readout, row in scores.items()}
    best = max(valid, key=lambda readout: float(np.mean(valid[readout])))
    return ProbeResult(list(sets), valid, best, scores[best])


def encoder_features(encoder: Encoder, readouts: Sequence[Readout]) -> Features:
    """Embeddings by several readouts; one forward pass for all that share a hop."""
    by_hop: dict[float | None, list[Readout]] = {}
    for readout in readouts:
        by_hop.setdefault(readout.hop_ms, []).append(readout)

    def features(paths: Sequence[Path]) -> dict[str, NDArray[np.float32]]:
        table = {describe(readout): np.empty((0, 0), np.float32) for readout in readouts}
        for rows, clips in read_batches(paths):
            for hop_ms, group in by_hop.items():
                for readout, vectors in zip(
                    group, embed_by(encoder, clips, group, hop_ms), strict=True
                ):
                    name = describe(readout)
                    if not table[name].size:
                        table[name] = np.empty((len(paths), vectors.shape[1]), np.float32)
                    table[name][rows] = vectors.cpu().numpy()
        return table

    return features


def embed_by(
    encoder: Encoder, clips: list[Tensor], readouts: Sequence[Readout], hop_ms: float | None
) -> Iterator[Tensor]:
    """The (B, E) embeddings of a batch of clips, readout by readout, from one forward pass."""
    layers = sorted({layer for readout in readouts for layer in readout.layers(encoder.num_layers)})
    encoded = encoder.encode(clips, layers=layers, hop_ms=hop_ms)
    mel_patches = encoder.config.model.mel_patches
    states = dict(zip(layers, encoded.hidden_states, strict=True))
    for readout in readouts:
        kept = [states[layer] for layer in readout.layers(encoder.num_layers)]
        if readout.mel == "mean":
            tokens = (state.unflatten(2, (mel_patches, -1)).flatten(1, 2) for state in kept)
            kept = [fold_mel(token, mel_patches, "mean") for token in tokens]
        yield pool_time(combine_layers(kept, readout.layer), encoded.lengths, readout.pool)


def logmel_features(paths: Sequence[Path]) -> dict[str, NDArray[np.float32]]:
    """The baseline without a network: mean and deviation over time of SSAST's log-mel spectrogram, 256 numbers."""
    fbank = Fbank(SSAST_FRONTEND)
    table = np.empty((len(paths), 2 * SSAST_FRONTEND.num_mel_bins), np.float32)
    for rows, clips in read_batches(paths):
        for row, clip in zip(rows, clips, strict=True):
            missing = max(0, WINDOW_SAMPLES - len(clip))
            logmel = fbank(torch.nn.functional.pad(clip, (0, missing))[None])
            table[row] = pool_time(logmel, torch.tensor([logmel.shape[1]]), "mean_std")[0].numpy()
    return {"logmel mean and deviation": table}


def random_encoder(like: Encoder, seed: int) -> Encoder:
    """The same network and normalisation with untrained weights."""
    with torch.random.fork_rng(devices=[]):  # torch's initialisers take no generator
        torch.manual_seed(seed)
        encoder = Encoder(like.config, like.precision)
    return encoder.eval().to(like.device)


def read_batches(paths: Sequence[Path]) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Row numbers and waveforms of clips of like length, at most BATCH_SECONDS with their padding."""
    block: list[tuple[int, Tensor]] = []
    seconds = 0.0
    for row, path in enumerate(tqdm(paths, desc="embed", unit="clip", leave=False, disable=None)):
        clip = torch.from_numpy(read_audio(path))
        block.append((row, clip))
        seconds += len(clip) / SAMPLE_RATE
        if seconds > READ_SECONDS:
            yield from sorted_batches(block)
            block, seconds = [], 0.0
    yield from sorted_batches(block)


def sorted_batches(block: list[tuple[int, Tensor]]) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Cut numbered clips into batches, longest first; a clip over BATCH_SECONDS goes by itself."""
    block = sorted(block, key=lambda numbered: -len(numbered[1]))
    while block:
        size = max(1, int(BATCH_SECONDS * SAMPLE_RATE / len(block[0][1])))
        rows, clips = zip(*block[:size], strict=True)
        yield list(rows), list(clips)
        block = block[size:]


def describe(readout: Readout) -> str:
    """One readout in a table: ``layer 7, mel concat, pool mean, hop native``."""
    hop = "native" if readout.hop_ms is None else f"{readout.hop_ms:g} ms"
    return f"layer {readout.layer}, mel {readout.mel}, pool {readout.pool}, hop {hop}"


def readout_grid(
    default: Readout, layer: str | None, mel: str | None, pool: str | None, hop_ms: str | None
) -> list[Readout]:
    """All combinations of comma-separated choices; what is None is as in ``default``."""
    layers = [default.layer] if layer is None else [parse_layer(x) for x in layer.split(",")]
    mels = [default.mel] if mel is None else mel.split(",")
    pools = [default.pool] if pool is None else pool.split(",")
    hops = [default.hop_ms] if hop_ms is None else [parse_hop(x) for x in hop_ms.split(",")]
    return [
        Readout(layer=a, mel=cast(Mel, b), pool=cast(Pool, c), hop_ms=d)
        for a, b, c, d in itertools.product(layers, mels, pools, hops)
    ]


def format_readouts(result: ProbeResult) -> str:
    """The mean valid accuracy of every readout, the best on top."""
    means = {readout: float(np.mean(row)) for readout, row in result.valid.items()}
    ranked = sorted(means, key=lambda readout: -means[readout])
    width = max(map(len, ranked))
    lines = [f"{'readout':{width}}  mean valid"]
    return "\n".join(
        lines + [f"{readout:{width}}  {100 * means[readout]:10.1f}" for readout in ranked]
    )


def format_scores(result: ProbeResult) -> str:
    """The chosen readout's accuracies in per cent: a line for each set, then their mean."""
    width = max(len("mean"), *(len(labelled.name) for labelled in result.sets))
    lines = [f"{'set':{width}}  classes  train/valid/test  chance  valid   test"]
    for labelled, score in zip(result.sets, result.scores, strict=True):
        sizes = "/".join(map(str, labelled.sizes))
        lines.append(
            f"{labelled.name:{width}}  {labelled.classes:7}  {sizes:>16}  {100 / labelled.classes:6.1f}"
            f"  {100 * score.valid:5.1f}  {100 * score.test:5.1f}"
        )
    valid = 100 * float(np.mean([score.valid for score in result.scores]))
    lines.append(
        f"{'mean':{width}}  {'':7}  {'':16}  {'':6}  {valid:5.1f}  {100 * result.mean_test:5.1f}"
    )
    return "\n".join(lines)


def write_scores(result: ProbeResult, features: str, path: Path) -> None:
    """Every readout's valid accuracies as CSV, in per cent; test accuracies and C of the chosen one only."""
    header = "features,readout,set,classes,train,valid,test,chance,valid_accuracy,test_accuracy,C"
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        for readout, row in result.valid.items():
            for labelled, valid, score in zip(result.sets, row, result.scores, strict=True):
                chosen = (
                    [f"{100 * score.test:.2f}", score.C] if readout == result.readout else ["", ""]
                )
                shape = [labelled.classes, *labelled.sizes, f"{100 / labelled.classes:.2f}"]
                writer.writerow(
                    [features, readout, labelled.name, *shape, f"{100 * valid:.2f}", *chosen]
                )


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(
        prog="maeast probe",
        description="Logistic regression on frozen embeddings: fitted on train, chosen on valid, read on test. "
        "Comma-separated lists for --layer, --mel, --pool and --hop-ms try all combinations and choose on valid.",
    )
    parser.add_argument(
        "labels", nargs="+", type=Path, help="CSV files with columns path,label,split"
    )
    add_model_options(parser)
    add_readout_options(parser)
    parser.add_argument(
        "--features",
        default="model",
        choices=["model", "logmel", "random"],
        help="the checkpoint's embeddings (default), log-mel statistics, or the same network with random weights",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random weights; default 0")
    parser.add_argument("-o", "--output", type=Path, help="also write the scores to this CSV")
    return parser


def main(argv: Sequence[str]) -> int:
    """Score frozen embeddings on labelled clips with logistic regression."""
    args = build_parser().parse_args(argv)
    sets = [read_set(path) for path in args.labels]
    if twice := [name for name, count in Counter(s.name for s in sets).items() if count > 1]:
        raise ValueError(
            f"two sets are called {twice[0]!r}; name the files or their folders differently"
        )
    if args.features == "logmel":
        result = probe_sets(sets, logmel_features)
    else:
        encoder = load_model(args.checkpoint, args.device, cast(Precision, args.precision))
        if args.features == "random":
            encoder = random_encoder(encoder, args.seed)
        default = encoder.config.readout
        readouts = readout_grid(default, args.layer, args.mel, args.pool, args.hop_ms)
        result = probe_sets(sets, encoder_features(encoder, readouts))
    if len(result.valid) > 1:
        print(format_readouts(result), end="\n\n")
    print(f"{args.features}: {result.readout}")
    print(format_scores(result))
    if args.output:
        write_scores(result, args.features, args.output)
    return 0
