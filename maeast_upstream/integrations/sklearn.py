"""An encoder as a transformer of scikit-learn: ``make_pipeline(MaeAstVectorizer(), LogisticRegression())``."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.config import scene_width
from maeast_upstream.encoder import Encoder, Precision, load_model
from maeast_upstream.extract.api import clip_of
from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.messages import install_extra
from maeast_upstream.readout import Readout, checked_readout

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
except ImportError as error:
    raise ImportError(
        f"scikit-learn cannot be imported ({error}): {install_extra('probe')}", name=error.name
    ) from error

BLOCK_SECONDS = 600.0
"""Audio in memory at once (40 MB), from which the encoder forms batches of clips of similar length."""
EXPECTED = "expected one recording per row: paths, mappings or samples, in a list, a column or a (clips, samples) array"


class MaeAstVectorizer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turns recordings into scene embeddings; it learns nothing from the data.

    A pickle of it, or of a pipeline that holds it, names the checkpoint and has none of its weights.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        readout: Readout | None = None,
        sample_rate: float | None = None,
        device: str | None = None,
        precision: Precision | None = None,
    ) -> None:
        """Keep the settings; the checkpoint is loaded when it is first needed.

        Args:
            checkpoint: As for `load_model`; None for the one in the package.
            readout: Layers, mel axis, pooling, hop and dims; None for the checkpoint's own.
            sample_rate: Of samples that come without a rate; None for 16 kHz. Files say their own.
            device: As for `load_model`.
            precision: As for `load_model`.
        """
        self.checkpoint = checkpoint
        self.readout = readout
        self.sample_rate = sample_rate
        self.device = device
        self.precision = precision

    def fit(self, X: Any = None, y: Any = None) -> "MaeAstVectorizer":
        """Load the checkpoint; nothing else is done, and X is not read.

        Raises:
            ValueError: There is no such checkpoint or device, or the checkpoint has no such readout.
        """
        self._encoder().check_readout(self._readout())
        return self

    @torch.no_grad()
    def transform(self, X: Any) -> np.ndarray:
        """Embed recordings.

        Args:
            X: One recording per row, see `clip_of`: paths, mappings with array and sampling_rate, or samples; in a
                list, a column of a data frame, or a (clips, samples) array.

        Returns:
            (rows, E) float32.

        Raises:
            ValueError: A row cannot be read, or it cannot be meant as audio; one line names the row.
        """
        encoder, readout = self.fit()._encoder(), self._readout()
        rows = [np.zeros((0, scene_width(encoder.config, readout)), np.float32)]
        for clips in _blocks(clip_of(item, f"row {row}", self.sample_rate) for row, item in enumerate(_rows(X))):
            rows.append(encoder.embed_readouts(clips, [readout])[0].cpu().numpy())
        return np.concatenate(rows)

    @property
    def _n_features_out(self) -> int:
        """E, from which scikit-learn makes `get_feature_names_out`."""
        return scene_width(self._encoder().config, self._readout())

    def _readout(self) -> Readout:
        return checked_readout(self.readout, self._encoder().config.readout)

    def _encoder(self) -> Encoder:
        """Return the encoder of the present settings."""
        settings = (self.checkpoint, self.device, self.precision)
        if getattr(self, "_loaded", (None, None))[0] != settings:
            self._loaded = settings, load_model(*settings)
        encoder: Encoder = self._loaded[1]
        return encoder

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_loaded"}

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _rows(X: Any) -> Sequence[Any]:
    """Return the recordings of a list, a column or an array, or raise ValueError."""
    if isinstance(X, str | Path | dict) or not (hasattr(X, "__len__") or hasattr(X, "__array__")):
        raise ValueError(f"{EXPECTED}; got {type(X).__name__}: give a list of them")
    if isinstance(X, list | tuple):
        return X
    if isinstance(X, Tensor):
        X = X.detach().cpu()
    array = np.asarray(X)
    if array.dtype.kind in "OUT" and array.ndim == 2 and array.shape[1] == 1:  # a data frame of one column
        array = array[:, 0]
    if array.ndim != (1 if array.dtype.kind in "OUT" else 2):
        raise ValueError(f"{EXPECTED}; got {array.dtype} of shape {array.shape}")
    return list(array)


def _blocks(clips: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield clips in lists of BLOCK_SECONDS, or of one longer clip."""
    block: list[Tensor] = []
    for clip in clips:
        block.append(clip)
        if sum(map(len, block)) >= BLOCK_SECONDS * SAMPLE_RATE:
            yield block
            block = []
    if block:
        yield block
