"""``maeast info``: shows what a checkpoint is, and its model card if it has one."""

from collections.abc import Sequence

from maeast_upstream.arguments import Parser
from maeast_upstream.cli import ExitStatus
from maeast_upstream.messages import counted


def main(argv: Sequence[str]) -> int:
    """Show a checkpoint's sizes, front end, readout, provenance and model card."""
    args = build_parser().parse_args(argv)
    from maeast_upstream import checkpoint
    from maeast_upstream.checkpoint.card import read_card
    from maeast_upstream.checkpoint.layout import CARD_NAMES, encoder_size
    from maeast_upstream.checks import printable
    from maeast_upstream.readout import describe
    from maeast_upstream.storage.text import read_text

    path = checkpoint.resolve(args.checkpoint)
    loaded = checkpoint.read(path)
    model = loaded.config.model
    sizes = {name: value.numel() for name, value in loaded.state.items()}
    print(f"checkpoint      {path}")
    print(
        f"parameters      {sum(sizes.values()) / 1e6:.1f} M, of which {encoder_size(sizes) / 1e6:.1f} M in the encoder"
    )
    print(
        f"tokens          {model.patch_frames} frames x {model.patch_mels} mels; {model.mel_patches} for each time step"
    )
    print(f"time steps      every {10 * model.patch_frames} ms")
    print(f"features        {counted(model.depth, 'layer')} of {model.mel_patches} x {model.embed_dim}")
    for section, values in loaded.config.to_dict().items():
        line = ", ".join(f"{name} {value}" for name, value in values.items() if value != {})
        print(f"{section:<16}{printable(line)}")
    if loaded.projection is not None:
        rows, width = loaded.projection.shape
        white = "" if loaded.projection.whitening is None else "whitening, "
        print(f"projection      {white}{rows} of {width} dimensions, for {describe(loaded.projection.readout)}")
    for card in [path / name for name in CARD_NAMES if (path / name).is_file()][:1]:
        _, body = read_card(read_text(card))
        print("\n" + "\n".join(map(printable, body.strip().splitlines())))
    return ExitStatus.DONE


def build_parser() -> Parser:
    """Build the parser of the command's options."""
    parser = Parser(prog="maeast info", description=main.__doc__)
    parser.add_argument("checkpoint", nargs="?", help="name, path or hub id; default: the checkpoint in the package")
    return parser
