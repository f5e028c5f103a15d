"""``maeast probe``: scores frozen embeddings on labelled clips, and compares checkpoints and other features."""

import argparse
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maeast_upstream.arguments import (
    Parser,
    UsageError,
    add_column_options,
    add_model_options,
    add_readout_options,
    columns_from,
    parse_seed,
    readouts_from,
)
from maeast_upstream.cli import ExitStatus
from maeast_upstream.progress import say

if TYPE_CHECKING:  # imported when they are needed, so that --help does not import torch
    from maeast_upstream.encoder import Encoder
    from maeast_upstream.evaluation.comparison import SystemScores
    from maeast_upstream.evaluation.labelled_set import LabelledSet

BUNDLED = "bundled"
FILES = ("probe.md", "probe.csv", "probe.png")
MODEL, RANDOM, LOGMEL = "model", "random", "logmel"


def main(argv: Sequence[str]) -> int:
    """Score frozen embeddings on labelled clips with logistic regression."""
    args = build_parser().parse_args(argv)
    if args.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, got {args.seeds}")
    features = features_from(args)
    checkpoints = checkpoints_from(args.checkpoint)
    if args.save is not None:
        check_save(args, features, checkpoints)
    from maeast_upstream.evaluation.comparison import layer_accuracies
    from maeast_upstream.evaluation.labelled_set import read_sets
    from maeast_upstream.evaluation.tables import format_layers, format_page, format_readouts, format_scores
    from maeast_upstream.evaluation.vectors import read_finetuned

    sets = read_sets(args.labels, columns_from(args))
    # whatever can be refused is refused before a clip is read
    groups = groups_from(args.group, [each.name for each in sets])
    finetuned = {name: read_finetuned(Path(path), sets) for name, path in named_once(args.finetuned).items()}
    if args.out is not None:
        named_files = [*features.values(), *named_once(args.finetuned).values()]
        check_output(args.out, [*args.labels, *(Path(path) for path in named_files if path is not None)])
    encoders: dict[str, list[Encoder]] = {}
    if MODEL in features or RANDOM in features:
        wanted = checkpoints.items() if MODEL in features else list(checkpoints.items())[:1]
        encoders = load_systems(args, dict(wanted))
    scorers = scorers_from(args, features, encoders, sets)
    refuse_equal_names([*scorers, *finetuned])
    systems = [score(sets) for score in scorers.values()]
    main_system = next(iter(encoders)) if MODEL in features else systems[0].name
    layers = layer_accuracies(encoders[main_system][0], sets) if args.per_layer else {}
    page = format_page(systems, groups, finetuned, main_system, layers)
    if len(systems) > 1 or finetuned:
        print(page)
    else:
        (system,) = systems
        if len(system.valid) > 1:
            print(format_readouts(system), end="\n\n")
        print(format_scores(system, groups))
        if layers:
            print(f"\n{format_layers(layers)}")
    if args.out is not None:
        write(args.out, page, systems, layers)
    if args.save is not None:
        save(args, systems)
    return ExitStatus.DONE


def load_systems(
    args: argparse.Namespace, checkpoints: "Mapping[str, Sequence[str | None]]"
) -> "dict[str, list[Encoder]]":
    """Load the runs of each checkpoint; with int8, OpenVINO computes their layers.

    Raises:
        ValueError: as in `load_runs`; OpenVINO is missing or an encoder is on a GPU, for int8.
    """
    from maeast_upstream.engines.selection import attach
    from maeast_upstream.evaluation.comparison import load_runs

    in_int8 = args.precision == "int8"
    precision: Any = "fp32" if in_int8 else args.precision  # `load_model` refuses what is none
    encoders = {name: load_runs(name, runs, args.device, precision) for name, runs in checkpoints.items()}
    for run in [run for runs in encoders.values() for run in runs] if in_int8 else []:
        attach(run, "openvino", "int8", range(1, run.num_layers + 1))
    return encoders


