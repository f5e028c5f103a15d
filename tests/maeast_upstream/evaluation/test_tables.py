"""Tables of scores: intervals, differences, Markdown."""

from dataclasses import replace

import numpy as np
import pytest
from labelled_clips import write_real_clips, write_tones

from maeast_upstream.evaluation import tables
from maeast_upstream.evaluation.comparison import Outcome, SystemScores
from maeast_upstream.evaluation.finetune import TunedScore
from maeast_upstream.evaluation.labelled_set import read_labels
from maeast_upstream.evaluation.vectors import read_finetuned


def scores(name, correct, sets):
    outcomes = [Outcome("", each, "", 1.0, 50.0, np.array(row)) for each, row in zip(sets, correct, strict=True)]
    return SystemScores(name, outcomes, {"": [50.0] * len(sets)})


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    drums = write_real_clips(folder / "drums.csv", {"kick", "snare"}.__contains__)
    return [read_labels(drums), read_labels(write_tones(folder))]


def test_intervals_are_those_of_clips_drawn_with_replacement(sets):
    rng = np.random.default_rng(1)
    right = [rng.random(400) < 0.6, rng.random(100) < 0.8]
    low, high = tables.interval(scores("a", right, sets).outcomes)
    deviation = 100 * np.sqrt(sum(r.mean() * (1 - r.mean()) / len(r) for r in right)) / 2
    assert (high - low) / 2 == pytest.approx(1.96 * deviation, rel=0.08)
    assert low < 100 * np.mean([r.mean() for r in right]) < high


def test_differences_are_of_the_same_clips(sets):
    rng = np.random.default_rng(1)
    right = [rng.random(400) < 0.6, rng.random(100) < 0.8]
    text = tables.format_differences([scores("a", right, sets), scores("b", right, sets)], "a")
    assert text.splitlines()[-1] == "| b | +0.0 | +0.0 to +0.0 |"


def test_a_bar_in_a_name_is_no_new_column(sets):
    right = [np.ones(each.shape[-1], bool) for each in sets]
    systems = [scores(name, right, sets) for name in ("plain", "a|b")]
    page = tables.format_comparison(systems, {}, {"c|d": {}})
    page += "\n" + tables.format_differences(systems, "a|b")
    bars = [line.replace("\\|", "").count("|") for line in page.splitlines()]
    assert bars == [7] * (3 + len(sets)) + [4] * 3


def test_a_name_that_begins_as_a_formula_is_text_in_a_csv_and_is_read_back(sets, tmp_path):
    sets = [replace(sets[0], name="=1+1"), sets[1]]
    tables.write_scores(tmp_path / "probe.csv", [scores("@SUM(A1)", [np.ones(each.shape[-1]) for each in sets], sets)])
    assert "\n'@SUM(A1),,,'=1+1," in (tmp_path / "probe.csv").read_text()
    tables.write_tuned(tmp_path / "scores.csv", sets, {each.name: TunedScore(60.0, 50.0, 3, 55.0) for each in sets})
    assert read_finetuned(tmp_path / "scores.csv", sets) == {each.name: 50.0 for each in sets}
