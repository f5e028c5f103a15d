"""The kit's scores as a table."""

import csv
import json

import pytest

from hear_api.heareval.scores import HearScore, format_scores, merge_csv, plot_scores, published_scores, read_scores
from hear_api.tasks.format import HearTask


def task(folder, *metrics, **metadata):
    return HearTask(folder, {"evaluation": list(metrics), **metadata}, 1, "")


def score(model="m", name="own-v1", value=50.0, metric="top1_acc", primary=True):
    return HearScore(model, name, metric, value, None, "default grid, 8 points", primary)


def test_published_scores_stand_beside_hears_own_tasks_only():
    assert published_scores("esc50-v2.0.0-full")["PaSST base"] == 94.7
    assert published_scores("nsynth_pitch-v2.2.3-5h")["CREPE"] == 87.0
    assert published_scores("nsynth_pitch-v2.2.3-50h")["CREPE"] == 90.0
    assert published_scores("tfds_gtzan-1.0.0-full")["OpenL3"] == 87.9
    assert published_scores("tfds_gtzan_music_speech-1.0.0-full")["OpenL3"] == 96.9
    assert "PANNs" not in published_scores("fsd50k-v1.0-full")
    assert published_scores("drums-v1-full") == {}


def test_shares_are_converted_to_per_cent_and_other_metrics_are_not(tmp_path):
    results = {"test": {"test_top1_acc": 0.75, "test_d_prime": float("inf")}, "hparams": {}}
    (tmp_path / "test.predicted-scores.json").write_text(json.dumps(results))
    accuracy, d_prime = read_scores("m", task(tmp_path, "top1_acc", "d_prime"), tmp_path, "default grid")
    assert (accuracy.value, accuracy.primary) == (75.0, True)
    assert (d_prime.value, d_prime.primary) == (float("inf"), False)


def test_folds_give_a_mean_and_a_standard_deviation(tmp_path):
    aggregated = {"test_mAP_mean": 0.5, "test_mAP_std": 0.05}
    content = {"fold00": {"test_mAP": 0.4}, "aggregated_scores": aggregated}
    (tmp_path / "test.predicted-scores.json").write_text(json.dumps(content))
    parameters = {"task_specific_param_grid": {"lr": [1]}}
    (one,) = read_scores("m", task(tmp_path, "mAP", evaluation_params=parameters), tmp_path, "default grid, 8 points")
    assert (one.value, one.std) == (50.0, 5.0)
    assert one.head == "default grid, 8 points, grid of the task"


def test_a_second_model_joins_the_table_and_a_repeated_task_replaces_its_rows(tmp_path):
    path = tmp_path / "scores.csv"
    merge_csv(path, [score("a", value=1.0), score("a", "esc50-v2.0.0-full", 2.0)])
    merge_csv(path, [score("b", value=3.0)])
    every = merge_csv(path, [score("a", value=4.0)])
    assert [(one.model, one.value) for one in every] == [("a", 2.0), ("b", 3.0), ("a", 4.0)]
    merge_csv(path, [score("c", "esc50-v2.0.0-full", 5.0)])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["a", "b", "a", "c"]
    assert [row["BYOL-S"] for row in rows] == ["80.5", "", "", "80.5"]


def test_another_file_of_that_name_is_left_alone(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("my,own\n1,2\n")
    with pytest.raises(ValueError, match="not a table of maeast hear"):
        merge_csv(path, [score()])
    assert path.read_text() == "my,own\n1,2\n"


def test_the_text_has_one_line_per_score_followed_by_the_published_ones():
    text = format_scores([score(value=12.34), score(name="esc50-v2.0.0-full", value=90.0)])
    assert "12.3  (default grid, 8 points)" in text
    assert "published: wav2vec2 56.1, HuBERT (GURA) 60.3" in text
    assert len(text.splitlines()) == 3


def test_the_chart_has_a_bar_for_each_model_and_task(tmp_path):
    scores = [
        score("a"),
        score("b"),
        score("a", "esc50-v2.0.0-full"),
        score("a", metric="segment_1s_er", primary=False),
    ]
    plot_scores(tmp_path / "one.png", scores[:1])
    plot_scores(tmp_path / "many.svg", scores)
    assert (tmp_path / "one.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "many.svg").read_text().count("<!-- 50.0 -->") == 3


def test_a_model_that_is_called_like_a_formula_is_text_in_the_table_and_comes_back(tmp_path):
    path = tmp_path / "scores.csv"
    merge_csv(path, [score("=1+1", value=1.0)])
    assert "\n'=1+1," in path.read_text()
    assert [one.model for one in merge_csv(path, [score("b", value=3.0)])] == ["=1+1", "b"]
