"""Networks small enough for a test."""

from maeast_upstream.model import ModelConfig, preset


def small_config(tokens="patch", **overrides) -> ModelConfig:
    encoder = {"embed_dim": 32, "depth": 3, "num_heads": 4, "ffn_dim": 64}
    decoder = {"decoder_dim": 32, "decoder_heads": 4, "decoder_ffn_dim": 64}
    return preset("tiny", tokens, **{**encoder, **decoder, **overrides})
