"""``maeast install-s3prl``: add the upstream ``mae_ast`` to a checkout of s3prl, or remove it."""

from collections.abc import Sequence
from pathlib import Path

from maeast_upstream.arguments import Parser
from maeast_upstream.integrations.s3prl.checkout import find_package, install, remove


def main(argv: Sequence[str]) -> int:
    """Put mae_ast into a checkout of s3prl, or take it out again."""
    parser = Parser(prog="maeast install-s3prl", description=main.__doc__)
    parser.add_argument(
        "checkout",
        type=Path,
        help="the folder that was cloned, or the s3prl folder in it",
    )
    parser.add_argument("--remove", action="store_true", help="leave the checkout as it was before")
    args = parser.parse_args(argv)
    package = find_package(args.checkout)
    (remove if args.remove else install)(package)
    print(f"{'removed mae_ast from' if args.remove else 'put mae_ast into'} {package}")
    return 0
