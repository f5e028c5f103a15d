"""Checks of values that come from outside: numbers of settings, and values that a message shows."""

import dataclasses
import math
import numbers
import reprlib
from collections.abc import Mapping
from typing import Any, get_args

LARGEST = 2**63 - 1
"""The largest whole number that torch and numpy hold."""


class _Short(reprlib.Repr):
    """A repr whose length has a bound whatever the value is."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxlong, self.maxother = 3, 60, 40, 60

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to print more than 4300 digits
        return super().repr_int(x, level) if abs(x) <= LARGEST else f"a whole number of {x.bit_length()} bits"

    def repr_bytes(self, x: bytes, level: int) -> str:
        return self.repr_str(x, level)  # type: ignore[arg-type]  # it only cuts and prints


quote = _Short().repr
"""``quote(value)`` is `repr` for a message: at most some hundred characters, and quick for every value."""


def printable(text: str) -> str:
    r"""Return text in which a terminal finds no command and no new line: control characters become such as \x1b."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def check_numbers(config: Any, **limits: tuple[float, float]) -> None:
    """Check all numbers of a dataclass.

    A field of type int holds a whole number up to 2 ** 63, a field of type float a finite one; True and False are not
    numbers. Other fields are not looked at.

    Args:
        config: An instance of a dataclass.
        limits: For some fields the smallest and the largest value.

    Raises:
        ValueError: A field holds something else; the message names the field.
    """
    for field in dataclasses.fields(config):
        kinds, value = get_args(field.type) or (field.type,), getattr(config, field.name)
        if not {int, float} & set(kinds) or (str in kinds and isinstance(value, str)):
            continue
        if value is None and type(None) in kinds:
            continue
        check_number(field.name, value, whole=float not in kinds)
        low, high = limits.get(field.name, (-math.inf, math.inf))
        if value < low:
            raise ValueError(f"{field.name} must be at least {low:g}, got {quote(value)}")
        if value > high:
            raise ValueError(f"{field.name} must be at most {high:g}, got {quote(value)}")


def check_number(name: str, value: Any, whole: bool = False) -> None:
    """Raise ValueError unless a value is a finite number, or with ``whole`` a whole one, of usual size."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral if whole else numbers.Real):
        raise ValueError(f"{name} must be a {'whole ' if whole else ''}number, got {quote(value)}")
    if isinstance(value, numbers.Integral) and abs(int(value)) > LARGEST:
        raise ValueError(f"{name} is too large: {quote(value)}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {quote(value)}")


def check_plain(name: str, value: Any, depth: int = 4) -> None:
    """Raise ValueError unless a value is plain data: text and finite numbers, in lists and mappings of few levels."""
    if isinstance(value, str | bool | None):
        return
    if isinstance(value, Mapping | list | tuple) and depth > 0:
        for item in value.values() if isinstance(value, Mapping) else value:
            check_plain(name, item, depth - 1)
        return
    check_number(name, value)
