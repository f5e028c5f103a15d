"""The config fields that each of s3prl's tasks reads, and the clips that it finds through them.

Every `*_clips` function raises ValueError for missing or wrong data; the message names the file or the config's field.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maeast_upstream.integrations.s3prl.layouts import (
    FIRST_SPEAKER,
    KS_WORDS,
    NOISE,
    SID_CLASSES,
    SILENCE,
    UNKNOWN,
    ks_percent,
)
from maeast_upstream.integrations.s3prl.overlay.corpus.libriphone import phones, read_lexicon, read_split
from maeast_upstream.integrations.s3prl.phone_linear import phone_clips
from maeast_upstream.integrations.s3prl.task_data import (
    CORPUS,
    DATA,
    LOADER,
    MAX_LIST_BYTES,
    Clips,
    existing,
    file,
    folder,
    lines,
    remedy,
    value,
)
from maeast_upstream.storage.json_file import read_json
from maeast_upstream.storage.text import read_text


@dataclass(frozen=True)
class SuperbTask:
    """A task of s3prl that belongs to SUPERB."""

    fields: tuple[str, ...]
    """Dotted names of the fields that its config must have."""
    clips: Callable[[Mapping[str, Any]], Clips]


def ks_clips(config: Mapping[str, Any]) -> Clips:
    """The clips of keyword spotting. Source: s3prl/downstream/speech_commands."""
    root = folder(config, f"{DATA}.speech_commands_root")
    test_root = folder(config, f"{DATA}.speech_commands_test_root")
    if not (noise := sorted((root / NOISE).glob("*.wav"))):
        raise ValueError(f"{root / NOISE}: no .wav files; KS needs noise of a second or more for its class {SILENCE}")
    known = {*KS_WORDS, UNKNOWN, SILENCE}
    if strange := sorted(p.name for p in test_root.iterdir() if p.is_dir() and p.name not in known):
        raise ValueError(
            f"{test_root / strange[0]}: a test folder whose name is no class; expected {', '.join(sorted(known))}"
        )
    train: list[Path] = []
    dev: list[Path] = []
    for path in sorted(root.glob("*/*.wav")):
        percent = ks_percent(path.name.split("_nohash_")[0])
        if path.parent.name != NOISE and not 10 <= percent < 20:
            (dev if percent < 10 else train).append(path)
    # s3prl drops the last batch unless it is full, and counts files of noise as clips
    smallest = int(value(config, f"{DATA}.batch_size")) - len(noise)
    return Clips(train, dev, sorted(test_root.glob("*/*.wav")), noise, rate=None, smallest_train=max(1, smallest))


def sid_clips(config: Mapping[str, Any]) -> Clips:
    """The clips of speaker identification. Source: s3prl/downstream/voxceleb1."""
    root = folder(config, f"{DATA}.file_path")
    table = file(config, f"{DATA}.meta_data")
    by_split: dict[str, list[Path]] = {"1": [], "2": [], "3": []}
    for line in lines(table):
        if len(line) != 2 or line[0] not in by_split:
            raise ValueError(f"{table}: line '{' '.join(line)}'; expected '1 id10001/VIDEO/N.wav', or 2 or 3")
        speaker = Path(line[1]).parts[0].removeprefix("id")
        if not speaker.isdigit() or not 0 <= int(speaker) - FIRST_SPEAKER < SID_CLASSES:
            raise ValueError(
                f"{table}: speaker {Path(line[1]).parts[0]}; the head has {SID_CLASSES} classes, "
                f"id{FIRST_SPEAKER} to id{FIRST_SPEAKER + SID_CLASSES - 1}"
            )
        usual = [root / part / "wav" / line[1] for part in ("dev", "test")]
        clip = next((path for path in usual if path.is_file()), None) or next(root.glob(f"*/wav/{line[1]}"), None)
        if clip is None:
            raise ValueError(f"{usual[0]}: no such file, nor below test, though {table} lists it")
        by_split[line[0]].append(clip)
    return Clips(by_split["1"], by_split["2"], by_split["3"])


def er_clips(config: Mapping[str, Any]) -> Clips:
    """The clips of emotion recognition. Source: s3prl/downstream/emotion."""
    tables = folder(config, f"{DATA}.meta_data")
    root = folder(config, f"{DATA}.root")
    if fold := value(config, DATA).get("test_fold"):
        sessions = [str(fold).replace("fold", "Session")]
    else:  # s3prl takes the fold from -v, which is not in the config
        sessions = sorted(path.name for path in tables.glob("Session*"))
        if not sessions:
            raise ValueError(f"{tables}: no folder Session1 to Session5; {remedy(f'{DATA}.meta_data')}")
    folds = [er_session(config, session, root) for session in sessions]
    return min(folds, key=lambda clips: len(clips.train))


def er_session(config: Mapping[str, Any], session: str, root: Path) -> Clips:
    """The clips of one fold. s3prl draws dev from train at random, so only the sizes of the two are right."""
    rows: dict[str, list[Path]] = {}
    classes: dict[str, Any] = {}
    for split in ("train", "test"):
        path = file(config, f"{DATA}.meta_data", session, f"{split}_meta_data.json")
        try:
            table = read_json(path, MAX_LIST_BYTES)
            labels, listed = table["labels"], [(str(row["path"]), row["label"]) for row in table["meta_data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{path}: expected {{"labels": .., "meta_data": [..]}} ({error!r})') from error
        if strange := next((label for _, label in listed if label not in labels), None):
            raise ValueError(f"{path}: label {strange!r} is not among its labels {', '.join(labels)}")
        if classes and classes != labels:
            raise ValueError(f"{path}: its labels differ from those of train_meta_data.json beside it")
        classes, rows[split] = labels, existing((root / name for name, _ in listed), path)
    count = int((1 - float(value(config, f"{DATA}.valid_ratio"))) * len(rows["train"]))
    return Clips(rows["train"][:count], rows["train"][count:], rows["test"], rate=None)


def ic_clips(config: Mapping[str, Any]) -> Clips:
    """The clips of intent classification. Source: s3prl/downstream/fluent_commands."""
    root = folder(config, f"{DATA}.file_path")
    slots = ("action", "object", "location")
    known: dict[str, set[str]] = {}
    by_split: dict[str, list[Path]] = {}
    for split in ("train", "valid", "test"):
        table = file(config, f"{DATA}.file_path", "data", f"{split}_data.csv")
        rows = list(csv.DictReader(io.StringIO(read_text(table, MAX_LIST_BYTES), newline="")))
        if rows and (missing := sorted({"path", *slots} - set(rows[0]))):
            raise ValueError(f"{table}: no column {missing[0]!r}; expected path, {', '.join(slots)}")
        for slot in slots:
            values = {row[slot] for row in rows}
            if unseen := sorted(values - known.setdefault(slot, values)):
                raise ValueError(f"{table}: {slot} {unseen[0]!r} does not occur in train_data.csv")
        by_split[split] = existing((root / row["path"] for row in rows), table)
    return Clips(by_split["train"], by_split["valid"], by_split["test"])


def asv_clips(config: Mapping[str, Any]) -> Clips:
    """The clips of speaker verification. Source: s3prl/downstream/sv_voxceleb1."""
    train_root = folder(config, f"{DATA}.file_path", "dev", "wav")
    test_root = folder(config, f"{DATA}.file_path", "test", "wav")
    if "dev" in value(config, "runner.eval_dataloaders"):
        raise ValueError("runner.eval_dataloaders: evaluation on dev fails in s3prl for this task; use [] or [test]")
    trials: dict[str, list[Path]] = {}
    for name, root in (("dev_meta_data", train_root), ("test_meta_data", test_root)):
        table = file(config, f"{DATA}.{name}")
        listed = lines(table)
        if bad := next((line for line in listed if len(line) != 3 or line[0] not in "01"), None):
            raise ValueError(f"{table}: line '{' '.join(bad)}'; expected '1 FILE FILE' or '0 FILE FILE'")
        trials[name] = existing(sorted({root / item for line in listed for item in line[1:]}), table)
    return Clips(sorted(train_root.rglob("*.wav")), trials["dev_meta_data"], trials["test_meta_data"], rate=None)


def pr_clips(config: Mapping[str, Any]) -> Clips:
    """The clips of phoneme recognition. Source: s3prl/downstream/ctc with the corpus libriphone."""
    if (name := value(config, f"{CORPUS}.name")) != "libriphone":
        raise ValueError(f"{CORPUS}.name: {name!r}; only libriphone is supported, since s3prl's wheel has no corpus")
    root = folder(config, f"{CORPUS}.path")
    file(config, "downstream_expert.text.vocab_file")
    lexicons = [Path(str(item)) for item in value(config, f"{CORPUS}.lexicon")]
    for path in lexicons:
        if not path.is_file():
            raise ValueError(f"{CORPUS}.lexicon: no such file: {path}; {remedy(f'{CORPUS}.lexicon')}")
    words = read_lexicon(iter(lexicons))
    by_split: dict[str, list[Path]] = {}
    for split in ("train", "dev", "test"):
        by_split[split] = []
        for part in value(config, f"{CORPUS}.{split}"):
            for flac, text in read_split(root / part):
                phones(flac, text, words)
                by_split[split].append(flac)
    return Clips(by_split["train"], by_split["dev"], by_split["test"])


def sd_clips(config: Mapping[str, Any]) -> Clips:
    """The clips of speaker diarization. Source: s3prl/downstream/diarization."""
    by_split: dict[str, list[Path]] = {}
    for split in ("train", "dev", "test"):
        tables = {
            name: file(config, f"{LOADER}.{split}_dir", name) for name in ("segments", "utt2spk", "wav.scp", "reco2dur")
        }
        wav_of = {line[0]: " ".join(line[1:]) for line in lines(tables["wav.scp"])}
        timed = {line[0] for line in lines(tables["reco2dur"])}
        spoken = {line[1] for line in lines(tables["segments"]) if len(line) > 1}
        for name, present in (("reco2dur", timed), ("segments", spoken)):
            if missing := sorted(set(wav_of) - present):
                raise ValueError(f"{tables[name]}: no line for {missing[0]}, which {tables['wav.scp']} lists")
        by_split[split] = existing((Path(p) for p in wav_of.values() if not p.endswith("|")), tables["wav.scp"])
    return Clips(by_split["train"], by_split["dev"], by_split["test"], rate=int(value(config, f"{DATA}.rate")))


def ss_clips(config: Mapping[str, Any]) -> Clips:
    """The clips of speech separation. Source: s3prl/downstream/separation_stft2."""
    by_split: dict[str, list[Path]] = {}
    for split in ("train", "dev", "test"):
        names: dict[str, set[str]] = {}
        by_split[split] = []
        parts: Sequence[str] = [*value(config, f"{DATA}.src"), *value(config, f"{DATA}.tgt")]
        for part in parts:
            table = file(config, f"{LOADER}.{split}_dir", part, "wav.scp")
            wav_of = dict(line for line in lines(table) if len(line) == 2)
            names[part] = set(wav_of)
            by_split[split] += existing(map(Path, wav_of.values()), table)
            if unpaired := sorted(names[part] ^ names[parts[0]]):
                raise ValueError(f"{table}: {unpaired[0]} is not in all of {', '.join(parts)}")
    return Clips(by_split["train"], by_split["dev"], by_split["test"], rate=int(value(config, f"{DATA}.rate")))


def under(section: str, *names: str) -> tuple[str, ...]:
    """The dotted names of fields in a section."""
    return tuple(f"{section}.{name}" for name in names)


UTTERANCE = under("downstream_expert.modelrc", "projector_dim", "select")
BATCHES = ("train_batch_size", "eval_batch_size", "num_workers")
DIRS = ("train_dir", "dev_dir", "test_dir", "train_batchsize", "eval_batchsize", "num_workers")

TASKS: dict[str, SuperbTask] = {
    "speech_commands": SuperbTask(
        UTTERANCE + under(DATA, "speech_commands_root", "speech_commands_test_root", "num_workers", "batch_size"),
        ks_clips,
    ),
    "voxceleb1": SuperbTask(UTTERANCE + under(DATA, "file_path", "meta_data", "max_timestep", *BATCHES), sid_clips),
    "emotion": SuperbTask(UTTERANCE + under(DATA, "root", "meta_data", "pre_load", "valid_ratio", *BATCHES), er_clips),
    "fluent_commands": SuperbTask(UTTERANCE + under(DATA, "file_path", *BATCHES), ic_clips),
    "sv_voxceleb1": SuperbTask(
        under("downstream_expert.modelrc", "module", "input_dim", "agg_module", "utter_module", "module_config")
        + under("downstream_expert.modelrc", "ObjectiveLoss", "LossConfig")
        + under(DATA, "vad_config.min_sec", "file_path", "train_meta_data", "dev_meta_data", "test_meta_data")
        + under(DATA, "max_timestep", *BATCHES),
        asv_clips,
    ),
    "ctc": SuperbTask(
        under(CORPUS, "name", "path", "lexicon", "train", "dev", "test", "bucketing", "batch_size")
        + under("downstream_expert.text", "mode", "vocab_file")
        + under("downstream_expert.model", "project_dim", "zero_infinity", "select")
        + under("downstream_expert", "metric_higher_better", "metric"),
        pr_clips,
    ),
    "phone_linear": SuperbTask(
        ("downstream_expert.modelrc.none", *under(DATA, "libri_root", "phone_path", "bucket_file", *BATCHES)),
        phone_clips,
    ),
    "diarization": SuperbTask(
        under(DATA, "chunk_size", "subsampling", "label_delay", "num_speakers", "rate")
        + under(LOADER, *DIRS)
        + under("downstream_expert", "scorerc.save_predictions", "modelrc.rnn_layers", "modelrc.hidden_size"),
        sd_clips,
    ),
    "separation_stft2": SuperbTask(
        under(DATA, "num_speakers", "rate", "src", "tgt", "n_fft", "win_length", "window", "center")
        + under(LOADER, *DIRS)
        + under("downstream_expert.modelrc", "model", "rnn", "rnn_layers", "hidden_size", "loss_type", "mask_type"),
        ss_clips,
    ),
}
