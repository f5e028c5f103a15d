"""The three functions of HEAR's common API over an `Encoder`.

A token of a patch model spans 160 ms and reacts to a sound anywhere in them: the token whose centre is nearest to a
click changes most for only 7 of 100 clicks. At a hop of 40 ms a time step is therefore the mean of the four tokens that
span its 40 ms. A sound in these 40 ms is in all four tokens of its time step and in fewer tokens of any other one, so
that the right time step changes most for 98 of 100 clicks.

Source: Turian et al., HEAR: Holistic Evaluation of Audio Representations, 2022.
"""

from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maeast_upstream import load_model as load_encoder
from maeast_upstream.config import scene_width, step_width
from maeast_upstream.encoder import Encoder, Precision
from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.readout import Mel, Pool, Readout
from maeast_upstream.time_grid import FINE_HOP_MS
from maeast_upstream.waveforms import LOUDEST

MAX_SIZE = 8192
"""Maximum length of an embedding; HEAR's heads and files grow with it."""
MEAN_STEPS = 1024
"""Number of time steps that are averaged at once, which limits the copied memory to 25 MB for 8 x 768 numbers."""


class HearModel(nn.Module):
    """The model that HEAR's tools use: an encoder, the readouts of scenes and time steps, and their sizes.

    It stays in eval mode, since HEAR's kit never calls `eval`.
    """

    def __init__(self, encoder: Encoder, scene: Readout, steps: Readout) -> None:
        """Check that the encoder supports the readouts.

        Args:
            encoder: the encoder.
            scene: the readout of scene embeddings.
            steps: the readout of timestamp embeddings; its pool is not used.

        Raises:
            ValueError: The encoder lacks a layer or hop, or an embedding is longer than `MAX_SIZE`.
        """
        super().__init__()
        for readout in (scene, steps):
            encoder.check_readout(readout)
        self.encoder = encoder
        self.scene = scene
        self.steps = steps
        self.sample_rate = SAMPLE_RATE
        self.scene_embedding_size = scene_width(encoder.config, scene)
        self.timestamp_embedding_size = step_width(encoder.config, steps)
        size = max(self.scene_embedding_size, self.timestamp_embedding_size)
        if size > MAX_SIZE:
            raise ValueError(
                f"these options give embeddings of {size} numbers, more than {MAX_SIZE}: "
                "use mel='mean', pool='mean' or one layer"
            )
        self.eval()

    def train(self, mode: bool = True) -> "HearModel":
        """Stay in eval mode, whatever ``mode`` is."""
        return super().train(False)


