"""What an engine is chosen for: the audio of the inputs, counted as often as it is encoded."""

from pathlib import Path

import pytest

from maeast_upstream.data.windows import Windows
from maeast_upstream.engines.names import Choice
from maeast_upstream.extract import engine
from maeast_upstream.extract.engine import attach_for, load_for
from maeast_upstream.extract.table import EmbeddingSpec
from maeast_upstream.readout import Readout

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture
def attached(monkeypatch):
    calls = []

    def attach(encoder, name, precision, layers, **options):
        calls.append({"engine": name, "precision": precision, "layers": layers, **options})
        return Choice("torch", "fp32", "a test")

    monkeypatch.setattr(engine, "attach", attach)
    return calls


def test_overlaps_and_shifted_grids_count_as_audio(make_encoder, attached):
    encoder = make_encoder()
    for windows, hop_ms, expected in (
        (None, None, 100.0),
        (Windows(4.0), None, 100.0),
        (Windows(4.0, 3.0), None, 400.0),
        (None, 40.0, 400.0),
        (Windows(4.0, 2.0), 40.0, 800.0),
    ):
        spec = EmbeddingSpec(readouts=(Readout(layer=2, hop_ms=hop_ms),), windows=windows)
        attach_for(encoder, spec, 100.0, "auto", "fp32")
        assert attached[-1]["audio_seconds"] == pytest.approx(expected)
        assert attached[-1]["layers"] == [2]


def test_a_folder_that_is_embedded_once_gets_the_engine_that_suits_it(attached):
    encoder = load_for([DATA / "audio"], None, None, "auto")
    passes = encoder.grid(encoder.config.readout.hop_ms).passes
    assert attached[-1]["precision"] == "auto"
    assert attached[-1]["audio_seconds"] == pytest.approx(60 * passes, rel=0.3)  # the folder has a minute


def test_an_unknown_precision_is_refused_before_a_checkpoint_is_loaded():
    with pytest.raises(ValueError, match="precision must be one of auto, fp32"):
        load_for([DATA / "audio"], "nowhere", None, "fp8")
