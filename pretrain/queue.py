"""``python -m pretrain.queue configs/queue.txt --minutes 9``: the first unfinished recipe of a list, for a while."""

import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from maeast_upstream.arguments import Parser
from maeast_upstream.cli import run
from pretrain.cli import read_recipe, train
from pretrain.config import Recipe
from pretrain.training.run_folder import steps_done

logger = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Train the next slice: at most --minutes of the first recipe that is not finished."""
    parser = Parser(prog="python -m pretrain.queue", description=main.__doc__)
    parser.add_argument(
        "queue",
        type=Path,
        help="a recipe's path on each line; any further option changes a setting",
    )
    parser.add_argument("--minutes", type=float, required=True)
    args, overrides = parser.parse_known_args(list(argv))
    recipe = next_recipe(args.queue, overrides)
    if recipe is None:
        logger.warning("every recipe of %s is finished", args.queue)
        return 0
    return train(dataclasses.replace(recipe, max_minutes=args.minutes))


def next_recipe(queue: Path, overrides: Sequence[str] = ()) -> Recipe | None:
    """The first recipe whose run has not reached its last batch; None if there is none."""
    for line in queue.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        recipe = read_recipe(["--config", line.strip(), *overrides])
        if steps_done(Path(recipe.out)) < recipe.optim.steps:
            return recipe
    return None


if __name__ == "__main__":
    raise SystemExit(run(main, sys.argv[1:]))
