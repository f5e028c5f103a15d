import dataclasses
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from maeast_upstream import load_model
from maeast_upstream.cli import main as maeast
from maeast_upstream.cli import run
from maeast_upstream.storage.settings import flatten
from pretrain import cli
from pretrain.cli import main, read_recipe
from pretrain.recipe import Recipe

ROOT = Path(__file__).parents[2]
AUDIO = ROOT / "tests" / "data" / "audio"
CONFIGS = [*sorted((ROOT / "configs").glob("*.yaml")), *sorted((ROOT / "configs" / "published").glob("*.yaml"))]


LOGGING = {"out", "seed", "log_every", "save_every", "keep_last", "validate_every"}
EVERY_PUBLISHED = {
    "precision": "fp16",
    "normalisation": "batch",
    "data.crop_seconds": 2500.0,
    "data.min_seconds": 2.0,
    "data.batch_by": "samples",
    "optim.decay_all": True,
    "optim.warmup_from_zero": True,
}
PUBLISHED = {
    "patch_chunk": {"masking.chunk_share": 0.0, "masking.chunk_official_share": 1.0},
    "frame_random": {},
    "frame_spans": {"masking.spans_official_probability": 1.45},
}


def leaves(settings, prefix=""):
    for name, value in settings.items():
        yield from (leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_parses_is_complete_and_opens_with_its_launch_line(path):
    recipe = read_recipe(["--config", str(path)])
    assert list(leaves(yaml.safe_load(path.read_text()))) == list(leaves(dataclasses.asdict(recipe)))
    head = path.read_text().split("\nout:")[0]
    assert f"python -m pretrain --config {path.relative_to(ROOT)}" in head
    assert recipe.out == f"runs/{path.stem}"


@pytest.mark.parametrize("options", [["--config", "debug_cpu"], ["--config=debug_cpu"]])
def test_a_recipe_of_the_package_is_found_by_name_from_any_folder(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = read_recipe(["--config", str(ROOT / "configs" / "debug_cpu.yaml"), "--data.corpus", str(AUDIO)])
    assert read_recipe(options) == recipe


def test_the_published_recipes_are_found_by_name_and_differ_from_the_paper_s_only_where_their_headers_say(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    published = {name: read_recipe(["--config", f"published/mae_ast_{name}"]) for name in PUBLISHED}
    for name, changes in PUBLISHED.items():
        base = read_recipe(["--config", "mae_ast_base_" + name.partition("_")[0]])
        settings = dict(flatten(dataclasses.asdict(published[name])))
        own = {key for key, value in flatten(dataclasses.asdict(base)) if value != settings[key]}
        assert {key: settings[key] for key in own - LOGGING} == {**EVERY_PUBLISHED, **changes}


SMALL = {
    **{"model.embed_dim": 32, "model.depth": 1, "model.num_heads": 4, "model.ffn_dim": 64},
    **{"model.decoder_dim": 32, "model.decoder_depth": 1, "model.decoder_heads": 4, "model.decoder_ffn_dim": 64},
    **{"data.min_seconds": 0.25, "data.batch_samples": 100_000, "data.max_counted_samples": 10_000, "data.workers": 0},
    **{"optim.steps": 3, "optim.warmup_steps": 1, "optim.decay_steps": 2, "precision": "fp32", "device": "cpu"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_trains_a_small_model(name, tmp_path, packed):
    options = [option for key, value in SMALL.items() for option in (f"--{key}", str(value))]
    corpus = ["--data.corpus", str(AUDIO), "--data.packed", str(packed), "--out", str(tmp_path / "run")]
    assert main(["--config", f"published/mae_ast_{name}", *corpus, *options]) == 0
    assert load_model(tmp_path / "run").config.provenance.steps == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [(None, "a pipe or device; expected a file"), ("out: x".encode("utf-16"), "UTF-8"), (b"out: \xe9", "UTF-8")],
)
def test_a_recipe_that_is_no_text_is_one_line(tmp_path, data, message):
    path = tmp_path / "x.yaml"
    if data is None:
        os.mkfifo(path)
    else:
        path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        read_recipe(["--config", str(path)])
    assert "\n" not in str(caught.value)


def test_the_corpus_of_a_recipe_by_name_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "debug_cpu").mkdir()  # such as the folder of a run
    assert Path(read_recipe(["--config", "debug_cpu"]).data.corpus) == AUDIO
    (tmp_path / "tests" / "data" / "audio").mkdir(parents=True)
    assert read_recipe(["--config", "debug_cpu"]).data.corpus == "tests/data/audio"
    assert read_recipe(["--config", "debug_cpu", "--data.corpus", "mine"]).data.corpus == "mine"


@pytest.mark.parametrize("options", [[], ["--data.corpus", "x"]])
def test_without_a_recipe_nothing_is_trained(options, capsys):
    assert run(main, options) == 1
    error = capsys.readouterr().err
    assert error.startswith(
        "error: no recipe: give --config FILE, or --config with one of debug_cpu, mae_ast_base6_frame"
    )
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["mask_map", "pack", "stats", "plot", "visualize", "sweep", "average"])
def test_the_help_of_a_module_imports_no_torch(name):
    code = f"""
import runpy, sys
sys.argv = ["x", "--help"]
try:
    runpy.run_module("pretrain.{name}", run_name="__main__")
except SystemExit as stop:
    assert not stop.code
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_an_unknown_recipe_is_one_line_with_the_names(capsys):
    assert run(main, ["--config", "debug_gpu"]) == 1
    error = capsys.readouterr().err
    assert "debug_cpu" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["patch", "frame"])
def test_the_papers_recipes_hold_the_papers_values(name):
    recipe = read_recipe(["--config", str(ROOT / "configs" / f"mae_ast_base_{name}.yaml")])
    shape = {"patch_frames": 16, "patch_mels": 16} if name == "patch" else {"patch_frames": 2, "patch_mels": 128}
    assert recipe.model == dataclasses.replace(Recipe().model, **shape)
    assert recipe.optim == Recipe().optim
    assert recipe.losses == Recipe().losses
    assert recipe.data.crop_seconds == 10.0


@pytest.mark.slow
def test_the_debug_recipe_trains_from_the_command_line(tmp_path, packed, capsys):
    here = [
        "--data.corpus",
        str(AUDIO),
        "--data.packed",
        str(packed),
        "--out",
        str(tmp_path / "run"),
    ]
    steps = [
        "--optim.steps",
        "4",
        "--optim.warmup_steps",
        "1",
        "--optim.decay_steps",
        "2",
        "--data.workers",
        "0",
    ]
    command = [
        "pretrain",
        "--config",
        str(ROOT / "configs" / "debug_cpu.yaml"),
        *here,
        *steps,
    ]
    assert maeast(command) == 0
    assert load_model(tmp_path / "run").config.provenance.steps == 4
    assert maeast([*command, "--masking.ratio", "0.5"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "begun with masking.ratio 0.75, not 0.5" in error


def test_python_m_pretrain_is_the_same_command():
    command = [sys.executable, "-m", "pretrain", "--optim.lr", "abc"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == "error: optim.lr: expected float, got abc\n"


def test_stopping_by_a_signal_has_the_exit_status_of_ctrl_c(recipe, monkeypatch):
    monkeypatch.setattr("pretrain.trainer.Trainer.train", lambda self: False)
    assert cli.train(recipe) == 130


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001"])
def test_however_a_number_is_written_it_is_one(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"optim: {{lr: {text}}}\n")
    assert read_recipe(["--config", str(path)]).optim.lr == 1e-4


def test_the_command_line_wins_over_the_file_and_the_file_over_defaults(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 3\noptim: {lr: 0.1, steps: 600000}\n")
    recipe = read_recipe(["--config", str(path), "--seed", "4", "--optim.beta1", "0.5"])
    assert (recipe.seed, recipe.optim.lr, recipe.optim.steps, recipe.optim.beta1) == (
        4,
        0.1,
        600_000,
        0.5,
    )
    assert recipe.optim.beta2 == Recipe().optim.beta2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {lr: abc}", "optim.lr: expected float, got abc"),
        ("optim: {lrr: 1.0}", "optim has no setting 'lrr'; it has lr, beta1"),
        ("speed: 3", "a recipe has no setting 'speed'; it has out, init"),
        ("model: {depth: 2.5}", "model.depth: expected int, got 2.5"),
        ("model: {depth: true}", "model.depth: expected int, got True"),
        ("model: {num_heads: 5}", "model: num_heads 5 does not divide embed_dim 768"),
        ("model: 3", "model must be a mapping, got int"),
        ("masking: {ratio: 1.5}", "masking: ratio must lie between 0 and 1, got 1.5"),
        (
            "data: {max_crop_seconds: x}",
            "data.max_crop_seconds: expected float or null, got x",
        ),
        (
            "data: {crop_seconds: 0.21}\nmodel: {patch_frames: 64}",
            "data.crop_seconds 0.21 gives 0 tokens",
        ),
        ("losses: {clip_views: both}", "losses.clip_views: expected one of 'crops', 'masks', got both"),
        ("losses: {normalize_targets: 1}", "losses.normalize_targets: expected bool, got 1"),
        ("losses: {masked_share: most}", "losses.masked_share: expected float, got most"),
        ("losses: {temp: 1.0}", "losses has no setting 'temp'; it has reconstruction, classification, temperature"),
        ("masking: {spans: 1.0}", "masking has no setting 'spans'; it has ratio, chunk_share, span_share"),
        ("model: {decoder_attention: half}", "model.decoder_attention: expected one of 'self', 'cross', got half"),
        ("objective: bert", "objective: expected one of 'mae_ast', 'ssast', 'ssast_two_pass', got bert"),
        (
            "precision: fp8",
            "precision: expected one of 'fp32', 'bf16', 'fp16', got fp8",
        ),
        ("optim: [", "not a YAML file of settings: while parsing"),
        ("- 3", "not a YAML file of settings: - 3"),
        ("", "not a YAML file of settings: it is empty"),
    ],
)
def test_a_wrong_recipe_is_one_line_that_names_the_key(tmp_path, capsys, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text + "\n")
    assert run(main, ["--config", str(path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (
            ["--optim.lrr", "1"],
            "unknown option --optim.lrr 1: optim has lr, ",
        ),
        (["--loggevery", "5"], "unknown option --loggevery 5: a recipe has out, "),
        (["stray"], "unknown option stray: a recipe has out, "),
        (["--config", "debug_cpu", "--data.corpus", "nowhere"], "corpus nowhere: no such folder"),
        (["--config", "debug_cpu", "--device", "abacus"], "device must be cpu, cuda, cuda:N or auto, got 'abacus'"),
        (["--config", "debug_cpu", "--init", "nowhere/to/be/found"], "no checkpoint 'nowhere/to/be/found'"),
    ],
)
def test_a_wrong_command_line_is_one_line(argv, message, capsys, tmp_path):
    assert run(main, ["--out", str(tmp_path / "run"), *argv]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "run").exists()


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    assert run(main, []) == 1
    assert "[pretrain]'" in capsys.readouterr().err


def test_help_lists_every_setting_with_its_meaning(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name in leaves(dataclasses.asdict(Recipe())):
        assert f"--{name} " in text
    for meaning in (
        "Share of masked tokens",
        "Peak learning rate",
        "Encoder width D",
        "Mel bins between",
        "Seed of",
    ):
        assert meaning in text


@pytest.mark.parametrize(("module", "words"), [("pack", "Decode a corpus"), ("stats", "Measure mean and standard")])
def test_a_module_has_its_own_help(module, words, capsys):
    command = importlib.import_module(f"pretrain.{module}").main
    with pytest.raises(SystemExit) as ended:
        command(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert not ended.value.code
    assert f"usage: python -m pretrain.{module}" in printed
    assert words in printed
    assert "Returns:" not in printed
