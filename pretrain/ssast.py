"""SSAST's two heads, which predict masked patches from a full-length encoder. Source: arXiv 2110.09784, section 2.3."""

from torch import nn

from maeast_upstream.linear import Linear


class Heads(nn.Module):
    """Two layers with a ReLU between them, for each loss that is computed."""

    def __init__(self, embed_dim: int, patch_dim: int, reconstruction: bool, classification: bool) -> None:
        super().__init__()
        self.reconstruction = _head(embed_dim, patch_dim) if reconstruction else None
        self.classification = _head(embed_dim, patch_dim) if classification else None


def _head(embed_dim: int, patch_dim: int) -> nn.Sequential:
    return nn.Sequential(Linear(embed_dim, embed_dim), nn.ReLU(), Linear(embed_dim, patch_dim))
