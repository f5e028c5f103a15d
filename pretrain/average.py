"""``python -m pretrain.average CHECKPOINT... -o FOLDER``: the mean of the weights of several checkpoints.

Runs that began with the same weights can be averaged, also when they learned different things, and the mean is often
better than each of them: "Model soups", arXiv 2203.05482. The weights that they began with may be one of them.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from maeast_upstream import checkpoint
from maeast_upstream.arguments import Parser
from maeast_upstream.cli import ExitStatus, run
from maeast_upstream.config import EncoderConfig, Provenance
from maeast_upstream.storage.atomic import refuse_to_overwrite

if TYPE_CHECKING:  # imported when it is needed, so that --help does not import torch
    from torch import Tensor


def main(argv: Sequence[str]) -> int:
    """Average the weights of checkpoints that began with the same one.

    Returns:
        The exit status, 0.

    Raises:
        ValueError: A checkpoint cannot be read or is of another kind than the first one, or the output exists already.
    """
    args = _parse(argv)
    refuse_to_overwrite(args.out, args.force)
    if args.out.exists() and not (args.out / checkpoint.CONFIG_NAME).is_file():
        raise ValueError(f"{args.out}: exists and is no checkpoint folder; give another name")
    config, state = average(args.checkpoints)
    import torch

    checkpoint.save_state(args.out, state, config, torch.float16 if args.half else torch.float32)
    print(f"wrote {args.out}, the mean of {len(args.checkpoints)} checkpoints: try maeast embed AUDIO --checkpoint "
          f"{args.out}")  # fmt: skip
    return ExitStatus.DONE


def average(names: Sequence[str]) -> tuple[EncoderConfig, dict[str, "Tensor"]]:
    """Average the weights of checkpoints.

    Args:
        names: Names, paths, runs or hub ids.

    Returns:
        The first one's config, whose provenance names them all and adds their steps up; and float32 weights.

    Raises:
        ValueError: There are fewer than two, one cannot be read, or its network, front end or normalisation differs
            from those of the first one.
    """
    if len(names) < 2:
        raise ValueError(f"a mean needs at least two checkpoints, got {len(names)}")
    first = checkpoint.read(checkpoint.resolve(names[0]))
    provenances = [first.config.provenance]
    total = {name: value.double() for name, value in first.state.items()}
    for name in names[1:]:
        other = checkpoint.read(checkpoint.resolve(name))
        for part in ("model", "frontend", "normalisation"):
            ours, theirs = getattr(first.config, part), getattr(other.config, part)
            if ours != theirs:
                raise ValueError(f"{name} has another {part} than {names[0]}, {theirs} instead of {ours}: give "
                                 "checkpoints that began with the same weights")  # fmt: skip
        if other.state.keys() != total.keys():
            raise ValueError(f"{name} and {names[0]} do not hold the same weights, of which one has a decoder")
        provenances.append(other.config.provenance)
        for key, value in other.state.items():
            total[key] += value
    state = {name: (value / len(names)).float() for name, value in total.items()}
    return replace(first.config, provenance=_provenance(names, provenances)), state


def _provenance(names: Sequence[str], averaged: Sequence[Provenance]) -> Provenance:
    return Provenance(
        data="; ".join(dict.fromkeys(each.data for each in averaged if each.data)),
        steps=sum(each.steps for each in averaged),
        package=checkpoint.package_version(),
        parents=list(names),
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m pretrain.average",
        description=f"{(main.__doc__ or '').splitlines()[0]} Only the mean of weights that have a beginning in common "
        "is of use.",
    )
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="a name, path, run or hub id")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FOLDER", help="where the mean is written")
    parser.add_argument("--half", action="store_true", help="store float16 weights")
    parser.add_argument("--force", action="store_true", help="replace FOLDER if it exists")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(run(main, sys.argv[1:]))
