"""The core call: `load_model()` and `Encoder.encode()`, which turns waveforms into features of the encoder's layers.

Exact under padding: a clip's features do not depend on the other clips of the call. Clips of like length go
through the network together, so that next to no padding is computed; long ones go in overlapping windows.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from maeast_upstream import checkpoint
from maeast_upstream.batching import BATCH_TOKENS, MAX_PADDING, SMALL_BATCH_TOKENS, repeat_last, split_clips, to_device
from maeast_upstream.config import EncoderConfig
from maeast_upstream.device import usable_device
from maeast_upstream.frontend import HOP_SAMPLES, SAMPLE_RATE, Fbank, num_samples
from maeast_upstream.model import MaeAst, patchify
from maeast_upstream.readout import Mel, Readout, combine_layers, fold_mel, pool_time
from maeast_upstream.time_grid import FINE_HOP_MS, FINE_LEFT_SAMPLES, FRAME_MS, TimeGrid, window_ranges, window_starts

Precision = Literal["fp32", "bf16", "fp16"]


Body = Callable[[Tensor, Tensor | None, Sequence[int]], list[Tensor]]
"""What `MaeAst.features` is: (B, N, P) patches, (B, N) padding or None, layers -> the layers' (B, N, D)."""


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Encoded:
    """Features of B clips of at most T time steps."""

    hidden_states: list[Tensor]
    """For each kept layer, in ascending order: (B, T, C) float32, zero past a clip's own length."""
    lengths: Tensor
    """(B,) int64, each clip's time steps."""
    times_ms: Tensor
    """(B, T) float64 on the CPU: centre of what a step saw, in ms from the clip's start; zero past its length."""


