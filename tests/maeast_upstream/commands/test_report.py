import csv
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from small import small_config

from maeast_upstream import checkpoint
from maeast_upstream.cli import run
from maeast_upstream.commands import report
from maeast_upstream.config import EncoderConfig, Normalisation
from maeast_upstream.encoder import Encoder, load_model
from maeast_upstream.evaluation import comparison, tables
from maeast_upstream.evaluation.comparison import Outcome
from maeast_upstream.evaluation.features import embeddings, logmel_features, randomised
from maeast_upstream.evaluation.labelled_set import read_labels
from maeast_upstream.evaluation.linear_probe import probe
from maeast_upstream.fingerprint import fingerprint
from maeast_upstream.readout import Readout

DATA = Path(__file__).parents[2] / "data"
WORDS = ("right", "seven", "six", "stop")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    torch.manual_seed(0)
    config = EncoderConfig(model=small_config(), normalisation=Normalisation(mean=-6.0, std=4.0))
    folder = tmp_path_factory.mktemp("start") / "encoder"
    checkpoint.save_folder(folder, Encoder(config).network, config)
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two sets of the real clips: words and drums."""
    folder = tmp_path_factory.mktemp("sets")
    with (DATA / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name, wanted in (("words", True), ("drums", False)):
        lines = [
            f"{(DATA / row['path']).resolve()},{row['label']},{row['split']}"
            for row in rows
            if (row["label"] in WORDS) == wanted
        ]
        (folder / f"{name}.csv").write_text("\n".join(["path,label,split", *lines]))
    return [folder / "words.csv", folder / "drums.csv"]


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def made(start, sets, tmp_path_factory):
    """A report with everything in it."""
    out = tmp_path_factory.mktemp("report")
    own = [read_labels(path) for path in sets]
    paths = [clip for one in own for clip in one.paths]
    np.savez(out / "other.npz", path=[str(clip) for clip in paths], vector=logmel_features(paths))
    (out / "scores.csv").write_text("set,test_accuracy\nwords,50.0\ndrums,75.0\n")
    command = [*map(str, sets), "-o", str(out), "--checkpoint", f"small={start}", "--layer", "1,last,1", "--per-layer"]
    command += ["--features", f"other={out / 'other.npz'}", "--finetuned", f"tuned={out / 'scores.csv'}"]
    assert report.main(command) == 0
    return out, own


def test_the_scores_are_those_of_the_probe(made, start):
    out, own = made
    table = {(row["system"], row["set"]): row for row in rows(out / "report.csv")}
    assert {system for system, _ in table} == {"log-mel", "other", "random weights", "small"}
    encoder = load_model(start)
    for one in own:
        expected = probe(logmel_features(one.paths), one.labels, one.splits)
        for system in ("log-mel", "other"):
            row = table[system, one.name]
            assert float(row["test_accuracy"]) == pytest.approx(expected.test, abs=0.01)
            assert float(row["valid_accuracy"]) == pytest.approx(expected.valid, abs=0.01)
            assert float(row["test_low"]) <= expected.test <= float(row["test_high"])
        row = table["small", one.name]
        number = 1 if row["readout"].startswith("layer 1,") else "last"
        readout = Readout(layer=number)
        expected = probe(embeddings(one.paths, encoder, [readout])[readout], one.labels, one.splits)
        assert float(row["test_accuracy"]) == pytest.approx(expected.test, abs=0.01)
        assert row["model"] == fingerprint(encoder)[:12]


def test_one_readout_is_chosen_for_all_sets_by_the_mean_of_valid(made, start):
    out, own = made
    table = [row for row in rows(out / "report.csv") if row["system"] == "small"]
    (chosen,) = {row["readout"] for row in table}
    _, valid = comparison.encoder_outcomes("small", [load_model(start)], [Readout(layer=1), Readout()], own)
    means = {("1" if readout.layer == 1 else "last"): np.mean(scores) for readout, scores in valid.items()}
    assert chosen.split(",")[0] == f"layer {max(means, key=means.get)}"
    assert "| readout | mean valid |" in (out / "report.md").read_text()


def test_the_page_has_the_tuned_column_the_layers_and_a_picture(made):
    out, _ = made
    text = (out / "report.md").read_text()
    (header,) = [line for line in text.splitlines() if line.startswith("| set | classes")]
    assert header.endswith("| log-mel | other | random weights | small | tuned |")
    (mean,) = [line for line in text.splitlines() if line.startswith("| **mean** | | |")]
    assert mean.endswith("| 62.5 |")
    assert "| set | 1 | 2 | 3 |" in text
    assert "| small less | difference |" in text
    assert (out / "report.png").stat().st_size > 5000


def test_every_reading_of_test_is_appended_to_the_log(made, sets, start):
    out, own = made
    log = rows(out / "readings.csv")
    assert len(log) == 4 * 2
    assert {(row["system"], row["set"]) for row in log} >= {("log-mel", "words"), ("small", "drums")}
    assert {row["clips"] for row in log if row["set"] == "words"} == {str(own[0].shape[3])}
    digest = hashlib.sha256((out / "other.npz").read_bytes()).hexdigest()[:12]
    assert {row["model"] for row in log if row["system"] == "other"} == {digest}
    assert all(len(row["date"]) == 10 for row in log)
    again = [str(sets[0]), "-o", str(out / "again"), "--checkpoint", f"small={start}"]
    assert report.main([*again, "--readings", str(out / "readings.csv")]) == 0
    assert len(rows(out / "readings.csv")) == 8 + 3


def test_test_is_read_for_the_chosen_readout_only(start, sets, tmp_path, monkeypatch):
    read = []
    real = comparison.read_test
    monkeypatch.setattr(comparison, "read_test", lambda fitted, one: read.append(one.name) or real(fitted, one))
    command = [str(sets[0]), "-o", str(tmp_path), "--checkpoint", f"small={start}", "--layer", "1,2,last"]
    assert report.main(command) == 0
    assert read == ["words"] * 3


def test_runs_of_one_name_are_one_column_with_their_spread(start, sets, tmp_path):
    other = tmp_path / "other"
    randomised(load_model(start), seed=1).save_pretrained(other)
    command = [str(sets[0]), "-o", str(tmp_path), "--checkpoint", f"small={start}", "--checkpoint", f"small={other}"]
    assert report.main([*command, "--seeds", "3"]) == 0
    table = [row for row in rows(tmp_path / "report.csv") if row["system"] == "small"]
    tests = [float(row["test_accuracy"]) for row in table]
    assert len({row["model"] for row in table}) == len(table) == 2
    text = (tmp_path / "report.md").read_text()
    (header, mean) = [line for line in text.splitlines() if line.startswith(("| set | classes", "| **mean**"))]
    assert header.endswith("| log-mel | random weights | small |")
    cells = mean.split(" | ")
    assert cells[-1].startswith(f"{np.mean(tests):.1f} (")
    assert f", ± {np.std(tests, ddof=1):.1f} of 2 runs" in cells[-1]
    assert cells[-2].endswith("of 3 runs")
    assert len(rows(tmp_path / "readings.csv")) == 1 + 3 + 2


def outcomes(name, right, own):
    return [Outcome(name, "", one, "", 1.0, 50.0, np.array(row)) for one, row in zip(own, right, strict=True)]


def test_intervals_are_those_of_clips_drawn_with_replacement(made):
    own = made[1]
    rng = np.random.default_rng(1)
    right = [rng.random(400) < 0.6, rng.random(100) < 0.8]
    low, high = tables.interval(outcomes("a", right, own))
    deviation = 100 * np.sqrt(sum(r.mean() * (1 - r.mean()) / len(r) for r in right)) / 2
    assert (high - low) / 2 == pytest.approx(1.96 * deviation, rel=0.08)
    assert low < 100 * np.mean([r.mean() for r in right]) < high


def test_differences_are_of_the_same_clips(made):
    own = made[1]
    rng = np.random.default_rng(1)
    right = [rng.random(400) < 0.6, rng.random(100) < 0.8]
    text = tables.format_differences([*outcomes("a", right, own), *outcomes("b", right, own)], "a")
    assert text.splitlines()[-1] == "| b | +0.0 | +0.0 to +0.0 |"


def test_a_bar_in_a_name_is_no_new_column(sets):
    own = [read_labels(path) for path in sets]
    right = [np.ones(one.shape[-1], bool) for one in own]
    outcomes = [
        Outcome(name, "", one, "", 1.0, 0.0, clips)
        for name in ("plain", "a|b")
        for one, clips in zip(own, right, strict=True)
    ]
    page = tables.format_report(own, outcomes, {}, {"c|d": {}})
    page += "\n" + tables.format_differences(outcomes, "a|b")
    bars = [line.replace("\\|", "").count("|") for line in page.splitlines()]
    assert bars == [7] * (3 + len(own)) + [4] * 3


def test_a_csv_of_vectors_is_read_as_an_npz_is(tmp_path):
    (tmp_path / "v.csv").write_text("path,a,b\nx.wav,1,2\n\ny.wav,3,4.5\n\n")
    np.savez(tmp_path / "v.npz", path=["x.wav", "y.wav"], vector=[[1, 2], [3, 4.5]])
    first, second = (comparison.read_table(tmp_path / f"v.{kind}", []).vectors for kind in ("csv", "npz"))
    assert list(first) == list(second) == [Path("x.wav").resolve(), Path("y.wav").resolve()]
    assert all(np.array_equal(first[name], second[name]) for name in first)


def npz(names, vectors):
    file = io.BytesIO()
    np.savez(file, path=names, vector=vectors)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.npz", npz(["x.wav"], [[1.0, 2.0]])[:200]),
        ("empty.npz", b""),
        ("scalar.npz", npz("x.wav", 1.0)),
        ("pickled.npz", npz(["x.wav"], np.array([{}], dtype=object))),
        ("short.csv", b'path,a,b\nx.wav,1,2\n""\n'),
        ("none.csv", b"path\nx.wav\n"),
        ("twice.csv", b"path,a\nx.wav,1\n./x.wav,2\n"),
        ("null.csv", b"path,a\nx\0.wav,1\n"),
    ],
)
def test_a_file_without_vectors_is_refused_by_name(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: expected an .npz with path and vector"):
        comparison.read_table(path, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint", "nowhere"], "expected NAME=VALUE, got 'nowhere'"),
        (["--checkpoint", "log-mel=x"], "two are called 'log-mel'"),
        (["--features", "a=x.npz", "--features", "a=y.npz"], "two are called 'a'"),
        (["--checkpoint", "a={start}", "--checkpoint", "a={start}"], "two runs of 'a' have the same weights"),
        (["--checkpoint", "a={start}", "--checkpoint", "a="], "has another shape or readout than"),
        (["--readings", "{words}"], "words.csv: not a log of readings"),
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
        (["-o", "{words}"], "words.csv: a file; expected a folder"),
        (["-o", "{taken}"], "report.png: a folder"),
    ],
)
def test_what_cannot_be_done_is_one_line_before_a_clip_is_read(
    start, sets, tmp_path, capsys, monkeypatch, options, message
):
    monkeypatch.setattr(report, "logmel_outcomes", None)
    (tmp_path / "short.csv").write_text("path,a\nx.wav,1\n")
    (tmp_path / "tuned.csv").write_text("set,test_accuracy\ndrums,75.0\n")
    (tmp_path / "wild.csv").write_text("set,test_accuracy\nwords,nan\n")
    (tmp_path / "taken" / "report.png").mkdir(parents=True)
    files = {name: tmp_path / f"{name}.csv" for name in ("short", "tuned", "wild")}
    names = {**files, "words": sets[0], "start": start, "taken": tmp_path / "taken"}
    options = [option.format(**names) for option in options]
    assert run(report.main, [str(sets[0]), "-o", str(tmp_path / "out"), *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
