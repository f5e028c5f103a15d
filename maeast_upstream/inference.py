"""One batch of clips through the front end and the network: padded, packed, or one long clip in windows.

Shapes: b clips of a batch, S samples, T time steps, M mel patches of a time step, N = T * M tokens, P values of a
token, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from maeast_upstream.batching import BATCH_TOKENS, BatchLimits, StepChunk, join_clips, pad_clips, positions_in
from maeast_upstream.config import EncoderConfig
from maeast_upstream.device import to_device
from maeast_upstream.frontend import SAMPLE_RATE, Fbank
from maeast_upstream.model import MaeAst, patchify
from maeast_upstream.modules.cpu.linear import traced
from maeast_upstream.modules.half import HalfEncoder, HalfWeights
from maeast_upstream.spans import Span, cut_spans
from maeast_upstream.time_grid import TimeGrid

Precision = Literal["fp32", "bf16", "fp16"]

PatchesOf = Callable[[int, Tensor], Tensor]
"""(shift, (b,) time steps of each clip on the grid with this shift) -> their (1, N, P) patches, clip after clip."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Transformer(Protocol):
    """Runs the transformer in place of torch: what `MaeAst.features` does for padded clips."""

    def __call__(self, patches: Tensor, padding: Tensor | None, layers: Sequence[int]) -> list[Tensor]:
        """(b, N, P) patches, (b, N) padding or None, ascending layers -> (b, N, D) for each of the layers."""


@dataclass(frozen=True)
class Runtime:
    """How an encoder's transformer is run."""

    precision: Precision = "fp32"
    """The precision of torch's matrix products."""
    transformer: Transformer | None = None
    """An engine that runs the transformer where no gradients are needed; None for torch."""
    streams: int = 1
    """Batches that `extract` runs at the same time, each on its share of torch's threads."""

    def __post_init__(self) -> None:
        if self.precision not in _DTYPES:
            raise ValueError(f"precision must be one of {', '.join(_DTYPES)}, got {self.precision!r}")


