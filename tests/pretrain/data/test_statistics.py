import dataclasses
import errno
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from maeast_upstream import load_model
from maeast_upstream.cli import run
from maeast_upstream.config import Normalisation
from maeast_upstream.data.packed import Packed
from maeast_upstream.frontend import Fbank
from pretrain import stats
from pretrain.config import DataConfig
from pretrain.data import statistics
from pretrain.data.batches import BatchSharding, CropBatches, batches
from pretrain.data.clips import PackedClips, open_packed_clips
from pretrain.data.corpus import open_training
from pretrain.objective import Normalizer
from pretrain.trainer import Trainer


def test_mean_and_standard_deviation_are_those_of_all_values_at_once(packed, recipe):
    crops = CropBatches(
        open_packed_clips(packed),
        DataConfig(crop_seconds=0.5, batch_clips=4),
        1,
        seed=0,
    )
    measured = statistics.measure(crops, recipe.data, recipe.frontend, num_batches=3)
    values = torch.cat([Fbank()(crops[step].waveforms).flatten() for step in range(3)]).double().numpy()
    assert measured.mean == np.round(values.mean(), 4)
    assert measured.std == np.round(values.std(), 4)


def test_a_corpus_of_silence_is_refused_in_one_line(recipe):
    silence = Packed(np.zeros(9000, np.int16), np.array([0]), np.array([9000]), np.array([""]))
    crops = CropBatches(PackedClips(silence), DataConfig(crop_seconds=0.5, batch_clips=4), 1, seed=0)
    with pytest.raises(ValueError, match=r"its spectrogram is the same everywhere; is it all silence\?$"):
        statistics.measure(crops, recipe.data, recipe.frontend)


def test_large_batches_are_measured_by_their_seconds(recipe, monkeypatch):
    seen = []
    monkeypatch.setattr(
        statistics, "batches", lambda source, start, stop, workers: seen.append(stop) or batches(source, 0, 1, 0)
    )
    source = open_training(recipe.data, recipe.model, 1, 0, BatchSharding())
    for clips, wanted in ((4, 16), (600, 10), (9000, 4)):
        statistics.measure(source, dataclasses.replace(recipe.data, batch_clips=clips), recipe.frontend)
        assert seen[-1] == wanted


def test_padding_does_not_count(packed, recipe):
    padded = dataclasses.replace(recipe.data, short_clips="pad", crop_seconds=1.0, mix=False)
    crops = CropBatches(open_packed_clips(packed), padded, 1, seed=0)
    values = []
    for batch in (crops[step] for step in range(3)):
        values += [Fbank()(row[None, :n]).flatten() for row, n in zip(batch.waveforms, batch.lengths, strict=True)]
    measured = statistics.measure(crops, recipe.data, recipe.frontend, num_batches=3)
    assert measured.mean == pytest.approx(float(torch.cat(values).double().mean()), abs=2e-4)


def test_the_command_measures_once_and_the_run_takes_it(recipe, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(dataclasses.asdict(recipe)))
    assert run(stats.main, ["--config", str(path)]) == 0
    assert "mean -" in capsys.readouterr().out
    written = Path(recipe.out) / "stats.json"
    written.write_text(json.dumps({"mean": -7.0, "std": 3.0}))
    Trainer(recipe).train()
    assert load_model(recipe.out).config.normalisation == Normalisation(mean=-7.0, std=3.0)
    assert run(stats.main, ["--config", str(path)]) == 1
    assert "stats.json exists already; remove it to measure again" in capsys.readouterr().err
    written.write_text("{")
    with pytest.raises(ValueError, match=r"stats\.json: not written by pretrain\.stats"):
        statistics.read(written)


def quiet_corpus(folder, level=1.0):
    folder.mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).standard_normal(12_000)
        soundfile.write(folder / f"{number}.wav", 0.1 * level * noise, 16_000, subtype="FLOAT")
    return folder


@pytest.mark.parametrize("pack", [True, False])
def test_statistics_of_another_corpus_or_other_settings_are_measured_anew(recipe, tmp_path, caplog, pack):
    def mean(corpus, **settings):
        data = dataclasses.replace(recipe.data, corpus=str(corpus), packed=None, pack=pack, **settings)
        trainer = Trainer(dataclasses.replace(recipe, data=data))
        trainer.close()
        return trainer.objective.normalise.statistics.mean

    loud, quiet = quiet_corpus(tmp_path / "loud"), quiet_corpus(tmp_path / "quiet", level=0.01)
    first = mean(loud)
    assert mean(loud) == first
    assert "measured anew" not in caplog.text
    assert mean(quiet) < first - 3
    assert "stats.json is of 0.0 h, 3 clips of loud or of other settings: measured anew" in caplog.text
    assert mean(loud) == first
    assert mean(loud, min_gain_db=-40.0, max_gain_db=-40.0) < first - 3


def test_statistics_without_a_corpus_are_used_and_that_is_said(recipe, caplog):
    path = Path(recipe.out) / "stats.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"mean": -7.0, "std": 3.0}))
    assert Trainer(recipe).objective.normalise.statistics.mean == -7.0
    assert "stats.json does not say what it was measured on and is used" in caplog.text


def test_a_full_disk_under_the_statistics_is_one_line(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"stats\.json: cannot be written \(No space left on device\); make room"):
        statistics.write(tmp_path / "stats.json", Normalisation(mean=0.0, std=1.0))


def test_batch_normalisation_is_that_of_the_published_batch_norm():
    theirs = torch.nn.BatchNorm2d(1, affine=False)
    ours = Normalizer("batch", Normalisation(mean=0.0, std=(1 + 1e-5) ** 0.5))
    torch.manual_seed(0)
    for _ in range(3):
        fbank = 4 * torch.randn(3, 50, 128) - 5
        torch.testing.assert_close(ours(fbank), 0.5 * theirs(fbank[:, None])[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.mean, theirs.running_mean[0])
    torch.testing.assert_close(ours.var, theirs.running_var[0])
    fbank = torch.randn(2, 20, 128)
    torch.testing.assert_close(ours.eval()(fbank), 0.5 * theirs.eval()(fbank[:, None])[:, 0])
    assert ours.statistics.std == pytest.approx(float((theirs.running_var + 1e-5).sqrt()))


def test_a_run_with_batch_normalisation_stores_what_it_saw(recipe):
    recipe = dataclasses.replace(recipe, normalisation="batch")
    trainer = Trainer(recipe)
    before = trainer.objective.normalise.statistics
    trainer.train()
    stored = load_model(recipe.out).config.normalisation
    assert stored != before
    assert Trainer(recipe).objective.normalise.statistics == stored
