"""IC, ASV, PR, phones, SD and SS at some length: ``python superb_tasks.py LABELLED_SETS OUT TASK STEPS [UPSTREAM]``.

The data are made of the labelled sets keywords_tts (words) and game_voices (speakers): whatever a set keeps apart stays
apart. Prints one line: the seconds of training and evaluation, and what s3prl says of the test split.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import yaml
from superb_sets import labelled, make, sounds

PHONES = {
    "down": "D AW N", "eight": "EY T", "five": "F AY V", "four": "F AO R", "go": "G OW", "left": "L EH F T",
    "nine": "N AY N", "no": "N OW", "off": "AO F", "on": "AA N", "one": "W AH N", "right": "R AY T",
    "seven": "S EH V AH N", "six": "S IH K S", "stop": "S T AA P", "three": "TH R IY", "two": "T UW", "up": "AH P",
    "yes": "Y EH S", "zero": "Z IH R OW",
}  # fmt: skip
SLOTS = {
    "left": "move,sideways,low", "right": "move,sideways,high", "down": "move,upright,low", "up": "move,upright,high",
    "off": "switch,power,low", "on": "switch,power,high", "stop": "switch,motion,low", "go": "switch,motion,high",
    "no": "answer,question,low", "yes": "answer,question,high",
    "zero": "count,even,low", "two": "count,even,low", "four": "count,even,low", "six": "count,even,high",
    "eight": "count,even,high", "one": "count,odd,low", "three": "count,odd,low", "five": "count,odd,high",
    "seven": "count,odd,high", "nine": "count,odd,high",
}  # fmt: skip
FINE = ("sv_voxceleb1", "ctc", "separation_stft2")
"""Heads that patch models serve at 40 ms."""


def material(task: str, sets: Path) -> dict[str, object]:
    """What `superb_sets.make` takes for a task."""
    words, voices = sets / "keywords_tts", sets / "game_voices"
    speakers = sorted({label for label, _, _ in labelled(voices)})
    apart = {"train": speakers[:9], "dev": speakers[9:12], "test": speakers[12:]}

    def spoken(split: str) -> dict[str, object]:
        return {word: sounds(word, folder=words, splits=(split,)) for word in PHONES}

    def heard(split: str) -> dict[str, object]:
        return {name: sounds(name, folder=voices) for name in apart[split]}

    return {
        "fluent_commands": lambda: {"clips": labelled(words), "slots": SLOTS},
        "phone_linear": lambda: {"clips": labelled(words), "words": PHONES},
        "ctc": lambda: {
            "spoken": [spoken(split) for split in ("train", "valid", "test")],
            "words": PHONES,
            "counts": (400, 40, 80),
        },
        "sv_voxceleb1": lambda: {"speakers": {"dev": heard("train"), "test": heard("test")}, "utterances": 12},
        "diarization": lambda: {"speakers": [list(heard(split).values()) for split in apart], "recordings": 60},
        "separation_stft2": lambda: {"speakers": [list(heard(split).values()) for split in apart], "recordings": 60},
    }[task]()


def main(sets: Path, out: Path, task: str, steps: int, upstream: str = "mae_ast") -> None:
    """Make the data, train, evaluate, print."""
    folder = out / f"{task}-{upstream}"
    folder.mkdir(parents=True)
    config = make(task, folder / "data", steps, batch=8, **material(task, sets))
    config["runner"].update(log_step=50, save_step=steps)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "maeast_upstream.run_downstream", "--device", "cpu"]
    train = ["-m", "train", "-u", upstream, "-d", task, "-c", str(folder / "config.yaml"), "-p", str(folder / "run")]
    if upstream == "mae_ast" and task in FINE:
        (folder / "fine.yaml").write_text("hop_ms: 40\n")
        train += ["-g", str(folder / "fine.yaml")]
    evaluate = ["-m", "evaluate", "-e", str(folder / "run" / f"states-{steps}.ckpt"), "-t", "test"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    seconds = []
    for options in (train, evaluate):
        begun = time.perf_counter()
        with (folder / "log.txt").open("a") as log:
            subprocess.run([*command, *options], check=True, env=env, cwd=folder, stdout=log, stderr=log)
        seconds.append(time.perf_counter() - begun)
    lines = (folder / "log.txt").read_text().splitlines()
    said = [line for line in lines if "test" in line and ":" in line and "it/s" not in line][-3:]
    print(task, upstream, steps, *(f"{value:.0f} s" for value in seconds), *said, sep=" | ", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), *sys.argv[5:])
