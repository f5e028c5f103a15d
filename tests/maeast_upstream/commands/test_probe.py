import argparse
import builtins
import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import ThreadpoolController

from maeast_upstream.arguments import readouts_from
from maeast_upstream.audio.reading import AudioError, read_audio
from maeast_upstream.commands import probe
from maeast_upstream.config import EncoderConfig
from maeast_upstream.encoder import Encoder
from maeast_upstream.evaluation import comparison, features, linear_probe
from maeast_upstream.evaluation.features import embeddings, logmel_features, randomized
from maeast_upstream.evaluation.labelled_set import read_labels
from maeast_upstream.frontend import FrontendConfig
from maeast_upstream.model import ModelConfig
from maeast_upstream.readout import Readout

DATA = Path(__file__).parents[2] / "data"
TINY = EncoderConfig(
    model=ModelConfig(
        patch_mels=16,
        num_mel_bins=32,
        embed_dim=16,
        depth=2,
        num_heads=2,
        ffn_dim=32,
        decoder_dim=16,
        decoder_depth=1,
        decoder_heads=2,
        decoder_ffn_dim=32,
    ),
    frontend=FrontendConfig(num_mel_bins=32),
)
DRUMS = {"cymbal_crash", "kick", "snare", "tom"}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return randomized(Encoder(TINY))


@pytest.fixture(autouse=True)
def bundled(monkeypatch, encoder):
    monkeypatch.setattr(comparison, "load_model", lambda *_: encoder)


