"""A sweep's YAML -> its runs: a recipe for each variant and seed."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from maeast_upstream.storage.settings import flatten
from pretrain.cli import read_recipe
from pretrain.config import Recipe
from pretrain.training.run_folder import CHANGEABLE

KEYS = {"base": True, "settings": False, "variants": True, "seeds": True, "groups": False, "curve": False}
"""What a sweep's YAML may hold, and whether it must."""
WITHOUT_EFFECT = CHANGEABLE - {"data.corpus", "optim.steps", "optim.warmup_steps", "optim.decay_steps"}
"""Settings that do not change what a run ends with."""


class StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, of which YAML's own loader silently takes the last."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        """The keys as written, before a merged mapping (``<<``) adds its own, which may stand twice."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.YAMLError(f"{key.value!r} stands twice, again in line {key.start_mark.line + 1}")
            seen.add(key.value)
        return node


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep."""

    variant: str
    seed: int
    recipe: Recipe
    """Its ``out`` is the run's folder."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a sweep's YAML says."""

    name: str
    """The file's, without .yaml."""
    base: list[str]
    """Recipes, relative to the file; a later one changes the one before."""
    settings: dict[str, Any]
    """Dotted names and values that hold for every run."""
    variants: dict[str, dict[str, Any]]
    """By name the settings in which a variant differs; the first is what the others are compared with."""
    seeds: list[int]
    groups: dict[str, list[str]]
    """Labelled sets that are averaged apart."""
    curve: bool
    """Whether every save is kept and scored, for curves over time."""

    def runs(self, out: Path, overrides: Sequence[str] = ()) -> Iterator[PlannedRun]:
        """Seed by seed, so that a sweep that was stopped early has all variants.

        Args:
            out: where runs lie, each in a folder named by its settings: what two sweeps share is trained once.
            overrides: options of ``python -m pretrain``, which hold for every run.

        Raises:
            ValueError: a setting that is unknown, of the wrong type or out of range; names the variant.
        """
        recipes = {variant: self._recipe(variant, overrides) for variant in self.variants}
        for seed in self.seeds:
            for variant, variants_recipe in recipes.items():
                recipe = dataclasses.replace(variants_recipe, seed=seed)
                # runs that keep every save lie apart from those that keep the last
                folder = str(out / "runs" / (digest(recipe) + ("-curve" if self.curve else "")))
                yield PlannedRun(variant, seed, dataclasses.replace(recipe, out=folder))

    def _recipe(self, variant: str, overrides: Sequence[str]) -> Recipe:
        try:
            recipe = read_recipe([*self._options({**self.settings, **self.variants[variant]}), *overrides])
        except ValueError as error:
            raise ValueError(f"{self.name}, variant {variant!r}: {error}") from error
        if self.curve:
            recipe = dataclasses.replace(recipe, keep_last=1 + recipe.optim.steps // recipe.save_every)
        return recipe

    def _options(self, settings: Mapping[str, Any]) -> list[str]:
        options = [option for path in self.base for option in ("--config", path)]
        for name, value in settings.items():
            options += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
        return options


def digest(recipe: Recipe) -> str:
    """12 hexadecimal digits that say which settings a run has.

    Settings without effect are left out, and defaults, so that a setting that is new in the package renames no run.
    """
    defaults = dict(flatten(dataclasses.asdict(Recipe())))
    settings = {k: v for k, v in flatten(dataclasses.asdict(recipe)) if k not in WITHOUT_EFFECT and v != defaults[k]}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def read_sweep(path: Path) -> Sweep:
    """Read a sweep's YAML.

    Raises:
        ValueError: no such file, not YAML, an unknown or missing key, a value of the wrong kind.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a sweep, see configs/ablations/")
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), StrictLoader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, a date such as 2026-13-01
        raise ValueError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a mapping of {', '.join(KEYS)}")
    if unknown := [key for key in data if key not in KEYS]:
        raise ValueError(f"{path}: unknown key {unknown[0]!r}; it may have {', '.join(KEYS)}")
    if missing := [key for key, needed in KEYS.items() if needed and key not in data]:
        raise ValueError(
            f"{path}: no {missing[0]}; a sweep needs {', '.join(k for k, needed in KEYS.items() if needed)}"
        )
    return Sweep(
        name=path.stem,
        base=[str(path.parent / name) for name in _recipes(path, data["base"])],
        settings=_settings(path, "settings", data.get("settings") or {}),
        variants={
            str(name): _settings(path, f"variants.{name}", settings or {})
            for name, settings in _filled(path, "variants", _mapping(path, "variants", data["variants"])).items()
        },
        seeds=_integers(path, data["seeds"]),
        groups=_groups(path, data.get("groups") or {}),
        curve=_switch(path, data.get("curve", False)),
    )


def _mapping(path: Path, key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{path}: {key} must be a mapping, got {value!r}")
    return value


def _settings(path: Path, key: str, value: Any) -> dict[str, Any]:
    settings = _mapping(path, key, value)
    for name, one in settings.items():
        try:
            json.dumps(one)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: {key}.{name} must be text, a number, true, false, null, or a list or mapping of such, "
                f"got {one!r}; a date is text in quotes"
            ) from error
    return settings


def _recipes(path: Path, value: Any) -> list[str]:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: base must be a recipe's file or a list of such, got {value!r}")
    return names


def _filled(path: Path, key: str, value: Any) -> Any:
    if not value:
        raise ValueError(f"{path}: {key} is empty")
    return value


def _integers(path: Path, value: Any) -> list[int]:
    if not isinstance(value, list) or not value or any(type(one) is not int for one in value):
        raise ValueError(f"{path}: seeds must be a list of whole numbers, got {value!r}")
    return list(dict.fromkeys(value))


def _groups(path: Path, value: Any) -> dict[str, list[str]]:
    groups = _mapping(path, "groups", value)
    for name, sets in groups.items():
        if not isinstance(sets, list) or not sets or not all(isinstance(one, str) for one in sets):
            raise ValueError(f"{path}: groups.{name} must be a list of labelled sets, got {sets!r}")
    return groups


def _switch(path: Path, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{path}: curve must be true or false, got {value!r}")
    return value
