"""``maeast hear-mix``: recordings with events at known times, made of labelled clips and a background."""

import csv
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hear_api.tasks.recordings import refuse_to_lose, write_wav
from maeast_upstream.arguments import Parser, parse_seed
from maeast_upstream.audio.reading import read_audio
from maeast_upstream.data.labels import read_rows
from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.storage.atomic import refuse_to_overwrite

EVENTS_NAME = "events.csv"
FULL_SCALE = 0.9
"""Peak of a recording that would be louder."""
LOUDEST_SNR_DB = 100.0
"""Of either sign; 16 bits hold 96 dB."""
MIN_GAP_MS = 100
"""Between the end of an event and the start of the next one."""


@dataclass(frozen=True)
class Mixture:
    """How recordings are made; ValueError for what cannot be."""

    seconds: float
    """Length of each."""
    events: int
    """In each, at most: where they do not fit there are fewer."""
    snr_db: float
    """Power of an event, over its own length, above that of the background."""

    def __post_init__(self) -> None:
        if self.events < 1:
            raise ValueError(f"--events must be at least 1, got {self.events}")
        if not MIN_GAP_MS / 1000 < self.seconds < float("inf"):
            raise ValueError(f"--seconds must be more than {MIN_GAP_MS / 1000}, got {self.seconds:g}")
        if not abs(self.snr_db) <= LOUDEST_SNR_DB:  # NaN is in no order
            raise ValueError(
                f"--snr must be between {-LOUDEST_SNR_DB:g} and {LOUDEST_SNR_DB:g} dB, got {self.snr_db:g}"
            )


