"""Small tables of made-up embeddings."""

import numpy as np

from maeast_upstream.extract.table import Embedded, EmbeddingSpec, make_schema, make_table
from maeast_upstream.readout import Readout

WANTED = EmbeddingSpec(readouts=(Readout(layer=1), Readout(layer=2)))
SCHEMA = make_schema(WANTED, 3, {"maeast": "{}"})


def table(name, value=0.0):
    """Two rows, one a layer."""
    vectors = np.full((2, 1, 3), value, np.float32)
    return make_table([Embedded(name, 0, 0.0, 1000.0, vectors, np.zeros(1))], WANTED, SCHEMA)
