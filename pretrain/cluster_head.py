"""The head that predicts clusters of masked tokens from the decoder's outputs. Source: HuBERT, arXiv 2106.07447."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.config import LossConfig


class ClusterHead(nn.Module):
    """Logits of clusters: cosines of a projection of the token with a learned vector of each, divided by a temperature.

    Source: HuBERT, section II.B, equation 3.
    """

    def __init__(self, dim: int, clusters: int, losses: LossConfig) -> None:
        """Begin with random weights.

        Args:
            dim: width of the decoder's outputs.
            clusters: number of clusters.
            losses: the settings ``cluster_...``.
        """
        super().__init__()
        self.temperature = losses.cluster_temperature
        self.projection = nn.Linear(dim, losses.cluster_dim)
        self.vectors = nn.Parameter(torch.randn(clusters, losses.cluster_dim))

    def forward(self, decoded: Tensor) -> Tensor:
        """(B, n, dim) -> (B, n, clusters) float32 logits."""
        projected = self.projection(decoded)
        with torch.autocast(decoded.device.type, enabled=False):
            logits = F.normalize(projected.float(), dim=-1) @ F.normalize(self.vectors.float(), dim=-1).T
        return logits / self.temperature
