"""A classifier of clips: what it computes from their embeddings, and its folder."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from maeast_upstream.checks import check_number, check_plain, quote
from maeast_upstream.classification.folder import CheckpointSource, read_classifier, write_classifier
from maeast_upstream.classification.standardize import MAX_STANDARD_DEVIATIONS
from maeast_upstream.readout import Readout

if TYPE_CHECKING:  # imported where they are needed: a classifier loads without torch
    from maeast_upstream.data.tables import ColumnNames
    from maeast_upstream.data.windows import Windows
    from maeast_upstream.encoder import Encoder

KIND = "clips"
"""What classifier.json calls the kind; the other one is ``events``."""
MAX_LABEL_CHARACTERS = 1000
MAX_LOGIT = 1e30
"""Far above all that are fitted; divided by any temperature it is finite in float32."""
ARRAYS = ("mean", "scale", "weight", "bias")


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """A linear classifier of scene embeddings: one label per clip, or with ``multi_label`` any number of them.

    A vector v gets the logits ``weight @ clip((v - mean) / scale) + bias``, divided by the temperature; probabilities
    are their softmax, or with ``multi_label`` the sigmoid of each.
    """

    labels: tuple[str, ...]
    """K labels, sorted."""
    multi_label: bool = False
    """Whether a clip has any number of labels, each with a probability of its own."""
    checkpoint: str
    """Name, path or hub id of the encoder that computes the vectors; for a fine-tuned one the folder of its encoder."""
    fingerprint: str
    """SHA-256 of that encoder, see `maeast_upstream.fingerprint`."""
    readout: Readout
    """How a clip's features become a vector."""
    windows: "Windows | None" = None
    """How the labelled clips were cut; None if they were used as a whole."""
    mean: np.ndarray
    """(E,) float32 means of the dimensions on train."""
    scale: np.ndarray
    """(E,) float32 standard deviations of the dimensions on train; 1 where a dimension is constant."""
    weight: np.ndarray
    """(K, E) float32."""
    bias: np.ndarray
    """(K,) float32."""
    temperature: float = 1.0
    """Divides the logits, so that probabilities agree with how often a label is right."""
    thresholds: np.ndarray
    """(K,) probabilities from which a label counts as present."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Counts, scores and versions, as plain data."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        check_labels(self.labels, self.multi_label)
        for name in (*ARRAYS, "thresholds"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float32))
        check_arrays(self)
        check_number("temperature", self.temperature)
        if not 1e-6 <= self.temperature <= 1e6:
            raise ValueError(f"temperature must be above 0, got {quote(self.temperature)}")
        if not isinstance(self.checkpoint, str) or not self.checkpoint.strip():
            raise ValueError(f"checkpoint must be the name of one, got {quote(self.checkpoint)}")
        if not isinstance(self.fingerprint, str) or not re.fullmatch(r"[0-9a-f]{64}", self.fingerprint):
            raise ValueError(f"fingerprint must be 64 hexadecimal digits, got {quote(self.fingerprint)}")
        check_plain("about", self.about, depth=6)

    @property
    def dimensions(self) -> int:
        """E, the length of the vectors."""
        return len(self.mean)

    def probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """Classify (n, E) vectors: (n, K) float32 probabilities, in the order of ``labels``.

        Raises:
            ValueError: The vectors have another length, or hold NaN or infinite values.
        """
        return probabilities_of(self.logits(vectors) / np.float32(self.temperature), self.multi_label)

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """Return the (n, K) float32 logits of (n, E) vectors, before the temperature; errors as `probabilities`."""
        vectors = np.asarray(vectors)  # of torch, too
        if vectors.ndim != 2 or vectors.shape[1] != self.dimensions:
            raise ValueError(
                f"vectors of shape {vectors.shape}; this classifier reads vectors of {self.dimensions} dimensions"
            )
        if not np.isfinite(vectors).all():
            raise ValueError("NaN or infinite values in the vectors")
        # in float64, since the last digits of a product depend on the number of rows, and a row's numbers should not
        x = standardized(vectors, self.mean, self.scale).astype(np.float64)
        logits: np.ndarray = (x @ self.weight.T.astype(np.float64) + self.bias).astype(np.float32)
        return logits

    @classmethod
    def fit(
        cls,
        labels: str | Path,
        *,
        encoder: "Encoder | None" = None,
        checkpoint: str | Path | None = None,
        table: str | Path | None = None,
        layer: str | None = None,
        readout: Readout | None = None,
        windows: "Windows | None" = None,
        multi_label: bool = False,
        balance: bool = False,
        seed: int = 0,
        columns: "ColumnNames" = MappingProxyType({}),
        workers: int = 1,
    ) -> "Classifier":
        """Fit a classifier on labelled clips, as ``maeast fit`` does; its ``about`` holds the scores.

        Args:
            labels: A table with the columns path (relative to its folder) and label, and optionally split and times.
            encoder: Computes the vectors; None to load ``checkpoint``, which names it otherwise.
            checkpoint: The encoder's name, path or hub id, by which the classifier will load it; None for the one in
                the package.
            table: What ``maeast embed`` wrote, to take vectors from in place of embedding the clips.
            layer: Which layer of the table; None for its last.
            readout: How a clip's features become a vector; None for the checkpoint's own.
            windows: How to cut clips, whose windows all get their labels; None for one vector per clip.
            multi_label: Whether a clip has any number of labels, joined by ``;`` or in several rows.
            balance: Whether rare labels get as much weight as frequent ones.
            seed: Of the folds of cross-validation, which chooses the penalty where no clip is in valid.
            columns: What the table calls path, label and split, where it is something else.
            workers: Processes that decode; 0 for a thread.

        Raises:
            ValueError: The table of labels or of embeddings is wrong, no clip can be read, there is one label only, or
                scikit-learn is not installed.
        """
        from maeast_upstream.classification.training import train_on_labels

        trained = train_on_labels(
            labels,
            encoder=encoder,
            checkpoint=checkpoint,
            table=table,
            layer=layer,
            readout=readout,
            windows=windows,
            multi_label=multi_label,
            balance=balance,
            seed=seed,
            columns=columns,
            workers=workers,
        )
        return trained.classifier

    def predict(
        self, inputs: "str | Path | Iterable[str | Path]", encoder: "Encoder | None" = None, **options: Any
    ) -> "Iterator[dict[str, Any]]":
        """Label many files, one after the other; see `maeast_upstream.classification.prediction.predict_files`."""
        from maeast_upstream.classification.prediction import predict_files

        return predict_files(self, inputs, encoder, **options)

    def digest(self) -> str:
        """Return 16 hexadecimal digits that depend on everything that determines the probabilities."""
        settings = [self.labels, self.multi_label, self.fingerprint, self.readout.to_dict(), self.temperature]
        windows = None if self.windows is None else dataclasses.asdict(self.windows)
        digest = hashlib.sha256(json.dumps([*settings, windows]).encode())
        for name in (*ARRAYS, "thresholds"):
            digest.update(getattr(self, name).tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: str | Path) -> None:
        """Write the folder: classifier.json and classifier.safetensors, each whole; earlier ones are replaced.

        Raises:
            ValueError: ``folder`` is a file, or is inside a folder that does not exist.
        """
        folder = Path(folder)
        settings = {
            "labels": list(self.labels),
            "multi_label": self.multi_label,
            "readout": self.readout.to_dict(),
            "windows": None if self.windows is None else dataclasses.asdict(self.windows),
            "temperature": float(self.temperature),
            "thresholds": self.thresholds.tolist(),
            "about": dict(self.about),
        }
        source = CheckpointSource(self.checkpoint, self.fingerprint)
        write_classifier(folder, KIND, settings, source, {name: getattr(self, name) for name in ARRAYS})

    @classmethod
    def load(cls, folder: str | Path) -> "Classifier":
        """Read the folder that `save`, ``maeast fit``, ``probe`` or ``finetune`` wrote.

        Raises:
            ValueError: It is no such folder, is broken, was written by a later version, or classifies events.
        """
        settings, source, arrays = read_classifier(Path(folder), KIND, ARRAYS)
        try:
            return cls(
                labels=listed("labels", settings.pop("labels", None)),
                multi_label=flag("multi_label", settings.pop("multi_label", None)),
                checkpoint=source.checkpoint,
                fingerprint=source.fingerprint,
                readout=readout_of(settings.pop("readout", None)),
                windows=windows_from(settings.pop("windows", None)),
                temperature=settings.pop("temperature", None),
                thresholds=number_list("thresholds", settings.pop("thresholds", None)),
                about=mapped("about", settings.pop("about", None)),
                **arrays,
            )
        except ValueError as error:
            raise ValueError(f"{folder}: not a classifier of this version, or a broken one: {error}") from error


def standardized(vectors: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Standardize (n, E) vectors by (E,) means and scales, and clip them at `MAX_STANDARD_DEVIATIONS`."""
    with np.errstate(over="ignore"):  # infinite values are clipped, too
        x = np.subtract(vectors, mean, dtype=np.result_type(mean.dtype, np.float32))
        x /= scale
    clipped: np.ndarray = np.clip(x, -MAX_STANDARD_DEVIATIONS, MAX_STANDARD_DEVIATIONS, out=x)
    return clipped


