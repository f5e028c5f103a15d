"""Writes the stored values that tests compare with: `python tests/golden/make.py` (needs torchaudio).

fbank.safetensors holds waveforms and what torchaudio's Kaldi front end makes of them; network.safetensors the weights
of a small network, an input, and what it gives, so that a change of its numbers cannot go unnoticed;
outputs.safetensors what the package gives for real clips. `python tests/golden/make.py outputs` writes one of them.
"""

import dataclasses
import json
import math
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from maeast_upstream.model import MaeAst, ModelConfig

HERE = Path(__file__).parent
SHAPE = ModelConfig(
    patch_frames=4,
    patch_mels=32,
    embed_dim=16,
    depth=2,
    num_heads=2,
    ffn_dim=32,
    decoder_dim=8,
    decoder_depth=1,
    decoder_heads=2,
    decoder_ffn_dim=16,
)


def signals() -> dict[str, torch.Tensor]:
    """0.1 s each: eight frames."""
    seconds = torch.arange(1600) / 16_000
    noise = 0.1 * torch.randn(1600, generator=torch.Generator().manual_seed(0))
    return {
        "noise": noise,
        "silence": torch.zeros(1600),
        "square": torch.sign(torch.sin(2 * math.pi * 1000 * seconds + 1e-3)),
        "sine": 0.9 * torch.sin(2 * math.pi * 1000 * seconds),
        "noisy sweep": 0.5 * torch.sin(2 * math.pi * 30_000 * seconds.square()) + 0.3 + noise,
    }


def write_fbank() -> None:
    """Both front ends of every signal."""
    from torchaudio.compliance.kaldi import fbank

    options = {"sample_frequency": 16_000, "use_energy": False, "num_mel_bins": 128}
    ssast = {
        "htk_compat": True,
        "window_type": "hanning",
        "dither": 0.0,
        "frame_shift": 10,
    }
    values = {}
    for name, clip in signals().items():
        values[f"{name}.waveform"] = clip
        values[f"{name}.povey"] = fbank(clip[None], **options)
        values[f"{name}.ssast"] = fbank((clip - clip.mean())[None], **options, **ssast)
    save_file(values, HERE / "fbank.safetensors")


def write_network() -> None:
    """Features of every layer, and a prediction."""
    torch.manual_seed(0)
    network = MaeAst(SHAPE).eval()
    patches = torch.randn(2, 12, SHAPE.patch_dim)
    order = torch.stack([torch.randperm(12), torch.randperm(12)])
    visible, masked = order[:, 8:].contiguous(), order[:, :8].contiguous()
    padding = torch.arange(12) >= torch.tensor([[12], [8]])
    with torch.no_grad():
        features = network.features(patches, padding)
        prediction = network.predict(patches, visible, masked)
        whole = network.encode_with_mask_tokens(patches, masked)
    values = {f"weights.{name}": value for name, value in network.state_dict().items()}
    values |= {
        "patches": patches,
        "visible": visible,
        "masked": masked,
        "padding": padding,
    }
    values |= {f"features.{number}": value for number, value in enumerate(features, start=1)}
    values |= {
        "reconstruction": prediction.reconstruction,
        "classification": prediction.classification,
        "whole": whole,
    }
    save_file(
        values,
        HERE / "network.safetensors",
        metadata={"config": json.dumps(dataclasses.asdict(SHAPE))},
    )


def write_outputs() -> None:
    """What the package gives for real clips, with the bundled checkpoint."""
    from outputs import all_outputs

    with tempfile.TemporaryDirectory() as folder:
        values = all_outputs(Path(folder))
    save_file({name: value.contiguous() for name, value in values.items()}, HERE / "outputs.safetensors")


if __name__ == "__main__":
    writers = {"fbank": write_fbank, "network": write_network, "outputs": write_outputs}
    for name in sys.argv[1:] or writers:
        writers[name]()
