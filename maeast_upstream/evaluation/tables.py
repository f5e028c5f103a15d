"""Formats scores as text, Markdown and CSV; intervals come from a bootstrap over the test clips."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from maeast_upstream.evaluation.comparison import Outcome, SystemScores
from maeast_upstream.evaluation.finetune import TunedScore
from maeast_upstream.evaluation.labelled_set import LabelledSet
from maeast_upstream.messages import counted
from maeast_upstream.storage.delimited import write_csv

RESAMPLES = 2000
LEVEL = 0.95
Groups = Mapping[str, Sequence[str]]
"""Name of a group -> names of the labelled sets that it averages."""
Finetuned = Mapping[str, Mapping[str, float]]
"""Name of a column -> test accuracy by set, of fine-tuned encoders."""


def format_readouts(system: SystemScores) -> str:
    """Format the mean valid accuracy of each readout as text, the best first."""
    width = max(map(len, system.valid))
    lines = [f"{readout:{width}}  {accuracy:10.1f}" for readout, accuracy in ranked_readouts(system)]
    return "\n".join([f"{'readout':{width}}  mean valid", *lines])


def format_scores(system: SystemScores, groups: Groups) -> str:
    """Format the scores of a single system as text: a line for each set, then the means; each with its readout."""
    outcomes = system.means
    sets = {each.labelled_set.name: [each.labelled_set.name] for each in outcomes}
    rows = {**sets, **with_mean(groups, outcomes)}
    first, width = max(len("checkpoint"), len(system.name)), max(len("set"), *map(len, rows))
    lines = [f"{'checkpoint':{first}}  {'set':{width}}  classes  train/valid/test  chance  valid   test  readout"]
    for name, members in rows.items():
        about = ""
        if members == sets.get(name):
            classes, *sizes = outcomes[list(sets).index(name)].labelled_set.shape
            about = f"{classes:7}  {'/'.join(map(str, sizes)):>16}  {100 / classes:6.1f}"
        valid, test = (
            np.mean([getattr(each, split) for each in outcomes if each.labelled_set.name in members])
            for split in ("valid", "test")
        )
        cells = f"{about:33}  {valid:5.1f}  {test:5.1f}  {outcomes[0].readout}"
        lines.append(f"{system.name:{first}}  {name:{width}}  {cells}")
    return "\n".join(lines)


def format_page(
    systems: Sequence[SystemScores],
    groups: Groups,
    finetuned: Finetuned,
    main: str,
    layers: Mapping[str, Sequence[float]],
) -> str:
    """Format a comparison as a Markdown page.

    Args:
        systems: one column each.
        groups: sets that are also averaged separately.
        finetuned: further columns.
        main: the system whose differences from the others are shown.
        layers: by set the valid accuracy of each layer of ``main``; may be empty.
    """
    parts = ["## Test accuracy, in per cent", format_comparison(systems, groups, finetuned), format_systems(systems)]
    if len(systems) > 1:
        parts.append(format_differences(systems, main))
    for system in systems:
        if len(system.valid) > 1:
            rows = [f"| {readout} | {accuracy:.1f} |" for readout, accuracy in ranked_readouts(system)]
            table = "\n".join(["| readout | mean valid |", "|---|---|", *rows])
            parts += [f"## Readouts of {system.name}, valid", table]
    if layers:
        parts += [f"## Layers of {main}, valid", format_layers(layers)]
    return "\n\n".join(parts)


def format_comparison(systems: Sequence[SystemScores], groups: Groups, finetuned: Finetuned) -> str:
    """Format test accuracies as Markdown: a line per set, a column per system, and the means with their intervals."""
    names = [in_cell(name) for name in (*(system.name for system in systems), *finetuned)]
    lines = ["| set | classes | train / valid / test | " + " | ".join(names) + " |", "|---" * (3 + len(names)) + "|"]
    means = [system.means for system in systems]
    for row in zip(*means, strict=True):
        labelled_set = row[0].labelled_set
        classes, *sizes = labelled_set.shape
        cells = [f"{outcome.test:.1f}" for outcome in row]
        if len(means[0]) == 1:  # there is no line of means, which would hold the intervals
            cells = [mean_and_interval(system, [labelled_set.name]) for system in systems]
        cells += [finetuned_mean(scores, [labelled_set.name]) for scores in finetuned.values()]
        first = f"| {in_cell(labelled_set.name)} | {classes} | {' / '.join(map(str, sizes))} | "
        lines.append(first + " | ".join(cells) + " |")
    for group, members in with_mean(groups, means[0]).items():
        cells = [mean_and_interval(system, members) for system in systems]
        cells += [finetuned_mean(scores, members) for scores in finetuned.values()]
        lines.append(f"| **{in_cell(group)}** | | | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def format_systems(systems: Sequence[SystemScores]) -> str:
    """Format what each column of a comparison is: the digests of its runs' weights or file, and its readout."""
    lines = ["| column | weights | readout |", "|---|---|---|"]
    for system in systems:
        digests = ", ".join(dict.fromkeys(each.digest[:12] for each in system.outcomes))
        lines.append(f"| {in_cell(system.name)} | {digests} | {in_cell(system.outcomes[0].readout)} |")
    return "\n".join(lines)