def build_parser() -> Parser:
    """Build the parser of the command's options."""
    parser = Parser(
        prog="maeast probe",
        description=f"{main.__doc__} Several checkpoints or features are compared in a table. Comma-separated lists "
        "for --layer, --mel, --pool, --hop-ms and --dims try all combinations and choose one on valid for each "
        "checkpoint.",
    )
    parser.add_argument(
        "labels",
        nargs="+",
        type=Path,
        metavar="LABELS.csv",
        help="columns path (relative to the file), label, split (train, valid or test)",
    )
    add_column_options(parser, "path", "label", "split")
    add_model_options(parser, several=True, precisions="fp32 (default), bf16, fp16 or, with OpenVINO, int8")
    parser.add_argument(
        "--features",
        action="append",
        metavar="KIND",
        help="what to probe, as a comma-separated list: model (default), the checkpoints; random, the first "
        "checkpoint's network with random weights; logmel, mean and standard deviation of the log-mel spectrogram. Or "
        "NAME=FILE: vectors of another extractor, an .npz with path and vector, or a CSV with path and numbers. "
        "Give the option again for more",
    )
    add_readout_options(parser)
    parser.add_argument("--seed", type=parse_seed, default=0, help="seed of the random weights; default 0")
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="average N networks of random weights; default 1"
    )
    parser.add_argument(
        "--per-layer", action="store_true", help="also show the valid accuracy of each layer of the first checkpoint"
    )
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="NAME=SET,SET",
        help="also show the mean over these sets; again for more",
    )
    parser.add_argument(
        "--finetuned",
        action="append",
        default=[],
        metavar="NAME=SCORES.csv",
        help="also show the test accuracies that maeast finetune wrote; again for more",
    )
    parser.add_argument(
        "--save",
        type=Path,
        metavar="FOLDER",
        help="save the classifier for maeast predict; with one set and one checkpoint",
    )
    parser.add_argument("-o", "--out", type=Path, help=f"OUT.csv for the scores, or a folder for {', '.join(FILES)}")
    return parser


def check_save(
    args: argparse.Namespace, features: Mapping[str, str | None], checkpoints: Mapping[str, Sequence[str | None]]
) -> None:
    """Check, before any work, that --save has one classifier to save and a folder for it.

    Raises:
        UsageError: there are several sets, checkpoints or features, or the features are no checkpoint's.
        ValueError: the folder cannot be written, or holds a classifier.
    """
    from maeast_upstream.classification.folder import refuse_unwritable_folder

    runs = [source for sources in checkpoints.values() for source in sources]
    if len(args.labels) > 1 or len(runs) > 1 or list(features) != [MODEL]:
        raise UsageError("--save needs one set, one checkpoint and --features model")
    refuse_unwritable_folder(args.save)


def save(args: argparse.Namespace, systems: Sequence["SystemScores"]) -> None:
    """Save the classifier of the only set and checkpoint."""
    from maeast_upstream.evaluation.comparison import saved_classifier

    ((source,),) = checkpoints_from(args.checkpoint).values()
    saved_classifier(systems[0], source or BUNDLED).save(args.save)
    print(f"classifier: {args.save}; try maeast predict FOLDER -m {shlex.quote(str(args.save))} -o found.parquet")


def features_from(args: argparse.Namespace) -> dict[str, str | None]:
    """Return what to probe, in its order: model, random, logmel, or a name with the path of its vectors.

    Raises:
        UsageError: another word, or an option that does not apply.
    """
    features: dict[str, str | None] = {}
    for value in args.features or [MODEL]:
        if "=" in value:
            for name, path in named_once([value]).items():
                refuse_equal_names([name, *features])
                features[name] = path
            continue
        for kind in value.split(","):
            if kind not in (MODEL, RANDOM, LOGMEL):
                raise UsageError(f"--features must be {MODEL}, {RANDOM}, {LOGMEL} or NAME=FILE, got {kind!r}")
            features[kind] = None
    if MODEL not in features and args.per_layer:
        raise UsageError("--per-layer needs --features model")
    if MODEL not in features and RANDOM not in features:
        for option in ("checkpoint", "layer", "mel", "pool", "hop_ms", "dims", "whiten"):
            if getattr(args, option) is not None:
                raise UsageError(f"--{option.replace('_', '-')} applies to --features model and random only")
    return features


def checkpoints_from(values: Sequence[str] | None) -> dict[str, list[str | None]]:
    """Return the sources by name of the checkpoint; several of the same name are several seeds of a recipe.

    Args:
        values: ``SOURCE`` or ``NAME=SOURCE``; an existing path is always a source, though it may hold an "=".
    """
    checkpoints: dict[str, list[str | None]] = {}
    for value in values or [BUNDLED]:
        name, source = value, value
        if "=" in value and not Path(value).exists():
            ((name, (source,)),) = named([value]).items()
        bundled = source in ("", BUNDLED) and not Path(source or BUNDLED).exists()
        checkpoints.setdefault(name, []).append(None if bundled else source)
    return checkpoints


