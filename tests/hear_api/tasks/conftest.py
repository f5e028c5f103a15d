"""Recordings and tasks that several test files share."""

import shutil

import pytest
import soundfile
from hear_tasks import write_table
from sounds import tone, write

from hear_api.tasks import create
from maeast_upstream.cli import run


@pytest.fixture
def tones(tmp_path):
    """Recordings of 0.3, 0.5 and 0.7 s at three rates."""
    for number, (rate, seconds) in enumerate([(16000, 0.3), (44100, 0.5), (8000, 0.7)]):
        write(tmp_path / f"{number}.wav", tone(rate, seconds), rate)
    return tmp_path


@pytest.fixture
def task_at_48_khz(tones):
    """As HEAR's own tasks are to be had: 0.5 s clips; one is a sample short at 16 kHz."""
    labels = write_table(tones, "0.wav,a,train", "1.wav,b,valid", "2.wav,a,test")
    task = tones / "esc50-v2.0.0-full"
    assert run(create.main, [str(labels), "-o", str(task), "--seconds", "0.5"]) == 0
    for number, split in enumerate(("train", "valid", "test")):
        wav = task / "48000" / split / f"{number}.wav"
        wav.parent.mkdir(parents=True)
        soundfile.write(wav, tone(48000, 0.5, hz=300)[: 24000 - number], 48000)
    shutil.rmtree(task / "16000")
    return task
