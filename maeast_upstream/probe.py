"""``maeast probe``: how well a linear classifier reads labels from frozen embeddings.

Protocol: one vector a clip; every dimension standardised on train; multinomial logistic regression fitted on train
for each C; the C with the best valid accuracy, in a tie the smaller; the test accuracy is read once.
"""

import csv
import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from maeast_upstream.audio import read_audio
from maeast_upstream.command import (
    Parser,
    add_model_options,
    add_readout_options,
    parse_hop,
    parse_layer,
)
from maeast_upstream.encoder import Encoder, load_model
from maeast_upstream.files import replacing
from maeast_upstream.frontend import WINDOW_SAMPLES, Fbank, FrontendConfig
from maeast_upstream.readout import Readout, combine_layers, pool_time

C_GRID = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
SPLITS = ("train", "valid", "test")
BATCH_CLIPS = 64


@dataclass(frozen=True)
class LabelledSet:
    """Clips with labels and splits."""

    name: str
    clips: list[torch.Tensor]
    labels: np.ndarray
    splits: np.ndarray


@dataclass(frozen=True)
class Score:
    """A probe's accuracies, in per cent."""

    valid: float
    test: float
    c: float


def main(argv: Sequence[str]) -> int:
    """Fit linear probes on labels.csv files (path, label, split) and print a table of accuracies."""
    parser = Parser(prog="maeast probe", description=main.__doc__)
    parser.add_argument(
        "labels",
        nargs="+",
        type=Path,
        help="labels.csv with columns path (relative to it), label, split",
    )
    parser.add_argument(
        "--features",
        choices=("model", "random", "logmel"),
        default="model",
        help="the checkpoint; the same network with random weights; mean and deviation of the log-mel",
    )
    add_model_options(parser)
    add_readout_options(parser)
    parser.add_argument("-o", "--out", type=Path, help="write the table as CSV, too")
    args = parser.parse_args(argv)
    sets = [read_labels(path) for path in args.labels]
    if args.features == "logmel":
        scores = [probe(logmel_features(one.clips), one.labels, one.splits) for one in sets]
        return _print_table(sets, scores, args.out)
    encoder = load_model(args.checkpoint, args.device, args.precision)
    if args.features == "random":
        encoder = randomised(encoder)
    readouts = readout_grid(encoder.config.readout, args.layer, args.mel, args.pool, args.hop_ms)
    table = probe_sets(sets, encoder, readouts)
    best = max(readouts, key=lambda readout: np.mean([score.valid for score in table[readout]]))
    if len(readouts) > 1:
        for readout in readouts:
            print(
                f"valid {np.mean([score.valid for score in table[readout]]):5.1f}  {describe(readout)}"
            )
    print(f"readout: {describe(best)}")
    return _print_table(sets, table[best], args.out)


def read_labels(path: Path) -> LabelledSet:
    """Read a labels.csv and its clips.

    Raises:
        ValueError: a missing file or column, an unknown split, a label that train does not have.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a CSV with columns path, label, split")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for column in ("path", "label", "split"):
        if not rows or column not in rows[0]:
            raise ValueError(
                f"{path}: no column {column!r}; expected columns path, label, split and at least one row"
            )
    splits, labels = (np.array([row[name] for row in rows]) for name in ("split", "label"))
    unknown = set(splits) - set(SPLITS)
    if unknown or set(splits) != set(SPLITS):
        raise ValueError(
            f"{path}: expected splits {', '.join(SPLITS)}, each with clips; got {', '.join(sorted(set(splits)))}"
        )
    unseen = set(labels) - set(labels[splits == "train"])
    if unseen or len(set(labels)) < 2:
        raise ValueError(
            f"{path}: label {sorted(unseen or set(labels))[0]!r} cannot be learned: train needs clips of at least two labels, and of every label"
        )
    clips = [torch.from_numpy(read_audio(path.parent / row["path"])) for row in rows]
    return LabelledSet(path.parent.name or path.stem, clips, labels, splits)


def probe(features: np.ndarray, labels: np.ndarray, splits: np.ndarray) -> Score:
    """Fit the probe on one set.

    Args:
        features: (clips, dimensions).
        labels: (clips,) any values.
        splits: (clips,) train, valid or test.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ValueError(
            "maeast probe needs scikit-learn: pip install 'maeast-upstream[probe]'"
        ) from error
    train, valid, test = (splits == name for name in SPLITS)
    x = features.astype(np.float64)
    x = (x - x[train].mean(0)) / np.maximum(x[train].std(0), 1e-8)
    # With an L2 penalty the solution lies in the span of the training rows: rotated there, nothing changes but the size.
    _, values, basis = np.linalg.svd(x[train], full_matrices=False)
    x = x @ basis[values > 1e-9 * values[0]].T
    best: Score | None = None
    for c in C_GRID:
        model = LogisticRegression(C=c, max_iter=3000, tol=1e-5).fit(x[train], labels[train])
        score = Score(
            100 * model.score(x[valid], labels[valid]), 100 * model.score(x[test], labels[test]), c
        )
        if best is None or score.valid > best.valid:
            best = score
    assert best is not None
    return best


