"""A sweep as a Markdown table."""

from pathlib import Path

import numpy as np
import pytest

from maeast_upstream.cli import run
from pretrain.sweep import __main__
from pretrain.sweep.plan import read_sweep
from pretrain.sweep.table import format_table, half_interval

LABELS = Path(__file__).parents[2] / "data" / "labels.csv"


def test_groups_of_sets_are_averaged_separately(settings, write, tmp_path):
    path = write({**settings, "groups": {"speech": ["a", "b"], "sound": ["c"]}})
    table = [
        {"variant": "joint", "seed": 0, "steps": 6, "step_ms": 1.0, "reconstruction": 0.5, "classification": 2.0}
        | {"plain": 40.0, "plain_a": 10.0, "plain_b": 30.0, "plain_c": 80.0}
    ]
    assert "| 40.0 | 20.0 | 80.0 |" in format_table(read_sweep(path), table)
    command = [str(path), "--out", str(tmp_path), "--labels", str(LABELS)]
    assert run(__main__.main, command) == 1


def test_losses_that_a_run_has_get_columns(settings, write):
    rows = [{"variant": "joint", "steps": 6, "step_ms": 1.0, "reconstruction": 0.5, "classification": 2.0}]
    rows.append({**rows[0], "variant": "no InfoNCE", "classification": "", "supervised": 1.25, "cluster": 3.0})
    text = format_table(read_sweep(write(settings)), [{**row, "latent": "", "teacher": ""} for row in rows])
    assert "| ms per step | reconstruction | InfoNCE | supervised | cluster |" in text
    assert "| no InfoNCE | 1 | 6 | 1.0 | 0.500 |  | 1.250 | 3.000 |" in text
    assert "| joint | 1 | 6 | 1.0 | 0.500 | 2.000 |  |  |" in text


def test_a_bar_in_a_name_does_not_start_a_column(settings, write):
    names = ["a | b", "c"]
    sweep_of_two = {**settings, "variants": dict.fromkeys(names), "groups": {"d | e": ["f"]}}
    row = {"steps": 6, "step_ms": 1.0, "reconstruction": "", "classification": "", "plain": 1.0, "plain_f": 1.0}
    text = format_table(read_sweep(write(sweep_of_two)), [{"variant": name, **row} for name in names])
    assert len({line.replace("\\|", "").count("|") for line in text.splitlines()}) == 1
    assert "| a \\| b |" in text
    assert "plain, d \\| e |" in text
    assert "plain against a \\| b (" in text


def test_the_interval_of_a_difference_is_students_with_pooled_variance():
    from scipy.stats import ttest_ind

    first, second = np.array([60.0, 61.5, 60.4]), np.array([62.0, 63.1, 64.9])
    interval = ttest_ind(second, first).confidence_interval(0.95)
    half = half_interval([first, second], 3, 3)
    assert half == pytest.approx((interval.high - interval.low) / 2)
    assert half_interval([[1.0], [2.0]], 1, 1) is None


@pytest.mark.parametrize(
    ("values", "verdict"), [([70.0, 70.2], "higher"), ([50.0, 50.2], "lower"), ([60.0, 60.9], "not decided")]
)
def test_the_verdict_follows_the_interval(settings, write, values, verdict):
    pairs = zip(["joint", "joint", "no InfoNCE", "no InfoNCE"], [60.0, 60.5, *values], strict=True)
    empty = {"steps": 6, "step_ms": 1.0, "reconstruction": "", "classification": ""}
    table = [{"variant": variant, **empty, "plain": score} for variant, score in pairs]
    lines = format_table(read_sweep(write(settings)), table).splitlines()
    assert lines[-1].endswith(f": {verdict} |")
