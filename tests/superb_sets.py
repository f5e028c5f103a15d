"""Small data for every task of s3prl, made of the real clips in tests/data, each with a config of few steps."""

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import soundfile

from maeast_upstream.superb_config import config_path, read_config
from maeast_upstream.superb_data import main as superb_data

DATA = Path(__file__).parent / "data"
RATE = 16_000
WORDS = {"right": "R AY1 T", "seven": "S EH1 V AH0 N", "six": "S IH1 K S", "stop": "S T AA1 P", "yes": "Y EH1 S"}
SPLITS = ("train", "dev", "test")


def labelled():
    """(label, split, path) of the clips."""
    with (DATA / "labels.csv").open(newline="") as file:
        return [(row["label"], row["split"], DATA / row["path"]) for row in csv.DictReader(file)]


def sounds(*labels):
    """Samples of the clips of these labels, for ever in turn."""
    paths = [path for label, _, path in labelled() if label in labels]
    return itertools.cycle([soundfile.read(path, dtype="float32")[0] for path in paths])


def joined(clips, seconds):
    """Clips one after the other, cut to a length."""
    parts, have = [], 0
    while have < seconds * RATE:
        parts.append(next(clips))
        have += len(parts[-1])
    return np.concatenate(parts)[: round(seconds * RATE)]


def write(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE)
    return path


def few(config, steps=2, batch=4):
    """A config for a run of seconds."""
    runner = config["runner"]
    runner.update(total_steps=steps, log_step=1, eval_step=steps, save_step=1, gradient_accumulate_steps=1)
    small = {"num_workers": 0, "batch_size": batch, "train_batch_size": batch, "train_batchsize": batch}
    for section in ("datarc", "loaderrc", "corpus"):
        part = config["downstream_expert"].get(section, {})
        part.update({name: value for name, value in small.items() if name in part})
    return config


def own(folder, task, per_class=6, labels=("yes", "stop", "six", "zero")):
    """KS, SID or ER made by ``maeast superb-data`` of some of the clips."""
    rows = []
    for label in labels:
        mine = [row for row in labelled() if row[0] == label]
        rows += sorted(mine, key=lambda row: row[1] == "train")[:per_class]
    table = folder / f"{task}.csv"
    table.write_text("path,label,split\n" + "".join(f"{path},{label},{split}\n" for label, split, path in rows))
    out = folder / task
    assert superb_data([task, str(table), "-o", str(out), *(["--noise", "made"] if task == "ks" else [])]) == 0
    return few(read_config(out / "config.yaml"))


def fluent_commands(folder):
    slots = {"kick": "play,drum,low", "snare": "play,drum,high", "yes": "say,word,low", "stop": "say,word,high"}
    for split, name in (("train", "train"), ("valid", "valid"), ("test", "test")):
        table = folder / "data" / f"{name}_data.csv"
        table.parent.mkdir(parents=True, exist_ok=True)
        lines = ["path,action,object,location"]
        for label, where, path in labelled():
            if where == split and label in slots:
                wav = write(folder / "wavs" / f"{path.stem}.wav", soundfile.read(path, dtype="float32")[0])
                lines.append(f"wavs/{wav.name},{slots[label]}")
        table.write_text("\n".join(lines) + "\n")
    return {"file_path": str(folder)}


def sv_voxceleb1(folder):
    trials = {}
    for part, speakers in (("dev", ("kick", "yes", "zero")), ("test", ("tom", "seven"))):
        files = []
        for speaker in speakers:
            clips = sounds(speaker)
            for number in range(3):
                name = f"{speaker}/v/{number}.wav"
                write(folder / part / "wav" / name, joined(clips, 6.0))
                files.append(name)
        pairs = itertools.combinations(files, 2)
        text = "".join(f"{int(a.split('/')[0] == b.split('/')[0])} {a} {b}\n" for a, b in pairs)
        trials[part] = folder / f"{part}.txt"
        trials[part].write_text(text)
    return {
        "file_path": str(folder),
        "train_meta_data": str(trials["dev"]),
        "dev_meta_data": str(trials["dev"]),
        "test_meta_data": str(trials["test"]),
    }


