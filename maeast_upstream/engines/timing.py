"""Measures which engine is fastest on this machine, and remembers it in the user's cache folder."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from maeast_upstream.model import ModelConfig
from maeast_upstream.storage.atomic import replacing

ROUNDS = 5
MAX_SECONDS = 1.0
"""A measurement ends after this time, or after all its rounds."""
MAX_KEYS, MAX_BYTES = 256, 1 << 20
"""Limits of the file: the oldest measurements go, and a larger file is not read."""
PACKAGES = ("maeast-upstream", "torch", "openvino", "onnxruntime", "onnx")


def clock_of(device: torch.device, threads: int) -> Callable[[], float]:
    """The clock that times a device: it gives seconds of an idle machine, also where other programs keep it busy.

    Args:
        device: Where the model is.
        threads: Of torch in all streams, among which the processor time of this process is divided on a CPU.
    """
    return (lambda: time.process_time() / threads) if device.type == "cpu" else time.perf_counter


def measure(
    works: Mapping[str, Callable[[], object]], clock: Callable[[], float] = time.perf_counter, rounds: int = ROUNDS
) -> dict[str, float]:
    """The shortest time of each call in seconds. Calls take turns; the first of each may compile and is left out."""
    for work in works.values():
        work()
    least = dict.fromkeys(works, float("inf"))
    start = time.perf_counter()
    for _ in range(rounds):
        for name, work in works.items():
            begun = clock()
            work()
            least[name] = min(least[name], clock() - begun)
        if time.perf_counter() - start > MAX_SECONDS:
            break
    return least


def cache_path() -> Path:
    """The file with the measurements, in $XDG_CACHE_HOME or ~/.cache; RuntimeError for a user without a home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maeast" / "engines.json"


def remembered(key: str) -> dict[str, Any]:
    """What was stored under this key; empty if there is nothing or the file cannot be read."""
    found = _read().get(key)
    return found if isinstance(found, dict) else {}


def remember(key: str, facts: Mapping[str, Any]) -> None:
    """Add facts to those under this key. Where the folder cannot be written to, the next process measures again."""
    try:
        path = cache_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = _read()
        mine = {**remembered(key), **facts}
        stored = {**{name: value for name, value in stored.items() if name != key}, key: mine}
        with replacing(path) as part:
            part.write_text(json.dumps(dict(list(stored.items())[-MAX_KEYS:]), indent=1))
    except (OSError, ValueError, RuntimeError):
        return


def key_of(config: ModelConfig, **facts: Any) -> str:
    """A key of everything on which a measurement depends: processor, threads, packages, model, and other ``facts``."""
    facts |= {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "packages": {name: version(name) for name in PACKAGES},
        "model": dataclasses.asdict(config),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def processor() -> str:
    """The CPU's name, on Linux with its instruction sets, because generations share names."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "\n".join(sorted({line for line in lines if line.startswith(("model", "cpu family", "flags", "Features"))}))


def instruction_sets() -> set[str]:
    """The processor's instruction sets as Linux names them; empty on other systems."""
    lines = [line for line in processor().splitlines() if line.startswith(("flags", "Features"))]
    return {name for line in lines for name in line.partition(":")[2].split()}


def version(package: str) -> str:
    """The installed version of a package, "" if it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _read() -> dict[str, Any]:
    try:
        path = cache_path()
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return {}
        stored = json.loads(path.read_text())
    except (OSError, ValueError, RuntimeError):  # a RecursionError, of many brackets, is a RuntimeError
        return {}
    return stored if isinstance(stored, dict) else {}
