"""Reads a recipe and overrides from the command line, then trains."""

import logging
import sys
from collections.abc import Sequence

from pretrain.config import Recipe


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 trained to the end or stopped by Ctrl-C, 1 wrong usage."""
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog="python -m pretrain",
        description="Pretrain an encoder on your own audio.",
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="a recipe, see configs/")
    parser.add_class_arguments(Recipe, as_group=False)
    try:
        parsed = parser.instantiate_classes(parser.parse_args(argv))
    except Exception as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    settings = {k: v for k, v in vars(parsed).items() if k != "config"}
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    from pretrain.trainer import Trainer

    try:
        Trainer(Recipe(**settings)).train()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
