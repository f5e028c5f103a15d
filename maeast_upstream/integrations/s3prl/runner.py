"""Runs s3prl's ``run_downstream`` with checks before it starts, whole checkpoints and readable errors."""

import argparse
import builtins
import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from maeast_upstream import checkpoint
from maeast_upstream.checkpoint import CONFIG_NAME, WEIGHTS_NAME
from maeast_upstream.cli import ExitStatus
from maeast_upstream.expert import UpstreamOptions
from maeast_upstream.integrations.s3prl.arguments import STATES
from maeast_upstream.integrations.s3prl.checks import check_steps, check_superb_task
from maeast_upstream.integrations.s3prl.tasks import TASKS
from maeast_upstream.messages import install_extra
from maeast_upstream.storage.atomic import replacing

NAME = "mae_ast"
FEATURES = ("hidden_states", "last_hidden_state")
"""What ``-s`` may name."""
SPLITS = ("train", "dev", "test")
"""The splits that ``-t`` may name for SUPERB's tasks."""


def run(arguments: Sequence[str]) -> int:
    """Run s3prl's ``run_downstream``; see `maeast_upstream.superb.main`."""
    run_downstream: Any = importlib.import_module("s3prl.run_downstream")
    read_arguments = run_downstream.get_downstream_args
    experiment: list[Path] = []

    def checked_arguments() -> tuple[argparse.Namespace, dict[str, Any], list[str]]:
        args, config, files = read_arguments()
        continue_in_place(args)
        try:
            prepare(args, config)
        except Exception:
            with contextlib.suppress(OSError):  # s3prl has made the folder by now; it is kept if it is not empty
                Path(args.expdir).rmdir()
            raise
        experiment.append(Path(args.expdir))
        return args, config, files

    with (
        whole_checkpoints(),
        cuda_calls_without_cuda(),
        changed(sys, argv=["run_downstream", *arguments]),
        changed(builtins, isinstance=isinstance),  # s3prl's hack_isinstance() replaces it and does not put it back
        changed(run_downstream, get_downstream_args=checked_arguments),
    ):
        try:
            run_downstream.main()
        except SystemExit as stop:  # s3prl's parser has printed its help or what is wrong
            return ExitStatus.FAILED if stop.code else ExitStatus.DONE
        except Exception as error:
            raise ValueError(explain(error, experiment)) from error
    return ExitStatus.DONE


def prepare(args: argparse.Namespace, config: Mapping[str, Any]) -> None:
    """Check the experiment that s3prl is about to start, and redirect s3prl's caches to its folder.

    Raises:
        ValueError: s3prl has no such upstream; the upstream, the config or the data cannot work.
    """
    from_hub = args.hub == "huggingface"
    if not from_hub and not callable(getattr(importlib.import_module("s3prl.hub"), args.upstream, None)):
        raise ValueError(
            f"s3prl has no upstream {args.upstream!r}; {NAME} is this package's, {NAME}_local and fbank are s3prl's own"
        )
    if args.mode == "evaluate" and args.downstream in TASKS and args.evaluate_split not in SPLITS:
        raise ValueError(f"-t {args.evaluate_split!r}: -d {args.downstream} is scored on train, dev or test")
    keep_places(args)
    folder = Path(args.upstream).expanduser()
    exported = from_hub and (folder / CONFIG_NAME).is_file() and (folder / WEIGHTS_NAME).is_file()
    if exported or (not from_hub and args.upstream == NAME):
        try:
            options = UpstreamOptions.read(args.upstream_model_config)
            encoder_config = checkpoint.read_config(checkpoint.resolve(folder if exported else args.upstream_ckpt))
        except ValueError as error:
            raise ValueError(f"{error}{trained_with(args)}") from error
        check_selection(args, encoder_config.model.depth)
        check_steps(args.downstream, config, options.downsample_rate(encoder_config))
    clips = check_superb_task(args.downstream, config, args.mode, args.evaluate_split)
    if clips is not None:
        # The digest keeps the caches of two experiments apart that have the same name and different data.
        redirect_caches(args.downstream, Path(args.expdir) / f"cache-{clips.digest()}")


def continue_in_place(args: argparse.Namespace) -> None:
    """Let an experiment that is continued write to the folder of its checkpoint, whatever the working folder.

    s3prl would make its folder anew where it is called, unless the experiment was given an absolute one.
    """
    made = Path(args.expdir)
    if not args.past_exp or "args.expdir" in (args.override or ""):
        return
    folder = Path(args.init_ckpt).parent
    if not made.is_absolute() and made.resolve() != folder.resolve() and os.access(folder, os.W_OK):
        with contextlib.suppress(OSError):  # the folders that s3prl has just made, unless something is in them
            os.removedirs(made)
        args.expdir = str(folder)


