"""Which engine is fastest on this machine: measured once, then remembered in the user's cache folder."""

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
ENOUGH_SECONDS = 1.0
"""A measurement ends after this long, or after all its rounds."""
PACKAGES = ("maeast-upstream", "torch", "openvino", "onnxruntime", "onnx")


def measure(works: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Least seconds of each of ``works``, called in turn; the first call of each, which may compile, is not counted."""
    for work in works.values():
        work()
    least = dict.fromkeys(works, float("inf"))
    start = time.perf_counter()
    for _ in range(ROUNDS):
        for name, work in works.items():
            begun = time.perf_counter()
            work()
            least[name] = min(least[name], time.perf_counter() - begun)
        if time.perf_counter() - start > ENOUGH_SECONDS:
            break
    return least


def cache_path() -> Path:
    """Where measurements are kept: $XDG_CACHE_HOME, or ~/.cache; RuntimeError for a user without a home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maeast" / "engines.json"


def remembered(key: str) -> dict[str, float] | None:
    """The seconds measured under this key, None if there are none or the file is not ours to read."""
    seconds = _read().get(key)
    if not isinstance(seconds, dict) or not all(type(value) is float for value in seconds.values()):
        return None
    return seconds


def remember(key: str, seconds: dict[str, float]) -> None:
    """Keep a measurement; a folder that cannot be written to only means that it is measured again."""
    try:
        path = cache_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_text(json.dumps({**_read(), key: seconds}, indent=1))
    except (OSError, ValueError, RuntimeError):
        return


def key_of(config: ModelConfig, precision: str, streams: int = 1) -> str:
    """A measurement holds for this processor, number of threads and streams, packages, model and precision."""
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
    """The CPU's name, with what it can do where Linux says so: names alone repeat between generations."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "\n".join(sorted({line for line in lines if line.startswith(("model", "cpu family", "flags", "Features"))}))


def version(package: str) -> str:
    """Its installed version, "" where it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _read() -> dict[str, object]:
    try:
        kept = json.loads(cache_path().read_text())
    except (OSError, ValueError, RuntimeError):
        return {}
    return kept if isinstance(kept, dict) else {}
