"""``maeast report``: checkpoints beside plain and other people's features, on labelled sets: tables and a picture.

The protocol is `maeast probe`'s; every reading of a test set is appended to a log.
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maeast_upstream.arguments import Parser, add_readout_options
from maeast_upstream.data.labels import read_table as read_csv
from maeast_upstream.encoder import Encoder, load_model
from maeast_upstream.evaluation.comparison import (
    Outcome,
    encoder_outcomes,
    layer_scores,
    logmel_outcomes,
    read_table,
    table_outcomes,
)
from maeast_upstream.evaluation.features import describe, randomised, readout_grid, refuse_other_readouts
from maeast_upstream.evaluation.labelled_set import LabelledSet, read_sets
from maeast_upstream.evaluation.tables import (
    by_system,
    format_differences,
    format_layers,
    format_report,
    interval,
    write_outcomes,
)
from maeast_upstream.evaluation.test_log import begin_log, log_readings
from maeast_upstream.fingerprint import fingerprint
from maeast_upstream.readout import Readout
from maeast_upstream.storage.atomic import refuse_unwritable, replacing
from maeast_upstream.visualization.figures import drawing, refuse_no_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BUNDLED = "bundled"
FILES = ("report.md", "report.csv", "report.png")
DEFAULT_GROUPS = {
    "speech": ["game_voices", "keywords_tts", "mandarin_tone", "stamps_language"],
    "other": ["drums", "game_effects", "gm_instruments", "soundtracks"],
}
"""Of the sets of ``pretrain.corpora.debian_probes``; left out where other sets are given."""


def main(argv: Sequence[str]) -> int:
    """Compare checkpoints with log-mel, random weights and other extractors on labelled sets."""
    args = build_parser().parse_args(argv)
    sets = read_sets(args.labels)
    checkpoints = named(args.checkpoint or [f"{BUNDLED}="])
    features, finetuned = once(named(args.features)), once(named(args.finetuned))
    refuse_same_names(["log-mel", "random weights", *checkpoints, *features, *finetuned])
    if args.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {args.seeds}")
    # whatever can be refused is refused before a test set is read
    tables = {name: read_table(Path(path), sets) for name, path in features.items()}
    tuned = {name: read_tuned(Path(path), sets) for name, path in finetuned.items()}
    systems = {name: load_runs(name, sources, args.device) for name, sources in checkpoints.items()}
    grids = {name: readouts_of(encoders[0], args) for name, encoders in systems.items()}
    log = begin_folder(args.out, args.readings)
    outcomes = logmel_outcomes(sets)
    for name, table in tables.items():
        outcomes += table_outcomes(name, table, sets)
    parts: list[str] = []
    layers: Mapping[str, Sequence[float]] = {}
    for number, (name, encoders) in enumerate(systems.items()):
        readouts = grids[name]
        if number == 0:
            random = [randomised(encoders[0], seed) for seed in range(args.seeds)]
            outcomes += encoder_outcomes("random weights", random, readouts, sets)[0]
        own, valid = encoder_outcomes(name, encoders, readouts, sets)
        outcomes += own
        if len(readouts) > 1:
            parts += [f"## Readouts of {name}, valid", format_choice(valid)]
        if args.per_layer and number == 0:
            layers = layer_scores(encoders[0], sets)
            parts += [f"## Layers of {name}, valid", format_layers(layers)]
    log_readings(log, [outcome.reading for outcome in outcomes])
    text = format_report(sets, outcomes, groups_of(sets), tuned)
    parts = ["## Test accuracy, in per cent", text, format_differences(outcomes, next(iter(checkpoints))), *parts]
    page, scores, picture = (args.out / name for name in FILES)
    with replacing(page) as part:
        part.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    write_outcomes(scores, outcomes)
    draw(picture, outcomes, layers)
    print("\n\n".join(parts))
    return 0


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(
        prog="maeast report",
        description=f"{main.__doc__} Writes report.md, report.csv and report.png. Comma-separated lists for --layer, "
        "--mel, --pool and --hop-ms try all combinations; valid chooses one for each checkpoint.",
    )
    parser.add_argument("labels", nargs="+", type=Path, metavar="LABELS.csv", help="columns path, label, split")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder")
    parser.add_argument(
        "--checkpoint",
        action="append",
        metavar="NAME=SOURCE",
        help="a name, path or hub id; again for more, with the same name for the same recipe's other seeds, whose mean "
        "is shown; default: the one in the package. The first one's shape has the random weights",
    )
    parser.add_argument("--seeds", type=int, default=1, help="networks of random weights; default 1")
    parser.add_argument(
        "--features",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="another extractor's vectors: .npz with path and vector, or a CSV with path and numbers",
    )
    parser.add_argument(
        "--finetuned",
        action="append",
        default=[],
        metavar="NAME=SCORES.csv",
        help="what maeast finetune wrote, as a column of its own",
    )
    parser.add_argument("--per-layer", action="store_true", help="valid accuracy of each layer of the first checkpoint")
    parser.add_argument("--readings", type=Path, help="the log of readings of test; default: OUT/readings.csv")
    parser.add_argument("--device", help="cpu, cuda, ...; default: cpu")
    add_readout_options(parser)
    return parser


def readouts_of(encoder: Encoder, args: argparse.Namespace) -> list[Readout]:
    """Those to choose of; ValueError for one that the encoder does not have."""
    readouts = readout_grid(encoder.config.readout, args.layer, args.mel, args.pool, args.hop_ms)
    refuse_other_readouts(encoder, readouts)
    return readouts


def begin_folder(folder: Path, readings: Path | None) -> Path:
    """See that everything can be written; the log of readings, begun."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: a file; expected a folder to write the report to")
    refuse_no_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        refuse_unwritable(folder / name)
    log = readings or folder / "readings.csv"
    begin_log(log)
    return log


