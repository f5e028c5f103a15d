"""Small data for every task of s3prl, made of the real clips in tests/data, each with a config of few steps."""

import csv
import itertools
import json
import random
from pathlib import Path

import numpy as np
import soundfile

from maeast_upstream.commands.superb_data import main as superb_data
from maeast_upstream.integrations.s3prl.configs import config_path, read_config

DATA = Path(__file__).parent / "data"
RATE = 16_000
WORDS = {"right": "R AY1 T", "seven": "S EH1 V AH0 N", "six": "S IH1 K S", "stop": "S T AA1 P", "yes": "Y EH1 S"}
SLOTS = {"kick": "play,drum,low", "snare": "play,drum,high", "yes": "say,word,low", "stop": "say,word,high"}
SPLITS = ("train", "dev", "test")


def labelled(folder=DATA):
    """(label, split, path) of the clips of a labelled set."""
    with (folder / "labels.csv").open(newline="") as file:
        return [(row["label"], row["split"], folder / row["path"]) for row in csv.DictReader(file)]


def sounds(*labels, folder=DATA, splits=("train", "valid", "test")):
    """Samples of the clips of these labels, for ever in turn."""
    paths = [path for label, split, path in labelled(folder) if label in labels and split in splits]
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


def fluent_commands(folder, clips=None, slots=SLOTS):
    """IC: ``clips`` as of `labelled`; ``slots`` says what each label asks for."""
    clips = clips or labelled()
    for split in ("train", "valid", "test"):
        table = folder / "data" / f"{split}_data.csv"
        table.parent.mkdir(parents=True, exist_ok=True)
        lines = ["path,action,object,location"]
        for label, where, path in clips:
            if where == split and label in slots:
                wav = write(folder / "wavs" / f"{path.stem}.wav", soundfile.read(path, dtype="float32")[0])
                lines.append(f"wavs/{wav.name},{slots[label]}")
        table.write_text("\n".join(lines) + "\n")
    return {"file_path": str(folder)}


def sv_voxceleb1(folder, speakers=None, utterances=3):
    """ASV: for dev and test the sounds of each speaker; every pair of utterances is a trial."""
    speakers = speakers or {
        "dev": {name: sounds(name) for name in ("kick", "yes", "zero")},
        "test": {name: sounds(name) for name in ("tom", "seven")},
    }
    trials = {}
    for part, names in speakers.items():
        files = []
        for speaker, clips in names.items():
            for number in range(utterances):
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


def ctc(folder, spoken=None, words=WORDS, counts=(8, 2, 2)):
    """PR: for train, dev and test the sounds of each word; ``words`` has their phones, ``counts`` the utterances."""
    spoken = spoken or [{word: sounds(word) for word in words}] * 3
    chance = random.Random(0)
    for split, voices, count in zip(("train-clean-100", "dev-clean", "test-clean"), spoken, counts, strict=True):
        lines = []
        for number in range(count):
            said = chance.choices(list(words), k=2 + number % 2)
            name = f"1-2-{number:04d}"
            write(folder / split / "1" / "2" / f"{name}.flac", np.concatenate([next(voices[word]) for word in said]))
            lines.append(f"{name} {' '.join(said).upper()}\n")
        (folder / split / "1" / "2" / "1-2.trans.txt").write_text("".join(lines))
    lexicon, vocabulary = folder / "lexicon.txt", folder / "phones.txt"
    lexicon.write_text("".join(f"{word.upper()} {phones}\n" for word, phones in words.items()))
    phones = sorted({phone for line in words.values() for phone in line.split()})
    vocabulary.write_text("\n".join(["SIL", "SPN", *phones]) + "\n")
    return {"path": str(folder), "lexicon": [str(lexicon)], "vocab_file": str(vocabulary)}


