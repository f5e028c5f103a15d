"""Scores of events against sed_eval on whole recordings."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maeast_upstream.events.scoring import Counts, count_hits, score_events
from maeast_upstream.events.smoothing import Event

sed_eval = pytest.importorskip("sed_eval")

LABELS = ("clap", "kick")
events = st.lists(
    st.tuples(st.sampled_from(LABELS), st.integers(0, 60), st.integers(1, 30)).map(
        lambda e: Event(e[0], 61.0 * e[1], 61.0 * (e[1] + e[2]))
    ),
    max_size=12,
)


def onsets_of(events, label):
    return sorted(event.start_ms for event in events if event.label == label)


def as_dicts(events):
    return [{"event_label": e.label, "event_onset": e.start_ms / 1000, "event_offset": e.end_ms / 1000} for e in events]


@settings(max_examples=60, deadline=None)
@given(events, events)
def test_scores_are_those_of_sed_eval_on_whole_recordings(reference, found):
    onsets = sed_eval.sound_event.EventBasedMetrics(list(LABELS), evaluate_offset=False, t_collar=0.2)
    onsets.evaluate(as_dicts(reference), as_dicts(found))
    scores = score_events({"a": reference}, {"a": found}, LABELS)
    expected = Counts(*(int(onsets.overall[key]) for key in ("Nref", "Nsys", "Ntp")))
    assert scores.onsets == expected
    assert sum(count_hits(onsets_of(reference, label), onsets_of(found, label)) for label in LABELS) == expected.hits
    if scores.onsets.hits:
        assert scores.onsets.f_measure == pytest.approx(onsets.overall_f_measure()["f_measure"])
        segments = sed_eval.sound_event.SegmentBasedMetrics(list(LABELS), time_resolution=1.0)
        segments.evaluate(as_dicts(reference), as_dicts(found))
        assert scores.error_rate == pytest.approx(segments.overall_error_rate()["error_rate"])


def test_recordings_without_events_count_only_what_is_found_in_them():
    event = Event("kick", 0.0, 100.0)
    scores = score_events({"a": [event], "b": [], "c": []}, {"a": [event], "b": [], "c": [event]}, LABELS)
    assert scores.onsets == Counts(reference=1, found=2, hits=1)
    assert scores.error_rate == pytest.approx(1.0)


def test_no_events_at_all_score_zero():
    scores = score_events({"a": []}, {"a": []}, LABELS)
    assert scores.onsets.f_measure == 0.0
    assert scores.error_rate == float("inf")


def test_hits_pair_each_onset_once():
    assert count_hits([0.0, 150.0, 1000.0], [100.0, 1200.0, 1201.0]) == 2
