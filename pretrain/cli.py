"""``python -m pretrain``: reads a recipe and its overrides from the command line, and trains."""

import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from maeast_upstream.arguments import suggest_option, take_output_options
from maeast_upstream.cli import ExitStatus
from maeast_upstream.config import read_section
from maeast_upstream.messages import install_extra
from maeast_upstream.storage.packaged import configs_folder
from maeast_upstream.storage.text import read_text
from pretrain.recipe import Recipe

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

PROG, DESCRIPTION = "maeast pretrain", "Pretrain an encoder on your own audio."


def main(argv: Sequence[str] | None = None) -> int:
    """Pretrain an encoder on your own audio.

    Returns:
        0 if it trained to the end or for max_minutes, 130 if Ctrl-C or SIGTERM stopped it after a save.

    Raises:
        ValueError: a setting is unknown, of the wrong type or out of range; the corpus or device does not exist.
    """
    return train(read_recipe(take_output_options(sys.argv[1:] if argv is None else argv)))


def train(recipe: Recipe) -> int:
    """Train with the log on stderr, and return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    from pretrain.trainer import Trainer

    return ExitStatus.DONE if Trainer(recipe).train() else ExitStatus.INTERRUPTED


def read_recipe(argv: Sequence[str], prog: str = PROG, description: str = DESCRIPTION) -> Recipe:
    """Read the recipe given as --config, which has no default, and apply the other options to it.

    Args:
        argv: the options.
        prog: the command that reads them, for its help.
        description: what the command does, for its help.

    Raises:
        ValueError: a setting is wrong; one line with its name and what it may be.
    """
    parser = make_parser(prog, description)
    from jsonargparse import ArgumentError

    try:
        settings = parser.parse_args(with_packaged_recipe(argv)).as_dict()
    except ArgumentError as error:
        raise ValueError(explain(str(error))) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"--config: not text in UTF-8 ({error.reason} at byte {error.start})") from error
    if not settings.pop("config"):
        raise ValueError(f"no recipe: give --config FILE, or --config with one of {', '.join(packaged_recipes())}")
    recipe = read_section(Recipe, settings, "recipe")
    return replace(recipe, data=replace(recipe.data, corpus=find_corpus(recipe.data.corpus, argv)))


def with_packaged_recipe(argv: Sequence[str]) -> list[str]:
    """Replace ``--config NAME`` by the path of the recipe NAME.yaml in the package, unless a file NAME exists.

    Raises:
        ValueError: NAME is neither a file nor a recipe of the package; the message lists the recipes.
    """
    arguments = list(argv)
    for index, argument in enumerate(arguments):
        if argument == "--config" and index + 1 < len(arguments):
            arguments[index + 1] = find_recipe(arguments[index + 1])
        elif argument.startswith("--config="):
            arguments[index] = "--config=" + find_recipe(argument.removeprefix("--config="))
    return arguments


def find_recipe(name: str) -> str:
    """Return ``name`` if it is a path, else the path of that recipe in the package; ValueError if there is none."""
    if Path(name).is_file() or Path(name).is_fifo():
        read_text(Path(name))  # its errors are a line; jsonargparse would wait for a pipe
        return name
    if name in packaged_recipes():
        return str(configs_folder() / f"{name}.yaml")
    if Path(name).suffix or "/" in name or Path(name).exists():
        return name
    raise ValueError(f"no recipe {name!r}: expected a file, or one of {', '.join(packaged_recipes())}")


def packaged_recipes() -> list[str]:
    """Names of the recipes in the package, such as debug_cpu or published/mae_ast_patch_chunk."""
    folder = configs_folder()
    files = [*folder.glob("*.yaml"), *folder.glob("published/*.yaml")]
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in files)


def find_corpus(corpus: str, argv: Sequence[str]) -> str:
    """Return the corpus of a recipe; that of a checkout, for a recipe by name, is found from any other folder."""
    by_name = any(argument.removeprefix("--config=") in packaged_recipes() for argument in argv)
    there = configs_folder().parent / corpus
    return str(there) if by_name and not Path(corpus).exists() and there.exists() else corpus


def make_parser(prog: str = PROG, description: str = DESCRIPTION) -> "ArgumentParser":
    """Make a parser with all settings of a recipe as options; the docstrings of the fields are their help."""
    try:
        from jsonargparse import ArgumentParser, set_parsing_settings
    except ImportError as error:
        raise ImportError(f"pretraining needs jsonargparse: {install_extra('pretrain')}") from error
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=prog,
        usage="%(prog)s --config RECIPE.yaml [--SETTING VALUE ...]   (as in --optim.steps 1000)",
        description=f"{description} -v shows more messages, -q only errors.",
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="a YAML file, or the name of a recipe, such as debug_cpu")
    parser.add_class_arguments(Recipe, as_group=False)
    return parser


def explain(message: str) -> str:
    """Turn a message of jsonargparse into one line, with the valid names if a name is unknown."""
    text = " ".join(message.split())
    if found := re.search(r"Group '(\w+)' does not accept option '([\w.]+)'", text):
        section, name = found.groups()
        return f"{section} has no setting {name!r}; it has {', '.join(setting_names(section))}"
    if found := re.search(r"Option '([\w.]+)' is not accepted", text):
        return f"a recipe has no setting {found[1]!r}; it has {', '.join(setting_names())}"
    if found := re.search(r"unrecognized arguments: (.*)", text):
        section, dot, _ = found[1].split()[0].lstrip("-").partition(".")
        sections = [field.name for field in fields(Recipe) if is_dataclass(field.type)]
        inside = section if dot and section in sections else None
        names = ", ".join(setting_names(inside))
        hint = suggest_option(found[1].split(), option_names())
        return f"unknown option {found[1]}: {inside or 'a recipe'} has {names} (see {PROG} --help){hint}"
    if found := re.search(r"(?:Problems parsing|Unexpected) config:(.*)", text):
        return f"--config: not a YAML file of settings:{found[1] or ' it is empty'}"
    text = re.sub(r'Parser key "([\w.]+)":', r"\1:", text)
    text = re.sub(
        r"Does not validate .*? Subtypes: \[(.*?)\] Errors:.* Given value:",
        r"Expected \1. Got value:",
        text,
    )
    text = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", text)
    text = re.sub(r"<class '(\w+)'>", r"\1", text).replace(", NoneType", " or null")
    return re.sub(r"Expected (?:a )?(.*?)\. Got value:", r"expected \1, got", text)


def setting_names(section: str | None = None) -> list[str]:
    """Names of the settings of a recipe, or of one of its sections."""
    settings = {field.name: field for field in fields(Recipe)}
    if section is None:
        return list(settings)
    return [field.name for field in fields(settings[section].type)]  # type: ignore[arg-type]


def option_names() -> list[str]:
    """Return the option of every setting, such as ``--optim.steps``."""
    sections = {field.name: is_dataclass(field.type) for field in fields(Recipe)}
    inside = [f"--{name}.{setting}" for name, nested in sections.items() if nested for setting in setting_names(name)]
    return ["--config", *(f"--{name}" for name in sections), *inside]