def probabilities_of(logits: np.ndarray, multi_label: bool) -> np.ndarray:
    """(n, K) logits -> (n, K) probabilities: the softmax of each row, or the sigmoid of each value."""
    if multi_label:
        result: np.ndarray = np.exp(-np.logaddexp(0.0, -logits))
        return result
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: np.ndarray = exponents / exponents.sum(axis=1, keepdims=True)
    return shares


def check_labels(labels: tuple[Any, ...], multi_label: bool) -> None:
    """Raise ValueError unless labels are different texts, and at least two (multi-label: one)."""
    for label in labels:
        if not isinstance(label, str) or not label.strip() or len(label) > MAX_LABEL_CHARACTERS:
            raise ValueError(f"a label must be text of at most {MAX_LABEL_CHARACTERS} characters, got {quote(label)}")
        if "\0" in label or any("\ud800" <= character <= "\udfff" for character in label):
            raise ValueError(f"a label must be text in UTF-8, got {quote(label)}")
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ValueError(f"the label {quote(twice)} occurs twice")
    if len(labels) < (1 if multi_label else 2):
        raise ValueError(f"{len(labels)} labels; a classifier needs at least {1 if multi_label else 2}")


def check_arrays(classifier: Classifier) -> None:
    """Raise ValueError unless the arrays have the right shapes, and finite and possible values."""
    classes, dimensions = len(classifier.labels), classifier.mean.size
    shapes = {"mean": (dimensions,), "scale": (dimensions,), "weight": (classes, dimensions), "bias": (classes,)}
    for name, shape in {**shapes, "thresholds": (classes,)}.items():
        array = getattr(classifier, name)
        if array.shape != shape or not dimensions:
            raise ValueError(f"{name} has shape {array.shape}; {classes} labels and the mean expect {shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds NaN or infinite values")
    if not (classifier.scale > 0).all():
        raise ValueError("scale holds values that are not above 0")
    # the largest logits that vectors can get, see `Classifier`
    largest = MAX_STANDARD_DEVIATIONS * np.abs(classifier.weight).sum(axis=1, dtype=np.float64)
    if not (largest + np.abs(classifier.bias) < MAX_LOGIT).all():
        raise ValueError(f"weight and bias must give logits below {MAX_LOGIT:g}, which they may not")
    if not ((classifier.thresholds >= 0) & (classifier.thresholds <= 1)).all():
        raise ValueError("thresholds must be from 0 to 1")


