"""Projections of small encoders, fitted on random vectors."""

import numpy as np

from maeast_upstream.checkpoint import Projection, fit_projection, fit_whitening
from maeast_upstream.config import scene_width
from maeast_upstream.readout import Readout


def random_vectors(width, rows=100, seed=0):
    """(rows, width) float32 around a mean, with less variance from number to number."""
    generator = np.random.default_rng(seed)
    spread = 1 / (1 + np.arange(width))
    return (generator.normal(size=(rows, width)) * spread + generator.normal(size=width)).astype(np.float32)


def projection_of(config, readout=None, dims=20, seed=0):
    readout = readout or Readout()
    vectors = random_vectors(scene_width(config, readout), seed=seed)
    return fit_projection([vectors], readout, dims)[0]


def whitening_of(config, readout=None, seed=0):
    """A projection that only whitens."""
    readout = readout or Readout()
    vectors = random_vectors(scene_width(config, readout), seed=seed)
    return Projection.whitening_only(fit_whitening([vectors], config.model.embed_dim), readout)
