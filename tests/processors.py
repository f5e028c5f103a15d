"""What is known of processors on which float32 products round otherwise in a batch of another size."""

from maeast_upstream.engines.timing import processor

HAS_AMX = "amx_int8" in processor()
"""Seen on an Intel Xeon (family 6, model 207); on AMD EPYC (family 25, model 17) the tests of equal bits pass."""
