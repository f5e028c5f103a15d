"""A decoding process that crashes, hangs or fails as the names of its files tell, for the tests of `DecodePool`."""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from maeast_upstream.audio.reading import DecodedAudio
from maeast_upstream.decoding import protocol, stream, worker

attempt, send_answer = worker.attempt, worker.send_answer


def evil_attempt(segment, join):
    name = Path(segment.path).name
    evil_send_answer.path = segment.path
    if log := os.environ.get("EVIL_LOG"):
        with Path(log).open("a") as file:
            file.write(f"{os.getpid()} {name}\n")
    if not (name.startswith("once ") and Path(log).read_text().count(f" {name}\n") > 1):
        for word, deed in DEEDS.items():
            if name.removeprefix("once ").startswith(word):
                deed()
    return attempt(segment, join)


def evil_send_answer(answers, answer):
    """Answer as the name of the file tells: stop or die within the answer, or send what is none."""
    name = Path(evil_send_answer.path).name
    if name.startswith("once ") and Path(os.environ["EVIL_LOG"]).read_text().count(f" {name}\n") > 1:
        name = ""
    words = name.removeprefix("once ").split(".")[0].split(" ")
    if words[0] == "within":
        size = len(answer.samples) * 4
        whole = protocol.ANSWER_HEADER.pack(protocol.SAMPLES, 0, size) + answer.samples.tobytes()
        answers.write(whole[: {"header": 5, "body": 1000, "end": len(whole) - 1}[words[1]]])
        answers.flush()
        os.kill(os.getpid(), getattr(signal, words[2]))
        time.sleep(1000)
    elif words[0] == "answer":
        answer_type, notes, size = (int(word, 0) for word in words[1:4])
        answers.write(protocol.ANSWER_HEADER.pack(answer_type, notes, size) + b"\xff" * 100)
        answers.flush()
        time.sleep(1000)
    elif words[0] == "endless":
        while True:
            protocol.send_block(answers, answer.samples[: stream.BLOCK_SAMPLES])
    else:
        send_answer(answers, answer)


def late(segment, join, name, decode):
    """Do the deed after half of the file, at the first attempt only if it is to be done once."""
    word = name.removeprefix("once ").removeprefix("late ").split(".")[0]
    is_first = Path(os.environ["EVIL_LOG"]).read_text().count(f" {name}\n") == 1

    def half(blocks):
        samples = np.concatenate(list(blocks))
        yield samples[: len(samples) // 2]
        if is_first or not name.startswith("once "):
            {**DEEDS, "fault": fail}[word]()
        yield samples[len(samples) // 2 :]

    return decode(segment, lambda blocks: join(half(blocks)))


def drip(segment, join, decode):
    """Decode a fifth of the file a second."""

    def fifths(blocks):
        for part in np.array_split(np.concatenate(list(blocks)), 5):
            time.sleep(1)
            yield part

    return decode(segment, lambda blocks: join(fifths(blocks)))


def fail():
    raise RuntimeError("a fault\nin two lines")


DEEDS = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(3),
    "segfault": lambda: ctypes.string_at(0),
    "hang": lambda: time.sleep(1000),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "slow": lambda: time.sleep(0.2),
    "spin": lambda: all(True for _ in iter(int, 1)),
}


def main():
    worker.attempt, worker.send_answer = evil_attempt, evil_send_answer
    if samples := os.environ.get("EVIL_BLOCK_SAMPLES"):
        stream.BLOCK_SAMPLES = int(samples)
    if marker := os.environ.get("EVIL_START"):
        deed, path = marker.split(":")
        if not Path(path).exists():
            Path(path).touch()
            DEEDS[deed]()
            sys.exit(1)
    decode = worker.decode_segment

    def decode_segment(segment, join):
        name = Path(segment.path).name
        if name.startswith("fault"):
            fail()
        if name.startswith("memory"):
            raise MemoryError
        if name.startswith("hog"):
            return bytearray(4 << 30)
        if name.startswith("note"):
            return DecodedAudio(decode(segment, join).samples, ("the first", "caf\udce9 the second"))
        if name.startswith("drip"):
            return drip(segment, join, decode)
        if name.removeprefix("once ").startswith("late"):
            return late(segment, join, name, decode)
        return decode(segment, join)

    worker.decode_segment = decode_segment
    worker.main()