def mean_and_interval(system: SystemScores, members: Sequence[str]) -> str:
    """Format a system's mean test accuracy over some sets, its interval, and the spread over its runs if any."""
    outcomes = [outcome for outcome in system.means if outcome.labelled_set.name in members]
    low, high = interval(outcomes)
    text = f"{np.mean([outcome.test for outcome in outcomes]):.1f} ({low:.1f} to {high:.1f})"
    runs: dict[str, list[float]] = {}
    for outcome in system.outcomes:
        if outcome.labelled_set.name in members:
            runs.setdefault(outcome.digest, []).append(outcome.test)
    if len(runs) < 2:
        return text
    spread = np.std([np.mean(tests) for tests in runs.values()], ddof=1)
    return f"{text}, ± {spread:.1f} of {counted(len(runs), 'run')}"


def finetuned_mean(scores: Mapping[str, float], members: Sequence[str]) -> str:
    """Format the mean over some sets; empty unless every set has a score."""
    return f"{np.mean([scores[name] for name in members]):.1f}" if set(members) <= set(scores) else ""


def with_mean(groups: Groups, outcomes: Sequence[Outcome]) -> dict[str, Sequence[str]]:
    """Return the groups, and last the group "mean" of all sets, if there are several."""
    return {**groups, **({"mean": [outcome.labelled_set.name for outcome in outcomes]} if len(outcomes) > 1 else {})}


def ranked_readouts(system: SystemScores) -> list[tuple[str, float]]:
    """Return each readout with its mean valid accuracy, the best first."""
    means = {readout: float(np.mean(accuracies)) for readout, accuracies in system.valid.items()}
    return sorted(means.items(), key=lambda item: -item[1])


