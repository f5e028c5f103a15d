"""``maeast superb-data``: one's own labelled clips for s3prl's KS, SID and ER heads."""

import csv
import os
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tqdm import tqdm

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.audio.reading import AudioError, find_audio, read_audio
from maeast_upstream.data.labels import read_splits
from maeast_upstream.frontend import WINDOW_SAMPLES
from maeast_upstream.integrations.s3prl.configs import config_path, read_config
from maeast_upstream.integrations.s3prl.layouts import (
    FOLD,
    Clip,
    Samples,
    er_tables,
    er_valid_ratio,
    ks_class,
    ks_place,
    lay_out_silence,
    made_noise,
    plain,
    sid_lines,
    sid_place,
    sid_speakers,
    write_json,
)

HEADS = {"ks": "speech_commands", "sid": "voxceleb1", "er": "emotion"}
"""What s3prl calls them, after ``-d``."""


MADE = "made"


Source = tuple[Clip, Path]


Fields = dict[str, Any]


@contextmanager
def new_folder(out: Path, force: bool) -> Iterator[Path]:
    """A folder to fill beside ``out``, which takes its place at the end or, if the body fails, disappears.

    Raises:
        ValueError: ``out`` exists: without ``force``, or as something that this command did not make.
    """
    if out.exists():
        if not force:
            raise ValueError(f"{out} exists already; give --force to replace it, or another name")
        if not (out / "config.yaml").is_file() or not (out / "errors.tsv").is_file():
            raise ValueError(f"{out} was not made by superb-data, so --force does not replace it; give another name")
    if not out.parent.is_dir():
        raise ValueError(f"{out.parent}: no such folder to make {out.name} in")
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    part.mkdir()
    try:
        yield part
        if out.exists():
            shutil.rmtree(out)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_sources(labels: Path, task: str) -> list[Source]:
    """The clips of a labels.csv in its order.

    Raises:
        ValueError: as in `read_splits`; for ks not one of its ten words, for sid too many labels.
    """
    rows = read_splits(labels, ks_class if task == "ks" else str)
    classes = {label for label, _ in rows.values()}
    if len(classes) < 2:
        known = "the ten words that ks knows are not among the labels" if task == "ks" else "only one label"
        raise ValueError(f"{labels}: {known}; sid and er take any labels, two at least")
    if task == "sid":
        sid_speakers(classes)
    return [
        (Clip(f"{plain(path.stem)}-{number:05d}".lstrip("-"), label, split), path)
        for number, (path, (label, split)) in enumerate(rows.items())
    ]


def read_noises(paths: Sequence[str] | None, labels: Path) -> dict[str, Samples]:
    """KS's noise by name.

    Raises:
        ValueError: none given; one of less than two seconds.
        AudioError: one that cannot be read.
    """
    if not paths:
        raise ValueError(
            "ks cuts its class _silence_ from noise: give recordings without words with --noise, or "
            f"--noise {MADE}; heads without that class, for any labels: maeast superb-data sid {labels} (or er)"
        )
    if list(paths) == [MADE]:
        return made_noise()
    noises = {}
    for number, path in enumerate(find_audio(paths)):
        samples = read_audio(path)
        if len(samples) < 2 * SAMPLE_RATE:
            seconds = len(samples) / SAMPLE_RATE
            raise ValueError(f"{path}: {seconds:.2f} s of noise; ks needs 2 s, for a second of test silence is cut off")
        noises[f"{plain(path.stem)}-{number}".lstrip("-")] = samples
    return noises


def write_clips(sources: list[Source], folder: Path, task: str) -> tuple[dict[Clip, Path], dict[Path, str]]:
    """Write every clip that can be read as a 16 kHz mono wav.

    Returns:
        Clips with their places below ``folder``; those that were left out, with the reason.

    Raises:
        ValueError: a class or split lost all its clips.
    """
    place = place_for(task, sources)
    places: dict[Clip, Path] = {}
    failed: dict[Path, str] = {}
    for clip, path in tqdm(sources, desc="clips", unit="", disable=None):
        try:
            samples = read_audio(path)
            if len(samples) < WINDOW_SAMPLES:
                raise AudioError(f"{len(samples)} samples; expected at least {WINDOW_SAMPLES} (25 ms)")
        except AudioError as error:
            failed[path] = " ".join(str(error).removeprefix(f"{path}: ").split())
            continue
        places[clip] = place(clip)
        write_wav(folder / places[clip], samples)
    refuse_lost(sources, places, failed)
    return places, failed


