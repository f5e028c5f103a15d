"""Turns a user's labelled clips into the data of s3prl's KS, SID and ER, with a config."""

import os
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.audio.reading import AudioError, find_audio, read_audio
from maeast_upstream.audio.writing import write_wav
from maeast_upstream.data.labels import NO_NAMES, read_splits
from maeast_upstream.data.tables import ColumnNames
from maeast_upstream.frontend import WINDOW_SAMPLES
from maeast_upstream.integrations.s3prl.configs import config_path, read_config
from maeast_upstream.integrations.s3prl.layouts import (
    FOLD,
    Samples,
    SuperbClip,
    er_tables,
    er_valid_ratio,
    generate_noise,
    ks_class,
    ks_path,
    lay_out_silence,
    plain_name,
    sid_lines,
    sid_path,
    sid_speakers,
    write_json,
)
from maeast_upstream.progress import progress_bar
from maeast_upstream.storage.atomic import refuse_to_overwrite
from maeast_upstream.storage.delimited import write_csv

HEADS = {"ks": "speech_commands", "sid": "voxceleb1", "er": "emotion"}
"""Names of the tasks as ``-d`` of s3prl takes them."""
GENERATED_NOISE = "made"
"""The value of ``--noise`` that stands for generated noise."""
CONFIG_NAME, ERRORS_NAME = "config.yaml", "errors.tsv"

Source = tuple[SuperbClip, Path]
"""A clip and the audio file that holds it."""
Fields = dict[str, Any]
"""Fields of a config's section ``datarc``."""


def check_out(out: Path, force: bool) -> None:
    """Raise ValueError if ``out`` exists, and either ``force`` is not given or this command did not make it."""
    refuse_to_overwrite(out, force)
    if out.exists() and not all((out / name).is_file() for name in (CONFIG_NAME, ERRORS_NAME)):
        raise ValueError(f"{out} was not made by superb-data, so --force does not replace it; give another name")


def read_sources(labels: Path, task: str, names: ColumnNames = NO_NAMES) -> list[Source]:
    """The clips of a labels.csv in its order; ``names`` as of `read_splits`.

    Raises:
        ValueError: `read_splits` refuses the table, ks finds none of its ten words, or sid finds too many labels.
    """
    rows = read_splits(labels, ks_class if task == "ks" else str, names)
    classes = {label for label, _ in rows.values()}
    if len(classes) < 2:
        reason = "none of the ten words of ks is among the labels" if task == "ks" else "only one label"
        raise ValueError(f"{labels}: {reason}; sid and er take any labels, at least two")
    if task == "sid":
        sid_speakers(classes)
    return [
        (SuperbClip(f"{plain_name(path.stem)}-{number:05d}".lstrip("-"), label, split), path)
        for number, (path, (label, split)) in enumerate(rows.items())
    ]


def read_noises(paths: Sequence[str] | None, labels: Path) -> dict[str, Samples]:
    """Read KS's noise, by name.

    Args:
        paths: the values of ``--noise``: files, folders, or the one word `GENERATED_NOISE`.
        labels: the labels.csv, for the message.

    Raises:
        ValueError: No noise is given, or a file has less than two seconds.
        AudioError: A file cannot be read.
    """
    if not paths:
        raise ValueError(
            "ks cuts its class _silence_ from noise: give recordings without words with --noise, or "
            f"--noise {GENERATED_NOISE}; sid and er have no such class and take any labels: maeast superb-data sid"
        )
    if list(paths) == [GENERATED_NOISE]:
        return generate_noise()
    noises = {}
    for number, path in enumerate(find_audio(paths)):
        samples = read_audio(path)
        if len(samples) < 2 * SAMPLE_RATE:
            seconds = len(samples) / SAMPLE_RATE
            raise ValueError(
                f"{path}: {seconds:.2f} s of noise; ks needs 2 s, since a second of it becomes test silence"
            )
        noises[f"{plain_name(path.stem)}-{number}".lstrip("-")] = samples
    return noises


def write_clips(sources: list[Source], folder: Path, task: str) -> tuple[dict[SuperbClip, Path], dict[Path, str]]:
    """Write every clip that can be read as a 16 kHz mono WAV file.

    Returns:
        The clips with their paths below ``folder``, and the files that were left out with the reason.

    Raises:
        ValueError: A class or split lost all its clips.
    """
    path_of = path_rule(task, sources)
    paths: dict[SuperbClip, Path] = {}
    failed: dict[Path, str] = {}
    for clip, path in progress_bar(sources, desc="clips", unit=""):
        try:
            samples = read_audio(path)
            if len(samples) < WINDOW_SAMPLES:
                raise AudioError(f"{len(samples)} samples; expected at least {WINDOW_SAMPLES} (25 ms)")
        except AudioError as error:
            failed[path] = " ".join(str(error).removeprefix(f"{path}: ").split())
            continue
        paths[clip] = path_of(clip)
        write_clip(folder / paths[clip], samples)
    check_none_lost(sources, paths, failed)
    return paths, failed