def probe_sets(
    sets: Sequence[LabelledSet], encoder: Encoder, readouts: Sequence[Readout]
) -> dict[Readout, list[Score]]:
    """Probe every set with every readout; the network sees each clip once for each hop."""
    table: dict[Readout, list[Score]] = {readout: [] for readout in readouts}
    for one in sets:
        for readout, features in embeddings(one.clips, encoder, readouts).items():
            table[readout].append(probe(features, one.labels, one.splits))
    return table


def embeddings(
    clips: Sequence[torch.Tensor], encoder: Encoder, readouts: Sequence[Readout]
) -> dict[Readout, np.ndarray]:
    """(clips, dimensions) for each readout, from one pass for each hop and mel axis."""
    order = sorted(range(len(clips)), key=lambda i: len(clips[i]))
    features: dict[Readout, np.ndarray] = {}
    for (hop_ms, mel), group in itertools.groupby(
        sorted(readouts, key=lambda r: (r.hop_ms or 0, r.mel)), key=lambda r: (r.hop_ms, r.mel)
    ):
        same = list(group)
        layers = sorted({layer for readout in same for layer in readout.layers(encoder.num_layers)})
        rows: dict[Readout, list[np.ndarray]] = {readout: [] for readout in same}
        for start in range(0, len(order), BATCH_CLIPS):
            batch = [clips[i] for i in order[start : start + BATCH_CLIPS]]
            encoded = encoder.encode(batch, layers=layers, mel=mel, hop_ms=hop_ms)
            for readout in same:
                kept = [
                    encoded.hidden_states[layers.index(layer)]
                    for layer in readout.layers(encoder.num_layers)
                ]
                pooled = pool_time(
                    combine_layers(kept, readout.layer), encoded.lengths, readout.pool
                )
                rows[readout].append(pooled.cpu().numpy())
        for readout in same:
            values = np.concatenate(rows[readout])
            features[readout] = np.empty_like(values)
            features[readout][order] = values
    return features


def logmel_features(clips: Sequence[torch.Tensor]) -> np.ndarray:
    """(clips, 256): mean and deviation over time of a 128-bin log-mel (Hann window), the plain baseline."""
    fbank = Fbank(FrontendConfig(window="hanning"))
    rows = []
    for clip in clips:
        padded = torch.nn.functional.pad(clip, (0, max(0, WINDOW_SAMPLES - len(clip))))
        spectrogram = fbank(padded[None])[0].numpy()
        rows.append(np.concatenate([spectrogram.mean(0), spectrogram.std(0)]))
    return np.stack(rows)


def randomised(encoder: Encoder, seed: int = 0) -> Encoder:
    """The same encoder with the weights that training would begin with."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = Encoder(encoder.config, encoder.precision)
    return fresh.eval().to(encoder.device)


def readout_grid(
    default: Readout, layer: str | None, mel: str | None, pool: str | None, hop: str | None
) -> list[Readout]:
    """All combinations of what comma lists on the command line name; the checkpoint's own where nothing is given."""
    layers = [parse_layer(text) for text in layer.split(",")] if layer else [default.layer]
    hops = [parse_hop(text) for text in hop.split(",")] if hop else [default.hop_ms]
    mels, pools = (
        text.split(",") if text else [own]
        for text, own in ((mel, default.mel), (pool, default.pool))
    )
    return [
        dataclasses.replace(default, layer=one, mel=two, pool=three, hop_ms=four)
        for one, two, three, four in itertools.product(layers, mels, pools, hops)
    ]


def describe(readout: Readout) -> str:
    """A readout in words."""
    hop = "native" if readout.hop_ms is None else f"{readout.hop_ms:g} ms"
    return f"layer {readout.layer}, mel {readout.mel}, pool {readout.pool}, hop {hop}"


def _print_table(sets: Sequence[LabelledSet], scores: Sequence[Score], out: Path | None) -> int:
    rows = []
    for one, score in zip(sets, scores, strict=True):
        sizes = [int((one.splits == name).sum()) for name in SPLITS]
        classes = len(set(one.labels))
        rows.append(
            (
                one.name,
                classes,
                *sizes,
                f"{100 / classes:.1f}",
                f"{score.valid:.1f}",
                f"{score.test:.1f}",
                score.c,
            )
        )
    mean = (f"{np.mean([s.valid for s in scores]):.1f}", f"{np.mean([s.test for s in scores]):.1f}")
    rows.append(("mean", "", "", "", "", "", *mean, ""))
    header = ("set", "classes", *SPLITS, "chance", "valid %", "test %", "C")
    for row in (header, *rows):
        print(f"{row[0]:<18}" + "".join(f"{cell!s:>9}" for cell in row[1:]))
    if out is not None:
        with replacing(out) as part, part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
    return 0