def place_for(task: str, sources: list[Source]) -> Callable[[Clip], Path]:
    """Where the task wants a clip."""
    if task == "ks":
        return ks_place
    if task == "sid":
        speakers = sid_speakers(clip.label for clip, _ in sources)
        return lambda clip: sid_place(clip, speakers)
    return lambda clip: Path("wav") / f"{clip.name}.wav"


def refuse_lost(sources: list[Source], places: dict[Clip, Path], failed: dict[Path, str]) -> None:
    """ValueError if a split, or a class in train, had clips and none of them could be used."""
    for what, lost in (
        (
            "split",
            {clip.split for clip, _ in sources} - {clip.split for clip in places},
        ),
        (
            "class",
            {clip.label for clip, _ in sources} - {clip.label for clip in places if clip.split == "train"},
        ),
    ):
        if lost:
            path, reason = next(iter(failed.items()))
            raise ValueError(f"no clip of {what} {min(lost)!r} can be used; the first that failed: {path}: {reason}")


def write_wav(path: Path, samples: Samples) -> None:
    """16 bits, as all these corpora have."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(samples, -1, 1), SAMPLE_RATE, subtype="PCM_16")


def finish_ks(places: dict[Clip, Path], folder: Path, out: Path, noises: dict[str, Samples]) -> Fields:
    """Noise and silence; the config's fields."""
    splits = Counter(clip.split for clip in places)
    tested = {clip.label for clip in places if clip.split == "test"}
    lay_out_silence(noises, max(1, splits["test"] // len(tested)), folder, write_wav)
    return {
        "speech_commands_root": str(out / "train"),
        "speech_commands_test_root": str(out / "test"),
        "batch_size": splits["train"],
    }


def finish_sid(places: dict[Clip, Path], folder: Path, out: Path, noises: dict[str, Samples]) -> Fields:
    """The list of clips, and which speaker number stands for which label; the config's fields."""
    (folder / "clips.txt").write_text("".join(f"{line}\n" for line in sid_lines(places)))
    with (folder / "speakers.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["speaker", "label"])
        writer.writerows(sorted({(place.parts[2], clip.label) for clip, place in places.items()}))
    return {
        "file_path": str(out),
        "meta_data": str(out / "clips.txt"),
        "train_batch_size": Counter(clip.split for clip in places)["train"],
    }


def finish_er(places: dict[Clip, Path], folder: Path, out: Path, noises: dict[str, Samples]) -> Fields:
    """The tables of one fold; the config's fields."""
    for name, table in er_tables(places).items():
        write_json(folder / "meta_data" / FOLD.replace("fold", "Session") / name, table)
    return {
        "root": str(out),
        "meta_data": str(out / "meta_data"),
        "test_fold": FOLD,
        "valid_ratio": er_valid_ratio(places),
        "train_batch_size": Counter(clip.split for clip in places)["train"],
    }


Layout = Callable[[dict[Clip, Path], Path, Path, dict[str, Samples]], Fields]


LAYOUTS: dict[str, Layout] = {"ks": finish_ks, "sid": finish_sid, "er": finish_er}


def write_config(path: Path, args: Any, fields: Fields, places: dict[Clip, Path]) -> None:
    """SUPERB's config with the folder's paths, fewer steps, and no batch larger than there are clips."""
    config = read_config(config_path(HEADS[args.task]))
    data = config["downstream_expert"]["datarc"]
    batches = {name: min(data[name], fields[name]) for name in fields if name.endswith("batch_size")}
    workers = {"num_workers": min(data["num_workers"], os.cpu_count() or 1)}
    data.update(fields | batches | workers)
    often = {
        "log_step": args.steps // 20,
        "eval_step": args.steps // 10,
        "save_step": args.steps // 10,
    }
    config["runner"] |= {"total_steps": args.steps} | {name: max(1, value) for name, value in often.items()}
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    path.write_text(f"# {launch_line(args.task, args.out.resolve())}\n{text}", encoding="utf-8")


def launch_line(task: str, out: Path) -> str:
    """The command that trains the head on the bundled checkpoint."""
    device = "" if torch.cuda.is_available() else " --device cpu"
    config, name = shlex.quote(str(out / "config.yaml")), shlex.quote(out.name)
    return f"maeast-run-downstream -m train -u mae_ast -d {HEADS[task]} -c {config} -n {name}{device}"


def write_errors(path: Path, failed: dict[Path, str]) -> None:
    """What was left out, with the reason."""
    lines = [f"{name}\t{reason}\n" for name, reason in failed.items()]
    path.write_text("path\treason\n" + "".join(lines), encoding="utf-8")
