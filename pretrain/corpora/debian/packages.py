"""The committed lists: packages with their versions and licences, and the files that no corpus may hold."""

import csv
import re
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path

HERE = Path(__file__).parents[1]
KINDS = ("speech", "music", "effect", "instrument")
NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
"""Names as Debian's policy has them: none is an option of apt-get, none a path."""
VERSION = re.compile(r"[A-Za-z0-9.+~:-]+")
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Package:
    """One row of a list of packages."""

    package: str
    version: str
    """The one that the list was made with; downloaded while the archive has it, else the newest."""
    licence: str
    """All that its copyright file lists; which holds for which file stands there."""
    kind: str = ""
    """Of its clips: speech, music, effect or instrument."""
    language: str = ""
    """Of the package, with commas."""
    kinds_by_path: str = ""
    """``PATTERN=KIND`` with semicolons: the first pattern found in a file's name gives its kind."""
    skip: str = ""
    """Pattern of the names that are left out."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.package) or not VERSION.fullmatch(self.version):
            raise ValueError(f"{self.package!r} {self.version!r}: not the name and version of a Debian package")
        try:
            re.compile(self.skip)
            kinds = {self.kind, *(kind for _, kind in self.rules())}
        except (re.error, ValueError) as error:
            raise ValueError(f"{self.package}: a pattern that cannot be used ({error})") from error
        if wrong := sorted(kinds - {"", *KINDS}):
            raise ValueError(f"{self.package}: unknown kind {wrong[0]!r}; there are {', '.join(KINDS)}")

    def rules(self) -> list[tuple[re.Pattern[str], str]]:
        """Of ``kinds_by_path``."""
        pairs = [rule.rsplit("=", 1) for rule in self.kinds_by_path.split(";") if rule]
        return [(re.compile(pattern), kind) for pattern, kind in pairs]

    def kind_of(self, name: str) -> str:
        """The kind of one of its files."""
        return next((kind for pattern, kind in self.rules() if pattern.search(name)), self.kind)

    def wants(self, name: str) -> bool:
        """Whether a file is not left out by its name."""
        return not self.skip or re.search(self.skip, name) is None


def read_packages(path: Path) -> list[Package]:
    """The rows of a TSV whose columns are the fields of `Package`; those without a default must be there.

    Raises:
        ValueError: no such file, not such a table, a row that `Package` refuses, a package listed twice, no rows.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a TSV with columns package, version, licence, kind")
    names = {field.name for field in fields(Package)}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t", strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a UTF-8 TSV file ({error})") from error
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
    """Those of the given names, in the list's order; all for no names.

    Raises:
        ValueError: a name that the list does not have.
    """
    known = {package.package for package in packages}
    if unknown := sorted(set(names) - known):
        raise ValueError(f"{unknown[0]}: not in the list of packages; there are {', '.join(sorted(known))}")
    return [package for package in packages if not names or package.package in names]


def read_excluded(path: Path) -> frozenset[str]:
    """SHA-256 digests, one a line, lines with # left out.

    Raises:
        ValueError: a line that is no digest.
    """
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    digests = [line for line in lines if line and not line.startswith("#")]
    for digest in digests:
        if not DIGEST.fullmatch(digest):
            raise ValueError(f"{path}: {digest[:80]!r} is not a SHA-256 in hexadecimal")
    return frozenset(digests)