def named(pairs: Sequence[str]) -> dict[str, list[str]]:
    """``NAME=VALUE`` options: the values by name; ValueError for one without a name."""
    found: dict[str, list[str]] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name.strip() or not name.isprintable():
            raise ValueError(f"expected NAME=VALUE, got {pair!r}")
        found.setdefault(name, []).append(value)
    return found


def once(values: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The value of each name; ValueError where there are two."""
    refuse_same_names([name for name, own in values.items() for _ in own])
    return {name: value for name, (value,) in values.items()}


def load_runs(name: str, sources: Sequence[str], device: str | None) -> list[Encoder]:
    """The checkpoints of one recipe's seeds.

    Raises:
        ValueError: as in `load_model`; they differ in shape or readout, or two have the same weights.
    """
    runs = [load_model(source or None, device) for source in sources]
    for source, other in zip(sources, runs, strict=True):
        if (other.config.model, other.config.readout) != (runs[0].config.model, runs[0].config.readout):
            raise ValueError(
                f"runs of {name!r}: {source or BUNDLED} has another shape or readout than {sources[0] or BUNDLED}; "
                "name it apart"
            )
    if len({fingerprint(run) for run in runs}) < len(runs):
        raise ValueError(f"two runs of {name!r} have the same weights; give each seed's, or another name")
    return runs


def refuse_same_names(names: Sequence[str]) -> None:
    """ValueError if two columns would have one name."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"two are called {twice[0]!r}; give another name")


def read_tuned(path: Path, sets: Sequence[LabelledSet]) -> dict[str, float]:
    """Test accuracies by set of a scores.csv of `maeast finetune`.

    Raises:
        ValueError: not such a file; a set twice; none of ``sets``.
    """
    scores: dict[str, float] = {}
    for name, text in read_csv(path, ["set", "test_accuracy"]):
        try:
            score = float(text)
        except ValueError:
            score = -1.0
        if name in scores or not 0.0 <= score <= 100.0:
            raise ValueError(f"{path}: expected each set once, with an accuracy of 0 to 100; got {name}, {text}")
        scores[name] = score
    if not any(one.name in scores for one in sets):
        raise ValueError(f"{path}: has {', '.join(scores)}, none of the sets {', '.join(one.name for one in sets)}")
    return scores


def groups_of(sets: Sequence[LabelledSet]) -> dict[str, list[str]]:
    """The groups all of whose sets are given."""
    names = {one.name for one in sets}
    return {group: members for group, members in DEFAULT_GROUPS.items() if set(members) <= names}


def format_choice(valid: Mapping[Readout, Sequence[float]]) -> str:
    """The mean valid accuracy of every readout, the best on top."""
    ranked = sorted(valid, key=lambda readout: -float(np.mean(valid[readout])))
    rows = [f"| {describe(readout)} | {np.mean(valid[readout]):.1f} |" for readout in ranked]
    return "\n".join(["| readout | mean valid |", "|---|---|", *rows])


def draw(path: Path, outcomes: Sequence[Outcome], layers: Mapping[str, Sequence[float]]) -> None:
    """The systems' means with their intervals and their sets as dots; beside them the layers, where they were asked."""
    systems = by_system(outcomes)
    with drawing(path, 11 if layers else 6.5, 0.5 * len(systems) + 1.6) as figure:
        axes = figure.subplots(1, 2 if layers else 1, squeeze=False)[0]
        for number, row in enumerate(systems.values()):
            mean, (low, high) = float(np.mean([o.test for o in row])), interval(row)
            axes[0].plot([o.test for o in row], [number] * len(row), "o", color="C0", alpha=0.35, ms=4)
            axes[0].errorbar(mean, number, xerr=[[mean - low], [high - mean]], fmt="D", color="C3", capsize=3)
        axes[0].set_yticks(range(len(systems)), list(systems))
        axes[0].set_xlabel("test accuracy, %: mean, its 95 % interval, and each set")
        axes[0].grid(alpha=0.3, axis="x")
        if layers:
            draw_layers(axes[1], layers)


def draw_layers(axis: "Axes", layers: Mapping[str, Sequence[float]]) -> None:
    """A line a set."""
    for name, scores in layers.items():
        axis.plot(range(1, len(scores) + 1), scores, lw=1.2, label=name)
    axis.set_xlabel("layer")
    axis.set_ylabel("valid accuracy, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=6, ncols=2)
