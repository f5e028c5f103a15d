"""The fit on time steps that say plainly which labels sound."""

import numpy as np
import pytest

from maeast_upstream.events import fitting
from maeast_upstream.events.collecting import LabelledSteps
from maeast_upstream.events.fitting import FOLDS, StepFit, drawn_rows, fit_steps, folds_of, parts_of
from maeast_upstream.events.recordings import step_targets
from maeast_upstream.events.smoothing import Event, find_events

HOP_MS = 40.0
LABELS = ("clap", "kick")
DIMENSIONS = 12


def synthetic(name, split, seed, steps=150):
    """A recording whose steps are noise and a vector for each label that sounds."""
    rng = np.random.default_rng(seed)
    times_ms = 7.5 + HOP_MS * np.arange(steps)
    starts = 200.0 + 900.0 * np.arange(int(times_ms[-1] // 900)) + rng.uniform(0, 300, int(times_ms[-1] // 900))
    events = [Event(LABELS[i % 2], float(start), float(start) + 250.0) for i, start in enumerate(starts)]
    directions = np.random.default_rng(99).standard_normal((len(LABELS), DIMENSIONS))
    noise = 0.3 * rng.standard_normal((steps, DIMENSIONS))
    vectors = step_targets(events, times_ms, LABELS) @ directions + noise
    return LabelledSteps(name, split, vectors.astype(np.float16), times_ms, events, float(times_ms[-1] + 20.0))


def hits_of(fitted, recording):
    probabilities = next(p for each, p in fitted.held_out if each is recording)
    found = find_events(probabilities, recording.times_ms, HOP_MS, LABELS, fitted.smoothing, recording.duration_ms)
    assert {event.label for event in found} == set(LABELS)
    return len(found), len(recording.events)


def test_events_that_steps_show_plainly_are_found_on_valid():
    recordings = [synthetic("a", "train", 0), synthetic("b", "train", 1), synthetic("c", "valid", 2)]
    fitted = fit_steps([*recordings, synthetic("d", "test", 3)], LABELS, HOP_MS)
    assert fitted.chosen_on == "valid"
    assert [each.name for each, _ in fitted.held_out] == ["c"]
    found, expected = hits_of(fitted, recordings[2])
    assert found == expected
    assert fitted.offsets == (-4, -2, 0, 2, 4)


@pytest.mark.parametrize("count", [1, 6])
def test_without_valid_every_part_of_train_is_judged_by_a_fit_without_it(count):
    fitted = fit_steps([synthetic(str(number), "train", number, 300) for number in range(count)], LABELS, HOP_MS)
    assert fitted.chosen_on == "cross-validation"
    assert len(fitted.held_out) == max(count, FOLDS)
    assert sum(len(each.times_ms) for each, _ in fitted.held_out) == 300 * count
    for each, _ in fitted.held_out:
        found, expected = hits_of(fitted, each)
        assert found == pytest.approx(expected, abs=1)


def test_the_same_recordings_give_the_same_fit():
    recordings = [synthetic("a", "train", 0), synthetic("b", "train", 1)]
    first, second = (fit_steps(recordings, LABELS, HOP_MS) for _ in range(2))
    assert np.array_equal(first.weight, second.weight)
    assert (first.c, first.smoothing) == (second.c, second.smoothing)


def test_weights_of_projected_steps_are_those_of_the_steps_themselves():
    train, other = synthetic("a", "train", 0), synthetic("b", "valid", 1)
    offsets = (-1, 0, 2)
    fit = StepFit([train], LABELS, offsets, seed=0)
    (linear,) = fit.path(np.ones(1, bool), [0.1])
    weight = fit.projection.unrotated(linear.weight).reshape(len(LABELS), len(offsets), DIMENSIONS)
    x = (other.steps.astype(np.float64) - fit.projection.mean) / fit.projection.scale
    logits = np.tile(linear.bias, (len(x), 1))
    for number, offset in enumerate(offsets):
        logits += x[np.clip(np.arange(len(x)) + offset, 0, len(x) - 1)] @ weight[:, number].T
    np.testing.assert_allclose(fit.probabilities(other.steps, [linear])[0], 1 / (1 + np.exp(-logits)), atol=1e-4)


def test_blocks_do_not_change_what_is_fitted(monkeypatch):
    recordings = [synthetic("a", "train", 0), synthetic("b", "valid", 1)]
    whole = fit_steps(recordings, LABELS, HOP_MS)
    monkeypatch.setattr("maeast_upstream.events.projection.BLOCK_STEPS", 7)
    blocks = fit_steps(recordings, LABELS, HOP_MS)
    np.testing.assert_allclose(blocks.held_out[0][1], whole.held_out[0][1], atol=1e-3)


def test_of_too_many_steps_some_are_drawn_and_count_for_the_others(monkeypatch):
    monkeypatch.setattr(fitting, "MAX_TRAIN_STEPS", 100)
    active = [np.arange(400) < 40, np.arange(200) < 0]
    rows, weights = drawn_rows(active, seed=0)
    assert sum(map(len, rows)) == len(weights) == 100
    assert (rows[0] < 40).sum() == 40
    assert weights.sum() == pytest.approx(600)
    assert all(np.all(np.diff(chosen) > 0) for chosen in rows)
    rows, weights = drawn_rows([np.ones(400, bool)], seed=0)
    assert (len(rows[0]), weights.sum()) == (75, pytest.approx(400))


def test_each_label_is_spread_over_the_parts_of_cross_validation():
    recordings = [synthetic(str(number), "train", number) for number in range(8)]
    recordings = [
        each if number < 4 else LabelledSteps(each.name, "train", each.steps, each.times_ms, [], each.duration_ms)
        for number, each in enumerate(recordings)
    ]
    folds = folds_of(recordings)
    assert sorted(folds[:4]) == sorted(folds[4:]) == [0, 1, 2, 3]


def test_a_part_of_a_recording_has_its_own_events():
    (first, second, *_) = parts_of([synthetic("a", "train", 0)])
    assert first.times_ms[-1] < second.times_ms[0]
    assert all(event.start_ms <= first.times_ms[-1] for event in first.events)
    assert all(event.end_ms > second.times_ms[0] for event in second.events)
