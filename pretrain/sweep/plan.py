"""Reads the YAML of a sweep and plans its runs: a recipe for each variant and seed."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from maeast_upstream.storage.settings import flatten
from maeast_upstream.storage.text import read_yaml
from pretrain.cli import read_recipe
from pretrain.recipe import Recipe
from pretrain.training.run_folder import CHANGEABLE

KEYS = {"base": True, "settings": False, "variants": True, "seeds": True, "groups": False, "curve": False}
"""Keys of a sweep's YAML, and whether each is required."""
WITHOUT_EFFECT = CHANGEABLE - {"data.corpus", "optim.steps", "optim.warmup_steps", "optim.decay_steps"}
"""Settings that do not change the result of a run."""


class StrictLoader(yaml.SafeLoader):
    """Refuses a key that occurs twice in a mapping; YAML's own loader silently uses the last one."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        """Check the keys as written, before a merged mapping (``<<``) adds its keys, which may be repeated."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.YAMLError(f"the key {key.value!r} occurs twice, again in line {key.start_mark.line + 1}")
            seen.add(key.value)
        return node


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep."""

    variant: str
    seed: int
    recipe: Recipe
    """The recipe to train; its ``out`` is the run's folder."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The content of a sweep's YAML."""

    name: str
    """Name of the file without .yaml."""
    base: list[str]
    """Paths of recipes; a later one changes settings of the one before."""
    settings: dict[str, Any]
    """Settings of every run, by dotted name."""
    variants: dict[str, dict[str, Any]]
    """Settings in which each variant differs; the others are compared with the first variant."""
    seeds: list[int]
    groups: dict[str, list[str]]
    """Labelled sets that are averaged as a group, by the group's name."""
    curve: bool
    """Whether every save is kept and scored, for curves over time."""

    def runs(self, out: Path, overrides: Sequence[str] = ()) -> Iterator[PlannedRun]:
        """Yield the runs seed by seed, so that a sweep that is stopped early has all variants.

        Args:
            out: folder of the runs. Each run's folder is named by its settings, so that sweeps share runs.
            overrides: options of ``python -m pretrain`` that apply to every run.

        Raises:
            ValueError: A setting is unknown, of the wrong type or out of range; the message names the variant.
        """
        recipes = {variant: self._recipe(variant, overrides) for variant in self.variants}
        for seed in self.seeds:
            for variant, variant_recipe in recipes.items():
                recipe = dataclasses.replace(variant_recipe, seed=seed)
                # runs that keep every save have other folders than runs that keep the last
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
    """12 hexadecimal digits of a hash of a run's settings.

    Settings without effect are left out. So are defaults, so that a new setting of the package does not rename runs.
    """
    defaults = dict(flatten(dataclasses.asdict(Recipe())))
    settings = {k: v for k, v in flatten(dataclasses.asdict(recipe)) if k not in WITHOUT_EFFECT and v != defaults[k]}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def read_sweep(path: Path) -> Sweep:
    """Read a sweep's YAML.

    Raises:
        ValueError: The file is missing or not YAML, or a key or value is wrong.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a sweep, see configs/ablations/")
    data = read_yaml(path, StrictLoader)
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a mapping of {', '.join(KEYS)}")
    if unknown := [key for key in data if key not in KEYS]:
        raise ValueError(f"{path}: unknown key {unknown[0]!r}; the keys are {', '.join(KEYS)}")
    if missing := [key for key, needed in KEYS.items() if needed and key not in data]:
        raise ValueError(
            f"{path}: {missing[0]} is missing; a sweep needs {', '.join(k for k, needed in KEYS.items() if needed)}"
        )
    return Sweep(
        name=path.stem,
        base=[str(path.parent / name) for name in _recipes(path, data["base"])],
        settings=_settings(path, "settings", data.get("settings") or {}),
        variants={
            str(name): _settings(path, f"variants.{name}", settings or {})
            for name, settings in _not_empty(path, "variants", _mapping(path, "variants", data["variants"])).items()
        },
        seeds=_integers(path, data["seeds"]),
        groups=_groups(path, data.get("groups") or {}),
        curve=_boolean(path, data.get("curve", False)),
    )


def _mapping(path: Path, key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{path}: {key} must be a mapping, got {value!r}")
    return value


def _settings(path: Path, key: str, value: Any) -> dict[str, Any]:
    settings = _mapping(path, key, value)
    for name, setting in settings.items():
        try:
            json.dumps(setting)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: {key}.{name} must be text, a number, true, false, null, or a list or mapping of these, "
                f"got {setting!r}; write a date in quotes"
            ) from error
    return settings


def _recipes(path: Path, value: Any) -> list[str]:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: base must be a recipe's file or a list of them, got {value!r}")
    return names


def _not_empty(path: Path, key: str, value: Any) -> Any:
    if not value:
        raise ValueError(f"{path}: {key} is empty")
    return value


def _integers(path: Path, value: Any) -> list[int]:
    if not isinstance(value, list) or not value or any(type(seed) is not int for seed in value):
        raise ValueError(f"{path}: seeds must be a list of whole numbers, got {value!r}")
    return list(dict.fromkeys(value))


def _groups(path: Path, value: Any) -> dict[str, list[str]]:
    groups = _mapping(path, "groups", value)
    for group, names in groups.items():
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{path}: groups.{group} must be a list of labelled sets, got {names!r}")
    return groups


def _boolean(path: Path, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{path}: curve must be true or false, got {value!r}")
    return value
