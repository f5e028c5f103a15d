"""Reads a recipe and overrides from the command line, then trains."""

import logging
import re
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from maeast_upstream.config import read_section
from pretrain.config import Recipe

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

PROG = "maeast pretrain"
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Pretrain an encoder on your own audio: --config RECIPE.yaml, any setting overridden as --optim.steps 1000.

    Returns:
        0 trained to the end, 130 stopped by Ctrl-C and saved.

    Raises:
        ValueError: a setting that is unknown, of the wrong type or out of range; a corpus or device that is not there.
    """
    recipe = read_recipe(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    from pretrain.trainer import Trainer

    return 0 if Trainer(recipe).train() else INTERRUPTED


def read_recipe(argv: Sequence[str] | None) -> Recipe:
    """The recipe that a command line describes: the file given as --config, then its overrides.

    Raises:
        ValueError: in one line, naming the setting and what it may be.
    """
    parser = make_parser()
    from jsonargparse import ArgumentError

    try:
        settings = parser.parse_args(argv).as_dict()
    except ArgumentError as error:
        raise ValueError(explain(str(error))) from error
    settings.pop("config")
    return read_section(Recipe, settings, "recipe")


def make_parser() -> "ArgumentParser":
    """All of a recipe's settings as options, each with its docstring as help."""
    try:
        from jsonargparse import ArgumentParser, set_parsing_settings
    except ImportError as error:
        raise ImportError("pretraining needs jsonargparse: pip install 'maeast-upstream[pretrain]'") from error
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog=PROG, description="Pretrain an encoder on your own audio.", exit_on_error=False)
    parser.add_argument("--config", action="config", help="a recipe, see configs/")
    parser.add_class_arguments(Recipe, as_group=False)
    return parser


def explain(message: str) -> str:
    """A message of jsonargparse in one line, with the valid names where a name is unknown."""
    text = " ".join(message.split())
    if found := re.search(r"Group '(\w+)' does not accept option '([\w.]+)'", text):
        section, name = found.groups()
        return f"{section} has no setting {name!r}; it has {', '.join(setting_names(section))}"
    if found := re.search(r"Option '([\w.]+)' is not accepted", text):
        return f"a recipe has no setting {found[1]!r}; it has {', '.join(setting_names())}"
    if found := re.search(r"unrecognized arguments: (.*)", text):
        return f"unknown option {found[1]} (see {PROG} --help)"
    text = re.sub(r"Expected a <class '(\w+)'>\.", r"expected \1,", text)
    text = re.sub(r"Expected a typing\.(?:Literal|Union|Optional)?\[(.*?)\]\.", r"expected one of \1,", text)
    text = re.sub(r'Parser key "([\w.]+)":', r"\1:", text)
    return text.replace("Got value:", "got")


def setting_names(section: str | None = None) -> list[str]:
    """Names of the recipe's settings, or of those in one of its sections."""
    kinds = {field.name: field for field in fields(Recipe)}
    if section is None:
        return list(kinds)
    return [field.name for field in fields(kinds[section].type)]  # type: ignore[arg-type]
