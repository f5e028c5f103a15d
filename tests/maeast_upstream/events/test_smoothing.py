"""Events from probabilities, against a plain loop over the time steps."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maeast_upstream.events.smoothing import Event, Smoothing, find_events

HOP_MS = 40.0
LABELS = ("clap", "kick")


def plain_events(probabilities, times_ms, smoothing, duration_ms):
    """As in heareval's create_events_from_prediction: filter, threshold, runs; then gaps, then short ones."""
    half, found = smoothing.width(HOP_MS) // 2, []
    for number, label in enumerate(LABELS):
        column = np.pad(probabilities[:, number], half, mode="symmetric")
        filtered = [np.median(column[i : i + 2 * half + 1]) for i in range(len(times_ms))]
        runs = []
        for i, value in enumerate(filtered):
            if value < smoothing.threshold:
                continue
            if runs and (i - runs[-1][1] - 1) * HOP_MS <= smoothing.gap_ms:
                runs[-1][1] = i
            else:
                runs.append([i, i])
        for first, last in runs:
            start, end = max(0.0, times_ms[first] - HOP_MS / 2), min(duration_ms, times_ms[last] + HOP_MS / 2)
            if end - start >= smoothing.min_ms:
                found.append(Event(label, start, end, max(filtered[first : last + 1])))
    return sorted(found, key=lambda event: (event.start_ms, event.label))


@given(
    st.lists(st.tuples(*[st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.8])] * 2), min_size=12, max_size=40),
    st.sampled_from([0.0, 120.0, 200.0]),
    st.sampled_from([0.3, 0.5]),
    st.sampled_from([0.0, 80.0, 200.0]),
    st.sampled_from([0.0, 80.0, 120.0]),
)
def test_events_are_those_of_a_plain_loop(rows, median_ms, threshold, gap_ms, min_ms):
    probabilities = np.array(rows)
    times_ms = 7.5 + HOP_MS * np.arange(len(rows))
    smoothing = Smoothing(median_ms=median_ms, threshold=threshold, gap_ms=gap_ms, min_ms=min_ms)
    duration_ms = times_ms[-1] + 5.0
    found = find_events(probabilities, times_ms, HOP_MS, LABELS, smoothing, duration_ms)
    assert found == plain_events(probabilities, times_ms, smoothing, duration_ms)


def test_no_event_lies_outside_its_recording():
    found = find_events(np.ones((3, 2)), np.array([7.5, 47.5, 87.5]), HOP_MS, LABELS, Smoothing(), 100.0)
    assert found == [Event("clap", 0.0, 100.0, 1.0), Event("kick", 0.0, 100.0, 1.0)]


def test_a_recording_without_time_steps_has_no_events():
    assert find_events(np.empty((0, 2)), np.empty(0), HOP_MS, LABELS, Smoothing()) == []


@pytest.mark.parametrize(
    ("name", "value"), [("threshold", 1.5), ("threshold", float("nan")), ("median_ms", -1.0), ("gap_ms", 1e9)]
)
def test_settings_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        Smoothing(**{name: value})


def test_events_are_found_without_the_packages_of_an_extra(monkeypatch):
    for name in ("scipy", "sklearn"):
        monkeypatch.setitem(sys.modules, name, None)
    probabilities = np.array([[0.9], [0.1], [0.9], [0.9], [0.1], [0.1]])
    times_ms = 7.5 + HOP_MS * np.arange(6)
    smoothing = Smoothing(median_ms=120.0, threshold=0.5, gap_ms=0.0, min_ms=0.0)
    (event,) = find_events(probabilities, times_ms, HOP_MS, ("kick",), smoothing, np.inf)
    assert (event.start_ms, event.end_ms) == (0.0, times_ms[3] + HOP_MS / 2)
