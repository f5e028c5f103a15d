"""Tasks at another sample rate."""

import shutil

import numpy as np
import soundfile
from sounds import tone

from hear_api.tasks import create
from maeast_upstream.cli import run


def test_a_task_at_another_rate_is_resampled_to_16_khz(task_at_48_khz, tones, capsys):
    out = tones / "TASKS16" / task_at_48_khz.name
    out.parent.mkdir()
    assert run(create.main, [str(task_at_48_khz), "-o", str(out)]) == 0
    assert "3 clips at 16000 Hz" in capsys.readouterr().out
    for name in ("task_metadata.json", "labelvocabulary.csv", "train.json", "valid.json", "test.json"):
        assert (out / name).read_bytes() == (task_at_48_khz / name).read_bytes()
    for wav in out.rglob("*.wav"):
        samples, rate = soundfile.read(wav)
        assert (rate, len(samples)) == (16000, 8000)
        assert np.allclose(samples[200:-200], tone(16000, 0.5, hz=300)[200:-200], atol=1e-3)


def test_a_task_that_loses_a_recording_is_not_resampled(task_at_48_khz, tones, capsys):
    (task_at_48_khz / "48000" / "test" / "2.wav").write_bytes(b"nothing")
    assert run(create.main, [str(task_at_48_khz), "-o", str(tones / "out")]) == 1
    assert "2.wav" in capsys.readouterr().err
    assert not (tones / "out").exists()
    assert run(create.main, [str(task_at_48_khz), "-o", str(tones / "out"), "--seconds", "1"]) == 1
    assert "--seconds" in capsys.readouterr().err
    shutil.rmtree(task_at_48_khz / "48000")
    assert run(create.main, [str(task_at_48_khz), "-o", str(tones / "out")]) == 1
    assert "no folder of recordings" in capsys.readouterr().err
