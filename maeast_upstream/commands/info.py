"""``maeast info``: what a checkpoint is, and its model card where it has one."""

import dataclasses
from collections.abc import Sequence

from maeast_upstream import checkpoint
from maeast_upstream.arguments import Parser

CARD_NAME = "MODEL_CARD.md"
"""Beside the weights: data, training, licences, intended use, known weaknesses."""


def main(argv: Sequence[str]) -> int:
    """Show what a checkpoint is: sizes, front end, readout, where it came from, its model card."""
    parser = Parser(prog="maeast info", description=main.__doc__)
    parser.add_argument(
        "checkpoint",
        nargs="?",
        help="name, path or hub id; default: the one in the package",
    )
    args = parser.parse_args(argv)
    path = checkpoint.resolve(args.checkpoint)
    loaded = checkpoint.read(path)
    model = loaded.config.model
    decoder = ("decoder", "reconstruction_head", "classification_head")
    encoder_size = sum(v.numel() for k, v in loaded.state.items() if not k.startswith(decoder))
    size = sum(v.numel() for v in loaded.state.values())
    print(f"checkpoint      {path}")
    print(f"parameters      {size / 1e6:.1f} M, of these {encoder_size / 1e6:.1f} M in the encoder")
    print(
        f"tokens          {model.patch_frames} frames x {model.patch_mels} mels; {model.mel_patches} for each time step"
    )
    print(f"time steps      every {10 * model.patch_frames} ms")
    print(f"features        {model.depth} layers of {model.mel_patches} x {model.embed_dim}")
    for section in dataclasses.fields(loaded.config):
        values = dataclasses.asdict(getattr(loaded.config, section.name))
        print(f"{section.name:<16}" + ", ".join(f"{name} {value}" for name, value in values.items() if value != {}))
    if (path / CARD_NAME).is_file():
        print("\n" + (path / CARD_NAME).read_text(encoding="utf-8").strip())
    return 0
