"""The three functions of HEAR (Turian et al. 2022, the common API) over an `Encoder`.

A token of a patch model spans 160 ms and reacts to a sound wherever in them it falls: the token whose centre is nearest
to a click moves most for 7 of 100 clicks. At a hop of 40 ms the time step of a stretch of 40 ms is therefore the mean
of the four tokens that span it. A sound in the stretch is in all four of its own step's tokens, and in fewer of any
other's: 98 of 100.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maeast_upstream import load_model as load_encoder
from maeast_upstream.audio.reading import MAX_AMPLITUDE
from maeast_upstream.config import scene_width, step_width
from maeast_upstream.encoder import Encoder, Precision
from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.readout import Mel, Pool, Readout
from maeast_upstream.time_grid import FINE_HOP_MS

MAX_SIZE = 8192
"""The longest embedding that is given: HEAR's heads grow with it, and so do its files."""


MEAN_STEPS = 1024
"""Time steps averaged at once, in place: bounds what is copied (25 MB of 8 x 768)."""


class HearModel(nn.Module):
    """What HEAR's tools hold: an encoder, how scenes and time steps are read, and the sizes that follow.

    Frozen: `train` changes nothing, because HEAR's kit never calls `eval`.
    """

    def __init__(self, encoder: Encoder, scene: Readout, steps: Readout) -> None:
        """``steps`` is the readout of time steps, whose pool is not used.

        Raises:
            ValueError: a layer or hop that the encoder lacks, or an embedding longer than `MAX_SIZE`.
        """
        super().__init__()
        for readout in (scene, steps):
            encoder.kept_layers(readout.layers(encoder.num_layers))
            encoder.grid(readout.hop_ms)
        self.encoder = encoder.eval()
        self.scene = scene
        self.steps = steps
        self.sample_rate = SAMPLE_RATE
        self.scene_embedding_size = scene_width(encoder.config, scene)
        self.timestamp_embedding_size = step_width(encoder.config, steps)
        size = max(self.scene_embedding_size, self.timestamp_embedding_size)
        if size > MAX_SIZE:
            raise ValueError(
                f"these options give embeddings of {size} numbers, more than {MAX_SIZE}: "
                "take mel='mean', pool='mean' or one layer"
            )

    def train(self, mode: bool = True) -> "HearModel":
        """Stay as it is, whatever ``mode``."""
        return super().train(False)


def load_model(
    model_file_path: str = "",
    *,
    layer: int | str | None = None,
    mel: Mel | None = None,
    pool: Pool | None = None,
    hop_ms: float | Literal["native"] | None = None,
    precision: Precision = "fp32",
) -> HearModel:
    """A model for HEAR's tools, on the CPU and in eval mode.

    Args:
        model_file_path: "" for the checkpoint in the package; else what `maeast_upstream.load_model` takes.
        layer: 1..depth, "last", "mean" or "all"; None for the checkpoint's own readout, as with the next two.
        mel: "concat" or "mean" over the mel patches of an instant.
        pool: of scenes: "mean", "mean_max" or "mean_std". The checkpoint's own becomes "mean" where a scene would
            have more than `MAX_SIZE` numbers.
        hop_ms: of time steps; None for 40 (patch models) or 20 (frame models), "native" for the tokens' own. Scenes
            keep the checkpoint's own.
        precision: of the matrix products: fp32, bf16 or fp16. Embeddings are float32 in any case.

    Raises:
        ValueError: no such checkpoint, or not one of this model; options that it does not have.
    """
    encoder = load_encoder(model_file_path or None, precision=precision)
    own = encoder.config.readout
    scene = Readout(
        layer=own.layer if layer is None else layer,
        mel=mel or own.mel,
        pool=pool or own.pool,
        hop_ms=own.hop_ms,
    )
    if pool is None and scene_width(encoder.config, scene) > MAX_SIZE:
        scene = Readout(layer=scene.layer, mel=scene.mel, pool="mean", hop_ms=scene.hop_ms)
    if hop_ms is None and encoder.config.model.patch_frames == 16:
        hop_ms = FINE_HOP_MS
    steps = Readout(layer=scene.layer, mel=scene.mel, hop_ms=None if hop_ms == "native" else hop_ms)
    return HearModel(encoder, scene, steps)


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """One embedding a clip, the same that ``maeast embed`` gives.

    Args:
        audio: (n_sounds, n_samples) float32 at 16 kHz, in about [-1, 1].
        model: of `load_model`.

    Returns:
        (n_sounds, scene_embedding_size) float32, on the audio's device.

    Raises:
        ValueError: audio of another kind, or with values that are no numbers.
    """
    check_audio(audio)
    with torch.no_grad():
        return model.encoder.embed(audio, readout=model.scene).to(audio.device)


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Embeddings at a constant hop over the whole clip, and the centres of what each of them saw.

    A time step is a token, or at 40 ms the mean of the four tokens that span its 40 ms. Silence is put around the clip
    where its first and last steps reach beyond it: the first centre is less than a hop after its start, the last less
    than a hop before its end. A clip that ends before the first centre has one embedding, in its middle.

    Args:
        audio: as in `get_scene_embeddings`.
        model: of `load_model`.

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
    """(B, T, C) -> (B, T - width + 1, C): each is the mean of ``width`` neighbours. Overwrites ``tokens``."""
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
    """ValueError for what is not (n_sounds, n_samples) float32 of finite numbers that can be sound."""
    wanted = "expected audio of shape (n_sounds, n_samples), float32 at 16 kHz"
    if not isinstance(audio, Tensor):
        raise ValueError(f"{wanted}; got {type(audio).__name__}: convert it with torch.from_numpy")
    if audio.dim() != 2:
        remedy = "mix it to mono" if audio.dim() == 3 else "give one clip as audio[None]"
        raise ValueError(f"{wanted}; got {audio.dim()} dimensions, {tuple(audio.shape)}: {remedy}")
    if audio.dtype != torch.float32:
        scale = " / 32768" if audio.dtype == torch.int16 else ""
        raise ValueError(f"{wanted}; got {audio.dtype}: give audio.float(){scale}")
    if not len(audio) or not audio.shape[1]:
        raise ValueError(f"{wanted}; got {tuple(audio.shape)}: give at least one clip and one sample")
    if not torch.isfinite(audio).all():
        clip = int((~torch.isfinite(audio).all(dim=1)).nonzero()[0])
        raise ValueError(f"{wanted}; got NaN or infinite samples in clip {clip}: leave it out")
    if (peaks := audio.abs().amax(dim=1)).max() > MAX_AMPLITUDE:
        clip = int(peaks.argmax())
        raise ValueError(f"{wanted}; got samples up to {peaks[clip]:.2g} in clip {clip}: expected about -1 to 1")
