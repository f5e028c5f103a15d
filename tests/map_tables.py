"""Tables of embeddings and of predictions for the tests of ``maeast map``."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def write_table(path: Path, paths, vectors: np.ndarray, dtype=np.float32, **columns) -> Path:
    """A table as ``maeast embed`` writes it, with more columns where they are given."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(dtype).ravel()), vectors.shape[1])
    pq.write_table(pa.table({"path": [str(p) for p in paths], **columns, "vector": values}), path)
    return path


def write_predictions(path: Path, paths, labels, probability, margin, start_ms=None, end_ms=None, segment=None) -> Path:
    """A table as ``maeast predict`` writes it; by default of whole files of a second."""
    count = len(paths)
    columns = {
        "path": [str(name) for name in paths],
        "segment": pa.array([0] * count if segment is None else segment, pa.int64()),
        "start_ms": pa.array([0.0] * count if start_ms is None else start_ms, pa.float64()),
        "end_ms": pa.array([1000.0] * count if end_ms is None else end_ms, pa.float64()),
        "label": [str(label) for label in labels],
        "probability": pa.array(probability, pa.float32()),
        "margin": pa.array(margin, pa.float32()),
    }
    pq.write_table(pa.table(columns), path)
    return path
