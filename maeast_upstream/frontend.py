"""Waveforms to Kaldi's log-mel filter bank energies (fbank), batched, in plain torch.

Samples, windows and hops are defined only in this file. Source of the formulas: Kaldi's ``feature-fbank.cc`` as
restated by ``torchaudio.compliance.kaldi.fbank``. The float32 operations have the same order as there, because a weak
bin beside a loud one changes by 1e-3 and more when only the rounding differs.
"""

import math
import sys

import torch
from torch import Tensor, nn

from maeast_upstream.audio.constants import HOP_SAMPLES as HOP_SAMPLES
from maeast_upstream.audio.constants import SAMPLE_RATE as SAMPLE_RATE
from maeast_upstream.audio.constants import WINDOW_SAMPLES as WINDOW_SAMPLES
from maeast_upstream.config import FrontendConfig as FrontendConfig

FFT_SAMPLES = 512
"""The power of two next above the window."""
LOW_HZ = 20.0
PREEMPHASIS = 0.97
LOG_FLOOR = torch.finfo(torch.float32).eps

_CHUNK_FRAMES = {"cpu": 2048, "cuda": 65_536}
"""Frames transformed at once: on a CPU few enough to stay in its cache (4 MB), on a GPU to bound memory (130 MB)."""


SSAST_FRONTEND = FrontendConfig(window="hanning", remove_mean=True)
"""The front end of SSAST. Its ``htk_compat=True`` changes nothing when the energy is not used."""


def num_frames(num_samples: Tensor) -> Tensor:
    """Fbank frames of clips with ``num_samples`` samples each (int64, any shape); 0 below 400 samples."""
    return ((num_samples - WINDOW_SAMPLES).div(HOP_SAMPLES, rounding_mode="floor") + 1).clamp(min=0)


def num_samples(frames: int) -> int:
    """The fewest samples that give ``frames`` fbank frames (at least 1)."""
    return (frames - 1) * HOP_SAMPLES + WINDOW_SAMPLES


