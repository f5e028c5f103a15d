"""Runs s3prl's ``run_downstream.py`` with ``mae_ast``: ``maeast-run-downstream -m train -u mae_ast -d TASK -n NAME``.

All options are s3prl's own. The file runs as a module, as a command and by its path.
"""

import sys
from pathlib import Path

if __name__ == "__main__" and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    # Started by its path: s3prl's `import expert` must not find the file of that name in this folder.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import os
from collections.abc import Sequence

from maeast_upstream import cli
from maeast_upstream.integrations.s3prl.arguments import complete, read

HELP_OPTIONS = {"-h", "--help"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run an experiment; exit status 0 when it is done, 1 with a one-line reason when it is not."""
    return cli.run(run, argv)


def run(arguments: Sequence[str]) -> int:
    """Check the command line, then import s3prl and start it."""
    if not HELP_OPTIONS & set(arguments):
        arguments = complete(arguments)
        if read(arguments).device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # s3prl asks torch, not --device, whether to use CUDA
    from maeast_upstream import superb

    return superb.main(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
