"""Outcomes -> Markdown, CSV and the log of readings; intervals by bootstrap over the test clips."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from maeast_upstream.evaluation.comparison import Outcome
from maeast_upstream.evaluation.finetune import TunedScore
from maeast_upstream.evaluation.labelled_set import LabelledSet
from maeast_upstream.storage.atomic import replacing

RESAMPLES = 2000
LEVEL = 0.95
Groups = Mapping[str, Sequence[str]]
"""Name -> labelled sets that are averaged."""
Tuned = Mapping[str, Mapping[str, float]]
"""Name -> test accuracy by set, of fine-tuned encoders."""


def by_system(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """In their order; of a system with several runs their mean on each set."""
    runs: dict[str, dict[str, list[Outcome]]] = {}
    for outcome in outcomes:
        runs.setdefault(outcome.system, {}).setdefault(outcome.one.name, []).append(outcome)
    return {system: [mean_of(own) for own in row.values()] for system, row in runs.items()}


def mean_of(runs: Sequence[Outcome]) -> Outcome:
    """Runs of one system on one set as one outcome."""
    if len(runs) == 1:
        return runs[0]
    right = np.mean([run.right for run in runs], axis=0)
    return replace(runs[0], digest="", right=right, valid=float(np.mean([run.valid for run in runs])))


def format_report(sets: Sequence[LabelledSet], outcomes: Sequence[Outcome], groups: Groups, tuned: Tuned) -> str:
    """Test accuracies: a line a set, a column a system; the means with their intervals."""
    systems = by_system(outcomes)
    names = [in_cell(name) for name in (*systems, *tuned)]
    lines = ["| set | classes | train / valid / test | " + " | ".join(names) + " |", "|---" * (3 + len(names)) + "|"]
    for number, one in enumerate(sets):
        classes, *sizes = one.shape
        cells = [f"{row[number].test:.1f}" for row in systems.values()]
        cells += [f"{scores[one.name]:.1f}" if one.name in scores else "" for scores in tuned.values()]
        lines.append(f"| {in_cell(one.name)} | {classes} | {' / '.join(map(str, sizes))} | " + " | ".join(cells) + " |")
    for group, members in {**groups, "mean": [one.name for one in sets]}.items():
        own = {name: [o for o in outcomes if o.system == name and o.one.name in members] for name in systems}
        cells = [mean_and_interval(row) + spread_over_runs(row) for row in own.values()]
        cells += [tuned_mean(scores, members) for scores in tuned.values()]
        lines.append(f"| **{group}** | | | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def mean_and_interval(outcomes: Sequence[Outcome]) -> str:
    """A system's mean test accuracy over sets with its interval."""
    low, high = interval(outcomes)
    return f"{np.mean([outcome.test for outcome in outcomes]):.1f} ({low:.1f} to {high:.1f})"


def spread_over_runs(outcomes: Sequence[Outcome]) -> str:
    """The deviation of the runs' means over sets; empty for one run."""
    runs: dict[str, list[float]] = {}
    for outcome in outcomes:
        runs.setdefault(outcome.digest, []).append(outcome.test)
    if len(runs) < 2:
        return ""
    return f", ± {np.std([np.mean(tests) for tests in runs.values()], ddof=1):.1f} of {len(runs)} runs"


def tuned_mean(scores: Mapping[str, float], members: Sequence[str]) -> str:
    """The mean, where every set has a score."""
    return f"{np.mean([scores[name] for name in members]):.1f}" if set(members) <= set(scores) else ""


def interval(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """Of a system's mean: each set's test clips are drawn anew, RESAMPLES times; always the same draws."""
    (row,) = by_system(outcomes).values()
    means = resampled([outcome.right.astype(float) for outcome in row])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return 100 * float(low), 100 * float(high)


def resampled(values: Sequence[np.ndarray]) -> np.ndarray:
    """(RESAMPLES,) means over the sets of the means of values of clips that are drawn with replacement."""
    rng = np.random.default_rng(0)
    means = [own[rng.integers(len(own), size=(RESAMPLES, len(own)))].mean(axis=1) for own in values]
    result: np.ndarray = np.mean(means, axis=0)
    return result


def format_differences(outcomes: Sequence[Outcome], main: str) -> str:
    """The mean of ``main`` less each other system's, on the same clips, with the interval."""
    systems = by_system(outcomes)
    lines = [f"| {in_cell(main)} less | difference | interval ({LEVEL:.0%}) |", "|---|---|---|"]
    for name, row in systems.items():
        if name != main:
            pairs = zip(systems[main], row, strict=True)
            gains = [own.right.astype(float) - other.right.astype(float) for own, other in pairs]
            low, high = np.quantile(resampled(gains), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            difference = round(float(np.mean([gain.mean() for gain in gains])), 4) + 0.0  # no -0.0
            lines.append(f"| {in_cell(name)} | {100 * difference:+.1f} | {100 * low:+.1f} to {100 * high:+.1f} |")
    return "\n".join(lines)


def format_layers(layers: Mapping[str, Sequence[float]]) -> str:
    """Valid accuracy by layer: a line a set, the best of it in bold, then the mean."""
    depth = len(next(iter(layers.values())))
    rows = {**layers, "mean": np.mean(list(layers.values()), axis=0).tolist()}
    lines = ["| set | " + " | ".join(str(n) for n in range(1, depth + 1)) + " |", "|---" * (depth + 1) + "|"]
    for name, scores in rows.items():
        best = int(np.argmax(scores))
        cells = [f"**{score:.1f}**" if number == best else f"{score:.1f}" for number, score in enumerate(scores)]
        lines.append(f"| {in_cell(name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def in_cell(name: str) -> str:
    """A name that somebody gave, so that Markdown does not take a bar in it for the next column."""
    return name.replace("|", "\\|")


def write_outcomes(path: Path, outcomes: Sequence[Outcome]) -> None:
    """A row for each run of a system and set, in per cent."""
    header = ["system", "model", "readout", "set", "classes", "train", "valid", "test", "C"]
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*header, "valid_accuracy", "test_accuracy", "test_low", "test_high"])
        for o in outcomes:
            own = [o.system, o.digest[:12], o.readout, o.one.name, *o.one.shape, o.c]
            writer.writerow([*own, *(f"{value:.2f}" for value in (o.valid, o.test, *interval([o])))])


def format_tuned(sets: Sequence[LabelledSet], scores: Mapping[str, TunedScore]) -> str:
    """Format the scores of fine-tuning as text: a line for each set, then the means."""
    width = max(len("mean"), *(len(each.name) for each in sets))
    lines = [f"{'set':{width}}  classes  train/valid/test  epoch  valid   test"]
    for each in sets:
        classes, *sizes = each.shape
        score, clips = scores[each.name], "/".join(map(str, sizes))
        lines.append(
            f"{each.name:{width}}  {classes:7}  {clips:>16}  {score.epoch:5}  {score.valid:5.1f}  {score.test:5.1f}"
        )
    valid, test = (np.mean([getattr(score, split) for score in scores.values()]) for split in ("valid", "test"))
    lines.append(f"{'mean':{width + 34}}  {valid:5.1f}  {test:5.1f}")
    return "\n".join(lines)


def write_tuned(path: Path, sets: Sequence[LabelledSet], scores: Mapping[str, TunedScore]) -> None:
    """Write the scores of fine-tuning as CSV, in per cent."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["set", "classes", "train", "valid", "test", "epoch", "valid_accuracy", "test_accuracy"])
        for each in sets:
            score = scores[each.name]
            writer.writerow([each.name, *each.shape, score.epoch, f"{score.valid:.2f}", f"{score.test:.2f}"])
