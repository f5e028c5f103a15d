"""The tensors of a checkpoint are known without building its network, and without torch."""

import subprocess
import sys

import pytest

from maeast_upstream.checkpoint.layout import tensor_shapes
from maeast_upstream.model import MaeAst, ModelConfig

SMALL = {"embed_dim": 12, "num_heads": 2, "ffn_dim": 20, "depth": 3, "decoder_heads": 2, "decoder_ffn_dim": 14}


@pytest.mark.parametrize(
    "settings",
    [
        {"decoder_dim": 12, "decoder_depth": 2},
        {"decoder_dim": 8, "decoder_depth": 1, "patch_frames": 2, "patch_mels": 128},
        {"decoder_dim": 8, "decoder_depth": 2, "decoder_attention": "cross", "positions": "none"},
        {"decoder_dim": 12, "decoder_depth": 0},
    ],
)
def test_the_shapes_are_those_of_the_network(settings):
    config = ModelConfig(**SMALL, **settings)
    assert tensor_shapes(config) == {name: tuple(value.shape) for name, value in MaeAst(config).state_dict().items()}


def test_loading_a_model_loads_no_compiler():
    code = """
import sys
from maeast_upstream import load_model
load_model()
print([name for name in ("torch._dynamo", "sympy", "triton", "pandas", "scipy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
