"""Inference engines that run the transformer: torch, OpenVINO and ONNX Runtime."""

from typing import TYPE_CHECKING

from maeast_upstream.lazy import lazily

if TYPE_CHECKING:
    from maeast_upstream.engines.names import Choice
    from maeast_upstream.engines.selection import attach

__all__ = ["Choice", "attach"]
__getattr__ = lazily(__name__, {"Choice": "names:Choice", "attach": "selection:attach"})
