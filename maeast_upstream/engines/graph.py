"""The transformer as other engines need it: a module that can be traced, and batches to try it on."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.inference import BatchEncoder
from maeast_upstream.model import MaeAst, ModelConfig


class LayersOf(nn.Module):
    """`MaeAst.features` with fixed layers: (B, N, P) patches, (B, N) bool padding -> a tuple of (B, N, D).

    Up to `model.STORED_POSITIONS` tokens: a trace keeps the branch that reads the stored table.
    """

    def __init__(self, network: MaeAst, layers: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.layers = list(layers)
        self.eval()

    def forward(self, patches: Tensor, padding: Tensor) -> tuple[Tensor, ...]:
        """The layers' outputs, in ascending order."""
        return tuple(self.network.features(patches, padding, self.layers))


def noise_batch(config: ModelConfig, clips: int, tokens: int) -> tuple[Tensor, Tensor]:
    """(clips, tokens, P) noise with the standard deviation of patches, and its padding: the last clip is shorter."""
    noise = 0.5 * torch.randn(clips, tokens, config.patch_dim, generator=torch.Generator().manual_seed(0))
    lengths = torch.full((clips, 1), tokens)
    lengths[-1] = tokens * 2 // 3
    return noise, torch.arange(tokens) >= lengths


def trial_batch(encoder: BatchEncoder) -> tuple[Tensor, Tensor]:
    """(2, N, P) patches of a second of sound and of noise, and their (2, N) padding: what an engine is tried on."""
    heard = encoder.patches(sound())
    noise, padding = noise_batch(encoder.config.model, clips=1, tokens=heard.shape[1])
    return torch.cat([heard, noise]), torch.cat([torch.zeros_like(padding), padding])


def sound() -> Tensor:
    """(1, S): a second of audio: a rising tone, digital silence, quiet noise, loud noise, and clicks in all of them."""
    time = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    tone = 0.5 * torch.sin(2 * torch.pi * (60 * time + 3600 * time**2))  # from 60 to 7260 Hz
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    parts = zip(tone.chunk(4), noise.chunk(4), (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1e-3, 0.1), strict=True)
    waveform = torch.cat([a * part + b * other for part, other, a, b in parts])
    waveform[:: SAMPLE_RATE // 6] = 0.9
    return waveform[None]


@contextmanager
def tracing() -> Iterator[None]:
    """A context without gradients and without warnings that shapes become constants, which the tests check."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", category=TracerWarning)
        for category in (DeprecationWarning, FutureWarning):  # newer releases of torch give tracing up
            warnings.filterwarnings("ignore", category=category)
        yield
