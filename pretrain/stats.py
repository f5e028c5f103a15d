"""``python -m pretrain.stats --config RECIPE``: mean and deviation of a corpus's log-mel spectrogram, measured once.

They are the fixed normalisation of our own checkpoints. A run without them measures them itself, the same way.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from maeast_upstream.cli import run
from pretrain.cli import read_recipe
from pretrain.data.batches import BatchSharding
from pretrain.data.corpus import open_training
from pretrain.data.statistics import measure, write
from pretrain.training.run_folder import STATS_NAME


def main(argv: Sequence[str]) -> int:
    """Measure a recipe's corpus and write OUT/stats.json, which the run then takes."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = read_recipe(argv)
    path = Path(recipe.out) / STATS_NAME
    if path.exists():
        raise ValueError(f"{path} is there already; remove it to measure again")
    found = measure(open_training(recipe, BatchSharding(accumulate=recipe.optim.accumulate), 0), recipe)
    write(path, found)
    print(f"mean {found.mean} std {found.std}: {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, sys.argv[1:]))
