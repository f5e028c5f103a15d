"""``python -m pretrain.stats --config RECIPE`` measures the statistics of a corpus's log-mel spectrogram.

A run normalises with them. A run that finds none measures them itself in the same way.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from maeast_upstream.arguments import take_output_options
from maeast_upstream.cli import run
from pretrain.cli import read_recipe


def main(argv: Sequence[str]) -> int:
    """Measure mean and standard deviation of a recipe's corpus and write them to OUT/stats.json for the run."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = read_recipe(take_output_options(argv), "python -m pretrain.stats", main.__doc__ or "")
    from pretrain.data.batches import BatchSharding
    from pretrain.data.corpus import corpus_digest, describe, open_training
    from pretrain.data.statistics import measure, measurement_digest, write
    from pretrain.training.run_folder import STATS_NAME

    path = Path(recipe.out) / STATS_NAME
    if path.exists():
        raise ValueError(f"{path} exists already; remove it to measure again")
    sharding = BatchSharding(accumulation_steps=recipe.optim.accumulation_steps)
    beside = Path(recipe.out).parent
    source = open_training(recipe.data, recipe.model, recipe.losses.crops, recipe.seed, sharding, beside=beside)
    measured = measure(source, recipe.data, recipe.frontend)
    digest = measurement_digest(corpus_digest(source, recipe.data.corpus), recipe.data, recipe.frontend)
    write(path, measured, digest, describe(source, recipe.data.corpus))
    print(f"mean {measured.mean} std {measured.std}: {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, sys.argv[1:]))
