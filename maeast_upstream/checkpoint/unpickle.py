"""Reads pickled checkpoints without ever running what is in them.

A file straight from fairseq holds fairseq's own classes, which ``torch.load(weights_only=True)`` refuses. Such a file
is read here by our own code: every name in its pickle becomes an inert stand-in, or the file is refused by that name;
then the few entries that are wanted are made from what the stand-ins hold. No function that the file names is called.
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
"""Packages of the programs that wrote such files."""
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
    # omegaconf notes the types of its values beside them
    ("typing", "Any"),
    *(
        (module, name)
        for module in ("builtins", "__builtin__")
        for name in (
            "dict",
            "list",
            "tuple",
            "int",
            "float",
            "str",
            "bool",
            "unicode",
            "long",
            "NoneType",
        )
    ),
}
LEGACY_PICKLES = 5
"""Before torch 1.6 a file was no zip archive but so many pickles in a row, then the weights."""


class RefusedError(ValueError):
    """A checkpoint names something that no checkpoint needs."""


class StandIn:
    """Takes the place of whatever a file names: keeps what it is given, does nothing."""

    name = ("", "")

    args: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> "StandIn":
        """Pickle makes some objects without calling ``__init__``."""
        made = super().__new__(cls)
        made.args, made.state, made.items = args, None, {}
        return made

    def __setstate__(self, state: Any) -> None:
        """Keep the state, whatever it is."""
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Mappings are filled item by item."""
        self.items[key] = value

    def append(self, item: Any) -> None:
        """Lists are filled item by item."""

    def extend(self, items: Any) -> None:
        """Lists are filled in one go."""

    def add(self, item: Any) -> None:
        """Sets are filled item by item."""


@dataclass(frozen=True, slots=True)
class _Storage:
    """Where the values of a tensor lie."""

    key: str
    dtype: torch.dtype | None


def load(path: Path, entries: Sequence[str]) -> Any:
    """The contents of a checkpoint file, tensors on the CPU.

    Args:
        path: a file.
        entries: what is wanted of it, where it is a mapping that torch alone will not read.

    Raises:
        RefusedError: the file names a class or function that no checkpoint needs; nothing of it was run.
        ValueError: not a checkpoint that torch wrote, or a broken one.
        OSError: the file cannot be opened.
    """
    path.open("rb").close()
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as first:  # torch raises many kinds here; whether the file is usable is decided below
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
        raise ValueError("other classes in a file of torch before 1.6; write it again with a later one")
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if len(names) != 1:
            raise ValueError(f"{len(names)} pickles where one was expected")
        root = names[0].removesuffix("data.pkl")
        reader = _Reader(archive, root)
        content = _Unpickler(io.BytesIO(reader.read("data.pkl"))).load()
        if f"{root}byteorder" in archive.namelist() and reader.read("byteorder") != b"little":
            raise ValueError("written on a big-endian machine")
        if not isinstance(content, dict):
            return None
        return {name: reader.plain(content[name]) for name in entries if name in content}


class _Unpickler(pickle._Unpickler):
    """Makes stand-ins only. In Python, not C: there a number in a hostile file makes the memo grow to any size."""

    def find_class(self, module: str, name: str) -> type[StandIn]:
        if (module, name) not in NAMES and not module.startswith(FOREIGN_PREFIXES):
            raise RefusedError(f"{module}.{name}")
        return type("StandIn", (StandIn,), {"name": (module, name)})

    def get_extension(self, code: int) -> NoReturn:
        raise RefusedError(f"the extension {code}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, key, *_ = pid
        if kind != "storage" or not isinstance(key, str):
            raise ValueError(f"a reference to {kind!r} where storage was expected")
        return _Storage(key, DTYPES.get(storage.name))


class _Reader:
    """Makes plain data and tensors from stand-ins."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self.archive = archive
        self.root = root
        self.made: dict[int, Any] = {}

    def read(self, name: str) -> bytes:
        """An entry of the archive; never one that would unpack to more than the file holds."""
        info = self.archive.getinfo(self.root + name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed, which torch never does")
        return self.archive.read(info)

    def plain(self, value: Any) -> Any:
        """What a value holds: the items of a mapping or an omegaconf config, the attributes of a namespace."""
        if not isinstance(value, (StandIn, dict, list, tuple)):
            return value
        if id(value) not in self.made:
            self.made[id(value)] = None  # what contains itself ends here
            self.made[id(value)] = self._make(value)
        return self.made[id(value)]

    def _make(self, value: Any) -> Any:
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
        return self.plain(_held(value))

    def _tensor(
        self,
        storage: _Storage,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
    ) -> Tensor:
        if storage.dtype is None:
            raise ValueError("a tensor of an unknown type")
        data = bytearray(self.read(f"data/{storage.key}"))
        values = torch.frombuffer(data, dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)
        if math.prod(size) > len(values):
            raise ValueError(f"a tensor of shape {tuple(size)} in a storage of {len(values)} values")
        return values.as_strided(size, stride, offset).clone()


def _held(value: StandIn) -> Any:
    """State of an object of a foreign class; the value itself of omegaconf's nodes and of an enumeration's members."""
    state = value.state
    if isinstance(state, tuple) and len(state) == 2:  # a class with __slots__
        state = {**(state[0] or {}), **(state[1] or {})}
    for entry in ("_content", "_val"):
        if isinstance(state, dict) and entry in state:
            return state[entry]
    if state is None and len(value.args) == 1:
        return value.args[0]
    return state
