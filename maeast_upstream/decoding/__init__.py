"""Decodes audio ahead of the model, in other processes."""

from typing import TYPE_CHECKING

from maeast_upstream.lazy import lazily

if TYPE_CHECKING:
    from maeast_upstream.decoding.pool import DecodePool

__all__ = ["DecodePool"]
__getattr__ = lazily(__name__, {"DecodePool": "pool:DecodePool"})
