"""The table of embeddings: its columns, and its rows from the output of the model."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from maeast_upstream.config import EncoderConfig, scene_width, step_width
from maeast_upstream.data.mapped import release
from maeast_upstream.data.reduction import MAX_WIDTH
from maeast_upstream.data.windows import Windows
from maeast_upstream.extract.arrow_columns import column
from maeast_upstream.extract.vector_columns import VectorType, vector_arrays, vector_fields
from maeast_upstream.readout import Readout

if TYPE_CHECKING:
    import pyarrow as pa

EmbeddingKind = Literal["scene", "frames"]
ROW_GROUP_BYTES = 64 << 20
"""Vectors are written when they take this much memory."""
STATE_KEY = "inputs_state"
"""Key in that JSON of the state of the inputs when the table was made, see `Survey.state`."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingSpec:
    """The embeddings to compute of each clip."""

    kind: EmbeddingKind = "scene"
    """One row per clip (scene) or per time step (frames)."""
    readouts: tuple[Readout, ...] = (Readout(),)
    """One row for each; they have the same hop and give vectors of the same length."""
    vectors: VectorType = "float32"
    """Type of the stored vectors."""
    dims: int | None = None
    """Number of principal components of the table that its vectors are reduced to; None for vectors as they are."""
    windows: Windows | None = None
    """How clips are cut into windows, each of which gets a row; None for one row per clip. Of kind scene only."""

    def __post_init__(self) -> None:
        if self.kind not in ("scene", "frames"):
            raise ValueError(f"kind must be scene or frames, got {self.kind!r}")
        if self.windows is not None and self.kind != "scene":
            raise ValueError("windows go with kind scene: frames has a row per time step already")
        if self.vectors not in get_args(VectorType):
            raise ValueError(f"vectors must be {', '.join(get_args(VectorType))}, got {self.vectors!r}")
        if self.kind == "frames" and any(readout.projected for readout in self.readouts):
            option = "whiten" if any(readout.whiten for readout in self.readouts) else "dims"
            raise ValueError(
                f"{option} goes with kind scene: a projection is one of vectors that were pooled over time"
            )
        if self.dims is not None and (self.kind != "scene" or len(self.readouts) > 1):
            raise ValueError("dims goes with kind scene and a single layer, whose principal components are found")
        if len({readout.layer for readout in self.readouts}) != len(self.readouts) or not self.readouts:
            raise ValueError(f"expected each layer once, got {[readout.layer for readout in self.readouts]}")

    def width(self, config: EncoderConfig) -> int:
        """Return the length of a vector.

        Raises:
            ValueError: The model does not have one of the layers, or their vectors differ in length.
        """
        for readout in self.readouts:
            if isinstance(readout.layer, int) and readout.layer > config.model.depth:
                raise ValueError(f"layers are counted from 1 to {config.model.depth}, got {readout.layer}")
        width = scene_width if self.kind == "scene" else step_width
        widths = {width(config, readout) for readout in self.readouts}
        if len(widths) > 1:
            raise ValueError("layer all gives longer vectors than the others; give it without other layers")
        full = widths.pop()
        if self.dims is not None and not 1 <= self.dims <= full <= MAX_WIDTH:
            limit = f"at most {full}" if full <= MAX_WIDTH else f"but vectors of {full} are too long to be reduced"
            raise ValueError(f"dims must be at least 1, {limit}, got {self.dims}")
        return full

    def stored_width(self, config: EncoderConfig) -> int:
        """Return the length of a vector of the finished table."""
        return self.dims or self.width(config)

    @property
    def float_type(self) -> "np.dtype[Any]":
        """The type whose range the values must be in."""
        return np.dtype(np.float16 if self.vectors == "float16" else np.float32)

    def of_parts(self) -> "EmbeddingSpec":
        """Return the embeddings of a part, whose vectors are not reduced before all are known."""
        if self.dims is None:
            return self
        return replace(self, dims=None, vectors="float32" if self.vectors == "int8" else self.vectors)

    def layers(self, depth: int) -> list[int]:
        """Return the layers, of ``depth``, that the readouts use."""
        return sorted({layer for readout in self.readouts for layer in readout.layers(depth)})

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, to compare and to store as JSON."""
        return {
            "kind": self.kind,
            "vectors": self.vectors,
            "dims": self.dims,
            "layers": [str(readout.layer) for readout in self.readouts],
            "whitened": any(readout.whiten for readout in self.readouts),
            "readouts": {str(readout.layer): readout.to_dict() for readout in self.readouts},
            "windows": None if self.windows is None else asdict(self.windows),
        }


@dataclass(frozen=True)
class Embedded:
    """The embeddings of a clip, or of a window of one."""

    path: str
    """Path of the clip as tables store it, see `display.as_name`."""
    segment: int
    start_ms: float
    end_ms: float
    vectors: np.ndarray
    """(readouts, steps, E); a scene has one step."""
    times_ms: np.ndarray
    """(steps,) centres of the time steps in ms from the start of the file."""
    is_segment: bool = False
    """Whether a start or an end was given, even if it is that of the file."""
    notes: tuple[str, ...] = ()
    """What was noticed about its audio, see `Segment.notes`."""
    samples: int = 0
    """Samples of its audio; of a window, without those that the window before it had, too."""
    is_last: bool = True
    """Whether no other window of the clip follows."""


def row_blocks(vectors: np.ndarray) -> Iterator[np.ndarray]:
    """Yield (1, n, E) parts of (readouts, steps, E) vectors in the order of a table's rows, each of bounded memory.

    Vectors that a file is mapped to leave memory again.
    """
    count = max(1, ROW_GROUP_BYTES // max(1, vectors[0, :1].nbytes))
    for readout in range(len(vectors)):
        for first in range(0, vectors.shape[1], count):
            yield vectors[readout : readout + 1, first : first + count]
            release(vectors)


def make_schema(spec: EmbeddingSpec, width: int, metadata: dict[str, str] | None = None) -> "pa.Schema":
    """Return the columns: the times of a scene or the centre of a time step; ``vector`` is a fixed-size list."""
    import pyarrow as pa

    times = [("start_ms", pa.float64()), ("end_ms", pa.float64())] if spec.kind == "scene" else []
    centre = [("time_ms", pa.float64())] if spec.kind == "frames" else []
    columns = [("path", pa.string()), ("segment", pa.int64()), *times, ("layer", pa.string()), *centre]
    return pa.schema([*columns, *vector_fields(spec.vectors, width)], metadata=metadata)


def make_table(clips: Sequence[Embedded], spec: EmbeddingSpec, schema: "pa.Schema") -> "pa.Table":
    """Return the rows of clips in their order; those of a clip are in the order of readouts, then of time."""
    import pyarrow as pa

    layers = [str(readout.layer) for readout in spec.readouts]
    rows = np.array([clip.vectors.shape[0] * clip.vectors.shape[1] for clip in clips])
    steps = [clip.vectors.shape[1] for clip in clips]

    def repeated(values: Sequence[Any]) -> Any:
        return np.repeat(np.array(values, dtype=object), rows)

    columns: dict[str, Any] = {
        "path": repeated([clip.path for clip in clips]),
        "segment": repeated([clip.segment for clip in clips]),
        "start_ms": repeated([clip.start_ms for clip in clips]),
        "end_ms": repeated([clip.end_ms for clip in clips]),
        "layer": np.concatenate([np.repeat(np.array(layers, dtype=object), count) for count in steps]),
        "time_ms": np.concatenate([np.tile(clip.times_ms, len(layers)) for clip in clips]),
    }
    vectors = np.concatenate([clip.vectors.reshape(-1, clip.vectors.shape[2]) for clip in clips])
    stored = vector_arrays(vectors, schema)
    arrays = [
        stored[field.name] if field.name in stored else column(columns[field.name], field.type) for field in schema
    ]
    return pa.table(arrays, schema=schema)