@pytest.fixture(scope="module")
def drums(tmp_path_factory) -> Path:
    """Four classes of the real clips."""
    folder = tmp_path_factory.mktemp("drums")
    with (DATA / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] in DRUMS]
    lines = [f"{(DATA / row['path']).resolve()},{row['label']},{row['split']}" for row in rows]
    (folder / "labels.csv").write_text("\n".join(["path,label,split", *lines]))
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def tones(tmp_path_factory) -> Path:
    """Two classes that anything tells apart: low and high tones."""
    folder = tmp_path_factory.mktemp("tones")
    lines = ["path,label,split"]
    for number in range(24):
        low, split = number % 2, ["train", "train", "valid", "test"][number % 8 // 2]
        hz = (200 if low else 3000) + 10 * number
        samples = 0.3 * np.sin(2 * np.pi * hz * np.arange(3000 + 300 * number) / 16000)
        soundfile.write(folder / f"{number}.wav", samples, 16000)
        lines.append(f"{number}.wav,{'low' if low else 'high'},{split}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder / "labels.csv"


def clusters(dimensions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    number = rng.integers(5, size=150)
    centres = rng.normal(size=(5, dimensions))
    features = centres[number] + 2 * rng.normal(size=(150, dimensions))
    splits = np.array(["train"] * 80 + ["valid"] * 30 + ["test"] * 40)
    return features, np.array([f"class {n}" for n in number]), splits


def protocol(features, labels, splits) -> tuple[float, float, float]:
    """The protocol spelt out, in all dimensions."""
    train, valid, test = (splits == name for name in ("train", "valid", "test"))
    x = (features - features[train].mean(0)) / features[train].std(0)
    fits = [
        LogisticRegression(C=c, max_iter=3000, tol=1e-4).fit(x[train], labels[train])
        for c in (0.001, 0.01, 0.1, 1, 10, 100)
    ]
    best = max(fits, key=lambda fit: (fit.score(x[valid], labels[valid]), -fit.C))
    return (
        100 * best.score(x[valid], labels[valid]),
        100 * best.score(x[test], labels[test]),
        best.C,
    )


@pytest.mark.parametrize("dimensions", [20, 400])
def test_scores_equal_the_protocol_fitted_in_all_dimensions(dimensions):
    data = clusters(dimensions)
    score = linear_probe.probe(*data)
    assert (score.valid, score.test, score.c) == pytest.approx(protocol(*data))


def test_rotating_to_the_train_rows_keeps_their_distances():
    features, _, splits = clusters(400)
    train = splits == "train"
    x = (features - features[train].mean(0)) / features[train].std(0)
    rotated = linear_probe.standardize(features, train)
    assert rotated.shape[1] < train.sum()
    np.testing.assert_allclose(rotated[train] @ rotated[train].T, x[train] @ x[train].T, atol=1e-8)
    np.testing.assert_allclose(rotated @ rotated[train].T, x @ x[train].T, atol=1e-8)


def test_a_dimension_without_spread_and_a_far_outlier_do_no_harm():
    features, labels, splits = clusters(20)
    features[:, 3] = 1.0
    features[-1, 4] = 1e30
    x = linear_probe.standardize(features, splits == "train")
    assert np.isfinite(x).all()
    assert np.abs(x).max() == linear_probe.MAX_STANDARD_DEVIATIONS
    assert not x[:, 3].any()
    assert linear_probe.probe(features, labels, splits).valid > 40


def test_the_smaller_c_wins_a_tie():
    features = np.array([[-1.0], [1.0]] * 6)
    labels = np.array(["low", "high"] * 6)
    splits = np.array(["train"] * 6 + ["valid"] * 4 + ["test"] * 2)
    assert linear_probe.probe(features, labels, splits) == linear_probe.Score(100, 100, 0.001)


def test_threads_do_not_wait_for_each_other_in_small_products(monkeypatch):
    seen, fit = set(), LogisticRegression.fit

    def watched(model, *data):
        seen.update(pool["num_threads"] for pool in ThreadpoolController().info())
        return fit(model, *data)

    monkeypatch.setattr(LogisticRegression, "fit", watched)
    linear_probe.probe(*clusters(20))
    assert seen == {1}


def test_features_of_a_batch_are_those_of_embed(encoder, tones):
    one = read_labels(tones)
    readouts = [
        Readout(layer=2, pool="mean_std"),
        Readout(layer="all", mel="mean", pool="mean_max"),
        Readout(layer="mean", mel="mean", hop_ms=40.0),
        Readout(layer=1),
    ]
    vectors = embeddings(one.paths, encoder, readouts)
    clips = [torch.from_numpy(read_audio(path)) for path in one.paths]
    for readout in readouts:
        alone = encoder.embed(clips, readout=readout).numpy()
        np.testing.assert_allclose(vectors[readout], alone, atol=1e-5)


def test_a_grid_costs_one_pass_of_each_clip(encoder, tones, monkeypatch):
    seen = []
    read = Encoder.read
    monkeypatch.setattr(
        Encoder,
        "read",
        lambda self, clips, *a, **k: (seen.extend(clips), read(self, clips, *a, **k))[1],
    )
    args = argparse.Namespace(layer="1,2,mean,all", mel="concat,mean", pool="mean,mean_std", hop_ms=None)
    grid = readouts_from(args, Readout())
    embeddings(read_labels(tones).paths, encoder, grid)
    assert len(grid) == 16
    assert len(seen) == 24


def test_reading_in_blocks_changes_nothing(tones, monkeypatch):
    paths = read_labels(tones).paths
    whole = logmel_features(paths)
    monkeypatch.setattr(features, "READ_SECONDS", 1.0)
    np.testing.assert_array_equal(logmel_features(paths), whole)


def test_logmel_features_are_those_of_torchaudio(drums):
    kaldi = pytest.importorskip("torchaudio").compliance.kaldi
    path = read_labels(drums).paths[0]
    logmel = kaldi.fbank(
        torch.from_numpy(read_audio(path))[None],
        window_type="hanning",
        num_mel_bins=128,
        htk_compat=True,
        use_energy=False,
        dither=0.0,
    ).numpy()
    expected = np.concatenate([logmel.mean(0), logmel.std(0)])
    np.testing.assert_allclose(logmel_features([path])[0], expected, atol=1e-3)


def test_a_clip_under_one_window_has_logmel_features(tmp_path):
    soundfile.write(tmp_path / "click.wav", np.full(100, 0.5), 16000)
    assert np.isfinite(logmel_features([tmp_path / "click.wav"])).all()


def test_easy_classes_are_told_apart_by_every_kind_of_features(tones, capsys):
    for kind in ("model", "random", "logmel"):
        assert probe.main([str(tones), "--features", kind]) == 0
        assert capsys.readouterr().out.splitlines()[-1].endswith("100.0  100.0")


def test_logmel_beats_chance_on_real_clips(drums):
    (outcome,) = comparison.score_logmel([read_labels(drums)]).outcomes
    assert outcome.valid > 50


def test_random_weights_come_from_the_seed_and_leave_the_global_generator_alone(
    encoder,
):
    state = torch.get_rng_state()
    weights = [randomized(encoder, seed).network.patch_embed.weight for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_grid_prints_valid_of_all_and_writes_test_of_the_best_only(tones, tmp_path, capsys):
    out = tmp_path / "scores.csv"
    assert probe.main([str(tones), "--layer", "1,last", "--pool", "mean,mean_std", "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("readout ")
    assert printed.count("layer 1, mel concat, pool mean_std, hop native") in (1, 2)
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert all(row["valid_accuracy"] for row in rows)
    chosen = [row for row in rows if row["test_accuracy"]]
    assert len(chosen) == 1
    assert f"bundled: {chosen[0]['readout']}" in printed
    assert chosen[0]["set"] == tones.parent.name
    assert (chosen[0]["train"], chosen[0]["valid"], chosen[0]["test"]) == (
        "12",
        "6",
        "6",
    )
    assert list(tmp_path.iterdir()) == [out]


def test_several_sets_give_a_line_each_and_their_mean(tones, drums, capsys):
    assert probe.main([str(tones), str(drums), "--features", "logmel"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[0] for line in lines] == [
        tones.parent.name,
        drums.parent.name,
        "mean",
    ]
    tests = [float(line.split()[-1]) for line in lines]
    assert tests[2] == pytest.approx(sum(tests[:2]) / 2, abs=0.06)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace("label", "class"),
            "no column 'label'; expected path,label,split",
        ),
        (
            lambda text: text.replace("valid", "validation"),
            "unknown split 'validation'",
        ),
        (lambda text: text.replace("valid", "train"), "no clip in split valid"),
        (
            lambda text: text.replace("low,test", "bass,test", 1),
            "no clip of class 'bass' in train",
        ),
        (lambda text: text.replace("low", "high"), "only one class, 'high'"),
        (lambda text: text.replace("3.wav", "nowhere.wav", 1), "no such clip"),
        (lambda text: text.replace("3.wav", "4.wav", 1), "a second time"),
        (lambda text: text.replace("low", "", 1), "row 2 has no label"),
        (lambda text: text.splitlines()[0], "no rows below the header"),
        (lambda text: "", "no column 'path'; expected path,label,split, got nothing"),
        (lambda text: "\0\n" + text, "no column 'path'"),
        (lambda text: text.replace("3.wav", "3\0.wav", 1), "row 4: .* is not a path"),
        (lambda text: text.replace("split", "split,label", 1), "two columns are called 'label'"),
    ],
)
def test_labels_that_cannot_be_probed_are_refused_by_name(tones, tmp_path, change, message):
    folder = shutil.copytree(tones.parent, tmp_path / "set")
    (folder / "labels.csv").write_text(change(tones.read_text()))
    with pytest.raises(ValueError, match=message) as caught:
        probe.main([str(folder / "labels.csv")])
    assert str(folder / "labels.csv") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_labels_file_that_is_missing_or_not_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"labels\.csv: no such file"):
        probe.main([str(tmp_path / "labels.csv")])
    (tmp_path / "labels.csv").write_bytes(b"path,label,split\n\xff\xfe,a,train\n")
    with pytest.raises(ValueError, match=r"labels\.csv: not a UTF-8 CSV"):
        probe.main([str(tmp_path / "labels.csv")])


def test_a_clip_that_is_no_audio_is_named(tones, tmp_path):
    folder = shutil.copytree(tones.parent, tmp_path / "set")
    (folder / "3.wav").write_text("no audio")
    with pytest.raises(AudioError, match=r"3\.wav"):
        probe.main([str(folder / "labels.csv")])


def test_sets_of_one_name_are_refused(tones):
    with pytest.raises(ValueError, match="two sets are called"):
        probe.main([str(tones), str(tones)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layer", "1,3"], "layers are counted from 1 to 2"),
        (["--layer", "first"], "layer must be a number"),
        (["--pool", "mean,median"], "pool must be mean"),
        (["--hop-ms", "40,50"], "this model's time steps"),
        (["--hop-ms", "nan"], "this model's time steps"),
        (["--layer", "²"], "layer must be a number"),
        (["--layer", ""], "layer must be a number"),
        (["--features", "random", "--seed", "9" * 20], "a seed is a whole number"),
        (["--features", "logmel", "--layer", "2"], "--layer applies to --features model and random only"),
        (["-o", "nowhere/scores.csv"], "nowhere: no such folder"),
        (["--features", "mfcc"], "--features must be model, random, logmel or NAME=FILE"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_clip_is_read(tones, monkeypatch, options, message):
    monkeypatch.setattr(features, "read_blocks", None)
    with pytest.raises(ValueError, match=message):
        probe.main([str(tones), *options])


def test_without_scikit_learn_the_error_names_the_extra(tones, monkeypatch):
    real = builtins.__import__

    def fake(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)
    with pytest.raises(ValueError, match=r"pip install 'maeast-upstream\[probe\]'"):
        probe.main([str(tones), "--features", "logmel"])
