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

import torch

from maeast_upstream.model import ModelConfig
from maeast_upstream.storage.atomic import replacing

ROUNDS = 5
MAX_SECONDS = 1.0
"""A measurement ends after this time, or after all its rounds."""
PACKAGES = ("maeast-upstream", "torch", "openvino", "onnxruntime", "onnx")


def measure(works: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """The shortest time of each call in seconds. Calls take turns; the first of each may compile and is left out."""
    for work in works.values():
        work()
    least = dict.fromkeys(works, float("inf"))
    start = time.perf_counter()
    for _ in range(ROUNDS):
        for name, work in works.items():
            begun = time.perf_counter()
            work()
            least[name] = min(least[name], time.perf_counter() - begun)
        if time.perf_counter() - start > MAX_SECONDS:
            break
    return least


def cache_path() -> Path:
    """The file with the measurements, in $XDG_CACHE_HOME or ~/.cache; RuntimeError for a user without a home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maeast" / "engines.json"


def remembered(key: str) -> dict[str, float] | None:
    """The seconds measured under this key; None if there are none or the file cannot be read."""
    seconds = _read().get(key)
    if not isinstance(seconds, dict) or not all(type(value) is float for value in seconds.values()):
        return None
    return seconds


def remember(key: str, seconds: dict[str, float]) -> None:
    """Store a measurement. Where the folder cannot be written to, the next process measures again."""
    try:
        path = cache_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_text(json.dumps({**_read(), key: seconds}, indent=1))
    except (OSError, ValueError, RuntimeError):
        return


def key_of(config: ModelConfig, precision: str, streams: int = 1) -> str:
    """A key of everything on which a measurement depends: processor, threads, streams, packages, model, precision."""
    facts = {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "streams": streams,
        "packages": {name: version(name) for name in PACKAGES},
        "model": dataclasses.asdict(config),
        "precision": precision,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def processor() -> str:
    """The CPU's name, on Linux with its instruction sets, because generations share names."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "\n".join(sorted({line for line in lines if line.startswith(("model", "cpu family", "flags", "Features"))}))


def version(package: str) -> str:
    """The installed version of a package, "" if it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _read() -> dict[str, object]:
    try:
        stored = json.loads(cache_path().read_text())
    except (OSError, ValueError, RuntimeError):
        return {}
    return stored if isinstance(stored, dict) else {}
