"""Bad audio through the command line: one clear line that names the file and the reason, a status, no traceback."""

import struct

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from maeast_upstream.cli import main


def wav(rate=16000, channels=1, promised=2000, there=2000):
    frame = 2 * channels
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * frame % 2**32, frame, 16)
    riff = struct.pack("<4sI4s", b"RIFF", 36 + promised, b"WAVE")
    return riff + fmt + struct.pack("<4sI", b"data", promised) + bytes(there)


def floats(value):
    samples = np.zeros(16000, "<f4")
    samples[100] = value
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, 16000, 64000, 4, 32)
    data = struct.pack("<4sI", b"data", samples.nbytes) + samples.tobytes()
    return struct.pack("<4sI4s", b"RIFF", 28 + len(data), b"WAVE") + fmt + data


BAD = {
    "empty": (b"", "empty file"),
    "text": (b"this is not audio " * 40, "not audio"),
    "header_only": (wav()[:30], "not audio"),
    "nan": (floats(np.nan), "NaN or infinite"),
    "infinite": (floats(np.inf), "NaN or infinite"),
    "zero_samples": (wav(promised=0, there=0), "no samples"),
    "zero_channels": (wav(channels=0), "not audio"),
    "1hz": (wav(rate=1), "sample rate 1 Hz; expected 1000 to 768000 Hz"),
    "10mhz": (
        wav(rate=10_000_000),
        "sample rate 10000000 Hz; expected 1000 to 768000 Hz",
    ),
}


@pytest.mark.parametrize(("name", "content", "reason"), [(k, *v) for k, v in BAD.items()], ids=list(BAD))
def test_a_bad_file_alone_is_status_1(tmp_path, capsys, name, content, reason):
    path, out = tmp_path / f"{name}.wav", tmp_path / "e.parquet"
    path.write_bytes(content)
    assert main(["embed", str(path), "-o", str(out)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert f"{name}.wav: " in error
    assert reason in error
    assert not out.exists()


def test_a_file_cut_short_is_embedded_with_a_warning(tmp_path):
    (tmp_path / "cut.wav").write_bytes(wav(promised=32000, there=9000))
    assert main(["embed", str(tmp_path / "cut.wav"), "-o", str(tmp_path / "e.parquet")]) == 0
    warning = (tmp_path / "e.parquet.warnings.tsv").read_text()
    assert "cut.wav\t0\tcut short: 32000 bytes of samples declared, 9000 found" in warning
    (end,) = pq.read_table(tmp_path / "e.parquet")["end_ms"].to_pylist()
    assert end == 281.25


def test_bad_files_among_good_ones_are_listed_and_the_rest_is_embedded(tmp_path, capsys):
    clips, out = tmp_path / "clips", tmp_path / "e.parquet"
    clips.mkdir()
    soundfile.write(clips / "good.wav", np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
    for name, (content, _) in BAD.items():
        (clips / f"{name}.wav").write_bytes(content)
    assert main(["embed", str(clips), "-o", str(out)]) == 3
    captured = capsys.readouterr()
    assert "\n1 file, 1 row of " in captured.out
    assert "Traceback" not in captured.err
    listed = (tmp_path / "e.parquet.errors.tsv").read_text().splitlines()
    assert len(listed) == 1 + len(BAD)
    for name, (_, reason) in BAD.items():
        assert any(f"{name}.wav\t" in line and reason in line for line in listed), name


@pytest.mark.parametrize("inputs", [["nowhere.wav"], ["folder"], ["good.wav", "nowhere.wav"]])
def test_a_missing_path_or_a_folder_without_audio_stops_before_the_work(tmp_path, monkeypatch, capsys, inputs):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").touch()
    soundfile.write("good.wav", np.zeros(16000), 16000)
    assert main(["embed", *inputs, "-o", "e.parquet"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {inputs[-1]}: ")
    assert error.count("\n") == 1
    assert "no such file" in error or "looked for" in error
    assert not (tmp_path / "e.parquet").exists()