def path_rule(task: str, sources: list[Source]) -> Callable[[SuperbClip], Path]:
    """The function that gives a clip's path in the layout of a task."""
    if task == "ks":
        return ks_path
    if task == "sid":
        speakers = sid_speakers(clip.label for clip, _ in sources)
        return lambda clip: sid_path(clip, speakers)
    return lambda clip: Path("wav") / f"{clip.name}.wav"


def check_none_lost(sources: list[Source], paths: dict[SuperbClip, Path], failed: dict[Path, str]) -> None:
    """Raise ValueError if a split, or a class in train, had clips and none of them could be used."""
    splits = {clip.split for clip, _ in sources} - {clip.split for clip in paths}
    classes = {clip.label for clip, _ in sources} - {clip.label for clip in paths if clip.split == "train"}
    for what, lost in (("split", splits), ("class", classes)):
        if lost:
            path, reason = next(iter(failed.items()))
            raise ValueError(f"no clip of {what} {min(lost)!r} can be used; first error: {path}: {reason}")


def write_clip(path: Path, samples: Samples) -> None:
    """Write a WAV file of 16 bits, as all these corpora have, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, samples)


def finish_ks(paths: dict[SuperbClip, Path], folder: Path, out: Path, noises: dict[str, Samples]) -> Fields:
    """Write noise and silence, and return the config's fields."""
    splits = Counter(clip.split for clip in paths)
    tested = {clip.label for clip in paths if clip.split == "test"}
    lay_out_silence(noises, max(1, splits["test"] // len(tested)), folder, write_clip)
    return {
        "speech_commands_root": str(out / "train"),
        "speech_commands_test_root": str(out / "test"),
        "batch_size": splits["train"],
    }


def finish_sid(paths: dict[SuperbClip, Path], folder: Path, out: Path, noises: dict[str, Samples]) -> Fields:
    """Write the list of clips and the table of speaker numbers and labels, and return the config's fields."""
    (folder / "clips.txt").write_text("".join(f"{line}\n" for line in sid_lines(paths)))
    speakers = sorted({(path.parts[2], clip.label) for clip, path in paths.items()})
    write_csv(folder / "speakers.csv", [("speaker", "label"), *speakers])
    return {
        "file_path": str(out),
        "meta_data": str(out / "clips.txt"),
        "train_batch_size": Counter(clip.split for clip in paths)["train"],
    }


def finish_er(paths: dict[SuperbClip, Path], folder: Path, out: Path, noises: dict[str, Samples]) -> Fields:
    """Write the tables of one fold, and return the config's fields."""
    for name, table in er_tables(paths).items():
        write_json(folder / "meta_data" / FOLD.replace("fold", "Session") / name, table)
    return {
        "root": str(out),
        "meta_data": str(out / "meta_data"),
        "test_fold": FOLD,
        "valid_ratio": er_valid_ratio(paths),
        "train_batch_size": Counter(clip.split for clip in paths)["train"],
    }


Layout = Callable[[dict[SuperbClip, Path], Path, Path, dict[str, Samples]], Fields]
"""Takes the clips with their paths, the folder to fill, its final name and the noise."""

LAYOUTS: dict[str, Layout] = {"ks": finish_ks, "sid": finish_sid, "er": finish_er}


def write_config(path: Path, args: Any, fields: Fields, paths: dict[SuperbClip, Path]) -> None:
    """Write SUPERB's config with the folder's paths, fewer steps, and batches of no more clips than there are."""
    config = read_config(config_path(HEADS[args.task]))
    data = config["downstream_expert"]["datarc"]
    batches = {name: min(data[name], fields[name]) for name in fields if name.endswith("batch_size")}
    workers = {"num_workers": min(data["num_workers"], os.cpu_count() or 1)}
    data.update(fields | batches | workers)
    steps = {"log_step": args.steps // 20, "eval_step": args.steps // 10, "save_step": args.steps // 10}
    config["runner"] |= {"total_steps": args.steps} | {name: max(1, value) for name, value in steps.items()}
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    path.write_text(f"# {launch_line(args.task, args.out.resolve())}\n{text}", encoding="utf-8")


def launch_line(task: str, out: Path) -> str:
    """The command that trains the head on the bundled checkpoint."""
    device = "" if torch.cuda.is_available() else " --device cpu"
    config, name = shlex.quote(str(out / CONFIG_NAME)), shlex.quote(out.name)
    return f"maeast-run-downstream -m train -u mae_ast -d {HEADS[task]} -c {config} -n {name}{device}"


def write_errors(path: Path, failed: dict[Path, str]) -> None:
    """Write the table of the files that were left out, with the reason."""
    write_csv(path, [("path", "reason"), *((str(name), reason) for name, reason in failed.items())], "\t")