def main(argv: Sequence[str]) -> int:
    """Mix labelled clips onto a background at known times: events for hear-task."""
    args = build_parser().parse_args(argv)
    args.out = args.out.resolve()  # "." has no name to write another folder beside
    refuse_to_overwrite(args.out, args.force)
    counts = parse_counts(args.count)
    mixture = Mixture(args.seconds, args.events, args.snr)
    events = write_mixtures(args.out, args.labels, counts, mixture, args.background, args.seed)
    print(f"{args.out / EVENTS_NAME}: {events} events in {sum(counts.values())} recordings of {args.seconds:g} s")
    return 0


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="maeast hear-mix", description=main.__doc__)
    parser.add_argument("labels", type=Path, help="labels.csv of the clips (path,label,split)")
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        help=f"folder to make: {EVENTS_NAME}, audio/",
    )
    parser.add_argument(
        "--count",
        default="train=60,valid=20,test=20",
        help="recordings; clips stay in their split",
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each recording (default: 10)")
    parser.add_argument("--events", type=int, default=6, help="in each recording, at most (default: 6)")
    parser.add_argument(
        "--snr",
        type=float,
        default=15.0,
        help="of the events over the background in dB (default: 15)",
    )
    parser.add_argument(
        "--background",
        type=Path,
        help="a recording, begun anywhere in it; default: pink noise",
    )
    parser.add_argument("--seed", type=parse_seed, default=0)
    parser.add_argument("--force", action="store_true", help="replace an existing folder")
    return parser


def parse_counts(text: str) -> dict[str, int]:
    """``train=60,test=20`` by split."""
    parts = text.split(",")
    try:
        counts = {split: int(count) for split, count in (part.split("=") for part in parts)}
    except ValueError:
        counts = {}
    if 0 < len(counts) < len(parts):
        raise ValueError(f"--count names a split twice, got {text!r}; give each once")
    # a split's name becomes part of file names
    if not counts or min(counts.values()) < 1 or not all(re.fullmatch(r"[\w.-]+", split) for split in counts):
        raise ValueError(f"--count must be like train=60,valid=20,test=20, got {text!r}")
    return counts


def write_mixtures(
    folder: Path,
    labels: Path,
    counts: dict[str, int],
    mixture: Mixture,
    background: Path | None,
    seed: int = 0,
) -> int:
    """Write recordings, and a table of their events for `hear_api.tasks.create`.

    Args:
        folder: to make.
        labels: a labels.csv with the columns path, label and split.
        counts: recordings of each split, of that split's clips only.
        mixture: how long, how many events, how loud.
        background: a recording from which each of them takes a stretch; None for pink noise.
        seed: of every choice.

    Returns:
        The number of events.

    Raises:
        ValueError: a split without clips, clips that are longer than the recordings, a recording that cannot be read, a
            silent background; a folder that exists and holds what was not made here.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    rows = read_rows(labels, ("label", "split"))
    refuse_to_lose(folder, made_files(folder), [labels, *rows, *([background] if background else [])], "hear-mix")
    floor = None if background is None else read_background(background, mixture.seconds)
    rng = np.random.default_rng(seed)
    table: list[tuple[str, str, str, str, str]] = []
    try:
        (part / "audio").mkdir(parents=True)
        for split, count in counts.items():
            clips = [(path, label) for path, (label, where) in rows.items() if where == split]
            if not clips:
                raise ValueError(f"{labels}: no clip has the split {split!r}")
            for number in tqdm(range(count), desc=split, leave=False, disable=None):
                name = f"audio/{split}-{number:04d}.wav"
                samples, events = mix(clips, mixture, floor, rng)
                write_wav(part / name, samples)
                times = [(label, f"{start:.4f}", f"{end:.4f}") for label, start, end in events]
                table.extend((name, *event, split) for event in times or [("", "", "")])
        with (part / EVENTS_NAME).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "label", "start_ms", "end_ms", "split"), *table])
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return sum(bool(label) for _, label, *_ in table)


def made_files(folder: Path) -> set[str]:
    """The names of what `write_mixtures` wrote into a folder; none where it did not."""
    try:
        with (folder / EVENTS_NAME).open(newline="", encoding="utf-8") as file:
            rows = [(row["path"], row["split"]) for row in csv.DictReader(file)]
        names = {path for path, split in rows if re.fullmatch(rf"audio/{re.escape(split)}-\d{{4,}}\.wav", path)}
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return set()
    return {EVENTS_NAME, *names} if names else set()


def read_background(path: Path, seconds: float) -> np.ndarray:
    """(S,) mono at 16 kHz; ValueError if a recording of ``seconds`` cut from it, round and round, may be silent."""
    samples = read_audio(path)
    loud = np.flatnonzero(np.abs(samples) > 0.5 / 2**15)  # not a zero in 16 bits
    silence = np.diff(loud, append=loud[:1] + len(samples)).max(initial=0) - 1 if len(loud) else np.inf
    if silence >= round(seconds * SAMPLE_RATE):
        raise ValueError(f"{path}: silent for {seconds:g} s, a whole recording: --snr has no level to be above")
    return samples


def mix(
    clips: Sequence[tuple[Path, str]],
    mixture: Mixture,
    background: np.ndarray | None,
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[tuple[str, float, float]]]:
    """One recording: (S,) samples, and label, start and end in ms of its events in order."""
    length = round(mixture.seconds * SAMPLE_RATE)
    samples = pink_noise(length, rng) if background is None else stretch(background, length, rng)
    floor = power(samples)
    chosen = [clips[int(row)] for row in rng.integers(len(clips), size=mixture.events)]
    sounds = [(label, read_audio(path)) for path, label in chosen]
    events = []
    for start, label, sound in place(sounds, length, rng):
        gain = np.sqrt(10 ** (mixture.snr_db / 10) * floor / max(power(sound), 1e-12))
        samples[start : start + len(sound)] += np.float32(gain) * sound
        events.append(
            (
                label,
                1000 * start / SAMPLE_RATE,
                1000 * (start + len(sound)) / SAMPLE_RATE,
            )
        )
    return samples * np.float32(min(1.0, FULL_SCALE / max(float(np.abs(samples).max()), 1e-9))), events


def place(
    sounds: list[tuple[str, np.ndarray]], length: int, rng: np.random.Generator
) -> Iterator[tuple[int, str, np.ndarray]]:
    """As many sounds as fit one behind the other, with their start samples; chance shares out the free time."""
    gap = MIN_GAP_MS * SAMPLE_RATE // 1000
    used = np.cumsum([len(sound) + gap for _, sound in sounds])
    fitting = int((used <= length).sum())
    if not fitting:
        raise ValueError(
            f"a clip of {len(sounds[0][1]) / SAMPLE_RATE:g} s does not fit into {length / SAMPLE_RATE:g} s"
        )
    free = np.sort(rng.integers(length - int(used[fitting - 1]) + 1, size=fitting))
    before = [0, *used]
    for number, (label, sound) in enumerate(sounds[:fitting]):
        yield int(free[number] + before[number]), label, sound


def stretch(background: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """``length`` samples of a recording from a random place on, begun again where it ends."""
    start = int(rng.integers(len(background)))
    taken: np.ndarray = np.take(background, np.arange(start, start + length), mode="wrap")
    return taken


def pink_noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """(length,) float32 noise of equal power in every octave, 40 dB below full scale."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), length)
    quiet: np.ndarray = (0.01 * noise / noise.std()).astype(np.float32)
    return quiet


def power(samples: np.ndarray) -> float:
    """Mean square."""
    return float(np.mean(np.square(samples, dtype=np.float64)))