def interval(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """Return the bootstrap interval of the mean test accuracy over sets, in per cent; always from the same draws."""
    means = resampled_means([outcome.correct.astype(float) for outcome in outcomes])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return 100 * float(low), 100 * float(high)


def resampled_means(values: Sequence[np.ndarray]) -> np.ndarray:
    """Draw each set's clips with replacement, RESAMPLES times; (RESAMPLES,) means over the sets of their means."""
    rng = np.random.default_rng(0)
    means = [clips[rng.integers(len(clips), size=(RESAMPLES, len(clips)))].mean(axis=1) for clips in values]
    result: np.ndarray = np.mean(means, axis=0)
    return result


def format_differences(systems: Sequence[SystemScores], main: str) -> str:
    """Format the mean of ``main`` minus that of each other system, on the same clips, with its interval."""
    means = {system.name: system.means for system in systems}
    lines = [f"| {in_cell(main)} minus | difference | interval ({LEVEL:.0%}) |", "|---|---|---|"]
    for name, outcomes in means.items():
        if name != main:
            pairs = zip(means[main], outcomes, strict=True)
            gains = [ours.correct.astype(float) - theirs.correct.astype(float) for ours, theirs in pairs]
            low, high = np.quantile(resampled_means(gains), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            difference = round(float(np.mean([gain.mean() for gain in gains])), 4) + 0.0  # no -0.0
            lines.append(f"| {in_cell(name)} | {100 * difference:+.1f} | {100 * low:+.1f} to {100 * high:+.1f} |")
    return "\n".join(lines)


def format_layers(layers: Mapping[str, Sequence[float]]) -> str:
    """Format valid accuracies by layer as Markdown: a line per set with its best in bold, then the mean of several."""
    depth = len(next(iter(layers.values())))
    rows = {**layers, **({"mean": np.mean(list(layers.values()), axis=0).tolist()} if len(layers) > 1 else {})}
    lines = ["| set | " + " | ".join(str(n) for n in range(1, depth + 1)) + " |", "|---" * (depth + 1) + "|"]
    for name, scores in rows.items():
        best = int(np.argmax(scores))
        cells = [f"**{score:.1f}**" if number == best else f"{score:.1f}" for number, score in enumerate(scores)]
        lines.append(f"| {in_cell(name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def in_cell(name: str) -> str:
    """Escape the bars and line breaks of a name that the user gave, which would end a cell or row of Markdown."""
    return " ".join(name.split()).replace("|", "\\|")


def write_scores(path: Path, systems: Sequence[SystemScores]) -> None:
    """Write a CSV with a row per system, run, readout and set, in per cent; test is that of the chosen readout only."""
    columns = ["system", "model", "readout", "set", "classes", "train", "valid", "test", "chance", "valid_accuracy"]
    rows: list[list[object]] = [[*columns, "test_accuracy", "test_low", "test_high", "C"]]
    for system in systems:
        for readout, accuracies in system.valid.items():
            for outcome, valid in zip(system.outcomes, accuracies, strict=True):
                labelled_set = outcome.labelled_set
                classes = labelled_set.shape[0]
                cells = [system.name, outcome.digest[:12], readout, labelled_set.name, *labelled_set.shape]
                test = [f"{value:.2f}" for value in (outcome.test, *interval([outcome]))]
                chosen = [*test, outcome.c] if readout == outcome.readout else [""] * 4
                rows.append([*cells, f"{100 / classes:.2f}", f"{valid:.2f}", *chosen])
    write_csv(path, rows)


def format_tuned(sets: Sequence[LabelledSet], scores: Mapping[str, TunedScore]) -> str:
    """Format the scores of fine-tuning as text: a line for each set, then the means of several.

    The column probe is the valid accuracy before the first epoch.
    """
    width = max(len("mean"), *(len(each.name) for each in sets))
    lines = [f"{'set':{width}}  classes  train/valid/test  epoch  probe  valid   test"]
    for each in sets:
        classes, *sizes = each.shape
        score, clips = scores[each.name], "/".join(map(str, sizes))
        cells = f"{score.start:5.1f}  {score.valid:5.1f}  {score.test:5.1f}"
        lines.append(f"{each.name:{width}}  {classes:7}  {clips:>16}  {score.epoch:5}  {cells}")
    if len(sets) > 1:
        names = ("start", "valid", "test")
        means = (np.mean([getattr(score, name) for score in scores.values()]) for name in names)
        lines.append(f"{'mean':{width + 34}}  " + "  ".join(f"{mean:5.1f}" for mean in means))
    return "\n".join(lines)


def write_tuned(path: Path, sets: Sequence[LabelledSet], scores: Mapping[str, TunedScore]) -> None:
    """Write the scores of fine-tuning as CSV, in per cent."""
    columns = ["set", "classes", "train", "valid", "test", "epoch"]
    rows: list[list[object]] = [[*columns, "probe_valid_accuracy", "valid_accuracy", "test_accuracy"]]
    for each in sets:
        score = scores[each.name]
        accuracies = [f"{accuracy:.2f}" for accuracy in (score.start, score.valid, score.test)]
        rows.append([each.name, *each.shape, score.epoch, *accuracies])
    write_csv(path, rows)
