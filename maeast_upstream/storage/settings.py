"""Compares the settings of a run that is continued with those it was begun with."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested settings as pairs of a dotted name and a value."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def refuse_changes(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    what: object,
    remedy: str,
    changeable: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Raise ValueError if a setting differs from the one that ``what`` was begun with.

    Args:
        before: The settings that it was begun with.
        now: The settings to continue with.
        what: The name of the run, for the message.
        remedy: The end of the message, which tells the user what to do.
        changeable: Dotted names of settings that may differ.
        defaults: What settings were that are missing in ``before``, which an older version wrote; those that are
            missing here, too, are not compared.
    """
    begun_with, missing = dict(flatten(before)), dict(flatten(defaults or {}))
    for name, new in flatten(now):
        old = _old(begun_with, name, missing.get(name, new))
        if old == new or name in changeable:
            continue
        if name.endswith(".digest"):
            raise ValueError(f"{what} was begun with other {name.removesuffix('.digest')} than there are now: {remedy}")
        raise ValueError(f"{what} was begun with {name} {old!r}, not {new!r}: {remedy}")


def _old(begun_with: Mapping[str, Any], name: str, default: Any) -> Any:
    """Return what a setting was, by dotted name, also where a value has become a section or a section a value."""
    if name in begun_with:
        return begun_with[name]
    start = f"{name}."
    if section := {key.removeprefix(start): value for key, value in begun_with.items() if key.startswith(start)}:
        return section
    parents = (parent for parent in begun_with if name.startswith(f"{parent}."))
    return begun_with.get(next(parents, name), default)
