"""Tables of embeddings for the tests of ``maeast map``."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def write_table(path: Path, paths, vectors: np.ndarray, dtype=np.float32, **columns) -> Path:
    """A table as ``maeast embed`` writes it, with more columns where they are given."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(dtype).ravel()), vectors.shape[1])
    pq.write_table(pa.table({"path": [str(p) for p in paths], **columns, "vector": values}), path)
    return path
