"""Checks a task's config and data before s3prl starts: for what would fail later, or loop for ever."""

import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.checks import quote
from maeast_upstream.frontend import WINDOW_SAMPLES
from maeast_upstream.integrations.s3prl.task_data import DATA, Clips, value
from maeast_upstream.integrations.s3prl.tasks import TASKS

logger = logging.getLogger(__name__)

RUNNER_FIELDS = ("total_steps", "gradient_clipping", "gradient_accumulate_steps", "log_step", "eval_step", "save_step")
LARGE_BYTES = 1 << 14
"""A file of this size has more than 25 ms of sound in every usual format."""
MAX_LARGE_FILES = 500
"""Of the files above LARGE_BYTES, about this many are opened, evenly spread over the list."""
XVECTOR_STEPS = 16
"""Time steps that ASV's head needs: its time-delay layers use up 14, and the standard deviation over one is NaN."""
MAX_CTC_HOP_SAMPLES = 1280
"""CTC cannot output more phones than there are time steps, and speech has up to 15 phones per second."""


def check_superb_task(task: str, config: Mapping[str, Any], mode: str, split: str = "test") -> Clips | None:
    """Refuse a config or data that cannot work. Tasks other than SUPERB's are not checked.

    Headers of small files and of some of the others are read, no samples: a few seconds for large corpora.

    Args:
        task: the value of ``-d``.
        config: s3prl's config with all overrides.
        mode: train, evaluate or inference.
        split: the split that is scored where the mode is evaluate.

    Returns:
        The task's clips; None for a task that is not SUPERB's.

    Raises:
        ValueError: one line that names the file or the config's field: a config for another task, a missing folder or
            file, a label or word that the task does not know, audio that is empty, too short, of another rate or
            not mono where the task assumes both, too few clips to train on.
    """
    if task not in TASKS:
        return None
    check_fields(task, config, mode)
    check_batch_sizes(config)
    try:
        clips = TASKS[task].clips(config)
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from error
    check_counts(task, config, clips, mode)
    used = ["train", *value(config, "runner.eval_dataloaders")] if mode == "train" else [split]
    check_batches(task, clips, used)
    check_audio_files([*clips.train, *clips.dev, *clips.test], WINDOW_SAMPLES, "25 ms", clips.rate)
    check_audio_files(clips.noise, SAMPLE_RATE, "a second", None)
    return clips


def check_fields(task: str, config: Mapping[str, Any], mode: str) -> None:
    """Raise ValueError for a missing field; if the config fits another task, the message says which."""
    required = [*TASKS[task].fields, "runner.eval_dataloaders"]
    if mode == "train":
        required += [f"runner.{name}" for name in (*RUNNER_FIELDS, "max_keep")] + ["optimizer.name", "optimizer.lr"]
    missing = next((name for name in required if not has_field(config, name)), None)
    fitting = [name for name, other in TASKS.items() if all(has_field(config, field) for field in other.fields)]
    # all fields of one task may be among another's, so the one with the most fields is the config's
    best = max(fitting, key=lambda name: len(TASKS[name].fields), default=task)
    if missing is not None:
        hint = f"; it is one for -d {best}" if best != task else ""
        raise ValueError(f"the config has no {missing}, which -d {task} needs{hint}; see configs/superb/{task}.yaml")
    if set(TASKS[task].fields) < set(TASKS[best].fields):
        raise ValueError(f"the config is one for -d {best}, not for -d {task}; see configs/superb/{task}.yaml")


