"""What the fit of a detector showed, as text."""

from maeast_upstream.events.scoring import Counts, EventScores
from maeast_upstream.events.training import TrainedEvents
from maeast_upstream.messages import counted


def format_training(trained: TrainedEvents) -> str:
    """Describe the recordings, the chosen settings and the scores."""
    detector, smoothing = trained.detector, trained.detector.smoothing
    counts = ", ".join(
        f"{split} {counted(n['events'], 'event')} in {counted(n['recordings'], 'recording')} ({n['seconds']} s)"
        for split, n in trained.counts.items()
    )
    chosen = (
        f"threshold {smoothing.threshold:g}, median {smoothing.median_ms:g} ms, gap {smoothing.gap_ms:g} ms, "
        f"shortest {smoothing.min_ms:g} ms, C {detector.about['C']:g}"
    )
    lines = [
        f"{counted(len(detector.labels), 'label')}: {counts}",
        f"{detector.dimensions} dimensions every {detector.hop_ms:g} ms",
        f"chosen on {detector.about['chosen_on']}: {chosen}",
        "",
        *(line for name, scores in trained.scores.items() for line in format_scores(name, scores)),
    ]
    return "\n".join(lines).rstrip()


def format_scores(name: str, scores: EventScores) -> list[str]:
    """Return lines with the scores of a split: all labels, then each."""
    width = max(len("all labels"), *(len(label) for label in scores.by_label))
    lines = [f"{name}: onsets within 200 ms, and errors in segments of 1 s, as HEAR scores them"]
    lines.append(f"  {'':{width}}  events  found      F  precision  recall  segment error rate")
    lines.append(f"  {'all labels':{width}}{_cells(scores.onsets)}  {scores.error_rate:18.2f}")
    lines += [f"  {label:{width}}{_cells(counts)}" for label, counts in scores.by_label.items()]
    return [*lines, ""]


def _cells(counts: Counts) -> str:
    shares = (100 * share for share in (counts.f_measure, counts.precision, counts.recall))
    return f"  {counts.reference:6}  {counts.found:5}  {next(shares):5.1f}  {next(shares):9.1f}  {next(shares):6.1f}"
