"""``maeast predict``: labels from audio and from tables, resumable, in the formats that people use."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from classifiers import random_classifier

from maeast_upstream import Readout, load_model
from maeast_upstream.classification.classifier import Classifier
from maeast_upstream.classification.prediction_table import PredictionSpec, label_rows, margins_of
from maeast_upstream.cli import ExitStatus, main
from maeast_upstream.data.embeddings import read_embeddings
from maeast_upstream.data.labelled_segments import read_labelled_segments
from maeast_upstream.data.windows import Windows
from maeast_upstream.fingerprint import fingerprint

AUDIO = Path(__file__).parents[2] / "data" / "audio"
LONG = AUDIO / "long_drums.opus"
CLIPS = sorted(AUDIO.glob("tone*.opus"))[:6]
COLUMNS = ["path", "segment", "start_ms", "end_ms", "label", "probability", "margin"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tones"
    random_classifier().save(path)
    return path


def run(*arguments) -> int:
    return main(["predict", *map(str, arguments)])


def test_each_clip_gets_its_best_label(folder, tmp_path):
    out = tmp_path / "found.parquet"
    assert run(*CLIPS, "-m", folder, "-o", out) == ExitStatus.DONE
    table = pq.read_table(out)
    assert table.column_names == COLUMNS
    assert table["path"].to_pylist() == list(map(str, CLIPS))
    classifier, model = Classifier.load(folder), load_model()
    expected = classifier.probabilities(np.concatenate([model.embed(str(path)).numpy() for path in CLIPS]))
    assert table["label"].to_pylist() == [classifier.labels[best] for best in expected.argmax(1)]
    np.testing.assert_allclose(table["probability"], expected.max(1), atol=1e-4)
    first, second = np.sort(expected, axis=1)[:, :-3:-1].T
    np.testing.assert_allclose(table["margin"], first - second, atol=2e-4)


def test_a_table_of_embeddings_gives_the_same_labels_as_the_audio(folder, tmp_path):
    embedded, found, same = tmp_path / "t.parquet", tmp_path / "found.parquet", tmp_path / "same.parquet"
    options = ["--window", "1", "--overlap", "0.5"]
    assert main(["embed", str(LONG), *options, "-o", str(embedded)]) == ExitStatus.DONE
    assert run(LONG, *options, "-m", folder, "-o", found, "--top", 2) == ExitStatus.DONE
    assert run(embedded, "-m", folder, "-o", same, "--top", 2) == ExitStatus.DONE
    assert pq.read_table(found).equals(pq.read_table(same))
    rows = list(Classifier.load(folder).predict(embedded, spec=PredictionSpec(top=2)))
    assert rows == pq.read_table(same).to_pylist()
    windows = Windows(1, 0.5)
    assert rows == list(
        Classifier.load(folder).predict([LONG], load_model(), spec=PredictionSpec(top=2), windows=windows)
    )
    assert len(rows) == 2 * len(read_embeddings(embedded).paths)


def test_the_windows_that_it_was_fitted_on_are_the_default(tmp_path):
    random_classifier(windows=Windows(2.0)).save(tmp_path / "m")
    assert run(LONG, "-m", tmp_path / "m", "-o", tmp_path / "found.parquet") == ExitStatus.DONE
    rows = pq.read_table(tmp_path / "found.parquet").to_pylist()
    assert len(rows) > 1
    assert {row["end_ms"] - row["start_ms"] for row in rows} == {2000.0}


def test_all_scores_have_a_column_per_label_and_a_row_per_clip(folder, tmp_path):
    out = tmp_path / "found.csv"
    assert run(*CLIPS, "-m", folder, "-o", out, "--all-scores") == ExitStatus.DONE
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [*COLUMNS, "p_a", "p_b", "p_c"]
    for row in rows:
        scores = {label: float(row[f"p_{label}"]) for label in "abc"}
        assert sum(scores.values()) == pytest.approx(1, abs=1e-6)
        assert row["label"] == max(scores, key=scores.get)
        assert float(row["probability"]) == scores[row["label"]]


def test_a_multi_label_classifier_gives_the_labels_above_their_thresholds(tmp_path):
    classifier = random_classifier(multi_label=True, thresholds=[0.0, 1.0, 0.5])
    classifier.save(tmp_path / "m")
    assert run(*CLIPS, "-m", tmp_path / "m", "-o", tmp_path / "found.parquet") == ExitStatus.DONE
    labels = pq.read_table(tmp_path / "found.parquet")["label"].to_pylist()
    assert labels.count("a") == len(CLIPS)
    probabilities = np.array([[0.2, 0.9, 0.6], [0.1, 0.2, 0.3]], np.float32)
    rows = label_rows(classifier, probabilities, PredictionSpec())
    assert list(zip(rows.rows, rows.labels, strict=True)) == [(0, 2), (0, 0), (1, 0)]
    np.testing.assert_allclose(margins_of(classifier, probabilities), [0.1, 0.1], atol=1e-6)


def test_a_run_in_parts_that_was_interrupted_gives_the_same_rows(folder, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole.parquet", tmp_path / "parts"
    assert run(*CLIPS, "-m", folder, "-o", whole) == ExitStatus.DONE
    monkeypatch.setattr("maeast_upstream.extract.parts.PART_CLIPS", 2)
    assert run(*CLIPS, "-m", folder, "-o", parts) == ExitStatus.DONE
    sorted(parts.glob("part-*.parquet"))[1].unlink()
    assert run(*CLIPS, "-m", folder, "-o", parts) == ExitStatus.DONE
    assert pq.read_table(parts).equals(pq.read_table(whole))


def test_another_classifier_does_not_continue_a_run(folder, tmp_path, capsys):
    random_classifier(bias=[1, 0, 0]).save(tmp_path / "other")
    assert run(*CLIPS, "-m", folder, "-o", tmp_path / "found") == ExitStatus.DONE
    assert run(*CLIPS, "-m", tmp_path / "other", "-o", tmp_path / "found") == ExitStatus.FAILED
    assert "classifier" in capsys.readouterr().err
    assert run(*CLIPS, "-m", tmp_path / "other", "-o", tmp_path / "found", "--force") == ExitStatus.DONE


def test_what_cannot_be_read_is_listed_and_the_rest_is_labelled(folder, tmp_path, capsys):
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    out = tmp_path / "found.csv"
    assert run(CLIPS[0], tmp_path / "bad.wav", "-m", folder, "-o", out) == ExitStatus.PARTIAL
    assert "bad.wav" in (tmp_path / "found.csv.errors.tsv").read_text()
    assert len(out.read_text().splitlines()) == 2
    assert run(tmp_path / "bad.wav", "-m", folder, "-o", tmp_path / "none.csv") == ExitStatus.FAILED
    assert not (tmp_path / "none.csv").exists()


def test_labels_do_not_become_parts_of_the_table(folder, tmp_path, capsys):
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "part-0.parquet").write_bytes(b"")
    for out in (parts / "found.parquet", parts / "found"):
        assert run(parts, "-m", folder, "-o", out) == ExitStatus.FAILED
        assert "in a folder that is an input" in capsys.readouterr().err
    assert len(list(parts.iterdir())) == 1


def test_tables_that_the_classifier_does_not_read_are_refused(folder, tmp_path, capsys):
    def refused(*arguments) -> str:
        capsys.readouterr()
        assert run(*arguments, "-o", tmp_path / "no.parquet") == ExitStatus.FAILED
        assert not (tmp_path / "no.parquet").exists()
        assert not (tmp_path / "no.parquet.parts").exists()
        (line,) = capsys.readouterr().err.splitlines()
        return line

    table = tmp_path / "t.parquet"
    assert main(["embed", *map(str, CLIPS[:2]), "--layer", "3", "-o", str(table)]) == ExitStatus.DONE
    capsys.readouterr()
    assert "made with --layer 3" in refused(table, "-m", folder)
    plain = replace(load_model().config.readout, whiten=False)
    random_classifier(fingerprint="0" * 64, readout=plain).save(tmp_path / "other")
    assert "made with another checkpoint" in refused(table, "-m", tmp_path / "other")
    assert "not the checkpoint" in refused(CLIPS[0], "-m", tmp_path / "other")
    assert "beside other inputs" in refused(table, CLIPS[0], "-m", folder)
    for option, value in [("window", 1), ("relative-to", tmp_path), ("checkpoint", "elsewhere"), ("device", "cpu"),
                          ("batch-seconds", 60), ("ray", "local")]:  # fmt: skip
        assert f"--{option} goes with audio" in refused(table, f"--{option}", value, "-m", folder)
    timeless = embed_clips(tmp_path / "timeless.parquet")
    pq.write_table(pq.read_table(timeless).drop_columns(["end_ms"]), timeless)
    assert "rows without end_ms" in refused(timeless, "-m", folder)
    pq.write_table(pq.read_table(table).replace_schema_metadata(None), tmp_path / "foreign.parquet")
    assert "does not say which checkpoint" in refused(tmp_path / "foreign.parquet", "-m", folder)
    own = fingerprint(load_model())
    random_classifier(fingerprint=own, readout=Readout(layer=3, hop_ms=40), mean=np.zeros(1536), scale=np.ones(1536),
                      weight=np.zeros((3, 1536))).save(tmp_path / "wide")  # fmt: skip
    assert "the classifier reads --layer 3 --mel concat --pool mean --hop-ms 40" in refused(
        table, "-m", tmp_path / "wide"
    )


def test_annotations_of_each_recording_have_the_rows_of_the_table(folder, tmp_path):
    options = [LONG, CLIPS[0], "--window", 1, "-m", folder]
    assert run(*options, "-o", tmp_path / "found.parquet") == ExitStatus.DONE
    rows = pq.read_table(tmp_path / "found.parquet").to_pylist()
    for form, ending in (("raven", ".selections.txt"), ("audacity", ".txt")):
        out = tmp_path / form
        assert run(*options, "-o", out, "--format", form) == ExitStatus.DONE
        assert run(*options, "-o", out, "--format", form) == ExitStatus.DONE
        (written,) = out.rglob(f"long_drums.opus{ending}")
        read = list(read_labelled_segments(written))
        expected = [(row["label"], row["start_ms"], row["end_ms"]) for row in rows if row["path"] == str(LONG)]
        assert [(row.label, row.start_ms, row.end_ms) for row in read] == expected
        assert {row.path for row in read} == {str(LONG)}
        assert run(*options, "-o", out, "--format", form, "--merge", "--force") == ExitStatus.DONE
        merged = list(read_labelled_segments(written))
        assert 0 < len(merged) <= len(read)
        assert {row.label for row in merged} == {row.label for row in read}
        assert sum(row.end_ms - row.start_ms for row in merged) <= sum(row.end_ms - row.start_ms for row in read)


def embed_clips(out, *options) -> Path:
    assert main(["embed", *map(str, CLIPS[:2]), *map(str, options), "-o", str(out)]) == ExitStatus.DONE
    return out


def test_annotations_that_were_corrected_are_kept_until_forced(folder, tmp_path, caplog):
    command = [*CLIPS[:2], "-m", folder, "-o", tmp_path / "found", "--format", "audacity"]
    assert run(*command) == ExitStatus.DONE
    corrected, other = sorted((tmp_path / "found").rglob("*.txt"))
    before = corrected.read_text(), other.read_text()
    corrected.write_text("0.1\t0.2\tcorrected\n")
    assert run(*command, "--merge") == ExitStatus.DONE
    assert f"kept, as changed since it was written: 1 file, such as {corrected}" in caplog.text
    assert corrected.read_text() == "0.1\t0.2\tcorrected\n"
    assert run(*command, "--force") == ExitStatus.DONE
    assert (corrected.read_text(), other.read_text()) == before


def test_the_other_form_of_annotations_is_removed_when_it_is_replaced(folder, tmp_path):
    table, out = embed_clips(tmp_path / "t.parquet"), tmp_path / "found"
    for given in (table, CLIPS[0]):
        for form in ("raven", "audacity"):
            assert run(given, "-m", folder, "-o", out, "--format", form, "--force") == ExitStatus.DONE
            assert {path.name.endswith(".selections.txt") for path in out.rglob("*.txt")} == {form == "raven"}


def test_labels_of_a_table_do_not_replace_the_parts_of_another_run(folder, tmp_path, capsys):
    table, parts = embed_clips(tmp_path / "t.parquet"), embed_clips(tmp_path / "parts")
    before = pq.read_table(parts)
    assert run(table, "-m", folder, "-o", parts) == ExitStatus.FAILED
    assert "exists already; give --force" in capsys.readouterr().err
    parts.rename(tmp_path / "found.parquet.parts")  # what an interrupted `embed -o found.parquet` leaves
    assert run(table, "-m", folder, "-o", tmp_path / "found.parquet") == ExitStatus.FAILED
    assert "give another -o, or --force" in capsys.readouterr().err
    assert pq.read_table(tmp_path / "found.parquet.parts").equals(before)


@pytest.mark.parametrize("name", ["table.parquet", "parts"])
def test_embeddings_and_labels_of_the_same_inputs_are_different_outputs(folder, tmp_path, capsys, name):
    out = embed_clips(tmp_path / name)
    assert run(*CLIPS[:2], "-m", folder, "-o", out) == ExitStatus.FAILED
    assert "was begun with kind 'scene', not 'predictions'" in capsys.readouterr().err
    assert run(*CLIPS[:2], "-m", folder, "-o", out, "--force") == ExitStatus.DONE
    assert pq.read_table(out).column_names == COLUMNS
    assert main(["embed", *map(str, CLIPS[:2]), "-o", str(out)]) == ExitStatus.FAILED
    assert "was begun with kind 'predictions', not 'scene'" in capsys.readouterr().err


def test_an_iterator_of_files_is_labelled_as_a_list_is(folder):
    classifier, model = Classifier.load(folder), load_model()
    rows = list(classifier.predict((path for path in CLIPS[:2]), encoder=model, workers=0))
    assert [row["path"] for row in rows] == list(map(str, CLIPS[:2]))
    assert rows == list(classifier.predict(CLIPS[:2], encoder=model, workers=0))


def test_windows_for_a_table_are_refused_in_python(folder, tmp_path):
    table = embed_clips(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="windows go with audio; .*t.parquet is a table"):
        list(Classifier.load(folder).predict(table, windows=Windows(1.0)))


def test_windows_other_than_those_it_was_fitted_on_are_named(folder, tmp_path, caplog):
    random_classifier(windows=Windows(2.0)).save(tmp_path / "m")
    table = embed_clips(tmp_path / "t.parquet", "--window", 1)
    assert run(table, "-m", tmp_path / "m", "-o", tmp_path / "found.csv") == ExitStatus.DONE
    expected = "windows of 1 s with 0 s overlap, and the classifier was fitted on windows of 2 s with 0 s overlap"
    assert expected in caplog.text
    caplog.clear()
    assert run(table, "-m", folder, "-o", tmp_path / "whole.csv") == ExitStatus.DONE
    assert "fitted on" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("given", ["audio", "table"])
def test_annotations_name_the_recordings_that_paths_are_relative_to(folder, tmp_path, monkeypatch, given):
    inputs, options = [CLIPS[0], CLIPS[1]], ["--relative-to", AUDIO.parent]
    if given == "table":
        assert main(["embed", *map(str, [*inputs, "-o", tmp_path / "t.parquet", *options])]) == ExitStatus.DONE
        inputs, options = [tmp_path / "t.parquet"], []
    monkeypatch.chdir(tmp_path)
    for form in ("raven", "audacity"):
        assert run(*inputs, "-m", folder, "-o", form, "--format", form, *options) == ExitStatus.DONE
        names = {path.relative_to(form).as_posix() for path in Path(form).rglob("*.txt")}
        assert {name.partition(".opus")[0] for name in names} == {f"audio/{path.stem}" for path in CLIPS[:2]}
        assert {row.path for row in read_labelled_segments(Path(form))} == {str(path) for path in CLIPS[:2]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top", "0"], "top must be at least 1"),
        (["--threshold", "1.5"], "threshold must be from 0 to 1"),
        (["--threshold", "high"], "--threshold: must be a probability or chosen, got 'high'"),
        (["--all-scores", "--top", "2"], "give neither top nor threshold"),
        (["--overlap", "1"], "--overlap goes with --window"),
        (["--relative-to", "nothing"], "nothing: no such folder, which paths should be relative to"),
        (["--merge"], "--merge goes with --format raven or audacity"),
    ],
)
def test_options_out_of_range_are_refused(folder, tmp_path, capsys, arguments, message):
    assert run(CLIPS[0], "-m", folder, "-o", tmp_path / "no.parquet", *arguments) == ExitStatus.FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
