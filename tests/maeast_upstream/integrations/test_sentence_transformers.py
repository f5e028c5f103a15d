"""MaeAstModule inside a real SentenceTransformer, with real clips."""

import io
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from processors import HAS_AMX
from projections import projection_of

from maeast_upstream import Readout, load_audio, load_model

pytest.importorskip("sentence_transformers")

from sentence_transformers import SentenceTransformer

from maeast_upstream.integrations.sentence_transformers import MaeAstModule

AUDIO = Path(__file__).parents[2] / "data" / "audio"
PATHS = [str(path) for path in sorted(AUDIO.glob("*.opus"))[::8]]
IN_ANOTHER_BATCH = 1e-5 if HAS_AMX else 0.0
"""How much a vector may differ in a batch of another size."""


@pytest.fixture
def encoder(make_encoder):
    return make_encoder()


@pytest.fixture
def model(encoder):
    return SentenceTransformer(modules=[MaeAstModule(encoder)], device="cpu")


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_paths_give_the_encoder_s_own_vectors(model, encoder, batch_size):
    vectors = model.encode(PATHS, batch_size=batch_size)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, encoder.embed(PATHS).numpy(), rtol=0, atol=IN_ANOTHER_BATCH)
    assert vectors.shape[1] == model.get_embedding_dimension()


def test_every_form_of_a_recording_gives_the_same_vector(model):
    path, samples = PATHS[0], load_audio(PATHS[0])
    wav = io.BytesIO()
    soundfile.write(wav, samples, 16_000, format="WAV", subtype="FLOAT")
    forms = [
        path,
        Path(path),
        samples,
        torch.from_numpy(samples),
        {"array": samples, "sampling_rate": 16_000},
        {"audio": {"array": samples, "sampling_rate": 16_000}},
        {"bytes": wav.getvalue(), "path": None},
        {"bytes": None, "path": path},
    ]
    (expected, *others) = [model.encode(form) for form in forms]
    assert expected.ndim == 1
    for form, vector in zip(forms[1:], others, strict=True):
        assert np.array_equal(vector, expected), type(form)
    np.testing.assert_allclose(model.encode(forms), np.stack([expected] * len(forms)), rtol=0, atol=IN_ANOTHER_BATCH)


def test_a_mapping_says_its_rate_and_may_be_in_stereo(model, encoder):
    stereo = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 44_100)).astype(np.float32)
    vector = model.encode({"array": stereo, "sampling_rate": 44_100})
    assert np.array_equal(vector, encoder.embed(stereo, sample_rate=44_100)[0].numpy())


def test_a_folder_of_several_formats_is_one_call(model, tmp_path):
    soundfile.write(tmp_path / "a.wav", load_audio(PATHS[0]), 16_000, subtype="FLOAT")
    vectors = model.encode([str(tmp_path / "a.wav"), PATHS[0]])
    assert np.array_equal(vectors[0], vectors[1])


def test_vectors_are_normalized_and_compared(model):
    vectors = model.encode(PATHS[:3], normalize_embeddings=True)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.allclose(model.similarity(vectors, vectors).numpy(), vectors @ vectors.T, atol=1e-6)


def test_a_saved_model_gives_the_same_vectors_wherever_it_is_loaded(encoder, tmp_path):
    readout = Readout(layer=2, pool="mean_std")
    saved, folder = SentenceTransformer(modules=[MaeAstModule(encoder, readout)], device="cpu"), tmp_path / "saved"
    saved.save(str(folder), create_model_card=False)
    expected = saved.encode(PATHS)
    assert np.array_equal(expected, encoder.embed(PATHS, readout=readout).numpy())
    loaded = [
        SentenceTransformer(str(folder), trust_remote_code=True, device="cpu"),
        SentenceTransformer(modules=[MaeAstModule(folder)], device="cpu"),
    ]
    for model in loaded:
        assert np.array_equal(model.encode(PATHS), expected)
    assert np.array_equal(load_model(folder).embed(PATHS).numpy(), expected)