def readout_of(value: Any) -> Readout:
    """Return the readout of a JSON value, in which ``dims`` may be missing; ValueError for anything else."""
    later = {"dims": None, "whiten": False}
    return Readout(**mapped("readout", later | value if isinstance(value, dict) else value, Readout))


def windows_from(value: Any) -> "Windows | None":
    """Return the windows of a JSON value, None for null; ValueError for anything else."""
    if value is None:
        return None
    from maeast_upstream.data.windows import Windows

    return Windows(**mapped("windows", value, Windows))


def mapped(name: str, value: Any, kind: Any = None) -> dict[str, Any]:
    """Return a JSON object, of a dataclass the right fields; ValueError for anything else."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object, got {quote(value)}")
    expected = set(value) if kind is None else {each.name for each in dataclasses.fields(kind)}
    if wrong := sorted(expected ^ set(value)):
        raise ValueError(f"{name}.{quote(wrong[0])[1:-1]} is {'missing' if wrong[0] in expected else 'unknown'}")
    return value


def listed(name: str, value: Any) -> tuple[Any, ...]:
    """Return a JSON list; ValueError for anything else."""
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list, got {quote(value)}")
    return tuple(value)


def number_list(name: str, value: Any) -> np.ndarray:
    """Return a JSON list of numbers; ValueError for anything else."""
    for number in listed(name, value):
        check_number(name, number)
    with np.errstate(over="ignore"):  # infinite values are refused with the others
        return np.array(value, np.float32)


def flag(name: str, value: Any) -> bool:
    """Return true or false; ValueError for anything else."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {quote(value)}")
    return value
