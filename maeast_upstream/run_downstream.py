"""s3prl's ``run_downstream.py`` with the upstream ``mae_ast``: ``maeast-run-downstream -m train -u mae_ast -d TASK``.

All options are s3prl's own. Runs as a module, as a command and by its path.
"""

import sys
from pathlib import Path

if __name__ == "__main__" and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    # started by its path: the files beside this one must not pass for top-level modules, s3prl's "expert" among them
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import os
from collections.abc import Sequence

from maeast_upstream import cli
from maeast_upstream.integrations.s3prl.arguments import complete, read

HELP = {"-h", "--help"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run an experiment; 0 done, 1 not done, with the reason in one line."""
    return cli.run(run, argv)


def run(arguments: Sequence[str]) -> int:
    """Check the command line, then load s3prl and hand over to it."""
    if not HELP & set(arguments):
        arguments = complete(arguments)
        if read(arguments).device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # s3prl asks torch, not --device, whether to use CUDA
    from maeast_upstream import superb

    return superb.main(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
