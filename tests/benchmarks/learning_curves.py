"""Accuracy by the number of labelled clips: the bundled checkpoint, log-mel statistics and openSMILE ComParE.

PYTHONPATH=.:tests/benchmarks python tests/benchmarks/learning_curves.py probes/*/labels.csv \\
    --features opensmile=opensmile.npz -o docs/results/learning_curves

Of each set's train split at most 5, 10, 20 or 50 clips per class are drawn, 5 times; a class with fewer has all of
its clips. `maeast fit`'s classifier is fitted on them, its penalty chosen by cross-validation on them alone, and
scored on the whole test split. The valid split is not used: who has labelled five clips per class has none.
``opensmile.npz`` comes from `other_features`. Writes OUT.csv, OUT.png and the table of OUT.md.
"""

import argparse
import csv
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from maeast_upstream import load_model
from maeast_upstream.classification.fitting import fit, stratified_folds
from maeast_upstream.engines import attach
from maeast_upstream.evaluation.features import embeddings, logmel_features
from maeast_upstream.evaluation.labelled_set import LabelledSet, read_sets
from maeast_upstream.evaluation.vectors import read_vectors

SIZES = (5, 10, 20, 50)
DRAWS = 5
Scores = dict[tuple[str, str, int], list[float]]
"""Test accuracies in per cent of the draws, by set, features and clips per class."""


def main() -> None:
    """Embed, draw, fit, score; write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", nargs="+", type=Path)
    parser.add_argument("--features", action="append", default=[], metavar="NAME=FILE.npz", help="other vectors")
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    sets = read_sets(args.labels)
    tables = {name: read_vectors(Path(path), sets) for name, path in (text.split("=") for text in args.features)}
    scores: Scores = {}
    for labelled_set in sets:
        features = own_features(labelled_set, tables) | {name: table.of(labelled_set) for name, table in tables.items()}
        for (name, size), accuracies in curves(labelled_set, features).items():
            scores[labelled_set.name, name, size] = accuracies
            print(labelled_set.name, name, size, *(f"{accuracy:.1f}" for accuracy in accuracies), flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_csv(args.out.with_suffix(".csv"), scores)
    draw(args.out.with_suffix(".png"), scores)
    print(table(scores))


def own_features(labelled_set: LabelledSet, given: Collection[str]) -> dict[str, np.ndarray]:
    """The bundled checkpoint's vectors and log-mel statistics, (clips, dimensions), unless they were given."""
    features = {}
    if "bundled" not in given:
        model = load_model(precision="bf16")
        readout = model.config.readout
        attach(model, "openvino")
        features["bundled"] = embeddings(labelled_set.paths, model, [readout])[readout]
    if "log-mel" not in given:
        features["log-mel"] = logmel_features(labelled_set.paths)
    return features


def curves(labelled_set: LabelledSet, features: Mapping[str, np.ndarray]) -> dict[tuple[str, int], list[float]]:
    """Test accuracies by features and clips per class; all features see the same draws."""
    scores: dict[tuple[str, int], list[float]] = {(name, size): [] for name in features for size in SIZES}
    test = labelled_set.splits == "test"
    known: dict[tuple[str, bytes], float] = {}  # all draws are the same where no class has more clips
    for size in SIZES:
        for seed in range(DRAWS):
            drawn = draw_clips(labelled_set, size, seed)
            for name, vectors in features.items():
                key = (name, drawn.tobytes())
                if key not in known:
                    predicted = fit_predict(vectors[drawn], labelled_set.labels[drawn], vectors[test])
                    known[key] = 100 * float((predicted == labelled_set.labels[test]).mean())
                scores[name, size].append(known[key])
    return scores


def draw_clips(labelled_set: LabelledSet, size: int, seed: int) -> np.ndarray:
    """Indices of at most ``size`` train clips per class."""
    rng = np.random.default_rng([size, seed])
    train = np.flatnonzero(labelled_set.splits == "train")
    classes = [train[labelled_set.labels[train] == label] for label in sorted(set(labelled_set.labels.tolist()))]
    return np.sort(np.concatenate([rng.permutation(members)[:size] for members in classes]))


def fit_predict(vectors: np.ndarray, labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Fit `maeast fit`'s classifier and return its labels of ``others``."""
    classes, indices = np.unique(labels, return_inverse=True)
    targets = np.eye(len(classes))[indices]
    fitted = fit(vectors, targets, None, stratified_folds(targets, seed=0), multi_label=False)
    logits = fitted.standardization(others) @ fitted.weight.T + fitted.bias
    predicted: np.ndarray = classes[logits.argmax(axis=1)]
    return predicted


def write_csv(path: Path, scores: Scores) -> None:
    """Write one row per set, features, size and draw."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["set", "features", "clips_per_class", "draw", "test_accuracy"])
        for key, accuracies in scores.items():
            writer.writerows([*key, number, f"{accuracy:.2f}"] for number, accuracy in enumerate(accuracies))


def summary(scores: Scores, sets: Sequence[str], name: str, size: int) -> tuple[float, float]:
    """Mean over the sets, and the standard deviation of the draws' means."""
    means = np.mean([scores[each, name, size] for each in sets], axis=0)
    return float(means.mean()), float(means.std(ddof=1))


def names_of(scores: Scores) -> tuple[list[str], list[str]]:
    """The sets and the features."""
    return list(dict.fromkeys(key[0] for key in scores)), list(dict.fromkeys(key[1] for key in scores))


def table(scores: Scores) -> str:
    """The means of each set, and over the sets with the spread of the draws, as Markdown."""
    sets, names = names_of(scores)
    heads = [f"{name}, {size}" for size in SIZES for name in names]
    lines = [f"| set | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for each in sets:
        cells = [f"{np.mean(scores[each, name, size]):.1f}" for size in SIZES for name in names]
        lines.append(f"| {each} | {' | '.join(cells)} |")
    means = [summary(scores, sets, name, size) for size in SIZES for name in names]
    lines.append(f"| **mean** | {' | '.join(f'**{mean:.1f}** ± {spread:.1f}' for mean, spread in means)} |")
    return "\n".join(lines)


def draw(path: Path, scores: Scores) -> None:
    """Draw a panel per set and one of the mean: accuracy over clips per class, with the draws' spread."""
    from matplotlib.figure import Figure

    sets, names = names_of(scores)
    rows = -(-(len(sets) + 1) // 3)
    figure = Figure(figsize=(11, 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, 3, squeeze=False).ravel()
    for axes in panels[len(sets) + 1 :]:
        axes.remove()
    for axes, title in zip(panels, [*sets, "mean of these sets"], strict=False):
        shown = [title] if title in sets else sets
        for number, name in enumerate(names):
            points = [summary(scores, shown, name, size) for size in SIZES]
            means, spreads = zip(*points, strict=True)
            axes.errorbar(SIZES, means, spreads, fmt="o-", color=f"C{number}", capsize=3, lw=1.2, ms=4, label=name)
        axes.set_xscale("log")
        axes.set_xticks(SIZES, [str(size) for size in SIZES])
        axes.minorticks_off()
        axes.set_title(title)
        axes.grid(alpha=0.3)
    for axes in panels[len(sets) - 2 : len(sets) + 1]:
        axes.set_xlabel("labelled clips per class")
    for axes in panels[::3]:
        axes.set_ylabel("test accuracy, %")
    panels[0].legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
