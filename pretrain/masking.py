"""Which tokens are removed in pretraining: pure functions of a shape, a ratio and a generator.

Each clip of a batch draws its own mask, on the generator's device, without a loop over clips: every token gets
a score, and the tokens with the lowest scores are masked, so that the count is exact for every kind of mask.
"""

import torch
from torch import Tensor

CHUNK_SIZES = (3, 4, 5)
"""Side of SSAST's square chunks, in tokens."""


def num_masked(num_tokens: int, mask_ratio: float) -> int:
    """How many of a clip's tokens are removed: all but int((1 - mask_ratio) * num_tokens), and at least one stays."""
    return num_tokens - max(1, int((1.0 - mask_ratio) * num_tokens))


def random_scores(batch: int, num_tokens: int, generator: torch.Generator) -> Tensor:
    """(batch, num_tokens) scores in [0, 1): every token is equally likely to be masked."""
    return torch.rand(batch, num_tokens, generator=generator, device=generator.device)


def chunk_scores(batch: int, steps: int, mel_patches: int, generator: torch.Generator) -> Tensor:
    """Scores under which square chunks of 3, 4 or 5 tokens (one size a clip) are masked one after the other.

    A chunk may hang over any edge and is cut there, never wrapped, so that every token is equally likely to be
    covered. What the last chunk has too much is left out at random; if all chunks together are too few, the rest
    is random.

    Returns:
        (batch, steps * mel_patches), the tokens in time-major order.
    """
    device = generator.device

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    chunks = 2 * steps * mel_patches // CHUNK_SIZES[0] ** 2 + 8
    size = CHUNK_SIZES[0] + (draw(batch, 1) * len(CHUNK_SIZES)).long()  # (batch, 1)
    top = (draw(batch, chunks) * (steps + size - 1)).long() - size + 1
    left = (draw(batch, chunks) * (mel_patches + size - 1)).long() - size + 1

    def covers(start: Tensor, length: int) -> Tensor:
        offset = torch.arange(length, device=device) - start[..., None]
        return (offset >= 0) & (offset < size[..., None])  # (batch, chunks, length)

    covered = covers(top, steps)[..., None] & covers(left, mel_patches)[:, :, None]  # (batch, chunks, T, M)
    number = torch.arange(chunks, device=device).view(1, chunks, 1, 1)
    first = torch.where(covered, number, chunks).amin(dim=1).flatten(1)
    return first + draw(batch, steps * mel_patches)


def mixed_scores(
    batch: int,
    steps: int,
    mel_patches: int,
    chunk_share: float,
    generator: torch.Generator,
) -> Tensor:
    """(batch, steps * mel_patches): chunked scores for about ``chunk_share`` of the clips, random for the others."""
    chunked = chunk_scores(batch, steps, mel_patches, generator)
    choice = torch.rand(batch, 1, generator=generator, device=generator.device) < chunk_share
    return torch.where(choice, chunked, random_scores(batch, steps * mel_patches, generator))


def split(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(B, N) scores -> indices (B, N - count) of the visible and (B, count) of the masked tokens, each ascending."""
    order = scores.argsort(dim=1)
    return order[:, count:].sort(dim=1).values, order[:, :count].sort(dim=1).values
