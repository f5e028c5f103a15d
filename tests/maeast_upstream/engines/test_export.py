"""Exported files give torch's embeddings from the waveform alone, for any batch and length."""

import json

import numpy as np
import pytest
import torch
from projections import projection_of, whitening_of

from maeast_upstream import Readout
from maeast_upstream.cli import run
from maeast_upstream.commands.export import SUFFIXES, format_of, main
from maeast_upstream.config import EncoderConfig
from maeast_upstream.engines import export
from maeast_upstream.engines.export import WaveformModel

pytestmark = pytest.mark.slow

RUNS = {"onnx": export.run_onnx, "openvino": export.run_openvino}
LENGTHS = (1, 399, 400, 2799, 2800, 3440, 5361, 16000, 40000)


@pytest.fixture(params=["onnx", "openvino"])
def form(request):
    for package in export.NEEDS[request.param]:
        pytest.importorskip(package)
    return request.param


@pytest.mark.parametrize(
    ("kind_of_token", "kind", "readout", "hop_ms"),
    [
        ("patch", "scene", Readout(), "160"),
        ("patch", "frames", Readout(layer="all", hop_ms=40.0), "40"),
        ("frame", "frames", Readout(layer=2), "20"),
        ("frame", "scene", Readout(layer="mean", pool="mean_std", mel="mean"), "20"),
    ],
)
def test_a_file_says_what_it_is_and_gives_torchs_numbers_at_any_batch_and_length(
    make_encoder, tmp_path, form, kind_of_token, kind, readout, hop_ms
):
    encoder = make_encoder(kind_of_token)
    out = tmp_path / f"model{SUFFIXES[form]}"
    assert export.export(encoder, out, form, kind, readout) <= 1e-4
    model, file = WaveformModel(encoder, kind, readout), RUNS[form](out)
    for samples in LENGTHS:
        assert export._difference(model, file, samples) <= 1e-4
    outputs = file(0.1 * torch.randn(5, 7000))
    assert outputs[0].shape[0] == 5
    expected = {"onnx": {"model.onnx"}, "openvino": {"model.xml", "model.bin"}}[form]
    assert {path.name for path in tmp_path.iterdir()} == expected
    facts = read_facts(out, form)
    assert EncoderConfig.from_dict(json.loads(facts["config"])) == encoder.config
    assert (facts["sample_rate"], facts["hop_ms"], facts["kind"]) == ("16000", hop_ms, kind)
    assert float(facts["longest_seconds"]) == 81.92


@pytest.mark.parametrize("kind", ["scene", "frames"])
def test_an_int8_file_is_near_torch_at_any_batch_and_length_and_brings_its_settings(make_encoder, tmp_path, kind):
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    encoder = make_encoder(shape={"embed_dim": 64, "ffn_dim": 128})
    out = tmp_path / "model.xml"
    readout = Readout(layer=2)  # the third layer is not in the file
    assert export.export(encoder, out, "openvino", kind, readout, "int8") >= 0.999
    model, file = WaveformModel(encoder, kind, readout), export.run_openvino(out)
    for samples in LENGTHS:
        assert export._cosine(model, file, samples) >= 0.999
    assert export._difference(model, file, 16000) > 1e-4  # it is int8
    facts = read_facts(out, "openvino")
    assert facts["precision"] == "int8"
    compiled = openvino.Core().compile_model(out, "CPU", json.loads(facts["compile_with"]))
    assert compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 64


