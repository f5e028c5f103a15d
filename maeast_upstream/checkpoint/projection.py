"""The projection that a checkpoint may store for one readout: a whitening, principal components, or both; no torch.

The components are those of the readout's scene embeddings, whitened if there is a whitening (see `whitening`).

Each number of a vector is divided by its standard deviation first, because some vary fifty times as much as others
(bundled checkpoint) and would otherwise take most components. The vectors are not centred, as in `Reduction`.

``projection.safetensors`` holds K components, the one that holds most of the vectors first, so that the first N of them
are a projection, too: (K, C) int8 with a float32 scale per row, and the (C,) float32 weights of the numbers. The arrays
of a whitening are float32, and their names begin with ``whitening.``.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from maeast_upstream.checkpoint.layout import CONFIG_NAME, check_header
from maeast_upstream.checkpoint.whitening import ARRAYS, LEAST_DEVIATION, MAX_WEIGHT, Whitening
from maeast_upstream.checks import quote
from maeast_upstream.config import EncoderConfig, read_section, scene_width
from maeast_upstream.data.reduction import MAX_WIDTH, leading_components, moments
from maeast_upstream.messages import shortened
from maeast_upstream.readout import MAX_DIMS, Readout, describe
from maeast_upstream.storage.atomic import replacing

PROJECTION_NAME = "projection.safetensors"
TYPES = {"components": "I8", "scales": "F32", "weights": "F32"}
"""Type of each tensor of components, as safetensors calls it."""
WHITENING = "whitening."
WHITENING_TYPES = {f"{WHITENING}{name}": "F32" for name in ARRAYS}
"""Type of each tensor of a whitening."""
READOUT_KEY = "readout"
"""Key of the file's metadata for the readout, as JSON."""
LENGTHS = (0.9, 1.1)
"""Limits of the components' lengths, which are 1 before they are rounded."""