def scorers_from(
    args: argparse.Namespace,
    features: Mapping[str, str | None],
    encoders: Mapping[str, Sequence["Encoder"]],
    sets: Sequence["LabelledSet"],
) -> dict[str, Callable[[Sequence["LabelledSet"]], "SystemScores"]]:
    """Return, for each column of the comparison, the function that scores it on the sets.

    Raises:
        ValueError: an encoder does not have a readout, a file has not all vectors, or two columns have the same name.
    """
    from maeast_upstream.evaluation.comparison import (
        LOG_MEL,
        RANDOM_WEIGHTS,
        score_encoders,
        score_logmel,
        score_vectors,
    )
    from maeast_upstream.evaluation.features import randomized, refuse_unknown_readouts
    from maeast_upstream.evaluation.vectors import read_vectors

    readouts = {name: readouts_from(args, runs[0].config.readout) for name, runs in encoders.items()}
    for name, runs in encoders.items():
        refuse_unknown_readouts(runs[0], readouts[name])
    columns: list[tuple[str, Callable[[Sequence[LabelledSet]], SystemScores]]] = []
    for kind, path in features.items():
        if path is not None:
            columns.append((kind, partial(score_vectors, kind, read_vectors(Path(path), sets))))
        elif kind == LOGMEL:
            columns.append((LOG_MEL, score_logmel))
        elif kind == RANDOM:
            name, runs = next(iter(encoders.items()))
            if any(readout.dims for readout in readouts[name]):
                raise ValueError("random weights have no projection: give --dims full, or leave random out")
            if any(readout.whiten for readout in readouts[name]):
                say("random weights have no whitening: their vectors are the statistics themselves")
            plain = list(dict.fromkeys(readout.full for readout in readouts[name]))
            networks = [randomized(runs[0], args.seed + number) for number in range(args.seeds)]
            columns.append((RANDOM_WEIGHTS, partial(score_encoders, RANDOM_WEIGHTS, networks, plain)))
        else:
            columns += [(name, partial(score_encoders, name, runs, readouts[name])) for name, runs in encoders.items()]
    refuse_equal_names([name for name, _ in columns])
    return dict(columns)


def groups_from(values: Sequence[str], sets: Sequence[str]) -> dict[str, list[str]]:
    """Return the sets of each ``NAME=SET,SET``.

    Raises:
        UsageError: a group is given twice, or names a set that is not given.
    """
    groups = {name: text.split(",") for name, text in named_once(values).items()}
    for name, members in groups.items():
        if unknown := [member for member in members if member not in sets]:
            raise UsageError(f"--group {name}: no set {unknown[0]!r}; the sets are {', '.join(sets)}")
    return groups


def named(pairs: Sequence[str]) -> dict[str, list[str]]:
    """Return the values by name of ``NAME=VALUE`` options.

    Raises:
        UsageError: a value has no name.
    """
    values: dict[str, list[str]] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name.strip() or not name.isprintable():
            raise UsageError(f"expected NAME=VALUE, got {pair!r}")
        values.setdefault(name, []).append(value)
    return values


def named_once(pairs: Sequence[str]) -> dict[str, str]:
    """Return the value of each name.

    Raises:
        UsageError: as in `named`; a name is given twice.
    """
    values = named(pairs)
    refuse_equal_names([name for name, given in values.items() for _ in given])
    return {name: value for name, (value,) in values.items()}


def refuse_equal_names(names: Sequence[str]) -> None:
    """Raise UsageError if two columns or groups would have the same name."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"the name {twice[0]!r} is used twice; give one of the two another name")


def check_output(out: Path, inputs: Sequence[Path]) -> None:
    """Check, before any work, that the results can be written and replace none of the inputs.

    Raises:
        ValueError: they cannot, or one of them is an input.
    """
    from maeast_upstream.storage.atomic import refuse_to_replace_inputs, refuse_unwritable
    from maeast_upstream.visualization.figures import refuse_no_matplotlib

    refuse_to_replace_inputs([out] if out.suffix == ".csv" else [out / name for name in FILES], inputs)
    if out.suffix == ".csv":
        refuse_unwritable(out)
        return
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: a file; expected a folder, or a name that ends in .csv")
    refuse_no_matplotlib()
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        refuse_unwritable(out / name)


def write(out: Path, page: str, systems: Sequence["SystemScores"], layers: Mapping[str, Sequence[float]]) -> None:
    """Write the scores as CSV, or into a folder the page, the scores and the picture."""
    from maeast_upstream.evaluation.charts import draw_comparison
    from maeast_upstream.evaluation.tables import write_scores
    from maeast_upstream.storage.atomic import replacing

    if out.suffix == ".csv":
        write_scores(out, systems)
        return
    markdown, scores, picture = (out / name for name in FILES)
    with replacing(markdown) as part:
        part.write_text(page + "\n", encoding="utf-8", errors="backslashreplace")
    write_scores(scores, systems)
    draw_comparison(picture, systems, layers)
