"""``python -m pretrain --config RECIPE.yaml [--optim.steps 1000 ...]``."""

from maeast_upstream.cli import run
from pretrain.cli import main

if __name__ == "__main__":
    raise SystemExit(run(main))