def keep_places(args: argparse.Namespace) -> None:
    """Make the paths of the upstream absolute, so that the experiment is found again from another folder."""
    names = ["upstream_ckpt", "upstream_model_config", *(["upstream"] if args.hub == "huggingface" else [])]
    for name in names:
        given = getattr(args, name, None)
        if isinstance(given, str) and (path := Path(given).expanduser()).exists():
            setattr(args, name, str(path.absolute()))


def trained_with(args: argparse.Namespace) -> str:
    """Return the end of a message about a continued experiment: where its upstream came from, how to give another."""
    if not args.past_exp:
        return ""
    kept = {"-k": args.upstream_ckpt, "-g": args.upstream_model_config}
    given = " ".join(f"{option} {place}" for option, place in kept.items() if place)
    remedy = "-o \"args.upstream_ckpt='PATH'\" (or args.upstream_model_config)"
    return f"; the experiment was trained with {given or 'the default'}: if it has moved, give its place with {remedy}"


def check_selection(args: argparse.Namespace, depth: int) -> None:
    """Raise ValueError for features of ``-s`` or a layer of ``-l`` that the upstream does not have.

    Args:
        args: s3prl's settings.
        depth: number of layers of the encoder.
    """
    selection, layer = args.upstream_feature_selection, args.upstream_layer_selection
    if selection not in FEATURES:
        raise ValueError(f"-s {selection!r}: {NAME} gives {' and '.join(FEATURES)}")
    if layer is None:
        return
    if selection != FEATURES[0]:
        raise ValueError(f"-l {layer} picks one of {FEATURES[0]}, but -s is {selection}: drop one of them")
    if not isinstance(layer, int) or not -depth <= layer < depth:
        raise ValueError(f"-l {layer}: layers are counted from 0 to {depth - 1}")


def redirect_caches(task: str, folder: Path) -> None:
    """Make SID and ASV cache their lists of files in ``folder``, not inside the s3prl package for all data alike."""
    if task not in ("voxceleb1", "sv_voxceleb1"):
        return
    dataset: Any = importlib.import_module(f"s3prl.downstream.{task}.dataset")
    folder.mkdir(parents=True, exist_ok=True)
    if task == "voxceleb1":
        dataset.CACHE_PATH = str(folder)
    else:
        dataset.__file__ = str(folder.resolve() / "dataset.py")  # this data set writes beside its own source file


@contextlib.contextmanager
def changed(owner: Any, **values: Any) -> Iterator[None]:
    """Set attributes of a module or class, and restore them at the end."""
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


class ModuleView(ModuleType):
    """A module with some of its attributes replaced, for one importer instead of the whole process."""

    def __init__(self, module: ModuleType, **replaced: Any) -> None:
        super().__init__(module.__name__)
        self.__dict__.update(replaced, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_module"], name)


@contextlib.contextmanager
def whole_checkpoints() -> Iterator[None]:
    """Make s3prl's runner leave a whole checkpoint to resume from, whenever it is killed.

    A file of `torch.save` gets its name when it is complete, and the older states that s3prl deletes before it
    writes the next one are deleted afterwards. Only the runner sees these functions.
    """
    outdated: list[str] = []

    def save_whole(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(f, str | os.PathLike):
            torch.save(obj, f, *args, **kwargs)
            return
        with replacing(Path(f)) as part:
            torch.save(obj, part, *args, **kwargs)
        while outdated and is_state(f):
            if Path(old := outdated.pop()) != Path(f):  # a state of the same name has been replaced already
                Path(old).unlink()

    def remove_later(path: str) -> None:
        if is_state(path):
            outdated.append(path)
        else:
            Path(path).unlink()

    runner = importlib.import_module("s3prl.downstream.runner")
    with changed(runner, torch=ModuleView(torch, save=save_whole), os=ModuleView(os, remove=remove_later)):
        yield


class WithoutCuda(TorchFunctionMode):
    """Lets ``Tensor.cuda()`` return the tensor itself, for the calls of this thread in the context.

    Some of s3prl's heads call it whatever ``--device`` is, among them downstream/sv_voxceleb1/expert.py.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, unless it is ``cuda``."""
        return args[0] if func is torch.Tensor.cuda else func(*args, **(kwargs or {}))


def cuda_calls_without_cuda() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which ``Tensor.cuda()`` works where there is no CUDA device."""
    return contextlib.nullcontext() if torch.cuda.is_available() else WithoutCuda()


def is_state(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a checkpoint that s3prl resumes from."""
    return fnmatch(Path(path).name, STATES)


def explain(error: Exception, experiment: list[Path]) -> str:
    """Describe an error in one line; if s3prl was running, write the traceback beside its results.

    Args:
        error: the exception that ended s3prl.
        experiment: the experiment's folder; empty if s3prl had not started.
    """
    line = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError):
        line += f"; {install_extra('superb')} brings what s3prl's tasks import"
    if not experiment or not experiment[0].is_dir():
        return line or type(error).__name__
    report = experiment[0] / "traceback.txt"
    report.write_text("".join(traceback.format_exception(error)))
    return f"s3prl stopped: {type(error).__name__}: {line or 'without a message'} (see {report})"
