"""The encoder: `load_model()` loads one, `Encoder.encode()` turns waveforms into features of its layers.

A clip's features do not depend on the other clips of a call. Clips of similar length share a batch, so that next to
no padding is computed; long clips are processed in overlapping windows.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from maeast_upstream import checkpoint
from maeast_upstream.batching import Past, StepChunk, assemble, combine, plan_batches
from maeast_upstream.checks import check_number
from maeast_upstream.device import to_device, usable_device
from maeast_upstream.frontend import HOP_SAMPLES, SAMPLE_RATE
from maeast_upstream.inference import Precision as Precision
from maeast_upstream.long_clips import SpanEncoder
from maeast_upstream.readout import Mel, Readout, fold_mel, pool_time
from maeast_upstream.time_grid import TimeGrid
from maeast_upstream.waveforms import Waveforms, clips_or_scenes, to_clips

Lengths = Tensor | np.ndarray | Sequence[int] | None


@dataclass(frozen=True, repr=False)
class Encoded:
    """Features of B clips of at most T time steps."""

    hidden_states: list[Tensor]
    """For each kept layer, in ascending order: (B, T, C) float32, zero past a clip's own length."""
    lengths: Tensor
    """(B,) int64, the time steps of each clip."""
    times_ms: Tensor
    """(B, T) float64 on the CPU: the centre of what each time step covers, in ms from the clip's start; zero past a
    clip's own length."""

    def __repr__(self) -> str:
        """Give shapes in place of numbers."""
        states = ", ".join(str(tuple(state.shape)) for state in self.hidden_states)
        lengths, times = tuple(self.lengths.shape), tuple(self.times_ms.shape)
        return f"Encoded(hidden_states=[{states}], lengths={lengths}, times_ms={times})"


