"""The search of a smoothing against events that are found recording by recording."""

import numpy as np

from maeast_upstream.events.scoring import Counts, count_hits
from maeast_upstream.events.search import Judged, SmoothingSearch, few_smoothings, smoothings
from maeast_upstream.events.smoothing import Event, find_events

HOP_MS = 40.0
LABELS = ("clap", "kick")


def random_recordings(count=3):
    rng = np.random.default_rng(0)
    recordings = []
    for number in range(count):
        steps = 60 + 10 * number
        noise = rng.random((steps, len(LABELS)))
        probabilities = np.stack([np.convolve(column, np.ones(3) / 3, "same") for column in noise.T], axis=1)
        times_ms = 7.5 + HOP_MS * np.arange(steps)
        events = [Event(LABELS[i % 2], 300.0 * i, 300.0 * i + 100.0) for i in range(6)]
        recordings.append(Judged(probabilities, times_ms, events, float(times_ms[-1] + 30.0)))
    return recordings


def plain_counts(recordings, smoothing):
    total = Counts()
    for each in recordings:
        found = find_events(each.probabilities, each.times_ms, HOP_MS, LABELS, smoothing, each.duration_ms)
        for label in LABELS:
            ours, theirs = ([e.start_ms for e in events if e.label == label] for events in (found, each.events))
            total += Counts(len(theirs), len(ours), count_hits(theirs, ours))
    return total


def test_counts_are_those_of_the_recordings_one_by_one():
    recordings = random_recordings()
    search = SmoothingSearch(recordings, LABELS, HOP_MS)
    for smoothing in smoothings(HOP_MS)[::7]:
        assert search.best([smoothing])[1] == plain_counts(recordings, smoothing)


def test_the_best_smoothing_is_found_and_the_first_of_equals():
    recordings = random_recordings()
    search = SmoothingSearch(recordings, LABELS, HOP_MS)
    best, counts = search.best(few_smoothings())
    scores = [plain_counts(recordings, smoothing).f_measure for smoothing in few_smoothings()]
    assert counts.f_measure == max(scores)
    assert best == few_smoothings()[int(np.argmax(scores))]


def test_smoothings_that_are_the_same_at_a_hop_are_tried_once():
    assert len(smoothings(160.0)) < len(smoothings(40.0)) <= len(smoothings(20.0))
