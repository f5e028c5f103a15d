"""Vectors of other extractors for ``maeast report --features``; none of them is needed by the package.

pip install opensmile    # in an environment of its own
python tests/benchmarks/other_features.py opensmile probes/*/labels.csv -o opensmile.npz
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
SHORTEST = {"opensmile": RATE // 4, "resemblyzer": 0}
"""Samples: shorter clips get zeros behind them; openSMILE's functionals need a few frames."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extractor", choices=sorted(EXTRACTORS))
    parser.add_argument("labels", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    extract = EXTRACTORS[args.extractor]()
    paths, vectors = [], []
    for labels in args.labels:
        with labels.open(newline="", encoding="utf-8") as file:
            clips = [(labels.parent / row["path"]).resolve() for row in csv.DictReader(file)]
        for clip in clips:
            samples, rate = soundfile.read(clip, dtype="float32")
            assert rate == RATE
            assert samples.ndim == 1, f"{clip}: expected 16 kHz mono"
            missing = max(0, SHORTEST[args.extractor] - len(samples))
            vectors.append(np.nan_to_num(extract(np.pad(samples, (0, missing)))).astype(np.float32))
            paths.append(str(clip))
        print(labels, len(clips), flush=True)
    np.savez(args.out, path=np.array(paths), vector=np.stack(vectors))


def opensmile():
    """ComParE 2016 functionals, 6373 numbers."""
    import opensmile

    smile = opensmile.Smile(opensmile.FeatureSet.ComParE_2016, opensmile.FeatureLevel.Functionals)
    return lambda samples: smile.process_signal(samples, RATE).to_numpy()[0]


def resemblyzer():
    """A speaker embedding of 256 numbers; its weights are in the wheel."""
    import torch
    from resemblyzer import VoiceEncoder

    encoder = VoiceEncoder("cpu", verbose=False)
    return lambda samples: torch.no_grad()(encoder.embed_utterance)(samples)


EXTRACTORS = {"opensmile": opensmile, "resemblyzer": resemblyzer}

if __name__ == "__main__":
    main()
