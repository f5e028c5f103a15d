import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from maeast_upstream.cli import run
from maeast_upstream.data.packed import Packed
from pretrain.cli import main
from pretrain.config import DataConfig
from pretrain.data import gpu
from pretrain.data.batches import BatchSharding, CropBatches
from pretrain.data.clips import PackedClips, drop_short
from pretrain.data.corpus import open_training
from pretrain.data.gpu import GpuBatches, refuse_if_full
from pretrain.trainer import Trainer

AUDIO = Path(__file__).parents[2] / "data" / "audio"
CPU = torch.device("cpu")


def noise_corpus(lengths):
    audio = (np.random.default_rng(0).standard_normal(sum(lengths)) * 3000).astype(np.int16)
    lengths = np.array(lengths)
    return PackedClips(
        Packed(audio, np.concatenate([[0], lengths.cumsum()[:-1]]), lengths, np.array([""] * len(lengths)))
    )


def assert_same(batch, other):
    torch.testing.assert_close(batch.waveforms.cpu(), other.waveforms, rtol=0, atol=1e-6)
    assert torch.equal(batch.lengths, other.lengths)
    assert torch.equal(batch.starts, other.starts)
    assert (batch.first, batch.size, batch.clips, batch.failures, batch.drawn) == (
        other.first,
        other.size,
        other.clips,
        other.failures,
        other.drawn,
    )
    assert batch.reads <= other.reads, "the loader also reads the partners that other parts have"


@pytest.mark.parametrize("short_clips", ["repeat", "pad"])
@pytest.mark.parametrize("mix", [False, True])
@pytest.mark.parametrize("views", [1, 2])
def test_its_batches_are_those_of_the_loader(mix, views, short_clips, monkeypatch):
    monkeypatch.setattr(gpu, "CHUNK_SAMPLES", 5000)
    config = DataConfig(
        crop_seconds=0.3,
        max_crop_seconds=1.0,
        batch_clips=24,
        mix=mix,
        short_clips=short_clips,
        min_gain_db=-10.0,
        max_gain_db=6.0,
    )
    lengths = [9000, 300, 4800, 4801, 30_000, 1 if short_clips == "repeat" else 2000]
    source = CropBatches(noise_corpus(lengths), config, views, seed=3)
    resident = GpuBatches(source, CPU)
    for step in range(12):
        assert_same(resident[step], source[step])


def test_its_batches_are_shared_out_as_the_loader_does():
    config = DataConfig(crop_seconds=0.3, batch_clips=24, mix=True)
    for rank in range(2):
        source = CropBatches(noise_corpus([9000, 700, 12_000]), config, 2, 1, BatchSharding(2, rank, 2))
        resident = GpuBatches(source, CPU)
        parts = list(resident.range(3, 5))
        assert len(parts) == 4
        for item, part in enumerate(parts, start=6):
            assert_same(part, source[item])


def test_clips_that_are_left_out_are_so_here_too():
    clips = drop_short(noise_corpus([9000, 300, 12_000, 40, 8000]), 1000)
    source = CropBatches(clips, DataConfig(crop_seconds=0.3, batch_clips=16), 1, seed=0)
    assert_same(GpuBatches(source, CPU)[0], source[0])


def test_silence_stays_silent():
    clips = PackedClips(Packed(np.zeros(9000, np.int16), np.array([0]), np.array([9000]), np.array([""])))
    source = CropBatches(clips, DataConfig(crop_seconds=0.3, batch_clips=4, mix=True), 1, seed=0)
    assert not GpuBatches(source, CPU)[0].waveforms.any()


def test_very_quiet_clips_are_mixed_as_the_loader_does():
    audio = np.random.default_rng(0).integers(-1, 2, 18_000).astype(np.int16)
    clips = PackedClips(Packed(audio, np.array([0, 9000]), np.array([9000, 9000]), np.array(["", ""])))
    source = CropBatches(clips, DataConfig(crop_seconds=0.3, batch_clips=4, mix=True), 1, seed=0)
    batch, other = GpuBatches(source, CPU)[0].waveforms, source[0].waveforms
    torch.testing.assert_close(batch, other, rtol=1e-3, atol=0)


@pytest.mark.slow
def test_on_a_cpu_a_run_with_it_is_the_run_without(recipe, tmp_path):
    Trainer(recipe).train()
    data = dataclasses.replace(recipe.data, on_gpu=True)
    other = dataclasses.replace(recipe, data=data, out=str(tmp_path / "other"))
    Trainer(other).train()
    weights = [Path(out) / "last" / "model.safetensors" for out in (recipe.out, other.out)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--data.pack", "false", "--data.packed", "null"],
            "data.on_gpu needs a decoded corpus: give data.pack true",
        ),
        (["--data.short_clips", "join"], "on_gpu needs short_clips repeat or pad, got short_clips join"),
    ],
)
def test_what_it_does_not_go_with_is_one_line(tmp_path, capsys, options, message):
    config = Path(__file__).parents[3] / "configs" / "debug_cpu.yaml"
    given = ["--config", str(config), "--out", str(tmp_path / "run"), "--data.corpus", str(AUDIO)]
    assert run(main, [*given, "--data.on_gpu", "true", *options]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "run").exists(), "it is told before anything is made"


def test_a_corpus_that_a_gpu_has_no_room_for_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2_000_000_000, 8_000_000_000))
    with pytest.raises(ValueError, match=r"needs 1.9 GB, cuda has 2.0 GB free, and training .*give data.on_gpu false"):
        refuse_if_full(torch.device("cuda"), 1_900_000_000)
    refuse_if_full(torch.device("cuda"), 1_700_000_000)
    refuse_if_full(CPU, 3_000_000_000)


@pytest.mark.gpu
def test_a_gpu_trains_on_it_without_a_loader(recipe, monkeypatch):
    monkeypatch.setattr("pretrain.trainer.batches", None)
    data = dataclasses.replace(recipe.data, on_gpu=True)
    assert Trainer(dataclasses.replace(recipe, data=data, device="cuda")).train()


@pytest.mark.gpu
def test_on_a_gpu_its_batches_are_the_same_and_nobody_waits_for_them(recipe):
    data = dataclasses.replace(recipe.data, on_gpu=True)
    source = open_training(data, recipe.model, recipe.losses.crops, recipe.seed, BatchSharding())
    resident = GpuBatches(source, torch.device("cuda"))
    assert_same(resident[0], source[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = resident[1]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_same(batch, source[1])
