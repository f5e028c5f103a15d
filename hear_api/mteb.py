"""A model for MTEB: ``python -m hear_api.mteb BeijingOpera``, or ``mteb.evaluate(MaeAstEncoder(), tasks)``."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maeast_upstream import __version__, load_model
from maeast_upstream.arguments import Parser, add_model_options
from maeast_upstream.audio.reading import from_samples
from maeast_upstream.fingerprint import results_key
from maeast_upstream.messages import install_extra

try:
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder
except ImportError as error:
    message = f"MTEB cannot be imported ({error}): {install_extra('mteb')}"
    if __name__ == "__main__":
        sys.exit(f"error: {message}")
    raise ImportError(message, name=error.name) from error

METADATA: dict[str, Any] = {
    "loader": None,
    "release_date": None,
    "languages": None,
    "memory_usage_mb": None,
    "max_tokens": None,
    "license": None,
    "open_weights": True,
    "public_training_code": None,
    "public_training_data": None,
    "framework": ["PyTorch"],
    "similarity_fn_name": "cosine",
    "use_instructions": False,
    "training_datasets": None,
    "modalities": ["audio"],
}
"""Metadata that MTEB requires and that do not depend on the checkpoint."""


class MaeAstEncoder(AbsEncoder):  # type: ignore[misc]
    """Gives scene embeddings to MTEB's tasks."""

    def __init__(
        self,
        model_name: str | None = None,
        revision: str | None = None,
        *,
        device: str | None = None,
        precision: Any = None,
    ) -> None:
        """Load a model.

        Args:
            model_name: a checkpoint as for `maeast_upstream.load_model`; None for the bundled one.
            revision: ignored; MTEB stores results under a digest of the weights, the readout and the precision.
            device: None for CUDA if it is available, otherwise the CPU.
            precision: fp32, bf16 or fp16.
        """
        self.model = load_model(model_name, device or "auto", precision)
        digest = results_key(self.model, precision=self.model.precision)
        self.mteb_model_meta = ModelMeta(
            name=f"mae-ast/{'bundled' if model_name is None else Path(model_name).stem}",
            revision=f"{__version__}-{digest[:12]}",
            n_parameters=sum(value.numel() for value in self.model.network.parameters()),
            embed_dim=self.model.embed([torch.zeros(1)]).shape[1],
            **METADATA,
        )

    def encode(self, inputs: Any, **_: Any) -> Tensor:
        """Embed the clips of a DataLoader.

        Args:
            inputs: batches with a list of dictionaries under "audio": ``array``, (samples,) or (channels, samples),
                and its ``sampling_rate``.

        Returns:
            (clips, dimensions) float32 on the CPU.
        """
        return torch.cat([self.model.embed([waveform(item) for item in batch["audio"]]).cpu() for batch in inputs])


def waveform(item: Any) -> Tensor:
    """Convert one of MTEB's recordings to (S,) mono samples at 16 kHz."""
    samples = np.asarray(item["array"], dtype=np.float32)
    return torch.from_numpy(from_samples(samples.T if samples.ndim == 2 else samples, int(item["sampling_rate"])))


def main(argv: Sequence[str] | None = None) -> int:
    """Score a checkpoint on MTEB's audio tasks."""
    import mteb

    parser = Parser(prog="python -m hear_api.mteb", description=main.__doc__)
    parser.add_argument("tasks", nargs="+", help="names of MTEB's tasks, such as BeijingOpera")
    add_model_options(parser)
    args = parser.parse_args(argv)
    try:
        tasks = mteb.get_tasks(tasks=args.tasks)
    except KeyError as error:
        raise ValueError(f"MTEB's tasks: {str(error.args[0]).removeprefix('KeyError: ')}") from error
    model = MaeAstEncoder(args.checkpoint, device=args.device, precision=args.precision)
    for result in mteb.evaluate(model, tasks).task_results:
        print(f"{result.task_name}  {100 * result.get_score():.1f}")
    return 0


if __name__ == "__main__":
    from maeast_upstream.cli import run

    raise SystemExit(run(main))
