"""What a clip of the corpus is, as far as its package and the name of its file tell.

``label_rules.tsv`` holds the rules: a column, the kind and the package that a rule is for, a pattern for the name of
the file, and the label, which may name groups of the pattern. The first rule of a column that fits counts.

No label tells the answer of a labelled set: for packages that a set is made of, ``sets/packages.tsv``, all columns are
empty whose labels are those of a set.
"""

import csv
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache

from pretrain.corpora.debian.packages import LISTS

LABEL_COLUMNS = ("kind", "language", "instrument", "speaker", "sound", "word", "pitch")
MASKED = ("instrument", "speaker", "sound", "word", "pitch")
"""Columns that are empty for every package of a labelled set: its classes are instruments, voices, sounds, ..."""
MASKED_LANGUAGES = frozenset({"stamps_language", "game_voices"})
"""Sets for whose packages the language is empty, too: it is the class, or the language of a voice pack."""


@dataclass(frozen=True)
class LabelRule:
    """A row of ``label_rules.tsv``."""

    column: str
    kind: str
    package: re.Pattern[str]
    name: re.Pattern[str]
    label: str


def labels_of(package: str, source: str, kind: str, languages: str) -> dict[str, str]:
    """The labels of a clip by column; "" where nothing is known or the label is masked.

    Args:
        package: The Debian package.
        source: The name of the file in it, with that of a member after ``!``.
        kind: The kind of the clip.
        languages: Those of the package, separated by commas.
    """
    labels = {"kind": kind, "language": primary_language(languages) if kind == "speech" else ""}
    for column in LABEL_COLUMNS:
        for rule in _rules().get(column, ()):
            if rule.kind == kind and rule.package.fullmatch(package) and (found := rule.name.search(source)):
                labels[column] = found.expand(rule.label)
                break
    sets = sets_of(package)
    masked = {*(MASKED if sets else ()), *(("language",) if sets & MASKED_LANGUAGES else ())}
    return {column: "" if column in masked else labels.get(column, "") for column in LABEL_COLUMNS}


def primary_language(languages: str) -> str:
    """The language of a tag such as es-mx, "" where several are given, of which any may be that of a clip."""
    return "" if "," in languages else languages.partition("-")[0].lower()


def sets_of(package: str) -> frozenset[str]:
    """The labelled sets that are made of a package."""
    return _sets().get(package, frozenset())


@cache
def _sets() -> dict[str, frozenset[str]]:
    sets: defaultdict[str, set[str]] = defaultdict(set)
    with (LISTS / "sets" / "packages.tsv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            sets[row["package"]].add(row["set"])
    return {package: frozenset(names) for package, names in sets.items()}


@cache
def _rules() -> dict[str, list[LabelRule]]:
    rules: defaultdict[str, list[LabelRule]] = defaultdict(list)
    with (LISTS / "corpus" / "label_rules.tsv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            package = re.compile(row["package"] or ".*")
            rule = LabelRule(row["column"], row["kind"], package, re.compile(row["name"]), row["label"])
            rules[rule.column].append(rule)
    return rules
