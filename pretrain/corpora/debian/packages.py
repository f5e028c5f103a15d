"""Reads the committed lists: packages with their versions and licences, and files that no corpus may contain."""

import re
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path

from maeast_upstream.data.tables import read_header, row_values
from maeast_upstream.storage.text import lines_of, open_lines, read_text

LISTS = Path(__file__).parents[1]
"""The folder of the lists of packages."""
KINDS = ("speech", "music", "effect", "instrument")
NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
"""Package names after Debian's policy: none can be an option of apt-get or a path."""
VERSION = re.compile(r"[A-Za-z0-9.+~:-]+")
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Package:
    """One row of a list of packages."""

    package: str
    version: str
    """The version with which the list was made; if the archive no longer has it, the newest is downloaded."""
    licence: str
    """All licences in its copyright file, which says to which files each applies."""
    kind: str = ""
    """Kind of its clips: speech, music, effect or instrument."""
    language: str = ""
    """Languages of the package, separated by commas."""
    kinds_by_path: str = ""
    """``PATTERN=KIND``, separated by semicolons: the first pattern found in a file's name decides its kind."""
    skip: str = ""
    """Pattern of the names of files that are left out."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.package) or not VERSION.fullmatch(self.version):
            raise ValueError(f"{self.package!r} {self.version!r}: not the name and version of a Debian package")
        try:
            re.compile(self.skip)
            kinds = {self.kind, *(kind for _, kind in self.rules())}
        except (re.error, ValueError) as error:
            raise ValueError(f"{self.package}: invalid pattern ({error})") from error
        if wrong := sorted(kinds - {"", *KINDS}):
            raise ValueError(f"{self.package}: unknown kind {wrong[0]!r}; there are {', '.join(KINDS)}")

    def rules(self) -> list[tuple[re.Pattern[str], str]]:
        """The patterns of ``kinds_by_path`` with their kinds."""
        pairs = [rule.rsplit("=", 1) for rule in self.kinds_by_path.split(";") if rule]
        return [(re.compile(pattern), kind) for pattern, kind in pairs]

    def kind_of(self, name: str) -> str:
        """The kind of one of its files."""
        return next((kind for pattern, kind in self.rules() if pattern.search(name)), self.kind)

    def includes(self, name: str) -> bool:
        """Whether ``skip`` does not match the name of a file."""
        return not self.skip or re.search(self.skip, name) is None


def read_packages(path: Path) -> list[Package]:
    """Read a TSV whose columns are the fields of `Package`; columns for fields without a default are required.

    Raises:
        ValueError: The file is missing or no such table, `Package` refuses a row, a package is listed twice, or there
            are no rows.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a TSV with columns package, version, licence, kind")
    names = {field.name for field in fields(Package)}
    with open_lines(str(path)) as file:
        lines = lines_of(file, str(path))
        header = read_header(lines, str(path), "package")
        columns = [column.casefold() for column in header.columns]
        rows = [dict(zip(columns, row, strict=True)) for _, row in row_values(lines, header, str(path), first=1)]
    packages: dict[str, Package] = {}
    for number, row in enumerate(rows, start=1):
        try:
            package = Package(**{key: value or "" for key, value in row.items() if key in names})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: row {number}: {error}") from error
        if package.package in packages:
            raise ValueError(f"{path}: row {number} lists {package.package} a second time")
        packages[package.package] = package
    if not packages:
        raise ValueError(f"{path}: no packages")
    return list(packages.values())


def choose_packages(packages: list[Package], names: Collection[str]) -> list[Package]:
    """The packages with the given names in the list's order; all packages if no names are given.

    Raises:
        ValueError: A name is not in the list.
    """
    known = {package.package for package in packages}
    if unknown := sorted(set(names) - known):
        raise ValueError(f"{unknown[0]}: not in the list of packages, which has {', '.join(sorted(known))}")
    return [package for package in packages if not names or package.package in names]


def read_excluded(path: Path) -> frozenset[str]:
    """Read SHA-256 digests, one per line; lines that begin with # are comments.

    Raises:
        ValueError: A line is no digest.
    """
    lines = [line.strip() for line in read_text(path).splitlines()]
    digests = [line for line in lines if line and not line.startswith("#")]
    for digest in digests:
        if not DIGEST.fullmatch(digest):
            raise ValueError(f"{path}: {digest[:80]!r} is not a SHA-256 in hexadecimal")
    return frozenset(digests)
