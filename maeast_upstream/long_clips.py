"""Reads layers and pools time steps, also of a long clip part by part, whose samples come block by block."""

import functools
import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from maeast_upstream.batching import StepChunk, combine
from maeast_upstream.checkpoint.projection import Projection, check_projected
from maeast_upstream.checkpoint.whitening import ARRAYS as WHITENING_ARRAYS
from maeast_upstream.checks import quote
from maeast_upstream.device import to_device
from maeast_upstream.inference import BatchEncoder
from maeast_upstream.readout import Readout, TimeStatistics
from maeast_upstream.spans import Span, cut_spans
from maeast_upstream.time_grid import TimeGrid


class SpanEncoder(BatchEncoder):
    """A `BatchEncoder` with what readouts need of it, for clips that are longer than ``max_seconds``."""

    projection: Projection | None = None
    """What scene embeddings are whitened or projected by, if their readout says so; `use_projection` changes it."""
    _projection_rows: Tensor | None

    def use_projection(self, projection: Projection | None) -> None:
        """Whiten or project by this from now on; None for no projection. `load_model` calls it.

        Raises:
            ValueError: It is not one of this network, or the config's readout needs another one.
        """
        if projection is not None:
            projection.check(self.config)
        check_projected(self.config.readout, projection)
        self.projection = projection
        arrays = {"_projection_rows": None if projection is None else projection.rows}
        whitening = None if projection is None else projection.whitening
        arrays |= {f"_whitening_{name}": getattr(whitening, name, None) for name in WHITENING_ARRAYS}
        for name, array in arrays.items():  # not weights, but on their device
            tensor = None if array is None else torch.from_numpy(array).to(self.device)
            self.register_buffer(name, tensor, persistent=False)

    def project(self, pooled: Tensor, readout: Readout) -> Tensor:
        """Return scene embeddings of a readout: (..., C) pooled statistics, whitened and projected if it says so.

        All of this package go through here. In float64, so that a clip's result does not depend on the others'.

        Returns:
            (..., C), or (..., dims).
        """
        if not readout.projected:
            return pooled
        check_projected(readout, self.projection)
        values = pooled.double()
        if readout.whiten:
            mean, weights, groups, numbers = (getattr(self, f"_whitening_{name}").double() for name in WHITENING_ARRAYS)
            scaled = ((values - mean) * weights).reshape(*values.shape[:-1], len(groups), len(numbers))
            values = (groups @ scaled @ numbers).flatten(-2)
        if readout.dims is not None:
            assert self._projection_rows is not None
            values = values @ self._projection_rows[: readout.dims].double().T
        return values.float()

    def check_readout(self, readout: Readout) -> None:
        """Raise ValueError if there is no such layer or hop, or the checkpoint stores no projection that it needs."""
        self.needs_of([readout])

    def kept_layers(self, layers: int | Sequence[int] | None) -> list[int]:
        """``layers`` in ascending order, each once, or all layers for None; ValueError for an unknown one."""
        every = range(1, self.config.model.depth + 1)
        if layers is None:
            return list(every)
        alone = not isinstance(layers, Iterable) or isinstance(layers, str) or getattr(layers, "ndim", 1) == 0
        given: list[Any] = [layers] if alone else list(layers)  # type: ignore[arg-type]
        try:
            keep = sorted({operator.index(layer) for layer in given})
        except TypeError:
            keep = []
        # to Python True is the number 1
        if not keep or not set(keep) <= set(every) or any(isinstance(layer, bool) for layer in given):
            raise ValueError(f"layers are counted from 1 to {self.config.model.depth}, got {quote(layers)}")
        return keep

    def grid(self, hop_ms: float | None) -> TimeGrid:
        """Where time steps lie at this hop; ValueError for a hop that the model does not have."""
        return TimeGrid.with_hop(self.config.model.patch_frames, hop_ms)

    def needs_of(self, readouts: Sequence[Readout]) -> tuple[list[int], TimeGrid]:
        """The layers that readouts of one pass need together, and their grid."""
        if isinstance(readouts, Readout) or not all(isinstance(readout, Readout) for readout in readouts):
            got = readouts if isinstance(readouts, Readout) else readouts[0]
            expected = "a Readout, such as Readout(layer='last'), or for `read` a list of them"
            raise ValueError(f"expected {expected}, got {quote(got)}")
        if len({readout.hop_ms for readout in readouts}) != 1:
            raise ValueError(f"readouts of one pass share hop_ms, got {[readout.hop_ms for readout in readouts]}")
        for readout in readouts:
            check_projected(readout, self.projection)
        layers = [layer for readout in readouts for layer in readout.layers(self.config.model.depth)]
        return self.kept_layers(layers), self.grid(readouts[0].hop_ms)

    def read_span(self, span: Span, readouts: Sequence[Readout]) -> list[Tensor]:
        """Return the time steps of a part of a long clip, see `BatchEncoder.spans`: for each readout (t, C) float32."""
        keep, grid = self.needs_of(readouts)
        chunks = list(combine(self.forward_span(span, grid, keep), keep, readouts, self.config.model))
        order = torch.cat([chunk.step for chunk in chunks]).argsort()
        by_readout = zip(*(chunk.values for chunk in chunks), strict=True)
        return [torch.cat([value[0] for value in values])[order] for values in by_readout]

    def pool_span(self, span: Span, readouts: Sequence[Readout]) -> list[TimeStatistics]:
        """Return what scene embeddings need of a part of a long clip, for each readout."""
        return [TimeStatistics.of(steps) for steps in self.read_span(span, readouts)]

    def pool(self, blocks: Iterable[Tensor], readouts: Sequence[Readout]) -> list[Tensor]:
        """Return the (E,) scene embeddings of a clip whose blocks come one after the other, see `spans`."""
        _, grid = self.needs_of(readouts)
        of_spans = (self.pool_span(span, readouts) for span in self.spans(blocks, grid))
        merged = functools.reduce(
            lambda one, other: [a.merged(b) for a, b in zip(one, other, strict=True)],
            of_spans,
        )
        return [self.scene(each, readout) for each, readout in zip(merged, readouts, strict=True)]

    def scene(self, statistics: TimeStatistics, readout: Readout) -> Tensor:
        """Return the (E,) scene embedding of a clip whose time steps have these statistics."""
        return self.project(statistics.pooled(readout.pool), readout)

    @property
    def can_stream(self) -> bool:
        """Whether long clips can be encoded before all of their samples are known, from which no mean is removed."""
        return not self.fbank.config.remove_mean

    def spans(self, blocks: Iterable[Tensor], grid: TimeGrid) -> Iterator[Span]:
        """Cut a clip whose (n,) blocks of samples come one after the other, longer than ``max_seconds`` together.

        The encoder must be able to, see `can_stream`.
        """
        padded = itertools.chain([torch.zeros(grid.left)] if grid.left else [], blocks)
        return cut_spans(padded, grid, self.window_steps, self.window_batch)

    def forward_span(self, span: Span, grid: TimeGrid, keep: Sequence[int]) -> Iterator[StepChunk]:
        """Do what `forward_batch` does with a part of a long clip from `spans`."""
        prepared = self.fbank.prepare(to_device(span.samples, self.device)[None])
        return self.forward_prepared(span._replace(samples=prepared[0]), grid, keep)
