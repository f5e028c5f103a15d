"""Which clips share a batch, how they are padded, and how time steps are put together from batches."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from maeast_upstream.audio.constants import FULL_SCALE
from maeast_upstream.config import ModelConfig
from maeast_upstream.device import to_device
from maeast_upstream.frontend import HOP_SAMPLES, WINDOW_SAMPLES, num_samples
from maeast_upstream.readout import Readout, read_layers
from maeast_upstream.time_grid import TimeGrid

BATCH_TOKENS = {"cpu": 1024, "cuda": 65_536}
"""Tokens of a batch: on a CPU few enough to stay in its cache (1.1 times as fast as 4096), on a GPU many."""

CROSSING_FRAMES = WINDOW_SAMPLES // HOP_SAMPLES
"""Fbank frames behind a clip's own that begin in the clip and end behind it."""

MAX_PADDING = 0.1
"""The largest share of padding in a batch."""

Past = Literal["zero", "repeat"]
"""What fills the rows past a clip's own time steps: zeros, or its last step."""


class StepChunk(NamedTuple):
    """Some of a batch's time steps, as they are computed; n in all."""

    clip: Tensor
    """(n,) int64, which clip each time step belongs to."""
    step: Tensor
    """(n,) int64, which time step of that clip it is."""
    values: list[Tensor]
    """From the network (b, N, D) tokens of each kept layer; for `assemble` (b, T, C) with b * T = n."""


class BatchLimits(NamedTuple):
    """How large a batch may be, counted in time steps of the model's own hop."""

    steps: float
    """Time steps of a batch, padding included; a clip with more goes alone."""
    packed: bool
    """Whether the clips of a batch are packed into one row, without any padding."""
    whole_samples: float
    """A clip with more samples goes alone, in windows."""


def plan_batches(samples: Sequence[int], grid: TimeGrid, limits: BatchLimits) -> Iterator[list[int]]:
    """Group clips into batches, longest first.

    Args:
        samples: the samples of each clip.
        grid: where its time steps lie.
        limits: how large a batch may be.

    Yields:
        Indices into ``samples``.
    """
    batch: list[int] = []
    used = longest = 0
    for clip in sorted(range(len(samples)), key=lambda clip: -samples[clip]):
        steps = grid.steps(samples[clip]) // grid.passes + 1
        longest, used = longest or steps, used + steps
        area = used if limits.packed else (len(batch) + 1) * longest
        too_padded = used < (1 - MAX_PADDING) * area
        if batch and (area > limits.steps or too_padded or samples[batch[0]] > limits.whole_samples):
            yield batch
            batch, longest, used = [], steps, steps
        batch.append(clip)
    if batch:
        yield batch


