"""Settings of a run that is continued: what may not have changed since it was begun."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as pairs of a dotted name and a value."""
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
) -> None:
    """ValueError if ``what`` would be continued with another setting, naming both values and the remedy.

    A setting that is younger than what was begun counts as unchanged.
    """
    begun_with = dict(flatten(before))
    for name, new in flatten(now):
        old = begun_with.get(name, new)
        if old != new and name not in changeable:
            raise ValueError(f"{what} was begun with {name} {old!r}, not {new!r}: {remedy}")
