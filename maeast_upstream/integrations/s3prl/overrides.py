"""Checks s3prl's ``-o``: s3prl itself adds a setting of any name, which then nothing reads."""

import difflib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ARGS = (
    *("mode", "evaluate_split", "override", "backend", "local_rank", "past_exp", "init_ckpt", "config", "downstream"),
    *("downstream_variant", "hub", "upstream", "upstream_ckpt", "upstream_model_config", "upstream_refresh"),
    *("upstream_trainable", "upstream_feature_selection", "upstream_layer_selection", "upstream_feature_normalize"),
    *("upstream_model_name", "upstream_revision", "expname", "expdir", "auto_resume", "push_to_hf_hub", "hf_hub_org"),
    *("seed", "device", "cache_dir", "verbose", "disable_cudnn"),
)
"""The settings of s3prl's command line."""
OPEN_SECTIONS = ("optimizer", "scheduler", "specaug")
"""Sections whose fields become arguments of torch's or s3prl's classes."""
EXAMPLE = "expected KEY=VALUE, several of them separated by two commas, as in config.optimizer.lr=1e-3,,args.seed=1"


def check_overrides(text: str | None, config: Mapping[str, Any], task: str) -> None:
    """Raise ValueError for a setting of ``-o`` that is malformed or that nothing reads.

    Args:
        text: the value of ``-o``; None for none.
        config: s3prl's config that it changes.
        task: the value of ``-d``.
    """
    if text is None or text.lower() == "none":
        return
    for option in text.split(",,"):
        key, *values = (part.strip() for part in option.split("="))
        if len(values) != 1 or not key:
            raise ValueError(f"-o {option.strip()!r}: {EXAMPLE}")
        section, *names = key.split(".")
        if section == "args":
            if len(names) != 1 or names[0] not in ARGS:
                raise ValueError(f"-o {key}: s3prl has no such option{suggestion(names[-1] if names else '', ARGS)}")
        elif section != "config" or not names:
            raise ValueError(f"-o {key}: a key begins with args. or config.")
        elif names[0] not in OPEN_SECTIONS:
            _check_field(key, names, config, _sources(task))


def _check_field(key: str, names: list[str], config: Mapping[str, Any], sources: str) -> None:
    """Raise ValueError unless the config has the field, or s3prl's source mentions each new name."""
    section: Any = config
    for name in names:
        if isinstance(section, Mapping) and name in section:
            section = section[name]
            continue
        known = [str(field) for field in section] if isinstance(section, Mapping) else []
        # a string, or an argument of a function, as the fields of datarc become
        if not known or not re.search(rf"""['"]{re.escape(name)}['"]|\b{re.escape(name)}\s*[=,:)]""", sources):
            raise ValueError(f"-o {key}: the config has no {name!r}{suggestion(name, known)}")
        section = {}


def suggestion(name: str, known: tuple[str, ...] | list[str]) -> str:
    """The end of a message: the known name that is most like ``name``, or all of them if they are few."""
    if close := difflib.get_close_matches(name, known, n=1):
        return f"; did you mean {close[0]}?"
    return f"; it has {', '.join(known)}" if 0 < len(known) <= 20 else ""


def _sources(task: str) -> str:
    """The text of s3prl's runner and of a task's files."""
    spec = importlib.util.find_spec("s3prl")
    if spec is None or spec.origin is None:
        return ""
    folder = Path(spec.origin).parent / "downstream"
    paths = [folder / "runner.py", *sorted((folder / task).rglob("*.py"))]
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file())