def check_batch_sizes(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a batch size that is no whole number above 0."""
    for section, fields in config["downstream_expert"].items():
        for name, size in fields.items() if isinstance(fields, Mapping) else ():
            if str(name).endswith(("batch_size", "batchsize")) and (type(size) is not int or size < 1):
                raise ValueError(f"downstream_expert.{section}.{name}: expected a number of clips, got {quote(size)}")


def has_field(config: Mapping[str, Any], name: str) -> bool:
    """Whether a config has a field, given by its dotted name; its value may be null."""
    try:
        value(config, name)
    except KeyError:
        return False
    return True


def check_counts(task: str, config: Mapping[str, Any], clips: Clips, mode: str) -> None:
    """Raise ValueError for a split that is needed and has too few clips, and for a step count that is not positive."""
    if mode == "train":
        if len(clips.train) < clips.smallest_train:
            raise ValueError(
                f"-d {task}: {len(clips.train)} training clips; with fewer than {clips.smallest_train} s3prl loops for "
                "ever without a step: add clips, or make the batch smaller"
            )
        for name in (*RUNNER_FIELDS, "max_keep"):
            number = value(config, f"runner.{name}")
            if isinstance(number, bool) or not isinstance(number, (int, float)) or number <= 0:
                raise ValueError(f"runner.{name}: expected a number above 0, got {number!r}")
    known_dev = bool(clips.dev or clips.test)
    for split, paths in (("dev", clips.dev), ("test", clips.test)):
        if known_dev and split in value(config, "runner.eval_dataloaders") and not paths:
            raise ValueError(f"-d {task}: runner.eval_dataloaders lists {split}, which has no clips")


def check_batches(task: str, clips: Clips, used: Collection[str]) -> None:
    """Refuse a split of which no clip is in a batch, and warn of clips that are in none: s3prl drops them."""
    for split in [split for split in used if split in clips.batched]:
        count, total = clips.batched[split], len(getattr(clips, split))
        if not count:
            option = f"config.{DATA}.{'train' if split == 'train' else 'eval'}_batch_size=1"
            raise ValueError(
                f"-d {task}: none of the {total} {split} clips is used, since s3prl drops a last batch that is not "
                f"full: add clips, or make the batch smaller with -o {option}"
            )
        if count < total:
            logger.warning("-d %s: s3prl leaves out %d of %d %s clips", task, total - count, total, split)


def check_audio_files(paths: Iterable[Path], samples: int, duration: str, rate: int | None) -> None:
    """Raise ValueError for the first file that `check_file` refuses; of large files only a sample is opened.

    Args:
        paths: audio files.
        samples: smallest length, in samples at 16 kHz.
        duration: the same length in words, for the message.
        rate: required sample rate of mono files; None if any rate and number of channels will do.
    """
    small: list[Path] = []
    large: list[Path] = []
    for path in dict.fromkeys(paths):
        (small if path.stat().st_size < LARGE_BYTES else large).append(path)
    for path in small + large[:: max(1, len(large) // MAX_LARGE_FILES)]:
        check_file(path, samples, duration, rate)


def check_file(path: Path, samples: int, duration: str, rate: int | None) -> None:
    """Raise ValueError if a file's header cannot be read, or shows too few samples, another rate or more channels."""
    import soundfile

    if not path.stat().st_size:
        raise ValueError(f"{path}: empty file")
    try:
        info = soundfile.info(path)
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        raise ValueError(f"{path}: not audio that s3prl can read ({' '.join(str(error).split())})") from error
    if info.frames * SAMPLE_RATE < samples * info.samplerate:
        raise ValueError(
            f"{path}: {info.frames} samples at {info.samplerate} Hz; expected at least {duration}: remove the file, or "
            "its line from the list"
        )
    if rate is not None and (info.samplerate, info.channels) != (rate, 1):
        raise ValueError(
            f"{path}: {info.samplerate} Hz, {info.channels} channels; this task reads {rate} Hz mono and does not "
            "convert: convert the audio"
        )


def check_steps(task: str, config: Mapping[str, Any], rate: int) -> None:
    """Refuse a task whose head needs shorter time steps than the upstream has.

    Args:
        task: the value of ``-d``.
        config: s3prl's config with all overrides.
        rate: samples per time step of the upstream.

    Raises:
        ValueError: names the option that gives shorter time steps.
    """
    expert = config["downstream_expert"] if isinstance(config.get("downstream_expert"), Mapping) else {}
    data = expert["datarc"] if isinstance(expert.get("datarc"), Mapping) else {}
    hop = f"a time step of this upstream is {rate} samples ({1000 * rate // SAMPLE_RATE} ms)"
    remedy = "give -g a YAML with hop_ms: 40 (patch models) or with repeat: 8, or use a frame model"
    if task == "sv_voxceleb1":
        shortest = data["vad_config"]["min_sec"] if isinstance(data.get("vad_config"), Mapping) else 0
        # s3prl passes round(samples / rate) steps to the head
        if shortest < (XVECTOR_STEPS - 0.5) * rate:
            raise ValueError(
                f"-d {task} needs {XVECTOR_STEPS} time steps of each clip, and {hop}, while vad_config.min_sec admits "
                f"clips of {shortest} samples: {remedy}"
            )
    if task == "separation_stft2" and rate > data.get("n_fft", rate):
        raise ValueError(f"-d {task} needs a time step of at most n_fft = {data['n_fft']} samples, and {hop}: {remedy}")
    if task == "ctc" and rate > MAX_CTC_HOP_SAMPLES:
        logger.warning("-d ctc: %s, fewer steps than phones; CTC's loss leaves most utterances out: %s", hop, remedy)
