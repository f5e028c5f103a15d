"""The transformer as other engines need it: a module that can be traced, and batches to try it on."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

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


@contextmanager
def tracing() -> Iterator[None]:
    """A context without gradients and without warnings that shapes become constants, which the tests check."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", category=TracerWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield
