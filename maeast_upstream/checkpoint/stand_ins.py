"""Unpickles without running any code in the file, in bounded memory and time.

Each class or function that a pickle names becomes an inert stand-in, or the file is refused. No function that the file
names is called. torch's ``weights_only`` cannot replace this: it refuses the objects of fairseq's own classes that a
file of fairseq holds, and the items of a foreign mapping such as a defaultdict.
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, ClassVar, NoReturn

import torch

from maeast_upstream.checks import printable

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
        "ComplexFloat": torch.complex64,
        "ComplexDouble": torch.complex128,
    }.items()
}
NAMES = {
    *MAPPINGS,
    *PARAMETERS,
    *DTYPES,
    ("collections", "Counter"),
    ("torch", "device"),
    ("torch", "Tensor"),
    ("torch.nn.parameter", "Parameter"),
    ("torch.serialization", "_get_layout"),
    ("torch.storage", "TypedStorage"),
    ("torch.storage", "UntypedStorage"),
    *(("torch", str(dtype).removeprefix("torch.")) for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)),
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
        for name in ("dict", "list", "tuple", "int", "float", "str", "bool", "set", "unicode", "long", "NoneType")
    ),
}
MAX_PICKLE_BYTES = 32 << 20
MAX_READS = 1_000_000
"""A checkpoint of a large model with its optimizer needs a tenth of it; Python makes some hundred bytes for each."""
MAX_CLASSES, MAX_ARGUMENTS = 1000, 32
MAX_KEY = 1 << 60
"""Below it, different numbers have different hashes, so that no keys collide."""


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
class Storage:
    """The values of a tensor, which stand elsewhere in the file."""

    key: str
    dtype: torch.dtype | None


class BoundedFile:
    """A file whose pickles may take a bounded number of bytes and operations."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        """Read from ``file``, which holds ``size`` bytes from its current position on."""
        self._file, self._left, self._reads = file, min(size, MAX_PICKLE_BYTES), MAX_READS

    def _count(self, size: int) -> None:
        self._left, self._reads = self._left - size, self._reads - 1
        if self._left < 0:
            raise ValueError("a pickle that is longer than its file, or than any that torch writes")
        if self._reads < 0:
            raise ValueError(f"a pickle of more than {MAX_READS} parts, which no checkpoint has")

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes; ValueError, before memory is taken, if there are fewer."""
        self._count(size)
        return self._file.read(size)

    def readline(self) -> bytes:
        """Return a line."""
        line = self._file.readline(self._left + 1)
        self._count(len(line))
        return line


class Unpickler(pickle._Unpickler):
    """Makes stand-ins only. Python's version, because in C a number in the file can make the memo grow to any size."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: BoundedFile) -> None:
        """Unpickle from ``file``."""
        super().__init__(file, encoding="utf-8")
        self._classes: dict[tuple[str, str], type[StandIn]] = {}
        self.storages: dict[str, Storage] = {}
        """The storages that were named, by their key."""

    def find_class(self, module: str, name: str) -> type[StandIn]:
        """Return a stand-in for a class or function; RefusedError if no checkpoint needs it."""
        rebuilds = (module, name) in TENSORS or (module == "torch._utils" and name.startswith("_rebuild_"))
        if not (rebuilds or (module, name) in NAMES or module.startswith(FOREIGN_PREFIXES)):
            raise RefusedError(printable(f"{module[:60]}.{name[:60]}"))
        if (module, name) not in self._classes:
            if len(self._classes) == MAX_CLASSES:
                raise ValueError(f"more than {MAX_CLASSES} classes")
            self._classes[module, name] = type("StandIn", (StandIn,), {"name": (module, name)})
        return self._classes[module, name]

    def get_extension(self, code: int) -> NoReturn:
        """Refuse a name that only a table of the running process knows."""
        raise RefusedError(f"the extension {code}")

    def persistent_load(self, pid: Any) -> Storage:
        """Return the storage that torch refers to; in files of torch before 1.6 the last part is its view."""
        if not isinstance(pid, tuple) or not 3 <= len(pid) <= 6:
            raise ValueError("a reference that is not torch's")
        tag, kind, key, *_ = pid
        if tag != "storage" or not isinstance(key, str) or not (isinstance(kind, type) and issubclass(kind, StandIn)):
            raise ValueError("a reference to something other than a storage")
        if len(pid) == 6 and pid[5] is not None:
            raise ValueError(
                "a view of a storage, as torch before 0.4 wrote it; save the file again with a later torch"
            )
        return self.storages.setdefault(key, Storage(key, DTYPES.get(kind.name)))

    def load_frame(self) -> None:
        """Skip a frame's length: frames only tell how much to read at once."""
        self.read(8)  # type: ignore[attr-defined]

    dispatch[pickle.FRAME[0]] = load_frame

    def refuse_operation(self) -> NoReturn:
        """Refuse what torch never writes: buffers, for which pickle makes room before it reads them, and keywords."""
        raise ValueError("an operation that torch never writes")

    for _opcode in (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.NEWOBJ_EX):
        dispatch[_opcode[0]] = refuse_operation


def _checked(opcode: bytes, check: Callable[[Any], None]) -> None:
    """Make the unpickler call ``check`` before an operation."""
    original = Unpickler.dispatch[opcode[0]]

    def load(unpickler: Any) -> None:
        check(unpickler)
        original(unpickler)

    Unpickler.dispatch[opcode[0]] = load


def _check_call(unpickler: Any) -> None:
    function, arguments = unpickler.stack[-2:]
    if not (isinstance(function, type) and issubclass(function, StandIn)):
        raise ValueError("a call of something other than a class")
    if not isinstance(arguments, tuple) or len(arguments) > MAX_ARGUMENTS:
        raise ValueError(f"a call with more than {MAX_ARGUMENTS} arguments")


def _check_keys(unpickler: Any) -> None:
    for key in unpickler.stack[::2]:
        check_key(key)


def _check_members(unpickler: Any) -> None:
    for item in unpickler.stack:
        check_key(item)


def check_key(key: Any) -> None:
    """Raise ValueError for a key of a mapping or set whose hash, or whose search, takes any amount of time.

    Nested tuples that share their items take any time to hash, and many numbers or tuples can have one hash.
    """
    if not (isinstance(key, str | bytes | StandIn | None) or (isinstance(key, int) and abs(key) < MAX_KEY)):
        raise ValueError(f"a mapping or set with a {type(key).__name__} as key")


_checked(pickle.REDUCE, _check_call)
_checked(pickle.NEWOBJ, _check_call)
_checked(pickle.SETITEM, lambda unpickler: check_key(unpickler.stack[-2]))
_checked(pickle.SETITEMS, _check_keys)
_checked(pickle.DICT, _check_keys)
_checked(pickle.ADDITEMS, _check_members)
_checked(pickle.FROZENSET, _check_members)
