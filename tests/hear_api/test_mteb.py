"""MTEB's classification on real clips; needs mteb, which `make test-mteb` installs."""

import json

import numpy as np
import pytest
import soundfile
from boards import mteb_task, read_labels
from hear_tasks import DATA

mteb = pytest.importorskip("mteb")

from hear_api.mteb import MaeAstEncoder, main, waveform  # noqa: E402
from maeast_upstream.audio.reading import read_audio  # noqa: E402
from maeast_upstream.cli import run  # noqa: E402

pytestmark = pytest.mark.slow

CLASSES = ("kick", "snare", "tom", "six", "stop", "zero")


def test_mteb_scores_better_than_chance():
    rows, names = read_labels(DATA / "labels.csv", CLASSES)
    result = mteb.evaluate(MaeAstEncoder(), [mteb_task("DrumsAndWords", rows)], cache=None)
    (task,) = result.task_results
    score = task.get_score()
    print(f"MTEB's classification, {len(names)} classes of tests/data: accuracy {score:.3f}")
    assert score > 0.5  # of six classes


def test_weights_are_the_revision(make_encoder, tmp_path):
    make_encoder().save_pretrained(tmp_path / "other")
    bundled, other = (
        MaeAstEncoder().mteb_model_meta,
        MaeAstEncoder(str(tmp_path / "other")).mteb_model_meta,
    )
    assert (bundled.name, other.name) == ("mae-ast/bundled", "mae-ast/other")
    assert bundled.revision != other.revision
    assert MaeAstEncoder().mteb_model_meta.revision == bundled.revision


def test_the_readout_and_the_precision_are_in_the_revision(make_encoder, tmp_path):
    make_encoder().save_pretrained(tmp_path / "other")
    revisions = [
        MaeAstEncoder(str(tmp_path / "other"), precision=precision).mteb_model_meta.revision
        for precision in (None, "bf16")
    ]
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"readout": {"pool": "mean_std"}}))
    revisions.append(MaeAstEncoder(str(tmp_path / "other")).mteb_model_meta.revision)
    assert len(set(revisions)) == 3


def test_a_task_that_mteb_does_not_have_is_one_line(capsys):
    assert run(main, ["Typo"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "Typo" in said
    assert said.count("\n") == 1


def test_any_rate_and_channels_become_16_khz_mono(tmp_path):
    rng = np.random.default_rng(0)
    stereo = rng.uniform(-0.5, 0.5, (2, 44100)).astype(np.float32)
    soundfile.write(tmp_path / "two.wav", stereo.T, 44100, subtype="FLOAT")
    expected = read_audio(tmp_path / "two.wav")
    assert np.allclose(waveform({"array": stereo, "sampling_rate": 44100}).numpy(), expected, atol=1e-5)
    mono = {"array": stereo[0], "sampling_rate": 16000}
    assert np.array_equal(waveform(mono).numpy(), stereo[0])
