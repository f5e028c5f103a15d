"""Score checkpoints on valid, and with train and valid exchanged, which gives more clips to score on; test is not read.

    python tests/benchmarks/exchanged.py bundled random RUN --labels probes/*/labels.csv

random: the bundled network with the random weights that its training began with (seed 0). The readout whitened needs
checkpoints that store a whitening for the readout own.
"""

import argparse
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np

from maeast_upstream.encoder import load_model
from maeast_upstream.evaluation.features import embeddings, randomized
from maeast_upstream.evaluation.labelled_set import read_sets
from maeast_upstream.evaluation.linear_probe import fit_probe
from maeast_upstream.readout import Readout
from pretrain.sweep.scores import READOUTS

OWN = Readout(layer="mean", mel="concat", pool="mean_max", hop_ms=40)
"""That of the bundled checkpoint, whatever a run's own is."""
OTHER = {"train": "valid", "valid": "train"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--labels", nargs="+", type=Path, required=True)
    known = {**READOUTS, "own": OWN, "whitened": replace(OWN, whiten=True)}
    parser.add_argument("--readouts", nargs="+", choices=list(known), default=["plain", "rich", "own"])
    args = parser.parse_args()
    readouts = {name: known[name] for name in args.readouts}
    sets = read_sets(args.labels)
    print("| checkpoint | readout | scored on | mean |", *(f"{each.name} |" for each in sets))
    print("|---|---|---|---|" + "---|" * len(sets))
    for name in args.checkpoints:
        encoder = randomized(load_model("bundled")) if name == "random" else load_model(name)
        scores: dict[tuple[str, str], list[float]] = {}
        for each in sets:
            kept = each.splits != "test"
            vectors = embeddings(list(itertools.compress(each.paths, kept)), encoder, list(readouts.values()))
            labels, splits = each.labels[kept], each.splits[kept]
            for readout, chosen in readouts.items():
                for fitted, scored in (splits, "valid"), (np.array([OTHER[split] for split in splits]), "train"):
                    accuracy = fit_probe(vectors[chosen], labels, fitted).valid
                    scores.setdefault((readout, scored), []).append(accuracy)
        for (readout, scored), values in scores.items():
            cells = " | ".join(f"{value:.1f}" for value in [np.mean(values), *values])
            print(f"| {name} | {readout} | {scored} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
