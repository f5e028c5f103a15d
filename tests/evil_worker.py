"""A decoding process that crashes, hangs or fails as the names of its files tell, for the tests of `DecodePool`."""

import ctypes
import os
import signal
import time
from pathlib import Path

from maeast_upstream.audio.reading import DecodedAudio
from maeast_upstream.decoding import worker

attempt = worker.attempt


def evil_attempt(segment):
    name = Path(segment.path).name
    if log := os.environ.get("EVIL_LOG"):
        with Path(log).open("a") as file:
            file.write(f"{os.getpid()} {name}\n")
    for word, deed in DEEDS.items():
        if name.startswith(word):
            deed()
    return attempt(segment)


def fail():
    raise RuntimeError("a fault\nin two lines")


DEEDS = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(3),
    "segfault": lambda: ctypes.string_at(0),
    "hang": lambda: time.sleep(1000),
    "slow": lambda: time.sleep(0.2),
    "spin": lambda: all(True for _ in iter(int, 1)),
}


def main():
    worker.attempt = evil_attempt
    decode = worker.decode_segment

    def decode_segment(segment):
        if "fault" in segment.path:
            fail()
        if "memory" in segment.path:
            raise MemoryError
        if "note" in segment.path:
            return DecodedAudio(decode(segment).samples, ("the first", "caf\udce9 the second"))
        return decode(segment)

    worker.decode_segment = decode_segment
    worker.main()
