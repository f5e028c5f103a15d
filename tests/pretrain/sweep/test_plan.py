"""What a sweep's YAML may hold, and the runs that follow from it."""

import dataclasses
from datetime import date
from pathlib import Path

import pytest

from maeast_upstream.cli import run
from pretrain.sweep import __main__
from pretrain.sweep.plan import digest, read_sweep

ROOT = Path(__file__).parents[3]
SWEEPS = [
    path
    for folder in ("ablations", "beyond")
    for path in sorted((ROOT / "configs" / folder).glob("*.yaml"))
    if path.stem != "common"
]


@pytest.mark.slow
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_of_the_package_is_valid_and_starts_with_its_command(path, tmp_path):
    planned = list(read_sweep(path).runs(tmp_path))
    assert len({one.recipe.out for one in planned}) == len(planned)
    assert f"python -m pretrain.sweep configs/{path.parent.name}/{path.name} " in path.read_text()
    assert {one.recipe.device for one in planned} == {"cpu"}


def test_sweeps_share_runs(tmp_path):
    losses, ratio = (next(read_sweep(path).runs(tmp_path)) for path in SWEEPS if path.stem in ("losses", "mask_ratio"))
    assert losses.recipe == ratio.recipe


def test_the_folder_of_a_run_is_named_by_the_settings_that_change_its_result(recipe):
    same = dataclasses.replace(recipe, out="elsewhere", log_every=1)
    assert digest(same) == digest(recipe)
    for change in ({"seed": 1}, {"precision": "bf16"}, {"optim": dataclasses.replace(recipe.optim, steps=7)}):
        assert digest(dataclasses.replace(recipe, **change)) != digest(recipe)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sedes": [1]}, "unknown key 'sedes'; the keys are base, settings, variants, seeds, groups, curve"),
        ({"variants": None}, "variants must be a mapping, got None"),
        ({"variants": {}}, "variants is empty"),
        ({"seeds": ["a"]}, "seeds must be a list of whole numbers, got ['a']"),
        ({"curve": "yes, please"}, "curve must be true or false"),
        ({"groups": {"speech": "drums"}}, "groups.speech must be a list of labelled sets"),
        ({"variants": {"a": {"masking.ration": 0.5}}}, "losses, variant 'a': unknown option --masking.ration"),
        ({"variants": {"a": {"masking.ratio": 1.5}}}, "ratio must lie between 0 and 1, got 1.5"),
        ({"base": "nowhere.yaml"}, "nowhere.yaml"),
        ({"base": 5}, "losses.yaml: base must be a recipe's file or a list of them, got 5"),
        ({"base": None}, "losses.yaml: base must be a recipe's file or a list of them, got None"),
        (
            {"base": ["base.yaml", 5]},
            "losses.yaml: base must be a recipe's file or a list of them, got ['base.yaml', 5]",
        ),
        (
            {"settings": {"out": date(2026, 1, 1)}},
            "losses.yaml: settings.out must be text, a number, true, false, null",
        ),
        ({"variants": {"a": {"out": [date(2026, 1, 1)]}}}, "losses.yaml: variants.a.out must be text, a number"),
    ],
)
def test_a_wrong_sweep_is_a_one_line_error(settings, write, tmp_path, capsys, change, message):
    assert run(__main__.main, [str(write({**settings, **change})), "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "base: a\nvariants: {joint: {seed: 1}, joint: {seed: 2}}\nseeds: [0]\n",
            "'joint' occurs twice, again in line 2",
        ),
        ("base: a\nvariants: {75: {seed: 1}, '75': {seed: 2}}\nseeds: [0]\n", "'75' occurs twice, again in line 2"),
        ("base: a\nvariants: {a: {}}\nseeds: [0]\nseeds: [1]\n", "'seeds' occurs twice, again in line 4"),
        ("base: 2026-13-01\n", "month must be in 1..12"),
    ],
)
def test_a_repeated_key_and_an_invalid_date_are_one_line_errors(tmp_path, capsys, text, message):
    path = tmp_path / "losses.yaml"
    path.write_text(text)
    assert run(__main__.main, [str(path), "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: not YAML (")
    assert message in error
    assert error.count("\n") == 1


def test_a_key_that_overrides_a_merged_one_is_not_repeated(settings, write, tmp_path):
    path = write(settings)
    path.write_text(
        "base: base.yaml\nseeds: [0]\nvariants:\n  a: &a {seed: 1, log_every: 1}\n  b: {<<: *a, log_every: 2}\n"
    )
    assert read_sweep(path).variants["b"] == {"seed": 1, "log_every": 2}
