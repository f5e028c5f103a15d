"""Reads pickled checkpoints without ever running what is in them.

A file straight from fairseq holds fairseq's own classes, which ``torch.load(weights_only=True)`` refuses. Here such
classes become inert stand-ins, the few functions that rebuild tensors and arrays are allowed by exact name, and any
other name is refused before anything is built: a dry run, in which every name is a stand-in, collects them all.
"""

import io
import pickle
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

STAND_IN_PREFIXES = ("fairseq.", "omegaconf.", "mae_ast.")
STAND_INS = {
    ("argparse", "Namespace"),
    # omegaconf notes the types of its values beside them; as stand-ins they are names, nothing more
    ("typing", "Any"),
    *(
        (module, name)
        for module in ("builtins", "__builtin__")
        for name in ("dict", "list", "tuple", "int", "float", "str", "bool", "unicode", "long", "NoneType")
    ),
}
_STORAGES = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
ALLOWED = {
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("torch", "Size"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    *(("torch", f"{kind}Storage") for kind in _STORAGES),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
}


class RefusedError(ValueError):
    """A checkpoint names something that no checkpoint needs."""


class StandIn:
    """Takes the place of an object of a foreign class: keeps its state, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        """Keep the state, whatever it is."""
        self.__dict__["state"] = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Foreign mappings are filled item by item."""

    def append(self, item: Any) -> None:
        """Foreign lists are filled item by item."""

    def extend(self, items: Any) -> None:
        """Foreign lists are filled in one go."""

    def add(self, item: Any) -> None:
        """Foreign sets are filled item by item."""


def plain(value: Any) -> Any:
    """Stand-ins -> what they held, as plain data: the items of an omegaconf config, the attributes of a namespace."""
    if isinstance(value, StandIn):
        state = value.__dict__.get("state")
        if isinstance(state, tuple) and len(state) == 2:  # a class with __slots__
            state = {**(state[0] or {}), **(state[1] or {})}
        if isinstance(state, dict) and "_content" in state:
            return plain(state["_content"])
        if isinstance(state, dict) and "_val" in state:
            return plain(state["_val"])
        return plain(state)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def load(path: Path) -> Any:
    """The contents of a checkpoint file, tensors on the CPU.

    Raises:
        RefusedError: the file names a class or function that no checkpoint needs; nothing of it was run.
        ValueError: not a checkpoint that torch wrote, or a broken one.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as first:  # torch raises many kinds here; whether the file is usable is decided below
        reason = " ".join(str(first).split())[:120]
    try:
        refuse_foreign_names(_pickle_of(path, reason))
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_RESTRICTED)
    except RefusedError as error:
        raise RefusedError(f"{path}: refused, because it asks for {error}; nothing of it was run") from None
    except MemoryError:
        raise
    except Exception as error:  # a broken pickle can raise anything
        raise ValueError(f"{path}: not a checkpoint, or a broken one ({' '.join(str(error).split())[:200]})") from error


def refuse_foreign_names(data: bytes) -> None:
    """Walk through a pickle, a stand-in for every name in it; `RefusedError` if one is neither allowed nor harmless."""
    _DryRun(io.BytesIO(data)).load()


def _pickle_of(path: Path, reason: str) -> bytes:
    if not zipfile.is_zipfile(path):
        raise ValueError(reason)
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(names) != 1:
            raise ValueError(f"{len(names)} pickles where one was expected")
        return archive.read(names[0])


def _check(module: str, name: str) -> bool:
    """True for what is allowed as it is, False for what becomes a stand-in, else `RefusedError`."""
    if (module, name) in ALLOWED:
        return True
    if (module, name) in STAND_INS or module.startswith(STAND_IN_PREFIXES) or (module, name) == ("_codecs", "encode"):
        return False
    raise RefusedError(f"{module}.{name}")


class _DryRun(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        _check(module, name)
        return type(name.rpartition(".")[2], (StandIn,), {})

    def persistent_load(self, pid: Any) -> Any:
        return StandIn()


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if _check(module, name):
            return super().find_class(module, name)
        return type(name.rpartition(".")[2], (StandIn,), {})


def _encode(text: str, encoding: str) -> bytes:
    """What old pickles use to write bytes; only in the one encoding that they use."""
    if encoding not in ("latin1", "latin-1"):
        raise RefusedError(f"_codecs.encode to {encoding}")
    return text.encode("latin1")


def _restricted_load(file: Any, **kwargs: Any) -> Any:
    return _Restricted(file, **kwargs).load()


_RESTRICTED = SimpleNamespace(
    __name__="restricted",
    Unpickler=_Restricted,
    load=_restricted_load,
    UnpicklingError=pickle.UnpicklingError,
)
