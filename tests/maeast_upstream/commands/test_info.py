import json

from maeast_upstream.checkpoint.loading import read
from maeast_upstream.checkpoint.places import BUNDLED
from maeast_upstream.commands import info


def test_the_bundled_checkpoint_has_a_card_with_what_a_user_must_know(capsys):
    assert info.main([]) == 0
    shown = capsys.readouterr().out
    parts = (
        "Usage",
        "Front end",
        "Readout",
        "Training data",
        "Training",
        "Licences",
        "Intended use",
        "Results",
        "Limits",
    )
    for part in parts:
        assert f"\n## {part}\n" in shown
    assert "library_name" not in shown  # the header is for programs
    for fact in (" h of ", " crops", " batches", "minutes", "Apache-2.0"):
        assert fact in shown


def test_the_card_says_the_steps_and_hours_of_the_weights_beside_it():
    provenance = read(BUNDLED).config.provenance
    card = (BUNDLED / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"{provenance.steps:,} batches" in card
    assert provenance.data.split(" of ")[0] in card


def test_a_checkpoint_without_a_card_is_shown_without(tmp_path, capsys):
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "projection.safetensors"):
        (folder / name).write_bytes((BUNDLED / name).read_bytes())
    assert info.main([str(folder)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("checkpoint")
    assert "## " not in shown


def test_the_card_of_a_saved_checkpoint_is_shown(make_encoder, tmp_path, capsys):
    make_encoder().save_pretrained(tmp_path / "sounds")
    assert info.main([str(tmp_path / "sounds")]) == 0
    shown = capsys.readouterr().out
    assert "\n# sounds\n" in shown
    assert "<!--" not in shown


def test_text_of_a_checkpoint_is_no_command_for_a_terminal(tmp_path, capsys):
    config = json.loads((BUNDLED / "config.json").read_text())
    config["provenance"]["data"] = "\x1b[2Jnoise\nreadout  none"
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in ("model.safetensors", "projection.safetensors"):
        (tmp_path / name).write_bytes((BUNDLED / name).read_bytes())
    (tmp_path / "MODEL_CARD.md").write_text("a\x1b]0;title\x07\nb")
    assert info.main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert r"\x1b[2Jnoise\nreadout  none" in shown
    assert shown.endswith("\\x07\nb\n")