def load_model(
    model_file_path: str = "",
    *,
    layer: int | str | None = None,
    mel: Mel | None = None,
    pool: Pool | None = None,
    hop_ms: float | Literal["native"] | None = None,
    dims: int | Literal["full"] | None = None,
    whiten: bool | None = None,
    precision: Precision = "fp32",
) -> HearModel:
    """Load a model for HEAR's tools, on the CPU and in eval mode.

    Args:
        model_file_path: "" for the checkpoint in the package, or a checkpoint as for `maeast_upstream.load_model`.
        layer: 1..depth, "last", "mean" or "all"; None for the checkpoint's readout, as for the next two.
        mel: "concat" or "mean" over the mel patches of an instant.
        pool: pooling of scenes: "mean", "mean_max" or "mean_std". The checkpoint's pooling is replaced by "mean" if a
            scene would have more than `MAX_SIZE` numbers.
        hop_ms: hop of time steps; None for 40 (patch models) or 20 (frame models), "native" for that of the tokens.
            Scenes keep the checkpoint's hop.
        dims: length of scenes that the checkpoint's projection gives, or "full"; None for the checkpoint's own. Time
            steps are not projected.
        whiten: whether scenes are whitened; None for the checkpoint's own. Time steps are not.
        precision: precision of the matrix products: fp32, bf16 or fp16. Embeddings are always float32.

    Raises:
        ValueError: There is no such checkpoint of this model, or it does not support an option.
    """
    encoder = load_encoder(model_file_path or None, precision=precision)
    default = encoder.config.readout
    scene = Readout(
        layer=default.layer if layer is None else layer,
        mel=mel or default.mel,
        pool=pool or default.pool,
        hop_ms=default.hop_ms,
    )
    own = scene.with_projection_of(default)
    whiten = own.whiten if whiten is None else whiten
    if dims is None:
        dims = own.dims if whiten == own.whiten else None
    scene = replace(scene, dims=None if dims == "full" else dims, whiten=whiten)
    if pool is None and scene_width(encoder.config, scene) > MAX_SIZE:
        scene = Readout(layer=scene.layer, mel=scene.mel, pool="mean", hop_ms=scene.hop_ms)
    if hop_ms is None and encoder.config.model.patch_frames == 16:
        hop_ms = FINE_HOP_MS
    steps = Readout(layer=scene.layer, mel=scene.mel, hop_ms=None if hop_ms == "native" else hop_ms)
    return HearModel(encoder, scene, steps)


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """One embedding per clip, equal to that of ``maeast embed``.

    Args:
        audio: (n_sounds, n_samples) float32 at 16 kHz, in about [-1, 1].
        model: a model that `load_model` returned.

    Returns:
        (n_sounds, scene_embedding_size) float32, on the audio's device.

    Raises:
        ValueError: The audio has another shape or type, or values that are not finite.
    """
    check_audio(audio)
    with torch.no_grad():
        return model.encoder.embed(audio, readout=model.scene).to(audio.device)


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Embeddings at a constant hop over the whole clip, and the centres of their time steps.

    A time step is a token, or at 40 ms the mean of the four tokens that span its 40 ms. The clip is padded with silence
    where its first and last steps reach beyond it: the first centre is less than a hop after its start, the last one
    less than a hop before its end. A clip that ends before the first centre has one embedding, in its middle.

    Args:
        audio: as in `get_scene_embeddings`.
        model: a model that `load_model` returned.

    Returns:
        (n_sounds, n_timestamps, timestamp_embedding_size) float32, and (n_sounds, n_timestamps) float32 milliseconds;
        both on the audio's device.

    Raises:
        ValueError: as in `get_scene_embeddings`.
    """
    check_audio(audio)
    grid = model.encoder.grid(model.steps.hop_ms).averaged()
    times_ms = grid.times_ms(audio.shape[1]).float().to(audio.device)
    with torch.no_grad():
        padded = F.pad(audio, grid.padding(audio.shape[1]))
        tokens = model.encoder.read(padded, readouts=[model.steps]).hidden_states[0]
        embeddings = running_mean(tokens, grid.tokens_per_step)
    return embeddings.to(audio.device), times_ms.repeat(len(audio), 1)


def running_mean(tokens: Tensor, width: int) -> Tensor:
    """Average ``width`` neighbours: (B, T, C) -> (B, T - width + 1, C). Overwrites ``tokens``."""
    steps = tokens.shape[1] - width + 1
    if width == 1:
        return tokens
    for first in range(0, steps, MEAN_STEPS):
        last = min(first + MEAN_STEPS, steps)
        total = tokens[:, first:last].clone()
        for i in range(1, width):
            total += tokens[:, first + i : last + i]
        tokens[:, first:last] = total / width
    return tokens[:, :steps]


def check_audio(audio: Any) -> None:
    """Raise ValueError unless the audio is (n_sounds, n_samples) float32 with finite samples of about -1 to 1."""
    expected = "expected audio of shape (n_sounds, n_samples), float32 at 16 kHz"
    if not isinstance(audio, Tensor):
        raise ValueError(f"{expected}; got {type(audio).__name__}: convert it with torch.from_numpy")
    if audio.layout != torch.strided or audio.is_nested or audio.is_meta:
        raise ValueError(f"{expected}; got a sparse or nested tensor, or one without data: give a dense one")
    if audio.dim() != 2:
        remedy = "mix it to mono" if audio.dim() == 3 else "give one clip as audio[None]"
        raise ValueError(f"{expected}; got {audio.dim()} dimensions, {tuple(audio.shape)}: {remedy}")
    if audio.dtype != torch.float32:
        scale = " / 32768" if audio.dtype == torch.int16 else ""
        raise ValueError(f"{expected}; got {audio.dtype}: give audio.float(){scale}")
    if not len(audio) or not audio.shape[1]:
        raise ValueError(f"{expected}; got {tuple(audio.shape)}: give at least one clip and one sample")
    if not torch.isfinite(audio).all():
        clip = int((~torch.isfinite(audio).all(dim=1)).nonzero()[0])
        raise ValueError(f"{expected}; got NaN or infinite samples in clip {clip}: leave it out")
    if (peaks := audio.abs().amax(dim=1)).max() > LOUDEST:
        clip = int(peaks.argmax())
        raise ValueError(
            f"{expected}; got samples up to {peaks[clip]:.3g} in clip {clip}, where 1 is full scale: divide by "
            "32768 if they were 16-bit integers"
        )
