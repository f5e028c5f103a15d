"""``maeast install-s3prl``: adds the upstream ``mae_ast`` to a checkout of s3prl, or removes it."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from maeast_upstream.arguments import Parser
from maeast_upstream.cli import ExitStatus
from maeast_upstream.integrations.s3prl.checkout import find_package, imported_instead, install, remove


def main(argv: Sequence[str]) -> int:
    """Add mae_ast to a checkout of s3prl, or remove it."""
    parser = Parser(prog="maeast install-s3prl", description=main.__doc__)
    parser.add_argument("checkout", type=Path, help="the folder that was cloned, or the s3prl folder in it")
    parser.add_argument("--remove", action="store_true", help="remove it, which leaves the checkout as it was before")
    args = parser.parse_args(argv)
    package = find_package(args.checkout)
    (remove if args.remove else install)(package)
    print(f"{'removed mae_ast from' if args.remove else 'added mae_ast to'} {package}")
    if not args.remove and (other := imported_instead(package)) is not None:
        checkout = shlex.quote(str(package.parent.resolve()))
        print(
            f"but `import s3prl` is {other}, also in the checkout's run_downstream.py, and knows no mae_ast there: "
            f"pip install -e {checkout} --no-deps, or set PYTHONPATH={checkout}"
        )
    return ExitStatus.DONE
