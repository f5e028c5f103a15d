"""The log of readings of test sets: each line is one that cannot be taken back."""

import csv
import datetime
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HEADER = ["date", "commit", "system", "model", "readout", "set", "clips"]
READINGS_HELP = "append a line for each reading of test: date, commit, weights, readout, set"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Of one system on one labelled set."""

    system: str
    digest: str
    """Of its weights or of its feature file; empty where there is none."""
    readout: str
    set: str
    clips: int
    """In its test split."""


def begin_log(path: Path | None) -> None:
    """Before any work: see that lines can be appended to the log, and give a new one its header.

    Raises:
        ValueError: a file that is no such log.
        OSError: not writable.
    """
    if path is None:
        return
    with path.open("a+", newline="", encoding="utf-8") as file:
        file.seek(0)
        text = file.read() if path.is_file() else ""
        if text and (text.splitlines()[0].split(",") != HEADER or not text.endswith("\n")):
            raise ValueError(f"{path}: not a log of readings; its first line would be {','.join(HEADER)}")
        if not text:
            csv.writer(file, lineterminator="\n").writerow(HEADER)


def log_readings(path: Path, readings: Iterable[Reading]) -> None:
    """Append a line for each: when, by which commit of this checkout, of which weights.

    Raises:
        ValueError, OSError: as in `begin_log`.
    """
    begin_log(path)
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    commit = commit_of(path.resolve().parent)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        for one in readings:
            writer.writerow([date, commit, one.system, one.digest[:12], one.readout, one.set, one.clips])


def commit_of(folder: Path) -> str:
    """The commit that is checked out in ``folder``; empty outside git."""
    command = ["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
