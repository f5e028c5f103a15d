"""Small tables of artificial embeddings."""

import numpy as np

from maeast_upstream.extract.table import Embedded, EmbeddingSpec, make_schema, make_table
from maeast_upstream.readout import Readout

SPEC = EmbeddingSpec(readouts=(Readout(layer=1), Readout(layer=2)))
SCHEMA = make_schema(SPEC, 3, {"maeast": "{}"})


def table(name, value=0.0):
    """Return a table of two rows, one per layer."""
    vectors = np.full((2, 1, 3), value, np.float32)
    return make_table([Embedded(name, 0, 0.0, 1000.0, vectors, np.zeros(1))], SPEC, SCHEMA)
