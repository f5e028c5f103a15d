"""`maeast project`, and `--dims` of the commands that read its projection."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from labelled_clips import save_small_checkpoint, write_tones
from projections import projection_of, random_vectors, whitening_of

from maeast_upstream import Readout, load_audio, load_model
from maeast_upstream.checkpoint import CARD_NAME, PROJECTION_NAME, Card
from maeast_upstream.checkpoint.card import is_ours, marked
from maeast_upstream.cli import main, run
from maeast_upstream.config import scene_width
from maeast_upstream.data.embeddings import METADATA_KEY, EmbeddingTable
from maeast_upstream.extract.table import Embedded, EmbeddingSpec, make_schema, make_table
from maeast_upstream.fingerprint import fingerprint
from maeast_upstream.similarity import duplicates

OWN = Readout()


@pytest.fixture
def model(tmp_path):
    return save_small_checkpoint(tmp_path / "model")


@pytest.fixture
def clip(folder):
    return sorted(folder.iterdir())[0]


def write_table(path, model, rows=40, spec=None, readout=OWN):
    """A table of random vectors, which the metadata call those of a checkpoint."""
    encoder = load_model(model)
    spec = spec or EmbeddingSpec(readouts=(readout,))
    settings = {"checkpoint": fingerprint(encoder, readout), **spec.to_dict()}
    metadata = {METADATA_KEY: json.dumps({"settings": settings, "checkpoint": str(model)})}
    vectors = random_vectors(scene_width(encoder.config, readout), rows)
    clips = [Embedded(f"{i}.wav", 0, 0.0, 1000.0, row[None, None], np.zeros(1)) for i, row in enumerate(vectors)]
    pq.write_table(make_table(clips, spec, make_schema(spec, vectors.shape[1], metadata)), path)
    return path


def refused(capsys, *argv):
    assert run(main, [str(part) for part in argv]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_a_table_s_components_are_added_to_the_checkpoint_that_made_it(model, tmp_path, capsys):
    table = write_table(tmp_path / "t.parquet", model)
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    assert main(["project", str(table), "--dims", "20"]) == 0
    out = capsys.readouterr().out
    assert "share of the squared length of 256" in out
    assert f"wrote {model / PROJECTION_NAME}" in out
    projection = load_model(model).projection
    vectors = next(EmbeddingTable(table).blocks()).vectors
    expected = np.linalg.svd(vectors * projection.weights, full_matrices=False)[2][:20]
    components = projection.components * projection.scales[:, None]
    assert np.abs((components * expected).sum(axis=1) / np.linalg.norm(components, axis=1)).min() > 0.999
    assert {path.name: path.read_bytes() for path in model.iterdir() if path.name != PROJECTION_NAME} == before
    assert "20 of 256 dimensions, for layer last" in shown(capsys, model)
    assert "has a projection already; give --force" in refused(capsys, "project", table)
    assert main(["project", str(table), "--force", "--dims", "8"]) == 0
    assert load_model(model).projection.shape == (8, 256)


def shown(capsys, model):
    assert main(["info", str(model)]) == 0
    return capsys.readouterr().out


@pytest.mark.slow
def test_a_copy_has_the_projection_and_convert_keeps_it(model, tmp_path):
    table = write_table(tmp_path / "t.parquet", model)
    assert main(["project", str(table), "-o", str(tmp_path / "copy"), "--half"]) == 0
    assert load_model(model).projection is None
    copied = load_model(tmp_path / "copy")
    assert copied.projection.shape == (39, 256)  # a row fewer than the table has
    assert (tmp_path / "copy" / "model.safetensors").stat().st_size < (model / "model.safetensors").stat().st_size
    for command in ("convert", "export-s3prl"):
        assert main([command, str(tmp_path / "copy"), str(tmp_path / command)]) == 0
        assert load_model(tmp_path / command).projection.digest == copied.projection.digest
    assert main(["export-s3prl", str(tmp_path / "copy"), str(tmp_path / "export-s3prl")]) == 0  # again


def test_the_card_that_nobody_has_edited_follows_and_copies_have_one(model, tmp_path):
    load_model(model).save_pretrained(model, card=Card(license="mit"))
    table, card = write_table(tmp_path / "t.parquet", model), model / CARD_NAME
    assert main(["project", str(table), "--dims", "20"]) == 0
    assert "N from 1 to 20" in card.read_text()
    assert is_ours(card)
    assert main(["project", str(table), "--dims", "9", "-o", str(tmp_path / "copy")]) == 0
    assert main(["convert", str(tmp_path / "copy"), str(tmp_path / "again"), "--half"]) == 0
    for name in ("copy", "again"):
        text = (tmp_path / name / CARD_NAME).read_text()
        assert "license: mit" in text
        assert "N from 1 to 9" in text
        assert f'load_model("{name}")' in text
        assert is_ours(tmp_path / name / CARD_NAME)
    card.write_text(card.read_text() + "Mine.\n")
    edited = card.read_bytes()
    assert main(["project", str(table), "--dims", "8", "--force"]) == 0
    assert main(["project", str(table), "--dims", "8", "-o", str(tmp_path / "edited")]) == 0
    assert card.read_bytes() == edited == (tmp_path / "edited" / CARD_NAME).read_bytes()


@pytest.mark.parametrize("header", ["model-index: 3", "model-index: [3]", "license: mit"])
def test_a_card_whose_mark_somebody_has_computed_is_copied_as_it_is(model, tmp_path, header):
    text = marked(f"---\n{header}\n---\n\n# No section\n")
    (model / CARD_NAME).write_text(text)
    assert main(["convert", str(model), str(tmp_path / "copy")]) == 0
    assert (tmp_path / "copy" / CARD_NAME).read_text() == text


def test_what_cannot_be_projected_is_one_line_before_the_work(model, tmp_path, capsys):
    def table(**options):
        return write_table(tmp_path / "t.parquet", model, **options)

    assert "40 rows, too few for 40 components" in refused(capsys, "project", table(), "--dims", "40")
    assert "--dims must be from 1 to 256" in refused(capsys, "project", table(), "--dims", "257")
    assert "--dims must be from 1 to 256" in refused(capsys, "project", table(), "--dims", "-1")
    assert "--half goes with -o" in refused(capsys, "project", table(), "--half")
    assert "no layer '7'" in refused(capsys, "project", table(), "--layer", "7")
    assert "not the checkpoint that" in refused(capsys, "project", table(), "--checkpoint", "bundled")
    (tmp_path / "file").write_text("")
    assert "exists already" in refused(capsys, "project", table(), "-o", tmp_path / "file")
    assert "no checkpoint folder" in refused(capsys, "project", table(), "-o", tmp_path / "file", "--force")
    assert "no such file" in refused(capsys, "project", tmp_path / "nowhere.parquet")
    bundled = write_table(tmp_path / "b.parquet", "bundled", readout=load_model().config.readout, rows=3)
    assert "give -o FOLDER for a copy" in refused(capsys, "project", bundled)
    projection_of(load_model(model).config).save(model)
    short = table(readout=Readout(dims=5))
    assert "its vectors were shortened by --dims" in refused(capsys, "project", short, "--force")
    foreign = tmp_path / "f.parquet"
    pq.write_table(pq.read_table(short).replace_schema_metadata(None), foreign)
    assert "does not say which checkpoint made it" in refused(capsys, "project", foreign)


def test_the_own_readout_s_dims_are_kept(model, tmp_path, capsys):
    projection_of(load_model(model).config).save(model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "readout": {**config["readout"], "dims": 12}}))
    table = write_table(tmp_path / "t.parquet", model)
    fewer = refused(capsys, "project", table, "--force", "--dims", "11")
    assert "the checkpoint's own readout has dims 12: give --dims 12 or more" in fewer
    other = write_table(tmp_path / "o.parquet", model, readout=Readout(layer=1))
    assert "cannot be one for layer 1" in refused(capsys, "project", other, "--force", "--dims", "20")
    assert main(["project", str(table), "--force", "--dims", "12"]) == 0


def embed(clips, model, out, *options):
    assert main(["embed", str(clips), "--checkpoint", str(model), "-o", str(out), "--engine", "torch", *options]) == 0
    return EmbeddingTable(out)


def test_embed_projects_to_dims_in_every_format(model, clip, tmp_path, capsys):
    encoder = load_model(model)
    encoder.use_projection(projection_of(encoder.config))
    encoder.projection.save(model)
    expected = encoder.embed([torch.from_numpy(load_audio(clip))], readout=Readout(dims=6))[0].numpy()
    table = embed(clip, model, tmp_path / "e.parquet", "--dims", "6")
    assert "the checkpoint's projection gives vectors of 6 numbers" in capsys.readouterr().err
    assert (table.dimensions, table.readout, table.origin.reduction) == (6, Readout(dims=6), None)
    assert table.origin.fingerprint == fingerprint(encoder, Readout(dims=6))
    np.testing.assert_allclose(next(table.blocks()).vectors[0], expected, atol=1e-5)
    assert embed(clip, model, tmp_path / "folder", "--dims", "6").dimensions == 6
    embed(clip, model, tmp_path / "e.parquet", "--dims", "6")
    assert "complete already" in capsys.readouterr().out
    projection_of(encoder.config, seed=1).save(model)
    argv = ["embed", clip, "--checkpoint", model, "-o", tmp_path / "e.parquet", "--dims", "6", "-q"]
    assert "was begun with checkpoint" in refused(capsys, *argv)


def test_embed_gives_full_vectors_and_frames_of_a_checkpoint_whose_readout_has_dims(model, clip, tmp_path, capsys):
    projection_of(load_model(model).config).save(model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "readout": {**config["readout"], "dims": 12}}))
    assert embed(clip, model, tmp_path / "own.parquet").dimensions == 12
    assert embed(clip, model, tmp_path / "full.parquet", "--dims", "full").dimensions == 256
    assert embed(clip, model, tmp_path / "other.parquet", "--layer", "1").readout == Readout(layer=1)
    frames = ["embed", str(clip), "--checkpoint", str(model), "--kind", "frames", "-o"]
    assert main([*frames, str(tmp_path / "f.parquet")]) == 0
    assert pq.read_schema(tmp_path / "f.parquet").field("vector").type.list_size == 256
    capsys.readouterr()
    assert "dims goes with kind scene" in refused(capsys, *frames, tmp_path / "f2", "--dims", 4)


def test_without_a_projection_of_this_readout_embed_reduces_the_table_as_before_and_says_so(
    model, folder, tmp_path, capsys
):
    projection_of(load_model(model).config, Readout(layer=1)).save(model)
    table = embed(folder, model, tmp_path / "e.parquet", "--dims", "3")
    assert (table.dimensions, table.readout) == (3, Readout())
    assert table.origin.reduction is not None
    assert "of 20 numbers for layer 1, mel concat" in (said := capsys.readouterr().err)
    assert "cannot give 3 for this readout: the table will be reduced to its own principal components" in said


@pytest.mark.slow
def test_probe_fit_and_predict_read_short_vectors(model, tmp_path, capsys):
    labels = write_tones(tmp_path)
    table = write_table(tmp_path / "t.parquet", model)
    probe = ["probe", str(labels), "--checkpoint", str(model)]
    assert "the checkpoint stores no projection" in refused(capsys, *probe, "--dims", "4")
    assert main(["project", str(table), "--dims", "20"]) == 0
    assert main([*probe, "--dims", "full,20,4"]) == 0
    out = capsys.readouterr().out
    assert "hop native, dims 4" in out
    assert "dims must be at most 20" in refused(capsys, *probe, "--dims", "21")
    assert "random weights have no projection" in refused(capsys, *probe, "--dims", "4", "--features", "random")
    fit = ["fit", str(labels), "--checkpoint", str(model), "-o"]
    assert main([*fit, str(tmp_path / "short"), "--dims", "4"]) == 0
    assert main([*fit, str(tmp_path / "long")]) == 0
    predict = ["predict", str(tmp_path / "0.wav"), "--engine", "torch"]
    assert main([*predict, "-m", str(tmp_path / "short"), "-o", str(tmp_path / "p.csv")]) == 0
    vectors = embed(tmp_path / "0.wav", model, tmp_path / "v.parquet", "--dims", "4").path
    capsys.readouterr()
    argv = ["predict", str(vectors), "-o", str(tmp_path / "q.csv"), "-m"]
    assert main([*argv, str(tmp_path / "short")]) == 0
    error = refused(capsys, *argv, tmp_path / "long")
    assert "--dims 4; the classifier reads" in error
    projection_of(load_model(model).config, seed=1).save(model)
    error = refused(capsys, *predict, "-m", tmp_path / "short", "-o", tmp_path / "r.csv")
    assert "other weights, settings or projection" in error


def test_help_names_dims_beside_the_other_settings(capsys):
    for command in ("embed", "fit", "probe", "export", "hear"):
        assert main([command, "--help"]) == 0
        assert "--dims N" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["many", "", "4.5", "9" * 5000])
def test_dims_that_are_no_number_are_one_line(model, clip, tmp_path, capsys, text):
    error = refused(capsys, "embed", clip, "--checkpoint", model, "-o", tmp_path / "e.parquet", "--dims", text)
    assert "--dims must be full or a whole number" in error
    assert not (tmp_path / "e.parquet").exists()


def test_a_kill_leaves_the_projection_that_was_there(model, tmp_path, monkeypatch):
    table = write_table(tmp_path / "t.parquet", model)
    assert main(["project", str(table)]) == 0
    before = (model / PROJECTION_NAME).read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run(main, ["project", str(table), "--force", "--dims", "5"]) == 1
    assert (model / PROJECTION_NAME).read_bytes() == before
    assert sorted(path.name for path in model.iterdir()) == ["config.json", "model.safetensors", PROJECTION_NAME]


def test_a_moved_checkpoint_is_named(model, tmp_path, capsys):
    table = write_table(tmp_path / "t.parquet", model)
    shutil.move(model, tmp_path / "moved")
    assert "--checkpoint names the place where it is now" in refused(capsys, "project", table)
    assert main(["project", str(table), "--checkpoint", str(tmp_path / "moved")]) == 0
    assert load_model(tmp_path / "moved").projection.shape == (39, 256)


def test_a_whitening_is_fitted_stored_used_and_can_be_left_out(model, folder, tmp_path, capsys):
    table = write_table(tmp_path / "t.parquet", model)
    assert main(["project", str(table), "--whiten"]) == 0
    assert "--whiten -o OUT" in capsys.readouterr().out
    encoder = load_model(model)
    vectors = next(EmbeddingTable(table).blocks()).vectors
    np.testing.assert_allclose(encoder.projection.whitening.mean, vectors.mean(axis=0), atol=1e-5)
    assert "whitening, 0 of 256 dimensions, for layer last" in shown(capsys, model)
    found = {}
    for options in ([], ["--whiten"], ["--no-whiten"]):
        out = tmp_path / "out.parquet"
        assert main(["embed", str(folder), "--checkpoint", str(model), "-o", str(out), "--force", *options]) == 0
        opened = EmbeddingTable(out)
        found[" ".join(options)] = opened.readout, next(opened.blocks()).vectors, opened.origin.fingerprint
    white, plain = found["--whiten"], found["--no-whiten"]
    assert (white[0], plain[0], found[""][0]) == (Readout(whiten=True), OWN, OWN)
    np.testing.assert_allclose(white[1], encoder.projection.whitening.apply(plain[1]), atol=1e-3)
    assert white[2] != plain[2] == found[""][2]


def test_components_of_whitened_vectors_keep_the_whitening(model, tmp_path, capsys):
    assert main(["project", str(write_table(tmp_path / "t.parquet", model)), "--whiten"]) == 0
    whitening = load_model(model).projection.whitening
    table = write_table(tmp_path / "white.parquet", model, readout=Readout(whiten=True))
    capsys.readouterr()
    assert "whitened already" in refused(capsys, "project", table, "--whiten", "--force")
    assert "has a projection already; give --force" in refused(capsys, "project", table)
    assert main(["project", str(table), "--dims", "20", "--force"]) == 0
    both = load_model(model).projection
    assert (both.readout, both.shape) == (Readout(whiten=True), (20, 256))
    assert np.array_equal(both.whitening.groups, whitening.groups)


def test_a_copy_for_another_readout_than_the_checkpoint_s_own_gets_that_readout(model, tmp_path, capsys):
    assert main(["project", str(write_table(tmp_path / "t.parquet", model)), "--whiten"]) == 0
    config = json.loads((model / "config.json").read_text())
    config["readout"]["whiten"] = True
    (model / "config.json").write_text(json.dumps(config))
    plain, other = (write_table(tmp_path / f"{i}.parquet", model, readout=Readout(layer=i)) for i in ("last", 1))
    capsys.readouterr()
    for table, options in ((plain, ["--dims", "8"]), (other, ["--whiten"])):
        assert "give -o FOLDER for a copy with this readout" in refused(capsys, "project", table, *options, "--force")
        assert main(["project", str(table), *options, "-o", str(tmp_path / "copy"), "--force"]) == 0
        assert "the copy's own readout will be that of the table" in capsys.readouterr().err
        copy = load_model(tmp_path / "copy")
        assert (copy.config.readout, copy.projection.readout.full) == (EmbeddingTable(table).readout,) * 2


def test_copies_among_whitened_vectors_are_less_similar(model, tmp_path):
    for readout, expected in ((OWN, 0.99), (Readout(whiten=True), 0.9)):
        if readout.whiten:
            whitening_of(load_model(model).config).save(model)
        table = write_table(tmp_path / "t.parquet", model, readout=readout)
        assert duplicates(table, compare="vectors").threshold == expected
        assert duplicates(table, 0.95, compare="vectors").threshold == 0.95
    white = write_table(tmp_path / "white.parquet", model, readout=Readout(whiten=True))
    assert main(["project", str(white), "--dims", "20", "--force"]) == 0
    short = write_table(tmp_path / "short.parquet", model, readout=Readout(whiten=True, dims=5))
    assert duplicates(short, compare="vectors").threshold == 0.99


def test_what_cannot_be_whitened_is_one_line(model, tmp_path, capsys):
    few = write_table(tmp_path / "few.parquet", model, rows=8)
    assert "8 rows, too few for a whitening; expected at least 9" in refused(capsys, "project", few, "--whiten")
    assert "--dims goes without --whiten" in refused(capsys, "project", few, "--whiten", "--dims", "4")
    clips = tmp_path / "clips"
    clips.mkdir()
    out = tmp_path / "o.parquet"
    for command in (["embed", clips, "-o", out], ["embed", clips, "-o", out, "--kind", "frames"]):
        write_tones(clips)
        error = refused(capsys, *command, "--checkpoint", model, "--whiten")
        assert "stores no whitening" in error or "--whiten goes with --kind scene" in error
    assert not out.exists()
