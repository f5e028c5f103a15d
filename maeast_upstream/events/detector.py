"""A detector of sound events: what it computes from time steps, and its folder."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maeast_upstream.audio.constants import MAX_HOURS
from maeast_upstream.checks import check_number, check_plain, quote
from maeast_upstream.classification.classifier import (
    check_labels,
    listed,
    mapped,
    probabilities_of,
    readout_of,
    standardized,
)
from maeast_upstream.classification.folder import CheckpointSource, read_classifier, write_classifier
from maeast_upstream.data.labels import NO_NAMES
from maeast_upstream.data.tables import ColumnNames
from maeast_upstream.events.smoothing import Event, Smoothing, find_events
from maeast_upstream.readout import Readout

if TYPE_CHECKING:
    from maeast_upstream.encoder import Encoder

KIND = "events"
"""What classifier.json calls the kind."""
ARRAYS = ("mean", "scale", "weight", "bias")
MAX_OFFSET, MAX_HOP_MS = 1000, 10_000.0


@dataclass(frozen=True, kw_only=True, eq=False)
class EventDetector:
    """Logistic regressions on time steps, one per label, and the smoothing that makes events of their probabilities.

    The logits of step t are the sum over the offsets o of ``weight_o @ clip((step[t + o] - mean) / scale)``, and the
    bias; beyond the ends of a recording its first and last step are repeated.
    """

    labels: tuple[str, ...]
    """K labels, sorted; any number of them may sound at once."""
    checkpoint: str
    """Name, path or hub id of the encoder."""
    fingerprint: str
    """SHA-256 of the encoder, see `maeast_upstream.fingerprint`."""
    readout: Readout
    """How time steps are read."""
    hop_ms: float
    """Distance of time steps."""
    offsets: tuple[int, ...]
    """O neighbours of a time step that count, in time steps."""
    mean: np.ndarray
    """(E,) float32 means of the dimensions on train."""
    scale: np.ndarray
    """(E,) float32 standard deviations of the dimensions on train; 1 where a dimension is constant."""
    weight: np.ndarray
    """(K, O * E) float32."""
    bias: np.ndarray
    """(K,) float32."""
    smoothing: Smoothing
    about: Mapping[str, Any] = field(default_factory=dict)
    """Counts, scores and versions, as plain data."""

    def __post_init__(self) -> None:
        for name in ("labels", "offsets"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_labels(self.labels, multi_label=True)
        check_number("hop_ms", self.hop_ms)
        if not 0 < self.hop_ms <= MAX_HOP_MS:
            raise ValueError(f"hop_ms must be above 0 and at most {MAX_HOP_MS:g}, got {quote(self.hop_ms)}")
        for offset in self.offsets:
            check_number("an offset", offset, whole=True)
        if not self.offsets or max(map(abs, self.offsets)) > MAX_OFFSET or len(set(self.offsets)) < len(self.offsets):
            raise ValueError(f"offsets must be different and at most {MAX_OFFSET}, got {quote(self.offsets)}")
        if not isinstance(self.checkpoint, str) or not self.checkpoint.strip():
            raise ValueError(f"checkpoint must be the name of one, got {quote(self.checkpoint)}")
        if not isinstance(self.fingerprint, str) or not re.fullmatch(r"[0-9a-f]{64}", self.fingerprint):
            raise ValueError(f"fingerprint must be 64 hexadecimal digits, got {quote(self.fingerprint)}")
        check_plain("about", self.about, depth=6)
        self._check_arrays()

    def _check_arrays(self) -> None:
        for name in ARRAYS:
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float32))
        classes, dimensions = len(self.labels), self.mean.size
        width = len(self.offsets) * dimensions
        shapes = {"mean": (dimensions,), "scale": (dimensions,), "weight": (classes, width), "bias": (classes,)}
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array.shape != shape or not dimensions:
                raise ValueError(f"{name} has shape {array.shape}; {classes} labels and the mean expect {shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds NaN or infinite values")
        if not (self.scale > 0).all():
            raise ValueError("scale holds values that are not above 0")

    def digest(self) -> str:
        """Return the SHA-256 of everything that determines its events."""
        settings = [self.labels, self.readout.to_dict(), self.hop_ms, self.offsets, self.fingerprint]
        digest = hashlib.sha256(json.dumps([*settings, dataclasses.asdict(self.smoothing)]).encode())
        for name in ARRAYS:
            digest.update(getattr(self, name).tobytes())
        return digest.hexdigest()

    @property
    def dimensions(self) -> int:
        """E, the length of a time step's vector."""
        return len(self.mean)

    def probabilities(self, steps: np.ndarray) -> np.ndarray:
        """Classify the (T, E) consecutive time steps of a recording: (T, K) float32, in the order of ``labels``.

        Raises:
            ValueError: The vectors have another length.
        """
        if steps.ndim != 2 or steps.shape[1] != self.dimensions:
            raise ValueError(f"time steps of shape {steps.shape}; this detector reads (T, {self.dimensions})")
        logits = np.tile(self.bias, (len(steps), 1))
        if len(steps):
            x = standardized(steps, self.mean, self.scale)
            rows, last = np.arange(len(steps)), len(steps) - 1
            for number, offset in enumerate(self.offsets):
                weight = self.weight[:, number * self.dimensions : (number + 1) * self.dimensions]
                logits += (x @ weight.T)[np.clip(rows + offset, 0, last)]
        return probabilities_of(logits, multi_label=True)

    def events(self, probabilities: np.ndarray, times_ms: np.ndarray, duration_ms: float) -> list[Event]:
        """Find the events in the (T, K) probabilities of a recording's time steps, see `find_events`."""
        return find_events(probabilities, times_ms, self.hop_ms, self.labels, self.smoothing, duration_ms)

    @classmethod
    def fit(
        cls,
        table: str | Path,
        encoder: "Encoder | None" = None,
        *,
        checkpoint: str | Path | None = None,
        readout: Readout | None = None,
        columns: ColumnNames = NO_NAMES,
        workers: int = 1,
        seed: int = 0,
    ) -> "EventDetector":
        """Fit on a table of events, as ``maeast fit`` does.

        Args:
            table: Columns path, label, start_ms, end_ms and, optionally, split; see `read_recordings`.
            encoder: None to load ``checkpoint``.
            checkpoint: Its name, path or hub id, which `predict` will load; None for the one in the package.
            readout: Layer and mel axis of the time steps; None for the checkpoint's. Its hop and pooling do not count.
            columns: What the table calls path, label and split, where it is something else.
            workers: Processes that decode; 0 for a thread.
            seed: Of the draw of time steps, where there are more than fit into memory.

        Raises:
            ValueError: As in `read_recordings`; an event begins behind its recording's end; scikit-learn or sed_eval
                is not installed.
        """
        from maeast_upstream.events.training import train_on_events

        trained = train_on_events(
            table, encoder, checkpoint=checkpoint, readout=readout, columns=columns, workers=workers, seed=seed
        )
        return trained.detector

    def predict(
        self,
        inputs: str | Path | Iterable[str | Path],
        encoder: "Encoder | None" = None,
        *,
        workers: int = 1,
        max_hours: float = MAX_HOURS,
        on_error: Callable[[str, str], None] | None = None,
        on_warning: Callable[[str, str], None] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Find the events of many files, one after the other, in bounded memory: the rows of ``maeast predict``.

        Args:
            inputs: What `embed_files` takes: files, folders, manifests, tars; one or several.
            encoder: The encoder that the detector was fitted with; None to load it.
            workers: Processes that decode; 0 for a thread.
            max_hours: Limit of the audio of a file; a longer one is an input that cannot be read.
            on_error: Called with the name of an input that cannot be read and the reason; None raises instead.
            on_warning: Called with the name of an input and what was noticed about it; None gives an `AudioWarning`.

        Yields:
            path, segment, start_ms, end_ms, label, probability; in each file by onset.

        Raises:
            ValueError: An input does not exist, or (``on_error`` None) cannot be read; the encoder is another one.
        """
        from maeast_upstream.events.detecting import detect

        return detect(self, inputs, encoder, workers, max_hours, on_error, on_warning)

    def save(self, folder: str | Path) -> None:
        """Write the folder: classifier.json and classifier.safetensors, each whole; earlier ones are replaced.

        Raises:
            ValueError: ``folder`` is a file, or is inside a folder that does not exist.
        """
        settings = {
            "labels": list(self.labels),
            "readout": self.readout.to_dict(),
            "hop_ms": float(self.hop_ms),
            "offsets": list(self.offsets),
            "smoothing": dataclasses.asdict(self.smoothing),
            "about": dict(self.about),
        }
        source = CheckpointSource(self.checkpoint, self.fingerprint)
        write_classifier(Path(folder), KIND, settings, source, {name: getattr(self, name) for name in ARRAYS})

    @classmethod
    def load(cls, folder: str | Path) -> "EventDetector":
        """Read the folder that `save` or ``maeast fit`` wrote.

        Raises:
            ValueError: It is no such folder, is broken, was written by a later version, or classifies clips.
        """
        settings, source, arrays = read_classifier(Path(folder), KIND, ARRAYS)
        try:
            return cls(
                labels=listed("labels", settings.get("labels")),
                checkpoint=source.checkpoint,
                fingerprint=source.fingerprint,
                readout=readout_of(settings.get("readout")),
                hop_ms=settings.get("hop_ms"),  # type: ignore[arg-type]  # checked
                offsets=listed("offsets", settings.get("offsets")),
                smoothing=Smoothing(**mapped("smoothing", settings.get("smoothing"), Smoothing)),
                about=mapped("about", settings.get("about")),
                **arrays,
            )
        except ValueError as error:
            raise ValueError(f"{folder}: not a detector of events of this version, or a broken one: {error}") from error