def test_a_saved_folder_holds_safetensors_and_json_only(model, tmp_path):
    model.save(str(tmp_path), create_model_card=False)
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"model.safetensors", "config.json", "modules.json", "config_sentence_transformers.json"}
    for path in tmp_path.glob("*.json"):
        json.loads(path.read_text())
    with pytest.raises(ValueError, match="safetensors"):
        model.save(str(tmp_path), safe_serialization=False)


def test_it_is_loaded_in_another_precision(model, tmp_path):
    model.save(str(tmp_path), create_model_card=False)
    options = {"trust_remote_code": True, "device": "cpu", "model_kwargs": {"precision": "bf16"}}
    rough = SentenceTransformer(str(tmp_path), **options)
    assert "bf16" in str(rough)
    exact, close = model.encode(PATHS), rough.encode(PATHS)
    assert not np.array_equal(exact, close)
    assert np.allclose(exact, close, atol=0.1)


def test_gradients_reach_an_unfrozen_encoder(model, encoder):
    encoder.requires_grad_(True)
    model(model.preprocess(PATHS[:2]))["sentence_embedding"].square().sum().backward()
    first_layer = encoder.network.encoder.blocks[0]
    assert all(value.grad.any() for name, value in first_layer.named_parameters() if name.endswith("weight"))


def test_a_process_can_receive_it(model):
    copy = pickle.loads(pickle.dumps(model))
    assert np.array_equal(copy.encode(PATHS[:2]), model.encode(PATHS[:2]))


@pytest.mark.gpu
def test_it_moves_to_a_gpu(model):
    exact = model.encode(PATHS)
    assert np.allclose(model.to("cuda").encode(PATHS), exact, atol=1e-3)
    assert np.allclose(model.to("cpu").encode(PATHS), exact)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("hello world", "no such file"),
        ("missing.wav", "no such file"),
        (np.zeros(0, np.float32), "at least one sample"),
        (np.full(99, np.nan), "NaN"),
        (np.zeros((2, 99)), "sample_rate|mean of the channels"),
        ({"array": np.zeros(99)}, "sampling_rate"),
        ({"role": "user", "content": "hello"}, "expected a path"),
        ({"bytes": b"no audio"}, "not|format"),
        (7, "expected a path"),
    ],
)
def test_what_is_no_audio_is_one_line(model, given, words):
    with pytest.raises(ValueError, match=words) as raised:
        model.encode([PATHS[0], given])
    assert "\n" not in str(raised.value)
    assert "clip 1" in str(raised.value) or "clip 0" in str(raised.value)


def test_a_prompt_is_refused(model):
    with pytest.raises(ValueError, match="prompt"):
        model.encode(PATHS[:1], prompt="query: ")


def test_a_readout_that_is_none_is_refused():
    with pytest.raises(ValueError, match="readout must be a Readout"):
        MaeAstModule(readout="last")


def test_a_folder_without_a_checkpoint_is_refused(model, tmp_path):
    model.save(str(tmp_path), create_model_card=False)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no model\.safetensors"):
        SentenceTransformer(str(tmp_path), trust_remote_code=True)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers.base.modules", None)
    monkeypatch.delitem(sys.modules, "maeast_upstream.integrations.sentence_transformers")
    with pytest.raises(ImportError, match=r"\[sentence-transformers\]"):
        __import__("maeast_upstream.integrations.sentence_transformers")


def test_a_readout_with_dims_is_saved_with_its_projection(encoder, tmp_path):
    encoder.use_projection(projection_of(encoder.config))
    model = SentenceTransformer(modules=[MaeAstModule(encoder, Readout(dims=6))], device="cpu")
    expected = model.encode(PATHS[:1])
    assert expected.shape == (1, model.get_embedding_dimension()) == (1, 6)
    model.save(str(tmp_path / "saved"))
    loaded = SentenceTransformer(str(tmp_path / "saved"), device="cpu", trust_remote_code=True)
    assert np.array_equal(loaded.encode(PATHS[:1]), expected)
    encoder.use_projection(None)
    SentenceTransformer(modules=[MaeAstModule(encoder)], device="cpu").save(str(tmp_path / "saved"))
    assert not list((tmp_path / "saved").rglob("projection.safetensors"))
