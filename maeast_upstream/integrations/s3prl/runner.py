"""Prepares and runs s3prl's ``run_downstream``: checks, caches, complete checkpoints, readable errors."""

import argparse
import contextlib
import importlib
import os
import traceback
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

from maeast_upstream.checkpoint.folder import CONFIG_NAME, WEIGHTS_NAME
from maeast_upstream.expert import UpstreamExpert
from maeast_upstream.integrations.s3prl.arguments import STATES
from maeast_upstream.integrations.s3prl.checks import check_steps, check_task
from maeast_upstream.integrations.s3prl.tasks import TASKS
from maeast_upstream.storage.atomic import replacing

NAME = "mae_ast"


SPLITS = ("train", "dev", "test")
"""What ``-t`` may name for SUPERB's tasks."""


def prepare(args: argparse.Namespace, config: Mapping[str, Any]) -> None:
    """Look over what s3prl is about to do, and send its caches to the experiment's folder."""
    from_hub = args.hub == "huggingface"
    if not from_hub and not callable(getattr(importlib.import_module("s3prl.hub"), args.upstream, None)):
        raise ValueError(f"s3prl has no upstream {args.upstream!r}; {NAME} is ours, {NAME}_local and fbank are its own")
    if args.mode == "evaluate" and args.downstream in TASKS and args.evaluate_split not in SPLITS:
        raise ValueError(f"-t {args.evaluate_split!r}: -d {args.downstream} is scored on train, dev or test")
    folder = Path(args.upstream).expanduser()
    exported = from_hub and (folder / CONFIG_NAME).is_file() and (folder / WEIGHTS_NAME).is_file()
    if exported or (not from_hub and args.upstream == NAME):
        expert = UpstreamExpert(args.upstream if exported else args.upstream_ckpt, args.upstream_model_config)
        check_steps(args.downstream, config, expert.get_downsample_rates())
    clips = check_task(args.downstream, config, args.mode)
    if clips is not None:
        # a second experiment of one name may be of other data
        redirect_caches(args.downstream, Path(args.expdir) / f"cache-{clips.digest()}")


def redirect_caches(task: str, folder: Path) -> None:
    """SID and ASV keep lists of files inside the s3prl package, whatever the data: to this folder instead."""
    if task not in ("voxceleb1", "sv_voxceleb1"):
        return
    dataset: Any = importlib.import_module(f"s3prl.downstream.{task}.dataset")
    folder.mkdir(parents=True, exist_ok=True)
    if task == "voxceleb1":
        dataset.CACHE_PATH = str(folder)
    else:
        dataset.__file__ = str(folder.resolve() / "dataset.py")  # it writes beside itself


@contextlib.contextmanager
def changed(owner: Any, **values: Any) -> Iterator[None]:
    """Attributes of a module for a while."""
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


@contextlib.contextmanager
def whole_checkpoints() -> Iterator[None]:
    """A run that is killed at any moment leaves a whole checkpoint to resume from.

    Files of `torch.save` get their names when they are complete, and the older states that s3prl deletes before it
    writes the next stay until then.
    """
    save, remove = torch.save, os.remove
    outlived: list[str] = []

    def save_whole(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(f, str | os.PathLike):
            save(obj, f, *args, **kwargs)
            return
        with replacing(Path(f)) as part:
            save(obj, part, *args, **kwargs)
        while outlived and is_state(f):
            if Path(old := outlived.pop()) != Path(f):  # s3prl would have replaced it
                remove(old)

    def remove_later(path: Any, **kwargs: Any) -> None:
        if is_state(path):
            outlived.append(path)
        else:
            remove(path, **kwargs)

    with changed(torch, save=save_whole), changed(os, remove=remove_later):
        yield


def is_state(path: str | os.PathLike[str]) -> bool:
    """Whether a file is one that s3prl resumes from."""
    return fnmatch(Path(path).name, STATES)


def explained(error: Exception, experiment: list[Path]) -> str:
    """One line for what went wrong; what s3prl failed with while it ran is kept in full beside its results."""
    line = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError):
        line += "; pip install 'maeast-upstream[superb]' has what s3prl's tasks import"
    if not experiment or not experiment[0].is_dir():
        return line or type(error).__name__
    report = experiment[0] / "traceback.txt"
    report.write_text("".join(traceback.format_exception(error)))
    return f"s3prl stopped: {type(error).__name__}: {line or 'without a message'} (see {report})"