@dataclass(frozen=True, eq=False)
class Projection:
    """Whitens scene embeddings of one readout, or shortens them by weights and principal components, or both."""

    readout: Readout
    """The readout that it was fitted for, whose dims is None; it whitens if there is a whitening."""
    components: np.ndarray
    """(K, C) int8, the one that holds most of the vectors first; K may be 0 beside a whitening."""
    scales: np.ndarray
    """(K,) float32, by which the rows of the components are multiplied."""
    weights: np.ndarray
    """(C,) float32, by which the numbers of a vector are multiplied: a constant / their standard deviation, or 0."""
    whitening: Whitening | None = None
    """What the vectors are whitened by before anything else."""

    @classmethod
    def whitening_only(cls, whitening: Whitening, readout: Readout) -> "Projection":
        """Return one without components.

        Args:
            whitening: Fitted on vectors of the readout.
            readout: The readout, with or without its `whiten`.
        """
        none = np.zeros((0, whitening.width), np.int8)
        own = replace(readout.full, whiten=True)
        return cls(own, none, np.zeros(0, np.float32), np.ones(whitening.width, np.float32), whitening)

    @property
    def shape(self) -> tuple[int, int]:
        """K, the most numbers that it gives, and C, the length of the vectors."""
        return self.components.shape[0], self.components.shape[1]

    @property
    def rows(self) -> np.ndarray:
        """The components with the weights, (K, C) float32: the matrix that vectors are multiplied by."""
        rows: np.ndarray = self.components * self.scales[:, None] * self.weights
        return rows

    @cached_property
    def digest(self) -> str:
        """SHA-256 of its numbers and of its readout."""
        digest = hashlib.sha256(json.dumps(self.readout.to_dict(), sort_keys=True).encode())
        for array in self._arrays().values():
            digest.update(array.tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write the file in a checkpoint folder; it appears when it is whole, and replaces an earlier one."""
        from safetensors.numpy import save

        metadata = {READOUT_KEY: json.dumps(self.readout.to_dict())}
        with replacing(folder / PROJECTION_NAME) as part:
            part.write_bytes(save(self._arrays(), metadata))

    def check(self, config: EncoderConfig) -> None:
        """Raise ValueError unless this can be the projection of a checkpoint, whatever program wrote it."""
        (rows, width), layer, whitening = self.shape, self.readout.layer, self.whitening
        if self.readout.dims is not None or (isinstance(layer, int) and layer > config.model.depth):
            raise ValueError(f"its readout is {describe(self.readout)}; expected one of the model, without dims")
        expected = scene_width(config, self.readout)
        if self.readout.whiten != (whitening is not None):
            raise ValueError(f"its readout is {describe(self.readout)}, which its arrays do not fit")
        if whitening is not None:
            whitening.check(expected, config.model.embed_dim)
        if width != expected or not (whitening is None) <= rows <= min(MAX_DIMS, width) or width > MAX_WIDTH:
            most = min(MAX_DIMS, expected)
            raise ValueError(f"components of shape {rows}x{width}; expected 1 to {most} of length {expected}")
        if self.scales.shape != (rows,):
            raise ValueError(f"scales of shape {self.scales.shape}; expected one for each of {rows} components")
        if self.weights.shape != (width,) or not ((self.weights >= 0) & (self.weights <= MAX_WEIGHT)).all():
            raise ValueError(f"weights that are not {width} numbers from 0 to {MAX_WEIGHT:g}")
        lengths = np.abs(self.scales.astype(np.float64)) * np.linalg.norm(self.components.astype(np.float32), axis=1)
        if not ((lengths >= LENGTHS[0]) & (lengths <= LENGTHS[1])).all():
            raise ValueError("components that are not of length 1, or NaN")

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {"components": self.components, "scales": self.scales, "weights": self.weights}
        if self.whitening is not None:
            arrays |= {WHITENING + name: getattr(self.whitening, name) for name in ARRAYS}
        return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def read_projection(folder: Path, config: EncoderConfig) -> Projection | None:
    """Read the projection of a checkpoint folder, if there is one, and check that the checkpoint's readout can use it.

    Raises:
        ValueError: The file is broken or of another network, or the readout of ``config`` has dims that it cannot give.
    """
    path = folder / PROJECTION_NAME
    projection = None
    try:
        if path.exists():
            projection = _read(path)
            projection.check(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    try:
        check_projected(config.readout, projection)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG_NAME}: readout: {error}") from error
    return projection


def _read(path: Path) -> Projection:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError("a folder, pipe or device; expected a file")
    try:
        check_header(path)
        with safe_open(path, "numpy") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            found = {name: part.get_dtype() for name, part in parts.items()}
            if found not in (TYPES, TYPES | WHITENING_TYPES):
                raise ValueError(f"tensors {quote(found)}; expected {TYPES}: fit it again with maeast project")
            shape = parts["components"].get_shape()
            largest = max((np.prod(part.get_shape(), dtype=float) for part in parts.values()), default=0)
            if len(shape) != 2 or largest > MAX_DIMS * MAX_WIDTH:  # before it is read
                raise ValueError(f"components of shape {quote(shape)}, which no projection has")
            readout = json.loads((file.metadata() or {}).get(READOUT_KEY, "null"))
            arrays = {name: file.get_tensor(name) for name in TYPES}
            white = {name: file.get_tensor(name) for name in WHITENING_TYPES if name in parts}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"not a safetensors file, or a broken one ({shortened(error)})") from error
    except RecursionError as error:
        raise ValueError("its readout is not plain data") from error
    whitening = Whitening(**{name.removeprefix(WHITENING): array for name, array in white.items()}) if white else None
    return Projection(read_section(Readout, readout, "readout"), **arrays, whitening=whitening)


def check_projected(readout: Readout, projection: Projection | None) -> None:
    """Raise ValueError if a readout needs a projection that a checkpoint with this one, or none, does not have."""
    if not readout.projected:
        return
    dims = readout.dims
    option = "whiten" if dims is None else "dims"
    wanted = option if dims is None else f"dims {dims}"
    if projection is None or (dims is None and projection.whitening is None):
        kind = "whitening" if dims is None else "projection"
        fit = "maeast project --whiten" if dims is None else "maeast project"
        raise ValueError(f"{wanted}: the checkpoint stores no {kind}; leave {option} out, or fit one with {fit}")
    own = replace(readout, dims=None)
    if own != projection.readout:
        raise ValueError(
            f"{wanted} of {describe(own)}: the checkpoint's projection was fitted for "
            f"{describe(projection.readout)}; leave {option} out, or fit another one with maeast project"
        )
    if dims is not None and not projection.shape[0]:
        raise ValueError(f"{wanted}: the checkpoint stores a whitening only; fit components with maeast project")
    if dims is not None and dims > projection.shape[0]:
        raise ValueError(f"dims must be at most {projection.shape[0]}, which the projection has, got {dims}")


def fit_projection(
    blocks: Iterable[np.ndarray], readout: Readout, dims: int, whitening: Whitening | None = None
) -> tuple[Projection, np.ndarray]:
    """Fit a projection on vectors that are read once, in memory of C x C whatever their number.

    Args:
        blocks: (n, C) scene embeddings, of the same length in every block; more than ``dims`` in all.
        readout: What they were read by.
        dims: K, the number of components.
        whitening: What they were whitened by, if the readout whitens.

    Returns:
        The projection, and the share of the weighted vectors' squared length that the first 1, 2, ... K hold, (K,).

    Raises:
        ValueError: There are too few vectors, or they lie in too few directions.
    """
    sums = moments(blocks)
    sizes = np.sqrt(sums.products.diagonal() / sums.count)
    varies = sums.deviations > LEAST_DEVIATION * sizes
    overall = np.sqrt(np.square(sums.deviations).mean())  # so that short vectors are about as long as full ones
    weights = np.divide(overall, sums.deviations, where=varies, out=np.zeros_like(sizes)).clip(max=MAX_WEIGHT)
    weights = weights.astype(np.float32)
    components, values = leading_components(sums.products * weights * weights[:, None], dims)
    directions = int((values > values[0] * len(values) * np.finfo(np.float64).eps).sum()) if values[0] > 0 else 0
    if directions < dims:
        raise ValueError(f"the vectors lie in {directions} directions only; expected at least {dims}")
    scales = (np.abs(components).max(axis=1) / 127).astype(np.float32)
    rounded = np.rint(components / scales[:, None]).clip(-127, 127).astype(np.int8)
    own = replace(readout, dims=None)
    return Projection(own, rounded, scales, weights, whitening), values[:dims].cumsum() / values.clip(0).sum()
