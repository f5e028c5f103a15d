"""Makes ``mae_ast`` an upstream of s3prl: importing this repairs s3prl for today's PyTorch and registers the name.

Afterwards ``s3prl.nn.S3PRLUpstream("mae_ast", path_or_url=CHECKPOINT)`` works, and `main` runs s3prl's own
``run_downstream``. No file of s3prl is changed.
"""

from collections.abc import Sequence
from typing import Any

from maeast_upstream.expert import UpstreamExpert
from maeast_upstream.integrations.s3prl import runner
from maeast_upstream.integrations.s3prl.repairs import install_repairs
from maeast_upstream.messages import install_extra

try:
    install_repairs()
    import s3prl.hub
except ImportError as error:
    raise ImportError(f"s3prl cannot be imported ({error}): {install_extra('superb')}") from error


def mae_ast(
    ckpt: str | None = None, model_config: str | None = None, refresh: bool = False, **options: Any
) -> UpstreamExpert:
    """Load a MAE-AST encoder; the arguments are those of `UpstreamExpert`, and no checkpoint means the bundled one."""
    return UpstreamExpert(ckpt, model_config, refresh, **options)


s3prl.hub.mae_ast = mae_ast


def main(arguments: Sequence[str]) -> int:
    """Run s3prl's ``run_downstream`` with arguments that `integrations.s3prl.arguments.complete` returned.

    Returns:
        The exit status: 0 if it ran to its end, 1 if s3prl's own parser refused the arguments.

    Raises:
        ValueError: the experiment cannot work, which is found before anything is written; or s3prl failed while it
            ran, and the traceback is in a file beside its results.
    """
    return runner.run(arguments)
