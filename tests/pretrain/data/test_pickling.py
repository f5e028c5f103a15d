"""What is sent to a worker that does not fork: not the corpus."""

import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import soundfile
import torch

from pretrain.config import DataConfig
from pretrain.data.batches import CropBatches, batches
from pretrain.data.clips import FileClips, drop_short, open_folder, open_packed_clips
from pretrain.data.packing import pack

CONFIG = DataConfig(crop_seconds=0.3, batch_clips=4)


@pytest.fixture
def folder(tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(4):
        samples = 0.1 * np.random.default_rng(number).standard_normal(3000 + 2000 * number)
        soundfile.write(clips / f"{number}.wav", samples, 16_000)
    return clips


@pytest.mark.parametrize("kind", ["packed", "files"])
@pytest.mark.parametrize("chosen", [False, True])
@pytest.mark.parametrize("dumps", [pickle.dumps, lambda source: bytes(ForkingPickler.dumps(source))])
def test_what_a_worker_gets_is_small_and_gives_the_same_batches(folder, tmp_path, kind, chosen, dumps):
    pack(folder, tmp_path / "packed", 0)
    clips = open_packed_clips(tmp_path / "packed") if kind == "packed" else open_folder(folder)
    source = CropBatches(drop_short(clips, 4000 if chosen else 1), CONFIG, 2, seed=1)
    sent = dumps(source)
    assert len(sent) < 2000
    other = pickle.loads(sent)
    assert len(other.clips.lengths) == 4 - chosen
    for step in range(2):
        assert torch.equal(other[step].waveforms, source[step].waveforms)
        assert other[step].clips == source[step].clips


def test_the_names_of_100_000_files_are_not_sent_to_each_worker(tmp_path):
    names = [f"folder/{number:08d}.flac" for number in range(100_000)]
    clips = FileClips(tmp_path, names, np.full(len(names), 16_000), np.full(len(names), "speech"))
    sent = pickle.dumps(CropBatches(clips, CONFIG, 1, seed=0))
    assert len(sent) < 2000
    other = pickle.loads(sent).clips
    assert other.name(99_999) == str(tmp_path / names[-1])
    assert other.kinds[7] == "speech"


@pytest.mark.slow
def test_workers_that_do_not_fork_give_the_same_batches(folder, tmp_path, monkeypatch):
    pack(folder, tmp_path / "packed", 0)
    source = CropBatches(open_packed_clips(tmp_path / "packed"), CONFIG, 1, seed=0)
    loader = batches(source, 0, 3, workers=1)
    loader.multiprocessing_context = "spawn"
    for step, batch in enumerate(loader):
        assert torch.equal(batch.waveforms, source[step].waveforms)
