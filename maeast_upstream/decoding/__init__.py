"""Decodes audio ahead of the model, in other processes."""

from maeast_upstream.decoding.pool import DecodePool

__all__ = ["DecodePool"]