def mel_banks(num_mel_bins: int) -> Tensor:
    """(256, num_mel_bins) float32 weights of Kaldi's triangular mel filters, from 20 Hz to Nyquist.

    Computed in float32 like torchaudio's: in float64 some weights differ by 1e-5, the log-mel of noise by 5e-4.
    The Nyquist bin of the FFT is left out because Kaldi gives it no weight.
    """

    def mel(hz: float) -> float:
        return 1127.0 * math.log(1.0 + hz / 700.0)

    low, high = mel(LOW_HZ), mel(SAMPLE_RATE / 2)
    step = (high - low) / (num_mel_bins + 1)
    bins = torch.arange(num_mel_bins).unsqueeze(1)
    left, centre, right = (
        low + bins * step,
        low + (bins + 1.0) * step,
        low + (bins + 2.0) * step,
    )
    hz = (SAMPLE_RATE / FFT_SAMPLES) * torch.arange(FFT_SAMPLES // 2)
    mels = (1127.0 * (1.0 + hz / 700.0).log()).unsqueeze(0)
    up, down = (mels - left) / (centre - left), (right - mels) / (right - centre)
    return torch.minimum(up, down).clamp(min=0).T.contiguous()


def dft_matrix() -> Tensor:
    """(400, 512) float32: a frame times this gives the real, then the imaginary parts of its 256 FFT bins."""
    angle = torch.outer(
        torch.arange(WINDOW_SAMPLES, dtype=torch.float64),
        torch.arange(FFT_SAMPLES // 2, dtype=torch.float64),
    ) * (2 * math.pi / FFT_SAMPLES)
    return torch.cat([angle.cos(), -angle.sin()], dim=1).float()


class Fbank(nn.Module):
    """Batched log-mel fbank: float32 inside whatever the model's precision, differentiable, exportable."""

    window: Tensor
    mel: Tensor
    dft: Tensor

    def __init__(self, config: FrontendConfig | None = None) -> None:
        super().__init__()
        self.config = config or FrontendConfig()
        hann = torch.hann_window(WINDOW_SAMPLES, periodic=False)
        self.register_buffer(
            "window",
            hann.pow(0.85) if self.config.window == "povey" else hann,
            persistent=False,
        )
        self.register_buffer("mel", mel_banks(self.config.num_mel_bins), persistent=False)
        # a stored constant, because the cosines of runtimes without float64 have errors of 1e-4
        self.register_buffer("dft", dft_matrix(), persistent=False)

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Log-mel energies of a batch of clips.

        Args:
            waveforms: (B, S) in [-1, 1] at 16 kHz, S at least 400.
            lengths: (B,) samples of each clip, where shorter than S; later samples are ignored.

        Returns:
            (B, frames, num_mel_bins) float32. Row b has ``num_frames(lengths[b])`` frames, then zeros.

        Raises:
            ValueError: fewer than 400 samples, or not two-dimensional.
        """
        if waveforms.dim() != 2 or waveforms.shape[1] < WINDOW_SAMPLES:
            raise ValueError(
                f"expected waveforms of shape (B, S) with S >= {WINDOW_SAMPLES}, got {tuple(waveforms.shape)}"
            )
        padding = None
        if lengths is not None:
            padding = torch.arange(waveforms.shape[1], device=waveforms.device) >= lengths[:, None]
        fbank = self.log_mel(self.prepare(waveforms, padding))
        if lengths is None:
            return fbank
        past = torch.arange(fbank.shape[1], device=fbank.device) >= num_frames(lengths)[:, None]
        return fbank.masked_fill(past[..., None], 0.0)

    def prepare(self, waveforms: Tensor, padding: Tensor | None = None) -> Tensor:
        """(B, S) -> float32, zero at ``padding`` (True past a clip's end), the mean removed if the config says so."""
        waveforms = waveforms.float()
        if padding is not None:
            waveforms = waveforms.masked_fill(padding, 0.0)
        return remove_mean(waveforms, padding) if self.config.remove_mean else waveforms

    def log_mel(self, prepared: Tensor) -> Tensor:
        """(B, S) of `prepare`, or a segment of it that begins on a hop -> (B, frames, num_mel_bins) float32."""
        with torch.autocast(prepared.device.type, enabled=False):
            return self._by_chunks(prepared.unfold(1, WINDOW_SAMPLES, HOP_SAMPLES))  # (B, frames, 400), a view

    def _by_chunks(self, frames: Tensor) -> Tensor:
        if exporting():
            return self._log_mel(frames)
        limit = _CHUNK_FRAMES.get(frames.device.type, 2048)
        chunk = max(1, limit // frames.shape[0])
        if chunk >= frames.shape[1]:
            return self._log_mel(frames)
        return torch.cat([self._log_mel(part) for part in torch.split(frames, chunk, dim=1)], dim=1)

    def _log_mel(self, frames: Tensor) -> Tensor:
        """(B, n, 400) samples -> (B, n, num_mel_bins) log-mel energies."""
        frames = frames - frames.mean(dim=-1, keepdim=True)
        previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        frames = (frames - PREEMPHASIS * previous) * self.window
        if exporting():  # ONNX has no complex numbers
            real, imag = (frames @ self.dft).chunk(2, dim=-1)
            power = real.square() + imag.square()
        else:
            # as in torchaudio: the rounding of abs().square() differs from that of real^2 + imag^2
            power = torch.fft.rfft(frames, FFT_SAMPLES)[..., :-1].abs().square()
        return (power @ self.mel).clamp(min=LOG_FLOOR).log()


def remove_mean(waveforms: Tensor, padding: Tensor | None) -> Tensor:
    """Subtract each row's mean over its own samples; ``padding`` (B, S) is True past a clip's end (zeros there).

    The sum is in float64, because zeros at the end change the rounding of a float32 sum, by 1e-4 in weak bins.
    """
    count = waveforms.shape[1] if padding is None else (~padding).sum(dim=1, keepdim=True)
    mean = waveforms.sum(dim=1, keepdim=True, dtype=torch.float64) / count
    centred = waveforms - mean.float()
    return centred if padding is None else centred.masked_fill(padding, 0.0)


def exporting() -> bool:
    """Whether torch is tracing the code for an exported model."""
    onnx = sys.modules.get("torch.onnx")  # torch loads it when it is first used, which takes 0.1 s
    return (onnx is not None and onnx.is_in_onnx_export()) or torch.compiler.is_exporting()
