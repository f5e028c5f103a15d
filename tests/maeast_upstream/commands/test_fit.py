"""`maeast fit` on clips."""

import json

import numpy as np
import pytest
import soundfile
from labelled_clips import write_real_clips, write_tones

from maeast_upstream.arguments import UsageError
from maeast_upstream.classification.classifier import Classifier
from maeast_upstream.cli import run
from maeast_upstream.commands import embed, fit
from maeast_upstream.encoder import load_model
from maeast_upstream.visualization import figures

FILES = ["classifier.json", "classifier.safetensors", "confusion.png"]


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    return write_tones(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def table(tones):
    out = tones.parent / "t.parquet"
    assert embed.main([str(tones), "-o", str(out), "--workers", "0", "-q"]) == 0
    return out


def without_splits(tones, folder):
    """The same labels without a column split, beside no audio."""
    lines = [line.split(",") for line in tones.read_text().splitlines()[1:]]
    rows = [f"{tones.parent / name},{label}" for name, label, _ in lines]
    (folder / "labels.csv").write_text("\n".join(["path,label", *rows]))
    return folder / "labels.csv"


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_fit_writes_a_folder_that_classifies_other_clips(tones, tmp_path, capsys):
    assert fit.main([str(tones), "-o", str(tmp_path / "model"), "--workers", "0"]) == 0
    shown = capsys.readouterr().out
    assert "24 clips of 2 labels: train 12, valid 6, test 6" in shown
    assert "test: accuracy 100.0 %, mean average precision 100.0 %" in shown
    assert files(tmp_path / "model") == FILES
    classifier = Classifier.load(tmp_path / "model")
    encoder = load_model()
    low = 0.3 * np.sin(2 * np.pi * 251 * np.arange(9000) / 16000).astype(np.float32)
    probabilities = classifier.probabilities(encoder.embed([low]).numpy())
    assert classifier.labels[probabilities.argmax()] == "low"
    assert classifier.about["counts"]["clips"] == {"train": 12, "valid": 6, "test": 6}
    assert classifier.about["scores"]["labels"]["low"]["clips"] == 3


@pytest.mark.slow
def test_the_real_clips_are_classified_about_as_well_as_by_the_probe(tmp_path, capsys):
    labels = write_real_clips(tmp_path / "labels.csv", {"kick", "tone1", "tone2", "cymbal_crash"}.__contains__)
    assert fit.main([str(labels), "-o", str(tmp_path / "model"), "--workers", "0"]) == 0
    assert Classifier.load(tmp_path / "model").about["scores"]["accuracy"] > 0.75
    assert "confusion" not in capsys.readouterr().err


def test_the_same_command_gives_the_same_bytes(tones, table, tmp_path):
    labels = without_splits(tones, tmp_path)
    for name in ("one", "two"):
        assert fit.main([str(labels), "-o", str(tmp_path / name), "-t", str(table)]) == 0
    for name in FILES[:2]:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_vectors_of_a_table_give_the_classifier_of_the_clips(tones, table, tmp_path):
    for name, more in (("clips", ["--workers", "0"]), ("table", ["-t", str(table)])):
        assert fit.main([str(tones), "-o", str(tmp_path / name), *more]) == 0
    clips, rows = (Classifier.load(tmp_path / name) for name in ("clips", "table"))
    np.testing.assert_allclose(rows.weight, clips.weight, atol=1e-3)
    assert (rows.fingerprint, rows.readout, rows.windows) == (clips.fingerprint, clips.readout, clips.windows)


def test_without_splits_cross_validation_chooses_and_scores(tones, table, tmp_path, capsys):
    labels = without_splits(tones, tmp_path)
    assert fit.main([str(labels), "-o", str(tmp_path / "model"), "-t", str(table)]) == 0
    assert "cross-validation: accuracy 100.0 %" in capsys.readouterr().out
    assert Classifier.load(tmp_path / "model").about["chosen_on"] == "cross-validation"


def test_clips_with_several_labels_get_a_probability_for_each(tones, table, tmp_path, capsys):
    rows = [line.split(",") for line in tones.read_text().splitlines()[1:]]
    lines = [
        f"{tones.parent / name},{label}{';first' if number < 12 else ''},{split}"
        for number, (name, label, split) in enumerate(rows)
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,split", *lines]))
    command = [str(tmp_path / "labels.csv"), "-o", str(tmp_path / "model"), "-t", str(table)]
    assert fit.main([*command, "--multi-label", "--balance"]) == 0
    shown = capsys.readouterr().out
    assert "wrongly found" in shown
    assert "mean average precision" in shown
    classifier = Classifier.load(tmp_path / "model")
    assert classifier.labels == ("first", "high", "low")
    assert classifier.multi_label


@pytest.mark.slow
def test_windows_of_a_clip_have_its_label(tones, tmp_path, capsys):
    command = [str(tones), "-o", str(tmp_path / "model"), "--workers", "0", "--window", "0.2", "--overlap", "0.1"]
    assert fit.main(command) == 0
    classifier = Classifier.load(tmp_path / "model")
    assert (classifier.windows.seconds, classifier.windows.overlap) == (0.2, 0.1)
    assert classifier.about["counts"]["vectors"]["train"] > classifier.about["counts"]["clips"]["train"]
    assert "windows" in capsys.readouterr().out


def test_rows_with_times_are_clips_where_that_is_said(tones, tmp_path, capsys):
    lines = [line.split(",") for line in tones.read_text().splitlines()[1:]]
    rows = [f"{tones.parent / name},{label},{split},0.05,0.15" for name, label, split in lines]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,split,start,end", *rows]))
    command = [str(tmp_path / "labels.csv"), "-o", str(tmp_path / "model"), "--workers", "0"]
    assert fit.main([*command, "--clips"]) == 0
    assert "each row with times is one labelled clip" in capsys.readouterr().err


@pytest.mark.slow
def test_clips_that_cannot_be_read_are_listed_and_the_others_used(tones, tmp_path, capsys):
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    text = without_splits(tones, tmp_path).read_text()
    (tmp_path / "labels.csv").write_text(f"{text}\nbroken.wav,low\nabsent.wav,low\n")
    command = [str(tmp_path / "labels.csv"), "-o", str(tmp_path / "model"), "--workers", "0"]
    assert fit.main(command) == 3
    captured = capsys.readouterr()
    assert "2 clips left out" in captured.err
    assert "broken.wav" in captured.err
    assert (tmp_path / "model" / "left_out.tsv").read_text().count("\n") == 3
    (tmp_path / "labels.csv").write_text(text)
    assert fit.main([*command, "--force"]) == 0
    assert files(tmp_path / "model") == FILES


@pytest.mark.slow
def test_a_label_that_loses_its_clips_is_refused_and_nothing_is_written(tones, tmp_path, capsys, caplog):
    for name in ("x.wav", "y.wav"):
        (tmp_path / name).write_bytes(b"no audio")
    text = without_splits(tones, tmp_path).read_text()
    (tmp_path / "labels.csv").write_text(f"{text}\nx.wav,odd\ny.wav,odd\n")
    command = ["fit", str(tmp_path / "labels.csv"), "-o", str(tmp_path / "model"), "--workers", "0"]
    main = fit.main
    assert run(main, command[1:]) == 3
    assert "no clip of 'odd' is left" in caplog.text
    soundfile.write(tmp_path / "x.wav", np.zeros(4000), 16000)
    assert run(main, [*command[1:], "--force"]) == 1
    assert "'odd' has one clip" in capsys.readouterr().err
    assert Classifier.load(tmp_path / "model").labels == ("high", "low")


def test_an_earlier_classifier_is_replaced_only_by_force(tones, table, tmp_path):
    command = [str(tones), "-o", str(tmp_path / "model"), "-t", str(table)]
    assert fit.main(command) == 0
    before = (tmp_path / "model" / "classifier.json").read_bytes()
    with pytest.raises(ValueError, match="--force"):
        fit.main([*command, "--balance"])
    assert (tmp_path / "model" / "classifier.json").read_bytes() == before
    assert fit.main([*command, "--balance", "--force"]) == 0
    assert json.loads((tmp_path / "model" / "classifier.json").read_text())["about"]["balance"] is True


def test_without_matplotlib_there_is_no_picture_but_a_classifier(tones, table, tmp_path, monkeypatch, capsys):
    def missing():
        raise ValueError("pictures need matplotlib: pip install it")

    monkeypatch.setattr(figures, "refuse_no_matplotlib", missing)
    assert fit.main([str(tones), "-o", str(tmp_path / "model"), "-t", str(table)]) == 0
    assert files(tmp_path / "model") == FILES[:2]
    assert "need matplotlib" in capsys.readouterr().err


def test_options_of_embedding_do_not_go_with_a_table(tones, table, tmp_path):
    for words in (["--checkpoint", "x"], ["--window", "5"], ["--pool", "mean"], ["--precision", "bf16"]):
        with pytest.raises(UsageError, match=f"{words[0]} does not go with -t"):
            fit.main([str(tones), "-o", str(tmp_path / "model"), "-t", str(table), *words])
    with pytest.raises(ValueError, match="no layer '9'"):
        fit.main([str(tones), "-o", str(tmp_path / "model"), "-t", str(table), "--layer", "9"])
    assert not (tmp_path / "model").exists()


def test_an_encoder_without_a_name_by_which_it_could_be_loaded_again_is_refused(tones, make_encoder):
    with pytest.raises(ValueError, match="give checkpoint"):
        Classifier.fit(tones, encoder=make_encoder())


def test_python_fits_saves_and_loads(tones, table, tmp_path):
    classifier = Classifier.fit(tones, table=table)
    classifier.save(tmp_path / "model")
    loaded = Classifier.load(tmp_path / "model")
    vectors = np.random.default_rng(0).normal(size=(3, classifier.dimensions)).astype(np.float32)
    assert (loaded.probabilities(vectors) == classifier.probabilities(vectors)).all()
    with pytest.raises(ValueError, match="one or the other"):
        Classifier.fit(tones, table=table, checkpoint="bundled")


def test_a_layer_without_a_table_is_refused(tones):
    with pytest.raises(ValueError, match=r"layer '3' is one of a table .*readout=Readout\(layer=...\)"):
        Classifier.fit(tones, layer="3")
