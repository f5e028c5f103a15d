"""Makes ``mae_ast`` an upstream of s3prl: importing this repairs s3prl for today's PyTorch and registers the name.

After it, ``s3prl.nn.S3PRLUpstream("mae_ast", path_or_url=CHECKPOINT)`` works, and `main` runs s3prl's own
``run_downstream``. Nothing in s3prl is edited.
"""

import argparse
import builtins
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maeast_upstream.expert import UpstreamExpert
from maeast_upstream.integrations.s3prl.repairs import install_repairs
from maeast_upstream.integrations.s3prl.runner import (
    changed,
    explained,
    prepare,
    whole_checkpoints,
)

try:
    install_repairs()
    import s3prl.hub
except ImportError as error:
    raise ImportError(f"s3prl cannot be used here ({error}): pip install 'maeast-upstream[superb]'") from error


def mae_ast(
    ckpt: str | None = None,
    model_config: str | None = None,
    refresh: bool = False,
    **options: Any,
) -> UpstreamExpert:
    """MAE-AST: the checkpoint in the package, or what `maeast_upstream.load_model` takes. See `UpstreamExpert`."""
    return UpstreamExpert(ckpt, model_config, refresh, **options)


s3prl.hub.mae_ast = mae_ast


def main(arguments: Sequence[str]) -> int:
    """s3prl's ``run_downstream`` with arguments that `superb_arguments.complete` gave.

    Raises:
        ValueError: what cannot work, before anything is written; or what s3prl failed with, the traceback in a file.
    """
    from s3prl import run_downstream

    read_arguments = run_downstream.get_downstream_args
    experiment: list[Path] = []

    def checked_arguments() -> tuple[argparse.Namespace, dict[str, Any], list[str]]:
        args, config, files = read_arguments()
        try:
            prepare(args, config)
        except Exception:
            with contextlib.suppress(OSError):  # s3prl has made it by now; kept if there is anything in it
                Path(args.expdir).rmdir()
            raise
        experiment.append(Path(args.expdir))
        return args, config, files

    with (
        whole_checkpoints(),
        changed(sys, argv=["run_downstream", *arguments]),
        changed(builtins, isinstance=isinstance),
        changed(run_downstream, get_downstream_args=checked_arguments),
    ):
        try:
            run_downstream.main()
        except SystemExit as stop:  # s3prl's parser has said what is wrong, or given its help
            return 1 if stop.code else 0
        except Exception as error:
            raise ValueError(explained(error, experiment)) from error
    return 0
