"""What a run was begun with: its corpus, and the statistics that were measured on it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maeast_upstream.config import Normalisation
from maeast_upstream.frontend import SAMPLE_RATE
from pretrain.data import statistics
from pretrain.data.batches import CropBatches
from pretrain.data.corpus import corpus_digest, describe
from pretrain.data.shards import ShardBatches
from pretrain.recipe import Recipe
from pretrain.training.run_folder import STATS_NAME

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """The corpus of a run."""

    name: str
    """The corpus in words."""
    digest: str | None
    """What tells it from others; None in all processes but the first."""

    @classmethod
    def of(cls, source: CropBatches | ShardBatches, corpus: str, is_main: bool) -> "Corpus":
        """Describe an opened corpus."""
        return cls(describe(source, corpus), corpus_digest(source, corpus) if is_main else None)


def statistics_of(run: Path, recipe: Recipe, source: CropBatches | ShardBatches, corpus: Corpus) -> Normalisation:
    """Read the statistics of a run's stats.json, or measure and write them if it has none of this corpus."""
    path = run / STATS_NAME
    stored = statistics.read(path)
    if stored is not None and corpus.digest is None:  # the first process has just compared or written them
        return stored.normalisation
    measured_on = statistics.measurement_digest(corpus.digest or "", recipe.data, recipe.frontend)
    if stored is not None and stored.measured_on in (None, measured_on):
        if stored.measured_on is None:
            logger.warning("%s does not say what it was measured on and is used; remove it to measure anew", path)
        return stored.normalisation
    if stored is not None:
        before = stored.corpus or "another corpus"
        logger.warning("%s is of %s or of other settings: measured anew on %s", path, before, corpus.name)
    measured = statistics.measure(source, recipe.data, recipe.frontend)
    statistics.write(path, measured, measured_on, corpus.name)
    return measured


def warn_of_another_corpus(
    run: Path, source: CropBatches | ShardBatches, corpus: Corpus, state: Mapping[str, Any]
) -> None:
    """Warn if a run continues with another corpus than its saved state had, or with clips that its version left out."""
    before, batch = state.get("corpus"), state["step"] + 1
    if before is None:
        if isinstance(source, CropBatches) and _has_short_clips(source):
            logger.warning(
                "%s: version 0.1 began this run and never drew clips shorter than half a crop; from batch %d on they "
                "are drawn",
                run,
                batch,
            )
    elif before["digest"] != corpus.digest:
        logger.warning(
            "%s: begun with %s; continues from batch %d with %s, which is not the same audio, and keeps its mean and "
            "standard deviation: give another --out to begin anew",
            run,
            before["name"],
            batch,
            corpus.name,
        )


def _has_short_clips(source: CropBatches) -> bool:
    """Whether a clip is shorter than half of the longest crops."""
    longest = source.config.max_crop_seconds or source.config.crop_seconds
    return not source.config.padded and bool((source.clips.lengths < longest * SAMPLE_RATE / 2).any())