class Encoder(SpanEncoder):
    """A MAE-AST encoder with its front end and normalization.

    It is an ordinary module: its call is `embed`, torch's grad mode decides whether a graph is recorded, and dropout
    is active in train mode. `load_model` returns it frozen: in eval mode, its weights without gradients
    (``requires_grad_(True)`` unfreezes them). The normalization never changes.
    """

    @property
    def sample_rate(self) -> int:
        """Samples per second that `encode` expects."""
        return SAMPLE_RATE

    @property
    def num_layers(self) -> int:
        """The number of layers whose outputs `encode` can return; layers are counted from 1."""
        return self.config.model.depth

    @property
    def embed_dim(self) -> int:
        """D, the width of a token."""
        return self.config.model.embed_dim

    @property
    def hop_samples(self) -> int:
        """Samples between two time steps of the model's own grid: 2560 for patch, 320 for frame models."""
        return self.config.model.patch_frames * HOP_SAMPLES

    def encode(
        self,
        waveforms: Waveforms,
        lengths: Lengths = None,
        *,
        sample_rate: float | None = None,
        layers: int | Sequence[int] | None = None,
        mel: Mel = "concat",
        hop_ms: float | None = None,
        steps: int | None = None,
        past: Past = "zero",
    ) -> Encoded:
        """Features of the encoder's layers.

        Args:
            waveforms: one clip, as the path of a file, or (S,) samples as an array, a tensor or a list; a list of
                clips; or a (B, S) batch. Floats lie in [-1, 1]; whole numbers are divided by the range of their type.
                Gradients reach a tensor that requires them.
            lengths: (B,) samples of each row of a (B, S) batch, where shorter than S.
            sample_rate: of the samples, which are resampled; None for 16 kHz. With it, and without ``lengths``, an
                array of shape (2, S) or (S, 2) is one clip in stereo, which is mixed to mono, and not a batch. Files
                say their own.
            layers: which layers to keep, counted from 1; None keeps all. Other layers are never stored.
            mel: "concat" gives (B, T, M * D), the mel patches of a time step concatenated; "mean" (B, T, D).
            hop_ms: None for the model's own hop (160 ms patch, 20 ms frame); 40 for patch models.
            steps: T, at least the time steps of the longest clip; None for exactly these.
            past: what fills the rows past a clip's own time steps: "zero", or "repeat" for its last step.

        Returns:
            See `Encoded`. A clip shorter than one token is zero-padded to one.

        Raises:
            ValueError: the waveforms cannot be meant, such as samples that are NaN or beyond 100, an empty clip, text,
                or lengths beyond S; an unknown layer, mel, hop or past; too few steps. One line says what to give.
        """
        if mel not in get_args(Mel):
            raise ValueError(f"mel must be one of {', '.join(get_args(Mel))}, got {mel!r}")
        if steps is not None:
            check_number("steps", steps, whole=True)
        keep, grid = self.kept_layers(layers), self.grid(hop_ms)  # before the samples are looked at
        return self.encode_clips(to_clips(waveforms, lengths, sample_rate), keep, grid, mel=mel, steps=steps, past=past)

    def encode_clips(
        self,
        clips: Sequence[Tensor],
        keep: Sequence[int],
        grid: TimeGrid,
        *,
        mel: Mel = "concat",
        steps: int | None = None,
        past: Past = "zero",
    ) -> Encoded:
        """Do what `encode` does with clips that need no check, for which a GPU would be waited for.

        Args:
            clips: as in `read_clips`.
            keep: layers, see `kept_layers`.
            grid: where time steps lie, see `grid`.
            mel: as in `encode`.
            steps: as in `encode`.
            past: as in `encode`.
        """
        mel_patches = self.config.model.mel_patches
        chunks = (
            chunk._replace(values=[fold_mel(tokens, mel_patches, mel).float() for tokens in chunk.values])
            for chunk in self._forward_all(clips, grid, keep)
        )
        return self._encoded(chunks, clips, grid, steps, past)

    def read(
        self,
        waveforms: Waveforms,
        lengths: Lengths = None,
        *,
        sample_rate: float | None = None,
        readouts: Sequence[Readout],
    ) -> Encoded:
        """Time steps of several readouts from one pass; layers are combined at once, so that none is stored.

        Args:
            waveforms: as in `encode`.
            lengths: as in `encode`.
            sample_rate: as in `encode`.
            readouts: which layers and mel axis; they share a hop. Nothing is pooled or projected.

        Returns:
            As `encode`, but ``hidden_states`` holds one (B, T, C) for each readout.

        Raises:
            ValueError: as in `encode`; the readouts have different hops, which one pass cannot give.
        """
        return self.read_clips(to_clips(waveforms, lengths, sample_rate), readouts)

    def read_clips(self, clips: Sequence[Tensor], readouts: Sequence[Readout]) -> Encoded:
        """Do what `read` does with (S_i,) float32 or int16 clips at 16 kHz, S_i at least 1, that need no check."""
        keep, grid = self.needs_of(readouts)
        chunks = combine(self._forward_all(clips, grid, keep), keep, readouts, self.config.model)
        return self._encoded(chunks, clips, grid)

    def embed(
        self,
        waveforms: Waveforms,
        lengths: Lengths = None,
        *,
        sample_rate: float | None = None,
        readout: Readout | None = None,
    ) -> Tensor:
        """Scene embeddings: one vector per clip. A long file is embedded while it is decoded, in constant memory.

        Args:
            waveforms: as in `encode`.
            lengths: as in `encode`.
            sample_rate: as in `encode`.
            readout: which layers, mel axis, pooling, hop and dims; None for the checkpoint's own.

        Returns:
            (B, E) float32; (1, E) for one clip.

        Raises:
            ValueError: as in `encode`; the checkpoint has no projection for the readout's dims.
        """
        readouts = [readout or self.config.readout]
        limit = self.max_seconds * SAMPLE_RATE if self.can_stream else float("inf")
        clips = clips_or_scenes(waveforms, lengths, sample_rate, limit, lambda blocks: self.pool(blocks, readouts)[0])
        whole = [clip for clip in clips if isinstance(clip, Tensor)]
        scenes = iter(self.embed_readouts(whole, readouts)[0]) if whole else iter(())
        return torch.stack([next(scenes) if isinstance(clip, Tensor) else clip.vector for clip in clips])

    def embed_readouts(self, clips: Sequence[Tensor], readouts: Sequence[Readout]) -> list[Tensor]:
        """Scene embeddings by several readouts from one pass: for each of them (B, E) float32.

        Clips are as in `read_clips`. They are pooled batch by batch, so that only the time steps of one
        batch are in memory.
        """
        keep, grid = self.needs_of(readouts)
        order: list[int] = []
        pooled: list[list[Tensor]] = []
        for batch in self._plan(clips, grid):
            chosen = [clips[index] for index in batch]
            counts = [grid.steps(len(clip)) for clip in chosen]
            chunks = combine(self.forward_batch(chosen, grid, keep), keep, readouts, self.config.model)
            states, lengths = assemble(chunks, counts, max(counts)), to_device(torch.tensor(counts), self.device)
            pairs = zip(states, readouts, strict=True)
            pooled.append([self.project(pool_time(state, lengths, readout.pool), readout) for state, readout in pairs])
            order += batch
        back = to_device(torch.tensor(order).argsort(), self.device)
        return [torch.cat(vectors).index_select(0, back) for vectors in zip(*pooled, strict=True)]

    def forward(
        self,
        waveforms: Waveforms,
        lengths: Lengths = None,
        *,
        sample_rate: float | None = None,
        readout: Readout | None = None,
    ) -> Tensor:
        """See `embed`. A wrapper of modules, such as DistributedDataParallel or torch.compile, calls this."""
        return self.embed(waveforms, lengths, sample_rate=sample_rate, readout=readout)

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None, **options: Any) -> "Encoder":
        """`load_model` under the name that hub libraries use; ``options`` are its keyword arguments."""
        return load_model(source, **options)

    def save_pretrained(self, folder: str | Path, *, card: checkpoint.Card | None = None) -> None:
        """Write model.safetensors, config.json and a model card, README.md, into ``folder``, which is replaced.

        If there is a projection, its file is written, too.

        Args:
            folder: The folder to make. A card in it that somebody has edited stays, and a message says so.
            card: What the card says beyond the settings: licence, languages, data sets, results.
        """
        self._save(Path(folder), Path(folder).resolve().name, card)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        revision: str | None = None,
        card: checkpoint.Card | None = None,
    ) -> str:
        """Upload to a hub repository, which is created if it does not exist; returns the address of the commit.

        Args:
            repo_id: Such as "organization/name". A card in it that somebody has edited stays, and a message says so.
            private: Whether a new repository is.
            revision: The branch; None for the main one.
            card: As in `save_pretrained`.
        """
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self._save(Path(folder) / "model", repo_id, card)
            kept = checkpoint.edited_on_hub(api, repo_id, revision)
            return str(
                api.upload_folder(
                    repo_id=repo_id,
                    folder_path=Path(folder) / "model",
                    revision=revision,
                    ignore_patterns=[checkpoint.CARD_NAME] if kept else None,
                    delete_patterns=None if self.projection else [checkpoint.PROJECTION_NAME],  # of earlier weights
                )
            )

    def _save(self, folder: Path, name: str, card: checkpoint.Card | None) -> None:
        text = checkpoint.card_of(self.network, self.config, name, card, self.projection)
        checkpoint.save_folder(folder, self.network, self.config, card=text, projection=self.projection)

    def _plan(self, clips: Sequence[Tensor], grid: TimeGrid) -> Iterator[list[int]]:
        return plan_batches([len(clip) for clip in clips], grid, self.batch_limits(clips))

    def _forward_all(self, clips: Sequence[Tensor], grid: TimeGrid, keep: Sequence[int]) -> Iterator[StepChunk]:
        """All clips, batch by batch; chunks number the clips as ``clips`` does."""
        for batch in self._plan(clips, grid):
            index = to_device(torch.tensor(batch), self.device)
            for chunk in self.forward_batch([clips[number] for number in batch], grid, keep):
                yield chunk._replace(clip=index[chunk.clip])

    def _encoded(
        self,
        chunks: Iterable[StepChunk],
        clips: Sequence[Tensor],
        grid: TimeGrid,
        steps: int | None = None,
        past: Past = "zero",
    ) -> Encoded:
        counts = [grid.steps(len(clip)) for clip in clips]
        states = assemble(chunks, counts, max(counts) if steps is None else steps, past)
        times = nn.utils.rnn.pad_sequence([grid.times_ms(len(clip)) for clip in clips], batch_first=True)
        return Encoded(states, to_device(torch.tensor(counts), self.device), times)


def load_model(
    source: str | Path | None = None,
    device: str | torch.device | None = None,
    precision: Precision | None = None,
    *,
    max_seconds: float = 60.0,
    window_seconds: float = 10.0,
) -> Encoder:
    """Load a pretrained encoder: in eval mode, its weights frozen by ``requires_grad_(False)``.

    Args:
        source: None for the checkpoint in the package; "mae_ast_patch" or "mae_ast_frame" for the published
            ones (downloaded once); a path to a published .pt, to a folder with model.safetensors and config.json,
            or to a pretraining run; or a hub id such as "org/name".
        device: where to put it; None for the CPU.
        precision: of the matrix products: fp32 (default), bf16 or fp16.
        max_seconds: clips up to this length are processed whole, longer ones in windows.
        window_seconds: the length of those windows.

    Raises:
        ValueError: no such checkpoint, or not one of this model.
    """
    where = usable_device(device)
    loaded = checkpoint.read(checkpoint.resolve(source))
    encoder = Encoder(
        loaded.config,
        precision or "fp32",
        max_seconds=max_seconds,
        window_seconds=window_seconds,
    )
    encoder.network.load_state_dict(loaded.state)
    encoder.use_projection(loaded.projection)
    return encoder.eval().requires_grad_(False).to(where)