def ctc(folder):
    spoken = {word: sounds(word) for word in WORDS}
    for split, count in (("train-clean-100", 8), ("dev-clean", 2), ("test-clean", 2)):
        lines = []
        for number in range(count):
            words = [list(WORDS)[(number + step) % len(WORDS)] for step in range(2 + number % 2)]
            name = f"1-2-{number:04d}"
            write(folder / split / "1" / "2" / f"{name}.flac", np.concatenate([next(spoken[word]) for word in words]))
            lines.append(f"{name} {' '.join(words).upper()}\n")
        (folder / split / "1" / "2" / "1-2.trans.txt").write_text("".join(lines))
    lexicon, vocabulary = folder / "lexicon.txt", folder / "phones.txt"
    lexicon.write_text("".join(f"{word.upper()} {phones}\n" for word, phones in WORDS.items()))
    phones = sorted({phone for line in WORDS.values() for phone in line.split()})
    vocabulary.write_text("\n".join(["SIL", "SPN", *phones]) + "\n")
    return {"path": str(folder), "lexicon": [str(lexicon)], "vocab_file": str(vocabulary)}


def phone_linear(folder):
    clips = sounds(*WORDS)
    names, rows = [], ["file_path,length"]
    for number in range(28):
        samples = next(clips)
        names.append(f"1-2-{number:04d}")
        write(folder / "train-clean-100" / f"{names[-1]}.flac", samples)
        rows.append(f"train-clean-100/{names[-1]}.flac,{len(samples) // 160}")
    lengths = [int(row.split(",")[1]) for row in rows[1:]]
    text = "".join(
        f"{name} {' '.join(str((i // 10 + number) % 41) for i in range(length))}\n"
        for number, (name, length) in enumerate(zip(names, lengths, strict=True))
    )
    (folder / "converted_aligned_phones.txt").write_text(text)
    (folder / "train_split.txt").write_text("\n".join(names[:24]) + "\n")
    (folder / "test_split.txt").write_text("\n".join(names[24:]) + "\n")
    (folder / "train-clean-100.csv").write_text("\n".join(rows) + "\n")
    return {"libri_root": str(folder), "phone_path": str(folder), "bucket_file": str(folder)}


def diarization(folder):
    speakers = {"one": sounds("yes", "stop"), "two": sounds("seven", "zero")}
    for split in SPLITS:
        part = folder / split
        tables = {name: [] for name in ("wav.scp", "segments", "utt2spk", "spk2utt", "reco2dur")}
        for number in range(2):
            name, turns = f"{split}{number}", []
            for turn, speaker in enumerate(("one", "two", "one", "two")):
                samples = joined(speakers[speaker], 1.5)
                start = sum(map(len, turns)) / RATE
                turns.append(samples)
                utterance = f"{name}-{turn}"
                tables["segments"].append(f"{utterance} {name} {start:.2f} {start + 1.5:.2f}")
                tables["utt2spk"].append(f"{utterance} {name}-{speaker}")
                tables["spk2utt"].append(f"{name}-{speaker} {utterance}")
            wav = write(part / "wav" / f"{name}.wav", np.concatenate(turns))
            tables["wav.scp"].append(f"{name} {wav}")
            tables["reco2dur"].append(f"{name} {sum(map(len, turns)) / RATE:.2f}")
        for name, lines in tables.items():
            (part / name).write_text("\n".join(lines) + "\n")
    return {f"{split}_dir": str(folder / split) for split in SPLITS}


def separation_stft2(folder):
    ones, others = sounds("yes", "stop"), sounds("seven", "zero")
    for split in SPLITS:
        for number in range(2):
            one, other = joined(ones, 2.0), joined(others, 2.0)
            for part, samples in (("mix_clean", (one + other) / 2), ("s1", one / 2), ("s2", other / 2)):
                wav = write(folder / split / part / f"{number}.wav", samples)
                with (folder / split / part / "wav.scp").open("a") as file:
                    file.write(f"{split}{number} {wav}\n")
    return {f"{split}_dir": str(folder / split) for split in SPLITS}


MAKERS = (fluent_commands, sv_voxceleb1, ctc, phone_linear, diarization, separation_stft2)


def make(task, folder):
    """Data for a task in ``folder``, and a config for a run of a few steps on it."""
    heads = {"speech_commands": "ks", "voxceleb1": "sid", "emotion": "er"}
    folder.mkdir(parents=True, exist_ok=True)
    if task in heads:
        return own(folder, heads[task])
    fields = next(maker for maker in MAKERS if maker.__name__ == task)(folder)
    config = few(read_config(config_path(task)))
    for section in config["downstream_expert"].values():
        if isinstance(section, dict):
            section.update({name: value for name, value in fields.items() if name in section})
    return config


if __name__ == "__main__":
    import sys

    import yaml

    for name in sys.argv[2:]:
        path = Path(sys.argv[1]) / name
        (Path(sys.argv[1]) / f"{name}.yaml").write_text(yaml.safe_dump(make(name, path)))
        print(json.dumps(str(path)))
