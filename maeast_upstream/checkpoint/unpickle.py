"""Reads the files of `torch.save` without running any code in them, and without more memory than they hold.

A file is either an archive (see `archive`), or from torch before 1.6: pickles, one behind the other, then the weights.
"""

import io
import math
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from maeast_upstream.checkpoint.archive import open_archive, read_entry, refuse_sparse
from maeast_upstream.checkpoint.stand_ins import (
    MAPPINGS,
    MAX_PICKLE_BYTES,
    PARAMETERS,
    TENSORS,
    BoundedFile,
    RefusedError,
    StandIn,
    Storage,
    Unpickler,
    check_key,
)
from maeast_upstream.checks import quote
from maeast_upstream.messages import shortened

ARCHIVE_MAGIC = b"PK"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of a file of torch before 1.6."""
MAX_ITEMS = 2_000_000
MAX_DIMENSIONS = 8
MAX_SHARED = 2
"""All tensors together may have this many times the bytes of the file, since some may share their values."""
MAX_SIZE = 1 << 48
DATA_NAME = "data.pkl"
LEGACY_COUNT_BYTES = 8

ReadStorage = Callable[[str], bytearray]


def load(path: Path, entries: Sequence[str]) -> Any:
    """Read entries of a checkpoint file, with its tensors on the CPU.

    Args:
        path: The file.
        entries: The keys to return.

    Returns:
        A mapping with those of ``entries`` that the file has; None if it holds no mapping.

    Raises:
        RefusedError: The file names a class or function that no checkpoint needs; no code of it was run.
        ValueError: It is not a checkpoint that torch wrote, or is broken.
        OSError: The file cannot be opened.
    """
    with path.open("rb") as file:
        try:
            refuse_sparse(path)
            if file.read(len(ARCHIVE_MAGIC)) == ARCHIVE_MAGIC:
                with open_archive(path) as archive:
                    return _load_archive(archive, entries, path.stat().st_size)
            file.seek(0)
            return _load_legacy(file, entries, path.stat().st_size)
        except RefusedError as error:
            raise RefusedError(f"{path}: refused, because it asks for {error}; nothing of it was run") from None
        except Exception as error:  # a broken file can raise anything
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            what = shortened(f"{kind}{error}")
            raise ValueError(f"{path}: not a checkpoint that torch wrote, or a broken one ({what})") from error


def _load_archive(archive: zipfile.ZipFile, entries: Sequence[str], file_bytes: int) -> Any:
    names = [name for name in archive.namelist() if name.rpartition("/")[2] == DATA_NAME]
    if len(names) != 1:
        raise ValueError(f"{len(names)} pickles; expected one")
    root = names[0].removesuffix(DATA_NAME)
    order = read_entry(archive, f"{root}byteorder") if f"{root}byteorder" in archive.NameToInfo else b"little"
    if order != b"little":
        raise ValueError("written on a big-endian machine")
    if (size := archive.getinfo(names[0]).file_size) > MAX_PICKLE_BYTES:
        raise ValueError(f"a pickle of {size} bytes, more than torch writes")
    content = Unpickler(BoundedFile(io.BytesIO(read_entry(archive, names[0])), size)).load()
    return _Reader(lambda key: read_entry(archive, f"{root}data/{key}"), file_bytes).entries(content, entries)


def _load_legacy(file: IO[bytes], entries: Sequence[str], file_bytes: int) -> Any:
    """Read a file of torch before 1.6.

    It holds pickles of a magic number, a version, the machine, the content and the keys of the storages; then for each
    key the number of values in 8 bytes, and the values.
    """
    bounded = BoundedFile(file, file_bytes)
    if Unpickler(bounded).load() != LEGACY_MAGIC:
        raise ValueError("no magic number of torch")
    _, machine = Unpickler(bounded).load(), Unpickler(bounded).load()
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise ValueError("not written on a little-endian machine")
    content = (unpickler := Unpickler(bounded)).load()
    keys, places = Unpickler(bounded).load(), {}
    for key in keys:
        dtype = unpickler.storages[key].dtype
        if dtype is None:
            raise ValueError("a tensor of an unknown type")
        size = int.from_bytes(file.read(LEGACY_COUNT_BYTES), "little") * dtype.itemsize
        places[key] = file.tell(), size
        if size > file_bytes - file.tell():
            raise ValueError("cut short: the values of a tensor are missing")
        file.seek(size, io.SEEK_CUR)

    def read_storage(key: str) -> bytearray:
        offset, size = places[key]
        file.seek(offset)
        return bytearray(file.read(size))

    return _Reader(read_storage, file_bytes).entries(content, entries)


class _Reader:
    """Converts stand-ins to plain data and tensors. Tensors of one storage share memory, as in torch."""

    def __init__(self, read_storage: ReadStorage, file_bytes: int) -> None:
        """Read storages by their key from a file of ``file_bytes``."""
        self._read_storage = read_storage
        self._storages: dict[str, Tensor] = {}
        self._converted: dict[int, tuple[Any, Any]] = {}
        self._items_left, self._bytes_left = MAX_ITEMS, MAX_SHARED * file_bytes

    def entries(self, content: Any, entries: Sequence[str]) -> Any:
        """Convert these entries of a mapping; None for anything else."""
        if isinstance(content, StandIn) and content.name in MAPPINGS:
            content = self._items(content)
        if not isinstance(content, dict):
            return None
        return {name: self.plain(content[name]) for name in entries if name in content}

    def plain(self, value: Any) -> Any:
        """Convert a value: a mapping or omegaconf config to its items, a namespace to its attributes."""
        if not isinstance(value, (StandIn, dict, list, tuple)):
            return value
        if id(value) not in self._converted:
            self._converted[id(value)] = value, None  # None stands for a value inside itself
            self._converted[id(value)] = value, self._convert(value)  # with the value, so that no other gets its id
        return self._converted[id(value)][1]

    def _convert(self, value: Any) -> Any:
        if isinstance(value, StandIn):
            if value.name in TENSORS:
                return self._tensor(*value.args[:4])
            if value.name in PARAMETERS:
                return self.plain(value.args[0])
            return self.plain(self._items(value) if value.name in MAPPINGS else self._content(value))
        self._items_left -= len(value)
        if self._items_left < 0:
            raise ValueError(f"more than {MAX_ITEMS} values")
        if isinstance(value, dict):
            return {key: self.plain(item) for key, item in value.items()}
        return [self.plain(item) for item in value]

    def _items(self, value: StandIn) -> dict[Any, Any]:
        """Return the items of a mapping; Python 2 stored them as pairs, in the first argument."""
        pairs = value.args[0] if value.args and isinstance(value.args[0], list) else []
        self._items_left -= len(pairs) + len(value.items)
        for key, _ in pairs:
            check_key(key)
        return {**dict(pairs), **value.items}

    def _content(self, value: StandIn) -> Any:
        """Return the state of an object; of omegaconf's nodes and of members of an enumeration, the value itself."""
        state = value.state
        if isinstance(state, tuple) and len(state) == 2:  # a class with __slots__
            state = {**(state[0] or {}), **(state[1] or {})}
            self._items_left -= len(state)
        for entry in ("_content", "_val"):
            if isinstance(state, dict) and entry in state:
                return state[entry]
        if state is None and len(value.args) == 1:
            return value.args[0]
        return state

    def _tensor(self, storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        """Return a view of a storage after checking that it lies inside."""
        if len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
            raise ValueError(f"a tensor with {len(size)} sizes and {len(stride)} strides")
        if not all(type(number) is int and 0 <= number < MAX_SIZE for number in (offset, *size, *stride)):
            raise ValueError("a tensor whose sizes, strides or offset are no usual numbers")
        if storage.dtype is None:
            raise ValueError("a tensor of an unknown type")
        if storage.key not in self._storages:
            data = self._read_storage(storage.key)
            empty = torch.empty(0, dtype=storage.dtype)
            self._storages[storage.key] = torch.frombuffer(data, dtype=storage.dtype) if data else empty
        values, count = self._storages[storage.key], math.prod(size)
        last = offset + sum((number - 1) * step for number, step in zip(size, stride, strict=True))
        if count > len(values) or (count and last >= len(values)):
            raise ValueError(f"a tensor of shape {quote(tuple(size))} in a storage of {len(values)} values")
        self._bytes_left -= count * storage.dtype.itemsize
        if self._bytes_left < 0:
            raise ValueError(f"its tensors share their values: together they have {MAX_SHARED} times the file's size")
        return values.as_strided(size, stride, offset if count else 0)
