"""Effects of sox that s3prl's data sets call through torchaudio, which no longer has them.

`repairs` installs these functions as ``torchaudio.sox_effects``. The module reads audio itself, since joblib's worker
processes, in which nothing is repaired, import it by name.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Samples = NDArray[np.float32]
"""(channels, S) in [-1, 1]."""
RMS_WINDOWS_PER_SECOND = 50
"""The effect ``silence`` measures loudness over a trailing window of 1/50 s."""


def apply_effects_file(
    path: str,
    effects: Sequence[Sequence[str]],
    normalize: bool = True,
    channels_first: bool = True,
    format: str | None = None,
) -> tuple[Tensor, int]:
    """Read an audio file and apply effects, as torchaudio's function of that name: (channels, S) float32, rate."""
    samples, rate = read(path)
    return _chain(samples, rate, effects, channels_first)


def apply_effects_tensor(
    tensor: Tensor, sample_rate: int, effects: Sequence[Sequence[str]], channels_first: bool = True
) -> tuple[Tensor, int]:
    """Apply effects to (channels, S) float32 samples, as torchaudio's function of that name."""
    samples = tensor.detach().cpu().numpy() if channels_first else tensor.detach().cpu().numpy().T
    return _chain(samples, sample_rate, effects, channels_first)


def read(path: Any, start: int = 0, stop: int | None = None) -> tuple[Samples, int]:
    """Read a file's (channels, S) samples and rate; RuntimeError, as in torchaudio, if it cannot be read."""
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
        f"the sox effect {' '.join([name, *values])!r} is not implemented by this package; "
        "torch and torchaudio 2.8 with libsox have it"
    )


def resample(samples: Samples, rate: int, new_rate: int) -> Samples:
    """Resample with soxr, the library into which sox's effect ``rate`` was turned."""
    import soxr

    if rate == new_rate:
        return samples
    resampled: Samples = soxr.resample(samples.T, rate, new_rate).T
    return resampled.clip(-1.0, 1.0)


def drop_silences(samples: Samples, rate: int, seconds: float, threshold: float) -> Samples:
    """Remove every silence of at least ``seconds``, and every sound between two silences that is shorter than that.

    A sample is loud if the root mean square of the window that ends with it is above ``threshold``. The window is
    filled with zeros at the start and after each silence.

    Args:
        samples: (1, S).
        rate: sample rate in Hz.
        seconds: length of a run of loud samples that starts a sound, and of a run of quiet samples that ends it.
        threshold: loudness as a share of full scale.

    Source: sox's effect ``silence 1 S T -1 S T``; the output is equal.
    """
    run, window = round(seconds * rate), rate // RMS_WINDOWS_PER_SECOND
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples[0], dtype=np.float64))])
    min_energy = threshold**2 * window
    ends = np.arange(1, len(energy))
    loud = energy[ends] - energy[np.maximum(ends - window, 0)] > min_energy
    kept = [samples[:, :0]]
    position = 0
    while (first := _first_run(loud, position, run)) is not None:
        stop = _first_run(~loud, first + run, run)
        kept.append(samples[:, first:stop])
        if stop is None:
            break
        position = stop + run
        refilled = ends[position : position + window]
        loud[position : position + window] = energy[refilled] - energy[position] > min_energy
    return np.concatenate(kept, axis=1)


def _first_run(flags: NDArray[np.bool_], start: int, length: int) -> int | None:
    """The first index from ``start`` on at which ``length`` True values in a row begin; None if there is none."""
    breaks = np.concatenate([[start - 1], start + np.flatnonzero(~flags[start:]), [max(start, len(flags))]])
    long = np.flatnonzero(np.diff(breaks) > length)
    return int(breaks[long[0]]) + 1 if len(long) else None
