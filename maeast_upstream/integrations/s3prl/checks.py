"""Looks a task's config and data over before s3prl starts: what it would trip over later, or loop on for ever."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.frontend import WINDOW_SAMPLES
from maeast_upstream.integrations.s3prl.tasks import TASKS, Clips, value

RUNNER = ("total_steps", "gradient_clipping", "gradient_accumulate_steps", "log_step", "eval_step", "save_step")


LARGE_BYTES = 1 << 14
"""A file of this size has more than 25 ms of sound in every usual format."""


MANY = 500
"""Of larger files so many are looked into, evenly spread."""


def check_task(task: str, config: Mapping[str, Any], mode: str) -> Clips | None:
    """Refuse what cannot work. Tasks other than SUPERB's are let through as they are.

    Headers of small files and of some of the others are read, no samples: a few seconds for large corpora.

    Args:
        task: as after ``-d``.
        config: s3prl's, with all overrides.
        mode: train, evaluate or inference.

    Returns:
        The task's clips; None for a task that is not SUPERB's.

    Raises:
        ValueError: one line that names the file or the config's field: a config for another task, a missing folder or
            file, a label or word without meaning for the task, audio that is empty, too short, of another rate or
            not mono where the task takes that for granted, too few clips to train on.
    """
    if task not in TASKS:
        return None
    check_fields(task, config, mode)
    try:
        clips = TASKS[task].clips(config)
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from error
    check_counts(task, config, clips, mode)
    check_audio([*clips.train, *clips.dev, *clips.test], WINDOW_SAMPLES, "25 ms", clips.rate)
    check_audio(clips.noise, SAMPLE_RATE, "a second", None)
    return clips


def check_fields(task: str, config: Mapping[str, Any], mode: str) -> None:
    """ValueError for a field that is missing, and the task that the config is for, if it is another's."""
    wanted = [*TASKS[task].fields, "runner.eval_dataloaders"]
    if mode == "train":
        wanted += [f"runner.{name}" for name in (*RUNNER, "max_keep")] + ["optimizer.name", "optimizer.lr"]
    missing = next((name for name in wanted if not has(config, name)), None)
    fitting = [other for other, its in TASKS.items() if all(has(config, name) for name in its.fields)]
    # a task's fields may all be among another's
    other = max(fitting, key=lambda fit: len(TASKS[fit].fields), default=task)
    if missing is not None:
        whose = f"; it is one for -d {other}" if other != task else ""
        raise ValueError(f"the config has no {missing}, which -d {task} needs{whose}; see configs/superb/{task}.yaml")
    if set(TASKS[task].fields) < set(TASKS[other].fields):
        raise ValueError(f"the config is one for -d {other}, not for -d {task}; see configs/superb/{task}.yaml")


def has(config: Mapping[str, Any], name: str) -> bool:
    """Whether a dotted name is there; null counts."""
    try:
        value(config, name)
    except KeyError:
        return False
    return True


def check_counts(task: str, config: Mapping[str, Any], clips: Clips, mode: str) -> None:
    """ValueError for a split that is needed and empty."""
    if mode == "train":
        if len(clips.train) < clips.smallest_train:
            raise ValueError(
                f"-d {task}: {len(clips.train)} training clips; with fewer than {clips.smallest_train} s3prl loops for "
                "ever without a step: give it more, or a smaller batch"
            )
        for name in (*RUNNER, "max_keep"):
            number = value(config, f"runner.{name}")
            if isinstance(number, bool) or not isinstance(number, (int, float)) or number <= 0:
                raise ValueError(f"runner.{name}: expected a number above 0, got {number!r}")
    known_dev = task != "phone_linear" and bool(clips.dev or clips.test)
    for split, paths in (("dev", clips.dev), ("test", clips.test)):
        if known_dev and split in value(config, "runner.eval_dataloaders") and not paths:
            raise ValueError(f"-d {task}: runner.eval_dataloaders asks for {split}, which has no clips")


def check_audio(paths: Iterable[Path], samples: int, duration: str, rate: int | None) -> None:
    """ValueError for the first file that is not audio, has too little of it, or another rate or more channels."""
    small: list[Path] = []
    large: list[Path] = []
    for path in dict.fromkeys(paths):
        (small if path.stat().st_size < LARGE_BYTES else large).append(path)
    for path in small + large[:: max(1, len(large) // MANY)]:
        check_file(path, samples, duration, rate)


def check_file(path: Path, samples: int, duration: str, rate: int | None) -> None:
    """One file's header."""
    import soundfile

    if not path.stat().st_size:
        raise ValueError(f"{path}: empty file")
    try:
        info = soundfile.info(path)
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        raise ValueError(f"{path}: not audio that s3prl can read ({' '.join(str(error).split())})") from error
    if info.frames * SAMPLE_RATE < samples * info.samplerate:
        raise ValueError(
            f"{path}: {info.frames} samples at {info.samplerate} Hz; expected {duration} at least: take it out, or its "
            "line in the list"
        )
    if rate is not None and (info.samplerate, info.channels) != (rate, 1):
        raise ValueError(
            f"{path}: {info.samplerate} Hz, {info.channels} channels; this task reads {rate} Hz mono without "
            "converting: convert the audio"
        )


logger = logging.getLogger(__name__)


XVECTOR_STEPS = 16
"""Of ASV's head: its time-delay layers take 14, and a deviation over one step is NaN."""


SLOWEST_FOR_PHONES = 1280
"""Samples a step: CTC cannot write more phones than there are steps, and speech has up to 15 of them a second."""


def check_steps(task: str, config: Mapping[str, Any], rate: int) -> None:
    """Refuse a task whose head cannot work with a time step every ``rate`` samples.

    Raises:
        ValueError: says which option gives more steps.
    """
    expert = config["downstream_expert"] if isinstance(config.get("downstream_expert"), Mapping) else {}
    data = expert["datarc"] if isinstance(expert.get("datarc"), Mapping) else {}
    hop = f"a time step of this upstream is {rate} samples ({1000 * rate // SAMPLE_RATE} ms)"
    remedy = "give -g a YAML with hop_ms: 40 (patch models), or with repeat: 8, or take a frame model"
    if task == "sv_voxceleb1":
        shortest = data["vad_config"]["min_sec"] if isinstance(data.get("vad_config"), Mapping) else 0
        # s3prl hands round(samples / rate) steps to the head
        if shortest < (XVECTOR_STEPS - 0.5) * rate:
            raise ValueError(
                f"-d {task} needs {XVECTOR_STEPS} steps of each clip, and {hop}, while vad_config.min_sec lets clips "
                f"of {shortest} samples through: {remedy}"
            )
    if task == "separation_stft2" and rate > data.get("n_fft", rate):
        raise ValueError(f"-d {task} takes spectra of {data['n_fft']} samples a step apart, and {hop}: {remedy}")
    if task == "ctc" and rate > SLOWEST_FOR_PHONES:
        logger.warning(
            "-d ctc: %s, fewer steps than phones; most utterances will not count: %s",
            hop,
            remedy,
        )
