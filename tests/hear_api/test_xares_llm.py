"""XARES-LLM's interface, restated, since no index has its package: what its checker asks for, and how it is used."""

import importlib
import inspect

import pytest
import torch
from torch import nn

from hear_api.xares_llm import MaeAstEncoder, lengths_of


@pytest.fixture
def checkpoint(make_encoder, tmp_path):
    def save(tokens="patch"):
        make_encoder(tokens).save_pretrained(tmp_path / tokens)
        return str(tmp_path / tokens)

    return save


def test_the_module_has_one_encoder_as_its_loader_of_files_expects():
    module = importlib.import_module("hear_api.xares_llm")
    assert [name for name in dir(module) if name.endswith("Encoder")] == ["MaeAstEncoder"]


def test_what_its_checker_asks_for(checkpoint, tokens):
    encoder = MaeAstEncoder(checkpoint(tokens))
    assert isinstance(encoder, nn.Module)
    assert len(inspect.signature(encoder.forward).parameters) == 2
    steps, mask = encoder(torch.randn(3, 50_000, device=next(encoder.parameters()).device), None)
    assert steps.shape == (3, steps.shape[1], encoder.output_dim)
    assert mask.shape == steps.shape[:2]
    assert mask.all()
    assert encoder(torch.randn(50_000))[0].shape == (1, steps.shape[1], encoder.output_dim)


def test_a_masked_clip_is_encoded_as_it_is_alone(checkpoint, tokens):
    encoder, clips = MaeAstEncoder(checkpoint(tokens)), [torch.randn(n) / 5 for n in (32_000, 7_000, 500)]
    audio = nn.utils.rnn.pad_sequence(clips, batch_first=True)
    kept = (torch.arange(audio.shape[1]) < torch.tensor([[len(clip)] for clip in clips])).int()
    steps, mask = encoder(audio, kept)
    for clip, row, own in zip(clips, steps, mask, strict=True):
        alone, _ = encoder(clip)
        assert int(own.sum()) == alone.shape[1]
        torch.testing.assert_close(row[own.bool()], alone[0], rtol=0, atol=1e-4)
        assert not row[~own.bool()].any()


def test_the_mask_is_1_for_what_is_kept_and_only_at_the_beginning():
    assert lengths_of(torch.tensor([[1, 1, 0], [0, 0, 0]])).tolist() == [2, 1]
    with pytest.raises(ValueError, match="padding before samples"):
        lengths_of(torch.tensor([[0, 1, 1]]))


def test_its_model_args_choose_checkpoint_and_hop(checkpoint, monkeypatch):
    path = checkpoint()
    assert MaeAstEncoder(path, hop_ms=160)(torch.zeros(1, 16_000))[0].shape[1] == 6
    assert MaeAstEncoder(path)(torch.zeros(1, 16_000))[0].shape[1] == 23
    monkeypatch.setenv("MAEAST_CHECKPOINT", path)
    assert MaeAstEncoder().output_dim == MaeAstEncoder(path).output_dim
    with pytest.raises(ValueError, match="hop"):
        MaeAstEncoder(path, hop_ms=33)


def test_the_model_around_it_is_saved_and_loaded_by_transformers_with_the_same_outputs(checkpoint, tmp_path):
    """XARES-LLM does so between training and scoring; transformers then builds all modules without memory."""
    transformers = pytest.importorskip("transformers")

    class Config(transformers.PretrainedConfig):
        model_type = "around"

    class Around(transformers.PreTrainedModel):
        config_class = Config

        def __init__(self, config):
            super().__init__(config)
            self.audio_encoder = MaeAstEncoder(config.checkpoint)
            self.audio_projector = nn.Linear(self.audio_encoder.output_dim, 4)
            self.post_init()

        def forward(self, audio):
            return self.audio_projector(self.audio_encoder(audio)[0])

    model, audio = Around(Config(checkpoint=checkpoint())), torch.randn(2, 16_000) / 5
    with torch.no_grad():
        next(model.audio_encoder.model.network.parameters()).add_(0.1)
    model.save_pretrained(tmp_path / "trained")
    again = Around.from_pretrained(tmp_path / "trained")
    assert torch.equal(model(audio), again(audio))
