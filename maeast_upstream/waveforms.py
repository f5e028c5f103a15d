"""What Python code gives as audio, as clips: paths, arrays, tensors, and lists of these."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Number
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.audio.joining import join_in_memory
from maeast_upstream.audio.reading import MAX_RATE, MIN_RATE, from_samples, read_audio
from maeast_upstream.checks import quote
from maeast_upstream.messages import counted

Clip = str | os.PathLike[str] | np.ndarray | Tensor | Sequence[float]
"""One recording: the path of a file, or samples."""
Waveforms = Clip | Sequence[Clip]
"""One clip, several, or a (B, S) batch."""

Read = TypeVar("Read")
"""What a file becomes."""

LOUDEST = 100.0
"""Largest sample that can be meant where 1 is full scale; whole numbers of 8 bits that became floats reach 128."""
FEW_SAMPLES, MANY_CLIPS = 8, 400
"""A (B, S) batch of more clips than this, none with more samples than this, is a recording with its axes exchanged."""
EXPECTED = "expected a path, a 1-D array or tensor of samples, or a list of these"


class Scene(NamedTuple):
    """The embedding of a file that was not read as a whole."""

    vector: Tensor
    """(E,) float32."""


def clips_or_scenes(
    waveforms: Waveforms,
    lengths: Tensor | np.ndarray | Sequence[int] | None,
    sample_rate: float | None,
    limit: float,
    pool: Callable[[Iterator[Tensor]], Tensor],
) -> list[Tensor | Scene]:
    """Do what `to_clips` does, but embed files that are longer than ``limit`` samples while they are decoded.

    Args:
        waveforms: as in `Encoder.encode`.
        lengths: as in `Encoder.encode`.
        sample_rate: as in `Encoder.encode`.
        limit: the most samples of a file that is read as a whole.
        pool: makes an (E,) vector of the (n,) blocks of a file.
    """

    def read(path: str) -> Tensor | Scene:
        scenes: list[Scene] = []

        def join(blocks: Iterator[np.ndarray]) -> np.ndarray:
            head: list[np.ndarray] = []
            while sum(map(len, head)) <= limit:
                if (block := next(blocks, None)) is None:
                    return join_in_memory(iter(head))
                head.append(block)
            rest = itertools.chain((head.pop(0) for _ in range(len(head))), blocks)
            scenes.append(Scene(pool(torch.from_numpy(block) for block in rest if len(block))))
            return np.empty(0, np.float32)

        samples = read_audio(path, join=join)
        return scenes[0] if scenes else torch.from_numpy(samples)

    return _converted(waveforms, lengths, sample_rate, read)


def to_clips(
    waveforms: Waveforms,
    lengths: Tensor | np.ndarray | Sequence[int] | None = None,
    sample_rate: float | None = None,
) -> list[Tensor]:
    """Read, check and convert what was given as audio. Float32 samples at 16 kHz are not copied.

    Args:
        waveforms: as in `Encoder.encode`.
        lengths: as in `Encoder.encode`.
        sample_rate: as in `Encoder.encode`.

    Returns:
        One (S_i,) float32 tensor at 16 kHz per clip, on the device that it was given on.

    Raises:
        ValueError: it cannot be meant as audio; one line with what came and what to write instead.
        AudioError: a file cannot be read.
    """
    return _converted(waveforms, lengths, sample_rate, lambda path: torch.from_numpy(read_audio(path)))


def _converted(
    waveforms: Waveforms,
    lengths: Tensor | np.ndarray | Sequence[int] | None,
    sample_rate: float | None,
    read: Callable[[str], Read],
) -> list[Tensor | Read]:
    """Return the clip of each item of `to_clips`, and for each path what ``read`` gives."""
    rate = None if sample_rate is None else _checked_rate(sample_rate)
    given = _unpacked(waveforms)
    if not (several := isinstance(given, list)):
        given = _rows(as_floats(given, "audio"), lengths, rate)
    elif lengths is not None:
        raise ValueError("lengths go with a (B, S) array or tensor; cut the clips of a list to their lengths instead")
    if not given:
        raise ValueError(f"{EXPECTED}; got none: give at least one clip")
    clips: list[Tensor | Read] = [
        read(os.fspath(item)) if _is_path(item) else _clip(item, rate, f"clip {number}") if several else item
        for number, item in enumerate(given)
    ]
    samples = {
        number: clip for number, clip in enumerate(clips) if isinstance(clip, Tensor) and not _is_path(given[number])
    }
    _refuse_impossible(samples)
    if rate not in (None, SAMPLE_RATE):
        for number, clip in samples.items():
            clips[number] = _resampled(clip, rate, f"clip {number}")
    return clips


def to_mono(samples: Any, sample_rate: float) -> np.ndarray:
    """Convert one recording with any number of channels: (S,) float32 at 16 kHz, mixed to mono.

    Args:
        samples: numbers of any type, (S,), or (S, channels) or (channels, S), where the longer axis is time.
        sample_rate: samples per second.

    Raises:
        ValueError: it cannot be meant as audio; one line with what came and what to write instead.
    """
    rate, name = _checked_rate(sample_rate), "samples"
    floats = as_floats(samples, name)
    if floats.ndim not in (1, 2):
        raise ValueError(f"{name}: expected (S,), or an axis of channels, got shape {tuple(floats.shape)}")
    if floats.ndim == 2:
        floats = floats.mean(dim=int(floats.shape[0] > floats.shape[1]))
    _refuse_impossible({0: floats}, name)
    return _resampled(floats, rate, name).cpu().numpy()


def as_floats(samples: Any, name: str) -> Tensor:
    """Return samples as a float32 tensor; whole numbers are divided by the range of their type.

    Args:
        samples: an array, a tensor or a list of numbers, of any shape.
        name: what to call it in errors.

    Raises:
        ValueError: it is not numbers, or it is whole numbers of 64 bits that do not say what full scale is.
    """
    values = samples if isinstance(samples, Tensor) else _from_numpy(samples, name)
    if values.is_nested or values.is_meta:
        raise ValueError(f"{name}: expected samples, got a nested tensor or one without data: give a list of clips")
    if values.is_floating_point() and values.layout is torch.strided:
        return values.float()
    if values.layout is not torch.strided or values.is_complex() or values.is_quantized or values.dtype == torch.bool:
        raise ValueError(f"{name}: expected real numbers, got {_kind(samples)}: give floats in [-1, 1]")
    info = torch.iinfo(values.dtype)
    middle = 0 if info.min else 2 ** (info.bits - 1)  # unsigned samples count from 0, as those of 8-bit WAV files
    wide = values.to(torch.float32 if info.bits <= 16 else torch.float64) - middle
    if info.bits == 64 and wide.numel() and 0 < (peak := wide.abs().max()) <= 2**31:
        raise ValueError(
            f"{name}: whole numbers of 64 bits up to {peak:.0f} do not say what full scale is: "
            "give them as np.int16 or np.int32, or as floats in [-1, 1]"
        )
    return (wide / 2.0 ** (info.bits - 1)).float()


def _unpacked(waveforms: Any) -> Any:
    """Return a list of clips; or one array, tensor or tuple of numbers."""
    if isinstance(waveforms, Tensor):
        return waveforms
    if _is_path(waveforms):
        return [waveforms]
    if hasattr(waveforms, "__array__"):  # also a pandas Series
        array = np.asanyarray(waveforms)
        return array.tolist() if array.dtype.kind in "OUT" and array.ndim == 1 else array
    if not isinstance(waveforms, list | tuple):
        raise ValueError(f"{EXPECTED}; got {_kind(waveforms)}")
    if waveforms and isinstance(waveforms[0], Number):
        return np.asarray(tuple(waveforms)) if all(isinstance(x, Number) for x in waveforms) else list(waveforms)
    if len(waveforms) == 2 and isinstance(waveforms[1], Number):
        raise ValueError(f"{EXPECTED}; got samples and a number: give a rate as sample_rate={waveforms[1]}")
    return list(waveforms)


def _is_path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike)


def _clip(item: Any, rate: float | None, name: str) -> Tensor:
    """Convert an item of a list that is no path to (S,) float32, at its own rate."""
    if not (isinstance(item, list | tuple | Tensor) or hasattr(item, "__array__")):
        raise ValueError(f"{name}: {EXPECTED}; got {_kind(item)}")
    return _mono(as_floats(item, name), rate, name)


def _rows(samples: Tensor, lengths: Any, rate: float | None) -> list[Tensor]:
    """Cut an array into clips: (S,) is one, (B, S) a batch; with a sample rate, two dimensions are one recording."""
    shape = tuple(samples.shape)
    if lengths is None and (rate is not None or samples.ndim != 2):
        return [_mono(samples, rate, "audio")]
    if samples.ndim == 1:
        samples = samples[None]
    if samples.ndim != 2:
        raise ValueError(f"lengths go with a (B, S) array or tensor, got shape {shape}")
    if len(samples) > MANY_CLIPS and samples.shape[1] <= FEW_SAMPLES:
        raise ValueError(
            f"got shape {shape}, which would be {len(samples)} clips of {samples.shape[1]} samples: give "
            "sample_rate=... with a recording in stereo, or a list of one-dimensional clips"
        )
    if lengths is None:
        return list(samples)
    return [row[:end] for row, end in zip(samples, _ends(lengths, *samples.shape), strict=True)]


def _ends(lengths: Any, rows: int, samples: int) -> list[int]:
    """Return the samples of each row of a (rows, samples) array."""
    plain = lengths.tolist() if isinstance(lengths, Tensor | np.ndarray) else lengths
    if isinstance(plain, Number):  # embed(samples, 44_100)
        raise ValueError(f"lengths: expected a list of whole numbers, got {plain}: give a rate as sample_rate=...")
    ends = list(plain) if isinstance(plain, Iterable) else [plain]
    if len(ends) != rows or not all(isinstance(end, int | np.integer) and type(end) is not bool for end in ends):
        expected = f"{rows} whole numbers of samples, one for each row"
        raise ValueError(f"lengths: expected {expected}, got {_kind(lengths)}")
    for number, end in enumerate(ends):
        if not 0 < end <= samples:
            raise ValueError(f"lengths: row {number} has {samples} samples, so give 1 to {samples}, got {end}")
    return ends


def _mono(samples: Tensor, rate: float | None, name: str) -> Tensor:
    """Return one recording as (S,): as it is, or the mean of two channels if its sample rate is given."""
    shape = tuple(samples.shape)
    if samples.ndim == 1:
        return samples
    if samples.ndim == 2 and 1 in shape:
        return samples.flatten()
    if samples.ndim == 2 and rate is not None and min(shape) == 2:
        return samples.mean(dim=shape.index(2))
    remedy = "a list of one-dimensional clips"
    if samples.ndim == 2:
        remedy = f"{remedy}, or the mean of the channels" + (", or sample_rate=... with stereo" if rate is None else "")
    raise ValueError(f"{name}: {EXPECTED}; got shape {shape}: give {remedy}")


def _refuse_impossible(clips: Mapping[int, Tensor], name: str | None = None) -> None:
    """Refuse clips without samples, and samples that cannot be meant; a GPU is waited for once."""
    for number, clip in clips.items():
        if not len(clip):
            raise ValueError(f"{name or f'clip {number}'}: expected at least one sample, got none: leave the clip out")
    ranges = [torch.stack(clip.detach().aminmax()) for clip in clips.values()]
    peaks = torch.stack([each.to(ranges[0].device) for each in ranges]).abs().amax(1).tolist() if ranges else []
    for number, peak in zip(clips, peaks, strict=True):
        if not peak <= LOUDEST:  # also for NaN
            fault = "NaN or infinite samples: repair it or leave it out"
            if np.isfinite(peak):
                fault = f"samples up to {peak:.3g}, where 1 is full scale: divide by 32768 if they were 16-bit integers"
            raise ValueError(f"{name or f'clip {number}'}: {fault}")


def _resampled(clip: Tensor, rate: float, name: str) -> Tensor:
    """Resample (S,) samples to 16 kHz."""
    if rate == SAMPLE_RATE:
        return clip
    if clip.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name}: gradients do not pass through the resampling from {rate:g} Hz: resample it by "
            "torchaudio.functional.resample, and leave sample_rate out"
        )
    samples = from_samples(clip.detach().cpu().numpy(), int(rate))
    if not len(samples):
        raise ValueError(f"{name}: {counted(len(clip), 'sample')} at {rate:g} Hz: not one sample at {SAMPLE_RATE} Hz")
    return torch.from_numpy(samples).to(clip.device)


def _checked_rate(rate: Any) -> float:
    """Return a sample rate, or raise ValueError."""
    number = rate.item() if isinstance(rate, np.generic | Tensor) and rate.size in (1, torch.Size([])) else rate
    if type(number) not in (int, float) or not MIN_RATE <= number <= MAX_RATE or number != int(number):
        raise ValueError(f"sample rate {quote(rate)} Hz: expected a whole number from {MIN_RATE} to {MAX_RATE}")
    return float(number)


def _from_numpy(samples: Any, name: str) -> Tensor:
    """Convert what numpy can read, without a copy if torch can hold it as it is."""
    if np.ma.is_masked(samples):
        raise ValueError(f"{name}: expected numbers, got masked ones: give samples.filled(0)")
    try:
        array = np.asarray(samples)
        if array.dtype.kind not in "iufcb":
            raise TypeError
        # torch holds neither foreign byte orders, negative strides, read-only memory nor floats of 80 bits
        native = np.float32 if array.dtype.kind == "f" else array.dtype.newbyteorder("=")
        return torch.from_numpy(np.require(array, native, ["C", "W"]))
    except (ValueError, TypeError) as error:  # rows of different lengths, text
        raise ValueError(f"{name}: expected numbers, got {_kind(samples)}: give floats in [-1, 1]") from error


def _kind(value: Any) -> str:
    """Describe a value without its content, which may be long."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    if isinstance(value, Mapping) and "array" in value:
        return "a mapping: give its ['array'], with sample_rate=its ['sampling_rate']"
    if hasattr(value, "read"):
        return f"{type(value).__name__}: give load_audio(...) of it"
    if isinstance(value, Iterator):
        return f"{type(value).__name__}: give list(...) of it"
    return type(value).__name__