class BatchEncoder(nn.Module):
    """The front end and the network of an encoder, and how they process the clips of one batch."""

    def __init__(
        self,
        config: EncoderConfig,
        precision: Precision = "fp32",
        *,
        max_seconds: float = 60.0,
        window_seconds: float = 10.0,
    ) -> None:
        """Build the network with random weights.

        Args:
            config: the shape of the network, the front end and the normalization.
            precision: of the matrix products: fp32, bf16 or fp16.
            max_seconds: clips up to this length are processed whole, longer ones in windows.
            window_seconds: the length of those windows.

        Raises:
            ValueError: an unknown precision, or a window that is too short or longer than ``max_seconds``.
        """
        super().__init__()
        steps = TimeGrid(config.model.patch_frames, config.model.patch_frames, 0).steps(
            round(window_seconds * SAMPLE_RATE)
        )
        if steps < 2 or max_seconds < window_seconds:
            raise ValueError(
                "a window must hold two time steps and be no longer than max_seconds: "
                f"got window_seconds {window_seconds}, max_seconds {max_seconds}"
            )
        self.config = config
        self.max_seconds = max_seconds
        self.window_steps = steps - steps % 2
        self.fbank = Fbank(config.frontend)
        self.network = MaeAst(config.model)
        self._runtime = Runtime(precision)
        self._half_weights = HalfWeights()

    @property
    def runtime(self) -> Runtime:
        """How the transformer is run; `use_runtime` changes it."""
        return self._runtime

    def use_runtime(self, runtime: Runtime) -> None:
        """Run the transformer in this way from now on. `engines.attach` calls it."""
        self._runtime = runtime

    def free_half_weights(self) -> None:
        """Free the weights that were cast to half precision; they are cast again when they are needed."""
        self._half_weights = HalfWeights()

    @property
    def precision(self) -> Precision:
        """The precision of torch's matrix products."""
        return self._runtime.precision

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.patch_embed.weight.device

    def patches(self, waveforms: Tensor) -> Tensor:
        """(B, S) waveforms of at least one token -> (B, N, P) normalized patches, the input of the network."""
        return self.patchify(self.fbank(waveforms.to(self.device)))

    def patchify(self, fbank: Tensor) -> Tensor:
        """(B, frames, mels) log-mel energies -> (B, N, P) normalized patches."""
        normalisation = self.config.normalisation
        normalized = (fbank - normalisation.mean) * (normalisation.scale / normalisation.std)
        return patchify(normalized, self.config.model)

    def autocast(self) -> torch.autocast:
        """A context in which torch's matrix products have this encoder's precision."""
        return torch.autocast(self.device.type, _DTYPES[self.precision], enabled=self.precision != "fp32")

    def uses_torch(self, inputs: Sequence[Tensor]) -> bool:
        """Whether torch runs the transformer: no engine is attached, or ``inputs`` need dropout or gradients."""
        return self._runtime.transformer is None or self.training or self.records_graph(inputs)

    def records_graph(self, inputs: Sequence[Tensor]) -> bool:
        """Whether torch records a graph: its grad mode is on, and a weight or one of ``inputs`` requires gradients."""
        return torch.is_grad_enabled() and any(
            value.requires_grad for values in (self.network.parameters(), inputs) for value in values
        )

    def batch_limits(self, clips: Sequence[Tensor]) -> BatchLimits:
        """How large the batches of ``clips`` may be on this device."""
        kind, mel_patches = self.device.type, self.config.model.mel_patches
        packed = self._packs(clips)
        steps: float = BATCH_TOKENS.get(kind, BATCH_TOKENS["cpu"]) // mel_patches
        if packed and self.records_graph(clips):  # activations are kept anyway, and each batch costs a sum of gradients
            steps = float("inf")
        return BatchLimits(steps, packed, self.max_seconds * SAMPLE_RATE)

    def forward_batch(self, clips: Sequence[Tensor], grid: TimeGrid, keep: Sequence[int]) -> Iterator[StepChunk]:
        """Run the clips of one batch through front end and network.

        Args:
            clips: one (S_i,) waveform per clip, a batch of `plan_batches`.
            grid: where their time steps lie.
            keep: the layers to keep, counted from 1, ascending.

        Yields:
            Time steps as they are computed, their values the (b, N, D) tokens of each kept layer. In a padded batch
            some lie past their clip's own steps.
        """
        if len(clips[0]) > self.max_seconds * SAMPLE_RATE:
            return self._forward_windows(clips[0], grid, keep)
        if self._packs(clips):
            return self._forward_packed(clips, grid, keep)
        return self._forward_padded(clips, grid, keep)

    def _packs(self, clips: Sequence[Tensor]) -> bool:
        """Whether the clips of a batch are packed into one row: where torch runs the network."""
        return self.uses_torch(clips)

    def _forward_packed(self, clips: Sequence[Tensor], grid: TimeGrid, keep: Sequence[int]) -> Iterator[StepChunk]:
        """Clips packed into one row of tokens, in which each attends to itself only: there is no padding."""
        joined = self.device.type != "cpu" and not self.config.frontend.remove_mean  # each clip has a mean of its own
        patches_of = self._joined_patches(clips, grid) if joined else self._patches_by_clip(clips, grid)
        frames = torch.tensor([grid.frames(len(clip)) for clip in clips])
        for shift in range(grid.passes):
            steps = ((frames - shift * grid.hop) // grid.patch_frames).clamp(min=0)
            tokens = [count * self.config.model.mel_patches for count in steps.tolist() if count]
            if not tokens:
                continue
            values = self._layers(patches_of(shift, steps), keep, packed=tokens if len(tokens) > 1 else None)
            clip = torch.arange(len(clips)).repeat_interleave(steps)
            step = shift + positions_in(steps) * grid.passes
            yield StepChunk(to_device(clip, self.device), to_device(step, self.device), values)

    def _patches_by_clip(self, clips: Sequence[Tensor], grid: TimeGrid) -> PatchesOf:
        """The front end clip by clip: on a CPU each of them then stays in its cache."""
        spectrograms = [self.fbank(pad_clips([clip], grid, self.device)[0]) for clip in clips]
        return lambda shift, steps: torch.cat([self.patchify(each[:, shift * grid.hop :]) for each in spectrograms], 1)

    def _joined_patches(self, clips: Sequence[Tensor], grid: TimeGrid) -> PatchesOf:
        """The front end on all clips as one, of which the frames that see two clips are dropped."""
        audio, starts = join_clips(clips, grid, self.device)
        spectrogram = self.fbank(audio)

        def patches_of(shift: int, steps: Tensor) -> Tensor:
            first = starts.repeat_interleave(steps) + shift * grid.hop + positions_in(steps) * grid.patch_frames
            frames = to_device(first, self.device)[:, None] + torch.arange(grid.patch_frames, device=self.device)
            return self.patchify(spectrogram.index_select(1, frames.flatten()))

        return patches_of

    def _forward_padded(self, clips: Sequence[Tensor], grid: TimeGrid, keep: Sequence[int]) -> Iterator[StepChunk]:
        """Clips padded to the longest one, a row each."""
        spectrogram = self.fbank(*pad_clips(clips, grid, self.device))
        frames = torch.tensor([grid.frames(len(clip)) for clip in clips])
        for shift in range(grid.passes):
            steps = ((frames - shift * grid.hop) // grid.patch_frames).clamp(min=0)
            longest = int(steps.max())
            if longest == 0:
                continue
            patches = self.patchify(spectrogram[:, shift * grid.hop :][:, : longest * grid.patch_frames])
            values = self._layers(patches, keep, padding=self._padding(steps, longest))
            step = shift + torch.arange(longest, device=self.device) * grid.passes
            clip = torch.arange(len(clips), device=self.device)
            yield StepChunk(clip.repeat_interleave(longest), step.repeat(len(clips)), values)

    def _padding(self, steps: Tensor, longest: int) -> Tensor | None:
        """(b,) time steps -> (b, longest * M) bool, True at padding; None where there is none."""
        if int(steps.min()) == longest:
            return None
        mel_patches = self.config.model.mel_patches
        # a row without a step still needs one key to attend to; its result is never used
        tokens = to_device(steps.clamp(min=1), self.device) * mel_patches
        return torch.arange(longest * mel_patches, device=self.device) >= tokens[:, None]

    def _forward_windows(self, clip: Tensor, grid: TimeGrid, keep: Sequence[int]) -> Iterator[StepChunk]:
        """One long clip in overlapping windows."""
        (prepared,) = self.fbank.prepare(pad_clips([clip], grid, self.device)[0])
        for span in cut_spans([prepared], grid, self.window_steps, self.window_batch):
            yield from self.forward_prepared(span, grid, keep)

    @property
    def window_batch(self) -> int:
        """Windows of a long clip that the network gets together."""
        tokens = BATCH_TOKENS.get(self.device.type, BATCH_TOKENS["cpu"])
        return max(1, tokens // (self.window_steps * self.config.model.mel_patches))

    def forward_prepared(self, span: Span, grid: TimeGrid, keep: Sequence[int]) -> Iterator[StepChunk]:
        """Windows of a long clip whose samples are prepared; the spectrogram is computed batch by batch."""
        frames, mel_patches = grid.patch_frames, self.config.model.mel_patches
        for batch in span.batches:
            shift, length, starts, ranges = batch
            begin, end = batch.samples(grid)
            spectrogram = self.fbank.log_mel(span.samples[None, begin - span.first_sample : end - span.first_sample])
            origin = starts[0]
            cut = torch.cat([spectrogram[:, (s - origin) * frames :][:, : length * frames] for s in starts])
            layers = self._layers(self.patchify(cut), keep)
            for row, (first, last) in enumerate(ranges):
                inside = slice((first - starts[row]) * mel_patches, (last - starts[row]) * mel_patches)
                step = shift + torch.arange(first, last, device=self.device) * grid.passes
                yield StepChunk(torch.zeros_like(step), step, [tokens[row : row + 1, inside] for tokens in layers])

    def _layers(
        self,
        patches: Tensor,
        keep: Sequence[int],
        padding: Tensor | None = None,
        packed: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """(b, N, P) patches -> (b, N, D) for each kept layer, from torch's network or from the engine."""
        transformer = self._runtime.transformer
        if transformer is None or self.uses_torch((patches,)):
            half = self._half_encoder(patches)
            if half is not None:
                return half.features(patches, padding, keep, packed)
            with self.autocast():
                return self.network.features(patches, padding, keep, packed=packed)
        with self.autocast():
            return transformer(patches, padding, keep)

    def _half_encoder(self, patches: Tensor) -> HalfEncoder | None:
        """The network with weights that are cast once; None where dropout, gradients or float32 are needed."""
        if self.precision == "fp32" or self.training or self.records_graph((patches,)) or traced():
            return None
        network = self.network
        return self._half_weights.current(
            network.patch_embed, network.encoder_positions, network.encoder, _DTYPES[self.precision]
        )