class Encoder(nn.Module):
    """A MAE-AST encoder with its front end and normalisation.

    In eval mode, as `load_model` gives it, it is frozen: no graph is recorded. In train mode gradients reach
    every parameter of the encoder; the normalisation stays fixed.
    """

    def __init__(
        self,
        config: EncoderConfig,
        precision: Precision = "fp32",
        *,
        max_seconds: float = 60.0,
        window_seconds: float = 10.0,
    ) -> None:
        super().__init__()
        if precision not in _DTYPES:
            raise ValueError(f"precision must be one of {', '.join(_DTYPES)}, got {precision!r}")
        steps = TimeGrid(config.model.patch_frames, config.model.patch_frames, 0).steps(
            round(window_seconds * SAMPLE_RATE)
        )
        if steps < 2 or max_seconds < window_seconds:
            raise ValueError(
                "a window must hold two time steps and be no longer than max_seconds: "
                f"got window_seconds {window_seconds}, max_seconds {max_seconds}"
            )
        self.config = config
        self.precision = precision
        self.max_seconds = max_seconds
        self.window_steps = steps - steps % 2
        self.fbank = Fbank(config.frontend)
        self.network = MaeAst(config.model)
        self.body: Body | None = None
        """What runs in place of the network in eval mode, see `engines.attach`; None for the network itself."""
        self.streams = 1
        """Calls of `encode` that `extract` makes side by side, see `engines.attach`."""
        self.graph_in_eval = False
        """Whether torch's grad mode decides in eval mode, too, as in any module: wanted of an s3prl upstream."""

    @property
    def sample_rate(self) -> int:
        """Samples a second that `encode` expects."""
        return SAMPLE_RATE

    @property
    def num_layers(self) -> int:
        """Layers whose outputs `encode` can return, counted from 1."""
        return self.config.model.depth

    @property
    def embed_dim(self) -> int:
        """D, the width of a token."""
        return self.config.model.embed_dim

    @property
    def hop_samples(self) -> int:
        """Samples between two time steps of the model's own grid: 2560 for patch, 320 for frame models."""
        return self.config.model.patch_frames * HOP_SAMPLES

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.patch_embed.weight.device

    def encode(
        self,
        waveforms: Tensor | Sequence[Tensor],
        lengths: Tensor | None = None,
        *,
        layers: Sequence[int] | None = None,
        mel: Mel = "concat",
        hop_ms: float | None = None,
    ) -> Encoded:
        """Features of the encoder's layers.

        Args:
            waveforms: (B, S) float tensor, or one (S_i,) float tensor per clip: mono at 16 kHz in [-1, 1].
            lengths: (B,) samples of each row of a (B, S) tensor, where shorter than S.
            layers: which layers to keep, counted from 1; None keeps all. What is not kept is never stored.
            mel: "concat" gives (B, T, M * D), the mel patches of an instant side by side; "mean" (B, T, D).
            hop_ms: None for the model's own hop (160 ms patch, 20 ms frame); 40 for patch models.

        Returns:
            See `Encoded`. A clip shorter than one token is zero-padded to one.

        Raises:
            ValueError: a clip is empty, not one-dimensional or not floating point; an unknown layer, mel or hop.
        """
        keep = self.kept_layers(layers)
        grid = self.grid(hop_ms)
        if mel not in get_args(Mel):
            raise ValueError(f"mel must be one of {', '.join(get_args(Mel))}, got {mel!r}")
        clips = split_clips(waveforms, lengths)
        return self._encoded(clips, grid, lambda rows: self.own_steps(clips, grid, keep, mel, rows))

    def read(
        self,
        waveforms: Tensor | Sequence[Tensor],
        lengths: Tensor | None = None,
        *,
        readouts: Sequence[Readout],
    ) -> Encoded:
        """Time steps as readouts want them, from one pass; layers are combined at once, so that none is stored.

        Args:
            waveforms: as in `encode`.
            lengths: as in `encode`.
            readouts: which layers and mel axis; they share a hop. Nothing is pooled.

        Returns:
            As `encode`, but ``hidden_states`` holds one (B, T, C) for each readout.

        Raises:
            ValueError: as in `encode`; the readouts ask for different hops, which one pass cannot give.
        """
        if len({readout.hop_ms for readout in readouts}) != 1:
            raise ValueError(f"readouts of one pass share hop_ms, got {[readout.hop_ms for readout in readouts]}")
        wanted = [readout.layers(self.num_layers) for readout in readouts]
        keep = self.kept_layers([layer for layers in wanted for layer in layers])
        M, D = self.config.model.mel_patches, self.embed_dim

        def combine(hidden: list[Tensor]) -> list[Tensor]:
            tokens = dict(zip(keep, hidden, strict=True))
            return [
                combine_layers(
                    [fold_mel(tokens[layer], M, readout.mel).float() for layer in layers],
                    readout.layer,
                )
                for readout, layers in zip(readouts, wanted, strict=True)
            ]

        clips, grid = split_clips(waveforms, lengths), self.grid(readouts[0].hop_ms)
        widths = [
            D * (M if readout.mel == "concat" else 1) * (len(layers) if readout.layer == "all" else 1)
            for readout, layers in zip(readouts, wanted, strict=True)
        ]
        return self._encoded(
            clips,
            grid,
            lambda rows: self._filled(clips, grid, keep, widths, rows, combine),
        )

    def _encoded(self, clips: list[Tensor], grid: TimeGrid, fill: Callable[[int], list[Tensor]]) -> Encoded:
        """What ``fill`` gives for so many rows, zero past each clip's own steps, with lengths and times."""
        steps = torch.tensor([grid.steps(len(clip)) for clip in clips])
        rows = int(steps.max())
        states = fill(rows)
        if int(steps.min()) < rows:
            past = to_device(torch.arange(rows) >= steps[:, None], self.device)[..., None]
            states = [state.masked_fill_(past, 0.0) for state in states]
        times = nn.utils.rnn.pad_sequence([grid.times_ms(len(clip)) for clip in clips], batch_first=True)
        return Encoded(states, to_device(steps, self.device), times)

    def own_steps(
        self,
        clips: Sequence[Tensor],
        grid: TimeGrid,
        keep: Sequence[int],
        mel: Mel,
        rows: int,
    ) -> list[Tensor]:
        """The kept layers' (B, rows, C) float32; past a clip's own steps its last one is repeated.

        Args:
            clips: as of `split_clips`.
            grid: as of `grid`.
            keep: as of `kept_layers`.
            mel: as in `encode`.
            rows: at least the steps of the longest clip.
        """
        M = self.config.model.mel_patches
        widths = [self.embed_dim * (M if mel == "concat" else 1)] * len(keep)

        def fold(hidden: list[Tensor]) -> list[Tensor]:
            return [fold_mel(tokens, M, mel).float() for tokens in hidden]

        states = self._filled(clips, grid, keep, widths, rows, fold)
        if not states[0].requires_grad:
            repeat_last(states, [grid.steps(len(clip)) for clip in clips])
        return states

    def _filled(
        self,
        clips: Sequence[Tensor],
        grid: TimeGrid,
        keep: Sequence[int],
        widths: Sequence[int],
        rows: int,
        convert: Callable[[list[Tensor]], list[Tensor]],
    ) -> list[Tensor]:
        """For each of ``widths`` (B, rows, width): what ``convert`` makes of a batch's kept layers, (b, N, D) each.

        What lies past a clip's own steps is as it was in memory or, where a graph is recorded, the clip's last step.
        """
        with self.arithmetic():
            recorded = torch.is_grad_enabled()
        if recorded:
            return self._gathered(clips, grid, keep, rows, convert)
        # made before inference mode begins: the result may be used in a graph
        states = [torch.empty(len(clips), rows, width, device=self.device) for width in widths]
        with self.arithmetic(), torch.inference_mode():
            for clip, step, parts in self._parts(clips, grid, keep, convert):
                for state, part in zip(states, parts, strict=True):
                    state[clip, step] = part
        return states

    def _gathered(
        self,
        clips: Sequence[Tensor],
        grid: TimeGrid,
        keep: Sequence[int],
        rows: int,
        convert: Callable[[list[Tensor]], list[Tensor]],
    ) -> list[Tensor]:
        """As `_filled`, in one step that a gradient comes back through cheaply: writes would copy whole states."""
        place = torch.zeros(len(clips), rows, dtype=torch.int64, device=self.device)
        every: list[list[Tensor]] = []
        count = 0
        with self.arithmetic():
            for clip, step, parts in self._parts(clips, grid, keep, convert):
                place[clip, step] = torch.arange(count, count + len(clip), device=self.device)
                every.append(parts)
                count += len(clip)
        last = torch.tensor([[grid.steps(len(clip)) - 1] for clip in clips])
        place = place.gather(1, torch.minimum(torch.arange(rows), last).to(self.device))
        flat = [torch.cat(parts) for parts in zip(*every, strict=True)]
        return [part.index_select(0, place.flatten()).view(*place.shape, -1) for part in flat]

    def _parts(
        self,
        clips: Sequence[Tensor],
        grid: TimeGrid,
        keep: Sequence[int],
        convert: Callable[[list[Tensor]], list[Tensor]],
    ) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
        """Time steps as they are computed: (n,) clips' numbers, (n,) their steps, (n, C) of what ``convert`` makes.

        Some may lie past their clip's own steps.
        """
        for batch in self._batches(clips, grid):
            numbers = to_device(torch.tensor(batch), self.device)
            for row, step, hidden in self._run([clips[number] for number in batch], grid, keep):
                yield numbers[row], step, [part.flatten(0, 1) for part in convert(hidden)]

    def embed(
        self,
        waveforms: Tensor | Sequence[Tensor],
        lengths: Tensor | None = None,
        *,
        readout: Readout | None = None,
    ) -> Tensor:
        """Scene embeddings: one vector a clip.

        Args:
            waveforms: as in `encode`.
            lengths: as in `encode`.
            readout: which layers, mel axis, pooling and hop; None for the checkpoint's own.

        Returns:
            (B, E) float32.
        """
        readout = readout or self.config.readout
        encoded = self.read(waveforms, lengths, readouts=[readout])
        return pool_time(encoded.hidden_states[0], encoded.lengths, readout.pool)

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None, **options: Any) -> "Encoder":
        """`load_model` under the name that hub libraries use; ``options`` are its keyword arguments."""
        return load_model(source, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors and config.json into ``folder``."""
        checkpoint.save_folder(Path(folder), self.network, self.config)

    def push_to_hub(self, repo_id: str, *, private: bool = False, revision: str | None = None) -> str:
        """Upload to a hub repository, made if it does not exist; returns the address of the commit."""
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "model")
            return str(
                api.upload_folder(
                    repo_id=repo_id,
                    folder_path=Path(folder) / "model",
                    revision=revision,
                )
            )

    def patches(self, waveforms: Tensor) -> Tensor:
        """(B, S) waveforms of at least one token -> (B, N, P) normalised patches, what the network sees."""
        return self.patchify(self.fbank(waveforms.to(self.device)))

    def patchify(self, fbank: Tensor) -> Tensor:
        """(B, frames, mels) log-mel energies -> (B, N, P) normalised patches."""
        normalisation = self.config.normalisation
        normalised = (fbank - normalisation.mean) * (normalisation.scale / normalisation.std)
        return patchify(normalised, self.config.model)

    def kept_layers(self, layers: Sequence[int] | None) -> list[int]:
        """The layers that ``layers`` means, ascending; ValueError for none or an unknown one."""
        every = list(range(1, self.num_layers + 1))
        keep = every if layers is None else sorted(set(layers))
        if not keep or not set(keep) <= set(every):
            raise ValueError(f"layers are counted from 1 to {self.num_layers}, got {layers}")
        return keep

    def grid(self, hop_ms: float | None) -> TimeGrid:
        """Where time steps lie at this hop; ValueError names the hops that there are."""
        frames = self.config.model.patch_frames
        if hop_ms in (None, frames * FRAME_MS):
            return TimeGrid(frames, frames, 0)
        if hop_ms == FINE_HOP_MS and frames == 16:
            return TimeGrid(frames, round(FINE_HOP_MS / FRAME_MS), FINE_LEFT_SAMPLES)
        finer = f" or {FINE_HOP_MS:g}" if frames == 16 else ""
        raise ValueError(f"this model's time steps are {frames * FRAME_MS:g}{finer} ms apart, got hop_ms {hop_ms}")

    @contextlib.contextmanager
    def arithmetic(self) -> Iterator[None]:
        """The precision of matrix products, and whether a graph is recorded."""
        graph = (self.training or self.graph_in_eval) and torch.is_grad_enabled()
        cast = torch.autocast(self.device.type, _DTYPES[self.precision], enabled=self.precision != "fp32")
        with torch.set_grad_enabled(graph), cast:
            yield

    def _batches(self, clips: Sequence[Tensor], grid: TimeGrid) -> Iterator[list[int]]:
        """Indices of the clips that go through the network together: of like length; a long clip goes by itself."""
        mel, kind = self.config.model.mel_patches, self.device.type
        budget = BATCH_TOKENS.get(kind, BATCH_TOKENS["cpu"]) // mel
        dense = self._side_by_side()
        if dense and torch.is_grad_enabled():  # every activation is kept anyway, and each batch costs a gradient's sum
            budget = sum(len(clip) for clip in clips)
        small = SMALL_BATCH_TOKENS.get(kind, 0) // mel if self.precision != "fp32" else 0
        rows: list[int] = []
        steps: list[int] = []
        for row in sorted(range(len(clips)), key=lambda row: -len(clips[row])):
            tall = [*steps, grid.steps(len(clips[row])) // grid.passes + 1]
            area = sum(tall) if dense else len(tall) * tall[0]
            full = area > budget or (area > small and sum(tall) < (1 - MAX_PADDING) * area)
            if rows and (full or self._is_long(clips[rows[0]])):
                yield rows
                rows, tall = [], tall[-1:]
            rows, steps = [*rows, row], tall
        yield rows

    def _is_long(self, clip: Tensor) -> bool:
        return len(clip) > self.max_seconds * SAMPLE_RATE

    def _side_by_side(self) -> bool:
        """Whether clips of a batch lie in one row, each attending to itself: on a CPU, where torch runs the network."""
        return self.device.type == "cpu" and (self.body is None or self.training)

    def _run(
        self, clips: list[Tensor], grid: TimeGrid, keep: Sequence[int]
    ) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
        """The clips of a batch through the network, grid by grid.

        Yields:
            For n time steps: (n,) numbers of clips in the batch, (n,) of their steps, and the kept layers' (b, N, D).
        """
        long = self._is_long(clips[0])
        if self._side_by_side() and not long:
            yield from self._run_side_by_side(clips, grid, keep)
            return
        waveforms, lengths = self._pad(clips, grid)
        audio = self.fbank.prepare(waveforms) if long else self.fbank(waveforms, lengths)
        frames = torch.tensor([grid.frames(len(clip)) for clip in clips])
        for shift in range(grid.passes):
            own = ((frames - shift * grid.hop) // grid.patch_frames).clamp(min=0)
            steps = int(own.max())
            if steps == 0:
                continue
            if long:
                parts = self._windows(audio[:, shift * grid.hop * HOP_SAMPLES :], steps, keep)
            else:
                parts = iter([(0, steps, self._features(audio[:, shift * grid.hop :], own, keep))])
            for first, last, hidden in parts:
                step = shift + torch.arange(first, last, device=self.device) * grid.passes
                row = torch.arange(len(clips), device=self.device)
                yield row.repeat_interleave(len(step)), step.repeat(len(clips)), hidden

    def _run_side_by_side(
        self, clips: list[Tensor], grid: TimeGrid, keep: Sequence[int]
    ) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
        """As `_run`, without any padding: one row of all the clips' tokens."""
        spectrograms = [self.fbank(self._pad([clip], grid)[0]) for clip in clips]
        for shift in range(grid.passes):
            patches = [self.patchify(spectrogram[:, shift * grid.hop :]) for spectrogram in spectrograms]
            tokens = [part.shape[1] for part in patches if part.shape[1]]
            if not tokens:
                continue
            one = len(tokens) == 1
            hidden = self.network.features(torch.cat(patches, 1), layers=keep, side_by_side=None if one else tokens)
            steps = [part.shape[1] // self.config.model.mel_patches for part in patches]
            row = torch.arange(len(clips)).repeat_interleave(torch.tensor(steps))
            yield row, torch.cat([shift + torch.arange(n) * grid.passes for n in steps]), hidden

    def _pad(self, clips: list[Tensor], grid: TimeGrid) -> tuple[Tensor, Tensor | None]:
        """Clips -> (b, S) on the model's device, and the samples of each where they differ."""
        samples = [grid.padded_samples(len(clip)) for clip in clips]
        if len(clips) == 1 and samples[0] == len(clips[0]):
            return to_device(clips[0], self.device)[None], None
        place = clips[0].device  # put together where the clips are: one copy to a GPU
        pinned = place.type == "cpu" and self.device.type == "cuda"
        padded = torch.zeros(len(clips), max(samples), device=place, pin_memory=pinned)
        for row, clip in enumerate(clips):
            padded[row, grid.left : grid.left + len(clip)] = clip
        equal = min(samples) == max(samples)
        return to_device(padded, self.device), None if equal else to_device(torch.tensor(samples), self.device)

    def _features(self, spectrogram: Tensor, steps: Tensor, keep: Sequence[int]) -> list[Tensor]:
        """(b, frames, mels), each row's time steps -> the kept layers' (b, N, D)."""
        longest = int(steps.max())
        patches = self.patchify(spectrogram[:, : longest * self.config.model.patch_frames])
        padding = None
        if int(steps.min()) < longest:
            # a row without a step on this grid still needs one key to attend to; its result is never used
            tokens = to_device(steps.clamp(min=1), self.device) * self.config.model.mel_patches
            padding = torch.arange(patches.shape[1], device=self.device) >= tokens[:, None]
        return self._layers(patches, padding, keep)

    def _layers(self, patches: Tensor, padding: Tensor | None, keep: Sequence[int]) -> list[Tensor]:
        if self.body is None or self.training:
            return self.network.features(patches, padding, keep)
        return self.body(patches, padding, keep)

    def _windows(self, audio: Tensor, steps: int, keep: Sequence[int]) -> Iterator[tuple[int, int, list[Tensor]]]:
        """A long clip's prepared (1, S) in overlapping windows: ranges of steps and their kept layers' tokens.

        The spectrogram is made for a few windows at a time (a frame's numbers are its own): that of an hour is 184 MB.
        """
        frames, mel = self.config.model.patch_frames, self.config.model.mel_patches
        length = min(self.window_steps, steps)
        starts = window_starts(steps, length)
        ranges = window_ranges(starts, steps, length)
        batch = max(1, BATCH_TOKENS.get(self.device.type, BATCH_TOKENS["cpu"]) // (length * mel))
        for i in range(0, len(starts), batch):
            some = starts[i : i + batch]
            first_sample = some[0] * frames * HOP_SAMPLES
            samples = num_samples((some[-1] + length - some[0]) * frames)
            spectrogram = self.fbank.log_mel(audio[:, first_sample : first_sample + samples])
            cut = torch.cat([spectrogram[:, (s - some[0]) * frames :][:, : length * frames] for s in some])
            hidden = self._layers(self.patchify(cut), None, keep)
            for row, (first, last) in enumerate(ranges[i : i + batch]):
                inside = slice((first - some[row]) * mel, (last - some[row]) * mel)
                yield first, last, [state[row : row + 1, inside] for state in hidden]


def scene_vectors(encoder: Encoder, waveforms: Sequence[Tensor], readouts: Sequence[Readout]) -> list[Tensor]:
    """For each readout (B, E) float32, one vector a clip; the readouts share a hop."""
    states, encoded = step_vectors(encoder, waveforms, readouts)
    pairs = zip(states, readouts, strict=True)
    return [pool_time(state, encoded.lengths, readout.pool) for state, readout in pairs]


def step_vectors(
    encoder: Encoder, waveforms: Sequence[Tensor], readouts: Sequence[Readout]
) -> tuple[list[Tensor], Encoded]:
    """For each readout (B, T, C) float32, one vector a time step, with what `encode` tells of lengths and times.

    Raises:
        ValueError: the encoder is in train mode, where dropout would be in the vectors; the readouts ask for
            different hops, which one pass cannot give.
    """
    if encoder.training:
        raise ValueError("embeddings are those of a frozen encoder: call eval() first")
    encoded = encoder.read(waveforms, readouts=readouts)
    return encoded.hidden_states, dataclasses.replace(encoded, hidden_states=[])


def load_model(
    source: str | Path | None = None,
    device: str | torch.device | None = None,
    precision: Precision | None = None,
    *,
    max_seconds: float = 60.0,
    window_seconds: float = 10.0,
) -> Encoder:
    """A pretrained encoder, in eval mode.

    Args:
        source: None for the checkpoint in the package; "mae_ast_patch" or "mae_ast_frame" for the published
            ones (downloaded once); a path to a published .pt, to a folder with model.safetensors and config.json,
            or to a pretraining run; or a hub id such as "org/name".
        device: where to put it; None for the CPU.
        precision: of the matrix products: fp32 (default), bf16 or fp16.
        max_seconds: clips up to this length are one piece, longer ones go in windows.
        window_seconds: length of those windows.

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
    return encoder.eval().to(where)
