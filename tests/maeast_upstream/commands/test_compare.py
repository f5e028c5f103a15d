"""`maeast probe` with several systems: tables, picture, files."""

import csv
import hashlib

import numpy as np
import pytest
from labelled_clips import save_small_checkpoint, write_real_clips

from maeast_upstream.cli import run
from maeast_upstream.commands import probe as command
from maeast_upstream.encoder import load_model
from maeast_upstream.evaluation import comparison, features
from maeast_upstream.evaluation.features import embeddings, logmel_features, randomized
from maeast_upstream.evaluation.labelled_set import read_labels
from maeast_upstream.evaluation.linear_probe import probe
from maeast_upstream.fingerprint import fingerprint
from maeast_upstream.readout import Readout

WORDS = ("right", "seven", "six", "stop")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return save_small_checkpoint(tmp_path_factory.mktemp("start") / "encoder")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two sets of the real clips: words and drums."""
    folder = tmp_path_factory.mktemp("sets")
    words = write_real_clips(folder / "words.csv", WORDS.__contains__)
    return [words, write_real_clips(folder / "drums.csv", lambda label: label not in WORDS)]


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def made(start, sets, tmp_path_factory):
    """A comparison with everything in it."""
    out = tmp_path_factory.mktemp("comparison")
    labelled_sets = [read_labels(path) for path in sets]
    paths = [clip for each in labelled_sets for clip in each.paths]
    np.savez(out / "other.npz", path=[str(clip) for clip in paths], vector=logmel_features(paths))
    (out / "scores.csv").write_text("set,test_accuracy\nwords,50.0\ndrums,75.0\n")
    options = [*map(str, sets), "-o", str(out), "--checkpoint", f"small={start}", "--layer", "1,last,1", "--per-layer"]
    options += ["--features", "logmel", "--features", f"other={out / 'other.npz'}", "--features", "random,model"]
    options += ["--finetuned", f"tuned={out / 'scores.csv'}", "--group", "noises=drums"]
    assert command.main(options) == 0
    return out, labelled_sets


@pytest.mark.slow
def test_the_scores_are_those_of_the_probe(made, start):
    out, labelled_sets = made
    table = {(row["system"], row["set"]): row for row in rows(out / "probe.csv") if row["test_accuracy"]}
    assert {system for system, _ in table} == {"log-mel", "other", "random weights", "small"}
    encoder = load_model(start)
    for each in labelled_sets:
        expected = probe(logmel_features(each.paths), each.labels, each.splits)
        for system in ("log-mel", "other"):
            row = table[system, each.name]
            assert float(row["test_accuracy"]) == pytest.approx(expected.test, abs=0.01)
            assert float(row["valid_accuracy"]) == pytest.approx(expected.valid, abs=0.01)
            assert float(row["test_low"]) <= expected.test <= float(row["test_high"])
        row = table["small", each.name]
        number = 1 if row["readout"].startswith("layer 1,") else "last"
        readout = Readout(layer=number)
        expected = probe(embeddings(each.paths, encoder, [readout])[readout], each.labels, each.splits)
        assert float(row["test_accuracy"]) == pytest.approx(expected.test, abs=0.01)
        assert row["model"] == fingerprint(encoder)[:12]


def test_one_readout_is_chosen_for_all_sets_by_the_mean_of_valid(made, start):
    out, labelled_sets = made
    table = [row for row in rows(out / "probe.csv") if row["system"] == "small"]
    (chosen,) = {row["readout"] for row in table if row["test_accuracy"]}
    means = {row["readout"]: [] for row in table}
    for row in table:
        means[row["readout"]].append(float(row["valid_accuracy"]))
    assert [len(accuracies) for accuracies in means.values()] == [len(labelled_sets)] * 2
    assert chosen == max(means, key=lambda readout: np.mean(means[readout]))
    assert "| readout | mean valid |" in (out / "probe.md").read_text()


def test_in_a_tie_the_first_readout_is_chosen(start, sets):
    twins = [Readout(layer=3), Readout(layer="last")]
    scores = comparison.score_encoders("small", [load_model(start)], twins, [read_labels(sets[0])])
    assert {outcome.readout.split(",")[0] for outcome in scores.outcomes} == {"layer 3"}


def test_the_page_has_the_tuned_column_the_layers_and_a_picture(made):
    out, _ = made
    text = (out / "probe.md").read_text()
    (header,) = [line for line in text.splitlines() if line.startswith("| set | classes")]
    assert header.endswith("| log-mel | other | random weights | small | tuned |")
    (mean,) = [line for line in text.splitlines() if line.startswith("| **mean** | | |")]
    assert mean.endswith("| 62.5 |")
    (group,) = [line for line in text.splitlines() if line.startswith("| **noises** | | |")]
    assert group.endswith("| 75.0 |")
    assert "| set | 1 | 2 | 3 |" in text
    assert "| small minus | difference |" in text
    assert (out / "probe.png").stat().st_size > 5000


def test_each_column_names_the_weights_or_the_file_that_it_was_made_of(made, start):
    out, _ = made
    models = {row["system"]: row["model"] for row in rows(out / "probe.csv")}
    assert models["other"] == hashlib.sha256((out / "other.npz").read_bytes()).hexdigest()[:12]
    assert models["small"] == fingerprint(load_model(start))[:12]
    assert models["log-mel"] == ""


def test_test_is_scored_for_the_chosen_readout_only(start, sets, monkeypatch):
    scored = []
    real = comparison.score_test
    monkeypatch.setattr(comparison, "score_test", lambda fitted, each: scored.append(each.name) or real(fitted, each))
    assert command.main([str(sets[0]), "--checkpoint", f"small={start}", "--layer", "1,2,last"]) == 0
    assert scored == ["words"]


def test_runs_of_one_name_are_one_column_with_their_spread(start, sets, tmp_path):
    other = tmp_path / "other"
    randomized(load_model(start), seed=1).save_pretrained(other)
    options = [str(sets[0]), "-o", str(tmp_path), "--checkpoint", f"small={start}", "--checkpoint", f"small={other}"]
    assert command.main([*options, "--features", "random,model", "--seeds", "3"]) == 0
    table = [row for row in rows(tmp_path / "probe.csv") if row["system"] == "small"]
    tests = [float(row["test_accuracy"]) for row in table]
    assert len({row["model"] for row in table}) == len(table) == 2
    text = (tmp_path / "probe.md").read_text()
    header, words, column = [
        line for line in text.splitlines() if line.startswith(("| set | classes", "| words", "| small |"))
    ]
    assert header.endswith("| random weights | small |")
    assert "**mean**" not in text  # of a single set
    assert column.startswith(f"| small | {', '.join(dict.fromkeys(row['model'] for row in table))} | layer last")
    cells = words.split(" | ")
    assert cells[-1].startswith(f"{np.mean(tests):.1f} (")
    assert f", ± {np.std(tests, ddof=1):.1f} of 2 runs" in cells[-1]
    assert cells[-2].endswith("of 3 runs")


def test_a_single_checkpoint_is_plain_text_whether_named_or_not(start, sets, capsys):
    for source in (str(start), f"small={start}"):
        assert command.main([str(sets[0]), "--checkpoint", source, "--group", "speech=words"]) == 0
        lines = capsys.readouterr().out.splitlines()
        name = source.split("=")[0]
        assert [line.split()[:2] for line in lines[1:]] == [[name, "words"], [name, "speech"]]
        assert all(line.endswith("  layer last, mel concat, pool mean, hop native") for line in lines[1:])
        assert lines[1].split("/")[-1].split()[2:] == lines[2].split()[2:]


def test_a_path_with_an_equals_sign_is_a_path(start, sets, tmp_path, capsys):
    path = tmp_path / "lr=0.1"
    path.symlink_to(start)
    assert command.main([str(sets[0]), "--checkpoint", str(path)]) == 0
    assert f"\n{path}  words" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint", "nowhere"], "no checkpoint 'nowhere'"),
        (["--checkpoint", "log-mel={start}", "--features", "logmel,model"], "'log-mel' is used twice"),
        (["--features", "a=x.npz", "--features", "a=y.npz"], "'a' is used twice"),
        (["--checkpoint", "a={start}", "--checkpoint", "a={start}"], "two runs of 'a' have the same weights"),
        (["--checkpoint", "a={start}", "--checkpoint", "a="], "has another shape or readout than"),
        (["--group", "speech=wrods"], "--group speech: no set 'wrods'; the sets are words"),
        (["--features", "logmel", "--per-layer"], "--per-layer needs --features model"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--features", "other=nowhere.npz"], "nowhere.npz: expected an .npz with path and vector"),
        (["--features", "other={short}"], "no vector of "),
        (["--features", "other={words}"], "words.csv: expected an .npz"),
        (["--finetuned", "tuned={words}"], "no column 'set'"),
        (["--finetuned", "tuned={tuned}"], "has drums, none of the sets words"),
        (["--finetuned", "tuned={wild}"], "with an accuracy of 0 to 100; got words, nan"),
        (["--checkpoint", "a\nb="], "expected NAME=VALUE"),
        (["--layer", "99"], "layers are counted from 1"),
        (["--hop-ms", "7"], "this model's time steps"),
        (["--mel", "foo"], "mel must be concat or mean"),
        (["-o", "{text}"], "words.txt: a file; expected a folder"),
        (["-o", "{taken}"], "probe.png: a folder"),
    ],
)
def test_what_cannot_be_done_is_one_line_before_a_clip_is_read(
    start, sets, tmp_path, capsys, monkeypatch, options, message
):
    monkeypatch.setattr(features, "read_blocks", None)
    (tmp_path / "short.csv").write_text("path,a\nx.wav,1\n")
    (tmp_path / "tuned.csv").write_text("set,test_accuracy\ndrums,75.0\n")
    (tmp_path / "wild.csv").write_text("set,test_accuracy\nwords,nan\n")
    (tmp_path / "taken" / "probe.png").mkdir(parents=True)
    files = {name: tmp_path / f"{name}.csv" for name in ("short", "tuned", "wild")}
    (tmp_path / "words.txt").touch()
    names = {**files, "words": sets[0], "text": tmp_path / "words.txt", "start": start, "taken": tmp_path / "taken"}
    options = [option.format(**names) for option in options]
    assert run(command.main, [str(sets[0]), "-o", str(tmp_path / "out"), *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