def test_an_int8_file_that_is_off_is_not_left(make_encoder, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(export, "MIN_COSINE", 1.1)
    with pytest.raises(ValueError, match="the exported model is wrong: its vectors' cosine"):
        export.export(make_encoder(), tmp_path / "model.xml", "openvino", precision="int8")
    assert list(tmp_path.iterdir()) == []


def test_onnx_refuses_int8_before_the_work(make_encoder, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"format onnx holds fp32 only; for int8 take openvino: -o a\.xml"):
        export.export(make_encoder(), tmp_path / "a.onnx", "onnx", precision="int8")
    assert run(main, ["-o", str(tmp_path / "a.onnx"), "--precision", "int8"]) == 1
    assert "for int8 give a name that ends in .xml" in capsys.readouterr().err


def read_facts(path, form):
    if form == "onnx":
        import onnx

        return {entry.key: entry.value for entry in onnx.load_model(path).metadata_props}
    import openvino

    info = openvino.Core().read_model(path).get_rt_info(["maeast"]).value
    return {key: str(getattr(value, "value", value)) for key, value in info.items()}


def test_a_file_that_is_off_is_not_left(make_encoder, tmp_path, form, monkeypatch):
    monkeypatch.setattr(export, "MAX_DIFFERENCE", 0.0)
    with pytest.raises(ValueError, match="the exported model is wrong"):
        export.export(make_encoder(), tmp_path / f"model{SUFFIXES[form]}", form)
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_the_bundled_checkpoint(tmp_path, capsys):
    for package in export.NEEDS["onnx"]:
        pytest.importorskip(package)
    out = tmp_path / "tiny.onnx"
    assert run(main, ["-o", str(out)]) == 0
    printed = capsys.readouterr()
    assert "difference from torch" in printed.out
    said = ["tracing the model, which takes", "comparing the file with torch"]
    assert [line.startswith(text) for line, text in zip(printed.err.splitlines(), said, strict=True)] == [True] * 2
    assert run(main, ["-o", str(out)]) == 1
    assert "--force" in capsys.readouterr().err


def test_weights_that_another_wrote_are_not_replaced_unasked(tmp_path, capsys):
    (tmp_path / "w.bin").write_bytes(b"mine")
    assert run(main, ["-o", str(tmp_path / "w.xml")]) == 1
    assert "w.bin" in capsys.readouterr().err
    assert (tmp_path / "w.bin").read_bytes() == b"mine"


def test_a_missing_folder_is_told_before_the_work(make_encoder, tmp_path, form, monkeypatch):
    monkeypatch.delattr(export, "write_onnx")
    with pytest.raises(ValueError, match="missing: no such folder to write model"):
        export.export(make_encoder(), tmp_path / "missing" / f"model{SUFFIXES[form]}", form)


@pytest.mark.parametrize(
    ("name", "form", "message"),
    [
        ("a.pt", None, "ends in .onnx or .xml"),
        ("a.onnx", "openvino", "ends in .xml"),
        ("a.xml", "onnx", "in .onnx"),
    ],
)
def test_a_name_that_is_not_the_formats_is_refused(tmp_path, name, form, message):
    with pytest.raises(ValueError, match=message):
        format_of(tmp_path / name, form)


def test_a_missing_package_is_named_with_its_extra(make_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install .*\[onnx\]'"):
        export.export(make_encoder(), tmp_path / "a.onnx", "onnx")


def test_a_layer_that_the_model_lacks_is_refused(make_encoder, tmp_path):
    pytest.importorskip("onnxscript")
    with pytest.raises(ValueError, match="layers are counted from 1 to 3"):
        export.export(make_encoder(), tmp_path / "a.onnx", "onnx", readout=Readout(layer=9))


def test_a_file_gives_the_vectors_that_the_projection_shortens(make_encoder, tmp_path, form):
    encoder = make_encoder()
    encoder.use_projection(projection_of(encoder.config))
    out = tmp_path / f"model{SUFFIXES[form]}"
    assert export.export(encoder, out, form, "scene", Readout(dims=6)) <= 1e-4
    assert RUNS[form](out)(0.1 * torch.randn(2, 7000))[0].shape == (2, 6)


def test_a_file_gives_whitened_vectors(make_encoder, tmp_path, form):
    encoder = make_encoder()
    encoder.use_projection(whitening_of(encoder.config))
    out, clips = tmp_path / f"model{SUFFIXES[form]}", 0.1 * torch.randn(2, 7000)
    export.export(encoder, out, form, "scene", Readout(whiten=True))
    expected = encoder.embed(clips, readout=Readout(whiten=True))
    # random weights and 100 random vectors: numbers up to hundreds
    np.testing.assert_allclose(RUNS[form](out)(clips)[0], expected, rtol=1e-4, atol=2e-3)
