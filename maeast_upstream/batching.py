"""Which clips share a batch, how they are padded, and how time steps are gathered from batches."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def like_lengths(lengths: Sequence[int], limit: float) -> Iterator[list[int]]:
    """Cut clips into batches, longest first, of at most ``limit`` samples with padding; a longer clip goes by itself.

    Args:
        lengths: samples of each clip.
        limit: a batch's clips times its longest.

    Yields:
        Indices into ``lengths``.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        size = max(1, int(min(limit / max(1, lengths[order[0]]), len(order))))
        yield order[:size]
        order = order[size:]


BATCH_TOKENS = {"cpu": 1024, "cuda": 65_536}
"""Tokens that go through the network at once: on a CPU what stays in cache (1.1x over 4096), on a GPU many."""


MAX_PADDING = 0.1
"""Clips share a batch while at most this share of its tokens is padding."""


SMALL_BATCH_TOKENS = {"cpu": 0, "cuda": 8192}
"""Up to here padding does not matter: on a GPU a pass of the network costs its launches, however few tokens it has."""


def repeat_last(states: Sequence[Tensor], lengths: Sequence[int]) -> None:
    """Fill (B, T, C) tensors in place: what lies past a clip's length becomes its last step."""
    last = torch.tensor(lengths) - 1
    clip, step = (torch.arange(states[0].shape[1]) > last[:, None]).nonzero(as_tuple=True)
    source = last[clip]
    clip, step, source = (to_device(index, states[0].device) for index in (clip, step, source))
    for state in states:
        state[clip, step] = state[clip, source]


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """``value`` on ``device``; on its way to a GPU nobody waits for it: pinned memory is copied when its turn comes."""
    if device.type != "cuda" or value.device.type != "cpu":
        return value.to(device)
    return value.pin_memory().to(device, non_blocking=True)


def split_clips(waveforms: Tensor | Sequence[Tensor], lengths: Tensor | None) -> list[Tensor]:
    """(B, S) with (B,) lengths, or a sequence of (S_i,), -> one checked (S_i,) tensor per clip."""
    if isinstance(waveforms, Tensor) and waveforms.dim() != 2:
        raise ValueError(
            f"expected waveforms of shape (B, S) or a list of (S_i,) tensors, got {tuple(waveforms.shape)}"
        )
    clips = list(waveforms)
    if not clips:
        raise ValueError("expected at least one clip, got none")
    if lengths is not None:
        ends = torch.as_tensor(lengths).tolist()
        if not isinstance(waveforms, Tensor) or len(ends) != len(clips) or max(ends) > waveforms.shape[1]:
            raise ValueError("lengths go with a (B, S) tensor: one for each row, none above S")
        clips = [clip[:end] for clip, end in zip(clips, ends, strict=True)]
    for number, clip in enumerate(clips):
        if not isinstance(clip, Tensor) or clip.dim() != 1 or not clip.is_floating_point() or len(clip) == 0:
            got = f"{clip.dtype} of shape {tuple(clip.shape)}" if isinstance(clip, Tensor) else type(clip).__name__
            raise ValueError(
                f"clip {number}: expected a (S,) floating point tensor with at least one sample, got {got}"
            )
    return clips
