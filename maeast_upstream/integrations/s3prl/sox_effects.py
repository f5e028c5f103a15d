"""The effects of sox that s3prl's data sets ask torchaudio for, which torchaudio no longer has.

`superb_repairs` hands this file out as ``torchaudio.sox_effects``. It reads audio itself: joblib's worker processes, in
which nothing is repaired, import it by name.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Samples = NDArray[np.float32]
"""(channels, S) in [-1, 1]."""
RMS_PER_SECOND = 50
"""``silence`` measures loudness over a trailing window of a 50th of a second."""


def apply_effects_file(
    path: str,
    effects: Sequence[Sequence[str]],
    normalize: bool = True,
    channels_first: bool = True,
    format: str | None = None,
) -> tuple[Tensor, int]:
    """An audio file through a chain of effects, as torchaudio's function of that name: (channels, S) float32, rate."""
    samples, rate = read(path)
    return _chain(samples, rate, effects, channels_first)


def apply_effects_tensor(
    tensor: Tensor,
    sample_rate: int,
    effects: Sequence[Sequence[str]],
    channels_first: bool = True,
) -> tuple[Tensor, int]:
    """(channels, S) float32 through a chain of effects, as torchaudio's function of that name."""
    samples = tensor.detach().cpu().numpy() if channels_first else tensor.detach().cpu().numpy().T
    return _chain(samples, sample_rate, effects, channels_first)


def read(path: Any, start: int = 0, stop: int | None = None) -> tuple[Samples, int]:
    """A file's (channels, S) samples and rate; RuntimeError, as torchaudio has it, names a file that cannot be read."""
    import soundfile

    try:
        samples, rate = soundfile.read(path, start=start, stop=stop, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, ValueError) as error:
        raise RuntimeError(f"{path}: cannot be read as audio ({' '.join(str(error).split())})") from error
    return np.ascontiguousarray(samples.T), rate


def _chain(samples: Samples, rate: int, effects: Sequence[Sequence[str]], channels_first: bool) -> tuple[Tensor, int]:
    for name, *values in effects:
        samples, rate = _apply(samples, rate, name, values)
    tensor = torch.from_numpy(np.array(samples, dtype=np.float32))
    return tensor if channels_first else tensor.T, rate


def _apply(samples: Samples, rate: int, name: str, values: Sequence[str]) -> tuple[Samples, int]:
    if name == "channels" and values == ["1"]:
        return samples.mean(axis=0, keepdims=True), rate
    if name == "rate" and len(values) == 1:
        return resample(samples, rate, int(values[0])), int(values[0])
    if name == "gain" and len(values) == 1:
        return (samples * np.float32(10 ** (float(values[0]) / 20))).clip(-1.0, 1.0), rate
    if name == "norm" and not values:
        return samples / np.maximum(np.abs(samples).max(initial=0.0), np.finfo(np.float32).tiny), rate
    if name == "silence" and len(values) == 6 and values[0] == "1" and values[1:3] == values[4:]:
        return drop_silences(samples, rate, float(values[1]), float(values[2].removesuffix("%")) / 100), rate
    raise ValueError(
        f"the sox effect {' '.join([name, *values])!r} is not among those that this package can stand in for; "
        "torch and torchaudio 2.8 with libsox have it"
    )


def resample(samples: Samples, rate: int, wanted: int) -> Samples:
    """By soxr, the library that sox's own ``rate`` became."""
    import soxr

    if rate == wanted:
        return samples
    resampled: Samples = soxr.resample(samples.T, rate, wanted).T
    return resampled.clip(-1.0, 1.0)


def drop_silences(samples: Samples, rate: int, seconds: float, threshold: float) -> Samples:
    """Without every silence of at least ``seconds``, all of it, and what is heard for less than that between two.

    A sample is loud when the root mean square of the window that ends with it is above ``threshold``. The window starts
    as zeros, and again after each silence. Source: sox's ``silence 1 S T -1 S T``, whose output this equals.

    Args:
        samples: (1, S).
        rate: samples a second.
        seconds: of loud samples in a row to begin at, of quiet ones to stop at.
        threshold: loudness, 1 is full scale.
    """
    run, window = round(seconds * rate), rate // RMS_PER_SECOND
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples[0], dtype=np.float64))])
    least = threshold**2 * window
    ends = np.arange(1, len(energy))
    loud = energy[ends] - energy[np.maximum(ends - window, 0)] > least
    kept = [samples[:, :0]]
    position = 0
    while (first := _first_run(loud, position, run)) is not None:
        stop = _first_run(~loud, first + run, run)
        kept.append(samples[:, first:stop])
        if stop is None:
            break
        position = stop + run
        fresh = ends[position : position + window]
        loud[position : position + window] = energy[fresh] - energy[position] > least
    return np.concatenate(kept, axis=1)


def _first_run(flags: NDArray[np.bool_], start: int, length: int) -> int | None:
    """Where ``length`` Trues in a row begin, at ``start`` or later."""
    breaks = np.concatenate([[start - 1], start + np.flatnonzero(~flags[start:]), [max(start, len(flags))]])
    long = np.flatnonzero(np.diff(breaks) > length)
    return int(breaks[long[0]]) + 1 if len(long) else None