def pad_clips(clips: Sequence[Tensor], grid: TimeGrid, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """(S_i,) clips -> (b, S) on ``device``, zeros around them, and the (b,) samples of each where they differ."""
    samples = [grid.padded_samples(len(clip)) for clip in clips]
    clips = [scaled(clip) for clip in clips]
    if len(clips) == 1 and samples[0] == len(clips[0]):
        return to_device(clips[0], device)[None], None
    source = clips[0].device  # put together where the clips are, so that there is one copy to a GPU
    pinned = source.type == "cpu" and device.type == "cuda"
    padded = torch.zeros(len(clips), max(samples), device=source, pin_memory=pinned)
    for row, clip in enumerate(clips):
        padded[row, grid.left : grid.left + len(clip)] = clip
    equal = min(samples) == max(samples)
    return to_device(padded, device), None if equal else to_device(torch.tensor(samples), device)


def join_clips(clips: Sequence[Tensor], grid: TimeGrid, device: torch.device) -> tuple[Tensor, Tensor]:
    """Put clips one behind the other, each beginning on an fbank hop, so that its own frames see no other clip.

    Args:
        clips: (S_i,) waveforms, float32, or int16 as `scaled` has them: then half as many bytes are sent to a GPU.
        grid: where their time steps lie.
        device: where the result is.

    Returns:
        (1, S) float32 on ``device``, zeros between the clips, and the (b,) first fbank frames of the clips on the CPU.
    """
    source = clips[0].device  # put together where the clips are, so that there is one copy to a GPU
    if len({clip.dtype for clip in clips}) > 1:
        clips = [scaled(clip) for clip in clips]
    frames = torch.tensor([grid.frames(len(clip)) + CROSSING_FRAMES for clip in clips])
    zeros = clips[0].new_zeros(num_samples(grid.patch_frames) + CROSSING_FRAMES * HOP_SAMPLES)
    pieces = []
    for clip, count in zip(clips, frames.tolist(), strict=True):
        samples = clip[: count * HOP_SAMPLES - grid.left].to(source)
        behind = count * HOP_SAMPLES - grid.left - len(samples)
        pieces += [zeros[: grid.left], samples, zeros[:behind]]
    if source.type == "cpu" and device.type == "cuda" and not any(clip.requires_grad for clip in clips):
        row = torch.empty(int(frames.sum()) * HOP_SAMPLES, dtype=clips[0].dtype, pin_memory=True)
        joined = torch.cat(pieces, out=row).to(device, non_blocking=True)
    else:
        joined = to_device(torch.cat(pieces), device)
    return scaled(joined)[None], frames.cumsum(0) - frames


def scaled(samples: Tensor) -> Tensor:
    """Convert int16 samples, which packed corpora hold, to float32 in [-1, 1); float32 ones stay as they are."""
    return samples if samples.is_floating_point() else samples.float() / FULL_SCALE


def positions_in(counts: Tensor) -> Tensor:
    """(b,) int64 counts -> 0 to count - 1 for each of them, one behind the other."""
    return torch.arange(int(counts.sum())) - (counts.cumsum(0) - counts).repeat_interleave(counts)


def combine(
    chunks: Iterable[StepChunk], keep: Sequence[int], readouts: Sequence[Readout], config: ModelConfig
) -> Iterator[StepChunk]:
    """Yield chunks with the time steps of each readout in place of the tokens of each layer.

    Args:
        chunks: from the network.
        keep: the layers of their values.
        readouts: which layers and mel axis; nothing is pooled.
        config: of the network.
    """
    for chunk in chunks:
        tokens = dict(zip(keep, chunk.values, strict=True))
        values = [read_layers(tokens, readout, config.depth, config.mel_patches) for readout in readouts]
        yield chunk._replace(values=values)


def assemble(chunks: Iterable[StepChunk], counts: Sequence[int], rows: int, past: Past = "zero") -> list[Tensor]:
    """Put the time steps of all clips together.

    Args:
        chunks: every time step of every clip. Steps past a clip's own may be among them and do not matter.
        counts: the time steps of each clip.
        rows: time steps of the result, at least the most of ``counts``.
        past: what fills the rows past a clip's own time steps.

    Returns:
        For each of a chunk's values (B, rows, C).

    Raises:
        ValueError: too few rows, or an unknown ``past``.
    """
    if rows < max(counts):
        raise ValueError(f"steps must be at least {max(counts)}, the time steps of the longest clip, got {rows}")
    if past not in get_args(Past):
        raise ValueError(f"past must be one of {', '.join(get_args(Past))}, got {past!r}")
    chunks = iter(chunks)
    first = next(chunks)
    chunks = itertools.chain([first], chunks)
    if first.values[0].requires_grad:
        states = _gather(chunks, counts, rows)
    else:
        states = _scatter(chunks, len(counts), rows)
        if past == "repeat":
            _repeat_last(states, counts)
    if past == "zero" and min(counts) < rows:
        beyond = torch.arange(rows) >= torch.tensor(counts)[:, None]
        beyond = to_device(beyond, states[0].device)[..., None]
        states = [state.masked_fill_(beyond, 0.0) for state in states]
    return states


def _scatter(chunks: Iterable[StepChunk], num_clips: int, rows: int) -> list[Tensor]:
    """Write each chunk to its rows; the other rows are not initialized."""
    states: list[Tensor] = []
    for clip, step, values in chunks:
        states = states or [value.new_empty(num_clips, rows, value.shape[-1]) for value in values]
        for state, value in zip(states, values, strict=True):
            state[clip, step] = value.flatten(0, 1)
    return states


def _gather(chunks: Iterable[StepChunk], counts: Sequence[int], rows: int) -> list[Tensor]:
    """Gather all rows in one step, past a clip's own steps its last one.

    Gradients come back through it cheaply, while a gradient of each write would copy the whole result.
    """
    chunks = list(chunks)
    device = chunks[0].values[0].device
    source = torch.zeros(len(counts), rows, dtype=torch.int64, device=device)
    start = 0
    for clip, step, _ in chunks:
        source[clip, step] = torch.arange(start, start + len(clip), device=device)
        start += len(clip)
    last = torch.tensor([[count - 1] for count in counts])
    source = source.gather(1, to_device(torch.minimum(torch.arange(rows), last), device))
    by_layer = zip(*(chunk.values for chunk in chunks), strict=True)
    flat = [torch.cat([value.flatten(0, 1) for value in values]) for values in by_layer]
    return [value.index_select(0, source.flatten()).view(*source.shape, -1) for value in flat]


def _repeat_last(states: Sequence[Tensor], counts: Sequence[int]) -> None:
    """Fill (B, T, C) tensors in place: each row past a clip's own steps becomes its last step."""
    last = torch.tensor(counts) - 1
    clip, step = (torch.arange(states[0].shape[1]) > last[:, None]).nonzero(as_tuple=True)
    source = last[clip]
    clip, step, source = (to_device(index, states[0].device) for index in (clip, step, source))
    for state in states:
        state[clip, step] = state[clip, source]
