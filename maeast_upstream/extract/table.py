"""The table of embeddings: its columns, and rows from what the model gave."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from maeast_upstream.config import EncoderConfig, scene_width, step_width
from maeast_upstream.readout import Readout

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["scene", "frames"]
Vectors = Literal["float32", "float16"]
METADATA_KEY = "maeast"
"""Of the schema's metadata: how the table was made, as JSON."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingSpec:
    """What is asked of every clip."""

    kind: Kind = "scene"
    """One row a clip, or a time step."""
    readouts: tuple[Readout, ...] = (Readout(),)
    """One row for each; they share a hop and give vectors of the same length."""
    vectors: Vectors = "float32"
    """How they are stored."""

    def __post_init__(self) -> None:
        if self.kind not in ("scene", "frames"):
            raise ValueError(f"kind must be scene or frames, got {self.kind!r}")
        if self.vectors not in ("float32", "float16"):
            raise ValueError(f"vectors must be float32 or float16, got {self.vectors!r}")
        if len({readout.layer for readout in self.readouts}) != len(self.readouts) or not self.readouts:
            raise ValueError(f"each layer once, got {[readout.layer for readout in self.readouts]}")

    def width(self, config: EncoderConfig) -> int:
        """Length of a vector.

        Raises:
            ValueError: a layer that the model does not have, or layers whose vectors differ in length.
        """
        for readout in self.readouts:
            if isinstance(readout.layer, int) and readout.layer > config.model.depth:
                raise ValueError(f"layers are counted from 1 to {config.model.depth}, got {readout.layer}")
        width = scene_width if self.kind == "scene" else step_width
        widths = {width(config, readout) for readout in self.readouts}
        if len(widths) > 1:
            raise ValueError("layer all gives longer vectors than the others: ask for it by itself")
        return widths.pop()

    def layers(self, depth: int) -> list[int]:
        """The encoder's layers that all this takes, of ``depth``."""
        return sorted({layer for readout in self.readouts for layer in readout.layers(depth)})

    def to_dict(self) -> dict[str, Any]:
        """Plain data, to be compared and stored as JSON."""
        return {
            "kind": self.kind,
            "vectors": self.vectors,
            "layers": [str(readout.layer) for readout in self.readouts],
            "readouts": {str(readout.layer): asdict(readout) for readout in self.readouts},
        }


@dataclass(frozen=True)
class Embedded:
    """One clip's embeddings."""

    path: str
    """As text: bytes that are not UTF-8 are spelt out."""
    segment: int
    start_ms: float
    end_ms: float
    vectors: np.ndarray
    """(readouts, steps, E): a scene has one step."""
    times_ms: np.ndarray
    """(steps,) centres, counted from the start of the file."""
    stretch: bool = False
    """Whether a start or an end was asked for, also where that is the file's own."""


def make_schema(wanted: EmbeddingSpec, width: int, metadata: dict[str, str] | None = None) -> "pa.Schema":
    """The columns: a scene's stretch of its file, or a step's centre; ``vector`` is a fixed-size list."""
    import pyarrow as pa

    vector = pa.list_(pa.float32() if wanted.vectors == "float32" else pa.float16(), width)
    place = [("start_ms", pa.float64()), ("end_ms", pa.float64())] if wanted.kind == "scene" else []
    time = [("time_ms", pa.float64())] if wanted.kind == "frames" else []
    columns = [
        ("path", pa.string()),
        ("segment", pa.int64()),
        *place,
        ("layer", pa.string()),
        *time,
    ]
    return pa.schema([*columns, ("vector", vector)], metadata=metadata)


def make_table(clips: Sequence[Embedded], wanted: EmbeddingSpec, schema: "pa.Schema") -> "pa.Table":
    """Rows in the order of the clips; a clip's rows by readout, then time."""
    import pyarrow as pa

    layers = [str(readout.layer) for readout in wanted.readouts]
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
    arrays = [pa.array(columns[field.name], field.type) for field in schema if field.name != "vector"]
    vectors = np.concatenate([clip.vectors.reshape(-1, clip.vectors.shape[2]) for clip in clips])
    stored = vectors.astype(np.dtype(wanted.vectors), copy=False)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(stored.ravel()), stored.shape[1])
    return pa.table([*arrays, flat], schema=schema)