def phone_linear(folder, clips=None, words=WORDS):
    """Phones: ``clips`` as of `labelled`; a word's phones are laid over its clip evenly, in want of true alignments."""
    clips = [clip for clip in clips or labelled() if clip[0] in words]
    numbers = {phone: i for i, phone in enumerate(sorted({p for line in words.values() for p in line.split()}), 1)}
    splits, aligned, rows = {"train": [], "test": []}, [], ["file_path,length"]
    for count, (word, split, path) in enumerate(clips):
        samples, name = soundfile.read(path, dtype="float32")[0], f"1-2-{count:04d}"
        write(folder / "train-clean-100" / f"{name}.flac", samples)
        frames, phones = len(samples) // 160, words[word].split()
        said = (numbers[phones[i * len(phones) // frames]] for i in range(frames))
        aligned.append(f"{name} {' '.join(map(str, said))}\n")
        rows.append(f"train-clean-100/{name}.flac,{frames}")
        splits["train" if split == "train" else "test"].append(name)
    (folder / "converted_aligned_phones.txt").write_text("".join(aligned))
    for split, names in splits.items():
        (folder / f"{split}_split.txt").write_text("\n".join(names) + "\n")
    (folder / "train-clean-100.csv").write_text("\n".join(rows) + "\n")
    paths = {"libri_root": str(folder), "phone_path": str(folder), "bucket_file": str(folder)}
    return {**paths, "eval_batch_size": 1}  # s3prl drops a last batch that is not full


def diarization(folder, speakers=None, recordings=2):
    """SD: for train, dev and test the sounds of some speakers, two of whom take turns in each recording."""
    speakers = speakers or [[sounds("yes", "stop"), sounds("seven", "zero")]] * 3
    chance = random.Random(0)
    for split, voices in zip(SPLITS, speakers, strict=True):
        part = folder / split
        tables = {name: [] for name in ("wav.scp", "segments", "utt2spk", "spk2utt", "reco2dur")}
        for number in range(recordings):
            name, turns = f"{split}{number}", []
            pair = [voices[number % len(voices)], voices[(number + 1) % len(voices)]]
            for turn in range(6):
                turns.append(np.zeros(round(chance.uniform(0, 0.6) * RATE), np.float32))
                samples, start = joined(pair[turn % 2], chance.uniform(0.6, 2.0)), sum(map(len, turns)) / RATE
                turns.append(samples)
                utterance, speaker = f"{name}-{turn}", ("one", "two")[turn % 2]
                end = start + len(samples) / RATE
                tables["segments"].append(f"{utterance} {name} {start:.2f} {end:.2f}")
                tables["utt2spk"].append(f"{utterance} {name}-{speaker}")
                tables["spk2utt"].append(f"{name}-{speaker} {utterance}")
            wav = write(part / "wav" / f"{name}.wav", np.concatenate(turns))
            tables["wav.scp"].append(f"{name} {wav}")
            tables["reco2dur"].append(f"{name} {sum(map(len, turns)) / RATE:.2f}")
        for name, lines in tables.items():
            (part / name).write_text("\n".join(lines) + "\n")
    return {f"{split}_dir": str(folder / split) for split in SPLITS}


def separation_stft2(folder, speakers=None, recordings=2):
    """SS: as SD, two speakers at once."""
    speakers = speakers or [[sounds("yes", "stop"), sounds("seven", "zero")]] * 3
    for split, voices in zip(SPLITS, speakers, strict=True):
        for number in range(recordings):
            one, other = (joined(voices[(number + i) % len(voices)], 2.0) for i in range(2))
            for part, samples in (("mix_clean", (one + other) / 2), ("s1", one / 2), ("s2", other / 2)):
                wav = write(folder / split / part / f"{number}.wav", samples)
                with (folder / split / part / "wav.scp").open("a") as file:
                    file.write(f"{split}{number} {wav}\n")
    return {f"{split}_dir": str(folder / split) for split in SPLITS}


MAKERS = (fluent_commands, sv_voxceleb1, ctc, phone_linear, diarization, separation_stft2)


def make(task, folder, steps=2, batch=4, **material):
    """Data for a task in ``folder``, and a config for a run of a few steps on it; ``material`` goes to its maker."""
    heads = {"speech_commands": "ks", "voxceleb1": "sid", "emotion": "er"}
    folder.mkdir(parents=True, exist_ok=True)
    if task in heads:
        return own(folder, heads[task])
    fields = next(maker for maker in MAKERS if maker.__name__ == task)(folder, **material)
    config = few(read_config(config_path(task)), steps, batch)
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
