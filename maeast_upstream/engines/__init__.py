"""Inference engines that run the transformer: torch, OpenVINO and ONNX Runtime."""

from maeast_upstream.engines.selection import Choice, attach

__all__ = ["Choice", "attach"]
