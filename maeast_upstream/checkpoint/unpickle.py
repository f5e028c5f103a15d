"""Reads pickled checkpoints without running any code in them.

A file that fairseq wrote holds objects of fairseq's own classes, which ``torch.load(weights_only=True)`` refuses. This
module reads such a file: each class or function that its pickle names becomes an inert stand-in, or the file is
refused; then the requested entries are made from what the stand-ins hold. No function that the file names is called.

torch's `safe_globals` cannot replace this: its unpickler refuses the items of a foreign mapping, such as a defaultdict.
"""

import io
import math
import pickle
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

FOREIGN_PREFIXES = ("fairseq.", "omegaconf.", "mae_ast.")
"""Packages whose classes may occur in such files."""
MAPPINGS = {("collections", "OrderedDict"), ("collections", "defaultdict")}
TENSORS = {("torch._utils", "_rebuild_tensor"), ("torch._utils", "_rebuild_tensor_v2")}
PARAMETERS = {("torch._utils", "_rebuild_parameter")}
DTYPES = {
    ("torch", f"{kind}Storage"): dtype
    for kind, dtype in {
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Double": torch.float64,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}
NAMES = {
    *MAPPINGS,
    *TENSORS,
    *PARAMETERS,
    *DTYPES,
    ("argparse", "Namespace"),
    ("torch", "Size"),
    ("_codecs", "encode"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    # types of values, which omegaconf stores beside them
    ("typing", "Any"),
    *(
        (module, name)
        for module in ("builtins", "__builtin__")
        for name in ("dict", "list", "tuple", "int", "float", "str", "bool", "unicode", "long", "NoneType")
    ),
}
LEGACY_PICKLES = 5
"""A file of torch before 1.6 is not a zip archive but this number of pickles in a row, then the weights."""


class RefusedError(ValueError):
    """The file names a class or function that no checkpoint needs."""


class StandIn:
    """Stands for an object of a class in the file: it keeps its arguments, state and items, and does nothing."""

    name = ("", "")
    """Module and name of the class."""

    args: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> "StandIn":
        """Keep the arguments here, because pickle makes some objects without calling ``__init__``."""
        stand_in = super().__new__(cls)
        stand_in.args, stand_in.state, stand_in.items = args, None, {}
        return stand_in

    def __setstate__(self, state: Any) -> None:
        """Keep the state of any type."""
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Keep an item of a mapping."""
        self.items[key] = value

    def append(self, item: Any) -> None:
        """Ignore an item of a list."""

    def extend(self, items: Any) -> None:
        """Ignore the items of a list."""

    def add(self, item: Any) -> None:
        """Ignore an item of a set."""


@dataclass(frozen=True, slots=True)
class _Storage:
    """The entry of the archive that holds the values of a tensor."""

    key: str
    dtype: torch.dtype | None


def load(path: Path, entries: Sequence[str]) -> Any:
    """Read a checkpoint file, with its tensors on the CPU.

    Args:
        path: The file.
        entries: The keys to return where the file is a mapping that torch alone refuses.

    Raises:
        RefusedError: The file names a class or function that no checkpoint needs; no code of it was run.
        ValueError: It is not a checkpoint that torch wrote, or is broken.
        OSError: The file cannot be opened.
    """
    path.open("rb").close()
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as first:  # torch raises many types; whether the file is usable is decided below
        reason = first
    try:
        return _load_with_stand_ins(path, entries)
    except RefusedError as error:
        raise RefusedError(f"{path}: refused, because it asks for {error}; nothing of it was run") from None
    except Exception as error:  # a broken file can raise anything
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"{path}: not a checkpoint that torch wrote, or a broken one ({what})") from reason


def _load_with_stand_ins(path: Path, entries: Sequence[str]) -> Any:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            for _ in range(LEGACY_PICKLES):
                _Unpickler(file).load()
        raise ValueError("foreign classes in a file of torch before 1.6; save it again with a later torch")
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if len(names) != 1:
            raise ValueError(f"{len(names)} pickles; expected one")
        root = names[0].removesuffix("data.pkl")
        reader = _Reader(archive, root)
        content = _Unpickler(io.BytesIO(reader.read("data.pkl"))).load()
        if f"{root}byteorder" in archive.namelist() and reader.read("byteorder") != b"little":
            raise ValueError("written on a big-endian machine")
        if not isinstance(content, dict):
            return None
        return {name: reader.plain(content[name]) for name in entries if name in content}


class _Unpickler(pickle._Unpickler):
    """Makes stand-ins only. Python's version, because in C a number in the file can make the memo grow to any size."""

    def find_class(self, module: str, name: str) -> type[StandIn]:
        if (module, name) not in NAMES and not module.startswith(FOREIGN_PREFIXES):
            raise RefusedError(f"{module}.{name}")
        return type("StandIn", (StandIn,), {"name": (module, name)})

    def get_extension(self, code: int) -> NoReturn:
        raise RefusedError(f"the extension {code}")

    def persistent_load(self, pid: Any) -> _Storage:
        tag, storage, key, *_ = pid
        if tag != "storage" or not isinstance(key, str):
            raise ValueError(f"a reference to {tag!r}; expected storage")
        return _Storage(key, DTYPES.get(storage.name))


class _Reader:
    """Converts stand-ins to plain data and tensors."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self.archive = archive
        self.root = root
        self.converted: dict[int, Any] = {}

    def read(self, name: str) -> bytes:
        """Return an entry of the archive. Compressed ones are refused, because they may unpack to any size."""
        info = self.archive.getinfo(self.root + name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed; torch never compresses")
        return self.archive.read(info)

    def plain(self, value: Any) -> Any:
        """Convert a value: a mapping or omegaconf config to its items, a namespace to its attributes."""
        if not isinstance(value, (StandIn, dict, list, tuple)):
            return value
        if id(value) not in self.converted:
            self.converted[id(value)] = None  # stands for a value inside itself
            self.converted[id(value)] = self._convert(value)
        return self.converted[id(value)]

    def _convert(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self.plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.plain(item) for item in value]
        if value.name in MAPPINGS:
            return {key: self.plain(item) for key, item in value.items.items()}
        if value.name in TENSORS:
            return self._tensor(*value.args[:4])
        if value.name in PARAMETERS:
            return self.plain(value.args[0])
        return self.plain(_content(value))

    def _tensor(self, storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        if storage.dtype is None:
            raise ValueError("a tensor of an unknown type")
        data = bytearray(self.read(f"data/{storage.key}"))
        values = torch.frombuffer(data, dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)
        if math.prod(size) > len(values):
            raise ValueError(f"a tensor of shape {tuple(size)} in a storage of {len(values)} values")
        return values.as_strided(size, stride, offset).clone()


def _content(value: StandIn) -> Any:
    """Return the state of a foreign object; of omegaconf's nodes and of members of an enumeration, the value itself."""
    state = value.state
    if isinstance(state, tuple) and len(state) == 2:  # a class with __slots__
        state = {**(state[0] or {}), **(state[1] or {})}
    for entry in ("_content", "_val"):
        if isinstance(state, dict) and entry in state:
            return state[entry]
    if state is None and len(value.args) == 1:
        return value.args[0]
    return state
